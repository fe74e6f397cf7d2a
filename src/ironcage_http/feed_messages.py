"""Feed messages: what goes over the socket, byte for byte, and which words of an event go to whom.

An event is encoded once for each kind of listener, however many there are; where two are told the same it is the same
bytes object. Only what the catalogue names leaves. A row that lacks a field is told as far as it goes.

Source: contract analytics.md 6 and 7.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec

from ironcage_core.domain.agents import RuntimeStatus
from ironcage_core.domain.alerts import Severity
from ironcage_core.domain.events import FeedEvent
from ironcage_core.domain.feed_audience import Audience
from ironcage_core.domain.instants import format_instant
from ironcage_http.feed_catalogue import EVENTS, NOT_FOR_VIEWERS, SECRET_FROM, AlertData, Moment, StateData, Unset
from ironcage_http.wire import amount, encode


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every message of the server carries, besides its `type`."""

    timestamp: Moment


class Who(msgspec.Struct, frozen=True):
    """Who listens; the id is that of the user, of the API token or of the agent, by kind. An agent has no role."""

    kind: Literal["user", "api_token", "agent"]
    id: str
    role: str | None = None


class Welcome(Message, frozen=True, kw_only=True, tag="WELCOME"):
    """The credential was accepted; `last_event_id` is the newest in the log, null if that is empty."""

    connection_id: str
    principal: Who
    heartbeat_interval: int
    last_event_id: str | None
    resumed: bool
    filters: dict[str, Any]


class Subscribed(Message, frozen=True, kw_only=True, tag="SUBSCRIBED"):
    """The filter that holds from now on."""

    filters: dict[str, Any]


class Pong(Message, frozen=True, kw_only=True, tag="PONG"):
    """The answer to a PING, with its id."""

    id: str | int | Unset = msgspec.UNSET


class AuthExpiring(Message, frozen=True, kw_only=True, tag="AUTH_EXPIRING"):
    """The credential ends soon, in so many seconds."""

    expires_in: int


class ResyncRequired(Message, frozen=True, kw_only=True, tag="RESYNC_REQUIRED"):
    """The event to resume after is not in the log: read the state over HTTP."""

    last_event_id: str
    reason: Literal["EVENT_ID_EXPIRED"] = "EVENT_ID_EXPIRED"


class ErrorMessage(Message, frozen=True, kw_only=True, tag="ERROR"):
    """Something is wrong with what the client sent, or with its standing."""

    error: str
    code: str


class Heartbeat(Message, frozen=True, kw_only=True, tag="HEARTBEAT"):
    """The server is there."""


class EventMessage(Message, frozen=True, kw_only=True):
    """What every event carries: its id, later ids being greater, and whom it is about."""

    event_id: Annotated[str, msgspec.Meta(pattern="^evt_[0-9a-f]{32}$")]
    agent_id: Annotated[str, msgspec.Meta(pattern="^agent_[0-9a-f]{32}$")]


class StateUpdate(EventMessage, frozen=True, kw_only=True, tag="STATE_UPDATE"):
    """The state of an agent's runtime changed."""

    state: RuntimeStatus
    data: StateData


class AgentEvent(EventMessage, frozen=True, kw_only=True, tag="AGENT_EVENT"):
    """Something happened to an agent; `data` is what the catalogue says of the event."""

    event: str
    data: msgspec.Struct


class CostAlert(EventMessage, frozen=True, kw_only=True, tag="COST_ALERT"):
    """A budget, or the owner's month, is used up to a level."""

    severity: Severity
    data: AlertData


class Told(NamedTuple):
    """An event as it is told: to admins, to the agent's owner, to a viewer who owns it, and to the agent's runtime.

    `user_id` is the one user it is for besides admins, if it is not for whoever owns the agent; "" if nobody knows.
    """

    seq: int
    event_id: str
    agent_id: str | None
    type: str
    name: str | None
    severity: str | None
    full: bytes
    plain: bytes | None
    narrow: bytes | None
    runtime: bytes | None = None
    user_id: str | None = None


def told_to(told: Told, audience: Audience) -> bytes | None:
    """Return the words of an event for somebody who sees it; None if he is not told at all."""
    if audience.kind == "all":
        return told.full
    if audience.kind == "agent":
        return told.runtime
    return told.narrow if audience.is_viewer else told.plain


class _Field(NamedTuple):
    """One field of an event's data: where it is in the row, and how its integer is written down if not as it is."""

    key: str
    name: str
    write: Callable[[Any], object] | None
    may_be_null: bool


def told(event: FeedEvent) -> Told:
    """Return an event as it is told, encoded once for each kind of listener."""
    seq, event_id, at, kind, agent_id, name, severity, row = event
    envelope: dict[str, Any] = {"type": kind, "timestamp": _written(at), "event_id": event_id}
    if agent_id is not None:
        envelope["agent_id"] = agent_id
    if kind == "AGENT_EVENT":
        envelope["event"] = name
        shape = EVENTS.get(name or "", _Unknown)
    elif kind == "STATE_UPDATE":
        envelope["state"] = name
        shape = StateData
    else:
        envelope["severity"] = severity
        shape = AlertData
    envelope["data"] = data = _data(row, shape)
    plain = encode(envelope)
    runtime = _without(SECRET_FROM["runtime"], envelope, data, plain)
    narrow = None if name == NOT_FOR_VIEWERS else _without(SECRET_FROM["viewer"], envelope, data, plain)
    return Told(
        seq or 0, event_id, agent_id, kind, name, severity, plain, plain, narrow, runtime,
        _only_for(row) if shape is AlertData else None,
    )  # fmt: skip


class _Unknown(msgspec.Struct, frozen=True):
    """An event of another version, of which nobody knows what may be told: its name goes out without its data."""


def _without(secret: str, envelope: dict[str, Any], data: dict[str, object], whole: bytes) -> bytes:
    if secret not in data:
        return whole
    return encode(envelope | {"data": {name: value for name, value in data.items() if name != secret}})


def _only_for(row: Mapping[str, object]) -> str | None:
    """Return whose month an alert is about; of an agent's budget it is nobody's."""
    return None if row.get("scope") != "user_month" else str(row.get("user_id") or "")


def _data(row: Mapping[str, Any], kind: type[msgspec.Struct]) -> dict[str, object]:
    data: dict[str, object] = {}
    for key, name, write, may_be_null in _shape(kind):
        value = row.get(key)
        if value is None:
            if may_be_null and key in row:
                data[name] = None
        elif write is None:
            data[name] = value
        elif type(value) is int:  # one bad row may not end the feed for everybody
            data[name] = write(value)
    return data


@lru_cache
def _shape(kind: type[msgspec.Struct]) -> tuple[_Field, ...]:
    return tuple(_field(each.name, each.type) for each in msgspec.structs.fields(kind))


def _field(name: str, kind: Any) -> _Field:  # noqa: ANN401 - any annotation of a struct
    parts = (kind, *get_args(kind), *(inner for outer in get_args(kind) for inner in get_args(outer)))
    if Decimal in parts:
        return _Field(f"{name.removesuffix('_usd')}_micros", name, amount, may_be_null=False)
    return _Field(name, name, _written if Moment in parts else None, may_be_null=type(None) in parts)


_written: Final = lru_cache(maxsize=8)(format_instant)  # the events of one unit of work share their instant
