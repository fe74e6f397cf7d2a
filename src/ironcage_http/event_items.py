"""Events as they come in: one decode reads a sound one; what is wrong with any other is told field by field."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from ironcage_core.domain.call_events import CallEvent, allowed_values, event_problems, time_problem
from ironcage_core.domain.instants import MS_PER_S, Instant, parse_instant
from ironcage_core.errors.tree import RefusalError, ValidationError
from ironcage_core.services.call_records import UnreadItem
from ironcage_http.wire import Read, decoded, text_of

_FACTS: Final = (
    "model", "provider", "input_tokens", "output_tokens", "provider_id", "error_code", "request_id", "duration_ms",
    "endpoint", "response_status",
)  # fmt: skip


class CallFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an event says of a call; `error_message` and `lease_id` are never refused, whatever they are."""

    model: str
    provider: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_micros: int | None = None
    provider_id: str | None = None
    error_code: str | None = None
    error_message: Any = None
    request_id: str | None = None
    lease_id: Any = None
    duration_ms: int | None = None
    endpoint: str | None = None
    response_status: int | None = None


class EventBody(CallFacts, frozen=True, kw_only=True):
    """One call, for the statistics; its time is `timestamp_ms`, or `timestamp` as RFC 3339 or Unix seconds."""

    event_id: str
    event_type: str
    timestamp_ms: int | None = None
    timestamp: int | str | None = None


def call_event(raw: bytes | msgspec.Raw, found: EventBody | None = None) -> CallEvent | UnreadItem:
    """Read one event about a call.

    Args:
        raw: The JSON.
        found: What it says, if somebody has read it.
    """
    try:
        body = found or decoded(raw, EventBody)
        return event_of(body, body.event_id, body.event_type, event_time(body.timestamp_ms, body.timestamp))
    except (msgspec.MsgspecError, RecursionError, ValidationError):
        return unread_item(raw, EventBody, _problems_beside, allowed_values)


def event_of(facts: CallFacts, event_id: str, event_type: str, at: Instant) -> CallEvent:
    """Return an event of the facts that it tells."""
    return CallEvent(
        event_id=event_id,
        event_type=event_type,
        model=facts.model,
        provider=facts.provider,
        occurred_at=at,
        input_tokens=facts.input_tokens,
        output_tokens=facts.output_tokens,
        cost=facts.cost_micros,
        provider_id=facts.provider_id,
        error_code=facts.error_code,
        error_message=_text(facts.error_message),
        request_id=facts.request_id,
        lease_id=_text(facts.lease_id),
        duration_ms=facts.duration_ms,
        endpoint=facts.endpoint,
        response_status=facts.response_status,
    )


def event_time(timestamp_ms: int | None, timestamp: int | str | None) -> Instant:
    """Return when an event was.

    Raises:
        ValidationError: No time, or one that cannot be read; what is plausible of `timestamp_ms` is not judged here.
    """
    if timestamp_ms is not None:
        return timestamp_ms
    if timestamp is None:
        raise ValidationError({"timestamp_ms": "is required"})
    at = parse_instant(timestamp, field="timestamp") if isinstance(timestamp, str) else timestamp * MS_PER_S
    if time_problem(at):
        raise ValidationError({"timestamp": "must be a time from the year 2000 on, in RFC 3339 or Unix seconds"})
    return at


def bad_event(problems: Mapping[str, str], allowed: Collection[str]) -> ValidationError:
    """Return the refusal of an event with bad fields; `allowed` is what the first one of a closed list may be."""
    return ValidationError(problems, allowed=list(allowed)) if allowed else ValidationError(problems)


def check_object(body: Read[Any]) -> None:
    """Refuse what is no JSON object, before anything in it is looked at.

    Raises:
        UnsupportedMediaTypeError, MalformedJsonError: It is no JSON.
        ValidationError: It is something else.
    """
    body.check_syntax()
    if "body" in body.problems and not body.fields:
        raise ValidationError(body.problems)


def id_told(body: Read[Any]) -> str | None:
    """Return the id of an event that could not be read, if it is a text."""
    told = text_of(body.fields["event_id"]) if "event_id" in body.fields else None
    return told if isinstance(told, str) else None


def unread_item(
    raw: bytes | msgspec.Raw,
    kind: type[msgspec.Struct],
    beside: Callable[[Mapping[str, Any], Mapping[str, str]], Mapping[str, str]],
    allowed: Callable[[Mapping[str, str]], Collection[str]],
) -> UnreadItem:
    """Name what is wrong with an item that could not be read.

    Args:
        raw: The item.
        kind: What it should be.
        beside: Returns what is wrong with the fields that could be read, of these and of what is wrong with the others.
        allowed: Returns what one of the bad fields may be, as far as that is a list.
    """
    body: Read[Any] = Read(bytes(raw), "application/json", kind)
    if body.found is not None:
        body.fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    try:
        check_object(body)
    except RefusalError as refusal:
        return UnreadItem(None, refusal)
    fine, problems = body.parts() if body.fields else ({}, body.problems)
    problems = {**beside(fine, problems), **problems}
    return UnreadItem(id_told(body), bad_event(problems, allowed(problems)))


def _problems_beside(fine: Mapping[str, Any], bad: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong with the fields that could be read, where others could not."""
    problems: dict[str, str] = {}
    at: Any = None
    try:
        at = event_time(fine.get("timestamp_ms"), fine.get("timestamp"))
    except ValidationError as refusal:
        problems.update(refusal.fields)
    facts: dict[str, Any] = {name: fine.get(name) for name in _FACTS}
    event = CallEvent(
        event_id=fine.get("event_id", ""),
        event_type=fine.get("event_type", ""),
        occurred_at=at,
        cost=fine.get("cost_micros"),
        **facts,
    )
    found = event_problems(event)
    if "timestamp" in bad or problems:
        found.pop("timestamp_ms", None)
    if "timestamp" in bad:
        problems.pop("timestamp_ms", None)
    return {**found, **problems}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
