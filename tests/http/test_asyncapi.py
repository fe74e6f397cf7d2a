"""The description of the feed: whole, true, and served."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from ironcage_http import asyncapi
from ironcage_http.feed_catalogue import EVENTS
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.web import serving
from tests.support.ws_messages import AGENT, ALERT, EVENT, published


def refs(part: object) -> list[str]:
    """Return every reference within a part of a document."""
    if isinstance(part, list):
        return [ref for each in part for ref in refs(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [ref for each in part.values() for ref in refs(each)]


def found(document: dict[str, Any], ref: str) -> object:
    """Return what a reference leads to."""
    part: Any = document
    for step in ref.removeprefix("#/").split("/"):
        part = part[step]
    return part


@pytest.mark.anyio
async def test_a_server_describes_its_feed() -> None:
    """Without a credential, as JSON, beside the description of the routes."""
    with SqliteStore(":memory:") as store:
        async with serving(store) as caller:
            answer = await caller.get("/api/asyncapi.json")

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.raw) == asyncapi.describe()
    assert answer.body["asyncapi"] == "3.0.0"


def test_every_reference_leads_somewhere() -> None:
    """Within the document."""
    document = asyncapi.describe()

    everywhere = refs(document)

    assert len(everywhere) > 100
    assert all(found(document, ref) for ref in everywhere)


def test_the_two_operations_name_every_message_once() -> None:
    """The server tells, the client asks, on one channel."""
    document = asyncapi.describe()
    told, asked = (
        [ref["$ref"].rpartition("/")[2] for ref in document["operations"][name]["messages"]] for name in ("tell", "ask")
    )

    assert told == [
        "WELCOME", "SUBSCRIBED", "PONG", "AUTH_EXPIRING", "RESYNC_REQUIRED", "ERROR", "HEARTBEAT", "STATE_UPDATE",
        "COST_ALERT", *EVENTS,
    ]  # fmt: skip
    assert asked == ["AUTH", "SUBSCRIBE", "UNSUBSCRIBE", "PING", "RESUME"]
    assert [document["operations"][name]["action"] for name in ("tell", "ask")] == ["send", "receive"]
    assert list(document["channels"]["feed"]["messages"]) == told + asked == list(document["components"]["messages"])
    assert document["channels"]["feed"]["address"] == "/ws"


def test_every_schema_is_one_and_every_message_says_what_it_means() -> None:
    """No text is empty, and no amount is described as a text."""
    document = asyncapi.describe()

    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    assert all(message["summary"] for message in document["components"]["messages"].values())
    assert "decimal" not in json.dumps(document)


def test_an_amount_is_a_number_that_may_be_bounded() -> None:
    """What is spent is never below 0, what remains may be."""
    told = asyncapi.describe()["components"]["schemas"]["AlertData"]["properties"]

    assert told["budget_spent"] == {"type": "number", "minimum": 0}
    assert told["budget_remaining"] == {"type": "number"}


@pytest.mark.parametrize(
    "request_",
    [
        {"type": "AUTH", "token": "x"},
        {"type": "AUTH", "ic_token": "x", "last_event_id": EVENT, "filters": {"types": ["STATE_UPDATE"]}},
        {"type": "SUBSCRIBE"},
        {"type": "SUBSCRIBE", "filters": {"events": ["llm_call"], "agent_ids": [AGENT], "min_severity": "info"}},
        {"type": "UNSUBSCRIBE"},
        {"type": "PING"},
        {"type": "PING", "id": "a"},
        {"type": "RESUME", "last_event_id": EVENT},
    ],
)
def test_what_a_client_may_ask_fits(request_: dict[str, Any]) -> None:
    """As the contract spells it."""
    published(str(request_["type"])).validate(request_)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SUBSCRIBE", {"type": "SUBSCRIBE", "filters": {"types": ["NEWS"]}}),
        ("SUBSCRIBE", {"type": "SUBSCRIBE", "filters": {"agent_ids": [AGENT] * 101}}),
        ("RESUME", {"type": "RESUME"}),
        ("RESUME", {"type": "RESUME", "last_event_id": "evt_1"}),
        ("PING", {"type": "PONG"}),
        (
            "COST_ALERT",
            {"type": "COST_ALERT", "timestamp": "now", "event_id": EVENT, "severity": "info", "data": ALERT},
        ),
        ("HEARTBEAT", {"type": "HEARTBEAT"}),
    ],
)
def test_what_is_something_else_does_not_fit(name: str, message: dict[str, Any]) -> None:
    """The schemas could fail."""
    with pytest.raises(ValidationError):
        published(name).validate(message)
