"""Pending spend: what events tell of calls counts beside the books until a report settles it or its lease is over."""

from collections.abc import Callable
from functools import partial

import pytest

from ironcage_core.domain.access import Principal, principal_of
from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.call_events import COMPLETED, FAILED, CallEvent
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.errors.faults import InvariantViolationError
from ironcage_core.errors.tree import ConflictError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agent_changes import delete_agent
from ironcage_core.services.agent_states import stop_agent
from ironcage_core.services.expiry import sweep
from ironcage_core.services.granting import Granted
from ironcage_core.services.ic_token_changes import revoke_ic_token
from ironcage_core.services.ingestion import forget_calls, ingest
from ironcage_core.services.lease_records import get_lease
from ironcage_core.services.leasing import revoke_leases
from ironcage_core.services.past_budgets import budget_at
from ironcage_core.services.pending import add_pending, settle_pending
from ironcage_core.services.provider_key_changes import revoke_leases_on_key
from ironcage_core.services.repair import repair
from ironcage_core.services.usage_retention import purge_usage
from ironcage_core.services.verify import Difference
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.pending import tell_of_call
from tests.support.stores import in_one_commit
from tests.support.world import ADMIN, NOON, USD, SetClock, TestAgent, World


def pending(agent: TestAgent, *lease_ids: str) -> tuple[int, ...]:
    """Return what is pending in the agent's balance and on each lease; the books are proven on the way."""
    assert agent.world.verify().differences == []
    return (agent.balance().pending, *(agent.lease(each).pending for each in lease_ids))


def refreshed(agent: TestAgent, lease_id: str) -> str:
    granted = agent.refresh(lease_id, USD)
    assert isinstance(granted, Granted)
    return granted.lease.id


def miscount(agent: TestAgent, in_balance: int, lease_id: str = "", on_lease: int = 0) -> None:
    """Store wrong numbers, as a bug would."""

    def put(uow: UnitOfWork) -> None:
        balance, lease = uow.balances.find(agent.id), uow.leases.find(lease_id)
        assert balance is not None
        uow.balances.put(balance._replace(pending=in_balance))
        if lease is not None:
            uow.leases.put(lease._replace(pending=on_lease))

    agent.world.store.write(put)


# --- what counts ------------------------------------------------------------


def test_an_event_leaves_its_cost_pending(world: World) -> None:
    """On its lease and in the agent's balance; costs add up."""
    agent = world.agent()
    first, second = agent.handshake(USD).lease.id, agent.handshake(USD).lease.id

    for number, lease_id in enumerate((first, second, first)):
        tell_of_call(agent, lease_id, f"c{number}", 10 + number)

    assert pending(agent, first, second) == (33, 22, 11)


def test_calls_of_one_batch_are_pending_together(world: World) -> None:
    """New ones, and such as have failed and are completed after all."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id

    def event(request_id: str, *, cost: int | None) -> CallEvent:
        kind = FAILED if cost is None else COMPLETED
        return CallEvent(
            f"{kind} of {request_id}", kind, "gpt-test", "openai", NOON, 60, 40, cost,
            request_id=request_id, lease_id=lease,
        )  # fmt: skip

    def tell(*events: CallEvent) -> set[str]:
        return {each.status for each in agent.call(ingest, events, admit=lambda _: None, key_days=None)}

    assert tell(event("c1", cost=None), event("c2", cost=None), event("c3", cost=2), event("c4", cost=3)) == {
        "accepted"
    }
    assert pending(agent, lease) == (5, 5)

    assert tell(event("c1", cost=10), event("c2", cost=20)) == {"accepted"}
    assert pending(agent, lease) == (35, 35)


def test_pending_money_is_in_no_book(world: World) -> None:
    """Neither the ledger, nor what is held or remains, nor the month knows of it."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease
    before = agent.balance()

    tell_of_call(agent, lease.id, "c1", 70 * USD)

    assert agent.balance()._replace(pending=0, alert_level=0) == before
    assert agent.lease(lease.id)._replace(pending=0) == lease
    assert agent.kinds() == [("adjust", 100 * USD), ("grant", 10 * USD)]


def test_pending_money_holds_no_grant_up(world: World) -> None:
    """Though more is pending than there is."""
    agent = world.agent(20 * USD)
    lease = agent.handshake(10 * USD).lease.id
    tell_of_call(agent, lease, "c1", 500 * USD)

    assert agent.handshake(10 * USD).lease.granted == 10 * USD


def test_a_call_of_no_lease_is_never_pending(world: World) -> None:
    """Nor is one whose lease is over."""
    agent = world.agent()
    over = agent.handshake(USD).lease.id
    agent.return_lease(over)

    tell_of_call(agent, None, "c1", 5)
    tell_of_call(agent, over, "c2", 5)

    assert pending(agent, over) == (0, 0)


def test_a_call_in_the_grace_of_its_lease_is_pending(world: World) -> None:
    """An expired lease is open."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id
    world.clock.pass_s(3600)

    tell_of_call(agent, lease, "c1", 5)

    assert (agent.lease(lease).status, pending(agent, lease)) == ("expired", (5, 5))


def test_one_agents_calls_are_not_anothers(world: World) -> None:
    """Each balance has its own."""
    first, second = world.agent(), world.agent(name="second")
    tell_of_call(first, first.handshake(USD).lease.id, "c1", 5)

    assert (pending(first), pending(second)) == ((5,), (0,))


# --- settling ---------------------------------------------------------------


def test_a_report_settles_what_the_event_told(world: World) -> None:
    """All of it, whatever the report says of the cost; other calls stay pending."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id
    tell_of_call(agent, lease, "c1", 50)
    tell_of_call(agent, lease, "c2", 7)

    agent.report(lease, "c1", 40)

    assert pending(agent, lease) == (7, 7)
    assert (agent.balance().spent, agent.lease(lease).spent) == (40, 40)


def test_a_report_on_another_lease_settles_what_its_event_left_on_the_first(world: World) -> None:
    """Where it was counted, not where it is charged; what is pending on the charged lease stays."""
    agent = world.agent()
    told, charged = agent.handshake(USD).lease.id, agent.handshake(USD).lease.id
    tell_of_call(agent, told, "c1", 50)
    tell_of_call(agent, charged, "c2", 60)

    agent.report(charged, "c1", 50)

    assert pending(agent, told, charged) == (60, 0, 60)


def test_a_report_that_uses_the_hold_up_leaves_the_rest_pending(world: World) -> None:
    """The lease expires, and is still open."""
    agent = world.agent()
    lease = agent.handshake(100).lease.id
    tell_of_call(agent, lease, "c1", 100)
    tell_of_call(agent, lease, "c2", 7)

    agent.report(lease, "c1", 100)

    assert (agent.lease(lease).status, pending(agent, lease)) == ("expired", (7, 7))


def test_a_report_behind_the_end_of_the_lease_settles_nothing(world: World) -> None:
    """What was pending went with the lease; another lease's stays."""
    agent = world.agent()
    lease, other = agent.handshake(USD).lease.id, agent.handshake(USD).lease.id
    tell_of_call(agent, lease, "c1", 50)
    tell_of_call(agent, other, "c2", 7)
    agent.return_lease(lease)

    agent.report(lease, "c1", 50)

    assert pending(agent, lease, other) == (7, 0, 7)


def test_a_wrong_count_does_not_stand_in_the_way_of_a_report(world: World) -> None:
    """What is pending stops at nothing, and the report is booked."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id
    tell_of_call(agent, lease, "c1", 50)
    miscount(agent, 10, lease, 20)

    agent.report(lease, "c1", 50)

    assert (pending(agent, lease), agent.balance().spent) == ((0, 0), 50)


def test_more_than_can_be_stored_is_a_fault(world: World) -> None:
    """And nothing of the unit is kept."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id

    with pytest.raises(InvariantViolationError):
        world.store.write(lambda uow: add_pending(uow, agent.id, lease, 2**62 + 1))

    assert pending(agent, lease) == (0, 0)


def test_the_most_that_can_be_stored_may_be_pending(world: World) -> None:
    """To the last micro-USD."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id

    world.store.write(lambda uow: add_pending(uow, agent.id, lease, 2**62))

    assert (agent.balance().pending, agent.lease(lease).pending) == (2**62, 2**62)


# --- refresh ----------------------------------------------------------------


def test_a_refresh_takes_along_what_is_pending(world: World) -> None:
    """The balance keeps it; the old lease is over."""
    agent = world.agent()
    old = agent.handshake(USD).lease.id
    tell_of_call(agent, old, "c1", 50)

    new = refreshed(agent, old)

    assert pending(agent, old, new) == (50, 0, 50)


def test_a_call_of_a_refreshed_lease_is_pending_on_the_last_of_its_line(world: World) -> None:
    """And its report settles it there."""
    agent = world.agent()
    old = agent.handshake(USD).lease.id
    tell_of_call(agent, old, "c1", 50)
    middle = refreshed(agent, old)
    last = refreshed(agent, middle)

    tell_of_call(agent, old, "c2", 7)
    assert pending(agent, old, middle, last) == (57, 0, 0, 57)

    agent.report(old, "c1", 50)
    assert pending(agent, old, middle, last) == (7, 0, 0, 7)

    agent.report(old, "c2", 7)
    assert pending(agent, old, middle, last) == (0, 0, 0, 0)


def test_a_refresh_that_is_denied_leaves_what_is_pending(world: World) -> None:
    """The lease stays, and so does it."""
    agent = world.agent(10 * USD)
    lease = agent.handshake(10 * USD).lease.id
    tell_of_call(agent, lease, "c1", 50)

    assert not isinstance(agent.refresh(lease), Granted)

    assert pending(agent, lease) == (50, 50)


# --- the end of a lease -----------------------------------------------------


def _root(world: World) -> Principal:
    add_root = partial(add_user, username="root", email="root@test", role="admin", actor=SYSTEM)
    return principal_of(world.store.write(add_root))


def _stop(agent: TestAgent, _: str) -> None:
    agent.world.store.write(partial(stop_agent, agent_id=agent.id, principal=_root(agent.world)))


def _delete(agent: TestAgent, _: str) -> None:
    agent.world.store.write(partial(delete_agent, agent_id=agent.id, principal=_root(agent.world)))


def _look_later(agent: TestAgent, lease_id: str) -> None:
    agent.world.clock.pass_s(3660)
    agent.world.store.write(partial(get_lease, lease_id=lease_id))


def _sweep_later(agent: TestAgent, _: str) -> None:
    agent.world.clock.pass_s(3660)
    assert agent.world.store.write(sweep).stuck == ()


def _revoke(agent: TestAgent, lease_id: str) -> None:
    agent.world.store.write(partial(revoke_leases, lease_ids=[lease_id], reason="manual", actor=ADMIN))


def _disable_key(agent: TestAgent, _: str) -> None:
    key_id = agent.world.key_id
    agent.world.store.write(partial(revoke_leases_on_key, key_id=key_id, reason="provider_key_disabled", actor=ADMIN))


ENDS: dict[str, Callable[[TestAgent, str], object]] = {
    "a return": lambda agent, lease: agent.return_lease(lease),
    "a return with its spend": lambda agent, lease: agent.return_lease(lease, USD),
    "time, seen by a call": _look_later,
    "time, seen by the sweep": _sweep_later,
    "a new handshake of its runtime": lambda agent, _: agent.handshake(USD, runtime_id="one"),
    "a revocation": _revoke,
    "the end of its key": _disable_key,
    "the end of its token": lambda agent, _: agent.world.store.write(
        partial(revoke_ic_token, agent_id=agent.id, actor=ADMIN)
    ),
    "a stop of its agent": _stop,
    "the deletion of its agent": _delete,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_with_its_lease_ends_what_is_pending(world: World, end: Callable[[TestAgent, str], object]) -> None:
    """However that ends; the balance keeps none of it."""
    agent = world.agent()
    lease = agent.handshake(2 * USD, runtime_id="one").lease.id
    tell_of_call(agent, lease, "c1", USD)

    end(agent, lease)

    assert not agent.lease(lease).is_open
    assert pending(agent, lease) == (0, 0)


def test_the_end_of_one_lease_leaves_what_is_pending_on_others(world: World) -> None:
    """Only its own part goes."""
    agent = world.agent()
    one, other = agent.handshake(USD).lease.id, agent.handshake(USD).lease.id
    tell_of_call(agent, one, "c1", 50)
    tell_of_call(agent, other, "c2", 7)

    agent.return_lease(one)

    assert pending(agent, one, other) == (7, 0, 7)


def test_expiry_alone_keeps_what_is_pending(world: World) -> None:
    """Until its grace is over."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id
    tell_of_call(agent, lease, "c1", 50)

    world.clock.pass_s(3659.999)
    world.store.write(sweep)
    assert pending(agent, lease) == (50, 50)

    world.clock.pass_s(0.001)
    world.store.write(sweep)
    assert pending(agent, lease) == (0, 0)


def test_a_wrong_count_does_not_keep_a_lease_from_ending(world: World) -> None:
    """Its money comes back."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id
    tell_of_call(agent, lease, "c1", 50)
    miscount(agent, 20)

    _sweep_later(agent, lease)

    assert (agent.balance().held, pending(agent, lease)) == (0, (0, 0))


# --- reads, verification, repair --------------------------------------------


def test_of_an_earlier_time_nothing_is_said_of_what_was_pending(world: World) -> None:
    """The ledger does not know it."""
    agent = world.agent()
    tell_of_call(agent, agent.handshake(USD).lease.id, "c1", 50)

    assert world.store.write(lambda uow: budget_at(uow, agent.id, NOON)).balance.pending == 0


@pytest.mark.parametrize("wrong", [0, 99])
@pytest.mark.parametrize("table", ["leases", "agent_budgets"])
def test_a_wrong_count_is_named_and_mended(world: World, table: str, wrong: int) -> None:
    """By lease and by agent, along the line of refreshes; what is right is left alone."""
    agent, other = world.agent(), world.agent(name="second")
    old = agent.handshake(USD).lease.id
    tell_of_call(agent, old, "c1", 50)
    tell_of_call(agent, old, "c2", 60)
    last = refreshed(agent, refreshed(agent, old))
    tell_of_call(agent, old, "c3", 7)
    agent.report(old, "c2", 60)
    tell_of_call(agent, agent.handshake(USD).lease.id, "c4", 1)
    over = agent.handshake(USD).lease.id
    tell_of_call(agent, over, "c5", 500)
    agent.return_lease(over)
    tell_of_call(other, other.handshake(USD).lease.id, "c1", 3)
    assert pending(agent, last) == (58, 57)
    assert world.store.write(repair).rows == {}

    if table == "leases":
        miscount(agent, 58, last, wrong)
        found = Difference(last, "pending", wrong, 57)
    else:
        miscount(agent, wrong)
        found = Difference(agent.id, "pending", wrong, 58)
    assert world.verify().differences == [found]

    mended = world.store.write(repair)
    assert (mended.rows, mended.now.differences, pending(agent, last)) == ({table: 1}, [], (58, 57))


def test_a_record_that_was_purged_is_pending_still(world: World) -> None:
    """As long as its lease is open: what is kept of it tells its cost."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id
    tell_of_call(agent, lease, "c1", 50, occurred_at=NOON - 9 * MS_PER_DAY)
    tell_of_call(agent, lease, "c2", 7)
    world.store.write(partial(purge_usage, record_days=7, hour_days=7, limit=100))
    assert world.store.read(lambda uow: uow.usage.find(agent.id, "c1")) is None

    assert pending(agent, lease) == (57, 57)
    assert world.store.write(repair).rows == {}


def test_a_call_that_is_forgotten_is_pending_no_more(world: World) -> None:
    """Nobody could settle it; other calls stay pending, and so does what was reported."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id
    tell_of_call(agent, lease, "c1", 50, occurred_at=NOON - 9 * MS_PER_DAY)
    tell_of_call(agent, lease, "c2", 9, occurred_at=NOON - 9 * MS_PER_DAY)
    tell_of_call(agent, lease, "c3", 7)
    agent.report(lease, "c2", 9)
    world.store.write(partial(purge_usage, record_days=7, hour_days=7, limit=100))

    assert world.store.write(partial(forget_calls, key_days=8, limit=100)) == 1

    assert pending(agent, lease) == (7, 7)
    assert world.store.write(repair).rows == {}


def test_what_is_pending_outlives_the_process(tmp_path: object) -> None:
    """It is stored with the lease and with the budget."""
    clock = SetClock()
    with SqliteStore(f"{tmp_path}/iron.db", clock=clock) as store:
        agent = World(store, clock).agent()
        lease = agent.handshake(USD).lease.id
        tell_of_call(agent, lease, "c1", 50)
    with SqliteStore(f"{tmp_path}/iron.db", clock=clock) as store:
        agent.world.store = store

        assert pending(agent, lease) == (50, 50)


def test_units_that_share_a_commit_see_each_others_pending(world: World) -> None:
    """Also when one of them is refused."""
    agent = world.agent()
    lease = agent.handshake(USD).lease.id

    def adding(cost: int, *, refused: bool = False) -> Callable[[UnitOfWork], None]:
        def add(uow: UnitOfWork) -> None:
            add_pending(uow, agent.id, lease, cost)
            if refused:
                raise ConflictError("no")

        return add

    in_one_commit(world.store, adding(5), adding(100, refused=True), adding(7))
    world.store.write(lambda uow: settle_pending(uow, agent.id, lease, 2))

    assert (agent.balance().pending, agent.lease(lease).pending) == (10, 10)
