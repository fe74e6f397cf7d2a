"""What it costs when many leases expire at one instant.

A server process on a database of agents with an open lease each takes reports of other agents over 16 connections,
before all those leases end and until they have ended, or for two minutes. Servers are started with all leases due and
with none.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from benchmarks.driving import connected, exchange, report_request
from benchmarks.scale_data import end_all, open_leases
from benchmarks.serving import Desk, Runtime, serving
from benchmarks.setup import Effort, scratch
from benchmarks.table import Figures, Line, Measured, most, rows_of
from benchmarks.timing import percentiles
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_S, Instant
from ironcage_storage.sqlite.connection import connect
from ironcage_storage.system import SystemClock

LEASES: Final[Mapping[Effort, int]] = {Effort.QUICK: 2_000, Effort.NORMAL: 10_000, Effort.FULL: 1_000_000}
"""Open leases; a multiple of 100."""

CONNECTIONS: Final = 16
BEFORE_S: Final = 6
UPDATED_PER_S: Final = 50_000
"""At least so many leases get another end in a second, before reports come."""

LONGEST_S: Final = 120
POLL_S: Final = 0.05
_SOURCE: Final = "asked of the sweep"
_now: Final = SystemClock().now

LINES: Final = (
    Line("reports meanwhile, p50, against before", "during p50", "ms", "before p50"),
    Line("reports meanwhile, p99, against before", "during p99", "ms", "before p99", most(3, _SOURCE)),
    Line("reports meanwhile, the longest, against before", "longest", "ms", "longest before"),
    Line("reports meanwhile", "reports"),
    Line("leases that end", "ended"),
    Line("first healthy answer with all due, against none", "start due", "s", "start", most(1.5, _SOURCE)),
)


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

    def figures(self) -> Figures:
        """Return what is shown of it."""
        return {
            **percentiles(self.before).named("before"),
            **percentiles(self.during).named("during"),
            "longest before": max(self.before) * 1000,
            "longest": max(self.during) * 1000,
            "reports": len(self.during) / self.seconds,
            "ended": self.ended / self.seconds,
        }


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
    samples = []
    async with connected(port) as connection:
        while not progress.is_over:
            for runtime in mine:
                at = perf_counter()
                samples.append(Sample(at, await exchange(connection, report_request(runtime))))
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
        with Desk(served.port) as desk:
            found = desk.runtimes()
        due_at = _now() + (BEFORE_S + leases // UPDATED_PER_S) * MS_PER_S
        end_all(path, at=due_at)
        return asyncio.run(_driven(served.port, found, Progress(path, leases), due_at))


def seconds_to_start(path: Path, *, ends_at: Instant) -> float:
    """Return how long a server takes to its first healthy answer if the open leases end at an instant."""
    end_all(path, at=ends_at)
    with serving(path) as served:
        return served.seconds_to_start


def measure(effort: Effort) -> Measured:
    """Start servers in each round, and let all leases end once."""
    leases = LEASES[effort]
    with scratch() as folder:
        path = folder / "sweep.db"
        later = _now() + MS_PER_DAY
        open_leases(path, leases, now=_now(), ends_at=later)
        rounds: list[Figures] = [
            {
                "start": seconds_to_start(path, ends_at=later),
                "start due": seconds_to_start(path, ends_at=_now()),
            }
            for _ in range(effort.rounds)
        ]
        rounds.append(sweep(path, leases).figures())
    return Measured(f"{leases:,} leases", rows_of(LINES, rounds))
