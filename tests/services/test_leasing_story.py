"""The protocol's own examples and the life of a lease, as stories."""

import json
from collections.abc import Callable

import pytest

from ironcage_core.domain.audit import SYSTEM
from ironcage_core.errors.money import (
    BudgetExceededError,
    LeaseClosedError,
    LeaseExpiredError,
    LeaseNotFoundError,
    LeaseRevokedError,
    TooManyLeasesError,
)
from ironcage_core.errors.resources import AgentInactiveError, NoProviderAssignedError, OwnerSuspendedError
from ironcage_core.errors.tree import ForbiddenError, ValidationError
from ironcage_core.ports.lists import BalanceFilter, EntryFilter, LeaseFilter, Paging
from ironcage_core.services.allocations import budget_of, list_budgets, list_entries
from ironcage_core.services.expiry import sweep
from ironcage_core.services.granting import Granted
from ironcage_core.services.lease_records import get_lease, list_leases
from ironcage_core.services.leasing import Denied, revoke_leases
from ironcage_storage.sealed.ip_tokens import IpTokenError, open_ip_token
from tests.support.world import API_KEY, USD, TestAgent, World


def refreshed(agent: TestAgent, lease_id: str, requested: int) -> Granted:
    outcome = agent.refresh(lease_id, requested)
    assert isinstance(outcome, Granted)
    return outcome


def test_a_handshake_lends_ten_of_a_hundred_dollars(world: World) -> None:
    """Protocol 005: 100 allocated, handshake 10, remaining 90."""
    agent = world.agent(100 * USD)

    granted = agent.handshake(10 * USD)

    assert (granted.new_money, granted.balance.remaining) == (10 * USD, 90 * USD)
    assert agent.kinds() == [("adjust", 100 * USD), ("grant", 10 * USD)]


def test_the_ip_token_opens_to_the_provider_key_for_its_lease_alone(world: World) -> None:
    """The key is bound to agent, lease and IC token."""
    agent = world.agent()
    granted, other = agent.handshake(USD), agent.handshake(USD)
    binding = {"ic_token": agent.token, "agent_id": agent.id, "provider": "openai"}

    assert open_ip_token(granted.ip_token, lease_id=granted.lease.id, **binding) == API_KEY
    with pytest.raises(IpTokenError):
        open_ip_token(granted.ip_token, lease_id=other.lease.id, **binding)


def test_a_refresh_rolls_over_what_the_old_lease_held(world: World) -> None:
    """Protocol 005: spent 9.15 of 10, refresh 10: held 10.85, remaining 80.00."""
    agent = world.agent(100 * USD)
    first = agent.handshake(10 * USD).lease.id
    agent.report(first, "r1", 9_150_000)

    second = refreshed(agent, first, 10 * USD)

    assert (second.new_money, second.rolled_over) == (10 * USD, 850_000)
    assert (second.balance.held, second.balance.remaining, second.balance.spent) == (10_850_000, 80 * USD, 9_150_000)
    old = agent.lease(first)
    assert (old.status, old.status_reason, old.held, old.successor_id) == ("closed", "refreshed", 0, second.lease.id)


def test_a_return_gives_back_what_was_not_spent(world: World) -> None:
    """Protocol 005: spent 7 of 10, return 3: remaining 93.00."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease.id
    agent.report(lease, "r1", 7 * USD)

    closed = agent.return_lease(lease)

    assert (closed.returned, closed.balance.remaining, closed.lease.status) == (3 * USD, 93 * USD, "closed")
    assert agent.return_lease(lease).already_closed
    assert agent.balance().remaining == 93 * USD


def test_a_grant_is_clipped_to_what_remains_and_the_next_is_refused(world: World) -> None:
    """Partial grants are normal; nothing left is a refusal that says what holds the money."""
    agent = world.agent(15 * USD)

    assert agent.handshake(10 * USD).new_money == 10 * USD
    assert agent.handshake(10 * USD).new_money == 5 * USD
    with pytest.raises(BudgetExceededError) as refusal:
        agent.handshake(10 * USD)

    details = dict(refusal.value.details)
    assert details.pop("frees_at") == world.clock.now() + 3660_000  # the hour it lives, and the grace
    assert details == {"scope": "agent", "spent": 0, "limit": 15 * USD, "held": 15 * USD, "remaining": 0}


def test_a_refusal_tells_no_time_when_none_brings_money(world: World) -> None:
    """What is lent will come back, but more than all of it is spent beyond the budget."""
    agent = world.agent(15 * USD)
    lease = agent.handshake(10 * USD).lease.id
    agent.handshake(5 * USD)
    details = []

    for request_id, cost in (("most", 15 * USD - 1), ("rest", 1)):
        agent.report(lease, request_id, cost)
        with pytest.raises(BudgetExceededError) as refusal:
            agent.handshake(USD)
        details.append(refusal.value.details)

    assert [each["held"] for each in details] == [5 * USD] * 2
    assert [each["remaining"] for each in details] == [1 - 5 * USD, -5 * USD]
    assert details[0]["frees_at"] is not None
    assert details[1]["frees_at"] is None


def test_the_owner_s_monthly_cap_clips_grants_until_the_month_turns(world: World) -> None:
    """The bank counts this month's spend and every open hold; a new month starts clean while holds carry over."""
    world.cap(12 * USD)
    agent, other = world.agent(100 * USD), world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease.id
    agent.report(lease, "r1", 10 * USD)

    assert other.handshake(10 * USD).new_money == 2 * USD
    with pytest.raises(BudgetExceededError) as refusal:
        agent.handshake()
    assert refusal.value.details["scope"] == "user_month"

    world.clock.pass_s(11 * 86_400)
    assert agent.handshake(10 * USD, runtime_id="a").new_money == 10 * USD
    assert world.verify().holds


def test_a_handshake_supersedes_the_lease_of_the_same_runtime(world: World) -> None:
    """A retry with a runtime id never holds money twice."""
    agent = world.agent(10 * USD)
    first = agent.handshake(10 * USD, runtime_id="box-1").lease.id

    second = agent.handshake(10 * USD, runtime_id="box-1")

    assert second.new_money == 10 * USD
    assert agent.lease(first).status_reason == "superseded"
    assert agent.balance().held == 10 * USD


def test_idle_leases_expire_and_their_money_comes_back_after_the_grace(world: World) -> None:
    """Expiry is inclusive; during the grace the hold stays; reads apply the clock with or without a sweep."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease.id

    world.clock.pass_s(3599.999)
    assert world.store.read(lambda uow: get_lease(uow, lease)).status == "active"
    world.clock.pass_s(0.001)
    assert world.store.read(lambda uow: get_lease(uow, lease)).status == "expired"
    assert agent.balance().held == 10 * USD
    world.clock.pass_s(60)
    view = world.store.read(lambda uow: budget_of(uow, agent.id))

    assert (view.balance.remaining, view.open_leases) == (100 * USD, [])
    closed = agent.lease(lease)
    assert (closed.status, closed.status_reason, closed.reclaimed) == ("closed", "expired", 10 * USD)


def test_the_sweep_and_a_late_reader_write_the_same_lease(world: World) -> None:
    """The instants follow from the row, not from who notices when."""
    swept, read = world.agent(), world.agent()
    a, b = swept.handshake().lease.id, read.handshake().lease.id
    world.clock.pass_s(3600)
    world.store.write(sweep)
    world.clock.pass_s(61)
    world.store.write(lambda uow: sweep(uow, limit=1))
    world.clock.pass_s(1000)
    world.store.read(lambda uow: get_lease(uow, b))

    left, right = swept.lease(a), read.lease(b)
    assert (left.expired_at, left.closed_at, left.reclaimed) == (right.expired_at, right.closed_at, right.reclaimed)


def test_reports_keep_a_lease_alive_up_to_its_lifetime(world: World) -> None:
    """A live runtime never loses its lease, until the maximum lifetime."""
    agent = world.agent(1000 * USD)
    lease = agent.handshake(100 * USD).lease.id
    for hour in range(30):
        world.clock.pass_s(3000)
        outcome = agent.report(lease, f"r{hour}", 1)
        if outcome.booked.lease.status != "active":
            break

    assert hour == 28  # 29 * 3000 s > 86400 s
    assert agent.lease(lease).expires_at == agent.lease(lease).lives_until


def test_a_lease_that_was_kept_alive_is_looked_at_once_and_not_again_before_its_time(world: World) -> None:
    """Its row says when to look again; a sweep that finds it alive moves that on, and nothing else."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease
    world.clock.pass_s(3000)
    agent.report(lease.id, "alive", USD)
    world.clock.pass_s(1000)

    aged = [world.store.write(sweep).aged for _ in range(2)]

    assert aged == [1, 0]
    after = agent.lease(lease.id)
    assert (after.status, after.due_at, after.expires_at - lease.expires_at) == ("active", after.expires_at, 3000_000)


def test_only_a_refresh_revives_a_lease_in_its_grace(world: World) -> None:
    """A report during the grace is paid from the hold and does not revive."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease.id
    world.clock.pass_s(3610)

    late = agent.report(lease, "late", USD)
    assert (late.booked.overspent, late.booked.lease.status, late.stop) == (0, "expired", True)
    assert refreshed(agent, lease, USD).lease.status == "active"


def test_a_refresh_answers_for_each_state_of_the_lease(world: World) -> None:
    """Contract budget.md 2: replay, closed, expired, revoked."""
    agent = world.agent(100 * USD)
    returned, expired, revoked, old = (agent.handshake(USD).lease.id for _ in range(4))
    agent.return_lease(returned)
    world.store.write(lambda uow: revoke_leases(uow, [revoked], reason="manual", actor=SYSTEM))
    new = refreshed(agent, old, USD)

    again = refreshed(agent, old, USD)
    assert (again.replayed, again.lease.id, again.new_money) == (True, new.lease.id, new.new_money)
    agent.report(new.lease.id, "first use", 0)
    with pytest.raises(LeaseClosedError) as closed:
        agent.refresh(old)
    assert closed.value.details["successor_lease_id"] == new.lease.id
    with pytest.raises(LeaseClosedError):
        agent.refresh(returned)
    with pytest.raises(LeaseRevokedError):
        agent.refresh(revoked)
    world.clock.pass_s(3660)
    with pytest.raises(LeaseExpiredError):
        agent.refresh(expired)


def test_a_refresh_without_money_is_denied_and_changes_nothing(world: World) -> None:
    """Denied is an answer; the old lease stays as it was."""
    agent = world.agent(10 * USD)
    lease = agent.handshake(10 * USD).lease.id
    before = agent.kinds()

    outcome = agent.refresh(lease, USD)

    assert isinstance(outcome, Denied)
    assert outcome.reason == "total_budget_exhausted"
    assert agent.kinds() == before
    assert agent.lease(lease).status == "active"


def test_after_a_change_of_owner_the_rest_is_returned_not_rolled_over(world: World) -> None:
    """Rows of old leases stay with the old bank; the new lease draws on the new owner's."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease.id
    world.store.write(
        lambda uow: uow.users.put(
            uow.users.find(world.owner_id)._replace(id="user_" + "b" * 32, username="bob", email="b@test")  # type: ignore[union-attr]
        )
    )
    world.store.write(
        lambda uow: uow.agents.put(uow.agents.find(agent.id)._replace(owner_id="user_" + "b" * 32))  # type: ignore[union-attr]
    )

    new = refreshed(agent, lease, 4 * USD)

    assert (new.rolled_over, new.lease.granted, new.lease.bank_user_id) == (0, 4 * USD, "user_" + "b" * 32)
    assert agent.balance().remaining == 96 * USD
    assert world.verify().holds


def test_a_final_spend_above_the_books_is_booked_once(world: World) -> None:
    """What a return reconciles is eaten by the reports that come after it."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease.id
    agent.report(lease, "r1", 2 * USD)

    closed = agent.return_lease(lease, final_spent=5 * USD)
    late = agent.report(lease, "r2", 3 * USD)
    later = agent.report(lease, "r3", USD)

    assert (closed.discrepancy, closed.returned, closed.lease.unattributed) == (-3 * USD, 5 * USD, 3 * USD)
    assert (late.booked.overspent, late.balance.spent) == (0, 5 * USD)
    assert (later.booked.overspent, later.balance.spent) == (USD, 6 * USD)
    assert world.verify().holds


@pytest.mark.parametrize("final", [-1, 1003 * USD, 1.5, True])
def test_an_impossible_final_spend_is_refused_and_the_lease_lives_on(world: World, final: int) -> None:
    """Negative, implausible or not a whole amount: 400 and no effect."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease.id
    agent.report(lease, "r1", 2 * USD)

    with pytest.raises(ValidationError):
        agent.return_lease(lease, final_spent=final)

    assert agent.lease(lease).status == "active"


def test_returning_a_refreshed_lease_closes_its_successor(world: World) -> None:
    """Shutdown is repeatable with whatever lease id the runtime remembers."""
    agent = world.agent(100 * USD)
    first = agent.handshake(10 * USD).lease.id
    second = refreshed(agent, first, USD).lease.id

    closed = agent.return_lease(first, final_spent=999 * USD)

    assert (closed.successor_id, closed.lease.status, closed.discrepancy) == (second, "closed", 0)
    assert agent.balance().held == 0


@pytest.mark.parametrize("operation", ["report", "refresh", "return"])
def test_a_foreign_or_unknown_lease_moves_nothing(world: World, operation: str) -> None:
    """Another agent's lease is forbidden, an unknown one is not found, and neither leaves a trace."""
    agent, thief = world.agent(), world.agent()
    lease = agent.handshake().lease.id
    calls: dict[str, Callable[[str], object]] = {
        "report": lambda lease_id: thief.report(lease_id, "r", USD),
        "refresh": thief.refresh,
        "return": thief.return_lease,
    }

    with pytest.raises(ForbiddenError):
        calls[operation](lease)
    for unknown in ("lease_" + "0" * 32, "nonsense", "\ud800"):
        with pytest.raises((LeaseNotFoundError, ValidationError)):
            calls[operation](unknown)

    assert agent.kinds() == [("adjust", 100 * USD), ("grant", 10 * USD)]
    assert thief.kinds() == [("adjust", 100 * USD)]


def test_an_agent_that_is_held_back_gets_no_money_but_its_reports_are_booked(world: World) -> None:
    """Stopped, inactive, failed: no grant; the spend has happened all the same."""
    for change, reason in (({"stop_hold": 1}, "stopped"), ({"status": "inactive"}, "inactive"),
                           ({"runtime_status": "failed"}, "failed")):  # fmt: skip
        agent = world.agent()
        lease = agent.handshake().lease.id
        world.store.write(lambda uow, a=agent, c=change: uow.agents.put(uow.agents.find(a.id)._replace(**c)))  # type: ignore[misc]

        with pytest.raises(AgentInactiveError) as refusal:
            agent.handshake()
        with pytest.raises(AgentInactiveError):
            agent.refresh(lease)

        assert refusal.value.details == {"reason": reason}
        assert agent.report(lease, "r", USD).stop


def test_a_suspended_owner_stops_new_money_only(world: World) -> None:
    """Open leases run on: report and return work."""
    agent = world.agent()
    lease = agent.handshake().lease.id
    world.store.write(lambda uow: uow.users.put(uow.users.find(world.owner_id)._replace(status="suspended")))  # type: ignore[union-attr]

    with pytest.raises(OwnerSuspendedError):
        agent.handshake()
    assert not agent.report(lease, "r", USD).stop
    assert agent.return_lease(lease).returned == 9 * USD


def test_an_agent_holds_at_most_fifty_open_leases(world: World) -> None:
    """The fifty-first handshake is refused and costs nothing."""
    agent = world.agent(1000 * USD)
    for _ in range(50):
        agent.handshake(USD)

    with pytest.raises(TooManyLeasesError):
        agent.handshake(USD)
    assert agent.balance().held == 50 * USD


@pytest.mark.parametrize("requested", [0, -1, 1_000_000_001, True, 1.5])
def test_an_impossible_request_is_refused_before_anything_else(world: World, requested: int) -> None:
    """0 < x <= 1000 dollars, whole micro-USD."""
    agent = world.agent()

    with pytest.raises(ValidationError):
        agent.handshake(requested)
    assert agent.kinds() == [("adjust", 100 * USD)]


def revoked(world: World, *lease_ids: str) -> int:
    return len(world.store.write(lambda uow: revoke_leases(uow, lease_ids, reason="manual", actor=SYSTEM)))


def test_a_revocation_takes_back_the_rest_of_open_leases_only(world: World) -> None:
    """What was spent stays spent; a lease that time has closed is not revoked; asking again changes nothing."""
    agent = world.agent(100 * USD)
    lease, old = agent.handshake(10 * USD).lease.id, agent.handshake(10 * USD, ttl_s=1).lease.id
    agent.report(lease, "r1", 4 * USD)
    world.clock.pass_s(120)

    assert revoked(world, lease, old, lease) == 1
    assert revoked(world, lease) == 0

    assert (agent.lease(lease).reclaimed, agent.lease(old).status_reason) == (6 * USD, "expired")
    assert agent.balance().remaining == 96 * USD
    assert world.verify().holds
    with pytest.raises(LeaseNotFoundError):
        revoked(world, "lease_" + "0" * 32)


def test_lists_apply_the_clock_without_a_sweep(world: World) -> None:
    """An idle lease reads as closed and its money as back, for everybody who lists it."""
    agent = world.agent(100 * USD)
    agent.handshake(10 * USD)
    world.clock.pass_s(3 * 3600)

    budgets, totals = world.store.read(lambda uow: list_budgets(uow, BalanceFilter(), Paging()))

    assert (totals.held, budgets.rows[0][1].remaining) == (0, 100 * USD)
    agent.handshake(10 * USD)
    world.clock.pass_s(3 * 3600)
    assert world.store.read(lambda uow: list_leases(uow, LeaseFilter(status="active"), Paging())).total == 0
    agent.handshake(10 * USD)
    world.clock.pass_s(3 * 3600)
    assert world.store.read(lambda uow: list_entries(uow, EntryFilter(kind="reclaim"), Paging())).total == 3


def test_every_release_of_the_key_is_audited(world: World) -> None:
    """Handshake, refresh and the replay of a refresh each hand out a sealed key."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id
    agent.refresh(lease)
    agent.refresh(lease)

    operations = world.store.read(lambda uow: [row.operation for row in uow.audit.rows()])

    assert operations.count("CREDENTIAL_ACCESSED") == 3
    assert (operations.count("LEASE_GRANTED"), operations.count("LEASE_REFRESHED")) == (1, 1)


def test_a_refresh_needs_the_key_to_be_assigned_still(world: World) -> None:
    """Taking a key from an agent takes it from its refreshes."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, []))

    with pytest.raises(NoProviderAssignedError):
        agent.refresh(lease)


def test_a_repeated_return_answers_as_the_first_one_did(world: World) -> None:
    """Same numbers, already closed."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id

    first, again = agent.return_lease(lease, 3 * USD), agent.return_lease(lease, 3 * USD)

    assert (first.discrepancy, again.discrepancy) == (-3 * USD, -3 * USD)
    assert (first.returned, again.returned, again.already_closed) == (7 * USD, 7 * USD, True)


def test_a_return_that_tells_of_spend_too_late_is_remembered(world: World) -> None:
    """A lease that ended by itself books nothing more, but the difference is in the audit log."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    agent.report(lease, "known", 2 * USD)
    world.clock.pass_s(3 * 3600)

    told = agent.return_lease(lease, 7 * USD)

    noted = world.store.read(lambda uow: [row for row in uow.audit.rows() if row.operation == "BUDGET_DISCREPANCY"])
    assert (told.already_closed, told.discrepancy, told.lease.total_spent) == (True, -5 * USD, 2 * USD)
    assert [(row.resource_id, json.loads(row.metadata)["discrepancy_micros"]) for row in noted] == [(lease, -5 * USD)]


def test_a_lease_whose_books_are_broken_does_not_hold_up_the_sweep(world: World) -> None:
    """It is named, and the others get their money back."""
    broken, sound = world.agent(), world.agent()
    bad, good = broken.handshake().lease.id, sound.handshake().lease.id
    wrong = broken.balance()._replace(held=0)
    world.store.write(lambda uow: uow.balances.put(wrong))
    world.clock.pass_s(2 * 3600)

    swept = world.store.write(sweep)

    assert (swept.aged, swept.stuck) == (1, (bad,))
    assert sound.lease(good).status == "closed"
    assert sound.balance().held == 0
