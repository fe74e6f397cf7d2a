"""Settlement: what a dead IC token value may still report and return, and how much."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from ironcage_core.domain.ic_tokens import AgentIdentity, IcTokenClaims
from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.domain.leases import LeasePolicy
from ironcage_core.errors.access import InvalidTokenError, OverSettledError
from ironcage_core.errors.money import RequestIdConflictError
from ironcage_core.errors.tree import RefusalError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_changes import delete_agent
from ironcage_core.services.agent_records import any_agent, check_sees, scope_of
from ironcage_core.services.granting import Granted, check_may_call
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.ic_token_changes import replace_ic_token, revoke_ic_token
from ironcage_core.services.ic_tokens import authenticate, issue_ic_token
from ironcage_core.services.key_release import key_of_agent
from ironcage_core.services.late_reports import SettlementRefused, report_or_refuse
from ironcage_core.services.leasing import Returned, refresh, return_lease, revoke_leases
from ironcage_core.services.reporting import BatchReported, Reported, report, report_batch
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import ADMIN, PRICES, THE_ADMIN, USD, SetClock, TestAgent, World, usage

T = TypeVar("T")
HOUR_S = 3600
DAY_S = 86_400


@pytest.fixture
def agent(world: World) -> TestAgent:
    world.policy = replace(world.policy, ttl=30 * DAY_S * MS_PER_S, max_lifetime=30 * DAY_S * MS_PER_S)
    return world.agent()


def rotate(agent: TestAgent, *, overlap_s: int = 0, revokes_leases: bool = False) -> str:
    """Replace the agent's token; the old value is returned and the agent uses the new one."""
    old, world = agent.token, agent.world
    agent.token = world.store.write(
        partial(
            replace_ic_token,
            agent_id=agent.id, overlap_s=overlap_s, revokes_leases=revokes_leases, actor=ADMIN, signer=world.signer,
        )
    ).issued.value  # fmt: skip
    return old


def delete_token(agent: TestAgent) -> str:
    agent.world.store.write(partial(revoke_ic_token, agent_id=agent.id, actor=ADMIN))
    return agent.token


def delete(agent: TestAgent) -> str:
    agent.world.store.write(partial(delete_agent, agent_id=agent.id, principal=THE_ADMIN))
    return agent.token


END: dict[str, Callable[[TestAgent], str]] = {
    "replaced with its leases": lambda agent: rotate(agent, revokes_leases=True),
    "deleted": delete_token,
    "its agent deleted": delete,
}
"""What revokes leases together with the value."""


def late(agent: TestAgent, token: str, use_case: Callable[..., T], *args: object, **kwargs: object) -> T:
    """Run a use case with a value that may be dead."""
    world = agent.world
    presented = world.signer.prove(token, now=world.clock.now())

    def run(uow: UnitOfWork) -> T:
        identity = authenticate(uow, presented, settle=world.policy.settle)
        return use_case(uow, identity, *args, policy=world.policy, **kwargs)

    return world.store.write(run)


def settle(agent: TestAgent, token: str, lease_id: str, request_id: str, cost: int) -> Reported | SettlementRefused:
    return late(agent, token, report_or_refuse, usage(lease_id, request_id, cost), prices=PRICES)


def settled(agent: TestAgent, token: str, lease_id: str, request_id: str, cost: int) -> Reported:
    answer = settle(agent, token, lease_id, request_id, cost)
    assert isinstance(answer, Reported)
    return answer


def is_refused(agent: TestAgent, token: str, lease_id: str, request_id: str = "any", cost: int = 1) -> bool:
    """Tell whether a report is refused as by an invalid token."""
    try:
        return isinstance(settle(agent, token, lease_id, request_id, cost), SettlementRefused)
    except InvalidTokenError:
        return True


def give_back(agent: TestAgent, token: str, lease_id: str) -> Returned:
    return late(agent, token, return_lease, lease_id)


def lent(agent: TestAgent, amount: int = 10 * USD) -> str:
    return agent.handshake(amount).lease.id


def test_a_replaced_value_reports_up_to_what_its_lease_held(world: World, agent: TestAgent) -> None:
    """The rest of the tranche and not a micro-dollar more; the lease lives on under the new value."""
    lease_id = lent(agent)
    agent.report(lease_id, "before", 4 * USD)
    old = rotate(agent)
    world.clock.pass_s(1)

    first = settled(agent, old, lease_id, "late-1", 5 * USD)
    over = settle(agent, old, lease_id, "late-2", USD + 1)
    last = settled(agent, old, lease_id, "late-3", USD)

    assert isinstance(over, SettlementRefused)
    assert isinstance(over.refusal, OverSettledError)
    assert (first.booked.overspent, last.booked.overspent) == (0, 0)
    assert agent.balance().spent == 10 * USD
    assert is_refused(agent, old, lease_id)
    assert world.verify().holds


def test_the_limit_is_of_the_dead_value_alone(world: World, agent: TestAgent) -> None:
    """The new value reports on the same lease without one, and takes nothing of it."""
    lease_id = lent(agent)
    old = rotate(agent)
    world.clock.pass_s(1)

    agent.report(lease_id, "new", 9 * USD)
    answer = settled(agent, old, lease_id, "late", 10 * USD)
    agent.report(lease_id, "newer", 30 * USD)

    assert answer.booked.overspent == 9 * USD
    assert is_refused(agent, old, lease_id)
    assert agent.balance().spent == 49 * USD
    assert world.verify().holds


def test_a_lease_that_ended_since_still_takes_what_it_held(world: World, agent: TestAgent) -> None:
    """What is held now does not count, what was held at the death does."""
    lease_id = lent(agent)
    old = rotate(agent)
    world.clock.pass_s(1)
    agent.return_lease(lease_id)

    answer = settled(agent, old, lease_id, "late", 10 * USD)

    assert (answer.booked.overspent, answer.stop) == (10 * USD, True)
    assert is_refused(agent, old, lease_id)


@pytest.mark.parametrize("ends", ["returned", "expired"])
def test_a_lease_that_was_over_before_the_death_takes_nothing(world: World, ends: str) -> None:
    """It held nothing then, though nobody had noticed yet that its time was over."""
    agent = world.agent()
    lease_id = lent(agent)
    if ends == "returned":
        agent.return_lease(lease_id)
    else:
        world.clock.pass_s(2 * HOUR_S)
    world.clock.pass_s(1)
    old = rotate(agent)
    world.clock.pass_s(1)

    assert is_refused(agent, old, lease_id)
    assert settled(agent, old, lease_id, "free", 0).booked.cost == 0


def test_while_an_overlap_runs_both_values_are_alive(world: World, agent: TestAgent) -> None:
    """Neither has a limit, and each may use every lease of the agent."""
    mine = lent(agent)
    old = rotate(agent, overlap_s=60)
    others = lent(agent)
    world.clock.pass_s(59)

    settled(agent, old, mine, "a", 20 * USD)
    settled(agent, old, others, "b", 20 * USD)

    assert give_back(agent, old, others).lease.status == "closed"


def test_after_an_overlap_the_old_value_settles_what_was_held_at_its_end(world: World, agent: TestAgent) -> None:
    """Not what was held when it was replaced; at the very end it is dead."""
    lease_id = lent(agent)
    old = rotate(agent, overlap_s=60)
    world.clock.pass_s(30)
    settled(agent, old, lease_id, "during", 7 * USD)
    world.clock.pass_s(30)

    assert is_refused(agent, old, lease_id, "late", 3 * USD + 1)
    assert settled(agent, old, lease_id, "late", 3 * USD).booked.overspent == 0
    assert is_refused(agent, old, lease_id)


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_further_change_kills_the_overlapping_value_at_once(world: World, agent: TestAgent, change: str) -> None:
    """Both old values are dead from then, each with its own leases, and for a day."""
    lease_id = lent(agent)
    oldest = rotate(agent, overlap_s=HOUR_S)
    newer = lent(agent, 5 * USD)
    world.clock.pass_s(1)
    old = rotate(agent) if change == "replaced" else delete_token(agent)
    world.clock.pass_s(DAY_S)

    assert is_refused(agent, oldest, newer)
    assert is_refused(agent, old, lease_id)
    assert is_refused(agent, oldest, lease_id, "late-0", 10 * USD + 1)
    settled(agent, oldest, lease_id, "late-1", 10 * USD)
    settled(agent, old, newer, "late-2", 5 * USD)
    world.clock.pass_s(0.001)
    assert is_refused(agent, oldest, lease_id, "free", 0)
    assert world.verify().holds


@pytest.mark.parametrize("end", END)
def test_a_lease_revoked_with_its_value_takes_what_it_held_just_before(
    world: World, agent: TestAgent, end: str
) -> None:
    """All of it is overspend, because the money went back; the runtime is told to stop."""
    lease_id = lent(agent)
    agent.report(lease_id, "before", 4 * USD)
    old = END[end](agent)

    answer = settled(agent, old, lease_id, "late", 6 * USD)

    assert (answer.booked.overspent, answer.stop, answer.booked.lease.status) == (6 * USD, True, "revoked")
    assert is_refused(agent, old, lease_id)
    assert (agent.balance().spent, agent.balance().held) == (10 * USD, 0)
    assert world.verify().holds


@pytest.mark.parametrize("end", END)
def test_a_lease_revoked_with_its_value_may_be_returned(agent: TestAgent, end: str) -> None:
    """Shutdown is repeatable: nothing happens, and the answer says so."""
    lease_id = lent(agent)
    old = END[end](agent)

    answers = [give_back(agent, old, lease_id) for _ in range(2)]

    assert [(answer.already_closed, answer.returned) for answer in answers] == [(True, 10 * USD)] * 2
    assert agent.balance().held == 0


def test_no_other_lease_may_be_returned(world: World, agent: TestAgent) -> None:
    """Not one that lives on, not one that was revoked for another reason or at another time."""
    living, revoked, returned = lent(agent), lent(agent), lent(agent)
    agent.return_lease(returned)
    world.store.write(partial(revoke_leases, lease_ids=[revoked], reason="manual", actor=ADMIN))
    old = rotate(agent)
    world.clock.pass_s(1)
    delete_token(agent)

    for lease_id in (living, revoked, returned):
        with pytest.raises(InvalidTokenError):
            give_back(agent, old, lease_id)


def test_a_lease_revoked_before_the_value_died_takes_what_it_held(world: World, agent: TestAgent) -> None:
    """The order in which an operator stops and rotates loses no real spend; what was booked without a hold counts."""
    lease_id = lent(agent)
    world.store.write(partial(revoke_leases, lease_ids=[lease_id], reason="manual", actor=ADMIN))
    agent.report(lease_id, "before the end", 3 * USD)
    old = rotate(agent)

    assert isinstance(settle(agent, old, lease_id, "late", 7 * USD), Reported)
    assert is_refused(agent, old, lease_id)


def test_leases_that_end_with_an_overlap_take_what_they_held(world: World, agent: TestAgent) -> None:
    """They were revoked when the overlap began, and their value died when it was over."""
    lease_id = lent(agent)
    old = rotate(agent, overlap_s=10, revokes_leases=True)
    world.clock.instant += 10 * MS_PER_S

    assert isinstance(settle(agent, old, lease_id, "late", 10 * USD), Reported)
    assert is_refused(agent, old, lease_id)
    assert late(agent, old, return_lease, lease_id).already_closed


def test_money_that_a_refresh_took_along_is_not_settled_twice(world: World, agent: TestAgent) -> None:
    """Two values that died after each other share what was lent once, whichever settles first."""
    lease_id = lent(agent)
    first = rotate(agent)
    world.clock.instant += MS_PER_S
    refreshed = agent.refresh(lease_id, 5 * USD)
    assert isinstance(refreshed, Granted)
    successor = refreshed.lease.id
    second = rotate(agent)

    assert isinstance(settle(agent, first, lease_id, "late", 10 * USD), Reported)
    assert isinstance(settle(agent, second, successor, "later", 5 * USD), Reported)
    assert is_refused(agent, second, successor)


def test_a_dead_value_reads_nothing_through_a_batch(world: World, agent: TestAgent) -> None:
    """Without an item on a lease of its own it is as dead as any other, whatever the size of the batch."""
    other = lent(world.agent(name="other"))
    old = delete_token(agent)

    for batch in ([], [usage(other, "a", 0)], [usage("nonsense", "a", 0)] * 1001):
        with pytest.raises(InvalidTokenError):
            late(agent, old, report_batch, batch, prices=PRICES)


def test_a_lease_of_another_value_or_agent_is_no_business_of_a_dead_one(world: World, agent: TestAgent) -> None:
    """Whether there is such a lease is not told."""
    mine = lent(agent)
    others = lent(world.agent(name="other"))
    old = rotate(agent)
    newer = lent(agent)

    for lease_id in (others, newer, "lease_" + "0" * 32, "nonsense"):
        with pytest.raises(InvalidTokenError):
            settle(agent, old, lease_id, "late", 1)
        with pytest.raises(InvalidTokenError):
            late(agent, old, report, usage(lease_id, "late", -1), prices=PRICES)
    assert not is_refused(agent, old, mine)


def test_an_earlier_dead_value_does_not_settle_leases_of_a_later_one(world: World, agent: TestAgent) -> None:
    """Each generation has its own leases."""
    first = rotate(agent)
    lease_id = lent(agent)
    second = rotate(agent)
    world.clock.pass_s(1)

    assert is_refused(agent, first, lease_id)
    assert not is_refused(agent, second, lease_id)


def test_a_named_lease_decides_and_its_successor_pays(world: World, agent: TestAgent) -> None:
    """The new value refreshed it: the limit is what the old one held, the charge falls on the new one."""
    lease_id = lent(agent)
    old = rotate(agent)
    world.clock.pass_s(1)
    successor = agent.refresh(lease_id, 5 * USD)
    assert isinstance(successor, Granted)

    answer = settled(agent, old, lease_id, "late", 10 * USD)

    assert (answer.booked.lease.id, answer.booked.overspent) == (successor.lease.id, 0)
    assert is_refused(agent, old, lease_id)
    with pytest.raises(InvalidTokenError):
        settle(agent, old, successor.lease.id, "later", 1)
    assert world.verify().holds


def test_a_queue_that_names_refreshed_leases_shares_one_limit(world: World, agent: TestAgent) -> None:
    """The value refreshed while it lived: both names stand for the lease that held the money at the end."""
    lease_id = lent(agent)
    successor = agent.refresh(lease_id, 5 * USD)
    assert isinstance(successor, Granted)
    world.clock.pass_s(1)
    old = rotate(agent)
    world.clock.pass_s(1)

    settled(agent, old, lease_id, "late-1", 8 * USD)
    settled(agent, old, successor.lease.id, "late-2", 7 * USD)

    assert is_refused(agent, old, lease_id)
    assert is_refused(agent, old, successor.lease.id)


def test_a_known_request_id_is_a_duplicate_whatever_is_left(world: World, agent: TestAgent) -> None:
    """A lost answer can be asked for again, and settles nothing; other content is a conflict."""
    lease_id = lent(agent)
    agent.report(lease_id, "before", 10 * USD)
    old = rotate(agent)
    world.clock.pass_s(1)

    again = settled(agent, old, lease_id, "before", 10 * USD)

    assert (again.booked.duplicate, agent.balance().spent) == (True, 10 * USD)
    with pytest.raises(RequestIdConflictError):
        settle(agent, old, lease_id, "before", 9 * USD)


def test_a_refused_report_leaves_the_limit_as_it_was(world: World, agent: TestAgent) -> None:
    """Whatever it was refused for."""
    lease_id = lent(agent)
    old = rotate(agent)
    world.clock.pass_s(1)
    with pytest.raises(ValidationError):
        settle(agent, old, lease_id, "", USD)
    assert is_refused(agent, old, lease_id, "much", 11 * USD)

    settled(agent, old, lease_id, "late", 10 * USD)

    assert agent.balance().spent == 10 * USD


def test_a_batch_books_what_fits_and_refuses_the_rest_item_by_item(world: World, agent: TestAgent) -> None:
    """Smaller ones after a refused one still fit, and the audit log has one row for the lease."""
    mine, small = lent(agent), lent(agent, 1 * USD)
    agent.report(mine, "before", 2 * USD)
    old = rotate(agent)
    newer = lent(agent)
    world.clock.pass_s(1)
    items = [
        usage(mine, "a", 5 * USD), usage(mine, "b", 4 * USD), usage(mine, "c", 3 * USD), usage(mine, "d", 1),
        usage(newer, "e", 1), usage(mine, "a", 5 * USD), usage(small, "f", 2 * USD), usage(mine, "before", 2 * USD),
    ]  # fmt: skip

    answer: BatchReported = late(agent, old, report_batch, items, prices=PRICES)

    assert [each.status for each in answer.results] == [
        "accepted", "rejected", "accepted", "rejected", "rejected", "duplicate", "rejected", "duplicate",
    ]  # fmt: skip
    refusals = [each.refusal for each in answer.results if each.refusal]
    assert {(each.code, each.message) for each in refusals} == {("AUTH_INVALID_TOKEN", InvalidTokenError().message)}
    assert refused_rows(world) == [
        (mine, '{"refused_micros":4000001,"reports":2}'), (small, '{"refused_micros":2000000,"reports":1}'),
    ]  # fmt: skip
    assert world.verify().holds


def test_what_was_refused_is_remembered_and_no_secret_with_it(world: World, agent: TestAgent) -> None:
    """Who, on which lease and how much."""
    lease_id = lent(agent)
    old = rotate(agent)
    world.clock.pass_s(1)

    settle(agent, old, lease_id, "late", 12 * USD)

    assert refused_rows(world) == [(lease_id, '{"refused_micros":12000000,"reports":1}')]
    rows = world.store.read(lambda uow: [row for row in uow.audit.rows() if row.operation == "SETTLEMENT_REFUSED"])
    assert (rows[0].outcome, rows[0].category) == ("denied", "budget")
    assert old not in repr(rows)


def refused_rows(world: World) -> list[tuple[str | None, str]]:
    rows = world.store.read(lambda uow: [row for row in uow.audit.rows() if row.operation == "SETTLEMENT_REFUSED"])
    return [(row.resource_id, row.metadata.replace(" ", "")) for row in rows]


@pytest.mark.parametrize(("after_ms", "is_over"), [(0, False), (60_000, False), (60_001, True)])
def test_settling_ends_when_its_time_is_over(world: World, agent: TestAgent, after_ms: int, *, is_over: bool) -> None:
    """The last millisecond counts as in time."""
    world.policy = replace(world.policy, settle=60_000)
    lease_id = lent(agent)
    old = rotate(agent)
    world.clock.instant += after_ms

    assert is_refused(agent, old, lease_id) is is_over


def test_an_operator_may_allow_no_settling_at_all(world: World, agent: TestAgent) -> None:
    """0 is not even the same millisecond."""
    world.policy = replace(world.policy, settle=0)
    lease_id = lent(agent)
    old = rotate(agent)

    assert is_refused(agent, old, lease_id)


@pytest.mark.parametrize("gen", [0, 2, 3, 99])
def test_a_generation_that_never_died_does_not_settle(world: World, agent: TestAgent, gen: int) -> None:
    """Whatever is signed: the record knows when each value died."""
    lease_id = lent(agent)
    old = rotate(agent)
    claims = world.signer.prove(old, now=world.clock.now()).claims
    made = world.signer.sign(replace(claims, gen=gen, issued_at=claims.issued_at - 1000))

    assert is_refused(agent, made, lease_id)


def test_a_value_of_another_agents_record_does_not_settle(world: World, agent: TestAgent) -> None:
    """The record names its agent; it is not even let through."""
    old = rotate(agent)
    other = world.agent(name="other")
    claims: IcTokenClaims = world.signer.prove(old, now=world.clock.now()).claims
    made = world.signer.sign(replace(claims, agent_id=other.id))

    with pytest.raises(InvalidTokenError):
        late(agent, made, lambda *_, **__: None)


def test_what_dies_in_the_future_is_not_dead(world: World, agent: TestAgent) -> None:
    """During an overlap the old value alone is alive, and another one of its generation is nothing."""
    lease_id = lent(agent)
    old = rotate(agent, overlap_s=60)
    claims = world.signer.prove(old, now=world.clock.now()).claims
    made = world.signer.sign(replace(claims, issued_at=claims.issued_at - 1000))

    assert is_refused(agent, made, lease_id)
    assert not is_refused(agent, old, lease_id)


def test_a_value_that_was_replaced_before_deaths_were_noted_stays_dead(world: World, agent: TestAgent) -> None:
    """Also when its overlap was over before the token is changed again: nothing dies a second time."""
    lease_id = lent(agent)
    old = agent.token

    def replace_as_before(uow: UnitOfWork) -> None:
        record = uow.ic_tokens.find_active_of(agent.id)
        assert record is not None
        overlap = {"previous_hash": record.value_hash, "previous_until": uow.now + 60_000}
        uow.ic_tokens.put(record._replace(gen=2, value_hash="another", **overlap))  # type: ignore[arg-type]  # two of them

    world.store.write(replace_as_before)
    world.clock.pass_s(60)
    rotate(agent)

    assert is_refused(agent, old, lease_id)


def test_a_token_without_the_permission_settles_nothing(world: World) -> None:
    """Alive it would be told what it lacks; dead it is told that it is dead."""
    agent = world.agent()
    lease_id = lent(agent)
    delete_token(agent)
    issued = world.store.write(
        partial(issue_ic_token, agent_id=agent.id, permissions=["analytics:write"], actor=ADMIN, signer=world.signer)
    )
    agent.token = issued.value
    mute = rotate(agent)

    with pytest.raises(InvalidTokenError):
        settle(agent, mute, lease_id, "late", 1)


OTHER_USES: dict[str, Callable[..., object]] = {
    "handshake": lambda uow, who, world, _: handshake(uow, who, HandshakeRequest(), sealing=world.sealing),
    "refresh": lambda uow, who, world, lease_id: refresh(uow, who, lease_id, sealing=world.sealing),
    "key": lambda uow, who, *_: key_of_agent(uow, who),
    "any other call": lambda _, who, *__: check_may_call(who),
    "look": lambda uow, who, *_: check_sees(any_agent(uow, who.agent_id), who),
    "list": lambda _, who, *__: scope_of(who),
}


@pytest.mark.parametrize("name", OTHER_USES)
def test_a_dead_value_that_was_let_through_is_good_for_nothing_else(world: World, agent: TestAgent, name: str) -> None:
    """Should a route ask for it by mistake, the use case refuses."""
    lease_id = lent(agent)
    old = rotate(agent)
    presented = world.signer.prove(old, now=world.clock.now())
    before = agent.entries()

    def use(uow: UnitOfWork) -> None:
        identity: AgentIdentity = authenticate(uow, presented, settle=world.policy.settle)
        OTHER_USES[name](uow, identity, world, lease_id)

    with pytest.raises(InvalidTokenError):
        world.store.write(use)
    assert agent.entries() == before


def test_without_being_asked_to_nobody_lets_a_dead_value_through(world: World, agent: TestAgent) -> None:
    """Settling is an exception that a caller must name."""
    lent(agent)
    presented = world.signer.prove(rotate(agent), now=world.clock.now())

    with pytest.raises(InvalidTokenError):
        world.store.write(partial(authenticate, presented=presented))


@pytest.fixture
def city(tmp_path: Path) -> Iterator[World]:
    """A world on a file."""
    clock = SetClock()
    with SqliteStore(tmp_path / "books.db", clock=clock) as store:
        yield World(store, clock, LeasePolicy())


def test_parallel_settling_never_passes_what_was_held(city: World) -> None:
    """Sixty-four reports of a dollar at once on ten dollars: ten are booked, whoever comes first."""
    agent = city.agent()
    lease_id = lent(agent)
    old = rotate(agent)
    city.clock.pass_s(1)

    def one(number: int) -> bool:
        try:
            return isinstance(settle(agent, old, lease_id, f"late-{number}", USD), Reported)
        except RefusalError:
            return False

    with ThreadPoolExecutor(16) as pool:
        booked = list(pool.map(one, range(64)))

    assert (sum(booked), agent.balance().spent) == (10, 10 * USD)
    assert sum(amount.count("refused") for _, amount in refused_rows(city)) == 54
    assert city.verify().holds
