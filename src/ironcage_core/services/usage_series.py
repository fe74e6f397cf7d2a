"""Usage series: what calls add up to from bucket to bucket of the calendar, in all or group by group.

Source: contract analytics.md 4.3.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from operator import itemgetter
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.access import Principal
from ironcage_core.domain.buckets import Bucket, bucket_start, buckets_in, next_start, some_buckets_ago, starts_in
from ironcage_core.domain.instants import MS_PER_HOUR, Instant
from ironcage_core.domain.money import Micros
from ironcage_core.domain.periods import Asked, Period, TimeRange, asked_range
from ironcage_core.domain.usage import UsageSums, combined
from ironcage_core.errors.usage import RangeTooLargeError, RangeTooOldError
from ironcage_core.ports.lists import MAX_PER_PAGE, Paging, ProjectFilter, UsageDimension, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_days import days_of
from ironcage_core.services.usage_selection import Selection, selected

Grouping = Literal["none", "agent", "provider", "model", "project"]

MAX_GROUPED_ROWS: Final = 10_000
MAX_BUCKETS: Final[Mapping[Bucket, int]] = MappingProxyType({"hour": 744, "day": 731, "week": 520, "month": 120})
"""How many buckets a series may have; years are not limited."""

_DIMENSIONS: Final[Mapping[Grouping, tuple[UsageDimension, ...]]] = MappingProxyType(
    {
        "none": (),
        "agent": ("agent_id",),
        "provider": ("provider",),
        "model": ("model",),
        "project": ("project_id",),
    }
)
_PERIODS: Final[Mapping[Bucket, Period]] = MappingProxyType({"hour": "last-24-hours", "day": "last-30-days"})
_AGO: Final[Mapping[Bucket, int]] = MappingProxyType({"week": 12, "month": 11})
"""Of which time a series is if nothing is said: a period, or the running bucket and so many before it, or all."""

_Cells = Mapping[tuple[Instant, tuple[str, ...]], UsageSums]


class SeriesRow(NamedTuple):
    """The calls of one bucket, or of one group in it: its key, and what people call it."""

    start: Instant
    end: Instant
    key: str | None
    label: str | None
    sums: UsageSums


@dataclass(frozen=True, slots=True)
class UsageSeries:
    """Rows in the order of time, then of their keys; and the earliest bucket of all in which most was spent, if any."""

    rows: Sequence[SeriesRow]
    total: UsageSums
    peak_start: Instant | None
    peak_micros: Micros


def usage_series(
    uow: UnitOfWork,
    which: UsageFilter | None,
    when: Asked,
    bucket: Bucket,
    grouping: Grouping,
    principal: Principal,
) -> tuple[Selection, UsageSeries]:
    """Return the series of the calls of a time; without groups no bucket of a range that has a start is left out.

    Args:
        uow: An open unit of work.
        which: Which calls, at any time, as `usage_filter` says.
        when: Of what time; of the bucket's own default if nothing is said.
        bucket: Into what it is cut.
        grouping: By what each bucket is cut once more.
        principal: Who asks, which decides what names of projects he is told.

    Raises:
        ValidationError, InvalidPeriodError: There is no such time.
        RangeTooLargeError: It would have too many rows.
        RangeTooOldError: Its hours are not kept.
    """
    if when == Asked() and bucket in _AGO:
        when = Asked(start=some_buckets_ago(bucket, uow.now, _AGO[bucket]))
    default = _PERIODS.get(bucket, "all-time")
    time = asked_range(when, uow.now, default=default)
    span = _span(uow, which, time)
    if span is not None:
        _check_size(bucket, span)
    if bucket == "hour" and span is not None and span[0] < (kept := uow.usage.horizon("hours")):
        raise RangeTooOldError("Hours of that time are not kept any more", kept_since=kept)
    chosen = selected(uow, which, when, default=default)
    cells = {} if chosen.which is None or span is None else _cells(uow, chosen.which, span, bucket, grouping)
    return chosen, _series(uow, cells, span, bucket, grouping, principal)


def _span(uow: UnitOfWork, which: UsageFilter | None, time: TimeRange) -> tuple[Instant, Instant] | None:
    """Return the range that a series fills; None if it has no start and there is no call before its end."""
    since = time.since
    if since is None:
        since = None if which is None else uow.usage.first_day(which)
    if since is None or (time.until is not None and since >= time.until):
        return None
    return since, max(time.end if time.until is None else time.until, since + 1)  # a runtime's clock may be ahead


def _check_size(bucket: Bucket, span: tuple[Instant, Instant]) -> None:
    limit = MAX_BUCKETS.get(bucket)
    if limit is not None and buckets_in(bucket, *span) > limit:
        raise RangeTooLargeError(f"A series may have {limit} buckets of this kind", bucket=bucket, limit=limit)


def _cells(
    uow: UnitOfWork, which: UsageFilter, span: tuple[Instant, Instant], bucket: Bucket, grouping: Grouping
) -> _Cells:
    by = _DIMENSIONS[grouping]
    if bucket == "hour":
        # All of the time ends with the latest call, and a runtime's clock may be a little ahead.
        until = which.until or bucket_start("hour", span[1]) + 2 * MS_PER_HOUR
        return uow.usage.series(replace(which, since=span[0], until=until), "hour", by)
    start_of = cache(partial(bucket_start, bucket))
    parts = defaultdict(list)
    for day, key, sums in _days(uow, which, by):
        parts[start_of(day), key].append(sums)
    return {cell: combined(sums) for cell, sums in parts.items()}


def _days(
    uow: UnitOfWork, which: UsageFilter, by: Sequence[UsageDimension]
) -> Iterator[tuple[Instant, tuple[str, ...], UsageSums]]:
    """Yield sums by day; those of a day that the range cuts are made of its hours."""
    whole, ends = days_of(which)
    if whole is not None:
        yield from ((day, key, sums) for (day, key), sums in uow.usage.series(whole, "day", by).items())
    for day, part in ends:
        yield from ((day, key, sums) for key, sums in uow.usage.sums(part, by).items())


def _series(
    uow: UnitOfWork,
    cells: _Cells,
    span: tuple[Instant, Instant] | None,
    bucket: Bucket,
    grouping: Grouping,
    principal: Principal,
) -> UsageSeries:
    if len(cells) > MAX_GROUPED_ROWS and grouping != "none":
        raise RangeTooLargeError(f"A series may have {MAX_GROUPED_ROWS} rows", bucket=bucket, limit=MAX_GROUPED_ROWS)
    labels = _labels(uow, {key for _, keys in cells for key in keys}, grouping, principal)
    groups: dict[Instant, dict[str | None, UsageSums]] = defaultdict(dict)
    if grouping == "none" and span is not None:
        groups.update((start, {None: UsageSums()}) for start in starts_in(bucket, *span))
    for (start, keys), sums in cells.items():
        groups[start][keys[0] if keys else None] = sums
    rows = []
    spent: dict[Instant, Micros] = {}
    for start, of_start in sorted(groups.items(), key=itemgetter(0)):
        end = next_start(bucket, start)
        for key, sums in sorted(of_start.items(), key=itemgetter(0)):
            rows.append(SeriesRow(start, end, key, labels.get(key, key) if key else None, sums))
        spent[start] = sum(sums.cost_micros for sums in of_start.values())
    peak = max(spent, key=lambda start: (spent[start], -start), default=None)
    peak_micros = 0 if peak is None else spent[peak]
    return UsageSeries(rows, combined(cells.values()), peak if peak_micros else None, peak_micros)


def _labels(uow: UnitOfWork, keys: set[str], grouping: Grouping, principal: Principal) -> Mapping[str, str]:
    """Return what the groups are called, where that is not their key; a project only to whom it exists."""
    if grouping == "agent":
        return uow.agents.names(keys)
    if grouping != "project" or not keys:
        return {}
    visible_to = None if principal.reach == "all" else principal.user_id
    which = ProjectFilter(visible_to=visible_to, now=uow.now, project_id=principal.bound_project)
    return {project.id: project.name for project in uow.projects.page(which, Paging(1, MAX_PER_PAGE)).rows}
