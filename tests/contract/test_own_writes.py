"""What a unit of work writes it sees at once, whether it is found by key or by a query."""

from collections.abc import Callable

import pytest

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.instants import period_of
from ironcage_core.ports.lists import BalanceFilter, EntryFilter, LeaseFilter, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import BudgetTotals, LeaseReports
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import (
    HOUR,
    agent_row,
    balance_row,
    closed,
    entry_row,
    key_row,
    lease_row,
    limit_row,
    note,
    put_agent,
    putting,
    tell,
    token_row,
    told,
    usage_row,
    user_row,
)
from tests.support.world import NOON

MONTH = period_of(NOON)
Seen = tuple[object, object]
"""What the unit of work sees, and what it should see."""


def found_by_key(uow: UnitOfWork, agent: Agent) -> Seen:
    user, key = user_row(), key_row()
    limit, balance, token = limit_row(user.id, 7), balance_row(agent.id), token_row(agent.id)
    lease, usage = lease_row(agent.id), usage_row(agent.id, "call")
    uow.users.put(user)
    uow.limits.put(limit)
    uow.balances.put(balance)
    uow.provider_keys.put(key)
    uow.ic_tokens.put(token)
    uow.leases.put(lease)
    uow.usage.put(usage)
    found = (
        uow.users.find(user.id),
        uow.limits.find_of(user.id),
        uow.agents.find(agent.id),
        uow.balances.find(agent.id),
        uow.provider_keys.find(key.id),
        uow.ic_tokens.find(token.id),
        uow.leases.find(lease.id),
        uow.usage.find(agent.id, "call"),
    )
    return found, (user, limit, agent, balance, key, token, lease, usage)


def changed_rows(uow: UnitOfWork, agent: Agent) -> Seen:
    uow.agents.put(agent._replace(name="first"))
    tell(uow, "settles")
    told(uow)
    last = agent._replace(name="last")
    uow.agents.put(last)
    return uow.agents.find(agent.id), last


def open_leases(uow: UnitOfWork, agent: Agent) -> Seen:
    active, expired, done = lease_row(agent.id), lease_row(agent.id, status="expired"), closed(lease_row(agent.id))
    for lease in (done, expired, active, lease_row(put_agent(uow).id)):
        uow.leases.put(lease)
    before = list(uow.leases.open_of(agent.id))
    tell(uow, "settles")
    told(uow)
    spent = expired._replace(spent=7)
    uow.leases.put(closed(active))
    uow.leases.put(spent)
    return (before, list(uow.leases.open_of(agent.id))), ([active, expired], [spent])


def due_leases_of_an_agent(uow: UnitOfWork, agent: Agent) -> Seen:
    before = list(uow.leases.due_of(agent.id, NOON + 3 * HOUR))
    late, early = lease_row(agent.id, due_at=NOON + 2 * HOUR), lease_row(agent.id)
    uow.leases.put(late)
    not_yet = list(uow.leases.due_of(agent.id, NOON + HOUR))
    uow.leases.put(early)
    seen = [before, not_yet] + [list(uow.leases.due_of(agent.id, NOON + hours * HOUR)) for hours in (0, 1, 2)]
    return seen, [[], [], [], [early], [early, late]]


def a_lease_that_was_due_and_moved(uow: UnitOfWork, agent: Agent) -> Seen:
    lease = lease_row(agent.id)
    uow.leases.put(lease)
    was_due = list(uow.leases.due_of(agent.id, NOON + HOUR))
    uow.leases.put(lease._replace(due_at=NOON + 2 * HOUR))
    return (was_due, list(uow.leases.due_of(agent.id, NOON + HOUR))), ([lease], [])


def due_leases_of_all(uow: UnitOfWork, agent: Agent) -> Seen:
    other = put_agent(uow)
    rows = [lease_row(of.id, due_at=NOON + at) for of, at in ((agent, 3), (other, 1), (agent, 2), (other, 9))]
    for lease in rows:
        uow.leases.put(lease)
    seen = (uow.leases.due(NOON + 3, 10), uow.leases.due(NOON + 3, 2))
    return seen, ([rows[1], rows[2], rows[0]], [rows[1], rows[2]])


def lists_of_leases(uow: UnitOfWork, agent: Agent) -> Seen:
    rows = [lease_row(agent.id), closed(lease_row(agent.id)), lease_row(put_agent(uow).id)]
    for lease in rows:
        uow.leases.put(lease)
    page = uow.leases.page(LeaseFilter(agent_id=agent.id), Paging())
    seen = (page.rows, page.total, list(uow.leases.of_agent(agent.id)), uow.leases.counts()[agent.id, "closed"])
    return seen, ([rows[1], rows[0]], 2, rows[:2], (1, 1))


def lists_of_entries(uow: UnitOfWork, agent: Agent) -> Seen:
    rows = [entry_row(agent.id, amount=amount) for amount in (1, 2)]
    for entry in rows:
        uow.ledger.append(entry)
    page = uow.ledger.page(EntryFilter(agent_id=agent.id), Paging())
    by_agent = [entry.id for entry in uow.ledger.by_agent(agent.id)]
    seen = ([entry.id for entry in page.rows], page.total, by_agent, uow.ledger.counts()[agent.id, "adjust"])
    return seen, ([rows[1].id, rows[0].id], 2, [rows[0].id, rows[1].id], (2, 2))


def lists_of_balances(uow: UnitOfWork, agent: Agent) -> Seen:
    balance = balance_row(agent.id, spent=4, held=3)
    uow.balances.put(balance)
    page = uow.balances.page(BalanceFilter(owner_id=agent.owner_id), Paging())
    totals = uow.balances.totals(BalanceFilter(owner_id=agent.owner_id))
    seen = (page.rows, page.total, totals, list(uow.balances.all()))
    return seen, ([(agent, balance)], 1, BudgetTotals(1000, 4, 3, 1), [balance])


def banks_with_moves(uow: UnitOfWork, _: Agent) -> Seen:
    uow.banks.add("bank", "proj_master_001", MONTH, spent=5, held=10)
    moved = (uow.banks.spent("bank", MONTH), uow.banks.held("bank"))
    listed = (uow.banks.all_spent(), uow.banks.all_held())
    uow.banks.add("bank", "proj_master_001", MONTH, spent=1, held=-4)
    after = (uow.banks.spent("bank", MONTH), uow.banks.held("bank"), uow.banks.spent("bank", "1999-01"))
    return (moved, listed, after), ((5, 10), ({("bank", MONTH): 5}, {"bank": 10}), (6, 6, 0))


def assigned_keys(uow: UnitOfWork, agent: Agent) -> Seen:
    first, second, third = key_row(), key_row(is_enabled=0), key_row()
    for key in (first, second, third):
        uow.provider_keys.put(key)
    uow.provider_keys.assign(agent.id, [third.id, first.id])
    before = list(uow.provider_keys.assigned_to(agent.id))
    uow.provider_keys.assign(agent.id, [second.id, third.id])
    after = list(uow.provider_keys.assigned_to(agent.id))
    return (before, after, uow.provider_keys.all()), ([third, first], [second, third], [first, second, third])


def the_active_token(uow: UnitOfWork, agent: Agent) -> Seen:
    token = token_row(agent.id)
    uow.ic_tokens.put(token)
    before = uow.ic_tokens.find_active_of(agent.id)
    uow.ic_tokens.put(token._replace(status="revoked"))
    return (before, uow.ic_tokens.find_active_of(agent.id)), (token, None)


def events(uow: UnitOfWork, _: Agent) -> Seen:
    for name in "abc":
        uow.feed.append("AGENT_EVENT", agent_id=None, name=name, data={"n": [1, None, "ü"]})
    first, *rest = uow.feed.after(0, 3)
    assert first.seq is not None
    return (first.data, [event.name for event in uow.feed.after(first.seq, 1)], len(rest)), (
        {"n": [1, None, "ü"]},
        ["b"],
        2,
    )


def audit_rows(uow: UnitOfWork, _: Agent) -> Seen:
    uow.audit.append(note("FIRST"))
    first = [row.operation for row in uow.audit.rows()]
    uow.audit.append(note("SECOND"))
    return (first, [row.operation for row in uow.audit.rows()]), (["FIRST"], ["FIRST", "SECOND"])


def reported_sums(uow: UnitOfWork, agent: Agent) -> Seen:
    for key, lease_id in (("a", "lease_1"), ("b", "lease_1"), ("c", "lease_2"), ("d", None)):
        uow.usage.put(usage_row(agent.id, key, lease_id=lease_id))
    return sorted(uow.usage.reported_by_lease(agent.id)), [LeaseReports("lease_1", 10), LeaseReports("lease_2", 5)]


def lists_by_a_new_owner(uow: UnitOfWork, agent: Agent) -> Seen:
    lease, entry, heir = lease_row(agent.id), entry_row(agent.id), user_row()
    uow.leases.put(lease)
    uow.ledger.append(entry)
    told(uow)
    uow.users.put(heir)
    uow.agents.put(agent._replace(owner_id=heir.id))
    leases = uow.leases.page(LeaseFilter(owner_id=heir.id), Paging())
    uow.agents.put(agent_row(heir.id, id=agent.id, name="renamed"))
    entries = uow.ledger.page(EntryFilter(owner_id=heir.id), Paging())
    return (leases.rows, leases.total, [row.id for row in entries.rows], entries.total), ([lease], 1, [entry.id], 1)


CASES = [
    found_by_key, changed_rows, open_leases, due_leases_of_an_agent, a_lease_that_was_due_and_moved,
    due_leases_of_all, lists_of_leases, lists_of_entries, lists_of_balances, banks_with_moves, assigned_keys,
    the_active_token, events, audit_rows, reported_sums, lists_by_a_new_owner,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_unit_sees_at_once_what_it_writes(store: SqliteStore, case: Callable[[UnitOfWork, Agent], Seen]) -> None:
    """Rows of the same unit are seen as if they were stored."""
    seen, expected = store.write(lambda uow: case(uow, put_agent(uow)))

    assert seen == expected


@pytest.mark.parametrize("listed", ["entries", "leases"])
def test_a_pending_change_of_owner_counts_for_lists_by_owner(store: SqliteStore, listed: str) -> None:
    """Lists by owner see an agent's new owner before that change is written, even if nothing else is pending."""
    heir = user_row()
    agent = store.write(put_agent)
    lease, entry = lease_row(agent.id), entry_row(agent.id)
    store.write(putting(heir, lease, entry))

    def seen_after_change(uow: UnitOfWork) -> tuple[int, int]:
        uow.agents.put(agent._replace(owner_id=heir.id))
        if listed == "leases":
            leases = uow.leases.page(LeaseFilter(owner_id=heir.id), Paging())
            return len(leases.rows), leases.total
        entries = uow.ledger.page(EntryFilter(owner_id=heir.id), Paging())
        return len(entries.rows), entries.total

    assert store.write(seen_after_change) == (1, 1)
