"""Measure the store and hold it against its targets: `python -m benchmarks.run [--quick] [--json PATH]`.

Three rounds of all scenarios, one after the other, so that noise of the machine hits all alike; a figure is the
median of its rounds, and so is a ratio.
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.scenarios import CALLERS, FULL, QUICK, Figures, Sizes, scenarios
from benchmarks.setup import AGENTS, BATCH, RESULTS, ROUNDS

MIN_WIDTH: Final = 110


@dataclass(frozen=True, slots=True)
class Line:
    """What a row shows: a figure, what it is divided by, and the least it should be."""

    name: str
    figure: str
    unit: str = "/s"
    yardstick: str | None = None
    target: float | None = None


LINES: Final = (
    Line(f"single reports, {CALLERS} async callers", "single", target=8000),
    Line("  p50 latency", "single p50", "ms"),
    Line("  p99 latency", "single p99", "ms"),
    Line("  against one commit each", "single", yardstick="one each", target=3),
    Line("  with random request ids", "single random", yardstick="single"),
    Line(f"single reports, {CALLERS} threads", "threaded", yardstick="single"),
    Line(f"reports in batches of {BATCH}", "batch", target=20_000),
    Line("  against raw sqlite3", "batch", yardstick="batch raw", target=0.25),
    Line("  with random request ids", "batch random", yardstick="batch"),
    Line("  raw sqlite3, random request ids", "batch random raw", yardstick="batch raw"),
    Line("  duplicates", "duplicates", yardstick="batch"),
    Line(f"handshakes, {CALLERS} async callers", "handshake"),
    Line("  p99 latency", "handshake p99", "ms"),
    Line(f"refreshes, {CALLERS} async callers", "refresh"),
    Line("  p99 latency", "refresh p99", "ms"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One result. The target is of the ratio where there is a yardstick, else of the figure."""

    name: str
    figure: float
    unit: str
    yardstick: float | None
    ratio: float | None
    target: float | None
    met: bool | None
    rounds: Sequence[float]


def measure(sizes: Sizes, console: Console) -> list[dict[str, float]]:
    """Return the figures of each round."""
    work = scenarios(sizes)
    rounds: list[dict[str, float]] = []
    with console.status("") as status:
        for number in range(1, ROUNDS + 1):
            figures: dict[str, float] = {}
            for index, scenario in enumerate(work, start=1):
                status.update(f"round {number} of {ROUNDS}, scenario {index} of {len(work)}")
                figures.update(scenario())
            rounds.append(figures)
    return rounds


def row_of(line: Line, rounds: Sequence[Figures]) -> Row:
    """Return a row: medians over the rounds."""
    values = [figures[line.figure] for figures in rounds]
    figure = statistics.median(values)
    yardstick = ratio = None
    if line.yardstick is not None:
        against = [figures[line.yardstick] for figures in rounds]
        yardstick = statistics.median(against)
        ratio = statistics.median(value / other for value, other in zip(values, against, strict=True))
    judged = figure if ratio is None else ratio
    met = None if line.target is None else judged >= line.target
    return Row(line.name.strip(), figure, line.unit, yardstick, ratio, line.target, met, values)


def show(rows: Sequence[Row], console: Console, title: str) -> None:
    """Print the table."""
    table = Table(title=title)
    table.add_column("", no_wrap=True)
    for heading in ("figure", "unit", "yardstick", "ratio", "target", "met", "spread"):
        table.add_column(heading, justify="left" if heading in {"unit", "met"} else "right", no_wrap=True)
    for line, row in zip(LINES, rows, strict=True):
        met = "" if row.met is None else "[green]yes[/]" if row.met else "[red]no[/]"
        numbers = [_number(value) for value in (row.yardstick, row.ratio, row.target)]
        spread = f"{(max(row.rounds) - min(row.rounds)) / row.figure:.0%}"
        table.add_row(line.name, _number(row.figure), row.unit, *numbers, met, spread)
    console.print(table)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def save(rows: Sequence[Row], path: Path, *, quick: bool, seconds: float) -> None:
    """Write the results and what they were measured on as JSON."""
    machine = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "quick": quick,
        "seconds": round(seconds, 1),
        "rounds": ROUNDS,
        "agents": AGENTS,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the work or less; figures vary more")
    parser.add_argument("--json", type=Path, default=RESULTS / "latest.json", help="where to write the results")
    arguments = parser.parse_args()
    console = Console(width=max(MIN_WIDTH, Console().width))
    start = perf_counter()
    rounds = measure(QUICK if arguments.quick else FULL, console)
    seconds = perf_counter() - start
    rows = [row_of(line, rounds) for line in LINES]
    show(rows, console, f"{ROUNDS} rounds, median; {seconds:.0f} s")
    save(rows, arguments.json, quick=arguments.quick, seconds=seconds)
    console.print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
