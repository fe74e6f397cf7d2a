"""Every storage keeps what runtimes tell once, and lets go first of what was said, then of the key."""

from functools import partial

import pytest

from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.telemetry import KeptTelemetry
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, put_agent
from tests.support.stores import RefusedError, UseCase, in_one_commit, raising
from tests.support.world import NOON

AGENT = "agent_" + "a" * 32
OTHER = "agent_" + "b" * 32


def row(event_id: str, *, agent_id: str = AGENT, at: int = NOON, is_safety: int = 0) -> KeptTelemetry:
    """Return an event with everything in it."""
    return KeptTelemetry(agent_id, event_id, "router_started", at, at + 5, is_safety, "pod-1", "0.3", '{"port": 1}')


def putting(*rows: KeptTelemetry) -> UseCase:
    def run(uow: UnitOfWork) -> None:
        for each in rows:
            uow.telemetry.put(each)

    return run


def data_of(store: SqliteStore, *event_ids: str) -> list[str | None]:
    """Return what is kept of each event: its data, nothing of it, or no key."""
    found = store.read(lambda uow: [uow.telemetry.find(AGENT, each) for each in event_ids])
    return ["no key" if each is None else each.data for each in found]


def put_agent_of_id(uow: UnitOfWork, agent_id: str) -> None:
    """Store an agent with this id."""
    uow.agents.put(agent_row(put_agent(uow).owner_id, id=agent_id))


@pytest.fixture
def filled(store: SqliteStore) -> SqliteStore:
    """Return a store with two agents."""
    for agent_id in (AGENT, OTHER):
        store.write(partial(put_agent_of_id, agent_id=agent_id))
    return store


def test_an_event_is_found_by_its_agent_and_its_id(filled: SqliteStore) -> None:
    """Byte for byte, in the same unit of work and after the commit; another agent's is another one."""
    event = row("e")

    def put_and_look(uow: UnitOfWork) -> list[KeptTelemetry | None]:
        uow.telemetry.expect(AGENT, ["e", "x"])
        uow.telemetry.put(event)
        return [uow.telemetry.find(AGENT, "e"), uow.telemetry.find(AGENT, "x"), uow.telemetry.find(AGENT, "E")]

    found = filled.write(put_and_look)

    assert found == [event, None, None]
    assert filled.read(lambda uow: uow.telemetry.find(AGENT, "e")) == event
    assert filled.read(lambda uow: uow.telemetry.find(OTHER, "e")) is None


def test_what_a_refused_unit_of_work_put_is_not_there(filled: SqliteStore) -> None:
    """Not for the next one of the same batch either."""
    outcomes = in_one_commit(
        filled, raising(putting(row("e"))), lambda uow: uow.telemetry.find(AGENT, "e"), putting(row("f"))
    )

    assert isinstance(outcomes[0].error, RefusedError)
    assert outcomes[1].answer is None
    assert data_of(filled, "e", "f") == ["no key", '{"port": 1}']


def test_what_old_events_said_goes_in_small_steps(filled: SqliteStore) -> None:
    """The oldest first and only of the kind asked for; the keys stay, and what is from the limit on."""
    old = [row(f"o{number}", at=NOON - MS_PER_DAY + number) for number in range(3)]
    filled.write(putting(*old, row("safe", at=NOON - MS_PER_DAY, is_safety=1), row("new")))
    filled.write(putting(row("o0", agent_id=OTHER)))

    steps = [filled.write(lambda uow: uow.telemetry.purge_data(NOON, 2, is_safety=False)) for _ in range(3)]

    assert steps == [2, 1, 0]
    assert data_of(filled, "o0", "o1", "o2", "safe", "new") == [None, None, None, '{"port": 1}', '{"port": 1}']
    assert filled.read(lambda uow: uow.telemetry.find(AGENT, "o0")) == old[0]._replace(
        runtime_id=None, runtime_version=None, data=None
    )
    assert filled.write(lambda uow: uow.telemetry.purge_data(NOON, 2, is_safety=True)) == 1
    assert data_of(filled, "safe") == [None]


def test_the_first_step_takes_the_oldest(filled: SqliteStore) -> None:
    """Whatever order they came in."""
    filled.write(putting(row("b", at=NOON - 1), row("a", at=NOON - 2), row("c", at=NOON)))

    gone = filled.write(lambda uow: uow.telemetry.purge_data(NOON, 1, is_safety=False))

    assert (gone, data_of(filled, "a", "b")) == (1, [None, '{"port": 1}'])


def test_keys_go_where_they_are_not_kept_for_ever(filled: SqliteStore) -> None:
    """With or without their data, and the event is new then; a purge sees what its own unit of work has put.

    What is from the limit on stays, for it is still taken in and must be known again.
    """
    filled.write(putting(*[row(f"o{number}", at=NOON - 1) for number in range(3)], row("new")))
    filled.write(putting(row("o0", agent_id=OTHER)))

    def put_and_purge(uow: UnitOfWork) -> tuple[int, KeptTelemetry | None]:
        uow.telemetry.put(row("late", at=NOON - 2))
        return uow.telemetry.purge(NOON, 3), uow.telemetry.find(AGENT, "late")

    first = filled.write(put_and_purge)
    second = filled.write(lambda uow: uow.telemetry.purge(NOON, 3))

    assert (first, second) == ((3, None), 1)
    assert data_of(filled, "o0", "o1", "o2", "new") == [*["no key"] * 3, '{"port": 1}']
    assert filled.check_file() == []
