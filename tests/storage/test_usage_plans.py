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

READS: dict[str, Callable[[UnitOfWork, str, str], object]] = {
    "sums of an agent": lambda uow, agent, _: uow.usage.sums(UsageFilter(agent, **SPAN), ("model",)),
    "sums of an owner": lambda uow, _, owner: uow.usage.sums(UsageFilter(owner_id=owner, **SPAN), ("agent_id",)),
    "sums of all": lambda uow, _, __: uow.usage.sums(UsageFilter(**SPAN), ("provider",)),
    "sums of all by agent": lambda uow, _, __: uow.usage.sums(UsageFilter(**SPAN), ("agent_id",)),
    "sums of today": lambda uow, _, __: uow.usage.sums(UsageFilter(**TODAY), ("agent_id",)),
    "traces of an agent": lambda uow, agent, _: uow.usage.page(TraceFilter(agent, **SPAN), Paging()),
    "traces of an owner": lambda uow, _, owner: uow.usage.page(TraceFilter(owner_id=owner, **SPAN), Paging()),
    "traces of all": lambda uow, _, __: uow.usage.page(TraceFilter(**SPAN), Paging()),
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
