"""Budget requests: somebody asks for a larger allocation, an admin decides, once."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.domain.texts import reason_problem

RequestStatus = Literal["pending", "approved", "rejected", "cancelled"]
RequestEvent = Literal["approve", "reject", "cancel"]

TRANSITIONS: Final[Mapping[tuple[RequestStatus, RequestEvent], RequestStatus]] = MappingProxyType(
    {
        ("pending", "approve"): "approved",
        ("pending", "reject"): "rejected",
        ("pending", "cancel"): "cancelled",
    }
)
"""A pair that is missing cannot happen: what is decided stays so. Source: contract budget.md 7."""

DEFAULT_MAX_REQUEST: Final[Micros] = 10_000 * MICROS_PER_USD
SHORTEST_TEXT: Final = 20
LONGEST_TEXT: Final = 500

AGENT_DELETED: Final = "Auto-cancelled: Agent was deleted"
USER_DELETED: Final = "Auto-cancelled: user deleted"


class BudgetRequest(NamedTuple):
    """One request; a column each, in order. `current_budget` is the allocation when it was made; in micro-USD."""

    id: str
    agent_id: str
    requester_id: str
    current_budget: Micros
    requested_budget: Micros
    justification: str
    status: RequestStatus
    created_at: Instant
    updated_at: Instant
    reviewed_at: Instant | None = None
    reviewed_by: str | None = None
    review_notes: str | None = None
    approved_budget: Micros | None = None
    cancelled_at: Instant | None = None
    cancelled_by: str | None = None

    def after(self, event: RequestEvent, *, at: Instant) -> "BudgetRequest | None":
        """Return the request after an event, or None if it cannot happen to it any more."""
        status = TRANSITIONS.get((self.status, event))
        return None if status is None else self._replace(status=status, updated_at=at)


def words_problem(words: str | None) -> str | None:
    """Return what is wrong with a justification or with the notes of a rejection, or None.

    Args:
        words: Without the blanks around it, None for nothing; fine are 20 to 500 characters, in lines if they like.
    """
    if words is None or not SHORTEST_TEXT <= len(words) <= LONGEST_TEXT:
        return f"must have {SHORTEST_TEXT} to {LONGEST_TEXT} characters"
    return reason_problem(words, longest=LONGEST_TEXT)
