"""Pending spend: what events tell of calls that no report has settled yet.

It belongs to the lease that stands in the place of the one a call is stamped with, as long as that is open, and to the
agent's balance. It moves no money and holds no grant up; only alerts look at it. Source: contract analytics.md 1.
"""

from ironcage_core.domain.leases import pended
from ironcage_core.domain.ledger import with_pending
from ironcage_core.domain.money import Micros
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.lease_records import effective
from ironcage_core.services.posting import balance_of


def add_pending(uow: UnitOfWork, agent_id: str, lease_id: str | None, cost: Micros) -> None:
    """Count the cost of a call that only an event tells of; nothing, if its lease is over or it has none.

    Whoever calls tells the levels behind it.

    Args:
        uow: The open unit of work; time has done its work on the agent's leases.
        agent_id: Whose call it is.
        lease_id: The lease its record is stamped with, one of the agent.
        cost: Micro-USD.
    """
    _move(uow, agent_id, lease_id, cost)


def settle_pending(uow: UnitOfWork, agent_id: str, lease_id: str | None, cost: Micros) -> None:
    """Take back what `add_pending` has counted, for a report has come; nothing, if the lease ended meanwhile.

    Levels are told behind what the report books, once for both, so that the same money is not told twice. The lease is
    read and written here: one that was read before is out of date.

    Args:
        uow: The open unit of work; time has done its work on the agent's leases.
        agent_id: Whose call it is.
        lease_id: The lease its record was stamped with before the report came.
        cost: What the record cost before the report came, in micro-USD.
    """
    _move(uow, agent_id, lease_id, -cost)


def _move(uow: UnitOfWork, agent_id: str, lease_id: str | None, delta: Micros) -> None:
    stamped = uow.leases.find(lease_id) if lease_id and delta else None
    if stamped is None:
        return
    lease = effective(uow, stamped)
    if lease.is_open:
        uow.balances.put(with_pending(balance_of(uow, agent_id), delta))
        uow.leases.put(pended(lease, delta))
