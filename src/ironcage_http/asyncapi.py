"""The description of the feed: AsyncAPI 3.0, and a page for people, made from the same tables the encoder reads."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, Literal

import msgspec

from ironcage_http.amounts_in_schemas import amounts_as_numbers
from ironcage_http.feed_catalogue import EVENTS, NOT_FOR_VIEWERS, SECRET_FROM
from ironcage_http.feed_messages import (
    AgentEvent,
    AuthExpiring,
    CostAlert,
    ErrorMessage,
    Heartbeat,
    Pong,
    ResyncRequired,
    StateUpdate,
    Subscribed,
    Welcome,
)
from ironcage_http.feed_requests import REQUESTS

CHANNEL: Final = "feed"
_SCHEMAS: Final = "#/components/schemas/"
_ANSWERS: Final[Sequence[type[msgspec.Struct]]] = (
    Welcome, Subscribed, Pong, AuthExpiring, ResyncRequired, ErrorMessage, Heartbeat, StateUpdate, CostAlert,
)  # fmt: skip


def _event(name: str, data: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return the message that one event of the catalogue is told by."""
    title = "".join(word.title() for word in name.split("_")) + "Event"
    named = [("event", Literal[name]), ("data", data)]
    namespace = {"__doc__": data.__doc__}
    return msgspec.defstruct(
        title, named, bases=(AgentEvent,), namespace=namespace, kw_only=True, frozen=True, tag="AGENT_EVENT"
    )


TOLD: Final[Mapping[str, type[msgspec.Struct]]] = {str(kind.__struct_config__.tag): kind for kind in _ANSWERS} | {
    name: _event(name, data) for name, data in EVENTS.items()
}
"""Every message of the server: by its type, an AGENT_EVENT by the name of its event."""

ASKED: Final[Mapping[str, type[msgspec.Struct]]] = {str(kind.__struct_config__.tag): kind for kind in REQUESTS}


def describe() -> dict[str, Any]:
    """Return the AsyncAPI document of the feed."""
    messages = {**TOLD, **ASKED}
    refs, schemas = msgspec.json.schema_components(messages.values(), ref_template=_SCHEMAS + "{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "ironcage feed",
            "version": version("ironcage"),
            "description": "What happens to agents, as it happens. Amounts are USD, exact; times are RFC 3339 in UTC.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {CHANNEL: {"address": "/ws", "messages": {name: _ref("messages", name) for name in messages}}},
        "operations": {
            "tell": {**_operation("send", TOLD), "summary": "The server tells"},
            "ask": {**_operation("receive", ASKED), "summary": "The client asks"},
        },
        "components": {
            "messages": {
                name: {"name": name, "summary": _summary(messages[name]), "payload": ref}
                for name, ref in zip(messages, refs, strict=True)
            },
            "schemas": amounts_as_numbers(schemas),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiToken": {"type": "httpApiKey", "in": "header", "name": "X-API-Token"},
                "icToken": {"type": "httpApiKey", "in": "header", "name": "X-IC-Token"},
            },
        },
    }


def _operation(action: str, messages: Iterable[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{CHANNEL}"},
        "security": [_ref("securitySchemes", name) for name in ("bearer", "apiToken", "icToken")],
        "messages": [{"$ref": f"#/channels/{CHANNEL}/messages/{name}"} for name in messages],
    }


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _summary(kind: type[msgspec.Struct]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def events_reference() -> str:
    """Return the tables of what the server tells, in Markdown."""
    lines = ["| message | fields | when left out or empty |", "|---|---|---|"]
    lines += [f"| `{kind}` | {_fields(TOLD[kind])} | {_optional(TOLD[kind])} |" for kind in TOLD if kind not in EVENTS]
    lines += ["", "| `event` | `data` | optional | told | meaning |", "|---|---|---|---|---|"]
    lines += [
        f"| `{name}` | {_fields(data)} | {_optional(data)} | {_listeners(name, data)} | {_summary(data)} |"
        for name, data in EVENTS.items()
    ]
    return "\n".join(lines) + "\n"


def _fields(kind: type[msgspec.Struct]) -> str:
    return ", ".join(f"`{each.name}`" for each in msgspec.structs.fields(kind) if each.required)


def _optional(kind: type[msgspec.Struct]) -> str:
    return ", ".join(f"`{each.name}`" for each in msgspec.structs.fields(kind) if not each.required)


def _listeners(name: str, data: type[msgspec.Struct]) -> str:
    if name == NOT_FOR_VIEWERS:
        return "not to viewers"
    names = {each.name for each in msgspec.structs.fields(data)}
    who = {"viewer": "viewers", "runtime": "the agent's IC token"}
    found = [f"`{secret}` not to {who[kind]}" for kind, secret in SECRET_FROM.items() if secret in names]
    return ", ".join(found) or "all who see the agent"
