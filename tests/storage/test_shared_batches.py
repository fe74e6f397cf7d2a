"""Callers that share a batch: a bad one harms nobody, and whoever gets an answer has it on disk."""

import asyncio

import pytest

from ironcage_core.errors.faults import InvariantViolationError, StorageError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import balance_row, note, put, put_agent, tell, told, user_row
from tests.support.stores import (
    Plug,
    RefusedError,
    UseCase,
    answers,
    queued_together,
    raising,
    raw,
    telling,
)


def begin_count(store: SqliteStore) -> list[str]:
    """Record the transactions the writer begins from now on."""
    statements: list[str] = []
    store._connection.set_trace_callback(lambda sql: statements.append(sql) if sql == "BEGIN IMMEDIATE" else None)
    return statements


def test_callers_that_wait_share_a_commit(store: SqliteStore) -> None:
    """What is queued while the writer is busy becomes one transaction, and each caller gets its own answer."""
    begun = begin_count(store)
    futures = queued_together(store, *[telling(str(number)) for number in range(20)])
    store._connection.set_trace_callback(None)

    assert answers(futures) == [str(number) for number in range(20)]
    assert len(begun) == 2, "one for what kept the writer busy, one for the batch"


@pytest.mark.parametrize("is_settled", [False, True])
def test_a_unit_that_raises_harms_nobody_else_in_its_batch(store: SqliteStore, is_settled: bool) -> None:
    """Its neighbours are answered and durable; of itself nothing is left."""

    def bad(uow: UnitOfWork) -> None:
        put(uow, user_row("bad"))
        tell(uow, "bad")
        if is_settled:
            told(uow)
        raise RefusedError

    futures = queued_together(store, telling("a"), bad, telling("b"), bad, telling("c"))

    assert answers(futures) == ["a", RefusedError, "b", RefusedError, "c"]
    assert store.read(told) == ["a", "b", "c"]
    assert raw(store, "SELECT count(*) FROM users") == [(0,)]


def test_a_refusal_that_must_be_remembered_commits_with_its_batch(store: SqliteStore) -> None:
    """A use case that returns its refusal keeps what it wrote, between two that raise."""

    def refuse(uow: UnitOfWork) -> RefusedError:
        uow.audit.append(note("DENIED"))
        return RefusedError()

    futures = queued_together(store, raising(telling("x")), refuse, raising(telling("y")))

    assert isinstance(futures[1].result(), RefusedError)
    assert store.read(lambda uow: [row.operation for row in uow.audit.rows()]) == ["DENIED"]


@pytest.mark.parametrize("error", [StopIteration(), KeyError("x"), GeneratorExit(), KeyboardInterrupt()])
def test_any_kind_of_error_reaches_only_its_caller(store: SqliteStore, error: BaseException) -> None:
    """Also errors that futures, generators and event loops treat in their own way."""

    def bad(_: UnitOfWork) -> None:
        raise error

    futures = queued_together(store, telling("a"), bad, telling("b"))

    assert futures[1].exception() is error
    assert (futures[0].result(), futures[2].result(), store.read(told)) == ("a", "b", ["a", "b"])


def test_any_kind_of_error_of_an_async_caller_reaches_only_its_caller(store: SqliteStore) -> None:
    """A future of an event loop takes no StopIteration; the other callers of the batch still get their answers."""

    def bad(_: UnitOfWork) -> None:
        raise StopIteration

    async def run() -> list[object]:
        asyncio.get_running_loop().set_exception_handler(lambda _, __: None)
        plug = Plug(store)
        calls = [asyncio.ensure_future(store.write_async(use_case)) for use_case in (bad, telling("a"), telling("b"))]
        await asyncio.sleep(0)
        plug.pull()
        done, waiting = await asyncio.wait(calls, timeout=2)
        for call in waiting:
            call.cancel()
        return [call.exception() or call.result() if call in done else "never answered" for call in calls]

    error, *others = asyncio.run(run())

    assert others == ["a", "b"]
    assert isinstance(error, Exception)


def duplicate_name(uow: UnitOfWork) -> None:
    """Take a name that is taken; it shows only when the rows are written."""
    uow.users.put(user_row("ann"))
    tell(uow, "duplicate")


def broken_check(uow: UnitOfWork) -> None:
    """Break a CHECK; it shows only when the rows are written."""
    uow.balances.put(balance_row(put_agent(uow).id, held=-1))
    tell(uow, "negative")


def settled_check(uow: UnitOfWork) -> None:
    """Break a CHECK and query, so that it shows at once."""
    broken_check(uow)
    uow.balances.all().__next__()


@pytest.mark.parametrize("bad", [duplicate_name, broken_check, settled_check])
@pytest.mark.parametrize("is_queried", [False, True])
def test_rows_that_cannot_be_written_fail_only_their_caller(store: SqliteStore, bad: UseCase, is_queried: bool) -> None:
    """The others are durable, each exactly once, whether the batch's end or a later unit's query finds out."""
    store.write(lambda uow: uow.users.put(user_row("ann")))

    def good(name: str) -> UseCase:
        def run(uow: UnitOfWork) -> str:
            uow.banks.add("bank", "proj_master_001", "2025-11", spent=1, held=1)
            uow.audit.append(note(name))
            if is_queried:
                told(uow)
            return tell(uow, name)

        return run

    futures = queued_together(store, good("a"), good("b"), bad, good("c"), good("d"))

    assert answers(futures) == ["a", "b", InvariantViolationError, "c", "d"]
    assert store.read(told) == list("abcd")
    assert store.read(lambda uow: (uow.banks.held("bank"), [row.operation for row in uow.audit.rows()])) == (
        4,
        list("abcd"),
    )
    assert raw(store, "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM agents)") == [(1, 0)]


def test_a_duplicate_that_came_in_behind_the_cache_fails_only_its_caller(store: SqliteStore) -> None:
    """Another process took the name after this one had looked."""
    user = user_row("ann")

    def take_if_free(uow: UnitOfWork) -> None:
        assert uow.users.find(user.id) is None
        uow.users.put(user)

    raw(store, "INSERT INTO users (id, username, email, role, status, created_at, updated_at)"
        " VALUES ('user_other', 'Ann', 'a@b', 'user', 'active', 0, 0)")  # fmt: skip
    futures = queued_together(store, telling("a"), take_if_free, telling("b"))

    assert answers(futures) == ["a", InvariantViolationError, "b"]
    assert store.read(told) == ["a", "b"]


def test_a_value_that_cannot_be_written_fails_its_caller_and_poisons_nobody(store: SqliteStore) -> None:
    """A lone surrogate or a number beyond 64 bits surfaces when rows are written; nothing of it stays in memory."""
    agent_id = store.write(put_agent).id

    def unwritable(name: str, held: int) -> UseCase:
        def run(uow: UnitOfWork) -> None:
            uow.users.put(user_row(name))
            uow.balances.put(balance_row(agent_id, held=held))
            tell(uow, "unwritable")

        return run

    futures = queued_together(store, telling("a"), unwritable("\ud800", 1), unwritable("big", 2**70), telling("b"))

    assert [isinstance(future.exception(), StorageError) for future in futures] == [False, True, True, False]
    assert "\ud800" not in repr(futures[1].exception())
    assert store.write(told) == ["a", "b"]
    assert store.write(lambda uow: uow.balances.find(agent_id)) is None
    assert store.write(telling("c")) == "c"
