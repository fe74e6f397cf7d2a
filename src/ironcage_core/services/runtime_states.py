"""Runtime states: what the control plane believes an agent's runtime is doing."""

from ironcage_core.domain.agents import RUNTIME_TRANSITIONS, Agent, RuntimeEvent
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.posting import balance_of


def note_runtime_event(uow: UnitOfWork, agent: Agent, event: RuntimeEvent) -> Agent:
    """Move the agent's runtime state, if the event changes it, publish the change, and return the agent after it."""
    state = RUNTIME_TRANSITIONS.get((agent.runtime_status, event))
    if state is None:
        return agent
    after = agent._replace(runtime_status=state, state_changed_at=uow.now, updated_at=uow.now)
    uow.agents.put(after)
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
    return after
