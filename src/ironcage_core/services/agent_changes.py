"""Changes of agents: what they are, whose they are, and their end.

An owner names and labels an agent; whose it is, where it belongs, what it may be lent and whether it is in use are
for admins. The books stay with the owners who were granted the money.

Source: contract resources.md 1.2 and 1.5.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, TypedDict, cast

from ironcage_core.domain.access import Principal, judged
from ironcage_core.domain.agents import Agent, is_system_tag, tag_problems, tidy_tags
from ironcage_core.domain.audit import Actor, AuditNote, changes_between
from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_core.domain.texts import tidied
from ironcage_core.errors.tree import ForbiddenError, NoFieldsError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_keys import check_may_add, checked_keys, key_ids_of, replace_keys
from ironcage_core.services.agent_records import own_agent
from ironcage_core.services.agents import (
    description_problem,
    name_problem,
    project_problem,
    tags_text,
)
from ironcage_core.services.api_token_changes import end_api_token
from ironcage_core.services.budget_requests import cancel_pending_of_agent
from ironcage_core.services.ic_token_changes import revoke_ic_token
from ironcage_core.services.leasing import revoke_open_leases
from ironcage_core.services.runtime_states import note_runtime_event
from ironcage_core.services.users import owner_problem

STATUSES: Final = ("active", "inactive")
ADMIN_FIELDS: Final = frozenset(("owner_id", "project_id", "providers", "provider_key_id", "status"))


class AgentFields(TypedDict, total=False):
    """What may be changed of an agent; what is absent stays. An empty description is none.

    `provider_key_id` goes before `providers`, or is the only key; None takes all keys. A `budget` is always refused.
    """

    name: str
    description: str | None
    tags: Sequence[str]
    owner_id: str
    project_id: str
    providers: Sequence[str]
    provider_key_id: str | None
    status: str
    budget: object


def check_may_change(principal: Principal, names: Collection[str]) -> None:
    """Refuse fields that are for admins to somebody who is none.

    Raises:
        ForbiddenError: The role is too low, or the token is bound to a project and the project would change.
        InsufficientScopeError: The role would do, the token's scopes do not.
    """
    if ADMIN_FIELDS.intersection(names):
        judged(principal, "agents.manage")


def update_agent(
    uow: UnitOfWork,
    agent_id: str,
    fields: AgentFields,
    *,
    principal: Principal,
    allowed: Collection[str] = KNOWN_PROVIDERS,
) -> Agent:
    """Change what is given of an agent, all of it or nothing.

    An agent that becomes inactive loses its open leases and its runtime counts as stopped; a stop that an operator
    asked for stays one, whatever becomes of the status. Tags that the server has set outlive an owner's list of tags;
    an admin's list says which of them stay.

    Args:
        uow: The open unit of work.
        agent_id: Which agent.
        fields: At least one.
        principal: Its owner or an admin.
        allowed: Which kinds of provider new keys may be of.

    Raises:
        AgentNotFoundError, ForbiddenError, InsufficientScopeError: No such agent; another's; a field is for admins.
        NoFieldsError: Nothing is given.
        ValidationError: A field breaks its rule.
        InvalidProviderIdError, ProviderNotFoundError: A key id is malformed; unknown or disabled.
    """
    agent = own_agent(uow, agent_id, principal)
    check_may_change(principal, fields)
    if principal.bound_project not in {None, fields.get("project_id", principal.bound_project)}:
        raise ForbiddenError("The token is bound to another project")
    if not fields:
        raise NoFieldsError("At least one field is needed")
    if problems := _problems(uow, agent, fields):
        raise ValidationError(problems)
    before = key_ids_of(uow, agent.id)
    after = _keys_wanted(uow, fields, before, allowed)
    check_may_add(uow, principal, fields.get("project_id", agent.project_id), set(after) - set(before))
    changed = _with(agent, fields, keeps_system_tags=principal.reach != "all")
    if changed == agent and after == before:
        return agent
    changed = changed._replace(updated_at=uow.now)
    uow.agents.put(changed)
    revoked = 0
    if changed.status == "inactive" and agent.status != "inactive":
        revoked = revoke_open_leases(uow, agent.id, reason="agent_stopped", actor=principal.actor)
        changed = note_runtime_event(uow, changed, "inactivation")
    if after != before:
        revoked += replace_keys(uow, agent.id, before, after, actor=principal.actor)
    _note_changes(uow, changed, _told(agent, before), _told(changed, after), principal.actor, revoked)
    return changed


def _problems(uow: UnitOfWork, agent: Agent, fields: AgentFields) -> dict[str, str]:
    found = {
        "name": name_problem(fields["name"]) if "name" in fields else None,
        "description": description_problem(fields.get("description")),
        "owner_id": owner_problem(uow, fields["owner_id"]) if "owner_id" in fields else None,
        "project_id": project_problem(uow, fields["project_id"]) if "project_id" in fields else None,
    }
    if fields.get("status", "active") not in STATUSES:
        found["status"] = f"must be one of {', '.join(STATUSES)}"
    if "budget" in fields:
        found["budget"] = "is changed by PUT /limits/agents/:id/budget alone"
    if fields.get("providers") and fields.get("provider_key_id", "") is None:
        found["provider_key_id"] = "may not be null beside providers"
    problems = {name: problem for name, problem in found.items() if problem is not None}
    return problems | tag_problems(fields.get("tags", ()), json.loads(agent.tags))


def _keys_wanted(uow: UnitOfWork, fields: AgentFields, present: list[str], allowed: Collection[str]) -> list[str]:
    if "providers" not in fields and "provider_key_id" not in fields:
        return present
    primary = fields.get("provider_key_id")
    return checked_keys(uow, fields.get("providers", ()), present, primary=primary, allowed=allowed)


def _with(agent: Agent, fields: AgentFields, *, keeps_system_tags: bool) -> Agent:
    changed = agent._replace(
        name=fields.get("name", agent.name).strip(),
        owner_id=fields.get("owner_id", agent.owner_id),
        project_id=fields.get("project_id", agent.project_id),
        status=cast("Literal['active', 'inactive']", fields.get("status", agent.status)),
    )
    if "description" in fields:
        changed = changed._replace(description=tidied(fields["description"]))
    if "tags" in fields:
        kept = [tag for tag in json.loads(agent.tags) if is_system_tag(tag)] if keeps_system_tags else []
        changed = changed._replace(tags=tags_text(tidy_tags([*fields["tags"], *kept])))
    return changed


def _told(agent: Agent, providers: Sequence[str]) -> Mapping[str, object]:
    return {
        "name": agent.name,
        "description": agent.description,
        "tags": json.loads(agent.tags),
        "owner_id": agent.owner_id,
        "project_id": agent.project_id,
        "status": agent.status,
        "runtime_status": agent.runtime_status,
        "providers": providers,
    }


def _note_changes(
    uow: UnitOfWork,
    agent: Agent,
    before: Mapping[str, object],
    after: Mapping[str, object],
    actor: Actor,
    leases_revoked: int,
) -> None:
    changes = changes_between(before, after)
    metadata = {"leases_revoked": leases_revoked} if leases_revoked else {}
    note = AuditNote("AGENT_UPDATED", "agent", "agent", agent.id, actor, changes=changes, metadata=metadata)
    uow.audit.append(note)


def delete_agent(uow: UnitOfWork, agent_id: str, *, principal: Principal) -> None:
    """End an agent for good: its credentials die, its leases are revoked, its keys are taken.

    The row stays, and with it the ledger, the leases and what was used.

    Args:
        uow: The open unit of work.
        agent_id: Which agent.
        principal: An admin.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ForbiddenError: It is of another project than the one that the principal's token is bound to.
    """
    agent = own_agent(uow, agent_id, principal)
    actor = principal.actor
    leases = revoke_open_leases(uow, agent.id, reason="agent_deleted", actor=actor)
    revoke_ic_token(uow, agent.id, actor=actor)
    tokens = uow.api_tokens.unended_of_agent(agent.id)
    for token in tokens:
        end_api_token(uow, token, reason="agent deleted", actor=actor)
    requests = cancel_pending_of_agent(uow, agent.id, actor=actor)
    uow.provider_keys.assign(agent.id, ())
    stopped = note_runtime_event(uow, agent, "deletion")
    uow.agents.put(stopped._replace(deleted_at=uow.now, updated_at=uow.now))
    metadata = {
        "name": agent.name,
        "owner_id": agent.owner_id,
        "project_id": agent.project_id,
        "leases_revoked": leases,
        "api_tokens_revoked": len(tokens),
        "budget_requests_cancelled": requests,
    }
    uow.audit.append(AuditNote("AGENT_DELETED", "agent", "agent", agent.id, actor, metadata=metadata))
