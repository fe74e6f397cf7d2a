"""Buckets: every instant lies in one, which starts where the calendar says."""

from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.buckets import (
    LAST_INSTANT,
    Bucket,
    bucket_start,
    buckets_in,
    next_start,
    some_buckets_ago,
    starts_in,
)
from ironcage_core.domain.instants import MS_PER_DAY, as_datetime, from_datetime
from tests.support.calendars import start_by_calendar

BUCKETS: tuple[Bucket, ...] = get_args(Bucket)
buckets = st.sampled_from(BUCKETS)
FIRST, LAST = from_datetime(datetime(1, 1, 1, tzinfo=UTC)), LAST_INSTANT
instants = st.integers(FIRST, LAST)


@given(buckets, instants)
def test_a_bucket_starts_where_the_calendar_says(bucket: Bucket, instant: int) -> None:
    """From the first to the last day that can be written down."""
    assert bucket_start(bucket, instant) == from_datetime(start_by_calendar(bucket, instant))


@given(buckets, instants)
def test_buckets_lie_side_by_side(bucket: Bucket, instant: int) -> None:
    """An instant is in its bucket, and the next one starts where this one ends."""
    start, end = bucket_start(bucket, instant), next_start(bucket, instant)

    assert start <= instant < end or instant == end == LAST_INSTANT
    assert bucket_start(bucket, end - 1) == start
    assert end == LAST_INSTANT or bucket_start(bucket, end) == end


@given(buckets, st.integers(0, 60), st.integers(0, 400 * MS_PER_DAY), st.integers(1, 40 * MS_PER_DAY))
def test_the_buckets_of_a_range_are_those_that_it_touches(bucket: Bucket, year: int, at: int, length: int) -> None:
    """Counted without walking, and walked in order."""
    since = from_datetime(datetime(1970 + year, 1, 1, tzinfo=UTC)) + at

    starts = starts_in(bucket, since, since + length)

    assert len(starts) == buckets_in(bucket, since, since + length)
    assert starts[0] == bucket_start(bucket, since)
    assert starts[-1] == bucket_start(bucket, since + length - 1)
    assert starts[1:] == [next_start(bucket, start) for start in starts[:-1]]


@given(buckets, st.integers(0, 10**13))
def test_a_bucket_touches_no_other(bucket: Bucket, instant: int) -> None:
    """A range that is a bucket is that one alone, and a millisecond more makes two."""
    start, end = bucket_start(bucket, instant), next_start(bucket, instant)

    assert starts_in(bucket, start, end) == [start]
    assert starts_in(bucket, start, end + 1) == [start, end]


@given(buckets, st.integers(0, 10**13), st.integers(0, 40))
def test_some_buckets_ago_is_so_many_steps_back(bucket: Bucket, instant: int, number: int) -> None:
    """Each step leads to where the bucket before starts."""
    start = bucket_start(bucket, instant)
    for _ in range(number):
        start = bucket_start(bucket, start - 1)

    assert some_buckets_ago(bucket, instant, number) == start


@pytest.mark.parametrize(
    ("bucket", "start", "end"),
    [
        ("hour", "2024-02-29T23", "2024-03-01T00"),
        ("day", "2024-02-29T00", "2024-03-01T00"),
        ("week", "2024-02-26T00", "2024-03-04T00"),
        ("month", "2024-02-01T00", "2024-03-01T00"),
        ("year", "2024-01-01T00", "2025-01-01T00"),
    ],
)
def test_a_leap_day_is_a_day_like_any(bucket: Bucket, start: str, end: str) -> None:
    """In February, in a week that begins on Monday."""
    instant = from_datetime(datetime(2024, 2, 29, 23, 30, tzinfo=UTC))

    found = [as_datetime(at).isoformat()[:13] for at in (bucket_start(bucket, instant), next_start(bucket, instant))]

    assert found == [start, end]
