"""Lease replays: what a retry gets of a lease that was granted before.

No money moves a second time; the provider key is sealed anew, because the first sealing is kept nowhere.
"""

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.domain.leases import Lease
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.granting import Granted, remember_credential
from ironcage_core.services.key_lending import Sealing, key_of, seal_for
from ironcage_core.services.lease_records import own_lease, state_refusal
from ironcage_core.services.posting import balance_of
from ironcage_core.services.retries import remember, what_it_did


def granted_before(
    uow: UnitOfWork, identity: AgentIdentity, retry: RetryKey | None, sealing: Sealing
) -> Granted | None:
    """Return what the first request with this key was granted, or None if this is the first, or there is no key.

    Raises:
        IdempotencyKeyReusedError: The key was used for another request.
        LeaseExpiredError, LeaseClosedError, LeaseRevokedError: The lease is over; handshake again.

    Source: contract budget.md 3.
    """
    done = what_it_did(uow, retry)
    if done is None:
        return None
    return granted_again(uow, identity, own_lease(uow, identity.agent_id, done["lease_id"]), sealing)


def remember_grant(uow: UnitOfWork, retry: RetryKey | None, lease: Lease) -> None:
    """Remember for retries which lease was granted; its amounts are the lease's own."""
    remember(uow, retry, {"lease_id": lease.id})


def refreshed_before(uow: UnitOfWork, identity: AgentIdentity, old: Lease, sealing: Sealing) -> Granted:
    """Return what a lease that is over was refreshed to, as long as nobody has begun to use it.

    Raises:
        LeaseExpiredError, LeaseClosedError, LeaseRevokedError: There is nothing like that; handshake again.

    Source: contract budget.md 5.3.
    """
    successor = uow.leases.find(old.successor_id) if old.successor_id else None
    if successor is None or not successor.is_open or _is_used(uow, successor):
        raise state_refusal(old)
    return granted_again(uow, identity, successor, sealing)


def _is_used(uow: UnitOfWork, successor: Lease) -> bool:
    """Tell whether a runtime has begun to use a lease; reservations that the refresh took along are no sign of that."""
    reserved = uow.reservations.open_of(successor.id, uow.now)
    return successor.reports > 0 or any(each.created_at >= successor.created_at for each in reserved)


def granted_again(uow: UnitOfWork, identity: AgentIdentity, lease: Lease, sealing: Sealing) -> Granted:
    """Return an open lease once more as it was granted, with the provider key sealed anew.

    Raises:
        LeaseExpiredError, LeaseClosedError, LeaseRevokedError: The lease is over; handshake again.
        NoProviderAssignedError, ProviderKeyDisabledError: The lease's key is gone.
        CryptoUnavailableError, SecretUnreadableError: The key cannot be opened.
    """
    if not lease.is_open:
        raise state_refusal(lease)
    key = key_of(uow, lease)
    ip_token = seal_for(sealing, key, identity, lease.id)
    remember_credential(uow, identity, key, lease)
    new_money, rolled_over = lease.granted - lease.rolled_over, lease.rolled_over
    balance = balance_of(uow, lease.agent_id)
    return Granted(lease, balance, key.base_url, new_money, rolled_over, replayed=True, ip_token=ip_token)
