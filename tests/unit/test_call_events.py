"""Which events are sound, and by which UUID they are named."""

from dataclasses import replace

import pytest

from ironcage_core.domain.call_events import (
    EVENT_PROVIDERS,
    EVENT_TYPES,
    CallEvent,
    allowed_values,
    counted_at,
    event_problems,
    usual_name,
    uuid_in,
)
from tests.support.world import NOON

EVENT = CallEvent("evt-1", "llm_request_completed", "gpt-test", "openai", NOON, 3, 4, 5)
UUID = "0190f3a1-c4d2-4b8e-9a5f-001122334455"
DIGITS = UUID.replace("-", "")


def test_a_plain_event_is_sound() -> None:
    """So is a failed one that says nothing of cost and tokens."""
    failed = CallEvent("e", "llm_request_failed", "m", "unknown", NOON)

    assert (event_problems(EVENT), event_problems(failed)) == ({}, {})


@pytest.mark.parametrize(
    ("field", "name", "values"),
    [
        ("event_id", "event_id", ["", " ", "x" * 101, "a\nb", "a\u2028b", "\ud800", 7]),
        ("event_type", "event_type", ["", "llm_call", "LLM_REQUEST_COMPLETED"]),
        ("model", "model", ["", "x" * 201, "a\x00"]),
        ("provider", "provider", ["", "OpenAI", "other", "x" * 60]),
        ("occurred_at", "timestamp_ms", [0, -1, 946_684_799_999, 1_763_726_400, True, 1.5, None]),
        ("input_tokens", "input_tokens", [-1, 10**9 + 1, True, 1.0, None]),
        ("output_tokens", "output_tokens", [-1, 10**9 + 1, None]),
        ("cost", "cost_micros", [-1, 10**12 + 1, 0.5, None]),
        ("provider_id", "provider_id", ["", "x" * 101]),
        ("request_id", "request_id", ["", "x" * 101, "a\x7f"]),
        ("error_code", "error_code", ["x" * 101, "a\x00"]),
        ("endpoint", "endpoint", ["x" * 201]),
        ("duration_ms", "duration_ms", [-1, 86_400_001]),
        ("response_status", "response_status", [99, 600]),
    ],
)
def test_a_bad_field_is_named_alone(field: str, name: str, values: list[object]) -> None:
    """By its name on the wire, whatever is wrong with it."""
    found = [list(event_problems(replace(EVENT, **{field: value}))) for value in values]  # type: ignore[arg-type]

    assert found == [[name]] * len(values)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("event_id", ["x" * 100, f"evt_{UUID}", "ä", "a b"]),
        ("model", ["x" * 200]),
        ("provider", ["openai", "anthropic", "unknown"]),
        ("occurred_at", [946_684_800_000, NOON * 1000]),
        ("input_tokens", [0, 10**9]),
        ("cost", [0, 10**12]),
        ("error_message", ["", "x" * 10_000, "\x00", "\ud800"]),
        ("error_code", ["", "x" * 100]),
        ("lease_id", ["", "x" * 1000]),
        ("duration_ms", [0, 86_400_000]),
        ("endpoint", ["", "x" * 200]),
        ("response_status", [100, 599]),
    ],
)
def test_the_last_values_of_a_range_are_sound(field: str, values: list[object]) -> None:
    """A message of an error and a lease are never refused."""
    for value in values:
        assert event_problems(replace(EVENT, **{field: value})) == {}  # type: ignore[arg-type]


def test_seconds_are_told_from_milliseconds() -> None:
    """Whoever sends seconds learns it."""
    assert "looks like seconds" in event_problems(replace(EVENT, occurred_at=NOON // 1000))["timestamp_ms"]


def test_numbers_of_a_failed_call_are_checked_where_they_are_told() -> None:
    """They count for nothing, and may be left out, but a negative one is a fault of the writer."""
    failed = replace(EVENT, event_type="llm_request_failed", cost=-1, input_tokens=None)

    assert list(event_problems(failed)) == ["cost_micros"]


def test_what_a_closed_list_allows_is_told() -> None:
    """Of the first bad field of such a kind."""
    told = [
        allowed_values(dict.fromkeys(names, "bad")) for names in (["event_type", "provider"], ["provider"], ["model"])
    ]

    assert told == [EVENT_TYPES, EVENT_PROVIDERS, ()]
    assert {"openai", "anthropic", "unknown"} <= set(EVENT_PROVIDERS)


@pytest.mark.parametrize(("ahead", "counted"), [(0, 0), (300_000, 300_000), (300_001, 0), (-(10**9), -(10**9))])
def test_what_is_told_of_the_future_counts_when_it_is_told(ahead: int, counted: int) -> None:
    """Five minutes are the difference of two clocks."""
    assert counted_at(replace(EVENT, occurred_at=NOON + ahead), NOON) == NOON + counted


@pytest.mark.parametrize(
    "name", [UUID, DIGITS, UUID.upper(), f"evt_{UUID}", f"req_{DIGITS}", f"request_{UUID}", f"evt_{UUID.upper()}"]
)
def test_a_uuid_is_known_however_it_is_written(name: str) -> None:
    """Without a known prefix and dashes, in lower case."""
    assert uuid_in(name) == DIGITS


@pytest.mark.parametrize(
    "name", ["call-1", DIGITS[:-1], f"{DIGITS}0", f"evt_evt_{UUID}", f"run_{UUID}", f"{DIGITS[:-1]}g", f" {UUID}", ""]
)
def test_other_names_have_no_uuid(name: str) -> None:
    """Nothing is guessed."""
    assert uuid_in(name) is None


def test_a_uuid_is_usually_written_with_dashes() -> None:
    """As every library writes it."""
    assert usual_name(DIGITS) == UUID
