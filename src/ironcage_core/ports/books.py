"""The collections of the books: balances, leases, ledger, usage, banks.

`find_x` gives None where there is nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import Balance, Entry
from ironcage_core.domain.money import Micros
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import (
    AgentOrder,
    BalanceFilter,
    BudgetTotals,
    EntryFilter,
    LeaseFilter,
    LeaseReports,
    Page,
    Paging,
)


class Balances(Protocol):
    """The budget of each agent."""

    def find(self, agent_id: str) -> Balance | None:
        """Return the agent's balance."""
        ...

    def put(self, balance: Balance) -> None:
        """Store the balance, new or changed."""
        ...

    def page(
        self, which: BalanceFilter, paging: Paging, order: AgentOrder = "created_at", *, descending: bool = True
    ) -> Page[tuple[Agent, Balance]]:
        """Return budgets of live agents, newest agent first unless told otherwise; ties by id, descending."""
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

    def open_on_key(self, provider_key_id: str) -> Sequence[Lease]:
        """Return the active and expired leases on a provider key, of all agents, oldest first."""
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
