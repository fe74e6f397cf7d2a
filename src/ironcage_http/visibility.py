"""Visibility: whose agents a caller may look at: an agent itself, an owner's own, everybody's for an admin."""

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.ids import is_id
from ironcage_core.errors import AgentNotFoundError, ForbiddenError
from ironcage_core.ports.storage import UnitOfWork

Caller = AgentIdentity | Principal


def check_sees(agent: Agent, caller: Caller) -> None:
    """Refuse an agent that is neither the caller nor the caller's.

    Raises:
        ForbiddenError: It is somebody else's.
    """
    if isinstance(caller, AgentIdentity):
        is_seen = caller.agent_id == agent.id
    else:
        is_seen = caller.role == "admin" or (caller.user_id == agent.owner_id and agent.deleted_at is None)
    if not is_seen:
        raise ForbiddenError("The agent belongs to somebody else")


def any_agent(uow: UnitOfWork, agent_id: str) -> Agent:
    """Return an agent, deleted ones included: their books stay.

    Raises:
        AgentNotFoundError: There never was one with this id.
    """
    agent = uow.agents.find(agent_id) if is_id(agent_id, "agent") else None
    if agent is None:
        raise AgentNotFoundError("No such agent")
    return agent


def owner_of(caller: Principal) -> str | None:
    """Return the owner whose agents a list is narrowed to; None for an admin, who sees all."""
    return None if caller.role == "admin" else caller.user_id
