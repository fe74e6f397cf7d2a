"""Users: who owns agents and whose monthly cap brakes their grants."""

from typing import Literal, NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import Micros

Role = Literal["admin", "user", "viewer"]
UserStatus = Literal["active", "suspended", "deleted"]


class User(NamedTuple):
    """One user; a column each, in order."""

    id: str
    username: str
    email: str
    role: Role
    status: UserStatus
    created_at: Instant
    updated_at: Instant


class UsageLimit(NamedTuple):
    """A user's cap on booked cost per UTC month, in micro-USD; a column each, in order."""

    id: str
    user_id: str
    max_cost_per_month: Micros | None
    created_at: Instant
    updated_at: Instant
