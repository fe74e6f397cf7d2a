"""Other processes: starts `tests/support/child.py` and talks to it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a child with a command of `child.py`."""
    command = [sys.executable, str(ROOT / "tests/support/child.py"), *map(str, arguments)]
    return subprocess.Popen(  # noqa: S603 - our own script
        command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(*children: subprocess.Popen[str]) -> list[list[str]]:
    """Wait for children that must succeed, and return the lines each printed."""
    results = [child.communicate(timeout=60) for child in children]
    for child, (_, errors) in zip(children, results, strict=True):
        assert child.returncode == 0, errors
    return [output.splitlines() for output, _ in results]


@contextmanager
def lock_held(database: Path, seconds: float) -> Iterator[None]:
    """Let another process hold the write lock; the block starts when it does."""
    child = start("hold", database, seconds)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    yield
    finish(child)


class Crashes:
    """A child whose forks die on demand; use it as a context manager."""

    def __init__(self) -> None:
        self._child = start("crash")

    def run(self, **job: object) -> dict[str, Any]:
        """Run a job and return what it acknowledged and whether it survived."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(job, default=str) + "\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        assert answer, self._child.stderr.read() if self._child.stderr else ""
        result: dict[str, Any] = json.loads(answer)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.communicate(timeout=10)
