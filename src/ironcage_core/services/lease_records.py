"""Lease records: finding the lease that a use case is about, what its state refuses, and lists of leases as of now."""

from ironcage_core.domain.ids import is_id
from ironcage_core.domain.leases import Lease
from ironcage_core.errors.money import LeaseClosedError, LeaseExpiredError, LeaseNotFoundError, LeaseRevokedError
from ironcage_core.errors.tree import ForbiddenError, RefusalError
from ironcage_core.ports.lists import LeaseFilter, Page, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.expiry import catch_up, catch_up_selected


def own_lease(uow: UnitOfWork, agent_id: str, lease_id: str) -> Lease:
    """Return a lease of this agent.

    Raises:
        LeaseNotFoundError: No such lease.
        ForbiddenError: It belongs to another agent.
    """
    lease = _known_lease(uow, lease_id)
    if lease.agent_id != agent_id:
        raise ForbiddenError("The lease belongs to another agent")
    return lease


def effective(uow: UnitOfWork, lease: Lease) -> Lease:
    """Return the lease, or the last one that refreshes have put in its place."""
    while lease.successor_id is not None:
        successor = uow.leases.find(lease.successor_id)
        if successor is None:
            raise LeaseNotFoundError("A lease lost its successor", lease_id=lease.id)
        lease = successor
    return lease


def state_refusal(lease: Lease) -> RefusalError:
    """Return the refusal of a lease that is not active any more; the runtime is to handshake again.

    Source: contract budget.md 2, table of calls and states.
    """
    if lease.status == "revoked":
        return LeaseRevokedError("The lease was revoked", reason=lease.status_reason)
    if "expired" in {lease.status, lease.status_reason}:
        return LeaseExpiredError("The lease has expired")
    if lease.successor_id:
        return LeaseClosedError("The lease was refreshed", successor_lease_id=lease.successor_id)
    return LeaseClosedError(f"The lease was {lease.status_reason}")


def get_lease(uow: UnitOfWork, lease_id: str) -> Lease:
    """Return a lease as it is at this instant.

    Raises:
        LeaseNotFoundError: No such lease.
    """
    lease = _known_lease(uow, lease_id)
    catch_up(uow, lease.agent_id)
    return uow.leases.find(lease_id) or lease


def list_leases(uow: UnitOfWork, which: LeaseFilter, paging: Paging) -> Page[Lease]:
    """Return leases as of this instant, newest first."""
    catch_up_selected(uow, which.agent_id)
    return uow.leases.page(which, paging)


def _known_lease(uow: UnitOfWork, lease_id: str) -> Lease:
    lease = uow.leases.find(lease_id) if is_id(lease_id, "lease") else None
    if lease is None:
        raise LeaseNotFoundError("No such lease")
    return lease
