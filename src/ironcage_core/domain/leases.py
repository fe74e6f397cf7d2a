"""Leases: a tranche of an agent's budget, lent to one runtime for a while.

The states (contract budget.md 2): active -> expired -> closed, and active or expired -> revoked.
`closed` and `revoked` are terminal: after them only `overspent` and `unattributed` may still move.
Time works on a lease by itself: `expires_at` makes it expired, the grace after it closes it. Both instants follow
from the row alone, so it does not matter who notices, or when.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.alerts import DEFAULT_LEVELS
from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.ledger import EFFECTS, EntryKind, pending_after
from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.errors.faults import InvariantViolationError

LeaseStatus = Literal["active", "expired", "closed", "revoked"]
LeaseEvent = Literal["time_up", "exhausted", "grace_over", "refreshed", "returned", "superseded", "revoked"]

TRANSITIONS: Final[Mapping[tuple[LeaseStatus, LeaseEvent], LeaseStatus]] = MappingProxyType(
    {
        ("active", "time_up"): "expired",
        ("active", "exhausted"): "expired",
        ("active", "refreshed"): "closed",
        ("active", "returned"): "closed",
        ("active", "superseded"): "closed",
        ("active", "revoked"): "revoked",
        ("expired", "grace_over"): "closed",
        ("expired", "refreshed"): "closed",
        ("expired", "returned"): "closed",
        ("expired", "superseded"): "closed",
        ("expired", "revoked"): "revoked",
    }
)
"""A pair that is missing here cannot happen. Source: contract budget.md 2."""

REASONS: Final[Mapping[LeaseEvent, str]] = MappingProxyType(
    {
        "time_up": "ttl",
        "exhausted": "exhausted",
        "grace_over": "expired",
        "refreshed": "refreshed",
        "returned": "returned",
        "superseded": "superseded",
    }
)
"""The status reason an event leaves; a revocation brings its own."""

REFRESH_THRESHOLD: Final[Micros] = MICROS_PER_USD
"""Runtimes are told to refresh below $1.00. Source: contract budget.md 0."""


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """The rules an operator may set; money in micro-USD, durations in milliseconds.

    Source: contract budget.md 0.
    """

    default_grant: Micros = 10 * MICROS_PER_USD
    max_grant: Micros = 1000 * MICROS_PER_USD
    ttl: int = 3600 * MS_PER_S
    grace: int = 60 * MS_PER_S
    max_lifetime: int = 86_400 * MS_PER_S
    max_open: int = 50
    max_report: Micros = 1000 * MICROS_PER_USD
    max_batch: int = 1000
    alert_levels: tuple[int, ...] = DEFAULT_LEVELS
    settle: int = 86_400 * MS_PER_S


DEFAULT_POLICY: Final = LeasePolicy()


class Lease(NamedTuple):
    """One lease; a column each, in order. Money in micro-USD.

    `granted` = `spent` + `returned` + `reclaimed` + held. `rolled_over` is the part of `granted` that came from the
    predecessor. `unattributed` is spend that a return reconciled before its reports came, `discrepancy`
    what that return found: server minus client. `pending` is what events tell of calls that no report has settled: only
    an open lease has any, and it moves no money. `due_at` is when to look at the lease again: never after the next
    instant at which time alone changes it, and None once it is terminal. Signs of life leave it as it is, so that a
    report moves no index of the leases.
    """

    id: str
    agent_id: str
    bank_user_id: str
    project_id: str
    ic_token_id: str
    ic_token_gen: int
    provider_key_id: str
    provider: str
    runtime_id: str | None
    status: LeaseStatus
    status_reason: str | None
    granted: Micros
    rolled_over: Micros
    spent: Micros
    overspent: Micros
    returned: Micros
    reclaimed: Micros
    unattributed: Micros
    reports: int
    discrepancy: Micros
    ttl: int
    grace: int
    created_at: Instant
    expires_at: Instant
    expired_at: Instant | None
    closed_at: Instant | None
    last_activity_at: Instant
    due_at: Instant | None
    lives_until: Instant
    successor_id: str | None
    pending: Micros = 0

    @property
    def held(self) -> Micros:
        """What is lent, not yet spent and not yet back (E5)."""
        return self.granted - self.spent - self.returned - self.reclaimed

    @property
    def total_spent(self) -> Micros:
        """Everything the runtime spent, covered or not (E6)."""
        return self.spent + self.overspent

    @property
    def is_open(self) -> bool:
        """Whether the lease may still hold money."""
        return self.status in {"active", "expired"}

    @property
    def changes_at(self) -> Instant | None:
        """The next instant at which time alone changes the lease; None once it is terminal."""
        return self.expires_at if self.status == "active" else self.due_at

    @property
    def frees_at(self) -> Instant | None:
        """When what the lease holds comes back by itself, if nothing is heard of it; None once it is terminal."""
        return self.expires_at + self.grace if self.status == "active" else self.due_at


def counted(lease: Lease, kind: EntryKind, amount: Micros) -> Lease:
    """Return the lease with an entry of the ledger counted in its column.

    Raises:
        InvariantViolationError: The lease equation would not hold, or a terminal lease would move money.
    """
    column = EFFECTS[kind].lease_column
    if column is None:
        raise InvariantViolationError(f"an entry of kind {kind} belongs to no lease", lease_id=lease.id)
    after = lease._replace(**{column: getattr(lease, column) + amount})
    if after.held < 0 or (column != "overspent" and not lease.is_open):
        raise InvariantViolationError(f"{kind} leaves an impossible lease", lease_id=lease.id)
    return after


def moved(lease: Lease, event: LeaseEvent, *, at: Instant, reason: str | None = None) -> Lease:
    """Return the lease after an event.

    Args:
        lease: The lease before.
        event: What happened.
        at: When it took effect.
        reason: The status reason; None takes the event's own.

    Raises:
        InvariantViolationError: The pair is not in `TRANSITIONS`, or a lease would end while it holds money.
    """
    status = TRANSITIONS.get((lease.status, event))
    if status is None:
        raise InvariantViolationError(f"a lease that is {lease.status} cannot be {event}", lease_id=lease.id)
    why = reason or REASONS[event]
    if status == "expired":
        return lease._replace(status=status, status_reason=why, expired_at=at, due_at=at + lease.grace)
    if lease.held:
        raise InvariantViolationError("a lease may not end while it holds money", lease_id=lease.id)
    return lease._replace(status=status, status_reason=why, closed_at=at, due_at=None, pending=0)


def pended(lease: Lease, delta: Micros) -> Lease:
    """Return the lease after money became pending on it, or is pending no more; see `ledger.pending_after`.

    Raises:
        InvariantViolationError: The lease is over.
    """
    if not lease.is_open:
        raise InvariantViolationError("nothing is pending on a lease that is over", lease_id=lease.id)
    return lease._replace(pending=pending_after(lease.pending, delta))


def overdue(lease: Lease, now: Instant) -> LeaseEvent | None:
    """Return what time has done to the lease by `now`, or None. The limit itself counts as over."""
    changes_at = lease.changes_at
    if changes_at is None or now < changes_at:
        return None
    return "time_up" if lease.status == "active" else "grace_over"


def kept_alive(lease: Lease, now: Instant) -> Lease:
    """Return the lease after a sign of life: an active one lasts another ttl, within its lifetime."""
    return lease._replace(expires_at=_prolonged(lease, now), last_activity_at=now)


def _prolonged(lease: Lease, now: Instant) -> Instant:
    if lease.status != "active":
        return lease.expires_at
    return max(lease.expires_at, min(now + lease.ttl, lease.lives_until))


class SpendSplit(NamedTuple):
    """How a cost is booked: against earlier reconciled spend, the hold, and the rest that nothing covers."""

    already_booked: Micros
    covered: Micros
    uncovered: Micros


def split_spend(lease: Lease, cost: Micros) -> SpendSplit:
    """Return how a reported cost falls on the effective lease.

    Source: contract budget.md 1.3, row report.
    """
    already_booked = min(cost, lease.unattributed)
    covered = min(cost - already_booked, lease.held) if lease.is_open else 0
    return SpendSplit(already_booked, covered, cost - already_booked - covered)


def charged(lease: Lease, split: SpendSplit, *, at: Instant) -> Lease:
    """Return the lease after one report: counted, kept alive, and expired when its hold is used up.

    Raises:
        InvariantViolationError: The split takes more than the lease holds.
    """
    left = lease.held - split.covered
    if left < 0 or (split.covered and not lease.is_open) or lease.unattributed < split.already_booked:
        raise InvariantViolationError("a report leaves an impossible lease", lease_id=lease.id)
    after = lease._replace(  # one copy: this is the hot path
        spent=lease.spent + split.covered,
        overspent=lease.overspent + split.uncovered,
        unattributed=lease.unattributed - split.already_booked,
        reports=lease.reports + 1,
        expires_at=_prolonged(lease, at) if left else lease.expires_at,
        last_activity_at=at,
    )
    return moved(after, "exhausted", at=at) if lease.status == "active" and left == 0 else after
