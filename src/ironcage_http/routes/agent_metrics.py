"""Agents as they stand: status and metrics over the wire. Source: contract resources.md 1.3."""

from decimal import Decimal
from typing import Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.ledger import Balance
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_metrics import AgentMetrics, AgentStanding, agent_metrics, agent_standing
from ironcage_core.services.agent_records import status_of
from ironcage_http.calls import Call, answer
from ironcage_http.routing import Route
from ironcage_http.wire import amount, moment


class AgentBalanceView(msgspec.Struct, frozen=True):
    """The budget of an agent, in USD."""

    total: Decimal
    spent: Decimal
    held: Decimal
    remaining: Decimal
    percent_used: Decimal


class RecentRequestsView(msgspec.Struct, frozen=True):
    """How many calls an agent has made: ever, in this UTC day, within 60 minutes."""

    total: int
    today: int
    last_hour: int


class AgentStatusView(msgspec.Struct, frozen=True):
    """How an agent stands."""

    agent_id: str
    status: str
    runtime_status: str
    stop_hold: bool
    budget: AgentBalanceView
    requests: RecentRequestsView
    last_request_at: str | None
    state_changed_at: str | None
    failure_reason: str | None
    checked_at: str | None


class OutcomesView(msgspec.Struct, frozen=True):
    """What became of an agent's calls."""

    total: int
    succeeded: int
    failed: int


class TokensView(msgspec.Struct, frozen=True):
    """The tokens of an agent's calls; in total also those that nobody told apart."""

    input: int
    output: int
    total: int


class AgentMetricsView(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent's calls add up to."""

    agent_id: str
    status: str
    runtime_status: str
    budget_spent: Decimal
    pii_detections: int | msgspec.UnsetType = msgspec.UNSET  # a viewer is not told
    requests: OutcomesView
    tokens: TokensView
    cost_usd: Decimal
    avg_duration_ms: int | None
    collected_at: str | None


async def status(call: Call) -> ASGIResponse:
    """Show how an agent stands."""
    who = call.user()

    def run(uow: UnitOfWork) -> AgentStatusView:
        principal = who(uow)
        standing = agent_standing(uow, call.path["agent_id"], principal=principal)
        return _status_view(standing, uow.now, shows_reason=principal.role != "viewer")

    return answer(await call.see(run))


async def metrics(call: Call) -> ASGIResponse:
    """Show what an agent's calls add up to."""
    who = call.user()

    def run(uow: UnitOfWork) -> AgentMetricsView:
        principal = who(uow)
        seen = agent_metrics(uow, call.path["agent_id"], principal=principal)
        return _metrics_view(seen, uow.now, shows_pii=principal.role != "viewer")

    return answer(await call.see(run))


def _status_view(standing: AgentStanding, now: Instant, *, shows_reason: bool) -> AgentStatusView:
    seen = standing.metrics
    agent = seen.agent
    return AgentStatusView(
        agent_id=agent.id,
        status=status_of(agent, seen.balance),
        runtime_status=agent.runtime_status,
        stop_hold=bool(agent.stop_hold),
        budget=_budget_view(seen.balance),
        requests=RecentRequestsView(seen.total.calls, standing.calls_today, standing.calls_last_hour),
        last_request_at=moment(seen.total.last_at or None),
        state_changed_at=moment(agent.state_changed_at),
        failure_reason=agent.failure_reason if shows_reason else None,  # it may hold an error message
        checked_at=moment(now),
    )


def _budget_view(balance: Balance) -> AgentBalanceView:
    return AgentBalanceView(
        total=amount(balance.allocated),
        spent=amount(balance.spent),
        held=amount(balance.held),
        remaining=amount(balance.remaining),
        percent_used=balance.percent_used,
    )


def _metrics_view(seen: AgentMetrics, now: Instant, *, shows_pii: bool) -> AgentMetricsView:
    agent, total = seen.agent, seen.total
    return AgentMetricsView(
        agent_id=agent.id,
        status=status_of(agent, seen.balance),
        runtime_status=agent.runtime_status,
        budget_spent=amount(seen.balance.spent),
        pii_detections=agent.pii_detections if shows_pii else msgspec.UNSET,
        requests=OutcomesView(total.calls, total.completed, total.failed),
        tokens=TokensView(total.input_tokens, total.output_tokens, total.total_tokens),
        cost_usd=amount(total.cost_micros),
        avg_duration_ms=seen.avg_duration_ms,
        collected_at=moment(now),
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/agents/{agent_id}/status", status, "Show how an agent stands: budget, runtime and latest calls",
        action="agents.read", limit="agent_status", answer=AgentStatusView, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "GET", "/agents/{agent_id}/metrics", metrics, "Show what an agent's calls add up to",
        action="agents.read", limit="read", answer=AgentMetricsView, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
)  # fmt: skip
