"""Traces, to look at: one call each, without a word of what was said in it."""

from decimal import Decimal
from typing import Final, Literal

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import Page, TraceFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.traces import get_trace, list_traces, trace_filter
from ironcage_http.calls import Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.usage_queries import LONGEST_MODEL, LONGEST_PROJECT
from ironcage_http.wire import amount, moment

STATUSES: Final[tuple[Literal["completed", "failed"], ...]] = ("completed", "failed")


class TraceView(msgspec.Struct, frozen=True):
    """The record of one call; what is not known of it is null."""

    id: str
    request_id: str | None
    event_id: str | None
    agent_id: str
    project_id: str
    lease_id: str | None
    provider: str
    provider_id: str | None
    model: str
    endpoint: str | None
    response_status: int | None
    status: str
    duration_ms: int | None
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: Decimal
    cost_micros: int
    error_code: str | None
    error_message: str | None
    traced_at: str | None


async def list_all(call: Call) -> ASGIResponse:
    """List traces."""
    who = call.user()
    query = Query(call.query)
    asked = _filter(query)
    _, descending = query.sort(("traced_at",), default="-traced_at")
    paging = query.paging()

    def run(uow: UnitOfWork) -> tuple[Principal, Page[UsageRecord]]:
        principal = who(uow)
        which = trace_filter(uow, asked, principal)
        query.check()
        return principal, list_traces(uow, which, paging, descending=descending)

    principal, page = await call.see(run)
    return listed(page, paging, [trace_view(record, principal) for record in page.rows])


async def get(call: Call) -> ASGIResponse:
    """Show one trace."""
    who = call.user()

    def run(uow: UnitOfWork) -> tuple[Principal, UsageRecord]:
        principal = who(uow)
        return principal, get_trace(uow, call.path["trace_id"], principal)

    principal, record = await call.see(run)
    return answer(trace_view(record, principal))


def _filter(query: Query) -> TraceFilter:
    since = query.instant("from", takes_unix_s=True)
    until = query.instant("to", is_end=True, takes_unix_s=True)
    if since is not None and until is not None and since >= until:
        query.problems["from"] = "must be before to"
    return TraceFilter(
        agent_id=query.id("agent_id", "agent"),
        project_id=query.text("project_id", longest=LONGEST_PROJECT),
        provider=query.text("provider"),
        model=query.text("model", longest=LONGEST_MODEL),
        outcome=query.choice("status", STATUSES),
        call_key=query.text("request_id"),
        lease_id=query.id("lease_id", "lease"),
        since=since,
        until=until,
    )


def trace_view(record: UsageRecord, principal: Principal) -> TraceView:
    """Return a record as this caller sees it; a viewer sees no words of an error."""
    return TraceView(
        id=record.id,
        request_id=record.request_id or record.event_id,
        event_id=record.event_id,
        agent_id=record.agent_id,
        project_id=record.project_id,
        lease_id=record.lease_id,
        provider=record.provider,
        provider_id=record.provider_id,
        model=record.model,
        endpoint=record.endpoint,
        response_status=record.response_status,
        status=record.outcome,
        duration_ms=record.duration_ms,
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        total_tokens=record.total_tokens,
        cost=amount(record.cost_micros),
        cost_micros=record.cost_micros,
        error_code=record.error_code,
        error_message=None if principal.role == "viewer" else record.error_message,
        traced_at=moment(record.occurred_at),
    )


ROUTES: Final = (
    Route(
        "GET", "/traces", list_all, "Calls one by one, the latest first", action="traces.read",
        query=(*PAGED, "agent_id", "project_id", "provider", "model", "status", "request_id", "lease_id", "from", "to"),
        answer=TraceView,
        limit="analytics_read", codes=("AGENT_NOT_FOUND", "LEASE_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "GET", "/traces/{trace_id}", get, "Show one call", action="traces.read", answer=TraceView,
        limit="analytics_read", codes=("TRACE_NOT_FOUND", "FORBIDDEN"),
    ),
)  # fmt: skip
