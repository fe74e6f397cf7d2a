"""Logins: which account is meant, and the session that the right password opens.

Passwords are hashed and verified outside, which is slow; here the account is looked at again, so nothing that changed
meanwhile slips through.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ironcage_core.domain.access import NOWHERE, Origin, Principal, principal_of, user_actor
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.sessions import (
    Session,
    SessionPolicy,
    access_claims,
    opened,
    whole_second,
)
from ironcage_core.domain.texts import text_problem
from ironcage_core.domain.users import User
from ironcage_core.errors import (
    AccountDisabledError,
    InvalidCredentialsError,
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
    user = with_checked_password(uow.users.find(user_id), checked_hash)
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
    return logged_in(uow, user, session, refresh_token, origin=origin, policy=policy, signer=signer)


def with_checked_password(user: User | None, checked_hash: str) -> User:
    """Return the user, whose stored hash is still the one the password was verified against.

    Raises:
        InvalidCredentialsError: It is not, or there is no such user any more.
    """
    if user is None or user.status == "deleted" or user.password_hash is None:
        raise InvalidCredentialsError
    if not hmac.compare_digest(user.password_hash.encode(), checked_hash.encode()):
        raise InvalidCredentialsError
    return user


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
