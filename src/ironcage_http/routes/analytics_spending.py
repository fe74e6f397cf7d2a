"""Spending, to look at: what calls cost in all, by agent, by provider and on average."""

from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final, get_args

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.usage import combined
from ironcage_core.ports.lists import Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.spending import SpenderOrder, Spenders, call_costs, spenders
from ironcage_core.services.usage_groups import ProviderGroups, ProviderUsage, provider_groups, provider_page
from ironcage_core.services.usage_selection import Selection, total_of
from ironcage_http.calls import Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.routes.analytics_views import (
    AgentSpendingView,
    ProviderSpendingView,
    SpendingTotalView,
    agent_spending_views,
    cost_per_request,
    provider_spending_views,
    spending_total,
)
from ironcage_http.routing import PAGED, Route
from ironcage_http.usage_queries import CODES, QUESTIONS, EchoView, asked_of_usage
from ironcage_http.wire import amount

TOP: Final = Paging(1, 10)
"""Of whom a summary tells."""


class SpendersSummaryView(msgspec.Struct, frozen=True):
    """Sums over all agents with a call, not only those of the page; the percentage is of all their budgets."""

    total_spend: Decimal
    total_budget: Decimal
    average_percent_used: Decimal
    total_agents: int


class ProvidersSummaryView(msgspec.Struct, frozen=True):
    """Sums over all providers with a call, not only those of the page."""

    total_spend: Decimal
    total_requests: int
    average_cost_per_request: Decimal
    providers_count: int


class CallCostView(EchoView, frozen=True, kw_only=True):
    """What one completed call cost."""

    average_cost_per_request: Decimal
    median_cost_per_request: Decimal
    min_cost_per_request: Decimal
    max_cost_per_request: Decimal
    total_requests: int
    total_spend: Decimal
    median_is_exact: bool


class SpendingView(SpendingTotalView, frozen=True, kw_only=True):
    """What calls cost in all, and the costliest providers and agents."""

    by_provider: list[ProviderSpendingView]
    by_agent: list[AgentSpendingView]


async def get_total(call: Call) -> ASGIResponse:
    """Return what calls cost in all."""
    echo, sums = await asked_of_usage(call, Query(call.query), total_of)
    return answer(SpendingTotalView(**echo, **spending_total(sums)))


async def list_by_agent(call: Call) -> ASGIResponse:
    """List agents by what their calls cost."""
    query = Query(call.query)
    orders: tuple[SpenderOrder, ...] = get_args(SpenderOrder)
    order, descending = query.sort(orders, default="-spending")
    paging = query.paging()
    use_case = partial(spenders, paging=paging, order=order, descending=descending)
    echo, found = await asked_of_usage(call, query, use_case)
    summary = SpendersSummaryView(
        total_spend=amount(found.total.cost_micros),
        total_budget=amount(found.total_budget),
        average_percent_used=found.percent_used,
        total_agents=found.page.total,
    )
    return listed(found.page, paging, agent_spending_views(found), summary=summary, **echo)


async def list_by_provider(call: Call) -> ASGIResponse:
    """List providers, or their keys, by what calls to them cost."""
    query = Query(call.query)
    ways: tuple[ProviderGroups, ...] = get_args(ProviderGroups)
    by = query.choice("group_by", ways) or "provider"
    _, descending = query.sort(("spending",), default="-spending")
    paging = query.paging()
    echo, groups = await asked_of_usage(call, query, partial(provider_groups, by=by))
    page = provider_page(groups, paging, descending=descending)
    return listed(page, paging, provider_spending_views(page.rows), summary=_providers_summary(groups), **echo)


async def get_call_costs(call: Call) -> ASGIResponse:
    """Return what one call cost: on average, in the middle and at most and least."""
    echo, costs = await asked_of_usage(call, Query(call.query), call_costs)
    view = CallCostView(
        average_cost_per_request=amount(costs.average),
        median_cost_per_request=amount(costs.median),
        min_cost_per_request=amount(costs.lowest),
        max_cost_per_request=amount(costs.highest),
        total_requests=costs.calls,
        total_spend=amount(costs.spend),
        median_is_exact=costs.median_is_exact,
        **echo,
    )
    return answer(view)


async def get_spending(call: Call) -> ASGIResponse:
    """Return what calls cost in all, and the costliest providers and agents."""

    def use_case(uow: UnitOfWork, chosen: Selection) -> tuple[Sequence[ProviderUsage], Spenders]:
        return provider_groups(uow, chosen), spenders(uow, chosen, TOP)

    echo, (providers, agents) = await asked_of_usage(call, Query(call.query), use_case)
    view = SpendingView(
        **echo,
        **spending_total(agents.total),
        by_provider=provider_spending_views(provider_page(providers, TOP).rows),
        by_agent=agent_spending_views(agents),
    )
    return answer(view)


def _providers_summary(groups: Sequence[ProviderUsage]) -> ProvidersSummaryView:
    total = combined([group.sums for group in groups])
    return ProvidersSummaryView(
        total_spend=amount(total.cost_micros),
        total_requests=total.completed,
        average_cost_per_request=cost_per_request(total),
        providers_count=len({group.provider for group in groups}),
    )


_COMMON: Final[dict[str, Any]] = {"action": "analytics.read", "limit": "analytics_read", "codes": CODES}

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/analytics/spending/total", get_total, "What calls cost in all", answer=SpendingTotalView,
        query=QUESTIONS, **_COMMON,
    ),
    Route(
        "GET", "/analytics/spending/by-agent", list_by_agent, "Agents, the costliest first", answer=AgentSpendingView,
        query=(*QUESTIONS, *PAGED), **_COMMON,
    ),
    Route(
        "GET", "/analytics/spending/by-provider", list_by_provider, "Providers or their keys, the costliest first",
        answer=ProviderSpendingView, query=(*QUESTIONS, *PAGED, "group_by"), **_COMMON,
    ),
    Route(
        "GET", "/analytics/spending/avg-per-request", get_call_costs, "What a completed call cost",
        answer=CallCostView, query=QUESTIONS, **_COMMON,
    ),
    Route(
        "GET", "/analytics/spending", get_spending, "What calls cost, and the ten costliest providers and agents",
        answer=SpendingView, query=QUESTIONS, **_COMMON,
    ),
)  # fmt: skip
