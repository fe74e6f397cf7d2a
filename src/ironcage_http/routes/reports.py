"""Reports over the wire: one call, or up to a thousand in one body. Amounts are USD."""

from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.money import parse_usd
from ironcage_core.domain.usage import UsageReport
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.late_reports import SettlementRefused, report_or_refuse
from ironcage_core.services.reporting import (
    BatchReported,
    ItemResult,
    Reported,
    UnreadReport,
    must_stop,
    report_batch,
)
from ironcage_core.services.settlement import check_may_report_on
from ironcage_http.calls import Call, answer
from ironcage_http.errors import details_of
from ironcage_http.routing import Route
from ironcage_http.runtimes import as_agent, instant_of
from ironcage_http.wire import Read, amount, decoded, moment, text_of
from ironcage_http.wiring import Wiring


class ReportBody(msgspec.Struct, frozen=True):
    """What one LLM call has cost; without `cost_usd` the server prices the tokens."""

    lease_id: str
    request_id: str
    model: str
    provider: str
    ic_token: str | None = None
    cost_usd: Decimal | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    timestamp: int | float | str | None = None


class BatchBody(msgspec.Struct, frozen=True):
    """Many reports; each is judged alone."""

    reports: list[msgspec.Raw]
    ic_token: str | None = None


class ReportView(msgspec.Struct, frozen=True):
    """What the books hold of a report, and where it leaves the agent."""

    success: bool
    duplicate: bool
    request_id: str
    lease_id: str
    charged_lease_id: str
    cost_usd: Decimal
    overspent_usd: Decimal
    budget_limit_usd: Decimal
    budget_spent_usd: Decimal
    budget_remaining_usd: Decimal
    lease_spent_usd: Decimal
    lease_remaining_usd: Decimal
    lease_status: str
    expires_at: str | None
    refresh_recommended: bool
    stop: bool


class ItemView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The fate of one report of a batch."""

    index: int
    request_id: Any
    status: str
    cost_usd: Decimal | None = None
    overspent_usd: Decimal | None = None
    code: str | None = None
    error: str | None = None
    fields: Any = None


class ChargedLeaseView(msgspec.Struct, frozen=True):
    """A lease that a batch was charged to, as it is now."""

    lease_id: str
    lease_spent_usd: Decimal
    lease_remaining_usd: Decimal
    lease_status: str
    stop: bool


class BatchView(msgspec.Struct, frozen=True):
    """The fate of a batch."""

    success: bool
    results: list[ItemView]
    accepted: int
    duplicates: int
    rejected: int
    leases: list[ChargedLeaseView]
    budget_limit_usd: Decimal
    budget_spent_usd: Decimal
    budget_remaining_usd: Decimal


async def book(call: Call) -> ASGIResponse:
    """Book one report or a batch."""
    metrics = call.wiring.metrics
    if call.may_name("reports"):  # else it cannot be a batch, and most calls are not
        batch = call.read(BatchBody)
        if batch.found is not None or bytes(batch.fields.get("reports", b"null")) != b"null":
            booked = await as_agent(call, batch, partial(_book_batch, wiring=call.wiring), settles=True)
            for result in booked.results:
                metrics.count_report(result.status, result.booked.overspent if result.booked else 0)
            return answer(_batch_view(booked))
    single = call.read(ReportBody)
    named, reported = await as_agent(call, single, partial(_book_one, wiring=call.wiring), settles=True)
    if isinstance(reported, SettlementRefused):
        raise reported.refusal
    metrics.count_report("duplicate" if reported.booked.duplicate else "accepted", reported.booked.overspent)
    return answer(_view(named, reported))


def _book_one(
    uow: UnitOfWork, identity: AgentIdentity, body: ReportBody, *, wiring: Wiring
) -> tuple[str, Reported | SettlementRefused]:
    check_may_report_on(uow, identity, body.lease_id)
    policy = wiring.settings.leases
    return body.lease_id, report_or_refuse(uow, identity, _usage(body), prices=wiring.prices, policy=policy)


def _book_batch(uow: UnitOfWork, identity: AgentIdentity, body: BatchBody, *, wiring: Wiring) -> BatchReported:
    items = [_item(raw) for raw in body.reports]
    return report_batch(uow, identity, items, prices=wiring.prices, policy=wiring.settings.leases)


def _usage(body: ReportBody) -> UsageReport:
    return UsageReport(
        lease_id=body.lease_id,
        request_id=body.request_id,
        model=body.model,
        provider=body.provider,
        cost=None if body.cost_usd is None else parse_usd(body.cost_usd, field="cost_usd"),
        tokens=body.tokens,
        input_tokens=body.input_tokens,
        output_tokens=body.output_tokens,
        cached_input_tokens=body.cached_input_tokens,
        cache_write_tokens=body.cache_write_tokens,
        occurred_at=instant_of(body.timestamp, field="timestamp"),
    )


def _item(raw: msgspec.Raw) -> UsageReport | UnreadReport:
    try:
        return _usage(decoded(raw, ReportBody))
    except (msgspec.ValidationError, ValidationError):
        return _unread(raw)


def _unread(raw: msgspec.Raw) -> UnreadReport:
    """Name what is wrong with an item, and the request it was about as far as that can be told."""
    body = Read(bytes(raw), "application/json", ReportBody)
    sent = body.fields.get("request_id")
    request_id = body.found.request_id if body.found else None if sent is None else text_of(sent)
    try:
        _usage(body.value())
    except ValidationError as refusal:
        return UnreadReport(request_id if isinstance(request_id, str) else None, refusal)
    raise AssertionError("an item was refused and then read")


def _view(named: str, reported: Reported) -> ReportView:
    booked, balance = reported.booked, reported.balance
    lease = booked.current
    return ReportView(
        success=True,
        duplicate=booked.duplicate,
        request_id=booked.request_id,
        lease_id=named,
        charged_lease_id=booked.lease.id,
        cost_usd=amount(booked.cost),
        overspent_usd=amount(booked.overspent),
        budget_limit_usd=amount(balance.allocated),
        budget_spent_usd=amount(balance.spent),
        budget_remaining_usd=amount(balance.remaining),
        lease_spent_usd=amount(lease.total_spent),
        lease_remaining_usd=amount(lease.held),
        lease_status=lease.status,
        expires_at=moment(lease.expires_at),
        refresh_recommended=reported.refresh_recommended,
        stop=reported.stop,
    )


def _batch_view(batch: BatchReported) -> BatchView:
    statuses = [result.status for result in batch.results]
    balance = batch.balance
    return BatchView(
        success=batch.rejected == 0,
        results=[_item_view(result) for result in batch.results],
        accepted=statuses.count("accepted"),
        duplicates=statuses.count("duplicate"),
        rejected=batch.rejected,
        leases=[
            ChargedLeaseView(
                lease_id=lease.id,
                lease_spent_usd=amount(lease.total_spent),
                lease_remaining_usd=amount(lease.held),
                lease_status=lease.status,
                stop=must_stop(lease, hindered=batch.hindered),
            )
            for lease in batch.leases
        ],
        budget_limit_usd=amount(balance.allocated),
        budget_spent_usd=amount(balance.spent),
        budget_remaining_usd=amount(balance.remaining),
    )


def _item_view(result: ItemResult) -> ItemView:
    if result.booked is not None:
        booked = result.booked
        return ItemView(
            result.position, result.request_id, result.status, amount(booked.cost), amount(booked.overspent)
        )
    refusal = result.refusal
    if refusal is None:
        return ItemView(result.position, result.request_id, result.status)
    fields = details_of(refusal).get("fields")
    return ItemView(
        result.position, result.request_id, result.status, code=refusal.code, error=refusal.message, fields=fields
    )


ROUTES: Final = (
    Route(
        "POST", "/budget/report", book, 'Book what calls have cost: one report, or {"reports": [...]} of up to 1000',
        body=ReportBody, other_body=BatchBody, answer=ReportView, other_answers=((200, BatchView),),
        action="budget.spend", limit="report",
        codes=("INSUFFICIENT_SCOPE", "LEASE_NOT_FOUND", "FORBIDDEN", "REQUEST_ID_CONFLICT"),
        example={
            "lease_id": "lease_0190f3a1c4d27b8e9a5f001122334455", "request_id": "call-1", "model": "gpt-4o",
            "provider": "openai", "input_tokens": 1000, "output_tokens": 500,
        },
    ),
)  # fmt: skip
