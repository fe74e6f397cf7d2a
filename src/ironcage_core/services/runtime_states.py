"""Runtime states: what the control plane believes an agent's runtime is doing.

Source: contract resources.md 1.4.
"""

from ironcage_core.domain.agents import Agent, RuntimeEvent, TelemetryEvent
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.texts import LONGEST_REASON, cleaned
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.posting import balance_of


def note_runtime_event(
    uow: UnitOfWork, agent: Agent, event: RuntimeEvent, *, reason: str | None = None, current_lead: int | None = None
) -> Agent:
    """Move the agent's runtime state, if the event changes it, publish the change, and return the agent after it.

    Args:
        uow: The open unit of work.
        agent: As it is stored.
        event: What happened.
        reason: What observers are told of why; None tells them the event.
        current_lead: What the runtime says it is working on, for observers.
    """
    state = agent.state_after(event)
    if state == agent.runtime_status:
        return agent
    after = agent._replace(runtime_status=state, state_changed_at=uow.now, updated_at=uow.now)
    uow.agents.put(after)
    data = {
        "previous_state": agent.runtime_status,
        "budget_spent_micros": balance_of(uow, agent.id).spent,
        "reason": reason or event,
    }
    lead = {} if current_lead is None else {"current_lead": current_lead}
    uow.feed.append("STATE_UPDATE", agent_id=agent.id, name=state, data={**data, **lead})
    return after


def note_telemetry(
    uow: UnitOfWork,
    agent: Agent,
    event: TelemetryEvent,
    *,
    failure_reason: str | None = None,
    reason: str | None = None,
    current_lead: int | None = None,
    actor: Actor,
) -> Agent:
    """Take a runtime at its word about its state, as far as the state it had allows, and return the agent after it.

    Texts are cut to 500 characters and rid of control characters; whoever calls has taken secrets out of them.

    Args:
        uow: The open unit of work.
        agent: A live agent, as it is stored.
        event: What its runtime says.
        failure_reason: Why it failed; it stays with the agent until somebody starts it.
        reason: Why it stopped or is at rest, for observers.
        current_lead: What it is working on, for observers.
        actor: The agent.
    """
    told = cleaned(reason, longest=LONGEST_REASON)
    moved = note_runtime_event(uow, agent, event, reason=told, current_lead=current_lead)
    if moved is agent or moved.runtime_status != "failed":
        return moved
    failed = moved._replace(failure_reason=cleaned(failure_reason, longest=LONGEST_REASON))
    uow.agents.put(failed)
    note_change(uow, "AGENT_FAILED", agent, failed, actor, reason=failed.failure_reason)
    return failed


def note_change(
    uow: UnitOfWork,
    operation: str,
    before: Agent,
    after: Agent,
    actor: Actor,
    *,
    reason: str | None = None,
    **metadata: object,
) -> None:
    """Remember in the audit log what became of an agent's runtime state, and who or what made it so."""
    sides = (("before", before), ("after", after))
    changes = {
        side: {"runtime_status": agent.runtime_status, "stop_hold": bool(agent.stop_hold)} for side, agent in sides
    }
    uow.audit.append(
        AuditNote(operation, "agent", "agent", after.id, actor, reason=reason, changes=changes, metadata=metadata)
    )
