"""The audit log, to look at: who did what, newest first unless told otherwise."""

from typing import Any, Final, get_args

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.audit import AuditRow, Category, Outcome
from ironcage_core.ports.lists import AuditFilter, Page
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.audit_log import get_audit_row, list_audit_rows
from ironcage_http.calls import Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import moment


class AuditRowView(msgspec.Struct, frozen=True):
    """One row: what was done to what, by whom, from where, and what chains it to the row before it."""

    id: str
    timestamp: str | None
    operation: str
    outcome: str
    category: str
    resource_type: str
    resource_id: str | None
    actor_type: str
    actor_id: str
    user_id: str | None
    user_role: str | None
    token_id: str | None
    ip_address: str | None
    user_agent: str | None
    request_id: str | None
    changes: dict[str, Any] | None
    reason: str | None
    metadata: dict[str, Any]
    prev_hash: str
    hash: str


async def get_rows(call: Call) -> ASGIResponse:
    """Return one page of the log."""
    who = call.user()
    query = Query(call.query)
    which = _filter(query)
    _, descending = query.sort(("timestamp",), default="-timestamp")
    paging = query.paging()

    def run(uow: UnitOfWork) -> Page[AuditRow]:
        who(uow)
        query.check()
        return list_audit_rows(uow, which, paging, descending=descending)

    page = await call.see(run)
    return listed(page, paging, [row_view(row) for row in page.rows])


async def get_one_row(call: Call) -> ASGIResponse:
    """Return one row."""
    who = call.user()

    def run(uow: UnitOfWork) -> AuditRow:
        who(uow)
        return get_audit_row(uow, call.path["audit_id"])

    return answer(row_view(await call.see(run)))


def _filter(query: Query) -> AuditFilter:
    category: Any = query.choice("category", get_args(Category))
    outcome: Any = query.choice("outcome", get_args(Outcome))
    which = AuditFilter(
        user_id=query.id("user_id", "user"),
        operation=query.text("operation"),
        resource_type=query.text("resource_type"),
        resource_id=query.text("resource_id"),
        category=category,
        outcome=outcome,
        since=query.instant("start_date"),
        until=query.instant("end_date", is_end=True),
    )
    named_end = query.instant("end_date") or 0  # of a date where it starts; the range lasts until the day is over
    if which.since is not None and which.until is not None and which.since > max(named_end, which.until - 1):
        query.problems["start_date"] = "must not be after end_date"
    return which


def row_view(row: AuditRow) -> AuditRowView:
    """Return a row as callers see it."""
    return AuditRowView(
        id=row.id,
        timestamp=moment(row.timestamp),
        operation=row.operation,
        outcome=row.outcome,
        category=row.category,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        actor_type=row.actor_type,
        actor_id=row.actor_id,
        user_id=row.actor_id if row.actor_type in {"user", "api_token"} else None,
        user_role=row.user_role,
        token_id=row.token_id,
        ip_address=row.ip_address,
        user_agent=row.user_agent,
        request_id=row.request_id,
        changes=None if row.changes is None else msgspec.json.decode(row.changes),
        reason=row.reason,
        metadata=msgspec.json.decode(row.metadata),
        prev_hash=row.prev_hash,
        hash=row.hash,
    )


ROUTES: Final = (
    Route(
        "GET", "/audit-logs", get_rows, "The audit log, newest first", action="audit.read",
        query=(
            *PAGED, "user_id", "operation", "resource_type", "resource_id", "category", "outcome", "start_date",
            "end_date",
        ),
        answer=AuditRowView,
    ),
    Route(
        "GET", "/audit-logs/{audit_id}", get_one_row, "One row of the audit log", action="audit.read",
        answer=AuditRowView, codes=("AUDIT_NOT_FOUND",),
    ),
)  # fmt: skip
