"""Leases over the wire: a runtime's handshake, refresh and return. Amounts are USD; times RFC 3339."""

import re
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.domain.leases import REFRESH_THRESHOLD
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import Micros, parse_usd
from ironcage_core.errors.tree import ForbiddenError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.granting import Granted, check_requested
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.leasing import Denied, Returned, note_runtime_numbers, refresh, return_lease
from ironcage_core.services.posting import balance_of
from ironcage_core.services.settlement import check_may_return
from ironcage_http.calls import NO_STORE, Call, answer
from ironcage_http.retry_keys import REPLAYED, retry_key
from ironcage_http.routing import Route
from ironcage_http.runtimes import as_agent
from ironcage_http.wire import amount, moment

_SEMVER: Final = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


class HandshakeBody(msgspec.Struct, frozen=True):
    """What a runtime asks for; the IC token may come in a header instead."""

    ic_token: str | None = None
    requested_budget: Decimal | None = None
    provider: str | None = None
    provider_key_id: str | None = None
    runtime_id: str | None = None
    runtime_version: str | None = None
    lease_ttl_seconds: int | None = None


class HandshakeView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A lease and the provider key sealed for it."""

    ip_token: str
    lease_id: str
    agent_id: str
    budget_id: str
    budget_granted: Decimal
    budget_remaining: Decimal
    total_allocated: Decimal
    total_spent: Decimal
    provider: str
    expires_at: str | None
    grace_seconds: int
    refresh_threshold: Decimal
    base_url: str | None = None


class RefreshBody(msgspec.Struct, frozen=True):
    """Which lease to replace; the numbers are advisory, because reports may be under way."""

    lease_id: str | None = None
    current_lease_id: str | None = None
    ic_token: str | None = None
    requested_budget: Decimal | None = None
    budget_id: str | None = None
    current_remaining: Decimal | None = None
    total_spent: Decimal | None = None


class RefreshView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The lease in the place of the old one, or why there is none."""

    status: str
    budget_remaining: Decimal
    total_allocated: Decimal
    total_spent: Decimal
    reason: str | None = None
    budget_granted: Decimal | None = None
    rolled_over_usd: Decimal | None = None
    lease_budget_usd: Decimal | None = None
    lease_id: str | None = None
    previous_lease_id: str | None = None
    expires_at: str | None = None
    ip_token: str | None = None


class ReturnBody(msgspec.Struct, frozen=True):
    """Which lease to close, and what the runtime knows it has cost."""

    lease_id: str
    ic_token: str | None = None
    final_spent_usd: Decimal | None = None
    returning_usd: Decimal | None = None


class ReturnView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went back, by the server's numbers."""

    success: bool
    lease_id: str
    returned_usd: Decimal
    final_spent_usd: Decimal
    agent_budget_remaining_usd: Decimal
    lease_status: str
    already_closed: bool
    discrepancy_usd: Decimal
    successor_lease_id: str | None = None


async def shake_hands(call: Call) -> ASGIResponse:
    """Lend a tranche of the agent's budget."""
    body = call.read(HandshakeBody, may_be_empty=True)
    metrics = call.wiring.metrics
    with metrics.asking("handshake"):
        granted = await as_agent(call, body, partial(_handshake, call=call))
    if not granted.replayed:
        metrics.count_grant("handshake", granted.new_money)
    lease, balance = granted.lease, granted.balance
    return answer(
        HandshakeView(
            ip_token=granted.ip_token,
            lease_id=lease.id,
            agent_id=lease.agent_id,
            budget_id=balance.budget_id,
            budget_granted=amount(granted.new_money),
            **_totals(balance),
            provider=lease.provider,
            expires_at=moment(lease.expires_at),
            grace_seconds=lease.grace // MS_PER_S,
            refresh_threshold=amount(REFRESH_THRESHOLD),
            base_url=granted.base_url,
        ),
        headers=_headers(granted),
    )


def _headers(granted: Granted) -> dict[str, str]:
    return {**NO_STORE, **(REPLAYED if granted.replayed else {})}


def _handshake(uow: UnitOfWork, identity: AgentIdentity, body: HandshakeBody, *, call: Call) -> Granted:
    if body.runtime_version is not None and not _SEMVER.fullmatch(body.runtime_version):
        raise ValidationError({"runtime_version": "must be a semantic version such as 1.2.3"})
    request = HandshakeRequest(
        requested=_usd(body.requested_budget, "requested_budget"),
        provider=body.provider,
        provider_key_id=body.provider_key_id,
        runtime_id=body.runtime_id,
        ttl_s=body.lease_ttl_seconds,
    )
    wiring, retry = call.wiring, retry_key(call, identity)
    return handshake(uow, identity, request, sealing=wiring.sealing, policy=wiring.settings.leases, retry=retry)


async def refresh_lease(call: Call) -> ASGIResponse:
    """Replace a lease that runs low."""
    metrics = call.wiring.metrics
    with metrics.asking("refresh"):
        outcome = await as_agent(call, call.read(RefreshBody), partial(_refresh, call=call))
    if isinstance(outcome, Denied):
        metrics.count_denial("refresh", outcome.reason)
        return answer(RefreshView(status="denied", reason=outcome.reason, **_totals(outcome.balance)))
    granted, previous = outcome
    if not granted.replayed:
        metrics.count_grant("refresh", granted.new_money)
    view = RefreshView(
        status="approved",
        **_totals(granted.balance),
        budget_granted=amount(granted.new_money),
        rolled_over_usd=amount(granted.rolled_over),
        lease_budget_usd=amount(granted.lease.granted),
        lease_id=granted.lease.id,
        previous_lease_id=previous,
        expires_at=moment(granted.lease.expires_at),
        ip_token=granted.ip_token,
    )
    return answer(view, headers=_headers(granted))


def _refresh(
    uow: UnitOfWork, identity: AgentIdentity, body: RefreshBody, *, call: Call
) -> tuple[Granted, str] | Denied:
    lease_id = _lease_of(body)
    requested = _usd(body.requested_budget, "requested_budget")
    remaining = _usd(body.current_remaining, "current_remaining")
    spent = _usd(body.total_spent, "total_spent")
    policy, retry = call.wiring.settings.leases, retry_key(call, identity)
    check_requested(requested, policy)
    note_runtime_numbers(uow, identity, lease_id, remaining=remaining, spent=spent)
    if body.budget_id is not None and body.budget_id != balance_of(uow, identity.agent_id).budget_id:
        raise ForbiddenError("The budget belongs to another agent")
    outcome = refresh(uow, identity, lease_id, requested, sealing=call.wiring.sealing, policy=policy, retry=retry)
    return outcome if isinstance(outcome, Denied) else (outcome, lease_id)


def _lease_of(body: RefreshBody) -> str:
    named = {lease_id for lease_id in (body.lease_id, body.current_lease_id) if lease_id is not None}
    if len(named) != 1:
        problem = "is required" if not named else "must equal current_lease_id"
        raise ValidationError({"lease_id": problem})
    return named.pop()


def _totals(balance: Balance) -> dict[str, Any]:
    return {
        "budget_remaining": amount(balance.remaining),
        "total_allocated": amount(balance.allocated),
        "total_spent": amount(balance.spent),
    }


async def return_rest(call: Call) -> ASGIResponse:
    """Close a lease and take back what it holds."""
    named, returned = await as_agent(call, call.read(ReturnBody), partial(_return, call=call), settles=True)
    return answer(
        ReturnView(
            success=True,
            lease_id=named,
            returned_usd=amount(returned.returned),
            final_spent_usd=amount(returned.final_spent),
            agent_budget_remaining_usd=amount(returned.balance.remaining),
            lease_status=returned.lease.status,
            already_closed=returned.already_closed,
            discrepancy_usd=amount(returned.discrepancy),
            successor_lease_id=returned.successor_id,
        ),
        headers=REPLAYED if returned.replayed else None,
    )


def _return(uow: UnitOfWork, identity: AgentIdentity, body: ReturnBody, *, call: Call) -> tuple[str, Returned]:
    check_may_return(uow, identity, body.lease_id)
    final_spent = _usd(body.final_spent_usd, "final_spent_usd")
    _usd(body.returning_usd, "returning_usd")  # advisory: the server's numbers decide
    policy, retry = call.wiring.settings.leases, retry_key(call, identity)
    return body.lease_id, return_lease(uow, identity, body.lease_id, final_spent, policy=policy, retry=retry)


def _usd(value: Decimal | None, field: str) -> Micros | None:
    return None if value is None else parse_usd(value, field=field)


_LEASE_CODES: Final = ("LEASE_NOT_FOUND", "FORBIDDEN", "INSUFFICIENT_SCOPE", "IDEMPOTENCY_KEY_REUSED")
_GRANT_CODES: Final = (
    "AGENT_INACTIVE", "OWNER_SUSPENDED", "PROVIDER_KEY_DISABLED", "CRYPTO_UNAVAILABLE", "USAGE_LIMIT_EXCEEDED",
)  # fmt: skip
_EXAMPLE_LEASE: Final = "lease_0190f3a1c4d27b8e9a5f001122334455"

ROUTES: Final = (
    Route(
        "POST", "/budget/handshake", shake_hands, "Lend the agent a tranche of its budget and the sealed provider key",
        body=HandshakeBody, answer=HandshakeView, action="budget.spend", is_retried_by_key=True, limit="handshake",
        example={"requested_budget": 10, "runtime_id": "pod-1"},
        codes=(
            *_GRANT_CODES, "INSUFFICIENT_SCOPE", "UNSUPPORTED_PROVIDER", "NO_PROVIDER_ASSIGNED", "PROVIDER_NOT_FOUND",
            "INVALID_PROVIDER_ID", "PROVIDER_KEY_MISMATCH", "TOO_MANY_LEASES", "BUDGET_EXCEEDED",
            "IDEMPOTENCY_KEY_REUSED", "LEASE_EXPIRED", "LEASE_CLOSED", "LEASE_REVOKED",
        ),
    ),
    Route(
        "POST", "/budget/refresh", refresh_lease, "Put a new lease in the place of one that runs low",
        body=RefreshBody, answer=RefreshView, action="budget.spend", is_retried_by_key=True, limit="refresh_lease",
        example={"lease_id": _EXAMPLE_LEASE},
        codes=(
            *_LEASE_CODES, *_GRANT_CODES, "LEASE_EXPIRED", "LEASE_CLOSED", "LEASE_REVOKED", "NO_PROVIDER_ASSIGNED",
        ),
    ),
    Route(
        "POST", "/budget/return", return_rest, "Close a lease and give back what it holds",
        body=ReturnBody, answer=ReturnView, action="budget.spend",
        is_retried_by_key=True, limit="return", codes=_LEASE_CODES,
        example={"lease_id": _EXAMPLE_LEASE, "final_spent_usd": 1.5},
    ),
)  # fmt: skip
