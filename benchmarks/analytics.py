"""Measure what questions of analytics cost with a long history against a short one: `-m benchmarks.analytics [--full]`.

The same 90 days, 50 agents and 5 models in both, and many times as many calls in one. Each is served by a process of
its own; every round asks both every question over one connection each; ratios are within a round, and what is shown is
the median of three rounds. Exits with 1 if a target is missed.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.analytics_data import database
from benchmarks.scale import Server, in_rounds
from benchmarks.setup import ROUNDS

RATIO: Final = 1.5
P95_MS: Final = 50.0
SIZES: Final = {False: (50_000, 500_000), True: (50_000, 5_000_000)}
"""Calls of the short and of the long history; whether the run is full."""

_AGENT: Final = f"agent_{7:032x}"
_OWNER: Final = f"user_{3:032x}"

QUESTIONS: Final = (
    "/analytics/spending/total",
    "/analytics/spending/by-agent",
    "/analytics/spending/by-provider",
    "/analytics/spending/avg-per-request",
    "/analytics/usage/requests?period=all-time",
    "/analytics/usage/tokens/by-agent",
    "/analytics/usage/models",
    "/analytics/budget/status",
    "/analytics/spending/by-period",
    "/analytics/spending/by-period?bucket=day&group_by=agent&period=last-90-days",
    "/analytics",
    "/analytics/spending",
    "/analytics/usage",
    "/analytics/usage/by-agent",
    "/analytics/usage/by-provider",
    "/analytics/metrics",
    "/analytics/errors",
    "/analytics/spending/total?period=last-24-hours",
    "/analytics/spending/avg-per-request?period=last-90-days&model=model-3",
    f"/analytics/spending/avg-per-request?user_id={_OWNER}",
    f"/analytics/metrics?agent_id={_AGENT}",
    f"/analytics/usage/models?agent_id={_AGENT}&period=last-30-days",
)


class Cost(NamedTuple):
    """Milliseconds of one answer: the median of the short history, and of the long one the median and the 95th."""

    short: float
    long: float
    long_p95: float


def measure(short: Server, long: Server) -> dict[str, Cost]:
    """Return what each question costs."""
    found = {}
    for path in QUESTIONS:
        timed = long.timed(path)
        found[path] = Cost(short.milliseconds(path), timed.p50, timed.p95)
    return found


def show(rounds: Sequence[Mapping[str, Cost]], sizes: tuple[int, int]) -> bool:
    """Print the table; return whether every target is met."""
    table = Table(title=f"{sizes[0]:,} calls against {sizes[1]:,}, median of {ROUNDS} rounds")
    for heading in ("", "short ms", "long ms", f"long/short <= {RATIO}", f"p95 ms <= {P95_MS:.0f}"):
        table.add_column(heading, justify="left" if not heading else "right", overflow="fold")
    all_met = True
    for path in QUESTIONS:
        costs = [figures[path] for figures in rounds]
        ratio = statistics.median(cost.long / cost.short for cost in costs)
        short, long, p95 = (statistics.median(getattr(cost, field) for cost in costs) for field in Cost._fields)
        all_met = all_met and ratio <= RATIO and p95 <= P95_MS
        table.add_row(path, f"{short:.2f}", f"{long:.2f}", f"{ratio:.2f}", f"{p95:.1f}")
    Console(width=140).print(table)
    return all_met


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="5,000,000 in the long one; writes some gigabytes once")
    sizes = SIZES[parser.parse_args().full]
    sys.exit(0 if show(in_rounds(database, sizes, measure), sizes) else 1)


if __name__ == "__main__":
    main()
