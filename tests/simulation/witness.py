"""The witness: reads the stored rows after every step and remembers what may never change.

It knows nothing of the operations, only the invariants I2 to I7 of contract budget.md 1.4, and what contract
analytics.md 1 says of spending.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import Balance, Entry
from ironcage_core.domain.usage import UsageRecord, UsageSums
from ironcage_core.ports.lists import Paging, RequestFilter, TraceFilter, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.verify import Verification, verify
from ironcage_storage.sqlite.store import SqliteStore


@dataclass(frozen=True)
class Stored:
    """What the database holds, as one snapshot."""

    balances: Mapping[str, Balance]
    leases: Mapping[str, Lease]
    entries: list[Entry]
    bank_spent: Mapping[tuple[str, str], int]
    bank_held: Mapping[str, int]
    verification: Verification
    agents: Mapping[str, Agent]
    reserved: Mapping[str, int]
    requests: list[tuple[str, str, str, str, int, int | None]]
    settlements: Mapping[str, tuple[int, int]]
    month_levels: Mapping[tuple[str, str], int]
    usage: Sequence[UsageRecord]
    sums: Mapping[tuple[str, ...], UsageSums]


def read_all(uow: UnitOfWork) -> Stored:
    """Read every number there is."""
    balances = {balance.agent_id: balance for balance in uow.balances.all()}
    leases = {lease.id: lease for agent_id in balances for lease in uow.leases.of_agent(agent_id)}
    agents = {agent_id: uow.agents.find(agent_id) for agent_id in balances}
    months = uow.banks.all_spent()
    settlements = {lease_id: uow.dead_tokens.settlement(lease_id) for lease_id in leases}
    sums = uow.reservations.sums(list(leases), uow.now)
    requests = uow.budget_requests.page(RequestFilter(), Paging(1, 1000), "created_at", descending=False)
    return Stored(
        balances=balances,
        leases=leases,
        agents={agent_id: agent for agent_id, agent in agents.items() if agent},
        reserved={lease_id: amount for lease_id, amount in sums.items() if amount},
        requests=[
            (each.id, each.agent_id, each.requester_id, each.status, each.current_budget, each.approved_budget)
            for each in requests.rows
        ],
        settlements={lease_id: each[1:] for lease_id, each in settlements.items() if each},
        month_levels={key: uow.bank_alerts.level(*key) for key in months},
        entries=list(uow.ledger.by_agent()),
        bank_spent={key: amount for key, amount in uow.banks.all_spent().items() if amount},
        bank_held={key: amount for key, amount in uow.banks.all_held().items() if amount},
        verification=verify(uow),
        usage=uow.usage.page(TraceFilter(), Paging(1, 10_000)).rows,
        sums=uow.usage.sums(UsageFilter(), ("agent_id", "provider", "model")),
    )


def row_counts(store: SqliteStore) -> dict[str, int]:
    """Return how many rows each table of the books has, and its highest `seq`."""
    parts = [
        "(SELECT coalesce(max(seq), 0) FROM ledger)",
        "(SELECT coalesce(max(seq), 0) FROM feed)",
        "(SELECT coalesce(max(seq), 0) FROM audit_log)",
        "(SELECT count(*) FROM usage_records)",
        "(SELECT count(*) FROM leases)",
        "(SELECT count(*) FROM reservations)",
        "(SELECT count(*) FROM idempotency_keys)",
        "(SELECT count(*) FROM budget_requests)",
        "(SELECT count(*) FROM ic_token_deaths)",
        "(SELECT count(*) FROM settlements)",
    ]
    row = store._connection.execute(f"SELECT {', '.join(parts)}").fetchone()
    names = ("ledger", "feed", "audit", "usage", "leases", "reserved", "keys", "requests", "deaths", "settlements")
    return dict(zip(names, row, strict=True))


CALL_NEWS = {"llm_call", "llm_call_failed", "budget_changed"}


def event_names(store: SqliteStore) -> Counter[str]:
    """Return how often each event about money or leases was published; each has an id of its own."""
    sql = "SELECT name, count(*), count(DISTINCT id) FROM feed WHERE name IS NOT NULL GROUP BY name"
    counts: Counter[str] = Counter()
    for name, rows, ids in store._connection.execute(sql):
        assert rows == ids, f"{name} was published twice"
        if name.startswith(("lease_", "budget_request_")) or name in CALL_NEWS:
            counts[name] = rows
    return counts


def alerts(store: SqliteStore) -> list[tuple[object, ...]]:
    """Return the alerts that were published, oldest first."""
    sql = "SELECT agent_id, data FROM feed WHERE type = 'COST_ALERT' ORDER BY seq"
    told: list[tuple[object, ...]] = []
    for agent_id, text in store._connection.execute(sql):
        data = json.loads(text)
        amounts = (data[f"{name}_micros"] for name in ("budget_spent", "budget_limit", "pending_spend"))
        told.append((agent_id, data["scope"], data["threshold"], tuple(data["crossed"]), data["percentage"], *amounts))
    return told


@dataclass
class Witness:
    """Remembers the last step; `may_be_short` are agents whose budget was cut by force."""

    may_be_short: set[str] = field(default_factory=set)
    _balances: dict[str, Balance] = field(default_factory=dict)
    _leases: dict[str, Lease] = field(default_factory=dict)
    _traces: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self, stored: Stored) -> None:
        """Check one snapshot against itself and the one before."""
        assert stored.verification.differences == []
        self._check_entries(stored.entries)
        self._check_calls(stored)
        for balance in stored.balances.values():
            self._check_balance(balance)
        for lease in stored.leases.values():
            check_sums(lease)
            if lease.id in self._leases:
                check_history(self._leases[lease.id], lease)
        assert self._leases.keys() <= stored.leases.keys()
        self._balances = dict(stored.balances)
        self._leases = dict(stored.leases)

    def _check_entries(self, entries: list[Entry]) -> None:
        assert len({entry.id for entry in entries}) == len(entries)
        for entry in entries:
            if entry.kind == "grant":
                assert entry.allocated_after >= entry.spent_after + entry.held_after, "I3"
        given_back = Counter(entry.lease_id for entry in entries if entry.kind in {"return", "reclaim"})
        assert set(given_back.values()) <= {1}, "I7: a lease gives back once"

    def _check_calls(self, stored: Stored) -> None:
        reported = sum(record.report_cost_micros or 0 for record in stored.usage)
        told = [record for record in stored.usage if record.report_cost_micros is None]
        told_cost = sum(record.event_cost_micros or 0 for record in told if record.outcome == "completed")
        assert sum(record.cost_micros for record in stored.usage) == reported + told_cost, "analytics 1, rule 6"
        assert sum(each.cost_micros for each in stored.sums.values()) == reported + told_cost
        settled = sum(lease.unattributed for lease in stored.leases.values())
        assert sum(balance.spent for balance in stored.balances.values()) == reported + settled, "an event moves money"
        traces = {record.id: fixed_parts(record) for record in stored.usage}
        assert self._traces.items() <= traces.items()
        assert len(traces) == len({(record.agent_id, record.call_key) for record in stored.usage})
        self._traces = traces

    def _check_balance(self, balance: Balance) -> None:
        before = self._balances.get(balance.agent_id)
        assert balance.held >= 0
        assert before is None or balance.spent >= before.spent, "I5"
        if balance.agent_id not in self.may_be_short:
            assert balance.spent + balance.held <= balance.allocated + balance.overspent, "I4"


def check_sums(lease: Lease) -> None:
    """Check the lease equation (I2)."""
    numbers = (lease.granted, lease.spent, lease.overspent, lease.returned, lease.reclaimed, lease.unattributed)
    assert min(numbers) >= 0
    held = lease.granted - lease.spent - lease.returned - lease.reclaimed
    assert held >= 0, "I2"
    assert lease.status in {"active", "expired"} or held == 0, "I2"


def check_history(before: Lease, after: Lease) -> None:
    """Check what time may do to a lease (I5, I6)."""
    assert after.spent + after.overspent >= before.spent + before.overspent, "I5"
    assert before.successor_id in {None, after.successor_id}, "I7"
    assert not (before.status == "expired" and after.status == "active")
    if before.status in {"closed", "revoked"}:
        assert fixed(after) == fixed(before), "I6"


def fixed(lease: Lease) -> Lease:
    """Return a terminal lease without what late truth may still move."""
    return lease._replace(overspent=0, unattributed=0, reports=0, last_activity_at=0)


def fixed_parts(record: UsageRecord) -> tuple[str, ...]:
    """Return what a record keeps whatever is told of its call later."""
    return (record.agent_id, record.project_id, record.call_key)
