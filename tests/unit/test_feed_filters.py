"""What a subscriber is told: what he may see, narrowed to what he asks for."""

from contextlib import suppress
from itertools import product
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.access import Principal, judged
from ironcage_core.domain.alerts import Severity
from ironcage_core.domain.api_tokens import ApiToken
from ironcage_core.domain.feed_audience import Audience, Belonging, audience_of, sees
from ironcage_core.domain.feed_filters import (
    EVERYTHING,
    FEED_TYPES,
    MAX_NAMES,
    NOTHING,
    SEVERITIES,
    FeedFilter,
    as_object,
    filter_of,
    matches,
)
from ironcage_core.domain.users import Role
from ironcage_core.errors.access import InsufficientScopeError
from ironcage_core.errors.tree import ValidationError
from tests.support.rows import api_row

A, B = (f"agent_{digit * 32}" for digit in "ab")
ANN, BEA = (f"user_{digit * 32}" for digit in "12")
HERE, THERE = (f"proj_{digit * 32}" for digit in "34")


class Event(NamedTuple):
    """What filters and audiences look at."""

    type: str
    agent_id: str | None = A
    name: str | None = None
    severity: str | None = None
    user_id: str | None = None


STATE = Event("STATE_UPDATE", name="running")
CALL = Event("AGENT_EVENT", name="llm_call")
TOOL = Event("AGENT_EVENT", name="tool_invocation")
INFO, WARNING, CRITICAL = (Event("COST_ALERT", severity=severity) for severity in SEVERITIES)
OF_B = Event("AGENT_EVENT", agent_id=B, name="llm_call")
SYSTEM = Event("AGENT_EVENT", agent_id=None, name="llm_call")
EVENTS = {
    "state": STATE, "call": CALL, "tool": TOOL, "info": INFO, "warning": WARNING, "critical": CRITICAL,
    "of b": OF_B, "system": SYSTEM,
}  # fmt: skip
ALL = set(EVENTS)


# --- filters ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        (None, ALL),
        ({}, ALL),
        ({"types": ["STATE_UPDATE"]}, {"state"}),
        ({"types": ["COST_ALERT", "STATE_UPDATE"]}, {"state", "info", "warning", "critical"}),
        ({"types": ["HEARTBEAT"]}, set()),
        ({"types": []}, set()),
        ({"events": ["llm_call"]}, {"call", "of b", "system"}),
        ({"events": ["running"]}, set()),
        ({"events": ["not_yet_invented"]}, set()),
        ({"events": []}, set()),
        ({"types": ["STATE_UPDATE", "AGENT_EVENT"], "events": ["tool_invocation"]}, {"state", "tool"}),
        ({"types": ["STATE_UPDATE"], "events": ["tool_invocation"]}, {"state"}),
        ({"agent_ids": [B]}, {"of b"}),
        ({"agent_ids": [A, B]}, ALL - {"system"}),
        ({"agent_ids": []}, set()),
        ({"min_severity": "info"}, ALL),
        ({"min_severity": "warning"}, ALL - {"info"}),
        ({"min_severity": "critical"}, ALL - {"info", "warning"}),
        ({"min_severity": "critical", "types": ["COST_ALERT"], "agent_ids": [A]}, {"critical"}),
        ({"types": None, "events": None, "agent_ids": None, "min_severity": None}, ALL),
        ({"colour": "blue"}, ALL),
    ],
)
def test_a_filter_lets_through_what_it_names(filters: object, passing: set[str]) -> None:
    """Each field narrows, and what is not named narrows nothing."""
    which = filter_of(filters)

    assert {name for name, event in EVENTS.items() if matches(which, event)} == passing


def test_nothing_lets_nothing_through_and_everything_all() -> None:
    """After UNSUBSCRIBE, and without a filter."""
    assert not any(matches(NOTHING, event) for event in EVENTS.values())
    assert all(matches(EVERYTHING, event) for event in EVENTS.values())


@pytest.mark.parametrize("severity", [None, "apocalyptic"])
def test_an_alert_of_an_unknown_severity_is_not_urgent(severity: str | None) -> None:
    """It passes as long as nobody asks how urgent it is."""
    odd = Event("COST_ALERT", severity=severity)

    assert [matches(FeedFilter(min_severity=least), odd) for least in (None, "info")] == [True, False]


@pytest.mark.parametrize(
    ("filters", "fields"),
    [
        ([], {"filters": "must be an object"}),
        ("x", {"filters": "must be an object"}),
        ({"types": ["STATE_UPDATE", "NEWS"]}, {"filters.types[1]": "is not a type of message"}),
        ({"types": ["state_update"]}, {"filters.types[0]": "is not a type of message"}),
        ({"types": ["WELCOME"]}, {"filters.types[0]": "is not a type of message"}),
        ({"types": "STATE_UPDATE"}, {"filters.types": "must be a list of at most 100 names"}),
        ({"types": [["STATE_UPDATE"]]}, {"filters.types[0]": "is not a type of message"}),
        ({"events": ["llm_call", "", 7]}, dict.fromkeys(
            ("filters.events[1]", "filters.events[2]"), "is not the name of an event")),
        ({"events": ["LLM_CALL"]}, {"filters.events[0]": "is not the name of an event"}),
        ({"events": ["a" * 65]}, {"filters.events[0]": "is not the name of an event"}),
        ({"events": ["a\n"]}, {"filters.events[0]": "is not the name of an event"}),
        ({"agent_ids": ["7", A]}, {"filters.agent_ids[0]": "is not the id of an agent"}),
        ({"agent_ids": [ANN, None]}, dict.fromkeys(
            ("filters.agent_ids[0]", "filters.agent_ids[1]"), "is not the id of an agent")),
        ({"agent_ids": [A] * 101}, {"filters.agent_ids": "must be a list of at most 100 names"}),
        ({"agent_ids": {"a": 1}}, {"filters.agent_ids": "must be a list of at most 100 names"}),
        ({"min_severity": "fatal"}, {"filters.min_severity": "must be one of info, warning, critical"}),
        ({"min_severity": 1}, {"filters.min_severity": "must be one of info, warning, critical"}),
        ({"min_severity": ["info"]}, {"filters.min_severity": "must be one of info, warning, critical"}),
        (
            {"types": [1], "min_severity": "x"},
            {
                "filters.types[0]": "is not a type of message",
                "filters.min_severity": "must be one of info, warning, critical",
            },
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_filter_is_named(filters: object, fields: dict[str, str]) -> None:
    """Every bad field and every bad place, by what a client has written."""
    with pytest.raises(ValidationError) as refused:
        filter_of(filters)

    assert refused.value.fields == fields


@pytest.mark.parametrize("field", ["events", "agent_ids"])
def test_a_list_may_have_as_many_names_as_the_bound(field: str) -> None:
    """And not one more."""
    names = [f"e{n}" if field == "events" else f"agent_{n:032x}" for n in range(MAX_NAMES + 1)]

    assert len(getattr(filter_of({field: names[:-1]}), field)) == MAX_NAMES
    with pytest.raises(ValidationError):
        filter_of({field: names})


def test_a_filter_is_echoed_as_it_was_sent() -> None:
    """In its order, each name once, without what is not narrowed."""
    sent = {"types": ["STATE_UPDATE", "COST_ALERT", "STATE_UPDATE"], "agent_ids": [B, A], "min_severity": "warning"}

    assert as_object(filter_of(sent)) == {
        "types": ["STATE_UPDATE", "COST_ALERT"], "agent_ids": [B, A], "min_severity": "warning",
    }  # fmt: skip
    assert as_object(filter_of({"events": ["b", "a"]})) == {"events": ["b", "a"]}
    assert as_object(EVERYTHING) == {}
    assert as_object(NOTHING) == {"types": []}


_FILTERS = st.builds(
    FeedFilter,
    types=st.none() | st.sets(st.sampled_from(FEED_TYPES)),
    events=st.none() | st.sets(st.sampled_from(["llm_call", "running", "x"])),
    agent_ids=st.none() | st.sets(st.sampled_from([A, B])),
    min_severity=st.none() | st.sampled_from(SEVERITIES),
)


@given(_FILTERS)
def test_an_echo_reads_as_the_filter_it_echoes(which: FeedFilter) -> None:
    """A client can send back what it was told."""
    again = filter_of(as_object(which))

    assert [matches(again, event) for event in EVENTS.values()] == [matches(which, event) for event in EVENTS.values()]


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda one: st.lists(one) | st.dictionaries(
    st.sampled_from(["types", "events", "agent_ids", "min_severity", "x"]), one)))  # fmt: skip
def test_whatever_a_client_sends_is_a_filter_or_refused(sent: object) -> None:
    """And nothing else happens."""
    with suppress(ValidationError):
        which = filter_of(sent)

        assert matches(which, CALL) in {True, False}


# --- audience ---------------------------------------------------------------

OF_ANN, OF_ANN_THERE, OF_BEA = Belonging(ANN, HERE), Belonging(ANN, THERE), Belonging(BEA, HERE)
ADMIN = Audience("all", owner_id=BEA)
USER = Audience("owner", owner_id=ANN)
MONTH = Event("COST_ALERT", severity="info", user_id=ANN)
NOBODYS_MONTH = MONTH._replace(user_id="")


@pytest.mark.parametrize(
    ("audience", "event", "belonging", "is_told"),
    [
        (ADMIN, CALL, OF_ANN, True),
        (ADMIN, CALL, None, True),
        (ADMIN, SYSTEM, None, True),
        (ADMIN, MONTH, OF_ANN, True),
        (ADMIN, NOBODYS_MONTH, OF_ANN, True),
        (USER, CALL, OF_ANN, True),
        (USER, CALL, OF_BEA, False),
        (USER, CALL, None, False),
        (USER, SYSTEM, None, False),
        (USER, SYSTEM, OF_ANN, False),
        (USER, MONTH, OF_ANN, True),
        (USER, MONTH._replace(user_id=BEA), OF_ANN, False),
        (USER, MONTH, OF_BEA, False),
        (USER, NOBODYS_MONTH, OF_ANN, False),
        (USER._replace(agent_id=A), CALL, OF_ANN, True),
        (USER._replace(agent_id=B), CALL, OF_ANN, False),
        (USER._replace(agent_id=A), CALL, OF_BEA, False),
        (USER._replace(agent_id=A), MONTH, OF_ANN, True),
        (ADMIN._replace(agent_id=A), CALL, OF_ANN, True),
        (ADMIN._replace(agent_id=A), OF_B, OF_ANN, False),
        (ADMIN._replace(agent_id=A), SYSTEM, None, False),
        (USER._replace(project_id=HERE), CALL, OF_ANN, True),
        (USER._replace(project_id=HERE), CALL, OF_ANN_THERE, False),
        (USER._replace(project_id=HERE), CALL, OF_BEA, False),
        (ADMIN._replace(project_id=HERE), CALL, OF_BEA, True),
        (ADMIN._replace(project_id=HERE), CALL, OF_ANN_THERE, False),
        (ADMIN._replace(project_id=HERE), SYSTEM, None, False),
        (Audience("agent", agent_id=A), CALL, OF_ANN, True),
        (Audience("agent", agent_id=A), CALL, None, True),
        (Audience("agent", agent_id=A), OF_B, OF_ANN, False),
        (Audience("agent", agent_id=A), SYSTEM, None, False),
        (Audience("agent", agent_id=A), MONTH, OF_ANN, False),
        (Audience("agent"), SYSTEM, None, False),
        (Audience("agent"), CALL, OF_ANN, False),
        (Audience("owner"), CALL, OF_ANN, False),
    ],
)
def test_who_is_told_of_what(audience: Audience, event: Event, belonging: Belonging | None, is_told: bool) -> None:
    """By whose the agent is now, the bindings of the credential, and whose month it is."""
    assert sees(audience, event, belonging) is is_told


@pytest.mark.parametrize(("role", "kind"), [("admin", "all"), ("user", "owner"), ("viewer", "owner")])
def test_a_session_listens_as_its_role(role: Role, kind: str) -> None:
    """To everything, or to what its user owns."""
    audience = audience_of(judged(_principal(role), "feed.subscribe"))

    assert audience == Audience(kind, is_viewer=role == "viewer", owner_id=ANN)  # type: ignore[arg-type]  # one of them


@pytest.mark.parametrize(("role", "bound"), [*product(("admin", "user"), ({"agent_id": A}, {"project_id": HERE}, {}))])
def test_a_token_listens_as_its_user_within_its_bindings(role: Role, bound: dict[str, str]) -> None:
    """An admin's token as an admin, but of its agent or project alone."""
    audience = audience_of(judged(_principal(role, api_row(ANN, **bound)), "feed.subscribe"))

    assert audience == Audience("all" if role == "admin" else "owner", owner_id=ANN, **bound)  # type: ignore[arg-type]  # ids


def test_a_token_needs_the_scope() -> None:
    """To listen is an action like others."""
    with pytest.raises(InsufficientScopeError):
        judged(_principal("user", api_row(ANN, scopes="agents:read")), "feed.subscribe")


def _principal(role: Role, token: ApiToken | None = None) -> Principal:
    session = "sess" if token is None else None
    return Principal(ANN, "ann", "ann@test", "ann", role, session, must_change_password=False, reach="own", token=token)


def test_severities_rise() -> None:
    """The order that `min_severity` means."""
    rising: tuple[Severity, ...] = ("info", "warning", "critical")

    assert rising == SEVERITIES
