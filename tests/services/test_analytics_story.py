"""Analytics as those see them to whom the agents belong: whose calls count, what a call cost, and what it takes."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.access import Principal, judged
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.periods import Asked
from ironcage_core.domain.ratios import half_up, per_call, percent, percent_of, tokens_per_call
from ironcage_core.errors.access import AgentTokenForbiddenError
from ironcage_core.errors.tree import ForbiddenError
from ironcage_core.ports.lists import Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.made_rows import sorted_page
from ironcage_core.services.spending import CallCosts, call_costs, spenders
from ironcage_core.services.usage_groups import model_groups, provider_groups, token_users
from ironcage_core.services.usage_scope import UsageQuestion, usage_filter
from ironcage_core.services.usage_selection import Selection, selected, total_of
from tests.support.rows import api_row, fresh_id, usage_row
from tests.support.world import NOON, THE_ADMIN, USD, TestAgent, World

EVERYTHING = UsageQuestion()
PAGE = Paging(1, 100)
MOST = 10_000  # calls of which the median is exact


def called(world: World, agent: TestAgent, *costs: int, **fields: Any) -> None:  # noqa: ANN401 - fields of a record
    """Put a record of a call of each cost."""

    def put(uow: UnitOfWork) -> None:
        for cost in costs:
            uow.usage.put(usage_row(agent.id, fresh_id("call"), cost_micros=cost, **fields))

    world.store.write(put)


def given_to(world: World, agent: TestAgent, **columns: object) -> None:
    """Change an agent's row."""

    def change(uow: UnitOfWork) -> None:
        known = uow.agents.find(agent.id)
        assert known is not None
        uow.agents.put(known._replace(**columns))  # type: ignore[arg-type]  # as the test says

    world.store.write(change)


def seen(
    world: World,
    use_case: Callable[[UnitOfWork, Selection], Any],
    principal: Principal = THE_ADMIN,
    asked: UsageQuestion = EVERYTHING,
) -> Any:  # noqa: ANN401 - what the use case says
    """Return what a use case says of the calls that a question of somebody means."""

    def run(uow: UnitOfWork) -> object:
        return use_case(uow, selected(uow, usage_filter(uow, asked, principal), Asked()))

    return world.store.read(run)


def spent(world: World, principal: Principal, asked: UsageQuestion = EVERYTHING) -> set[int]:
    """Return what the calls cost that somebody sees, in whole USD, by every way to ask for it."""
    return {
        seen(world, use_case, principal, asked) // USD
        for use_case in (
            lambda uow, chosen: total_of(uow, chosen).cost_micros,
            lambda uow, chosen: call_costs(uow, chosen).spend,
            lambda uow, chosen: spenders(uow, chosen, PAGE).total.cost_micros,
            lambda uow, chosen: token_users(uow, chosen, PAGE, "agent_id").total.cost_micros,
            lambda uow, chosen: token_users(uow, chosen, PAGE, "provider").total.cost_micros,
            lambda uow, chosen: sum(group.sums.cost_micros for group in provider_groups(uow, chosen)),
            lambda uow, chosen: sum(group.sums.cost_micros for group in model_groups(uow, chosen)),
        )
    }


def test_history_follows_the_agent_and_each_sees_the_own_part(world: World, ann: Principal, bob: Principal) -> None:
    """The owner at the time of the call does not matter, and a deleted agent stays with its last owner."""
    moved, kept = world.agent(), world.agent()
    called(world, moved, USD, owner_id=ann.user_id)
    called(world, kept, 2 * USD, owner_id=bob.user_id)
    assert (spent(world, ann), spent(world, bob), spent(world, THE_ADMIN)) == ({3}, {0}, {3})

    given_to(world, moved, owner_id=bob.user_id)
    given_to(world, kept, deleted_at=NOON)

    assert (spent(world, ann), spent(world, bob), spent(world, THE_ADMIN)) == ({2}, {1}, {3})
    assert spent(world, THE_ADMIN, UsageQuestion(user_id=bob.user_id)) == {1}
    assert spent(world, ann, UsageQuestion(agent_id=kept.id)) == {2}


def test_a_token_of_a_project_tells_of_calls_in_it_alone(world: World, ann: Principal) -> None:
    """An agent's calls of other projects are none of its business; another project leaves nothing."""
    agent = world.agent()
    called(world, agent, USD, project_id="p1")
    called(world, agent, 4 * USD, project_id="p2")
    token = replace(ann, session_id=None, token=api_row(ann.user_id, project_id="p1"))

    assert spent(world, judged(token, "analytics.read")) == {1}
    assert spent(world, token, UsageQuestion(agent_id=agent.id)) == {1}
    assert spent(world, token, UsageQuestion(project_id="p2")) == {0}
    assert seen(world, call_costs, token, UsageQuestion(project_id="p2")) == CallCosts(
        0, 0, 0, median_is_exact=True, lowest=0, highest=0
    )


def test_a_token_of_an_agent_and_a_stranger_are_told_nothing(world: World, ann: Principal, bob: Principal) -> None:
    """The one by the rule of the action, the other by whose the agent is."""
    agent = world.agent()

    with pytest.raises(AgentTokenForbiddenError):
        judged(replace(ann, session_id=None, token=api_row(ann.user_id, agent_id=agent.id)), "analytics.read")
    with pytest.raises(ForbiddenError):
        spent(world, bob, UsageQuestion(agent_id=agent.id))
    with pytest.raises(ForbiddenError):
        spent(world, ann, UsageQuestion(user_id=ann.user_id))


@pytest.mark.parametrize(
    ("costs", "middle"),
    [((), 0), ((7,), 7), ((0, 0, 9), 0), ((1, 2), 2), ((1, 3), 2), ((0, 1), 1), ((5, 1, 2, 100), 4), ((2, 2), 2)],
)
def test_the_median_is_the_middle_one_or_the_mean_of_the_middle_two(
    world: World, costs: tuple[int, ...], middle: int
) -> None:
    """To a micro-USD, halves up; calls that failed are not among them, whatever they cost."""
    agent = world.agent()
    called(world, agent, *costs)
    called(world, agent, 1000, 1000, outcome="failed")

    found = seen(world, call_costs)

    assert (found.median, found.median_is_exact, found.calls) == (middle, True, len(costs))
    assert (found.lowest, found.highest) == (min(costs, default=0), max(costs, default=0))
    assert found.spend == sum(costs)
    assert found.average == (0 if not costs else int(sum(costs) / len(costs) + 0.5))


@pytest.mark.parametrize("is_even", [False, True])
def test_the_median_of_very_many_calls_is_within_a_percent(world: World, is_even: bool) -> None:
    """Of 10 000 calls it is exact; of one more it comes from a histogram and says so."""
    dice = random.Random(5)  # noqa: S311 - a fixed set of rows, no secret
    costs = [int(10 ** (dice.random() * 7)) for _ in range(MOST)]
    agent = world.agent()
    called(world, agent, *costs)
    exact = seen(world, call_costs)

    costs += [5, 6] if is_even else [3 * USD]
    called(world, agent, *costs[MOST:])
    about = seen(world, call_costs)

    assert (exact.median, exact.median_is_exact) == (half_up(int(2 * median(costs[:MOST])), 2), True)
    assert about.median_is_exact is False
    assert abs(about.median - median(costs)) <= median(costs) / 100
    assert (about.calls, about.spend, about.average) == (len(costs), sum(costs), per_call(sum(costs), len(costs)))
    assert (about.lowest, about.highest) == (min(costs), max(costs))


def test_the_middle_two_of_a_histogram_may_lie_far_apart(world: World) -> None:
    """Their mean is still that of both, not of one of them twice."""
    agent = world.agent()
    called(world, agent, 10, 10, 90, 90)
    world.store.write(lambda uow: uow.usage.advance_horizon("records", NOON // MS_PER_DAY * MS_PER_DAY + MS_PER_DAY))

    found = seen(world, call_costs)

    assert (found.median, found.median_is_exact) == (50, False)


def test_a_median_of_purged_calls_stays(world: World) -> None:
    """What is kept of them is enough to be within a percent."""
    agent = world.agent()
    called(world, agent, 1000, 2000, 30_000, occurred_at=NOON - 3 * MS_PER_DAY)
    world.store.write(lambda uow: uow.usage.advance_horizon("records", NOON // MS_PER_DAY * MS_PER_DAY))
    world.store.write(lambda uow: uow.usage.purge_records(10))

    found = seen(world, call_costs)

    assert (found.median_is_exact, found.calls, found.spend) == (False, 3, 33_000)
    assert 1980 <= found.median <= 2020


def test_only_failed_calls_make_a_row_without_requests(world: World) -> None:
    """In every list; there is nothing to divide by."""
    agent = world.agent()
    called(world, agent, 0, outcome="failed", unsplit_tokens=0)

    page = seen(world, partial(spenders, paging=PAGE)).page
    groups = seen(world, provider_groups)
    costs = seen(world, call_costs)

    assert [(row.sums.completed, row.sums.failed, row.percent_used) for row in page.rows] == [(0, 1, 0)]
    assert [(group.agents, group.sums.completed) for group in groups] == [(1, 0)]
    assert (costs.average, costs.median, costs.median_is_exact) == (0, 0, True)


@pytest.mark.parametrize("order", ["spending", "agent_name"])
def test_a_list_takes_as_many_statements_however_long_it_is(world: World, order: Any) -> None:  # noqa: ANN401 - an order
    """None for each row, nor for each page."""

    def statements() -> int:
        said: list[str] = []

        def run(uow: UnitOfWork) -> None:
            chosen = selected(uow, usage_filter(uow, EVERYTHING, THE_ADMIN), Asked())
            world.store._connection.set_trace_callback(said.append)
            spenders(uow, chosen, PAGE, order)
            token_users(uow, chosen, PAGE, "agent_id")
            provider_groups(uow, chosen)
            model_groups(uow, chosen)
            world.store._connection.set_trace_callback(None)

        world.store.write(run)
        return sum(sql.lstrip().startswith("SELECT") for sql in said)

    called(world, world.agent(), USD)
    few = statements()
    for number in range(20):
        called(world, world.agent(), USD, provider=f"p{number}", model=f"m{number}")

    assert few == statements() == 8


def test_names_are_looked_for_on_the_page_alone_unless_they_sort(world: World) -> None:
    """The others are shown to nobody."""
    for number in range(3):
        called(world, world.agent(name=f"agent {number}"), number)

    page = seen(world, partial(spenders, paging=Paging(1, 1)))

    assert list(page.names.values()) == ["agent 2"]
    assert (page.page.total, page.total.cost_micros, page.total_budget) == (3, 3, 300 * USD)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers()), unique_by=lambda row: row[1]), st.booleans())
def test_pages_one_after_the_other_are_the_sorted_list(rows: list[tuple[int, int]], descending: bool) -> None:
    """Those alike rise by the other number in either direction."""
    pages = [
        sorted_page(rows, Paging(page, 2), lambda row: row[0], tie=lambda row: row[1], descending=descending)
        for page in range(1, len(rows) // 2 + 3)
    ]

    expected = sorted(rows, key=lambda row: (-row[0] if descending else row[0], row[1]))
    assert [row for page in pages for row in page.rows] == expected
    assert {page.total for page in pages} == {len(rows)}


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_ratios_are_half_up_to_the_last_digit(part: int, whole: int) -> None:
    """The whole number that is at most half a step above, and less than half a step below; 0 of nothing."""
    for rounded, exact in ((per_call(part, whole), part), (int(percent(part, whole) * 100), part * 10_000)):
        assert 2 * whole * rounded <= 2 * exact + whole < 2 * whole * (rounded + 1) if whole else rounded == 0
    assert tokens_per_call(part, whole) == (part // whole if whole else 0)


def test_ratios_of_nothing_and_of_halves() -> None:
    """A budget of nothing is used up by anything; a share of no calls is 0."""
    assert (half_up(1, 2), half_up(1, 3), half_up(3, 2), half_up(5, 0)) == (1, 0, 2, 0)
    assert [str(percent(*each)) for each in ((1, 3), (2, 3), (1, 20_000), (1, 20_001), (3, 2), (7, 0))] == [
        "33.33", "66.67", "0.01", "0.00", "150.00", "0.00"
    ]  # fmt: skip
    assert [str(percent_of(*each)) for each in ((1, 3), (-1, 3), (-1, 20_000), (0, 0), (1, 0))] == [
        "33.33", "-33.33", "-0.01", "0", "100"
    ]  # fmt: skip
