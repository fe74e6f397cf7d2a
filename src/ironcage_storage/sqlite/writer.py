"""The writer: runs units of work in batches and makes each batch one durable commit.

A unit that raises is cut back alone. If the rows of a batch cannot be written, the batch is undone and its units run
again one by one, so that the bad one fails alone. If the transaction ends under our feet, or COMMIT fails, every
caller of the batch gets the error: whoever gets an answer has it on disk.
"""

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ironcage_core.errors.faults import StorageError
from ironcage_core.errors.tree import IroncageError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.connection import is_busy, unwritten
from ironcage_storage.sqlite.session import BrokenBatchError
from ironcage_storage.sqlite.unit_of_work import SqliteUnitOfWork

logger = logging.getLogger(__name__)

MAX_LOCK_RETRIES: Final = 5


class Outcome:
    """What became of one unit of work: its answer or its error."""

    __slots__ = ("answer", "error")

    def __init__(self, answer: object = None, error: BaseException | None = None) -> None:
        self.answer = answer
        self.error = error


class Writer:
    """Owns the one connection that writes; whoever runs units of work takes its turn.

    Args:
        connection: Opened and migrated; used by nobody else.
        uow: The unit of work over that connection.
    """

    def __init__(self, connection: sqlite3.Connection, uow: SqliteUnitOfWork) -> None:
        self._connection = connection
        self._uow = uow
        self._turn = threading.Lock()
        self._holder: int | None = None
        self._data_version = -1

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for and hold the writer's turn.

        Raises:
            RuntimeError: This thread holds it already: a write inside a unit of work would wait for itself.
        """
        self.check_not_inside()
        with self._turn:
            self._holder = threading.get_ident()
            try:
                yield
            finally:
                self._holder = None

    def check_not_inside(self) -> None:
        """Refuse a write that would wait for the unit of work it is in.

        Raises:
            RuntimeError: This thread has the turn.
        """
        if self._holder == threading.get_ident():
            raise RuntimeError("a unit of work is open in this thread; use it instead of starting another")

    def run(self, use_cases: Sequence[Callable[[UnitOfWork], Any]]) -> list[Outcome]:
        """Run use cases in order in one commit and return what became of each."""
        with self.turn():
            return self._run(use_cases)

    def _run(self, use_cases: Sequence[Callable[[UnitOfWork], Any]]) -> list[Outcome]:
        try:
            self._begin()
            outcomes = [self._run_member(use_case) for use_case in use_cases]
            self._uow.flush()
        except _TransactionLostError as lost:
            self._undo()
            return _all_failed(use_cases, lost.reason)
        except Exception as error:  # noqa: BLE001 - whatever binding a row raises, nothing of the batch may stay behind
            self._undo()
            if len(use_cases) == 1 or (isinstance(error, sqlite3.Error) and is_busy(error)):
                return _all_failed(use_cases, _unwritable(error))
            return [outcome for use_case in use_cases for outcome in self._run([use_case])]
        except BaseException:
            self._undo()
            raise
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            return _all_failed(use_cases, _translated(error))
        self._uow.rest()
        return outcomes

    def _run_member(self, use_case: Callable[[UnitOfWork], Any]) -> Outcome:
        self._uow.begin()
        try:
            answer = use_case(self._uow)
            self._check_transaction()  # whoever swallowed its end must not write outside of any
            self._uow.keep()
        except BrokenBatchError:
            raise
        except BaseException as error:
            if not self._connection.in_transaction:
                raise _TransactionLostError(_translated(error)) from error
            self._uow.drop()
            return Outcome(error=_translated(error))
        return Outcome(answer)

    @contextmanager
    def transaction(self) -> Iterator[UnitOfWork]:
        """Open a unit of work in the calling thread; commit when the block ends, undo it when it raises.

        Raises:
            UnavailableError: The database is busy or full.
            StorageError: It failed.
        """
        with self.turn():
            try:
                self._begin()
                self._uow.begin()
                yield self._uow
                self._check_transaction()
                self._uow.keep()
                self._uow.flush()
                self._connection.execute("COMMIT")
                self._uow.rest()
            except BaseException as error:
                self._undo()
                if isinstance(error, sqlite3.Error | BrokenBatchError):
                    raise _unwritable(error) from error
                raise

    def checkpoint(self) -> None:
        """Copy the log back into the database file and empty it, as far as no reader is in the way."""
        with self.turn():
            (timeout_ms,) = self._connection.execute("PRAGMA busy_timeout").fetchone()
            self._connection.execute("PRAGMA busy_timeout = 0")  # writers behind us must not wait for a reader
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {timeout_ms}")

    def _begin(self) -> None:
        """Take the write lock. BEGIN IMMEDIATE: a plain BEGIN would fail at the first write after another's commit."""
        if self._connection.in_transaction:  # an earlier ROLLBACK failed
            self._connection.execute("ROLLBACK")
        for attempt in range(MAX_LOCK_RETRIES + 1):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                if not is_busy(error) or attempt == MAX_LOCK_RETRIES:
                    raise
                time.sleep(random.uniform(0.0, 0.05) * (attempt + 1))  # noqa: S311 - jitter, no secret
            else:
                self._notice_others()
                return

    def _notice_others(self) -> None:
        """Forget what is remembered of the database if another connection has written since."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self._uow.forget()
            self._data_version = version

    def _check_transaction(self) -> None:
        if not self._connection.in_transaction:
            raise StorageError("The transaction ended early; nothing was written")

    def _undo(self) -> None:
        self._uow.forget()
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                logger.exception("a rollback failed; it is tried again before the next batch")


class _TransactionLostError(Exception):
    """SQLite ended the transaction while a unit ran: nothing of the batch was written."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__("the transaction ended early")
        self.reason = reason if isinstance(reason, IroncageError) else StorageError("The transaction ended early")


def _translated(error: BaseException) -> BaseException:
    if not isinstance(error, sqlite3.Error):
        return error
    meaning = unwritten(error)
    meaning.__cause__ = error
    return meaning


def _unwritable(error: Exception) -> BaseException:
    if isinstance(error, BrokenBatchError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, sqlite3.Error):
        return _translated(error)
    # Without the cause: an encoding error carries the text it could not encode.
    return StorageError("A value could not be written")


def _all_failed(use_cases: Sequence[object], error: BaseException) -> list[Outcome]:
    return [Outcome(error=error) for _ in use_cases]
