"""Removal of a user: the account ends for good, and what it owned goes on in other hands, in one unit of work.

The books stay as they are: an open lease keeps the bank of the owner who was granted it, and budgets, keys and IC
tokens belong to the agents, which move.

Source: contract identity.md 4, resources.md 11.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import ORIGINAL_OWNER, ORPHANED, Agent
from ironcage_core.domain.audit import AuditNote
from ironcage_core.domain.ids import ORPHANED_PROJECT
from ironcage_core.domain.money import Micros
from ironcage_core.domain.users import User
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.api_token_changes import end_api_tokens_of
from ironcage_core.services.budget_requests import cancel_pending_by_user
from ironcage_core.services.sessions import end_sessions
from ironcage_core.services.user_changes import (
    check_not_deleted,
    check_not_last_admin,
    other_user,
)


@dataclass(frozen=True, slots=True)
class MovedAgent:
    """An agent in its new hands, its allocation in micro-USD, and its provider keys in their order."""

    agent: Agent
    budget: Micros
    provider_keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class RemovedUser:
    """A user who was deleted, and what went with it."""

    user: User
    agents: Sequence[MovedAgent]
    budget_requests_cancelled: int
    api_tokens_revoked: int


def delete_user(uow: UnitOfWork, user_id: str, *, principal: Principal) -> RemovedUser:
    """Delete a user: the agents and projects become the principal's, everything else of the account ends.

    The row stays, for the books and the audit log; its names are free again.

    Args:
        uow: The open unit of work.
        user_id: Whom.
        principal: Who does it, and who owns the agents and projects from now on.

    Raises:
        UserNotFoundError: No such user.
        SelfModificationForbiddenError: It is the principal.
        UserDeletedError, LastAdminError: The state of things forbids it.
    """
    user = other_user(uow, user_id, principal)
    check_not_deleted(user)
    check_not_last_admin(uow, user)
    deleted = user._replace(status="deleted", deleted_at=uow.now, deleted_by=principal.user_id, updated_at=uow.now)
    uow.users.put(deleted)
    moved = _orphan_agents(uow, user, principal.user_id)
    projects = _hand_over_projects(uow, user, principal.user_id)
    tokens = end_api_tokens_of(uow, user.id, reason="user deleted", actor=principal.actor)
    cancelled = cancel_pending_by_user(uow, user.id, actor=principal.actor)
    ended = end_sessions(uow, user.id, "user_deleted")
    uow.limits.delete_of_user(user.id)
    metadata = {
        "username": user.username,
        "agents_moved": [each.agent.id for each in moved],
        "new_owner_id": principal.user_id,
        "new_project_id": ORPHANED_PROJECT,
        "projects_moved": projects,
        "api_tokens_revoked": tokens,
        "budget_requests_cancelled": cancelled,
        "sessions_revoked": ended,
    }
    changes = {"before": {"status": user.status}, "after": {"status": "deleted"}}
    uow.audit.append(
        AuditNote("USER_DELETED", "user", "user", user.id, principal.actor, changes=changes, metadata=metadata)
    )
    return RemovedUser(deleted, moved, cancelled, tokens)


def _orphan_agents(uow: UnitOfWork, user: User, new_owner_id: str) -> list[MovedAgent]:
    agents = uow.agents.live_of(user.id)
    keys = uow.provider_keys.ids_of([agent.id for agent in agents])
    moved = []
    for agent in agents:
        tags = dict.fromkeys([*json.loads(agent.tags), ORPHANED, f"{ORIGINAL_OWNER}{user.id}"])
        orphan = agent._replace(
            owner_id=new_owner_id,
            project_id=ORPHANED_PROJECT,
            tags=json.dumps([*tags], ensure_ascii=False),
            updated_at=uow.now,
        )
        uow.agents.put(orphan)
        balance = uow.balances.find(agent.id)
        moved.append(MovedAgent(orphan, 0 if balance is None else balance.allocated, keys.get(agent.id, ())))
    return moved


def _hand_over_projects(uow: UnitOfWork, user: User, new_owner_id: str) -> list[str]:
    projects = uow.projects.owned_by(user.id)
    for project in projects:
        uow.projects.put(project._replace(owner_id=new_owner_id, updated_at=uow.now))
    return [project.id for project in projects]
