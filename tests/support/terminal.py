"""A terminal with somebody at it: a command in a process of its own, and what is typed when it asks."""

import os
import pty
import subprocess
import sys

from tests.support.desk import Desk

_PROGRAM = "from ironcage_http.cli import main; main()"
_BYTES = 65_536


def at_a_terminal(desk: Desk, *arguments: object, asked: str, typed: str) -> tuple[int, str]:
    """Run one command line at a terminal; return how it ended and all that stood on the screen.

    Args:
        desk: Whose login it has.
        arguments: Of the command line.
        asked: What the command must ask before anything is typed.
        typed: The answer, a line.
    """
    leader, follower = pty.openpty()
    env = {**os.environ, **{name: value for name, value in desk.env.items() if value is not None}}
    command = [sys.executable, "-c", _PROGRAM, *map(str, arguments)]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=env) as process:  # noqa: S603 - ours
        os.close(follower)
        seen = b""
        while asked.encode() not in seen and (more := piece_of(leader)):
            seen += more
        os.write(leader, f"{typed}\n".encode())
        while more := piece_of(leader):
            seen += more
    os.close(leader)
    return process.returncode, seen.decode(errors="replace")


def piece_of(leader: int) -> bytes:
    """Return what was shown since; nothing when the process has gone."""
    try:
        return os.read(leader, _BYTES)
    except OSError:  # its other end is closed
        return b""
