"""The SQLite store: where units of work come from.

A file has one writing connection behind a queue and a few reading ones beside it. `:memory:` is one connection under
a lock, because a second one would see an empty database; it runs each unit in the caller's thread.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.storage import UnitOfWork, UseCase
from ironcage_core.ports.system import Clock, Ids
from ironcage_storage.sqlite.connection import MEMORY, complaints_of, connect, time_limit, translated
from ironcage_storage.sqlite.glances import Glances, Reader
from ironcage_storage.sqlite.queue import Job, WriteQueue
from ironcage_storage.sqlite.readers import Readers
from ironcage_storage.sqlite.schema import migrate
from ironcage_storage.sqlite.session import ReadOnlyError
from ironcage_storage.sqlite.unit_of_work import SqliteUnitOfWork
from ironcage_storage.sqlite.writer import Writer
from ironcage_storage.system import SystemClock, TimeOrderedIds

T = TypeVar("T")


MAX_BATCH: Final = 256
MAX_WAITING: Final = 10_000


class SqliteStore:
    """Implements `Store`; use it as a context manager or call `close`.

    Args:
        database: A file, made if it is not there, or `:memory:`.
        clock: What time it is.
        ids: Where ids come from.
        max_batch: At most how many units of work share a commit.
        max_waiting: At how many waiting writers a further one is refused.
        must_exist: Refuse a file that is not an ironcage database yet, instead of making it one.

    Raises:
        DatabaseNewerError, DatabaseDamagedError: The file must not be used.
        StorageError, UnavailableError: It cannot be opened now.
    """

    def __init__(
        self,
        database: str | Path,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
        must_exist: bool = False,
    ) -> None:
        self._path = str(database)
        self._clock = clock or SystemClock()
        self._ids = ids or TimeOrderedIds()
        self._connection = connect(self._path, must_exist=must_exist)
        self._connections = [self._connection]
        try:
            migrate(self._connection)
        except BaseException:
            self._connection.close()
            raise
        unit = self._unit(self._connection, writable=True)
        self._feed = unit.feed
        self._writer = Writer(self._connection, unit)
        self._is_closed = False
        self._closing = threading.Lock()
        self._queue: WriteQueue | None = None
        self._readers = Readers(self._open_reader)
        if self._path != MEMORY:
            self._queue = WriteQueue(self._writer, max_batch=max_batch, max_waiting=max_waiting)
        self._glances = Glances(self._open_reader)

    def _unit(self, connection: sqlite3.Connection, *, writable: bool) -> SqliteUnitOfWork:
        return SqliteUnitOfWork(connection, self._clock, self._ids, writable=writable)

    def write(self, use_case: UseCase[T]) -> T:
        """Run a use case, commit, and return its answer; raise what it raises, with nothing kept.

        Not for an event loop: it waits. Other callers' use cases may share the commit.

        Raises:
            UnavailableError: Too many writes wait, the database is busy or full; trying again is safe.
            StorageError: The database failed; nothing was written.
        """
        if self._queue is None:
            return self._write_inline(use_case)
        self._writer.check_not_inside()
        future: Future[T] = Future()
        self._queue.submit(Job(use_case, future))
        return future.result()

    async def write_async(self, use_case: UseCase[T]) -> T:
        """As `write`, for callers on an event loop.

        A caller that is cancelled while it waits may find its write done all the same; natural keys make trying again
        safe.
        """
        if self._queue is None:
            return self._write_inline(use_case)
        self._writer.check_not_inside()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.submit(Job(use_case, future, loop))
        return await future

    def _write_inline(self, use_case: UseCase[T]) -> T:
        self._check_open()
        (outcome,) = self._writer.run([use_case])
        if outcome.error is not None:
            raise outcome.error
        return outcome.answer  # type: ignore[return-value]  # what the use case returned

    def read(self, use_case: UseCase[T], *, within_s: float | None = None) -> T:
        """Run a use case on a consistent snapshot; one that turns out to write is run as a write instead.

        Raises:
            QueryTimeoutError: The database took longer over it than `within_s`.
        """
        self._check_open()
        if self._queue is None:
            return self._write_inline(use_case)
        try:
            return self._read_only(use_case, within_s)
        except ReadOnlyError:
            return self.write(use_case)

    async def glance_async(self, use_case: UseCase[T]) -> T:
        """As `read`, but at once on the event loop: for a few point reads that take microseconds.

        Rows stay in memory from one glance to the next while no connection, of whatever process, has written.
        """
        self._check_open()
        if self._queue is None:
            return self._write_inline(use_case)
        try:
            return self._glances.read(use_case)
        except ReadOnlyError:
            return await self.write_async(use_case)

    def _read_only(self, use_case: UseCase[T], within_s: float | None) -> T:
        with self._readers.lent() as (connection, uow), time_limit(connection, within_s):
            return self._read_with(connection, uow, use_case)

    def _read_with(self, connection: sqlite3.Connection, uow: SqliteUnitOfWork, use_case: UseCase[T]) -> T:
        try:
            connection.execute("BEGIN")
            try:
                uow.begin()
                return use_case(uow)
            finally:
                uow.forget()
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._check_open()  # else what was asked was given up because of that
            raise translated(error) from error

    def _open_reader(self) -> Reader:
        connection = connect(self._path, read_only=True)
        self._connections.append(connection)
        return connection, self._unit(connection, writable=False)

    def on_publish(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have something called, in whatever thread, after each commit of this store that wrote events.

        It must not raise, nor wait. Returns what takes it back.
        """
        return self._feed.listen(listener)

    def on_batch(self, listener: Callable[[int], None]) -> None:
        """Have something called, in the writer's thread, after each batch, with how many units of work it had."""
        if self._queue is not None:
            self._queue.listeners += (listener,)

    @contextmanager
    def transaction(self) -> Iterator[UnitOfWork]:
        """Open a unit of work in this thread; for synchronous embedding only, never on an event loop."""
        self._check_open()
        with self._writer.transaction() as uow:
            yield uow

    def check_file(self) -> list[str]:
        """Let SQLite check every page, index and reference of the file; return what it complains of."""
        with self._writer.turn():
            self._check_open()
            try:
                return list(complaints_of(self._connection))
            except sqlite3.Error as error:
                raise translated(error) from error

    @property
    def queue_depth(self) -> int:
        """How many writes wait."""
        return self._queue.depth if self._queue else 0

    @property
    def refused_writes(self) -> int:
        """How many writes were refused because too many waited."""
        return self._queue.refused if self._queue else 0

    @property
    def file_sizes(self) -> tuple[int, int]:
        """How many bytes the database file has, and the log beside it; 0 where there is none."""
        return _size(self._path), _size(f"{self._path}-wal")

    def interrupt(self) -> None:
        """Give up the statements that run now, in whatever thread: what they belong to fails and is undone."""
        with self._closing:
            for connection in () if self._is_closed else self._connections:
                connection.interrupt()

    def close(self) -> None:
        """Finish what is queued, empty the log into the file and close every connection. Closing twice is fine.

        What is being read may end for a moment; then it is given up.
        """
        self._writer.check_not_inside()
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            if self._queue is not None:
                self._queue.close()
                self._readers.close()
                self._glances.close()
            with self._writer.turn():  # after a block that is still open
                self._connection.execute("SELECT 1")  # ends an interruption, which would leave the log as it is
                self._connection.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise UnavailableError("The store is closed", retry_after_s=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
