"""Reserving: a thin runtime sets the most a call may cost aside on its lease, and reports or cancels it afterwards.

Reservations move no money: they only keep calls that are under way from promising the same hold twice.
"""

from dataclasses import dataclass
from typing import Final

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_S
from ironcage_core.domain.leases import DEFAULT_POLICY, Lease, LeasePolicy
from ironcage_core.domain.money import Micros, format_usd
from ironcage_core.domain.reservations import DEFAULT_TTL_S, MAX_TTL_S, Reservation
from ironcage_core.domain.texts import text_problem
from ironcage_core.errors.money import (
    AlreadyReportedError,
    BudgetExceededError,
    NoActiveLeaseError,
    RequestIdConflictError,
    ReservationNotFoundError,
)
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.call_records import requested_call
from ironcage_core.services.expiry import catch_up
from ironcage_core.services.granting import check_may_call
from ironcage_core.services.lease_records import effective, own_lease, state_refusal
from ironcage_core.services.retries import remember, what_it_did

KEPT_FOR: Final = MS_PER_DAY
"""How long a reservation is remembered after its time."""


@dataclass(frozen=True, slots=True)
class ReserveRequest:
    """What to set aside: `amount` in micro-USD, `ttl_s` in seconds; None takes the only lease and the default time."""

    request_id: str
    amount: Micros
    lease_id: str | None = None
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """An open reservation and what its lease has left to set aside, in micro-USD.

    `is_new` is whether the request made it, `replayed` whether it did so when it came before.
    """

    reservation: Reservation
    available: Micros
    is_new: bool
    replayed: bool = False


def reserve(
    uow: UnitOfWork,
    identity: AgentIdentity,
    request: ReserveRequest,
    *,
    policy: LeasePolicy = DEFAULT_POLICY,
    retry: RetryKey | None = None,
) -> Reserved:
    """Set all of an amount aside, or nothing. Asking again for the same, while it is open, changes nothing.

    Args:
        uow: The open unit of work.
        identity: The calling agent.
        request: For which call, and how much.
        policy: The operator's rules.
        retry: The key that makes retries of this request one request.

    Raises:
        InsufficientScopeError: The token lacks `llm:call`.
        ValidationError: A field breaks its rule, or it takes a `lease_id` to say which lease is meant.
        LeaseNotFoundError, ForbiddenError: Not a lease of this agent.
        IdempotencyKeyReusedError: The key was used for another request.
        NoActiveLeaseError: No lease is named, and the agent has none.
        LeaseExpiredError, LeaseClosedError, LeaseRevokedError: The lease takes no new calls.
        RequestIdConflictError: Another amount is set aside for this call, or on another lease than the named one.
        AlreadyReportedError: The call was made and reported.
        BudgetExceededError: The lease has less left than that.

    Source: contract budget.md 2 and 5.5.
    """
    check_may_call(identity)
    ttl_s = _check_fields(request, policy)
    catch_up(uow, identity.agent_id)
    named = None if request.lease_id is None else own_lease(uow, identity.agent_id, request.lease_id)
    done = what_it_did(uow, retry)
    if done is not None and (again := _replay(uow, Reservation(**done))) is not None:
        return again
    lease = _only_lease(uow, identity.agent_id) if named is None else effective(uow, named)
    if lease.status != "active":
        raise state_refusal(lease)
    known = uow.reservations.find(identity.agent_id, request.request_id)
    if known is not None and known.is_open(uow.now):
        return _repeated(uow, known, request, lease)
    if _is_reported(uow, identity.agent_id, request.request_id):
        raise AlreadyReportedError("This call was reported before")
    available = _available(uow, lease)
    if request.amount > available:
        raise _refuse(lease, request, available)
    expires_at = uow.now + ttl_s * MS_PER_S
    reservation = Reservation(
        identity.agent_id, request.request_id, lease.id, request.amount, "open", uow.now, expires_at
    )
    uow.reservations.put(reservation)
    remember(uow, retry, reservation._asdict())
    return Reserved(reservation, available - request.amount, is_new=True)


def cancel_reservation(uow: UnitOfWork, identity: AgentIdentity, request_id: str) -> Micros:
    """Release what is set aside for a call and return how much that was; 0 if it was released before.

    Raises:
        InsufficientScopeError: The token lacks `llm:call`.
        ReservationNotFoundError: Nothing was ever set aside for it.
        AlreadyReportedError: The call was made and reported.

    Source: contract budget.md 5.5.
    """
    check_may_call(identity)
    catch_up(uow, identity.agent_id)
    known = uow.reservations.find(identity.agent_id, request_id)
    if known is None:
        raise ReservationNotFoundError("No such reservation")
    if known.status == "committed":
        raise AlreadyReportedError("This call was reported before")
    if not known.is_open(uow.now):
        return 0
    uow.reservations.put(known._replace(status="released"))
    return known.amount


def forget_reservations(uow: UnitOfWork, *, limit: int) -> int:
    """Drop at most `limit` reservations that ended long ago and return how many it were."""
    return uow.reservations.forget(uow.now - KEPT_FOR, limit)


def _check_fields(request: ReserveRequest, policy: LeasePolicy) -> int:
    """Return for how many seconds to set aside."""
    problems = {}
    if problem := text_problem(request.request_id, longest=100):
        problems["request_id"] = problem
    elif request.request_id in {".", ".."}:
        problems["request_id"] = "may not be . or .., which clients take out of the path of a cancellation"
    if type(request.amount) is not int or not 0 <= request.amount <= policy.max_report:
        problems["amount"] = f"must be from 0 to {format_usd(policy.max_report)}"
    ttl_s = DEFAULT_TTL_S if request.ttl_s is None else request.ttl_s
    if type(ttl_s) is not int or not 1 <= ttl_s <= MAX_TTL_S:
        problems["ttl_seconds"] = f"must be an integer from 1 to {MAX_TTL_S}"
    if problems:
        raise ValidationError(problems)
    return ttl_s


def _only_lease(uow: UnitOfWork, agent_id: str) -> Lease:
    active = [lease for lease in uow.leases.open_of(agent_id) if lease.status == "active"]
    if not active:
        raise NoActiveLeaseError("The agent has no active lease; handshake first")
    if len(active) > 1:
        raise ValidationError({"lease_id": "is required where an agent has several active leases"})
    return active[0]


def _available(uow: UnitOfWork, lease: Lease) -> Micros:
    """Return what the lease has left to set aside (E10); calls that cost more than was set aside may leave nothing."""
    return max(0, lease.held - sum(each.amount for each in uow.reservations.open_of(lease.id, uow.now)))


def _is_reported(uow: UnitOfWork, agent_id: str, request_id: str) -> bool:
    known = requested_call(uow, agent_id, request_id, is_reported=False)
    return known is not None and known.report_cost_micros is not None


def _refuse(lease: Lease, request: ReserveRequest, available: Micros) -> BudgetExceededError:
    return BudgetExceededError(
        "The lease has less left than that",
        scope="lease",
        available=available,
        requested=request.amount,
        spent=lease.total_spent,
        limit=lease.granted,
    )


def _repeated(uow: UnitOfWork, known: Reservation, request: ReserveRequest, lease: Lease) -> Reserved:
    if known.amount != request.amount:
        raise RequestIdConflictError("Another amount is set aside for this call")
    if request.lease_id is not None and known.lease_id != lease.id:
        raise RequestIdConflictError("The amount for this call is set aside on another lease")
    return Reserved(known, _available(uow, own_lease(uow, known.agent_id, known.lease_id)), is_new=False)


def _replay(uow: UnitOfWork, first: Reservation) -> Reserved | None:
    """Return what a key has set aside, if it still is, or None if the request is to be judged anew."""
    lease = effective(uow, own_lease(uow, first.agent_id, first.lease_id))
    known = uow.reservations.find(first.agent_id, first.request_id)
    # A refresh may have moved it, and the call may have been reserved again without the key.
    if known is not None and known.is_open(uow.now) and known._replace(lease_id=first.lease_id) == first:
        return Reserved(known, _available(uow, lease), is_new=True, replayed=True)
    if _is_reported(uow, first.agent_id, first.request_id):
        raise AlreadyReportedError("This call was reported before")
    if not lease.is_open:
        raise state_refusal(lease)
    return None
