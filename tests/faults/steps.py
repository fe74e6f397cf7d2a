"""Steps: the moments at which a command may be killed, counted, so that it can be killed at any of them.

A step is a statement of SQLite, some pages of a copy, a file that is opened, renamed, linked or removed, or a sync.
"""

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PAGES: Final = 40
"""Of a copy, in a step."""

_EVENTS: Final = frozenset(("open", "os.rename", "os.link", "os.remove", "os.truncate"))


class _Steps:
    def __init__(self, die_at: int) -> None:
        self.taken = 0
        self._die_at = die_at

    def take(self) -> None:
        self.taken += 1
        if self.taken == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def count(die_at: int, note: str) -> None:
    """Count the steps of this process from here on, and die at one of them.

    Args:
        die_at: At which; 0 for none.
        note: The file where a process that lives leaves how many there were.
    """
    steps = _Steps(die_at)

    class Watched(sqlite3.Connection):
        def backup(self, target: sqlite3.Connection, *, pages: int = -1, progress: Any = None, **more: Any) -> None:  # noqa: ANN401 - as its own
            del pages

            def told(status: int, remaining: int, total: int) -> None:
                steps.take()
                if progress is not None:
                    progress(status, remaining, total)

            super().backup(target, pages=PAGES, progress=told, **more)

    connect = sqlite3.connect

    def watched(*args: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - as its own
        connection: sqlite3.Connection = connect(*args, **{"factory": Watched, **options})
        connection.set_trace_callback(lambda _: steps.take())
        return connection

    sqlite3.connect = watched  # type: ignore[assignment]  # of this process
    _count_syncs(steps.take)
    sys.addaudithook(lambda event, _: steps.take() if event in _EVENTS else None)
    leave = os._exit

    def leaving(code: int) -> None:
        taken = steps.taken
        Path(note).write_text(str(taken))
        leave(code)

    os._exit = leaving  # type: ignore[assignment]  # of this process


def _count_syncs(take: Callable[[], None]) -> None:
    sync = os.fsync

    def counted(fd: Any) -> None:  # noqa: ANN401 - as its own
        take()
        sync(fd)

    os.fsync = counted
