"""Spending: what the selected calls cost beside the budgets of their agents, and what one of them cost.

Source: contract analytics.md 4.1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from typing import Any, Final, Literal, NamedTuple

from ironcage_core.domain.histograms import value_at
from ironcage_core.domain.money import Micros
from ironcage_core.domain.ratios import half_up, per_call, percent
from ironcage_core.domain.usage import UsageSums, combined
from ironcage_core.ports.lists import Page, Paging, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.made_rows import sorted_page
from ironcage_core.services.usage_selection import Selection, sums_by, total_of

MOST_COSTS: Final = 10_000
"""Of how many calls the median is exact. Source: contract analytics.md 4.1."""

SpenderOrder = Literal["spending", "request_count", "percent_used", "agent_name"]


class Spender(NamedTuple):
    """An agent, all that is allocated to it, and its calls."""

    agent_id: str
    budget: Micros
    sums: UsageSums

    @property
    def percent_used(self) -> Decimal:
        """What the calls cost, in percent of the budget."""
        return percent(self.sums.cost_micros, self.budget)


@dataclass(frozen=True, slots=True)
class Spenders:
    """One page of agents, the names of those on it at least, and the sums over all of them."""

    page: Page[Spender]
    names: Mapping[str, str]
    total: UsageSums
    total_budget: Micros

    @property
    def percent_used(self) -> Decimal:
        """What all calls cost, in percent of all budgets."""
        return percent(self.total.cost_micros, self.total_budget)


@dataclass(frozen=True, slots=True)
class CallCosts:
    """What completed calls cost: how many there are, all together, the one in the middle and the extremes."""

    calls: int
    spend: Micros
    median: Micros
    median_is_exact: bool
    lowest: Micros
    highest: Micros

    @property
    def average(self) -> Micros:
        """What one cost on average."""
        return per_call(self.spend, self.calls)


def spenders(
    uow: UnitOfWork, chosen: Selection, paging: Paging, order: SpenderOrder = "spending", *, descending: bool = True
) -> Spenders:
    """Return one page of the agents with a call, deleted ones included, the costliest first unless told otherwise."""
    found = sums_by(uow, chosen, "agent_id")
    ids = [key[0] for key in found]
    budgets = uow.balances.allocated(ids)
    rows = [Spender(key[0], budgets.get(key[0], 0), sums) for key, sums in found.items()]
    names = uow.agents.names(ids) if order == "agent_name" else None
    by: Mapping[SpenderOrder, Callable[[Spender], Any]] = {
        "spending": lambda row: row.sums.cost_micros,
        "request_count": lambda row: row.sums.completed,
        "percent_used": lambda row: row.percent_used,
        "agent_name": lambda row: (names or {}).get(row.agent_id, "").casefold(),
    }
    page = sorted_page(rows, paging, by[order], tie=lambda row: row.agent_id, descending=descending)
    if names is None:
        names = uow.agents.names([row.agent_id for row in page.rows])
    return Spenders(page, names, combined(found.values()), sum(budgets.values()))


def call_costs(uow: UnitOfWork, chosen: Selection) -> CallCosts:
    """Return what the completed calls among the selected ones cost.

    The extremes never narrow when a cost is corrected. If there are too many calls to look at, the median is within
    1 %. Source: contract analytics.md 4.1, 5.
    """
    which = chosen.which
    if which is None:
        return CallCosts(0, 0, 0, median_is_exact=True, lowest=0, highest=0)
    sums = total_of(uow, chosen)
    costs = uow.usage.costs(which, MOST_COSTS)
    return CallCosts(
        calls=sums.completed,
        spend=sums.cost_micros - sums.failed_cost_micros,
        median=_about_median(uow, which) if costs is None else _middle(len(costs), costs.__getitem__),
        median_is_exact=costs is not None or not sums.completed,
        lowest=sums.min_cost_micros,
        highest=sums.max_cost_micros,
    )


def _about_median(uow: UnitOfWork, which: UsageFilter) -> Micros:
    bands = uow.usage.bands(which, "cost")
    steps = cache(partial(uow.usage.steps, which, "cost"))
    return _middle(sum(bands.values()), lambda rank: value_at(rank, bands, steps))


def _middle(calls: int, cost_at: Callable[[int], Micros]) -> Micros:
    """Return the middle one of rising costs, or the mean of the middle two, halves up; 0 of none."""
    return half_up(cost_at((calls - 1) // 2) + cost_at(calls // 2), 2) if calls else 0
