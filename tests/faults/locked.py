"""Another process that holds the write lock: callers wait, and those who waited too long are told to come again."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.faults import books
from tests.faults.load import Load
from tests.faults.outcome import Bench, Counts, scenario
from tests.faults.site import Site
from tests.faults.told import Refusal

BUSY: Final = Refusal((503, "SERVICE_UNAVAILABLE", "The database is busy; try again", "1"))
_SHORT_MS: Final = 50


@contextmanager
def _lock_held(site: Site) -> Iterator[None]:
    """Hold the write lock; to the server this is another process."""
    connection = sqlite3.connect(site.database, isolation_level=None, timeout=20)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@scenario(
    name="write lock held",
    made="another process holds SQLite's write lock for 10 s, under load",
    seen="writes wait, and are answered when the lock is free; reads work",
    recover="another-program-holds-the-database",
)
def write_lock_held(bench: Bench) -> Counts:
    """Hold it for longer than one busy timeout; nobody is refused."""
    site = bench.site()
    faults = bench.some(1, 3)
    with site.server, Load(site.server.port, site.agents).running() as load:
        for _ in bench.rounds("write lock held", faults):
            load.wait_for(20)
            with _lock_held(site):
                time.sleep(0.3)  # answers of the commit before are on their way
                before = load.told.count
                time.sleep(bench.some(2, 10))
                site.check_reads()
                assert load.told.count == before
        return _end(site, load, faults)


@scenario(
    name="write lock held too long",
    made="the same for longer than the server waits: 30 s, here made shorter",
    seen="503 `SERVICE_UNAVAILABLE`, `Retry-After: 1`, “The database is busy; try again”; reads work",
    recover="another-program-holds-the-database",
)
def write_lock_held_too_long(bench: Bench) -> Counts:
    """Hold it until callers are refused."""
    site = bench.site()
    hands = site.server.with_hands()
    faults = bench.some(2, 10)
    with site.server, Load(site.server.port, site.agents).running() as load:
        load.wait_for(10)
        hands.sql(f"PRAGMA busy_timeout = {_SHORT_MS}")
        for _ in bench.rounds("write lock held too long", faults):
            load.wait_for(20)
            with _lock_held(site):
                load.wait_for_refusals(8)
                site.check_reads()
        counts = _end(site, load, faults)
    assert set(load.refused) == {BUSY}, load.refused
    return counts


def _end(site: Site, load: Load, faults: int) -> Counts:
    load.wait_for(20)
    load.finish()
    assert set(load.refused) <= {BUSY}, load.refused
    books.recount(site)
    site.server.stop()
    site.verify()
    return Counts(faults, books.check(site, load.told, is_over=True), 1)
