"""Answers of analytics made the slow way: by walking through the records, with fractions and without any database."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from statistics import median
from typing import Any

from ironcage_core.domain.usage import UsageRecord

Records = Sequence[UsageRecord]
Answer = dict[str, Any]


def usd(micros: int | Fraction) -> Decimal:
    """Return micro-USD as USD with six decimals, halves up."""
    return _half_up(Fraction(micros) / 10**6, "0.000001")


def mean(total: int, count: int) -> Decimal:
    """Return an average in USD, 0 of nothing."""
    return usd(Fraction(total, count)) if count else Decimal(0)


def percent(part: int, whole: int) -> Decimal:
    """Return a percentage with two decimals, 0 of nothing."""
    return _half_up(Fraction(100 * part, whole), "0.01") if whole else Decimal(0)


def _half_up(value: Fraction, to: str) -> Decimal:
    return (Decimal(value.numerator) / Decimal(value.denominator)).quantize(Decimal(to), ROUND_HALF_UP)


def completed(records: Records) -> Records:
    return [record for record in records if record.outcome == "completed"]


def cost(records: Records) -> int:
    return sum(record.cost_micros for record in records)


def tokens(records: Records) -> int:
    return sum(record.total_tokens for record in records)


def grouped(records: Records, *names: str) -> Mapping[tuple[Any, ...], Records]:
    """Return the records by some of their columns."""
    groups: dict[tuple[Any, ...], list[UsageRecord]] = {}
    for record in records:
        groups.setdefault(tuple(getattr(record, name) for name in names), []).append(record)
    return groups


def spending_total(records: Records) -> Answer:
    return {"total_spend": usd(cost(records)), "currency": "USD", "request_count": len(completed(records))}


def usage_requests(records: Records) -> Answer:
    good = len(completed(records))
    return {
        "total_requests": len(records),
        "successful_requests": good,
        "failed_requests": len(records) - good,
        "success_rate": percent(good, len(records)),
    }


def token_totals(records: Records) -> Answer:
    return {
        "total_input_tokens": sum(record.input_tokens for record in records),
        "total_output_tokens": sum(record.output_tokens for record in records),
        "total_tokens": tokens(records),
    }


def tokens_of(records: Records) -> Answer:
    """Return the tokens of a row, and its completed calls."""
    return {
        "input_tokens": sum(record.input_tokens for record in records),
        "output_tokens": sum(record.output_tokens for record in records),
        "total_tokens": tokens(records),
        "request_count": len(completed(records)),
    }


def call_costs(records: Records) -> Answer:
    costs = [record.cost_micros for record in completed(records)]
    return {
        "average_cost_per_request": mean(sum(costs), len(costs)),
        "median_cost_per_request": usd(Fraction(median(map(Fraction, costs)))) if costs else 0,
        "min_cost_per_request": usd(min(costs, default=0)),
        "max_cost_per_request": usd(max(costs, default=0)),
        "total_requests": len(costs),
        "total_spend": usd(sum(costs)),
        "median_is_exact": True,
    }


def listed(rows: Iterable[Answer], by: str, tie: Callable[[Answer], Any], summary: Answer | None = None) -> Answer:
    """Return a list, all on one page, the largest first."""
    data = sorted(rows, key=tie)
    data.sort(key=lambda row: row[by], reverse=True)
    pages = {"page": 1, "per_page": 50, "total": len(data), "total_pages": -(-len(data) // 50)}
    return {"data": data, "pagination": pages} | ({} if summary is None else {"summary": summary})


def by_provider(records: Records, *by: str) -> Answer:
    rows = []
    for key, group in grouped(records, *(by or ("provider",))).items():
        keys = sorted({record.provider_id for record in group if record.provider_id is not None})
        rows.append(
            {
                "provider": key[0],
                "provider_name": key[0],
                "provider_id": keys[0] if len(keys) == 1 else None,
                "provider_ids": keys,
                "spending": usd(cost(group)),
                "request_count": len(completed(group)),
                "avg_cost_per_request": mean(cost(group), len(completed(group))),
                "agent_count": len({record.agent_id for record in group}),
            }
        )
    summary = {
        "total_spend": usd(cost(records)),
        "total_requests": len(completed(records)),
        "average_cost_per_request": mean(cost(records), len(completed(records))),
        "providers_count": len({record.provider for record in records}),
    }
    return listed(rows, "spending", lambda row: (row["provider"], row["provider_ids"]), summary)


def by_model(records: Records) -> Answer:
    rows = []
    for (model, provider), group in grouped(records, "model", "provider").items():
        keys = {record.provider_id for record in group if record.provider_id is not None}
        rows.append(
            {
                "model": model,
                "provider": provider,
                "provider_name": provider,
                "provider_id": keys.pop() if len(keys) == 1 else None,
                **tokens_of(group),
                "spending": usd(cost(group)),
                "avg_cost_per_request": mean(cost(group), len(completed(group))),
            }
        )
    summary = {
        "unique_models": len({record.model for record in records}),
        "total_requests": len(completed(records)),
        "total_spend": usd(cost(records)),
        "total_tokens": tokens(records),
    }
    return listed(rows, "request_count", lambda row: (row["model"], row["provider"]), summary)


def spending_by_agent(records: Records, agents: Mapping[str, tuple[str, int]]) -> Answer:
    """Return agents by spending; `agents` tells the name and the budget of each."""
    rows, budgets = [], 0
    for (agent_id,), group in grouped(records, "agent_id").items():
        name, budget = agents[agent_id]
        budgets += budget
        rows.append(
            {
                "agent_id": agent_id,
                "agent_name": name,
                "spending": usd(cost(group)),
                "budget": usd(budget),
                "percent_used": percent(cost(group), budget),
                "request_count": len(completed(group)),
            }
        )
    summary = {
        "total_spend": usd(cost(records)),
        "total_budget": usd(budgets),
        "average_percent_used": percent(cost(records), budgets),
        "total_agents": len(rows),
    }
    return listed(rows, "spending", lambda row: row["agent_id"], summary)


def tokens_by_agent(records: Records, agents: Mapping[str, tuple[str, int]], *, is_wide: bool = False) -> Answer:
    """Return agents by tokens, with what they cost and how many calls failed where that is asked for."""
    rows = []
    for (agent_id,), group in grouped(records, "agent_id").items():
        good = len(completed(group))
        extra = {"spending": usd(cost(group)), "failed_requests": len(group) - good} if is_wide else {}
        rows.append(
            {
                "agent_id": agent_id,
                "agent_name": agents[agent_id][0],
                **tokens_of(group),
                "avg_tokens_per_request": tokens(group) // good if good else 0,
                **extra,
            }
        )
    return listed(rows, "total_tokens", lambda row: row["agent_id"], tokens_summary(records))


def tokens_by_provider(records: Records) -> Answer:
    rows = [
        {
            "provider": key[0],
            **tokens_of(group),
            "spending": usd(cost(group)),
            "failed_requests": len(group) - len(completed(group)),
        }
        for key, group in grouped(records, "provider").items()
    ]
    return listed(rows, "total_tokens", lambda row: row["provider"], tokens_summary(records))


def tokens_summary(records: Records) -> Answer:
    good = len(completed(records))
    average = tokens(records) // good if good else 0
    return {**token_totals(records), "total_requests": good, "average_tokens_per_request": average}


def answers(records: Records, agents: Mapping[str, tuple[str, int]]) -> dict[str, Answer]:
    """Return what each path answers, but for the echo of its question."""
    providers = by_provider(records)["data"]
    total = spending_total(records)
    return {
        "/analytics/spending/total": total,
        "/analytics/spending/by-agent": spending_by_agent(records, agents),
        "/analytics/spending/by-provider": by_provider(records),
        "/analytics/spending/by-provider?group_by=provider_id": by_provider(records, "provider", "provider_id"),
        "/analytics/spending/avg-per-request": call_costs(records),
        "/analytics/spending": {
            **total,
            "by_provider": providers[:10],
            "by_agent": spending_by_agent(records, agents)["data"][:10],
        },
        "/analytics/usage/requests?period=all-time": usage_requests(records),
        "/analytics/usage": {**usage_requests(records), **token_totals(records)},
        "/analytics/usage/tokens/by-agent": tokens_by_agent(records, agents),
        "/analytics/usage/by-agent": tokens_by_agent(records, agents, is_wide=True),
        "/analytics/usage/by-provider": tokens_by_provider(records),
        "/analytics/usage/models": by_model(records),
        "/analytics": {
            **usage_requests(records),
            **token_totals(records),
            "total_spend": usd(cost(records)),
            "currency": "USD",
            "average_cost_per_request": mean(cost(records), len(completed(records))),
            "active_agents": len({record.agent_id for record in records}),
            "providers": providers,
            "models": by_model(records)["data"][:5],
        },
    }
