"""Periods and dates: which whole hours they mean, and what they look like."""

import pytest

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, Instant, parse_instant
from ironcage_core.domain.periods import PERIODS, Asked, TimeRange, asked_range, check_kept, period_range
from ironcage_core.errors.tree import ValidationError
from ironcage_core.errors.usage import InvalidPeriodError, RangeTooOldError


def at(text: str) -> Instant:
    return parse_instant(f"{text}:00Z", field="test")


NOW = at("2025-03-01T12:34")
HOUR_END = at("2025-03-01T13:00")

RANGES = [
    ("today", "today", "2025-03-01T00:00", None),
    ("yesterday", "yesterday", "2025-02-28T00:00", "2025-03-01T00:00"),
    ("last-24-hours", "last-24-hours", "2025-02-28T13:00", None),
    ("last-7-days", "last-7-days", "2025-02-22T00:00", None),
    ("last7-days", "last-7-days", "2025-02-22T00:00", None),
    ("last-30-days", "last-30-days", "2025-01-30T00:00", None),
    ("last30-days", "last-30-days", "2025-01-30T00:00", None),
    ("last-90-days", "last-90-days", "2024-12-01T00:00", None),
    ("last90-days", "last-90-days", "2024-12-01T00:00", None),
    ("this-month", "this-month", "2025-03-01T00:00", None),
    ("last-month", "last-month", "2025-02-01T00:00", "2025-03-01T00:00"),
]


@pytest.mark.parametrize(("name", "period", "since", "until"), RANGES)
def test_a_period_is_its_line_of_the_table(name: str, period: str, since: str, until: str | None) -> None:
    """One that lasts until now is read to the end of the hour and shown to end now."""
    read_until, end = (HOUR_END, NOW) if until is None else (at(until), at(until))

    assert period_range(name, NOW) == TimeRange(period, at(since), read_until, end)


def test_all_time_has_no_bounds_and_ends_now() -> None:
    """A call that is dated a little ahead belongs to it."""
    assert period_range("all-time", NOW) == TimeRange("all-time", None, None, NOW)


def test_every_period_is_tried() -> None:
    """A name that is added must be added here as well."""
    assert {name for name, *_ in RANGES} | {"all-time"} == set(PERIODS)


@pytest.mark.parametrize(
    ("now", "this", "last"),
    [
        ("2025-01-01T00:00", "2025-01-01T00:00", "2024-12-01T00:00"),
        ("2024-12-31T23:59", "2024-12-01T00:00", "2024-11-01T00:00"),
        ("2024-03-31T08:00", "2024-03-01T00:00", "2024-02-01T00:00"),
    ],
)
def test_months_are_those_of_the_calendar(now: str, this: str, last: str) -> None:
    """Also over the end of a year, and on a day that the month before does not have."""
    assert period_range("this-month", at(now)).since == at(this)
    assert period_range("last-month", at(now))[1:3] == (at(last), at(this))


def test_the_current_hour_is_one_of_the_24() -> None:
    """At its first instant as at its last."""
    for now in (at("2025-03-01T12:00"), HOUR_END - 1):
        which = period_range("last-24-hours", now)
        assert (which.since, which.until) == (HOUR_END - 24 * MS_PER_HOUR, HOUR_END)


@pytest.mark.parametrize("name", ["", "Today", "last-5-days", "custom", "all"])
def test_another_name_is_refused_with_those_there_are(name: str) -> None:
    """The canonical ones, each once, in the order of the table."""
    with pytest.raises(InvalidPeriodError) as refusal:
        period_range(name, NOW)
    assert refusal.value.details["allowed"] == [
        "today", "yesterday", "last-24-hours", "last-7-days", "last-30-days", "last-90-days", "this-month",
        "last-month", "all-time",
    ]  # fmt: skip


def test_without_a_word_it_is_the_default() -> None:
    """All time, unless the question has another."""
    assert asked_range(Asked(), NOW).period == "all-time"
    assert asked_range(Asked(), NOW, default="today") == period_range("today", NOW)
    assert asked_range(Asked(period="yesterday"), NOW, default="today") == period_range("yesterday", NOW)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ((at("2025-02-01T00:00"), at("2025-02-03T00:00")), ("2025-02-01T00:00", "2025-02-03T00:00")),
        ((at("2025-02-01T10:00") + 1, at("2025-02-01T11:00") + 1), ("2025-02-01T10:00", "2025-02-01T12:00")),
        ((at("2025-02-01T10:59"), at("2025-02-01T11:00")), ("2025-02-01T10:00", "2025-02-01T11:00")),
        ((None, at("2025-02-01T11:30")), (None, "2025-02-01T12:00")),
    ],
)
def test_dates_are_widened_outward_to_whole_hours(
    asked: tuple[Instant | None, Instant], expected: tuple[str | None, str]
) -> None:
    """And the widened range is the one that is shown."""
    since, until = None if expected[0] is None else at(expected[0]), at(expected[1])

    assert asked_range(Asked(None, *asked), NOW) == TimeRange("custom", since, until, until)


def test_a_start_alone_lasts_until_now() -> None:
    """As a period that does."""
    start = NOW - MS_PER_DAY

    assert asked_range(Asked(start=start), NOW) == TimeRange("custom", at("2025-02-28T12:00"), HOUR_END, NOW)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Asked("today", NOW - 1, NOW), "period"),
        (Asked("today", end=NOW), "period"),
        (Asked("nonsense", start=NOW - 1), "period"),
        (Asked(start=NOW, end=NOW), "start_date"),
        (Asked(start=NOW + MS_PER_MINUTE, end=NOW), "start_date"),
        (Asked(start=NOW), "start_date"),
    ],
)
def test_what_makes_no_range_names_its_field(asked: Asked, field: str) -> None:
    """A period beside dates, a start that is not before the end."""
    with pytest.raises(ValidationError) as refusal:
        asked_range(asked, NOW)
    assert list(refusal.value.fields) == [field]


@pytest.mark.parametrize("end", ["9999-12-31T22:30", "9999-12-31T23:01"])
def test_an_end_that_nobody_could_write_down_is_the_last_that_can_be(end: str) -> None:
    """Widened to a whole hour, it would be in the year 10000."""
    assert asked_range(Asked(end=at(end)), NOW).end == at("9999-12-31T23:00")


HORIZON = at("2025-02-10T00:00")


@pytest.mark.parametrize(
    ("start", "end", "is_kept"),
    [
        ("2025-02-01T00:00", "2025-02-09T00:00", True),
        ("2025-02-01T01:00", "2025-02-09T00:00", False),
        ("2025-02-01T00:00", "2025-02-09T23:00", False),
        ("2025-02-01T00:00", "2025-02-10T00:00", True),
        ("2025-02-01T00:00", "2025-02-10T01:00", True),
        ("2025-02-10T01:00", "2025-02-10T02:00", True),
        ("2025-02-09T23:00", "2025-02-12T00:00", False),
    ],
)
def test_a_range_may_not_cut_a_day_whose_hours_are_forgotten(start: str, end: str, is_kept: bool) -> None:
    """Whole days always may be asked for; the refusal says from when hours may."""
    which = asked_range(Asked(start=at(start), end=at(end)), NOW)

    if is_kept:
        check_kept(which, HORIZON)
        return
    check_kept(which, 0)
    with pytest.raises(RangeTooOldError) as refusal:
        check_kept(which, HORIZON)
    assert refusal.value.details == {"kept_since": HORIZON}
