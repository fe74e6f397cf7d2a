"""Sessions of users, and the hashes of all refresh tokens they ever had.

A session's row holds the current hash. Every hash keeps a row of its own, so that a token which comes back after it
was exchanged is known for what it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.sessions import FoundRefresh
from ironcage_core.domain.sessions import Session as UserSession
from ironcage_storage.sqlite.rows import Table
from ironcage_storage.sqlite.session import Session
from ironcage_storage.sqlite.stamp import Stamp


class RefreshToken(NamedTuple):
    """The stored side of a refresh token; a column each, in order."""

    hash: str
    session_id: str
    gen: int
    created_at: Instant
    used_at: Instant | None


class SqliteSessions:
    """Implements `Sessions`."""

    def __init__(self, session: Session, stamp: Stamp) -> None:
        self._stamp = stamp
        self._table: Table[UserSession] = Table(
            session, "sessions", UserSession, constant=("user_id", "created_at"), indexed=("revoked_at",)
        )
        self._refresh_tokens: Table[RefreshToken] = Table(
            session, "refresh_tokens", RefreshToken, ("hash",), constant=("session_id", "gen", "created_at")
        )

    def find(self, session_id: str) -> UserSession | None:
        """Return the session with this id."""
        return self._table.get(session_id)

    def find_by_refresh_hash(self, refresh_hash: str) -> FoundRefresh | None:
        """Return the session that has or had the refresh token with this hash, and the token's generation."""
        token = self._refresh_tokens.get(refresh_hash)
        session = None if token is None else self._table.get(token.session_id)
        if token is None or session is None:
            return None
        return FoundRefresh(session, token.gen, token.used_at)

    def of_user(self, user_id: str) -> Sequence[UserSession]:
        """Return the user's sessions that are not revoked, oldest first."""
        return self._table.rows("sessions WHERE user_id = ? AND revoked_at IS NULL ORDER BY id", (user_id,))

    def remove_ended(self, before: Instant, limit: int) -> int:
        """Remove at most `limit` sessions whose time was over before an instant, with their refresh tokens."""
        ended = self._table.rows("sessions WHERE expires_at < ? ORDER BY expires_at LIMIT ?", (before, limit))
        for session in ended:
            self._table.remove(session.id)  # its refresh tokens go with it, by their reference
        return len(ended)

    def put(self, session: UserSession) -> None:
        """Store the session, new or changed; a refresh hash that it replaces counts as exchanged now."""
        now = self._stamp.now
        before = self._table.get(session.id)
        self._table.put(session)
        if before is not None and before.refresh_hash == session.refresh_hash:
            return
        exchanged = None if before is None else self._refresh_tokens.get(before.refresh_hash)
        if exchanged is not None:
            self._refresh_tokens.put(exchanged._replace(used_at=now))
        self._refresh_tokens.put(RefreshToken(session.refresh_hash, session.id, session.gen, now, None))
