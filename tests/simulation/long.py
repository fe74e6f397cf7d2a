"""The simulation for as long as one likes: `python -m tests.simulation.long --minutes 10`.

Runs the random days with one new seed after the other until the minutes are over, prints each seed, and ends with an
error as soon as a run fails, after the failure was shrunk.
"""

import argparse
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


def command(seed: int) -> list[str]:
    """Return the command that runs, or runs again, the days of a seed."""
    tests = str((FOLDER / "test_books.py").relative_to(ROOT))
    options = ["-q", "--no-header", "--timeout=0", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}"]
    return [sys.executable, "-m", "pytest", tests, *options]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the minutes are over or a run fails; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.long", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SIM_MINUTES") or 10))
    minutes = parser.parse_args(arguments).minutes
    environment = {**os.environ, "SIM_MINUTES": f"{minutes:g}"}
    end = time.monotonic() + minutes * 60
    runs = 0
    while time.monotonic() < end:
        seed = secrets.randbits(32)
        runs += 1
        say(f"run {runs}, seed {seed}")
        code = subprocess.run(command(seed), cwd=ROOT, env=environment, check=False).returncode  # noqa: S603 - ours
        if code:
            say(f"run {runs} failed; again with: SIM_MINUTES={minutes:g} {' '.join(command(seed))}")
            return code
    say(f"{runs} runs, no failure")
    return 0


def say(text: str) -> None:
    """Print a line at once, in order with what pytest prints."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
