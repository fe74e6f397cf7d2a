"""An inspection: a look at a database file that changes nothing, neither its schema nor what lies beside it.

A file without a log is read as one that nobody changes, so that no log and no index of one is made. Where there is a
log it is read with it, as by any reader; its index beside it is made again if that is missing, and holds no data.
"""

import fcntl
import sqlite3
import struct
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from ironcage_core.ports.storage import UseCase
from ironcage_storage.sqlite.connection import BUSY_TIMEOUT_MS, check_is_ours, complaints_of, translated
from ironcage_storage.sqlite.files import INDEX_LOCK, beside
from ironcage_storage.sqlite.schema import Standing, standing
from ironcage_storage.sqlite.shape import Deviation, deviations
from ironcage_storage.sqlite.unit_of_work import SqliteUnitOfWork
from ironcage_storage.system import SystemClock, TimeOrderedIds

T = TypeVar("T")

_LOCK: Final = "hhqqi0q"


class Inspection:
    """Use it as a context manager.

    Args:
        database: A file that is there.

    Raises:
        DatabaseDamagedError: It is damaged, or it is somebody else's.
        StorageError: It cannot be read.
    """

    def __init__(self, database: Path) -> None:
        has_log = any(beside(database, suffix).exists() for suffix in ("-wal", "-journal"))
        how = "mode=ro" if has_log else "immutable=1"
        try:
            uri = f"{database.absolute().as_uri()}?{how}"
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise translated(error) from error
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            self._connection.execute("PRAGMA query_only = ON")
            self._connection.execute("PRAGMA trusted_schema = OFF")
            check_is_ours(self._connection, must_exist=True)
        except BaseException as error:
            self._connection.close()
            if isinstance(error, sqlite3.Error):
                raise translated(error) from error
            raise

    def standing(self) -> Standing:
        """Tell which migrations the file has had and which it lacks.

        Raises:
            DatabaseNewerError: A newer version of ironcage has written it.
            IroncageError: It cannot be read.
        """
        try:
            return standing(self._connection)
        except sqlite3.Error as error:
            raise translated(error) from error

    def deviations(self) -> list[Deviation]:
        """Return what differs from a new database, for a file that has had every migration.

        Raises:
            IroncageError: It cannot be read.
        """
        try:
            return list(deviations(self._connection))
        except sqlite3.Error as error:
            raise translated(error) from error

    def complaints(self) -> list[str]:
        """Let SQLite check every page, index and reference; return what it complains of.

        Raises:
            IroncageError: The file cannot be read.
        """
        try:
            return list(complaints_of(self._connection))
        except sqlite3.Error as error:
            raise translated(error) from error

    def read(self, use_case: UseCase[T]) -> T:
        """Run a use case that only reads.

        Raises:
            IroncageError: The file cannot be read, or its schema is too old for that.
        """
        uow = SqliteUnitOfWork(self._connection, SystemClock(), TimeOrderedIds(), writable=False)
        try:
            uow.begin()
            return use_case(uow)
        except sqlite3.Error as error:
            raise translated(error) from error

    def interrupt(self) -> None:
        """Give up the statement that runs now; what it belongs to fails."""
        self._connection.interrupt()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


def opened_by(database: Path) -> int | None:
    """Return the id of another process that has the database open, 0 for one that is not visible from here.

    None where there is none, or where this system cannot tell. Not for a process that has it open itself: closing the
    file that is looked at gives up every lock on it.
    """
    if not sys.platform.startswith("linux"):
        return None
    question = struct.pack(_LOCK, fcntl.F_WRLCK, 0, *INDEX_LOCK, 0)
    try:
        with beside(database, "-shm").open("rb") as index:
            kind, *_, holder = struct.unpack(_LOCK, fcntl.fcntl(index, fcntl.F_GETLK, question))
    except OSError:
        return None
    return None if kind == fcntl.F_UNLCK else int(holder)
