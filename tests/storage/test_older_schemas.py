"""A database that an older version filled gets what that version did not keep, as if it had been kept all along."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlite_utils import Database

from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite.connection import APPLICATION_ID, connect
from ironcage_storage.sqlite.schema import migrations
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import usage_row
from tests.support.stores import raw
from tests.support.world import NOON, USD, SetClock, World

HOUR_S = 3600


def _put(record: UsageRecord, uow: UnitOfWork) -> None:
    uow.usage.put(record)


def columns_of(connection: sqlite3.Connection, table: str, schema: str = "main") -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA {schema}.table_info({table})")]


def as_it_was(source: Path, target: Path, *, before: str) -> None:
    """Write what the migrations before this one could hold of a database to a file of that schema."""
    with closing(connect(str(target))) as old:
        migrations.apply(Database(old, execute_plugins=False), stop_before=before)
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        old.execute("ATTACH ? AS now", (str(source),))
        old.execute("PRAGMA foreign_keys = OFF")
        master = "SELECT name, sql FROM sqlite_master WHERE type = ? AND name NOT LIKE '\\_%' ESCAPE '\\'"
        triggers = old.execute(master, ("trigger",)).fetchall()
        for name, _ in triggers:
            old.execute(f"DROP TRIGGER {name}")
        for name, _ in old.execute(master, ("table",)).fetchall():
            shared = [each for each in columns_of(old, name) if each in columns_of(old, name, "now")]
            if name.startswith("sqlite_") or not shared:
                continue
            names = ", ".join(shared)
            old.execute(f"DELETE FROM main.{name}")
            old.execute(f"INSERT INTO main.{name} ({names}) SELECT {names} FROM now.{name}")
        for _, sql in triggers:
            old.execute(sql)


@pytest.fixture
def clock() -> SetClock:
    return SetClock(NOON - 3 * 24 * HOUR_S * 1000)


@pytest.fixture
def full(tmp_path: Path, clock: SetClock) -> Iterator[SqliteStore]:
    """Return a store in which runtimes of two owners and two projects have worked for three days."""
    with SqliteStore(tmp_path / "full.db", clock=clock) as store:
        world = World(store, clock)
        agents = [world.agent(name=f"worker{n}") for n in range(3)]
        moved = agents[1].id
        store.write(lambda uow: uow.agents.put(uow.agents.find(moved)._replace(project_id="proj_orphaned")))  # type: ignore[union-attr]  # it was just made
        for day in range(3):
            for n, agent in enumerate(agents):
                lease_id = agent.handshake(4 * USD).lease.id
                agent.report(lease_id, f"a{day}", USD + n, tokens=None, input_tokens=7, output_tokens=n)
                agent.report(lease_id, f"b{day}", 5 * USD, occurred_at=clock.instant - 13 * HOUR_S * 1000)
                agent.return_lease(lease_id)
            clock.pass_s(24 * HOUR_S)
        for agent in agents[:2]:
            lease_id = agent.handshake(2 * USD).lease.id
            agent.report(lease_id, "today", 3, model="other")
        for n, code in enumerate((None, "", "timeout", "timeout")):
            record = usage_row(
                agents[n % 2].id,
                f"failed {n}",
                occurred_at=NOON - n * HOUR_S * 1000,
                outcome="failed",
                error_code=code,
                duration_ms=70 * n,
            )
            store.write(partial(_put, record._replace(cost_micros=0, report_cost_micros=None, cost_source="event")))
        yield store


KEPT = {
    "usage_days": "SELECT * FROM usage_days",
    "usage_hours": "SELECT * FROM usage_hours",
    "usage_agent_days": "SELECT * FROM usage_agent_days",
    "usage_wide_days": "SELECT * FROM usage_wide_days",
    "usage_wide_hours": "SELECT * FROM usage_wide_hours",
    **{
        f"usage_{name}_bands": f"SELECT * FROM usage_{name}_bands"
        for name in ("days", "agent_days", "wide_days", "wide_hours")
    },
    **{
        f"usage_{name}_errors": f"SELECT * FROM usage_{name}_errors"
        for name in ("days", "hours", "wide_days", "wide_hours")
    },
    "tokens": """SELECT * FROM limit_windows WHERE kind = 'tokens'
        AND window >= (SELECT max(window) FROM limit_windows WHERE kind = 'tokens') - 2""",
    "bank_project_months": "SELECT * FROM bank_project_months",
    "bank_project_holds": "SELECT * FROM bank_project_holds WHERE held <> 0",
}


def test_a_database_without_rollups_gets_what_would_have_been_kept(
    tmp_path: Path, full: SqliteStore, clock: SetClock
) -> None:
    """Sums by hour and day, the last days' tokens and the banks of projects; verify finds nothing, and work goes on."""
    as_it_was(tmp_path / "full.db", tmp_path / "old.db", before="usage_and_limits")

    with SqliteStore(tmp_path / "old.db", clock=clock) as store:
        for name, sql in KEPT.items():
            rows = sorted(raw(full, sql), key=repr)
            assert rows, name
            assert sorted(raw(store, sql), key=repr) == rows, name
        days = "SELECT count(DISTINCT window) FROM limit_windows WHERE kind = 'tokens'"
        assert (raw(full, days), raw(store, days)) == ([(4,)], [(3,)])
        assert store.read(verify).differences == []
        assert store.check_file() == []


def test_a_database_without_histograms_gets_those_of_the_records_it_has(
    tmp_path: Path, full: SqliteStore, clock: SetClock
) -> None:
    """Extremes, histograms and errors; of days whose records are gone there are none, and verify does not miss them."""
    as_it_was(tmp_path / "full.db", tmp_path / "old.db", before="analytics")
    with closing(connect(str(tmp_path / "old.db"))) as old:
        old.execute(
            "INSERT INTO usage_days SELECT agent_id, owner_id, project_id, provider, provider_id, 'gone', "
            "1, 1, 0, 0, 0, 9, 50, 0, 0, 86400000 FROM usage_days LIMIT 1"
        )
        old.execute(
            "INSERT INTO usage_wide_days SELECT project_id, provider, provider_id, model, bucket, 1, 0, 0, 0, "
            "9, 50, 0, 0, 86400000 FROM usage_days WHERE model = 'gone'"
        )
        old.execute("INSERT INTO usage_horizons VALUES ('records', 172800000)")

    with SqliteStore(tmp_path / "old.db", clock=clock) as store:
        for name in [each for each in KEPT if each.startswith("usage_")]:
            gone = " WHERE bucket > 1" if name.endswith("days") else ""
            assert sorted(raw(store, KEPT[name] + gone)) == sorted(raw(full, KEPT[name])), name
        assert store.read(verify).differences == []
        (sums,) = store.read(lambda uow: uow.usage.sums(UsageFilter(model="gone"))).values()
        assert (sums.completed, sums.cost_micros, sums.min_cost_micros, sums.max_cost_micros) == (1, 50, 0, 0)
