"""Agents over the wire: changed, stopped, started, deleted, and their keys. Contract resources.md 1 and 2.4."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from ironcage_core.domain.projects import ProjectKey
from ironcage_http.server import embedded_settings
from ironcage_storage.sealed.vault import MasterKey
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.web import API_KEY, Caller, serving

pytestmark = pytest.mark.anyio
SETTINGS = replace(embedded_settings(), master_key=MasterKey.generate())


@asynccontextmanager
async def desks(store: SqliteStore) -> AsyncIterator[tuple[Caller, Caller, str]]:
    """Yield an admin, ann, and her id."""
    async with serving(store, SETTINGS) as caller:
        admin, ann = await caller.login("admin"), await caller.login("ann")
        yield admin, ann, str((await ann.get("/users/me")).body["id"])


async def new_agent(admin: Caller, owner_id: str, **fields: object) -> dict[str, Any]:
    body = {"name": "worker", "budget": 25, "owner_id": owner_id, **fields}
    made = await admin.post("/agents", body)
    assert made.status == 201, made.raw
    return dict(made.body)


async def new_key(admin: Caller, **fields: object) -> str:
    made = await admin.post("/providers", {"provider": "openai", "api_key": API_KEY, **fields})
    assert made.status == 201, made.raw
    return str(made.body["id"])


async def test_an_agent_says_what_it_was_made_with(store: SqliteStore) -> None:
    """The same object when it is made, shown and changed; every bad field is told at once."""
    async with desks(store) as (admin, ann, ann_id):
        made = await new_agent(admin, ann_id, description="does it", tags=[" a ", "b", "a"], project_id="proj_orphaned")
        changed = await ann.send("PUT", f"/agents/{made['id']}", {"tags": None, "description": "", "name": "x"})
        shown = await ann.get(f"/agents/{made['id']}")
        bad = {"name": "a", "budget": "0.0000001", "tags": ["a", 7], "project_id": "proj_x", "description": "x" * 501}
        refused = await admin.post("/agents", bad)

    assert (made["description"], made["tags"], made["project_id"]) == ("does it", ["a", "b"], "proj_orphaned")
    assert (changed.body["description"], changed.body["tags"], changed.body["name"]) == (None, [], "x")
    assert changed.body == shown.body
    assert "6 decimals" in refused.fields["budget"]
    assert (refused.status, set(refused.fields)) == (400, {"budget", "tags[1]", "project_id", "description"})


async def test_an_update_is_judged_before_it_is_read(store: SqliteStore) -> None:
    """Who may not is told so, whatever the fields hold; then what is wrong; nothing is applied by halves."""
    async with desks(store) as (admin, ann, ann_id):
        path = f"/agents/{(await new_agent(admin, ann_id))['id']}"
        before = (await ann.get(path)).body
        cases = [
            (ann, {"name": "b", "status": 5}, 403, "FORBIDDEN"),
            (ann, {"name": "b", "owner_id": ann_id}, 403, "FORBIDDEN"),
            (ann, {"name": None}, 400, "VALIDATION_ERROR"),
            (ann, {"color": "red"}, 400, "NO_FIELDS_PROVIDED"),
            (ann, {}, 400, "NO_FIELDS_PROVIDED"),
            (admin, {"name": "b", "status": "stopped"}, 400, "VALIDATION_ERROR"),
            (admin, {"name": "b", "owner_id": None}, 400, "VALIDATION_ERROR"),
            (admin, {"name": "b", "providers": ["openai"]}, 400, "INVALID_PROVIDER_ID"),
            (admin, {"name": "b", "provider_key_id": "prov_" + "0" * 32}, 404, "PROVIDER_NOT_FOUND"),
        ]
        told = [await who.send("PUT", path, body) for who, body, *_ in cases]
        budget = await admin.send("PUT", path, {"name": "b", "budget": 30})
        after = (await ann.get(path)).body

    assert [(answer.status, answer.code) for answer in told] == [tuple(expected) for _, _, *expected in cases]
    assert "PUT /limits/agents/:id/budget" in budget.fields["budget"]
    assert after == before


async def test_agents_are_found_by_all_of_their_tags(store: SqliteStore) -> None:
    """The parameter may be repeated, and may not be empty."""
    async with desks(store) as (admin, ann, ann_id):
        for name, tags in (("one", ["a"]), ("two", ["a", "b c"]), ("three", [])):
            await new_agent(admin, ann_id, name=name, tags=tags)
        found = [
            sorted(agent["name"] for agent in (await ann.get(f"/agents?{query}")).body["data"])
            for query in ("tag=a", "tag=a&tag=b%20c", "tag=a&tag=a", "tag=A")
        ]
        refused = await ann.get("/agents?tag=a&tag=")

    assert found == [["one", "two"], ["two"], ["one", "two"], []]
    assert refused.fields == {"tag": "may not be empty"}


async def test_many_stops_at_once_are_one(store: SqliteStore) -> None:
    """One change of state, and everybody is told the same time."""
    async with desks(store) as (admin, ann, ann_id):
        agent_id = (await new_agent(admin, ann_id))["id"]
        told = await asyncio.gather(*(ann.post(f"/agents/{agent_id}/stop", {"reason": "x"}) for _ in range(5)))
        log = await admin.get("/audit-logs?operation=AGENT_STOPPED")
        events = store.read(lambda uow: [each.name for each in uow.feed.after(0, 100) if each.type == "STATE_UPDATE"])
        started = await ann.post(f"/agents/{agent_id}/start")

    stopped_at = told[0].body["stopped_at"]
    assert stopped_at is not None
    assert [answer.body for answer in told] == [
        {
            "success": True,
            "agent_id": agent_id,
            "runtime_status": "stopped",
            "stop_hold": True,
            "leases_revoked": 0,
            "stopped_at": stopped_at,
        }
    ] * 5
    assert (log.body["pagination"]["total"], events) == (1, ["idle", "stopped"])
    assert started.body == {"agent_id": agent_id, "runtime_status": "idle", "stop_hold": False}


async def test_a_deleted_agent_is_not_there(store: SqliteStore) -> None:
    """Once; afterwards each of its routes says so, and its credentials open nothing."""
    async with desks(store) as (admin, ann, ann_id):
        agent = await new_agent(admin, ann_id)
        path = f"/agents/{agent['id']}"
        bound = await ann.post("/api-tokens", {"name": "b", "agent_id": agent["id"]})
        token = {"X-API-Token": bound.body["token"]}
        before = await ann.get(path, headers={**token, "Authorization": ""})
        deleted = await admin.send("DELETE", path)
        again = [await admin.send("DELETE", path)]
        again += [await ann.get(path + tail) for tail in ("", "/tokens", "/providers", "/ic-token")]
        again += [await ann.post(path + tail) for tail in ("/stop", "/start")]
        program = Caller(ann.client, store)
        dead = await program.get(path, headers=token)
        runtime = await program.post("/budget/handshake", {}, headers={"X-IC-Token": agent["ic_token"]["token"]})
        listed = await ann.get("/agents")

    assert (before.status, deleted.status, deleted.raw) == (200, 204, b"")
    assert {(answer.status, answer.code) for answer in again} == {(404, "AGENT_NOT_FOUND")}
    assert (dead.status, dead.code) == (401, "AUTH_TOKEN_REVOKED")
    assert runtime.status == 401
    assert listed.body["pagination"]["total"] == 0


async def test_tokens_of_an_agent_are_told_without_their_values(store: SqliteStore) -> None:
    """Revoked ones included."""
    async with desks(store) as (admin, ann, ann_id):
        agent_id = (await new_agent(admin, ann_id))["id"]
        made = [(await ann.post("/api-tokens", {"name": name, "agent_id": agent_id})).body for name in ("a", "b")]
        await ann.send("DELETE", f"/api-tokens/{made[0]['id']}")
        listed = await ann.get(f"/agents/{agent_id}/tokens")
        bad = await ann.get(f"/agents/{agent_id}/tokens?page=0")

    items = {item["id"]: item for item in listed.body["data"]}
    assert {token_id: item["is_active"] for token_id, item in items.items()} == {
        made[0]["id"]: False,
        made[1]["id"]: True,
    }
    assert set(items[made[1]["id"]]) == {
        "id", "name", "user_id", "agent_id", "project_id", "provider", "is_active", "created_at", "last_used_at",
        "expires_at", "revoked_at",
    }  # fmt: skip
    assert bad.status == 400


async def test_keys_are_given_reordered_and_taken(store: SqliteStore) -> None:
    """With what is left told, and a warning when that is nothing."""
    async with desks(store) as (admin, ann, ann_id):
        first, second = await new_key(admin, name="first"), await new_key(admin, name="second")
        agent_id = (await new_agent(admin, ann_id, providers=[first]))["id"]
        path = f"/agents/{agent_id}/providers"
        foreign = await ann.send("PUT", path, {"providers": [second, first]})
        assignment = ProjectKey("proj_master_001", "openai", second, 0)
        store.write(lambda uow: uow.projects.assign(assignment))
        assigned = await ann.send("PUT", path, {"providers": [second, first, second]})
        shown = await ann.get(path)
        bad = [await ann.send("PUT", path, body) for body in ({}, {"providers": None}, {"providers": ["openai"]})]
        taken = await ann.send("DELETE", f"{path}/{second}")
        again = await ann.send("DELETE", f"{path}/{second}")
        unknown = await ann.send("DELETE", f"{path}/openai")
        last = await ann.send("DELETE", f"{path}/{first}")

    item: dict[str, object] = {"provider": "openai", "base_url": None, "models": [], "status": "active"}
    keys = [{"id": second, "name": "second", **item}, {"id": first, "name": "first", **item}]
    assert (foreign.status, foreign.code) == (403, "FORBIDDEN")
    assert assigned.body.pop("updated_at") is not None
    assert assigned.body == shown.body == {"agent_id": agent_id, "providers": keys, "count": 2}
    assert [answer.code for answer in bad] == ["VALIDATION_ERROR", "VALIDATION_ERROR", "INVALID_PROVIDER_ID"]
    assert taken.body == {
        "agent_id": agent_id,
        "provider_id": second,
        "removed": True,
        "remaining_providers": [{"id": first, "name": "first"}],
        "count": 1,
    }
    assert (again.status, again.code) == (404, "PROVIDER_NOT_ASSIGNED")
    assert (unknown.status, unknown.code) == (404, "PROVIDER_NOT_FOUND")
    assert (last.body["count"], last.body["remaining_providers"]) == (0, [])
    assert "no provider key left" in last.body["warning"]


async def test_a_viewer_sees_no_url_of_a_key(store: SqliteStore) -> None:
    """As in the list of keys."""
    async with desks(store) as (admin, ann, _):
        vera = await ann.login("vera")
        vera_id = (await vera.get("/users/me")).body["id"]
        key = await new_key(admin, base_url="https://llm.test/v1")
        agent_id = (await new_agent(admin, vera_id, providers=[key]))["id"]
        seen = [(await who.get(f"/agents/{agent_id}/providers")).body["providers"] for who in (admin, vera)]

    assert [keys[0]["base_url"] for keys in seen] == ["https://llm.test/v1", None]


async def test_a_project_bound_token_makes_agents_only_there(store: SqliteStore) -> None:
    """And where nothing is said, there."""
    async with desks(store) as (admin, _, ann_id):
        bound = await admin.post("/api-tokens", {"name": "b", "project_id": "proj_orphaned"})
        program = Caller(admin.client, store, {"X-API-Token": bound.body["token"]})
        body = {"name": "a", "budget": 1, "owner_id": ann_id}
        made = await program.post("/agents", body)
        elsewhere = await program.post("/agents", {**body, "project_id": "proj_master_001"})

    assert (made.status, made.body["project_id"]) == (201, "proj_orphaned")
    assert (elsewhere.status, elsewhere.code) == (403, "FORBIDDEN")


async def test_stops_are_limited_for_each_agent(store: SqliteStore) -> None:
    """Who stops one too often may still stop another."""
    async with serving(store, replace(SETTINGS, rate_limit_enabled=True)) as caller:
        admin, ann = await caller.login("admin"), await caller.login("ann")
        ann_id = (await ann.get("/users/me")).body["id"]
        first, second = [(await new_agent(admin, ann_id))["id"] for _ in range(2)]
        told = [(await ann.post(f"/agents/{first}/stop")).status for _ in range(21)]
        other = await ann.post(f"/agents/{second}/start")

    assert (told[0], told[-1], other.status) == (200, 429, 200)


async def test_only_keys_of_allowed_providers_come(store: SqliteStore) -> None:
    """Named by their place in what was sent; those that an agent has may stay and be reordered."""
    async with desks(store) as (admin, _, ann_id):
        openai, anthropic = await new_key(admin), await new_key(admin, provider="anthropic")
        third = await new_key(admin, provider="anthropic")
        agent = await new_agent(admin, ann_id, providers=[anthropic])
    async with serving(store, replace(SETTINGS, allowed_providers=("openai",))) as caller:
        admin = await caller.login("admin")
        path, new = f"/agents/{agent['id']}", {"name": "w", "budget": 1}
        ghost = "prov_" + "0" * 32
        refused = [
            await admin.post("/agents", {**new, "providers": [openai, third, anthropic, third]}),
            await admin.post("/agents", {**new, "provider_key_id": third, "providers": [openai, anthropic]}),
            await admin.send("PUT", path, {"name": "z", "providers": [anthropic, openai, third]}),
            await admin.send("PUT", path, {"provider_key_id": third}),
            await admin.send("PUT", f"{path}/providers", {"providers": [third, anthropic]}),
        ]
        earlier = [
            await admin.send("PUT", f"{path}/providers", {"providers": [third, "openai"]}),
            await admin.send("PUT", f"{path}/providers", {"providers": [third, ghost]}),
        ]
        unchanged = (await admin.get(path)).body
        kept = await admin.send("PUT", f"{path}/providers", {"providers": [openai, anthropic]})
        made = await admin.post("/agents", {**new, "providers": [openai]})

    assert [(answer.status, answer.code, set(answer.fields)) for answer in refused] == [
        (400, "VALIDATION_ERROR", fields)
        for fields in (
            {"providers[1]", "providers[2]", "providers[3]"},
            {"provider_key_id", "providers[1]"},
            {"providers[2]"},
            {"provider_key_id"},
            {"providers[0]"},
        )
    ]
    assert [answer.code for answer in earlier] == ["INVALID_PROVIDER_ID", "PROVIDER_NOT_FOUND"]
    assert (unchanged["name"], unchanged["providers"]) == ("worker", [anthropic])
    assert [each["id"] for each in kept.body["providers"]] == [openai, anthropic]
    assert made.status == 201
