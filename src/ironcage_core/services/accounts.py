"""Accounts: adding users, the first of whom is an admin."""

from ironcage_core.domain.audit import SYSTEM, Actor, AuditNote
from ironcage_core.domain.texts import text_problem
from ironcage_core.domain.users import User
from ironcage_core.errors.identity import DuplicateEmailError, DuplicateUsernameError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.users import LONGEST_NAME, ROLES, role_problem


def add_user(
    uow: UnitOfWork,
    *,
    username: str,
    email: str,
    role: str,
    name: str | None = None,
    password_hash: str | None = None,
    force_password_change: bool = False,
    actor: Actor,
) -> User:
    """Add a user who can own agents.

    Args:
        uow: The open unit of work.
        username: 1 to 255 characters, no `@`; unique among living users in whatever case.
        email: One `@` with something on both sides; stored in lower case, unique likewise.
        role: `admin`, `user` or `viewer`.
        name: What to call the user, 1 to 100 characters; None for the username.
        password_hash: Of a password that keeps the policy; without one the user cannot log in.
        force_password_change: Whether it must be changed at the first login, before anything else.
        actor: Who adds.

    Raises:
        ValidationError: A field breaks its rule.
        DuplicateUsernameError, DuplicateEmailError: The name or address is taken.

    Source: contract identity.md 4.
    """
    _check_user(username, email, role, name)
    address = email.strip().lower()
    if uow.users.find_by_username(username.strip()) is not None:
        raise DuplicateUsernameError("This username is taken")
    if uow.users.find_by_email(address) is not None:
        raise DuplicateEmailError("This email is taken")
    user = User(
        id=uow.new_id("user"),
        username=username.strip(),
        email=address,
        role=ROLES[role],
        status="active",
        created_at=uow.now,
        updated_at=uow.now,
        name=None if name is None else name.strip(),
        password_hash=password_hash,
        force_password_change=int(force_password_change),
    )
    _put_new(uow, user, "USER_CREATED", actor)
    return user


def first_admin(uow: UnitOfWork, *, email: str, username: str, password_hash: str, force_change: bool) -> User | None:
    """Add the first admin, if there was never any user; else return None and change nothing.

    Args:
        uow: The open unit of work.
        email: As for `add_user`.
        username: Likewise.
        password_hash: Of a password that keeps the policy.
        force_change: Whether the password must be changed before anything else.

    Raises:
        ValidationError: A field breaks its rule.

    Source: contract identity.md 10, "First admin".
    """
    if not uow.users.is_empty():
        return None
    _check_user(username, email, "admin")
    user = User(
        id=uow.new_id("user"),
        username=username.strip(),
        email=email.strip().lower(),
        role="admin",
        status="active",
        created_at=uow.now,
        updated_at=uow.now,
        password_hash=password_hash,
        force_password_change=int(force_change),
    )
    _put_new(uow, user, "ADMIN_BOOTSTRAPPED", SYSTEM)
    return user


def _put_new(uow: UnitOfWork, user: User, operation: str, actor: Actor) -> None:
    uow.users.put(user)
    metadata = {"username": user.username, "role": user.role}
    uow.audit.append(AuditNote(operation, "user", "user", user.id, actor, metadata=metadata))


def user_problems(username: str, email: str, role: str, name: str | None = None) -> dict[str, str]:
    """Return what is wrong with a new user, by field."""
    problems = {}
    if problem := text_problem(username.strip(" "), longest=255):
        problems["username"] = problem
    elif "@" in username:
        problems["username"] = "may not contain @"
    if problem := text_problem(email.strip(" "), longest=255):
        problems["email"] = problem
    elif not all(part.strip() for part in email.partition("@")) or email.count("@") != 1:
        problems["email"] = "must have one @ with something on both sides"
    if name is not None and (problem := text_problem(name.strip(" "), longest=LONGEST_NAME)):
        problems["name"] = problem
    if problem := role_problem(role):
        problems["role"] = problem
    return problems


def _check_user(username: str, email: str, role: str, name: str | None = None) -> None:
    """Refuse a new user whose fields break a rule.

    Raises:
        ValidationError: One or more break a rule; each is named.
    """
    if problems := user_problems(username, email, role, name):
        raise ValidationError(problems)
