"""The books after a fault, read from the file row by row: all that was told is there once, and the sums are sums."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import Paging, TraceFilter
from ironcage_storage.sqlite.store import SqliteStore
from tests.faults.site import Site
from tests.faults.told import Told
from tests.support.recount import Records, by_provider, spending_total, usage_requests
from tests.support.web import PASSWORD

_SPENDS: Final = """SELECT agent_id, ref, sum(amount), count(*), count(DISTINCT kind) FROM ledger
    WHERE kind IN ('spend', 'overspend') GROUP BY agent_id, ref"""
_SUMS: Final = """SELECT agent_id, sum(CASE kind WHEN 'adjust' THEN amount ELSE 0 END),
    sum(CASE WHEN kind IN ('spend', 'overspend') THEN amount ELSE 0 END),
    sum(CASE kind WHEN 'grant' THEN amount WHEN 'spend' THEN -amount WHEN 'return' THEN -amount
        WHEN 'reclaim' THEN -amount ELSE 0 END) FROM ledger GROUP BY agent_id"""
_ECHO: Final = ("period", "range", "filters", "calculated_at")
_PAGE: Final = 5000


def check(site: Site, told: Told, *, is_over: bool, database: str = "iron.db", may_lapse: bool = False) -> int:
    """Compare the file with what was told; return how many answered writes are in it.

    Args:
        site: Whose file it is.
        told: What was sent, and what was answered.
        is_over: Whether all that was sent was answered in the end, so that nothing else may be there.
        database: Which of its files.
        may_lapse: Whether a lease may have ended by itself before anybody was told of it.
    """
    _check_reports(site, told, database, is_over=is_over)
    _check_leases(site, told, database, is_over=is_over, may_lapse=may_lapse)
    notes = set(site.rows("SELECT agent_id, event_id FROM telemetry_events", database))
    assert told.notes <= notes <= told.sent_notes, "telemetry"
    adjusted = site.rows("SELECT id, agent_id, amount FROM ledger WHERE kind = 'adjust'", database)
    entries = {entry: change for entry, *change in adjusted}
    assert all(entries.get(entry) == list(change) for entry, change in told.raises.items()), "changes of a budget"
    agents = dict(site.rows("SELECT id, name FROM agents WHERE name LIKE 'made-%'", database))
    assert told.agents <= agents.keys(), "agents"
    assert Counter(agents.values()) <= Counter(told.sent_agents), "agents that nobody asked for"
    _check_sums(site, database)
    return told.count


def _check_reports(site: Site, told: Told, database: str, *, is_over: bool) -> None:
    booked = {}
    for agent, ref, amount, rows, kinds in site.rows(_SPENDS, database):
        assert rows == kinds, f"{ref} is booked twice"
        booked[agent, ref] = amount
    assert told.reports <= booked.keys(), f"lost: {sorted(told.reports - booked.keys())[:5]}"
    assert all(told.costs.get(key) == amount for key, amount in booked.items()), "a cost is not what was reported"
    assert not is_over or booked.keys() == told.reports, "booked and never answered"
    recorded = site.rows("SELECT agent_id, request_id, report_cost_micros FROM usage_records", database)
    assert {(agent, request): cost for agent, request, cost in recorded} == booked, "records of usage"
    assert len(recorded) == len(booked), "a call is recorded twice"


def _check_leases(site: Site, told: Told, database: str, *, is_over: bool, may_lapse: bool) -> None:
    leases = site.rows("SELECT id, agent_id, granted FROM leases", database)
    granted = {lease: (agent, amount) for lease, agent, amount in leases}
    assert all(granted.get(lease) == grant for lease, grant in told.grants.items()), "grants"
    if is_over:
        lapsed = {lease for (lease,) in site.rows("SELECT id FROM leases WHERE status <> 'active'", database)}
        assert granted.keys() - told.grants.keys() <= (lapsed if may_lapse else set()), "lent, and nobody was told"
    back = site.rows("SELECT lease_id, amount, kind FROM ledger WHERE kind IN ('return', 'reclaim')", database)
    assert len({lease for lease, _, _ in back}) == len(back), "a lease gave back twice"
    returned = {lease: amount for lease, amount, _ in back}
    assert all(returned.get(lease, 0) == amount for lease, amount in told.returns.items()), "returns"


def _check_sums(site: Site, database: str) -> None:
    stored = site.rows("SELECT agent_id, allocated, spent, held FROM agent_budgets", database)
    assert sorted(stored) == sorted(site.rows(_SUMS, database)), "balances are not the sums of the ledger"


def recount(site: Site) -> None:
    """Let the running server tell what was spent, and walk through the records for it."""
    login = site.server.ask("POST", "/auth/login", {"username": "admin", "password": PASSWORD})
    headers = {"Authorization": f"Bearer {login.body['access_token']}"}
    records = _records(site)
    expected: Mapping[str, Mapping[str, Any]] = {
        "/analytics/spending/total": spending_total(records),
        "/analytics/usage/requests?period=all-time": usage_requests(records),
        "/analytics/spending/by-provider": by_provider(records),
    }
    for path, numbers in expected.items():
        body = site.server.ask("GET", path, headers=headers).body
        assert {name: value for name, value in body.items() if name not in _ECHO} == numbers, path


def _records(site: Site) -> Records:
    records: list[UsageRecord] = []
    with SqliteStore(site.database, must_exist=True) as store:
        while len(records) % _PAGE == 0:
            page = Paging(len(records) // _PAGE + 1, _PAGE)
            rows = store.read(lambda uow, page=page: uow.usage.page(TraceFilter(), page).rows)  # type: ignore[misc]  # of this round
            records += rows
            if not rows:
                break
    return records
