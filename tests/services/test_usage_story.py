"""Usage and traces as those see them to whom the agents belong."""

from dataclasses import replace
from typing import Any

import pytest

from ironcage_core.domain.access import Principal
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR
from ironcage_core.domain.periods import Asked
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.errors.access import AgentTokenForbiddenError
from ironcage_core.errors.money import LeaseNotFoundError
from ironcage_core.errors.resources import AgentNotFoundError, ProviderNotFoundError
from ironcage_core.errors.tree import ForbiddenError
from ironcage_core.errors.usage import InvalidPeriodError, RangeTooOldError, TraceNotFoundError
from ironcage_core.ports.lists import Page, Paging, TraceFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.traces import get_trace, list_traces, trace_filter
from ironcage_core.services.usage_scope import UsageQuestion, usage_filter
from ironcage_core.services.usage_totals import UsageTotals, usage_totals
from tests.support.rows import api_row, fresh_id, usage_row
from tests.support.world import NOON, THE_ADMIN, USD, TestAgent, World

ALWAYS = Asked()
EVERYTHING = UsageQuestion()


def bound(principal: Principal, **bindings: str) -> Principal:
    """Return the principal as it comes by an API token with bindings."""
    return replace(principal, session_id=None, token=api_row(principal.user_id, **bindings))


def called(world: World, agent: TestAgent, **fields: Any) -> UsageRecord:  # noqa: ANN401 - fields of a record
    """Put a record of a call of $1."""
    record = usage_row(agent.id, fresh_id("call"), **{"cost_micros": USD, **fields})
    world.store.write(lambda uow: uow.usage.put(record))
    return record


def given_to(world: World, agent: TestAgent, **columns: object) -> None:
    """Change an agent's row."""

    def change(uow: UnitOfWork) -> None:
        known = uow.agents.find(agent.id)
        assert known is not None
        uow.agents.put(known._replace(**columns))  # type: ignore[arg-type]  # as the test says

    world.store.write(change)


def totals(world: World, principal: Principal, asked: UsageQuestion = EVERYTHING, when: Asked = ALWAYS) -> UsageTotals:
    return world.store.read(lambda uow: usage_totals(uow, usage_filter(uow, asked, principal), when, principal))


def cost(world: World, principal: Principal, asked: UsageQuestion = EVERYTHING, when: Asked = ALWAYS) -> int:
    """Return what the calls cost, in whole USD."""
    return totals(world, principal, asked, when).sums.cost_micros // USD


def traces(world: World, principal: Principal, **filters: Any) -> Page[UsageRecord]:  # noqa: ANN401 - of a filter
    asked = TraceFilter(**filters)
    return world.store.read(lambda uow: list_traces(uow, trace_filter(uow, asked, principal), Paging()))


def trace(world: World, principal: Principal, trace_id: str) -> UsageRecord:
    return world.store.read(lambda uow: get_trace(uow, trace_id, principal))


def test_a_report_is_a_call_in_the_totals_and_a_trace(world: World, ann: Principal) -> None:
    """What was booked is what is told, at once."""
    agent = world.agent()
    lease = agent.handshake().lease.id
    agent.report(lease, "r1", 3 * USD, tokens=None, input_tokens=30, output_tokens=12)
    agent.report(lease, "r2", USD, tokens=7)

    seen = totals(world, ann)
    page = traces(world, ann)

    assert (seen.sums.completed, seen.sums.cost_micros, seen.sums.total_tokens) == (2, 4 * USD, 49)
    assert (seen.sums.input_tokens, seen.sums.output_tokens, seen.sums.unsplit_tokens) == (30, 12, 7)
    assert [(record.request_id, record.provider_id) for record in page.rows] == [
        ("r2", world.key_id),
        ("r1", world.key_id),
    ]
    assert (page.total, trace(world, ann, page.rows[0].id)) == (2, page.rows[0])


def test_providers_come_by_cost_and_then_by_name(world: World) -> None:
    """One whose calls all failed is there as well, without a completed call."""
    agent = world.agent()
    for provider, spent, outcome in (
        ("b", 2, "completed"), ("a", 2, "completed"), ("c", 3, "completed"), ("c", 1, "failed"), ("d", 0, "failed"),
    ):  # fmt: skip
        called(world, agent, provider=provider, cost_micros=spent, outcome=outcome)

    seen = totals(world, THE_ADMIN)

    assert [(name, sums.completed, sums.failed, sums.cost_micros) for name, sums in seen.providers] == [
        ("c", 1, 1, 4), ("a", 1, 0, 2), ("b", 1, 0, 2), ("d", 0, 1, 0),
    ]  # fmt: skip
    assert (seen.sums.completed, seen.sums.failed, seen.sums.cost_micros, seen.scope) == (3, 2, 8, "all")
    assert seen.sums.last_at == NOON


def test_history_follows_the_agent_to_its_new_owner(world: World, ann: Principal, bob: Principal) -> None:
    """All of it: the one before sees nothing any more, whoever the owner was when the call was made."""
    agent, kept = world.agent(), world.agent()
    moved = called(world, agent, owner_id=ann.user_id)
    called(world, kept, owner_id=bob.user_id)
    assert (cost(world, ann), cost(world, bob), traces(world, ann).total) == (2, 0, 2)

    given_to(world, agent, owner_id=bob.user_id)

    assert (cost(world, ann), cost(world, bob), cost(world, THE_ADMIN)) == (1, 1, 2)
    assert [record.id for record in traces(world, bob).rows] == [moved.id]
    assert (trace(world, bob, moved.id), traces(world, ann).total) == (moved, 1)
    with pytest.raises(ForbiddenError):
        trace(world, ann, moved.id)


def test_a_deleted_agent_s_history_stays_with_its_last_owner(world: World, ann: Principal, bob: Principal) -> None:
    """It is summed, listed and asked for by name, by that owner and by admins."""
    agent = world.agent()
    record = called(world, agent)
    given_to(world, agent, deleted_at=NOON)
    asked = UsageQuestion(agent_id=agent.id)

    for principal in (ann, THE_ADMIN):
        assert (cost(world, principal), cost(world, principal, asked)) == (1, 1)
        assert traces(world, principal, agent_id=agent.id).rows == [record]
        assert trace(world, principal, record.id) == record
    with pytest.raises(ForbiddenError):
        cost(world, bob, asked)


def test_a_filter_by_agent_is_judged_before_it_is_answered(world: World, bob: Principal) -> None:
    """There is none, it is somebody else's, or the token is another agent's."""
    agent = world.agent()
    token = bound(bob, agent_id=world.agent(owner_id=bob.user_id).id)

    for ask in (lambda who, each: cost(world, who, UsageQuestion(agent_id=each)),
                lambda who, each: traces(world, who, agent_id=each)):  # fmt: skip
        with pytest.raises(ForbiddenError) as refusal:
            ask(bob, agent.id)
        assert refusal.value.code == "FORBIDDEN"
        for principal in (bob, THE_ADMIN):
            with pytest.raises(AgentNotFoundError):
                ask(principal, "agent_" + "0" * 32)
        for each in (agent.id, "agent_" + "0" * 32):
            with pytest.raises(AgentTokenForbiddenError):
                ask(token, each)


def test_a_call_belongs_to_the_project_it_was_made_in(world: World, ann: Principal) -> None:
    """Wherever its agent went since; a token of a project sees that project's calls and no others."""
    agent = world.agent()
    old, new = called(world, agent, project_id="old"), called(world, agent, project_id="new", cost_micros=5 * USD)
    given_to(world, agent, project_id="newest")
    token = bound(ann, project_id="old")

    assert cost(world, ann, UsageQuestion(project_id="old")) == 1
    assert cost(world, ann, UsageQuestion(project_id="newest")) == 0
    assert (cost(world, token), cost(world, token, UsageQuestion(project_id="old"))) == (1, 1)
    assert cost(world, token, UsageQuestion(agent_id=agent.id)) == 1
    nothing = totals(world, token, UsageQuestion(project_id="new"))
    assert (nothing.sums.calls, nothing.providers, nothing.chosen.start) == (0, [], None)
    assert traces(world, token).rows == traces(world, ann, project_id="old").rows == [old]
    assert traces(world, token, project_id="new") == Page([], 0)
    assert trace(world, token, old.id) == old
    with pytest.raises(ForbiddenError):
        trace(world, token, new.id)
    assert traces(world, bound(THE_ADMIN, project_id="old")).rows == [old]


def test_a_provider_key_may_be_asked_for_while_it_is_there_or_remembered(
    world: World, ann: Principal, bob: Principal
) -> None:
    """Remembered by a call that the caller may see; whatever else is unknown."""
    called(world, world.agent(), provider_id="prov_gone")
    gone = UsageQuestion(provider_id="prov_gone")

    assert (cost(world, ann, gone), cost(world, THE_ADMIN, gone)) == (1, 1)
    assert cost(world, bob, UsageQuestion(provider_id=world.key_id)) == 0
    for principal, asked in (
        (bob, gone),
        (bound(ann, project_id="elsewhere"), gone),
        (THE_ADMIN, UsageQuestion(provider_id="prov_never")),
    ):
        with pytest.raises(ProviderNotFoundError):
            cost(world, principal, asked)
    long_ago = Asked(end=NOON - MS_PER_DAY)
    assert cost(world, ann, gone, long_ago) == 0


def test_only_an_admin_asks_by_user(world: World, ann: Principal, bob: Principal) -> None:
    """And means the agents that the user owns now."""
    agent = world.agent()
    called(world, agent, owner_id=ann.user_id)
    called(world, world.agent(), owner_id=ann.user_id)
    given_to(world, agent, owner_id=bob.user_id)

    assert cost(world, THE_ADMIN, UsageQuestion(user_id=bob.user_id)) == 1
    assert cost(world, THE_ADMIN, UsageQuestion(user_id=bob.user_id, agent_id=agent.id)) == 1
    assert cost(world, THE_ADMIN, UsageQuestion(user_id=ann.user_id, agent_id=agent.id)) == 0
    assert cost(world, THE_ADMIN, UsageQuestion(user_id="user_" + "0" * 32)) == 0
    with pytest.raises(ForbiddenError):
        cost(world, ann, UsageQuestion(user_id=ann.user_id))


def test_filters_are_all_anded(world: World, ann: Principal) -> None:
    """Each takes away; what is used is told, agent and provider key always."""
    agent = world.agent()
    mine = {"provider": "openai", "model": "m1", "project_id": "p1", "provider_id": "prov_x"}
    called(world, agent, **mine)
    for name in mine:
        called(world, agent, **{**mine, name: "other"})
    called(world, world.agent(), **mine)

    asked = UsageQuestion(agent_id=agent.id, **mine)

    assert cost(world, ann, asked) == 1
    assert [cost(world, ann, UsageQuestion(**{name: value})) for name, value in mine.items()] == [5, 5, 5, 5]
    assert asked.used == {"agent_id": agent.id, **mine}
    assert EVERYTHING.used == {"agent_id": None, "provider_id": None}


def test_a_range_takes_what_lies_in_its_hours(world: World, ann: Principal) -> None:
    """A call of the current hour belongs to what lasts until now; the start of all time is the first."""
    agent = world.agent()
    hour = NOON // MS_PER_HOUR * MS_PER_HOUR
    for ago in (0, 23, 24, 36, 37, 24 * 8):
        called(world, agent, occurred_at=hour - ago * MS_PER_HOUR)
    world.clock.pass_s(60)
    expected = {"today": 1, "last-24-hours": 2, "yesterday": 3, "last-7-days": 5, "last-30-days": 6, "all-time": 6}

    assert {name: cost(world, ann, when=Asked(period=name)) for name in expected} == expected
    day = hour // MS_PER_DAY * MS_PER_DAY
    assert totals(world, ann).chosen.start == hour - 8 * MS_PER_DAY
    assert totals(world, ann, when=Asked(period="today")).chosen.start == day
    assert cost(world, ann, when=Asked(start=hour - 24 * MS_PER_HOUR, end=hour)) == 2
    assert totals(world, ann).chosen.time.end == totals(world, ann).chosen.calculated_at == NOON + 60_000


def test_a_time_that_cannot_be_answered_is_refused(world: World, ann: Principal) -> None:
    """No such period, or a part of a day whose hours are forgotten; its whole days are still there."""
    called(world, world.agent(), occurred_at=NOON - 5 * MS_PER_DAY)
    world.store.write(lambda uow: uow.usage.advance_horizon("hours", NOON // MS_PER_DAY * MS_PER_DAY))

    with pytest.raises(InvalidPeriodError):
        totals(world, ann, when=Asked(period="fortnight"))
    with pytest.raises(RangeTooOldError):
        totals(world, ann, when=Asked(start=NOON - 6 * MS_PER_DAY))
    assert cost(world, ann, when=Asked(period="last-7-days")) == 1


def test_the_first_call_is_of_what_the_caller_sees(world: World, ann: Principal, bob: Principal) -> None:
    """When somebody else began is nobody's business."""
    called(world, world.agent(), occurred_at=NOON - 3 * MS_PER_DAY)
    called(world, world.agent(owner_id=bob.user_id))

    starts = [totals(world, principal).chosen.start for principal in (ann, bob, THE_ADMIN)]

    assert starts == [NOON - 3 * MS_PER_DAY, NOON, NOON - 3 * MS_PER_DAY]


def test_traces_are_found_by_their_lease(world: World, ann: Principal, bob: Principal) -> None:
    """To whom its agent belongs; with another agent beside it there is none."""
    agent, other = world.agent(), world.agent()
    lease = agent.handshake().lease.id
    agent.report(lease, "r1", USD)
    called(world, agent)

    assert [record.request_id for record in traces(world, ann, lease_id=lease).rows] == ["r1"]
    assert traces(world, THE_ADMIN, lease_id=lease, agent_id=agent.id).total == 1
    assert traces(world, ann, lease_id=lease, agent_id=other.id) == Page([], 0)
    with pytest.raises(ForbiddenError):
        traces(world, bob, lease_id=lease)
    with pytest.raises(AgentTokenForbiddenError):
        traces(world, bound(ann, agent_id=other.id), lease_id=lease)
    with pytest.raises(LeaseNotFoundError):
        traces(world, ann, lease_id="lease_" + "0" * 32)


def test_an_agent_s_token_sees_its_agent_s_traces(world: World, ann: Principal, bob: Principal) -> None:
    """Of its owner's other agents none, by list or by id; and none once the agent is another's."""
    agent, other = world.agent(), world.agent()
    own, foreign = called(world, agent), called(world, other)
    token = bound(ann, agent_id=agent.id)

    assert traces(world, token).rows == traces(world, token, agent_id=agent.id).rows == [own]
    assert trace(world, token, own.id) == own
    with pytest.raises(AgentTokenForbiddenError):
        trace(world, token, foreign.id)
    given_to(world, agent, owner_id=bob.user_id)
    assert traces(world, token).total == 0


def test_the_same_request_id_of_two_agents_is_two_traces(world: World, ann: Principal, bob: Principal) -> None:
    """An admin finds both by it, their owners their own."""
    mine, his = world.agent(), world.agent(owner_id=bob.user_id)
    for agent in (mine, his):
        agent.report(agent.handshake().lease.id, "same", USD)
        agent.report(agent.handshake().lease.id, "other", USD)

    assert traces(world, THE_ADMIN, call_key="same").total == 2
    assert [record.agent_id for record in traces(world, ann, call_key="same").rows] == [mine.id]
    assert traces(world, bob, call_key="same", agent_id=his.id).total == 1


@pytest.mark.parametrize("trace_id", ["trace_" + "0" * 32, "abc", "", "evt_" + "0" * 32])
def test_a_trace_that_is_not_there_is_not_found(world: World, trace_id: str) -> None:
    """Malformed or unknown, by whomever."""
    with pytest.raises(TraceNotFoundError):
        trace(world, THE_ADMIN, trace_id)
