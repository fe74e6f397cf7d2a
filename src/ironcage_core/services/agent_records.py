"""Agent records: finding the agent that a use case is about."""

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ids import is_id
from ironcage_core.errors import AgentNotFoundError, ForbiddenError
from ironcage_core.ports.storage import UnitOfWork


def live_agent(uow: UnitOfWork, agent_id: str) -> Agent:
    """Return an agent that was not deleted.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
    """
    agent = uow.agents.find(agent_id) if is_id(agent_id, "agent") else None
    if agent is None or agent.deleted_at is not None:
        raise AgentNotFoundError("No such agent")
    return agent


def own_agent(uow: UnitOfWork, agent_id: str, principal: Principal) -> Agent:
    """Return a live agent of this user; every one is an admin's own.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ForbiddenError: It is another user's.
    """
    agent = live_agent(uow, agent_id)
    if principal.role != "admin" and agent.owner_id != principal.user_id:
        raise ForbiddenError("The agent belongs to another user")
    return agent
