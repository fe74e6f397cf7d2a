"""Views of analytics that more than one route shows."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

import msgspec

from ironcage_core.domain.ratios import per_call, percent
from ironcage_core.domain.usage import UsageSums
from ironcage_core.services.spending import Spenders
from ironcage_core.services.usage_groups import ModelUsage, ProviderUsage, only_key
from ironcage_http.usage_queries import EchoView
from ironcage_http.wire import amount

CURRENCY: Final = "USD"


class SpendingTotalView(EchoView, frozen=True, kw_only=True):
    """What calls cost in all; `request_count` are completed ones."""

    total_spend: Decimal
    currency: str
    request_count: int


class RequestsView(EchoView, frozen=True, kw_only=True):
    """Calls by what became of them; the rate is in percent of all."""

    total_requests: int
    successful_requests: int
    failed_requests: int
    success_rate: Decimal


class AgentSpendingView(msgspec.Struct, frozen=True):
    """What an agent's calls cost beside its budget."""

    agent_id: str
    agent_name: str
    spending: Decimal
    budget: Decimal
    percent_used: Decimal
    request_count: int


class ProviderSpendingView(msgspec.Struct, frozen=True):
    """What calls to one provider, or those of one key of it, cost; `provider_id` is the key if it is exactly one."""

    provider: str
    provider_name: str
    provider_id: str | None
    provider_ids: tuple[str, ...]
    spending: Decimal
    request_count: int
    avg_cost_per_request: Decimal
    agent_count: int


class ModelUsageView(msgspec.Struct, frozen=True):
    """The calls of one model of one provider; `provider_id` is their key if it is exactly one."""

    model: str
    provider: str
    provider_name: str
    provider_id: str | None
    request_count: int
    spending: Decimal
    input_tokens: int
    output_tokens: int
    total_tokens: int
    avg_cost_per_request: Decimal


def spending_total(sums: UsageSums) -> dict[str, Any]:
    """Return the fields of a `SpendingTotalView` beside its echo."""
    return {"total_spend": amount(sums.cost_micros), "currency": CURRENCY, "request_count": sums.completed}


def requests(sums: UsageSums) -> dict[str, Any]:
    """Return the fields of a `RequestsView` beside its echo."""
    return {
        "total_requests": sums.calls,
        "successful_requests": sums.completed,
        "failed_requests": sums.failed,
        "success_rate": percent(sums.completed, sums.calls),
    }


def token_totals(sums: UsageSums) -> dict[str, Any]:
    """Return the tokens of calls by kind, as totals name them."""
    return {
        "total_input_tokens": sums.input_tokens,
        "total_output_tokens": sums.output_tokens,
        "total_tokens": sums.total_tokens,
    }


def cost_per_request(sums: UsageSums) -> Decimal:
    """Return what a completed call cost on average."""
    return amount(per_call(sums.cost_micros, sums.completed))


def agent_spending_views(found: Spenders) -> list[AgentSpendingView]:
    """Return the agents of a page as callers see them."""
    return [
        AgentSpendingView(
            agent_id=row.agent_id,
            agent_name=found.names.get(row.agent_id, ""),
            spending=amount(row.sums.cost_micros),
            budget=amount(row.budget),
            percent_used=row.percent_used,
            request_count=row.sums.completed,
        )
        for row in found.page.rows
    ]


def provider_spending_views(rows: Iterable[ProviderUsage]) -> list[ProviderSpendingView]:
    """Return providers as callers see them."""
    return [
        ProviderSpendingView(
            provider=row.provider,
            provider_name=row.provider,
            provider_id=only_key(row.provider_ids),
            provider_ids=row.provider_ids,
            spending=amount(row.sums.cost_micros),
            request_count=row.sums.completed,
            avg_cost_per_request=cost_per_request(row.sums),
            agent_count=row.agents,
        )
        for row in rows
    ]


def model_usage_views(rows: Iterable[ModelUsage]) -> list[ModelUsageView]:
    """Return models as callers see them."""
    return [
        ModelUsageView(
            model=row.model,
            provider=row.provider,
            provider_name=row.provider,
            provider_id=only_key(row.provider_ids),
            request_count=row.sums.completed,
            spending=amount(row.sums.cost_micros),
            input_tokens=row.sums.input_tokens,
            output_tokens=row.sums.output_tokens,
            total_tokens=row.sums.total_tokens,
            avg_cost_per_request=cost_per_request(row.sums),
        )
        for row in rows
    ]
