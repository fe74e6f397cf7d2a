"""Agent records: finding the agent that a use case is about, and who may look at it."""

from typing import Final

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.ledger import Balance
from ironcage_core.errors import AgentNotFoundError, ForbiddenError
from ironcage_core.ports.storage import UnitOfWork

Caller = AgentIdentity | Principal

STATUSES: Final = ("active", "exhausted", "inactive")


def any_agent(uow: UnitOfWork, agent_id: str) -> Agent:
    """Return an agent, deleted ones included: their books stay.

    Raises:
        AgentNotFoundError: There never was one with this id.
    """
    agent = uow.agents.find(agent_id) if is_id(agent_id, "agent") else None
    if agent is None:
        raise AgentNotFoundError("No such agent")
    return agent


def live_agent(uow: UnitOfWork, agent_id: str) -> Agent:
    """Return an agent that was not deleted.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
    """
    agent = any_agent(uow, agent_id)
    if agent.deleted_at is not None:
        raise AgentNotFoundError("No such agent")
    return agent


def sees(caller: Caller, agent: Agent) -> bool:
    """Tell whether a caller may look at an agent: itself, an owner's own live one, everybody's for an admin."""
    if isinstance(caller, AgentIdentity):
        return caller.agent_id == agent.id
    return caller.role == "admin" or (caller.user_id == agent.owner_id and agent.deleted_at is None)


def check_sees(agent: Agent, caller: Caller) -> None:
    """Refuse an agent that the caller may not look at.

    Raises:
        ForbiddenError: It is somebody else's.
    """
    if not sees(caller, agent):
        raise ForbiddenError("The agent belongs to somebody else")


def own_agent(uow: UnitOfWork, agent_id: str, principal: Principal) -> Agent:
    """Return a live agent of this user; every one is an admin's own.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ForbiddenError: It is another user's.
    """
    agent = live_agent(uow, agent_id)
    if not sees(principal, agent):
        raise ForbiddenError("The agent belongs to another user")
    return agent


def owner_of(principal: Principal) -> str | None:
    """Return the owner whose agents a list is narrowed to; None for an admin, who sees all."""
    return None if principal.role == "admin" else principal.user_id


def status_of(agent: Agent, balance: Balance) -> str:
    """Return what an admin set, else whether the budget is used up: one of `STATUSES`."""
    return "inactive" if agent.status == "inactive" else balance.status
