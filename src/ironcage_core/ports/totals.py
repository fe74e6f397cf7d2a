"""Totals: what a store counts and sums, and single rows of lists that join several kinds."""

from typing import NamedTuple

from ironcage_core.domain.api_tokens import ApiTokenStatus
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import Micros
from ironcage_core.ports.lists import TokenKind


class BudgetTotals(NamedTuple):
    """Sums over a selection of budgets, in micro-USD, and how many agents they belong to."""

    allocated: Micros
    spent: Micros
    held: Micros
    agents: int


class AgentBudget(NamedTuple):
    """The budget of a live agent, in micro-USD; `is_inactive` is 1 if an admin has switched the agent off."""

    agent_id: str
    agent_name: str
    is_inactive: int
    allocated: Micros
    spent: Micros
    held: Micros
    pending: Micros


class AllocationTotals(NamedTuple):
    """What an agent's allocation was at first, and the sum of its raises since, in micro-USD."""

    initial: Micros
    increases: Micros


class ProjectTotals(NamedTuple):
    """Counts and sums over the live agents of a project; of one owner's only, where that was asked. In micro-USD."""

    agents: int
    owners: int
    allocated: Micros
    spent: Micros


class ReceivedTokens(NamedTuple):
    """The tokens that reports of some time gave: of records that are kept, and of calls of which only that may be."""

    recorded: int
    purged: int


class NumberDifference(NamedTuple):
    """One number that is kept, and what it is when it is counted again."""

    subject: str
    number: str
    kept: int
    counted: int


class UsageCell(NamedTuple):
    """What one of the finest sums of usage is of; `start` is where its bucket starts, `provider_id` '' for no key."""

    start: Instant
    agent_id: str
    project_id: str
    provider: str
    provider_id: str
    model: str


class ErrorSums(NamedTuple):
    """How many calls failed in one way, and when the last of them was."""

    calls: int
    last_at: Instant


class LeaseReports(NamedTuple):
    """What the usage records say was charged to one lease."""

    lease_id: str
    cost: Micros


class TokenEntry(NamedTuple):
    """One token of either kind, as a list of all shows it."""

    id: str
    kind: TokenKind
    name: str
    owner_id: str
    agent_id: str | None
    project_id: str | None
    status: ApiTokenStatus
    created_at: Instant
    created_by: str
    last_used_at: Instant | None
    expires_at: Instant | None
