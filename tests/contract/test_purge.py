"""A purge takes records and hours away in small steps; the calls and the sums stay."""

from functools import partial
from typing import Final

import pytest

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from ironcage_core.domain.usage import KeptCall, UsageRecord
from ironcage_core.ports.lists import Page, Paging, TraceFilter, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import ReceivedTokens
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import agent_row, lease_row, put_agent, usage_row
from tests.support.stores import UseCase, in_one_commit, raising, raw
from tests.support.world import NOON

AGENT: Final = "agent_" + "a" * 32
TODAY: Final = NOON - NOON % MS_PER_DAY
"""The horizon of these tests."""


def old(call_key: str, **fields: object) -> UsageRecord:
    """Return a record of the last hour before the horizon."""
    return usage_row(AGENT, call_key, occurred_at=TODAY - 1, **fields)


def new(call_key: str) -> UsageRecord:
    """Return a record of the first instant that is kept."""
    return usage_row(AGENT, call_key, occurred_at=TODAY)


def putting(*records: UsageRecord) -> UseCase:
    def run(uow: UnitOfWork) -> None:
        for record in records:
            uow.usage.put(record)

    return run


def advance(uow: UnitOfWork) -> None:
    uow.usage.advance_horizon("records", TODAY)
    uow.usage.advance_horizon("hours", TODAY)


def purge(uow: UnitOfWork, limit: int = 100) -> int:
    return uow.usage.purge_records(limit)


def advance_and_purge(uow: UnitOfWork) -> int:
    advance(uow)
    return purge(uow)


def shown(store: SqliteStore) -> Page[UsageRecord]:
    return store.read(lambda uow: uow.usage.page(TraceFilter(), Paging(1, 100)))


def keys_in(store: SqliteStore, table: str) -> list[str]:
    """Return the call keys of a table, and see that each stands in it once."""
    return [key for (key,) in raw(store, f"SELECT call_key FROM {table} ORDER BY call_key")]


def calls(store: SqliteStore) -> int:
    """Return how many calls the sums count of all time."""
    return store.read(lambda uow: sum(sums.calls for sums in uow.usage.sums(UsageFilter()).values()))


@pytest.fixture
def usage(store: SqliteStore) -> SqliteStore:
    """Return a store with the agent whose calls these are."""
    store.write(lambda uow: uow.agents.put(agent_row(put_agent(uow).owner_id, id=AGENT)))
    return store


def test_what_lies_before_the_horizon_is_out_of_sight_at_once(usage: SqliteStore) -> None:
    """Neither shown nor counted, found by no id, though no purge has come by; the first instant after it is."""
    gone, kept = old("gone"), new("kept")
    usage.write(putting(gone, kept))
    assert shown(usage).total == 2

    usage.write(advance)

    assert shown(usage) == Page([kept], 1)
    assert usage.read(lambda uow: [uow.usage.find_trace(record.id) for record in (gone, kept)]) == [None, kept]
    assert usage.read(lambda uow: uow.usage.find(AGENT, "gone")) == gone
    assert calls(usage) == 2


def test_a_purge_takes_at_most_so_many_and_keeps_their_calls(usage: SqliteStore) -> None:
    """The oldest first, each once; what is not too old stays."""
    usage.write(putting(*[old(f"o{n}") for n in range(5)], new("n")))
    usage.write(advance)

    steps = [usage.write(partial(purge, limit=2)) for _ in range(4)]

    assert steps == [2, 2, 1, 0]
    assert keys_in(usage, "usage_records") == ["n"]
    assert keys_in(usage, "kept_calls") == [f"o{n}" for n in range(5)]
    assert calls(usage) == 6
    assert usage.check_file() == []


def test_without_a_horizon_nothing_is_purged(usage: SqliteStore) -> None:
    """Whoever never set one keeps all, and pays nothing to look for kept calls."""
    usage.write(putting(old("o")))

    assert usage.write(purge) == 0
    assert usage.read(lambda uow: (uow.usage.horizon("records"), uow.usage.find_kept(AGENT, "o"))) == (0, None)


def test_a_kept_call_says_what_was_booked_for_it(usage: SqliteStore) -> None:
    """Its tokens as one number, its event and lease, what it cost and how much of that was overspent."""
    record = old(
        "o", event_id="evt_1", lease_id="lease_1", input_tokens=3, output_tokens=4, unsplit_tokens=5, cost_micros=9,
        report_cost_micros=8, overspent_micros=7, model="m", provider="anthropic",
    )  # fmt: skip
    usage.write(putting(record))
    usage.write(advance)
    usage.write(purge)

    found = usage.read(lambda uow: (uow.usage.find(AGENT, "o"), uow.usage.find_kept(AGENT, "o")))

    booked = ("m", "anthropic", 12, 9, 8, 7)
    assert found == (None, KeptCall(AGENT, "o", "evt_1", "lease_1", *booked, "o", "completed", TODAY - 1, 12))


def test_kept_calls_are_expected_together_with_records(usage: SqliteStore) -> None:
    """A batch that holds both kinds finds both, and neither in the other's place."""
    usage.write(putting(old("o"), new("n")))
    usage.write(advance)
    usage.write(purge)

    def look(uow: UnitOfWork) -> list[tuple[bool, bool]]:
        keys = ["o", "n", "?"]
        uow.usage.expect(AGENT, keys)
        return [(uow.usage.find(AGENT, key) is not None, uow.usage.find_kept(AGENT, key) is not None) for key in keys]

    assert usage.read(look) == [(False, True), (True, False), (False, False)]


def test_a_purge_loses_nothing_that_its_own_unit_put(usage: SqliteStore) -> None:
    """Old and new rows that wait to be written, and their sums, are there afterwards."""
    usage.write(putting(old("o1")))

    def run(uow: UnitOfWork) -> list[bool]:
        putting(old("o2"), new("n1"))(uow)
        advance(uow)
        purge(uow)
        putting(new("n2"))(uow)
        return [uow.usage.find(AGENT, key) is not None for key in ("o1", "o2", "n1", "n2")]

    assert usage.write(run) == [False, False, True, True]
    assert keys_in(usage, "usage_records") == ["n1", "n2"]
    assert keys_in(usage, "kept_calls") == ["o1", "o2"]
    assert calls(usage) == 4


def test_a_call_that_was_not_kept_yet_is_found_after_its_purge(usage: SqliteStore) -> None:
    """A late report looks for its call, is put and purged, and comes again, all in one commit."""
    usage.write(advance)

    outcomes = in_one_commit(
        usage,
        lambda uow: uow.usage.find_kept(AGENT, "o") is not None,
        putting(old("o")),
        purge,
        lambda uow: uow.usage.find_kept(AGENT, "o") is not None,
    )

    assert [outcome.answer for outcome in outcomes] == [False, None, 1, True]


def test_a_purge_does_not_disturb_its_batch(usage: SqliteStore) -> None:
    """What came before and after it in one commit is durable; a purge that raises takes nothing away."""
    usage.write(putting(old("o1")))

    outcomes = in_one_commit(
        usage,
        putting(old("o2"), new("n1")),
        raising(lambda uow: (advance_and_purge(uow), putting(new("lost"))(uow))),
        lambda uow: uow.usage.find(AGENT, "o1") is not None,
        advance_and_purge,
        putting(old("o3"), new("n2")),
        raising(putting(new("lost too"))),
        purge,
        lambda uow: [uow.usage.find_kept(AGENT, key) is not None for key in ("o1", "o2", "o3", "n1")],
    )

    assert [outcome.answer for outcome in outcomes][2:4] == [True, 2]
    assert [outcome.answer for outcome in outcomes][-2:] == [1, [True, True, True, False]]
    assert keys_in(usage, "usage_records") == ["n1", "n2"]
    assert keys_in(usage, "kept_calls") == ["o1", "o2", "o3"]
    assert calls(usage) == 5


def test_the_horizon_never_goes_back(usage: SqliteStore) -> None:
    """A longer retention brings nothing back; each kind has its own."""
    usage.write(lambda uow: uow.usage.advance_horizon("records", TODAY))
    usage.write(lambda uow: uow.usage.advance_horizon("records", TODAY - 5 * MS_PER_DAY))

    assert usage.read(lambda uow: (uow.usage.horizon("records"), uow.usage.horizon("hours"))) == (TODAY, 0)


def test_hours_go_in_steps_and_days_stay(usage: SqliteStore) -> None:
    """From both tables of hours; what is asked of the hours that are kept is still answered."""
    hours = [usage_row(AGENT, f"h{n}", occurred_at=TODAY + n * MS_PER_HOUR) for n in range(-5, 2)]
    usage.write(putting(*hours))
    usage.write(advance)

    steps = [usage.write(lambda uow: uow.usage.purge_hours(2)) for _ in range(4)]

    assert steps == [2, 2, 1, 0]
    assert raw(usage, "SELECT count(*), min(bucket) FROM usage_hours") == [(2, TODAY // MS_PER_HOUR)]
    assert raw(usage, "SELECT count(*), min(bucket) FROM usage_wide_hours") == [(2, TODAY // MS_PER_HOUR)]
    assert calls(usage) == 7
    first_hour = UsageFilter(since=TODAY, until=TODAY + MS_PER_HOUR)
    assert usage.read(lambda uow: [sums.calls for sums in uow.usage.sums(first_hour).values()]) == [1]


def test_a_purge_of_hours_loses_nothing_that_its_own_unit_put(usage: SqliteStore) -> None:
    """Hours that wait to be written are purged or written, as they are old or new."""

    def run(uow: UnitOfWork) -> int:
        putting(old("o"), new("n"))(uow)
        advance(uow)
        return uow.usage.purge_hours(10)

    assert usage.write(run) == 1
    assert raw(usage, "SELECT bucket, completed FROM usage_hours") == [(TODAY // MS_PER_HOUR, 1)]
    assert calls(usage) == 2


def test_a_purged_call_may_be_of_today_once_its_lease_was_charged_today(usage: SqliteStore) -> None:
    """As soon as the unit says so that charges it."""
    lease = lease_row(AGENT, last_activity_at=TODAY - 1)
    usage.write(lambda uow: uow.leases.put(lease))
    usage.write(putting(old("o", lease_id=lease.id)))
    usage.write(advance_and_purge)

    def charge(uow: UnitOfWork) -> list[object]:
        before = uow.usage.received(TODAY, TODAY + MS_PER_DAY)
        uow.leases.put(lease._replace(last_activity_at=TODAY))
        return [before, uow.usage.received(TODAY, TODAY + MS_PER_DAY)]

    told = usage.write(charge)

    assert told == [{}, {("bank", "proj"): ReceivedTokens(0, 1)}]


def test_counts_against_limits_go_when_their_day_or_minute_is_over(store: SqliteStore) -> None:
    """Those of tokens by days and those of requests by minutes, in steps, each with its own end."""

    def count(uow: UnitOfWork) -> None:
        for at in (NOON - 2 * MS_PER_DAY, NOON - MS_PER_DAY, NOON - MS_PER_MINUTE, NOON):
            uow.limit_windows.add("ann", "proj", at, tokens=10, requests=1)

    def forget(uow: UnitOfWork) -> int:
        return uow.limit_windows.forget(tokens_before=NOON - MS_PER_DAY, requests_before=NOON, limit=2)

    store.write(count)
    steps = [store.write(forget) for _ in range(4)]

    assert steps == [2, 2, 2, 0]
    days = [NOON - 2 * MS_PER_DAY, NOON - MS_PER_DAY, NOON]
    assert store.read(lambda uow: [uow.limit_windows.tokens("ann", "proj", day) for day in days]) == [0, 10, 20]
    minutes = [NOON - MS_PER_DAY, NOON - MS_PER_MINUTE, NOON]
    assert store.read(lambda uow: [uow.limit_windows.requests("ann", None, at) for at in minutes]) == [0, 0, 1]
    assert store.read(lambda uow: uow.limit_windows.all_tokens(NOON)) == {("ann", None): 20, ("ann", "proj"): 20}
