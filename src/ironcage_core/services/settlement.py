"""Settlement: what an IC token value may still do in the time after its death, on leases that were granted under it.

It may report, as long as all of it stays within what the lease held when the value died, and return leases that were
revoked with it. Everything else is an invalid token, and no refusal tells more than that. A living value has no limits
here. If refreshes under the same value followed a lease, the last of those leases is the one that counts. What a
refresh under a newer value took along is bounded once more by that value, if it is dead as well: money that was lent
once is not settled twice.

Source: contract budget.md 4.1.
"""

from collections.abc import Iterable, Iterator

from ironcage_core.domain.audit import AuditNote
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import EFFECTS
from ironcage_core.domain.money import Micros
from ironcage_core.domain.settlements import Settlement, is_revoked_with
from ironcage_core.errors.access import InvalidTokenError, OverSettledError
from ironcage_core.errors.tree import RefusalError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.lease_records import own_lease


def check_may_report_on(uow: UnitOfWork, identity: AgentIdentity, lease_id: str) -> None:
    """Refuse a dead value every lease that was not granted under it.

    Raises:
        InvalidTokenError: It was not, or there is no such lease.
    """
    if identity.died_at is not None:
        _granted_under(uow, identity, lease_id)


def check_may_return(uow: UnitOfWork, identity: AgentIdentity, lease_id: str) -> None:
    """Refuse a dead value every lease that was not revoked with it.

    Raises:
        InvalidTokenError: It was not, or there is no such lease.
    """
    if identity.died_at is not None and not is_revoked_with(_granted_under(uow, identity, lease_id), identity.died_at):
        raise InvalidTokenError


def check_may_settle_some(uow: UnitOfWork, identity: AgentIdentity, lease_ids: Iterable[str]) -> None:
    """Refuse a dead value a batch of which nothing is about a lease of its own.

    Raises:
        InvalidTokenError: None of the leases was granted under it.
    """
    if identity.died_at is None:
        return
    for lease_id in lease_ids:
        try:
            _granted_under(uow, identity, lease_id)
        except InvalidTokenError:
            continue
        return
    raise InvalidTokenError


def settle(uow: UnitOfWork, identity: AgentIdentity, named: Lease, cost: Micros) -> None:
    """Count what a dead value settles by a report on a lease of its own; nothing for a living one.

    Args:
        uow: The open unit of work; time has done its work on the agent's leases.
        identity: Who reports.
        named: The lease that the report names.
        cost: Micro-USD.

    Raises:
        OverSettledError: It would be more than the lease held; nothing is counted.
    """
    died_at = identity.died_at
    if died_at is None:
        return
    settled = []
    for lease, death in _bounds(uow, named, died_at):
        known = uow.dead_tokens.settlement(lease.id) or Settlement(lease.id, allowance(uow, lease, death), 0)
        after = known._replace(settled=known.settled + cost)
        if after.settled > after.allowance:
            raise OverSettledError(lease.id, cost)
        settled.append(after)
    for after in settled:
        uow.dead_tokens.put_settlement(after)


def allowance(uow: UnitOfWork, lease: Lease, died_at: Instant) -> Micros:
    """Return what a lease held when the value died under which it was granted; before its end, if it was revoked.

    What was booked without a hold until then counts against that. Movements in the millisecond of the death count as
    earlier.
    """
    if lease.status == "revoked" and lease.closed_at is not None and lease.closed_at <= died_at:
        return max(0, lease.reclaimed - uow.ledger.sums_of_lease(lease.id, died_at).get("overspend", 0))
    if lease.closed_at is not None and lease.closed_at <= died_at:  # the entry may be later: time is applied lazily
        return 0
    sums = uow.ledger.sums_of_lease(lease.id, died_at)
    return sum(EFFECTS[kind].held * amount for kind, amount in sums.items())


def note_refused(uow: UnitOfWork, identity: AgentIdentity, refusals: Iterable[RefusalError | None]) -> None:
    """Write to the audit log what was not settled: one row a lease, however many reports it was."""
    refused: dict[str, list[Micros]] = {}
    for refusal in refusals:
        if isinstance(refusal, OverSettledError):
            refused.setdefault(refusal.lease_id, []).append(refusal.amount)
    for lease_id, amounts in refused.items():
        metadata = {"refused_micros": sum(amounts), "reports": len(amounts)}
        note = AuditNote(
            "SETTLEMENT_REFUSED", "budget", "lease", lease_id, identity.actor, outcome="denied", metadata=metadata
        )
        uow.audit.append(note)


def _granted_under(uow: UnitOfWork, identity: AgentIdentity, lease_id: str) -> Lease:
    try:
        lease = own_lease(uow, identity.agent_id, lease_id)
    except RefusalError:
        raise InvalidTokenError from None
    if (lease.ic_token_id, lease.ic_token_gen) != (identity.token_id, identity.gen):
        raise InvalidTokenError
    return lease


def _last_of_value(uow: UnitOfWork, lease: Lease) -> Lease:
    value = lease.ic_token_id, lease.ic_token_gen
    while lease.successor_id is not None:
        successor = uow.leases.find(lease.successor_id)
        if successor is None or (successor.ic_token_id, successor.ic_token_gen) != value:
            break
        lease = successor
    return lease


def _bounds(uow: UnitOfWork, named: Lease, died_at: Instant) -> Iterator[tuple[Lease, Instant]]:
    """Yield the leases whose limits a settlement counts against, each with the death of the value it belongs to."""
    lease = _last_of_value(uow, named)
    yield lease, died_at
    while lease.successor_id is not None:
        successor = uow.leases.find(lease.successor_id)
        if successor is None:
            return
        lease = _last_of_value(uow, successor)
        death = uow.dead_tokens.died_at(lease.ic_token_id, lease.ic_token_gen)
        if death is None or death > uow.now:
            return
        yield lease, death
