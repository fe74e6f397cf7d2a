"""Traces: pages of usage records by the time of their call.

How many there are of a day is known from the rollups, so a page reads records of the days that it lies in, and of the
days that the range itself cuts.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from ironcage_core.domain.instants import MS_PER_DAY, Instant
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import Page, Paging, TraceFilter, UsageFilter
from ironcage_storage.sqlite.days import cut_at_midnight
from ironcage_storage.sqlite.rollup_reads import RollupReads, usage_terms
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Pending

_ANY_AGENT: Final = " AND agent_id IN (SELECT id FROM agents)"
_NEWEST: Final = "occurred_at DESC, id DESC"
_OLDEST: Final = "occurred_at ASC, id DESC"


class _Stretch(NamedTuple):
    """A day, or the part of one that belongs to the range, and how many of the records that are meant lie in it."""

    since: Instant
    until: Instant
    calls: int


class Traces:
    """What pages are read from: the records, their rollups, and the agents whose owners decide who sees what."""

    def __init__(self, records: Table[UsageRecord], rollups: RollupReads, agents: Pending) -> None:
        self._records = records
        self._rollups = rollups
        self._agents = agents

    def page(self, which: TraceFilter, paging: Paging, *, horizon: Instant, descending: bool) -> Page[UsageRecord]:
        """Return records by the time of their call, those from before `horizon` left out."""
        which = replace(which, since=max(horizon, which.since or 0))
        order = _NEWEST if descending else _OLDEST
        if which.call_key is not None or which.lease_id is not None:
            return self._page_of_few(which, paging, order)
        stretches = sorted(self._stretches(which), reverse=descending)
        rows: list[UsageRecord] = []
        skipped = paging.offset
        for stretch in stretches:
            if len(rows) == paging.per_page:
                break
            if skipped < stretch.calls:
                rows += self._rows(_within(which, stretch), order, paging.per_page - len(rows), skipped)
            skipped = max(0, skipped - stretch.calls)
        return Page(rows, sum(stretch.calls for stretch in stretches))

    def before(self, which: TraceFilter, record: UsageRecord, limit: int, *, horizon: Instant) -> list[UsageRecord]:
        """Return at most `limit` records that stand behind one in the list of the latest first."""
        since, until = max(horizon, which.since or 0), record.occurred_at + 1
        which = replace(which, since=since, until=until if which.until is None else min(which.until, until))
        rows: list[UsageRecord] = []
        for stretch in sorted(self._stretches(which), reverse=True):
            if len(rows) == limit:
                break
            chosen, parameters = _chosen(_within(which, stretch))
            where = f"{chosen} AND (occurred_at, id) < (?, ?) ORDER BY {_NEWEST} LIMIT ?"
            bound = (*parameters, record.occurred_at, record.id, limit - len(rows))
            rows += self._records.rows(where, bound, self._agents)
        return rows

    def first_at(self, which: UsageFilter, day: Instant) -> Instant:
        """Return when the first call of a day was, or where the day starts, if there is none."""
        of_day = {"occurred_at >= ?": day, "occurred_at < ?": day + MS_PER_DAY}
        terms, parameters = conjunction(usage_terms(which) | of_day)
        sql = f"SELECT occurred_at FROM usage_records WHERE {terms} ORDER BY occurred_at LIMIT 1"
        found = self._records.session.query(sql, parameters, self._records, self._agents).fetchone()
        return day if found is None else int(found[0])

    def _page_of_few(self, which: TraceFilter, paging: Paging, order: str) -> Page[UsageRecord]:
        """Return a page of one call, or of one lease.

        A lease's calls are looked for among all that its agent has in the range: an index would be one more page to
        write for each lease of a batch, and a call may have been known before the lease that it was charged to.
        """
        return Page(self._rows(which, order, paging.per_page, paging.offset), self._count(which))

    def _stretches(self, which: TraceFilter) -> Iterator[_Stretch]:
        cut = cut_at_midnight(which.since, which.until)
        if cut.days is not None:
            usage = UsageFilter(
                which.agent_id, which.owner_id, which.project_id, which.provider, which.provider_id, which.model
            )
            for day, count in self._rollups.calls_by_day(usage, cut.days, which.outcome):
                yield _Stretch(day * MS_PER_DAY, (day + 1) * MS_PER_DAY, count)
        for since, until in cut.ends:
            yield _Stretch(since, until, self._count(replace(which, since=since, until=until)))

    def _rows(self, which: TraceFilter, order: str, limit: int, offset: int) -> list[UsageRecord]:
        chosen, parameters = _chosen(which)
        where = f"{chosen} ORDER BY {order} LIMIT ? OFFSET ?"
        return self._records.rows(where, (*parameters, limit, offset), self._agents)

    def _count(self, which: TraceFilter) -> int:
        chosen, parameters = _chosen(which)
        sql = f"SELECT count(*) FROM {chosen}"
        (count,) = self._records.session.query(sql, parameters, self._records, self._agents).fetchone()
        return int(count)


def _within(which: TraceFilter, stretch: _Stretch) -> TraceFilter:
    return replace(which, since=stretch.since, until=stretch.until)


def _chosen(which: TraceFilter) -> tuple[str, tuple[object, ...]]:
    """Return which records are meant, with the index by which they are found, and what that binds."""
    terms, parameters = conjunction(
        usage_terms(which)
        | {
            "outcome = ?": which.outcome,
            "call_key = ?": which.call_key,
            "lease_id = ?": which.lease_id,
            "occurred_at >= ?": which.since,
            "occurred_at < ?": which.until,
        }
    )
    is_scoped = which.agent_id is not None or which.owner_id is not None
    if which.call_key is not None:  # unique for each agent
        return f"usage_records WHERE {terms}{'' if is_scoped else _ANY_AGENT}", parameters
    index = "usage_agent_time" if is_scoped else "usage_time"
    return f"usage_records INDEXED BY {index} WHERE {terms}", parameters
