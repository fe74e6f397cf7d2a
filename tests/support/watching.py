"""`ironcage watch` in a process of its own, and what it says line by line."""

import json
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self

from tests.support.desk import Desk
from tests.support.processes import ENVIRONMENT
from tests.support.servers import MAIN, PATIENCE_S


class Watching:
    """A watch that has begun; use it as a context manager.

    Args:
        desk: Whose login it has.
        *arguments: Of the command line.
        **environ: Variables beside the desk's.
    """

    def __init__(self, desk: Desk, *arguments: object, **environ: str) -> None:
        env = {name: value for name, value in desk.env.items() if value is not None}
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", MAIN, "watch", *map(str, arguments)],
            env={**ENVIRONMENT, **env, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._out: queue.Queue[str] = queue.Queue()
        self._err: queue.Queue[str] = queue.Queue()
        self.said: list[str] = []
        for source, lines in ((self.process.stdout, self._out), (self.process.stderr, self._err)):
            assert source is not None
            threading.Thread(target=_read, args=(source, lines), daemon=True).start()

    def line(self) -> str:
        """Return the next line of standard output."""
        return self._out.get(timeout=PATIENCE_S)

    def event(self) -> dict[str, Any]:
        """Return the next line of standard output, which is JSON."""
        message: dict[str, Any] = json.loads(self.line())
        return message

    def tools(self, count: int) -> list[str]:
        """Return the tools that the next events tell of."""
        return [self.event()["data"]["tool"] for _ in range(count)]

    def until(self, words: str) -> None:
        """Wait until standard error has a line with these words."""
        while not self.said or words not in self.said[-1]:
            self.said.append(self._err.get(timeout=PATIENCE_S))

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Send a signal, if one is given, and return the exit code and the rest of standard error."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        rest: list[str] = []
        with suppress(queue.Empty):
            while True:
                rest.append(self._err.get(timeout=0.5))
        return code, "".join(rest)

    @property
    def rest(self) -> list[str]:
        """The lines of standard output that nobody has asked for."""
        return list(self._out.queue)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)


def _read(source: IO[str], lines: "queue.Queue[str]") -> None:
    with source:
        for line in source:
            lines.put(line)
