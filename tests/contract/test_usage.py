"""Usage: sums and pages of records are what a walk through all records finds, corrections included."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import Page, Paging, TraceFilter, UsageDimension, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import usage_row
from tests.support.usage_story import (
    AGENTS,
    MIDNIGHT,
    OWNERS,
    Story,
    at_length,
    dimensions,
    is_among,
    is_as_wide,
    pagings,
    put_people,
    put_records,
    recounted,
    story,
    sums_of,
    trace_filters,
    usage_filters,
)
from tests.support.world import NOON


@pytest.fixture(params=[1, 2, 3])
def told(request: pytest.FixtureRequest, store: SqliteStore) -> Story:
    """A story, and a store that has heard it."""
    chosen = story(request.param)
    chosen.tell(store)
    return chosen


@at_length
@given(which=usage_filters, by=dimensions)
def test_sums_are_what_a_recount_gives(
    store: SqliteStore, told: Story, which: UsageFilter, by: list[UsageDimension]
) -> None:
    """Whatever is asked for, however the records were corrected; extremes may only be too wide."""
    expected = recounted([record for record in told.records if is_among(record, which)], by)

    sums = store.read(lambda uow: uow.usage.sums(which, by))

    assert sums.keys() == expected.keys()
    assert all(is_as_wide(sums[key], each) for key, each in expected.items()), (sums, expected)


@at_length
@given(which=usage_filters)
def test_the_first_day_is_that_of_the_first_call(store: SqliteStore, told: Story, which: UsageFilter) -> None:
    """Of those that the filter means, whatever it says of time; a cell that a correction emptied is none."""
    meant = replace(which, since=None, until=None)
    days = [record.occurred_at // MS_PER_DAY * MS_PER_DAY for record in told.records if is_among(record, meant)]

    assert store.read(lambda uow: uow.usage.first_day(which)) == min(days, default=None)


def in_order(records: Sequence[UsageRecord], *, descending: bool) -> list[UsageRecord]:
    by_id = sorted(records, key=lambda record: record.id, reverse=True)
    return sorted(by_id, key=lambda record: record.occurred_at, reverse=descending)


@at_length
@given(which=trace_filters, paging=pagings, descending=st.booleans())
def test_a_page_of_traces_and_its_total_are_exact(
    store: SqliteStore, told: Story, which: TraceFilter, paging: Paging, descending: bool
) -> None:
    """Found by days or by agents, they are what sorting all records gives; ties by id, descending either way."""
    expected = in_order([record for record in told.records if is_among(record, which)], descending=descending)

    page = store.read(lambda uow: uow.usage.page(which, paging, descending=descending))

    assert page.total == len(expected)
    assert list(page.rows) == expected[paging.offset : paging.offset + paging.per_page]


@pytest.mark.parametrize("descending", [True, False])
def test_pages_put_together_are_all_traces(store: SqliteStore, told: Story, descending: bool) -> None:
    """No record is on two pages or on none, whatever days a page spans."""
    pages = [
        store.read(partial(_page, TraceFilter(), Paging(number, 9), descending=descending)) for number in range(1, 26)
    ]

    assert [record for page in pages for record in page.rows] == in_order(told.records, descending=descending)


def _page(which: TraceFilter, paging: Paging, uow: UnitOfWork, *, descending: bool = True) -> Page[UsageRecord]:
    return uow.usage.page(which, paging, descending=descending)


NO_EXTREMES = {"last_at": 0, "max_cost_micros": 0, "min_cost_micros": 0}
CORRECTIONS = {
    "cost": {"cost_micros": 900},
    "owner": {"owner_id": OWNERS[1].id},
    "an earlier day": {"occurred_at": NOON - 2 * MS_PER_DAY},
    "an earlier hour": {"occurred_at": NOON - MS_PER_HOUR},
    "outcome": {"outcome": "failed"},
    "tokens": {"input_tokens": 4, "output_tokens": 2, "unsplit_tokens": 0},
    "provider key": {"provider_id": "prov_b"},
    "duration": {"duration_ms": 12},
    "nothing": {},
}


@pytest.mark.parametrize("change", list(CORRECTIONS.values()), ids=list(CORRECTIONS))
@pytest.mark.parametrize("is_at_once", [True, False])
def test_a_corrected_record_counts_once_where_it_is_now(
    store: SqliteStore, change: dict[str, Any], is_at_once: bool
) -> None:
    """In the unit of work that made it as later; by hour, by day, by agent and in all."""
    before = usage_row(AGENTS[0].id, "call", duration_ms=5)
    after = before._replace(**change)

    def seen(uow: UnitOfWork) -> object:
        which = (UsageFilter(), UsageFilter(agent_id=AGENTS[0].id))
        hour = after.occurred_at // MS_PER_HOUR * MS_PER_HOUR
        spans = ((None, None), (hour, hour + MS_PER_HOUR))
        dated = [replace(each, since=since, until=until) for each in which for since, until in spans]
        sums = [uow.usage.sums(each, ("provider_id",)) for each in dated]
        page = uow.usage.page(TraceFilter(), Paging())
        return [{key: each._replace(**NO_EXTREMES) for key, each in one.items()} for one in sums], page

    def put_both(uow: UnitOfWork) -> object:
        uow.usage.put(before)
        uow.usage.put(after)
        return seen(uow)

    store.write(put_people)
    steps: list[Callable[[UnitOfWork], object]] = (
        [put_both] if is_at_once else [partial(put_records, [before]), partial(put_records, [after])]
    )
    inside = [store.write(step) for step in steps][-1]

    outside = store.read(seen)

    expected = {(after.provider_id or "",): sums_of([after])._replace(**NO_EXTREMES)}
    assert outside == ([expected] * 4, Page([after], 1))
    assert inside in (outside, None)


def test_the_latest_call_is_exact_as_long_as_none_was_moved(store: SqliteStore) -> None:
    """The latest of all cells of a group, not of the first."""
    store.write(put_people)
    times = [NOON - MS_PER_DAY, NOON + 5, NOON, NOON + 4]
    store.write(partial(put_records, [usage_row(AGENTS[0].id, str(at), occurred_at=at) for at in times]))

    sums = store.read(lambda uow: uow.usage.sums(UsageFilter()))

    assert sums[()].last_at == NOON + 5


def test_where_nothing_was_called_there_is_nothing(store: SqliteStore) -> None:
    """No group, not even the one of all; no trace; no first day."""
    assert store.read(lambda uow: uow.usage.sums(UsageFilter())) == {}
    assert store.read(lambda uow: uow.usage.sums(UsageFilter(since=NOON, until=NOON))) == {}
    assert store.read(partial(_page, TraceFilter(), Paging())) == Page([], 0)
    assert store.read(lambda uow: uow.usage.first_day(UsageFilter())) is None


def test_what_a_refused_unit_put_is_counted_nowhere(store: SqliteStore) -> None:
    """Also if it was read, and so written, before the refusal."""

    def put_read_and_raise(uow: UnitOfWork) -> None:
        uow.usage.put(usage_row(AGENTS[0].id, "lost"))
        assert uow.usage.sums(UsageFilter())[()].completed == 1
        uow.usage.put(usage_row(AGENTS[0].id, "lost too"))
        raise LookupError("refused")

    store.write(put_people)
    with pytest.raises(LookupError, match="refused"):
        store.write(put_read_and_raise)

    assert store.read(lambda uow: uow.usage.sums(UsageFilter())) == {}


@pytest.mark.parametrize("is_purged", [False, True])
def test_what_is_older_than_the_records_is_summed_but_not_shown(
    store: SqliteStore, told: Story, is_purged: bool
) -> None:
    """From the moment the horizon is there, purged or not; sums and the first day stay."""
    horizon = MIDNIGHT + 2 * MS_PER_DAY
    before = store.read(lambda uow: (uow.usage.sums(UsageFilter(), ("model",)), uow.usage.first_day(UsageFilter())))
    store.write(lambda uow: uow.usage.advance_horizon("records", horizon))
    while is_purged and store.write(lambda uow: uow.usage.purge_records(20)):
        pass
    kept = [record for record in told.records if record.occurred_at >= horizon]
    gone = next(record for record in told.records if record.occurred_at < horizon)

    for which in (TraceFilter(), TraceFilter(since=MIDNIGHT + 5), TraceFilter(agent_id=AGENTS[0].id)):
        expected = in_order([record for record in kept if is_among(record, which)], descending=True)
        page = store.read(partial(_page, which, Paging(1, 1000)))
        assert (list(page.rows), page.total) == (expected, len(expected))
    assert store.read(partial(_page, TraceFilter(call_key=gone.call_key), Paging())).total == 0
    assert store.read(partial(_page, TraceFilter(until=horizon), Paging())).total == 0
    assert store.read(lambda uow: uow.usage.find_trace(gone.id)) is None
    assert store.read(lambda uow: uow.usage.find_trace(kept[0].id)) == kept[0]
    assert before == store.read(
        lambda uow: (uow.usage.sums(UsageFilter(), ("model",)), uow.usage.first_day(UsageFilter()))
    )


def test_days_are_summed_though_their_hours_are_gone(store: SqliteStore, told: Story) -> None:
    """Whole days need no hours; those from the horizon on are still there."""
    horizon = MIDNIGHT + 2 * MS_PER_DAY
    store.write(lambda uow: uow.usage.advance_horizon("hours", horizon))
    while store.write(lambda uow: uow.usage.purge_hours(7)):
        pass

    for which in (
        UsageFilter(),
        UsageFilter(since=MIDNIGHT, until=horizon),
        UsageFilter(AGENTS[0].id, since=MIDNIGHT, until=horizon + 13 * MS_PER_HOUR),
        UsageFilter(since=horizon + MS_PER_HOUR, until=horizon + 13 * MS_PER_HOUR),
    ):
        expected = recounted([record for record in told.records if is_among(record, which)], ())
        sums = store.read(partial(_sums, which))
        assert is_as_wide(sums[()], expected[()])


def _sums(which: UsageFilter, uow: UnitOfWork) -> Any:  # noqa: ANN401 - a mapping, as the port says
    return uow.usage.sums(which)
