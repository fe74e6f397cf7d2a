"""Backups: a whole database copied as it was at one moment, and put over another one that nobody has open.

What is copied is read within one transaction, so that a busy server changes nothing of it and cannot make the copying
start over. What is written over an existing file is one transaction too: whatever stops it leaves the old content.
"""

import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from ironcage_core.errors.faults import DatabaseDamagedError, StorageError
from ironcage_core.errors.tree import IroncageError, StartupError
from ironcage_storage.sqlite.connection import (
    BUSY_TIMEOUT_MS,
    check_is_ours,
    complaints_of,
    is_busy,
    is_damaged,
    primary_code,
    translated,
)
from ironcage_storage.sqlite.files import DATABASE_LOCK, INDEX_LOCK, beside, companions
from ironcage_storage.sqlite.schema import standing

Advance = Callable[[int, int], None]
"""Is told how many pages are copied, and of how many."""

STEP_PAGES: Final = 1000
"""Copied between two looks at whether to stop: some milliseconds."""
_NO_ROOM: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


class DatabaseInUseError(StartupError):
    """Another process has the database open."""

    code = "DATABASE_IN_USE"

    def __init__(self, database: Path) -> None:
        super().__init__(f"A process has {database} open: stop the server and whatever else works on it first")


class StrangeCompanionError(StartupError):
    """Beside the database lies what SQLite would read as its log, and somebody else may have put it there."""

    code = "STRANGE_COMPANION"


class CopyError(StartupError):
    """What was copied cannot be written."""

    code = "COPY_FAILED"


class UnreadableError(DatabaseDamagedError):
    """The file is damaged so much that SQLite does not open it."""


# --- reading -----------------------------------------------------------------


@contextmanager
def snapshot(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a database as it is at this moment; it is neither migrated nor changed.

    Raises:
        DatabaseDamagedError: It is damaged, or it is somebody else's.
        StorageError, UnavailableError: It cannot be read now.
    """
    with _connected(database) as connection:
        for pragma in (f"busy_timeout = {BUSY_TIMEOUT_MS}", "query_only = ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        try:
            check_is_ours(connection, must_exist=True)  # the first read: from here on it stands still
        except DatabaseDamagedError:
            raise DatabaseDamagedError(f"{database} is not an ironcage database") from None
        yield connection


def check(connection: sqlite3.Connection) -> None:
    """Let SQLite look at every page, index and reference; whether the books add up is not asked.

    Raises:
        DatabaseNewerError: A newer version of ironcage has written the database.
        DatabaseDamagedError: It complains of something.
    """
    standing(connection)
    connection.execute("PRAGMA ignore_check_constraints = ON")  # numbers that cannot be are for verify and repair
    for complaint in complaints_of(connection):
        raise DatabaseDamagedError(f"The database is damaged: {complaint}")


@contextmanager
def _connected(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a file that is there, and tell what SQLite says of it as errors of ours."""
    _check_companions(database)
    try:
        address = f"{database.absolute().as_uri()}?mode=rw"  # falls back to reading what must not be written
        with closing(
            sqlite3.connect(address, uri=True, isolation_level=None, timeout=0, check_same_thread=False)
        ) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection
    except sqlite3.Error as error:
        raise _told(error, database) from error


def _check_companions(database: Path) -> None:
    """Refuse a log that others may have put beside a file: SQLite would read it in the place of what the file says.

    Raises:
        StrangeCompanionError: There is one.
    """
    place = database.resolve()
    try:
        owners = {place.stat().st_uid, os.geteuid()}
        for each in filter(os.path.lexists, companions(place)):
            found = each.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_uid not in owners:
                raise StrangeCompanionError(f"{each} is not of {database}, but somebody else's or a link: take it away")
    except FileNotFoundError:
        return  # gone by now, or SQLite says better what is not there


def _told(error: sqlite3.Error, database: Path) -> IroncageError:
    if is_busy(error):
        return translated(error)
    if is_damaged(error):
        return DatabaseDamagedError(f"{database} is damaged or is no SQLite database")
    return StorageError(f"{database} cannot be read: {error}")


# --- copying -----------------------------------------------------------------


def copy(source: sqlite3.Connection, draft: Path, advance: Advance) -> None:
    """Copy a database to a file that nobody knows yet; it is one file, without a log, and on disk.

    Args:
        source: In a transaction that reads, or held.
        draft: An empty file; worthless if this fails.
        advance: Is told how far it has come, and may raise to end it.

    Raises:
        CopyError: It cannot be written.
    """
    with _writing(), closing(sqlite3.connect(draft, isolation_level=None)) as target:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = OFF", "synchronous = OFF"):
            target.execute(f"PRAGMA {pragma}")
        _copy_pages(source, target, advance)
        target.execute("PRAGMA journal_mode = DELETE")  # page 1 was copied too, and says WAL
    handle = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def overwrite(source: sqlite3.Connection, target: sqlite3.Connection, advance: Advance) -> None:
    """Put a database over one that is held, all or nothing.

    Raises:
        CopyError: It cannot be written; the old content is there.
    """
    with _writing():
        target.execute("PRAGMA synchronous = FULL")
        try:
            _copy_pages(source, target, advance)
        except BaseException:
            check_is_ours(target)  # reading undoes at once what the next one to open it would have to
            raise


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        hint = "; is there room on the disk?" if primary_code(error) in _NO_ROOM else ""
        raise CopyError(f"The copy cannot be written: {error}{hint}") from error


def _copy_pages(source: sqlite3.Connection, target: sqlite3.Connection, advance: Advance) -> None:
    def step(_: int, remaining: int, total: int) -> None:
        advance(total - remaining, total)

    source.backup(target, pages=STEP_PAGES, progress=step)


# --- files that nobody else may have open ------------------------------------


@contextmanager
def held(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a database so that no other process can, until the end; its log is emptied into it.

    Raises:
        DatabaseInUseError: Another process has it open.
        UnreadableError: SQLite cannot open it.
        DatabaseDamagedError: It is somebody else's.
    """
    with _connected(database) as connection:
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            check_is_ours(connection)
            connection.execute("PRAGMA journal_mode = DELETE")  # fails while a server has it open, even if idle
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")  # in this mode the lock stays
        except sqlite3.Error as error:
            raise _refusal(error, database) from error
        except DatabaseDamagedError:
            raise DatabaseDamagedError(f"{database} is not an ironcage database: move it away yourself") from None
        yield connection


def _refusal(error: sqlite3.Error, database: Path) -> IroncageError:
    if is_busy(error):
        return DatabaseInUseError(database)
    if is_damaged(error):
        return UnreadableError(f"{database} is damaged or is no SQLite database")
    return StorageError(f"{database} cannot be written: {error}")


@contextmanager
def locked_out(database: Path) -> Iterator[None]:
    """Hold the locks that SQLite would ask for, of a database that is gone or that it cannot open.

    This process must have no connection to it: closing a file gives up every lock on it that the process has.

    Raises:
        DatabaseInUseError: Another process has the file open, or its log.
    """
    with ExitStack() as stack:
        for path, (start, length) in ((database, DATABASE_LOCK), (beside(database, "-shm"), INDEX_LOCK)):
            try:
                file = stack.enter_context(path.open("r+b"))
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
            except FileNotFoundError:
                continue
            except BlockingIOError as error:
                raise DatabaseInUseError(database) from error
        yield
