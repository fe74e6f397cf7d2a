"""Users on the wire: what may be sent about them, and what is shown; nothing of a password is ever shown."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.lockouts import is_locked
from ironcage_core.domain.users import User
from ironcage_core.services.user_removal import MovedAgent
from ironcage_http.calls import answer
from ironcage_http.wire import amount, moment

Seen = tuple[User, Instant]
"""A user, and when it was looked at."""


class NewUserBody(msgspec.Struct, frozen=True):
    """A new user; the role is `user` unless told otherwise."""

    username: str
    email: str
    password: str
    role: str | None = None
    name: str | None = None
    force_password_change: bool | None = None


class SuspendBody(msgspec.Struct, frozen=True):
    """Why a user is suspended."""

    reason: str | None = None


class RoleBody(msgspec.Struct, frozen=True):
    """The role that a user shall have."""

    role: str


class ResetBody(msgspec.Struct, frozen=True):
    """A user's new password, to be changed at the next login unless told otherwise."""

    new_password: str
    force_change: bool | None = None


class AccountView(msgspec.Struct, frozen=True):
    """One user."""

    id: str
    username: str
    email: str
    name: str | None
    role: str
    is_active: bool
    status: str
    created_at: str | None
    updated_at: str | None
    last_login: str | None
    suspended_at: str | None
    suspended_by: str | None
    deleted_at: str | None
    locked_until: str | None
    force_password_change: bool


class MovedAgentView(msgspec.Struct, frozen=True):
    """An agent of a deleted user, whose it is now, and its budget in USD."""

    agent_id: str
    name: str
    new_owner_id: str
    new_project_id: str
    budget: Decimal
    providers: list[str]


class DeletedAccountView(AccountView, frozen=True, kw_only=True):
    """A user who was deleted, and what went with the account."""

    agents_affected: list[MovedAgentView]
    agents_count: int
    budget_requests_cancelled: int
    api_tokens_revoked: int


class RevokedSessionsView(msgspec.Struct, frozen=True):
    """How many sessions ended."""

    sessions_revoked: int


class PermissionsView(msgspec.Struct, frozen=True):
    """What a user's role allows."""

    user_id: str
    role: str
    permissions: list[str]


def shown(user: User, now: Instant) -> tuple[Any, ...]:
    """Return the fields of an `AccountView`; a lock is shown while it holds."""
    return (
        user.id,
        user.username,
        user.email,
        user.name,
        user.role,
        user.status == "active",
        user.status_at(now),
        moment(user.created_at),
        moment(user.updated_at),
        moment(user.last_login_at),
        moment(user.suspended_at),
        user.suspended_by,
        moment(user.deleted_at),
        moment(user.locked_until) if user.status == "active" and is_locked(user, now) else None,
        bool(user.force_password_change),
    )


def account_answer(seen: Seen, *, status: int = 200, headers: Mapping[str, str] | None = None) -> ASGIResponse:
    """Return one user as an answer."""
    return answer(AccountView(*shown(*seen)), status=status, headers=headers)


def moved_agent_view(moved: MovedAgent) -> MovedAgentView:
    """Return how an agent is shown that has a new owner."""
    return MovedAgentView(
        agent_id=moved.agent.id,
        name=moved.agent.name,
        new_owner_id=moved.agent.owner_id,
        new_project_id=moved.agent.project_id,
        budget=amount(moved.budget),
        providers=list(moved.provider_keys),
    )
