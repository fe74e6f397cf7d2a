"""`ironcage usage`: calls, tokens and cost, added up every way, one by one, and to take away."""

from collections.abc import Mapping
from typing import Any, Final

import click

from ironcage_http.commands.control_plane import RemoteGroup
from ironcage_http.commands.exports import export
from ironcage_http.commands.listings import listing, showing
from ironcage_http.commands.screen import Column, count, instant, milliseconds, money, percent
from ironcage_http.commands.series import by_period
from ironcage_http.commands.usage_filters import QUESTIONS


@click.group(cls=RemoteGroup)
def usage() -> None:
    """Show what calls were made and what they cost."""


def _failures(rows: list[Mapping[str, Any]]) -> str:
    return ", ".join(f"{row['count']:,} x {row['error_code']} of {row['provider']}" for row in rows) or "-"


_SPAN: Final = (
    Column("period", "period"),
    Column("from", "range.start", instant),
    Column("to", "range.end", instant),
)
_TOTAL: Final = (
    Column("spending", "total_spend", money),
    Column("calls", "total_requests", count),
    Column("failed", "failed_requests", count),
    Column("success", "success_rate", percent),
    Column("tokens", "total_tokens", count),
    Column("input tokens", "total_input_tokens", count),
    Column("output tokens", "total_output_tokens", count),
    Column("cost of a call", "average_cost_per_request", money),
    Column("agents with a call", "active_agents", count),
    *_SPAN,
)
_OF_PROJECT: Final = (
    Column("project", "project_id"),
    Column("spending", "total_cost", money),
    Column("completed calls", "total_requests", count),
    Column("tokens", "total_tokens", count),
    Column("input tokens", "total_input_tokens", count),
    Column("output tokens", "total_output_tokens", count),
    *_SPAN,
)
_COSTS: Final = (
    Column("on average", "average_cost_per_request", money),
    Column("half cost at most", "median_cost_per_request", money),
    Column("cheapest", "min_cost_per_request", money),
    Column("dearest", "max_cost_per_request", money),
    Column("completed calls", "total_requests", count),
    Column("spending", "total_spend", money),
    *_SPAN,
)
_HEALTH: Final = (
    Column("calls", "total_requests", count),
    Column("success", "success_rate", percent),
    Column("failed", "error_rate", percent),
    Column("calls with a time", "latency_ms.samples", count),
    Column("takes on average", "latency_ms.avg", milliseconds),
    Column("half take at most", "latency_ms.p50", milliseconds),
    Column("95 % take at most", "latency_ms.p95", milliseconds),
    Column("99 % take at most", "latency_ms.p99", milliseconds),
    Column("personal data found", "pii_detections", count),
    Column("errors", "errors", _failures),
    *_SPAN,
)
_AGENTS: Final = (
    Column("agent id", "agent_id"),
    Column("agent", "agent_name"),
    Column("spending", "spending", money),
    Column("budget", "budget", money),
    Column("of the budget", "percent_used", percent),
    Column("calls", "request_count", count),
)
_TOKENS: Final = (
    Column("agent id", "agent_id"),
    Column("agent", "agent_name"),
    Column("tokens", "total_tokens", count),
    Column("input", "input_tokens", count),
    Column("output", "output_tokens", count),
    Column("calls", "request_count", count),
    Column("failed", "failed_requests", count),
    Column("spending", "spending", money),
)
_PROVIDERS: Final = (
    Column("provider", "provider"),
    Column("key", "provider_id"),
    Column("spending", "spending", money),
    Column("calls", "request_count", count),
    Column("cost of a call", "avg_cost_per_request", money),
    Column("agents", "agent_count", count),
)
_MODELS: Final = (
    Column("model", "model"),
    Column("provider", "provider"),
    Column("spending", "spending", money),
    Column("calls", "request_count", count),
    Column("tokens", "total_tokens", count),
    Column("input", "input_tokens", count),
    Column("output", "output_tokens", count),
    Column("cost of a call", "avg_cost_per_request", money),
)
_ERRORS: Final = (
    Column("error", "error_code"),
    Column("provider", "provider"),
    Column("calls", "count", count),
    Column("last seen", "last_seen", instant),
)
_CALLS: Final = (
    Column("id", "id"),
    Column("at", "traced_at", instant),
    Column("agent id", "agent_id"),
    Column("model", "model"),
    Column("status", "status"),
    Column("tokens", "total_tokens", count),
    Column("cost", "cost", money),
    Column("error", "error_code"),
)
_CALL: Final = (
    *_CALLS,
    Column("provider", "provider"),
    Column("provider key", "provider_id"),
    Column("project", "project_id"),
    Column("lease", "lease_id"),
    Column("request", "request_id"),
    Column("event", "event_id"),
    Column("input tokens", "input_tokens", count),
    Column("output tokens", "output_tokens", count),
    Column("took", "duration_ms", milliseconds),
    Column("endpoint", "endpoint"),
    Column("answered", "response_status"),
    Column("message", "error_message"),
)

for _command in (
    showing("/analytics", _TOTAL, "Show calls, tokens and cost in all.", name="total", filters=QUESTIONS),
    showing(
        "/usage/by-project/{project}", _OF_PROJECT, "Show calls, tokens and cost of what was done in PROJECT.",
        name="project", filters=QUESTIONS,
    ),
    showing(
        "/analytics/spending/avg-per-request", _COSTS, "Show what one completed call cost.", name="cost-of-a-call",
        filters=QUESTIONS,
    ),
    showing(
        "/analytics/metrics", _HEALTH, "Show how calls went: how many failed, how long they took.", name="health",
        filters=QUESTIONS,
    ),
    listing(
        "/analytics/spending/by-agent", _AGENTS, "List agents by what their calls cost.", name="by-agent",
        filters=QUESTIONS,
    ),
    listing("/analytics/usage/by-agent", _TOKENS, "List agents by their tokens.", name="tokens", filters=QUESTIONS),
    listing(
        "/analytics/spending/by-provider", _PROVIDERS, "List providers by what calls to them cost.",
        name="by-provider", filters=(*QUESTIONS, "group_by"),
    ),
    listing("/analytics/usage/models", _MODELS, "List models by their calls.", name="by-model", filters=QUESTIONS),
    listing(
        "/analytics/errors", _ERRORS, "List the ways in which calls failed, the most frequent first.", name="errors",
        filters=QUESTIONS,
    ),
    listing(
        "/traces", _CALLS, "List calls one by one, the latest first.", name="calls",
        filters=(
            "agent_id", "project_id", "provider", "model", "status", "request_id", "lease_id", "from", "to",
        ),
    ),
    showing("/traces/{trace}", _CALL, "Show one call, without a word of what was said in it.", name="call"),
    by_period,
    export,
):  # fmt: skip
    usage.add_command(_command)
