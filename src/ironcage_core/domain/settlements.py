"""Settlements: what a dead IC token value may still put on the books of a lease that was granted under it.

The limit is what the lease held when the value died: real spend stays on the books, and a thief can burn no more than
had been lent. Source: contract budget.md 4.1.
"""

from typing import Final, NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.money import Micros

DEATHS: Final = frozenset(("ic_token_regenerated", "ic_token_revoked", "agent_deleted"))
"""Why a lease is revoked together with a token value."""


class Settlement(NamedTuple):
    """What a dead value may settle on a lease and has settled, in micro-USD; a column each, in order."""

    lease_id: str
    allowance: Micros
    settled: Micros


def is_revoked_with(lease: Lease, died_at: Instant) -> bool:
    """Tell whether what killed a token value revoked the lease: at once, or when an overlap began that ended it."""
    if lease.status != "revoked" or lease.closed_at is None:
        return False
    return lease.status_reason in DEATHS and lease.closed_at <= died_at
