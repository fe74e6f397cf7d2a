"""Leasing: the life of a lease after its handshake: refresh, return, revocation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.idempotency import Result, RetryKey
from ironcage_core.domain.leases import DEFAULT_POLICY, Lease, LeasePolicy, kept_alive
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import Micros, format_usd
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.alerts import tell_levels
from ironcage_core.services.expiry import catch_up, end_lease
from ironcage_core.services.granting import (
    Granted,
    agent_of,
    announce_grant,
    check_may_call,
    check_may_receive,
    check_requested,
    headroom,
    open_lease,
    remember_release,
)
from ironcage_core.services.key_lending import Sealing, key_of, seal_for
from ironcage_core.services.lease_records import effective, get_lease, own_lease
from ironcage_core.services.lease_replays import granted_before, refreshed_before, remember_grant
from ironcage_core.services.limit_gate import check_counted_limits, project_month
from ironcage_core.services.posting import balance_of, post_to_lease
from ironcage_core.services.reservation_ends import move_reservations
from ironcage_core.services.retries import remember, what_it_did
from ironcage_core.services.runtime_states import note_runtime_event
from ironcage_core.services.settlement import check_may_return

DenialReason = Literal["total_budget_exhausted", "monthly_cap_reached"]


@dataclass(frozen=True, slots=True)
class Denied:
    """A refresh without money: an answer, not an error; the old lease stays as it was."""

    reason: DenialReason
    balance: Balance


@dataclass(frozen=True, slots=True)
class Returned:
    """The outcome of a return, in micro-USD; `discrepancy` is server minus client before reconciling.

    `final_spent` is what the lease had spent when it was answered first.
    """

    lease: Lease
    balance: Balance
    returned: Micros
    final_spent: Micros
    discrepancy: Micros
    already_closed: bool
    successor_id: str | None
    replayed: bool = False


def refresh(
    uow: UnitOfWork,
    identity: AgentIdentity,
    lease_id: str,
    requested: Micros | None = None,
    *,
    sealing: Sealing,
    policy: LeasePolicy = DEFAULT_POLICY,
    retry: RetryKey | None = None,
) -> Granted | Denied:
    """Put a new lease in the place of one that runs low; what the old one held rolls over.

    Asking again for a lease that was refreshed replays its successor, as long as that one is unused.

    Args:
        uow: The open unit of work.
        identity: The calling agent.
        lease_id: The lease to replace.
        requested: New money in micro-USD; None takes the default.
        sealing: Opens and seals the provider key.
        policy: The operator's rules.
        retry: The key that makes retries of this request one request.

    Raises:
        InsufficientScopeError, LeaseNotFoundError, ForbiddenError, ValidationError: As they say.
        IdempotencyKeyReusedError: The key was used for another request.
        LeaseExpiredError, LeaseClosedError, LeaseRevokedError: The lease is over; handshake again.
        AgentInactiveError, OwnerSuspendedError: No new money for this agent.
        ProviderKeyDisabledError, NoProviderAssignedError: The lease's key is gone.
        CryptoUnavailableError, SecretUnreadableError: The key cannot be opened.
        UsageLimitExceededError: The owner has used what a limit allows of tokens or requests.

    Source: protocol 005; contract budget.md 1.3, 2 and 5.3.
    """
    check_may_call(identity)
    amount = check_requested(requested, policy)
    catch_up(uow, identity.agent_id)
    old = own_lease(uow, identity.agent_id, lease_id)
    before = granted_before(uow, identity, retry, sealing)
    if before is not None:
        return before
    if not old.is_open:
        return refreshed_before(uow, identity, old, sealing)
    agent = agent_of(uow, identity)
    check_may_receive(uow, agent)
    key = key_of(uow, old)
    new_id = uow.new_id("lease")
    ip_token = seal_for(sealing, key, identity, new_id)
    check_counted_limits(uow, agent.owner_id, agent.project_id)
    if project_month(uow, agent.owner_id, agent.project_id) is not None:
        return _deny(uow, old, "monthly_cap_reached")
    same_bank = old.bank_user_id == agent.owner_id
    room = headroom(uow, agent, returning=0 if same_bank else old.held)
    new_money = min(amount, room.amount)
    if new_money <= 0:
        return _deny(uow, old, "total_budget_exhausted" if room.short_of == "agent" else "monthly_cap_reached")
    rolled_over = old.held if same_bank else 0
    move_reservations(uow, old.id, new_id)
    end_lease(uow, old, "refreshed", "return", actor=agent.id, successor_id=new_id)
    lease = open_lease(
        uow, agent, identity, key,
        lease_id=new_id, amount=rolled_over + new_money, rolled_over=rolled_over, pending=old.pending,
        cause="refresh", runtime_id=old.runtime_id, ttl=old.ttl, policy=policy,
    )  # fmt: skip
    remember_release(uow, identity, key, lease, "LEASE_REFRESHED")
    announce_grant(uow, lease, new_money, "lease_refreshed")
    remember_grant(uow, retry, lease)
    return Granted(lease, balance_of(uow, agent.id), key.base_url, new_money, rolled_over, ip_token=ip_token)


def note_runtime_numbers(
    uow: UnitOfWork, identity: AgentIdentity, lease_id: str, *, remaining: Micros | None, spent: Micros | None
) -> None:
    """Remember where a runtime's own count of its lease differs from the books; it decides nothing.

    Raises:
        LeaseNotFoundError, ForbiddenError: Not a lease of this agent.
    """
    lease = own_lease(uow, identity.agent_id, lease_id)
    told = {"remaining_micros": (remaining, lease.held), "spent_micros": (spent, lease.total_spent)}
    differing = {name: list(pair) for name, pair in told.items() if pair[0] is not None and pair[0] != pair[1]}
    if differing and lease.is_open:  # reports may be under way; a retry tells of a lease that is over
        note = AuditNote("BUDGET_DISCREPANCY", "budget", "lease", lease.id, identity.actor, metadata=differing)
        uow.audit.append(note)


def _deny(uow: UnitOfWork, lease: Lease, reason: DenialReason) -> Denied:
    uow.leases.put(kept_alive(lease, uow.now))
    return Denied(reason, balance_of(uow, lease.agent_id))


def return_lease(
    uow: UnitOfWork,
    identity: AgentIdentity,
    lease_id: str,
    final_spent: Micros | None = None,
    *,
    policy: LeasePolicy = DEFAULT_POLICY,
    retry: RetryKey | None = None,
) -> Returned:
    """Close a lease and give what it still holds back to the agent's budget. Asking again changes nothing.

    Args:
        uow: The open unit of work.
        identity: The calling agent.
        lease_id: The lease; if it was refreshed, its last successor is closed.
        final_spent: Total cost the runtime knows of, in micro-USD; what the books lack is booked. None trusts them.
        policy: The operator's rules.
        retry: The key that makes retries of this request one request.

    Raises:
        InsufficientScopeError, LeaseNotFoundError, ForbiddenError: As they say.
        InvalidTokenError: The token's value is dead, and the lease was not revoked with it.
        IdempotencyKeyReusedError: The key was used for another request.
        ValidationError: `final_spent` is negative or implausibly far above the books.

    Source: protocol 005 message 6; contract budget.md 1.3 and 5.4.
    """
    check_may_call(identity, settles=True)
    check_may_return(uow, identity, lease_id)
    if final_spent is not None and (type(final_spent) is not int or final_spent < 0):
        raise ValidationError({"final_spent_usd": "must be 0 or more"})
    catch_up(uow, identity.agent_id)
    named = own_lease(uow, identity.agent_id, lease_id)
    done = what_it_did(uow, retry)
    if done is not None:
        return _returned_before(uow, identity, done)
    lease = effective(uow, named)
    is_named = lease.id == named.id
    already_closed = not lease.is_open
    discrepancy = _discrepancy(lease, final_spent) if is_named else 0
    if not already_closed and -discrepancy > policy.max_report:
        raise ValidationError(
            {
                "final_spent_usd": f"is more than {format_usd(policy.max_report)} above what was reported;"
                " was an amount in micro-USD sent as USD?"
            }
        )
    if already_closed and discrepancy and lease.status_reason != "returned":
        note = {"discrepancy_micros": discrepancy, "unreported_micros": 0}  # too late to be booked
        uow.audit.append(AuditNote("BUDGET_DISCREPANCY", "budget", "lease", lease.id, identity.actor, metadata=note))
    if not already_closed:
        unreported = max(0, -discrepancy)
        lease = _close(uow, lease, identity, unreported=unreported, discrepancy=discrepancy)
        if unreported:
            tell_levels(uow, lease.agent_id, levels=policy.alert_levels, bank_user_ids=(lease.bank_user_id,))
    returned = Returned(
        lease=lease,
        balance=balance_of(uow, lease.agent_id),
        returned=lease.returned + lease.reclaimed,
        final_spent=lease.total_spent,
        discrepancy=discrepancy,
        already_closed=already_closed,
        successor_id=None if is_named else lease.id,
    )
    if not already_closed:
        remember(uow, retry, {"lease_id": lease.id} | {name: getattr(returned, name) for name in _RETURN_RESULT})
    return returned


_RETURN_RESULT: Final = ("returned", "final_spent", "discrepancy", "already_closed", "successor_id")
"""What a retry of a return is told again; the balance is the one of its own time."""


def _returned_before(uow: UnitOfWork, identity: AgentIdentity, done: Result) -> Returned:
    lease = own_lease(uow, identity.agent_id, done["lease_id"])
    told = {name: done[name] for name in _RETURN_RESULT}
    return Returned(lease=lease, balance=balance_of(uow, lease.agent_id), replayed=True, **told)


def _discrepancy(lease: Lease, final_spent: Micros | None) -> Micros:
    if final_spent is None:
        return 0
    # A repeated return answers as the first one did, which has reconciled the difference away since.
    return lease.discrepancy if lease.status_reason == "returned" else lease.total_spent - final_spent


def _close(uow: UnitOfWork, lease: Lease, identity: AgentIdentity, *, unreported: Micros, discrepancy: Micros) -> Lease:
    agent = agent_of(uow, identity)
    covered = min(unreported, lease.held)
    lease = post_to_lease(uow, lease, "spend", covered, cause="reconcile", actor=agent.id)
    lease = post_to_lease(uow, lease, "overspend", unreported - covered, cause="reconcile", actor=agent.id)
    lease = lease._replace(
        unattributed=lease.unattributed + unreported, discrepancy=discrepancy, last_activity_at=uow.now
    )
    lease = end_lease(uow, lease, "returned", "return", actor=agent.id)
    actor = identity.actor
    uow.audit.append(
        AuditNote("LEASE_RETURNED", "budget", "lease", lease.id, actor, metadata={"returned_micros": lease.returned})
    )
    if discrepancy:
        note = {"discrepancy_micros": discrepancy, "unreported_micros": unreported}
        uow.audit.append(AuditNote("BUDGET_DISCREPANCY", "budget", "lease", lease.id, actor, metadata=note))
    if not uow.leases.open_of(agent.id):
        note_runtime_event(uow, agent, "last_lease_returned")
    return lease


def revoke_leases(uow: UnitOfWork, lease_ids: Sequence[str], *, reason: str, actor: Actor) -> list[Lease]:
    """Take back what open leases hold and end them; terminal ones are left as they are.

    Args:
        uow: The open unit of work.
        lease_ids: Which; each is read here, after time has done its work on it.
        reason: The status reason, such as `manual` or `agent_stopped`.
        actor: Who revokes.

    Raises:
        LeaseNotFoundError: One of them does not exist.

    Source: contract budget.md 2 and 10.
    """
    leases = [get_lease(uow, lease_id) for lease_id in dict.fromkeys(lease_ids)]
    revoked = [
        end_lease(uow, lease, "revoked", "reclaim", actor=actor.id, reason=reason) for lease in leases if lease.is_open
    ]
    for lease in revoked:
        uow.audit.append(AuditNote("LEASE_REVOKED", "budget", "lease", lease.id, actor, reason=reason))
    return revoked


def revoke_open_leases(
    uow: UnitOfWork, agent_id: str, *, key_ids: Collection[str] | None = None, reason: str, actor: Actor
) -> int:
    """Revoke the agent's open leases, or those on some provider keys only, and return how many there were."""
    catch_up(uow, agent_id)
    leases = [lease for lease in uow.leases.open_of(agent_id) if key_ids is None or lease.provider_key_id in key_ids]
    return len(revoke_leases(uow, [lease.id for lease in leases], reason=reason, actor=actor))
