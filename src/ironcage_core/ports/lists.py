"""Lists: which rows, which page, and how many there are in all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from ironcage_core.domain.api_tokens import ApiTokenStatus
from ironcage_core.domain.audit import Category, Outcome
from ironcage_core.domain.budget_requests import RequestStatus
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.ledger import EntryKind
from ironcage_core.domain.users import ShownStatus
from ironcage_core.errors.tree import ValidationError

T = TypeVar("T")

TokenKind = Literal["ic", "api"]
ProjectOrder = Literal["name", "created_at"]

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
    project_id: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseFilter:
    """Which leases; None means all."""

    agent_id: str | None = None
    owner_id: str | None = None
    status: str | None = None
    project_id: str | None = None


@dataclass(frozen=True, slots=True)
class BalanceFilter:
    """Which budgets of live agents; None means all. `name` is a part of the name, in whatever case.

    An agent has all of the `tags`, each as it is written.
    """

    owner_id: str | None = None
    status: str | None = None
    name: str | None = None
    runtime_status: str | None = None
    project_id: str | None = None
    provider_key_id: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProjectFilter:
    """Which projects; None means all. `name` is a part of the name, in whatever case.

    `visible_to` narrows to the master project and those in which this user owns a live agent or has an active token,
    as of `now`; `project_id` to the one with this id.
    """

    name: str | None = None
    visible_to: str | None = None
    now: Instant = 0
    project_id: str | None = None


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which provider keys; None means all. `name` is a part of the name, in whatever case."""

    name: str | None = None
    provider: str | None = None
    is_enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class UserFilter:
    """Which users; None means all. `search` is a part of username, email or name, in whatever case.

    Deleted users are left out unless `status` asks for them or `include_deleted` is set.
    """

    role: str | None = None
    is_active: bool | None = None
    status: ShownStatus | None = None
    search: str | None = None
    include_deleted: bool = False
    now: Instant = 0


@dataclass(frozen=True, slots=True)
class ApiTokenFilter:
    """Which API tokens; None means all. `name` is a part of the name, in whatever case.

    `now` decides which are expired.
    """

    user_id: str | None = None
    status: ApiTokenStatus | None = None
    project_id: str | None = None
    agent_id: str | None = None
    name: str | None = None
    now: Instant = 0


@dataclass(frozen=True, slots=True)
class TokenFilter:
    """Which tokens of either kind; None means all. `search` is a part of the name, in whatever case.

    `owner_id` is the user of an API token and the owner of an IC token's agent.
    """

    kind: TokenKind | None = None
    owner_id: str | None = None
    agent_id: str | None = None
    project_id: str | None = None
    status: ApiTokenStatus | None = None
    search: str | None = None
    now: Instant = 0


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which rows of the audit log; None means all. `since` is inclusive, `until` exclusive."""

    user_id: str | None = None
    operation: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    category: Category | None = None
    outcome: Outcome | None = None
    since: Instant | None = None
    until: Instant | None = None


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which usage; None means all. `since` is inclusive, `until` exclusive; both are whole UTC hours.

    `owner_id` is who owns the agent now, or owned it last; `project_id` the project at the time of the call.
    """

    agent_id: str | None = None
    owner_id: str | None = None
    project_id: str | None = None
    provider: str | None = None
    provider_id: str | None = None
    model: str | None = None
    since: Instant | None = None
    until: Instant | None = None


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Which usage records; None means all. `since` is inclusive, `until` exclusive.

    `owner_id` and `project_id` as in `UsageFilter`; `call_key` is the id that the runtime gave the call.
    """

    agent_id: str | None = None
    owner_id: str | None = None
    project_id: str | None = None
    provider: str | None = None
    provider_id: str | None = None
    model: str | None = None
    outcome: Literal["completed", "failed"] | None = None
    call_key: str | None = None
    lease_id: str | None = None
    since: Instant | None = None
    until: Instant | None = None


@dataclass(frozen=True, slots=True)
class LimitFilter:
    """Which usage limits; None means all."""

    user_id: str | None = None
    project_id: str | None = None


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which budget requests; None means all. `visible_to` narrows to those a user made or whose agent he owns."""

    status: RequestStatus | None = None
    agent_id: str | None = None
    requester_id: str | None = None
    visible_to: str | None = None
    project_id: str | None = None


RequestOrder = Literal["created_at", "requested_budget"]
UsageDimension = Literal["agent_id", "project_id", "provider", "provider_id", "model"]
UsageBucket = Literal["hour", "day"]
HorizonOf = Literal["records", "hours"]
UserOrder = Literal["created_at", "username", "email", "role", "last_login"]
ApiTokenOrder = Literal["name", "created_at", "last_used_at", "expires_at"]
AgentOrder = Literal["name", "budget", "created_at", "updated_at"]
KeyOrder = Literal["name", "created_at", "updated_at"]
