"""The store without HTTP: reports, handshakes and refreshes against commits of one each and against raw SQLite."""

from typing import Final

from benchmarks.scenarios import CALLERS, QUICK, USUAL, scenarios
from benchmarks.setup import AGENTS, BATCH, Effort
from benchmarks.table import Line, Measured, least, rows_of

_SOURCE: Final = "asked of the store"

LINES: Final = (
    Line(f"reports one by one, {CALLERS} async callers", "single", asked=least(8_000, _SOURCE)),
    Line("  p50", "single p50", "ms"),
    Line("  p99", "single p99", "ms"),
    Line("  against one commit each", "single", yardstick="one each", asked=least(3, _SOURCE)),
    Line("  with random request ids, against ordered", "single random", yardstick="single"),
    Line(f"  from {CALLERS} threads, against callers", "threaded", yardstick="single"),
    Line(f"reports in batches of {BATCH:,}", "batch", asked=least(20_000, _SOURCE)),
    Line("  against raw SQLite", "batch", yardstick="batch raw", asked=least(0.25, _SOURCE)),
    Line("  with random request ids, against ordered", "batch random", yardstick="batch"),
    Line("  duplicates, against new ones", "duplicates", yardstick="batch"),
    Line("raw SQLite, random request ids against ordered", "batch random raw", yardstick="batch raw"),
    Line(f"handshakes, {CALLERS} async callers", "handshake"),
    Line("  p99", "handshake p99", "ms"),
    Line(f"refreshes, {CALLERS} async callers", "refresh"),
    Line("  p99", "refresh p99", "ms"),
)


def measure(effort: Effort) -> Measured:
    """Run all scenarios in each round, one after the other."""
    work = scenarios(QUICK if effort is Effort.QUICK else USUAL)
    rounds = [{name: value for run in work for name, value in run().items()} for _ in range(effort.rounds)]
    return Measured(f"{AGENTS} agents", rows_of(LINES, rounds))
