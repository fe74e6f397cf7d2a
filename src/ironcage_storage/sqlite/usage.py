"""Usage records, one a call, found by the key the call is known by; and what is kept of those that were purged."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ironcage_core.domain.call_events import usual_name, uuid_in
from ironcage_core.domain.histograms import Measure
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, Instant
from ironcage_core.domain.money import Micros
from ironcage_core.domain.usage import KeptCall, UsageRecord, UsageSums
from ironcage_core.ports.lists import HorizonOf, Page, Paging, TraceFilter, UsageBucket, UsageDimension, UsageFilter
from ironcage_core.ports.totals import ErrorSums, LeaseReports, NumberDifference, ReceivedTokens, UsageCell
from ironcage_core.ports.usage import AliasKind
from ironcage_storage.sqlite.call_aliases import CallAliases
from ironcage_storage.sqlite.costs import costs_of
from ironcage_storage.sqlite.rollup_checks import rollup_differences
from ironcage_storage.sqlite.rollup_reads import RollupReads
from ironcage_storage.sqlite.rollups import Rollups
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Pending, Session
from ironcage_storage.sqlite.traces import Traces

KEYS_AT_ONCE: Final = 250
"""Parameters of one statement; a few different lengths keep the statement cache small."""

_TOKENS: Final = "input_tokens + output_tokens + unsplit_tokens"
_LISTED: Final = "id IN (SELECT value FROM json_each(?))"
_KEPT: Final = {
    "total_tokens": _TOKENS,
    **{
        column: f"CASE WHEN report_cost_micros IS NULL THEN {column} END"
        for column in ("owner_id", "project_id", "provider_id", "input_tokens", "duration_ms", "error_code")
    },
}
"""What is kept under another name than its own, or only of calls without a report."""


class _Horizon(NamedTuple):
    """From when on something is kept; a column each, in order."""

    what: HorizonOf
    since: Instant


class SqliteUsage:
    """Implements `Usage`.

    Args:
        session: Where it belongs.
        agents: Whose owners decide who sees what.
        leases: Which tell whom the calls of a purge were charged to, and until when.
    """

    def __init__(self, session: Session, agents: Pending, leases: Pending) -> None:
        self._table: Table[UsageRecord] = Table(
            session, "usage_records", UsageRecord, ("agent_id", "call_key"), remembers=0
        )
        self._kept: Table[KeptCall] = Table(session, "kept_calls", KeptCall, ("agent_id", "call_key"), remembers=0)
        self._aliases = CallAliases(session)
        self._horizons: Table[_Horizon] = Table(session, "usage_horizons", _Horizon, ("what",))
        self._rollups = Rollups(session)
        self._sums = RollupReads(session, self._rollups, agents)
        self._traces = Traces(self._table, self._sums, agents)
        self._agents = agents
        self._leases = leases
        self._session = session

    def expect(self, agent_id: str, call_keys: Sequence[str], event_ids: Sequence[str] = ()) -> None:
        """Fetch these records together; what is not there is remembered as well."""
        self._expect_keys(agent_id, call_keys)
        find = self._table.get
        strange = [key for key in call_keys if find((agent_id, key)) is None]
        uuids = [uuid for key in strange if (uuid := uuid_in(key)) is not None]
        events = [name for name in event_ids if (found := find((agent_id, name))) is None or found.event_id != name]
        targets = self._aliases.expect(agent_id, "uuid", uuids) + self._aliases.expect(agent_id, "event", events)
        asked = set(call_keys)
        self._expect_keys(agent_id, list({*targets, *map(usual_name, uuids)} - asked))

    def _expect_keys(self, agent_id: str, call_keys: Sequence[str]) -> None:
        tables: tuple[Table[UsageRecord] | Table[KeptCall], ...] = (self._table,)
        if self.horizon("records"):
            tables = (self._table, self._kept)
        for start in range(0, len(call_keys), KEYS_AT_ONCE):
            keys = call_keys[start : start + KEYS_AT_ONCE]
            where = f"agent_id = ? AND call_key IN ({', '.join('?' * len(keys))})"
            for table in tables:
                table.preload([(agent_id, key) for key in keys], where, (agent_id, *keys))

    def find(self, agent_id: str, call_key: str) -> UsageRecord | None:
        """Return the record of a call."""
        return self._table.get((agent_id, call_key))

    def find_kept(self, agent_id: str, call_key: str) -> KeptCall | None:
        """Return what was kept of a call whose record was purged."""
        return self._kept.get((agent_id, call_key)) if self.horizon("records") else None

    def find_alias(self, agent_id: str, kind: AliasKind, name: str) -> str | None:
        """Return the key of the call with this other name."""
        return self._aliases.find(agent_id, kind, name)

    def add_alias(self, agent_id: str, kind: AliasKind, name: str, call_key: str) -> None:
        """Give a call another name, unless some call has it already."""
        self._aliases.add(agent_id, kind, name, call_key)

    def put_kept(self, call: KeptCall) -> None:
        """Store what is kept of a purged call, changed."""
        self._kept.put(call)

    def restore(self, record: UsageRecord) -> None:
        """Put a record in the place of what was kept of its call."""
        self._kept.remove((record.agent_id, record.call_key))
        self._table.put(record)

    def put(self, record: UsageRecord) -> None:
        """Store the record, new or changed, and move the rollups by the difference."""
        self._rollups.move(self._table.get((record.agent_id, record.call_key)), record)
        self._table.put(record)

    def reported_by_lease(self, agent_id: str) -> Sequence[LeaseReports]:
        """Return the sum of reported cost per lease."""
        sql = """SELECT lease_id, sum(report_cost_micros) FROM (
                SELECT lease_id, report_cost_micros FROM usage_records WHERE agent_id = ?
                UNION ALL SELECT lease_id, report_cost_micros FROM kept_calls WHERE agent_id = ?)
            WHERE report_cost_micros IS NOT NULL AND lease_id IS NOT NULL GROUP BY lease_id"""
        cursor = self._session.query(sql, (agent_id, agent_id), self._table, self._kept)
        return [LeaseReports._make(row) for row in cursor]

    def unreported_by_lease(self, agent_id: str) -> Sequence[LeaseReports]:
        """Return the sum of the cost of calls without a report per lease."""
        sql = """SELECT lease_id, sum(cost_micros) FROM (
                SELECT lease_id, cost_micros, report_cost_micros FROM usage_records WHERE agent_id = ?
                UNION ALL SELECT lease_id, cost_micros, report_cost_micros FROM kept_calls WHERE agent_id = ?)
            WHERE report_cost_micros IS NULL AND lease_id IS NOT NULL GROUP BY lease_id"""
        cursor = self._session.query(sql, (agent_id, agent_id), self._table, self._kept)
        return [LeaseReports._make(row) for row in cursor]

    def received(self, since: Instant, until: Instant) -> Mapping[tuple[str, str], ReceivedTokens]:
        """Return the tokens of the reports of a time of receipt by (owner_id, project_id)."""
        sql = """SELECT owner_id, project_id, sum(recorded), sum(purged) FROM (
                SELECT owner_id, project_id, report_tokens AS recorded, 0 AS purged FROM usage_records
                WHERE report_cost_micros IS NOT NULL AND received_at >= ? AND received_at < ?
                UNION ALL SELECT l.bank_user_id, l.project_id, 0, k.report_tokens
                FROM kept_calls k JOIN leases l ON l.id = k.lease_id
                WHERE k.report_cost_micros IS NOT NULL AND l.last_activity_at >= ?)
            GROUP BY owner_id, project_id"""
        reads = (self._table, self._kept, self._leases)
        cursor = self._session.query(sql, (since, until, since), *reads)
        return {(owner_id, project_id): ReceivedTokens(*numbers) for owner_id, project_id, *numbers in cursor}

    def rollup_differences(self) -> Iterator[NumberDifference]:
        """Yield every number of the rollups that is not what the records add up to."""
        records, hours = self.horizon("records"), self.horizon("hours")
        reads = (self._table, self._rollups)
        return rollup_differences(self._session, *reads, records_since=records, hours_since=hours)

    def sums(self, which: UsageFilter, by: Sequence[UsageDimension] = ()) -> Mapping[tuple[str, ...], UsageSums]:
        """Return sums from the rollups by the values of `by`."""
        return self._sums.sums(which, by)

    def groups(self, which: UsageFilter, by: Sequence[UsageDimension]) -> Collection[tuple[str, ...]]:
        """Return the values of `by` that there is any call of, each once."""
        return self._sums.groups(which, by)

    def series(
        self, which: UsageFilter, bucket: UsageBucket, by: Sequence[UsageDimension] = ()
    ) -> Mapping[tuple[Instant, tuple[str, ...]], UsageSums]:
        """Return sums by where their bucket starts and by the values of `by`."""
        return self._sums.series(which, bucket, by)

    def cells(self, which: UsageFilter, bucket: UsageBucket, limit: int) -> Sequence[tuple[UsageCell, UsageSums]]:
        """Return the finest sums by hour or day, in the order of their fields."""
        return self._sums.cells(which, bucket, limit)

    def bands(self, which: UsageFilter, of: Measure) -> Mapping[int, int]:
        """Return how many calls lie in each band of a histogram."""
        return self._sums.bands(which, of, self.horizon("records"))

    def steps(self, which: UsageFilter, of: Measure, band: int) -> Sequence[int]:
        """Return how many calls lie in each step of one band."""
        return self._sums.steps(which, of, band, self.horizon("records"))

    def errors(self, which: UsageFilter) -> Mapping[tuple[str, str], ErrorSums]:
        """Return the failed calls by (error code, provider)."""
        return self._sums.errors(which)

    def costs(self, which: UsageFilter, limit: int) -> Sequence[Micros] | None:
        """Return the cost of each completed call, rising, or None if too many records would be read for it."""
        return costs_of(
            which, limit, self.horizon("records"), rollups=self._sums, records=self._table, agents=self._agents
        )

    def first_day(self, which: UsageFilter) -> Instant | None:
        """Return where the first UTC day with a call starts."""
        day = self._sums.first_day(which)
        return None if day is None else day * MS_PER_DAY

    def first_at(self, which: UsageFilter) -> Instant | None:
        """Return when the first call was, or where that day starts, if its records are not kept."""
        day = self.first_day(which)
        if day is None or day < self.horizon("records"):
            return day
        return self._traces.first_at(which, day)

    def find_trace(self, trace_id: str) -> UsageRecord | None:
        """Return the record with this id, unless it is older than what is kept."""
        rows = self._table.rows("usage_records WHERE id = ? AND occurred_at >= ?", (trace_id, self.horizon("records")))
        return rows[0] if rows else None

    def page(self, which: TraceFilter, paging: Paging, *, descending: bool = True) -> Page[UsageRecord]:
        """Return records by the time of their call."""
        return self._traces.page(which, paging, horizon=self.horizon("records"), descending=descending)

    def before(self, which: TraceFilter, record: UsageRecord, limit: int) -> Sequence[UsageRecord]:
        """Return at most `limit` records that stand behind one in the list of the latest first."""
        return self._traces.before(which, record, limit, horizon=self.horizon("records"))

    def calls_since(self, agent_id: str, since: Instant, project_id: str | None = None) -> int:
        """Return how many calls the agent has made since an instant."""
        terms, parameters = conjunction(
            {"agent_id = ?": agent_id, "occurred_at >= ?": since, "project_id = ?": project_id}
        )
        sql = f"SELECT count(*) FROM usage_records WHERE {terms}"
        (calls,) = self._session.query(sql, parameters, self._table).fetchone()
        return int(calls)

    def horizon(self, what: HorizonOf) -> Instant:
        """Return from when on something is kept; 0 means all of it."""
        found = self._horizons.get(what)
        return 0 if found is None else found.since

    def advance_horizon(self, what: HorizonOf, since: Instant) -> None:
        """Let nobody see what is older than `since` any more."""
        if since > self.horizon(what):
            self._horizons.put(_Horizon(what, since))

    def purge_records(self, limit: int) -> int:
        """Remove at most `limit` records from before their horizon and keep their calls."""
        oldest = "SELECT id FROM usage_records WHERE occurred_at < ? ORDER BY occurred_at LIMIT ?"
        old = [row[0] for row in self._session.query(oldest, (self.horizon("records"), limit), self._table)]
        if old:
            names = ", ".join(KeptCall._fields)
            values = ", ".join(_KEPT.get(column, column) for column in KeptCall._fields)
            chosen = f"SELECT {values} FROM usage_records WHERE {_LISTED}"
            self._session.execute(f"INSERT INTO kept_calls ({names}) {chosen}", (json.dumps(old),))
            self._session.execute(f"DELETE FROM usage_records WHERE {_LISTED}", (json.dumps(old),))
            # Behind a statement that writes nothing is pending: only what is remembered of the old goes.
            self._table.forget()
            self._kept.forget()
        return len(old)

    def purge_keys(self, before: Instant, limit: int) -> Sequence[KeptCall]:
        """Forget and return at most `limit` purged calls from before an instant that were never reported."""
        where = "kept_calls WHERE report_cost_micros IS NULL AND occurred_at < ? LIMIT ?"
        old = self._kept.rows(where, (before, limit))
        for call in old:
            names = [name for name in (call.call_key, call.event_id, call.request_id) if name is not None]
            self._aliases.remove(call.agent_id, call.call_key, names)
            self._kept.remove((call.agent_id, call.call_key))
        return old

    def purge_hours(self, limit: int) -> int:
        """Remove at most `limit` rows of the rollups by hour from before their horizon."""
        return self._rollups.purge_hours(self.horizon("hours") // MS_PER_HOUR, limit)
