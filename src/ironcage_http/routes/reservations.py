"""Reservations over the wire: a thin runtime sets aside what a call may cost, then reports or cancels it."""

from decimal import Decimal
from functools import partial
from typing import Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.money import Micros, parse_usd
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.reserving import Reserved, ReserveRequest, cancel_reservation, reserve
from ironcage_http.calls import Call, answer
from ironcage_http.retry_keys import REPLAYED, retry_key
from ironcage_http.routing import Route
from ironcage_http.runtimes import as_agent
from ironcage_http.wire import amount, moment


class ReserveBody(msgspec.Struct, frozen=True):
    """For which call, and the most it may cost; the lease may be left out where the agent has one."""

    request_id: str
    amount: Decimal
    ic_token: str | None = None
    lease_id: str | None = None
    ttl_seconds: int | None = None


class ReservationView(msgspec.Struct, frozen=True):
    """What is set aside until when, and what the lease has left to set aside now."""

    lease_id: str
    request_id: str
    reserved_usd: Decimal
    expires_at: str | None
    lease_available_usd: Decimal


class CancelBody(msgspec.Struct, frozen=True):
    """Nothing but an IC token, if it comes in no header."""

    ic_token: str | None = None


class CancelledView(msgspec.Struct, frozen=True):
    """How much was released; 0 if it was before."""

    request_id: str
    released_usd: Decimal


async def set_aside(call: Call) -> ASGIResponse:
    """Set aside what a call may cost."""
    with call.wiring.metrics.asking("reserve"):
        reserved = await as_agent(call, call.read(ReserveBody), partial(_reserve, call=call))
    reservation = reserved.reservation
    view = ReservationView(
        lease_id=reservation.lease_id,
        request_id=reservation.request_id,
        reserved_usd=amount(reservation.amount),
        expires_at=moment(reservation.expires_at),
        lease_available_usd=amount(reserved.available),
    )
    return answer(view, status=201 if reserved.is_new else 200, headers=REPLAYED if reserved.replayed else None)


def _reserve(uow: UnitOfWork, identity: AgentIdentity, body: ReserveBody, *, call: Call) -> Reserved:
    request = ReserveRequest(
        request_id=body.request_id,
        amount=parse_usd(body.amount, field="amount"),
        lease_id=body.lease_id,
        ttl_s=body.ttl_seconds,
    )
    return reserve(uow, identity, request, policy=call.wiring.settings.leases, retry=retry_key(call, identity))


async def cancel(call: Call) -> ASGIResponse:
    """Release what was set aside for a call that was not made."""
    request_id = call.free_text or ""  # what is no text names nothing

    def use_case(uow: UnitOfWork, identity: AgentIdentity, _: CancelBody) -> Micros:
        return cancel_reservation(uow, identity, request_id)

    released = await as_agent(call, call.read(CancelBody, may_be_empty=True), use_case)
    return answer(CancelledView(request_id, amount(released)))


_EXAMPLE: Final = {"lease_id": "lease_0190f3a1c4d27b8e9a5f001122334455", "request_id": "call-1", "amount": 0.25}

ROUTES: Final = (
    Route(
        "POST", "/budget/reserve", set_aside, "Set aside on a lease what a call may cost; 200 if it was before",
        body=ReserveBody, answer=ReservationView, other_answers=((200, ReservationView),), action="budget.spend",
        is_retried_by_key=True, limit="reserve", status=201, example=_EXAMPLE,
        codes=(
            "INSUFFICIENT_SCOPE", "LEASE_NOT_FOUND", "FORBIDDEN", "NO_ACTIVE_LEASE", "LEASE_EXPIRED", "LEASE_CLOSED",
            "LEASE_REVOKED", "REQUEST_ID_CONFLICT", "ALREADY_REPORTED", "BUDGET_EXCEEDED", "IDEMPOTENCY_KEY_REUSED",
        ),
    ),
    Route(
        "DELETE", "/budget/reserve/{request_id}", cancel, "Release what was set aside for a call",
        body=CancelBody, answer=CancelledView, action="budget.spend", limit="reserve",
        codes=("INSUFFICIENT_SCOPE", "RESERVATION_NOT_FOUND", "ALREADY_REPORTED"),
    ),
)  # fmt: skip
