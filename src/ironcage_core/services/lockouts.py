"""Lockouts: failed logins are counted and remembered, for accounts and for names that nobody has in the same way."""

from typing import Final

from ironcage_core.domain.access import NOWHERE, Origin, user_actor
from ironcage_core.domain.audit import Actor, AuditNote, Outcome
from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.lockouts import LockoutPolicy, failed_once_more, is_locked
from ironcage_core.domain.users import UnknownLogin, User
from ironcage_core.errors.access import AccountLockedError
from ironcage_core.ports.storage import UnitOfWork

_IDENTIFIER_DIGITS: Final = 16
"""How much of an unknown identifier's hash is kept: enough to tell attempts apart, too little to be sure of a guess."""


def check_not_locked(named: User | UnknownLogin, now: Instant) -> None:
    """Refuse a login before its password is looked at.

    Raises:
        AccountLockedError: Too many failed in a row.
    """
    if named.locked_until is not None and is_locked(named, now):
        wait_s = -((now - named.locked_until) // MS_PER_S)
        raise AccountLockedError(retry_after_s=wait_s, locked_until=named.locked_until)


def count_failure(
    uow: UnitOfWork, named: User | UnknownLogin, *, origin: Origin = NOWHERE, policy: LockoutPolicy
) -> None:
    """Remember a wrong password, which may lock what was named; a lock that holds is not made longer.

    Args:
        uow: The open unit of work.
        named: What the login names, as stored.
        origin: Where the request came from.
        policy: When failures lock.

    Source: contract identity.md 3, 11 and 12.
    """
    note_login(uow, "AUTH_LOGIN_FAILED", named, outcome="failed", origin=origin)
    if is_locked(named, uow.now):
        return
    counted = _counted(uow, named, policy)
    if is_locked(counted, uow.now):
        note_login(uow, "AUTH_ACCOUNT_LOCKED", counted, outcome="denied", origin=origin)


def _counted(uow: UnitOfWork, named: User | UnknownLogin, policy: LockoutPolicy) -> User | UnknownLogin:
    if isinstance(named, User):
        user = failed_once_more(named, now=uow.now, policy=policy)
        uow.users.put(user)
        return user
    unknown = failed_once_more(named, now=uow.now, policy=policy)._replace(last_at=uow.now)
    uow.unknown_logins.put(unknown)
    return unknown


def note_login(
    uow: UnitOfWork,
    operation: str,
    named: User | UnknownLogin,
    *,
    outcome: Outcome,
    reason: str | None = None,
    origin: Origin = NOWHERE,
) -> None:
    """Write what became of a login into the audit log.

    People type passwords where a name belongs, so of a name that nobody has only a piece of its hash is kept.

    Source: contract identity.md 11.
    """
    if isinstance(named, User):
        actor = user_actor(named.id, named.role, origin)
        resource_id, metadata = named.id, {}
    else:
        actor = Actor("system", "system", None, None, origin.ip_address, origin.user_agent, origin.request_id)
        resource_id, metadata = None, {"identifier_sha256": named.identifier_hash[:_IDENTIFIER_DIGITS]}
    uow.audit.append(
        AuditNote(operation, "auth", "user", resource_id, actor, outcome=outcome, reason=reason, metadata=metadata)
    )
