"""Measure what it costs when many leases expire at one instant: `python -m benchmarks.sweep [--leases N | --full]`.

A server process on a database of 10,000 agents with an open lease each (`--full`: 1,000,000) takes reports of other
agents over 16 connections, before all those leases end and until they have ended, or for two minutes. Then servers are
started with all leases due and with none. Exits with 1 if a ratio is above its target.
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.over_http import Runtime, exchange, prepared, report, request, serving
from benchmarks.scale_data import end_all, open_leases
from benchmarks.setup import ROUNDS, scratch
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_S, Instant
from ironcage_storage.sqlite.connection import connect
from ironcage_storage.system import SystemClock

LEASES: Final = {False: 10_000, True: 1_000_000}
"""Open leases; whether the run is full."""

CONNECTIONS: Final = 16
BEFORE_S: Final = 6
UPDATED_PER_S: Final = 50_000
"""At least so many leases get another end in a second, before reports come."""

LONGEST_S: Final = 120
POLL_S: Final = 0.05
P99_TARGET: Final = 3.0
START_TARGET: Final = 1.5
_now: Final = SystemClock().now


class Sample(NamedTuple):
    """When a report was sent, and how long its answer took, in seconds."""

    at: float
    latency: float


class Swept(NamedTuple):
    """The latencies of reports before and during the sweep, its seconds, and the leases that have ended in them."""

    before: Sequence[float]
    during: Sequence[float]
    seconds: float
    ended: int


class Progress:
    """How many leases have ended, as another process reads it from the database."""

    def __init__(self, path: Path, leases: int) -> None:
        self._connection = connect(str(path), read_only=True)
        self._leases = leases
        self._earlier = self._closed()
        self.ended = 0
        self.started_at: float | None = None
        self.is_over = False

    def _closed(self) -> int:
        row = self._connection.execute("SELECT n FROM lease_totals WHERE status = 'closed'").fetchone()
        return int(row[0]) if row else 0

    async def watch(self, due_at: Instant) -> None:
        """Look until all have ended."""
        while not self.is_over:
            await asyncio.sleep(POLL_S)
            closed = self._closed()
            self.ended = closed - self._earlier
            if self.ended and self.started_at is None:
                self.started_at = perf_counter()
            self.is_over = closed == self._leases or _now() > due_at + LONGEST_S * MS_PER_S
        self._connection.close()


async def _reports(port: int, mine: Sequence[Runtime], progress: Progress) -> list[Sample]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    samples = []
    while not progress.is_over:
        for runtime in mine:
            at = perf_counter()
            content = request("/api/v1/budget/report", report(runtime), runtime.credential)
            samples.append(Sample(at, await exchange(reader, writer, content)))
    writer.close()
    return samples


async def _driven(port: int, found: Sequence[Runtime], progress: Progress, due_at: Instant) -> Swept:
    driving = [_reports(port, found[first::CONNECTIONS], progress) for first in range(CONNECTIONS)]
    due = perf_counter() + (due_at - _now()) / MS_PER_S
    watching = asyncio.create_task(progress.watch(due_at))
    driven = await asyncio.gather(*driving)
    await watching
    over = perf_counter()
    start = progress.started_at
    if start is None:
        raise RuntimeError("no lease has ended")
    samples = [sample for each in driven for sample in each]
    warm = due - BEFORE_S / 2
    return Swept(
        [latency for at, latency in samples if warm <= at < due],
        [latency for at, latency in samples if at >= start - POLL_S],
        over - start,
        progress.ended,
    )


def sweep(path: Path, leases: int) -> Swept:
    """Return what reports took before all open leases of the database ended and while they did."""
    end_all(path, at=_now() + MS_PER_DAY)
    with serving(path) as served:
        found, _ = prepared(served.port)
        due_at = _now() + (BEFORE_S + leases // UPDATED_PER_S) * MS_PER_S
        end_all(path, at=due_at)
        return asyncio.run(_driven(served.port, found, Progress(path, leases), due_at))


def seconds_to_start(path: Path, *, ends_at: Instant) -> float:
    """Return how long a server takes to its first healthy answer if the open leases end at an instant."""
    end_all(path, at=ends_at)
    with serving(path) as served:
        return served.seconds_to_start


def show(swept: Swept, starts: Sequence[tuple[float, float]], leases: int) -> bool:
    """Print the tables; return whether every target is met."""
    before, during = (statistics.quantiles(each, n=100) for each in (swept.before, swept.during))
    none, due = (statistics.median(each) for each in zip(*starts, strict=True))
    start_ratio = statistics.median(with_all / with_none for with_none, with_all in starts)
    table = Table(title=f"{leases:,} leases that expire at one instant")
    for heading in ("", "without", "with", "ratio", "target"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, cut, target in (("p50 of reports, ms", 49, None), ("p99 of reports, ms", 98, P99_TARGET)):
        ratio = f"{during[cut] / before[cut]:.2f}"
        table.add_row(name, f"{before[cut] * 1000:.1f}", f"{during[cut] * 1000:.1f}", ratio, str(target or ""))
    table.add_row("first healthy answer, s", f"{none:.2f}", f"{due:.2f}", f"{start_ratio:.2f}", str(START_TARGET))
    console = Console(width=110)
    console.print(table)
    console.print(
        f"{swept.ended:,} leases ended in {swept.seconds:.1f} s, {swept.ended / swept.seconds:,.0f} a second, "
        f"beside {len(swept.during) / swept.seconds:,.0f} reports a second; the longest took "
        f"{max(swept.during) * 1000:.0f} ms, before that {max(swept.before) * 1000:.0f} ms"
    )
    return during[98] <= before[98] * P99_TARGET and start_ratio <= START_TARGET


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="1,000,000 leases; takes some gigabytes for a while")
    parser.add_argument("--leases", type=int, help="so many leases; a multiple of 100")
    arguments = parser.parse_args()
    leases = arguments.leases or LEASES[arguments.full]
    with scratch() as folder:
        path = folder / "sweep.db"
        later = _now() + MS_PER_DAY
        open_leases(path, leases, now=_now(), ends_at=later)
        starts = [
            (seconds_to_start(path, ends_at=later), seconds_to_start(path, ends_at=_now())) for _ in range(ROUNDS)
        ]
        swept = sweep(path, leases)
    sys.exit(0 if show(swept, starts, leases) else 1)


if __name__ == "__main__":
    main()
