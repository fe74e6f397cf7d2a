"""Where processes come from that are to break: `python tests/faults/forge.py` forks itself for each job it is told.

A job is a JSON line on standard input, its answer one on standard output. A fork runs the command line of ironcage as
any interpreter would, with a folder, an environment and an output of its own, in a tenth of the time.

    {"argv": [...], "folder": ..., "environ": {...}, "output": ..., "trouble": {...}}   ->   {"pid": 1}
    {"poll": 1}                                                                        ->   {"code": null or a number}

`trouble` names what is wrong with the machine of the fork; see `befall`.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any, Final

from ironcage_http.app import create_app
from ironcage_http.cli import PLACES, main
from ironcage_http.server import embedded_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.faults import hands, steps

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG of prctl(2)
_CAPABILITIES_V3: Final = 0x20080522
_PAST_MODES: Final = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of capabilities(7)


def befall(trouble: Mapping[str, Any]) -> None:
    """Let this process meet trouble.

    Args:
        trouble: `file_size`: no file may grow beyond so many bytes. `modes_bind`: modes of files hold for root, too.
            `hands`: a port on which `hands.serve` listens. `steps`: see `steps.count`.
    """
    if "file_size" in trouble:
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble["file_size"], resource.RLIM_INFINITY))
    if trouble.get("modes_bind"):
        _obey_modes()
    if "hands" in trouble:
        hands.serve(trouble["hands"])
    if "steps" in trouble:
        steps.count(**trouble["steps"])


def _obey_modes() -> None:
    """Give up what lets root read and write whatever the modes say; it goes on being root, and owner of its files."""
    head = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of the lower 32 capabilities and the others
    failed = _LIBC.capget(head, sets)
    for each in (0, 1):
        sets[each] &= ~_PAST_MODES
    if failed or _LIBC.capset(head, sets):
        raise OSError(ctypes.get_errno(), "the capabilities cannot be given up")


def run(job: Mapping[str, Any]) -> int:
    """Become a process of ironcage; return its exit code."""
    _LIBC.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environ"])
    befall(job["trouble"])
    try:
        main([*job["argv"]], prog_name="ironcage")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def warm() -> None:
    """Load and make once what every fork needs."""
    for place in PLACES.values():
        __import__(place.module)
    with SqliteStore(":memory:") as store:
        create_app(store, embedded_settings())


def serve() -> None:
    """Do what is asked for until nobody asks any more."""
    warm()
    for line in sys.stdin:
        job = json.loads(line)
        if "poll" in job:
            pid, status = os.waitpid(job["poll"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = run(job)
                finally:
                    os._exit(code)
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
