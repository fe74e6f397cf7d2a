"""Agent metrics: how an agent stands, and what its calls add up to, as of this instant.

Source: contract resources.md 1.3.
"""

from dataclasses import dataclass

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.instants import MS_PER_HOUR, day_start
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.ratios import half_up
from ironcage_core.domain.usage import UsageSums
from ironcage_core.ports.lists import UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import own_agent
from ironcage_core.services.expiry import catch_up
from ironcage_core.services.posting import balance_of
from ironcage_core.services.usage_scope import sums_of


@dataclass(frozen=True, slots=True)
class AgentMetrics:
    """An agent, its budget and the sums over all of its calls, or those of the project that a token is bound to."""

    agent: Agent
    balance: Balance
    total: UsageSums

    @property
    def avg_duration_ms(self) -> int | None:
        """How long a call took on average, half up, of those that say so."""
        return half_up(self.total.duration_ms, self.total.timed) if self.total.timed else None


@dataclass(frozen=True, slots=True)
class AgentStanding:
    """The metrics of an agent, and how many calls it has made since the UTC day began and within the last hour."""

    metrics: AgentMetrics
    calls_today: int
    calls_last_hour: int


def agent_metrics(uow: UnitOfWork, agent_id: str, *, principal: Principal) -> AgentMetrics:
    """Return what an agent's calls add up to.

    Raises:
        AgentTokenForbiddenError, AgentNotFoundError, ForbiddenError: As `own_agent` says.
    """
    agent = own_agent(uow, agent_id, principal)
    catch_up(uow, agent.id)
    total = sums_of(uow, UsageFilter(agent_id=agent.id, project_id=principal.bound_project))
    return AgentMetrics(agent, balance_of(uow, agent.id), total)


def agent_standing(uow: UnitOfWork, agent_id: str, *, principal: Principal) -> AgentStanding:
    """Return how an agent stands.

    Raises:
        AgentTokenForbiddenError, AgentNotFoundError, ForbiddenError: As `own_agent` says.
    """
    metrics = agent_metrics(uow, agent_id, principal=principal)
    project_id = principal.bound_project
    today = sums_of(uow, UsageFilter(agent_id=agent_id, project_id=project_id, since=day_start(uow.now)))
    last_hour = uow.usage.calls_since(agent_id, uow.now - MS_PER_HOUR, project_id)
    return AgentStanding(metrics, today.calls, last_hour)
