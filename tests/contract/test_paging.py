"""Lists: pages in their order, with totals that are exact whatever the filter."""

import random
from dataclasses import asdict
from functools import lru_cache, partial
from itertools import product

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import Entry, EntryKind
from ironcage_core.ports.lists import BalanceFilter, EntryFilter, LeaseFilter, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import BudgetTotals
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, balance_row, closed, entry_row, lease_row, putting, user_row
from tests.support.world import NOON

MIDNIGHT = NOON // MS_PER_DAY * MS_PER_DAY
KINDS: tuple[EntryKind, ...] = ("adjust", "grant", "spend")
OWNERS = [user_row(f"owner {n}") for n in range(2)]
PROJECTS = (MASTER_PROJECT, ORPHANED_PROJECT)
AGENTS = [
    agent_row(OWNERS[n % 2].id, status="inactive" if n == 3 else "active")._replace(project_id=PROJECTS[n // 2 % 2])
    for n in range(5)
]
AGENT_OF = {agent.id: agent for agent in AGENTS}
LEASES = [
    closed(lease_row(AGENTS[n % 3].id))
    if n % 2
    else lease_row(AGENTS[n % 3].id, status=("active", "expired")[n % 4 // 2])
    for n in range(11)
]
EDGES = [MIDNIGHT + day * MS_PER_DAY + ms for day in range(-1, 4) for ms in (-1, 0, 1, MS_PER_DAY // 2)]


@lru_cache
def entries() -> list[Entry]:
    """Return 120 entries of four days, many of them exactly at, before or after a midnight."""
    dice = random.Random(7)  # noqa: S311 - a fixed set of rows, no secret
    rows = []
    for number in range(120):
        kind = dice.choice(KINDS)
        lease = None if kind == "adjust" else dice.choice(LEASES)
        rows.append(
            entry_row(
                lease.agent_id if lease else dice.choice(AGENTS[:3]).id,
                posted_at=dice.choice(EDGES) if number % 2 else MIDNIGHT + dice.randrange(3 * MS_PER_DAY),
                kind=kind,
                lease_id=lease.id if lease else None,
            )
        )
    return rows


def keep_books(uow: UnitOfWork) -> None:
    """Store every row of this module, once."""
    if uow.users.find(OWNERS[0].id) is not None:
        return
    for owner in OWNERS:
        uow.users.put(owner)
    for number, agent in enumerate(AGENTS):
        deleted_at = NOON if number == 4 else None
        uow.agents.put(agent._replace(deleted_at=deleted_at))
        uow.balances.put(balance_row(agent.id, spent=1000 if number == 1 else number, held=10 * number))
    for lease in LEASES:
        uow.leases.put(lease)
    for entry in entries():
        uow.ledger.append(entry)


def is_among(entry: Entry, which: EntryFilter) -> bool:
    """Tell, without any database, whether the filter means this entry."""
    return (
        which.agent_id in {None, entry.agent_id}
        and which.owner_id in {None, AGENT_OF[entry.agent_id].owner_id}
        and which.project_id in {None, AGENT_OF[entry.agent_id].project_id}
        and which.lease_id in {None, entry.lease_id}
        and which.kind in {None, entry.kind}
        and (which.since is None or entry.posted_at >= which.since)
        and (which.until is None or entry.posted_at < which.until)
    )


instants = st.none() | st.sampled_from(EDGES) | st.integers(MIDNIGHT - MS_PER_DAY, MIDNIGHT + 4 * MS_PER_DAY)
filters = st.builds(
    EntryFilter,
    agent_id=st.none() | st.sampled_from([agent.id for agent in AGENTS]),
    owner_id=st.none() | st.sampled_from([owner.id for owner in OWNERS]),
    lease_id=st.none() | st.sampled_from([lease.id for lease in LEASES]),
    kind=st.none() | st.sampled_from(KINDS),
    project_id=st.none() | st.sampled_from(PROJECTS),
    since=instants,
    until=instants,
)
pagings = st.builds(Paging, st.integers(1, 4), st.integers(1, 50))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=filters, paging=pagings)
def test_a_page_of_the_ledger_and_its_total_are_exact(store: SqliteStore, which: EntryFilter, paging: Paging) -> None:
    """Counted by days or row by row, the total is what a walk through all entries counts."""
    store.write(keep_books)
    expected = [entry.id for entry in reversed(entries()) if is_among(entry, which)]

    page = store.read(lambda uow: uow.ledger.page(which, paging))

    assert page.total == len(expected)
    assert [entry.id for entry in page.rows] == expected[paging.offset : paging.offset + paging.per_page]


def test_pages_put_together_are_the_whole_ledger(store: SqliteStore) -> None:
    """No entry is on two pages or on none."""
    store.write(keep_books)
    pages = [store.read(partial(_page_of_all, paging=Paging(number, 7))) for number in range(1, 20)]

    assert [entry_id for page in pages for entry_id in page] == [entry.id for entry in reversed(entries())]


def _page_of_all(uow: UnitOfWork, paging: Paging) -> list[str]:
    return [entry.id for entry in uow.ledger.page(EntryFilter(), paging).rows]


def _is_among_leases(lease: Lease, which: LeaseFilter) -> bool:
    agent = AGENT_OF[lease.agent_id]
    row = {
        "agent_id": agent.id, "owner_id": agent.owner_id, "project_id": agent.project_id, "status": lease.status,
    }  # fmt: skip
    return all(value in {None, row[name]} for name, value in asdict(which).items())


def test_a_page_of_leases_and_its_total_are_exact(store: SqliteStore) -> None:
    """Every combination of agent, owner, status and project, newest lease first."""
    store.write(keep_books)
    agent_ids = [None, *AGENT_OF]
    owner_ids = [None, *(owner.id for owner in OWNERS)]
    statuses = [None, "active", "expired", "closed", "revoked"]

    for wanted in product(agent_ids, owner_ids, statuses, [None, *PROJECTS]):
        which = LeaseFilter(*wanted)
        expected = [lease for lease in reversed(LEASES) if _is_among_leases(lease, which)]
        assert _lease_page(store, which) == (expected[2:4], len(expected)), which


def _lease_page(store: SqliteStore, which: LeaseFilter) -> tuple[list[Lease], int]:
    page = store.read(lambda uow: uow.leases.page(which, Paging(2, 2)))
    return list(page.rows), page.total


def test_a_lease_that_changes_its_status_changes_the_totals(store: SqliteStore) -> None:
    """The counts behind the totals follow every way a lease may go, also several in one unit."""
    store.write(keep_books)
    lease = LEASES[0]
    gone = lease._replace(status="revoked", returned=lease.held, due_at=None)
    store.write(putting(lease._replace(status="expired"), gone))
    totals = {status: _lease_page(store, LeaseFilter(status=status))[1] for status in ("active", "expired", "revoked")}
    counts = store.read(lambda uow: uow.leases.counts())

    assert totals == {"active": 2, "expired": 3, "revoked": 1}
    assert all(kept == counted for kept, counted in counts.values())


def test_lists_of_balances_leave_out_deleted_agents(store: SqliteStore) -> None:
    """Newest agent first; status is what the admin set, else whether the budget is used up."""
    store.write(keep_books)
    first, second, third, inactive, _ = AGENTS
    cases = [
        (BalanceFilter(), [inactive, third, second, first], BudgetTotals(4000, 1005, 60, 4)),
        (BalanceFilter(owner_id=OWNERS[0].id), [third, first], BudgetTotals(2000, 2, 20, 2)),
        (BalanceFilter(status="active"), [third, first], BudgetTotals(2000, 2, 20, 2)),
        (BalanceFilter(status="exhausted"), [second], BudgetTotals(1000, 1000, 10, 1)),
        (BalanceFilter(status="inactive"), [inactive], BudgetTotals(1000, 3, 30, 1)),
        (BalanceFilter(OWNERS[0].id, "inactive"), [], BudgetTotals(0, 0, 0, 0)),
    ]

    for which, agents, totals in cases:
        page, sums = store.read(partial(_balances, which))
        assert page == (agents[:2], len(agents))
        assert sums == totals


def _balances(which: BalanceFilter, uow: UnitOfWork) -> tuple[tuple[list[object], int], BudgetTotals]:
    page = uow.balances.page(which, Paging(1, 2))
    return ([agent for agent, _ in page.rows], page.total), uow.balances.totals(which)
