"""Profile the report path: `python -m benchmarks.profile [--reports N] [--top N]`.

Three tables by own time: batches in one thread; then single reports from many callers, once seen from the writer's
thread and once from the event loop's. A profile of Python 3.11 sees the thread that enabled it and no other; waiting
for the other thread counts as time of whatever was running.
"""

import argparse
import asyncio
import cProfile
import pstats
from typing import Final

from benchmarks.setup import BATCH, Bench, fresh, single_calls, some_reports

CALLERS: Final = 64
REPORTS: Final = 20_000
TOP: Final = 25


def profile_batches(bench: Bench, count: int) -> cProfile.Profile:
    """Book batches in this thread: what the writer's thread does, without the queue."""
    profiler = cProfile.Profile()
    for index in range(max(1, count // BATCH)):
        runtime = bench.runtimes[index % len(bench.runtimes)]
        reports = some_reports(runtime)
        profiler.enable()
        with bench.store.transaction() as uow:
            runtime.report_batch(reports)(uow)
        profiler.disable()
    return profiler


async def _send_singles(bench: Bench, count: int) -> None:
    calls = single_calls(bench.runtimes, count)

    async def call(first: int) -> None:
        for runtime, reported in calls[first::CALLERS]:
            await bench.store.write_async(runtime.report(reported))

    await asyncio.gather(*(call(first) for first in range(CALLERS)))


def profile_writer(bench: Bench, count: int) -> cProfile.Profile:
    """Book single reports and watch the writer's thread: units of work that switch the profiler run in it."""
    profiler = cProfile.Profile()
    bench.store.write(lambda _: profiler.enable())
    asyncio.run(_send_singles(bench, count))
    bench.store.write(lambda _: profiler.disable())
    return profiler


def profile_loop(bench: Bench, count: int) -> cProfile.Profile:
    """Book single reports and watch the event loop's thread."""
    profiler = cProfile.Profile()
    profiler.runcall(asyncio.run, _send_singles(bench, count))
    return profiler


def show(title: str, profiler: cProfile.Profile, top: int) -> None:
    """Print the functions with the most own time."""
    print(f"\n=== {title}")
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(top)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=REPORTS, help="how many to book on each path")
    parser.add_argument("--top", type=int, default=TOP, help="how many functions to print")
    arguments = parser.parse_args()
    count: int = arguments.reports
    for title, profiled in (
        (f"report_batch, {BATCH} reports each", profile_batches),
        (f"write_async, {CALLERS} callers: the writer's thread", profile_writer),
        (f"write_async, {CALLERS} callers: the event loop's thread", profile_loop),
    ):
        with fresh() as bench:
            profiler = profiled(bench, count)
        show(title, profiler, arguments.top)


if __name__ == "__main__":
    main()
