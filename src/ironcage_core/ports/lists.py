"""Lists: which rows, which page, and how many there are in all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.ledger import EntryKind
from ironcage_core.domain.money import Micros
from ironcage_core.errors import ValidationError

T = TypeVar("T")

MAX_PER_PAGE: Final = 10_000
"""For programs; what people may ask for over a wire is less."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list and the exact number of all matching rows."""

    rows: Sequence[T]
    total: int


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page: `page` from 1, `per_page` rows each.

    Raises:
        ValidationError: Out of range.
    """

    page: int = 1
    per_page: int = 50

    def __post_init__(self) -> None:
        for field, value, most in (("page", self.page, 10**12), ("per_page", self.per_page, MAX_PER_PAGE)):
            if type(value) is not int or not 1 <= value <= most:
                raise ValidationError({field: f"must be an integer from 1 to {most}"})

    @property
    def offset(self) -> int:
        """How many rows stand before the page."""
        return (self.page - 1) * self.per_page


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which ledger entries; None means all. `since` is inclusive, `until` exclusive."""

    agent_id: str | None = None
    owner_id: str | None = None
    lease_id: str | None = None
    kind: EntryKind | None = None
    since: Instant | None = None
    until: Instant | None = None


@dataclass(frozen=True, slots=True)
class LeaseFilter:
    """Which leases; None means all."""

    agent_id: str | None = None
    owner_id: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class BalanceFilter:
    """Which budgets of live agents; None means all. `name` is a part of the name, in whatever case."""

    owner_id: str | None = None
    status: str | None = None
    name: str | None = None
    runtime_status: str | None = None
    project_id: str | None = None
    provider_key_id: str | None = None


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which provider keys; None means all. `name` is a part of the name, in whatever case."""

    name: str | None = None
    provider: str | None = None
    is_enabled: bool | None = None


AgentOrder = Literal["name", "budget", "created_at", "updated_at"]
KeyOrder = Literal["name", "created_at", "updated_at"]


class BudgetTotals(NamedTuple):
    """Sums over a selection of budgets, in micro-USD, and how many agents they belong to."""

    allocated: Micros
    spent: Micros
    held: Micros
    agents: int


class LeaseReports(NamedTuple):
    """What the usage records say was charged to one lease."""

    lease_id: str
    cost: Micros
