"""Reads of the rollups: a range of time takes whole days from the days and what is left at its ends from the hours.

Who asks of agents and of nothing else is answered from the tables that know nothing else; who asks of an agent or an
owner in part from the fine ones, and everybody else from those without agents.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from ironcage_core.domain.histograms import STEPS_PER_BAND, Measure, step_of
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, Instant
from ironcage_core.domain.usage import UsageSums
from ironcage_core.ports.lists import TraceFilter, UsageBucket, UsageDimension, UsageFilter
from ironcage_core.ports.totals import ErrorSums, UsageCell
from ironcage_storage.sqlite.days import Cut, Days, cut_at_midnight
from ironcage_storage.sqlite.rollup_tables import BANDS, ERRORS, NO_COST, STEPS, SUMS, Family, Kind, Level, Scope
from ironcage_storage.sqlite.rollups import Rollups
from ironcage_storage.sqlite.rows import conjunction
from ironcage_storage.sqlite.session import Pending, Session

OF_OWNER: Final = "agent_id IN (SELECT id FROM agents WHERE owner_id = ?)"
_OF_CELL: Final = ("agent_id", "project_id", "provider", "provider_id", "model")

_IN_SERIES: Final = SUMS.numbers[: SUMS.numbers.index("timed")]
"""A row of a series costs what its numbers do, and there may be thousands."""

# A list of bands, not all of them: so that in each of them the days are looked up.
_EVERY_BAND: Final = "band IN (SELECT value FROM json_each(?))"
_BANDS_LISTED: Final = json.dumps(list(range(step_of(NO_COST) // STEPS_PER_BAND + 1)))

# An emptied cell must not tell when its last call was.
_HAS_CALLS: Final = {SUMS: "completed + failed > 0", BANDS: "calls > 0", ERRORS: "calls > 0"}
_CALLS_OF: Final = {None: "sum(completed + failed)", "completed": "sum(completed)", "failed": "sum(failed)"}


def usage_terms(which: UsageFilter | TraceFilter) -> dict[str, object]:
    """Return what a filter asks of a row of usage but for its time; records and rollups name their columns alike."""
    return {
        "agent_id = ?": which.agent_id,
        OF_OWNER: which.owner_id,
        "project_id = ?": which.project_id,
        "provider = ?": which.provider,
        "provider_id = ?": which.provider_id,
        "model = ?": which.model,
    }


def record_terms(which: UsageFilter) -> dict[str, object]:
    """Return what a filter asks of a record but for its time; one of no provider key has none, not an empty one."""
    terms = usage_terms(replace(which, provider_id=None))
    return terms | {"coalesce(provider_id, '') = ?": which.provider_id}


class _Rows(NamedTuple):
    """Which rows of a table are meant: its name, its key, a WHERE, and what that binds."""

    table: str
    key: tuple[str, ...]
    where: str
    bound: tuple[object, ...]


class _Histogram(NamedTuple):
    """Where the histogram of a filter is: in rows of these days and hours, and in records between these instants."""

    which: UsageFilter
    spans: Sequence[tuple[Level, str, tuple[object, ...]]]
    ends: Sequence[tuple[Instant, Instant]]

    def rows(self, more: Mapping[str, object]) -> list[_Rows]:
        """Return the rows of these days and hours that are meant, with more terms."""
        return [_at(_source(BANDS, level, self.which, (), more), time, bound) for level, time, bound in self.spans]


class RollupReads:
    """What is read from the rollups, which `written` may have to write before, and from the agents they are of."""

    def __init__(self, session: Session, written: Rollups, agents: Pending) -> None:
        self._session = session
        self._reads = (written, agents)

    def sums(self, which: UsageFilter, by: Sequence[UsageDimension] = ()) -> Mapping[tuple[str, ...], UsageSums]:
        """Return sums by the values of `by`; a group without any call is left out."""
        rows = self._grouped(SUMS, _in_range(SUMS, which, by), by, SUMS.numbers)
        return {tuple(row[: len(by)]): _sums_of(row[len(by) :]) for row in rows}

    def groups(self, which: UsageFilter, by: Sequence[UsageDimension]) -> Collection[tuple[str, ...]]:
        """Return the values of `by` that there is any call of, each once."""
        chosen = _in_range(SUMS, which, by)
        if not chosen:
            return ()
        sql, bound = _united(SUMS, chosen, by)
        return self._session.query(f"SELECT DISTINCT * FROM ({sql})", bound, *self._reads).fetchall()

    def series(
        self, which: UsageFilter, bucket: UsageBucket, by: Sequence[UsageDimension] = ()
    ) -> Mapping[tuple[Instant, tuple[str, ...]], UsageSums]:
        """Return sums of calls, tokens and cost by where their bucket starts, and by the values of `by`."""
        chosen = _in_buckets(which, bucket, by)
        rows = self._grouped(SUMS, chosen, ("bucket", *by), _IN_SERIES)
        width, length = 1 + len(by), _LENGTH[bucket]
        return {(row[0] * length, tuple(row[1:width])): UsageSums(*row[width:]) for row in rows}

    def cells(self, which: UsageFilter, bucket: UsageBucket, limit: int) -> Sequence[tuple[UsageCell, UsageSums]]:
        """Return the finest sums by hour or day, whoever owned the agent, in the order of their fields."""
        chosen = _in_buckets(which, bucket, _OF_CELL)
        key = ("bucket", *_OF_CELL)
        rows = self._grouped(SUMS, chosen, key, SUMS.numbers, f"ORDER BY {', '.join(key)} LIMIT {int(limit)}")
        width, length = len(key), _LENGTH[bucket]
        return [(UsageCell(row[0] * length, *row[1:width]), _sums_of(row[width:])) for row in rows]

    def bands(self, which: UsageFilter, of: Measure, records_since: Instant) -> Mapping[int, int]:
        """Return how many calls lie in each band of the histogram of a measure; empty bands are left out.

        Hours of agents are counted from the records; where these are gone, before `records_since`, the whole day
        stands for them.
        """
        ranges = _histogram_of(which, records_since)
        chosen = ranges.rows({"measure = ?": of, _EVERY_BAND: _BANDS_LISTED})
        bands = Counter(dict(self._grouped(BANDS, chosen, ("band",), ("calls",))))
        for step, calls in self._steps_of_records(which, of, ranges.ends):
            bands[step // STEPS_PER_BAND] += calls
        return bands

    def steps(self, which: UsageFilter, of: Measure, band: int, records_since: Instant) -> Sequence[int]:
        """Return how many calls lie in each step of one band."""
        ranges = _histogram_of(which, records_since)
        rows = self._grouped(BANDS, ranges.rows({"measure = ?": of, "band = ?": band}), (), STEPS)
        counts = list(rows[0]) if rows else [0] * STEPS_PER_BAND
        for step, calls in self._steps_of_records(which, of, ranges.ends):
            if step // STEPS_PER_BAND == band:
                counts[step % STEPS_PER_BAND] += calls
        return counts

    def _steps_of_records(
        self, which: UsageFilter, of: Measure, ends: Sequence[tuple[Instant, Instant]]
    ) -> Iterator[tuple[int, int]]:
        measured = {"cost": "cost_micros", "duration": "duration_ms"}[of]
        counts = "outcome = 'completed'" if of == "cost" else "duration_ms IS NOT NULL"
        for since, until in ends:
            told = record_terms(which) | {"occurred_at >= ?": since, "occurred_at < ?": until}
            terms, bound = conjunction(told)
            sql = f"""SELECT step_of({measured}), count(*) FROM usage_records INDEXED BY usage_agent_time
                WHERE {terms} AND {counts} GROUP BY 1"""
            yield from self._session.query(sql, bound, *self._reads)

    def errors(self, which: UsageFilter) -> Mapping[tuple[str, str], ErrorSums]:
        """Return the failed calls by (error code, provider)."""
        by = ("error_code", "provider")
        rows = self._grouped(ERRORS, _in_range(ERRORS, which, by), by, ERRORS.numbers)
        return {(code, provider): ErrorSums(calls, last_at) for code, provider, calls, last_at in rows}

    def _grouped(
        self, family: Family, chosen: Sequence[_Rows], by: Sequence[str], numbers: tuple[str, ...], order: str = ""
    ) -> list[tuple[Any, ...]]:
        """Return one of each number for each group; a group without any call is left out."""
        if not chosen:
            return []
        keys = "".join(f"{column}, " for column in by)
        rows, bound = _united(family, chosen, (*by, *numbers))
        if len(chosen) == 1 and set(chosen[0].key) <= set(by):  # each row is a group
            return self._session.query(f"{rows} {order}", bound, *self._reads).fetchall()
        grouped = f"GROUP BY {', '.join(by)}" if by else ""
        sql = f"SELECT {keys}{family.merged(numbers)} FROM ({rows}) {grouped} HAVING count(*) > 0 {order}"
        return self._session.query(sql, bound, *self._reads).fetchall()

    def first_day(self, which: UsageFilter) -> int | None:
        """Return the first UTC day with a call, counted from the epoch, whatever the filter says of time."""
        table, _, where, bound = _source(SUMS, "days", which)
        sql = f"SELECT bucket FROM {table} WHERE {where} AND completed + failed > 0 ORDER BY bucket LIMIT 1"
        found = self._session.query(sql, bound, *self._reads).fetchone()
        return None if found is None else int(found[0])

    def calls_by_day(self, which: UsageFilter, days: Days, outcome: str | None) -> list[tuple[int, int]]:
        """Return the days with calls of an outcome, or of either, and how many; the filter's own time is not read."""
        table, _, where, bound = _source(SUMS, "days", which)
        chosen, values = days.chosen()
        calls = _CALLS_OF[outcome]
        sql = f"SELECT bucket, {calls} FROM {table} WHERE {where} AND {chosen} GROUP BY bucket HAVING {calls} > 0"
        return self._session.query(sql, (*bound, *values), *self._reads).fetchall()


_LEVEL: Final[Mapping[UsageBucket, Level]] = {"hour": "hours", "day": "days"}
_LENGTH: Final[Mapping[UsageBucket, int]] = {"hour": MS_PER_HOUR, "day": MS_PER_DAY}


def _sums_of(numbers: Sequence[int]) -> UsageSums:
    """Return sums as they are shown: without extremes where nothing was completed."""
    sums = UsageSums._make(numbers)
    if sums.completed and sums.min_cost_micros != NO_COST:
        return sums
    return sums._replace(max_cost_micros=0, min_cost_micros=0)


def _source(
    family: Family,
    level: Level,
    which: UsageFilter,
    by: Sequence[str] = (),
    more: Mapping[str, object] | None = None,
) -> _Rows:
    """Return the table that answers a filter by the values of some columns, and all terms of it but time."""
    kind = Kind(level, _scope(which, by))
    if kind not in family.kinds:
        kind = Kind(level, "fine")
    terms, parameters = conjunction(usage_terms(which) | dict(more or {}))
    if kind.scope != "wide" and level == "days" and not _is_scoped(which):
        terms += " AND agent_id IN (SELECT id FROM agents)"  # so that each agent's days are looked up, not all read
    key = family.key(kind.scope)
    if not set(by) <= set(key):  # their names go into the SQL
        raise ValueError("usage is not summed by that")
    return _Rows(family.name(kind), key, terms, parameters)


def _scope(which: UsageFilter, by: Sequence[str]) -> Scope:
    if "agent_id" not in by and not _is_scoped(which):
        return "wide"
    asked = {name for name in _OF_CELL if getattr(which, name) is not None} | set(by)
    return "agent" if asked <= {"agent_id"} else "fine"


def _is_scoped(which: UsageFilter) -> bool:
    return which.agent_id is not None or which.owner_id is not None


def _histogram_of(which: UsageFilter, records_since: Instant) -> _Histogram:
    cut = cut_at_midnight(which.since, which.until)
    if not _is_scoped(which):
        return _Histogram(which, _spans(cut), ())
    gone = [Days(since // MS_PER_DAY, since // MS_PER_DAY + 1) for since, _ in cut.ends if since < records_since]
    days = [each for each in (cut.days, *gone) if each is not None]
    kept = [end for end in cut.ends if end[0] >= records_since]
    return _Histogram(which, [("days", *each.chosen()) for each in days], kept)


def _in_range(family: Family, which: UsageFilter, by: Sequence[str]) -> list[_Rows]:
    """Return which rows of a family make up the filter's range of time."""
    spans = _spans(cut_at_midnight(which.since, which.until))
    return [_at(_source(family, level, which, by), time, bound) for level, time, bound in spans]


def _united(family: Family, chosen: Sequence[_Rows], columns: Sequence[str]) -> tuple[str, list[object]]:
    """Return the SELECT of columns of all rows that are meant and have calls, and what it binds."""
    rows = " UNION ALL ".join(
        f"SELECT {', '.join(columns)} FROM {each.table} WHERE {each.where} AND {_HAS_CALLS[family]}" for each in chosen
    )
    return rows, [value for each in chosen for value in each.bound]


def _spans(cut: Cut) -> list[tuple[Level, str, tuple[object, ...]]]:
    """Return which days and hours make up a range: their level, a WHERE, and what it binds."""
    days: list[tuple[Level, str, tuple[object, ...]]] = [] if cut.days is None else [("days", *cut.days.chosen())]
    return [*days, *(("hours", *_hours(*end)) for end in cut.ends)]


def _in_buckets(which: UsageFilter, bucket: UsageBucket, by: Sequence[str]) -> list[_Rows]:
    """Return which rows of one level make up the filter's range of time, which is in whole buckets."""
    source = _source(SUMS, _LEVEL[bucket], which, by)
    since, until = which.since, which.until
    if bucket == "hour" and since is not None and until is not None:
        return [_at(source, *_hours(since, until))]
    length = _LENGTH[bucket]
    buckets = Days(None if since is None else since // length, None if until is None else until // length)
    return [_at(source, *buckets.chosen())]


def _at(rows: _Rows, time: str, bound: tuple[object, ...]) -> _Rows:
    return rows._replace(where=f"{rows.where} AND {time}", bound=(*rows.bound, *bound))


def _hours(since: Instant, until: Instant) -> tuple[str, tuple[object, ...]]:
    # A list of hours, not a range: so each is looked up together with the agent behind it in the key.
    hours = range(since // MS_PER_HOUR, -(-until // MS_PER_HOUR))
    return "bucket IN (SELECT value FROM json_each(?))", (json.dumps(list(hours)),)
