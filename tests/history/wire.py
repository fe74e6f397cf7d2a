"""Requests over the wire, and answers in the words of the sequential specification."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from ironcage_core.domain.money import MICROS_PER_USD
from tests.history.operations import Answer, Request, Spent
from tests.support.servers import Reply


class Sent(NamedTuple):
    """A request as it goes out; an admin's needs a session, an agent's a token."""

    method: str
    path: str
    body: Mapping[str, object] | None
    is_admins: bool = False


def sent(request: Request) -> Sent:
    """Return what a client sends."""
    money = None if request.amount is None else str(Decimal(request.amount) / MICROS_PER_USD)
    lease, asked, items = (
        {"lease_id": request.lease},
        {"requested_budget": money},
        [_item(each) for each in request.items],
    )
    every: Mapping[str, Sent] = {
        "handshake": Sent("POST", "/budget/handshake", {**asked, "runtime_id": request.runtime}),
        "refresh": Sent("POST", "/budget/refresh", {**lease, **asked}),
        "return": Sent("POST", "/budget/return", {**lease, "final_spent_usd": money}),
        "report": Sent("POST", "/budget/report", items[0] if items else None),
        "batch": Sent("POST", "/budget/report", {"reports": items}),
        "revoke": Sent("POST", f"/budget/leases/{request.lease}/revoke", {}, is_admins=True),
        "allocate": Sent(
            "PUT", f"/limits/agents/{request.agent}/budget", {"budget": money, "force": True}, is_admins=True
        ),
        "budget": Sent("GET", "/budget", None),
    }
    return every[request.kind]


def _item(item: Spent) -> dict[str, object]:
    cost = str(Decimal(item.cost) / MICROS_PER_USD)
    return {
        "lease_id": item.lease, "request_id": item.request, "cost_usd": cost, "tokens": 100, "model": "gpt-test",
        "provider": "openai",
    }  # fmt: skip


TOTALS = {"allocated": "total_allocated", "spent": "total_spent", "remaining": "budget_remaining"}
REPORTED = {"allocated": "budget_limit_usd", "spent": "budget_spent_usd", "remaining": "budget_remaining_usd"}
GRANTED = {**TOTALS, "lease": "lease_id", "granted": "budget_granted"}
FIELDS: Mapping[str, Mapping[str, str]] = {
    "handshake": GRANTED,
    "refresh": {**GRANTED, "rolled_over": "rolled_over_usd", "whole": "lease_budget_usd"},
    "report": {
        **REPORTED, "charged": "charged_lease_id", "duplicate": "duplicate", "cost": "cost_usd",
        "overspent": "overspent_usd", "stop": "stop", "lease_spent": "lease_spent_usd",
        "lease_remaining": "lease_remaining_usd", "lease_status": "lease_status",
    },
    "batch": REPORTED,
    "return": {
        "successor": "successor_lease_id", "returned": "returned_usd", "discrepancy": "discrepancy_usd",
        "already_closed": "already_closed", "lease_status": "lease_status", "remaining": "agent_budget_remaining_usd",
        "final_spent": "final_spent_usd",
    },
    "revoke": {
        "granted": "budget_granted", "spent": "budget_spent", "overspent": "overspent", "returned": "returned",
        "reclaimed": "reclaimed", "held": "held", "status": "status", "reason": "status_reason",
    },
    "allocate": {
        "previous": "previous_budget", "allocated": "new_budget", "spent": "current_spent", "held": "held",
        "remaining": "new_remaining",
    },
    "budget": {**TOTALS, "held": "budget_held", "overspent": "overspent", "open_leases": "open_leases"},
}  # fmt: skip
"""What each field of an answer is called on the wire."""

COUNTS = {"open_leases"}
SHORTAGE = ("spent", "limit", "held", "remaining")


def understood(request: Request, reply: Reply) -> Answer:
    """Return what an answer says; all others than 200 are refusals."""
    body = reply.body
    if reply.status != 200:
        return {"refused": body["code"], **_shortage(body)}
    if request.kind == "refresh" and body["status"] == "denied":
        return {"denied": body["reason"], **_read(TOTALS, body)}
    answer = _read(FIELDS[request.kind], body)
    if request.kind == "batch":
        answer["items"] = tuple(_fate(each) for each in body["results"])
    if request.kind == "budget" and "bank" in body:
        answer |= {"bank_spent": _micros(body["bank"]["spent"]), "bank_held": _micros(body["bank"]["held"])}
    if request.kind in {"handshake", "refresh", "return", "allocate"}:
        answer["replayed"] = "idempotent-replayed" in reply.headers
        if answer["replayed"]:
            answer.pop("final_spent", None)  # of the first answer's time, as nothing else in this one
    return answer


def _read(fields: Mapping[str, str], body: Mapping[str, Any]) -> dict[str, object]:
    return {name: body.get(wired) if name in COUNTS else _micros(body.get(wired)) for name, wired in fields.items()}


def _fate(item: Mapping[str, Any]) -> object:
    if "code" in item:
        return item["code"]
    return item["status"], _micros(item["cost_usd"]), _micros(item["overspent_usd"])


def _shortage(body: Mapping[str, Any]) -> dict[str, object]:
    if body["code"] != "BUDGET_EXCEEDED":
        return {}
    details = body["details"]
    return {"scope": details["scope"], **{name: _micros(details[name]) for name in SHORTAGE}}


def _micros(value: object) -> object:
    """Return an amount in micro-USD, and everything that is none as it is."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return value
    micros = value * MICROS_PER_USD
    assert micros == int(micros), value
    return int(micros)
