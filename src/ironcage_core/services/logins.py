"""Logins: which account is meant, and the session that the right password opens.

Passwords are hashed and verified outside, which is slow; here the account is looked at again, so nothing that changed
meanwhile slips through. A wrong password is answered with a value, not an error: that it failed must be kept.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from ironcage_core.domain.access import NOWHERE, Origin, Principal, principal_of, user_actor
from ironcage_core.domain.audit import AuditNote
from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.lockouts import LockoutPolicy, identifier_hash
from ironcage_core.domain.sessions import (
    Session,
    SessionPolicy,
    access_claims,
    opened,
    revoked,
    whole_second,
)
from ironcage_core.domain.texts import text_problem
from ironcage_core.domain.users import UnknownLogin, User
from ironcage_core.errors.access import AccountDisabledError, InvalidCredentialsError
from ironcage_core.ports.secrecy import AccessSigner
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.lockouts import check_not_locked, count_failure, note_login


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
class Attempt:
    """A login whose password was verified, outside any unit of work.

    Args:
        identifier: An email or a username, as it was typed.
        checked_hash: The stored hash that the password matches; None if it matches none.
        new_hash: The same password hashed with today's parameters, to be kept instead.
    """

    identifier: str = field(repr=False)
    checked_hash: str | None = field(repr=False)
    new_hash: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RefusedLogin:
    """A login that was refused and remembered; `refusal` is what to tell the caller."""

    refusal: InvalidCredentialsError | AccountDisabledError


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


def named_by(uow: UnitOfWork, identifier: str) -> User | UnknownLogin:
    """Return what a login names: a user, or the failures of a name that nobody has."""
    user = find_account(uow, identifier)
    if user is not None:
        return user
    hashed = identifier_hash(identifier)
    return uow.unknown_logins.find(hashed) or UnknownLogin(hashed, 0, None, uow.now)


def find_login(uow: UnitOfWork, identifier: str) -> User | UnknownLogin:
    """Return what a login names, to verify a password against it.

    Raises:
        AccountLockedError: No password is looked at now.

    Source: contract identity.md 3.
    """
    named = named_by(uow, identifier)
    check_not_locked(named, uow.now)
    return named


def log_in(
    uow: UnitOfWork,
    attempt: Attempt,
    *,
    origin: Origin = NOWHERE,
    policy: SessionPolicy,
    lockouts: LockoutPolicy,
    signer: AccessSigner,
    new_secret: Callable[[], str],
) -> LoggedIn | RefusedLogin:
    """Open a session for the right password; count a wrong one.

    Args:
        uow: The open unit of work.
        attempt: What was typed, and what came of verifying it.
        origin: Where the request came from.
        policy: How long things live.
        lockouts: When failures lock.
        signer: Makes the access token.
        new_secret: Gives a fresh refresh token.

    Returns:
        The tokens; or `RefusedLogin` for a wrong password, which is counted, and for a suspended account.

    Raises:
        AccountLockedError: Locked meanwhile: the right password is no better than any other then.

    Source: contract identity.md 3.
    """
    named = find_login(uow, attempt.identifier)
    if not isinstance(named, User) or not is_checked(named, attempt.checked_hash):
        count_failure(uow, named, origin=origin, policy=lockouts)
        return RefusedLogin(InvalidCredentialsError())
    if named.status != "active":
        note_login(uow, "AUTH_LOGIN_FAILED", named, outcome="denied", reason="suspended", origin=origin)
        return RefusedLogin(AccountDisabledError(user_id=named.id))
    user = named._replace(
        last_login_at=uow.now,
        password_hash=attempt.new_hash or named.password_hash,
        failed_logins=0,
        locked_until=None,
    )
    uow.users.put(user)
    refresh_token = new_secret()
    session = _open_session(uow, user, signer.digest(refresh_token), origin, policy)
    return logged_in(uow, user, session, refresh_token, origin=origin, policy=policy, signer=signer)


def _open_session(uow: UnitOfWork, user: User, refresh_hash: str, origin: Origin, policy: SessionPolicy) -> Session:
    session = opened(uow.new_id("sess"), user.id, refresh_hash, now=uow.now, policy=policy)
    uow.sessions.put(session)
    ended = _end_oldest(uow, user, policy.max_sessions)
    metadata = {"session_id": session.id} | ({"sessions_revoked": ended} if ended else {})
    actor = user_actor(user.id, user.role, origin)
    uow.audit.append(AuditNote("AUTH_LOGIN_SUCCEEDED", "auth", "user", user.id, actor, metadata=metadata))
    return session


def _end_oldest(uow: UnitOfWork, user: User, max_sessions: int) -> int:
    """End the user's oldest sessions above the cap, if there is one; return how many ended."""
    if not max_sessions:
        return 0
    live = [session for session in uow.sessions.of_user(user.id) if session.refresh_expires_at > uow.now]
    surplus = live[:-max_sessions]
    for session in surplus:
        uow.sessions.put(revoked(session, "session_cap", now=uow.now))
    return len(surplus)


def is_checked(user: User, checked_hash: str | None) -> bool:
    """Tell whether the user's stored hash is still the one that a password was verified against."""
    if user.status == "deleted" or user.password_hash is None or checked_hash is None:
        return False
    return hmac.compare_digest(user.password_hash.encode(), checked_hash.encode())


def logged_in(
    uow: UnitOfWork,
    user: User,
    session: Session,
    refresh_token: str,
    *,
    origin: Origin,
    policy: SessionPolicy,
    signer: AccessSigner,
) -> LoggedIn:
    """Return the tokens of the session's current generation."""
    claims = access_claims(session, email=user.email, role=user.role, now=uow.now, policy=policy)
    return LoggedIn(
        principal=principal_of(user, session.id, origin),
        access_token=signer.sign(claims),
        access_expires_at=claims.expires_at,
        refresh_token=refresh_token,
        refresh_expires_at=session.refresh_expires_at,
        issued_at=whole_second(uow.now),
    )
