"""Hands inside a server process: its clock moved, and statements on the connection that writes.

They are for what no operator can do from outside: a disk that is full for SQLite alone, a clock that jumps for one
process alone. `serve` is called in the process before it starts; `Hands` is the other end.
"""

import sqlite3
import threading
from multiprocessing.connection import Client, Listener
from typing import Any

from ironcage_storage.sqlite import store as store_module
from ironcage_storage.sqlite.unit_of_work import SqliteUnitOfWork
from ironcage_storage.sqlite.writer import Writer
from ironcage_storage.system import SystemClock

_KEY = b"between two ends of a test"
_PATIENCE_S = 20


class _Inside:
    """What the hands hold: the writer, and by how much the clock is wrong."""

    def __init__(self) -> None:
        self.writer: Writer | None = None
        self.ahead_ms = 0
        now = SystemClock.now
        SystemClock.now = lambda clock: now(clock) + self.ahead_ms  # type: ignore[assignment,method-assign]  # of this process
        store_module.Writer = self._hold  # type: ignore[assignment,attr-defined]  # likewise

    def _hold(self, connection: sqlite3.Connection, uow: SqliteUnitOfWork) -> Writer:
        self.writer = Writer(connection, uow)
        return self.writer

    def obey(self, command: str, argument: Any) -> Any:  # noqa: ANN401 - what the command takes and gives
        if command == "jump":
            self.ahead_ms += int(argument * 1000)
            return self.ahead_ms
        assert self.writer is not None
        with self.writer.turn():
            return self.writer._connection.execute(argument).fetchall()


def serve(port: int) -> None:
    """Listen in a thread of this process."""
    inside = _Inside()
    listener = Listener(("127.0.0.1", port), authkey=_KEY)

    def listen() -> None:
        while True:
            with listener.accept() as connection:
                connection.send(inside.obey(*connection.recv()))

    threading.Thread(target=listen, name="hands", daemon=True).start()


class Hands:
    """The other end.

    Args:
        port: Where the process listens.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.ahead_s = 0.0

    def jump(self, seconds: float) -> None:
        """Set the clock of the process forward, or back."""
        self._tell("jump", seconds)
        self.ahead_s += seconds

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement on the connection that writes, between two of its own."""
        rows: list[tuple[Any, ...]] = self._tell("sql", statement)
        return rows

    def _tell(self, *command: object) -> Any:  # noqa: ANN401 - what the command gives
        with Client(("127.0.0.1", self._port), authkey=_KEY) as connection:
            connection.send(command)
            assert connection.poll(_PATIENCE_S), "the process does not answer"
            return connection.recv()
