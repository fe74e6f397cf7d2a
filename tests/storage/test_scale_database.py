"""The databases of the benchmark of scale: what they are measured by must be true."""

from pathlib import Path

from benchmarks.scale_data import RECORDS_PER_AGENT, database
from ironcage_core.ports.lists import BalanceFilter, EntryFilter, LeaseFilter, Paging, TokenFilter, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import NOON

AGENTS = 300
FIRST = Paging(1, 1)


def test_a_database_that_is_written_set_wise_adds_up(tmp_path: Path) -> None:
    """Balances, leases, banks, rollups and all counts hold, and there is as much as was asked for."""

    def numbers(uow: UnitOfWork) -> tuple[int, ...]:
        (calls,) = uow.usage.sums(UsageFilter()).values()
        return (
            uow.balances.totals(BalanceFilter()).agents,
            uow.ledger.page(EntryFilter(), FIRST).total,
            uow.leases.page(LeaseFilter(), FIRST).total,
            uow.api_tokens.page_of_all_kinds(TokenFilter(), FIRST).total,
            calls.completed + calls.failed,
        )

    path = database(tmp_path, AGENTS, now=NOON)

    with SqliteStore(path, must_exist=True) as store:
        assert store.check_file() == []
        assert store.read(verify).differences == []
        assert store.read(numbers) == (AGENTS, 390, 30, 303, AGENTS * RECORDS_PER_AGENT)


def test_a_database_is_made_once(tmp_path: Path) -> None:
    """Asked for again it is the same file, untouched; another size is another file."""
    path = database(tmp_path, 100, now=NOON)
    made = path.stat().st_mtime_ns

    assert database(tmp_path, 100, now=NOON) == path
    assert path.stat().st_mtime_ns == made
    assert database(tmp_path, 200, now=NOON) != path
