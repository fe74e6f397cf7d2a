"""Messages of the feed held against the contract's schema and the published description, and rows to make them from."""

import json
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator

from ironcage_core.domain.events import FeedEvent
from ironcage_http import asyncapi
from ironcage_http.feed_catalogue import EVENTS
from tests.support.world import NOON

CONTRACT = Draft202012Validator(json.loads((Path(__file__).parent / "ws_schema.json").read_text()))
AGENT, EVENT, USER = f"agent_{'a' * 32}", f"evt_{'e' * 32}", f"user_{'1' * 32}"


@lru_cache
def published(name: str) -> Validator:
    """Return what holds a message against the AsyncAPI document, by its type or the name of its event."""
    document = asyncapi.describe()
    payload = document["components"]["messages"][name]["payload"]
    return Draft202012Validator({**payload, "components": document["components"]})


def checked(raw: bytes, *, is_whole: bool = True) -> dict[str, Any]:
    """Return a message of the server as a client reads it, with exact decimals, after holding it against both schemas.

    Args:
        raw: What went over the wire.
        is_whole: Whether it must be what the description says; the rows of the past may lack fields.
    """
    message: dict[str, Any] = json.loads(raw, parse_float=Decimal)
    floats = json.loads(raw)
    if is_whole:
        CONTRACT.validate(floats)
        published(message["event"] if message["type"] == "AGENT_EVENT" else message["type"]).validate(floats)
    return message


def row(
    kind: str,
    name: str | None,
    data: dict[str, Any],
    severity: str | None = None,
    **fields: Any,  # noqa: ANN401 - columns
) -> FeedEvent:
    """Return a feed row about an agent at noon."""
    return FeedEvent(7, EVENT, NOON, kind, AGENT, name, severity, data)._replace(**fields)  # type: ignore[arg-type]  # one of the kinds


LEASE = {"lease_id": f"lease_{'2' * 32}"}
CALL = {"model": "gpt-test", "provider": "openai", "request_id": "r1", "trace_id": f"trace_{'3' * 32}"}
REQUEST = {"budget_request_id": f"breq_{'4' * 32}", "requested_budget_micros": 150_000_000}

ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llm_call": (
        {
            **CALL, "tokens": 30, "cost_micros": 12_345, "input_tokens": 10, "output_tokens": 20, "duration_ms": 0,
        },
        {**CALL, "tokens": 30, "cost_usd": Decimal("0.012345"), "input_tokens": 10, "output_tokens": 20,
         "duration_ms": 0},
    ),
    "llm_call_failed": (
        {**CALL, "error_code": "429", "error_message": "slow down", "duration_ms": 7},
        {**CALL, "error_code": "429", "error_message": "slow down", "duration_ms": 7},
    ),
    "tool_invocation": (
        {"tool": "search", "duration_ms": 12, "success": False, "error_code": "E1"},
        {"tool": "search", "duration_ms": 12, "success": False, "error_code": "E1"},
    ),
    "pii_detected": (
        {"pii_type": "email", "direction": "input", "count": 2, "action": "redacted", "location": 0},
        {"pii_type": "email", "direction": "input", "count": 2, "action": "redacted", "location": 0},
    ),
    **dict.fromkeys(
        ("lease_granted", "lease_refreshed"),
        (
            {**LEASE, "budget_granted_micros": 10_000_000, "budget_remaining_micros": -1, "expires_at": NOON + 1},
            {**LEASE, "budget_granted": 10, "budget_remaining": Decimal("-0.000001"),
             "expires_at": "2025-11-21T12:00:00.001Z"},
        ),
    ),
    **dict.fromkeys(
        ("lease_expired", "lease_closed", "lease_revoked"),
        (
            {**LEASE, "spent_micros": 1_500_000, "returned_micros": 0, "reason": "ttl"},
            {**LEASE, "spent": Decimal("1.5"), "returned": 0, "reason": "ttl"},
        ),
    ),
    "budget_status_changed": (
        {"status": "exhausted", "previous_status": "active"},
        {"status": "exhausted", "previous_status": "active"},
    ),
    "budget_changed": (
        {
            "budget_micros": 999_999_990_000, "previous_budget_micros": 10_000, "changed_by": USER,
            "budget_request_id": REQUEST["budget_request_id"],
        },
        {
            "budget": Decimal("999999.99"), "previous_budget": Decimal("0.01"), "changed_by": USER,
            "budget_request_id": REQUEST["budget_request_id"],
        },
    ),
    **dict.fromkeys(
        ("budget_request_created", "budget_request_approved", "budget_request_rejected", "budget_request_cancelled"),
        (REQUEST, {"budget_request_id": REQUEST["budget_request_id"], "requested_budget": 150}),
    ),
    "router_started": ({"port": 8080}, {"port": 8080}),
    "router_stopped": (
        {"total_requests": 3, "total_cost_micros": 1}, {"total_requests": 3, "total_cost_usd": Decimal("0.000001")},
    ),
    **dict.fromkeys(
        ("circuit_breaker_opened", "circuit_breaker_closed"),
        ({"provider": "openai", "failures": 5}, {"provider": "openai", "failures": 5}),
    ),
}  # fmt: skip
"""What a row of each event holds, and what is told of it."""

ALERT = {
    "scope": "agent", "threshold": 80, "crossed": [50, 80], "percentage": 81, "budget_spent_micros": 80_500_000,
    "budget_limit_micros": 100_000_000, "budget_remaining_micros": 19_500_000, "pending_spend_micros": 500_000,
}  # fmt: skip
TOLD_ALERT = {
    "scope": "agent", "threshold": 80, "crossed": [50, 80], "percentage": 81, "budget_spent": Decimal("80.5"),
    "budget_limit": 100, "budget_remaining": Decimal("19.5"), "pending_spend": Decimal("0.5"),
}  # fmt: skip

_MONEY = st.integers(0, 2**62)
_COUNT = st.integers(0, 2**53 - 1)
_TEXT = st.text(st.characters(codec="utf-8"), max_size=100)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "count": st.integers(1, 10**6),
    "budget_remaining_micros": st.integers(-(2**62), 2**62),
    "expires_at": st.integers(0, 10**13),
    "success": st.booleans(),
    "pii_type": st.sampled_from(["email", "phone", "ssn", "credit_card", "other"]),
    "direction": st.sampled_from(["input", "output"]),
    "action": st.sampled_from(["redacted", "blocked", "logged"]),
    "status": st.sampled_from(["active", "exhausted"]),
    "previous_status": st.sampled_from(["active", "exhausted"]),
    "scope": st.sampled_from(["agent", "user_month"]),
    "crossed": st.lists(_COUNT),
    "user_id": st.just(USER),
    "previous_state": st.none() | st.sampled_from(["idle", "running"]),
    "reason": st.text(st.characters(codec="utf-8"), max_size=500),
    "current_lead": st.integers(-(2**53), 2**53),
}
NEEDED = {
    name: {
        each.name if each.name in ROWS[name][0] else f"{each.name.removesuffix('_usd')}_micros"
        for each in msgspec.structs.fields(kind)
        if each.required
    }
    for name, kind in EVENTS.items()
}
"""The columns that a row of each event must have."""


def _content(columns: set[str], optional: set[str]) -> st.SearchStrategy[dict[str, Any]]:
    def value(name: str, sample: object) -> st.SearchStrategy[Any]:
        if name in _VALUES:
            return _VALUES[name]
        return _MONEY if name.endswith("_micros") else _COUNT if isinstance(sample, int) else _TEXT

    samples = {**{key: value for data, _ in ROWS.values() for key, value in data.items()}, **ALERT}
    return st.fixed_dictionaries(
        {name: value(name, samples.get(name)) for name in sorted(columns)},
        optional={name: value(name, samples.get(name)) for name in sorted(optional)},
    )


def random_rows() -> st.SearchStrategy[FeedEvent]:
    """Return rows of every kind as the use cases may write them."""
    kinds = [
        st.builds(row, st.just("AGENT_EVENT"), st.just(name), _content(NEEDED[name], set(data) - NEEDED[name]))
        for name, (data, _) in ROWS.items()
    ]
    states = st.builds(
        row,
        st.just("STATE_UPDATE"),
        st.sampled_from(["running", "idle", "completed", "stopped", "failed"]),
        _content({"previous_state", "budget_spent_micros"}, {"reason", "current_lead"}),
    )
    alerts = st.builds(
        row, st.just("COST_ALERT"), st.none(), _content(set(ALERT), {"user_id"}),
        st.sampled_from(["info", "warning", "critical"]),
    )  # fmt: skip
    at = st.integers(0, 10**13)
    return st.builds(lambda event, at, agent: event._replace(at=at, agent_id=f"agent_{agent:032x}"),
                     st.one_of(*kinds, states, alerts), at, st.integers(0, 2**128 - 1))  # fmt: skip
