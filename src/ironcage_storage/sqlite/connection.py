"""Connections: how a database file is opened, and what its errors mean to the core."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import MappingProxyType
from typing import Final

from ironcage_core.domain.histograms import step_of
from ironcage_core.errors.faults import DatabaseDamagedError, InvariantViolationError, StorageError
from ironcage_core.errors.tree import IroncageError, UnavailableError
from ironcage_core.errors.usage import QueryTimeoutError

APPLICATION_ID: Final = 0x49524F4E
"""`IRON`, in the file header: tells our files from other people's."""

MEMORY: Final = ":memory:"
BUSY_TIMEOUT_MS: Final = 5000
CHECKPOINT_PAGES: Final = 4000
"""Let the log grow to 16 MB before a commit pays for a checkpoint: hot pages are then copied back once, not often."""

_PRAGMAS: Final = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -32768",
    f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}",
    "PRAGMA trusted_schema = OFF",
)
_STEPS_BETWEEN_LOOKS: Final = 50_000
"""Of SQLite's virtual machine; some milliseconds."""

_RETRIABLE: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_MENDABLE: Final = MappingProxyType(
    {
        sqlite3.SQLITE_IOERR_WRITE: "The disk takes no more; nothing was written",  # a quota, or a bad disk
        sqlite3.SQLITE_READONLY: "The database may only be read; nothing was written",
    }
)
"""What somebody may mend while a server runs on."""


def connect(path: str, *, read_only: bool = False, must_exist: bool = False) -> sqlite3.Connection:
    """Open a database file, or `:memory:`, with every pragma and function the store relies on.

    `fold(text)` makes texts comparable in whatever case; SQLite's own `lower` knows ASCII only. `step_of(value)` is
    where a value lies in a histogram.

    Args:
        path: The file; made if it is not there, unless it must exist.
        read_only: Refuse every statement that writes.
        must_exist: Refuse a file that is not an ironcage database yet.

    Raises:
        DatabaseDamagedError: The file is damaged or no SQLite database.
        StorageError: It cannot be opened.
    """
    if path != MEMORY and not must_exist:
        _make_private(path)
    try:
        # isolation_level None: the store alone decides where transactions begin and end.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    except sqlite3.Error as error:
        raise translated(error) from error
    try:
        check_is_ours(connection, must_exist=must_exist)  # before any pragma could change somebody else's file
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        connection.create_function("fold", 1, str.casefold, deterministic=True)
        connection.create_function("step_of", 1, step_of, deterministic=True)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise translated(error) from error
        raise
    return connection


def _make_private(path: str) -> None:
    """Make a file that is not there, for its owner alone; SQLite gives its log the same mode."""
    place = os.path.realpath(path)  # SQLite follows links, and would make the file behind one for everybody
    with suppress(OSError):  # it is there, or SQLite says better why it cannot be
        os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def check_is_ours(connection: sqlite3.Connection, *, must_exist: bool = False) -> None:
    """Refuse a file that holds tables and does not carry our mark.

    Raises:
        DatabaseDamagedError: It is somebody else's.
    """
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if (tables or must_exist) and application_id != APPLICATION_ID:
        raise DatabaseDamagedError("The file is not an ironcage database")


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary result code of an error, 0 where SQLite gave none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another connection holds the lock."""
    return primary_code(error) in _RETRIABLE


def is_damaged(error: sqlite3.Error) -> bool:
    """Tell whether the file is damaged, or no database at all."""
    return primary_code(error) in _DAMAGED


def complaints_of(connection: sqlite3.Connection) -> Iterator[str]:
    """Let SQLite look at every page, index and reference, and yield what it complains of.

    Raises:
        sqlite3.Error: The file cannot be read.
    """
    for pragma in ("integrity_check", "foreign_key_check"):
        for row in connection.execute(f"PRAGMA {pragma}"):
            if row != ("ok",):
                yield " ".join(map(str, row))


def translated(error: sqlite3.Error) -> IroncageError:
    """Return what a database error means to the core; its text stays in the cause, for the log."""
    code = primary_code(error)
    if code in _RETRIABLE:
        return UnavailableError("The database is busy; try again", retry_after_s=1)
    if code == sqlite3.SQLITE_FULL:
        return UnavailableError("The disk is full; nothing was written", retry_after_s=30)
    if code == sqlite3.SQLITE_CONSTRAINT:
        return InvariantViolationError("A guard of the database refused the change")
    if is_damaged(error):
        return DatabaseDamagedError("The database file is damaged or is not an ironcage database; restore a backup")
    return StorageError("The database failed")


def unwritten(error: sqlite3.Error) -> IroncageError:
    """Return the same to who wanted to write to a database that is open: who waits may find it mended."""
    message = _MENDABLE.get(getattr(error, "sqlite_errorcode", 0)) or _MENDABLE.get(primary_code(error))
    return translated(error) if message is None else UnavailableError(message, retry_after_s=30)


@contextmanager
def time_limit(connection: sqlite3.Connection, seconds: float | None) -> Iterator[None]:
    """Give up statements of a connection that reads, once they have taken so long together.

    Raises:
        QueryTimeoutError: They were given up.
    """
    if seconds is None:
        yield
        return
    ends_at = monotonic() + seconds
    connection.set_progress_handler(lambda: monotonic() > ends_at, _STEPS_BETWEEN_LOOKS)
    try:
        yield
    except IroncageError as error:
        if monotonic() > ends_at and isinstance(error.__cause__, sqlite3.OperationalError):
            raise QueryTimeoutError("The answer takes too long; ask for less", retry_after_s=1) from error
        raise
    finally:
        connection.set_progress_handler(None, 0)
