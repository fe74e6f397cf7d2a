"""The memory of a store that books many reports: it must not grow with what it has booked."""

from collections.abc import Mapping
from typing import Final

from benchmarks.serving import memory_mb
from benchmarks.setup import AGENTS, BATCH, Bench, Effort, fresh, some_reports
from benchmarks.table import Line, Measured, most, rows_of

REPORTS: Final[Mapping[Effort, int]] = {Effort.QUICK: 10_000, Effort.NORMAL: 100_000, Effort.FULL: 1_000_000}
ALLOWED_GROWTH: Final = 0.10
ALLOWED_MB: Final = 8.0


def book(bench: Bench, first: int, last: int) -> None:
    """Book batches from one count of reports to another."""
    for sent in range(first, last, BATCH):
        runtime = bench.runtimes[sent // BATCH % AGENTS]
        bench.store.write(runtime.report_batch(some_reports(runtime)))


def measure(effort: Effort) -> Measured:
    """Book the reports and look at the memory on the way."""
    count = REPORTS[effort]
    found = {}
    with fresh() as bench:
        booked = 0
        for percent in (0, 10, 50, 100):
            book(bench, booked, booked := count * percent // 100)
            found[f"at {percent} %"] = memory_mb()
        bench.check_booked(count)
    found["growth"] = found["at 100 %"] - found["at 50 %"]
    allowed = ALLOWED_GROWTH * found["at 50 %"] + ALLOWED_MB
    lines = (
        *(Line(f"resident at {percent} % of the reports", f"at {percent} %", "MB") for percent in (0, 10, 50)),
        Line("  at 100 %, against 10 %", "at 100 %", "MB", yardstick="at 10 %"),
        Line(f"growth in the second half; {ALLOWED_GROWTH:.0%} and {ALLOWED_MB:.0f} MB are allowed", "growth", "MB",
             asked=most(allowed, "asked of the store")),
    )  # fmt: skip
    return Measured(f"{count:,} reports", rows_of(lines, [found]))
