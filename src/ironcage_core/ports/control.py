"""The collections of budget control: reservations, remembered answers, dead IC token values, requests, alerts.

`find_x` gives None where there is nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from ironcage_core.domain.budget_requests import BudgetRequest
from ironcage_core.domain.idempotency import RememberedAnswer
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import Micros
from ironcage_core.domain.reservations import Reservation
from ironcage_core.domain.settlements import Settlement
from ironcage_core.ports.lists import Page, Paging, RequestFilter, RequestOrder


class Reservations(Protocol):
    """What runtimes have set aside on their leases, ended reservations included."""

    def expect(self, agent_id: str, request_ids: Sequence[str]) -> None:
        """Say that the reservations of these calls will be asked for, so that they can be fetched together."""
        ...

    def find(self, agent_id: str, request_id: str) -> Reservation | None:
        """Return the reservation of a call."""
        ...

    def put(self, reservation: Reservation) -> None:
        """Store the reservation, new or changed."""
        ...

    def open_of(self, lease_id: str, now: Instant) -> Sequence[Reservation]:
        """Return the lease's reservations that are open at this instant, oldest first; cheap when there is none."""
        ...

    def sums(self, lease_ids: Sequence[str], now: Instant) -> Mapping[str, Micros]:
        """Return what is set aside on each of these leases that has an open reservation at this instant."""
        ...

    def forget(self, before: Instant, limit: int) -> int:
        """Remove at most `limit` reservations that ended before an instant; return how many it were."""
        ...


class RememberedAnswers(Protocol):
    """What requests with an idempotency key have done."""

    def find(self, scope: str, key: str) -> RememberedAnswer | None:
        """Return what a request with this key has done."""
        ...

    def put(self, answer: RememberedAnswer) -> None:
        """Remember what a request has done."""
        ...

    def forget(self, before: Instant, limit: int) -> int:
        """Remove at most `limit` answers from before an instant; return how many it were."""
        ...


class DeadTokens(Protocol):
    """When values of IC tokens died, and what they have settled since."""

    def died_at(self, token_id: str, gen: int) -> Instant | None:
        """Return when a value died or will die; None for one that lives on."""
        ...

    def note_death(self, token_id: str, gen: int, at: Instant) -> None:
        """Remember when a value dies; one that was to die earlier does so."""
        ...

    def settlement(self, lease_id: str) -> Settlement | None:
        """Return what a dead value has settled on a lease, and may; None before the first time."""
        ...

    def put_settlement(self, settlement: Settlement) -> None:
        """Store the settlement, new or grown."""
        ...


class BudgetRequests(Protocol):
    """Requests for larger allocations."""

    def find(self, request_id: str) -> BudgetRequest | None:
        """Return the request with this id."""
        ...

    def put(self, request: BudgetRequest) -> None:
        """Store the request, new or changed."""
        ...

    def pending_of_agent(self, agent_id: str) -> Sequence[BudgetRequest]:
        """Return the agent's pending requests, oldest first."""
        ...

    def pending_by(self, requester_id: str) -> Sequence[BudgetRequest]:
        """Return the pending requests that a user made, oldest first."""
        ...

    def page(
        self, which: RequestFilter, paging: Paging, order: RequestOrder = "created_at", *, descending: bool = True
    ) -> Page[BudgetRequest]:
        """Return requests, newest first unless told otherwise; ties by id, descending."""
        ...


class BankAlerts(Protocol):
    """Which level of a user's monthly cap was told of last."""

    def level(self, user_id: str, period: str) -> int:
        """Return the level in percent; 0 for none."""
        ...

    def set_level(self, user_id: str, period: str, level: int) -> None:
        """Remember the level."""
        ...
