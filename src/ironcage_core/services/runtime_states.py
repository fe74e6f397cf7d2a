"""Runtime states: what the control plane believes an agent's runtime is doing."""

from ironcage_core.domain.agents import RUNTIME_TRANSITIONS, Agent, RuntimeEvent
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.posting import balance_of


def note_runtime_event(uow: UnitOfWork, agent: Agent, event: RuntimeEvent) -> None:
    """Move the agent's runtime state, if the event changes it, and publish the change."""
    state = RUNTIME_TRANSITIONS.get((agent.runtime_status, event))
    if state is None:
        return
    uow.agents.put(agent._replace(runtime_status=state, updated_at=uow.now))
    uow.feed.append(
        "STATE_UPDATE",
        agent_id=agent.id,
        name=state,
        data={
            "previous_state": agent.runtime_status,
            "budget_spent_micros": balance_of(uow, agent.id).spent,
            "reason": event,
        },
    )
