"""The readers: a few connections that only read, each lent to one question at a time."""

import queue
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from time import monotonic
from typing import Final

from ironcage_core.errors.tree import UnavailableError
from ironcage_storage.sqlite.glances import Reader

READERS: Final = 4
GRACE_S: Final = 1.0
"""How long questions may go on that are under way when the readers are closed."""

_INTERRUPT_EVERY_S: Final = 0.05


class Mark(Enum):
    """What may lie in the queue instead of a reader."""

    UNOPENED = "a reader that its first use opens"
    CLOSED = "the store is closed"


class Readers:
    """Lends connections.

    Args:
        open_reader: Opens one.
    """

    def __init__(self, open_reader: Callable[[], Reader]) -> None:
        self._open_reader = open_reader
        self._idle: queue.LifoQueue[Reader | Mark] = queue.LifoQueue()
        self._opened: list[sqlite3.Connection] = []
        for _ in range(READERS):
            self._idle.put(Mark.UNOPENED)

    @contextmanager
    def lent(self) -> Iterator[Reader]:
        """Wait for a reader, lend it, and take it back.

        Raises:
            UnavailableError: The readers are closed.
        """
        reader = self._take()
        try:
            yield reader
        finally:
            self._idle.put(reader)

    def _take(self) -> Reader:
        reader = self._idle.get()
        if reader is Mark.CLOSED:
            self._idle.put(reader)  # for the next one who waits
            raise UnavailableError("The store is closed", retry_after_s=1)
        if reader is not Mark.UNOPENED:
            return reader
        try:
            opened = self._open_reader()
        except BaseException:
            self._idle.put(reader)
            raise
        self._opened.append(opened[0])
        return opened

    def close(self) -> None:
        """Close every reader; what is asked of one may end for a moment, then it is given up. To be called once."""
        gives_up_at = monotonic() + GRACE_S
        for _ in range(READERS):
            reader = self._back(gives_up_at)
            if not isinstance(reader, Mark):
                self._opened.remove(reader[0])
                reader[0].close()
        self._idle.put(Mark.CLOSED)

    def _back(self, gives_up_at: float) -> Reader | Mark:
        while True:
            try:
                return self._idle.get(timeout=max(_INTERRUPT_EVERY_S, gives_up_at - monotonic()))
            except queue.Empty:
                for connection in self._opened:
                    connection.interrupt()
