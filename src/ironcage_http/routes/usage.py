"""Usage, added up: calls, tokens and cost, in all, of a project and of a provider."""

from decimal import Decimal
from typing import Any, Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.texts import text_problem
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_scope import UsageQuestion, of_one
from ironcage_core.services.usage_totals import UsageTotals, usage_totals
from ironcage_http.calls import Call, answer
from ironcage_http.queries import Query
from ironcage_http.routing import Route
from ironcage_http.usage_queries import (
    CODES,
    LONGEST_PROJECT,
    QUESTIONS,
    EchoView,
    echo,
    judged_filter,
    read_question,
    read_time,
)
from ironcage_http.wire import amount

LONGEST_PROVIDER: Final = 100


class ProviderUsageView(msgspec.Struct, frozen=True):
    """What went to one provider; `requests` are completed calls."""

    provider: str
    tokens: int
    requests: int
    cost: Decimal


class UsageView(EchoView, frozen=True, kw_only=True):
    """Sums over calls; `total_requests` are completed ones."""

    total_tokens: int
    total_input_tokens: int
    total_output_tokens: int
    total_requests: int
    total_cost: Decimal
    providers: list[ProviderUsageView]
    scope: str


class ProjectUsageView(UsageView, frozen=True, kw_only=True):
    """Sums over the calls that were made in one project."""

    project_id: str


class ProviderTotalView(EchoView, frozen=True, kw_only=True):
    """Sums over the calls of one provider; `requests` are completed ones."""

    provider: str
    tokens: int
    requests: int
    total_cost: Decimal
    scope: str


async def get_totals(call: Call) -> ASGIResponse:
    """Return the sums over all calls."""
    query = Query(call.query)
    asked = read_question(query)
    totals = await _totals(call, query, asked)
    return answer(UsageView(**_sums(totals), **echo(asked, totals.chosen)))


async def get_of_project(call: Call) -> ASGIResponse:
    """Return the sums over the calls of one project."""
    query = Query(call.query)
    project_id = _segment(call, query, "project_id", LONGEST_PROJECT).strip()
    asked = read_question(query)
    totals = await _totals(call, query, asked, project_id=project_id)
    return answer(ProjectUsageView(**_sums(totals), **echo(asked, totals.chosen), project_id=project_id))


async def get_of_provider(call: Call) -> ASGIResponse:
    """Return the sums over the calls of one provider."""
    query = Query(call.query)
    provider = _segment(call, query, "provider", LONGEST_PROVIDER)
    asked = read_question(query)
    totals = await _totals(call, query, asked, provider=provider)
    return answer(
        ProviderTotalView(
            provider=provider,
            tokens=totals.sums.total_tokens,
            requests=totals.sums.completed,
            total_cost=amount(totals.sums.cost_micros),
            scope=totals.scope,
            **echo(asked, totals.chosen),
        )
    )


async def _totals(call: Call, query: Query, asked: UsageQuestion, **part: str) -> UsageTotals:
    """Return the sums over the calls that are asked about and of the part that the path names."""
    who = call.user()
    when = read_time(query)

    def run(uow: UnitOfWork) -> UsageTotals:
        principal = who(uow)
        which = of_one(judged_filter(uow, query, asked, principal), **part)
        return usage_totals(uow, which, when, principal)

    return await call.see(run)


def _segment(call: Call, query: Query, name: str, longest: int) -> str:
    """Return a part of the path that is free text; what is wrong with it is told with what is wrong with the query."""
    value = call.free_text
    if value is None:
        query.problems[name] = "must be valid UTF-8"
        return ""
    if problem := text_problem(value.strip(), longest=longest):
        query.problems[name] = problem
    return value


def _sums(totals: UsageTotals) -> dict[str, Any]:
    sums = totals.sums
    return {
        "total_tokens": sums.total_tokens,
        "total_input_tokens": sums.input_tokens,
        "total_output_tokens": sums.output_tokens,
        "total_requests": sums.completed,
        "total_cost": amount(sums.cost_micros),
        "providers": [
            ProviderUsageView(provider, part.total_tokens, part.completed, amount(part.cost_micros))
            for provider, part in totals.providers
        ],
        "scope": totals.scope,
    }


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/usage", get_totals, "Calls, tokens and cost, in all and by provider", answer=UsageView,
        action="usage.read", limit="analytics_read", codes=CODES, query=QUESTIONS,
    ),
    Route(
        "GET", "/usage/aggregate", get_totals, "The same as /usage", answer=UsageView,
        action="usage.read", limit="analytics_read", codes=CODES, query=QUESTIONS,
    ),
    Route(
        "GET", "/usage/by-project/{project_id}", get_of_project, "Calls, tokens and cost of one project",
        answer=ProjectUsageView, action="usage.read", limit="analytics_read", codes=CODES, query=QUESTIONS,
    ),
    Route(
        "GET", "/usage/by-provider/{provider}", get_of_provider, "Calls, tokens and cost of one provider",
        answer=ProviderTotalView, action="usage.read", limit="analytics_read", codes=CODES, query=QUESTIONS,
    ),
)  # fmt: skip
