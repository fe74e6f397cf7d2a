"""The feed's catalogue: which events there are, and what each tells besides its envelope.

One table of shapes is the encoder's list of what may leave, the description of the interface and the reference page.
A feed row holds amounts in micro-USD under `<name>_micros` (`cost_usd` under `cost_micros`) and times as instants.

Source: contract analytics.md 6.4 and 7.
"""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec

from ironcage_core.domain.alerts import Scope
from ironcage_core.domain.texts import LONGEST_REASON

Count = Annotated[int, msgspec.Meta(ge=0)]
Usd = Annotated[Decimal, msgspec.Meta(extra_json_schema={"minimum": 0})]
Balance = Decimal  # may be below 0
Moment = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
_UNSET: Final = msgspec.UNSET
Unset = msgspec.UnsetType


class StateData(msgspec.Struct, frozen=True):
    """What became of an agent's runtime; `previous_state` is null for a new agent."""

    previous_state: str | None
    budget_spent: Usd
    current_lead: int | Unset = _UNSET
    reason: Annotated[str, msgspec.Meta(max_length=LONGEST_REASON)] | Unset = _UNSET


class AlertData(msgspec.Struct, frozen=True):
    """How far a budget, or the owner's month, is used up."""

    scope: Scope
    threshold: Count
    crossed: list[Count]
    percentage: Count
    budget_spent: Usd
    budget_limit: Usd
    budget_remaining: Balance
    pending_spend: Usd


class LlmCall(msgspec.Struct, frozen=True):
    """A call of a model, seen for the first time."""

    model: str
    provider: str
    tokens: Count
    cost_usd: Usd
    input_tokens: Count | Unset = _UNSET
    output_tokens: Count | Unset = _UNSET
    request_id: str | Unset = _UNSET
    duration_ms: Count | Unset = _UNSET
    trace_id: str | Unset = _UNSET


class LlmCallFailed(msgspec.Struct, frozen=True):
    """A call of a model that failed; viewers are not told the message."""

    model: str
    provider: str
    error_code: str
    error_message: str | Unset = _UNSET
    request_id: str | Unset = _UNSET
    duration_ms: Count | Unset = _UNSET
    trace_id: str | Unset = _UNSET


class ToolInvocation(msgspec.Struct, frozen=True):
    """A tool was called."""

    tool: str
    duration_ms: Count | Unset = _UNSET
    success: bool | Unset = _UNSET
    error_code: str | Unset = _UNSET


class PiiDetected(msgspec.Struct, frozen=True):
    """Personal data was found in a text; viewers are not told at all."""

    pii_type: Literal["email", "phone", "ssn", "credit_card", "other"]
    direction: Literal["input", "output"]
    count: Annotated[int, msgspec.Meta(ge=1)]
    action: Literal["redacted", "blocked", "logged"]
    location: Count | Unset = _UNSET


class LeaseGranted(msgspec.Struct, frozen=True):
    """Money was lent to a runtime, and what then remains of the agent's budget."""

    lease_id: str
    budget_granted: Usd
    budget_remaining: Balance
    expires_at: Moment | Unset = _UNSET


class LeaseEnded(msgspec.Struct, frozen=True):
    """A lease expired, closed or was revoked: what it cost, and what went back to the budget."""

    lease_id: str
    spent: Usd
    returned: Usd
    reason: str


class BudgetStatusChanged(msgspec.Struct, frozen=True):
    """A budget was used up, or is so no longer."""

    status: Literal["active", "exhausted"]
    previous_status: Literal["active", "exhausted"]


class BudgetChanged(msgspec.Struct, frozen=True):
    """An agent's budget was set; the runtime itself is not told by whom."""

    budget: Usd
    previous_budget: Usd
    budget_request_id: str | Unset = _UNSET
    changed_by: str | Unset = _UNSET


class BudgetRequested(msgspec.Struct, frozen=True):
    """Somebody asked for another budget, or that was decided."""

    budget_request_id: str
    requested_budget: Usd


class RouterStarted(msgspec.Struct, frozen=True):
    """A runtime's router listens."""

    port: Count


class RouterStopped(msgspec.Struct, frozen=True):
    """A runtime's router has ended."""

    total_requests: Count
    total_cost_usd: Usd | Unset = _UNSET


class CircuitBreaker(msgspec.Struct, frozen=True):
    """A runtime calls a provider no more, or again."""

    provider: str
    failures: Count | Unset = _UNSET


EVENTS: Final[Mapping[str, type[msgspec.Struct]]] = MappingProxyType(
    {
        "llm_call": LlmCall,
        "llm_call_failed": LlmCallFailed,
        "tool_invocation": ToolInvocation,
        "pii_detected": PiiDetected,
        "lease_granted": LeaseGranted,
        "lease_refreshed": LeaseGranted,
        "lease_expired": LeaseEnded,
        "lease_closed": LeaseEnded,
        "lease_revoked": LeaseEnded,
        "budget_status_changed": BudgetStatusChanged,
        "budget_changed": BudgetChanged,
        "budget_request_created": BudgetRequested,
        "budget_request_approved": BudgetRequested,
        "budget_request_rejected": BudgetRequested,
        "budget_request_cancelled": BudgetRequested,
        "router_started": RouterStarted,
        "router_stopped": RouterStopped,
        "circuit_breaker_opened": CircuitBreaker,
        "circuit_breaker_closed": CircuitBreaker,
    }
)
"""The data of each AGENT_EVENT, by the event's name."""

NOT_FOR_VIEWERS: Final = "pii_detected"
SECRET_FROM: Final[Mapping[str, str]] = MappingProxyType({"viewer": "error_message", "runtime": "changed_by"})
"""The one field that each of these is not told."""
