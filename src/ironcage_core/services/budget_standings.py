"""Budget standings: how much of each live agent's budget is spent, the most used first, and how many are at risk.

Source: contract analytics.md 4.2.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from ironcage_core.domain.ratios import percent_of
from ironcage_core.domain.risks import RiskLevel, is_spent_beyond, risk_of
from ironcage_core.ports.lists import Page, Paging, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import AgentBudget
from ironcage_core.services.expiry import catch_up_selected


@dataclass(frozen=True, slots=True)
class StandingFilter:
    """Which budgets; None means all. Of those above a `threshold` more than so many percent are spent."""

    threshold: int | None = None
    status: str | None = None
    risk_level: RiskLevel | None = None


class Standing(NamedTuple):
    """The budget of an agent, and what is to be said of it."""

    budget: AgentBudget
    percent_used: Decimal
    status: str
    risk_level: RiskLevel


@dataclass(frozen=True, slots=True)
class Standings:
    """One page of budgets, and how many of all that are meant stand how: by status, and by risk."""

    page: Page[Standing]
    statuses: Mapping[str, int]
    risks: Mapping[str, int]


def budget_standings(
    uow: UnitOfWork, whose: UsageFilter | None, which: StandingFilter, paging: Paging, *, descending: bool = True
) -> Standings:
    """Return how live agents' budgets stand as of this instant; ties by id, ascending.

    Args:
        uow: An open unit of work.
        whose: Of which agent, owner or project, as `usage_filter` says; None for nobody's.
        which: Which of these.
        paging: Which page of them.
        descending: Whether the most used comes first.
    """
    found: Sequence[Standing] = ()
    if whose is not None:
        catch_up_selected(uow, whose.agent_id)
        budgets = uow.balances.of_agents(whose.agent_id, whose.owner_id, whose.project_id)
        found = [standing for standing in map(_standing, budgets) if _is_among(standing, which)]
        sign = -1 if descending else 1
        found.sort(key=lambda standing: (sign * standing.percent_used, standing.budget.agent_id))
    return Standings(
        Page(found[paging.offset : paging.offset + paging.per_page], len(found)),
        Counter(standing.status for standing in found),
        Counter(standing.risk_level for standing in found),
    )


def _standing(budget: AgentBudget) -> Standing:
    status = "exhausted" if budget.spent >= budget.allocated else "active"
    return Standing(
        budget,
        percent_of(budget.spent, budget.allocated),
        "inactive" if budget.is_inactive else status,
        risk_of(budget.spent, budget.allocated),
    )


def _is_among(standing: Standing, which: StandingFilter) -> bool:
    budget, threshold = standing.budget, which.threshold
    return (
        which.status in {None, standing.status}
        and which.risk_level in {None, standing.risk_level}
        and (threshold is None or is_spent_beyond(threshold, budget.spent, budget.allocated))
    )
