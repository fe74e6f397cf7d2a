"""Reservations: a thin runtime sets aside what a call may cost, and reports or cancels it."""

from collections.abc import Callable
from functools import partial

import pytest

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.reservations import Reservation
from ironcage_core.errors.access import InsufficientScopeError
from ironcage_core.errors.money import (
    AlreadyReportedError,
    BudgetExceededError,
    LeaseClosedError,
    LeaseExpiredError,
    LeaseNotFoundError,
    LeaseRevokedError,
    NoActiveLeaseError,
    RequestIdConflictError,
    ReservationNotFoundError,
)
from ironcage_core.errors.tree import ForbiddenError, RefusalError, ValidationError
from ironcage_core.services.expiry import sweep
from ironcage_core.services.granting import Granted
from ironcage_core.services.leasing import revoke_leases
from ironcage_core.services.reporting import report
from ironcage_core.services.reserving import (
    Reserved,
    ReserveRequest,
    cancel_reservation,
    forget_reservations,
    reserve,
)
from ironcage_core.services.usage_retention import purge_usage
from tests.support.stores import in_one_commit, raw
from tests.support.world import ADMIN, NOON, PRICES, USD, TestAgent, World, usage


def set_aside(
    agent: TestAgent, request_id: str, amount: int, lease_id: str | None = None, ttl_s: int | None = None
) -> Reserved:
    return agent.call(reserve, ReserveRequest(request_id, amount, lease_id, ttl_s))


def cancel(agent: TestAgent, request_id: str) -> int:
    return agent.call(lambda uow, identity, **_: cancel_reservation(uow, identity, request_id))


def stored(agent: TestAgent, request_id: str) -> Reservation:
    found = agent.world.store.read(lambda uow: uow.reservations.find(agent.id, request_id))
    assert found is not None
    return found


def reserved_on(world: World, lease_id: str) -> int:
    return world.store.read(lambda uow: uow.reservations.sums([lease_id], uow.now).get(lease_id, 0))


def refreshed(agent: TestAgent, lease_id: str) -> str:
    outcome = agent.refresh(lease_id, USD)
    assert isinstance(outcome, Granted)
    return outcome.lease.id


# --- what is set aside ------------------------------------------------------


def test_a_reservation_keeps_its_amount_from_other_reservations_and_moves_no_money(world: World) -> None:
    """E10: available is held minus what is set aside; ledger, balance and lease stay as they were."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease
    before = (agent.kinds(), agent.balance(), agent.lease(lease.id))

    first = set_aside(agent, "a", 4 * USD)
    second = set_aside(agent, "b", 5 * USD, lease.id)

    assert first.reservation == Reservation(agent.id, "a", lease.id, 4 * USD, "open", NOON, NOON + 300_000)
    assert (first.is_new, first.replayed, first.available, second.available) == (True, False, 6 * USD, USD)
    assert (agent.kinds(), agent.balance(), agent.lease(lease.id)) == before
    assert reserved_on(world, lease.id) == 9 * USD


def test_exactly_all_that_is_left_can_be_set_aside_and_then_only_nothing(world: World) -> None:
    """All or nothing: one micro-USD more is refused and leaves no trace; 0 always succeeds."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    agent.report(lease, "r", 2 * USD)
    set_aside(agent, "a", 3 * USD)

    with pytest.raises(BudgetExceededError) as refusal:
        set_aside(agent, "b", 5 * USD + 1)
    exact = set_aside(agent, "b", 5 * USD)
    nothing = set_aside(agent, "c", 0)

    assert refusal.value.details == {
        "scope": "lease", "available": 5 * USD, "requested": 5 * USD + 1, "spent": 2 * USD, "limit": 10 * USD,
    }  # fmt: skip
    assert (exact.is_new, exact.available, nothing.available) == (True, 0, 0)


def test_calls_that_cost_more_than_was_set_aside_leave_nothing_and_never_less(world: World) -> None:
    """Reports are facts: they may eat the hold under a reservation, which stays open; 0 still succeeds."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    set_aside(agent, "a", 6 * USD)
    agent.report(lease, "other", 7 * USD)

    with pytest.raises(BudgetExceededError) as refusal:
        set_aside(agent, "b", 1)

    assert refusal.value.details["available"] == 0
    assert set_aside(agent, "c", 0).available == 0


def test_the_time_of_a_reservation_ends_it_to_the_millisecond(world: World) -> None:
    """The limit itself counts as over; the default is 300 seconds."""
    agent = world.agent()
    agent.handshake(10 * USD)
    set_aside(agent, "usual", 4 * USD)
    set_aside(agent, "short", 6 * USD, ttl_s=1)

    world.clock.pass_s(0.999)
    with pytest.raises(BudgetExceededError):
        set_aside(agent, "x", 1)
    world.clock.pass_s(0.001)

    assert set_aside(agent, "x", 6 * USD).available == 0
    world.clock.pass_s(299)
    assert set_aside(agent, "y", 4 * USD).available == 0


def test_a_reservation_is_no_sign_of_life(world: World) -> None:
    """Only reports and refreshes keep a lease."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease
    world.clock.pass_s(100)

    set_aside(agent, "a", USD)

    assert agent.lease(lease.id).expires_at == lease.expires_at


# --- the same call again ----------------------------------------------------


def test_asking_again_while_it_is_open_answers_the_same_and_changes_nothing(world: World) -> None:
    """Not even its time; a lease that a refresh has replaced names the one it is on now."""
    agent = world.agent()
    old = agent.handshake(10 * USD).lease.id
    first = set_aside(agent, "a", 4 * USD)
    world.clock.pass_s(10)

    again = set_aside(agent, "a", 4 * USD, ttl_s=3600)
    new = refreshed(agent, old)
    moved = [set_aside(agent, "a", 4 * USD, each) for each in (None, old, new)]

    assert (again.reservation, again.available, again.is_new) == (first.reservation, 6 * USD, False)
    assert [each.reservation for each in moved] == [first.reservation._replace(lease_id=new)] * 3


def test_another_lease_for_an_open_one_is_a_conflict(world: World) -> None:
    """Nothing is said to be set aside on a lease where it is not."""
    agent = world.agent()
    agent.handshake(10 * USD)
    first = set_aside(agent, "a", 4 * USD)
    other = agent.handshake(10 * USD).lease.id

    with pytest.raises(RequestIdConflictError):
        set_aside(agent, "a", 4 * USD, other)

    assert stored(agent, "a") == first.reservation
    assert reserved_on(world, other) == 0


def test_another_amount_for_an_open_one_is_a_conflict(world: World) -> None:
    """Also a smaller one, and nothing changes."""
    agent = world.agent()
    agent.handshake(10 * USD)
    first = set_aside(agent, "a", 4 * USD)

    for amount in (4 * USD - 1, 4 * USD + 1, 0):
        with pytest.raises(RequestIdConflictError):
            set_aside(agent, "a", amount)

    assert stored(agent, "a") == first.reservation


@pytest.mark.parametrize("amount", [3 * USD, 4 * USD])
@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_one_that_has_ended_is_opened_anew(world: World, end: str, amount: int) -> None:
    """With whatever amount, for its full time."""
    agent = world.agent()
    agent.handshake(10 * USD)
    set_aside(agent, "a", 4 * USD)
    if end == "cancelled":
        cancel(agent, "a")
    world.clock.pass_s(300)

    again = set_aside(agent, "a", amount)

    assert (again.is_new, again.available) == (True, 10 * USD - amount)
    assert (stored(agent, "a").created_at, stored(agent, "a").expires_at) == (NOON + 300_000, NOON + 600_000)


@pytest.mark.parametrize("was_reserved", [True, False])
@pytest.mark.parametrize("is_purged", [True, False])
def test_a_call_that_was_reported_is_not_reserved_any_more(world: World, was_reserved: bool, is_purged: bool) -> None:
    """Whether it was reserved before or not, and for ever: also after its record was purged."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    if was_reserved:
        set_aside(agent, "a", USD)
    agent.report(lease, "a", 0)
    if is_purged:
        world.clock.pass_s(40 * 86_400)
        world.store.write(partial(purge_usage, record_days=1, hour_days=1, limit=10))
        lease = agent.handshake(10 * USD).lease.id

    with pytest.raises(AlreadyReportedError):
        set_aside(agent, "a", USD, lease)


def test_request_ids_are_each_agent_s_own(world: World) -> None:
    """One agent's reservation is nobody else's conflict, and nobody else's to cancel."""
    agent, other = world.agent(), world.agent()
    agent.handshake()
    other.handshake()
    set_aside(agent, "a", USD)

    with pytest.raises(ReservationNotFoundError):
        cancel(other, "a")
    assert set_aside(other, "a", 2 * USD).is_new
    assert stored(agent, "a").amount == USD


# --- which lease ------------------------------------------------------------


def test_without_a_lease_id_the_only_active_lease_is_meant(world: World) -> None:
    """None is a conflict, several are a matter of the field; one in its grace counts as none."""
    agent = world.agent()
    with pytest.raises(NoActiveLeaseError):
        set_aside(agent, "a", USD)
    agent.handshake(USD, ttl_s=10)
    world.clock.pass_s(10)
    with pytest.raises(NoActiveLeaseError):
        set_aside(agent, "a", USD)
    active = agent.handshake(USD).lease.id

    assert set_aside(agent, "a", USD).reservation.lease_id == active
    agent.handshake(USD)
    with pytest.raises(ValidationError) as refusal:
        set_aside(agent, "b", USD)
    assert list(refusal.value.fields) == ["lease_id"]


def test_a_lease_of_somebody_else_or_of_nobody_is_refused(world: World) -> None:
    """403 and 404, before anything is looked at."""
    agent, other = world.agent(), world.agent()
    foreign = other.handshake().lease.id

    with pytest.raises(ForbiddenError) as refusal:
        set_aside(agent, "a", USD, foreign)
    assert refusal.type is ForbiddenError
    for unknown in ("lease_" + "0" * 32, "nonsense", ""):
        with pytest.raises(LeaseNotFoundError):
            set_aside(agent, "a", USD, unknown)


def in_grace(agent: TestAgent) -> str:
    lease = agent.handshake(USD).lease.id
    agent.world.clock.pass_s(3600)
    return lease


def exhausted(agent: TestAgent) -> str:
    lease = agent.handshake(USD).lease.id
    agent.report(lease, "r", USD)
    return lease


def over(agent: TestAgent) -> str:
    lease = agent.handshake(USD).lease.id
    agent.world.clock.pass_s(3660)
    return lease


def returned(agent: TestAgent) -> str:
    lease = agent.handshake(USD).lease.id
    agent.return_lease(lease)
    return lease


def superseded(agent: TestAgent) -> str:
    lease = agent.handshake(USD, runtime_id="box").lease.id
    agent.handshake(USD, runtime_id="box")
    return lease


def revoked(agent: TestAgent) -> str:
    lease = agent.handshake(USD).lease.id
    agent.world.store.write(lambda uow: revoke_leases(uow, [lease], reason="manual", actor=ADMIN))
    return lease


def refreshed_and_returned(agent: TestAgent) -> str:
    lease = agent.handshake(USD).lease.id
    agent.return_lease(refreshed(agent, lease))
    return lease


def refreshed_and_over(agent: TestAgent) -> str:
    lease = agent.handshake(USD).lease.id
    refreshed(agent, lease)
    agent.world.clock.pass_s(3660)
    return lease


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (in_grace, LeaseExpiredError),
        (exhausted, LeaseExpiredError),
        (over, LeaseExpiredError),
        (returned, LeaseClosedError),
        (superseded, LeaseClosedError),
        (revoked, LeaseRevokedError),
        (refreshed_and_returned, LeaseClosedError),
        (refreshed_and_over, LeaseExpiredError),
    ],
)
def test_each_state_of_a_lease_refuses_as_the_table_says(
    world: World, make: Callable[[TestAgent], str], error: type[RefusalError]
) -> None:
    """Contract budget.md 2, row reserve; not even 0 is set aside."""
    agent = world.agent()
    lease = make(agent)

    with pytest.raises(error):
        set_aside(agent, "a", 0, lease)

    assert raw(world.store, "SELECT * FROM reservations") == []


def test_a_refreshed_lease_stands_for_its_last_successor(world: World) -> None:
    """However many refreshes there were."""
    agent = world.agent()
    first = agent.handshake(USD).lease.id
    last = refreshed(agent, refreshed(agent, first))

    made = set_aside(agent, "a", 3 * USD, first)

    assert (made.reservation.lease_id, made.available) == (last, 0)


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"request_id": ""}, {"request_id"}),
        ({"request_id": "x" * 101}, {"request_id"}),
        ({"request_id": "a\nb"}, {"request_id"}),
        ({"request_id": "."}, {"request_id"}),
        ({"request_id": ".."}, {"request_id"}),
        ({"amount": -1}, {"amount"}),
        ({"amount": 1000 * USD + 1}, {"amount"}),
        ({"amount": True}, {"amount"}),
        ({"ttl_s": 0}, {"ttl_seconds"}),
        ({"ttl_s": 3601}, {"ttl_seconds"}),
        ({"request_id": "", "amount": -1, "ttl_s": -1, "lease_id": "x"}, {"request_id", "amount", "ttl_seconds"}),
    ],
)
def test_bad_fields_are_named(world: World, fields: dict[str, object], bad: set[str]) -> None:
    """All of them at once."""
    agent = world.agent(2000 * USD)
    agent.handshake(1000 * USD)
    request = ReserveRequest(**{"request_id": "a", "amount": 1, **fields})  # type: ignore[arg-type]  # as the test says

    with pytest.raises(ValidationError) as refusal:
        agent.call(reserve, request)

    assert set(refusal.value.fields) == bad


@pytest.mark.parametrize(("amount", "ttl_s", "length"), [(1000 * USD, 3600, 100), (0, 1, 1)])
def test_the_limits_of_fields_are_themselves_allowed(world: World, amount: int, ttl_s: int, length: int) -> None:
    """1000 USD, an hour and a hundred characters; nothing, a second and one."""
    agent = world.agent(2000 * USD)
    agent.handshake(1000 * USD)

    made = set_aside(agent, "é" * length, amount, ttl_s=ttl_s)

    assert made.reservation.expires_at == NOON + ttl_s * 1000


def test_a_token_without_the_permission_neither_reserves_nor_cancels(world: World) -> None:
    """`llm:call` is needed."""
    agent = world.agent()
    identity = AgentIdentity(agent.id, "ict", 1, ("analytics:write",), token="")

    for use_case in (
        partial(reserve, identity=identity, request=ReserveRequest("", -1)),
        partial(cancel_reservation, identity=identity, request_id="a"),
    ):
        with pytest.raises(InsufficientScopeError):
            world.store.write(use_case)


# --- how it ends ------------------------------------------------------------


def test_cancelling_releases_once(world: World) -> None:
    """The second time it is 0; what is unknown is not found."""
    agent = world.agent()
    agent.handshake(10 * USD)
    set_aside(agent, "a", 10 * USD)

    assert [cancel(agent, "a"), cancel(agent, "a")] == [10 * USD, 0]
    assert set_aside(agent, "b", 10 * USD).available == 0
    with pytest.raises(ReservationNotFoundError):
        cancel(agent, "c")


def test_cancelling_one_whose_time_is_over_releases_nothing(world: World) -> None:
    """Its amount came back before."""
    agent = world.agent()
    agent.handshake(10 * USD)
    set_aside(agent, "a", USD)
    world.clock.pass_s(300)

    assert cancel(agent, "a") == 0


@pytest.mark.parametrize("in_a_batch", [False, True])
def test_a_report_of_the_call_commits_the_reservation(world: World, in_a_batch: bool) -> None:
    """What it cost is spent, the rest of what was set aside is free again; it cannot be cancelled any more."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    set_aside(agent, "a", 4 * USD)
    set_aside(agent, "b", 6 * USD)

    if in_a_batch:
        batch = agent.report_batch([usage(lease, "x", 0), usage(lease, "a", USD), usage(lease, "a", USD)])
        assert [each.status for each in batch.results] == ["accepted", "accepted", "duplicate"]
    else:
        agent.report(lease, "a", USD)

    assert stored(agent, "a").status == "committed"
    assert set_aside(agent, "c", 3 * USD).available == 0
    with pytest.raises(AlreadyReportedError):
        cancel(agent, "a")


def test_a_refused_report_commits_nothing(world: World) -> None:
    """An item of a batch that is rejected leaves its reservation open."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    set_aside(agent, "a", USD)

    agent.report_batch([usage("lease_" + "0" * 32, "a", USD), usage(lease, "b", USD)])

    assert stored(agent, "a").status == "open"


@pytest.mark.parametrize("end", ["cancelled", "expired", "other lease"])
def test_a_report_commits_whatever_became_of_the_reservation(world: World, end: str) -> None:
    """A call that was reported is never reserved or released again, on whatever lease it was reported."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    set_aside(agent, "a", USD)
    if end == "cancelled":
        cancel(agent, "a")
    if end == "expired":
        world.clock.pass_s(300)
    agent.report(agent.handshake(USD).lease.id if end == "other lease" else lease, "a", USD)

    with pytest.raises(AlreadyReportedError):
        cancel(agent, "a")
    assert reserved_on(world, lease) == 0


def test_a_refresh_takes_open_reservations_along(world: World) -> None:
    """They count against the successor; those that have ended stay where they were."""
    agent = world.agent()
    old = agent.handshake(10 * USD).lease.id
    set_aside(agent, "open", 4 * USD)
    set_aside(agent, "gone", USD)
    cancel(agent, "gone")

    new = refreshed(agent, old)

    assert [stored(agent, each).lease_id for each in ("open", "gone")] == [new, old]
    assert (reserved_on(world, old), reserved_on(world, new)) == (0, 4 * USD)
    assert cancel(agent, "open") == 4 * USD


def test_a_refresh_is_replayed_until_a_reservation_is_made_on_the_successor(world: World) -> None:
    """One that the refresh took along does not count; one that was cancelled neither."""
    agent = world.agent()
    old = agent.handshake(10 * USD).lease.id
    set_aside(agent, "taken along", USD)
    world.clock.pass_s(1)
    new = refreshed(agent, old)

    assert refreshed(agent, old) == new
    set_aside(agent, "made", 0)
    with pytest.raises(LeaseClosedError) as refusal:
        agent.refresh(old)
    assert refusal.value.details["successor_lease_id"] == new
    cancel(agent, "made")
    assert refreshed(agent, old) == new


def test_a_denied_refresh_leaves_reservations_where_they_are(world: World) -> None:
    """The old lease stays as it was."""
    agent = world.agent(10 * USD)
    lease = agent.handshake(10 * USD).lease.id
    set_aside(agent, "a", USD)

    agent.refresh(lease)

    assert reserved_on(world, lease) == USD


def handshake_again(agent: TestAgent, _: str) -> None:
    agent.handshake(USD, runtime_id="box")


def revoke(agent: TestAgent, lease_id: str) -> None:
    agent.world.store.write(lambda uow: revoke_leases(uow, [lease_id], reason="manual", actor=ADMIN))


def let_it_pass(agent: TestAgent, _: str) -> None:
    agent.world.clock.pass_s(70)
    agent.world.store.write(sweep)


@pytest.mark.parametrize("end", [TestAgent.return_lease, handshake_again, revoke, let_it_pass])
def test_the_end_of_a_lease_releases_what_is_set_aside_on_it(
    world: World, end: Callable[[TestAgent, str], object]
) -> None:
    """Return, supersede, revocation and the end of the grace; others keep theirs, and there is nothing to cancel."""
    agent = world.agent()
    lease = agent.handshake(USD, runtime_id="box", ttl_s=10).lease.id
    other = agent.handshake(USD).lease.id
    set_aside(agent, "a", USD, lease)
    set_aside(agent, "b", USD, other)

    end(agent, lease)

    assert [stored(agent, each).status for each in "ab"] == ["released", "open"]
    assert cancel(agent, "a") == 0
    assert (reserved_on(world, lease), reserved_on(world, other)) == (0, USD)


def test_a_lease_in_its_grace_keeps_what_is_set_aside(world: World) -> None:
    """Its hold is there for calls that are under way."""
    agent = world.agent()
    lease = agent.handshake(USD, ttl_s=10).lease.id
    set_aside(agent, "a", USD)
    world.clock.pass_s(10)

    assert agent.report(lease, "a", USD).booked.overspent == 0
    assert stored(agent, "a").status == "committed"


def test_the_end_of_a_grace_is_seen_by_who_cancels_before_any_sweep(world: World) -> None:
    """Time works by itself."""
    agent = world.agent()
    agent.handshake(USD, ttl_s=10)
    set_aside(agent, "a", USD)
    world.clock.pass_s(70)

    assert cancel(agent, "a") == 0


def test_reservations_are_forgotten_a_day_after_their_time(world: World) -> None:
    """In small batches; what was reported stays known as reported."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id
    for request_id in "abc":
        set_aside(agent, request_id, 0)
    agent.report(lease, "a", 0)
    forget = partial(forget_reservations, limit=2)

    world.clock.instant = NOON + 300_000 + MS_PER_DAY
    early = world.store.write(forget)
    world.clock.instant += 1
    counts = [world.store.write(forget) for _ in range(3)]

    assert (early, counts) == (0, [2, 1, 0])
    with pytest.raises(ReservationNotFoundError):
        cancel(agent, "b")
    with pytest.raises(AlreadyReportedError):
        set_aside(agent, "a", 0, agent.handshake(USD).lease.id)


def test_reservations_that_share_a_commit_see_each_other(world: World) -> None:
    """What is set aside counts before it is written, and what was released, moved or reported does not."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    identity = AgentIdentity(agent.id, "ict", 1, ("llm:call",), token="")
    calls = [partial(reserve, identity=identity, request=ReserveRequest(each, 4 * USD)) for each in "abc"]
    release = partial(cancel_reservation, identity=identity, request_id="a")
    charge = partial(report, identity=identity, reported=usage(lease, "b", 0), prices=PRICES)

    outcomes = in_one_commit(world.store, calls[0], calls[1], calls[2], release, calls[2], charge, calls[0])

    assert [type(each.error) for each in outcomes] == [
        type(None), type(None), BudgetExceededError, type(None), type(None), type(None), type(None),
    ]  # fmt: skip
    assert [stored(agent, each).status for each in "abc"] == ["open", "committed", "open"]
    assert reserved_on(world, lease) == 8 * USD
