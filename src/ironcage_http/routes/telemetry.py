"""Telemetry: what runtimes tell of themselves, up to five hundred events in one body."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.call_events import EVENT_TYPES, id_problem
from ironcage_core.domain.telemetry import LONGEST_ID, MAX_DATA_BYTES, TELEMETRY_TYPES, RuntimeNote
from ironcage_core.domain.texts import text_problem
from ironcage_core.errors.tree import ValidationError
from ironcage_core.services.call_records import UnreadItem
from ironcage_core.services.telemetry import Item, take_telemetry
from ironcage_http.calls import Call
from ironcage_http.event_calls import EventBatchView, EventCall, batch_answer
from ironcage_http.event_items import CallFacts, event_of, event_time, unread_item
from ironcage_http.routing import Route
from ironcage_http.wire import Read, decoded

MAX_EVENTS: Final = 500
_NO_DATA: Final = msgspec.Raw(b"{}")
_DATA: Final = msgspec.json.Decoder(dict[str, Any])


class TelemetryBody(msgspec.Struct, frozen=True):
    """What a runtime tells; each event is judged alone."""

    events: list[msgspec.Raw]
    ic_token: str | None = None
    runtime_id: str | None = None
    runtime_version: str | None = None


class _ItemBody(msgspec.Struct, frozen=True):
    """One event; what its data must say is for its type to tell."""

    event_id: str
    type: str
    timestamp_ms: int | None = None
    timestamp: int | str | None = None
    data: msgspec.Raw = _NO_DATA


async def take(call: Call) -> ASGIResponse:
    """Take in what a runtime tells."""
    body = call.read(TelemetryBody)
    events: EventCall[Item] = EventCall(call, take_telemetry, _id_of)
    return batch_answer(await events.run(body, lambda: _items(body.value())))


def _items(body: TelemetryBody) -> list[Item]:
    problems = {}
    for name, value in (("runtime_id", body.runtime_id), ("runtime_version", body.runtime_version)):
        if value is not None and (problem := text_problem(value, longest=LONGEST_ID)):
            problems[name] = problem
    if not 1 <= len(body.events) <= MAX_EVENTS:
        problems["events"] = f"must have 1 to {MAX_EVENTS} items"
    if problems:
        raise ValidationError(problems)
    return [_item(each, body) for each in body.events]


def _item(raw: msgspec.Raw, body: TelemetryBody) -> Item:
    try:
        item = decoded(raw, _ItemBody)
        at = event_time(item.timestamp_ms, item.timestamp)
        data = _data_of(item)
        if item.type in EVENT_TYPES:
            return event_of(decoded(data, CallFacts), item.event_id, item.type, at)
        return RuntimeNote(item.event_id, item.type, at, _DATA.decode(data), body.runtime_id, body.runtime_version)
    except (msgspec.MsgspecError, RecursionError, ValidationError):
        return _unread(raw)


def _data_of(item: _ItemBody) -> bytes:
    data = bytes(item.data)
    if len(data) > MAX_DATA_BYTES:
        raise ValidationError({"data": f"may have at most {MAX_DATA_BYTES} bytes"})
    return b"{}" if data == b"null" else data


def _unread(raw: msgspec.Raw) -> UnreadItem:
    """Name what is wrong with an event that could not be read."""
    return unread_item(
        raw,
        _ItemBody,
        beside=lambda fine, _: _envelope_problems(fine),
        allowed=lambda problems: TELEMETRY_TYPES if "type" in problems else (),
    )


def _envelope_problems(fine: Mapping[str, Any]) -> dict[str, str]:
    problems = {}
    if problem := id_problem(fine.get("event_id")):
        problems["event_id"] = problem
    if fine.get("type") not in TELEMETRY_TYPES:
        problems["type"] = f"must be one of {', '.join(TELEMETRY_TYPES)}"
    try:
        event_time(fine.get("timestamp_ms"), fine.get("timestamp"))
    except ValidationError as refusal:
        problems.update(refusal.fields)
    return {**problems, **_data_problems(fine.get("type"), bytes(fine.get("data", _NO_DATA)))}


def _data_problems(kind: str | None, data: bytes) -> dict[str, str]:
    if len(data) > MAX_DATA_BYTES:
        return {"data": f"may have at most {MAX_DATA_BYTES} bytes"}
    if kind in EVENT_TYPES:
        facts = Read(data, "application/json", CallFacts)
        return {f"data.{name}": problem for name, problem in facts.problems.items()}
    try:
        _DATA.decode(b"{}" if data == b"null" else data)
    except msgspec.MsgspecError:
        return {"data": "must be a JSON object with numbers that can be read"}
    return {}


def _id_of(item: Item) -> object:
    return item.key if isinstance(item, UnreadItem) else item.event_id


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/telemetry/events", take, "Tell what a runtime and its agent do: up to 500 events",
        body=TelemetryBody, answer=EventBatchView, status=202, other_answers=((200, EventBatchView),),
        action="analytics.write", limit="analytics_events", codes=("INSUFFICIENT_SCOPE", "EVENT_TOO_OLD"),
        example={
            "runtime_id": "pod-1",
            "events": [
                {
                    "event_id": "5b0c2d9e-8f60-4a06-9f4e-0c1f1ba5d1c7", "timestamp": "2025-11-21T12:00:00Z",
                    "type": "tool_invocation", "data": {"tool": "search", "duration_ms": 120, "success": True},
                }
            ],
        },
    ),
)  # fmt: skip
