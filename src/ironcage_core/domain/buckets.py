"""Buckets: the stretches of a UTC calendar that a series of usage is cut into.

Each kind of bucket is counted from the epoch, so that how many lie in a range is known without walking through it.

Source: contract analytics.md 4.3.
"""

from collections.abc import Callable, Mapping
from datetime import MAXYEAR, UTC, datetime
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, Instant, as_datetime, from_datetime

Bucket = Literal["hour", "day", "week", "month", "year"]

LAST_INSTANT: Final = from_datetime(datetime.max.replace(tzinfo=UTC))
"""Where the last buckets of all end: beyond it nobody could write a time down."""

_MS_PER_WEEK: Final = 7 * MS_PER_DAY
_FIRST_MONDAY: Final = -3 * MS_PER_DAY
_MONTHS: Final = 12


class _Calendar(NamedTuple):
    """How one kind of bucket is counted: the number of the one an instant lies in, and where one starts."""

    number_of: Callable[[Instant], int]
    start_of: Callable[[int], Instant]


def bucket_start(bucket: Bucket, instant: Instant) -> Instant:
    """Return where the bucket of an instant starts; weeks start on Monday."""
    calendar = _CALENDARS[bucket]
    return calendar.start_of(calendar.number_of(instant))


def next_start(bucket: Bucket, instant: Instant) -> Instant:
    """Return where the bucket after the one of an instant starts."""
    calendar = _CALENDARS[bucket]
    return calendar.start_of(calendar.number_of(instant) + 1)


def some_buckets_ago(bucket: Bucket, instant: Instant, buckets: int) -> Instant:
    """Return where the bucket starts that lies so many before the one of an instant."""
    calendar = _CALENDARS[bucket]
    return calendar.start_of(calendar.number_of(instant) - buckets)


def buckets_in(bucket: Bucket, since: Instant, until: Instant) -> int:
    """Return how many buckets a range touches, `since` inclusive, `until` exclusive and behind it."""
    number_of = _CALENDARS[bucket].number_of
    return number_of(until - 1) - number_of(since) + 1


def starts_in(bucket: Bucket, since: Instant, until: Instant) -> list[Instant]:
    """Return where each bucket starts that a range touches, in their order."""
    calendar = _CALENDARS[bucket]
    first = calendar.number_of(since)
    return [calendar.start_of(first + place) for place in range(buckets_in(bucket, since, until))]


def _even(length: int, first: Instant = 0) -> _Calendar:
    return _Calendar(
        lambda instant: (instant - first) // length, lambda number: min(number * length + first, LAST_INSTANT)
    )


def _month_of(instant: Instant) -> int:
    moment = as_datetime(instant)
    return moment.year * _MONTHS + moment.month - 1


def _month_start(number: int) -> Instant:
    year, month = divmod(number, _MONTHS)
    return LAST_INSTANT if year > MAXYEAR else from_datetime(datetime(year, month + 1, 1, tzinfo=UTC))


_CALENDARS: Final[Mapping[Bucket, _Calendar]] = MappingProxyType(
    {
        "hour": _even(MS_PER_HOUR),
        "day": _even(MS_PER_DAY),
        "week": _even(_MS_PER_WEEK, _FIRST_MONDAY),
        "month": _Calendar(_month_of, _month_start),
        "year": _Calendar(lambda instant: as_datetime(instant).year, lambda number: _month_start(number * _MONTHS)),
    }
)
