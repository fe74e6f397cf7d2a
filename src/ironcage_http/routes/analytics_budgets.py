"""Budgets at a glance: how much of each agent's budget is spent, and whose is nearly over."""

from decimal import Decimal
from typing import Any, Final, get_args

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.risks import RiskLevel
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import STATUSES
from ironcage_core.services.budget_standings import Standing, StandingFilter, Standings, budget_standings
from ironcage_core.services.usage_scope import UsageQuestion
from ironcage_http.calls import Call, listed
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.usage_queries import LONGEST_PROJECT, judged_filter
from ironcage_http.wire import amount, moment

_HIGHEST_THRESHOLD: Final = 100


class StandingView(msgspec.Struct, frozen=True):
    """How an agent's budget stands; `pending_spend` is what no report has told the ledger yet."""

    agent_id: str
    agent_name: str
    budget: Decimal
    spent: Decimal
    held: Decimal
    remaining: Decimal
    pending_spend: Decimal
    percent_used: Decimal
    status: str
    risk_level: str
    budget_micros: int
    spent_micros: int
    remaining_micros: int


class StandingsSummaryView(msgspec.Struct, frozen=True):
    """How many agents are meant, not only those of the page: by status, and by risk."""

    total_agents: int
    active: int
    inactive: int
    exhausted: int
    critical: int
    high: int
    medium: int
    low: int


async def list_standings(call: Call) -> ASGIResponse:
    """List live agents by how much of their budgets is spent."""
    who = call.user()
    query = Query(call.query)
    asked = UsageQuestion(
        agent_id=query.id("agent_id", "agent"),
        project_id=query.text("project_id", longest=LONGEST_PROJECT),
        user_id=query.id("user_id", "user"),
    )
    levels: tuple[RiskLevel, ...] = get_args(RiskLevel)
    which = StandingFilter(
        threshold=query.integer("threshold", least=0, most=_HIGHEST_THRESHOLD),
        status=query.choice("status", STATUSES),
        risk_level=query.choice("risk_level", levels),
    )
    _, descending = query.sort(("percent_used",), default="-percent_used")
    paging = query.paging()

    def run(uow: UnitOfWork) -> tuple[Standings, Instant]:
        whose = judged_filter(uow, query, asked, who(uow))
        return budget_standings(uow, whose, which, paging, descending=descending), uow.now

    found, now = await call.see_all(who, run, agent_id=asked.agent_id)
    views = [_view(standing) for standing in found.page.rows]
    filters = asked.used | _used(which)
    return listed(found.page, paging, views, summary=_summary(found), filters=filters, calculated_at=moment(now))


def _used(which: StandingFilter) -> dict[str, Any]:
    told = {"threshold": which.threshold, "status": which.status, "risk_level": which.risk_level}
    return {name: value for name, value in told.items() if value is not None}


def _view(standing: Standing) -> StandingView:
    budget = standing.budget
    remaining = budget.allocated - budget.spent - budget.held
    return StandingView(
        agent_id=budget.agent_id,
        agent_name=budget.agent_name,
        budget=amount(budget.allocated),
        spent=amount(budget.spent),
        held=amount(budget.held),
        remaining=amount(remaining),
        pending_spend=amount(budget.pending),
        percent_used=standing.percent_used,
        status=standing.status,
        risk_level=standing.risk_level,
        budget_micros=budget.allocated,
        spent_micros=budget.spent,
        remaining_micros=remaining,
    )


def _summary(found: Standings) -> StandingsSummaryView:
    statuses = {status: found.statuses.get(status, 0) for status in STATUSES}
    risks = {level: found.risks.get(level, 0) for level in ("critical", "high", "medium", "low")}
    return StandingsSummaryView(total_agents=found.page.total, **statuses, **risks)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/analytics/budget/status", list_standings, "Agents' budgets, the most used first",
        action="analytics.read", limit="analytics_read", answer=StandingView,
        query=(*PAGED, "agent_id", "project_id", "user_id", "threshold", "status", "risk_level"),
        codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
)  # fmt: skip
