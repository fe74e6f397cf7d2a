"""The history of an allocation: every change since the first one, by whom and why, and what they come to.

Source: contract budget.md 6.
"""

from dataclasses import dataclass
from decimal import Decimal

from ironcage_core.domain.access import Principal
from ironcage_core.domain.ledger import AllocationNote, Entry
from ironcage_core.domain.money import Micros
from ironcage_core.domain.ratios import percent_of
from ironcage_core.ports.lists import Page, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import own_agent
from ironcage_core.services.posting import balance_of


@dataclass(frozen=True, slots=True)
class PastChange:
    """One change of an allocation: its ledger entry, its note if it has one, and the name of the user who made it."""

    entry: Entry
    note: AllocationNote | None
    modified_by_name: str | None

    @property
    def previous(self) -> Micros:
        """What the allocation was before."""
        return self.entry.allocated_after - self.entry.amount

    @property
    def increase_percent(self) -> Decimal:
        """By how much of what it was before; negative for a decrease."""
        return percent_of(self.entry.amount, self.previous)

    @property
    def request_id(self) -> str | None:
        """The budget request that was approved, if it was one."""
        return self.entry.ref if self.entry.cause == "request" else None


@dataclass(frozen=True, slots=True)
class AllocationSummary:
    """All changes of an allocation; amounts in micro-USD, `increases` without the decreases."""

    initial: Micros
    current: Micros
    increases: Micros
    changes: int


@dataclass(frozen=True, slots=True)
class AllocationHistory:
    """One page of an allocation's changes, newest first, and the summary of all of them."""

    page: Page[PastChange]
    summary: AllocationSummary


def allocation_history(uow: UnitOfWork, agent_id: str, paging: Paging, principal: Principal) -> AllocationHistory:
    """Return one page of the changes of an agent's allocation; the initial one is only in the summary.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ForbiddenError: It is another user's.
    """
    agent = own_agent(uow, agent_id, principal)
    page = uow.ledger.adjustments(agent.id, paging)
    notes = uow.allocation_notes.of([entry.id for entry in page.rows])
    names = {user_id: _name(uow, user_id) for user_id in {entry.actor for entry in page.rows}}
    rows = [PastChange(entry, notes.get(entry.id), names[entry.actor]) for entry in page.rows]
    totals, current = uow.ledger.allocation_totals(agent.id), balance_of(uow, agent.id).allocated
    summary = AllocationSummary(totals.initial, current, totals.increases, page.total)
    return AllocationHistory(Page(rows, page.total), summary)


def _name(uow: UnitOfWork, user_id: str) -> str | None:
    user = uow.users.find(user_id)
    return None if user is None else user.shown_name
