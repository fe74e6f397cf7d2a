"""Measure what a runtime's own side costs: `python -m benchmarks.runtime`.

Microseconds of a reservation with its commit in one thread, beside the bare lock that it has to take twice; the same
from sixteen threads; and what writing down a call costs, which is two syncs of the disk. Exits with 1 if the target is
missed.
"""

import statistics
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.setup import RESULTS, ROUNDS
from ironcage_core.runtime.controller import CostController
from ironcage_core.runtime.lease_session import Spend
from ironcage_http.client_outbox import Intent, Outbox

TARGET_US: Final = 5.0
PAIRS: Final = 200_000
THREADS: Final = 16
CALLS: Final = 500


def pairs(controller: CostController, count: int) -> None:
    """Reserve and commit so many times."""
    for _ in range(count):
        controller.commit(controller.reserve(1_000), 900)


def locks(count: int) -> None:
    """Take and release a lock twice, so many times."""
    lock = threading.Lock()
    for _ in range(count):
        with lock:
            pass
        with lock:
            pass


def in_threads(controller: CostController) -> None:
    """Do the same work from many threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: pairs(controller, PAIRS // THREADS), range(THREADS)))


def write_down(outbox: Outbox) -> None:
    """Keep so many calls as a session does: before each is made, and behind it."""
    for number in range(CALLS):
        name = f"call {number}"
        outbox.intend(Intent(name, "lease", "gpt-4o", "openai", 1_000, 100, 0))
        outbox.settle(Spend(name, "lease", "gpt-4o", "openai", 900, 90, None, 0))
        outbox.acknowledge([name])


def microseconds(work: Callable[[], None], count: int) -> float:
    """Return what one of so many costs."""
    start = perf_counter()
    work()
    return (perf_counter() - start) / count * 1e6


def measure(folder: Path) -> dict[str, float]:
    """Return the microseconds of each."""
    controller = CostController(2**60)
    outbox = Outbox(folder, "bench")
    try:
        return {
            "two takes of a lock": microseconds(lambda: locks(PAIRS), PAIRS),
            "reserve and commit": microseconds(lambda: pairs(controller, PAIRS), PAIRS),
            f"reserve and commit, {THREADS} threads": microseconds(lambda: in_threads(controller), PAIRS),
            "a call on disk": microseconds(lambda: write_down(outbox), CALLS),
        }
    finally:
        outbox.close()


def main() -> None:
    """Run from the command line."""
    RESULTS.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=RESULTS) as folder:
        rounds = [measure(Path(folder)) for _ in range(ROUNDS)]
    table = Table(title=f"A runtime's own side, median of {ROUNDS} rounds")
    table.add_column("")
    table.add_column("microseconds", justify="right")
    found = {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
    for name, value in found.items():
        table.add_row(name, f"{value:.2f}")
    Console(width=80).print(table)
    sys.exit(0 if found["reserve and commit"] <= TARGET_US else 1)


if __name__ == "__main__":
    main()
