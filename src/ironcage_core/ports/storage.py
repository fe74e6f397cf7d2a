"""The port to storage: a unit of work and the collections it opens.

A unit of work is one atomic change, seen by itself at once and by others after the commit. Rules for every
implementation, held by one contract suite:

- what a use case reads reflects what it and all units before it wrote;
- when the use case raises, nothing of it remains; when it returns, all of it is durable before the caller hears of it;
- `now` is read once per unit of work, when its turn comes, so that times follow the order of commits;
- `find_x` gives None where there is nothing, `get_x` raises.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from ironcage_core.domain.ids import Prefix
from ironcage_core.domain.instants import Instant
from ironcage_core.ports.books import AllocationNotes, Balances, Banks, Leases, Ledger, LimitWindows
from ironcage_core.ports.control import BankAlerts, BudgetRequests, DeadTokens, RememberedAnswers, Reservations
from ironcage_core.ports.identity import ApiTokens, AuditLog, Sessions, TokenUsage, UnknownLogins, Users
from ironcage_core.ports.records import Agents, Feed, IcTokens, Limits, Projects, ProviderKeys
from ironcage_core.ports.repairs import Repairs
from ironcage_core.ports.telemetry import Telemetry
from ironcage_core.ports.usage import Usage

T = TypeVar("T")


class UnitOfWork(Protocol):
    """One atomic change; see the rules on top of this module."""

    @property
    def now(self) -> Instant:
        """The instant of this unit of work."""
        ...

    def new_id(self, prefix: Prefix) -> str:
        """Return a fresh, time-ordered id."""
        ...

    @property
    def agents(self) -> Agents:
        """All agents."""
        ...

    @property
    def balances(self) -> Balances:
        """All budgets."""
        ...

    @property
    def leases(self) -> Leases:
        """All leases."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        ...

    @property
    def usage(self) -> Usage:
        """All usage records."""
        ...

    @property
    def telemetry(self) -> Telemetry:
        """What runtimes say of themselves."""
        ...

    @property
    def banks(self) -> Banks:
        """The banks of owners."""
        ...

    @property
    def reservations(self) -> Reservations:
        """What runtimes have set aside."""
        ...

    @property
    def remembered_answers(self) -> RememberedAnswers:
        """What requests with an idempotency key have done."""
        ...

    @property
    def dead_tokens(self) -> DeadTokens:
        """When values of IC tokens died."""
        ...

    @property
    def budget_requests(self) -> BudgetRequests:
        """All requests for larger allocations."""
        ...

    @property
    def bank_alerts(self) -> BankAlerts:
        """Which levels of monthly caps were told."""
        ...

    @property
    def limit_windows(self) -> LimitWindows:
        """What counts against limits."""
        ...

    @property
    def allocation_notes(self) -> AllocationNotes:
        """Why allocations were changed."""
        ...

    @property
    def limits(self) -> Limits:
        """All usage limits."""
        ...

    @property
    def users(self) -> Users:
        """All users."""
        ...

    @property
    def sessions(self) -> Sessions:
        """All sessions of users."""
        ...

    @property
    def unknown_logins(self) -> UnknownLogins:
        """Failed logins of nobody."""
        ...

    @property
    def api_tokens(self) -> ApiTokens:
        """All API tokens."""
        ...

    @property
    def token_usage(self) -> TokenUsage:
        """What API tokens have used."""
        ...

    @property
    def projects(self) -> Projects:
        """All projects."""
        ...

    @property
    def provider_keys(self) -> ProviderKeys:
        """All provider keys."""
        ...

    @property
    def ic_tokens(self) -> IcTokens:
        """All IC token records."""
        ...

    @property
    def repairs(self) -> Repairs:
        """What makes derived numbers anew."""
        ...

    @property
    def audit(self) -> AuditLog:
        """The audit log."""
        ...

    @property
    def feed(self) -> Feed:
        """The feed."""
        ...


UseCase = Callable[[UnitOfWork], T]
"""A use case with everything but its unit of work bound."""


class Store(Protocol):
    """Where units of work come from."""

    def write(self, use_case: UseCase[T]) -> T:
        """Run a use case alone, commit, and return its answer; raise what it raises, with nothing kept."""
        ...

    async def write_async(self, use_case: UseCase[T]) -> T:
        """As `write`, for callers on an event loop."""
        ...

    @property
    def queue_depth(self) -> int:
        """How many writes wait."""
        ...

    @property
    def refused_writes(self) -> int:
        """How many writes were refused because too many waited."""
        ...

    @property
    def file_sizes(self) -> tuple[int, int]:
        """How many bytes the database has, and the log in front of it; 0 for what is in memory."""
        ...

    async def glance_async(self, use_case: UseCase[T]) -> T:
        """As `read`, but at once on the event loop: for a few point reads that take microseconds."""
        ...

    def read(self, use_case: UseCase[T], *, within_s: float | None = None) -> T:
        """Run a use case on a consistent snapshot; one that turns out to write is run as a write instead.

        Args:
            use_case: What is run.
            within_s: How long the database may take over it, where it is a file; None for as long as it needs.

        Raises:
            QueryTimeoutError: It took longer.
        """
        ...

    def on_publish(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have something called, in whatever thread, after each commit of this process that wrote events.

        It must not raise, nor wait. Returns what takes it back.
        """
        ...

    def on_batch(self, listener: Callable[[int], None]) -> None:
        """Have something called, in whatever thread, after each commit that writes shared, with how many they were.

        It must not wait.
        """
        ...
