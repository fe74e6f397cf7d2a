"""The databases of the benchmark of expiry: they are true to the books, before and after their leases have ended."""

from pathlib import Path

from benchmarks.scale_data import end_all, open_leases
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.services.expiry import sweep
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.stores import raw
from tests.support.world import NOON, SetClock

LEASES = 300


def test_leases_that_are_written_set_wise_end_as_those_that_were_granted(tmp_path: Path) -> None:
    """All books and counts hold with all leases open, with some ended and with all; every agent has its money back."""
    path = tmp_path / "sweep.db"
    open_leases(path, LEASES, now=NOON, ends_at=NOON + MS_PER_DAY)
    end_all(path, at=NOON + 1)
    clock = SetClock()

    with SqliteStore(path, clock=clock, must_exist=True) as store:
        assert store.check_file() == []
        assert store.write(sweep).aged == 0
        assert store.read(verify).differences == []
        clock.pass_s(60)
        aged: list[int] = []
        while not aged or aged[-1]:
            aged.append(store.write(lambda uow: sweep(uow, limit=200)).aged)
            assert store.read(verify).differences == []
        statuses = raw(store, "SELECT status, status_reason, closed_at, count(*) FROM leases GROUP BY 1, 2, 3")
        money = raw(store, "SELECT sum(held), sum(allocated - spent - held), count(*) FROM agent_budgets")

    assert aged == [200, 100, 0]
    assert statuses == [("closed", "expired", NOON + 1, LEASES)]
    assert money == [(0, LEASES * 100_000_000, LEASES)]
