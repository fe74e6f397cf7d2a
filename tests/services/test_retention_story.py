"""What becomes of usage when its days are over: the calls are gone from sight, and nothing is counted twice or less."""

from functools import partial

import pytest

from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.usage import UsageSums
from ironcage_core.errors.money import RequestIdConflictError
from ironcage_core.ports.lists import Paging, TraceFilter, UsageFilter
from ironcage_core.services.usage_retention import forget_limit_windows, purge_usage
from tests.support.world import NOON, USD, TestAgent, World, usage

TODAY = NOON - NOON % MS_PER_DAY
OLDEST_KEPT = TODAY - 7 * MS_PER_DAY


def days_pass(world: World, days: int) -> None:
    world.clock.instant += days * MS_PER_DAY


def purge(world: World, *, record_days: int = 7, hour_days: int = 7, limit: int = 100) -> int:
    return world.store.write(partial(purge_usage, record_days=record_days, hour_days=hour_days, limit=limit))


def sums(world: World) -> dict[tuple[str, ...], UsageSums]:
    return dict(world.store.read(lambda uow: uow.usage.sums(UsageFilter(), by=("agent_id",))))


def traces(world: World) -> tuple[list[str], int]:
    """Return the call keys that a list of all traces shows, and how many it says there are."""
    page = world.store.read(lambda uow: uow.usage.page(TraceFilter(), Paging(1, 100)))
    return sorted(record.call_key for record in page.rows), page.total


@pytest.fixture
def agent(world: World) -> TestAgent:
    return world.agent(100 * USD)


@pytest.fixture
def lease_id(agent: TestAgent) -> str:
    """Return a lease with three reports, the last of them overspent, of which eight days have passed."""
    lease_id = agent.handshake(10 * USD).lease.id
    agent.report(lease_id, "r1", 2 * USD)
    agent.report(lease_id, "r2", USD, tokens=None, input_tokens=30, output_tokens=12)
    agent.report(lease_id, "r3", 9 * USD)
    days_pass(agent.world, 8)
    return lease_id


def test_a_retried_report_is_a_duplicate_for_ever(world: World, agent: TestAgent, lease_id: str) -> None:
    """With the answer it would have had: cost, overspend and lease, one by one and in a batch."""
    again = [
        usage(lease_id, "r1", 2 * USD),
        usage(lease_id, "r2", None, tokens=42),
        usage(lease_id, "r3", 9 * USD),
    ]
    before = [result.booked for result in agent.report_batch(again).results]
    entries = agent.entries()
    assert purge(world) == 3

    batch = agent.report_batch([*again, usage(lease_id, "r4", 5)])
    single = agent.report(lease_id, "r3", 9 * USD)

    assert [result.status for result in batch.results] == ["duplicate"] * 3 + ["accepted"]
    after = [result.booked for result in batch.results[:3]]
    assert [(each.cost, each.overspent, each.lease.id) for each in after if each] == [
        (each.cost, each.overspent, each.lease.id) for each in before if each
    ]
    assert (single.booked.duplicate, single.booked.cost, single.booked.overspent) == (True, 9 * USD, 2 * USD)
    assert single.booked.lease.id == lease_id
    assert len(agent.entries()) == len(entries) + 1
    assert world.verify().differences == []


@pytest.mark.parametrize(
    "change",
    [{"cost": 1}, {"tokens": 99}, {"model": "other"}, {"provider": "anthropic"}],
    ids=lambda change: next(iter(change)),
)
def test_other_content_is_a_conflict_for_ever(
    world: World, agent: TestAgent, lease_id: str, change: dict[str, object]
) -> None:
    """The call is gone from sight; what was reported of it is not forgotten."""
    purge(world)
    content: dict[str, object] = {"cost": 2 * USD, **change}

    with pytest.raises(RequestIdConflictError) as refused:
        agent.report(lease_id, "r1", **content)  # type: ignore[arg-type]  # as the test says
    batch = agent.report_batch([usage(lease_id, "r1", **content)])  # type: ignore[arg-type]  # as the test says

    assert refused.value.details == {"recorded_cost": 2 * USD}
    assert [result.status for result in batch.results] == ["conflict"]
    assert world.verify().differences == []


def test_a_purge_changes_no_total(world: World, agent: TestAgent, lease_id: str) -> None:
    """Neither sums nor balances nor what leases were charged; traces go, and their number with them."""
    other = world.agent(10 * USD, name="other")
    other.report(other.handshake(USD).lease.id, "r1", 7)
    before, balance = sums(world), agent.balance()
    assert traces(world) == (["r1", "r1", "r2", "r3"], 4)

    assert purge(world, limit=2) == 2

    assert traces(world) == (["r1"], 1), "the step was too small for all, but none of them is shown"
    assert purge(world, limit=2) == 1
    assert purge(world, limit=2) == 0
    assert (sums(world), agent.balance(), traces(world)) == (before, balance, (["r1"], 1))
    assert agent.lease(lease_id).total_spent == 12 * USD
    assert world.verify().differences == []


def test_each_kind_is_kept_for_whole_days(world: World, agent: TestAgent) -> None:
    """A call of the first instant of the oldest day is shown until the day after; hours have days of their own."""
    lease_id = agent.handshake(10 * USD).lease.id
    agent.report(lease_id, "before", 1, occurred_at=OLDEST_KEPT - 1)
    agent.report(lease_id, "first", 1, occurred_at=OLDEST_KEPT)

    assert purge(world, hour_days=2) == 2
    assert traces(world) == (["first"], 1)
    assert world.store.read(lambda uow: uow.usage.horizon("records")) == OLDEST_KEPT
    assert world.store.read(lambda uow: uow.usage.horizon("hours")) == TODAY - 2 * MS_PER_DAY
    days_pass(world, 1)
    assert purge(world, hour_days=2) == 1
    assert traces(world) == ([], 0)
    assert world.verify().differences == []


def test_a_longer_retention_brings_nothing_back(world: World, agent: TestAgent, lease_id: str) -> None:
    """The horizon stays, and moves on when the longer time has passed."""
    purge(world)
    horizon = world.store.read(lambda uow: uow.usage.horizon("records"))

    purge(world, record_days=90, hour_days=90)

    assert world.store.read(lambda uow: uow.usage.horizon("records")) == horizon
    assert agent.report(lease_id, "r1", 2 * USD).booked.duplicate
    days_pass(world, 90)
    purge(world, record_days=90)
    assert world.store.read(lambda uow: uow.usage.horizon("records")) == horizon + 7 * MS_PER_DAY


def test_a_late_report_of_a_time_before_the_horizon_counts_once(world: World, agent: TestAgent, lease_id: str) -> None:
    """It is booked and in the totals, is no trace, goes with the next purge; its retry is a duplicate all along."""
    purge(world)
    before = sums(world)[agent.id,]
    late = partial(agent.report, lease_id, "late", 3, occurred_at=NOON - 30 * MS_PER_DAY)

    assert not late().booked.duplicate

    after = sums(world)[agent.id,]
    assert (after.calls, after.cost_micros) == (before.calls + 1, before.cost_micros + 3)
    assert traces(world) == ([], 0)
    assert late().booked.duplicate
    assert world.verify().differences == []
    assert purge(world) == 1
    assert late().booked.duplicate
    assert sums(world)[agent.id,] == after
    assert world.verify().differences == [], "the tokens of today count calls that were purged today"
    assert purge(world) == 0


def test_counts_against_limits_outlive_their_window(world: World, agent: TestAgent) -> None:
    """Tokens for two days and requests for an hour, however often somebody tidies up."""
    agent.report(agent.handshake(USD).lease.id, "r", 1, tokens=50)

    def tidy(seconds: float) -> tuple[int, int]:
        world.clock.pass_s(seconds)
        while world.store.write(partial(forget_limit_windows, limit=1)):
            pass
        return world.store.read(
            lambda uow: (
                uow.limit_windows.tokens(world.owner_id, None, NOON),
                uow.limit_windows.requests(world.owner_id, None, NOON),
            )
        )

    assert tidy(0) == (50, 2)
    assert tidy(3600) == (50, 2)
    assert tidy(60) == (50, 0)
    assert tidy(2 * 86_400 - 3660) == (50, 0)
    assert tidy(86_400) == (0, 0)
