"""Budget requests: made by owners of agents, looked at by whom they concern, decided by admins."""

from functools import partial
from typing import Final, get_args

from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.budget_requests import RequestStatus
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.lists import Page, RequestFilter, RequestOrder
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import own_agent
from ironcage_core.services.budget_requests import (
    SeenRequest,
    cancel_request,
    get_request,
    list_requests,
    own_request,
    submit_request,
)
from ironcage_core.services.budget_reviews import Approved, reject
from ironcage_core.services.budget_reviews import approve as approve_request
from ironcage_http.calls import Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.retry_keys import REPLAYED, retry_key
from ironcage_http.routes.budget_request_views import (
    ApprovalBody,
    ApprovedView,
    RejectionBody,
    RequestBody,
    RequestDetailView,
    RequestView,
    approved_view,
    detail_view,
    request_view,
)
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import Read, micros, text_of

ORDERS: Final[tuple[RequestOrder, ...]] = get_args(RequestOrder)


async def submit(call: Call) -> ASGIResponse:
    """Ask for a larger budget."""
    who = call.user()
    body = call.read(RequestBody)

    def run(uow: UnitOfWork) -> SeenRequest:
        principal = who(uow)
        body.check_syntax()
        agent_id = _agent_named(body)
        if agent_id is not None:
            own_agent(uow, agent_id, principal)
        return _submit(uow, body.value(), principal, call)

    return _told(await call.write(run), status=201)


def _agent_named(body: Read[RequestBody]) -> str | None:
    """Return the agent that a body names, whatever else is wrong with it."""
    if body.found is not None:
        return body.found.agent_id
    named = text_of(body.fields["agent_id"]) if "agent_id" in body.fields else None
    return named if isinstance(named, str) else None


def _submit(uow: UnitOfWork, wish: RequestBody, principal: Principal, call: Call) -> SeenRequest:
    unreadable: dict[str, str] = {}
    requested = micros(wish.requested_budget, field="requested_budget", problems=unreadable)
    try:
        return submit_request(
            uow,
            wish.agent_id,
            requested,
            wish.justification,
            principal=principal,
            highest=call.wiring.settings.budget_request_max,
            retry=retry_key(call, principal),
        )
    except ValidationError as error:
        raise ValidationError({**error.fields, **unreadable}) from None


async def list_all(call: Call) -> ASGIResponse:
    """List requests."""
    who = call.user()
    query = Query(call.query)
    paging = query.paging()
    order, descending = query.sort(ORDERS, default="-created_at")
    statuses: tuple[RequestStatus, ...] = get_args(RequestStatus)
    which = RequestFilter(
        status=query.choice("status", statuses),
        agent_id=query.id("agent_id", "agent"),
        requester_id=query.id("requester_id", "user"),
    )

    def run(uow: UnitOfWork) -> Page[SeenRequest]:
        principal = who(uow)
        query.check()
        return list_requests(uow, principal, which, paging, order, descending=descending)

    page = await call.see(run)
    return listed(page, paging, [request_view(each) for each in page.rows])


async def get(call: Call) -> ASGIResponse:
    """Show one request."""
    who = call.user()
    return answer(detail_view(await call.see(lambda uow: get_request(uow, call.path["request_id"], who(uow)))))


async def approve(call: Call) -> ASGIResponse:
    """Approve a request."""
    who = call.user()
    body = call.read(ApprovalBody, may_be_empty=True)

    def run(uow: UnitOfWork) -> Approved:
        principal = who(uow)
        body.check_syntax()
        request = own_request(uow, call.path["request_id"], principal)
        return _approve(uow, request.id, body.value(), principal, call)

    approved = await call.write(run)
    return answer(approved_view(approved), headers=REPLAYED if approved.is_replay else None)


def _approve(uow: UnitOfWork, request_id: str, wish: ApprovalBody, principal: Principal, call: Call) -> Approved:
    settings = call.wiring.settings
    unreadable: dict[str, str] = {}
    budget = None
    if wish.approved_budget is not None:
        budget = micros(wish.approved_budget, field="approved_budget", problems=unreadable)
    try:
        return approve_request(
            uow,
            request_id,
            principal=principal,
            approved=budget,
            notes=wish.review_notes,
            highest=settings.budget_request_max,
            retry=retry_key(call, principal),
            levels=settings.leases.alert_levels,
        )
    except ValidationError as error:
        raise ValidationError({**error.fields, **unreadable}) from None


async def refuse(call: Call) -> ASGIResponse:
    """Reject a request."""
    who = call.user()
    body = call.read(RejectionBody)

    def run(uow: UnitOfWork) -> SeenRequest:
        principal = who(uow)
        body.check_syntax()
        request = own_request(uow, call.path["request_id"], principal)
        notes = body.value().review_notes
        return reject(uow, request.id, notes, principal=principal, retry=retry_key(call, principal))

    return _told(await call.write(run))


async def cancel(call: Call) -> ASGIResponse:
    """Take a request back."""
    who = call.user()
    return _told(await call.write(lambda uow: cancel_request(uow, call.path["request_id"], principal=who(uow))))


def _told(seen: SeenRequest, *, status: int = 200) -> ASGIResponse:
    headers = REPLAYED if seen.is_replay else None
    return answer(request_view(seen), status=status, headers=headers)


_ONE: Final = "/budget/requests/{request_id}"
_decision = partial(Route, action="budget_requests.decide", limit="budget_request_decide", is_retried_by_key=True)
_cancellation = partial(
    Route, handler=cancel, action="budget_requests.cancel", limit="budget_request_decide", answer=RequestView,
    codes=("REQUEST_NOT_FOUND", "FORBIDDEN", "CANNOT_CANCEL_REVIEWED"),
)  # fmt: skip

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/budget/requests", submit, "Ask for a larger budget of an agent", action="budget_requests.create",
        is_retried_by_key=True,
        limit="budget_request_create", body=RequestBody, answer=RequestView, status=201,
        codes=("AGENT_NOT_FOUND", "FORBIDDEN", "BUDGET_DECREASE_REQUEST", "IDEMPOTENCY_KEY_REUSED"),
        example={
            "agent_id": "agent_...", "requested_budget": 150, "justification": "the index of the archive is rebuilt",
        },
    ),
    Route(
        "GET", "/budget/requests", list_all, "Requests by the caller and for the caller's agents; an admin's are all",
        answer=RequestView, action="budget_requests.read", query=(*PAGED, "status", "agent_id", "requester_id"),
    ),
    Route(
        "GET", _ONE, get, "Show a request, and where its agent's budget stands now", answer=RequestDetailView,
        action="budget_requests.read", codes=("REQUEST_NOT_FOUND", "FORBIDDEN"),
    ),
    _decision(
        "PATCH", f"{_ONE}/approve", approve, "Approve a request: the agent's budget becomes what is approved",
        body=ApprovalBody, answer=ApprovedView,
        codes=(
            "REQUEST_NOT_FOUND", "FORBIDDEN", "REQUEST_ALREADY_REVIEWED", "APPROVAL_DECREASES_BUDGET",
            "IDEMPOTENCY_KEY_REUSED",
        ),
        example={"approved_budget": 120, "review_notes": "as much as the month allows"},
    ),
    _decision(
        "PATCH", f"{_ONE}/reject", refuse, "Reject a request", body=RejectionBody, answer=RequestView,
        codes=("REQUEST_NOT_FOUND", "FORBIDDEN", "REQUEST_ALREADY_REVIEWED", "IDEMPOTENCY_KEY_REUSED"),
        example={"review_notes": "please use the smaller model first"},
    ),
    _cancellation("PATCH", f"{_ONE}/cancel", summary="Take a request back"),
    _cancellation("DELETE", _ONE, summary="Take a request back, like `/cancel`"),
)  # fmt: skip
