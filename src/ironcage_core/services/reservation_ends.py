"""What happens around reservations: a report commits its own, a refresh takes them along, the end of a lease releases.

Source: contract budget.md 1.3 and 5.5.
"""

from ironcage_core.ports.storage import UnitOfWork


def commit_reservation(uow: UnitOfWork, agent_id: str, request_id: str) -> None:
    """Note that a call was reported, so that what was set aside for it is set aside no more."""
    known = uow.reservations.find(agent_id, request_id)
    if known is not None:  # also one that was released: there is nothing left to reserve for this call
        uow.reservations.put(known._replace(status="committed"))


def move_reservations(uow: UnitOfWork, lease_id: str, successor_id: str) -> None:
    """Put a lease's open reservations on the lease that takes its place."""
    for each in uow.reservations.open_of(lease_id, uow.now):
        uow.reservations.put(each._replace(lease_id=successor_id))


def release_reservations(uow: UnitOfWork, lease_id: str) -> None:
    """Release what is set aside on a lease that ends."""
    for each in uow.reservations.open_of(lease_id, uow.now):
        uow.reservations.put(each._replace(status="released"))
