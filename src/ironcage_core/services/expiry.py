"""Expiry: what time does to leases, whether a call notices it or the sweep.

The instants follow from the lease row, so that lazy and swept expiry write the same rows.
"""

from typing import NamedTuple

from ironcage_core.domain.alerts import lowered
from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import Lease, LeaseEvent, moved, overdue
from ironcage_core.domain.ledger import EntryKind, with_pending
from ironcage_core.errors.faults import InvariantViolationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.posting import balance_of, post_to_lease
from ironcage_core.services.reservation_ends import release_reservations


def catch_up(uow: UnitOfWork, agent_id: str) -> None:
    """Apply to the agent's leases what time has done by now."""
    for lease in uow.leases.due_of(agent_id, uow.now):
        _age(uow, lease)


class Swept(NamedTuple):
    """How many leases are up to date again, and the ids of those whose books would not hold (a bug of theirs alone)."""

    aged: int
    stuck: tuple[str, ...]


def sweep(uow: UnitOfWork, *, limit: int = 256) -> Swept:
    """Apply what time has done to at most `limit` leases, earliest first."""
    due = uow.leases.due(uow.now, limit)
    stuck = []
    for lease in due:
        try:
            _age(uow, lease)
        except InvariantViolationError:  # raised before the movement it refuses; the others must get their money
            stuck.append(lease.id)
    return Swept(len(due) - len(stuck), tuple(stuck))


def catch_up_selected(uow: UnitOfWork, agent_id: str | None) -> None:
    """Apply what time has done before a list is read: to one agent's leases, or to everybody's."""
    if agent_id is not None:
        catch_up(uow, agent_id)
        return
    while sweep(uow).aged:
        pass


def _age(uow: UnitOfWork, lease: Lease) -> None:
    while (event := overdue(lease, uow.now)) is not None:
        if event == "time_up":
            lease = moved(lease, event, at=lease.expires_at)
            uow.leases.put(lease)
            announce_end(uow, lease, "lease_expired")
        else:
            lease = end_lease(uow, lease, event, "reclaim", at=lease.changes_at, actor=SYSTEM.id)
    if lease.due_at != lease.changes_at:  # it was kept alive since it was last looked at
        uow.leases.put(lease._replace(due_at=lease.changes_at))


def end_lease(
    uow: UnitOfWork,
    lease: Lease,
    event: LeaseEvent,
    kind: EntryKind,
    *,
    actor: str,
    at: Instant | None = None,
    reason: str | None = None,
    successor_id: str | None = None,
) -> Lease:
    """Give back what the lease holds, release what is set aside on it, and end it; nothing is pending on it any more.

    Args:
        uow: The open unit of work.
        lease: An open lease.
        event: What ends it.
        kind: `return` when the runtime gives back, `reclaim` when the server takes back.
        actor: Who caused it.
        at: When it took effect; None means now.
        reason: The status reason of a revocation.
        successor_id: The lease that a refresh put in its place, which takes over what is pending.
    """
    cause = "rollover" if event == "refreshed" else reason or event
    emptied = post_to_lease(uow, lease, kind, lease.held, cause=cause, actor=actor)
    ended = moved(emptied, event, at=uow.now if at is None else at, reason=reason)
    if successor_id:
        ended = ended._replace(successor_id=successor_id)
    uow.leases.put(ended)
    if successor_id is None:
        _drop_pending(uow, lease)
    release_reservations(uow, ended.id)
    announce_end(uow, ended, "lease_revoked" if ended.status == "revoked" else "lease_closed")
    return ended


def _drop_pending(uow: UnitOfWork, lease: Lease) -> None:
    """Take what was pending on a lease that is over from the balance, and re-arm the levels above what is left."""
    if lease.pending:
        balance = with_pending(balance_of(uow, lease.agent_id), -lease.pending)
        level = lowered(balance.alert_level, balance.spent + balance.pending, balance.allocated)
        uow.balances.put(balance._replace(alert_level=level))


def announce_end(uow: UnitOfWork, lease: Lease, name: str) -> None:
    """Publish that a lease expired, closed or was revoked."""
    uow.feed.append(
        "AGENT_EVENT",
        agent_id=lease.agent_id,
        name=name,
        data={
            "lease_id": lease.id,
            "spent_micros": lease.total_spent,
            "returned_micros": lease.returned + lease.reclaimed,
            "reason": lease.status_reason,
        },
    )
