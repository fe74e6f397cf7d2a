"""Sweeping in batches of whatever size: the same books."""

from itertools import count

from ironcage_core.domain.ids import Prefix
from ironcage_core.domain.instants import Instant
from ironcage_core.services.expiry import sweep
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.stores import raw
from tests.support.world import USD, SetClock, World

Rows = list[tuple[object, ...]]
TABLES = {
    "agent_budgets": "allocated, spent, overspent, held, updated_at",
    "leases": """status, status_reason, granted, spent, returned, reclaimed, reports, expires_at, expired_at, closed_at,
        due_at, lives_until""",
    "ledger": "seq, kind, amount, cause, posted_at, allocated_after, spent_after, held_after, lease_id IS NULL",
    "bank_holds": "held",
    "lease_totals": "status, n",
    "ledger_totals": "kind, n",
    "feed": "name, at, json_remove(data, '$.lease_id', '$.agent_id', '$.id')",
}
"""What must be the same of each table; ids are not."""


class CountedIds:
    """Ids in the order of asking, so that leases of one instant are in that order too."""

    def __init__(self) -> None:
        self._numbers = count()

    def new(self, prefix: Prefix, now: Instant) -> str:  # noqa: ARG002 - the port's
        return f"{prefix}_{next(self._numbers):032x}"


def story(limit: int) -> tuple[dict[str, Rows], list[int]]:
    """Let leases of some agents live, expire and end, swept in batches; return the books and the work of each round."""
    clock = SetClock()
    with SqliteStore(":memory:", clock=clock, ids=CountedIds()) as store:
        world = World(store, clock)
        agents = [world.agent(100 * USD, name=f"worker {number}") for number in range(5)]
        for number, agent in enumerate(agents):
            for ttl_s in (60, 600, 600, 3600):
                lease = agent.handshake((1 + number) * USD, ttl_s=ttl_s).lease.id
                agent.report(lease, f"r{ttl_s}/{lease}", 1000 * number)
        rounds = []
        for seconds in (30, 60, 600, 59, 1, 3600, 60):
            world.clock.pass_s(seconds)
            agents[0].handshake(USD, ttl_s=600)
            aged = [limit]
            while aged[-1] == limit:
                aged.append(store.write(lambda uow: sweep(uow, limit=limit)).aged)
            rounds.append(sum(aged[1:]))
        assert world.verify().holds
        books = {table: raw(store, f"SELECT {columns} FROM {table}") for table, columns in TABLES.items()}
        return {table: sorted(rows, key=repr) for table, rows in books.items()}, rounds


def test_sweeping_in_batches_gives_the_books_of_sweeping_one_by_one() -> None:
    """Leases, balances, ledger, banks, counts and what is told: all the same, and the same work in each round."""
    one_by_one, rounds = story(1)

    for limit in (3, 256):
        books, same_rounds = story(limit)

        assert books == one_by_one
        assert same_rounds == rounds
    assert sum(rounds) >= 20
