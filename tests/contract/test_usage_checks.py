"""Verify counts the sums of usage, the banks of projects and today's tokens again, and names what differs."""

from functools import partial

import pytest

from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_retention import purge_usage
from tests.support.rows import usage_row
from tests.support.stores import raw
from tests.support.world import NOON, USD, World


@pytest.fixture
def busy(world: World) -> World:
    """Return a world of two owners with three agents, whose calls lie ten and no days back."""
    other = world.agent(name="orphan")
    world.store.write(lambda uow: uow.agents.put(uow.agents.find(other.id)._replace(project_id="proj_orphaned")))  # type: ignore[union-attr]  # it was just made
    for agent in (world.agent(), world.agent(name="second"), other):
        lease_id = agent.handshake(10 * USD).lease.id
        agent.report(lease_id, "old", 2 * USD, occurred_at=NOON - 10 * MS_PER_DAY)
        agent.report(lease_id, "split", USD, tokens=None, input_tokens=30, output_tokens=12)
        agent.report(lease_id, "over", 20 * USD)
    agent.handshake(5 * USD)
    world.store.write(lambda uow: uow.usage.put(usage_row(agent.id, "timed", duration_ms=700, report_cost_micros=None)))
    for code, at in ((None, NOON), ("timeout", NOON - 10 * MS_PER_DAY)):
        failed = usage_row(agent.id, f"failed {code}", outcome="failed", error_code=code, occurred_at=at)
        world.store.write(partial(_put, failed._replace(cost_micros=0, report_cost_micros=None)))
    assert world.verify().differences == []
    return world


def _put(record: UsageRecord, uow: UnitOfWork) -> None:
    uow.usage.put(record)


NUMBERS = (
    "completed", "failed", "input_tokens", "output_tokens", "unsplit_tokens", "cost_micros", "timed", "duration_ms",
)  # fmt: skip


SUMS = ("usage_days", "usage_hours", "usage_agent_days", "usage_wide_days", "usage_wide_hours")
SUMS_OF = {"usage_days": ("usage_agent_days", "usage_wide_days"), "usage_hours": ("usage_wide_hours",)}
"""Tables that are sums of others, by these."""


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("table", SUMS)
def test_a_changed_number_of_a_rollup_is_named(busy: World, table: str, number: str) -> None:
    """With the table, the cell, and what it should be."""
    raw(busy.store, f"UPDATE {table} SET {number} = {number} + 1 WHERE bucket = (SELECT max(bucket) FROM {table})")

    found = [each for each in busy.verify().differences if each.subject.startswith(f"{table} ")]

    assert {each.number for each in found} == {number}
    assert all(each.stored == int(str(each.recomputed)) + 1 for each in found)


@pytest.mark.parametrize(
    ("table", "number"),
    [
        *(
            (f"usage_{name}_bands", f"{n}")
            for name in ("days", "agent_days", "wide_days", "wide_hours")
            for n in ("calls", "s0", "s31")
        ),
        *((f"usage_{name}_errors", "calls") for name in ("days", "hours", "wide_days", "wide_hours")),
    ],
)
def test_a_changed_number_of_a_histogram_or_of_errors_is_named(busy: World, table: str, number: str) -> None:
    """As those of the sums are."""
    test_a_changed_number_of_a_rollup_is_named(busy, table, number)


@pytest.mark.parametrize(
    ("number", "narrow", "wide"),
    [
        ("last_at", "last_at - 1", "last_at + 1"),
        ("max_cost_micros", "max_cost_micros - 1", "max_cost_micros + 1"),
        ("min_cost_micros", "min_cost_micros + 1", "min_cost_micros - 1"),
    ],
)
@pytest.mark.parametrize("table", SUMS)
def test_an_extreme_is_named_if_it_is_too_narrow(busy: World, table: str, number: str, narrow: str, wide: str) -> None:
    """In its table; one that is wider may have been one before a correction, if the sums of it know it too."""
    cells = "completed > 0 AND bucket = (SELECT max(bucket) FROM {0})"
    for each in (table, *SUMS_OF.get(table, ())):
        raw(busy.store, f"UPDATE {each} SET {number} = {wide} WHERE {cells.format(each)}")
    assert busy.verify().differences == []
    for _ in range(2):
        raw(busy.store, f"UPDATE {table} SET {number} = {narrow} WHERE {cells.format(table)}")

    found = [each for each in busy.verify().differences if each.subject.startswith(f"{table} ")]

    assert {each.number for each in found} == {number}


@pytest.mark.parametrize(
    ("statement", "subject", "number"),
    [
        ("UPDATE usage_days SET last_at = 0", "usage_days ", "last_at"),
        ("UPDATE usage_wide_hours SET last_at = last_at - 1", "usage_wide_hours ", "last_at"),
        ("DELETE FROM usage_days WHERE bucket = (SELECT min(bucket) FROM usage_days)", "usage_days ", "completed"),
        ("DELETE FROM usage_hours", "usage_hours ", "cost_micros"),
        ("UPDATE usage_days SET " + ", ".join(f"{number} = 0" for number in NUMBERS), "usage_days ", "completed"),
        ("DELETE FROM usage_wide_days", "usage_wide_days ", "completed"),
        ("UPDATE usage_days SET provider_id = 'other'", "usage_days ", "completed"),
        ("UPDATE usage_days SET owner_id = 'other'", "usage_days ", "completed"),
        ("UPDATE usage_wide_hours SET bucket = bucket + 1", "usage_wide_hours ", "completed"),
        ("UPDATE usage_records SET duration_ms = 7", "usage_days ", "timed"),
        ("UPDATE usage_records SET outcome = 'failed'", "usage_hours ", "failed"),
        ("UPDATE usage_records SET outcome = 'failed'", "usage_wide_hours_bands ", "calls"),
        ("UPDATE usage_records SET error_code = 'other'", "usage_days_errors ", "calls"),
        ("UPDATE usage_records SET cost_micros = cost_micros * 2", "usage_days_bands ", "calls"),
        ("UPDATE usage_records SET cost_micros = cost_micros + 1", "usage_days ", "max_cost_micros"),
        ("UPDATE usage_days_bands SET band = band + 1", "usage_days_bands ", "calls"),
        ("DELETE FROM usage_days_bands WHERE measure = 'duration'", "usage_days_bands ", "calls"),
        ("UPDATE usage_wide_days_errors SET last_at = last_at - 1", "usage_wide_days_errors ", "last_at"),
        ("DELETE FROM usage_wide_hours_errors", "usage_wide_hours_errors ", "calls"),
        ("UPDATE bank_project_months SET spent = spent + 1", "/proj_orphaned/", "bank spent in the project"),
        ("DELETE FROM bank_project_months", "/proj_orphaned/", "bank spent in the project"),
        ("UPDATE bank_project_holds SET held = held + 1", "/proj_orphaned", "bank held in the project"),
        ("UPDATE bank_project_holds SET project_id = 'x' || project_id", "/xproj_", "bank held in the project"),
        ("UPDATE limit_windows SET n = n + 1 WHERE project_id = ''", "all projects", "tokens of today"),
        ("UPDATE limit_windows SET n = n - 1 WHERE project_id <> ''", "/proj_", "tokens of today"),
        ("DELETE FROM limit_windows", "/proj_", "tokens of today"),
    ],
)
def test_what_was_changed_behind_its_back_is_named(busy: World, statement: str, subject: str, number: str) -> None:
    """In a cell, in a whole table, in the records themselves."""
    raw(busy.store, statement)

    found = [(each.subject, each.number) for each in busy.verify().differences]

    assert any(subject in where and number == what for where, what in found), found


def test_a_row_of_zeros_is_no_row(busy: World) -> None:
    """A record that moved from one cell to another leaves one behind."""
    for name in SUMS:
        raw(busy.store, f"CREATE TEMP TABLE copy AS SELECT * FROM {name} LIMIT 1")
        raw(busy.store, "UPDATE copy SET bucket = 1, last_at = 0, " + ", ".join(f"{number} = 0" for number in NUMBERS))
        raw(busy.store, f"INSERT INTO {name} SELECT * FROM copy")
        raw(busy.store, "DROP TABLE copy")

    assert busy.verify().differences == []


def test_the_extremes_of_an_emptied_cell_are_nobodys(busy: World) -> None:
    """It keeps when its last call was and what calls have cost; the tables that are sums of it need not."""
    for name in ("usage_days", "usage_hours"):
        raw(busy.store, f"CREATE TEMP TABLE copy AS SELECT * FROM {name} WHERE max_cost_micros > 0 LIMIT 1")
        raw(busy.store, "UPDATE copy SET bucket = 1, " + ", ".join(f"{number} = 0" for number in NUMBERS))
        raw(busy.store, f"INSERT INTO {name} SELECT * FROM copy")
        raw(busy.store, "DROP TABLE copy")

    assert busy.verify().differences == []


@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize("hour_days", [2, 30])
def test_what_a_purge_took_away_is_no_difference(busy: World, hour_days: int, limit: int) -> None:
    """In the midst of it as at its end; the days before the horizon are still held by the wide ones."""
    busy.store.write(partial(purge_usage, record_days=7, hour_days=hour_days, limit=limit))

    assert busy.verify().differences == []
    raw(busy.store, "UPDATE usage_days SET cost_micros = 1 WHERE bucket = (SELECT min(bucket) FROM usage_days)")
    assert {each.number for each in busy.verify().differences} == {"cost_micros"}


def test_calls_at_a_horizon_are_no_difference(busy: World) -> None:
    """Those of the first instant that is kept stay in their hour and in their day, and are still counted again."""
    agent = busy.agent(name="third")
    lease_id = agent.handshake(10 * USD).lease.id
    for days in (7, 2):
        agent.report(lease_id, f"{days} back", USD, occurred_at=NOON // MS_PER_DAY * MS_PER_DAY - days * MS_PER_DAY)
    busy.store.write(partial(purge_usage, record_days=7, hour_days=2, limit=100))

    assert busy.verify().differences == []
    for table in ("usage_wide_hours", "usage_hours"):
        raw(busy.store, f"UPDATE {table} SET cost_micros = 1 WHERE bucket = (SELECT min(bucket) FROM {table})")
        assert table in {each.subject.split()[0] for each in busy.verify().differences}


def test_hours_that_outlive_their_records_are_held_against_each_other(busy: World) -> None:
    """As their days are: the wide ones are sums of the fine ones, wherever those are kept."""
    busy.store.write(partial(purge_usage, record_days=7, hour_days=30, limit=100))

    raw(busy.store, "UPDATE usage_wide_hours SET cost_micros = 1 WHERE bucket = (SELECT min(bucket) FROM usage_hours)")

    found = {(each.subject.split()[0], each.number) for each in busy.verify().differences}
    assert found == {("usage_wide_hours", "cost_micros")}
