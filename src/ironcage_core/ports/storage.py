"""The port to storage: a unit of work and the collections it opens.

A unit of work is one atomic change, seen by itself at once and by others after the commit. Rules for every
implementation, held by one contract suite:

- what a use case reads reflects what it and all units before it wrote;
- when the use case raises, nothing of it remains; when it returns, all of it is durable before the caller hears of it;
- `now` is read once per unit of work, when its turn comes, so that times follow the order of commits;
- `find_x` gives None where there is nothing, `get_x` raises.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.audit import AuditNote, AuditRow
from ironcage_core.domain.events import FeedEvent, FeedType
from ironcage_core.domain.ic_tokens import IcTokenRecord
from ironcage_core.domain.ids import Prefix
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import Balance, Entry, EntryKind
from ironcage_core.domain.money import Micros
from ironcage_core.domain.providers import ProviderKey
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.domain.users import UsageLimit, User

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list and the exact number of all matching rows."""

    rows: Sequence[T]
    total: int


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page: `page` from 1, `per_page` rows each."""

    page: int = 1
    per_page: int = 50

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
    """Which budgets of live agents; None means all."""

    owner_id: str | None = None
    status: str | None = None


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


class Agents(Protocol):
    """All agents, deleted ones included."""

    def find(self, agent_id: str) -> Agent | None:
        """Return the agent with this id."""
        ...

    def put(self, agent: Agent) -> None:
        """Store the agent, new or changed."""
        ...


class Balances(Protocol):
    """The budget of each agent."""

    def find(self, agent_id: str) -> Balance | None:
        """Return the agent's balance."""
        ...

    def put(self, balance: Balance) -> None:
        """Store the balance, new or changed."""
        ...

    def page(self, which: BalanceFilter, paging: Paging) -> Page[tuple[Agent, Balance]]:
        """Return budgets of live agents, newest agent first."""
        ...

    def totals(self, which: BalanceFilter) -> BudgetTotals:
        """Return the sums over the whole selection."""
        ...

    def all(self) -> Iterator[Balance]:
        """Yield every balance, by agent id."""
        ...


class Leases(Protocol):
    """All leases, terminal ones included."""

    def find(self, lease_id: str) -> Lease | None:
        """Return the lease with this id."""
        ...

    def put(self, lease: Lease) -> None:
        """Store the lease, new or changed."""
        ...

    def due_of(self, agent_id: str, now: Instant) -> Sequence[Lease]:
        """Return the agent's leases that time has changed by `now`, earliest first; cheap when there is none."""
        ...

    def due(self, now: Instant, limit: int) -> Sequence[Lease]:
        """Return at most `limit` leases of all agents that time has changed by `now`, earliest first."""
        ...

    def open_of(self, agent_id: str) -> Sequence[Lease]:
        """Return the agent's active and expired leases, oldest first."""
        ...

    def page(self, which: LeaseFilter, paging: Paging) -> Page[Lease]:
        """Return leases, newest first."""
        ...

    def of_agent(self, agent_id: str) -> Iterator[Lease]:
        """Yield every lease of the agent, by id."""
        ...

    def counts(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Return (maintained, counted) for each (agent_id, status); for verification."""
        ...


class Ledger(Protocol):
    """The append-only ledger."""

    def append(self, entry: Entry) -> None:
        """Post an entry; the store gives its `seq`."""
        ...

    def page(self, which: EntryFilter, paging: Paging) -> Page[Entry]:
        """Return entries, newest first."""
        ...

    def by_agent(self, agent_id: str | None = None) -> Iterator[Entry]:
        """Yield entries by agent, then in the order of posting."""
        ...

    def counts(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Return (maintained, counted) for each (agent_id, kind); for verification."""
        ...


class Usage(Protocol):
    """One record per call."""

    def expect(self, agent_id: str, call_keys: Sequence[str]) -> None:
        """Be told that these calls will be looked for, so that they can be fetched together."""
        ...

    def find(self, agent_id: str, call_key: str) -> UsageRecord | None:
        """Return the record of a call."""
        ...

    def put(self, record: UsageRecord) -> None:
        """Store the record, new or changed."""
        ...

    def reported_by_lease(self, agent_id: str) -> Sequence[LeaseReports]:
        """Return the sum of reported cost per lease; for verification."""
        ...


class Banks(Protocol):
    """What each owner's agents spent per month and hold now; sums of the ledger."""

    def add(self, user_id: str, period: str, *, spent: Micros, held: Micros) -> None:
        """Move the owner's numbers."""
        ...

    def spent(self, user_id: str, period: str) -> Micros:
        """Return what was spent in a month `YYYY-MM`."""
        ...

    def held(self, user_id: str) -> Micros:
        """Return what is lent now, whatever the month of the grant."""
        ...

    def all_spent(self) -> Mapping[tuple[str, str], Micros]:
        """Return every (user_id, period) with its spend."""
        ...

    def all_held(self) -> Mapping[str, Micros]:
        """Return every user with its hold."""
        ...


class Limits(Protocol):
    """Usage limits of users."""

    def find_of_user(self, user_id: str) -> UsageLimit | None:
        """Return the user-level limit."""
        ...

    def put(self, limit: UsageLimit) -> None:
        """Store the limit, new or changed."""
        ...


class Users(Protocol):
    """All users, deleted ones included."""

    def find(self, user_id: str) -> User | None:
        """Return the user with this id."""
        ...

    def find_by_username(self, username: str) -> User | None:
        """Return the living user with this username, in whatever case."""
        ...

    def find_by_email(self, email: str) -> User | None:
        """Return the living user with this email, in whatever case."""
        ...

    def put(self, user: User) -> None:
        """Store the user, new or changed."""
        ...


class ProviderKeys(Protocol):
    """Provider keys and their assignment to agents."""

    def find(self, key_id: str) -> ProviderKey | None:
        """Return the key with this id."""
        ...

    def put(self, key: ProviderKey) -> None:
        """Store the key, new or changed."""
        ...

    def assigned_to(self, agent_id: str) -> Sequence[ProviderKey]:
        """Return the agent's keys in their order, disabled ones included."""
        ...

    def assign(self, agent_id: str, key_ids: Sequence[str]) -> None:
        """Replace the agent's ordered list of keys."""
        ...

    def all(self) -> Sequence[ProviderKey]:
        """Return every key, by id."""
        ...


class IcTokens(Protocol):
    """IC token records."""

    def find(self, token_id: str) -> IcTokenRecord | None:
        """Return the record with this id."""
        ...

    def find_active_of(self, agent_id: str) -> IcTokenRecord | None:
        """Return the agent's active record; there is at most one."""
        ...

    def put(self, record: IcTokenRecord) -> None:
        """Store the record, new or changed."""
        ...


class AuditLog(Protocol):
    """The hash-chained audit log."""

    def append(self, note: AuditNote) -> None:
        """Remember a note; the store links it into its chain."""
        ...

    def rows(self) -> Iterator[AuditRow]:
        """Yield every row in the order of writing."""
        ...


class Feed(Protocol):
    """The durable feed of events."""

    def append(
        self,
        type: FeedType,  # noqa: A002 - the event's own word
        *,
        agent_id: str | None,
        name: str | None,
        data: Mapping[str, object],
        severity: str | None = None,
    ) -> None:
        """Publish an event with the commit."""
        ...

    def after(self, seq: int, limit: int) -> Sequence[FeedEvent]:
        """Return at most `limit` events with a larger `seq`, in order."""
        ...


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
    def banks(self) -> Banks:
        """The banks of owners."""
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
    def provider_keys(self) -> ProviderKeys:
        """All provider keys."""
        ...

    @property
    def ic_tokens(self) -> IcTokens:
        """All IC token records."""
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

    def read(self, use_case: UseCase[T]) -> T:
        """Run a use case on a consistent snapshot; one that turns out to write is run as a write instead."""
        ...
