"""Call records: which call a writer means, and the one record that its event and its report make of it in any order.

What a report says of money, provider and model counts; an event says better how the tokens were split and what became
of the call. Source: contract analytics.md 1.
"""

from typing import NamedTuple

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.call_events import UNKNOWN_ERROR, CallEvent, counted_at, usual_name, uuid_in
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.money import Micros
from ironcage_core.domain.redaction import redacted
from ironcage_core.domain.usage import KeptCall, PricedReport, UsageRecord
from ironcage_core.errors.tree import RefusalError
from ironcage_core.ports.storage import UnitOfWork

Call = UsageRecord | KeptCall


class UnreadItem(NamedTuple):
    """An item of a batch that could not even be read: what it is named, as far as that can be told, and why."""

    key: object
    refusal: RefusalError


def call_at(uow: UnitOfWork, agent_id: str, call_key: str) -> Call | None:
    """Return the call with this key, purged or not."""
    return uow.usage.find(agent_id, call_key) or uow.usage.find_kept(agent_id, call_key)


def requested_call(uow: UnitOfWork, agent_id: str, request_id: str, *, is_reported: bool) -> Call | None:
    """Return the call that a writer names by a request id.

    Args:
        uow: The open unit of work.
        agent_id: Whose call.
        request_id: What the provider call is named by.
        is_reported: Whether a report asks, for which a call counts as well whose event named no request but this UUID.
    """
    found = call_at(uow, agent_id, request_id)
    if found is not None:
        if found.request_id is None or found.request_id == request_id:
            return found
        key = uow.usage.find_alias(agent_id, "request", request_id)
        return None if key is None else call_at(uow, agent_id, key)
    found = _call_of_uuid(uow, agent_id, request_id)
    if found is None or found.request_id == request_id:
        return found
    return found if is_reported and found.request_id is None else None


def call_told_by(uow: UnitOfWork, agent_id: str, event_id: str) -> Call | None:
    """Return the call that the event with this id has told of."""
    return _told_by(uow, agent_id, event_id, call_at(uow, agent_id, event_id))


def _told_by(uow: UnitOfWork, agent_id: str, event_id: str, found: Call | None) -> Call | None:
    if found is not None and found.event_id == event_id:
        return found
    key = uow.usage.find_alias(agent_id, "event", event_id)
    return None if key is None else call_at(uow, agent_id, key)


def told_call(uow: UnitOfWork, agent_id: str, event: CallEvent) -> tuple[Call | None, bool]:
    """Return the call that an event tells of, if it is known, and whether this very event told of it before."""
    event_id = event.event_id
    found = call_at(uow, agent_id, event_id)
    told = _told_by(uow, agent_id, event_id, found)
    if told is not None:
        return told, True
    if event.request_id is not None:
        return requested_call(uow, agent_id, event.request_id, is_reported=False), False
    if found is None:
        found = _call_of_uuid(uow, agent_id, event_id)
        if found is not None and found.report_cost_micros is None:
            return None, False  # two events are two calls, however alike their names are
    return found, False


def _call_of_uuid(uow: UnitOfWork, agent_id: str, name: str) -> Call | None:
    uuid = uuid_in(name)
    if uuid is None:
        return None
    key = uow.usage.find_alias(agent_id, "uuid", uuid)
    if key is None:
        key = usual_name(uuid)
    return None if key == name else call_at(uow, agent_id, key)


def free_key(uow: UnitOfWork, agent_id: str, name: str, trace_id: str) -> str:
    """Return the key of a new call: its name, unless that is the key of a call with another name."""
    if call_at(uow, agent_id, name) is None:
        return name
    uow.usage.add_alias(agent_id, "request", name, trace_id)
    return trace_id


def note_event(uow: UnitOfWork, agent_id: str, call_key: str, event: CallEvent) -> None:
    """Let a call be found by its event."""
    if event.event_id != call_key:
        uow.usage.add_alias(agent_id, "event", event.event_id, call_key)
    if event.request_id is None:
        _note_uuid(uow, agent_id, event.event_id, call_key)


def note_report(uow: UnitOfWork, record: UsageRecord, request_id: str) -> None:
    """Let a call be found by events that are named by the same UUID as its report."""
    _note_uuid(uow, record.agent_id, request_id, record.call_key)


def _note_uuid(uow: UnitOfWork, agent_id: str, name: str, call_key: str) -> None:
    uuid = uuid_in(name)
    if uuid is None or call_key == usual_name(uuid):
        return
    usual = call_at(uow, agent_id, usual_name(uuid))
    if usual is None or (usual.request_id is not None and usual.report_cost_micros is None):
        uow.usage.add_alias(agent_id, "uuid", uuid, call_key)  # else the other call must stay the one that is found


def restored(uow: UnitOfWork, call: Call) -> UsageRecord:
    """Return the record of a call; one that was purged without a report is made anew, for something is still to come.

    Raises:
        ValueError: The call was purged with a report.
    """
    if isinstance(call, UsageRecord):
        return call
    if call.owner_id is None or call.project_id is None:
        raise ValueError("a call that was reported needs no record any more")
    input_tokens = call.input_tokens or 0
    record = UsageRecord(
        uow.new_id("trace"), call.agent_id, call.owner_id, call.project_id, call.call_key, call.event_id,
        call.request_id, call.lease_id, call.occurred_at, call.occurred_at, call.outcome, call.model, call.provider,
        call.provider_id, input_tokens, call.total_tokens - input_tokens, 0, call.cost_micros, "event",
        call.cost_micros if call.outcome == "completed" else None, None, None, 0, call.duration_ms, None, None,
        call.error_code, None,
    )  # fmt: skip
    uow.usage.restore(record)
    return record


def record_of_event(
    uow: UnitOfWork,
    agent: Agent,
    event: CallEvent,
    *,
    trace_id: str,
    key: str,
    lease_id: str | None,
    provider_id: str | None,
) -> UsageRecord:
    """Return the record of a call that an event tells of first; a failed one has no cost and no tokens."""
    if event.event_type == "llm_request_completed":
        input_tokens, output_tokens, cost = event.input_tokens or 0, event.output_tokens or 0, event.cost or 0
        told: Micros | None = cost
    else:
        input_tokens = output_tokens = cost = 0
        told = None
    now = uow.now
    error_code, error_message = _error_of(event)
    return UsageRecord(  # by position: naming 29 columns costs as much as the rest of the event
        trace_id, agent.id, agent.owner_id, agent.project_id, key, event.event_id, event.request_id, lease_id,
        counted_at(event, now), now, event.outcome, event.model, event.provider, provider_id,
        input_tokens, output_tokens, 0, cost, "event", told, None, None, 0,
        event.duration_ms, _endpoint_of(event), event.response_status, error_code, error_message,
    )  # fmt: skip


def with_event(
    record: UsageRecord, event: CallEvent, *, now: Instant, lease_id: str | None, provider_id: str | None
) -> UsageRecord:
    """Return a record with what an event says of its call: the first event of a report, or a completed for a failed."""
    error_code, error_message = _error_of(event)
    record = record._replace(
        event_id=event.event_id,
        request_id=record.request_id or event.request_id,
        occurred_at=min(record.occurred_at, counted_at(event, now)),
        outcome=event.outcome,
        duration_ms=event.duration_ms,
        endpoint=_endpoint_of(event),
        response_status=event.response_status,
        error_code=error_code,
        error_message=error_message,
    )
    if event.is_completed:
        record = record._replace(
            input_tokens=event.input_tokens or 0,
            output_tokens=event.output_tokens or 0,
            unsplit_tokens=0,
            event_cost_micros=event.cost,
        )
    if record.report_cost_micros is not None:
        return record
    return record._replace(
        cost_micros=event.cost or 0 if event.is_completed else 0,
        model=event.model,
        provider=event.provider,
        provider_id=provider_id or record.provider_id,
        lease_id=lease_id or record.lease_id,
    )


def record_of_report(
    uow: UnitOfWork, agent: Agent, lease: Lease, priced: PricedReport, overspent: Micros, *, trace_id: str, key: str
) -> UsageRecord:
    """Return the record of a call that a report tells of first."""
    reported = priced.report
    input_tokens, output_tokens, unsplit = _split_of(priced)
    return UsageRecord(  # by position: naming 29 columns costs as much as booking them
        trace_id, agent.id, lease.bank_user_id, agent.project_id,
        key, None, reported.request_id, lease.id,
        uow.now if reported.occurred_at is None else reported.occurred_at, uow.now,
        "completed", reported.model, reported.provider, lease.provider_key_id,
        input_tokens, output_tokens, unsplit,
        priced.cost, "report", None, priced.cost, priced.expected_cost, overspent,
        None, None, None, None, None, priced.tokens,
    )  # fmt: skip


def with_report(
    record: UsageRecord, lease: Lease, priced: PricedReport, overspent: Micros, *, now: Instant
) -> UsageRecord:
    """Return the record of an event with what a report says of its call; the report is received now."""
    reported = priced.report
    at = now if reported.occurred_at is None else reported.occurred_at
    record = record._replace(
        owner_id=lease.bank_user_id,
        request_id=reported.request_id,
        lease_id=lease.id,
        occurred_at=min(record.occurred_at, at),
        received_at=now,
        model=reported.model,
        provider=reported.provider,
        provider_id=lease.provider_key_id,
        cost_micros=priced.cost,
        cost_source="report",
        report_cost_micros=priced.cost,
        expected_cost_micros=priced.expected_cost,
        overspent_micros=overspent,
        report_tokens=priced.tokens,
    )
    if record.outcome == "completed":
        return record
    input_tokens, output_tokens, unsplit = _split_of(priced)
    return record._replace(input_tokens=input_tokens, output_tokens=output_tokens, unsplit_tokens=unsplit)


def has_cost_mismatch(event_cost: Micros | None, report_cost: Micros | None) -> bool:
    """Tell whether the event and the report of a call name another cost."""
    return event_cost is not None and report_cost is not None and event_cost != report_cost


def tell_call(uow: UnitOfWork, record: UsageRecord) -> None:
    """Publish a call, at its first sight."""
    data: dict[str, object] = {"model": record.model, "provider": record.provider}
    if record.outcome == "completed":
        data["tokens"] = record.input_tokens + record.output_tokens + record.unsplit_tokens
        data["cost_micros"] = record.cost_micros
        if not record.unsplit_tokens:
            data["input_tokens"] = record.input_tokens
            data["output_tokens"] = record.output_tokens
    else:
        data["error_code"] = record.error_code
        if record.error_message is not None:
            data["error_message"] = record.error_message
    if record.request_id is not None:
        data["request_id"] = record.request_id
    if record.duration_ms is not None:
        data["duration_ms"] = record.duration_ms
    data["trace_id"] = record.id
    name = "llm_call" if record.outcome == "completed" else "llm_call_failed"
    uow.feed.append("AGENT_EVENT", agent_id=record.agent_id, name=name, data=data)


def _split_of(priced: PricedReport) -> tuple[int, int, int]:
    """Return input, output and unsplit tokens of a report."""
    reported = priced.report
    if reported.input_tokens is None or reported.output_tokens is None:
        return 0, 0, priced.tokens
    return reported.input_tokens, reported.output_tokens, 0


def _error_of(event: CallEvent) -> tuple[str | None, str | None]:
    if event.is_completed:
        return None, None
    return event.error_code or UNKNOWN_ERROR, redacted(event.error_message)


def _endpoint_of(event: CallEvent) -> str | None:
    """Return where the call went; what follows its path may hold keys, and whom it is for stands before a host."""
    endpoint = event.endpoint
    if endpoint and ("?" in endpoint or "@" in endpoint):
        return redacted(endpoint, longest=200)
    return endpoint or None
