"""A disk that takes no more, under load, until there is room again."""

import resource
from typing import Final

from tests.faults import books
from tests.faults.load import Load
from tests.faults.outcome import Bench, Counts, scenario
from tests.faults.site import Site
from tests.faults.told import Refusal

FULL: Final = Refusal((503, "SERVICE_UNAVAILABLE", "The disk is full; nothing was written", "30"))
NO_MORE: Final = Refusal((503, "SERVICE_UNAVAILABLE", "The disk takes no more; nothing was written", "30"))
_ROOM: Final = 1_000_000
_ROOM_TO_START: Final = 200_000
_KEPT_BY_LIMIT: Final = 900_000
"""Bytes that a file may have: the database is smaller, and its log is soon larger."""


@scenario(
    name="disk full",
    made="SQLite may take no further page (`max_page_count`), under load, again and again",
    seen="503 `SERVICE_UNAVAILABLE`, `Retry-After: 30`, “The disk is full; nothing was written”; reads work",
    recover="the-disk-is-full",
)
def disk_full(bench: Bench) -> Counts:
    """Let the file grow no further, and give it room again."""
    site = bench.site()
    hands = site.server.with_hands()
    faults = bench.some(2, 10)
    with site.server, Load(site.server.port, site.agents).running() as load:
        for _ in bench.rounds("disk full", faults):
            load.wait_for(30)
            ((pages,),) = hands.sql("PRAGMA page_count")
            hands.sql(f"PRAGMA max_page_count = {pages}")
            load.wait_for_refusals(10)
            site.check_reads()
            assert "nothing was written" in site.server.said, "the operator is told nothing"
            hands.sql(f"PRAGMA max_page_count = {_ROOM}")
        return _end(site, load, faults, FULL)


@scenario(
    name="file may not grow",
    made="a limit of file sizes (`ulimit -f`) on a real `ironcage serve`, met by SQLite's log as a quota would be",
    seen="503 `SERVICE_UNAVAILABLE`, `Retry-After: 30`, “The disk takes no more; nothing was written”; reads work",
    recover="the-disk-is-full",
)
def file_may_not_grow(bench: Bench) -> Counts:
    """Let no file of the server grow beyond a size, and lift that."""
    site = bench.site()
    faults = bench.some(1, 5)
    with Load(site.server.port, site.agents).running() as load:
        for _ in bench.rounds("file may not grow", faults):
            sizes = [each.stat().st_size for each in site.folder.glob("iron.db*")]
            size = max(_KEPT_BY_LIMIT, max(sizes) + _ROOM_TO_START)
            site.server.trouble["file_size"] = size
            with site.server:
                load.wait_for_refusals(10)
                site.check_reads()
                assert "nothing was written" in site.server.said, "the operator is told nothing"
                resource.prlimit(site.server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
                load.wait_for(30)
                site.server.kill()
        site.server.trouble.clear()
        with site.server:
            return _end(site, load, faults, NO_MORE)


def _end(site: Site, load: Load, faults: int, seen: Refusal) -> Counts:
    load.wait_for(30)
    load.finish()
    assert set(load.refused) == {seen}, load.refused
    books.recount(site)
    site.server.stop()
    site.verify()
    return Counts(faults, books.check(site, load.told, is_over=True), 1)
