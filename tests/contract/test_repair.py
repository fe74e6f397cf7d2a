"""Repair makes every derived number anew, leaves the sources alone, and does nothing where nothing is wrong."""

import json
import sqlite3
from functools import partial

import pytest

from ironcage_core.domain.access import principal_of
from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import AuditFilter, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agent_changes import delete_agent
from ironcage_core.services.allocations import set_allocation
from ironcage_core.services.repair import Repaired, repair
from ironcage_core.services.usage_retention import purge_usage
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.pending import tell_of_call
from tests.support.rows import usage_row
from tests.support.stores import RefusedError, raising, raw
from tests.support.world import ADMIN, NOON, USD, SetClock, World

SOURCES = ("ledger", "usage_records", "kept_calls", "agents", "ic_tokens", "allocation_notes", "usage_horizons")
DERIVED = {
    "agent_budgets": (),
    "leases": (),
    "bank_months": ("spent",),
    "bank_holds": ("held",),
    "bank_project_months": ("spent",),
    "bank_project_holds": ("held",),
    "ledger_counts": ("n",),
    "ledger_totals": ("n",),
    "lease_counts": ("n",),
    "lease_totals": ("n",),
    "agent_totals": ("agents",),
    "project_totals": ("agents",),
    "provider_key_counts": ("agents",),
    "audit_counts": ("n",),
    "limit_windows": ("n",),
    "usage_days": ("completed",),
    "usage_hours": ("completed",),
    "usage_agent_days": ("completed",),
    "usage_wide_days": ("completed",),
    "usage_wide_hours": ("completed",),
    **{f"usage_{name}_bands": ("calls",) for name in ("days", "agent_days", "wide_days", "wide_hours")},
    **{f"usage_{name}_errors": ("calls",) for name in ("days", "hours", "wide_days", "wide_hours")},
}
"""Each table that is a sum of others, and a number that is 0 only in a row that is as good as none."""

OLD = NOON - 10 * MS_PER_DAY

Rows = dict[str, list[tuple[object, ...]]]


@pytest.fixture
def busy(world: World) -> World:
    """Return a world of agents and leases in every state, with calls that lie ten and no days back."""
    agents = [world.agent(name=name) for name in ("first", "second", "orphan", "gone")]
    orphan = agents[2]
    world.store.write(lambda uow: uow.agents.put(uow.agents.find(orphan.id)._replace(project_id="proj_orphaned")))  # type: ignore[union-attr]  # it was just made
    for agent in agents:
        lease = agent.handshake(10 * USD).lease.id
        agent.report(lease, "old", 2 * USD, occurred_at=NOON - 10 * MS_PER_DAY)
        agent.report(lease, "split", USD, tokens=None, input_tokens=30, output_tokens=12)
        agent.report(lease, "over", 20 * USD)
        returned = agent.handshake(5 * USD).lease.id
        agent.report(returned, "part", USD)
        agent.return_lease(returned, 3 * USD)
        agent.report(returned, "late", USD)
        refreshed = agent.handshake(4 * USD).lease.id
        agent.report(refreshed, "then", USD)
        tell_of_call(agent, refreshed, "told", 30)
        agent.refresh(refreshed, USD)
        tell_of_call(agent, refreshed, "told late", 12)
        tell_of_call(agent, agent.handshake(USD).lease.id, "told today", 5)
        tell_of_call(agent, returned, "told too late", 500)
    first = usage_row(agents[0].id, "timed", duration_ms=700, report_cost_micros=None, occurred_at=OLD)
    for record in (first, first._replace(outcome="failed", error_code="timeout"), first):
        world.store.write(partial(_put, record))
    failed = usage_row(agents[1].id, "failed", outcome="failed", cost_micros=0, report_cost_micros=None)
    world.store.write(partial(_put, failed))
    world.store.write(
        partial(_put, failed._replace(call_key="failed then", id="trace_old", occurred_at=first.occurred_at))
    )
    world.store.write(lambda uow: set_allocation(uow, orphan.id, 300 * USD, actor=ADMIN))
    root = world.store.write(partial(add_user, username="root", email="root@test", role="admin", actor=SYSTEM))
    world.store.write(partial(delete_agent, agent_id=agents[3].id, principal=principal_of(root)))
    world.clock.pass_s(600)
    agents[0].handshake(2 * USD)
    world.clock.pass_s(3000)
    agents[1].handshake(2 * USD)
    assert world.verify().differences == []
    return world


def _put(record: UsageRecord, uow: UnitOfWork) -> None:
    uow.usage.put(record)


def mend(world: World, *, rollups_only: bool = False) -> Repaired:
    return world.store.write(lambda uow: repair(uow, rollups_only=rollups_only))


def derived(world: World) -> Rows:
    """Return the rows of every derived table; what a row of the audit log adds is not looked at."""
    tables = {table: raw(world.store, f"SELECT * FROM {table} WHERE {_some(table)} ORDER BY 1, 2") for table in DERIVED}
    added = len(repairs(world))
    tables["audit_counts"] = [(chain, n - added if chain == "standard" else n) for chain, n in tables["audit_counts"]]
    return tables


def _some(table: str) -> str:
    return " OR ".join(f"{number} <> 0" for number in DERIVED[table]) or "TRUE"


def sources(world: World) -> Rows:
    return {table: raw(world.store, f"SELECT * FROM {table}") for table in SOURCES}


def triggers(world: World) -> list[tuple[object, ...]]:
    return raw(world.store, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name")


def repairs(world: World) -> list[str]:
    page = world.store.read(lambda uow: uow.audit.page(AuditFilter(operation="BOOKS_REPAIRED"), Paging()))
    return [row.metadata for row in page.rows]


def corrupt(world: World, *statements: str) -> None:
    """Change the file as a bug or a hand would, past every guard."""
    guards = triggers(world)
    for name, _ in guards:
        raw(world.store, f"DROP TRIGGER {name}")
    for statement in ("PRAGMA ignore_check_constraints = ON", *statements, "PRAGMA ignore_check_constraints = OFF"):
        raw(world.store, statement)
    for _, create in guards:
        raw(world.store, str(create))
    with world.store._writer.turn():
        world.store._writer._uow.forget()


def test_on_a_healthy_store_it_changes_nothing(busy: World) -> None:
    """Row by row; not even the audit log hears of it."""
    before = derived(busy), sources(busy), triggers(busy)

    done = mend(busy)

    assert (done.rows, done.differences, done.now.differences) == ({}, [], [])
    assert (derived(busy), sources(busy), triggers(busy)) == before
    assert repairs(busy) == []


def test_extremes_that_a_correction_left_too_wide_stay(busy: World) -> None:
    """They are no difference, so nothing is changed."""
    record = usage_row(busy.agent(name="third").id, "third", report_cost_micros=None, cost_source="event")
    for cost in (5, 1, 9, 5):
        busy.store.write(partial(_put, record._replace(cost_micros=cost)))
    before = derived(busy)

    assert mend(busy).rows == {}
    assert derived(busy) == before
    extremes = "SELECT min_cost_micros, max_cost_micros FROM usage_days WHERE agent_id = ?"
    assert raw(busy.store, extremes, (record.agent_id,)) == [(1, 9)]


@pytest.mark.parametrize("hour_days", [2, 30])
@pytest.mark.parametrize("limit", [1, 100])
def test_after_a_purge_it_changes_nothing_either(busy: World, hour_days: int, limit: int) -> None:
    """What was purged is not missed, in the midst of it as at its end."""
    busy.store.write(partial(purge_usage, record_days=7, hour_days=hour_days, limit=limit))
    before = derived(busy)

    assert mend(busy).rows == {}
    assert derived(busy) == before


NUMBERS = (
    "completed", "failed", "input_tokens", "output_tokens", "unsplit_tokens", "cost_micros", "timed", "duration_ms",
    "failed_cost_micros",
)  # fmt: skip
ROLLUPS = ("usage_days", "usage_hours", "usage_agent_days", "usage_wide_days", "usage_wide_hours")
COLUMNS = [
    *(("agent_budgets", column) for column in ("allocated", "spent", "overspent", "held", "pending")),
    *(
        ("leases", name)
        for name in ("granted", "spent", "overspent", "returned", "reclaimed", "unattributed", "reports", "pending")
    ),
    *((table, column) for table, columns in DERIVED.items() if table not in ROLLUPS for column in columns),
    *(("agent_totals", column) for column in ("allocated", "spent", "held", "ic_tokens")),
    *(("project_totals", column) for column in ("owners", "allocated", "spent", "held", "ic_tokens")),
    *((table, column) for table in ROLLUPS for column in NUMBERS),
    *((table, column) for table in DERIVED if table.endswith("_bands") for column in ("s0", "s17", "s31")),
]


@pytest.mark.parametrize("change", ["{0} + 7", "max({0} - 1, 0)"])
@pytest.mark.parametrize("table", DERIVED)
def test_each_derived_number_is_made_anew(busy: World, table: str, change: str) -> None:
    """Whether it was too high or too low, in every row at once, and the rows are what they were."""
    where = "kind = 'tokens'" if table == "limit_windows" else _some(table)
    before, kept, guards = derived(busy), sources(busy), triggers(busy)
    for column in (each for of, each in COLUMNS if of == table):
        corrupt(busy, f"UPDATE {table} SET {column} = {change.format(column)} WHERE {where}")
        is_changed, told = derived(busy) != before, len(repairs(busy))

        done = mend(busy)

        assert done.now.differences == [], column
        assert derived(busy) == before, column
        assert (table in done.rows, len(repairs(busy)) - told) == (is_changed, int(is_changed)), column
        assert is_changed or "- 1" in change, column
    assert (sources(busy), triggers(busy)) == (kept, guards)


@pytest.mark.parametrize("table", [table for table in DERIVED if table not in {"agent_budgets", "leases"}])
def test_rows_that_are_gone_come_back(busy: World, table: str) -> None:
    """Of a whole table."""
    before = derived(busy)
    corrupt(busy, f"DELETE FROM {table}" + (" WHERE kind = 'tokens'" if table == "limit_windows" else ""))

    done = mend(busy)

    assert (done.now.differences, derived(busy), set(done.rows)) == ([], before, {table})


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE bank_months SET period = '1999-01'", "bank_months"),
        ("UPDATE bank_months SET user_id = 'nobody'", "bank_months"),
        ("UPDATE bank_project_holds SET project_id = 'x' || project_id", "bank_project_holds"),
        ("UPDATE ledger_counts SET day = day + 1", "ledger_counts"),
        ("UPDATE ledger_totals SET kind = 'x' || kind", "ledger_totals"),
        ("UPDATE lease_counts SET status = 'x' || status", "lease_counts"),
        ("UPDATE agent_totals SET owner_id = 'x' || owner_id", "agent_totals"),
        ("UPDATE usage_days SET bucket = bucket + 1", "usage_days"),
        ("UPDATE usage_hours SET provider_id = 'other'", "usage_hours"),
        ("UPDATE usage_wide_days SET model = 'other'", "usage_wide_days"),
        ("UPDATE usage_agent_days SET agent_id = 'x' || agent_id", "usage_agent_days"),
        ("UPDATE usage_agent_days_bands SET bucket = bucket + 1", "usage_agent_days_bands"),
        ("UPDATE usage_days SET last_at = 1", "usage_days"),
        ("UPDATE usage_wide_hours SET last_at = last_at - 1", "usage_wide_hours"),
        ("UPDATE usage_days SET max_cost_micros = 0", "usage_days"),
        ("UPDATE usage_wide_days SET min_cost_micros = min_cost_micros + 1", "usage_wide_days"),
        ("UPDATE usage_days_bands SET band = band + 1", "usage_days_bands"),
        ("UPDATE usage_wide_hours_bands SET measure = 'x' || measure", "usage_wide_hours_bands"),
        ("UPDATE usage_days_errors SET error_code = 'x' || error_code", "usage_days_errors"),
        ("UPDATE usage_wide_days_errors SET last_at = 1", "usage_wide_days_errors"),
        ("UPDATE leases SET due_at = expires_at + 1 WHERE status = 'active'", "leases"),
        ("UPDATE leases SET due_at = due_at + 1 WHERE status = 'expired'", "leases"),
        ("UPDATE leases SET due_at = due_at - 1 WHERE status = 'expired'", "leases"),
        ("UPDATE leases SET due_at = NULL WHERE status = 'expired'", "leases"),
        ("UPDATE leases SET due_at = 5 WHERE status = 'closed'", "leases"),
    ],
)
def test_what_stands_in_the_wrong_place_is_put_right(busy: World, statement: str, table: str) -> None:
    """A row of another key is none; a time at which nobody would look is one at which somebody does."""
    before = derived(busy)
    corrupt(busy, statement)
    assert derived(busy) != before

    done = mend(busy)

    assert (done.now.differences, derived(busy)) == ([], before)
    assert table in done.rows


def test_everything_at_once_is_made_anew(busy: World) -> None:
    """The guards that keep spend from falling are put aside, and are there again after it."""
    before, guards = derived(busy), triggers(busy)
    corrupt(busy, *(f"UPDATE {table} SET {column} = {column} * 3 + 1" for table, column in COLUMNS))

    done = mend(busy)

    assert (done.now.differences, triggers(busy)) == ([], guards)
    assert {**derived(busy), "limit_windows": []} == {**before, "limit_windows": []}  # the minutes are nobody's sum
    with pytest.raises(sqlite3.IntegrityError, match="spend never falls"):
        raw(busy.store, "UPDATE agent_budgets SET spent = spent - 1 WHERE spent > overspent")


def test_a_budget_that_is_gone_comes_back_under_another_id(busy: World) -> None:
    """The ledger knows its numbers; what it was called is lost."""
    before = derived(busy)["agent_budgets"]
    corrupt(busy, "DELETE FROM agent_budgets WHERE agent_id = (SELECT max(agent_id) FROM agent_budgets)")

    done = mend(busy)
    after = derived(busy)["agent_budgets"]

    assert (done.now.differences, done.rows["agent_budgets"]) == ([], 2)  # it was made, then filled
    assert [row[2:7] for row in after] == [row[2:7] for row in before]
    assert [row[:2] for row in after[:-1]] == [row[:2] for row in before[:-1]]


@pytest.mark.parametrize("hour_days", [2, 30])
def test_what_lies_before_the_horizons_stays(busy: World, hour_days: int) -> None:
    """No record tells of those days any more; the wide days are sums of the fine ones all the same."""
    busy.store.write(partial(purge_usage, record_days=7, hour_days=hour_days, limit=100))
    before = derived(busy)
    oldest = "WHERE bucket = (SELECT min(bucket) FROM {0})"
    corrupt(busy, f"UPDATE usage_wide_days SET cost_micros = 1 {oldest.format('usage_wide_days')}")

    done = mend(busy)

    assert (done.now.differences, derived(busy), set(done.rows)) == ([], before, {"usage_wide_days"})
    (newest,) = raw(busy.store, "SELECT max(bucket) FROM usage_days")[0]
    corrupt(busy, f"UPDATE usage_days SET cost_micros = 0 WHERE bucket = {newest}")
    mend(busy)
    assert derived(busy) == before


def test_today_s_tokens_go_where_they_can_be(busy: World) -> None:
    """Of purged records it is only known how many tokens they may have been: the nearest bound is taken."""
    busy.clock.instant = NOON + 3600_000
    busy.store.write(partial(purge_usage, record_days=7, hour_days=7, limit=100))
    before = derived(busy)["limit_windows"]
    right = raw(busy.store, "SELECT n FROM limit_windows WHERE kind = 'tokens' AND project_id = ''")[0][0]
    found = []
    for wrong in (0, right - 1, right + 10_000):
        corrupt(busy, f"UPDATE limit_windows SET n = {wrong} WHERE kind = 'tokens' AND project_id = ''")
        assert mend(busy).now.differences == []
        found.append(raw(busy.store, "SELECT n FROM limit_windows WHERE kind = 'tokens' AND project_id = ''")[0][0])

    assert found[0] < found[1] == right - 1 < right <= found[2] < right + 10_000, (found, before)


def test_rollups_may_be_made_anew_alone(busy: World) -> None:
    """The rest stays as wrong as it is, and verify says so."""
    before = derived(busy)
    corrupt(busy, "DELETE FROM usage_days", "UPDATE bank_months SET spent = spent + 1")

    done = mend(busy, rollups_only=True)

    assert (set(done.rows), {each.number for each in done.now.differences}) == ({"usage_days"}, {"bank spent"})
    assert {**derived(busy), "bank_months": []} == {**before, "bank_months": []}


def test_the_audit_log_remembers_what_was_changed(busy: World) -> None:
    """By table, and the differences one by one; the chain holds."""
    (wrong,) = raw(busy.store, "SELECT user_id, spent FROM bank_months")
    corrupt(busy, "UPDATE bank_months SET spent = spent + 5", "DELETE FROM lease_totals")

    done = mend(busy)

    (told,) = [json.loads(each) for each in repairs(busy)]
    assert told["rows"] == dict(done.rows) == {"bank_months": 1, "lease_totals": 4}
    assert told["differences"] == len(done.differences) == 5
    assert told["first_differences"][0][1:] == ["bank spent", str(wrong[1] + 5), str(wrong[1])]


def test_the_audit_log_does_not_remember_a_million_differences(busy: World) -> None:
    """Their number, and the first hundred."""
    corrupt(busy, *(f"UPDATE {table} SET {column} = {column} + 1" for table, column in COLUMNS))

    done = mend(busy)

    (told,) = [json.loads(each) for each in repairs(busy)]
    assert (told["differences"], len(told["first_differences"])) == (len(done.differences), 100)


def test_what_the_sources_say_wrong_is_left_and_named(busy: World) -> None:
    """The ledger is never changed, and neither is the audit log."""
    corrupt(busy, "UPDATE audit_log SET actor_id = 'me' WHERE seq = 2", "UPDATE ledger SET period = '1999-01'")
    kept = sources(busy)

    done = mend(busy)

    assert {each.number for each in done.now.differences} == {"period", "audit chain"}
    assert sources(busy) == kept


def test_the_next_calls_see_the_repaired_numbers(busy: World) -> None:
    """Nothing that was in memory before is used again, by whoever shares the connection."""
    agent = busy.agent(name="next")
    lease = agent.handshake(10 * USD).lease.id
    corrupt(busy, "UPDATE agent_budgets SET spent = 0, overspent = 0, held = 0, allocated = 5")
    assert agent.balance().allocated == 5

    mend(busy)
    after = agent.report(lease, "r1", 3 * USD).balance

    assert (after.allocated, after.spent, after.held) == (100 * USD, 3 * USD, 7 * USD)
    assert busy.verify().differences == []


def test_a_due_time_that_was_lost_is_noticed_by_the_next_call(busy: World) -> None:
    """What was known of due times is forgotten as well."""
    agent = busy.agent(name="next")
    lease = agent.handshake(10 * USD).lease
    corrupt(busy, f"UPDATE leases SET due_at = expires_at + 1000000000 WHERE id = '{lease.id}'")
    agent.report(lease.id, "r1", 1)

    mend(busy)
    busy.clock.pass_s(3700)
    agent.handshake(USD)

    assert agent.lease(lease.id).status == "closed"


def test_a_repair_that_fails_leaves_everything_as_it_was(busy: World) -> None:
    """The guards too."""
    corrupt(busy, "UPDATE bank_months SET spent = spent + 5")
    before = derived(busy), triggers(busy)

    with pytest.raises(RefusedError):
        busy.store.write(raising(repair))

    assert (derived(busy), triggers(busy), repairs(busy)) == (*before, [])


def test_another_process_reads_what_was_repaired(tmp_path: object) -> None:
    """A store that has the file open at the time notices."""
    clock = SetClock()
    with SqliteStore(f"{tmp_path}/iron.db", clock=clock) as serving, SqliteStore(f"{tmp_path}/iron.db") as other:
        world = World(serving, clock)
        agent = world.agent()
        lease = agent.handshake(10 * USD).lease.id
        raw(other, "UPDATE agent_budgets SET held = held + 5")
        assert agent.balance().held == 10 * USD + 5

        other.write(repair)
        agent.report(lease, "r1", 3 * USD)

        assert (agent.balance().held, world.verify().differences) == (7 * USD, [])
