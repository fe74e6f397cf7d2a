"""Calls, to look at: how they went, how they failed, and one by one."""

from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.ratios import percent
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import Page, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.call_metrics import CallMetrics, FailedCalls, Latency, call_metrics, failed_calls
from ironcage_core.services.event_lists import EventPage, list_events
from ironcage_core.services.usage_selection import Selection, selected
from ironcage_http.calls import Call, PaginationView, answer, listed
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.usage_queries import (
    CODES,
    QUESTIONS,
    EchoView,
    asked_of_usage,
    echo,
    judged_filter,
    read_question,
    read_time,
)
from ironcage_http.wire import amount, moment

TOP_ERRORS: Final = 10
DEEPEST: Final = 10_000
"""How far pages of calls reach; beyond that a list goes on from one of its rows."""

_COMPLETED: Final = "llm_request_completed"
_FAILED: Final = "llm_request_failed"
_OUTCOMES: Final[dict[str, Literal["completed", "failed"]]] = {_COMPLETED: "completed", _FAILED: "failed"}


class LatencyView(msgspec.Struct, frozen=True):
    """How long calls took, in milliseconds, of those that say so: on average, and the half, 95 % and 99 % at most."""

    avg: Decimal
    p50: int
    p95: int
    p99: int
    samples: int


class ErrorsView(msgspec.Struct, frozen=True):
    """The calls of one provider that failed in one way."""

    error_code: str
    provider: str
    count: int
    last_seen: str | None


class MetricsView(EchoView, frozen=True, kw_only=True):
    """How calls went; the rates are in percent of all."""

    total_requests: int
    success_rate: Decimal
    error_rate: Decimal
    latency_ms: LatencyView
    errors: list[ErrorsView]
    pii_detections: int | msgspec.UnsetType = msgspec.UNSET  # a viewer is not told


class EventView(msgspec.Struct, frozen=True):
    """One call; `event_id` is its request id where only a report tells of it."""

    event_id: str | None
    timestamp_ms: int
    event_type: str
    model: str
    provider: str
    provider_id: str | None
    input_tokens: int
    output_tokens: int
    cost_micros: int
    cost_usd: Decimal
    agent_id: str
    agent_name: str
    error_code: str | None
    error_message: str | None
    request_id: str | None
    lease_id: str | None
    trace_id: str
    cost_source: str


class EventsPaginationView(PaginationView, frozen=True):
    """Where a page stands, and behind which row the list goes on, if it does."""

    next_after: str | None


async def get_metrics(call: Call) -> ASGIResponse:
    """Return how calls went."""
    who = call.user()
    query = Query(call.query)
    asked, when = read_question(query), read_time(query)

    def run(uow: UnitOfWork) -> tuple[Principal, Selection, CallMetrics]:
        principal = who(uow)
        chosen = selected(uow, judged_filter(uow, query, asked, principal), when)
        return principal, chosen, call_metrics(uow, chosen)

    principal, chosen, found = await call.see(run)
    view = MetricsView(
        total_requests=found.total.calls,
        success_rate=percent(found.total.completed, found.total.calls),
        error_rate=percent(found.total.failed, found.total.calls),
        latency_ms=_latency_view(found.latency),
        errors=[_error_view(row) for row in found.errors[:TOP_ERRORS]],
        pii_detections=msgspec.UNSET if principal.role == "viewer" else found.pii_detections,
        **echo(asked, chosen),
    )
    return answer(view)


async def list_errors(call: Call) -> ASGIResponse:
    """List the ways in which calls failed."""
    query = Query(call.query)
    _, descending = query.sort(("count",), default="-count")
    paging = query.paging()
    told, rows = await asked_of_usage(call, query, failed_calls)
    if not descending:
        rows = sorted(rows, key=lambda row: (row.calls, row.error_code, row.provider))
    shown = [_error_view(row) for row in rows[paging.offset : paging.offset + paging.per_page]]
    return listed(Page(shown, len(rows)), paging, shown, **told)


async def get_events(call: Call) -> ASGIResponse:
    """List calls one by one."""
    who = call.user()
    query = Query(call.query)
    asked, when = read_question(query), read_time(query)
    event_type = query.choice("event_type", tuple(_OUTCOMES))
    paging, after = query.paging(), query.id("after", "trace")
    _check_depth(query, paging)

    def run(uow: UnitOfWork) -> tuple[Principal, Selection, EventPage]:
        principal = who(uow)
        chosen = selected(uow, judged_filter(uow, query, asked, principal), when)
        outcome = None if event_type is None else _OUTCOMES[event_type]
        return principal, chosen, list_events(uow, chosen, outcome, paging, after, principal)

    principal, chosen, found = await call.see(run)
    told = echo(asked, chosen)
    if event_type is not None:
        told["filters"] = {**told["filters"], "event_type": event_type}
    page = found.page
    views = [_event_view(record, found.agent_names.get(record.agent_id, ""), principal) for record in page.rows]
    pages = -(-page.total // paging.per_page)
    pagination = EventsPaginationView(paging.page, paging.per_page, page.total, pages, found.next_after)
    return answer({"data": views, "pagination": pagination, **told})


def _check_depth(query: Query, paging: Paging) -> None:
    if query.has("after") and query.has("page"):
        query.problems["page"] = "may not stand beside after"
    elif paging.page * paging.per_page > DEEPEST:
        query.problems["page"] = f"reaches to row {DEEPEST}; go on with after={{trace_id}}"


def _latency_view(latency: Latency) -> LatencyView:
    average = amount(latency.average_millionths)
    return LatencyView(average, latency.p50, latency.p95, latency.p99, latency.samples)


def _error_view(row: FailedCalls) -> ErrorsView:
    return ErrorsView(row.error_code, row.provider, row.calls, moment(row.last_at))


def _event_view(record: UsageRecord, agent_name: str, principal: Principal) -> EventView:
    return EventView(
        event_id=record.event_id or record.request_id,
        timestamp_ms=record.occurred_at,
        event_type=_COMPLETED if record.outcome == "completed" else _FAILED,
        model=record.model,
        provider=record.provider,
        provider_id=record.provider_id,
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        cost_micros=record.cost_micros,
        cost_usd=amount(record.cost_micros),
        agent_id=record.agent_id,
        agent_name=agent_name,
        error_code=record.error_code,
        error_message=None if principal.role == "viewer" else record.error_message,
        request_id=record.request_id,
        lease_id=record.lease_id,
        trace_id=record.id,
        cost_source=record.cost_source,
    )


_COMMON: Final[dict[str, Any]] = {"action": "analytics.read", "limit": "analytics_read", "codes": CODES}
_EVENTS: Final[dict[str, Any]] = {
    **_COMMON,
    "answer": EventView,
    "codes": (*CODES, "TRACE_NOT_FOUND"),
    "query": (*QUESTIONS, "page", "per_page", "after", "event_type"),
}

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/analytics/metrics", get_metrics, "How calls went: rates, latency, errors", answer=MetricsView,
        query=QUESTIONS, **_COMMON,
    ),
    Route(
        "GET", "/analytics/errors", list_errors, "The ways in which calls failed, the most frequent first",
        answer=ErrorsView, query=(*QUESTIONS, *PAGED), **_COMMON,
    ),
    Route("GET", "/analytics/events", get_events, "Calls one by one, the latest first", **_EVENTS),
    Route("GET", "/analytics/events/list", get_events, "The same as /analytics/events", **_EVENTS),
)  # fmt: skip
