"""The collections of the books: balances, leases, ledger, banks.

`find_x` gives None where there is nothing.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import AllocationNote, Balance, Entry, EntryKind
from ironcage_core.domain.money import Micros
from ironcage_core.ports.lists import AgentOrder, BalanceFilter, EntryFilter, LeaseFilter, Page, Paging
from ironcage_core.ports.totals import AgentBudget, AllocationTotals, BudgetTotals


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

    def allocated(self, agent_ids: Collection[str]) -> Mapping[str, Micros]:
        """Return how much was allocated to each of these agents, deleted ones included."""
        ...

    def totals(self, which: BalanceFilter) -> BudgetTotals:
        """Return the sums over the whole selection."""
        ...

    def of_agents(
        self, agent_id: str | None = None, owner_id: str | None = None, project_id: str | None = None
    ) -> Sequence[AgentBudget]:
        """Return the budgets of live agents, in no order; None means any."""
        ...

    def counts(self) -> Mapping[tuple[str, str], tuple[object, object]]:
        """Return (maintained, counted) totals for each (owner_id, project_id); '*' is all owners; for verification."""
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

    def open_of_bank(self, user_id: str) -> Sequence[Lease]:
        """Return the active and expired leases that a user's month pays, oldest first."""
        ...

    def open_on_key(self, provider_key_id: str) -> Sequence[Lease]:
        """Return the active and expired leases on a provider key, of all agents, oldest first."""
        ...

    def page(self, which: LeaseFilter, paging: Paging) -> Page[Lease]:
        """Return leases, newest first."""
        ...

    def totals(self) -> Mapping[str, int]:
        """Return how many leases of all agents each status has, from the kept totals."""
        ...

    def of_agent(self, agent_id: str) -> Iterator[Lease]:
        """Yield every lease of the agent, by id."""
        ...

    def counts(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Return (maintained, counted) for each (agent_id, status); '*' is all agents; for verification."""
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

    def sums_of_lease(self, lease_id: str, until: Instant) -> Mapping[EntryKind, Micros]:
        """Return what the entries of a lease sum up to by kind, those of the instant `until` included."""
        ...

    def last_of(self, agent_id: str, at: Instant) -> Entry | None:
        """Return the agent's last entry up to an instant, that one included."""
        ...

    def overspent(self, agent_id: str, at: Instant) -> Micros:
        """Return what the agent had overspent up to an instant, that one included."""
        ...

    def adjustments(self, agent_id: str, paging: Paging) -> Page[Entry]:
        """Return the changes of an agent's allocation after the initial one, newest first."""
        ...

    def allocation_totals(self, agent_id: str) -> AllocationTotals:
        """Return the sums over all entries that made the agent's allocation."""
        ...

    def counts(self) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Return (maintained, counted) for each (agent_id, kind); '*' is all agents; for verification."""
        ...


class Banks(Protocol):
    """What each owner's agents spent per month and hold now; sums of the ledger."""

    def add(self, user_id: str, project_id: str, period: str, *, spent: Micros, held: Micros) -> None:
        """Move the owner's numbers, in all and in the project of the lease."""
        ...

    def spent(self, user_id: str, period: str, project_id: str | None = None) -> Micros:
        """Return what was spent in a month `YYYY-MM`, in all or in one project."""
        ...

    def held(self, user_id: str, project_id: str | None = None) -> Micros:
        """Return what is lent now, in all or in one project, whatever the month of the grant."""
        ...

    def all_spent(self) -> Mapping[tuple[str, str], Micros]:
        """Return every (user_id, period) with its spend."""
        ...

    def all_held(self) -> Mapping[str, Micros]:
        """Return every user with its hold."""
        ...

    def all_spent_in_projects(self) -> Mapping[tuple[str, str, str], Micros]:
        """Return every (user_id, project_id, period) with its spend."""
        ...

    def all_held_in_projects(self) -> Mapping[tuple[str, str], Micros]:
        """Return every (user_id, project_id) with its hold."""
        ...


class LimitWindows(Protocol):
    """What counts against users' limits, by UTC day or minute of receipt; in all, or in one project."""

    def add(self, user_id: str, project_id: str, at: Instant, *, tokens: int = 0, requests: int = 0) -> None:
        """Count tokens that were reported, and reports and grants."""
        ...

    def tokens(self, user_id: str, project_id: str | None, at: Instant) -> int:
        """Return the tokens of the day of an instant."""
        ...

    def requests(self, user_id: str, project_id: str | None, at: Instant) -> int:
        """Return the reports and grants of the minute of an instant."""
        ...

    def set_tokens(self, user_id: str, project_id: str | None, at: Instant, tokens: int) -> None:
        """Correct the tokens of the day of an instant, in all or in one project, and not both."""
        ...

    def all_tokens(self, at: Instant) -> Mapping[tuple[str, str | None], int]:
        """Return the tokens of the day of an instant by (user_id, project_id), the project None for all of them."""
        ...

    def forget(self, *, tokens_before: Instant, requests_before: Instant, limit: int) -> int:
        """Drop at most `limit` days of tokens, and as many minutes of requests, that ended before an instant.

        Returns the more that went of one kind.
        """
        ...


class AllocationNotes(Protocol):
    """Why allocations were changed; what they were changed by is in the ledger."""

    def put(self, note: AllocationNote) -> None:
        """Store the note of a ledger entry."""
        ...

    def of(self, entry_ids: Sequence[str]) -> Mapping[str, AllocationNote]:
        """Return the notes of these entries, as far as there are any."""
        ...
