"""Leases, their counts by status, and the order in which time will change them."""

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import Lease
from ironcage_core.ports.lists import LeaseFilter, Page, Paging
from ironcage_storage.sqlite.logs import Tally
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Pending, Session

CONSTANT: Final = (
    "agent_id", "bank_user_id", "project_id", "ic_token_id", "ic_token_gen", "provider_key_id", "provider",
    "runtime_id", "ttl", "grace", "created_at", "lives_until",
)  # fmt: skip
REMEMBERED_AGENTS: Final = 10_000
_NEVER: Final = 2**63


class SqliteLeases:
    """Implements `Leases`."""

    def __init__(self, session: Session, agents: Pending) -> None:
        self.table: Table[Lease] = Table(
            session, "leases", Lease, constant=CONSTANT, indexed=("due_at", "successor_id")
        )
        self._counts = Tally(session, "lease_counts", ("agent_id", "status"), "n")
        self._totals = Tally(session, "lease_totals", ("status",), "n")
        self._session = session
        self._agents = agents
        # A lower bound of each agent's next due time, so that a call finds out for nothing that nothing is due.
        # It may be too low after a lease moved, never too high. Rows that are not written yet count through the
        # lowest time any of them was put with.
        self._next_due: dict[str, Instant] = {}
        self._lowest_put: dict[str, Instant] = {}

    def find(self, lease_id: str) -> Lease | None:
        """Return the lease with this id."""
        return self.table.get(lease_id)

    def put(self, lease: Lease) -> None:
        """Store the lease, new or changed."""
        before = self.table.get(lease.id)
        if before is None or before.status != lease.status:
            self._count(lease, 1)
            if before is not None:
                self._count(before, -1)
        if lease.due_at is not None:
            agent_id, due_at = lease.agent_id, lease.due_at
            self._lowest_put[agent_id] = min(due_at, self._lowest_put.get(agent_id, due_at))
            if agent_id in self._next_due:
                self._next_due[agent_id] = min(due_at, self._next_due[agent_id])
        self.table.put(lease)

    def _count(self, lease: Lease, delta: int) -> None:
        self._counts.add((lease.agent_id, lease.status), delta)
        self._totals.add((lease.status,), delta)

    def due_of(self, agent_id: str, now: Instant) -> Sequence[Lease]:
        """Return the agent's leases that time has changed by `now`, earliest first."""
        next_due = self._next_due.get(agent_id)
        if next_due is None:
            next_due = self._load_next_due(agent_id)
        if now < next_due:
            return ()
        due = self.table.known_rows("leases WHERE agent_id = ? AND due_at <= ? ORDER BY due_at, id", (agent_id, now))
        self._next_due.pop(agent_id, None)
        return due

    def _load_next_due(self, agent_id: str) -> Instant:
        sql = "SELECT min(due_at) FROM leases WHERE agent_id = ? AND due_at IS NOT NULL"
        (written,) = self._session.query(sql, (agent_id,)).fetchone()
        lowest_put = self._lowest_put.get(agent_id, _NEVER)
        next_due = self._next_due[agent_id] = lowest_put if written is None else min(int(written), lowest_put)
        return next_due

    def due(self, now: Instant, limit: int) -> Sequence[Lease]:
        """Return at most `limit` leases of all agents that time has changed by `now`, earliest first."""
        return self.table.known_rows("leases WHERE due_at <= ? ORDER BY due_at LIMIT ?", (now, limit))

    def open_of(self, agent_id: str) -> Sequence[Lease]:
        """Return the agent's active and expired leases, oldest first."""
        where = "leases WHERE agent_id = ? AND due_at IS NOT NULL"
        found = self.table.unsettled_rows(
            where, (agent_id,), lambda lease: lease.agent_id == agent_id and lease.due_at is not None
        )
        return sorted(found, key=attrgetter("id"))

    def open_of_bank(self, user_id: str) -> Sequence[Lease]:
        """Return the active and expired leases that a user's month pays, oldest first."""
        return self.table.rows("leases WHERE bank_user_id = ? AND due_at IS NOT NULL ORDER BY id", (user_id,))

    def open_on_key(self, provider_key_id: str) -> Sequence[Lease]:
        """Return the active and expired leases on a provider key, of all agents, oldest first."""
        return self.table.rows(
            "leases WHERE provider_key_id = ? AND due_at IS NOT NULL ORDER BY id", (provider_key_id,)
        )

    def page(self, which: LeaseFilter, paging: Paging) -> Page[Lease]:
        """Return leases, newest first; the total comes from the counts."""
        where, parameters = _where(which)
        needs_agents = which.owner_id is not None or which.project_id is not None
        of = "JOIN agents a ON a.id = l.agent_id" if needs_agents else ""
        names = ", ".join(f"l.{column}" for column in Lease._fields)
        sql = f"SELECT {names} FROM leases l {of} WHERE {where} ORDER BY l.id DESC LIMIT ? OFFSET ?"
        cursor = self._session.query(sql, (*parameters, paging.per_page, paging.offset), self.table, self._agents)
        rows = [Lease._make(row) for row in cursor]
        table = "lease_totals" if which == LeaseFilter(status=which.status) else "lease_counts"
        sql = f"SELECT coalesce(sum(n), 0) FROM {table} l {of} WHERE {where}"
        reads = (self._counts, self._totals, self._agents)
        (total,) = self._session.query(sql, parameters, *reads).fetchone()
        return Page(rows, total)

    def totals(self) -> Mapping[str, int]:
        """Return how many leases of all agents each status has, from the kept totals."""
        return dict(self._session.query("SELECT status, n FROM lease_totals", (), self._totals))

    def of_agent(self, agent_id: str) -> Iterator[Lease]:
        """Yield every lease of the agent, by id."""
        yield from self.table.rows("leases WHERE agent_id = ? ORDER BY id", (agent_id,))

    def counts(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Return (maintained, counted) for each (agent_id, status); '*' stands for all agents."""
        sql = """SELECT agent_id, status, sum(kept), sum(counted) FROM (
            SELECT agent_id, status, n AS kept, 0 AS counted FROM lease_counts
            UNION ALL SELECT agent_id, status, 0, 1 FROM leases
            UNION ALL SELECT '*', status, n, 0 FROM lease_totals
            UNION ALL SELECT '*', status, 0, 1 FROM leases) GROUP BY agent_id, status"""
        cursor = self._session.query(sql, (), self.table, self._counts, self._totals)
        return {(agent_id, status): (kept, counted) for agent_id, status, kept, counted in cursor}

    def drop(self) -> None:
        """Forget due times that may come from rows that were cut back; those of rows still to be written stay."""
        self._next_due.clear()

    def forget(self) -> None:
        """Forget all that was learned of due times."""
        self._next_due.clear()
        self._lowest_put.clear()

    def rest(self) -> None:
        """The batch is committed: every row is written; due times stay known."""
        self._lowest_put.clear()
        if len(self._next_due) > REMEMBERED_AGENTS:
            self._next_due.clear()


def _where(which: LeaseFilter) -> tuple[str, tuple[object, ...]]:
    return conjunction(
        {
            "l.agent_id = ?": which.agent_id,
            "l.status = ?": which.status,
            "a.owner_id = ?": which.owner_id,
            "a.project_id = ?": which.project_id,
        }
    )
