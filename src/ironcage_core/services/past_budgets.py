"""Past budgets: what an agent's budget was at some instant, as the ledger knows it.

It is what was posted by then: money of a lease that nobody had looked at since it ended was still held.
"""

from dataclasses import dataclass

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.ledger import Balance
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import live_agent
from ironcage_core.services.expiry import catch_up
from ironcage_core.services.posting import balance_of


@dataclass(frozen=True, slots=True)
class PastBudget:
    """An agent and its balance at an instant; the level that was told then and what was pending are not known."""

    agent: Agent
    balance: Balance
    at: Instant


def budget_at(uow: UnitOfWork, agent_id: str, at: Instant) -> PastBudget:
    """Return an agent's budget as of an instant.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ValidationError: The instant lies in the future, or before the agent had a budget.
    """
    agent = live_agent(uow, agent_id)
    if at > uow.now:
        raise ValidationError({"at": "may not be in the future"})
    catch_up(uow, agent_id)
    entry = uow.ledger.last_of(agent_id, at)
    if entry is None:
        raise ValidationError({"at": "is before the agent was made"})
    balance = balance_of(uow, agent_id)._replace(
        allocated=entry.allocated_after,
        spent=entry.spent_after,
        overspent=uow.ledger.overspent(agent_id, at),
        held=entry.held_after,
        updated_at=entry.posted_at,
        alert_level=0,
        pending=0,
    )
    return PastBudget(agent, balance, at)
