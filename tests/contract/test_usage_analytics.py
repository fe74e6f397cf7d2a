"""Usage for analytics: series, cells, histograms, errors and costs are what a walk through all records finds."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.histograms import STEPS_PER_BAND, Measure, step_of
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR
from ironcage_core.domain.usage import UsageRecord, UsageSums, combined
from ironcage_core.errors.tree import ConflictError
from ironcage_core.ports.lists import UsageBucket, UsageDimension, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import ErrorSums, UsageCell
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import usage_row
from tests.support.stores import in_one_commit
from tests.support.usage_story import (
    AGENTS,
    MIDNIGHT,
    Story,
    agent_ids,
    at_length,
    dimensions,
    hours,
    is_among,
    is_as_wide,
    owner_ids,
    put_people,
    put_records,
    recounted,
    story,
    sums_of,
    usage_filters,
)
from tests.support.world import NOON

LENGTHS: dict[UsageBucket, int] = {"hour": MS_PER_HOUR, "day": MS_PER_DAY}
buckets = st.sampled_from(("hour", "day"))
measures = st.sampled_from(("cost", "duration"))
filters_of_agents = st.builds(UsageFilter, agent_id=agent_ids, owner_id=owner_ids, since=hours, until=hours)


@pytest.fixture(params=[1, 2, 3])
def told(request: pytest.FixtureRequest, store: SqliteStore) -> Story:
    """A story with corrections, and a store that has heard it."""
    chosen = story(request.param)
    chosen.tell(store)
    return chosen


@pytest.fixture
def plain(store: SqliteStore) -> Story:
    """A story in which nothing is corrected, and a store that has heard it."""
    chosen = story(4, corrects=False)
    chosen.tell(store)
    return chosen


def meant(told: Story, which: UsageFilter) -> list[UsageRecord]:
    return [record for record in told.records if is_among(record, which)]


def in_whole(which: UsageFilter, bucket: UsageBucket) -> UsageFilter:
    """Return the filter with its time widened to whole buckets."""
    length = LENGTHS[bucket]
    since = None if which.since is None else which.since // length * length
    return replace(which, since=since, until=None if which.until is None else -(-which.until // length) * length)


@at_length
@given(which=usage_filters, bucket=buckets, by=dimensions)
def test_a_series_is_what_a_recount_of_each_bucket_gives(
    store: SqliteStore, told: Story, which: UsageFilter, bucket: UsageBucket, by: list[UsageDimension]
) -> None:
    """By hour and by day, of any group: calls, tokens and cost; buckets without a call are left out."""
    which, length = in_whole(which, bucket), LENGTHS[bucket]
    starts = {record.occurred_at // length * length for record in meant(told, which)}
    expected = {
        (start, key): sums
        for start in starts
        for key, sums in recounted(
            [record for record in meant(told, which) if 0 <= record.occurred_at - start < length], by
        ).items()
    }

    series = store.read(lambda uow: uow.usage.series(which, bucket, by))

    assert series == {key: UsageSums(*sums[:6]) for key, sums in expected.items()}


def cell_of(record: UsageRecord, length: int) -> UsageCell:
    start = record.occurred_at // length * length
    return UsageCell(start, record.agent_id, record.project_id, record.provider, record.provider_id or "", record.model)


@at_length
@given(which=usage_filters, bucket=buckets, limit=st.integers(1, 9) | st.just(1000))
def test_cells_are_the_finest_sums_in_their_order(
    store: SqliteStore, told: Story, which: UsageFilter, bucket: UsageBucket, limit: int
) -> None:
    """One of each, though its agent may have had two owners; no more than asked for."""
    which = in_whole(which, bucket)
    found: dict[UsageCell, list[UsageRecord]] = {}
    for record in meant(told, which):
        found.setdefault(cell_of(record, LENGTHS[bucket]), []).append(record)

    cells = store.read(lambda uow: uow.usage.cells(which, bucket, limit))

    assert [cell for cell, _ in cells] == sorted(found)[:limit]
    assert all(is_as_wide(sums, sums_of(found[cell])) for cell, sums in cells)


@at_length
@given(which=filters_of_agents, by=st.sampled_from(((), ("agent_id",))))
def test_sums_of_agents_alone_are_what_a_recount_gives(
    store: SqliteStore, told: Story, which: UsageFilter, by: tuple[UsageDimension, ...]
) -> None:
    """One of each agent, however many days and hours they are made of."""
    expected = recounted(meant(told, which), by)

    sums = store.read(lambda uow: uow.usage.sums(which, by))

    assert sums.keys() == expected.keys()
    assert all(is_as_wide(sums[key], expected[key]) for key in expected)


@at_length
@given(which=usage_filters, by=st.lists(st.sampled_from(get_args(UsageDimension)), unique=True, min_size=1))
def test_the_groups_are_those_that_have_a_call(
    store: SqliteStore, told: Story, which: UsageFilter, by: list[UsageDimension]
) -> None:
    """Each once, whichever rollups they are in."""
    assert told.records

    groups = store.read(lambda uow: list(uow.usage.groups(which, by)))

    assert len(groups) == len(set(groups))
    assert set(groups) == set(store.read(lambda uow: uow.usage.sums(which, by)))


def values_of(records: Sequence[UsageRecord], of: Measure) -> list[int]:
    if of == "cost":
        return [record.cost_micros for record in records if record.outcome == "completed"]
    return [record.duration_ms for record in records if record.duration_ms is not None]


@at_length
@given(which=usage_filters, of=measures)
def test_a_histogram_counts_each_value_in_its_step(
    store: SqliteStore, told: Story, which: UsageFilter, of: Measure
) -> None:
    """Exactly, however costs, durations, outcomes and times were corrected; bands first, then their steps."""
    steps = Counter(map(step_of, values_of(meant(told, which), of)))

    def seen(uow: UnitOfWork) -> dict[int, tuple[int, Sequence[int]]]:
        bands = uow.usage.bands(which, of)
        return {band: (calls, uow.usage.steps(which, of, band)) for band, calls in bands.items()}

    bands = store.read(seen)

    listed = {
        band * STEPS_PER_BAND + place: calls
        for band, (_, counts) in bands.items()
        for place, calls in enumerate(counts)
        if calls
    }
    assert listed == dict(steps)
    assert all(calls == sum(counts) > 0 and len(counts) == STEPS_PER_BAND for calls, counts in bands.values())


def test_a_band_without_calls_has_empty_steps(store: SqliteStore) -> None:
    """As many as any other."""
    assert list(store.read(lambda uow: uow.usage.steps(UsageFilter(), "cost", 3))) == [0] * STEPS_PER_BAND
    assert store.read(lambda uow: uow.usage.bands(UsageFilter(), "cost")) == {}


def test_a_corrected_cost_moves_to_its_step(store: SqliteStore) -> None:
    """Also within its band, which has as many calls as before."""
    record = usage_row(AGENTS[0].id, "call", cost_micros=100)
    store.write(put_people)
    for cost in (100, 110):
        store.write(partial(put_records, [record._replace(cost_micros=cost)]))
    band, place = divmod(step_of(110), STEPS_PER_BAND)

    steps = store.read(lambda uow: uow.usage.steps(UsageFilter(), "cost", band))

    assert band == step_of(100) // STEPS_PER_BAND
    assert list(steps) == [int(each == place) for each in range(STEPS_PER_BAND)]


@at_length
@given(which=usage_filters)
def test_errors_are_the_failed_calls_by_code_and_provider(store: SqliteStore, told: Story, which: UsageFilter) -> None:
    """Those that name none are unknown; the latest time may only be too late."""
    failed: dict[tuple[str, str], list[int]] = {}
    for record in meant(told, which):
        if record.outcome == "failed":
            failed.setdefault((record.error_code or "unknown", record.provider), []).append(record.occurred_at)

    errors = store.read(lambda uow: uow.usage.errors(which))

    assert {key: sums.calls for key, sums in errors.items()} == {key: len(times) for key, times in failed.items()}
    assert all(errors[key].last_at >= max(times) for key, times in failed.items())


def test_the_latest_error_is_that_of_the_latest_call(store: SqliteStore) -> None:
    """Not of the one that was told of last."""
    failed = usage_row(AGENTS[0].id, "later", outcome="failed", error_code="timeout", cost_micros=0)
    store.write(put_people)
    store.write(
        partial(put_records, [failed._replace(occurred_at=NOON + 5), failed._replace(id="trace", call_key="call")])
    )

    errors = store.read(lambda uow: uow.usage.errors(UsageFilter()))

    assert errors == {("timeout", "openai"): ErrorSums(2, NOON + 5)}


@at_length
@given(which=usage_filters, limit=st.sampled_from((2, 20, 1000)))
def test_costs_are_those_of_the_completed_calls_in_their_order(
    store: SqliteStore, told: Story, which: UsageFilter, limit: int
) -> None:
    """Or none at all, if there are more than asked for, or ten times as many records among them."""
    costs = sorted(values_of(meant(told, which), "cost"))
    among = meant(told, UsageFilter(which.agent_id, which.owner_id, since=which.since, until=which.until))
    is_too_much = len(costs) > limit or len(among) > 10 * limit

    assert store.read(lambda uow: uow.usage.costs(which, limit)) == (None if is_too_much else costs)


@at_length
@given(which=usage_filters, is_purged=st.booleans())
def test_costs_are_not_told_if_some_are_not_kept(
    store: SqliteStore, told: Story, which: UsageFilter, is_purged: bool
) -> None:
    """Only calls that were asked for count, and only completed ones; the rest is told exactly."""
    horizon = MIDNIGHT + 2 * MS_PER_DAY
    store.write(lambda uow: uow.usage.advance_horizon("records", horizon))
    while is_purged and store.write(lambda uow: uow.usage.purge_records(20)):
        pass
    completed = [record for record in meant(told, which) if record.outcome == "completed"]
    is_kept = all(record.occurred_at >= horizon for record in completed)

    costs = store.read(lambda uow: uow.usage.costs(which, 1000))

    assert costs == (sorted(values_of(completed, "cost")) if is_kept else None)


def test_as_many_costs_as_asked_for_are_told(store: SqliteStore) -> None:
    """From among ten times as many records; one more of either is too many."""
    rows = [usage_row(AGENTS[0].id, f"call-{n}", cost_micros=n) for n in range(2)]
    rows += [usage_row(AGENTS[0].id, f"failed-{n}", outcome="failed", cost_micros=0) for n in range(18)]
    store.write(put_people)
    store.write(partial(put_records, rows))

    assert store.read(lambda uow: uow.usage.costs(UsageFilter(), 2)) == [0, 1]
    assert store.read(lambda uow: uow.usage.costs(UsageFilter(), 1)) is None
    store.write(partial(put_records, [usage_row(AGENTS[0].id, "more", outcome="failed", cost_micros=0)]))
    assert store.read(lambda uow: uow.usage.costs(UsageFilter(), 2)) is None


def test_other_calls_that_are_not_kept_are_not_in_the_way_of_costs(store: SqliteStore) -> None:
    """However many there were: nobody reads them."""
    old = [usage_row(AGENTS[0].id, f"old-{n}", model="m1", occurred_at=NOON - MS_PER_DAY) for n in range(30)]
    store.write(put_people)
    store.write(partial(put_records, [*old, usage_row(AGENTS[0].id, "new", model="m2", cost_micros=7)]))
    store.write(lambda uow: uow.usage.advance_horizon("records", MIDNIGHT))

    assert store.read(lambda uow: uow.usage.costs(UsageFilter(AGENTS[0].id, model="m2"), 2)) == [7]


@at_length
@given(which=usage_filters, by=dimensions)
def test_extremes_are_exact_as_long_as_nothing_is_corrected(
    store: SqliteStore, plain: Story, which: UsageFilter, by: list[UsageDimension]
) -> None:
    """Latest times of calls and of errors, highest and lowest costs of completed calls."""
    records = meant(plain, which)
    failed: dict[tuple[str, str], list[int]] = {}
    for record in records:
        if record.outcome == "failed":
            failed.setdefault((record.error_code or "unknown", record.provider), []).append(record.occurred_at)

    sums, errors = store.read(lambda uow: (uow.usage.sums(which, by), uow.usage.errors(which)))

    assert sums == recounted(records, by)
    assert errors == {key: ErrorSums(len(times), max(times)) for key, times in failed.items()}
    assert combined(list(sums.values())) == (sums_of(records) if records else UsageSums())


@pytest.mark.parametrize("is_at_once", [True, False])
@pytest.mark.parametrize("cost", [3, 900])
def test_extremes_only_widen(store: SqliteStore, cost: int, is_at_once: bool) -> None:
    """A corrected cost stays an extreme; a call that is gone from a cell leaves none where nothing completed."""
    before = usage_row(AGENTS[0].id, "call", cost_micros=100)
    changed = [before, before._replace(cost_micros=cost)]
    store.write(put_people)
    for records in [changed] if is_at_once else [[each] for each in changed]:
        store.write(partial(put_records, records))
    sums = store.read(lambda uow: uow.usage.sums(UsageFilter())[()])

    store.write(partial(put_records, [changed[1]._replace(outcome="failed", cost_micros=0)]))
    failed = store.read(lambda uow: uow.usage.sums(UsageFilter())[()])

    assert (sums.min_cost_micros, sums.max_cost_micros, sums.cost_micros) == (min(cost, 100), max(cost, 100), cost)
    assert failed == UsageSums(failed=1, unsplit_tokens=1, last_at=NOON)


def test_a_unit_reads_what_it_has_put(store: SqliteStore) -> None:
    """Before anything of it is stored for good, as often as it looks."""

    def put_and_read(uow: UnitOfWork) -> list[int]:
        seen = []
        for call_key in ("first", "second"):
            uow.usage.put(usage_row(AGENTS[0].id, call_key))
            seen.append(sum(sums.completed for sums in uow.usage.sums(UsageFilter()).values()))
        return seen

    store.write(put_people)

    assert store.write(put_and_read) == [1, 2]


def test_units_that_share_a_commit_are_counted_once_each(store: SqliteStore) -> None:
    """Those that are refused are not, and take none of the others along; nothing is left to be counted later."""

    def putting(call_key: str, *, is_refused: bool = False) -> Callable[[UnitOfWork], None]:
        def put(uow: UnitOfWork) -> None:
            uow.usage.put(usage_row(AGENTS[0].id, call_key))
            if is_refused:
                raise ConflictError("no")

        return put

    store.write(put_people)
    in_one_commit(store, putting("a"), putting("b"), putting("lost", is_refused=True), putting("c"))
    together = store.read(lambda uow: uow.usage.sums(UsageFilter())[()])

    store.write(putting("d"))

    assert together.completed == 3
    assert store.read(lambda uow: uow.usage.sums(UsageFilter())[()]).completed == 4


def test_purged_hours_are_gone_of_every_kind(store: SqliteStore, told: Story) -> None:
    """Sums, histograms and errors; days stay, and so do the histograms of an agent, which come from its records."""
    before = store.read(lambda uow: (uow.usage.bands(UsageFilter(), "cost"), uow.usage.errors(UsageFilter())))
    store.write(lambda uow: uow.usage.advance_horizon("hours", MIDNIGHT + 30 * MS_PER_DAY))
    while store.write(lambda uow: uow.usage.purge_hours(7)):
        pass
    hours = UsageFilter(since=MIDNIGHT + MS_PER_HOUR, until=MIDNIGHT + 23 * MS_PER_HOUR)

    of_agent = replace(hours, agent_id=AGENTS[0].id)
    assert store.read(partial(_all_of, hours)) == ({}, {}, {}, {})
    assert store.read(lambda uow: (uow.usage.sums(of_agent), uow.usage.errors(of_agent))) == ({}, {})
    assert store.read(lambda uow: uow.usage.bands(of_agent, "cost"))
    assert store.read(lambda uow: (uow.usage.bands(UsageFilter(), "cost"), uow.usage.errors(UsageFilter()))) == before
    assert told.records


def _all_of(which: UsageFilter, uow: UnitOfWork) -> tuple[object, ...]:
    return (
        uow.usage.sums(which),
        uow.usage.bands(which, "cost"),
        uow.usage.bands(which, "duration"),
        uow.usage.errors(which),
    )


def test_a_whole_day_stands_for_hours_of_an_agent_whose_records_are_gone(store: SqliteStore, told: Story) -> None:
    """A histogram by hour is not kept of agents; what is left is told, not nothing."""
    day = UsageFilter(AGENTS[0].id, since=MIDNIGHT, until=MIDNIGHT + MS_PER_DAY)
    of_day = store.read(lambda uow: uow.usage.bands(day, "cost"))
    store.write(lambda uow: uow.usage.advance_horizon("records", MIDNIGHT + MS_PER_DAY))
    part = replace(day, since=MIDNIGHT + MS_PER_HOUR)

    assert store.read(lambda uow: uow.usage.bands(part, "cost")) == of_day
    assert sum(of_day.values()) == sum(
        told_of.outcome == "completed"
        for told_of in told.records
        if told_of.agent_id == AGENTS[0].id and MIDNIGHT <= told_of.occurred_at < MIDNIGHT + MS_PER_DAY
    )


def test_hours_behind_the_horizon_of_the_records_are_told_exactly(store: SqliteStore, told: Story) -> None:
    """From its very midnight on they are counted from the records, though a whole day stands for the hours before."""
    horizon = MIDNIGHT + MS_PER_DAY
    until = horizon + 13 * MS_PER_HOUR
    store.write(lambda uow: uow.usage.advance_horizon("records", horizon))
    shown = meant(told, UsageFilter(AGENTS[0].id, since=MIDNIGHT, until=until))
    assert {record.occurred_at < horizon for record in shown} == {True, False}

    part = UsageFilter(AGENTS[0].id, since=MIDNIGHT + MS_PER_HOUR, until=until)
    bands = store.read(lambda uow: uow.usage.bands(part, "duration"))

    assert bands == Counter(step_of(value) // STEPS_PER_BAND for value in values_of(shown, "duration"))
