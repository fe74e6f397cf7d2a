"""The ledger, and the counts that its lists need."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ironcage_core.domain.instants import Instant, day_of
from ironcage_core.domain.ledger import AllocationNote, Entry, EntryKind
from ironcage_core.domain.money import Micros
from ironcage_core.ports.lists import EntryFilter, Page, Paging
from ironcage_core.ports.totals import AllocationTotals
from ironcage_storage.sqlite.days import Days, cut_at_midnight
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
        cut = cut_at_midnight(which.since, which.until)
        # Whole days come from the counts; only the broken days at either end are counted row by row.
        total = sum(self._counted(replace(which, since=since, until=until)) for since, until in cut.ends)
        return total if cut.days is None else total + self._kept_count(which, cut.days)

    def _kept_count(self, which: EntryFilter, days: Days) -> int:
        terms, parameters = _where(replace(which, since=None, until=None))
        chosen, bound = days.chosen("day")
        is_of_all = which.agent_id is which.owner_id is which.project_id is None
        table = "ledger_totals" if is_of_all else "ledger_counts"
        sql = f"SELECT coalesce(sum(n), 0) FROM {table} WHERE {terms} AND {chosen}"
        reads = (self._counts, self._totals, self._agents)
        (total,) = self._session.query(sql, (*parameters, *bound), *reads).fetchone()
        return int(total)

    def _counted(self, which: EntryFilter) -> int:
        terms, parameters = _where(which)
        sql = f"SELECT count(*) FROM ledger WHERE {terms}"
        (total,) = self._session.query(sql, parameters, self._log, self._agents).fetchone()
        return int(total)

    def by_agent(self, agent_id: str | None = None) -> Iterator[Entry]:
        """Yield entries by agent, then in the order of posting."""
        where = "TRUE" if agent_id is None else "agent_id = ?"
        parameters = () if agent_id is None else (agent_id,)
        for row in self._log.select(f"ledger WHERE {where} ORDER BY agent_id, seq", parameters):
            yield Entry._make(row)

    def sums_of_lease(self, lease_id: str, until: Instant) -> Mapping[EntryKind, Micros]:
        """Return what the entries of a lease sum up to by kind, those of the instant `until` included."""
        sql = "SELECT kind, sum(amount) FROM ledger WHERE lease_id = ? AND posted_at <= ? GROUP BY kind"
        return dict(self._session.query(sql, (lease_id, until), self._log))

    def last_of(self, agent_id: str, at: Instant) -> Entry | None:
        """Return the agent's last entry up to an instant."""
        # First how far all agents' entries reach by then: from there on back the agent's last one is next.
        reached = "(SELECT seq FROM ledger WHERE posted_at <= ? ORDER BY posted_at DESC, seq DESC LIMIT 1)"
        where = f"ledger WHERE agent_id = ? AND seq <= {reached} AND posted_at <= ? ORDER BY seq DESC LIMIT 1"
        found = self._log.select(where, (agent_id, at, at)).fetchone()
        return None if found is None else Entry._make(found)

    def overspent(self, agent_id: str, at: Instant) -> Micros:
        """Return what the agent had overspent up to an instant."""
        sql = "SELECT coalesce(sum(amount), 0) FROM ledger WHERE agent_id = ? AND kind = 'overspend' AND posted_at <= ?"
        return int(self._session.query(sql, (agent_id, at), self._log).fetchone()[0])

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
        cursor = self._session.query(sql, (), self._log, self._counts, self._totals)
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
