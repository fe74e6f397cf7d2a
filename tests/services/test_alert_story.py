"""Alerts: a budget or a month that is used up to a level is told once, and again only after it was below."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from ironcage_core.domain.alerts import DEFAULT_LEVELS, crossed, level_of, lowered, severity_of
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.allocations import set_allocation
from ironcage_core.services.expiry import sweep
from ironcage_core.services.leasing import revoke_leases
from ironcage_core.services.usage_limits import create_limit, delete_limit
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.pending import tell_of_call
from tests.support.stores import in_one_commit, raising
from tests.support.world import ADMIN, USD, SetClock, TestAgent, World, usage


class Alert(NamedTuple):
    """What a test looks at of an alert."""

    scope: object
    threshold: object
    crossed: object
    percentage: object
    severity: object


def alerts(world: World) -> list[Alert]:
    """Return all alerts since the last look, oldest first."""
    seen = getattr(world, "seen", 0)
    events = world.store.read(lambda uow: list(uow.feed.after(seen, 10_000)))
    world.seen = max((event.seq or 0 for event in events), default=seen)  # type: ignore[attr-defined]  # of this module
    return [
        Alert(data["scope"], data["threshold"], data["crossed"], data["percentage"], event.severity)
        for event, data in ((each, each.data) for each in events)
        if event.type == "COST_ALERT"
    ]


def allocate(world: World, agent: TestAgent, amount: int, **rules: Any) -> None:  # noqa: ANN401 - as the use case takes them
    world.store.write(lambda uow: set_allocation(uow, agent.id, amount, actor=ADMIN, **rules))


def spend(agent: TestAgent, *costs: int) -> None:
    """Report calls, each with a lease of its own."""
    for cost in costs:
        lease = agent.handshake(1).lease.id
        agent.report(lease, lease, cost)


# --- levels -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "limit", "level"),
    [
        (0, 100, 0),
        (49, 100, 0),
        (50, 100, 50),
        (79_999_999, 100_000_000, 50),
        (80_000_000, 100_000_000, 80),
        (99, 100, 90),
        (100, 100, 100),
        (10**6, 100, 100),
        (0, 0, 0),
        (1, 0, 100),
        (2, 3, 50),
    ],
)
def test_a_level_is_reached_at_its_exact_share(used: int, limit: int, level: int) -> None:
    """In integers; of nothing anything is too much, and nothing used is no level."""
    assert level_of(used, limit, DEFAULT_LEVELS) == level


def test_no_levels_are_never_reached() -> None:
    """An empty list tells nothing."""
    assert (level_of(100, 100, ()), crossed(0, 100, ())) == (0, [])


@pytest.mark.parametrize(
    ("level", "severity"),
    [(1, "info"), (79, "info"), (80, "warning"), (99, "warning"), (100, "critical"), (1000, "critical")],
)
def test_the_severity_follows_from_the_level(level: int, severity: str) -> None:
    """Of levels of one's own as of the built-in ones."""
    assert severity_of(level) == severity


# --- of an agent ------------------------------------------------------------


def test_each_level_is_told_once_on_the_way_up(world: World) -> None:
    """With the share that is used, rounded down, and how urgent it is."""
    agent = world.agent()
    lease = agent.handshake(100 * USD).lease.id
    for name, cost in enumerate((49_999_999, 1, 29_999_999, 1, 10_500_000, 9_499_999, 1, 5 * USD)):
        agent.report(lease, str(name), cost)

    assert alerts(world) == [
        Alert("agent", 50, [50], 50, "info"),
        Alert("agent", 80, [80], 80, "warning"),
        Alert("agent", 90, [90], 90, "warning"),
        Alert("agent", 100, [100], 100, "critical"),
    ]


def test_an_alert_names_the_numbers_behind_it(world: World) -> None:
    """Of the agent whose budget it is, as money inside."""
    agent = world.agent()
    agent.report(agent.handshake(1).lease.id, "r1", 106_999_999)

    (event,) = [each for each in world.store.read(lambda uow: uow.feed.after(0, 99)) if each.type == "COST_ALERT"]

    assert (event.agent_id, event.name, event.severity) == (agent.id, None, "critical")
    assert event.data == {
        "scope": "agent",
        "threshold": 100,
        "crossed": [50, 80, 90, 100],
        "percentage": 106,
        "budget_spent_micros": 106_999_999,
        "budget_limit_micros": 100 * USD,
        "budget_remaining_micros": -6_999_999,
        "pending_spend_micros": 0,
    }


def test_several_levels_at_once_are_one_alert(world: World) -> None:
    """For the highest, with all of them named; those below are not told later."""
    agent = world.agent()
    spend(agent, 85 * USD, 1)

    assert alerts(world) == [Alert("agent", 80, [50, 80], 85, "warning")]


def test_a_batch_tells_once(world: World) -> None:
    """One unit of work, though its items cross one level each."""
    agent = world.agent()
    lease = agent.handshake(100 * USD).lease.id

    agent.report_batch([usage(lease, str(name), 30 * USD) for name in range(3)])

    assert alerts(world) == [Alert("agent", 90, [50, 80, 90], 90, "warning")]


def test_calls_that_share_a_commit_tell_each_for_itself(world: World) -> None:
    """They are units of their own."""
    first, second = world.agent(), world.agent(name="second")
    leases = [each.handshake(100 * USD).lease.id for each in (first, second)]

    def reporting(agent: TestAgent, lease: str, name: str) -> Callable[[UnitOfWork], object]:
        caught: list[Callable[[UnitOfWork], object]] = []
        world_store = world.store
        agent.world.store = _Catcher(caught)  # type: ignore[assignment]  # stands in for one call
        agent.report(lease, name, 60 * USD)
        agent.world.store = world_store
        return caught[0]

    calls = [reporting(agent, lease, "r1") for agent, lease in zip((first, second), leases, strict=True)]
    in_one_commit(world.store, *calls)

    assert alerts(world) == [Alert("agent", 50, [50], 60, "info")] * 2


class _Catcher:
    """A store that keeps use cases instead of running them."""

    def __init__(self, caught: list[Callable[[UnitOfWork], object]]) -> None:
        self._caught = caught

    def write(self, use_case: Callable[[UnitOfWork], object]) -> None:
        self._caught.append(use_case)


def test_a_retry_tells_nothing(world: World) -> None:
    """Neither alone nor in a batch, not even after the cap of the month fell below what was spent."""
    agent = world.agent()
    lease = agent.handshake(100 * USD).lease.id
    agent.report(lease, "r1", 60 * USD)
    alerts(world)
    world.cap(61 * USD)

    agent.report(lease, "r1", 60 * USD)
    agent.report_batch([usage(lease, "r1", 60 * USD)] * 2)

    assert alerts(world) == []


def test_a_report_that_is_refused_tells_nothing(world: World) -> None:
    """What is rolled back is not published, and the level stays untold."""
    agent = world.agent()
    lease = agent.handshake(100 * USD).lease.id
    use_case = raising(lambda uow: set_allocation(uow, agent.id, 10 * USD, actor=ADMIN, force=True))
    agent.report(lease, "r1", 9 * USD)
    in_one_commit(world.store, use_case)

    assert (alerts(world), agent.balance().alert_level) == ([], 0)


def test_what_a_return_reconciles_is_told_once(world: World) -> None:
    """Its late reports are the settling of the same money."""
    agent = world.agent()
    lease = agent.handshake(100 * USD).lease.id

    agent.return_lease(lease, 55 * USD)
    assert alerts(world) == [Alert("agent", 50, [50], 55, "info")]

    agent.report(lease, "late", 55 * USD)
    assert alerts(world) == []


def test_a_return_of_nothing_new_tells_nothing(world: World) -> None:
    """No money was spent by it."""
    agent = world.agent()
    lease = agent.handshake(100 * USD).lease.id
    agent.report(lease, "r1", 55 * USD)
    world.cap(60 * USD)
    alerts(world)

    agent.return_lease(lease, 55 * USD)

    assert alerts(world) == []


def test_a_larger_budget_lets_levels_be_told_again(world: World) -> None:
    """The level falls in silence, and rises with the next report."""
    agent = world.agent()
    spend(agent, 95 * USD)
    assert [each.threshold for each in alerts(world)] == [90]

    allocate(world, agent, 200 * USD)
    assert (alerts(world), agent.balance().alert_level) == ([], 0)

    spend(agent, 5 * USD)
    assert alerts(world) == [Alert("agent", 50, [50], 50, "info")]


def test_a_smaller_budget_tells_what_it_has_crossed(world: World) -> None:
    """In the unit of work that set it."""
    agent = world.agent()
    spend(agent, 40 * USD)

    allocate(world, agent, 50 * USD, force=True)

    assert alerts(world) == [Alert("agent", 80, [50, 80], 80, "warning")]


def test_money_that_is_only_lent_is_no_level(world: World) -> None:
    """A grant, its refresh and its expiry tell nothing."""
    agent = world.agent()
    lease = agent.handshake(90 * USD).lease.id
    agent.refresh(lease, 10 * USD)
    world.clock.pass_s(7200)
    agent.handshake(100 * USD)

    assert alerts(world) == []


def test_levels_may_be_others(world: World) -> None:
    """As the operator has set them, above 100 percent as well; those told before the change fall in silence."""
    world.policy = replace(world.policy, alert_levels=(10, 150))
    agent = world.agent()
    lease = agent.handshake(90 * USD).lease.id
    for name, cost in enumerate((10 * USD, 139 * USD, USD)):
        agent.report(lease, str(name), cost)
    assert [(each.threshold, each.severity) for each in alerts(world)] == [(10, "info"), (150, "critical")]

    world.policy = replace(world.policy, alert_levels=DEFAULT_LEVELS)
    allocate(world, agent, 151 * USD)
    assert (alerts(world), agent.balance().alert_level) == ([], 90)


def test_levels_of_a_changed_budget_are_the_callers(world: World) -> None:
    """Not the built-in ones."""
    agent = world.agent()
    spend(agent, 40 * USD)

    allocate(world, agent, 99 * USD, force=True, levels=(33, 41))

    assert alerts(world) == [Alert("agent", 33, [33], 40, "info")]


def test_levels_are_of_one_agent_alone(world: World) -> None:
    """Another agent's spend does not count."""
    first, second = world.agent(), world.agent(name="second")
    spend(first, 49 * USD)
    spend(second, 49 * USD)

    assert alerts(world) == []


# --- what is pending --------------------------------------------------------


def test_a_call_that_only_an_event_tells_of_counts(world: World) -> None:
    """Beside what is booked; the alert names both."""
    agent = world.agent()
    lease = agent.handshake(40 * USD).lease.id
    agent.report(lease, "r1", 30 * USD)
    tell_of_call(agent, lease, "c1", 19_999_999)
    assert alerts(world) == []

    tell_of_call(agent, lease, "c2", 62 * USD + 1)

    event = world.store.read(lambda uow: list(uow.feed.after(0, 99)))[-1]
    assert (event.type, event.agent_id, event.severity) == ("COST_ALERT", agent.id, "critical")
    assert event.data == {
        "scope": "agent",
        "threshold": 100,
        "crossed": [50, 80, 90, 100],
        "percentage": 112,
        "budget_spent_micros": 30 * USD,
        "budget_limit_micros": 100 * USD,
        "budget_remaining_micros": 70 * USD,
        "pending_spend_micros": 82 * USD,
    }


@pytest.mark.parametrize(("cost", "told"), [(60 * USD, []), (55 * USD, []), (85 * USD, [(80, [80])])])
def test_the_report_of_a_told_call_tells_only_what_is_more(
    world: World, cost: int, told: list[tuple[int, list[int]]]
) -> None:
    """The same money crosses no level twice."""
    agent = world.agent()
    lease = agent.handshake(90 * USD).lease.id
    tell_of_call(agent, lease, "c1", 60 * USD)
    assert [each.threshold for each in alerts(world)] == [50]

    agent.report(lease, "c1", cost)

    assert [(each.threshold, each.crossed) for each in alerts(world)] == told


def test_a_report_of_less_than_was_told_re_arms_the_level(world: World) -> None:
    """In silence."""
    agent = world.agent()
    lease = agent.handshake(90 * USD).lease.id
    tell_of_call(agent, lease, "c1", 60 * USD)
    agent.report(lease, "c1", 40 * USD)
    assert [each.threshold for each in alerts(world)] == [50]

    agent.report(lease, "r1", 10 * USD)

    assert alerts(world) == [Alert("agent", 50, [50], 50, "info")]


def test_a_return_that_books_what_was_pending_tells_nothing(world: World) -> None:
    """Neither does the late report of the same call."""
    agent = world.agent()
    lease = agent.handshake(90 * USD).lease.id
    tell_of_call(agent, lease, "c1", 60 * USD)
    alerts(world)

    agent.return_lease(lease, 60 * USD)
    assert (agent.balance().spent, alerts(world)) == (60 * USD, [])

    agent.report(lease, "c1", 60 * USD)
    assert alerts(world) == []


def test_a_return_that_books_more_than_was_pending_tells_the_rest(world: World) -> None:
    """Only levels that were not told."""
    agent = world.agent()
    lease = agent.handshake(95 * USD).lease.id
    tell_of_call(agent, lease, "c1", 60 * USD)
    alerts(world)

    agent.return_lease(lease, 92 * USD)

    assert alerts(world) == [Alert("agent", 90, [80, 90], 92, "warning")]


@pytest.mark.parametrize("end", ["return", "return of less", "time", "revocation"])
def test_a_level_that_was_only_pending_is_told_again_behind_the_end_of_its_lease(world: World, end: str) -> None:
    """It falls in silence with what was pending."""
    agent = world.agent()
    lease, other = agent.handshake(10 * USD).lease.id, agent.handshake(10 * USD, ttl_s=3600).lease.id
    tell_of_call(agent, lease, "c1", 60 * USD)
    alerts(world)

    if end == "time":
        world.clock.pass_s(1800)
        agent.report(other, "alive", 1)
        world.clock.pass_s(1860)
        world.store.write(sweep)
    elif end == "revocation":
        world.store.write(lambda uow: revoke_leases(uow, [lease], reason="manual", actor=ADMIN))
    else:
        agent.return_lease(lease, None if end == "return" else 49 * USD)
    assert (alerts(world), agent.balance().pending) == ([], 0)

    tell_of_call(agent, other, "c2", 51 * USD)
    assert [(each.threshold, each.crossed) for each in alerts(world)] in ([(50, [50])], [(100, [50, 80, 90, 100])])


def test_behind_the_end_of_a_lease_only_levels_that_are_no_longer_reached_are_told_again(world: World) -> None:
    """What is booked, and pending on other leases, still holds the others."""
    agent = world.agent()
    one, other = agent.handshake(10 * USD).lease.id, agent.handshake(10 * USD).lease.id
    agent.report(other, "r1", 30 * USD)
    tell_of_call(agent, other, "c1", 25 * USD)
    tell_of_call(agent, one, "c2", 40 * USD)
    assert [each.crossed for each in alerts(world)] == [[50], [80, 90]]

    agent.return_lease(one)
    tell_of_call(agent, other, "c3", 24 * USD)
    assert alerts(world) == []

    tell_of_call(agent, other, "c4", 1 * USD)
    assert alerts(world) == [Alert("agent", 80, [80], 80, "warning")]


def test_a_refresh_re_arms_nothing(world: World) -> None:
    """What is pending stays, on another lease."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    tell_of_call(agent, lease, "c1", 60 * USD)
    agent.refresh(lease, USD)
    tell_of_call(agent, lease, "c2", USD)

    assert [each.threshold for each in alerts(world)] == [50]


def test_a_smaller_budget_counts_what_is_pending(world: World) -> None:
    """Down to a cent, of which it is too much, and stays so when less is pending."""
    agent = world.agent()
    lease, other = agent.handshake(10 * USD).lease.id, agent.handshake(10 * USD).lease.id
    tell_of_call(agent, lease, "c1", 20 * USD)
    tell_of_call(agent, other, "c2", 20 * USD)

    allocate(world, agent, 50 * USD, force=True)
    assert alerts(world) == [Alert("agent", 80, [50, 80], 80, "warning")]

    allocate(world, agent, USD // 100, force=True)
    agent.return_lease(other)
    tell_of_call(agent, lease, "c3", 1)
    assert alerts(world) == [Alert("agent", 100, [90, 100], 400_000, "critical")]

    agent.return_lease(lease)
    assert (alerts(world), agent.balance().alert_level) == ([], 0)


def test_a_month_counts_only_what_is_booked(world: World) -> None:
    """Its own levels are told when the report has come."""
    agent = world.agent(1000 * USD)
    world.cap(100 * USD)
    lease = agent.handshake(90 * USD).lease.id
    tell_of_call(agent, lease, "c1", 60 * USD)
    tell_of_call(agent, lease, "c2", 30 * USD)
    assert alerts(world) == []

    agent.report(lease, "c1", 60 * USD)

    event = world.store.read(lambda uow: list(uow.feed.after(0, 99)))[-1]
    assert alerts(world) == [Alert("user_month", 50, [50], 60, "info")]
    assert event.data["pending_spend_micros"] == 0


@pytest.mark.parametrize(
    ("level", "used", "limit", "left"),
    [
        (50, 60, 100, 50), (50, 50, 100, 50), (50, 49, 100, 49), (100, 200, 100, 100), (90, 899, 1000, 89),
        (50, 0, 100, 0), (0, 60, 100, 0), (100, 1, 0, 100), (100, 0, 0, 0),
    ],
)  # fmt: skip
def test_a_told_level_falls_to_the_share_that_is_used(level: int, used: int, limit: int, left: int) -> None:
    """So that the levels above it, whichever there are, can be told again, and none below."""
    assert lowered(level, used, limit) == left


# --- of a month -------------------------------------------------------------


def test_a_month_is_told_beside_the_agent(world: World) -> None:
    """The owner's agents count together; no cap, no alert."""
    first, second = world.agent(1000 * USD), world.agent(1000 * USD, name="second")
    spend(first, 10 * USD)
    world.cap(100 * USD)
    spend(first, 30 * USD)
    spend(second, 9 * USD, USD, 30 * USD)

    assert alerts(world) == [
        Alert("user_month", 50, [50], 50, "info"),
        Alert("user_month", 80, [80], 80, "warning"),
    ]


def test_one_report_may_tell_of_both(world: World) -> None:
    """One alert for each scope."""
    agent = world.agent()
    world.cap(50 * USD)
    lease = agent.handshake(50 * USD).lease.id
    agent.report_batch([usage(lease, str(name), 25 * USD) for name in range(2)])

    assert alerts(world) == [
        Alert("agent", 50, [50], 50, "info"),
        Alert("user_month", 100, [50, 80, 90, 100], 100, "critical"),
    ]


def test_a_new_month_starts_below_all_levels(world: World) -> None:
    """So that its own levels are told."""
    agent = world.agent(1000 * USD)
    world.cap(100 * USD)
    spend(agent, 60 * USD)
    world.clock.instant += 30 * MS_PER_DAY
    spend(agent, 60 * USD)

    assert alerts(world) == [Alert("user_month", 50, [50], 60, "info")] * 2


def test_a_raised_cap_lets_levels_be_told_again(world: World) -> None:
    """In silence, even when the next report goes straight to a level that was told."""
    agent = world.agent(1000 * USD)
    world.cap(100 * USD)
    spend(agent, 85 * USD)
    alerts(world)

    world.cap(200 * USD)
    assert alerts(world) == []

    spend(agent, 75 * USD)
    assert alerts(world) == [Alert("user_month", 80, [50, 80], 80, "warning")]


def test_a_lowered_cap_is_told_by_the_next_movement(world: World) -> None:
    """Not by itself."""
    agent = world.agent(1000 * USD)
    lease = agent.handshake(50 * USD).lease.id
    world.cap(200 * USD)
    agent.report(lease, "r1", 40 * USD)

    world.cap(50 * USD)
    assert alerts(world) == []

    agent.report(lease, "r2", 1)
    assert alerts(world) == [Alert("user_month", 80, [50, 80], 80, "warning")]


def test_a_lifted_cap_forgets_its_levels(world: World) -> None:
    """The next one tells them again, at the next movement."""
    agent = world.agent(1000 * USD)
    world.cap(100 * USD)
    spend(agent, 60 * USD)
    world.cap(None)
    world.cap(100 * USD)
    assert [each.threshold for each in alerts(world)] == [50]

    spend(agent, 1)
    assert alerts(world) == [Alert("user_month", 50, [50], 60, "info")]


def test_a_cap_in_a_project_tells_nothing(world: World) -> None:
    """Neither does its end let the month's levels be told again."""
    agent = world.agent(1000 * USD)
    world.cap(100 * USD)
    spend(agent, 60 * USD)
    of_project = {"user_id": world.owner_id, "project_id": "proj_master_001", "max_cost_per_month": 70 * USD}
    made = world.store.write(lambda uow: create_limit(uow, of_project, actor=ADMIN))  # type: ignore[arg-type]  # its fields
    world.store.write(lambda uow: delete_limit(uow, made.limit.id, actor=ADMIN))
    spend(agent, 1)

    assert [each.scope for each in alerts(world)] == ["user_month"]


def test_the_month_is_that_of_whose_bank_pays(world: World) -> None:
    """An old lease spends from its old owner's month; a batch may spend from two, and tells of each."""
    agent = world.agent(1000 * USD)
    other = world.store.write(lambda uow: add_user(uow, username="bob", email="b@test", role="user", actor=ADMIN))
    world.cap(100 * USD)
    world.cap(50 * USD, other.id)
    old = agent.handshake(100 * USD).lease.id
    world.store.write(lambda uow: uow.agents.put(uow.agents.find(agent.id)._replace(owner_id=other.id)))  # type: ignore[union-attr]  # it was just made
    new = agent.handshake(50 * USD).lease.id

    agent.report_batch([usage(old, "r1", 60 * USD), usage(new, "r2", 40 * USD)])

    assert sorted(each[:4] for each in alerts(world)) == [
        ("user_month", 50, [50], 60),
        ("user_month", 80, [50, 80], 80),
    ]


def test_levels_outlive_the_process(tmp_path: Any) -> None:  # noqa: ANN401 - pytest's path
    """They are stored with the budget and with the month."""
    clock = SetClock()
    with SqliteStore(tmp_path / "iron.db", clock=clock) as store:
        world = World(store, clock)
        agent = world.agent()
        world.cap(100 * USD)
        lease = agent.handshake(100 * USD).lease.id
        agent.report(lease, "r1", 60 * USD)
        assert len(alerts(world)) == 2
    with SqliteStore(tmp_path / "iron.db", clock=clock) as store:
        agent.world.store = store
        agent.report(lease, "r2", USD)

        assert alerts(world) == []
