"""Ctrl-C: a command in a process of its own, slowed down by its test, that is interrupted while it works."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

from tests.support.processes import ROOT
from tests.support.servers import MAIN, PATIENCE_S

MARK = "now"
_REST_S = 0.003
SLOWLY = f"""
import os
def mark():
    os.write(1, b"{MARK}\\n")
def long_statement(connection):
    mark()
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
    connection.execute(numbers + " SELECT max(x) FROM n").fetchone()
"""
"""What the change of a test may use: `mark` says that it is time for Ctrl-C, `long_statement` never ends."""


class Stopped(NamedTuple):
    """How the command ended, and what it said."""

    code: int
    out: str
    err: str


def stopped(change: str, *arguments: object, times: int = 1, env: Mapping[str, str] | None = None) -> Stopped:
    """Run a command of `ironcage`, changed by a piece of program, and press Ctrl-C at its first mark.

    Args:
        change: Runs before the command.
        *arguments: The command.
        times: How often Ctrl-C is pressed, on and on until the end.
        env: Its environment.
    """
    child = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", SLOWLY + change + "\n" + MAIN, *map(str, arguments)],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT / "src"), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line == f"{MARK}\n", (line, child.communicate())
    for _ in range(times):
        if child.poll() is not None:
            break
        child.send_signal(signal.SIGINT)
        time.sleep(_REST_S)
    out, err = child.communicate(timeout=PATIENCE_S)
    return Stopped(child.returncode, out, err)
