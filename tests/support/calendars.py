"""Calendars: where buckets of time start, as the standard library counts."""

from datetime import datetime, timedelta

from ironcage_core.domain.instants import as_datetime


def start_by_calendar(bucket: str, instant: int) -> datetime:
    """Return where the hour, day, week, month or year of an instant starts."""
    at = as_datetime(instant).replace(minute=0, second=0, microsecond=0)
    if bucket == "hour":
        return at
    at = at.replace(hour=0)
    if bucket == "week":
        return at - timedelta(days=at.weekday())
    return at if bucket == "day" else at.replace(day=1) if bucket == "month" else at.replace(month=1, day=1)
