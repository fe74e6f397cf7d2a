"""Changes of a user by an admin: suspend, activate, role, password, sessions.

A deleted user stays as it is. Nobody takes the own account away, and one active admin is always left: both are judged
in the unit of work that makes the change, so of two admins who remove each other one stays.

Source: contract identity.md 4 and 12.
"""

from ironcage_core.domain.access import Principal
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.lockouts import is_locked
from ironcage_core.domain.texts import reason_problem
from ironcage_core.domain.users import User
from ironcage_core.errors.identity import (
    LastAdminError,
    SelfModificationForbiddenError,
    UserAlreadyActiveError,
    UserAlreadySuspendedError,
    UserDeletedError,
)
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.sessions import end_sessions
from ironcage_core.services.users import ROLES, any_user, role_problem

LONGEST_REASON = 1000


def other_user(uow: UnitOfWork, user_id: str, principal: Principal) -> User:
    """Return a user who is not the principal; deleted ones included.

    Raises:
        UserNotFoundError: No such user.
        SelfModificationForbiddenError: It is the principal.
    """
    user = any_user(uow, user_id)
    if user.id == principal.user_id:
        raise SelfModificationForbiddenError("You cannot do this to your own account")
    return user


def check_not_deleted(user: User) -> None:
    """Refuse to change a deleted user.

    Raises:
        UserDeletedError: The user was deleted.
    """
    if user.status == "deleted":
        raise UserDeletedError("The user was deleted")


def check_not_last_admin(uow: UnitOfWork, user: User) -> None:
    """Refuse to take the last active admin away.

    Raises:
        LastAdminError: There is no other.
    """
    if user.role == "admin" and user.status == "active" and uow.users.count_active_admins() == 1:
        raise LastAdminError("This is the last active admin")


def suspend_user(uow: UnitOfWork, user_id: str, *, reason: str | None = None, principal: Principal) -> User:
    """Shut a user out: sessions end, API tokens open nothing until the user is activated again.

    Leases of the user's agents run on; they get no new money.

    Args:
        uow: The open unit of work.
        user_id: Whom.
        reason: For the audit log, 1 to 1000 characters.
        principal: Who does it.

    Raises:
        UserNotFoundError: No such user.
        SelfModificationForbiddenError: It is the principal.
        ValidationError: The reason breaks its rule.
        UserDeletedError, UserAlreadySuspendedError, LastAdminError: The state of things forbids it.
    """
    user = other_user(uow, user_id, principal)
    if problem := reason_problem(reason, longest=LONGEST_REASON):
        raise ValidationError({"reason": problem})
    check_not_deleted(user)
    if user.status == "suspended":
        raise UserAlreadySuspendedError("The user is suspended already")
    check_not_last_admin(uow, user)
    suspended = user._replace(
        status="suspended", suspended_at=uow.now, suspended_by=principal.user_id, updated_at=uow.now
    )
    uow.users.put(suspended)
    ended = end_sessions(uow, user.id, "suspended")
    _note(
        uow, "USER_SUSPENDED", user, principal.actor,
        reason=None if reason is None else reason.strip(),
        before={"is_active": True}, after={"is_active": False}, sessions_revoked=ended,
    )  # fmt: skip
    return suspended


def activate_user(uow: UnitOfWork, user_id: str, *, actor: Actor) -> User:
    """Let a suspended user in again, or lift the lock of an active one; sessions that ended stay ended.

    Raises:
        UserNotFoundError: No such user.
        UserDeletedError, UserAlreadyActiveError: The state of things forbids it.
    """
    user = any_user(uow, user_id)
    check_not_deleted(user)
    if user.status == "active" and not is_locked(user, uow.now):
        raise UserAlreadyActiveError("The user is active and not locked")
    active = user._replace(
        status="active", suspended_at=None, suspended_by=None, failed_logins=0, locked_until=None, updated_at=uow.now
    )
    uow.users.put(active)
    if user.status == "suspended":
        _note(uow, "USER_ACTIVATED", user, actor, before={"is_active": False}, after={"is_active": True})
    else:
        _note(uow, "USER_UNLOCKED", user, actor, before={"is_locked": True}, after={"is_locked": False})
    return active


def change_role(uow: UnitOfWork, user_id: str, role: str, *, principal: Principal) -> User:
    """Give a user another role, which counts from the next request of every credential; the same one is no change.

    Raises:
        UserNotFoundError: No such user.
        SelfModificationForbiddenError: It is the principal.
        ValidationError: There is no such role.
        UserDeletedError, LastAdminError: The state of things forbids it.
    """
    user = other_user(uow, user_id, principal)
    if problem := role_problem(role):
        raise ValidationError({"role": problem})
    check_not_deleted(user)
    if user.role == role:
        return user
    check_not_last_admin(uow, user)
    changed = user._replace(role=ROLES[role], updated_at=uow.now)
    uow.users.put(changed)
    _note(uow, "USER_ROLE_CHANGED", user, principal.actor, before={"role": user.role}, after={"role": role})
    return changed


def reset_password(
    uow: UnitOfWork, user_id: str, *, new_hash: str, force_change: bool, spared: str | None = None, actor: Actor
) -> User:
    """Give a user a new password without the old one; a lock is lifted, sessions end, API tokens live on.

    Args:
        uow: The open unit of work.
        user_id: Whose.
        new_hash: Of a password that keeps the policy.
        force_change: Whether it must be changed at the next login, before anything else.
        spared: The session that goes on: the one in which admins reset their own password.
        actor: Who does it.

    Raises:
        UserNotFoundError: No such user.
        UserDeletedError: The user was deleted.
    """
    user = any_user(uow, user_id)
    check_not_deleted(user)
    reset = user._replace(
        password_hash=new_hash,
        force_password_change=int(force_change),
        failed_logins=0,
        locked_until=None,
        updated_at=uow.now,
    )
    uow.users.put(reset)
    ended = end_sessions(uow, user.id, "password_reset", spared=spared)
    _note(uow, "USER_PASSWORD_RESET", user, actor, force_change=force_change, sessions_revoked=ended)
    return reset


def revoke_sessions(uow: UnitOfWork, user_id: str, *, actor: Actor) -> int:
    """End all sessions of a user and return how many ended.

    Raises:
        UserNotFoundError: No such user.
        UserDeletedError: The user was deleted, and the sessions with it.
    """
    user = any_user(uow, user_id)
    check_not_deleted(user)
    ended = end_sessions(uow, user.id, "admin_revoked")
    _note(uow, "USER_SESSIONS_REVOKED", user, actor, sessions_revoked=ended)
    return ended


def _note(
    uow: UnitOfWork,
    operation: str,
    user: User,
    actor: Actor,
    *,
    reason: str | None = None,
    before: dict[str, object] | None = None,
    after: dict[str, object] | None = None,
    **metadata: object,
) -> None:
    changes = {} if before is None else {"before": before, "after": after}
    uow.audit.append(
        AuditNote(operation, "user", "user", user.id, actor, reason=reason, changes=changes, metadata=metadata)
    )
