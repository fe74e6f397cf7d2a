"""Reservations: what a thin runtime sets aside on its lease before it makes a call.

A reservation is soft: it moves no money, it only keeps other reservations from the same hold. Its time or the end of
its lease releases it, a report of the same request commits it.
"""

from typing import Final, Literal, NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import Micros

DEFAULT_TTL_S: Final = 300
MAX_TTL_S: Final = 3600
"""Source: contract budget.md 5.5."""


class Reservation(NamedTuple):
    """One reservation; a column each, in order. The amount is micro-USD."""

    agent_id: str
    request_id: str
    lease_id: str
    amount: Micros
    status: Literal["open", "released", "committed"]
    created_at: Instant
    expires_at: Instant

    def is_open(self, now: Instant) -> bool:
        """Tell whether it still sets its amount aside."""
        return self.status == "open" and now < self.expires_at
