"""Time: whole milliseconds since the Unix epoch, UTC, and the calendar months the bank counts by.

An integer costs the hot path nothing, sorts as itself in every database and cannot carry a time zone by mistake.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, TypeAlias

from ironcage_core.errors.tree import ValidationError

Instant: TypeAlias = int
"""Milliseconds since 1970-01-01T00:00:00Z."""

MS_PER_S: Final = 1000
MS_PER_MINUTE: Final = 60_000
MS_PER_HOUR: Final = 3_600_000
MS_PER_DAY: Final = 86_400_000
HOURS_PER_DAY: Final = 24
_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})?"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def as_datetime(instant: Instant) -> datetime:
    """Return an instant as an aware UTC datetime."""
    return _EPOCH + timedelta(milliseconds=instant)


def from_datetime(moment: datetime) -> Instant:
    """Return an aware datetime as an instant, exact to the millisecond."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


_FIRST: Final = from_datetime(datetime.min.replace(tzinfo=UTC))
_LAST: Final = from_datetime(datetime.max.replace(tzinfo=UTC))


def period_of(instant: Instant) -> str:
    """Return the UTC calendar month of an instant as `YYYY-MM`."""
    return _period_of_day(instant // MS_PER_DAY)


@lru_cache(maxsize=256)
def _period_of_day(day: int) -> str:
    return f"{_EPOCH + timedelta(days=day):%Y-%m}"


def day_of(instant: Instant) -> int:
    """Return the UTC day of an instant, counted from the epoch."""
    return instant // MS_PER_DAY


def day_start(instant: Instant, days_ago: int = 0) -> Instant:
    """Return when the UTC day of an instant began, or one so many days before."""
    return (instant // MS_PER_DAY - days_ago) * MS_PER_DAY


def next_day_start(instant: Instant) -> Instant:
    """Return when the UTC day after the one of an instant begins."""
    return day_start(instant) + MS_PER_DAY


def hour_of(instant: Instant) -> int:
    """Return the UTC hour of an instant, counted from the epoch."""
    return instant // MS_PER_HOUR


def minute_of(instant: Instant) -> int:
    """Return the UTC minute of an instant, counted from the epoch."""
    return instant // MS_PER_MINUTE


def next_period_start(instant: Instant) -> Instant:
    """Return the first instant of the UTC month after the one of `instant`."""
    now = as_datetime(instant)
    year, month = divmod(now.year * 12 + now.month, 12)
    return from_datetime(datetime(year, month + 1, 1, tzinfo=UTC))


def format_instant(instant: Instant) -> str:
    """Return RFC 3339 in UTC with `Z` and milliseconds."""
    return as_datetime(instant).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_instant(text: str, *, field: str) -> Instant:
    """Read RFC 3339 with an offset.

    Raises:
        ValidationError: Not RFC 3339, or without an offset, or beyond the years 1 to 9999.
    """
    try:
        moment = datetime.fromisoformat(text if _RFC_3339.fullmatch(text) else "")  # ISO 8601 is far wider
    except ValueError:
        raise ValidationError({field: "must be an RFC 3339 time"}) from None
    if moment.tzinfo is None:
        raise ValidationError({field: "must carry an offset such as Z"})
    instant = from_datetime(moment)
    if not _FIRST <= instant <= _LAST:  # an offset can lead out of the calendar, and nobody could write it down then
        raise ValidationError({field: "must be within the years 1 to 9999 in UTC"})
    return instant
