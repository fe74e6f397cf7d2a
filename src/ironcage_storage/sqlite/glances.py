"""Glances: point reads at once in the caller's thread, with rows that stay in memory while nobody writes.

`PRAGMA data_version` of a connection moves with every commit of any other connection, in this process or another. It
is read inside the snapshot, so remembered rows are those of the snapshot or they are forgotten.
"""

import sqlite3
import threading
from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.storage import UseCase
from ironcage_storage.sqlite.connection import translated
from ironcage_storage.sqlite.unit_of_work import SqliteUnitOfWork

T = TypeVar("T")

REST_EVERY: Final = 1000
"""How many glances may pass until it is looked at whether too many rows are remembered."""

Reader: TypeAlias = tuple[sqlite3.Connection, SqliteUnitOfWork]


class Glances:
    """One reading connection, opened at its first use.

    Args:
        open_reader: Opens it.
    """

    def __init__(self, open_reader: Callable[[], Reader]) -> None:
        self._open_reader = open_reader
        self._reader: Reader | None = None
        self._version = -1
        self._count = 0
        self._is_closed = False
        self._turn = threading.Lock()

    def read(self, use_case: UseCase[T]) -> T:
        """Run a use case on a consistent snapshot.

        Raises:
            ReadOnlyError: It turned out to write.
            UnavailableError: The store is closed, or the database is busy.
            StorageError: The database failed.
        """
        with self._turn:
            if self._is_closed:
                raise UnavailableError("The store is closed", retry_after_s=1)
            if self._reader is None:
                self._reader = self._open_reader()
            connection, uow = self._reader
            try:
                connection.execute("BEGIN")
                try:
                    self._notice_writes(connection, uow)
                    uow.begin()
                    answer = use_case(uow)
                except BaseException:
                    uow.forget()
                    raise
                finally:
                    connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise translated(error) from error
            self._count += 1
            if self._count % REST_EVERY == 0:
                uow.rest()
            return answer

    def _notice_writes(self, connection: sqlite3.Connection, uow: SqliteUnitOfWork) -> None:
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            uow.forget()
            self._version = version

    def close(self) -> None:
        """Close the connection. Closing twice is fine."""
        with self._turn:
            self._is_closed = True
            if self._reader is not None:
                self._reader[0].close()
                self._reader = None
