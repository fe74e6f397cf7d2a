"""Users over HTTP, bytes to bytes: who may do what to an account, in which order it is refused, and what is shown."""

import asyncio
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ironcage_core.domain.audit import AuditRow
from ironcage_core.domain.permissions import PERMISSIONS, ROLE_PERMISSIONS
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.users import ROLES
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage, usd
from tests.support.web import PASSWORD, Answer, Caller, serving

UNKNOWN = "user_" + "0" * 32
FIELDS = {
    "id", "username", "email", "name", "role", "is_active", "status", "created_at", "updated_at", "last_login",
    "suspended_at", "suspended_by", "deleted_at", "locked_until", "force_password_change",
}  # fmt: skip


@pytest.fixture
def name() -> str:
    """A username that no other test has."""
    return "u" + secrets.token_hex(6)


@pytest.fixture
def user(world: Stage, name: str) -> str:
    """The id of a user of this test alone."""
    return world.add_user(name)


def by_admin(world: Stage, method: str, path: str, body: object = None, **options: Any) -> Answer:  # noqa: ANN401 - as httpx takes them
    return world.send(method, path, body, user="admin", **options)


def new(name: str, /, **fields: object) -> dict[str, object]:
    return {"username": name, "email": f"{name}@test.io", "password": PASSWORD, **fields}


def login_code(world: Stage, username: str, password: str = PASSWORD) -> str | None:
    answer = world.post("/auth/login", {"username": username, "password": password})
    return None if answer.status == 200 else answer.code


def rows_about(world: Stage, user_id: str) -> list[AuditRow]:
    rows = world.store.read(lambda uow: list(uow.audit.rows()))
    return [row for row in rows if row.resource_id == user_id and row.category == "user"]


def change(world: Stage, user_id: str, **columns: object) -> None:
    found = world.store.read(lambda uow: uow.users.find(user_id))
    assert found is not None
    changed = found._replace(**columns)  # type: ignore[arg-type]  # as the test says
    world.store.write(lambda uow: uow.users.put(changed))


def test_a_new_user_can_log_in_at_once(world: Stage, name: str) -> None:
    """201 with everything but the password; names are trimmed, the email is lower-cased."""
    answer = by_admin(world, "POST", "/users", new(f" {name} ", email=f" {name.upper()}@Test.IO ", name="A. User"))

    body = answer.body
    assert (answer.status, answer.headers["Location"]) == (201, f"/api/v1/users/{body['id']}")
    assert set(body) == FIELDS
    assert {field: body[field] for field in ("username", "email", "name", "role", "is_active", "status")} == {
        "username": name, "email": f"{name}@test.io", "name": "A. User", "role": "user", "is_active": True,
        "status": "active",
    }  # fmt: skip
    assert (body["force_password_change"], body["last_login"], body["locked_until"]) == (False, None, None)
    assert PASSWORD not in answer.raw.decode()
    assert login_code(world, name) is None
    assert by_admin(world, "GET", f"/users/{body['id']}").body["last_login"] is not None
    (row,) = rows_about(world, body["id"])
    assert (row.operation, row.chain, PASSWORD in repr(row)) == ("USER_CREATED", "permanent", False)


def test_what_is_optional_may_be_null(world: Stage, name: str) -> None:
    """Null means absent."""
    body = by_admin(world, "POST", "/users", new(name, role=None, name=None, force_password_change=None)).body

    assert (body["role"], body["name"], body["force_password_change"]) == ("user", None, False)


def test_a_password_that_must_be_changed_is_asked_for(world: Stage, name: str) -> None:
    """The flag is the admin's to set."""
    by_admin(world, "POST", "/users", new(name, force_password_change=True))

    answer = world.post("/auth/login", {"username": name, "password": PASSWORD})

    assert answer.body["password_change_required"] is True


def test_all_that_is_wrong_with_a_new_user_is_told_together(world: Stage) -> None:
    """Each field with its rule; the password is judged by the names as they will be."""
    answer = by_admin(
        world, "POST", "/users", {"username": "a@b", "email": "@x", "password": "short", "role": "Admin", "name": ""}
    )

    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {"username", "email", "password", "role", "name"}


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"username": ""}, "username"),
        ({"username": "x" * 256}, "username"),
        ({"username": "a\tb"}, "username"),
        ({"username": None}, "username"),
        ({"email": "no.at"}, "email"),
        ({"email": "two@@test"}, "email"),
        ({"email": "x@" + "y" * 254}, "email"),
        ({"password": "seven77"}, "password"),
        ({"password": " " * 10}, "password"),
        ({"password": "nul\0nul\0nul"}, "password"),
        ({"password": "x" * 1001}, "password"),
        ({"username": " samename ", "password": "SameName"}, "password"),
        ({"password": 12345678}, "password"),
        ({"role": "superuser"}, "role"),
        ({"role": "VIEWER"}, "role"),
        ({"name": "x" * 101}, "name"),
        ({"force_password_change": "yes"}, "force_password_change"),
        ({"is_admin": True}, "is_admin"),
    ],
)
def test_a_new_user_that_breaks_a_rule_is_refused(world: Stage, name: str, fields: dict[str, object], bad: str) -> None:
    """The field is named; an unknown one too, for the body is strict."""
    answer = by_admin(world, "POST", "/users", new(name, **fields))

    assert (answer.status, answer.code, set(answer.fields)) == (400, "VALIDATION_ERROR", {bad})


def test_hostile_texts_are_data(world: Stage, name: str) -> None:
    """Stored and returned byte for byte."""
    nasty = f"{name}'; DROP TABLE users;--<script>../../$(x)"

    made = by_admin(world, "POST", "/users", new(name, username=nasty, name="Ω 🚀 \"'<>"))

    assert (made.status, made.body["username"], made.body["name"]) == (201, nasty, "Ω 🚀 \"'<>")
    assert [each["id"] for each in by_admin(world, "GET", "/users", params={"search": nasty}).body["data"]] == [
        made.body["id"]
    ]


def test_a_name_that_is_taken_is_a_conflict(world: Stage, name: str, user: str) -> None:
    """In whatever case; after a deletion it is free."""
    twins = [
        by_admin(world, "POST", "/users", new(name.upper(), email="other@test.io")),
        by_admin(world, "POST", "/users", new("other" + name, email=f"{name.upper()}@TEST.io")),
    ]
    by_admin(world, "DELETE", f"/users/{user}")
    again = by_admin(world, "POST", "/users", new(name.upper()))

    assert [(each.status, each.code) for each in twins] == [(409, "DUPLICATE_USERNAME"), (409, "DUPLICATE_EMAIL")]
    assert again.status == 201


def test_the_list_shows_whom_it_is_asked_for(world: Stage, name: str) -> None:
    """Filters narrow together; deleted users are shown where they are asked for."""
    ids = {role: world.add_user(f"{name}-{role}", role) for role in ROLES.values()}
    gone, locked = world.add_user(f"{name}-gone"), world.add_user(f"{name}_locked")
    by_admin(world, "DELETE", f"/users/{gone}")
    by_admin(world, "PUT", f"/users/{ids['viewer']}/suspend")
    change(world, locked, locked_until=world.clock.now() + 60_000, failed_logins=10)

    def found(**params: str) -> list[str]:
        answer = by_admin(world, "GET", "/users", params={"search": name, **params})
        assert answer.status == 200, answer.raw
        assert answer.body["pagination"]["total"] == len(answer.body["data"])
        return [each["id"] for each in answer.body["data"]]

    assert set(found()) == {*ids.values(), locked}
    assert set(found(include_deleted="true")) == {*ids.values(), locked, gone}
    assert found(status="deleted") == [gone]
    assert found(status="suspended") == found(is_active="false") == [ids["viewer"]]
    assert found(status="locked") == [locked]
    assert found(role="admin") == [ids["admin"]]
    assert set(found(status="active")) == {ids["admin"], ids["user"]}
    assert set(found(is_active="true")) == {ids["admin"], ids["user"], locked}
    assert found(search=f"{name}_") == [locked]
    assert found(search=f"{name}%") == []
    assert found(sort="username") == [ids["admin"], ids["user"], ids["viewer"], locked]
    page = by_admin(world, "GET", "/users", params={"search": name, "per_page": "3", "page": "2", "sort": "-email"})
    assert ([each["id"] for each in page.body["data"]], page.body["pagination"]) == (
        [ids["admin"]], {"page": 2, "per_page": 3, "total": 4, "total_pages": 2},
    )  # fmt: skip
    assert [set(each) for each in page.body["data"]] == [FIELDS]


@pytest.mark.parametrize(
    ("query", "bad"),
    [
        ("page=0", "page"),
        ("page=-1", "page"),
        ("per_page=101", "per_page"),
        ("per_page=0", "per_page"),
        ("sort=password_hash", "sort"),
        ("sort=", "sort"),
        ("role=root", "role"),
        ("is_active=1", "is_active"),
        ("status=gone", "status"),
        ("include_deleted=maybe", "include_deleted"),
        ("search=" + "x" * 256, "search"),
        ("search=", "search"),
        ("role=user&role=admin", "role"),
    ],
)
def test_a_list_that_cannot_be_is_refused(world: Stage, query: str, bad: str) -> None:
    """A bad parameter is named; never a 500, never silently corrected."""
    answer = by_admin(world, "GET", f"/users?{query}")

    assert (answer.status, set(answer.fields)) == (400, {bad})


def test_an_account_is_shown_to_its_user_and_to_admins(world: Stage, name: str, user: str) -> None:
    """Others are refused, whether the id exists or not; deleted users are shown to admins."""
    own = world.get(f"/users/{user}", user=name)
    refused = [world.get(f"/users/{other}", user=name) for other in (world.user_id("admin"), UNKNOWN, "abc", "-1")]
    unknown = [by_admin(world, "GET", f"/users/{each}") for each in (UNKNOWN, "abc", "-1", "0", str(2**63 - 1))]

    assert own.body == by_admin(world, "GET", f"/users/{user}").body == world.get("/users/me", user=name).body
    assert {(each.status, each.raw) for each in refused} == {(403, refused[0].raw)}
    assert {(each.status, each.code) for each in unknown} == {(404, "USER_NOT_FOUND")}
    by_admin(world, "DELETE", f"/users/{user}")
    assert by_admin(world, "GET", f"/users/{user}").body["status"] == "deleted"


def test_a_user_without_a_name_has_none(world: Stage, name: str, user: str) -> None:
    """The account shows null; it is the login that falls back to the username."""
    login = world.post("/auth/login", {"username": name, "password": PASSWORD})

    assert world.get(f"/users/{user}", user=name).body["name"] is None
    assert login.body["user"]["name"] == name


def test_everybody_changes_the_own_name_and_nothing_else(world: Stage, name: str, user: str) -> None:
    """The body is strict; null clears."""
    named = world.send("PATCH", "/users/me", {"name": " Me "}, user=name)
    refused = [
        world.send("PATCH", "/users/me", body, user=name)
        for body in ({"role": "admin"}, {"name": "x", "email": "x@y"}, {"name": ""}, {"name": 1}, {"name": "x" * 101})
    ]
    nothing = world.send("PATCH", "/users/me", {}, user=name)
    cleared = world.send("PATCH", "/users/me", {"name": None}, user=name)

    assert (named.status, named.body["name"], named.body["id"]) == (200, "Me", user)
    assert {(each.status, each.code) for each in refused} == {(400, "VALIDATION_ERROR")}
    assert set(refused[0].fields) == {"role"}
    assert (nothing.status, nothing.code) == (400, "NO_FIELDS_PROVIDED")
    assert (cleared.status, cleared.body["name"], cleared.body["role"]) == (200, None, "user")
    assert [row.operation for row in rows_about(world, user)] == ["USER_CREATED", "USER_UPDATED", "USER_UPDATED"]


def test_a_role_s_permissions_are_listed(world: Stage, name: str, user: str) -> None:
    """For oneself or by an admin."""
    own = world.get(f"/users/{user}/permissions", user=name)
    admins = by_admin(world, "GET", f"/users/{world.user_id('admin')}/permissions")

    assert own.body == {"user_id": user, "role": "user", "permissions": list(ROLE_PERMISSIONS["user"])}
    assert admins.body["permissions"] == list(PERMISSIONS)
    assert world.get(f"/users/{UNKNOWN}/permissions", user=name).status == 403
    assert by_admin(world, "GET", f"/users/{UNKNOWN}/permissions").code == "USER_NOT_FOUND"


def test_a_suspended_user_is_out_until_activated(world: Stage, name: str, user: str) -> None:
    """Session, refresh and API token are refused as disabled; afterwards only the API token works again."""
    session = world.session(name)
    token = world.post("/api-tokens", {"name": "bot"}, user=name).body["token"]
    suspended = by_admin(world, "PUT", f"/users/{user}/suspend", {"reason": "holiday"})

    def codes() -> list[str | None]:
        used = [
            world.get("/users/me", headers={"Authorization": f"Bearer {session}"}),
            world.get("/users/me", headers={"X-API-Token": token}),
        ]
        return [None if each.status == 200 else each.code for each in used] + [login_code(world, name)]

    while_out = codes()
    activated = by_admin(world, "PUT", f"/users/{user}/activate")

    body = suspended.body
    assert (body["status"], body["is_active"], body["suspended_by"]) == (
        "suspended", False, world.user_id("admin"),
    )  # fmt: skip
    assert body["suspended_at"] is not None
    assert while_out == ["AUTH_ACCOUNT_DISABLED"] * 3
    assert (activated.body["status"], activated.body["suspended_at"], activated.body["suspended_by"]) == (
        "active", None, None,
    )  # fmt: skip
    assert codes() == ["AUTH_TOKEN_REVOKED", None, None]


@pytest.mark.parametrize("body", [None, b"", b"{not json", b"[]", b"\xff", {"reason": 5}])
def test_activation_reads_no_body(world: Stage, user: str, body: object) -> None:
    """Whatever it is, with or without a content type."""
    by_admin(world, "PUT", f"/users/{user}/suspend", b"")
    headers = {"Content-Type": "text/plain"} if body == b"[]" else {}

    assert by_admin(world, "PUT", f"/users/{user}/activate", body, headers=headers).status == 200


def test_a_locked_account_is_shown_and_unlocked(world: Stage, name: str, user: str) -> None:
    """Activation lifts the lock; a session lives through it."""
    session = world.session(name)
    change(world, user, failed_logins=10, locked_until=world.clock.now() + 60_000)
    locked = by_admin(world, "GET", f"/users/{user}").body
    refused = login_code(world, name)

    unlocked = by_admin(world, "PUT", f"/users/{user}/activate")
    again = by_admin(world, "PUT", f"/users/{user}/activate")

    assert (locked["status"], locked["is_active"], locked["locked_until"] is None) == ("locked", True, False)
    assert refused == "AUTH_ACCOUNT_LOCKED"
    assert (unlocked.body["status"], unlocked.body["locked_until"]) == ("active", None)
    assert login_code(world, name) is None
    assert world.get("/users/me", headers={"Authorization": f"Bearer {session}"}).status == 200
    assert (again.status, again.code) == (409, "USER_ALREADY_ACTIVE")
    assert rows_about(world, user)[-1].operation == "USER_UNLOCKED"


def test_a_deleted_user_leaves_the_agents_to_the_admin(world: Stage, name: str, user: str) -> None:
    """The answer says what moved and what ended; the agent's own credential lives on."""
    agent = world.agent(owner_id=user)
    token = world.post("/api-tokens", {"name": "bot"}, user=name).body["token"]
    deleted = by_admin(world, "DELETE", f"/users/{user}")

    admin = world.user_id("admin")
    body = deleted.body
    assert (deleted.status, set(body) - FIELDS) == (
        200, {"agents_affected", "agents_count", "budget_requests_cancelled", "api_tokens_revoked"},
    )  # fmt: skip
    assert (body["status"], body["is_active"], body["deleted_at"] is None) == ("deleted", False, False)
    (moved,) = body["agents_affected"]
    assert moved == {
        "agent_id": agent.id, "name": moved["name"], "new_owner_id": admin, "new_project_id": "proj_orphaned",
        "budget": usd("100"), "providers": [world.key_id],
    }  # fmt: skip
    assert (body["agents_count"], body["budget_requests_cancelled"], body["api_tokens_revoked"]) == (1, 0, 1)
    assert world.get("/users/me", headers={"X-API-Token": token}).code == "AUTH_ACCOUNT_DISABLED"
    assert login_code(world, name) == "AUTH_INVALID_CREDENTIALS"
    assert world.post("/budget/handshake", {}, token=agent.token).status == 200
    again = [
        by_admin(world, "DELETE", f"/users/{user}"),
        by_admin(world, "PUT", f"/users/{user}/activate"),
        by_admin(world, "PUT", f"/users/{user}/suspend"),
        by_admin(world, "PUT", f"/users/{user}/role", {"role": "user"}),
        by_admin(world, "POST", f"/users/{user}/reset-password", {"new_password": PASSWORD}),
        by_admin(world, "POST", f"/users/{user}/revoke-sessions"),
    ]
    assert {(each.status, each.code) for each in again} == {(409, "USER_DELETED")}


def test_a_user_who_owns_nothing_is_deleted_too(world: Stage, user: str) -> None:
    """What is empty is there all the same."""
    body = by_admin(world, "DELETE", f"/users/{user}").body

    assert (body["agents_affected"], body["agents_count"], body["api_tokens_revoked"]) == ([], 0, 0)


def test_a_role_counts_from_the_next_request(world: Stage, name: str, user: str) -> None:
    """Of a session that is already there."""
    before = world.get("/users", user=name).status
    changed = by_admin(world, "PUT", f"/users/{user}/role", {"role": "admin"})
    with_it = world.get("/users", user=name).status
    by_admin(world, "PUT", f"/users/{user}/role", {"role": "viewer"})

    assert (before, changed.body["role"], with_it, world.get("/users", user=name).status) == (403, "admin", 200, 403)


@pytest.mark.parametrize("body", [{}, {"role": None}, {"role": "Admin"}, {"role": 1}, {"role": "user", "x": 1}])
def test_a_role_that_is_none_is_refused(world: Stage, user: str, body: object) -> None:
    """Exact, required, and nothing beside it."""
    answer = by_admin(world, "PUT", f"/users/{user}/role", body)

    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")


def test_a_reset_password_is_the_password(world: Stage, name: str, user: str) -> None:
    """It must be changed first unless told otherwise; sessions end, the API token lives."""
    session = world.session(name)
    token = world.post("/api-tokens", {"name": "bot"}, user=name).body["token"]
    answer = by_admin(world, "POST", f"/users/{user}/reset-password", {"new_password": "  a new one  "})

    old = world.get("/users/me", headers={"Authorization": f"Bearer {session}"})
    assert (answer.status, answer.body["force_password_change"], set(answer.body)) == (200, True, FIELDS)
    assert old.code == "AUTH_TOKEN_REVOKED"
    assert world.get("/users/me", headers={"X-API-Token": token}).status == 200
    assert (login_code(world, name), login_code(world, name, "  a new one  ")) == ("AUTH_INVALID_CREDENTIALS", None)
    relaxed = {"new_password": "another one", "force_change": False}
    assert by_admin(world, "POST", f"/users/{user}/reset-password", relaxed).body["force_password_change"] is False


def test_a_reset_hashes_as_a_new_user_is_hashed(world: Stage, user: str) -> None:
    """At full cost."""
    by_admin(world, "POST", f"/users/{user}/reset-password", {"new_password": "another one"})

    stored = world.store.read(lambda uow: uow.users.find(user))
    assert stored is not None
    assert not Argon2PasswordHasher().needs_rehash(stored.password_hash or "")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"new_password": "short"},
        {"new_password": None},
        {"new_password": PASSWORD, "force_change": "no"},
        {"new_password": PASSWORD, "password": PASSWORD},
    ],
)
def test_a_reset_that_breaks_a_rule_is_refused(world: Stage, name: str, user: str, body: dict[str, object]) -> None:
    """The policy, the types, and no unknown field; nor the user's own name."""
    refused = by_admin(world, "POST", f"/users/{user}/reset-password", body)
    named = by_admin(world, "POST", f"/users/{user}/reset-password", {"new_password": name.upper()})

    assert (refused.status, refused.code) == (400, "VALIDATION_ERROR")
    assert set(named.fields) == {"new_password"}


def test_an_admin_resets_the_own_password_and_stays(world: Stage, name: str) -> None:
    """This session goes on, the others end."""
    user = world.add_user(name, "admin")
    elsewhere = world.post("/auth/login", {"username": name, "password": PASSWORD}).body["access_token"]
    body = {"new_password": "another one", "force_change": False}
    answer = world.post(f"/users/{user}/reset-password", body, user=name)

    assert answer.status == 200
    assert world.get("/users/me", user=name).status == 200
    assert world.get("/users/me", headers={"Authorization": f"Bearer {elsewhere}"}).code == "AUTH_TOKEN_REVOKED"


def test_sessions_of_a_user_are_revoked(world: Stage, name: str, user: str) -> None:
    """At once, and counted."""
    session = world.session(name)
    world.post("/auth/login", {"username": name, "password": PASSWORD})
    answer = by_admin(world, "POST", f"/users/{user}/revoke-sessions")

    assert (answer.status, answer.body) == (200, {"sessions_revoked": 2})
    assert world.get("/users/me", headers={"Authorization": f"Bearer {session}"}).code == "AUTH_TOKEN_REVOKED"


ACTIONS: list[tuple[str, str, object]] = [
    ("PUT", "suspend", {"reason": ""}),
    ("DELETE", "", None),
    ("PUT", "role", {"role": "nobody"}),
]


@pytest.mark.parametrize(("method", "action", "body"), ACTIONS)
def test_refusals_come_in_their_order(world: Stage, user: str, method: str, action: str, body: object) -> None:
    """Role, syntax, existence, self, content, state: who may not learns nothing about the rules."""
    own = world.user_id("admin")
    by_admin(world, "DELETE", f"/users/{user}")

    def told(user_id: str, content: object = body, caller: str = "admin") -> tuple[int, str]:
        path = f"/users/{user_id}/{action}".rstrip("/")
        answer = world.send(method, path, content, user=caller)
        return answer.status, answer.code

    assert told(UNKNOWN, b"{", "ann") == (403, "FORBIDDEN")
    assert told(UNKNOWN) == (404, "USER_NOT_FOUND")
    assert told("abc") == (404, "USER_NOT_FOUND")
    assert told(own) == (403, "SELF_MODIFICATION_FORBIDDEN")
    if body is not None:
        assert told(UNKNOWN, b"{") == (400, "MALFORMED_JSON")
        assert told(user) == (400, "VALIDATION_ERROR")
    else:
        assert told(user) == (409, "USER_DELETED")


def test_a_reset_is_refused_in_the_same_order(world: Stage, user: str) -> None:
    """Content before state, existence before content."""
    by_admin(world, "DELETE", f"/users/{user}")
    bad = {"new_password": "short"}

    answers = [
        world.post(f"/users/{UNKNOWN}/reset-password", b"{", user="ann"),
        by_admin(world, "POST", f"/users/{UNKNOWN}/reset-password", b"{"),
        by_admin(world, "POST", f"/users/{UNKNOWN}/reset-password", bad),
        by_admin(world, "POST", f"/users/{user}/reset-password", bad),
        by_admin(world, "POST", f"/users/{user}/reset-password", {"new_password": PASSWORD}),
    ]

    assert [(each.status, each.code) for each in answers] == [
        (403, "FORBIDDEN"), (400, "MALFORMED_JSON"), (404, "USER_NOT_FOUND"), (400, "VALIDATION_ERROR"),
        (409, "USER_DELETED"),
    ]  # fmt: skip


def test_a_user_is_not_edited_as_a_whole(world: Stage, user: str) -> None:
    """There is no such method."""
    answers = [by_admin(world, method, f"/users/{user}", {}) for method in ("PUT", "PATCH", "POST")]

    assert [(each.status, each.code) for each in answers] == [(405, "METHOD_NOT_ALLOWED")] * 3
    assert {"GET", "DELETE"} <= set(answers[0].headers["Allow"].replace(",", " ").split())


def test_an_api_token_of_an_admin_manages_users(world: Stage, user: str) -> None:
    """With the scope; the log says that it was a token."""
    made = world.post("/api-tokens", {"name": "hr", "scopes": ["users:write"]}, user="admin")
    headers = {"X-API-Token": made.body["token"]}

    written = world.send("PUT", f"/users/{user}/suspend", None, headers=headers)
    read = world.send("GET", "/users", None, headers=headers)

    assert (written.status, read.status, read.code) == (200, 403, "INSUFFICIENT_SCOPE")
    row = rows_about(world, user)[-1]
    assert (row.actor_type, row.actor_id, row.token_id) == ("api_token", world.user_id("admin"), made.body["id"])


@pytest.mark.parametrize(
    ("method", "action", "body"), [("PUT", "suspend", None), ("DELETE", "", None), ("PUT", "role", {"role": "user"})]
)
def test_of_two_admins_who_remove_each_other_at_once_one_stays(
    tmp_path: Path, method: str, action: str, body: object
) -> None:
    """One 200, one 409: the second had the right when it asked, and is told that the other is the last."""

    async def both() -> list[Answer]:
        with SqliteStore(tmp_path / "iron.db") as store:
            async with serving(store) as caller:
                first = await caller.login()
                made = await first.post("/users", new("second", role="admin"))
                second = await caller.login("second")
                own = (await first.get("/users/me")).body["id"]

                async def remove(by: Caller, user_id: str) -> Answer:
                    return await by.send(method, f"/users/{user_id}/{action}".rstrip("/"), body)

                with busy(store):
                    calls = [
                        asyncio.create_task(remove(first, made.body["id"])), asyncio.create_task(remove(second, own)),
                    ]  # fmt: skip
                    await asyncio.sleep(0.5)  # both have asked, and wait for the writer
                return list(await asyncio.gather(*calls))

    answers = asyncio.run(both())

    assert sorted(each.status for each in answers) == [200, 409]
    assert next(each.code for each in answers if each.status == 409) == "LAST_ADMIN"


@contextmanager
def busy(store: SqliteStore) -> Iterator[None]:
    """Keep the writer busy, so that what is asked meanwhile is done afterwards."""
    has_begun, may_end = threading.Event(), threading.Event()

    def hold(_: UnitOfWork) -> None:
        has_begun.set()
        may_end.wait(30)

    holder = threading.Thread(target=store.write, args=(hold,))
    holder.start()
    has_begun.wait(30)
    try:
        yield
    finally:
        may_end.set()
        holder.join()


def test_who_lost_the_right_meanwhile_changes_nobody_else(tmp_path: Path) -> None:
    """A suspension that comes first counts for what is already under way, too."""

    async def late() -> Answer:
        with SqliteStore(tmp_path / "iron.db") as store:
            async with serving(store) as caller:
                first = await caller.login()
                made = await first.post("/users", new("second", role="admin"))
                second = await caller.login("second")
                ann = (await (await caller.login("ann")).get("/users/me")).body["id"]
                with busy(store):
                    suspended = asyncio.create_task(first.send("PUT", f"/users/{made.body['id']}/suspend"))
                    await asyncio.sleep(0.2)
                    deleted = asyncio.create_task(second.send("DELETE", f"/users/{ann}"))
                    await asyncio.sleep(0.5)
                assert (await suspended).status == 200
                answer = await deleted
                assert (await first.get(f"/users/{ann}")).body["status"] == "active"
                return answer

    answer = asyncio.run(late())

    assert (answer.status, answer.code) == (401, "AUTH_ACCOUNT_DISABLED")


def test_of_many_new_users_with_one_name_one_is_made(tmp_path: Path) -> None:
    """The others are conflicts, never faults."""

    async def many() -> list[int]:
        with SqliteStore(tmp_path / "iron.db") as store:
            async with serving(store) as caller:
                admin = await caller.login()
                bodies = [new("twin", email=f"twin{number}@test.io") for number in range(4)]
                made = await asyncio.gather(*(admin.post("/users", body) for body in bodies))
                return sorted(each.status for each in made)

    assert asyncio.run(many()) == [201, 409, 409, 409]
