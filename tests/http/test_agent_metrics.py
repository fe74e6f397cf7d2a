"""How agents stand and what their calls add up to, over the wire. Contract resources.md 1.3."""

from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from ironcage_core.domain.audit import Actor
from ironcage_core.domain.rate_limits import Rate
from ironcage_core.domain.usage import UsageRecord, UsageSums
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_metrics import AgentMetrics
from ironcage_core.services.runtime_states import note_telemetry
from ironcage_http.server import embedded_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage
from tests.support.rows import HOUR, agent_row, balance_row, usage_row
from tests.support.web import Answer, serving
from tests.support.world import USD, TestAgent

DAY = 24 * HOUR
LIMITED = replace(embedded_settings(), rate_limit_enabled=True, rate_limits={"agent_status": Rate(20, 3600)})


def calls(world: Stage, agent: TestAgent, *calls: dict[str, Any]) -> None:
    """Store records of calls; `ago` is in milliseconds before now."""
    for place, fields in enumerate(calls):
        at = world.clock.now() - fields.pop("ago", 0)
        row = usage_row(agent.id, f"call-{place}", occurred_at=at, received_at=at, **fields)
        world.store.write(partial(_put, row=row))


def _put(uow: UnitOfWork, row: UsageRecord) -> None:
    uow.usage.put(row)


def at_noon(world: Stage) -> None:
    """Let it be noon of the next day."""
    world.clock.instant = (world.clock.instant // DAY + 1) * DAY + 12 * HOUR


def show(world: Stage, agent: TestAgent, what: str, user: str = "ann") -> Answer:
    answer = world.get(f"/agents/{agent.id}/{what}", user=user)
    assert answer.status == 200, answer.raw
    return answer


def test_a_new_agent_has_done_nothing(world: Stage) -> None:
    """Zeros, and null where nothing can be told."""
    agent = world.agent(100 * USD)

    status, metrics = show(world, agent, "status").body, show(world, agent, "metrics").body

    assert status.pop("checked_at") == metrics.pop("collected_at")
    assert status == {
        "agent_id": agent.id, "status": "active", "runtime_status": "idle", "stop_hold": False,
        "budget": {"total": 100, "spent": 0, "held": 0, "remaining": 100, "percent_used": 0},
        "requests": {"total": 0, "today": 0, "last_hour": 0},
        "last_request_at": None, "state_changed_at": None, "failure_reason": None,
    }  # fmt: skip
    assert metrics == {
        "agent_id": agent.id, "status": "active", "runtime_status": "idle", "budget_spent": 0, "pii_detections": 0,
        "requests": {"total": 0, "succeeded": 0, "failed": 0}, "tokens": {"input": 0, "output": 0, "total": 0},
        "cost_usd": 0, "avg_duration_ms": None,
    }  # fmt: skip


def test_calls_are_counted_by_day_hour_and_outcome(world: Stage) -> None:
    """Only the agent's own; tokens that nobody told apart are in the total; an average is over those that say."""
    at_noon(world)
    agent, other = world.agent(), world.agent()
    calls(
        world, agent,
        {"ago": 13 * HOUR, "input_tokens": 3, "output_tokens": 4, "unsplit_tokens": 0, "cost_micros": 7},
        {"ago": 12 * HOUR, "duration_ms": 1, "unsplit_tokens": 5, "cost_micros": 1_000_000},
        {"ago": HOUR + 1, "duration_ms": 2, "outcome": "failed", "unsplit_tokens": 0, "cost_micros": 0},
        {"ago": HOUR, "unsplit_tokens": 0, "cost_micros": 0},
        {"ago": 5, "outcome": "failed", "unsplit_tokens": 0, "cost_micros": 0},
    )  # fmt: skip
    calls(world, other, {"cost_micros": 9})

    status, metrics = show(world, agent, "status").body, show(world, agent, "metrics").body

    assert status["requests"] == {"total": 5, "today": 4, "last_hour": 2}
    assert status["last_request_at"].endswith("T11:59:59.995Z")
    assert metrics["requests"] == {"total": 5, "succeeded": 3, "failed": 2}
    assert metrics["tokens"] == {"input": 3, "output": 4, "total": 12}
    assert (metrics["cost_usd"], metrics["avg_duration_ms"]) == (Decimal("1.000007"), 2)


@pytest.mark.parametrize(("timed", "duration", "average"), [(0, 0, None), (2, 1, 1), (4, 1, 0), (3, 5, 2), (3, 4, 1)])
def test_an_average_is_half_up(timed: int, duration: int, average: int | None) -> None:
    """A whole number of milliseconds."""
    agent = agent_row("owner")
    sums = UsageSums(timed=timed, duration_ms=duration)

    assert AgentMetrics(agent, balance_row(agent.id), sums).avg_duration_ms == average


def test_the_numbers_of_the_budget_are_those_of_now(world: Stage) -> None:
    """What an expired lease held has come back, though nobody has swept."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease
    agent.report(lease.id, "r", 2 * USD)
    lent = show(world, agent, "status").body
    world.clock.pass_s(2 * 86_400)

    status, metrics = show(world, agent, "status").body, show(world, agent, "metrics").body

    assert lent["budget"] == {"total": 100, "spent": 2, "held": 8, "remaining": 90, "percent_used": 2}
    assert status["budget"] == {"total": 100, "spent": 2, "held": 0, "remaining": 98, "percent_used": 2}
    assert (lent["runtime_status"], metrics["budget_spent"], metrics["cost_usd"]) == ("running", 2, 2)
    assert lent["state_changed_at"] is not None


def test_what_an_operator_or_a_failure_did_is_told(world: Stage) -> None:
    """A hold, an end, why, and since when; an admin's word goes before a used-up budget."""
    agent = world.agent(USD)
    agent.report(agent.handshake().lease.id, "r", USD)
    used_up = show(world, agent, "status").body
    world.post(f"/agents/{agent.id}/stop", user="ann")
    stopped = show(world, agent, "status").body
    world.send("PUT", f"/agents/{agent.id}", {"status": "inactive"}, user="admin")
    row = world.store.read(lambda uow: uow.agents.find(agent.id))
    assert row is not None
    actor = Actor("agent", agent.id)
    world.store.write(lambda uow: note_telemetry(uow, row, "agent_failed", failure_reason="out of memory", actor=actor))

    failed = show(world, agent, "status").body

    assert (used_up["status"], used_up["stop_hold"]) == ("exhausted", False)
    assert (stopped["runtime_status"], stopped["stop_hold"], stopped["failure_reason"]) == ("stopped", True, None)
    assert (failed["status"], failed["runtime_status"], failed["failure_reason"]) == (
        "inactive", "failed", "out of memory",
    )  # fmt: skip


def test_why_an_agent_failed_is_not_for_viewers(world: Stage) -> None:
    """The reason may hold an error message, and those are for owners and admins."""
    agent = world.agent(owner_id=world.user_id("vera"))
    row = world.store.read(lambda uow: uow.agents.find(agent.id))
    assert row is not None
    actor = Actor("agent", agent.id)
    world.store.write(lambda uow: note_telemetry(uow, row, "agent_failed", failure_reason="a message", actor=actor))

    assert show(world, agent, "status", "vera").body["failure_reason"] is None
    assert show(world, agent, "status", "admin").body["failure_reason"] == "a message"


def test_what_was_found_of_people_is_not_for_viewers(world: Stage) -> None:
    """The field is left out, not zero."""
    agent = world.agent(owner_id=world.user_id("vera"))
    row = world.store.read(lambda uow: uow.agents.find(agent.id))
    assert row is not None
    world.store.write(lambda uow: uow.agents.put(row._replace(pii_detections=3)))

    assert "pii_detections" not in show(world, agent, "metrics", "vera").body
    assert show(world, agent, "metrics", "admin").body["pii_detections"] == 3


@pytest.mark.anyio
async def test_a_token_of_a_project_sees_what_was_called_there_alone() -> None:
    """Before its agent moved there, others paid; an admin's sums of a provider key are bound like that, too."""
    with SqliteStore(":memory:") as store:
        async with serving(store) as caller:
            admin = await caller.login("admin")
            places = [(await admin.post("/projects", {"name": name})).body["id"] for name in ("old", "new")]
            key = (await admin.post("/providers", {"provider": "openai", "api_key": "sk-" + "a" * 40})).body["id"]
            agent = (await admin.post("/agents", {"name": "a", "budget": 1, "project_id": places[1]})).body["id"]
            now = store.read(lambda uow: uow.now)
            for place, cost in zip(places, (5, 7), strict=True):
                row = usage_row(
                    agent, place, project_id=place, cost_micros=cost, provider_id=key, occurred_at=now, received_at=now
                )
                store.write(partial(_put, row=row))
            bound = {"name": "t", "project_id": places[1], "scopes": ["*"]}
            token = caller.bearing((await admin.post("/api-tokens", bound)).body["token"])

            status, metrics = [(await token.get(f"/agents/{agent}/{what}")).body for what in ("status", "metrics")]
            of_key, of_key_in_all = [(await who.get(f"/providers/{key}")).body["usage"] for who in (token, admin)]

    assert status["requests"] == {"total": 1, "today": 1, "last_hour": 1}
    assert (metrics["requests"]["total"], metrics["cost_usd"]) == (1, Decimal("0.000007"))
    assert (of_key["total_requests"], of_key["requests_today"], of_key["total_spend"]) == (1, 1, Decimal("0.000007"))
    assert of_key["spend_today"] == Decimal("0.000007")
    assert of_key_in_all["total_requests"] == 2


@pytest.mark.parametrize("what", ["status", "metrics"])
def test_only_those_who_may_see_the_agent_see_how_it_stands(world: Stage, agent: TestAgent, what: str) -> None:
    """Unknown and deleted ones are not there, another's is refused."""
    dead = world.agent()
    world.send("DELETE", f"/agents/{dead.id}", user="admin")

    told = [
        world.get(f"/agents/{agent_id}/{what}", user=user).code
        for agent_id, user in (("abc", "ann"), ("agent_" + "0" * 32, "ann"), (dead.id, "admin"), (agent.id, "vera"))
    ]

    assert told == ["AGENT_NOT_FOUND"] * 3 + ["FORBIDDEN"]
    assert show(world, agent, what, "admin").status == 200


@pytest.mark.anyio
async def test_made_up_ids_share_one_limit() -> None:
    """Each agent of one's own has its own; ids of nothing, or of others' agents, count together."""
    with SqliteStore(":memory:") as store:
        async with serving(store, LIMITED) as caller:
            admin, ann = await caller.login("admin"), await caller.login("ann")
            ann_id = (await ann.get("/users/me")).body["id"]
            body = {"name": "a", "budget": 1}
            mine = [(await admin.post("/agents", {**body, "owner_id": ann_id})).body["id"] for _ in range(2)]
            others = (await admin.post("/agents", body)).body["id"]
            ghosts = [f"agent_{place:032x}" for place in range(10)] + ["x" * 1000] * 9 + [others]

            made_up = [await ann.get(f"/agents/{ghost}/status") for ghost in [*ghosts, others, "agent_y"]]
            own = [await ann.get(f"/agents/{mine[0]}/status") for _ in range(21)]
            second = await ann.get(f"/agents/{mine[1]}/status")
            stop = await ann.post(f"/agents/{mine[0]}/stop")
            metrics = await ann.get(f"/agents/{mine[0]}/metrics")

    assert [each.status for each in made_up] == [404] * 19 + [403] + [429] * 2
    assert [each.status for each in own] == [200] * 20 + [429]
    assert [second.status, stop.status, metrics.status] == [200, 429, 200]
