"""Agent states: an operator stops an agent's runtime, or lets it start again.

A stop holds: no handshake undoes it. To ask for what is so already changes nothing.

Source: contract resources.md 1.4.
"""

from dataclasses import dataclass

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.texts import reason_problem, tidied
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import own_agent
from ironcage_core.services.leasing import revoke_open_leases
from ironcage_core.services.runtime_states import note_change, note_runtime_event


@dataclass(frozen=True, slots=True)
class StoppedAgent:
    """An agent that was stopped, now or before, and how many leases that ended now."""

    agent: Agent
    leases_revoked: int


def stop_agent(uow: UnitOfWork, agent_id: str, *, reason: str | None = None, principal: Principal) -> StoppedAgent:
    """Stop an agent: what it has lent goes back to its budget, and no money is granted until it is started.

    An agent that has failed stays so, and its leases end all the same.

    Args:
        uow: The open unit of work.
        agent_id: Which agent.
        reason: For the audit log and for observers, at most 500 characters.
        principal: Its owner or an admin.

    Raises:
        AgentNotFoundError, ForbiddenError: As `own_agent` says.
        ValidationError: A bad reason.
    """
    agent = own_agent(uow, agent_id, principal)
    reason = tidied(reason)
    if problem := reason_problem(reason):
        raise ValidationError({"reason": problem})
    revoked = revoke_open_leases(uow, agent.id, reason="agent_stopped", actor=principal.actor)
    moved = note_runtime_event(uow, agent, "stop", reason=reason)
    stopped = moved._replace(
        stop_hold=agent.stop_hold if moved.runtime_status == "failed" else 1,
        stopped_at=uow.now if agent.stopped_at is None else agent.stopped_at,
    )
    if stopped != agent:
        stopped = stopped._replace(updated_at=uow.now)
        uow.agents.put(stopped)
    if stopped != agent or revoked:
        note_change(uow, "AGENT_STOPPED", agent, stopped, principal.actor, reason=reason, leases_revoked=revoked)
    return StoppedAgent(stopped, revoked)


def start_agent(uow: UnitOfWork, agent_id: str, *, principal: Principal) -> Agent:
    """Permit an agent's next handshake; no process is started.

    Raises:
        AgentNotFoundError, ForbiddenError: As `own_agent` says.
    """
    agent = own_agent(uow, agent_id, principal)
    moved = note_runtime_event(uow, agent, "start")
    if moved == agent:
        return agent
    started = moved._replace(stop_hold=0, stopped_at=None, failure_reason=None)
    uow.agents.put(started)
    note_change(uow, "AGENT_STARTED", agent, started, principal.actor)
    return started
