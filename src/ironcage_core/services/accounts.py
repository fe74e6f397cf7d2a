"""Accounts: the users who own agents, and the monthly cap that brakes their agents' grants."""

from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.money import Micros
from ironcage_core.domain.users import Role, UsageLimit, User
from ironcage_core.errors import UserNotFoundError
from ironcage_core.ports.storage import UnitOfWork


def add_user(uow: UnitOfWork, *, username: str, email: str, role: Role, actor: Actor) -> User:
    """Add a user who can own agents."""
    user = User(uow.new_id("user"), username, email.strip().lower(), role, "active", uow.now, uow.now)
    uow.users.put(user)
    metadata = {"username": username, "role": role}
    uow.audit.append(AuditNote("USER_CREATED", "user", "user", user.id, actor, metadata=metadata))
    return user


def set_monthly_cap(uow: UnitOfWork, user_id: str, cap: Micros | None, *, actor: Actor) -> UsageLimit:
    """Cap what a user's agents may cost per UTC month, in micro-USD; None lifts the cap.

    A cap below what is spent and lent blocks new grants only.

    Raises:
        UserNotFoundError: No such user.

    Source: contract budget.md 8.
    """
    if uow.users.find(user_id) is None:
        raise UserNotFoundError("No such user")
    known = uow.limits.find_of_user(user_id)
    if known is None:
        limit = UsageLimit(uow.new_id("lim"), user_id, cap, uow.now, uow.now)
    else:
        limit = known._replace(max_cost_per_month=cap, updated_at=uow.now)
    uow.limits.put(limit)
    changes = {
        "before": {"max_cost_per_month_micros": known.max_cost_per_month if known else None},
        "after": {"max_cost_per_month_micros": cap},
    }
    uow.audit.append(AuditNote("LIMIT_SET", "config", "limit", limit.id, actor, changes=changes))
    return limit
