"""Measure everything in one run and show it as one table: `python -m benchmarks.all [--quick | --full] [--only PART]`.

Each part runs in a process of its own, one after the other. A part that fails is a row that says so, and the others
still run. Exits with 1 if a part has failed, with `--strict` also if
something is not as asked.
"""

import argparse
import os
import platform
import sqlite3
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from rich.console import Console

from benchmarks import analytics, memory, over_http, runtime, scale, sockets, store, sweep
from benchmarks.setup import RESULTS, Effort
from benchmarks.table import Group, Measured, asked_of, failed, markdown, show, to_json

MIN_WIDTH: Final = 130


class Part(NamedTuple):
    """Some figures that are measured together."""

    name: str
    title: str
    measure: Callable[[Effort], Measured]


PARTS: Final = (
    Part("store", "The store", store.measure),
    Part("http", "The server over HTTP", over_http.measure),
    Part("lists", "Lists and totals, large against small", scale.measure),
    Part("analytics", "Questions of analytics, long history against short", analytics.measure),
    Part("sweep", "Leases that expire at one instant", sweep.measure),
    Part("sockets", "The live feed", sockets.measure),
    Part("runtime", "A runtime's own side", runtime.measure),
    Part("memory", "Memory of a store that books", memory.measure),
)


def apart(measure: Callable[[Effort], Measured], effort: Effort) -> Measured:
    """Measure in a process of its own, so that the memory of one part is not that of the next."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, effort).result()


def measured(part: Part, effort: Effort) -> Group:
    """Measure a part; if that fails, the only row says why."""
    start = perf_counter()
    try:
        found = apart(part.measure, effort)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts still run
        traceback.print_exception(error)
        return Group(part.name, part.title, perf_counter() - start, [failed(error)])
    return Group(part.name, f"{part.title}: {found.extent}", perf_counter() - start, found.rows)


def run(parts: Sequence[Part], effort: Effort) -> list[Group]:
    """Measure the parts, and tell on stderr how far it is."""
    groups = []
    for place, part in enumerate(parts, start=1):
        _tell(f"[{place}/{len(parts)}] {part.name} ...")
        group = measured(part, effort)
        outcome = "FAILED" if group.has_failed else f"{len(group.rows)} rows"
        _tell(f"[{place}/{len(parts)}] {part.name}: {outcome}, {group.seconds:.0f} s")
        groups.append(group)
    return groups


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def machine(effort: Effort) -> dict[str, object]:
    """Return what figures depend on."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "effort": effort,
        "rounds": effort.rounds,
    }


def summary(groups: Sequence[Group], about: Mapping[str, object]) -> str:
    """Return how it was measured, how much is as asked, and which parts have failed."""
    asked, not_run = asked_of(groups), [group.name for group in groups if group.has_failed]
    return (
        f"A {about['effort']} run, rounds: {about['rounds']}, {sum(group.seconds for group in groups):.0f} s; "
        f"Python {about['python']}, SQLite {about['sqlite']}, {about['cpus']} CPUs, load {about['load']} before. "
        f"{sum(row.met is True for row in asked)} of {len(asked)} as asked."
        + (f" Failed: {', '.join(not_run)}." if not_run else "")
    )


def arguments(parts: Sequence[Part]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    effort = parser.add_mutually_exclusive_group()
    for each, meaning in (
        (Effort.QUICK, "one small round, to see that it works; the figures mean little"),
        (Effort.FULL, "the largest databases, some gigabytes, which are made once and kept"),
    ):
        effort.add_argument(f"--{each}", dest="effort", action="store_const", const=each, help=meaning)
    names = [part.name for part in parts]
    parser.add_argument("--only", action="append", choices=names, help="a part; may be given several times")
    parser.add_argument("--json", type=Path, default=RESULTS / "latest.json", help="where to write the results")
    parser.add_argument("--markdown", type=Path, default=RESULTS / "latest.md", help="where to write the table")
    parser.add_argument("--strict", action="store_true", help="exit with 1 also if something is not as asked")
    parser.set_defaults(effort=Effort.NORMAL)
    return parser.parse_args()


def main(parts: Sequence[Part] = PARTS) -> int:
    """Run from the command line and return the exit code."""
    given = arguments(parts)
    about = machine(given.effort)
    groups = run([part for part in parts if given.only is None or part.name in given.only], given.effort)
    caption = summary(groups, about)
    show(groups, Console(width=max(MIN_WIDTH, Console().width)), caption)
    for path, text in ((given.json, to_json(groups, about)), (given.markdown, markdown(groups, caption))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        _tell(f"written to {path}")
    is_bad = any(group.has_failed for group in groups)
    return int(is_bad or (given.strict and not all(row.met for row in asked_of(groups))))


if __name__ == "__main__":
    sys.exit(main())
