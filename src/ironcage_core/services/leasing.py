"""Leasing: the life of a lease after its handshake: refresh, return, revocation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.leases import DEFAULT_POLICY, Lease, LeasePolicy, kept_alive
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import Micros, format_usd
from ironcage_core.domain.providers import ProviderKey
from ironcage_core.errors.money import LeaseClosedError, LeaseExpiredError, LeaseRevokedError
from ironcage_core.errors.resources import NoProviderAssignedError
from ironcage_core.errors.tree import RefusalError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
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
    remember_credential,
    remember_release,
)
from ironcage_core.services.key_lending import Sealing, check_enabled, seal_for
from ironcage_core.services.lease_records import effective, get_lease, own_lease
from ironcage_core.services.limit_gate import check_counted_limits, project_month
from ironcage_core.services.posting import balance_of, post_to_lease
from ironcage_core.services.runtime_states import note_runtime_event

DenialReason = Literal["total_budget_exhausted", "monthly_cap_reached"]


@dataclass(frozen=True, slots=True)
class Denied:
    """A refresh without money: an answer, not an error; the old lease stays as it was."""

    reason: DenialReason
    balance: Balance


@dataclass(frozen=True, slots=True)
class Returned:
    """The outcome of a return, in micro-USD; `discrepancy` is server minus client before reconciling."""

    lease: Lease
    balance: Balance
    returned: Micros
    discrepancy: Micros
    already_closed: bool
    successor_id: str | None


def refresh(
    uow: UnitOfWork,
    identity: AgentIdentity,
    lease_id: str,
    requested: Micros | None = None,
    *,
    sealing: Sealing,
    policy: LeasePolicy = DEFAULT_POLICY,
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

    Raises:
        InsufficientScopeError, LeaseNotFoundError, ForbiddenError, ValidationError: As they say.
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
    if not old.is_open:
        return _replay(uow, identity, old, sealing)
    agent = agent_of(uow, identity)
    check_may_receive(uow, agent)
    key = _key_of(uow, old)
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
    end_lease(uow, old, "refreshed", "return", actor=agent.id, successor_id=new_id)
    lease = open_lease(
        uow, agent, identity, key,
        lease_id=new_id, amount=rolled_over + new_money, rolled_over=rolled_over,
        cause="refresh", runtime_id=old.runtime_id, ttl=old.ttl, policy=policy,
    )  # fmt: skip
    remember_release(uow, identity, key, lease, "LEASE_REFRESHED")
    announce_grant(uow, lease, new_money, "lease_refreshed")
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
    if differing:  # reports may be under way
        note = AuditNote("BUDGET_DISCREPANCY", "budget", "lease", lease.id, identity.actor, metadata=differing)
        uow.audit.append(note)


def _key_of(uow: UnitOfWork, lease: Lease) -> ProviderKey:
    assigned = uow.provider_keys.assigned_to(lease.agent_id)
    key = next((key for key in assigned if key.id == lease.provider_key_id), None)
    if key is None:
        raise NoProviderAssignedError("The provider key of the lease is not assigned to the agent any more")
    return check_enabled(key)


def _deny(uow: UnitOfWork, lease: Lease, reason: DenialReason) -> Denied:
    uow.leases.put(kept_alive(lease, uow.now))
    return Denied(reason, balance_of(uow, lease.agent_id))


def _replay(uow: UnitOfWork, identity: AgentIdentity, old: Lease, sealing: Sealing) -> Granted:
    successor = uow.leases.find(old.successor_id) if old.successor_id else None
    if successor is None or not successor.is_open or successor.reports:
        raise _state_refusal(old)
    key = _key_of(uow, successor)
    ip_token = seal_for(sealing, key, identity, successor.id)
    remember_credential(uow, identity, key, successor)
    return Granted(
        successor,
        balance_of(uow, old.agent_id),
        key.base_url,
        successor.granted - successor.rolled_over,
        successor.rolled_over,
        replayed=True,
        ip_token=ip_token,
    )


def _state_refusal(lease: Lease) -> RefusalError:
    if lease.status == "revoked":
        return LeaseRevokedError("The lease was revoked", reason=lease.status_reason)
    if lease.status_reason == "expired":
        return LeaseExpiredError("The lease has expired")
    if lease.successor_id:
        return LeaseClosedError("The lease was refreshed", successor_lease_id=lease.successor_id)
    return LeaseClosedError(f"The lease was {lease.status_reason}")


def return_lease(
    uow: UnitOfWork,
    identity: AgentIdentity,
    lease_id: str,
    final_spent: Micros | None = None,
    *,
    policy: LeasePolicy = DEFAULT_POLICY,
) -> Returned:
    """Close a lease and give what it still holds back to the agent's budget. Asking again changes nothing.

    Args:
        uow: The open unit of work.
        identity: The calling agent.
        lease_id: The lease; if it was refreshed, its last successor is closed.
        final_spent: Total cost the runtime knows of, in micro-USD; what the books lack is booked. None trusts them.
        policy: The operator's rules.

    Raises:
        InsufficientScopeError, LeaseNotFoundError, ForbiddenError: As they say.
        ValidationError: `final_spent` is negative or implausibly far above the books.

    Source: protocol 005 message 6; contract budget.md 1.3 and 5.4.
    """
    check_may_call(identity)
    if final_spent is not None and (type(final_spent) is not int or final_spent < 0):
        raise ValidationError({"final_spent_usd": "must be 0 or more"})
    catch_up(uow, identity.agent_id)
    named = own_lease(uow, identity.agent_id, lease_id)
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
    if not already_closed:
        lease = _close(uow, lease, identity, unreported=max(0, -discrepancy), discrepancy=discrepancy)
    return Returned(
        lease=lease,
        balance=balance_of(uow, lease.agent_id),
        returned=lease.returned + lease.reclaimed,
        discrepancy=discrepancy,
        already_closed=already_closed,
        successor_id=None if is_named else lease.id,
    )


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
