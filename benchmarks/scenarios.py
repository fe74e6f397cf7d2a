"""What is measured: each scenario runs once on a fresh database and returns its figures by name."""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from benchmarks.setup import (
    AGENTS,
    BATCH,
    Bench,
    NewName,
    Runtime,
    fresh,
    opened,
    ordered_name,
    random_name,
    scratch,
    single_calls,
    some_reports,
)
from benchmarks.table import Figures
from benchmarks.timing import percentiles, undisturbed
from ironcage_core.domain.usage import UsageReport
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.leasing import Denied, refresh
from ironcage_storage.sqlite.connection import connect
from ironcage_storage.sqlite.schema import migrate
from ironcage_storage.sqlite.store import MAX_BATCH
from tests.support.world import USD

CALLERS: Final = 64
_HANDSHAKES_PER_AGENT: Final = 10
_DUPLICATED: Final = 10

Latencies = list[float]
RowBatch = list[tuple[str, list[tuple[object, ...]]]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work each scenario does once."""

    singles: int
    threaded: int
    one_each: int
    batches: int
    handshakes: int
    refreshes: int
    duplicate_batches: int


USUAL: Final = Sizes(8_000, 4_000, 2_500, 40, 1_500, 1_500, 30)
QUICK: Final = Sizes(1_000, 500, 250, 4, 250, 320, 5)


async def _together(callers: Sequence[Coroutine[Any, Any, Latencies]]) -> tuple[float, Latencies]:
    """Run callers at once and return how long all took, and each of their calls, in seconds."""
    start = perf_counter()
    found = await asyncio.gather(*callers)
    seconds = perf_counter() - start
    return seconds, [latency for latencies in found for latency in latencies]


def _measured(name: str, callers: Sequence[Coroutine[Any, Any, Latencies]]) -> Figures:
    with undisturbed():
        seconds, latencies = asyncio.run(_together(callers))
    return {name: len(latencies) / seconds, **percentiles(latencies).named(name)}


async def _report_each(bench: Bench, calls: Sequence[tuple[Runtime, UsageReport]]) -> Latencies:
    latencies = []
    for runtime, reported in calls:
        start = perf_counter()
        await bench.store.write_async(runtime.report(reported))
        latencies.append(perf_counter() - start)
    return latencies


def singles(name: str, count: int, *, new_name: NewName = ordered_name, max_batch: int = MAX_BATCH) -> Figures:
    """Book reports one by one from many callers on one event loop."""
    with fresh(max_batch=max_batch) as bench:
        calls = single_calls(bench.runtimes, count, new_name)
        figures = _measured(name, [_report_each(bench, calls[first::CALLERS]) for first in range(CALLERS)])
        bench.check_booked(count)
    return figures


def threaded(name: str, count: int) -> Figures:
    """Book reports one by one from many threads."""
    with fresh() as bench, ThreadPoolExecutor(CALLERS) as threads:

        def work(calls: Sequence[tuple[Runtime, UsageReport]]) -> None:
            for runtime, reported in calls:
                bench.store.write(runtime.report(reported))

        calls = single_calls(bench.runtimes, count)
        with undisturbed():
            start = perf_counter()
            list(threads.map(work, [calls[first::CALLERS] for first in range(CALLERS)]))
            seconds = perf_counter() - start
        bench.check_booked(count)
    return {name: count / seconds}


def _send_batches(bench: Bench, count: int, new_name: NewName) -> float:
    """Send batches, one agent after the other, and return the seconds spent in the store."""
    seconds = 0.0
    with undisturbed():
        for index in range(count):
            runtime = bench.runtimes[index % AGENTS]
            reports = some_reports(runtime, BATCH, new_name)
            start = perf_counter()
            bench.store.write(runtime.report_batch(reports))
            seconds += perf_counter() - start
    bench.check_booked(count * BATCH)
    return seconds


def batches(name: str, count: int, *, new_name: NewName = ordered_name) -> Figures:
    """Book batches, and then insert the rows they left with nothing but SQLite."""
    with scratch() as folder:
        with opened(folder) as bench:
            seconds = _send_batches(bench, count, new_name)
        raw_seconds = _insert_raw(bench.path, folder / "raw.db", count * BATCH)
    return {name: count * BATCH / seconds, f"{name} raw": count * BATCH / raw_seconds}


_COPIED_FIRST: Final = ("users", "agents")
_RAW: Final = {
    "ledger": "ledger WHERE kind = 'spend' ORDER BY seq",
    "usage_records": "usage_records ORDER BY id",
    "feed": "feed WHERE name = 'llm_call' ORDER BY seq",
}


def _insert_raw(source: Path, target: Path, count: int) -> float:
    """Insert the store's own rows of `count` reports, in batches, and return the seconds it took."""
    reader = connect(str(source), read_only=True)
    writer = connect(str(target))
    try:
        migrate(writer)
        for table in _COPIED_FIRST:
            cursor = reader.execute(f"SELECT * FROM {table}")  # noqa: S608 - our own names
            writer.executemany(_insert(table, _columns(cursor)), cursor)
        with undisturbed():
            inserted, seconds = _insert_batches(writer, _row_batches(reader))
    finally:
        reader.close()
        writer.close()
    if inserted != len(_RAW) * count:
        raise RuntimeError(f"{count} reports were sent, {inserted} rows of them were found")
    return seconds


def _insert_batches(writer: sqlite3.Connection, row_batches: Iterator[RowBatch]) -> tuple[int, float]:
    inserted = 0
    seconds = 0.0
    for batch in row_batches:
        inserted += sum(len(rows) for _, rows in batch)
        start = perf_counter()
        writer.execute("BEGIN IMMEDIATE")
        for sql, rows in batch:
            writer.executemany(sql, rows)
        writer.execute("COMMIT")
        seconds += perf_counter() - start
    return inserted, seconds


def _row_batches(reader: sqlite3.Connection) -> Iterator[RowBatch]:
    """Yield what a batch inserts: each table's statement and rows; SQLite numbers the rows anew."""
    cursors = []
    for table, selection in _RAW.items():
        names = _columns(reader.execute(f"SELECT * FROM {table} LIMIT 0"))  # noqa: S608 - our own names
        names = [name for name in names if name != "seq"]
        cursor = reader.execute(f"SELECT {', '.join(names)} FROM {selection}")  # noqa: S608 - our own names
        cursors.append((_insert(table, names), cursor))
    while True:
        batch = [(sql, cursor.fetchmany(BATCH)) for sql, cursor in cursors]
        if not batch[0][1]:
            return
        yield batch


def _columns(cursor: sqlite3.Cursor) -> list[str]:
    return [description[0] for description in cursor.description]


def _insert(table: str, names: Sequence[str]) -> str:
    places = ", ".join("?" * len(names))
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})"  # noqa: S608 - our own names


def duplicates(name: str, count: int) -> Figures:
    """Send batches again that are booked already."""
    with fresh() as bench:
        known = [(runtime, some_reports(runtime)) for runtime in bench.runtimes[:_DUPLICATED]]
        for runtime, reports in known:
            bench.store.write(runtime.report_batch(reports))
        with undisturbed():
            start = perf_counter()
            for index in range(count):
                runtime, reports = known[index % _DUPLICATED]
                bench.store.write(runtime.report_batch(reports))
            seconds = perf_counter() - start
        bench.check_booked(_DUPLICATED * BATCH)
    return {name: count * BATCH / seconds}


def handshakes(name: str, count: int) -> Figures:
    """Shake hands from many callers; each agent comes to hold a few leases."""
    with fresh(agents=count // _HANDSHAKES_PER_AGENT) as bench:
        sealing = bench.world.sealing

        async def call(runtimes: Sequence[Runtime]) -> Latencies:
            latencies = []
            for runtime in runtimes:
                start = perf_counter()
                await bench.store.write_async(runtime.bound(handshake, HandshakeRequest(USD), sealing=sealing))
                latencies.append(perf_counter() - start)
            return latencies

        calls = list(bench.runtimes) * _HANDSHAKES_PER_AGENT
        return _measured(name, [call(calls[first::CALLERS]) for first in range(CALLERS)])


def refreshes(name: str, count: int) -> Figures:
    """Refresh from many callers; each has agents of its own and follows their leases."""
    with fresh() as bench:
        sealing = bench.world.sealing

        async def call(runtimes: Sequence[Runtime], turns: int) -> Latencies:
            latencies = []
            leases = [runtime.lease_id for runtime in runtimes]
            for turn in range(turns):
                which = turn % len(runtimes)
                start = perf_counter()
                use_case = runtimes[which].bound(refresh, leases[which], USD, sealing=sealing)
                answer = await bench.store.write_async(use_case)
                latencies.append(perf_counter() - start)
                if isinstance(answer, Denied):
                    raise RuntimeError("the bench ran out of budget")  # noqa: TRY004 - an answer, not a wrong type
                leases[which] = answer.lease.id
            return latencies

        turns = count // CALLERS
        return _measured(name, [call(bench.runtimes[first::CALLERS], turns) for first in range(CALLERS)])


def scenarios(sizes: Sizes) -> Sequence[Callable[[], Figures]]:
    """Return every scenario in the order of a round."""
    return (
        partial(singles, "single", sizes.singles),
        partial(singles, "one each", sizes.one_each, max_batch=1),
        partial(singles, "single random", sizes.singles, new_name=random_name),
        partial(threaded, "threaded", sizes.threaded),
        partial(batches, "batch", sizes.batches),
        partial(batches, "batch random", sizes.batches, new_name=random_name),
        partial(duplicates, "duplicates", sizes.duplicate_batches),
        partial(handshakes, "handshake", sizes.handshakes),
        partial(refreshes, "refresh", sizes.refreshes),
    )
