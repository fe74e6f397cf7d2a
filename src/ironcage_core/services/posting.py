"""Posting: the one way from a use case to the ledger.

Every movement of money writes its entry, the agent's balance, the lease and the owner's bank together.
"""

from typing import NamedTuple

from ironcage_core.domain.instants import period_of
from ironcage_core.domain.leases import Lease, SpendSplit, charged, counted
from ironcage_core.domain.ledger import Balance, Entry, EntryKind, apply
from ironcage_core.domain.money import Micros
from ironcage_core.errors.faults import InvariantViolationError
from ironcage_core.ports.storage import UnitOfWork


class Posted(NamedTuple):
    """The balance after an entry, and the entry's id."""

    balance: Balance
    entry_id: str


def balance_of(uow: UnitOfWork, agent_id: str) -> Balance:
    """Return the agent's balance.

    Raises:
        InvariantViolationError: It has none: every agent is made with one.
    """
    balance = uow.balances.find(agent_id)
    if balance is None:
        raise InvariantViolationError("an agent has no balance", agent_id=agent_id)
    return balance


def post_to_lease(
    uow: UnitOfWork,
    lease: Lease,
    kind: EntryKind,
    amount: Micros,
    *,
    cause: str,
    actor: str,
    ref: str | None = None,
) -> Lease:
    """Post an entry that belongs to a lease and return the lease as stored.

    Args:
        uow: The open unit of work.
        lease: The lease as it is now.
        kind: Any kind but `adjust`.
        amount: Micro-USD; 0 posts nothing.
        cause: The word for why, such as `report` or `ttl`.
        actor: Who caused it: an agent, a user or `system`.
        ref: The request or document behind it.
    """
    if amount == 0:
        return lease
    after = counted(lease, kind, amount)
    # First the agent's balance, which may refuse, then the lease: a refused movement leaves nothing.
    _post(uow, lease.agent_id, kind, amount, lease=lease, bank=lease.bank_user_id, why=(cause, ref, actor))
    uow.leases.put(after)
    return after


def post_report(uow: UnitOfWork, lease: Lease, split: SpendSplit, *, actor: str, ref: str) -> Lease:
    """Post what a report has cost and return the lease as stored: charged, kept alive, or expired."""
    after = charged(lease, split, at=uow.now)
    parts: tuple[tuple[EntryKind, Micros], ...] = (("spend", split.covered), ("overspend", split.uncovered))
    for kind, amount in parts:
        if amount:
            why = ("report", ref, actor)
            _post(uow, lease.agent_id, kind, amount, lease=lease, bank=lease.bank_user_id, why=why)
    uow.leases.put(after)
    return after


def post_adjustment(
    uow: UnitOfWork, agent_id: str, delta: Micros, *, owner_id: str, cause: str, actor: str, ref: str | None = None
) -> Posted:
    """Post a change of an agent's allocation by `delta` micro-USD."""
    return _post(uow, agent_id, "adjust", delta, lease=None, bank=owner_id, why=(cause, ref, actor))


def _post(
    uow: UnitOfWork,
    agent_id: str,
    kind: EntryKind,
    amount: Micros,
    *,
    lease: Lease | None,
    bank: str,
    why: tuple[str, str | None, str],
) -> Posted:
    now = uow.now
    before = balance_of(uow, agent_id)
    after = apply(before, kind, amount, at=now)
    uow.balances.put(after)
    period = period_of(now)
    spent, held = after.spent - before.spent, after.held - before.held
    if lease is not None:
        uow.banks.add(bank, lease.project_id, period, spent=spent, held=held)
    cause, ref, actor = why
    entry_id, lease_id = uow.new_id("led"), None if lease is None else lease.id
    uow.ledger.append(
        Entry(
            None, entry_id, now, agent_id, lease_id, bank, period, kind, amount, cause, ref, actor,
            after.allocated, after.spent, after.held,
        )
    )  # fmt: skip
    if after.status != before.status and before.allocated:  # the first allocation changes nothing: it makes the budget
        uow.feed.append(
            "AGENT_EVENT",
            agent_id=agent_id,
            name="budget_status_changed",
            data={"status": after.status, "previous_status": before.status},
        )
    return Posted(after, entry_id)
