"""Book many reports and watch the memory: `python -m benchmarks.memory [--reports N] [--quick]`.

Exits with 1 if the second half of the run grows by more than 10 % and 8 MB.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.setup import AGENTS, BATCH, Bench, fresh, some_reports

REPORTS: Final = 1_000_000
QUICK_REPORTS: Final = 100_000
SAMPLE_EVERY: Final = 50_000
ALLOWED_GROWTH: Final = 0.10
ALLOWED_MB: Final = 8.0

_MB: Final = 1 << 20
_MIN_SAMPLES: Final = 10
_BAR_CHARS: Final = 40


class Sample(NamedTuple):
    """The resident memory when so many reports were booked."""

    reports: int
    resident_mb: float
    seconds: float


def resident_mb(pid: int | None = None) -> float:
    """Return the resident memory of a process, or of this one."""
    pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB


def watch(bench: Bench, count: int) -> list[Sample]:
    """Book `count` reports in batches and return the samples on the way, the first and the last included."""
    every = max(BATCH, min(SAMPLE_EVERY, count // _MIN_SAMPLES))
    start = perf_counter()
    samples = [Sample(0, resident_mb(), 0.0)]
    for sent in range(0, count, BATCH):
        runtime = bench.runtimes[sent // BATCH % AGENTS]
        bench.store.write(runtime.report_batch(some_reports(runtime)))
        booked = sent + BATCH
        if booked % every == 0 or booked == count:
            samples.append(Sample(booked, resident_mb(), perf_counter() - start))
    bench.check_booked(count)
    return samples


def at_share(samples: Sequence[Sample], share: float) -> Sample:
    """Return the first sample at or behind a share of the run."""
    return next(sample for sample in samples if sample.reports >= share * samples[-1].reports)


def show(samples: Sequence[Sample], console: Console) -> None:
    """Print the curve."""
    table = Table(title="resident memory")
    for heading in ("reports", "MB", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("")
    peak = max(sample.resident_mb for sample in samples)
    for sample in samples:
        bar = "#" * round(_BAR_CHARS * sample.resident_mb / peak)
        table.add_row(f"{sample.reports:,}", f"{sample.resident_mb:.1f}", f"{sample.seconds:.1f}", bar)
    console.print(table)


def judge(samples: Sequence[Sample], console: Console) -> bool:
    """Print how much the memory grew, and return whether that is little enough."""
    tenth, half, last = at_share(samples, 0.1), at_share(samples, 0.5), samples[-1]
    growth = last.resident_mb - tenth.resident_mb
    console.print(f"from 10 % to 100 %: {growth:+.1f} MB ({growth / tenth.resident_mb:+.1%})")
    limit = half.resident_mb * (1 + ALLOWED_GROWTH) + ALLOWED_MB
    is_flat = last.resident_mb <= limit
    verdict = "[green]flat[/]" if is_flat else "[red]it grows[/]"
    console.print(f"second half: {half.resident_mb:.1f} -> {last.resident_mb:.1f} MB, limit {limit:.1f} MB: {verdict}")
    return is_flat


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--reports", type=int, default=REPORTS, help="how many; rounded down to whole batches")
    amount.add_argument("--quick", action="store_true", help=f"book {QUICK_REPORTS:,} only")
    arguments = parser.parse_args()
    count = (QUICK_REPORTS if arguments.quick else arguments.reports) // BATCH * BATCH
    if count < _MIN_SAMPLES * BATCH:
        parser.error(f"--reports must be at least {_MIN_SAMPLES * BATCH}")
    console = Console()
    with fresh() as bench:
        samples = watch(bench, count)
    show(samples, console)
    sys.exit(0 if judge(samples, console) else 1)


if __name__ == "__main__":
    main()
