"""The gate: what is counted, what is refused in which order, and what of a refusal is remembered."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from ironcage_core.domain.audit import AuditRow
from ironcage_core.domain.ids import ORPHANED_PROJECT
from ironcage_core.ports.storage import UnitOfWork
from ironcage_http.app import ROUTES, create_app
from ironcage_http.routing import Route
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage
from tests.support.rows import lease_row
from tests.support.web import PASSWORD, Caller, people, serving

LIMITED = replace(embedded_settings(), rate_limit_enabled=True)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def limited() -> AsyncIterator[Caller]:
    """Yield a caller of an app with rate limits."""
    with SqliteStore(":memory:") as store:
        async with serving(store, LIMITED) as caller:
            yield caller


def refusals(store: SqliteStore) -> list[AuditRow]:
    return store.read(lambda uow: [row for row in uow.audit.rows() if row.outcome == "denied"])


# --- rate limits -------------------------------------------------------------


async def test_every_answer_of_a_limited_route_says_what_is_left() -> None:
    """Success and refusal alike; who is refused learns when to come back."""
    async with limited() as caller:
        ann = await caller.login("ann")
        answers = [await ann.get("/users/me") for _ in range(101)]

    first, last = answers[0], answers[-1]
    assert [each.status for each in answers] == [200] * 100 + [429]
    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("100", "99")
    assert int(first.headers["x-ratelimit-reset"]) > 1_700_000_000
    assert last.headers["x-ratelimit-remaining"] == "0"
    assert (last.code, int(last.headers["retry-after"]) >= 1) == ("RATE_LIMIT_EXCEEDED", True)
    assert {"limit", "window_seconds", "retry_after", "reset_at"} <= set(last.body["details"])


async def test_a_limit_is_of_one_route_and_one_session() -> None:
    """What one has used up is there for all others."""
    async with limited() as caller:
        ann, vera = await caller.login("ann"), await caller.login("vera")
        answers = [await ann.get("/users/me")]
        while answers[-1].status == 200 and len(answers) < 1000:  # a slow machine gives time for more than the limit
            answers.append(await ann.get("/users/me"))

        others = [await ann.get("/agents"), await ann.get("/budget"), await vera.get("/users/me")]

    assert answers[-1].status == 429
    assert [each.status for each in others] == [200, 200, 200]


async def test_an_address_is_limited_before_anything_of_its_request_is_looked_at() -> None:
    """Not even that it is no JSON is told any more."""
    async with limited() as caller:
        answers = [await caller.send("POST", "/auth/refresh", b"{") for _ in range(31)]

    assert [each.code for each in answers] == ["MALFORMED_JSON"] * 30 + ["RATE_LIMIT_EXCEEDED"]


async def test_making_tokens_is_limited_for_those_who_may_only() -> None:
    """A viewer is told every time that it may not; the limit is on whatever the switch says."""
    with SqliteStore(":memory:") as store:
        async with serving(store) as caller:
            ann, vera = await caller.login("ann"), await caller.login("vera")

            viewers = [await vera.post("/api-tokens", {"name": "x"}) for _ in range(12)]
            users = [await ann.post("/api-tokens", {}) for _ in range(12)]

    assert {each.code for each in viewers} == {"FORBIDDEN"}
    assert [each.status for each in users] == [400] * 10 + [429] * 2


async def test_without_the_switch_ordinary_routes_are_not_limited() -> None:
    """And say nothing of limits."""
    with SqliteStore(":memory:") as store:
        async with serving(store) as caller:
            ann = await caller.login("ann")
            answers = [await ann.get("/users/me") for _ in range(101)]

    assert {each.status for each in answers} == {200}
    assert "x-ratelimit-limit" not in answers[0].headers


# --- refusals are remembered -------------------------------------------------


async def test_a_refusal_for_want_of_a_right_is_remembered_once_a_minute() -> None:
    """By whom, where from, and of what; a loop of them does not fill the log."""
    with SqliteStore(":memory:") as store:
        async with serving(store) as caller:
            ann = await caller.login("ann")
            for _ in range(5):
                await ann.get("/users", headers={"X-Request-Id": "here-i-am", "User-Agent": "probe"})
            await ann.get("/audit-logs")
            rows = refusals(store)

    assert [json.loads(row.metadata)["route"] for row in rows] == ["GET /users", "GET /audit-logs"]
    row = rows[0]
    assert (row.operation, row.category, row.user_role) == ("AUTHZ_DENIED", "auth", "user")
    assert (row.ip_address, row.user_agent, row.request_id) == ("127.0.0.1", "probe", "here-i-am")
    assert json.loads(row.metadata)["code"] == "FORBIDDEN"


async def test_an_agent_that_knocks_at_a_door_for_people_is_remembered_as_one(world: Stage) -> None:
    """With the agent as the actor."""
    agent = world.agent()

    refused = await _get(world, "/users", {"X-IC-Token": agent.token})

    (row,) = [row for row in refusals(world.store) if row.actor_id == agent.id]
    assert refused == 403
    assert (row.operation, row.actor_type) == ("AGENT_TOKEN_REFUSED", "agent")


async def _get(world: Stage, path: str, headers: dict[str, str]) -> int:
    response = await world._client.get(f"/api/v1{path}", headers=headers)
    return response.status_code


async def test_states_of_things_are_no_denials() -> None:
    """A conflict or a missing record is nobody's want of a right."""
    with SqliteStore(":memory:") as store:
        async with serving(store) as caller:
            admin = await caller.login()
            await admin.get("/users/user_" + "0" * 32)
            user = store.read(lambda uow: uow.users.find_by_username("ann"))
            assert user is not None
            await admin.send("PUT", f"/users/{user.id}/activate")

            assert refusals(store) == []


# --- bindings ----------------------------------------------------------------


async def test_a_token_of_a_project_reaches_nothing_of_another_one() -> None:
    """By id and in every list, for an admin's token as well."""
    with SqliteStore(":memory:") as store:
        async with serving(store) as caller:
            admin = await caller.login()
            inside, outside = [
                (await admin.post("/agents", {"name": name, "budget": 5})).body for name in ("inside", "outside")
            ]
            store.write(partial(move, agent_id=outside["id"]))
            made = await admin.post("/api-tokens", {"name": "p", "project_id": "proj_master_001"})
            token = Caller(caller.client, store, {"X-API-Token": made.body["token"]})

            by_id = [
                (await token.get(path.format(agent["id"]))).status
                for path in ("/agents/{}", "/budget?agent_id={}", "/budget/ledger?agent_id={}", "/agents/{}/ic-token")
                for agent in (inside, outside)
            ]
            lists = [(await token.get(path)).body for path in ("/agents", "/budget", "/budget/ledger", "/tokens")]

    assert by_id == [200, 403] * 4
    assert [len(page["data"]) for page in lists[:3]] == [1, 1, 1]
    assert outside["id"] not in json.dumps(lists, default=str)


def move(uow: UnitOfWork, agent_id: str) -> None:
    agent = uow.agents.find(agent_id)
    assert agent is not None
    uow.agents.put(agent._replace(project_id=ORPHANED_PROJECT))


# --- counting ----------------------------------------------------------------


async def test_a_request_counts_once_though_its_read_turns_into_a_write(tmp_path: Path) -> None:
    """An expired lease is settled by whoever looks; the use case runs twice then."""
    with SqliteStore(tmp_path / "iron.db") as store:
        people(store)
        async with serving(store) as caller:
            admin = await caller.login()
            agent = (await admin.post("/agents", {"name": "a", "budget": 5})).body
            made = await admin.post("/api-tokens", {"name": "counted", "daily_request_limit": 5})
            token = Caller(caller.client, store, {"X-API-Token": made.body["token"]})
            for _ in range(3):
                store.write(partial(lend_long_ago, agent_id=agent["id"]))
                assert (await token.get(f"/agents/{agent['id']}")).status == 200
            used = (await admin.get(f"/api-tokens/{made.body['id']}")).body["usage_stats"]
            still_open = store.read(lambda uow: list(uow.leases.open_of(agent["id"])))

    assert (used["total_requests"], still_open) == (3, [])


def lend_long_ago(uow: UnitOfWork, agent_id: str) -> None:
    """Give the agent an empty lease whose time is over."""
    uow.leases.put(lease_row(agent_id, granted=0, due_at=1, expires_at=1, lives_until=1))


def test_counts_are_written_when_the_server_stops(tmp_path: Path) -> None:
    """A clean stop loses nothing."""
    with SqliteStore(tmp_path / "iron.db") as store:
        people(store)
        with ApiServer(store) as server, httpx.Client(base_url=f"{server.url}/api/v1") as client:
            body = {"username": "ann", "password": PASSWORD}
            session = client.post("/auth/login", json=body).json()["access_token"]
            headers = {"Authorization": f"Bearer {session}"}
            made = client.post("/api-tokens", json={"name": "x"}, headers=headers).json()
            for _ in range(7):
                client.get("/users/me", headers={"X-API-Token": made["token"]})

        def stored(uow: UnitOfWork) -> int:
            return uow.token_usage.of(made["id"], uow.now).total_requests

        assert store.read(stored) == 7


# --- credentials -------------------------------------------------------------


def test_a_route_without_a_rule_cannot_be_made() -> None:
    """Deny by default."""
    with pytest.raises(ValueError, match="no rule says who may do"):
        Route("GET", "/new", ROUTES[0].handler, "New", action="new.thing")


def test_an_app_is_made_of_guarded_routes_only() -> None:
    """Every route has the rule of its action, and the app has no other handlers below its base."""
    app: Any = create_app(SqliteStore(":memory:"), embedded_settings())
    short = app._app
    inner = short._app
    paths = {path for route in inner.routes for path in [route.path] if path.startswith("/api/v1")}

    # A plain request where the live feed is learns that it must be upgraded, and nothing else.
    assert paths == {"/api/v1" + route.path.replace("}", ":str}") for route in ROUTES} | {"/api/v1/ws"}
    plain = [route for route in ROUTES if "{" not in route.path]
    of_runtimes = {("POST", "/v1/telemetry/events")}
    assert set(short._handlers) == {(route.method, "/api/v1" + route.path) for route in plain} | of_runtimes
