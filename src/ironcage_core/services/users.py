"""Users: finding them, and what everybody may change of the own account."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, get_args

from ironcage_core.domain.access import Principal, Target, reaches
from ironcage_core.domain.audit import AuditNote
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.texts import text_problem
from ironcage_core.domain.users import Role, User
from ironcage_core.errors.identity import UserNotFoundError
from ironcage_core.errors.tree import ForbiddenError, ValidationError
from ironcage_core.ports.storage import UnitOfWork

ROLES: Final[Mapping[str, Role]] = MappingProxyType({role: role for role in get_args(Role)})
"""Every role by its name, as somebody typed it."""

LONGEST_NAME: Final = 100


def any_user(uow: UnitOfWork, user_id: str) -> User:
    """Return a user, deleted ones included.

    Raises:
        UserNotFoundError: There never was one with this id.
    """
    user = uow.users.find(user_id) if is_id(user_id, "user") else None
    if user is None:
        raise UserNotFoundError("No such user")
    return user


def visible_user(uow: UnitOfWork, user_id: str, principal: Principal) -> User:
    """Return a user whom the principal's action reaches; who may not see others learns of none whether it exists.

    Raises:
        ForbiddenError: It is, or would be, somebody else.
        UserNotFoundError: No such user.

    Source: contract identity.md 4.
    """
    if not reaches(principal, Target(owner_id=user_id)):
        raise ForbiddenError("This is not your account")
    return any_user(uow, user_id)


def owner_problem(uow: UnitOfWork, user_id: object) -> str | None:
    """Return what is wrong with somebody as the owner of a thing, or None."""
    owner = uow.users.find(user_id) if isinstance(user_id, str) and is_id(user_id, "user") else None
    return "must be a live user" if owner is None or owner.status == "deleted" else None


def role_problem(role: str) -> str | None:
    """Return what is wrong with a role, or None."""
    return None if role in ROLES else f"must be one of {', '.join(ROLES)}"


def rename(uow: UnitOfWork, name: str | None, *, principal: Principal) -> User:
    """Change what the principal is called; None means by the username.

    Args:
        uow: The open unit of work.
        name: 1 to 100 characters, or None.
        principal: Whose account it is.

    Raises:
        ValidationError: The name breaks its rule.

    Source: contract identity.md 4.
    """
    if name is not None and (problem := text_problem(name, longest=LONGEST_NAME)):
        raise ValidationError({"name": problem})
    user = any_user(uow, principal.user_id)
    renamed = user._replace(name=None if name is None else name.strip(), updated_at=uow.now)
    if renamed.name == user.name:
        return user
    uow.users.put(renamed)
    changes = {"before": {"name": user.name}, "after": {"name": renamed.name}}
    uow.audit.append(AuditNote("USER_UPDATED", "user", "user", user.id, principal.actor, changes=changes))
    return renamed
