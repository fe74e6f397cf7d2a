"""Idempotency keys: a request that names one is done once, and its retries are told what it did."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.idempotency import KEPT_FOR, RetryKey
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.users import UserStatus
from ironcage_core.errors.money import (
    AlreadyReportedError,
    BudgetExceededError,
    IdempotencyKeyReusedError,
    LeaseClosedError,
    LeaseExpiredError,
    LeaseNotFoundError,
    LeaseRevokedError,
    NoActiveLeaseError,
    RequestIdConflictError,
)
from ironcage_core.errors.resources import AgentInactiveError, OwnerSuspendedError, UnsupportedProviderError
from ironcage_core.errors.tree import ForbiddenError, IroncageError, RefusalError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.granting import Granted
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.leasing import Denied, Returned, refresh, return_lease, revoke_leases
from ironcage_core.services.reserving import Reserved, ReserveRequest, cancel_reservation, reserve
from ironcage_core.services.retries import forget_answers
from ironcage_storage.sealed.ip_tokens import open_ip_token
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.stores import raw
from tests.support.world import ADMIN, API_KEY, NOON, USD, SetClock, TestAgent, World

RETRIES = 10


def key_of(agent: TestAgent, key: str = "k", body: str = "body", scope: str = "POST /x") -> RetryKey:
    return RetryKey(f"{agent.id} {scope}", key, body)


def shake(agent: TestAgent, retry: RetryKey | None, **fields: Any) -> Granted:  # noqa: ANN401 - of a request
    request = HandshakeRequest(**{"requested": 10 * USD, **fields})
    return agent.call(handshake, request, sealing=agent.world.sealing, retry=retry)


def renew(agent: TestAgent, lease_id: str, retry: RetryKey | None) -> Granted | Denied:
    return agent.call(refresh, lease_id, 5 * USD, sealing=agent.world.sealing, retry=retry)


def renewed(agent: TestAgent, lease_id: str, retry: RetryKey | None) -> Granted:
    outcome = renew(agent, lease_id, retry)
    assert isinstance(outcome, Granted)
    return outcome


def give_back(agent: TestAgent, lease_id: str, retry: RetryKey | None, final: int | None = None) -> Returned:
    return agent.call(return_lease, lease_id, final, retry=retry)


def set_aside(agent: TestAgent, retry: RetryKey | None, lease_id: str | None = None, amount: int = USD) -> Reserved:
    return agent.call(reserve, ReserveRequest("call", amount, lease_id), retry=retry)


def traces(agent: TestAgent) -> dict[str, object]:
    """Return everything that must have happened once: money, what is told, what is counted, leases."""
    store = agent.world.store
    return {
        "ledger": agent.kinds(),
        "feed": raw(store, "SELECT count(*) FROM feed"),
        "requests": raw(store, "SELECT sum(n) FROM limit_windows WHERE kind = 'requests'"),
        "leases": raw(store, "SELECT count(*) FROM leases"),
        "reservations": raw(store, "SELECT * FROM reservations"),
        "balance": agent.balance(),
    }


def operations(agent: TestAgent) -> list[str]:
    rows = agent.world.store.read(lambda uow: list(uow.audit.rows()))
    return [row.operation for row in rows if row.actor_id == agent.id]


def set_status(uow: UnitOfWork, user_id: str, status: UserStatus) -> None:
    user = uow.users.find(user_id)
    assert user is not None
    uow.users.put(user._replace(status=status))


def set_stopped(uow: UnitOfWork, agent_id: str) -> None:
    agent = uow.agents.find(agent_id)
    assert agent is not None
    uow.agents.put(agent._replace(stop_hold=1))


def revoke(agent: TestAgent, lease_id: str) -> None:
    agent.world.store.write(lambda uow: revoke_leases(uow, [lease_id], reason="manual", actor=ADMIN))


# --- once --------------------------------------------------------------------


def test_a_retried_handshake_gets_the_lease_of_the_first_sealed_anew(world: World) -> None:
    """No money, no event, no counted request a second time; the released credential is written down again."""
    agent = world.agent()
    retry = key_of(agent)
    first = shake(agent, retry, runtime_id="box")
    before = traces(agent)
    told = operations(agent)

    again = shake(agent, retry, runtime_id="box")

    assert (first.replayed, again.replayed) == (False, True)
    assert (again.lease, again.new_money, again.rolled_over) == (first.lease, 10 * USD, 0)
    assert again.ip_token != first.ip_token
    binding = {"ic_token": agent.token, "agent_id": agent.id, "provider": "openai", "lease_id": first.lease.id}
    assert open_ip_token(again.ip_token, **binding) == API_KEY
    assert traces(agent) == before
    assert operations(agent)[len(told) :] == ["CREDENTIAL_ACCESSED"]


def test_a_retried_refresh_gets_its_successor_however_used_it_is(world: World) -> None:
    """Ids and amounts of the first answer, the balance of now."""
    agent = world.agent()
    retry = key_of(agent)
    old = agent.handshake(10 * USD).lease.id
    agent.report(old, "r1", 4 * USD)
    first = renewed(agent, old, retry)
    agent.report(first.lease.id, "r2", 2 * USD)
    before, told = traces(agent), operations(agent)

    again = renewed(agent, old, retry)

    assert (again.lease.id, again.new_money, again.rolled_over) == (first.lease.id, 5 * USD, 6 * USD)
    assert (first.balance.spent, again.balance.spent, again.replayed) == (4 * USD, 6 * USD, True)
    assert traces(agent) == before
    assert operations(agent)[len(told) :] == ["CREDENTIAL_ACCESSED"]


def test_a_retried_return_tells_what_the_first_gave_back(world: World) -> None:
    """Even where late reports have changed what the lease has spent; only the balance is that of now."""
    agent = world.agent()
    retry = key_of(agent)
    lease = agent.handshake(10 * USD).lease.id
    agent.report(lease, "r1", 3 * USD)
    first = give_back(agent, lease, retry, 4 * USD)
    agent.report(lease, "late", 3 * USD)
    before, told = traces(agent), operations(agent)

    again = give_back(agent, lease, retry, 4 * USD)

    numbers = ("returned", "final_spent", "discrepancy", "already_closed", "successor_id")
    assert [getattr(first, name) for name in numbers] == [6 * USD, 4 * USD, -USD, False, None]
    assert [getattr(again, name) for name in numbers] == [getattr(first, name) for name in numbers]
    assert (first.replayed, again.replayed) == (False, True)
    assert (first.balance.remaining, again.balance.remaining) == (96 * USD, 94 * USD)
    assert (traces(agent), operations(agent)) == (before, told)


def test_a_retried_return_of_a_refreshed_lease_names_the_successor_it_closed(world: World) -> None:
    """As the first answer did."""
    agent = world.agent()
    old = agent.handshake(10 * USD).lease.id
    new = renewed(agent, old, None).lease.id

    answers = [give_back(agent, old, key_of(agent)) for _ in range(2)]

    assert [(each.successor_id, each.lease.id, each.returned) for each in answers] == [(new, new, 15 * USD)] * 2


def test_a_retried_reservation_is_the_first_one_while_it_is_open(world: World) -> None:
    """It is not opened anew; what the lease has left is that of now."""
    agent = world.agent()
    retry = key_of(agent)
    lease = agent.handshake(10 * USD).lease.id
    first = set_aside(agent, retry)
    agent.report(lease, "other", 2 * USD)
    world.clock.pass_s(299)
    before = traces(agent)

    again = set_aside(agent, retry)

    assert (again.reservation, again.is_new, again.replayed) == (first.reservation, True, True)
    assert (first.available, again.available) == (9 * USD, 7 * USD)
    assert traces(agent) == before


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_a_retried_reservation_that_has_ended_is_made_and_remembered_anew(world: World, end: str) -> None:
    """Nothing is confirmed that is not set aside; where there is no room for it any more it is refused."""
    agent = world.agent()
    retry = key_of(agent)
    lease = agent.handshake(10 * USD).lease.id
    first = set_aside(agent, retry)
    if end == "cancelled":
        agent.call(lambda uow, identity, **_: cancel_reservation(uow, identity, "call"))
    world.clock.pass_s(300)

    anew, again = set_aside(agent, retry), set_aside(agent, retry)

    assert anew.reservation.expires_at == first.reservation.expires_at + 300_000
    assert [(each.is_new, each.replayed, each.available) for each in (anew, again)] == [
        (True, False, 9 * USD), (True, True, 9 * USD),
    ]  # fmt: skip
    assert again.reservation == anew.reservation
    world.clock.pass_s(300)
    agent.report(lease, "other", 10 * USD - 1)
    with pytest.raises(BudgetExceededError):
        set_aside(agent, retry)


def test_a_retried_reservation_whose_call_was_reported_is_refused(world: World) -> None:
    """Also after the lease was closed."""
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    set_aside(agent, key_of(agent))
    agent.report(lease, "call", USD)

    for _ in range(2):
        with pytest.raises(AlreadyReportedError):
            set_aside(agent, key_of(agent))
        agent.return_lease(lease)


def test_a_retried_reservation_follows_its_lease(world: World) -> None:
    """A refresh took it along, and the answer names the lease it is on."""
    agent = world.agent()
    old = agent.handshake(10 * USD).lease.id
    first = set_aside(agent, key_of(agent), old)
    new = renewed(agent, renewed(agent, old, None).lease.id, None).lease.id

    again = set_aside(agent, key_of(agent), old)

    assert (again.reservation, again.replayed) == (first.reservation._replace(lease_id=new), True)
    assert again.available == 19 * USD


def test_a_call_that_was_reserved_again_without_the_key_is_not_what_the_key_did(world: World) -> None:
    """It is judged as any other request: another amount is a conflict, the same amount is there already."""
    agent = world.agent()
    agent.handshake(10 * USD)
    set_aside(agent, key_of(agent))
    world.clock.pass_s(300)
    set_aside(agent, None, amount=2 * USD)

    with pytest.raises(RequestIdConflictError):
        set_aside(agent, key_of(agent))
    world.clock.pass_s(300)
    set_aside(agent, None)
    again = set_aside(agent, key_of(agent))

    assert (again.is_new, again.replayed) == (False, False)


def test_without_a_key_or_with_another_one_each_request_counts(world: World) -> None:
    """Also the same key of another principal, method or path."""
    agent, other = world.agent(), world.agent()
    keys = [None, None, key_of(agent), key_of(agent, "l"), key_of(agent, scope="POST /y")]

    leases = [shake(agent, each).lease.id for each in keys] + [shake(other, key_of(other)).lease.id]

    assert len(set(leases)) == 6


# --- refusals ----------------------------------------------------------------


def test_a_key_that_was_used_for_another_body_is_refused(world: World) -> None:
    """On each of the calls, with no effect."""
    agent = world.agent()
    old = agent.handshake(10 * USD).lease.id
    other = agent.handshake(10 * USD).lease.id
    calls: tuple[Callable[[RetryKey], object], ...] = (
        partial(shake, agent),
        partial(renew, agent, old),
        lambda retry: set_aside(agent, retry, other),
        partial(give_back, agent, other),
    )
    for index, call in enumerate(calls):
        call(key_of(agent, str(index)))
        before = traces(agent)

        with pytest.raises(IdempotencyKeyReusedError):
            call(key_of(agent, str(index), body="another"))

        assert traces(agent) == before


def test_a_handshake_looks_for_its_key_between_the_agent_and_its_provider(world: World) -> None:
    """After AGENT_INACTIVE and OWNER_SUSPENDED, before anything about keys and money, as the table of errors says."""
    world.cap(10 * USD)
    agent = world.agent(10 * USD)
    retry = key_of(agent)
    first = shake(agent, retry)

    again = shake(agent, retry, provider="unknown to the product")
    with pytest.raises(UnsupportedProviderError):
        shake(agent, None, provider="unknown to the product")
    with pytest.raises(ValidationError):
        shake(agent, retry, requested=0)

    assert again.lease.id == first.lease.id
    world.store.write(partial(set_status, user_id=world.owner_id, status="suspended"))
    with pytest.raises(OwnerSuspendedError):
        shake(agent, retry)
    world.store.write(partial(set_status, user_id=world.owner_id, status="active"))
    world.store.write(partial(set_stopped, agent_id=agent.id))
    with pytest.raises(AgentInactiveError):
        shake(agent, retry)


def test_the_others_look_for_their_key_once_the_lease_is_found_and_owned(world: World) -> None:
    """A lease of nobody or of somebody else comes first, the state of the lease after it."""
    agent, other = world.agent(), world.agent()
    lease, foreign = agent.handshake(10 * USD).lease.id, other.handshake().lease.id
    retries = [key_of(agent, each) for each in "abc"]
    set_aside(agent, retries[0], lease)
    new = renewed(agent, lease, retries[1]).lease.id
    give_back(agent, new, retries[2])
    calls: tuple[Callable[[str], object], ...] = (
        lambda lease_id: set_aside(agent, retries[0], lease_id),
        lambda lease_id: renew(agent, lease_id, retries[1]),
        lambda lease_id: give_back(agent, lease_id, retries[2]),
    )

    for call in calls:
        with pytest.raises(LeaseNotFoundError):
            call("lease_" + "0" * 32)
        with pytest.raises(ForbiddenError):
            call(foreign)
    assert give_back(agent, lease, retries[2]).replayed


def test_a_reservation_without_a_lease_is_replayed_whatever_leases_there_are_now(world: World) -> None:
    """Several would be a bad field, none a conflict, if it came first now."""
    agent = world.agent()
    first = shake(agent, None).lease.id
    made = set_aside(agent, key_of(agent))
    second = shake(agent, None).lease.id

    assert set_aside(agent, key_of(agent)).reservation == made.reservation
    give_back(agent, second, None)
    give_back(agent, first, None)
    with pytest.raises(LeaseClosedError):
        set_aside(agent, key_of(agent))
    with pytest.raises(NoActiveLeaseError):
        set_aside(agent, key_of(agent, "other"))


def let_it_pass(agent: TestAgent, _: str) -> None:
    agent.world.clock.pass_s(3660)


ENDS = (
    (let_it_pass, LeaseExpiredError),
    (revoke, LeaseRevokedError),
    (TestAgent.return_lease, LeaseClosedError),
)
REFRESHED = (TestAgent.refresh, LeaseClosedError)


@pytest.mark.parametrize(
    ("operation", "end", "error"),
    [
        *((operation, *end) for operation in ("handshake", "refresh") for end in (*ENDS, REFRESHED)),
        *(("reserve", *end) for end in ENDS),
    ],
)
def test_a_retry_whose_lease_has_ended_is_refused_as_a_refresh_of_it(
    world: World, operation: str, end: Callable[[TestAgent, str], object], error: type[RefusalError]
) -> None:
    """No credential for a lease that is over; where it was refreshed, the refusal names the successor."""
    agent = world.agent()
    old = agent.handshake(10 * USD).lease.id
    calls: dict[str, Callable[[], Granted | Denied | Reserved]] = {
        "handshake": lambda: shake(agent, key_of(agent)),
        "refresh": lambda: renew(agent, old, key_of(agent)),
        "reserve": lambda: set_aside(agent, key_of(agent), old),
    }
    done = calls[operation]()
    assert not isinstance(done, Denied)
    lease_id = done.reservation.lease_id if isinstance(done, Reserved) else done.lease.id
    end(agent, lease_id)
    before = (traces(agent), operations(agent))

    with pytest.raises(error) as refusal:
        calls[operation]()

    assert (traces(agent), operations(agent)) == before
    successor = agent.lease(lease_id).successor_id
    assert refusal.value.details.get("successor_lease_id") == successor


def test_a_lease_in_its_grace_is_not_over(world: World) -> None:
    """Its retry is answered; the runtime then sees by its time that it must refresh."""
    agent = world.agent()
    first = shake(agent, key_of(agent)).lease.id
    world.clock.pass_s(3600)

    again = shake(agent, key_of(agent))

    assert (again.lease.id, again.lease.status) == (first, "expired")


# --- what is remembered ------------------------------------------------------


def test_what_had_no_effect_is_judged_anew_on_each_retry(world: World) -> None:
    """Refusals, denials, and answers that only repeat what was done before."""
    agent = world.agent(10 * USD)
    lease = shake(agent, None).lease.id
    retry = key_of(agent)
    with pytest.raises(BudgetExceededError):
        shake(agent, retry)
    assert isinstance(renew(agent, lease, retry), Denied)
    set_aside(agent, None)
    set_aside(agent, retry)
    give_back(agent, lease, None)
    assert give_back(agent, lease, retry).already_closed

    assert raw(world.store, "SELECT * FROM idempotency_keys") == []
    assert not shake(agent, retry).replayed


def test_a_natural_replay_is_not_remembered_as_an_effect(world: World) -> None:
    """A refresh that only repeats its successor."""
    agent = world.agent()
    lease = shake(agent, None).lease.id
    renewed(agent, lease, None)

    assert renewed(agent, lease, key_of(agent)).replayed
    assert raw(world.store, "SELECT * FROM idempotency_keys") == []


def test_no_secret_is_remembered(world: World) -> None:
    """Neither the IC token, nor the provider key, nor its sealed form; anywhere in the table."""
    agent = world.agent()
    granted = shake(agent, key_of(agent, "a"))
    after = renewed(agent, granted.lease.id, key_of(agent, "b"))
    set_aside(agent, key_of(agent, "c"))
    give_back(agent, after.lease.id, key_of(agent, "d"))

    text = repr(raw(world.store, "SELECT * FROM idempotency_keys"))

    assert text.count(agent.id) >= 4
    assert [each for each in (agent.token, API_KEY, granted.ip_token, after.ip_token, "AES256") if each in text] == []


def test_answers_are_kept_for_more_than_a_day_and_then_forgotten_in_small_batches(world: World) -> None:
    """At least 24 hours; after that the key is free again."""
    agent = world.agent()
    for key in "abc":
        shake(agent, key_of(agent, key), requested=1)
    forget = partial(forget_answers, limit=2)

    world.clock.instant = NOON + KEPT_FOR
    early = world.store.write(forget)
    world.clock.instant += 1
    counts = [world.store.write(forget) for _ in range(3)]

    assert KEPT_FOR >= MS_PER_DAY
    assert (early, counts) == (0, [2, 1, 0])
    assert not shake(agent, key_of(agent, "a"), requested=1).replayed


# --- many at once, and after a crash ------------------------------------------


@pytest.fixture
def town(tmp_path: Path) -> Iterator[tuple[list[SqliteStore], World]]:
    """A world on a file, and two stores on it as two processes would have."""
    clock = SetClock()
    with SqliteStore(tmp_path / "a.db", clock=clock) as one, SqliteStore(tmp_path / "a.db", clock=clock) as two:
        yield [one, two], World(one, clock)


@pytest.mark.parametrize("operation", ["handshake", "refresh", "return", "reserve"])
def test_retries_at_the_same_time_have_one_effect(town: tuple[list[SqliteStore], World], operation: str) -> None:
    """Ten threads over two stores on one file: one does it, nine are told what it did."""
    stores, world = town
    agent = world.agent()
    lease = agent.handshake(10 * USD).lease.id
    before = agent.kinds()
    identity = world.store.read(partial(authenticate, presented=world.signer.prove(agent.token, now=world.clock.now())))
    start, retry, sealing = Barrier(RETRIES), key_of(agent), world.sealing
    calls: dict[str, Callable[[UnitOfWork, AgentIdentity], Any]] = {
        "handshake": lambda uow, who: handshake(uow, who, HandshakeRequest(USD), sealing=sealing, retry=retry),
        "refresh": lambda uow, who: refresh(uow, who, lease, USD, sealing=sealing, retry=retry),
        "return": lambda uow, who: return_lease(uow, who, lease, retry=retry),
        "reserve": lambda uow, who: reserve(uow, who, ReserveRequest("call", USD), retry=retry),
    }

    def run(number: int) -> Any:  # noqa: ANN401 - what the call answers
        start.wait()
        return stores[number % 2].write(lambda uow: calls[operation](uow, identity))

    with ThreadPoolExecutor(RETRIES) as threads:
        answers = list(threads.map(run, range(RETRIES)))

    effects: dict[str, list[tuple[str, int]]] = {
        "handshake": [("grant", USD)],
        "refresh": [("return", 10 * USD), ("grant", 11 * USD)],
        "return": [("return", 10 * USD)],
        "reserve": [],
    }
    assert sorted(each.replayed for each in answers) == [False] + [True] * (RETRIES - 1)
    assert agent.kinds()[len(before) :] == effects[operation]
    ids = {each.reservation if operation == "reserve" else each.lease.id for each in answers}
    assert len(ids) == 1
    assert raw(world.store, "SELECT count(*) FROM idempotency_keys") == [(1,)]
    assert world.verify().holds


def test_what_was_done_is_known_to_a_process_that_starts_after_a_crash(tmp_path: Path) -> None:
    """The files as a killed process leaves them: the answer is durable with its effect."""
    clock = SetClock()
    with SqliteStore(tmp_path / "a.db", clock=clock) as store:
        world = World(store, clock)
        agent = world.agent()
        first = shake(agent, key_of(agent))
        for file in tmp_path.glob("a.db*"):
            shutil.copy(file, tmp_path / file.name.replace("a.db", "b.db"))

    with SqliteStore(tmp_path / "b.db", clock=clock) as store:
        agent.world.store = store
        again = shake(agent, key_of(agent))

        assert (again.lease.id, again.replayed) == (first.lease.id, True)
        assert agent.kinds() == [("adjust", 100 * USD), ("grant", 10 * USD)]


def test_a_request_that_fails_after_its_work_is_not_remembered(world: World) -> None:
    """What it did and what is told of it are one unit of work."""
    agent = world.agent()
    presented = world.signer.prove(agent.token, now=world.clock.now())

    def fail(uow: UnitOfWork) -> None:
        identity = authenticate(uow, presented)
        handshake(uow, identity, HandshakeRequest(USD), sealing=world.sealing, retry=key_of(agent))
        raise IroncageError("after all that")

    with pytest.raises(IroncageError):
        world.store.write(fail)

    assert not shake(agent, key_of(agent)).replayed
