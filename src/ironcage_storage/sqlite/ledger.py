"""The ledger, and the counts that its lists need."""

import json
from collections.abc import Iterator, Mapping, Sequence

from ironcage_core.domain.instants import MS_PER_DAY, day_of
from ironcage_core.domain.ledger import AllocationNote, Entry
from ironcage_core.ports.lists import EntryFilter, Page, Paging
from ironcage_core.ports.totals import AllocationTotals
from ironcage_storage.sqlite.logs import Log, Tally
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Pending, Session


class SqliteLedger:
    """Implements `Ledger`."""

    def __init__(self, session: Session, agents: Pending) -> None:
        self._log: Log[Entry] = Log(session, "ledger", Entry)
        self._counts = Tally(session, "ledger_counts", ("agent_id", "kind", "day"), "n")
        self._totals = Tally(session, "ledger_totals", ("kind", "day"), "n")
        self._session = session
        self._agents = agents

    def append(self, entry: Entry) -> None:
        """Post an entry."""
        self._log.add(entry)
        day = day_of(entry.posted_at)
        self._counts.add((entry.agent_id, entry.kind, day), 1)
        self._totals.add((entry.kind, day), 1)

    def page(self, which: EntryFilter, paging: Paging) -> Page[Entry]:
        """Return entries, newest first."""
        terms, parameters = _where(which)
        where = f"ledger WHERE {terms} ORDER BY seq DESC LIMIT ? OFFSET ?"
        cursor = self._log.select(where, (*parameters, paging.per_page, paging.offset), self._agents)
        return Page([Entry._make(row) for row in cursor], self._count(which))

    def _count(self, which: EntryFilter) -> int:
        if which.lease_id is not None:  # a lease lives a day at most: counting its entries does not grow with history
            return self._counted(which)
        days = EntryFilter(which.agent_id, which.owner_id, kind=which.kind, project_id=which.project_id)
        terms, parameters = _where(days)
        first = day_of(which.since + MS_PER_DAY - 1) if which.since is not None else None
        beyond = day_of(which.until) if which.until is not None else None
        if first is not None and beyond is not None and first > beyond:
            return self._counted(which)
        for term, day in (("day >= ?", first), ("day < ?", beyond)):
            if day is not None:
                terms, parameters = f"{terms} AND {term}", (*parameters, day)
        is_of_all = which.agent_id is which.owner_id is which.project_id is None
        table = "ledger_totals" if is_of_all else "ledger_counts"
        sql = f"SELECT coalesce(sum(n), 0) FROM {table} WHERE {terms}"
        (total,) = self._session.query(sql, parameters, self._counts).fetchone()
        # Whole days come from the counts; only the broken days at either end are counted row by row.
        if first is not None and which.since is not None and which.since % MS_PER_DAY:
            total += self._counted(_between(which, which.since, first * MS_PER_DAY))
        if beyond is not None and which.until is not None and which.until % MS_PER_DAY:
            total += self._counted(_between(which, beyond * MS_PER_DAY, which.until))
        return int(total)

    def _counted(self, which: EntryFilter) -> int:
        terms, parameters = _where(which)
        (total,) = self._session.query(f"SELECT count(*) FROM ledger WHERE {terms}", parameters, self._log).fetchone()
        return int(total)

    def by_agent(self, agent_id: str | None = None) -> Iterator[Entry]:
        """Yield entries by agent, then in the order of posting."""
        where = "TRUE" if agent_id is None else "agent_id = ?"
        parameters = () if agent_id is None else (agent_id,)
        for row in self._log.select(f"ledger WHERE {where} ORDER BY agent_id, seq", parameters):
            yield Entry._make(row)

    def adjustments(self, agent_id: str, paging: Paging) -> Page[Entry]:
        """Return the changes of an agent's allocation after the initial one, newest first."""
        chosen = "ledger WHERE agent_id = ? AND kind = 'adjust' AND cause <> 'initial'"
        page = (agent_id, paging.per_page, paging.offset)
        rows = [Entry._make(row) for row in self._log.select(f"{chosen} ORDER BY seq DESC LIMIT ? OFFSET ?", page)]
        (total,) = self._session.query(f"SELECT count(*) FROM {chosen}", (agent_id,), self._log).fetchone()
        return Page(rows, total)

    def allocation_totals(self, agent_id: str) -> AllocationTotals:
        """Return the sums over all entries that made the agent's allocation."""
        sql = """SELECT coalesce(sum(amount) FILTER (WHERE cause = 'initial'), 0),
            coalesce(sum(amount) FILTER (WHERE cause <> 'initial' AND amount > 0), 0)
            FROM ledger WHERE agent_id = ? AND kind = 'adjust'"""
        return AllocationTotals._make(self._session.query(sql, (agent_id,), self._log).fetchone())

    def counts(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Return (maintained, counted) for each (agent_id, kind); '*' stands for all agents."""
        sql = """SELECT agent_id, kind, sum(kept), sum(counted) FROM (
            SELECT agent_id, kind, sum(n) AS kept, 0 AS counted FROM ledger_counts GROUP BY agent_id, kind
            UNION ALL SELECT agent_id, kind, 0, count(*) FROM ledger GROUP BY agent_id, kind
            UNION ALL SELECT '*', kind, sum(n), 0 FROM ledger_totals GROUP BY kind
            UNION ALL SELECT '*', kind, 0, count(*) FROM ledger GROUP BY kind)
            GROUP BY agent_id, kind"""
        cursor = self._session.query(sql, (), self._log, self._counts)
        return {(agent_id, kind): (kept, counted) for agent_id, kind, kept, counted in cursor}


class SqliteAllocationNotes:
    """Implements `AllocationNotes`."""

    def __init__(self, session: Session) -> None:
        self._table: Table[AllocationNote] = Table(
            session, "allocation_notes", AllocationNote, ("entry_id",), remembers=0
        )

    def put(self, note: AllocationNote) -> None:
        """Store the note of a ledger entry."""
        self._table.put(note)

    def of(self, entry_ids: Sequence[str]) -> Mapping[str, AllocationNote]:
        """Return the notes of these entries, as far as there are any."""
        where = "allocation_notes WHERE entry_id IN (SELECT value FROM json_each(?))"
        return {note.entry_id: note for note in self._table.rows(where, (json.dumps(entry_ids),))}


def _between(which: EntryFilter, since: int, until: int) -> EntryFilter:
    return EntryFilter(which.agent_id, which.owner_id, which.lease_id, which.kind, since, until, which.project_id)


def _where(which: EntryFilter) -> tuple[str, tuple[object, ...]]:
    terms, parameters = conjunction(
        {
            "agent_id = ?": which.agent_id,
            "lease_id = ?": which.lease_id,
            "kind = ?": which.kind,
            "posted_at >= ?": which.since,
            "posted_at < ?": which.until,
        }
    )
    if which.owner_id is None and which.project_id is None:
        return terms, parameters
    # One list of agents for both: a project may have many more than an owner has in it.
    of, chosen = conjunction({"owner_id = ?": which.owner_id, "project_id = ?": which.project_id})
    return f"{terms} AND agent_id IN (SELECT id FROM agents WHERE {of})", (*parameters, *chosen)
