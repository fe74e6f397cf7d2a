"""Agent records: finding the agent that a use case is about, and who may look at it."""

from dataclasses import dataclass
from typing import Final

from ironcage_core.domain.access import Principal, Target, reaches
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.ledger import Balance
from ironcage_core.errors.access import AgentTokenForbiddenError, InvalidTokenError
from ironcage_core.errors.resources import AgentNotFoundError
from ironcage_core.errors.tree import ForbiddenError
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


def target_of(agent: Agent) -> Target:
    """Return an agent as a thing that somebody's rights reach or not; a deleted one is nobody's own."""
    return Target(None if agent.deleted_at is not None else agent.owner_id, agent.id, agent.project_id)


def check_is_alive(identity: AgentIdentity) -> None:
    """Refuse a dead value, which may settle and nothing else.

    Raises:
        InvalidTokenError: It is dead.
    """
    if identity.died_at is not None:
        raise InvalidTokenError


def check_sees(agent: Agent, caller: Caller) -> None:
    """Refuse an agent that the caller may not look at: an agent sees itself, a user what the action at hand reaches.

    Raises:
        InvalidTokenError: The caller is a dead IC token value.
        AgentTokenForbiddenError: The caller is bound to another agent.
        ForbiddenError: It is somebody else's.
    """
    if isinstance(caller, AgentIdentity):
        check_is_alive(caller)
        if caller.agent_id != agent.id:
            raise ForbiddenError("The agent belongs to somebody else")
    elif not reaches(caller, target_of(agent)):
        if caller.bound_agent not in {None, agent.id}:
            raise AgentTokenForbiddenError
        raise ForbiddenError("The agent belongs to somebody else")


def own_agent(uow: UnitOfWork, agent_id: str, principal: Principal) -> Agent:
    """Return a live agent that the principal's action reaches.

    Raises:
        AgentTokenForbiddenError: The principal is bound to another agent; also if there is none with this id.
        AgentNotFoundError: No such agent, or it was deleted.
        ForbiddenError: It is another user's.
    """
    if principal.bound_agent not in {None, agent_id}:
        raise AgentTokenForbiddenError
    agent = live_agent(uow, agent_id)
    check_sees(agent, principal)
    return agent


@dataclass(frozen=True, slots=True)
class Scope:
    """To which agents a list is narrowed; None narrows nothing."""

    owner_id: str | None = None
    project_id: str | None = None
    agent_id: str | None = None


def scope_of(caller: Caller) -> Scope:
    """Return to which agents a caller's lists are narrowed, by the reach of its action and its token's bindings."""
    if isinstance(caller, AgentIdentity):
        check_is_alive(caller)
        return Scope(agent_id=caller.agent_id)
    owner_id = None if caller.reach == "all" else caller.user_id
    return Scope(owner_id, caller.bound_project, caller.bound_agent)


def status_of(agent: Agent, balance: Balance) -> str:
    """Return what an admin set, else whether the budget is used up: one of `STATUSES`."""
    return "inactive" if agent.status == "inactive" else balance.status
