"""Events about calls: one, or up to a thousand in one body."""

from typing import Final

import msgspec
from litestar.exceptions import HTTPException
from litestar.response.base import ASGIResponse

from ironcage_core.domain.call_events import CallEvent
from ironcage_core.errors.tree import ValidationError
from ironcage_core.services.call_records import UnreadItem
from ironcage_core.services.ingestion import ingest
from ironcage_http.calls import Call, answer
from ironcage_http.event_calls import EventBatchView, EventCall, batch_answer
from ironcage_http.event_items import EventBody, call_event
from ironcage_http.routing import Route

MAX_EVENTS: Final = 1000


class CallEventBody(EventBody, frozen=True, kw_only=True):
    """One call, for the statistics; its time is `timestamp_ms`, or `timestamp` as RFC 3339 or Unix seconds."""

    ic_token: str | None = None


class EventBatchBody(msgspec.Struct, frozen=True):
    """Many events; each is judged alone."""

    events: list[msgspec.Raw]
    ic_token: str | None = None


class TakenEventView(msgspec.Struct, frozen=True):
    """What became of an event."""

    event_id: str
    status: str


async def take(call: Call) -> ASGIResponse:
    """Take in one event or a batch."""
    events = EventCall(call, ingest, _id_of)
    if call.may_name("events"):  # else it cannot be a batch, and most calls are not
        batch = call.read(EventBatchBody)
        if batch.found is not None or bytes(batch.fields.get("events", b"null")) != b"null":
            return batch_answer(await events.run(batch, lambda: _items(batch.value())))
    if len(call.raw) > call.wiring.settings.max_body_bytes:  # only a batch may be larger
        raise HTTPException(status_code=413)
    single = call.read(CallEventBody)
    (result,) = await events.run(single, lambda: [call_event(call.raw, single.found)])
    if result.refusal is not None:
        raise result.refusal
    view = TakenEventView(str(result.event_id), result.status)
    return answer(view, status=202 if result.status == "accepted" else 200)


def _items(body: EventBatchBody) -> list[CallEvent | UnreadItem]:
    if not 1 <= len(body.events) <= MAX_EVENTS:
        raise ValidationError({"events": f"must have 1 to {MAX_EVENTS} items"})
    return [call_event(each) for each in body.events]


def _id_of(item: CallEvent | UnreadItem) -> object:
    return item.key if isinstance(item, UnreadItem) else item.event_id


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/analytics/events", take,
        'Tell of calls for the statistics: one event, or {"events": [...]} of up to 1000',
        body=CallEventBody, other_body=EventBatchBody, answer=TakenEventView, status=202,
        other_answers=((200, TakenEventView), (202, EventBatchView), (200, EventBatchView)), action="analytics.write",
        limit="analytics_events", body_factor=2, codes=("INSUFFICIENT_SCOPE", "EVENT_TOO_OLD"),
        example={
            "event_id": "evt_7d3f1c52-8a44-4b7e-9d0c-2f6b1e5a9c31", "timestamp_ms": 1763726400000,
            "event_type": "llm_request_completed", "model": "gpt-4o", "provider": "openai", "input_tokens": 1000,
            "output_tokens": 500, "cost_micros": 7500,
        },
    ),
)  # fmt: skip
