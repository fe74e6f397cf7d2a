"""Profile a server process under load: `python -m benchmarks.profile --path report|handshake [--seconds N]`.

py-spy looks at the process from outside, a hundred times a second, while 64 connections keep it busy; the client runs
in this process. Shown is own time: the share of the samples in which a function was innermost, grouped by layer. C
code counts as the Python function that called it, so the time of SQL is that of the storage's functions, and garbage
collection is where it happened to begin; with `--native` C functions stand for themselves, and all gets slower.

What was seen is kept as folded stacks, which flame graph viewers read; `--against` shows an earlier run beside this
one. Whoever runs it must have the right to trace the process.
"""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.driving import drive_all, handshake_request, report_request
from benchmarks.layers import Profile, read_profile
from benchmarks.serving import Desk, Runtime, fresh_server
from benchmarks.setup import CONNECTIONS, RESULTS, scratch

AGENTS: Final = 640
"""So many that each takes a few leases only, however many handshakes there are."""

PATHS: Final[Mapping[str, Callable[[Runtime], bytes]]] = {"report": report_request, "handshake": handshake_request}
WARM_UP_S: Final = 1.0
BEHIND_S: Final = 0.5
RATE: Final = 100
TOP: Final = 6
"""Functions that are shown of each layer."""

SPY: Final = Path(sys.executable).with_name("py-spy")


async def _load(port: int, found: Sequence[Runtime], make: Callable[[Runtime], bytes], seconds: float) -> int:
    """Keep the connections busy, each with agents of its own, and return how many answers came."""
    end = perf_counter() + seconds

    def requests(mine: Sequence[Runtime]) -> Iterator[bytes]:
        while True:
            for runtime in mine:
                if perf_counter() >= end:
                    return
                yield make(runtime)

    return len(await drive_all(port, [requests(found[first::CONNECTIONS]) for first in range(CONNECTIONS)]))


def record(path: str, seconds: int, output: Path, *, is_native: bool) -> float:
    """Write the folded stacks of a server that is called on a path, and return its answers per second."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with scratch() as folder, fresh_server(folder) as served:
        with Desk(served.port) as desk:
            found = desk.runtimes(AGENTS)
        asyncio.run(_load(served.port, found, PATHS[path], WARM_UP_S))
        command = [
            str(SPY), "record", "--pid", str(served.pid), "--duration", str(seconds), "--rate", str(RATE),
            "--format", "raw", "--full-filenames", "--nolineno", "--output", str(output),
            *(["--native"] if is_native else []),
        ]  # fmt: skip
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603
        answers = asyncio.run(_load(served.port, found, PATHS[path], seconds + BEHIND_S))
        _, errors = spy.communicate(timeout=60)
    if spy.returncode:
        raise RuntimeError(f"py-spy could not look at the server: {errors.strip()}")
    return answers / (seconds + BEHIND_S)


def show(title: str, now: Profile, earlier: Profile | None, top: int) -> None:
    """Print the layers, and the functions that took the most of each."""
    table = Table(title=title)
    table.add_column("own time")
    for heading in ("share", *(["earlier"] if earlier else [])):
        table.add_column(heading, justify="right")

    def row(name: str, share: float, before: float | None) -> None:
        if share >= 0.0005 or (before or 0.0) >= 0.0005:
            table.add_row(name, f"{share:.1%}", *([] if before is None else [f"{before:.1%}"]))

    for layer in sorted(now.layers() | (earlier.layers() if earlier else set()), key=now.share, reverse=True):
        row(f"[bold]{escape(layer)}[/]", now.share(layer), earlier.share(layer) if earlier else None)
        for function in now.hottest(layer, top):
            before = earlier.share(layer, function) if earlier else None
            row(f"  {escape(function)}", now.share(layer, function), before)
        table.add_section()
    Console(width=max(110, Console().width)).print(table)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--path", choices=list(PATHS), default="report", help="what the server is asked")
    parser.add_argument("--seconds", type=int, default=15, help="for how long")
    parser.add_argument("--top", type=int, default=TOP, help="how many functions of each layer are shown")
    parser.add_argument("--native", action="store_true", help="look into C code too")
    parser.add_argument("--output", type=Path, help="where to keep the stacks; bench-results/profile-PATH.raw")
    parser.add_argument("--against", type=Path, help="stacks of an earlier run to show beside")
    given = parser.parse_args()
    earlier = read_profile(given.against) if given.against else None  # it may be the file that is written
    output = given.output or RESULTS / f"profile-{given.path}.raw"
    rate = record(given.path, given.seconds, output, is_native=given.native)
    now = read_profile(output)
    title = f"{given.path}: {rate:,.0f} answers a second while watched, {now.samples:,} samples"
    show(title, now, earlier, given.top)
    print(f"stacks are in {output}")


if __name__ == "__main__":
    main()
