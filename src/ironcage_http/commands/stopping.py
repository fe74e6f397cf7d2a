"""Stopping: what Ctrl-C does to work on a file. It ends where nothing is half done, and says what is left.

The first Ctrl-C is remembered, and the work gives up at the next place where that is safe. Further ones change nothing,
so that what is being closed is closed whole.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

from ironcage_http.commands.screen import progress
from ironcage_http.commands.shell import Exit, Failure

T = TypeVar("T")

_LOOK_EVERY_S: Final = 0.1


class Interruptible(Protocol):
    """Runs statements that can be given up."""

    def interrupt(self) -> None:
        """Give up the statements that run now."""


class Work:
    """Work that Ctrl-C may stop.

    Args:
        what_is_left: One or two sentences for a person, with what to do next; as the work goes on, others take its
            place.
    """

    def __init__(self, what_is_left: str) -> None:
        self.what_is_left = what_is_left
        self.is_stopped = False

    def check(self) -> None:
        """End here if Ctrl-C was pressed: for places where nothing is half done.

        Raises:
            Failure: It was.
        """
        if self.is_stopped:
            raise self.failure()

    def failure(self) -> Failure:
        """Return how the command ends that was stopped."""
        return Failure(Exit.INTERRUPTED, f"Stopped. {self.what_is_left}", code="INTERRUPTED")

    def run(self, what: str, database: Interruptible, task: Callable[[], T]) -> T:
        """Run one long task in a thread of its own, so that Ctrl-C is noticed whatever the database is doing.

        Args:
            what: What it does, for a person who watches.
            database: Whose statements are given up then.
            task: What it is; it may be done all the same, and then its answer counts.

        Raises:
            Failure: Ctrl-C was pressed before it began.
        """
        self.check()
        future: Future[T] = Future()
        thread = threading.Thread(target=_settle, args=(future, task), name="ironcage-work", daemon=True)
        thread.start()
        with progress(what):
            while thread.is_alive():
                thread.join(_LOOK_EVERY_S)
                if self.is_stopped:
                    database.interrupt()
        return future.result()

    def stop(self, *_: object) -> None:
        """Remember that Ctrl-C was pressed."""
        self.is_stopped = True


def _settle(future: Future[T], task: Callable[[], T]) -> None:
    try:
        future.set_result(task())
    except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
        future.set_exception(error)


@contextmanager
def working(what_is_left: str) -> Iterator[Work]:
    """Take Ctrl-C over for a stretch of work.

    Args:
        what_is_left: What to say of it, as long as the work does not say otherwise.

    Raises:
        Failure: The work was stopped, whatever else that has made fail.
    """
    work = Work(what_is_left)
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # a shell has put the command into the background: Ctrl-C is not meant for it
        signal.signal(signal.SIGINT, work.stop)
    try:
        yield work
    except Exception as error:
        if work.is_stopped:
            raise work.failure() from error
        raise
    finally:
        # Who was stopped is ending, and must not be stopped at that.
        signal.signal(signal.SIGINT, signal.SIG_IGN if work.is_stopped else before)
