"""What becomes of an agent by what its runtime tells, and how long that is remembered."""

from functools import partial
from typing import Any

import pytest

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.call_events import CallEvent
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR
from ironcage_core.domain.telemetry import RuntimeNote
from ironcage_core.errors.access import RateLimitExceededError
from ironcage_core.errors.tree import RefusalError
from ironcage_core.services.ingestion import Admit, Ingested
from ironcage_core.services.telemetry import Item, purge_telemetry, take_telemetry
from tests.support.world import NOON, TestAgent, World

PII: dict[str, Any] = {"pii_type": "email", "direction": "output", "action": "blocked"}


def note(event_id: str, kind: str, *, at: int = NOON, **data: Any) -> RuntimeNote:  # noqa: ANN401 - fields of a body
    """Return an event of a runtime."""
    return RuntimeNote(event_id, kind, at, data)


def tell(agent: TestAgent, *items: Item, admit: Admit = lambda _: None, **options: Any) -> list[Ingested]:  # noqa: ANN401 - as `take_telemetry` takes them
    """Tell what happened, as the agent."""
    return agent.call(take_telemetry, items, **{"admit": admit, "key_days": None, **options})


def stored(agent: TestAgent) -> Agent:
    """Return the agent as it is stored."""
    found = agent.world.store.read(lambda uow: uow.agents.find(agent.id))
    assert found is not None
    return found


def states(agent: TestAgent) -> list[tuple[str | None, object, object]]:
    """Return the changes of state that observers were told: the state, the one before, and why."""
    events = agent.world.store.read(lambda uow: list(uow.feed.after(0, 1000)))
    return [
        (each.name, each.data["previous_state"], each.data.get("reason"))
        for each in events
        if each.type == "STATE_UPDATE" and each.agent_id == agent.id and "previous_state" in each.data
    ]


def operations(agent: TestAgent) -> list[str]:
    """Return what the agent has left in the audit log."""
    rows = agent.world.store.read(lambda uow: list(uow.audit.rows()))
    return [row.operation for row in rows if row.actor_id == agent.id]


def test_a_runtime_moves_the_state_of_its_agent(world: World) -> None:
    """Each change is told once; what changes nothing is not told."""
    agent = world.agent()
    before = len(states(agent))

    tell(agent, note("1", "agent_started"), note("2", "agent_started"), note("3", "agent_idle", reason="waits"))
    tell(agent, note("4", "agent_completed"), note("5", "agent_started"), note("6", "agent_completed", current_lead=4))
    tell(agent, note("7", "agent_started"), note("8", "agent_stopped", reason="asked to"))

    assert states(agent)[before:] == [
        ("running", "idle", "agent_started"), ("idle", "running", "waits"), ("running", "idle", "agent_started"),
        ("completed", "running", "agent_completed"), ("running", "completed", "agent_started"),
        ("stopped", "running", "asked to"),
    ]  # fmt: skip
    assert stored(agent).stop_hold == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"error_code": "E1", "error_message": "broke"}, "broke"),
        ({"error_code": "E1"}, "E1"),
        ({"error_code": "E1", "error_message": ""}, "E1"),
        ({"error_code": "E1", "error_message": 5}, "E1"),
        ({}, None),
    ],
)
def test_a_failed_runtime_stays_failed_until_somebody_starts_it(
    world: World, data: dict[str, Any], reason: str | None
) -> None:
    """With the message of its error, else its code; later failures and starts of the runtime change nothing."""
    agent = world.agent()

    tell(agent, note("1", "agent_failed", **data))
    tell(agent, note("2", "agent_failed", error_message="again"), note("3", "agent_started"), note("4", "agent_idle"))

    assert (stored(agent).runtime_status, stored(agent).failure_reason) == ("failed", reason)
    assert operations(agent) == ["AGENT_FAILED"]


def test_what_is_found_of_people_is_counted_and_audited(world: World) -> None:
    """One if no number is said; the row says what, not which."""
    agent = world.agent()

    tell(agent, note("1", "pii_detected", **PII), note("2", "pii_detected", **PII, count=3, match="joe@example.com"))

    rows = world.store.read(lambda uow: [row for row in uow.audit.rows() if row.operation == "PII_DETECTED"])
    assert stored(agent).pii_detections == 4
    assert [(row.category, row.chain, row.resource_id) for row in rows] == [("safety", "year", agent.id)] * 2
    assert "joe" not in repr(rows)


def test_totals_that_a_router_tells_are_no_spending(world: World) -> None:
    """Nor does a threshold that it has seen move anything."""
    agent = world.agent()
    before = (agent.balance(), stored(agent), operations(agent))
    threshold = {"threshold_percent": 100, "current_spend_micros": 10**9, "budget_micros": 10}

    results = tell(
        agent, note("1", "router_stopped", total_requests=9, total_cost_micros=10**9),
        note("2", "budget_threshold_reached", **threshold),
    )  # fmt: skip

    feed = world.store.read(lambda uow: [each for each in uow.feed.after(0, 1000) if each.agent_id == agent.id])
    assert [each.status for each in results] == ["accepted", "accepted"]
    assert (agent.balance(), stored(agent), operations(agent)) == before
    assert [each.name for each in feed if each.type == "AGENT_EVENT"] == ["router_stopped"]
    assert [each for each in feed if each.type == "COST_ALERT"] == []


def test_a_limit_is_asked_of_each_sound_event_and_is_told_whether_it_is_known(world: World) -> None:
    """What it refuses leaves nothing; positions go on where the caller says."""
    agent = world.agent()
    asked: list[bool] = []
    too_many = RateLimitExceededError("too many")

    def admit(is_duplicate: bool) -> RefusalError | None:
        asked.append(is_duplicate)
        return too_many if len(asked) == 3 else None

    items: list[Item] = [note("1", "agent_idle"), note("2", "x"), note("1", "agent_idle"),
                         note("3", "router_started", port=1), call("4"), call("1")]  # fmt: skip
    results = tell(agent, *items, admit=admit, first=200)

    assert asked == [False, True, False, False, True]
    assert [each.position for each in results] == list(range(200, 206))
    assert [each.status for each in results] == [
        "accepted", "rejected", "duplicate", "rejected", "accepted", "duplicate",
    ]  # fmt: skip
    assert results[3].refusal is too_many
    assert world.store.read(lambda uow: uow.telemetry.find(agent.id, "3")) is None


def call(event_id: str) -> CallEvent:
    """Return an event of an ordinary call."""
    return CallEvent(event_id, "llm_request_completed", "gpt-test", "openai", NOON, 1, 1, 5)


def test_an_event_to_come_counts_as_now(world: World) -> None:
    """A clock may be five minutes fast."""
    agent = world.agent()

    tell(agent, note("1", "agent_idle", at=NOON + 300_000), note("2", "agent_idle", at=NOON + 300_001))

    found = world.store.read(lambda uow: [uow.telemetry.find(agent.id, each) for each in "12"])
    assert [(each.at, each.received_at) for each in found if each] == [(NOON + 300_000, NOON), (NOON, NOON)]


def test_an_event_older_than_what_is_remembered_is_refused(world: World) -> None:
    """Nobody could tell whether it was counted before; where keys are kept for ever, it is taken in."""
    agent = world.agent()
    edge = NOON - 30 * MS_PER_DAY

    old, on_the_edge = tell(agent, note("1", "agent_idle", at=edge - 1), note("2", "agent_idle", at=edge), key_days=30)
    (kept,) = tell(agent, note("1", "agent_idle", at=edge - 1))

    assert (old.status, old.refusal and old.refusal.code) == ("rejected", "EVENT_TOO_OLD")
    assert (on_the_edge.status, kept.status) == ("accepted", "accepted")


def test_what_was_told_is_kept_as_long_as_was_said(world: World) -> None:
    """What concerns safety for longer; the key of an event is known as long as such an event is taken in."""
    agent = world.agent()
    tell(agent, note("plain", "agent_idle"), note("safe", "pii_detected", **PII))
    purge = partial(purge_telemetry, record_days=90, safety_days=365, key_days=400, limit=100)
    seen = {}

    for days in (90, 91, 365, 366, 400, 401):
        world.clock.instant = NOON + days * MS_PER_DAY - MS_PER_HOUR
        world.store.write(purge)
        found = world.store.read(lambda uow: [uow.telemetry.find(agent.id, each) for each in ("plain", "safe")])
        seen[days] = ["gone" if each is None else each.data is not None for each in found]

    assert seen == {
        90: [True, True], 91: [False, True], 365: [False, True], 366: [False, False], 400: [False, False],
        401: ["gone", "gone"],
    }  # fmt: skip


def test_without_a_limit_keys_are_kept_for_ever(world: World) -> None:
    """A purge tells when nothing is left to do."""
    agent = world.agent()
    tell(agent, note("1", "agent_idle"), note("2", "agent_idle"))
    world.clock.instant = NOON + 5000 * MS_PER_DAY
    purge = partial(purge_telemetry, record_days=90, safety_days=365, key_days=None, limit=1)

    steps = [world.store.write(purge) for _ in range(3)]

    assert steps == [1, 1, 0]
    assert [each.status for each in tell(agent, note("1", "agent_idle"))] == ["duplicate"]
