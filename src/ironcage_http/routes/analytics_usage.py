"""Calls, to look at: how many there were and of how many tokens, in all, by agent, by provider and by model."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.ratios import tokens_per_call
from ironcage_core.domain.usage import UsageSums, combined
from ironcage_core.ports.lists import MAX_PER_PAGE, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_groups import (
    ModelUsage,
    ProviderUsage,
    TokenUser,
    model_groups,
    model_page,
    provider_groups,
    provider_page,
    token_users,
)
from ironcage_core.services.usage_selection import Selection, total_of
from ironcage_http.calls import Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.routes.analytics_views import (
    CURRENCY,
    ModelUsageView,
    ProviderSpendingView,
    RequestsView,
    cost_per_request,
    model_usage_views,
    provider_spending_views,
    requests,
    token_totals,
)
from ironcage_http.routing import PAGED, Route
from ironcage_http.usage_queries import CODES, QUESTIONS, asked_of_usage
from ironcage_http.wire import amount

EVERY_ONE: Final = Paging(1, MAX_PER_PAGE)
TOP_MODELS: Final = Paging(1, 5)


class AgentTokensView(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of an agent's calls; `request_count` are completed ones."""

    agent_id: str
    agent_name: str
    input_tokens: int
    output_tokens: int
    total_tokens: int
    request_count: int
    avg_tokens_per_request: int


class AgentUsageView(AgentTokensView, frozen=True, kw_only=True):
    """The tokens of an agent's calls, what they cost and how many failed."""

    spending: Decimal
    failed_requests: int


class ProviderTokensView(msgspec.Struct, frozen=True):
    """The calls to one provider; `request_count` are completed ones."""

    provider: str
    input_tokens: int
    output_tokens: int
    total_tokens: int
    request_count: int
    failed_requests: int
    spending: Decimal


class TokensSummaryView(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over all rows, not only those of the page; `total_requests` are completed ones."""

    total_input_tokens: int
    total_output_tokens: int
    total_tokens: int
    total_requests: int
    average_tokens_per_request: int


class ModelsSummaryView(msgspec.Struct, frozen=True):
    """Sums over all models, not only those of the page; `unique_models` are names, whoever provides them."""

    unique_models: int
    total_requests: int
    total_spend: Decimal
    total_tokens: int


class UsageTotalsView(RequestsView, frozen=True, kw_only=True):
    """Calls by what became of them, and their tokens."""

    total_input_tokens: int
    total_output_tokens: int
    total_tokens: int


class AnalyticsView(UsageTotalsView, frozen=True, kw_only=True):
    """Everything at a glance; `active_agents` have a call, `total_requests` failed too."""

    total_spend: Decimal
    currency: str
    average_cost_per_request: Decimal
    active_agents: int
    providers: list[ProviderSpendingView]
    models: list[ModelUsageView]


async def get_requests(call: Call) -> ASGIResponse:
    """Return how many calls there were and what became of them, of today unless told otherwise."""
    echo, sums = await asked_of_usage(call, Query(call.query), total_of, default="today")
    return answer(RequestsView(**echo, **requests(sums)))


async def get_usage(call: Call) -> ASGIResponse:
    """Return how many calls there were, what became of them and their tokens."""
    echo, sums = await asked_of_usage(call, Query(call.query), total_of)
    return answer(UsageTotalsView(**echo, **requests(sums), **token_totals(sums)))


async def list_tokens_by_agent(call: Call) -> ASGIResponse:
    """List agents by the tokens of their calls."""
    return await _token_users(call, "agent_id", lambda row, names: AgentTokensView(**_of_agent(row, names)))


async def list_by_agent(call: Call) -> ASGIResponse:
    """List agents by the tokens of their calls, with what these cost and how many failed."""
    return await _token_users(
        call,
        "agent_id",
        lambda row, names: AgentUsageView(**_of_agent(row, names), **_spent_and_failed(row.sums)),
    )


async def list_by_provider(call: Call) -> ASGIResponse:
    """List providers by the tokens of the calls to them."""
    return await _token_users(
        call,
        "provider",
        lambda row, _: ProviderTokensView(provider=row.key, **_tokens(row.sums), **_spent_and_failed(row.sums)),
    )


async def list_models(call: Call) -> ASGIResponse:
    """List models, each of one provider, by their calls."""
    query = Query(call.query)
    _, descending = query.sort(("request_count",), default="-request_count")
    paging = query.paging()
    echo, groups = await asked_of_usage(call, query, model_groups)
    total = combined([group.sums for group in groups])
    summary = ModelsSummaryView(
        unique_models=len({group.model for group in groups}),
        total_requests=total.completed,
        total_spend=amount(total.cost_micros),
        total_tokens=total.total_tokens,
    )
    page = model_page(groups, paging, descending=descending)
    return listed(page, paging, model_usage_views(page.rows), summary=summary, **echo)


async def get_analytics(call: Call) -> ASGIResponse:
    """Return everything at a glance."""

    def use_case(uow: UnitOfWork, chosen: Selection) -> tuple[Sequence[ProviderUsage], Sequence[ModelUsage]]:
        return provider_groups(uow, chosen), model_groups(uow, chosen)

    echo, (providers, models) = await asked_of_usage(call, Query(call.query), use_case)
    total = combined([group.sums for group in providers])
    view = AnalyticsView(
        **echo,
        **requests(total),
        **token_totals(total),
        total_spend=amount(total.cost_micros),
        currency=CURRENCY,
        average_cost_per_request=cost_per_request(total),
        active_agents=len({agent_id for group in providers for agent_id in group.agent_ids}),
        providers=provider_spending_views(provider_page(providers, EVERY_ONE).rows),
        models=model_usage_views(model_page(models, TOP_MODELS).rows),
    )
    return answer(view)


async def _token_users(
    call: Call, by: Literal["agent_id", "provider"], view: Callable[[TokenUser, Mapping[str, str]], msgspec.Struct]
) -> ASGIResponse:
    query = Query(call.query)
    _, descending = query.sort(("total_tokens",), default="-total_tokens")
    paging = query.paging()
    use_case = partial(token_users, paging=paging, by=by, descending=descending)
    echo, found = await asked_of_usage(call, query, use_case)
    summary = TokensSummaryView(
        **token_totals(found.total),
        total_requests=found.total.completed,
        average_tokens_per_request=tokens_per_call(found.total.total_tokens, found.total.completed),
    )
    return listed(found.page, paging, [view(row, found.names) for row in found.page.rows], summary=summary, **echo)


def _of_agent(row: TokenUser, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "agent_id": row.key,
        "agent_name": names.get(row.key, ""),
        **_tokens(row.sums),
        "avg_tokens_per_request": tokens_per_call(row.sums.total_tokens, row.sums.completed),
    }


def _tokens(sums: UsageSums) -> dict[str, Any]:
    return {
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "total_tokens": sums.total_tokens,
        "request_count": sums.completed,
    }


def _spent_and_failed(sums: UsageSums) -> dict[str, Any]:
    return {"spending": amount(sums.cost_micros), "failed_requests": sums.failed}


_COMMON: Final[dict[str, Any]] = {"action": "analytics.read", "limit": "analytics_read", "codes": CODES}

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/analytics", get_analytics, "Calls and what they cost, at a glance", answer=AnalyticsView,
        query=QUESTIONS, **_COMMON,
    ),
    Route(
        "GET", "/analytics/usage", get_usage, "Calls and their tokens", answer=UsageTotalsView,
        query=QUESTIONS, **_COMMON,
    ),
    Route(
        "GET", "/analytics/usage/requests", get_requests, "Calls and what became of them", answer=RequestsView,
        query=QUESTIONS, **_COMMON,
    ),
    Route(
        "GET", "/analytics/usage/tokens/by-agent", list_tokens_by_agent, "Agents, those with most tokens first",
        answer=AgentTokensView, query=(*QUESTIONS, *PAGED), **_COMMON,
    ),
    Route(
        "GET", "/analytics/usage/models", list_models, "Models, those with most calls first", answer=ModelUsageView,
        query=(*QUESTIONS, *PAGED), **_COMMON,
    ),
    Route(
        "GET", "/analytics/usage/by-agent", list_by_agent, "Agents with tokens, calls and cost, most tokens first",
        answer=AgentUsageView, query=(*QUESTIONS, *PAGED), **_COMMON,
    ),
    Route(
        "GET", "/analytics/usage/by-provider", list_by_provider, "Providers with tokens, calls and cost",
        answer=ProviderTokensView, query=(*QUESTIONS, *PAGED), **_COMMON,
    ),
)  # fmt: skip
