"""Hands inside a store: raw SQL, units that share a commit, calls that must not hang."""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, TypeVar

from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.queue import Job
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.sqlite.writer import Outcome
from tests.support.rows import tell

T = TypeVar("T")
UseCase = Callable[[UnitOfWork], Any]

PATIENCE_S = 10.0
"""How long a call may take before it counts as hanging."""


class RefusedError(Exception):
    """What a test's use case raises."""


def raising(use_case: UseCase) -> UseCase:
    """Return a use case that does its work and then raises."""

    def run(uow: UnitOfWork) -> None:
        use_case(uow)
        raise RefusedError

    return run


def raw(store: SqliteStore, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Run one statement on the writer's connection, outside every unit of work."""
    with store._writer.turn():
        return store._connection.execute(sql, parameters).fetchall()


def in_one_commit(store: SqliteStore, *use_cases: UseCase) -> list[Outcome]:
    """Run use cases as one batch, in the calling thread."""
    return store._writer.run(use_cases)


def submit(store: SqliteStore, use_case: UseCase) -> Future[Any]:
    """Queue a use case without waiting for it."""
    future: Future[Any] = Future()
    assert store._queue is not None
    store._queue.submit(Job(use_case, future))
    return future


class Plug:
    """A unit of work that keeps the writer busy until it is pulled: what is queued meanwhile shares the next batch."""

    def __init__(self, store: SqliteStore) -> None:
        self._started, self._pulled = threading.Event(), threading.Event()
        self._future = submit(store, self._run)
        assert self._started.wait(PATIENCE_S)

    def _run(self, _: UnitOfWork) -> None:
        self._started.set()
        self._pulled.wait(PATIENCE_S)

    def pull(self) -> None:
        """Let the writer go on."""
        self._pulled.set()
        self._future.exception(PATIENCE_S)


def queued_together(store: SqliteStore, *use_cases: UseCase) -> list[Future[Any]]:
    """Queue use cases so that they share a batch, and return their finished futures."""
    plug = Plug(store)
    futures = [submit(store, use_case) for use_case in use_cases]
    plug.pull()
    assert not wait(futures, PATIENCE_S).not_done
    return futures


def finished(call: Callable[[], T]) -> Future[T]:
    """Run a call that might hang in a thread of its own and return what became of it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed on
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert future.done(), "the call hangs"
    return future


def close_or_abandon(store: SqliteStore) -> None:
    """Close the store; one that hangs must not hang the tests."""
    closing = threading.Thread(target=store.close, daemon=True)
    closing.start()
    closing.join(PATIENCE_S)


class FaultyConnection:
    """A connection whose statements may be made to fail, as a broken disk makes them.

    Args:
        connection: The real one.
        fault: Gets the SQL and returns the error to raise before the statement runs, or None.
    """

    def __init__(self, connection: sqlite3.Connection, fault: Callable[[str], sqlite3.Error | None]) -> None:
        self._connection = connection
        self._fault = fault

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        error = self._fault(sql)
        if error is not None:
            raise error
        return self._connection.execute(sql, parameters)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real one has
        return getattr(self._connection, name)


def break_commit(store: SqliteStore, *, skip: int = 0) -> Callable[[], None]:
    """Make COMMITs of the writer fail after `skip` good ones; returns how to mend it."""
    seen = 0

    def fault(sql: str) -> sqlite3.Error | None:
        nonlocal seen
        if sql != "COMMIT":
            return None
        seen += 1
        return sqlite3.OperationalError("disk I/O error") if seen > skip else None

    writer = store._writer
    real = writer._connection
    writer._connection = FaultyConnection(real, fault)  # type: ignore[assignment]  # it stands in
    return partial(setattr, writer, "_connection", real)


def telling(name: str) -> UseCase:
    return lambda uow: tell(uow, name)


def answers(futures: list[Future[Any]]) -> list[object]:
    """Return what each caller got: its answer or the type of its error."""
    return [type(future.exception()) if future.exception() else future.result() for future in futures]
