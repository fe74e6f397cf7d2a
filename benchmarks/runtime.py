"""A runtime's own side: what a reservation with its commit costs beside the bare lock that it takes twice.

The same from sixteen threads; and what writing down a call costs, which is two syncs of the disk.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Final

from benchmarks.setup import Effort, scratch
from benchmarks.table import Line, Measured, most, rows_of
from ironcage_core.runtime.controller import CostController
from ironcage_core.runtime.lease_session import Spend
from ironcage_http.client_outbox import Intent, Outbox

THREADS: Final = 16

LINES: Final = (
    Line("two takes of a lock", "locks", "us"),
    Line("reserve and commit", "pair", "us", asked=most(5, "asked of the runtime's client")),
    Line("  against two takes of a lock", "pair", "us", yardstick="locks"),
    Line(f"  from {THREADS} threads, against one", "pair in threads", "us", yardstick="pair"),
    Line("a call written down on the disk", "on disk", "us"),
)


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


def in_threads(controller: CostController, count: int) -> None:
    """Do the same work from many threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: pairs(controller, count // THREADS), range(THREADS)))


def write_down(outbox: Outbox, count: int) -> None:
    """Keep so many calls as a session does: before each is made, and behind it."""
    for number in range(count):
        name = f"call {number}"
        outbox.intend(Intent(name, "lease", "gpt-4o", "openai", 1_000, 100, 0))
        outbox.settle(Spend(name, "lease", "gpt-4o", "openai", 900, 90, None, 0))
        outbox.acknowledge([name])


def microseconds(work: Callable[[int], None], count: int) -> float:
    """Return what one of so many costs."""
    start = perf_counter()
    work(count)
    return (perf_counter() - start) / count * 1e6


def measured(folder: Path, pair_count: int, call_count: int) -> dict[str, float]:
    """Return the figures of one round."""
    controller = CostController(2**60)
    outbox = Outbox(folder, "bench")
    try:
        return {
            "locks": microseconds(locks, pair_count),
            "pair": microseconds(lambda count: pairs(controller, count), pair_count),
            "pair in threads": microseconds(lambda count: in_threads(controller, count), pair_count),
            "on disk": microseconds(lambda count: write_down(outbox, count), call_count),
        }
    finally:
        outbox.close()


def measure(effort: Effort) -> Measured:
    """Measure each in each round."""
    counts = (16_000, 20) if effort is Effort.QUICK else (200_000, 500)
    with scratch() as folder:
        rounds = [measured(folder, *counts) for _ in range(effort.rounds)]
    return Measured(f"{counts[0]:,} reservations, {counts[1]:,} calls on disk", rows_of(LINES, rounds))
