"""Reads of usage look things up: none walks through a table that grows with history."""

from collections.abc import Callable
from typing import Any

import pytest

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR
from ironcage_core.ports.lists import Paging, TraceFilter, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import put_agent, usage_row
from tests.support.stores import raw
from tests.support.world import NOON

SPAN: dict[str, Any] = {"since": NOON - 3 * MS_PER_DAY, "until": NOON + MS_PER_HOUR}
TODAY: dict[str, Any] = {"since": NOON // MS_PER_DAY * MS_PER_DAY, "until": NOON + MS_PER_HOUR}

DAYS: dict[str, Any] = {"since": SPAN["since"] // MS_PER_DAY * MS_PER_DAY, "until": TODAY["since"] + MS_PER_DAY}

READS: dict[str, Callable[[UnitOfWork, str, str], object]] = {
    "sums of an agent": lambda uow, agent, _: uow.usage.sums(UsageFilter(agent, **SPAN), ("model",)),
    "sums of an owner": lambda uow, _, owner: uow.usage.sums(UsageFilter(owner_id=owner, **SPAN), ("agent_id",)),
    "sums of all": lambda uow, _, __: uow.usage.sums(UsageFilter(**SPAN), ("provider",)),
    "sums of all by agent": lambda uow, _, __: uow.usage.sums(UsageFilter(**SPAN), ("agent_id",)),
    "sums of today": lambda uow, _, __: uow.usage.sums(UsageFilter(**TODAY), ("agent_id",)),
    "hours of an agent": lambda uow, agent, _: uow.usage.series(UsageFilter(agent, **TODAY), "hour", ("model",)),
    "hours of all": lambda uow, _, __: uow.usage.series(UsageFilter(**TODAY), "hour", ("provider",)),
    "days of an owner": lambda uow, _, owner: uow.usage.series(UsageFilter(owner_id=owner, **DAYS), "day"),
    "days of all by agent": lambda uow, _, __: uow.usage.series(UsageFilter(**DAYS), "day", ("agent_id",)),
    "cells by hour": lambda uow, _, __: uow.usage.cells(UsageFilter(**TODAY), "hour", 10),
    "cells by day": lambda uow, _, __: uow.usage.cells(UsageFilter(**DAYS), "day", 10),
    "bands of an agent": lambda uow, agent, _: uow.usage.bands(UsageFilter(agent, **SPAN), "cost"),
    "bands of all": lambda uow, _, __: uow.usage.bands(UsageFilter(**SPAN), "duration"),
    "steps of an owner": lambda uow, _, owner: uow.usage.steps(UsageFilter(owner_id=owner, **SPAN), "cost", 1),
    "steps of all": lambda uow, _, __: uow.usage.steps(UsageFilter(**SPAN), "cost", 1),
    "errors of an agent": lambda uow, agent, _: uow.usage.errors(UsageFilter(agent, **SPAN)),
    "errors of all": lambda uow, _, __: uow.usage.errors(UsageFilter(**SPAN)),
    "costs of an agent": lambda uow, agent, _: uow.usage.costs(UsageFilter(agent, **SPAN), 10),
    "costs of an owner": lambda uow, _, owner: uow.usage.costs(UsageFilter(owner_id=owner), 10),
    "costs of all": lambda uow, _, __: uow.usage.costs(UsageFilter(**SPAN), 10),
    "traces of an agent": lambda uow, agent, _: uow.usage.page(TraceFilter(agent, **SPAN), Paging()),
    "traces of an owner": lambda uow, _, owner: uow.usage.page(TraceFilter(owner_id=owner, **SPAN), Paging()),
    "traces of all": lambda uow, _, __: uow.usage.page(TraceFilter(**SPAN), Paging()),
    "traces behind one": lambda uow, agent, _: uow.usage.before(
        TraceFilter(**SPAN), usage_row(agent, "call", occurred_at=NOON + 1), 50
    ),
    "traces of an owner behind one": lambda uow, agent, owner: uow.usage.before(
        TraceFilter(owner_id=owner, **SPAN), usage_row(agent, "call", occurred_at=NOON + 1), 50
    ),
    "traces with a provider key": lambda uow, _, __: uow.usage.page(TraceFilter(provider_id="prov", **SPAN), Paging()),
    "traces of a call": lambda uow, _, __: uow.usage.page(TraceFilter(call_key="call", **SPAN), Paging()),
    "traces of an agent's lease": lambda uow, agent, _: uow.usage.page(
        TraceFilter(agent, lease_id="lease", **SPAN), Paging()
    ),
}


@pytest.mark.parametrize("name", list(READS))
def test_a_read_of_usage_never_scans_a_table(name: str) -> None:
    """Every table of records or rollups is searched by the front of a key or of an index."""
    told: list[str] = []
    with SqliteStore(":memory:") as store:
        agent = store.write(put_agent)
        store.write(lambda uow: uow.usage.put(usage_row(agent.id, "call")))

        def run(uow: UnitOfWork) -> None:
            store._connection.set_trace_callback(told.append)
            READS[name](uow, agent.id, agent.owner_id)
            store._connection.set_trace_callback(None)

        store.write(run)
        selects = [sql for sql in told if sql.startswith("SELECT") and " usage_" in sql]
        plans = [step[3] for sql in selects for step in raw(store, f"EXPLAIN QUERY PLAN {sql}")]

    assert any(step.startswith("SEARCH usage_") for step in plans)
    assert [step for step in plans if step.startswith("SCAN usage_")] == []
