"""Sessions over the wire: what logs in, what a token is worth, and when it is worth nothing. Contract identity.md 3."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import jwt
import pytest

from ironcage_core.services.accounts import add_user
from ironcage_http.server import embedded_settings
from ironcage_http.settings import Settings, read_settings
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.servers import add_agent
from tests.support.stores import raw
from tests.support.web import PASSWORD, Answer, Caller, alter, serving
from tests.support.world import ADMIN

pytestmark = pytest.mark.anyio

NEW_PASSWORD = "another horse, another battery"
SECRET = "the signing secret of these tests, long enough"
SETTINGS = read_settings({"DATABASE_URL": "sqlite::memory:", "JWT_SECRET": SECRET, "JWT_ACCESS_TOKEN_TTL": "60"})


async def log_in(caller: Caller, username: str = "admin", password: str = PASSWORD) -> Answer:
    answer = await caller.post("/auth/login", {"username": username, "password": password})
    assert answer.status == 200, answer.raw
    return answer


async def refresh(caller: Caller, token: str) -> Answer:
    return await caller.post("/auth/refresh", {"refresh_token": token})


async def code_of_use(caller: Caller, access_token: str) -> str | None:
    """Return why an access token is refused where any user may read, or None."""
    answer = await caller.bearing(access_token).get("/budget")
    assert answer.status in {200, 401}
    return None if answer.status == 200 else answer.code


# --- login -------------------------------------------------------------------


@pytest.mark.parametrize(
    "identifier",
    [
        {"email": "ann@test.io"},
        {"email": "ANN@Test.IO"},
        {"email": "  ann@test.io "},
        {"email": "ann"},
        {"username": "ann"},
        {"username": "aNN"},
    ],
)
async def test_a_user_logs_in_by_email_or_username_in_any_case(store: SqliteStore, identifier: dict[str, str]) -> None:
    """The field `email` without an @ holds a username."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.post("/auth/login", {**identifier, "password": PASSWORD})

    assert answer.status == 200
    assert answer.body["access_token"] == answer.body["user_token"]
    assert (answer.body["token_type"], answer.body["expires_in"]) == ("Bearer", 60)
    assert answer.body["refresh_expires_in"] == 604_800
    assert answer.body["password_change_required"] is False
    user = answer.body["user"]
    assert (user["email"], user["username"], user["name"], user["role"]) == ("ann@test.io", "ann", "ann", "user")
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.body) == {
        "user_token", "access_token", "token_type", "expires_in", "expires_at", "refresh_token", "refresh_expires_in",
        "refresh_expires_at", "password_change_required", "user",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"password": PASSWORD}, "email"),
        ({"email": "ann@test.io", "username": "ann", "password": PASSWORD}, "email"),
        ({"email": None, "username": None, "password": PASSWORD}, "email"),
        ({"email": "", "password": PASSWORD}, "email"),
        ({"username": "  ", "password": PASSWORD}, "username"),
        ({"email": "a" * 256, "password": PASSWORD}, "email"),
        ({"email": 7, "password": PASSWORD}, "email"),
        ({"username": "ann"}, "password"),
        ({"username": "ann", "password": None}, "password"),
        ({"username": "ann", "password": ""}, "password"),
        ({"username": "ann", "password": " \t "}, "password"),
        ({"username": "ann", "password": "x" * 1001}, "password"),
        ({"username": "ann", "password": PASSWORD, "remember_me": True}, "remember_me"),
    ],
)
async def test_a_login_that_breaks_a_rule_names_the_field(
    store: SqliteStore, body: dict[str, object], field: str
) -> None:
    """Both or none of the identifiers, lengths, types, and a field the body does not know."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.post("/auth/login", body)

    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
    assert field in answer.fields
    assert PASSWORD not in answer.raw.decode()


async def test_all_that_is_wrong_with_a_login_is_told_together(store: SqliteStore) -> None:
    """Contract identity.md 1.3."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.post("/auth/login", {"email": 1, "password": 2, "colour": 3})

    assert set(answer.fields) == {"email", "password", "colour"}


async def test_a_wrong_password_and_an_unknown_user_look_the_same(store: SqliteStore) -> None:
    """So nobody learns from a login which accounts exist; a deleted one is unknown."""
    async with serving(store, SETTINGS) as caller:
        alter(store, "vera", status="deleted")
        tries = [("ann", "not it"), ("nobody", PASSWORD), ("vera", PASSWORD), ("a", "not it"), ("no@one", PASSWORD)]
        answers = [
            await caller.post("/auth/login", {"username": name, "password": password}) for name, password in tries
        ]

    assert {answer.status for answer in answers} == {401}
    assert len({answer.raw for answer in answers}) == 1
    assert answers[0].code == "AUTH_INVALID_CREDENTIALS"
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}


async def test_a_suspended_account_is_told_so_only_with_its_password(store: SqliteStore) -> None:
    """A wrong password learns nothing of the suspension."""
    async with serving(store, SETTINGS) as caller:
        alter(store, "ann", status="suspended")
        right = await caller.post("/auth/login", {"username": "ann", "password": PASSWORD})
        wrong = await caller.post("/auth/login", {"username": "ann", "password": "not the password"})

    assert (right.status, right.code) == (403, "AUTH_ACCOUNT_DISABLED")
    assert right.body["details"]["user_id"].startswith("user_")
    assert (wrong.status, wrong.code) == (401, "AUTH_INVALID_CREDENTIALS")


@pytest.mark.parametrize("body", [b"{", b'{"username":"ann",}', b"\xff", b"", b"[" * 65 + b"]" * 65])
async def test_a_login_that_is_not_json_is_malformed(store: SqliteStore, body: bytes) -> None:
    """Syntax is told apart from content."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.post("/auth/login", body)

    assert (answer.status, answer.code) == (400, "MALFORMED_JSON")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_login_in_another_type_is_unsupported(store: SqliteStore, content_type: str) -> None:
    """Contract identity.md 1.4."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.post("/auth/login", b"{}", headers={"Content-Type": content_type})

    assert (answer.status, answer.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("path", ["/auth/login", "/auth/refresh", "/auth/logout", "/auth/change-password"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_the_routes_of_a_session_only_take_posts(store: SqliteStore, path: str, method: str) -> None:
    """Also without a credential, and the answer says what is allowed."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.send(method, path)

    assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
    assert "POST" in answer.headers["allow"]
    assert method not in answer.headers["allow"]


# --- refresh -----------------------------------------------------------------


async def test_each_refresh_gives_new_tokens_and_ends_the_old_ones(store: SqliteStore) -> None:
    """A chain of them works and no value comes twice."""
    async with serving(store, SETTINGS) as caller:
        sessions = [(await log_in(caller)).body]
        for _ in range(4):
            answer = await refresh(caller, sessions[-1]["refresh_token"])
            assert answer.status == 200
            assert answer.headers["cache-control"] == "no-store"
            sessions.append(answer.body)
        codes = [await code_of_use(caller, session["access_token"]) for session in sessions]

    assert codes == ["AUTH_TOKEN_REVOKED"] * 4 + [None]
    assert len({session[name] for session in sessions for name in ("access_token", "refresh_token")}) == 10
    assert {frozenset(session) for session in sessions} == {frozenset(sessions[0])}


async def test_a_refresh_token_may_come_as_a_bearer_token(store: SqliteStore) -> None:
    """Both carriers with one value are one credential; with two they are ambiguous."""
    async with serving(store, SETTINGS) as caller:
        first = (await log_in(caller)).body["refresh_token"]
        second = await caller.bearing(first).post("/auth/refresh")
        token = second.body["refresh_token"]
        third = await caller.bearing(token).post("/auth/refresh", {"refresh_token": token})
        other = (await log_in(caller)).body["refresh_token"]
        unclear = await caller.bearing(other).post("/auth/refresh", {"refresh_token": third.body["refresh_token"]})

    assert (second.status, third.status) == (200, 200)
    assert (unclear.status, unclear.code) == (400, "AMBIGUOUS_CREDENTIALS")


async def test_a_replayed_refresh_token_ends_the_whole_session(store: SqliteStore) -> None:
    """The newest tokens of the family die with it; other sessions of the user live."""
    async with serving(store, SETTINGS) as caller:
        other = (await log_in(caller)).body
        first = (await log_in(caller)).body
        second = (await refresh(caller, first["refresh_token"])).body
        replay = await refresh(caller, first["refresh_token"])
        codes = [await code_of_use(caller, session["access_token"]) for session in (first, second, other)]
        newest = await refresh(caller, second["refresh_token"])

    assert (replay.status, replay.code) == (401, "AUTH_REFRESH_REUSED")
    assert replay.headers["www-authenticate"] == "Bearer"
    assert codes == ["AUTH_TOKEN_REVOKED", "AUTH_TOKEN_REVOKED", None]
    assert (newest.status, newest.code) == (401, "AUTH_TOKEN_REVOKED")
    rows = raw(store, "SELECT count(*) FROM audit_log WHERE operation = 'AUTH_REFRESH_REUSE_DETECTED'")
    assert rows == [(1,)]


async def test_of_two_refreshes_at_once_exactly_one_succeeds(store: SqliteStore) -> None:
    """The other is a replay."""
    async with serving(store, SETTINGS) as caller:
        for _ in range(5):
            token = (await log_in(caller)).body["refresh_token"]
            answers = await asyncio.gather(refresh(caller, token), refresh(caller, token))

            assert sorted(answer.status for answer in answers) == [200, 401]
            assert {answer.code for answer in answers if answer.status == 401} == {"AUTH_REFRESH_REUSED"}


async def test_a_refresh_needs_a_refresh_token(store: SqliteStore) -> None:
    """None, an unknown one, an access token in either carrier, one that is too long."""
    async with serving(store, SETTINGS) as caller:
        access = (await log_in(caller)).body["access_token"]
        none = await caller.post("/auth/refresh")
        unknown = await refresh(caller, "rt_" + "x" * 43)
        in_header = await caller.bearing(access).post("/auth/refresh")
        in_body = await refresh(caller, access)
        too_long = await refresh(caller, "rt_" + "x" * 498)
        stranger = await caller.post("/auth/refresh", {"refresh_token": "rt_x", "scope": "all"})

    assert (none.status, none.code) == (401, "AUTH_MISSING_TOKEN")
    assert (unknown.status, unknown.code) == (401, "AUTH_INVALID_TOKEN")
    assert (in_header.status, in_header.code) == (401, "AUTH_INVALID_TOKEN")
    assert (in_body.status, in_body.code) == (401, "AUTH_INVALID_TOKEN")
    assert (too_long.status, too_long.code) == (400, "VALIDATION_ERROR")
    assert (stranger.status, list(stranger.fields)) == (400, ["scope"])


async def test_a_suspended_user_neither_refreshes_nor_calls(store: SqliteStore) -> None:
    """The role and the status are read from the store each time."""
    async with serving(store, SETTINGS) as caller:
        session = (await log_in(caller, "ann")).body
        alter(store, "ann", status="suspended")
        refreshed = await refresh(caller, session["refresh_token"])
        code = await code_of_use(caller, session["access_token"])

    assert (refreshed.status, refreshed.code, code) == (401, "AUTH_ACCOUNT_DISABLED", "AUTH_ACCOUNT_DISABLED")


# --- logout ------------------------------------------------------------------


async def test_a_logout_ends_both_tokens_at_once(store: SqliteStore) -> None:
    """A second logout is told that the session has ended; other sessions live."""
    async with serving(store, SETTINGS) as caller:
        session, other = (await log_in(caller)).body, (await log_in(caller)).body
        bearer = caller.bearing(session["access_token"])
        out = await bearer.post("/auth/logout")
        again = await bearer.post("/auth/logout")
        code = await code_of_use(caller, session["access_token"])
        refreshed = await refresh(caller, session["refresh_token"])
        other_code = await code_of_use(caller, other["access_token"])

    assert (out.status, out.raw) == (204, b"")
    assert (again.status, again.code) == (401, "AUTH_TOKEN_REVOKED")
    assert again.body["details"]["revoked_at"].endswith("Z")
    assert code == "AUTH_TOKEN_REVOKED"
    assert (refreshed.status, refreshed.code) == (401, "AUTH_TOKEN_REVOKED")
    assert other_code is None


@pytest.mark.parametrize("by_refresh_token", [False, True])
async def test_a_logout_may_end_all_sessions_of_the_user(store: SqliteStore, by_refresh_token: bool) -> None:
    """And of nobody else."""
    async with serving(store, SETTINGS) as caller:
        mine = [(await log_in(caller, "ann")).body for _ in range(3)]
        hers = (await log_in(caller, "vera")).body
        body: dict[str, Any] = {"all_sessions": True}
        if by_refresh_token:
            out = await caller.post("/auth/logout", {**body, "refresh_token": mine[0]["refresh_token"]})
        else:
            out = await caller.bearing(mine[0]["access_token"]).post("/auth/logout", body)
        codes = [await code_of_use(caller, session["access_token"]) for session in (*mine, hers)]

    assert out.status == 204
    assert codes == ["AUTH_TOKEN_REVOKED"] * 3 + [None]


async def test_a_logout_by_refresh_token_ends_the_session(store: SqliteStore) -> None:
    """Without any header."""
    async with serving(store, SETTINGS) as caller:
        session = (await log_in(caller)).body
        body = {"refresh_token": session["refresh_token"]}
        out, again = await caller.post("/auth/logout", body), await caller.post("/auth/logout", body)
        code = await code_of_use(caller, session["access_token"])

    assert (out.status, again.status, again.code) == (204, 401, "AUTH_TOKEN_REVOKED")
    assert code == "AUTH_TOKEN_REVOKED"


async def test_a_logout_without_any_token_is_refused(store: SqliteStore) -> None:
    """The dashboard's content type without a body changes nothing."""
    async with serving(store, SETTINGS) as caller:
        out = await caller.post("/auth/logout", b"", headers={"Content-Type": "application/json"})

    assert (out.status, out.code) == (401, "AUTH_MISSING_TOKEN")


@pytest.mark.parametrize("carrier", ["Authorization", "X-API-Token"])
async def test_an_api_token_logs_nobody_out(store: SqliteStore, carrier: str) -> None:
    """It is of the wrong kind, and goes on; the sessions of its owner too."""
    async with serving(store, SETTINGS) as caller:
        bearer = await caller.login("ann")
        value = (await bearer.post("/api-tokens", {"name": "worker"})).body["token"]
        headers = {carrier: f"Bearer {value}" if carrier == "Authorization" else value}
        out = await caller.post("/auth/logout", {"all_sessions": True}, headers=headers)
        statuses = [(await each.get("/auth/verify")).status for each in (bearer, caller.bearing(value))]

    assert (out.status, out.code) == (401, "AUTH_WRONG_TOKEN_TYPE")
    assert statuses == [200, 200]


# --- change of password ------------------------------------------------------


async def test_a_changed_password_ends_the_other_sessions_only(store: SqliteStore) -> None:
    """This session goes on, the old password does not."""
    async with serving(store, SETTINGS) as caller:
        this, other = (await log_in(caller)).body, (await log_in(caller)).body
        bearer = caller.bearing(this["access_token"])
        body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        changed = await bearer.post("/auth/change-password", body)
        codes = [await code_of_use(caller, session["access_token"]) for session in (this, other)]
        refreshed = await refresh(caller, this["refresh_token"])
        old = await caller.post("/auth/login", {"username": "admin", "password": PASSWORD})
        new = await caller.post("/auth/login", {"username": "admin", "password": NEW_PASSWORD})

    assert (changed.status, changed.raw) == (204, b"")
    assert codes == [None, "AUTH_TOKEN_REVOKED"]
    assert (refreshed.status, old.status, new.status) == (200, 401, 200)


@pytest.mark.parametrize(
    ("current", "new", "status", "code"),
    [
        ("not the password", NEW_PASSWORD, 401, "AUTH_INVALID_CREDENTIALS"),
        (PASSWORD, PASSWORD, 400, "VALIDATION_ERROR"),
        (PASSWORD, "1234567", 400, "VALIDATION_ERROR"),
        (PASSWORD, " " * 8, 400, "VALIDATION_ERROR"),
        (PASSWORD, "nul\0in it", 400, "VALIDATION_ERROR"),
        (PASSWORD, "ANN@test.io", 400, "VALIDATION_ERROR"),
        (PASSWORD, "x" * 1001, 400, "VALIDATION_ERROR"),
    ],
)
async def test_a_password_that_breaks_a_rule_changes_nothing(
    store: SqliteStore, current: str, new: str, status: int, code: str
) -> None:
    """The wrong current one is 401, a bad new one 400 on its field; every session lives."""
    async with serving(store, SETTINGS) as caller:
        this, other = (await log_in(caller, "ann")).body, (await log_in(caller, "ann")).body
        body = {"current_password": current, "new_password": new}
        answer = await caller.bearing(this["access_token"]).post("/auth/change-password", body)
        codes = [await code_of_use(caller, session["access_token"]) for session in (this, other)]
        again = await caller.post("/auth/login", {"username": "ann", "password": PASSWORD})

    assert (answer.status, answer.code) == (status, code)
    assert status == 401 or list(answer.fields) == ["new_password"]
    assert (codes, again.status) == ([None, None], 200)


async def test_the_body_of_a_changed_password_is_strict_and_judged_after_the_caller(store: SqliteStore) -> None:
    """Who is nobody learns nothing about the rules."""
    async with serving(store, SETTINGS) as caller:
        bearer = await caller.login()
        body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD, "confirm": NEW_PASSWORD}
        strict = await bearer.post("/auth/change-password", body)
        nobody = await caller.post("/auth/change-password", {"new_password": "short"})

    assert (strict.status, list(strict.fields)) == (400, ["confirm"])
    assert (nobody.status, nobody.code) == (401, "AUTH_MISSING_TOKEN")


async def test_who_must_change_the_password_can_do_nothing_else(store: SqliteStore) -> None:
    """A refresh carries the duty over; with the change it is over, in the same session."""
    async with serving(store, SETTINGS) as caller:
        alter(store, "ann", force_password_change=1)
        first = (await log_in(caller, "ann")).body
        session = (await refresh(caller, first["refresh_token"])).body
        bearer = caller.bearing(session["access_token"])
        refused = [await bearer.get(path) for path in ("/budget", "/budget/ledger", "/budget/leases")]
        body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        changed = await bearer.post("/auth/change-password", body)
        allowed = await bearer.get("/budget")
        later = await log_in(caller, "ann", NEW_PASSWORD)

    assert (first["password_change_required"], session["password_change_required"]) == (True, True)
    assert {(answer.status, answer.code) for answer in refused} == {(403, "PASSWORD_CHANGE_REQUIRED")}
    assert (changed.status, allowed.status) == (204, 200)
    assert later.body["password_change_required"] is False


async def test_who_must_change_the_password_may_log_out(store: SqliteStore) -> None:
    """Contract identity.md 3: among the few calls that stay open."""
    async with serving(store, SETTINGS) as caller:
        alter(store, "ann", force_password_change=1)
        bearer = await caller.login("ann")

        assert (await bearer.post("/auth/logout")).status == 204


# --- what an access token is -------------------------------------------------


def forged(token: str, secret: str = SECRET, algorithm: str | None = "HS256", **claims: object) -> str:
    """Return the token with other claims, signed again; a claim that is None is left out."""
    said = jwt.decode(token, options={"verify_signature": False})
    said = {name: value for name, value in {**said, **claims}.items() if value is not None}
    return jwt.encode(said, secret if algorithm != "none" else "", algorithm=algorithm)


@asynccontextmanager
async def logged_in(store: SqliteStore, settings: Settings = SETTINGS) -> AsyncIterator[tuple[Caller, str]]:
    async with serving(store, settings) as caller:
        yield caller, (await log_in(caller)).body["access_token"]


async def test_a_token_that_says_the_same_under_the_same_key_is_as_good(store: SqliteStore) -> None:
    """So that the forgeries below fail for what they change."""
    async with logged_in(store) as (caller, token):
        assert await code_of_use(caller, forged(token)) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"typ": "refresh"},
        {"iss": "other"},
        {"aud": "other"},
        {"sid": "sess_" + "0" * 32},
        {"sub": "user_" + "0" * 32},
        {"gen": 2},
        {"gen": None},
        {"gen": "1"},
        {"jti": None},
        {"exp": None},
        {"exp": "9999999999"},
        {"sub": None},
    ],
)
async def test_a_genuine_signature_over_wrong_claims_is_refused(store: SqliteStore, claims: dict[str, object]) -> None:
    """A missing, mistyped or strange claim."""
    async with logged_in(store) as (caller, token):
        code = await code_of_use(caller, forged(token, **claims))  # type: ignore[arg-type]  # only claims

    assert code in {"AUTH_INVALID_TOKEN", "AUTH_WRONG_TOKEN_TYPE"}


async def test_the_role_in_a_token_decides_nothing(store: SqliteStore) -> None:
    """It is informational: the store says who is an admin."""
    async with serving(store, SETTINGS, client_address=("203.0.113.9", 1)) as caller:
        token = (await log_in(caller, "ann")).body["access_token"]
        answer = await caller.bearing(forged(token, role="admin")).get("/metrics")

    assert answer.status in {401, 403}


async def test_a_tampered_or_unsigned_token_is_invalid(store: SqliteStore) -> None:
    """One flipped character, another key, no algorithm, another algorithm, a cut token, nonsense."""
    async with logged_in(store) as (caller, token):
        head, payload, signature = token.split(".")
        unsigned = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).decode().rstrip("=")
        flipped = ("A" if signature[5] != "A" else "B").join((signature[:5], signature[6:]))
        forgeries = [
            f"{head}.{payload}.{flipped}",
            forged(token, secret="another secret that is long enough too"),
            forged(token, algorithm="none"),
            f"{unsigned}.{payload}.",
            f"{unsigned}.{payload}.{signature}",
            forged(token, secret=SECRET * 2, algorithm="HS512"),
            f"{head}.{payload}",
            f"{token}=",
            "nonsense",
            "..",
            "a" * 5000,
        ]
        codes = [await code_of_use(caller, forgery) for forgery in forgeries]
        answer = await caller.bearing(forgeries[0]).get("/budget")

    assert set(codes) == {"AUTH_INVALID_TOKEN"}
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_an_expired_token_says_since_when(store: SqliteStore) -> None:
    """There is no leeway: now is too late."""
    async with logged_in(store) as (caller, token):
        now = SystemClock().now() // 1000
        answers = [await caller.bearing(forged(token, exp=exp)).get("/budget") for exp in (now - 1, now)]

    assert {(answer.status, answer.code) for answer in answers} == {(401, "AUTH_TOKEN_EXPIRED")}
    assert all(answer.body["details"]["expired_at"].endswith("Z") for answer in answers)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YW5uOmFubg==", "Token x"])
async def test_no_bearer_token_is_no_token(store: SqliteStore, header: str) -> None:
    """Another scheme, or nothing behind it."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.get("/budget", headers={"Authorization": header})

    assert (answer.status, answer.code) == (401, "AUTH_MISSING_TOKEN")


async def test_the_scheme_is_read_in_any_case_and_the_query_never(store: SqliteStore) -> None:
    """Contract identity.md 2."""
    async with logged_in(store) as (caller, token):
        lower = await caller.get("/budget", headers={"Authorization": f"bEARER {token}"})
        query = await caller.get(f"/budget?access_token={token}&token={token}")

    assert lower.status == 200
    assert (query.status, query.code) == (401, "AUTH_MISSING_TOKEN")


async def test_a_refresh_token_is_no_access_token(store: SqliteStore) -> None:
    """It is told to be of the wrong kind, not what it is worth."""
    async with serving(store, SETTINGS) as caller:
        token = (await log_in(caller)).body["refresh_token"]

        assert await code_of_use(caller, token) == "AUTH_WRONG_TOKEN_TYPE"


@pytest.mark.parametrize("carrier", ["Authorization", "X-IC-Token"])
async def test_an_agent_is_refused_where_users_call(store: SqliteStore, carrier: str) -> None:
    """A valid token of an agent, in whichever header; an invalid one stays 401."""
    settings = embedded_settings()
    agent = add_agent(store, settings)
    async with serving(store, settings) as caller:
        prefix = "Bearer " if carrier == "Authorization" else ""
        body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        valid = await caller.post("/auth/change-password", body, headers={carrier: prefix + agent.token})
        invalid = await caller.post("/auth/change-password", body, headers={carrier: prefix + agent.token[:-3] + "abc"})

    assert (valid.status, valid.code) == (403, "AGENT_TOKEN_FORBIDDEN")
    assert (invalid.status, invalid.code) == (401, "AUTH_INVALID_TOKEN")


async def test_a_previous_secret_only_verifies(store: SqliteStore) -> None:
    """After a rotation of the signing secret old sessions go on and new tokens carry the new signature."""
    renewed = read_settings(
        {"DATABASE_URL": "sqlite::memory:", "JWT_SECRET": SECRET[::-1], "JWT_SECRET_PREVIOUS": SECRET}
    )
    async with logged_in(store) as (_, token):
        pass
    async with serving(store, renewed) as caller:
        old = await code_of_use(caller, token)
        fresh = (await log_in(caller)).body["access_token"]

    assert old is None
    assert jwt.decode(fresh, SECRET[::-1], ["HS256"], audience="ironcage-api")["typ"] == "access"


async def test_a_user_without_a_password_cannot_log_in(store: SqliteStore) -> None:
    """Whatever is tried, it looks like a wrong password."""
    store.write(partial(add_user, username="bot", email="bot@test.io", role="user", actor=ADMIN))
    async with serving(store, SETTINGS) as caller:
        answer = await caller.post("/auth/login", {"username": "bot", "password": "None"})

    assert (answer.status, answer.code) == (401, "AUTH_INVALID_CREDENTIALS")
