"""What tests run in a process of its own: `python tests/support/child.py <command> <arguments>`.

report <database> <agent> <lease> <prefix> <n>   report n calls, print each acknowledged request id
hold <database> <seconds>                        hold the write lock, print `held` as soon as it is
open <database>                                  open and close a store
crash                                            see `serve_crashes`
"""

import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.reporting import Reported, report
from ironcage_storage.sqlite import queue as queue_module
from ironcage_storage.sqlite import store as store_module
from ironcage_storage.sqlite.connection import connect
from ironcage_storage.sqlite.queue import Job
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.sqlite.writer import Outcome
from tests.support.stores import Plug, submit
from tests.support.world import NOON, PRICES, SetClock, usage

COST = 10
THREADS = 3


def report_of(agent_id: str, lease_id: str, request_id: str) -> Callable[[UnitOfWork], Reported]:
    """Return a report as a use case, by an agent that has proven itself."""
    identity = AgentIdentity(agent_id, "ict", 1, ("llm:call",), token="")
    return partial(report, identity=identity, reported=usage(lease_id, request_id, COST), prices=PRICES)


def say(line: str, to: int = 1) -> None:
    """Print a line so that it is out even if the process dies next."""
    os.write(to, f"{line}\n".encode())


def report_calls(database: str, agent_id: str, lease_id: str, prefix: str, n: str) -> None:
    with SqliteStore(database, clock=SetClock(NOON)) as store:
        for number in range(int(n)):
            request_id = f"{prefix} {number}"
            store.write(report_of(agent_id, lease_id, request_id))
            say(request_id)


def hold(database: str, seconds: str) -> None:
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("held")
    time.sleep(float(seconds))
    connection.execute("ROLLBACK")
    connection.close()


def open_and_close(database: str) -> None:
    SqliteStore(database).close()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Steps:
    """Counts the moments at which a process may die, and dies at one of them."""

    def __init__(self, die_at: int) -> None:
        self._left = die_at
        self._lock = threading.Lock()

    def step(self, _: object = None) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                die()


def crash_while_opening(job: dict[str, Any], _: Callable[[str], None]) -> None:
    """Open a store on a fresh file and die at a statement of its migration."""
    steps = Steps(job["die_at"])

    def watched(path: str, *, read_only: bool = False, must_exist: bool = False) -> sqlite3.Connection:
        connection = connect(path, read_only=read_only, must_exist=must_exist)
        connection.set_trace_callback(steps.step)
        return connection

    store_module.connect = watched  # type: ignore[attr-defined]  # this process is about to die
    SqliteStore(job["database"]).close()


def crash_while_reporting(job: dict[str, Any], acknowledge: Callable[[str], None]) -> None:
    """Report from several threads, a first batch together, and die at a statement or after a time.

    A step is each statement of the writer, and the moment between a COMMIT and its answers.
    """
    store = SqliteStore(job["database"], clock=SetClock(NOON))
    if job["die_after_s"] is not None:
        threading.Timer(job["die_after_s"], die).start()
    steps = Steps(job["die_at"])
    deliver = queue_module.deliver

    def step_and_deliver(batch: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        steps.step()
        deliver(batch, outcomes)

    plug = Plug(store)
    queue_module.deliver = step_and_deliver
    store._connection.set_trace_callback(steps.step)
    report_as = partial(report_of, job["agent_id"], job["lease_id"])
    first = [submit(store, report_as(f"{thread} 0")) for thread in range(THREADS)]

    def work(thread: int) -> None:
        first[thread].result()
        acknowledge(f"{thread} 0")
        for number in range(1, job["rounds"]):
            store.write(report_as(f"{thread} {number}"))
            acknowledge(f"{thread} {number}")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    plug.pull()
    for thread in threads:
        thread.join()
    store.close()


def serve_crashes() -> None:
    """Run each job of standard input, a JSON line, in a fork; print what it acknowledged and how it ended.

    A fork costs a fraction of a new interpreter, so that a test can afford to die at every statement.
    """
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            crash = crash_while_opening if job["kind"] == "opening" else crash_while_reporting
            crash(job, partial(say, to=writing))
            os._exit(0)
        os.close(writing)
        with open(reading) as acknowledged:  # noqa: PTH123 - a pipe has no path
            lines = acknowledged.read().splitlines()
        _, status = os.waitpid(pid, 0)
        say(json.dumps({"acknowledged": lines, "survived": os.waitstatus_to_exitcode(status) == 0}))


COMMANDS: dict[str, Callable[..., None]] = {
    "report": report_calls,
    "hold": hold,
    "open": open_and_close,
    "crash": serve_crashes,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
