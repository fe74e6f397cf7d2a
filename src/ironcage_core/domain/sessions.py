"""Sessions: what a login opens, which each refresh moves one generation on.

Of every session one refresh token and the access tokens of one generation count: the current ones. All times are
whole seconds, as the tokens say them, so that no token outlives its session by a fraction.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.users import Role

RevokedReason = Literal[
    "logout", "refresh_reused", "password_changed", "suspended", "user_deleted", "password_reset", "admin_revoked",
    "session_cap",
]  # fmt: skip


class Session(NamedTuple):
    """One login and what became of it; a column each, in order."""

    id: str
    user_id: str
    gen: int
    refresh_hash: str
    refresh_expires_at: Instant
    expires_at: Instant
    created_at: Instant
    last_used_at: Instant
    revoked_at: Instant | None
    revoked_reason: RevokedReason | None

    def __repr__(self) -> str:
        return f"Session(id={self.id!r}, user_id={self.user_id!r}, gen={self.gen}, revoked_at={self.revoked_at})"


class FoundRefresh(NamedTuple):
    """The session of a refresh token, the token's generation, and when it was exchanged, if it was."""

    session: Session
    gen: int
    used_at: Instant | None


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What an access token says of itself.

    Args:
        user_id: Whose it is (`sub`).
        session_id: The session it belongs to (`sid`).
        gen: The session's generation when it was made.
        jti: Tells tokens apart.
        issued_at: Instant, whole seconds.
        expires_at: Instant, whole seconds.
        email: For people to read; decides nothing.
        role: Likewise: the store says what the role is.

    Source: contract identity.md 2.
    """

    user_id: str
    session_id: str
    gen: int
    jti: str
    issued_at: Instant
    expires_at: Instant
    email: str
    role: str


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """How long tokens and sessions live, in milliseconds, whole seconds each, and how many there may be.

    Args:
        access_ttl: Life of an access token.
        refresh_ttl: Life of a refresh token; each refresh starts it anew.
        max_age: Life of a session from its login, however often it is refreshed.
        reuse_grace: For how long a second exchange of one refresh token is merely refused.
        max_sessions: How many sessions a user may have; the oldest end for a new one; 0 for any number.

    Source: contract identity.md 2, 3 and 10.
    """

    access_ttl: int = 900 * MS_PER_S
    refresh_ttl: int = 604_800 * MS_PER_S
    max_age: int = 2_592_000 * MS_PER_S
    reuse_grace: int = 0
    max_sessions: int = 0


DEFAULT_SESSION_POLICY: Final = SessionPolicy()


def whole_second(instant: Instant) -> Instant:
    """Return the start of the second of an instant."""
    return instant // MS_PER_S * MS_PER_S


def opened(session_id: str, user_id: str, refresh_hash: str, *, now: Instant, policy: SessionPolicy) -> Session:
    """Return a session of the first generation."""
    start = whole_second(now)
    return Session(
        id=session_id,
        user_id=user_id,
        gen=1,
        refresh_hash=refresh_hash,
        refresh_expires_at=start + min(policy.refresh_ttl, policy.max_age),
        expires_at=start + policy.max_age,
        created_at=now,
        last_used_at=now,
        revoked_at=None,
        revoked_reason=None,
    )


def rotated(session: Session, refresh_hash: str, *, now: Instant, policy: SessionPolicy) -> Session:
    """Return the session one generation on, with a new refresh token and the same end."""
    return session._replace(
        gen=session.gen + 1,
        refresh_hash=refresh_hash,
        refresh_expires_at=min(whole_second(now) + policy.refresh_ttl, session.expires_at),
        last_used_at=now,
    )


def revoked(session: Session, reason: RevokedReason, *, now: Instant) -> Session:
    """Return the session ended; one that had ended keeps its first end."""
    return session if session.revoked_at is not None else session._replace(revoked_at=now, revoked_reason=reason)


def access_claims(session: Session, *, email: str, role: Role, now: Instant, policy: SessionPolicy) -> AccessClaims:
    """Return the claims of the access token of the session's current generation."""
    issued_at = whole_second(now)
    return AccessClaims(
        user_id=session.user_id,
        session_id=session.id,
        gen=session.gen,
        # A generation has one access token, so no randomness is needed to tell it from all others.
        jti=f"{session.id}.{session.gen}",
        issued_at=issued_at,
        expires_at=min(issued_at + policy.access_ttl, session.expires_at),
        email=email,
        role=role,
    )
