"""Reads, nesting and the end of a store."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable

import pytest

from ironcage_core.domain.ledger import Entry
from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.lists import EntryFilter, Page, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_limits import LimitFields, create_limit
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import key_row, put_agent, putting, tell, told
from tests.support.stores import RefusedError, finished, raising
from tests.support.world import ADMIN, NOON, USD, World

Use = Callable[[SqliteStore], object]


def test_a_read_that_turns_out_to_write_is_run_as_a_write(store: SqliteStore) -> None:
    """What it wrote is kept, once."""
    assert store.read(lambda uow: (told(uow), tell(uow, "written"))) == ([], "written")
    assert store.read(told) == ["written"]


def test_a_read_that_writes_at_once_is_run_as_a_write(store: SqliteStore) -> None:
    """Statements that bypass the buffers count as writing too."""
    key = key_row()
    store.write(putting(key))
    agent = store.write(put_agent)
    store.read(lambda uow: uow.provider_keys.assign(agent.id, [key.id]))

    assert store.read(lambda uow: uow.provider_keys.assigned_to(agent.id)) == [key]


def test_a_read_that_writes_and_raises_leaves_nothing(store: SqliteStore) -> None:
    """It is a unit of work like any other."""
    with pytest.raises(RefusedError):
        store.read(raising(lambda uow: tell(uow, "lost")))

    assert store.read(told) == []


def test_a_read_raises_what_its_use_case_raises(store: SqliteStore) -> None:
    """And the store reads on, more often than it has readers."""
    for _ in range(10):
        with pytest.raises(RefusedError):
            store.read(raising(told))

    assert store.read(told) == []


def test_a_read_sees_what_was_answered_before_it(store: SqliteStore) -> None:
    """A write that was answered is seen by every later read, also by a reader that has read the row before."""
    for number in range(10):
        store.write(lambda uow, name=str(number): tell(uow, name))  # type: ignore[misc]  # bound now
        assert len(store.read(told)) == number + 1


def test_a_read_sees_one_snapshot(store: SqliteStore) -> None:
    """What others write while a read runs is not there for it, from its first look to its last."""
    writing = threading.Thread(target=lambda: store.write(lambda uow: tell(uow, "late")), daemon=True)

    def look_twice(uow: UnitOfWork) -> tuple[list[str | None], list[str | None]]:
        before = told(uow)
        writing.start()
        writing.join(0.3)  # a file lets the writer finish, memory makes it wait
        return before, told(uow)

    assert store.read(look_twice) == ([], [])
    writing.join()
    assert store.read(told) == ["late"]


def test_reads_and_writes_of_many_threads_are_all_answered(world: World) -> None:
    """Nobody is lost or served twice, and the books hold."""
    agents = [world.agent() for _ in range(4)]
    leases = [agent.handshake().lease for agent in agents]

    def work(number: int) -> None:
        for call in range(10):
            agents[number].report(leases[number].id, f"call {call}", 1000)
            assert agents[number].lease(leases[number].id).spent == (call + 1) * 1000

    outcomes = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in outcomes:
        thread.start()
    for thread in outcomes:
        thread.join()

    assert [agent.balance().spent for agent in agents] == [10_000] * 4
    assert world.verify().holds


def test_async_callers_get_what_their_use_case_returns_or_raises(store: SqliteStore) -> None:
    """Each caller of an event loop gets its own answer or error."""

    async def run() -> list[object]:
        calls = [store.write_async(lambda uow: tell(uow, "a")), store.write_async(raising(told))]
        return list(await asyncio.gather(*calls, store.write_async(told), return_exceptions=True))

    answer, error, names = asyncio.run(run())

    assert (answer, type(error), names) == ("a", RefusedError, ["a"])


def nested_in_a_write(store: SqliteStore) -> object:
    return store.write(lambda _: store.write(told))


def nested_in_a_transaction(store: SqliteStore) -> object:
    with store.transaction():
        return store.write(told)


def transaction_in_a_write(store: SqliteStore) -> None:
    def nest(_: UnitOfWork) -> None:
        with store.transaction():
            pass

    store.write(nest)


def transaction_in_a_transaction(store: SqliteStore) -> None:
    with store.transaction(), store.transaction():
        pass


def read_that_writes_in_a_transaction(store: SqliteStore) -> object:
    with store.transaction():
        return store.read(lambda uow: tell(uow, "nested"))


def read_that_writes_in_a_write(store: SqliteStore) -> object:
    return store.write(lambda _: store.read(lambda uow: tell(uow, "nested")))


@pytest.mark.parametrize(
    "use",
    [
        nested_in_a_write,
        nested_in_a_transaction,
        transaction_in_a_write,
        transaction_in_a_transaction,
        read_that_writes_in_a_transaction,
        read_that_writes_in_a_write,
    ],
)
def test_a_write_inside_a_unit_of_work_is_an_error_and_no_deadlock(store: SqliteStore, use: Use) -> None:
    """A unit that starts another would wait for itself; it is told so, leaves nothing, and the store goes on."""
    outcome = finished(lambda: use(store))

    assert isinstance(outcome.exception(), RuntimeError)
    assert store.write(told) == []


def in_a_transaction(store: SqliteStore) -> object:
    with store.transaction() as uow:
        return told(uow)


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.write(told),
        lambda store: asyncio.run(store.write_async(told)),
        lambda store: store.read(told),
        lambda store: store.read(lambda uow: tell(uow, "late")),
        in_a_transaction,
        lambda store: store.check_file(),
    ],
    ids=["write", "write_async", "read", "read that writes", "transaction", "check_file"],
)
def test_a_closed_store_refuses(store: SqliteStore, use: Use) -> None:
    """Every way in says that the store is closed, and closing it again is fine."""
    store.close()
    store.close()

    with pytest.raises(UnavailableError) as refused:
        use(store)

    assert refused.value.details["retry_after_s"] == 1


def test_closing_waits_for_a_transaction_of_another_thread(store: SqliteStore) -> None:
    """A block that is open when the store closes is kept or refused, never torn."""
    opened, closing = threading.Event(), threading.Event()

    def block() -> str:
        with store.transaction() as uow:
            opened.set()
            closing.wait(10)
            threading.Event().wait(0.1)
            return tell(uow, "kept")

    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(finished(block)))
    thread.start()
    opened.wait(10)
    end = threading.Thread(target=store.close)
    end.start()
    closing.set()
    thread.join()
    end.join()

    assert [getattr(future, "exception")() for future in outcome] == [None]  # noqa: B009 - of an object


def test_a_store_is_closed_by_its_with_block() -> None:
    """Leaving the block closes the store."""
    with SqliteStore(":memory:") as store:
        assert store.write(told) == []

    with pytest.raises(UnavailableError):
        store.write(told)


def test_a_use_case_of_the_core_runs_in_a_transaction(world: World) -> None:
    """`transaction` gives the same unit of work that use cases get."""
    agent = world.agent()
    with world.store.transaction() as uow:
        fields: LimitFields = {"user_id": world.owner_id, "max_cost_per_month": 5 * USD}
        limit = create_limit(uow, fields, actor=ADMIN).limit
        page: Page[Entry] = uow.ledger.page(EntryFilter(agent_id=agent.id), Paging())

    assert (limit.max_cost_per_month, page.total, page.rows[0].posted_at) == (5 * USD, 1, NOON)
    assert world.store.read(lambda uow: uow.limits.find_of(world.owner_id)) == limit


def test_an_error_of_the_database_is_translated(store: SqliteStore) -> None:
    """No caller ever sees an error of sqlite3 itself."""
    with pytest.raises(Exception) as failed:  # noqa: PT011 - whatever it is, it must be ours
        store.read(lambda uow: uow.agents.find(object()))  # type: ignore[arg-type]  # on purpose

    assert not isinstance(failed.value, sqlite3.Error)
