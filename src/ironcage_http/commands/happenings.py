"""What happened, in words: an event of the live feed as one line for a person."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from ironcage_http.commands.screen import money

_AMOUNTS: Final = frozenset(
    (
        "budget", "budget_granted", "budget_limit", "budget_remaining", "budget_spent", "cost_usd", "previous_budget",
        "requested_budget", "returned", "spent", "total_cost_usd",
    )
)  # fmt: skip

_WORDS: Final[Mapping[str, str]] = {
    "llm_call": "called {model} of {provider}: {tokens} tokens, {cost_usd}",
    "llm_call_failed": "a call of {model} of {provider} failed: {error_code}",
    "tool_invocation": "used the tool {tool}",
    "pii_detected": "{pii_type} found in the {direction}, {count} times: {action}",
    "lease_granted": "was lent {budget_granted}; {budget_remaining} of the budget remain ({lease_id})",
    "lease_refreshed": "was lent {budget_granted} more; {budget_remaining} of the budget remain ({lease_id})",
    "lease_expired": "a lease expired ({reason}): {spent} spent ({lease_id})",
    "lease_closed": "a lease was closed ({reason}): {spent} spent, {returned} given back ({lease_id})",
    "lease_revoked": "a lease was revoked ({reason}): {spent} spent, {returned} taken back ({lease_id})",
    "budget_status_changed": "the budget is {status}; it was {previous_status}",
    "budget_changed": "the budget was set from {previous_budget} to {budget}",
    "budget_request_created": "a budget of {requested_budget} was asked for ({budget_request_id})",
    "budget_request_approved": "the request for a budget of {requested_budget} was approved ({budget_request_id})",
    "budget_request_rejected": "the request for a budget of {requested_budget} was rejected ({budget_request_id})",
    "budget_request_cancelled": "the request for a budget of {requested_budget} was taken back ({budget_request_id})",
    "router_started": "the router listens on port {port}",
    "router_stopped": "the router has ended after {total_requests} requests",
    "circuit_breaker_opened": "{provider} is not called for now",
    "circuit_breaker_closed": "{provider} is called again",
}
_WHOSE: Final[Mapping[str, str]] = {"agent": "budget", "user_month": "owner's month"}


class _Facts(dict[str, str]):
    """The fields of an event as texts; one that is not told is a question mark."""

    def __missing__(self, _: str) -> str:
        return "?"


def in_words(event: Mapping[str, Any]) -> str:
    """Return what happened, for an event as the feed tells it."""
    data = event.get("data")
    facts = _Facts({name: _text(name, value) for name, value in data.items()} if isinstance(data, Mapping) else {})
    if event["type"] == "STATE_UPDATE":
        reason = f" ({facts['reason']})" if "reason" in facts else ""
        return f"is {event.get('state')}{reason}; {facts['budget_spent']} spent"
    if event["type"] == "COST_ALERT":
        whose = _WHOSE.get(facts["scope"], facts["scope"])
        used = f"{facts['percentage']} % of the {whose} is used up"
        return f"{event.get('severity')}: {used}: {facts['budget_spent']} of {facts['budget_limit']} spent"
    name = str(event.get("event"))
    return _WORDS[name].format_map(facts) if name in _WORDS else name.replace("_", " ")


def _text(name: str, value: object) -> str:
    if name in _AMOUNTS and isinstance(value, int | Decimal):
        return money(value)
    return f"{value:,}" if isinstance(value, int) and name != "port" else str(value)
