"""Hardening: a process that holds secrets leaves no copy of its memory.

Where an interpreter or a library in C crashes, the kernel writes the memory of the process to a file, or gives it to a
program that collects such files: the master key, tokens and provider keys with it.
"""

import resource
import sys
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4
"""Source: prctl(2)."""


def leave_no_core() -> None:
    """Let the kernel write no core of this process, whatever ends it.

    The limit holds for what the process starts, too, but not for a program that collects cores. On Linux the process
    cannot be dumped at all: no core goes to such a program, and nobody but root reads its memory or its environment.
    """
    with suppress(OSError):  # a sandbox may forbid to set limits; it has set its own
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - nobody else needs it, and it is slow to load

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
