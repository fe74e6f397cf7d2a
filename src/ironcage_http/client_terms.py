"""How a session takes its leases, and which refusals of the control plane mean what for them.

Source: contract budget.md 2, 5 and 10.
"""

from dataclasses import dataclass
from typing import Final

from ironcage_core.domain.money import Micros

LOST: Final = frozenset(("LEASE_EXPIRED", "LEASE_CLOSED", "LEASE_REVOKED", "LEASE_NOT_FOUND"))
"""Refusals of a refresh after which a runtime takes a new lease. Source: contract budget.md 2."""

UNFUNDED: Final = "OWNER_SUSPENDED"
"""The refusal of new money that leaves open leases as they are. Source: contract budget.md 10."""

UNAUTHENTICATED: Final = 401

RENEW_AT: Final = 0.75
"""At which part of its time a lease that is in use is refreshed."""

BELIEVED_S: Final = 30.0
"""How long at most no new money is asked for, whatever time to come back the control plane names."""

LIFETIME_S: Final = 86_400.0
"""How long a lease is kept alive at most. Source: contract budget.md 0."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a session takes its leases: how much at once, for which runtime and key, and how long it waits."""

    tranche: Micros
    runtime_id: str | None = None
    provider: str | None = None
    provider_key_id: str | None = None
    start_timeout_s: float = 15.0
    close_timeout_s: float = 10.0
    renew_timeout_s: float = 5.0
