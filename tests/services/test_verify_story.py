"""Verification: a number changed behind the store is found and named."""

from pathlib import Path

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.stores import raw
from tests.support.world import USD, World

GUARDS = ("ledger_no_update", "leases_spend_grows", "budgets_spend_grows", "leases_end_once")


@pytest.mark.parametrize(
    ("tampering", "number"),
    [
        ("UPDATE agent_budgets SET allocated = allocated + 1", "allocated"),
        ("UPDATE agent_budgets SET spent = spent - 1", "spent"),
        ("UPDATE agent_budgets SET held = held + 1", "held"),
        ("UPDATE leases SET granted = granted + 1", "granted"),
        ("UPDATE leases SET unattributed = 5", "total spent"),
        ("UPDATE leases SET due_at = expires_at + 1", "due_at"),
        ("UPDATE ledger SET amount = amount + 1 WHERE kind = 'spend'", "spent"),
        ("UPDATE usage_records SET report_cost_micros = 1", "total spent"),
        ("UPDATE bank_months SET spent = spent + 1", "bank spent"),
        ("UPDATE bank_holds SET held = held + 1", "bank held"),
    ],
)
def test_a_number_changed_behind_the_store_is_found(tmp_path: Path, tampering: str, number: str) -> None:
    """Whoever has the file can drop the guards, but every sum is told twice."""
    with SqliteStore(tmp_path / "books.db") as store:
        world = World(store, store._clock)  # type: ignore[arg-type]  # a running clock does here
        agent = world.agent(100 * USD)
        agent.report(agent.handshake(10 * USD).lease.id, "req", 2 * USD)
        assert world.verify().holds
        for guard in GUARDS:
            raw(store, f"DROP TRIGGER {guard}")
        raw(store, tampering)

        found = {difference.number for difference in world.verify().differences}

    assert number in found
