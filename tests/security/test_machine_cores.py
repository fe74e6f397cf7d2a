"""No copy of a process's memory is left, and nobody but root looks into it."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ENVIRONMENT
from tests.support.servers import ServerProcess

HARDEN = "from ironcage_http.hardening import leave_no_core; leave_no_core()"

NEIGHBOURS = """
import ctypes, os, sys
from ironcage_http.hardening import leave_no_core

def as_nobody():
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # what a program of that user starts with

def what_the_neighbour_reads(is_hardened):
    ready, told = os.pipe()
    victim = os.fork()
    if not victim:
        as_nobody()
        if is_hardened:
            leave_no_core()
        own, _ = os.pipe()
        assert str(own) in os.listdir("/dev/fd")
        open(f"/dev/fd/{own}", "rb").close()  # as of `--input /dev/stdin`
        os.write(told, b"1")
        os.read(0, 1)
        os._exit(0)
    os.close(told)
    assert os.read(ready, 1) == b"1"
    neighbour = os.fork()
    if not neighbour:
        as_nobody()
        read = []
        for name in ("environ", "mem"):
            try:
                open(f"/proc/{victim}/{name}", "rb").close()
                read.append(name)
            except PermissionError:
                pass
        print(is_hardened, *read, flush=True)
        os._exit(0)
    os.waitpid(neighbour, 0)
    os.kill(victim, 9)
    os.waitpid(victim, 0)

what_the_neighbour_reads(False)
what_the_neighbour_reads(True)
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="what is asked here is Linux's own")


def python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, on a standard input that stays open."""
    reading, writing = os.pipe()
    try:
        return subprocess.run(  # noqa: S603 - our own programs
            [sys.executable, "-c", program],
            cwd=folder,
            env=ENVIRONMENT,
            stdin=reading,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)


def is_dumped(folder: Path, program: str) -> bool:
    """Tell whether a program that aborts itself, where cores of any size are asked for, leaves one."""
    lines = (
        f"import os, resource; os.chdir({str(folder)!r})",
        "hard = resource.getrlimit(resource.RLIMIT_CORE)[1]; resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))",
        program,
        "os.abort()",
    )
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", "\n".join(lines)], ENVIRONMENT)
    status = os.waitpid(child, 0)[1]
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


def test_a_hardened_process_leaves_no_core(tmp_path: Path) -> None:
    """Not even where cores of any size are asked for."""
    if not is_dumped(tmp_path, ""):
        pytest.skip("this machine writes no cores at all")

    assert not is_dumped(tmp_path, HARDEN)


@on_linux
@pytest.mark.parametrize("arguments", [["completion", "bash"], ["whoami"], ["doctor", "nowhere.db"]])
def test_every_command_is_hardened_before_it_begins(tmp_path: Path, arguments: list[str]) -> None:
    """A collector of cores gets none either: no limit binds it, but a process that cannot be dumped is not given it."""
    program = f"""
import ctypes, resource, sys
from ironcage_http.cli import main
try:
    main({arguments})
finally:
    print("\\ndumpable", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
"""
    assert python(program, tmp_path).stdout.splitlines()[-1] == "dumpable 0 0 0"


@on_linux
def test_a_sandbox_that_forbids_to_set_limits_keeps_nobody_from_starting(tmp_path: Path) -> None:
    """As a filter of system calls does; that the process cannot be dumped is enough."""
    program = f"""
import ctypes, resource
def forbidden(*_):
    raise PermissionError
resource.setrlimit = forbidden
{HARDEN}
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    done = python(program, tmp_path)

    assert (done.stderr, done.stdout) == ("", "0\n")


def test_an_aborted_server_leaves_no_core(tmp_path: Path) -> None:
    """SIGABRT is how the C library ends a process whose memory is damaged."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        with ServerProcess(tmp_path, IRON_DEPLOYMENT_MODE="development") as server:
            limits = limits_of(server.process.pid)
            os.kill(server.process.pid, signal.SIGABRT)
            status = os.waitpid(server.process.pid, 0)[1]
            server.process.returncode = -signal.SIGABRT
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))

    assert (os.WTERMSIG(status), os.WCOREDUMP(status)) == (signal.SIGABRT, False)
    assert limits in (None, ["0", "0"])


def limits_of(pid: int) -> list[str] | None:
    """Return the soft and the hard limit of a process's cores, where the machine tells."""
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next(line.split()[4:6] for line in lines if line.startswith("Max core file size"))


@on_linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
def test_a_neighbour_of_the_same_user_reads_neither_environment_nor_memory(tmp_path: Path) -> None:
    """Where the master key and the signing secrets are; the process itself still finds what it has open."""
    done = python(NEIGHBOURS, tmp_path)

    assert (done.stderr, done.stdout.splitlines()) == ("", ["False environ mem", "True"])
