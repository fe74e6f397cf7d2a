"""A unit of work is all or nothing, and the units of one commit follow one another."""

from collections.abc import Callable

import pytest

from ironcage_core.domain.instants import period_of
from ironcage_core.ports.lists import EntryFilter, LeaseFilter, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import (
    HOUR,
    agent_row,
    entry_row,
    key_row,
    lease_row,
    note,
    putting,
    tell,
    told,
    user_row,
)
from tests.support.stores import RefusedError, in_one_commit, raising, raw
from tests.support.world import NOON, SetClock

MONTH = period_of(NOON)
OWNER = user_row("owner")
AGENT = agent_row(OWNER.id)
KEY = key_row("key")
LEASE = lease_row(AGENT.id)
MOVED = LEASE._replace(due_at=NOON + 5 * HOUR, spent=1)


def begin_books(uow: UnitOfWork) -> None:
    uow.users.put(OWNER)
    uow.agents.put(AGENT)
    uow.provider_keys.put(KEY)
    uow.leases.put(LEASE)


def buffer_rows(uow: UnitOfWork) -> None:
    uow.users.put(user_row("raised"))
    uow.agents.put(AGENT._replace(name="raised"))
    uow.audit.append(note("RAISED"))
    tell(uow, "raised")


def settle_rows(uow: UnitOfWork) -> None:
    buffer_rows(uow)
    told(uow)


def settle_rows_and_buffer_more(uow: UnitOfWork) -> None:
    settle_rows(uow)
    uow.users.put(user_row("raised again"))
    tell(uow, "raised again")


def change_rows_found_after_settling(uow: UnitOfWork) -> None:
    uow.leases.put(MOVED)
    uow.leases.open_of(AGENT.id)
    uow.leases.find(LEASE.id)


def write_at_once(uow: UnitOfWork) -> None:
    uow.provider_keys.assign(AGENT.id, [KEY.id])


def move_counters(uow: UnitOfWork) -> None:
    uow.banks.add("bank", "proj_master_001", MONTH, spent=3, held=4)
    uow.ledger.append(entry_row(AGENT.id))
    uow.leases.put(lease_row(AGENT.id))


def move_counters_and_settle(uow: UnitOfWork) -> None:
    move_counters(uow)
    uow.banks.all_held()
    uow.ledger.page(EntryFilter(), Paging())
    move_counters(uow)


def learn_of_a_later_due_time(uow: UnitOfWork) -> None:
    uow.leases.put(MOVED)
    for _ in range(2):  # the first look may only find out that what was known is too low
        assert not uow.leases.due_of(AGENT.id, NOON + HOUR)


def learn_that_nothing_is_due(uow: UnitOfWork) -> None:
    assert not uow.leases.due_of("agent_of_nobody", NOON)
    learn_of_a_later_due_time(uow)
    buffer_rows(uow)


RAISED = [
    buffer_rows, settle_rows, settle_rows_and_buffer_more, change_rows_found_after_settling, write_at_once,
    move_counters, move_counters_and_settle, learn_of_a_later_due_time, learn_that_nothing_is_due,
]  # fmt: skip


def everything(uow: UnitOfWork) -> list[object]:
    """Look at all that `RAISED` touches; by key first, while nothing has been settled."""
    return [
        uow.agents.find(AGENT.id),
        uow.leases.find(LEASE.id),
        [lease.id for lease in uow.leases.due_of(AGENT.id, NOON + HOUR)],
        uow.banks.spent("bank", MONTH),
        uow.banks.held("bank"),
        uow.banks.all_spent(),
        uow.banks.all_held(),
        uow.provider_keys.assigned_to(AGENT.id),
        uow.leases.page(LeaseFilter(agent_id=AGENT.id), Paging()).total,
        uow.leases.counts(),
        uow.ledger.page(EntryFilter(agent_id=AGENT.id), Paging()).total,
        uow.ledger.counts(),
        list(uow.ledger.by_agent()),
        [row.operation for row in uow.audit.rows()],
        told(uow),
    ]


@pytest.mark.parametrize("use_case", RAISED)
def test_what_a_unit_raises_away_is_gone_for_the_next_unit(
    store: SqliteStore, use_case: Callable[[UnitOfWork], None]
) -> None:
    """Neither rows nor counters nor what the store had learned outlive a unit that raises."""
    store.write(begin_books)
    before = store.write(everything)

    with pytest.raises(RefusedError):
        store.write(raising(use_case))

    assert store.write(everything) == before
    assert raw(store, "SELECT count(*) FROM users") == [(1,)]


@pytest.mark.parametrize("use_case", RAISED)
def test_what_a_unit_raises_away_is_gone_for_units_of_the_same_commit(
    store: SqliteStore, use_case: Callable[[UnitOfWork], None]
) -> None:
    """A unit between two others leaves nothing to the second and takes nothing from the first."""
    store.write(begin_books)
    before, _, after = in_one_commit(store, everything, raising(use_case), everything)
    kept, lost, kept_too = in_one_commit(
        store, lambda uow: tell(uow, "first"), raising(use_case), lambda uow: tell(uow, "second")
    )

    assert after.answer == before.answer
    assert isinstance(lost.error, RefusedError)
    assert (kept.answer, kept_too.answer, store.read(told)) == ("first", "second", ["first", "second"])
    assert raw(store, "SELECT count(*) FROM users") == [(1,)]


@pytest.mark.parametrize("use_case", RAISED)
def test_a_transaction_that_raises_leaves_nothing(store: SqliteStore, use_case: Callable[[UnitOfWork], None]) -> None:
    """The block of `transaction` is a unit of work like any other."""
    store.write(begin_books)
    before = store.write(everything)

    with pytest.raises(RefusedError), store.transaction() as uow:
        raising(use_case)(uow)

    assert store.write(everything) == before


def test_a_transaction_is_kept_when_its_block_ends(store: SqliteStore) -> None:
    """What the block wrote is there for everybody after it."""
    with store.transaction() as uow:
        begin_books(uow)
        tell(uow, "kept")

    assert store.read(lambda uow: (uow.leases.find(LEASE.id), told(uow))) == (LEASE, ["kept"])


def test_units_of_one_commit_see_each_other(store: SqliteStore) -> None:
    """A unit sees what the units before it wrote, found by key, by query and in counters."""
    store.write(begin_books)
    *_, seen = in_one_commit(store, putting(MOVED), move_counters, everything)
    later = store.write(everything)

    assert seen.answer == later
    assert later[1] == MOVED
    assert [later[at] for at in (3, 4, 8, 10)] == [3, 4, 2, 1]


def test_each_unit_of_a_commit_gets_its_own_outcome(store: SqliteStore) -> None:
    """Answers and errors come back in the order of the units."""
    outcomes = in_one_commit(
        store,
        lambda uow: tell(uow, "a"),
        raising(told),
        lambda uow: tell(uow, "c"),
        lambda uow: len(told(uow)),
    )

    assert [outcome.answer for outcome in outcomes] == ["a", None, "c", 2]
    assert [type(outcome.error) for outcome in outcomes] == [type(None), RefusedError, type(None), type(None)]


def test_a_refusal_that_is_returned_is_remembered(store: SqliteStore) -> None:
    """A unit that returns a refusal commits what it noted of it."""

    def refuse(uow: UnitOfWork) -> RefusedError:
        uow.audit.append(note("LOGIN_FAILED"))
        return RefusedError()

    refusal = store.write(refuse)

    assert isinstance(refusal, RefusedError)
    assert store.read(lambda uow: [row.operation for row in uow.audit.rows()]) == ["LOGIN_FAILED"]


def test_the_clock_is_read_once_a_unit_when_its_turn_comes(store: SqliteStore, clock: SetClock) -> None:
    """`now` stands still within a unit and moves on for the next one of the same commit."""

    def two_looks(uow: UnitOfWork) -> tuple[int, int]:
        first = uow.now
        clock.pass_s(1)
        return first, uow.now

    outcomes = in_one_commit(store, two_looks, two_looks)

    assert [outcome.answer for outcome in outcomes] == [(NOON, NOON), (NOON + 1000, NOON + 1000)]


def test_the_order_of_the_feed_is_the_order_of_commits(store: SqliteStore) -> None:
    """Numbers rise with each event, whichever units wrote them, and a unit that raised leaves no event."""
    store.write(lambda uow: (tell(uow, "1"), tell(uow, "2")))
    in_one_commit(
        store,
        lambda uow: tell(uow, "3"),
        raising(lambda uow: tell(uow, "lost")),
        lambda uow: (told(uow), tell(uow, "4")),
        lambda uow: tell(uow, "5"),
    )
    store.write(lambda uow: tell(uow, "6"))
    feed = store.read(lambda uow: uow.feed.after(0, 100))

    assert [event.name for event in feed] == list("123456")
    assert [event.seq for event in feed] == sorted({event.seq or 0 for event in feed})


def test_every_savepoint_is_released_before_the_next_unit(store: SqliteStore) -> None:
    """Units that query do not pile up savepoints for as long as the commit waits."""
    statements: list[str] = []
    store._connection.set_trace_callback(statements.append)
    in_one_commit(store, *[lambda uow: (tell(uow, "a"), told(uow))] * 3, raising(settle_rows))
    store._connection.set_trace_callback(None)
    depth = [s.startswith("SAVEPOINT") - s.startswith("RELEASE") for s in statements]

    assert (sum(depth), depth.count(1)) == (0, 4)
    assert max(sum(depth[:end]) for end in range(len(depth))) == 1
