"""Tokens of both kinds in one list over the wire. Contract identity.md 7."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.web import Caller, serving

pytestmark = pytest.mark.anyio

ENTRY = {
    "id", "kind", "name", "owner_id", "agent_id", "project_id", "status", "created_at", "created_by", "last_used_at",
    "expires_at",
}  # fmt: skip


@asynccontextmanager
async def desks(store: SqliteStore) -> AsyncIterator[tuple[Caller, Caller, Caller]]:
    """Yield ann with an agent and an API token, an admin with the like, and a viewer with nothing."""
    async with serving(store) as caller:
        ann, admin, vera = [await caller.login(name) for name in ("ann", "admin", "vera")]
        for person, name in ((ann, "ann"), (admin, "admin")):
            agent = {"name": f"{name}'s agent", "budget": 1, "owner_id": user_id_of(store, name)}
            assert (await admin.post("/agents", agent)).status == 201
            assert (await person.post("/api-tokens", {"name": f"{name}'s"})).status == 201
        yield ann, admin, vera


def user_id_of(store: SqliteStore, username: str) -> str:
    user = store.read(lambda uow: uow.users.find_by_username(username))
    assert user is not None
    return user.id


async def seen(caller: Caller, query: str = "") -> list[dict[str, Any]]:
    answer = await caller.get(f"/tokens{query}")
    assert answer.status == 200, answer.raw
    assert answer.body["pagination"]["total"] == len(answer.body["data"])
    assert answer.headers["cache-control"] == "no-store"
    return list(answer.body["data"])


async def test_everybody_sees_the_own_tokens_and_an_admin_all(store: SqliteStore) -> None:
    """Both kinds in one shape, never with a value."""
    async with desks(store) as (ann, admin, vera):
        own, everything = await seen(ann), await seen(admin)

        assert sorted(entry["kind"] for entry in own) == ["api", "ic"]
        assert len({entry["owner_id"] for entry in own}) == 1
        assert sorted(entry["kind"] for entry in everything) == ["api", "api", "ic", "ic"]
        assert all(set(entry) == ENTRY for entry in everything)
        assert await seen(vera) == []


async def test_the_list_is_filtered(store: SqliteStore) -> None:
    """By kind, agent, project, status and a part of the name."""
    async with desks(store) as (ann, admin, _):
        (agent_id,) = {entry["agent_id"] for entry in await seen(ann, "?kind=ic")}
        (token,) = await seen(ann, "?kind=api")
        await ann.send("DELETE", f"/api-tokens/{token['id']}")

        assert [entry["kind"] for entry in await seen(admin, f"?agent_id={agent_id}")] == ["ic"]
        assert [entry["id"] for entry in await seen(admin, "?status=revoked")] == [token["id"]]
        assert [entry["id"] for entry in await seen(admin, "?search=ANN'S&kind=api")] == [token["id"]]
        assert {entry["kind"] for entry in await seen(admin, "?search=S%20AGENT")} == {"ic"}
        assert {entry["kind"] for entry in await seen(admin, "?project_id=proj_master_001")} == {"ic"}
        assert len(await seen(admin, "?status=active")) == 3


async def test_an_api_token_sees_what_its_scopes_let(store: SqliteStore) -> None:
    """IC tokens need a scope of their own."""
    async with desks(store) as (ann, _, _):
        answers = [await ann.post("/api-tokens", {"name": "x", "scopes": scopes}) for scopes in (
            ["tokens:read"], ["tokens:read", "ic_tokens:read"], ["agents:read"],
        )]  # fmt: skip
        blind, seeing, neither = (ann.bearing(answer.body["token"]) for answer in answers)

        assert {entry["kind"] for entry in await seen(blind)} == {"api"}
        assert await seen(blind, "?kind=ic") == []
        assert {entry["kind"] for entry in await seen(seeing)} == {"api", "ic"}
        assert (await neither.get("/tokens")).code == "INSUFFICIENT_SCOPE"


async def test_a_bad_question_is_refused(store: SqliteStore) -> None:
    """The parameter is named."""
    queries = ["kind=both", "agent_id=x", "project_id=x", "status=x", "search=", "page=0", "kind=ic&kind=api"]
    async with desks(store) as (ann, _, _):
        answers = {query.partition("=")[0]: await ann.get(f"/tokens?{query}") for query in queries}

        assert {answer.status for answer in answers.values()} == {400}
        assert all(set(answer.fields) == {name} for name, answer in answers.items())


async def test_the_list_only_reads(store: SqliteStore) -> None:
    """Nothing is made or ended here, and there is no token by itself."""
    async with desks(store) as (ann, _, _):
        answers = [await ann.post("/tokens", {}), await ann.send("DELETE", "/tokens"), await ann.get("/tokens/x")]

        assert [answer.status for answer in answers] == [405, 405, 404]


async def test_use_is_shown_to_the_next_who_looks(store: SqliteStore) -> None:
    """What the server has counted and not yet written is there."""
    async with desks(store) as (ann, _, _):
        value = (await ann.post("/api-tokens", {"name": "used"})).body["token"]
        await ann.bearing(value).get("/agents")

        (entry,) = await seen(ann, "?search=used")
        assert entry["last_used_at"] is not None
