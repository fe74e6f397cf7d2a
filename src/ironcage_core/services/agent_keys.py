"""Keys of agents: which provider keys an agent may be lent, in which order, and who may say so.

An admin may give any enabled key. An owner may keep, reorder and remove, and add the keys of the agent's project only.
A key that an agent loses takes the agent's open leases on it along.

Source: contract resources.md 2.4.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ironcage_core.domain.access import Principal, judged
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.providers import KNOWN_PROVIDERS, ProviderKey
from ironcage_core.errors.resources import InvalidProviderIdError, ProviderNotAssignedError, ProviderNotFoundError
from ironcage_core.errors.tree import ForbiddenError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import own_agent
from ironcage_core.services.leasing import revoke_open_leases


@dataclass(frozen=True, slots=True)
class AssignedKeys:
    """An agent and its provider keys in their order, disabled ones included."""

    agent: Agent
    keys: Sequence[ProviderKey]


def agent_keys(uow: UnitOfWork, agent_id: str, *, principal: Principal) -> AssignedKeys:
    """Return the keys of an agent.

    Raises:
        AgentTokenForbiddenError, AgentNotFoundError, ForbiddenError: As `own_agent` says.
    """
    agent = own_agent(uow, agent_id, principal)
    return AssignedKeys(agent, uow.provider_keys.assigned_to(agent.id))


def assign_agent_keys(
    uow: UnitOfWork,
    agent_id: str,
    key_ids: Sequence[str],
    *,
    principal: Principal,
    allowed: Collection[str] = KNOWN_PROVIDERS,
) -> AssignedKeys:
    """Replace the keys of an agent.

    Args:
        uow: The open unit of work.
        agent_id: Which agent.
        key_ids: The first is the primary one; duplicates are dropped. A disabled key may stay and not come.
        principal: Its owner or an admin.
        allowed: Which kinds of provider may come.

    Raises:
        AgentNotFoundError, ForbiddenError: As `own_agent` says; an owner adds a key that the agent's project has not.
        InvalidProviderIdError, ProviderNotFoundError, ValidationError: As `checked_keys` says.
    """
    agent = own_agent(uow, agent_id, principal)
    before = key_ids_of(uow, agent.id)
    after = checked_keys(uow, key_ids, before, allowed=allowed)
    check_may_add(uow, principal, agent.project_id, set(after) - set(before))
    return _assigned(uow, agent, before, after, principal.actor)


def check_may_add(uow: UnitOfWork, principal: Principal, project_id: str, key_ids: Collection[str]) -> None:
    """Refuse keys that somebody adds to an agent without being allowed to: else any key could be had by an agent's.

    Only an admin adds keys that the agent's project has not, by a credential that may manage agents and is bound to no
    project.

    Raises:
        ForbiddenError: Such a key, and no such admin.
        InsufficientScopeError: An admin's token that may not manage agents.
    """
    of_project = {key.provider_key_id for key in uow.projects.keys_of(project_id)}
    if of_project.issuperset(key_ids):
        return
    if principal.reach != "all" or principal.bound_project is not None:
        raise ForbiddenError("Only provider keys of the agent's project may be added")
    judged(principal, "agents.manage")


def unassign_agent_key(uow: UnitOfWork, agent_id: str, key_id: str, *, principal: Principal) -> AssignedKeys:
    """Take one key from an agent and return those that are left.

    Raises:
        AgentNotFoundError, ForbiddenError: As `own_agent` says.
        ProviderNotFoundError: No such key.
        ProviderNotAssignedError: The agent does not have it.
    """
    agent = own_agent(uow, agent_id, principal)
    if not is_id(key_id, "prov") or uow.provider_keys.find(key_id) is None:
        raise ProviderNotFoundError("No such provider key")
    before = key_ids_of(uow, agent.id)
    if key_id not in before:
        raise ProviderNotAssignedError("The provider key is not assigned to the agent")
    return _assigned(uow, agent, before, [each for each in before if each != key_id], principal.actor)


def _assigned(uow: UnitOfWork, agent: Agent, before: Sequence[str], after: Sequence[str], actor: Actor) -> AssignedKeys:
    if after != before:
        agent = agent._replace(updated_at=uow.now)
        uow.agents.put(agent)
        revoked = replace_keys(uow, agent.id, before, after, actor=actor)
        changes = {"before": {"providers": before}, "after": {"providers": after}}
        metadata = {"leases_revoked": revoked}
        note = AuditNote("PROVIDERS_ASSIGNED", "agent", "agent", agent.id, actor, changes=changes, metadata=metadata)
        uow.audit.append(note)
    return AssignedKeys(agent, uow.provider_keys.assigned_to(agent.id))


def replace_keys(uow: UnitOfWork, agent_id: str, before: Sequence[str], after: Sequence[str], *, actor: Actor) -> int:
    """Put keys in the place of others and return how many open leases went with those that the agent loses."""
    uow.provider_keys.assign(agent_id, after)
    lost = set(before) - set(after)
    return revoke_open_leases(uow, agent_id, key_ids=lost, reason="provider_key_removed", actor=actor) if lost else 0


def in_order(first: str | None, others: Sequence[str] | None) -> list[str]:
    """Return key ids with the primary one before the others."""
    return [*([] if first is None else [first]), *(others or ())]


def key_ids_of(uow: UnitOfWork, agent_id: str) -> list[str]:
    """Return the ids of an agent's keys in their order."""
    return list(uow.provider_keys.ids_of([agent_id]).get(agent_id, ()))


def checked_keys(
    uow: UnitOfWork,
    key_ids: Sequence[str],
    present: Collection[str] = (),
    *,
    primary: str | None = None,
    allowed: Collection[str] = KNOWN_PROVIDERS,
) -> list[str]:
    """Return the ids of keys that an agent may have, each once.

    Args:
        uow: The open unit of work.
        key_ids: What is asked for.
        present: What the agent has: those may stay, whatever has become of them.
        primary: What is asked for before the others, in a field of its own.
        allowed: Which kinds of provider may come.

    Raises:
        InvalidProviderIdError, ProviderNotFoundError: An id is malformed; unknown or disabled.
        ValidationError: A key is of a kind that may not come; each is named by its place.
    """
    asked = in_order(primary, key_ids)
    if not all(is_id(key_id, "prov") for key_id in asked):
        raise InvalidProviderIdError("A provider key id is prov_ and 32 hex digits")
    ordered = list(dict.fromkeys(asked))
    barred = set()
    for key_id in ordered:
        key = uow.provider_keys.find(key_id)
        if key is None or not (key.is_enabled or key_id in present):
            raise ProviderNotFoundError("No such enabled provider key")
        if key.provider not in allowed and key_id not in present:
            barred.add(key_id)
    if barred:
        places = in_order(None if primary is None else "provider_key_id", _places(key_ids))
        problem = "is a key of a provider that is not allowed here"
        raise ValidationError({place: problem for place, key_id in zip(places, asked, strict=True) if key_id in barred})
    return ordered


def _places(key_ids: Sequence[str]) -> list[str]:
    return [f"providers[{place}]" for place in range(len(key_ids))]
