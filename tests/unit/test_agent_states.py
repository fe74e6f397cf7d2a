"""The runtime's states: what moves them, against the contract read a second time, and what is remembered of it."""

from contextlib import closing
from functools import partial
from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironcage_core.domain.agents import Agent, RuntimeEvent, RuntimeStatus, TelemetryEvent
from ironcage_core.domain.audit import Actor
from ironcage_core.domain.events import FeedEvent
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.runtime_states import note_runtime_event, note_telemetry
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, balance_row, putting, user_row
from tests.support.world import NOON, SetClock

STATES: tuple[RuntimeStatus, ...] = get_args(RuntimeStatus)
EVENTS: tuple[RuntimeEvent, ...] = get_args(RuntimeEvent)
SAID: tuple[TelemetryEvent, ...] = get_args(TelemetryEvent)


def expected(state: str, event: str, *, held: bool, inactive: bool) -> str:
    """Return where an event leads, as contract resources.md 1.2, 1.4 and 1.5 tell it in words."""
    if state == "failed":
        return "idle" if event == "start" else "failed"  # any event except POST start is a no-op
    if event == "agent_failed":
        return "failed"  # any but failed
    if event in {"handshake", "agent_started"}:
        return state if held or inactive else "running"
    if event == "start":
        return "running" if state == "running" else "idle"
    if state != "running" and event not in {"stop", "inactivation"}:
        return state  # what is left only happens to what runs
    return {"agent_idle": "idle", "agent_completed": "completed"}.get(event, "stopped")


class Scene:
    """One agent in a store, a second after it was last changed."""

    def __init__(self, **columns: Any) -> None:  # noqa: ANN401 - columns
        self.clock = SetClock()
        self.store = SqliteStore(":memory:", clock=self.clock)
        owner = user_row()
        self.before = agent_row(owner.id, state_changed_at=NOON, **columns)
        self.store.write(putting(owner, self.before))
        self.store.write(lambda uow: uow.balances.put(balance_row(self.before.id, spent=7)))
        self.clock.pass_s(1)

    def close(self) -> None:
        self.store.close()

    def say(self, event: TelemetryEvent, **fields: Any) -> Agent:  # noqa: ANN401 - as the use case takes them
        actor = Actor("agent", self.before.id)
        return self.store.write(partial(note_telemetry, agent=self.before, event=event, actor=actor, **fields))

    @property
    def after(self) -> Agent:
        found = self.store.read(lambda uow: uow.agents.find(self.before.id))
        assert found is not None
        return found

    @property
    def published(self) -> list[FeedEvent]:
        return list(self.store.read(lambda uow: uow.feed.after(0, 100)))

    @property
    def remembered(self) -> list[tuple[str, str | None, str]]:
        def rows(uow: UnitOfWork) -> list[tuple[str, str | None, str]]:
            return [(row.operation, row.reason, row.actor_type) for row in uow.audit.rows()]

        return self.store.read(rows)


@pytest.mark.parametrize(("state", "event"), list(product(STATES, EVENTS)))
@pytest.mark.parametrize(("held", "inactive"), list(product((0, 1), (False, True))))
def test_every_event_leads_where_the_contract_says(
    state: RuntimeStatus, event: RuntimeEvent, held: int, *, inactive: bool
) -> None:
    """From every state, with and without an operator's hold, in use and not."""
    status = "inactive" if inactive else "active"
    agent = agent_row("owner", runtime_status=state, stop_hold=held, status=status)

    assert agent.state_after(event) == expected(state, event, held=bool(held), inactive=inactive)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(STATES), st.sampled_from(SAID), st.booleans(), st.booleans())
def test_what_a_runtime_says_is_published_once_where_it_changes_something(
    state: RuntimeStatus, event: TelemetryEvent, held: bool, inactive: bool
) -> None:
    """What changes nothing leaves no trace: no event, no audit row, no later time on the agent."""
    status = "inactive" if inactive else "active"
    leads_to = expected(state, event, held=held, inactive=inactive)
    with closing(Scene(runtime_status=state, stop_hold=int(held), status=status, failure_reason="old")) as scene:
        after = scene.say(event, failure_reason="new", reason="why", current_lead=3)

        assert scene.after == after
        if leads_to == state:
            assert (after, scene.published, scene.remembered) == (scene.before, [], [])
            return
        changed: dict[str, Any] = {
            "runtime_status": leads_to,
            "updated_at": NOON + 1000,
            "state_changed_at": NOON + 1000,
        }
        failed = leads_to == "failed"
        assert after == scene.before._replace(**changed, failure_reason="new" if failed else "old")
        data = {"previous_state": state, "budget_spent_micros": 7, "reason": "why", "current_lead": 3}
        assert [(each.type, each.name, each.data) for each in scene.published] == [("STATE_UPDATE", leads_to, data)]
        assert scene.remembered == ([("AGENT_FAILED", "new", "agent")] if failed else [])


@pytest.mark.parametrize("event", EVENTS)
def test_a_no_op_by_anything_else_leaves_no_trace_either(event: RuntimeEvent) -> None:
    """An operator's, a lease's or an admin's."""
    for state in STATES:
        if expected(state, event, held=False, inactive=False) != state:
            continue
        with closing(Scene(runtime_status=state)) as scene:
            scene.store.write(partial(note_runtime_event, agent=scene.before, event=event))

            assert (scene.after, scene.published, scene.remembered) == (scene.before, [], [])


@pytest.mark.parametrize("nothing", [None, "", " \x07 "])
def test_without_a_reason_the_event_says_why(nothing: str | None) -> None:
    """And an older reason of a failure is none of this one."""
    with closing(Scene(runtime_status="running", failure_reason="old")) as scene:
        assert scene.say("agent_failed", failure_reason=nothing, reason=nothing).failure_reason is None
        assert scene.published[0].data == {
            "previous_state": "running", "budget_spent_micros": 7, "reason": "agent_failed",
        }  # fmt: skip


def test_texts_of_a_runtime_are_cut_and_cleaned() -> None:
    """They are never a reason to refuse."""
    with closing(Scene(runtime_status="running")) as scene:
        failed = scene.say("agent_failed", failure_reason="a\x00b\n\ud800" + "é" * 600, reason="\x1b" + "y" * 501)

        assert failed.failure_reason == "ab" + "é" * 498
        assert scene.published[0].data["reason"] == "y" * 500
