"""The lease session: what a runtime knows of its lease and of what it has spent, without any I/O.

What a call cost is counted against the lease at once, and waits here until the control plane has acknowledged it. A
refreshed lease begins with what waits, for that is not taken from it yet, and with what was acknowledged since the
refresh was first asked for: its answer may have been lost, and what came behind it was taken from the new lease.

Source: contract budget.md 11.
"""

import threading
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.domain.prices import TokenCounts
from ironcage_core.runtime.controller import CostController, Reservation, Standing

MAX_ASKED: Final = 1_000 * MICROS_PER_USD
"""The most that a handshake or refresh may ask for. Source: contract budget.md 5.1."""

_LOW_PART: Final = 5
"""A lease smaller than five thresholds is low at a fifth of it: else it would be low from the start."""


class Spend(NamedTuple):
    """What one call cost, by kind of tokens where that is known; an estimated one may have cost less."""

    request_id: str
    lease_id: str
    model: str
    provider: str
    cost: Micros
    tokens: int
    counts: TokenCounts | None
    occurred_at: Instant
    is_estimated: bool = False


class LeaseSession:
    """One runtime's lease; safe in many threads, and for one sender of what was spent.

    Args:
        tranche: How much it likes to have at hand, in micro-USD.
    """

    def __init__(self, tranche: Micros) -> None:
        self.controller = CostController(0)
        self._tranche = tranche
        self._threshold = 0
        self._lease_ids: list[str] = []
        self._unacked: dict[str, Spend] = {}
        self._acked_since_asked: Micros | None = None  # None while no refresh is asked for
        self._lock = threading.Lock()

    @property
    def lease_id(self) -> str | None:
        """The lease that calls are charged to; None before the first."""
        return self._lease_ids[-1] if self._lease_ids else None

    @property
    def is_low(self) -> bool:
        """Whether it is time to refresh."""
        return self.controller.status().available < self._threshold

    @property
    def waiting(self) -> int:
        """How many spends the control plane has not acknowledged."""
        return len(self._unacked)

    def begin(self, lease_id: str, budget: Micros, threshold: Micros) -> None:
        """Spend from a lease of a handshake; what waits was spent from others."""
        with self._lock:
            self._lease_ids = [lease_id]
            self._acked_since_asked = None
            self._threshold = min(threshold, max(self._tranche, budget) // _LOW_PART)
            self.controller.reset(budget, 0)

    def go_on(self, lease_id: str, budget: Micros) -> None:
        """Spend from the lease that a refresh gave for the last one."""
        with self._lock:
            known = set(self._lease_ids)
            waits = sum(spend.cost for spend in self._unacked.values() if spend.lease_id in known)
            self._lease_ids.append(lease_id)
            self.controller.reset(budget, waits + (self._acked_since_asked or 0))
            self._acked_since_asked = None

    def begin_to_ask(self) -> None:
        """Note that a refresh is asked for, for the first time."""
        with self._lock:
            self._acked_since_asked = 0

    def asks(self, needed: Micros = 0) -> Micros:
        """Return how much new money to ask for, so that a tranche is at hand, or what a call needs."""
        missing = max(self._tranche, needed) - self.controller.status().available
        return min(max(missing, 1), MAX_ASKED)

    def commit(self, reservation: Reservation, spend: Spend) -> None:
        """Count what a call cost, and let it wait for the next report.

        Raises:
            ReservationClosedError: The reservation was committed or cancelled before.
        """
        with self._lock:
            self.controller.commit(reservation, spend.cost)
            self._unacked[spend.request_id] = spend

    def recover(self, spends: Iterable[Spend]) -> None:
        """Let spends of an earlier session wait as well; they are nothing of this lease's."""
        with self._lock:
            self._unacked |= {spend.request_id: spend for spend in spends}

    def batch(self, limit: int) -> Sequence[Spend]:
        """Return the spends that have waited longest."""
        with self._lock:
            return [spend for _, spend in zip(range(limit), self._unacked.values(), strict=False)]

    def acknowledge(self, request_ids: Iterable[str]) -> None:
        """Wait no longer for these: they are in the books, or never will be."""
        with self._lock:
            for request_id in request_ids:
                spend = self._unacked.pop(request_id, None)
                is_ours = spend is not None and spend.lease_id in self._lease_ids
                if spend is not None and is_ours and self._acked_since_asked is not None:
                    self._acked_since_asked += spend.cost

    def status(self) -> Standing:
        """Return what is spent, reserved and allowed, as one snapshot."""
        return self.controller.status()
