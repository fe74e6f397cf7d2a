"""The words of the feed: every message fits the contract's schema, and says to each listener what it may know."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from jsonschema import ValidationError

from ironcage_core.domain.events import FeedEvent
from ironcage_core.domain.feed_audience import Audience
from ironcage_core.domain.instants import format_instant
from ironcage_http.asyncapi import TOLD
from ironcage_http.feed_catalogue import EVENTS
from ironcage_http.feed_messages import (
    AuthExpiring,
    ErrorMessage,
    Heartbeat,
    Message,
    Pong,
    ResyncRequired,
    Subscribed,
    Welcome,
    Who,
    told,
    told_to,
)
from ironcage_http.wire import encode
from tests.support.world import NOON
from tests.support.ws_messages import (
    AGENT,
    ALERT,
    CONTRACT,
    EVENT,
    NEEDED,
    ROWS,
    TOLD_ALERT,
    USER,
    checked,
    random_rows,
    row,
)

TIME = "2025-11-21T12:00:00.000Z"
ADMIN, OWNER = Audience("all"), Audience("owner")
VIEWER, RUNTIME = Audience("owner", is_viewer=True), Audience("agent")
ENVELOPE = {"timestamp": TIME, "event_id": EVENT, "agent_id": AGENT}


def heard(event: FeedEvent, audience: Audience) -> dict[str, Any] | None:
    """Return what a listener reads, or None if he is told nothing."""
    words = told_to(told(event), audience)
    return None if words is None else checked(words)


def test_every_event_of_the_catalogue_has_a_row_here() -> None:
    """So that none is left out below."""
    assert set(ROWS) == set(EVENTS)


@pytest.mark.parametrize("name", ROWS)
def test_an_event_is_told_with_its_data(name: str) -> None:
    """Amounts in USD, instants as times, everything the catalogue names, in the catalogue's order."""
    content, data = ROWS[name]

    message = heard(row("AGENT_EVENT", name, content), ADMIN)

    assert message == {"type": "AGENT_EVENT", **ENVELOPE, "event": name, "data": data}
    assert list(message["data"]) == [each.name for each in msgspec.structs.fields(EVENTS[name])]


@pytest.mark.parametrize("name", ROWS)
def test_an_event_is_told_without_its_optional_data(name: str) -> None:
    """What is not known is left out, whether the row says null or nothing."""
    content, data = ROWS[name]
    needed = {each.name for each in msgspec.structs.fields(EVENTS[name]) if each.required}
    of_row = {key: value if key in NEEDED[name] else None for key, value in content.items()}

    message = heard(row("AGENT_EVENT", name, of_row), ADMIN)

    assert message == {
        "type": "AGENT_EVENT", **ENVELOPE, "event": name,
        "data": {key: value for key, value in data.items() if key in needed},
    }  # fmt: skip


@pytest.mark.parametrize("state", ["running", "idle", "completed", "stopped", "failed"])
def test_a_change_of_state_is_told(state: str) -> None:
    """With where it came from, why, and what was spent by then."""
    data = {"previous_state": "idle", "budget_spent_micros": 250_000, "reason": "why", "current_lead": 42}

    message = heard(row("STATE_UPDATE", state, data), RUNTIME)

    assert message == {
        "type": "STATE_UPDATE", **ENVELOPE, "state": state,
        "data": {"previous_state": "idle", "budget_spent": Decimal("0.25"), "reason": "why", "current_lead": 42},
    }  # fmt: skip


def test_a_new_agent_comes_from_no_state() -> None:
    """And that is said: null is a fact here."""
    message = heard(row("STATE_UPDATE", "idle", {"previous_state": None, "budget_spent_micros": 0}), OWNER)

    assert message == {
        "type": "STATE_UPDATE", **ENVELOPE, "state": "idle", "data": {"previous_state": None, "budget_spent": 0},
    }  # fmt: skip


def test_an_alert_is_told_with_its_numbers() -> None:
    """And how urgent it is."""
    message = heard(row("COST_ALERT", None, ALERT, "warning"), VIEWER)

    assert message == {"type": "COST_ALERT", **ENVELOPE, "severity": "warning", "data": TOLD_ALERT}


# --- who is told what -------------------------------------------------------


def test_viewers_are_not_told_of_personal_data() -> None:
    """Not even that there was some; everybody else is."""
    event = row("AGENT_EVENT", "pii_detected", ROWS["pii_detected"][0])

    assert [heard(event, each) is None for each in (ADMIN, OWNER, RUNTIME, VIEWER)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("name", "secret", "unaware"),
    [("llm_call_failed", "error_message", VIEWER), ("budget_changed", "changed_by", RUNTIME)],
)
def test_one_field_is_kept_from_one_kind_of_listener(name: str, secret: str, unaware: Audience) -> None:
    """Everything else is told to them as well."""
    content, data = ROWS[name]
    event = row("AGENT_EVENT", name, content)
    rest = {key: value for key, value in data.items() if key != secret}

    for audience in (ADMIN, OWNER, VIEWER, RUNTIME):
        message = heard(event, audience)

        assert message is not None
        assert message["data"] == (rest if audience == unaware else data)


def test_a_secret_s_value_is_nowhere_in_the_message() -> None:
    """Neither under another name."""
    words = told(row("AGENT_EVENT", "llm_call_failed", ROWS["llm_call_failed"][0])).narrow

    assert words is not None
    assert b"slow down" not in words


@pytest.mark.parametrize("name", ROWS)
def test_the_same_words_are_the_same_bytes(name: str) -> None:
    """A thousand listeners share one message."""
    words = told(row("AGENT_EVENT", name, ROWS[name][0]))

    assert words.plain is words.full
    for others in (words.narrow, words.runtime):
        assert others is words.full or others != words.full


@pytest.mark.parametrize(
    ("data", "user_id"),
    [
        ({}, None),
        ({"scope": "user_month", "user_id": USER}, USER),
        ({"scope": "user_month"}, ""),
        ({"scope": "agent", "user_id": USER}, None),
    ],
)
def test_an_alert_of_a_month_is_for_one_user_who_is_not_named(data: dict[str, str], user_id: str | None) -> None:
    """An older row does not say for whom: then it is for nobody but admins."""
    words = told(row("COST_ALERT", None, {**ALERT, **data}, "info"))

    assert words.user_id == user_id
    assert USER.encode() not in words.full
    assert "user_id" not in checked(words.full)["data"]


def test_what_filters_look_at_stands_beside_the_words() -> None:
    """So that nobody reads the JSON for it."""
    words = told(row("COST_ALERT", None, ALERT, "warning"))

    assert words[:6] == (7, EVENT, AGENT, "COST_ALERT", None, "warning")
    assert told(row("STATE_UPDATE", "idle", {}))[3:6] == ("STATE_UPDATE", "idle", None)


# --- odd rows ---------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("keeps", [0, 1])
def test_a_row_that_lacks_fields_is_told_as_far_as_it_goes(name: str, keeps: int) -> None:
    """Rows of another version break nothing."""
    content = dict(list(ROWS[name][0].items())[:keeps])

    message = checked(told(row("AGENT_EVENT", name, content)).full, is_whole=False)

    assert (message["event"], len(message["data"])) == (name, keeps)


@pytest.mark.parametrize("odd", ["1", 1.5, True, [], {}, None])
def test_what_is_no_amount_and_no_time_is_left_out(odd: object) -> None:
    """One bad row does not end the feed for everybody."""
    event = row("AGENT_EVENT", "lease_granted", {"lease_id": "x", "budget_granted_micros": odd, "expires_at": odd})

    assert checked(told(event).full, is_whole=False)["data"] == {"lease_id": "x"}


def test_an_event_that_nobody_knows_is_told_by_name_alone() -> None:
    """What its row holds may be a secret."""
    message = json.loads(told(row("AGENT_EVENT", "news", {"token": "at_secret", "amount_micros": 1})).full)

    CONTRACT.validate(message)
    assert (message["event"], message["data"]) == ("news", {})


def test_what_the_catalogue_does_not_name_stays_inside() -> None:
    """Whatever a row holds."""
    message = heard(row("AGENT_EVENT", "router_started", {"port": 1, "ic_token": "x", "port_micros": 2}), ADMIN)

    assert message is not None
    assert message["data"] == {"port": 1}


def test_an_event_of_the_system_names_no_agent() -> None:
    """The field is left out."""
    words = told(row("AGENT_EVENT", "router_started", {"port": 1}, agent_id=None))

    assert words.agent_id is None
    assert "agent_id" not in checked(words.full, is_whole=False)


@given(random_rows())
def test_whatever_a_row_says_the_message_fits_both_schemas(event: FeedEvent) -> None:
    """To every listener, with amounts exact to six decimals."""
    for audience in (ADMIN, OWNER, VIEWER, RUNTIME):
        message = heard(event, audience)

        if message is None:
            assert (event.name, audience) == ("pii_detected", VIEWER)
            continue
        assert message["timestamp"] == format_instant(event.at)
        for key, value in event.data.items():
            if key.endswith("_micros"):
                name = key.removesuffix("_micros")
                amount = message["data"].get(name, message["data"].get(f"{name}_usd"))
                assert Decimal(amount) * 10**6 == value


# --- answers ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        (
            Welcome(
                timestamp=TIME, connection_id="c1", principal=Who("agent", AGENT), heartbeat_interval=30,
                last_event_id=None, resumed=False, filters={},
            ),
            {
                "type": "WELCOME", "connection_id": "c1", "principal": {"kind": "agent", "id": AGENT, "role": None},
                "heartbeat_interval": 30, "last_event_id": None, "resumed": False, "filters": {},
            },
        ),
        (
            Subscribed(timestamp=TIME, filters={"types": ["STATE_UPDATE"]}),
            {"type": "SUBSCRIBED", "filters": {"types": ["STATE_UPDATE"]}},
        ),
        (Pong(timestamp=TIME), {"type": "PONG"}),
        (Pong(timestamp=TIME, id=7), {"type": "PONG", "id": 7}),
        (AuthExpiring(timestamp=TIME, expires_in=60), {"type": "AUTH_EXPIRING", "expires_in": 60}),
        (
            ResyncRequired(timestamp=TIME, last_event_id=EVENT),
            {"type": "RESYNC_REQUIRED", "reason": "EVENT_ID_EXPIRED", "last_event_id": EVENT},
        ),
        (
            ErrorMessage(timestamp=TIME, error="No such type", code="INVALID_MESSAGE"),
            {"type": "ERROR", "error": "No such type", "code": "INVALID_MESSAGE"},
        ),
        (Heartbeat(timestamp=format_instant(NOON)), {"type": "HEARTBEAT"}),
    ],
)  # fmt: skip
def test_an_answer_says_what_the_contract_says(answer: Message, fields: dict[str, object]) -> None:
    """Its type, its time, its fields and nothing else: a heartbeat has no event id."""
    assert checked(encode(answer)) == {"timestamp": TIME, **fields}


def test_every_kind_of_message_is_written_down_here() -> None:
    """The contract's list of types is the one of the description."""
    types = CONTRACT.schema["properties"]["type"]["enum"]  # type: ignore[index]  # an object

    assert {name for name in TOLD if name not in EVENTS} | {"AGENT_EVENT"} == set(types)


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "NEWS", "timestamp": TIME},
        {"type": "HEARTBEAT"},
        {"type": "HEARTBEAT", "timestamp": "2025-11-21T12:00:00Z"},
        {"type": "STATE_UPDATE", **ENVELOPE, "state": "asleep", "data": {"budget_spent": 0}},
        {"type": "AGENT_EVENT", **ENVELOPE, "event": "llm_call", "data": {"model": "m", "provider": "p", "tokens": 1}},
        {"type": "COST_ALERT", **ENVELOPE, "severity": "info", "data": {"budget_spent": -1}},
    ],
)
def test_the_contract_s_schema_can_refuse(broken: dict[str, object]) -> None:
    """What is held against it could fail."""
    with pytest.raises(ValidationError):
        CONTRACT.validate(broken)
