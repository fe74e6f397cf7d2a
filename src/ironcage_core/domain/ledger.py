"""The books of one agent: what a ledger entry does to a balance, as one table.

`apply` is the only code that changes a balance. The equations (contract budget.md 1):
remaining = allocated - spent - held, and every number is the sum of the entries behind it.
"""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import MAX_MICROS, Micros
from ironcage_core.domain.ratios import percent_of
from ironcage_core.errors.faults import InvariantViolationError

EntryKind = Literal["adjust", "grant", "spend", "overspend", "return", "reclaim"]
LeaseColumn = Literal["granted", "spent", "overspent", "returned", "reclaimed"]


class Balance(NamedTuple):
    """The running numbers of one agent's budget, in micro-USD; a column each, in order.

    `overspent` is the part of `spent` that no lease had covered, `alert_level` the share of the allocation in percent
    that was told of last, `pending` what events tell of calls on open leases that no report has settled: no money that
    the ledger knows.
    """

    agent_id: str
    budget_id: str
    allocated: Micros
    spent: Micros
    overspent: Micros
    held: Micros
    updated_at: Instant
    alert_level: int = 0
    pending: Micros = 0

    @property
    def remaining(self) -> Micros:
        """What may still be granted; negative only through overspend or a forced decrease (E4)."""
        return self.allocated - self.spent - self.held

    @property
    def status(self) -> Literal["active", "exhausted"]:
        """Whether the allocation is used up; money merely held does not exhaust."""
        return "exhausted" if self.spent >= self.allocated else "active"

    @property
    def percent_used(self) -> Decimal:
        """How much of the allocation is spent, in percent with two decimals, half up; it may pass 100 (E11)."""
        return percent_of(self.spent, self.allocated)


class Entry(NamedTuple):
    """One movement of money, never changed or removed; a column each, in order.

    `seq` is given by the store: one rising number for all agents.
    """

    seq: int | None
    id: str
    posted_at: Instant
    agent_id: str
    lease_id: str | None
    bank_user_id: str
    period: str
    kind: EntryKind
    amount: Micros
    cause: str
    ref: str | None
    actor: str
    allocated_after: Micros
    spent_after: Micros
    held_after: Micros


class AllocationNote(NamedTuple):
    """Why an allocation was changed by the entry, and whether a decrease was forced; a column each, in order."""

    entry_id: str
    reason: str | None
    is_forced: int


class Effect(NamedTuple):
    """What one micro-USD of an entry adds to each number of the agent, and which number of the lease counts it.

    The bank of the owner moves by the same `spent` and `held`.
    """

    allocated: int = 0
    spent: int = 0
    overspent: int = 0
    held: int = 0
    lease_column: LeaseColumn | None = None


EFFECTS: Final[Mapping[EntryKind, Effect]] = MappingProxyType(
    {
        "adjust": Effect(allocated=+1),
        "grant": Effect(held=+1, lease_column="granted"),
        "spend": Effect(spent=+1, held=-1, lease_column="spent"),
        "overspend": Effect(spent=+1, overspent=+1, lease_column="overspent"),
        "return": Effect(held=-1, lease_column="returned"),
        "reclaim": Effect(held=-1, lease_column="reclaimed"),
    }
)
"""Source: contract budget.md 1.1."""


def apply(balance: Balance, kind: EntryKind, amount: Micros, *, at: Instant) -> Balance:
    """Return the balance after one entry.

    Args:
        balance: The numbers before.
        kind: What happens.
        amount: Micro-USD; positive, for `adjust` any but 0.
        at: The instant of posting.

    Raises:
        InvariantViolationError: The books would not hold: a bug of the caller.

    Source: contract budget.md 1.1, 1.4 (I1 to I5).
    """
    if amount == 0 or (amount < 0 and kind != "adjust"):
        raise InvariantViolationError(f"an entry of kind {kind} needs a positive amount", amount=amount)
    effect = EFFECTS[kind]
    after = Balance(
        balance.agent_id,
        balance.budget_id,
        balance.allocated + effect.allocated * amount,
        balance.spent + effect.spent * amount,
        balance.overspent + effect.overspent * amount,
        balance.held + effect.held * amount,
        at,
        balance.alert_level,
        balance.pending,
    )
    if after.held < 0 or after.allocated < 0 or max(after.allocated, after.spent, after.held) > MAX_MICROS:
        raise InvariantViolationError(f"{kind} leaves an impossible balance", agent_id=balance.agent_id)
    if kind == "grant" and after.remaining < 0:
        raise InvariantViolationError("a grant may not exceed what remains", agent_id=balance.agent_id)
    return after


def with_pending(balance: Balance, delta: Micros) -> Balance:
    """Return the balance after money became pending, or is pending no more; the ledger's numbers stay."""
    return balance._replace(pending=pending_after(balance.pending, delta))


def pending_after(pending: Micros, delta: Micros) -> Micros:
    """Return what is pending after a change: at least 0, for a wrong count may not stand in the way of real money.

    Raises:
        InvariantViolationError: It would be more than can be stored.
    """
    if pending + delta > MAX_MICROS:
        raise InvariantViolationError("more is pending than can be stored")
    return max(0, pending + delta)
