"""Usage: sums and pages of records are what a walk through all records finds, corrections included."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR
from ironcage_core.domain.usage import UsageRecord, UsageSums
from ironcage_core.ports.lists import Page, Paging, TraceFilter, UsageDimension, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, usage_row, user_row
from tests.support.world import NOON

MIDNIGHT = NOON // MS_PER_DAY * MS_PER_DAY
DAYS = 4
OWNERS = [user_row(f"caller {n}") for n in range(2)]
AGENTS = [agent_row(OWNERS[n % 2].id) for n in range(4)]
OWNER_OF = {agent.id: agent.owner_id for agent in AGENTS}
PROJECTS, PROVIDERS, MODELS = ("p1", "p2"), ("openai", "anthropic"), ("m1", "m2")
KEYS = (None, "prov_a", "prov_b")
LEASES = (None, "lease_a", "lease_b")
EDGES = [MIDNIGHT + half * MS_PER_DAY // 2 + ms for half in range(2 * DAYS + 1) for ms in (-1, 0, 1)]
HOURS = [MIDNIGHT + hour * MS_PER_HOUR for hour in range(-25, 24 * DAYS + 26)]


def any_content(dice: random.Random) -> dict[str, Any]:
    """Return what a record may say, and a correction may say otherwise."""
    span = DAYS * MS_PER_DAY
    return {
        "occurred_at": dice.choice(EDGES) if dice.random() < 0.6 else MIDNIGHT + dice.randrange(span),
        "owner_id": dice.choice(OWNERS).id,
        "project_id": dice.choice(PROJECTS),
        "provider": dice.choice(PROVIDERS),
        "provider_id": dice.choice(KEYS),
        "model": dice.choice(MODELS),
        "lease_id": dice.choice(LEASES),
        "outcome": dice.choice(("completed", "completed", "failed")),
        "input_tokens": dice.randrange(9),
        "output_tokens": dice.randrange(9),
        "unsplit_tokens": dice.randrange(9),
        "cost_micros": dice.randrange(1000),
        "duration_ms": dice.choice((None, 0, 7)),
    }


class Story:
    """Records and their corrections, as they are put one after the other, and what stands at the end."""

    def __init__(self, seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311 - a fixed set of rows, no secret
        self.puts: list[UsageRecord] = []
        latest: dict[tuple[str, str], UsageRecord] = {}
        for number in range(140):
            agent = dice.choice(AGENTS[:3])
            record = usage_row(agent.id, f"call-{number % 70}-{agent.id[-1]}", **any_content(dice))
            known = latest.get((record.agent_id, record.call_key))
            if known is not None:
                record = known._replace(**any_content(dice))
            latest[record.agent_id, record.call_key] = record
            self.puts.append(record)
            if dice.random() < 0.1:  # a correction at once, in the same unit of work as likely as not
                latest[record.agent_id, record.call_key] = record._replace(cost_micros=3, outcome="failed")
                self.puts.append(latest[record.agent_id, record.call_key])
        self.records = list(latest.values())

    def tell(self, store: SqliteStore) -> None:
        """Put everything, eleven records in a unit of work; does nothing the second time."""
        if store.read(lambda uow: uow.users.find(OWNERS[0].id)) is not None:
            return
        store.write(_put_people)
        for start in range(0, len(self.puts), 11):
            store.write(partial(_put_records, self.puts[start : start + 11]))


@lru_cache
def story(seed: int) -> Story:
    return Story(seed)


def _put_people(uow: UnitOfWork) -> None:
    for owner in OWNERS:
        uow.users.put(owner)
    for agent in AGENTS:
        uow.agents.put(agent)


def _put_records(records: Sequence[UsageRecord], uow: UnitOfWork) -> None:
    for record in records:
        uow.usage.put(record)


def is_among(record: UsageRecord, which: UsageFilter | TraceFilter) -> bool:
    """Tell, without any database, whether a filter means this record."""
    told = {
        **record._asdict(),
        "owner_id": OWNER_OF[record.agent_id],
        "provider_id": record.provider_id or "",
    }
    same = (name for name in which.__dataclass_fields__ if name not in {"since", "until"})
    return (
        all(getattr(which, name) in {None, told[name]} for name in same)
        and (which.since is None or record.occurred_at >= which.since)
        and (which.until is None or record.occurred_at < which.until)
    )


def recounted(records: Sequence[UsageRecord], by: Sequence[UsageDimension]) -> dict[tuple[str, ...], UsageSums]:
    """Return sums, made by walking through the records."""
    groups: dict[tuple[str, ...], list[UsageRecord]] = {}
    for record in records:
        groups.setdefault(tuple(getattr(record, name) or "" for name in by), []).append(record)
    return {key: _sums_of(group) for key, group in groups.items()}


def _sums_of(records: Sequence[UsageRecord]) -> UsageSums:
    timed = [record.duration_ms for record in records if record.duration_ms is not None]
    completed = sum(record.outcome == "completed" for record in records)
    return UsageSums(
        completed=completed,
        failed=len(records) - completed,
        input_tokens=sum(record.input_tokens for record in records),
        output_tokens=sum(record.output_tokens for record in records),
        unsplit_tokens=sum(record.unsplit_tokens for record in records),
        cost_micros=sum(record.cost_micros for record in records),
        timed=len(timed),
        duration_ms=sum(timed),
        last_at=max(record.occurred_at for record in records),
    )


agent_ids = st.none() | st.sampled_from([agent.id for agent in AGENTS])
owner_ids = st.none() | st.sampled_from([owner.id for owner in OWNERS])
projects = st.none() | st.sampled_from((*PROJECTS, "p3"))
providers = st.none() | st.sampled_from(PROVIDERS)
models = st.none() | st.sampled_from(MODELS)
hours = st.none() | st.sampled_from(HOURS)
instants = st.none() | st.sampled_from(EDGES) | st.integers(MIDNIGHT - MS_PER_DAY, MIDNIGHT + (DAYS + 1) * MS_PER_DAY)
usage_filters = st.builds(
    UsageFilter,
    agent_id=agent_ids,
    owner_id=owner_ids,
    project_id=projects,
    provider=providers,
    provider_id=st.none() | st.sampled_from(("prov_a", "prov_b", "")),
    model=models,
    since=hours,
    until=hours,
)
trace_filters = st.builds(
    TraceFilter,
    agent_id=agent_ids,
    owner_id=owner_ids,
    project_id=projects,
    provider=providers,
    model=models,
    outcome=st.none() | st.sampled_from(("completed", "failed")),
    call_key=st.none() | st.none() | st.none() | st.sampled_from([each.call_key for each in story(1).records[:5]]),
    lease_id=st.none() | st.none() | st.sampled_from(LEASES),
    since=instants,
    until=instants,
)
dimensions = st.lists(
    st.sampled_from(("agent_id", "project_id", "provider", "provider_id", "model")), unique=True, max_size=3
)
pagings = st.builds(Paging, st.integers(1, 4), st.integers(1, 40))
at_length = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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
    """Whatever is asked for, however the records were corrected; the latest time may only be too late."""
    expected = recounted([record for record in told.records if is_among(record, which)], by)

    sums = store.read(lambda uow: uow.usage.sums(which, by))

    assert {key: each._replace(last_at=0) for key, each in sums.items()} == {
        key: each._replace(last_at=0) for key, each in expected.items()
    }
    assert all(sums[key].last_at >= each.last_at for key, each in expected.items())


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
        return [{key: each._replace(last_at=0) for key, each in one.items()} for one in sums], page

    def put_both(uow: UnitOfWork) -> object:
        uow.usage.put(before)
        uow.usage.put(after)
        return seen(uow)

    store.write(_put_people)
    steps: list[Callable[[UnitOfWork], object]] = (
        [put_both] if is_at_once else [partial(_put_records, [before]), partial(_put_records, [after])]
    )
    inside = [store.write(step) for step in steps][-1]

    outside = store.read(seen)

    expected = {(after.provider_id or "",): _sums_of([after])._replace(last_at=0)}
    assert outside == ([expected] * 4, Page([after], 1))
    assert inside in (outside, None)


def test_the_latest_call_is_exact_as_long_as_none_was_moved(store: SqliteStore) -> None:
    """The latest of all cells of a group, not of the first."""
    store.write(_put_people)
    times = [NOON - MS_PER_DAY, NOON + 5, NOON, NOON + 4]
    store.write(partial(_put_records, [usage_row(AGENTS[0].id, str(at), occurred_at=at) for at in times]))

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
        raise KeyError

    store.write(_put_people)
    with pytest.raises(KeyError):
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
        assert sums[()]._replace(last_at=0) == expected[()]._replace(last_at=0)


def _sums(which: UsageFilter, uow: UnitOfWork) -> Any:  # noqa: ANN401 - a mapping, as the port says
    return uow.usage.sums(which)
