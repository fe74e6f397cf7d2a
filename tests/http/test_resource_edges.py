"""Edges of agents, keys and projects: ways around the rules that a caller might try."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage
from tests.support.web import Answer, Caller, serving
from tests.support.world import TestAgent

pytestmark = pytest.mark.anyio
BEYOND = b"1" + b"0" * 5000


@pytest.fixture
async def admin(store: SqliteStore) -> AsyncIterator[Caller]:
    """An admin of an app without rate limits."""
    async with serving(store) as made:
        yield await made.login()


async def made(caller: Caller, path: str, **body: object) -> Any:  # noqa: ANN401 - the answer's body
    answer = await caller.post(path, body)
    assert answer.status == 201, answer.raw
    return answer.body


async def token_of(caller: Caller, **fields: object) -> Caller:
    value = (await made(caller, "/api-tokens", name="t", **fields))["token"]
    return Caller(caller.client, caller.store, {"X-API-Token": value})


async def key_of(caller: Caller) -> str:
    return str((await made(caller, "/providers", provider="openai", api_key="sk-0123456789abcdef"))["id"])


@pytest.mark.parametrize("path", ["/agents/provider-key", "/budget/handshake", "/budget/report", "/budget/return"])
@pytest.mark.parametrize("value", [b"1e999", b"[1e999]", BEYOND, b"{}"])
def test_a_thing_in_the_place_of_a_token_is_a_bad_field(world: Stage, path: str, value: bytes) -> None:
    """Even a number that no number can hold."""
    answer = world.send("POST", path, b'{"provider":5,"ic_token":' + value + b"}")

    assert (answer.status, answer.code) in {(400, "VALIDATION_ERROR"), (400, "MALFORMED_JSON")}


def test_a_misshapen_request_id_keeps_no_other_report_out(world: Stage, agent: TestAgent) -> None:
    """The good item of the batch is booked."""
    lease_id = world.post("/budget/handshake", {}, token=agent.token).body["lease_id"]
    good = {
        "lease_id": lease_id, "request_id": "good", "model": "gpt-4o", "provider": "openai", "input_tokens": 80,
        "output_tokens": 20, "cost_usd": 0.00032,
    }  # fmt: skip
    body = b'{"reports":[{"request_id":1e999,"lease_id":5},' + json.dumps(good).encode() + b"]}"

    answer = world.send("POST", "/budget/report", body, token=agent.token)

    assert [each["status"] for each in answer.body["results"]] == ["rejected", "accepted"]


async def test_a_token_of_a_project_gives_an_agent_no_key_of_another(admin: Caller) -> None:
    """Neither a new agent nor one that is there; else the agent's token would release it."""
    key_id = await key_of(admin)
    project = (await made(admin, "/projects", name="Mine"))["id"]
    agent = (await made(admin, "/agents", name="a", budget=5, project_id=project))["id"]
    token = await token_of(admin, project_id=project)

    answers = [
        await token.post("/agents", {"name": "x", "budget": 1, "providers": [key_id]}),
        await token.send("PUT", f"/agents/{agent}", {"providers": [key_id]}),
        await token.send("PUT", f"/agents/{agent}/providers", {"providers": [key_id]}),
    ]

    assert [each.status for each in answers] == [403] * 3


async def test_a_token_that_may_label_agents_gives_them_no_keys(admin: Caller) -> None:
    """Adding a key needs the scope that manages agents, by whichever route."""
    key_id = await key_of(admin)
    agent = (await made(admin, "/agents", name="a", budget=5))["id"]
    token = await token_of(admin, scopes=["agents:write"])

    answer = await token.send("PUT", f"/agents/{agent}/providers", {"providers": [key_id]})

    assert (answer.status, answer.code) == (403, "INSUFFICIENT_SCOPE")


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_a_sleeping_token_does_not_wake_in_a_project_out_of_sight(admin: Caller, *, is_deleted: bool) -> None:
    """Its owner could not make it today."""
    ann_id = admin.store.read(lambda uow: uow.users.find_by_username("ann"))
    assert ann_id is not None
    project = (await made(admin, "/projects", name="Gone"))["id"]
    agent = await made(admin, "/agents", name="a", budget=5, project_id=project, owner_id=ann_id.id)
    ann = await Caller(admin.client, admin.store).login("ann")
    token = await made(ann, "/api-tokens", name="t", project_id=project)
    await ann.send("PUT", f"/api-tokens/{token['id']}", {"is_active": False})
    await admin.send("PUT", f"/agents/{agent['id']}", {"project_id": "proj_master_001"})
    if is_deleted:
        assert (await admin.send("DELETE", f"/projects/{project}")).status == 204

    answer = await ann.send("PUT", f"/api-tokens/{token['id']}", {"is_active": True})

    assert (answer.status, [*answer.fields]) == (400, ["project_id"])


async def test_a_field_whose_name_may_be_a_secret_is_not_repeated(admin: Caller) -> None:
    """Somebody pastes the key where its name belongs."""
    key_id = await key_of(admin)

    answer = await admin.send("PUT", f"/providers/{key_id}", {"sk-proj-AAAA": 1})
    named = await admin.send("PUT", f"/providers/{key_id}", {"apikey": 1})

    assert (answer.status, b"AAAA" in answer.raw) == (400, False)
    assert [*named.fields] == ["apikey"]


async def test_an_answer_is_not_much_larger_than_what_it_refuses(admin: Caller) -> None:
    """Neither by bad tags nor by unknown fields."""
    agent = (await made(admin, "/agents", name="a", budget=5))["id"]
    key_id = await key_of(admin)

    answers: list[Answer] = [
        await admin.send("PUT", f"/agents/{agent}", {"tags": [""] * 10_000}),
        await admin.send("PUT", f"/providers/{key_id}", {"x" * n: 1 for n in range(1, 41)}),
    ]

    assert [(each.status, len(each.raw) < 2000) for each in answers] == [(400, True)] * 2


async def test_an_empty_project_is_no_project(admin: Caller) -> None:
    """It is not taken for the usual one."""
    answer = await admin.post("/agents", {"name": "a", "budget": 5, "project_id": ""})

    assert (answer.status, [*answer.fields]) == (400, ["project_id"])


@pytest.mark.parametrize("url", ["https://a:99999", "https://a\\b", "https://a\u2028b", "https://x#", "https://a:0"])
async def test_a_base_url_is_one_that_every_runtime_reads_alike(admin: Caller, url: str) -> None:
    """It is handed out beside the key."""
    body = {"provider": "openai", "api_key": "sk-0123456789", "base_url": url}

    assert [*(await admin.post("/providers", body)).fields] == ["base_url"]
