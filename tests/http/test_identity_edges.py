"""Edges of identity: what a caller might try at the seams between credentials, scopes, paths and times."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from ironcage_core.domain.ids import ORPHANED_PROJECT
from ironcage_http.server import embedded_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.web import PASSWORD, Answer, Caller, serving

pytestmark = pytest.mark.anyio
BEYOND = "9999-12-31T23:59:59-23:59"


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    """A caller of an app without rate limits."""
    with SqliteStore(":memory:") as store:
        async with serving(store) as made:
            yield made


async def token_of(user: Caller, **fields: object) -> Caller:
    made = await user.post("/api-tokens", {"name": "t", **fields})
    assert made.status == 201, made.raw
    return Caller(user.client, user.store, {"X-API-Token": made.body["token"]})


async def test_a_time_beyond_the_calendar_is_refused_and_nothing_is_stored(caller: Caller) -> None:
    """An offset can lead out of year 9999; what could not be shown again must not get in."""
    admin = await caller.login()
    agent = (await admin.post("/agents", {"name": "a", "budget": 5})).body
    token = (await admin.post("/api-tokens", {"name": "ok"})).body

    refused = [
        await admin.post("/api-tokens", {"name": "x", "expires_at": BEYOND}),
        await admin.send("PUT", f"/api-tokens/{token['id']}", {"expires_at": BEYOND}),
        await admin.post(f"/api-tokens/{token['id']}/rotate", {"expires_at": BEYOND}),
        await admin.post(f"/agents/{agent['id']}/ic-token/regenerate", {"expires_at": BEYOND}),
    ]
    lists = [await admin.get(path) for path in ("/api-tokens", "/tokens", f"/agents/{agent['id']}/ic-token")]

    assert [(each.status, [*each.fields]) for each in refused] == [(400, ["expires_at"])] * 4
    assert [each.status for each in lists] == [200] * 3


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users", {"username": "new", "email": "n@test.io", "password": "long enough", "role": "admin"}),
        ("GET", "/users", None),
        ("POST", "/providers", {"provider": "openai", "api_key": "sk-0123456789"}),
        ("GET", "/audit-logs", None),
    ],
)
async def test_a_token_of_a_project_does_nothing_that_is_of_none(
    caller: Caller, method: str, path: str, body: object
) -> None:
    """Else an admin's token for one project would be a token for everything."""
    token = await token_of(await caller.login(), project_id=ORPHANED_PROJECT)

    answer = await token.send(method, path, body)

    assert (answer.status, answer.code) == (403, "FORBIDDEN")


@pytest.mark.parametrize("path", ["/api/v1//auth/login", "//api/v1/auth/login", "/api//v1/auth/login"])
async def test_a_path_with_an_empty_part_names_nothing(caller: Caller, path: str) -> None:
    """So what is true of a path by its form is true of all that is answered."""
    response = await caller.client.post(f"http://test{path}", json={"username": "ann", "password": PASSWORD})

    assert (response.status_code, response.json()["code"]) == (404, "NOT_FOUND")


async def test_an_encoded_slash_is_no_id(caller: Caller) -> None:
    """It is not taken for the list."""
    admin = await caller.login()

    assert [(await admin.get(f"{path}/%2F")).status for path in ("/users", "/agents", "/audit-logs")] == [404] * 3


async def test_answers_with_a_credential_are_never_stored(caller: Caller) -> None:
    """By the answer itself, not by its path alone."""
    ann = await caller.login("ann")
    made = await ann.post("/api-tokens", {"name": "x"})

    assert made.headers["cache-control"] == "no-store"


async def test_ending_sessions_by_their_refresh_token_is_limited_by_address() -> None:
    """Nobody is known yet who could be limited."""
    with SqliteStore(":memory:") as store:
        async with serving(store, replace(embedded_settings(), rate_limit_enabled=True)) as caller:
            answers = [await caller.post("/auth/logout", {"refresh_token": f"rt_{n}"}) for n in range(31)]

    assert [each.status for each in answers] == [401] * 30 + [429]


async def test_the_headers_of_a_refusal_are_of_the_limit_that_refused() -> None:
    """A client that trusts them must not come back at once."""
    with SqliteStore(":memory:") as store:
        async with serving(store, replace(embedded_settings(), rate_limit_enabled=True)) as caller:
            for _ in range(5):
                await caller.post("/auth/login", {"username": "ann", "password": "wrong"})
            login = await caller.post("/auth/login", {"username": "ann", "password": "wrong"})

    assert limit_of(login) == ("5", "0", 429)


async def test_the_limit_of_a_token_is_told_though_routes_have_none(caller: Caller) -> None:
    """It is on whatever the switch says."""
    token = await token_of(await caller.login("ann"), rate_limit_rps=1000)

    limit, remaining, status = limit_of(await token.get("/users/me"))

    assert (limit, int(remaining) < 1000, status) == ("1000", True, 200)


def limit_of(answer: Answer) -> tuple[str, str, int]:
    return answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"], answer.status


async def test_the_agents_of_a_deleted_user_are_shown_as_they_are_now(caller: Caller) -> None:
    """With their new project, and the tags that say where they came from."""
    admin = await caller.login()
    ann = caller.store.read(lambda uow: uow.users.find_by_username("ann"))
    assert ann is not None
    agent = (await admin.post("/agents", {"name": "a", "budget": 5, "owner_id": ann.id})).body
    await admin.send("DELETE", f"/users/{ann.id}")

    token = await admin.post(f"/agents/{agent['id']}/ic-token/regenerate")
    seen = await admin.get(f"/agents/{agent['id']}")

    assert token.body["project_id"] == ORPHANED_PROJECT
    assert seen.body["tags"] == ["orphaned", f"original-owner:{ann.id}"]


async def test_a_list_of_tokens_shows_the_kinds_that_a_scope_opens(caller: Caller) -> None:
    """Either scope opens the list, and neither opens the other's part."""
    admin = await caller.login()
    await admin.post("/agents", {"name": "a", "budget": 5})
    kinds = {}
    for scope in ("tokens:read", "ic_tokens:read"):
        token = await token_of(admin, scopes=[scope])
        kinds[scope] = {row["kind"] for row in (await token.get("/tokens")).body["data"]}

    assert kinds == {"tokens:read": {"api"}, "ic_tokens:read": {"ic"}}


async def test_a_list_of_tokens_has_one_order(caller: Caller) -> None:
    """Another one is refused, not overlooked."""
    ann = await caller.login("ann")

    statuses = [(await ann.get(f"/tokens?{query}")).status for query in ("sort=", "sort=name", "sort=-created_at")]

    assert statuses == [400, 400, 200]


async def test_who_may_not_is_told_so_before_what_is_wrong(caller: Caller) -> None:
    """Ownership and state come before the fields that they make pointless."""
    admin, ann = await caller.login(), await caller.login("ann")
    token = (await ann.post("/api-tokens", {"name": "x", "scopes": ["agents:read"]})).body
    other = (await admin.get("/users/me")).body["id"]
    for_another = await ann.post("/api-tokens", {"user_id": other})
    widened = await admin.send("PUT", f"/api-tokens/{token['id']}", {"scopes": ["*"], "name": ""})
    await ann.send("DELETE", f"/api-tokens/{token['id']}", {"reason": " why "})
    rotated = await ann.post(f"/api-tokens/{token['id']}/rotate", {"expires_at": "x"})

    assert [each.status for each in (for_another, widened, rotated)] == [403, 403, 404]
    reasons = caller.store.read(lambda uow: [row.reason for row in uow.audit.rows() if row.reason])
    assert reasons == ["why"]


async def test_people_are_found_in_whatever_case_of_whatever_script(caller: Caller) -> None:
    """Not only in ASCII."""
    admin = await caller.login()
    await admin.post("/users", {"username": "\u00c9mile", "email": "e@test.io", "password": "long enough"})

    found = await admin.get("/users", params={"search": "\u00e9MILE"})

    assert [row["username"] for row in found.body["data"]] == ["\u00c9mile"]


async def test_a_refusal_names_the_thing_it_was_about(caller: Caller) -> None:
    """If the path holds an id; other text of a path is nobody's business."""
    ann, admin = await caller.login("ann"), await caller.login()
    other = (await admin.get("/users/me")).body["id"]
    await ann.get(f"/users/{other}")

    rows = caller.store.read(lambda uow: [row for row in uow.audit.rows() if row.operation == "AUTHZ_DENIED"])

    assert [row.resource_id for row in rows] == [other]
    assert json.loads(rows[0].metadata)["action"] == "users.get"


@pytest.mark.parametrize("name", ["Authorization", "X-API-Token", "X-IC-Token"])
async def test_two_different_values_of_one_header_are_ambiguous(caller: Caller, name: str) -> None:
    """Nobody could say which was meant."""
    prefix = "Bearer " if name == "Authorization" else ""
    pair = [(name, f"{prefix}at_{letter * 43}") for letter in "ab"]

    answer = await caller.client.get("/api/v1/users/me", headers=pair)

    assert (answer.status_code, answer.json()["code"]) == (400, "AMBIGUOUS_CREDENTIALS")


async def test_the_body_of_a_get_is_measured_too(caller: Caller) -> None:
    """What is too large is too large, whatever it is for."""
    ann = await caller.login("ann")

    answer = await ann.send("GET", "/users/me", b" " * (1_048_576 + 1))

    assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")
