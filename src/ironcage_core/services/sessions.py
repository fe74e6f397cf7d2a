"""Sessions: login, refresh, logout, and who an access token speaks for.

Passwords are hashed and verified outside, which is slow; here the account is looked at again, so nothing that changed
meanwhile slips through. A token proves only that we made it: the stored session and user decide. A replayed refresh
token is answered with a value, not an error: what it revokes must be kept.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ironcage_core.domain.access import NOWHERE, Origin, Principal, principal_of, user_actor
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.sessions import (
    AccessClaims,
    FoundRefresh,
    RevokedReason,
    Session,
    SessionPolicy,
    access_claims,
    opened,
    revoked,
    rotated,
    whole_second,
)
from ironcage_core.domain.texts import text_problem
from ironcage_core.domain.users import User
from ironcage_core.errors import (
    AccountDisabledCredentialError,
    AccountDisabledError,
    InvalidCredentialsError,
    InvalidTokenError,
    TokenExpiredError,
    TokenRevokedError,
)
from ironcage_core.ports.secrecy import AccessSigner
from ironcage_core.ports.storage import UnitOfWork

_IDENTIFIER_DIGITS: Final = 16
"""How much of an unknown identifier's hash is kept: enough to tell attempts apart, too little to be sure of a guess."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The tokens of a session's current generation, shown once, and whose they are."""

    principal: Principal
    access_token: str = field(repr=False)
    access_expires_at: Instant
    refresh_token: str = field(repr=False)
    refresh_expires_at: Instant
    issued_at: Instant

    @property
    def access_expires_in_s(self) -> int:
        """For how many seconds the access token lives."""
        return (self.access_expires_at - self.issued_at) // MS_PER_S

    @property
    def refresh_expires_in_s(self) -> int:
        """For how many seconds the refresh token lives."""
        return (self.refresh_expires_at - self.issued_at) // MS_PER_S


@dataclass(frozen=True, slots=True)
class Reused:
    """A refresh token came back after it was exchanged; its session was revoked for it."""

    session_id: str
    user_id: str
    revoked_at: Instant


def find_account(uow: UnitOfWork, identifier: str) -> User | None:
    """Return the user, not a deleted one, whom a login names.

    Args:
        uow: The open unit of work.
        identifier: An email if it has an `@`, else a username; in whatever case.

    Source: contract identity.md 3.
    """
    if text_problem(identifier, longest=255) is not None:
        return None
    name = identifier.strip()
    return uow.users.find_by_email(name.lower()) if "@" in name else uow.users.find_by_username(name)


def open_session(
    uow: UnitOfWork,
    user_id: str,
    *,
    checked_hash: str,
    new_hash: str | None = None,
    origin: Origin = NOWHERE,
    policy: SessionPolicy,
    signer: AccessSigner,
    new_secret: Callable[[], str],
) -> LoggedIn:
    """Log a user in whose password was verified.

    Args:
        uow: The open unit of work.
        user_id: Who logs in.
        checked_hash: The stored hash that the password was verified against.
        new_hash: The same password hashed with today's parameters, to be kept instead.
        origin: Where the request came from.
        policy: How long things live.
        signer: Makes the access token.
        new_secret: Gives a fresh refresh token.

    Raises:
        InvalidCredentialsError: The account is gone, or its password is no longer the one that was verified.
        AccountDisabledError: The account is suspended.

    Source: contract identity.md 3.
    """
    user = _with_checked_password(uow.users.find(user_id), checked_hash)
    if user.status != "active":
        raise AccountDisabledError(user_id=user.id)
    user = user._replace(last_login_at=uow.now, password_hash=new_hash or user.password_hash)
    uow.users.put(user)
    refresh_token = new_secret()
    session = opened(uow.new_id("sess"), user.id, signer.digest(refresh_token), now=uow.now, policy=policy)
    uow.sessions.put(session)
    metadata = {"session_id": session.id}
    actor = user_actor(user.id, user.role, origin)
    uow.audit.append(AuditNote("AUTH_LOGIN_SUCCEEDED", "auth", "user", user.id, actor, metadata=metadata))
    return _logged_in(uow, user, session, refresh_token, origin=origin, policy=policy, signer=signer)


def _with_checked_password(user: User | None, checked_hash: str) -> User:
    if user is None or user.status == "deleted" or user.password_hash is None:
        raise InvalidCredentialsError
    if not hmac.compare_digest(user.password_hash.encode(), checked_hash.encode()):
        raise InvalidCredentialsError
    return user


def _logged_in(
    uow: UnitOfWork,
    user: User,
    session: Session,
    refresh_token: str,
    *,
    origin: Origin,
    policy: SessionPolicy,
    signer: AccessSigner,
) -> LoggedIn:
    claims = access_claims(session, email=user.email, role=user.role, now=uow.now, policy=policy)
    return LoggedIn(
        principal=principal_of(user, session.id, origin),
        access_token=signer.sign(claims),
        access_expires_at=claims.expires_at,
        refresh_token=refresh_token,
        refresh_expires_at=session.refresh_expires_at,
        issued_at=whole_second(uow.now),
    )


def note_failed_login(
    uow: UnitOfWork, identifier: str, user_id: str | None = None, *, origin: Origin = NOWHERE
) -> None:
    """Remember a login that failed.

    Args:
        uow: The open unit of work.
        identifier: What was typed; people type passwords there, so of an unknown one only a hash is kept.
        user_id: The account it names; None if there is none.
        origin: Where the request came from.

    Source: contract identity.md 11.
    """
    user = None if user_id is None else uow.users.find(user_id)
    if user is not None:
        actor, metadata = user_actor(user.id, user.role, origin), {}
    else:
        actor = Actor("system", "system", None, None, origin.ip_address, origin.user_agent, origin.request_id)
        digest = hashlib.sha256(identifier.strip().lower().encode("utf-8", "surrogatepass")).hexdigest()
        metadata = {"identifier_sha256": digest[:_IDENTIFIER_DIGITS]}
    resource_id = None if user is None else user.id
    uow.audit.append(
        AuditNote("AUTH_LOGIN_FAILED", "auth", "user", resource_id, actor, outcome="failed", metadata=metadata)
    )


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
    return _logged_in(uow, user, session, fresh, origin=origin, policy=policy, signer=signer)


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
    ended = uow.sessions.of_user(principal.user_id) if all_sessions else (session,)
    _revoke(uow, ended, "logout")
    metadata = {"all_sessions": all_sessions, "sessions_revoked": len(ended)}
    uow.audit.append(AuditNote("AUTH_LOGOUT", "auth", "session", session.id, principal.actor, metadata=metadata))
    return len(ended)


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
    session = uow.sessions.find(principal.session_id)
    if session is None or session.user_id != principal.user_id:
        raise InvalidTokenError
    _check_not_revoked(session)
    return session


def _revoke(uow: UnitOfWork, sessions: Sequence[Session], reason: RevokedReason) -> None:
    for session in sessions:
        uow.sessions.put(revoked(session, reason, now=uow.now))


def change_password(uow: UnitOfWork, principal: Principal, *, checked_hash: str, new_hash: str) -> None:
    """Give a user a new password after the current one was verified; all other sessions of the user end.

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
    user = _with_checked_password(_active(uow.users.find(principal.user_id)), checked_hash)
    uow.users.put(user._replace(password_hash=new_hash, force_password_change=0, updated_at=uow.now))
    others = [other for other in uow.sessions.of_user(user.id) if other.id != session.id]
    _revoke(uow, others, "password_changed")
    metadata = {"sessions_revoked": len(others)}
    uow.audit.append(AuditNote("USER_PASSWORD_CHANGED", "user", "user", user.id, principal.actor, metadata=metadata))
