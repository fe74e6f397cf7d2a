"""The load under which things break: runtimes and an admin at work, each in a thread, while servers come and go.

Whatever was answered is in `told`; `books` compares that with the database afterwards.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from tests.faults.callers import WAIT_S, Admin, GoneError, Runtime, Shared
from tests.support.servers import RunningAgent


class Load(Shared):
    """Runtimes and an admin at work.

    Args:
        port: Of the server, which may come and go.
        agents: Each works in two threads.
        has_ends: Whether leases may end by themselves, because somebody moves the clock.
    """

    def __init__(self, port: int, agents: list[RunningAgent], *, has_ends: bool = False) -> None:
        super().__init__(port, has_ends=has_ends)
        self.stopping = threading.Event()
        self._failures: list[BaseException] = []
        callers: list[Admin | Runtime] = [Admin(self, agents[0])]
        callers += [Runtime(self, agent, name) for agent in agents for name in ("a", "b")]
        self._threads = [threading.Thread(target=self._guarded, args=(each,), daemon=True) for each in callers]

    def _guarded(self, caller: Admin | Runtime) -> None:
        try:
            while not self.stopping.is_set():
                caller.work()
        except GoneError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by `check`
            self._failures.append(error)
            self.abandoned.set()
        finally:
            caller.hang_up()

    def check(self) -> None:
        """Raise what has gone wrong, if anything has."""
        if self._failures:
            raise AssertionError("the load has failed") from self._failures[0]

    def wait_for(self, more: int) -> None:
        """Wait until so many more writes were answered."""
        goal = self.told.count + more
        self.wait_until(lambda: self.told.count >= goal, "the server answers no more")

    def wait_for_refusals(self, more: int) -> None:
        """Wait until so many more requests were refused."""
        goal = self.refused.total() + more
        self.wait_until(lambda: self.refused.total() >= goal, "nobody is refused")

    def wait_until(self, holds: Callable[[], bool], complaint: str) -> None:
        """Wait until something holds."""
        until = time.monotonic() + WAIT_S
        while not holds():
            self.check()
            assert time.monotonic() < until, complaint
            time.sleep(0.005)

    def finish(self) -> None:
        """Let everybody end what is under way, which takes a server that answers."""
        self.stopping.set()
        self._join()
        self.check()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), "somebody still waits for an answer"

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Work as long as the block runs; who waits for an answer at its end is given up, unless they `finish`."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            self.abandoned.set()
            self._join()
        self.check()
