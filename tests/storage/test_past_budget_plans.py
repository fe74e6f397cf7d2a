"""A budget as of a time is looked up, however long the ledger is."""

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import NOON, SetClock, World


@pytest.mark.parametrize("read", ["last_of", "overspent"])
def test_a_past_budget_never_scans_the_ledger(read: str) -> None:
    """Every step of the plan searches by the front of an index."""
    told: list[str] = []
    with SqliteStore(":memory:", clock=SetClock()) as store:
        agent = World(store, SetClock()).agent()
        store._connection.set_trace_callback(told.append)
        store.write(lambda uow: getattr(uow.ledger, read)(agent.id, NOON))
        store._connection.set_trace_callback(None)
        (sql,) = [each for each in told if each.startswith("SELECT") and "FROM ledger" in each]
        plan = [row[3] for row in store._connection.execute(f"EXPLAIN QUERY PLAN {sql}")]

    steps = [step for step in plan if "ledger" in step]
    assert steps, plan
    assert all(step.startswith("SEARCH ledger USING") for step in steps), plan
    assert "ORDER BY" not in " ".join(plan), plan
