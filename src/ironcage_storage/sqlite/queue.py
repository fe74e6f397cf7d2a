"""The queue in front of the writer: callers wait in it, one thread empties it batch by batch."""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.writer import Outcome, Writer

logger = logging.getLogger(__name__)

IDLE_BEFORE_CHECKPOINT_S: Final = 1.0


class Job:
    """A use case and where its outcome goes: a future of a thread, or one of an event loop."""

    __slots__ = ("future", "loop", "use_case")

    def __init__(
        self,
        use_case: Callable[[UnitOfWork], Any],
        future: Future[Any] | asyncio.Future[Any],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.use_case = use_case
        self.future = future
        self.loop = loop


class WriteQueue:
    """Feeds a writer from one thread of its own.

    Args:
        writer: Runs the batches.
        max_batch: At most how many units share a commit.
        max_waiting: At how many waiting callers a further one is refused.

    `listeners` are called after each batch, with how many units it had; `refused` counts what found the queue full.
    """

    def __init__(self, writer: Writer, *, max_batch: int, max_waiting: int) -> None:
        self._writer = writer
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # Guards the order of the last job and the closing mark: nothing may slip in behind it and wait for ever.
        self._gate = threading.Lock()
        self._is_closed = False
        self.refused = 0
        self.listeners: tuple[Callable[[int], None], ...] = ()
        self._thread = threading.Thread(target=self._loop, name="ironcage-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            UnavailableError: The queue is full or closed.
        """
        with self._gate:
            if self._is_closed:
                raise UnavailableError("The store is closed", retry_after_s=1)
            if self._jobs.qsize() >= self._max_waiting:
                self.refused += 1
                raise UnavailableError("Too many writes are waiting; try again", retry_after_s=1)
            self._jobs.put(job)

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return self._jobs.qsize()

    def close(self) -> None:
        """Finish every queued job, then stop the thread. Closing twice is fine."""
        with self._gate:
            if not self._is_closed:
                self._is_closed = True
                self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        is_dirty = False
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_BEFORE_CHECKPOINT_S) if is_dirty else self._jobs.get()
            except queue.Empty:
                self._checkpoint()
                is_dirty = False
                continue
            if job is None:
                return
            is_dirty = True
            batch = [job]
            is_last = self._fill(batch)
            outcomes = self._outcomes(batch)
            self._tell(len(batch))
            deliver(batch, outcomes)
            if is_last:
                return

    def _fill(self, batch: list[Job]) -> bool:
        """Add what else waits, and tell whether the closing mark was met."""
        while len(batch) < self._max_batch:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return False
            if job is None:
                return True
            batch.append(job)
        return False

    def _outcomes(self, batch: Sequence[Job]) -> list[Outcome]:
        try:
            return self._writer.run([job.use_case for job in batch])
        except BaseException as error:  # the thread must outlive anything, or every later caller would wait for ever
            logger.exception("the writer failed")
            return [Outcome(error=error) for _ in batch]

    def _tell(self, size: int) -> None:
        for listener in self.listeners:
            try:
                listener(size)
            except Exception:  # whoever looks on must not stop the thread
                logger.exception("a listener of the writer failed")

    def _checkpoint(self) -> None:
        try:
            self._writer.checkpoint()
        except sqlite3.Error:
            logger.warning("a checkpoint failed; the log grows until the next one", exc_info=True)


def deliver(batch: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
    """Hand out the outcomes: to threads at once, to each event loop in one call."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Job, Outcome]]] = {}
    for job, outcome in zip(batch, outcomes, strict=True):
        if job.loop is None:
            _settle(job.future, outcome)
        else:
            by_loop.setdefault(job.loop, []).append((job, outcome))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, pairs)
        except RuntimeError:  # the loop is closed: nobody waits any more, and what was written stays written
            logger.info("%d answers came after their event loop had closed", len(pairs))


def _settle_all(pairs: Sequence[tuple[Job, Outcome]]) -> None:
    for job, outcome in pairs:
        _settle(job.future, outcome)


def _settle(future: Future[Any] | asyncio.Future[Any], outcome: Outcome) -> None:
    if future.done():  # the caller was cancelled; the write happened all the same
        return
    if outcome.error is None:
        future.set_result(outcome.answer)
        return
    try:
        future.set_exception(outcome.error)
    except TypeError:  # a future of an event loop takes no StopIteration
        unusual = RuntimeError("the use case ended with an error that no event loop can carry")
        unusual.__cause__ = outcome.error
        future.set_exception(unusual)
