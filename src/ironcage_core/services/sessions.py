"""Sessions: refresh, logout, change of password, and who an access token speaks for.

A token proves only that we made it: the stored session and user decide. A replayed refresh
token is answered with a value, not an error: what it revokes must be kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ironcage_core.domain.access import NOWHERE, Origin, Principal, principal_of, user_actor
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.instants import MS_PER_DAY, Instant
from ironcage_core.domain.lockouts import LockoutPolicy
from ironcage_core.domain.sessions import (
    AccessClaims,
    FoundRefresh,
    RevokedReason,
    Session,
    SessionPolicy,
    revoked,
    rotated,
)
from ironcage_core.domain.users import User
from ironcage_core.errors.access import (
    AccountDisabledCredentialError,
    InvalidCredentialsError,
    InvalidTokenError,
    TokenExpiredError,
    TokenRevokedError,
)
from ironcage_core.ports.secrecy import AccessSigner
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.lockouts import count_failure
from ironcage_core.services.logins import LoggedIn, RefusedLogin, is_checked, logged_in

KEPT_AFTER_END: Final = 7 * MS_PER_DAY


@dataclass(frozen=True, slots=True)
class Reused:
    """A refresh token came back after it was exchanged; its session was revoked for it."""

    session_id: str
    user_id: str
    revoked_at: Instant


def refresh_session(
    uow: UnitOfWork,
    refresh_token: str,
    *,
    origin: Origin = NOWHERE,
    policy: SessionPolicy,
    signer: AccessSigner,
    new_secret: Callable[[], str],
) -> LoggedIn | Reused:
    """Exchange a refresh token for new tokens; it and all earlier access tokens of its session die.

    Args:
        uow: The open unit of work.
        refresh_token: As it was presented.
        origin: Where the request came from.
        policy: How long things live.
        signer: Makes the access token and digests refresh tokens.
        new_secret: Gives a fresh refresh token.

    Returns:
        The new tokens; or `Reused` for a token that was exchanged before, and then its session is revoked.

    Raises:
        InvalidTokenError: Unknown; or exchanged within the grace of the policy, and then nothing is revoked.
        AccountDisabledCredentialError: Its user is suspended or deleted.
        TokenRevokedError: Its session was ended.
        TokenExpiredError: Its time, or its session's, is over.

    Source: contract identity.md 3.
    """
    found, user = _live_refresh(uow, signer.digest(refresh_token))
    session = found.session
    if found.used_at is not None or found.gen != session.gen:
        if found.used_at is not None and uow.now < found.used_at + policy.reuse_grace:
            raise InvalidTokenError
        return _reused(uow, found, user_actor(user.id, user.role, origin))
    fresh = new_secret()
    session = rotated(session, signer.digest(fresh), now=uow.now, policy=policy)
    uow.sessions.put(session)
    return logged_in(uow, user, session, fresh, origin=origin, policy=policy, signer=signer)


def _live_refresh(uow: UnitOfWork, refresh_hash: str) -> tuple[FoundRefresh, User]:
    """Return a refresh token whose session lives, exchanged or not, and its user."""
    found = uow.sessions.find_by_refresh_hash(refresh_hash)
    if found is None:
        raise InvalidTokenError
    session = found.session
    user = _active(uow.users.find(session.user_id))
    _check_not_revoked(session)
    if session.refresh_expires_at <= uow.now:
        raise TokenExpiredError(expired_at=session.refresh_expires_at)
    return found, user


def _active(user: User | None) -> User:
    if user is None or user.status != "active":
        raise AccountDisabledCredentialError
    return user


def _check_not_revoked(session: Session) -> None:
    if session.revoked_at is not None:
        raise TokenRevokedError(revoked_at=session.revoked_at)


def _reused(uow: UnitOfWork, found: FoundRefresh, actor: Actor) -> Reused:
    session = found.session
    uow.sessions.put(revoked(session, "refresh_reused", now=uow.now))
    metadata = {"severity": "high", "user_id": session.user_id, "gen": found.gen, "current_gen": session.gen}
    uow.audit.append(
        AuditNote(
            "AUTH_REFRESH_REUSE_DETECTED", "auth", "session", session.id, actor, outcome="denied", metadata=metadata
        )
    )
    return Reused(session.id, session.user_id, uow.now)


def authenticate_access(uow: UnitOfWork, claims: AccessClaims, *, origin: Origin = NOWHERE) -> Principal:
    """Return who presents an access token that was proven, if its session and user are alive.

    Args:
        uow: The open unit of work.
        claims: As the signer proved them; their role and email decide nothing.
        origin: Where the request came from.

    Raises:
        InvalidTokenError: No such session, or not of this user, or a generation that is not yet.
        AccountDisabledCredentialError: The user is suspended or deleted.
        TokenRevokedError: The session was ended, or refreshed since.
        TokenExpiredError: The session's time is over.

    Source: contract identity.md 2.
    """
    session = uow.sessions.find(claims.session_id)
    if session is None or session.user_id != claims.user_id or claims.gen > session.gen:
        raise InvalidTokenError
    user = _active(uow.users.find(session.user_id))
    _check_not_revoked(session)
    if claims.gen != session.gen:
        raise TokenRevokedError(revoked_at=session.last_used_at)
    if session.expires_at <= uow.now:
        raise TokenExpiredError(expired_at=session.expires_at)
    return principal_of(user, session.id, origin)


def end_session(uow: UnitOfWork, principal: Principal, *, all_sessions: bool = False) -> int:
    """Log out: end the principal's session, or all sessions of the user; return how many ended.

    Raises:
        TokenRevokedError: The session has ended already.

    Source: contract identity.md 3.
    """
    session = _own_session(uow, principal)
    if all_sessions:
        ended = end_sessions(uow, principal.user_id, "logout")
    else:
        uow.sessions.put(revoked(session, "logout", now=uow.now))
        ended = 1
    metadata = {"all_sessions": all_sessions, "sessions_revoked": ended}
    uow.audit.append(AuditNote("AUTH_LOGOUT", "auth", "session", session.id, principal.actor, metadata=metadata))
    return ended


def end_session_by_refresh(
    uow: UnitOfWork, refresh_hash: str, *, all_sessions: bool = False, origin: Origin = NOWHERE
) -> int | Reused:
    """Log out with the digest of a refresh token; return how many sessions ended.

    A token that was exchanged before is a replay here as well: its session is revoked and the answer is `Reused`.

    Raises:
        InvalidTokenError, AccountDisabledCredentialError, TokenRevokedError, TokenExpiredError: As for a refresh.

    Source: contract identity.md 3.
    """
    found, user = _live_refresh(uow, refresh_hash)
    principal = principal_of(user, found.session.id, origin)
    if found.gen != found.session.gen:
        return _reused(uow, found, principal.actor)
    return end_session(uow, principal, all_sessions=all_sessions)


def _own_session(uow: UnitOfWork, principal: Principal) -> Session:
    session = None if principal.session_id is None else uow.sessions.find(principal.session_id)
    if session is None or session.user_id != principal.user_id:
        raise InvalidTokenError
    _check_not_revoked(session)
    return session


def end_sessions(uow: UnitOfWork, user_id: str, why: RevokedReason, *, spared: str | None = None) -> int:
    """End a user's sessions, but for one that is spared, and return how many ended."""
    ended = [session for session in uow.sessions.of_user(user_id) if session.id != spared]
    for session in ended:
        uow.sessions.put(revoked(session, why, now=uow.now))
    return len(ended)


def forget_sessions(uow: UnitOfWork, *, limit: int) -> int:
    """Remove sessions that were over long ago, at most `limit`, and return how many went.

    Until then a token of theirs is told why it opens nothing; after that it is merely unknown.
    """
    return uow.sessions.remove_ended(uow.now - KEPT_AFTER_END, limit)


def change_password(uow: UnitOfWork, principal: Principal, *, checked_hash: str, new_hash: str) -> None:
    """Give a user a new password after the current one was verified; all other sessions and a lock of the user end.

    Args:
        uow: The open unit of work.
        principal: Who asks; this session goes on.
        checked_hash: The stored hash that the current password was verified against.
        new_hash: The hash of the new password, which keeps the policy.

    Raises:
        InvalidTokenError, TokenRevokedError: The session has ended meanwhile.
        AccountDisabledCredentialError: The user was suspended or deleted meanwhile.
        InvalidCredentialsError: The password is no longer the one that was verified.

    Source: contract identity.md 3.
    """
    session = _own_session(uow, principal)
    user = _active(uow.users.find(principal.user_id))
    if not is_checked(user, checked_hash):
        raise InvalidCredentialsError
    uow.users.put(
        user._replace(
            password_hash=new_hash, force_password_change=0, failed_logins=0, locked_until=None, updated_at=uow.now
        )
    )
    metadata = {"sessions_revoked": end_sessions(uow, user.id, "password_changed", spared=session.id)}
    uow.audit.append(AuditNote("USER_PASSWORD_CHANGED", "user", "user", user.id, principal.actor, metadata=metadata))


def refuse_password_change(uow: UnitOfWork, principal: Principal, *, lockouts: LockoutPolicy) -> RefusedLogin:
    """Count a wrong current password, which is a guess as a failed login is one, and may lock the account.

    A lock stops logins only, not a session that lives: nobody can be kept from a new password from outside.

    Source: contract identity.md 3.
    """
    user = _active(uow.users.find(principal.user_id))
    count_failure(uow, user, origin=principal.origin, policy=lockouts)
    return RefusedLogin(InvalidCredentialsError())
