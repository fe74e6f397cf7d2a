"""Periods: which time a question about usage is about, by name or by dates, in whole UTC hours.

Source: contract analytics.md 3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.instants import (
    MS_PER_DAY,
    MS_PER_HOUR,
    Instant,
    as_datetime,
    day_start,
    from_datetime,
    hour_of,
)
from ironcage_core.errors.tree import ValidationError
from ironcage_core.errors.usage import InvalidPeriodError, RangeTooOldError

_LAST_HOUR: Final = from_datetime(datetime(9999, 12, 31, 23, tzinfo=UTC))

Period = Literal[
    "today", "yesterday", "last-24-hours", "last-7-days", "last-30-days", "last-90-days", "this-month", "last-month",
    "all-time",
]  # fmt: skip


class TimeRange(NamedTuple):
    """A range of time: what is read, `since` inclusive and `until` exclusive in whole hours, and where it ends to see.

    `period` is the canonical name, or `custom` for dates. None is not bounded; a range of all time is not.
    """

    period: str
    since: Instant | None
    until: Instant | None
    end: Instant


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller says of the time: a period by any of its names, or the dates between which it lies, or nothing."""

    period: str | None = None
    start: Instant | None = None
    end: Instant | None = None


def asked_range(asked: Asked, now: Instant, *, default: Period = "all-time") -> TimeRange:
    """Return the range that a caller means.

    Raises:
        ValidationError: A period and dates as well, or a start that is not before the end.
        InvalidPeriodError: No such period.
    """
    if asked.start is None and asked.end is None:
        return period_range(asked.period or default, now)
    if asked.period is not None:
        raise ValidationError({"period": "may not stand beside start_date or end_date"})
    end = now if asked.end is None else asked.end
    if asked.start is not None and asked.start >= end:
        raise ValidationError({"start_date": "must be before the end"})
    since = None if asked.start is None else _hour_start(asked.start)
    until = min(_hour_end(end - 1) if asked.end is not None else _hour_end(now), _LAST_HOUR)
    return TimeRange("custom", since, until, now if asked.end is None else until)


def period_range(name: str, now: Instant) -> TimeRange:
    """Return the range of a period; one that lasts until now is read to the end of the current hour.

    Raises:
        InvalidPeriodError: No such period.
    """
    period = PERIODS.get(name)
    if period is None:
        allowed = list(dict.fromkeys(PERIODS.values()))
        raise InvalidPeriodError(f"period must be one of {', '.join(allowed)}", allowed=allowed)
    since, until = _BOUNDS[period](now)
    if until is not None:
        return TimeRange(period, since, until, until)
    return TimeRange(period, since, None if since is None else _hour_end(now), now)


def check_kept(which: TimeRange, hours_since: Instant) -> None:
    """Refuse a range that begins or ends within a day whose hours are forgotten.

    Args:
        which: The range.
        hours_since: From when on hours are kept, the start of a day; 0 for always.

    Raises:
        RangeTooOldError: Only whole days are left of that time.
    """
    ends = (which.since, which.until)
    if any(end is not None and end % MS_PER_DAY and end < hours_since for end in ends):
        raise RangeTooOldError("Only whole UTC days are kept of that time", kept_since=hours_since)


def _hour_start(instant: Instant) -> Instant:
    return hour_of(instant) * MS_PER_HOUR


def _hour_end(instant: Instant) -> Instant:
    return _hour_start(instant) + MS_PER_HOUR


def _month_start(instant: Instant) -> Instant:
    return from_datetime(as_datetime(instant).replace(day=1, hour=0, minute=0, second=0, microsecond=0))


def _last_month(now: Instant) -> tuple[Instant, Instant]:
    this = _month_start(now)
    return _month_start(this - 1), this


_Bounds = tuple[Instant | None, Instant | None]
_BOUNDS: Final[Mapping[Period, Callable[[Instant], _Bounds]]] = MappingProxyType(
    {
        "today": lambda now: (day_start(now), None),
        "yesterday": lambda now: (day_start(now, 1), day_start(now)),
        "last-24-hours": lambda now: (_hour_start(now) - 23 * MS_PER_HOUR, None),
        "last-7-days": lambda now: (day_start(now, 7), None),
        "last-30-days": lambda now: (day_start(now, 30), None),
        "last-90-days": lambda now: (day_start(now, 90), None),
        "this-month": lambda now: (_month_start(now), None),
        "last-month": _last_month,
        "all-time": lambda _: (None, None),
    }
)
"""Where each begins and ends; an end of None is now."""

PERIODS: Final[Mapping[str, Period]] = MappingProxyType(
    {
        **{period: period for period in _BOUNDS},
        "last7-days": "last-7-days",
        "last30-days": "last-30-days",
        "last90-days": "last-90-days",
    }
)
"""Every name of a period, and the one it is told by."""
