"""A batch whose transaction is lost: every caller is told, nothing is there, and the store goes on."""

import sqlite3
from contextlib import suppress

import pytest

from ironcage_core.errors.faults import InvariantViolationError, StorageError
from ironcage_core.errors.tree import IroncageError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import HOUR, lease_row, put, put_agent, putting, tell, told, user_row
from tests.support.stores import (
    UseCase,
    answers,
    break_commit,
    in_one_commit,
    queued_together,
    raising,
    raw,
    telling,
)
from tests.support.world import NOON


def test_a_commit_that_fails_fails_every_caller(store: SqliteStore) -> None:
    """Nobody is told of a success, nothing is there afterwards, and the next writes work."""
    user = user_row()
    mend = break_commit(store, skip=1)

    def put_and_query(uow: UnitOfWork) -> None:
        put(uow, user)
        told(uow)

    futures = queued_together(store, telling("a"), put_and_query, raising(telling("b")), telling("c"))
    mend()

    assert answers(futures) == [StorageError] * 4
    assert store.write(lambda uow: (told(uow), uow.users.find(user.id))) == ([], None)
    assert store.write(telling("d")) == "d"
    assert store.read(told) == ["d"]
    assert store.read(verify).holds


def test_what_was_learned_in_a_commit_that_failed_is_forgotten(store: SqliteStore) -> None:
    """Neither rows nor counters nor pending events of the lost batch are seen by the next unit."""
    user = user_row()
    mend = break_commit(store)

    def lose(uow: UnitOfWork) -> None:
        put(uow, user)
        uow.banks.add("bank", "proj_master_001", "2025-11", spent=1, held=1)
        tell(uow, "lost")

    (lost,) = in_one_commit(store, lose)
    mend()
    seen = store.write(lambda uow: (uow.users.find(user.id), uow.banks.held("bank"), told(uow)))

    assert isinstance(lost.error, StorageError)
    assert seen == (None, 0, [])


def test_due_times_learned_in_a_commit_that_failed_are_forgotten(store: SqliteStore) -> None:
    """A lease whose move to a later time was lost is due at its old time."""
    agent = store.write(put_agent)
    lease = lease_row(agent.id)
    store.write(putting(lease))

    def move(uow: UnitOfWork) -> None:
        put(uow, lease._replace(due_at=NOON + 5 * HOUR))
        for _ in range(2):
            assert not uow.leases.due_of(agent.id, NOON + HOUR)

    mend = break_commit(store)
    (lost,) = in_one_commit(store, move)
    mend()

    assert isinstance(lost.error, StorageError)
    assert store.write(lambda uow: uow.leases.due_of(agent.id, NOON + HOUR)) == [lease]


def test_a_transaction_block_whose_commit_fails_leaves_nothing(store: SqliteStore) -> None:
    """The block is told, and the store works on."""
    mend = break_commit(store)
    with pytest.raises(StorageError), store.transaction() as uow:
        tell(uow, "lost")
    mend()

    assert store.write(lambda uow: (told(uow), tell(uow, "kept"))) == ([], "kept")


def swallowing(use_case: UseCase) -> UseCase:
    """Return a use case that goes on as if nothing had happened."""

    def run(uow: UnitOfWork) -> str:
        with suppress(Exception):
            use_case(uow)
        return tell(uow, "careless")

    return run


def rollback_of(store: SqliteStore) -> UseCase:
    return lambda _: store._connection.execute("ROLLBACK")


@pytest.mark.parametrize("way", ["trigger", "swallowed trigger", "rollback", "rollback and raise"])
def test_a_transaction_that_ends_early_fails_every_member(store: SqliteStore, way: str) -> None:
    """Members that had already run are told so too, none is durable, and the store works on."""
    raw(store, "CREATE TRIGGER fatal BEFORE INSERT ON users BEGIN SELECT RAISE(ROLLBACK, 'over'); END")

    def meet_trigger(uow: UnitOfWork) -> None:
        uow.users.put(user_row())
        tell(uow, "never")
        told(uow)

    bad = {
        "trigger": meet_trigger,
        "swallowed trigger": swallowing(meet_trigger),
        "rollback": rollback_of(store),
        "rollback and raise": raising(rollback_of(store)),
    }[way]
    futures = queued_together(store, telling("a"), bad, lambda uow: (tell(uow, "b"), told(uow)), telling("c"))

    assert all(isinstance(future.exception(), IroncageError) for future in futures)
    assert store.write(told) == []
    assert store.write(telling("d")) == "d"
    assert store.read(told) == ["d"]


def test_a_transaction_that_ends_while_rows_are_written_is_run_again_one_by_one(store: SqliteStore) -> None:
    """A trigger that ends it at the batch's end fails only the unit whose rows it met."""
    raw(store, "CREATE TRIGGER fatal BEFORE INSERT ON users BEGIN SELECT RAISE(ROLLBACK, 'over'); END")
    futures = queued_together(store, telling("a"), lambda uow: uow.users.put(user_row()), telling("b"))

    assert answers(futures) == ["a", InvariantViolationError, "b"]
    assert store.read(told) == ["a", "b"]


def test_a_rollback_that_fails_as_well_is_translated(store: SqliteStore) -> None:
    """A disk that takes neither COMMIT nor ROLLBACK gives every caller an error of ours, not one of sqlite3."""
    real = store._writer._connection
    mend = break_commit(store)
    broken = store._writer._connection
    fault = broken._fault  # type: ignore[attr-defined]  # of the stand-in
    broken._fault = lambda sql: sqlite3.OperationalError("disk") if sql == "ROLLBACK" else fault(sql)  # type: ignore[attr-defined]
    futures = queued_together(store, telling("a"), telling("b"))
    mend()
    if real.in_transaction:
        real.execute("ROLLBACK")

    assert all(isinstance(future.exception(), IroncageError) for future in futures)
    assert store.write(telling("c")) == "c"
    assert store.read(told) == ["c"]
