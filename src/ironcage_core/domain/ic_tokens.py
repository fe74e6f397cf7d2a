"""IC tokens: the credential of an agent's runtime, its claims and its stored record.

The value is a signed JWT. Its signature proves who made it; the hash in the record decides whether it still counts.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.access import NOWHERE, Origin
from ironcage_core.domain.audit import Actor
from ironcage_core.domain.instants import Instant

Permission = Literal["llm:call", "analytics:write", "data:read"]

DEFAULT_PERMISSIONS: Final = ("llm:call", "analytics:write")
KNOWN_PERMISSIONS: Final = ("llm:call", "analytics:write", "data:read")

IcTokenStatus = Literal["active", "revoked"]


@dataclass(frozen=True, slots=True)
class IcTokenClaims:
    """What an IC token says of itself.

    Args:
        token_id: The record, `ict_…` (`jti`).
        gen: Rises by one with each regenerate, so no two values are alike.
        agent_id: The agent (`sub`).
        budget_id: The agent's budget.
        permissions: What the holder may do.
        issued_at: Instant, whole seconds.
        expires_at: Instant, whole seconds; None means until replaced or revoked.

    Source: contract identity.md 7.
    """

    token_id: str
    gen: int
    agent_id: str
    budget_id: str
    permissions: tuple[str, ...]
    issued_at: Instant
    expires_at: Instant | None


@dataclass(frozen=True, slots=True)
class PresentedIcToken:
    """A token value whose signature and claims were proven; whether it still lives is the store's to say.

    `value` is without an `ic_` prefix; `value_hash` is the lower-case hex SHA-256 of it.
    """

    claims: IcTokenClaims
    value_hash: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """An agent whose IC token was proven in this unit of work: alive, or dead since `died_at` and settling."""

    agent_id: str
    token_id: str
    gen: int
    permissions: tuple[str, ...]
    token: str = field(repr=False)
    origin: Origin = NOWHERE
    died_at: Instant | None = None

    @property
    def actor(self) -> Actor:
        """This agent, as the audit log remembers it."""
        where = self.origin
        return Actor(
            "agent",
            self.agent_id,
            token_id=self.token_id,
            ip_address=where.ip_address,
            user_agent=where.user_agent,
            request_id=where.request_id,
        )


class IcTokenRecord(NamedTuple):
    """The stored side of an IC token; a column each, in order."""

    id: str
    agent_id: str
    status: IcTokenStatus
    gen: int
    value_hash: str
    previous_hash: str | None
    previous_until: Instant | None
    permissions: str  # space-separated, as OAuth scopes are written
    description: str | None
    created_at: Instant
    created_by: str
    rotated_at: Instant | None
    rotated_by: str | None
    last_used_at: Instant | None
    expires_at: Instant | None
    revoked_at: Instant | None
