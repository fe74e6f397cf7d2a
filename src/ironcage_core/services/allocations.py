"""Allocations: how much an agent may spend in its life, set by an admin, and reading where it went."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.alerts import DEFAULT_LEVELS
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.idempotency import Result, RetryKey
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import AllocationNote, Balance, Entry
from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.domain.ratios import percent_of
from ironcage_core.domain.texts import reason_problem, tidied
from ironcage_core.errors.money import (
    BudgetBelowSpentError,
    BudgetChangedError,
    BudgetDecreaseRequiresConfirmationError,
    BudgetUnchangedError,
)
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.lists import BalanceFilter, EntryFilter, Page, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import BudgetTotals
from ironcage_core.services.agent_records import live_agent
from ironcage_core.services.alerts import tell_levels
from ironcage_core.services.expiry import catch_up, catch_up_selected
from ironcage_core.services.months import Month, capped_month
from ironcage_core.services.posting import balance_of, post_adjustment
from ironcage_core.services.retries import remember, what_it_did

MIN_ALLOCATION: Micros = 10_000
MAX_ALLOCATION: Micros = 999_999_990_000
"""$0.01 to $999,999.99. Source: contract budget.md 6."""


@dataclass(frozen=True, slots=True)
class ChangedAllocation:
    """What a change has made of an allocation: from what to what, the balance since, and the ledger entry of it."""

    previous: Micros
    allocated: Micros
    balance: Balance
    entry_id: str
    reason: str | None
    modified_by: str
    modified_at: Instant
    is_replay: bool = False

    @property
    def increase(self) -> Micros:
        """By how much it grew; negative for a decrease."""
        return self.allocated - self.previous

    @property
    def increase_percent(self) -> Decimal:
        """By how much of what it was before."""
        return percent_of(self.increase, self.previous)


@dataclass(frozen=True, slots=True)
class BudgetView:
    """One agent's budget and the leases that hold its money."""

    agent: Agent
    balance: Balance
    open_leases: list[Lease]
    bank: Month | None


def check_allocation(amount: Micros, *, field: str = "budget") -> Micros:
    """Return the amount.

    Raises:
        ValidationError: Not within $0.01 and $999,999.99.
    """
    if type(amount) is not int or not MIN_ALLOCATION <= amount <= MAX_ALLOCATION:
        raise ValidationError({field: f"must be from $0.01 to ${MAX_ALLOCATION / MICROS_PER_USD:,.2f}"})
    return amount


def set_allocation(
    uow: UnitOfWork,
    agent_id: str,
    amount: Micros,
    *,
    actor: Actor,
    force: bool = False,
    expected: Micros | None = None,
    reason: str | None = None,
    retry: RetryKey | None = None,
    levels: Sequence[int] = DEFAULT_LEVELS,
) -> ChangedAllocation:
    """Set an agent's allocation; the difference to the live value is posted.

    Args:
        uow: The open unit of work.
        agent_id: Whose.
        amount: The new allocation in micro-USD.
        actor: Who sets it.
        force: Confirms a decrease.
        expected: What the caller believes the live allocation to be; None does not compare.
        reason: Why, for the history and the audit log; at most 500 characters, an empty one is none.
        retry: The key that a retry names as well.
        levels: At which shares of the allocation an alert is published, in percent, rising.

    Raises:
        AgentNotFoundError, ValidationError: As they say; every bad argument is named.
        IdempotencyKeyReusedError: The key was used for another change.
        BudgetChangedError: The live allocation is not `expected`.
        BudgetUnchangedError: It is that already.
        BudgetDecreaseRequiresConfirmationError: Lower, and not forced.
        BudgetBelowSpentError: Lower, forced, and more is spent than that.

    Source: contract budget.md 6.
    """
    agent = live_agent(uow, agent_id)
    if (done := what_it_did(uow, retry)) is not None:
        return _replayed(uow, agent_id, done, actor)
    reason = tidied(reason)
    _check_wish(amount, expected, reason)
    catch_up(uow, agent_id)
    before = balance_of(uow, agent_id)
    _check_change(before, amount, force=force, expected=expected)
    changed = move_allocation(uow, agent, amount, actor=actor, reason=reason, force=force, levels=levels)
    result = {"previous": changed.previous, "allocated": amount, "entry_id": changed.entry_id, "at": uow.now}
    remember(uow, retry, result)
    return changed


def move_allocation(
    uow: UnitOfWork,
    agent: Agent,
    amount: Micros,
    *,
    actor: Actor,
    reason: str | None,
    force: bool = False,
    request_id: str | None = None,
    levels: Sequence[int] = DEFAULT_LEVELS,
) -> ChangedAllocation:
    """Post an allocation that was judged already, with its note, its row of the audit log and its event.

    Args:
        uow: The open unit of work.
        agent: Whose.
        amount: Another than the live allocation.
        actor: Who decided it.
        reason: Why.
        force: Whether a decrease was confirmed.
        request_id: The budget request that was approved, if it was one.
        levels: As for `set_allocation`.
    """
    before = balance_of(uow, agent.id).allocated
    delta, cause = amount - before, "direct" if request_id is None else "request"
    after, entry_id = post_adjustment(
        uow, agent.id, delta, owner_id=agent.owner_id, cause=cause, actor=actor.id, ref=request_id
    )
    uow.allocation_notes.put(AllocationNote(entry_id, reason, int(force and delta < 0)))
    changed = ChangedAllocation(before, amount, after, entry_id, reason, actor.id, uow.now)
    _tell(uow, changed, actor, request_id)
    tell_levels(uow, agent.id, levels=levels)
    return changed


def _replayed(uow: UnitOfWork, agent_id: str, done: Result, actor: Actor) -> ChangedAllocation:
    catch_up(uow, agent_id)
    entry_id, balance = done["entry_id"], balance_of(uow, agent_id)
    reason = uow.allocation_notes.of([entry_id])[entry_id].reason
    return ChangedAllocation(
        done["previous"], done["allocated"], balance, entry_id, reason, actor.id, done["at"], is_replay=True
    )


def _check_wish(amount: Micros, expected: Micros | None, reason: str | None) -> None:
    problems = {}
    try:
        check_allocation(amount)
    except ValidationError as error:
        problems.update(error.fields)
    if expected is not None and expected < 0:
        problems["expected_budget"] = "may not be negative"
    if problem := reason_problem(reason):
        problems["reason"] = problem
    if problems:
        raise ValidationError(problems)


def _check_change(before: Balance, amount: Micros, *, force: bool, expected: Micros | None) -> None:
    if expected not in {None, before.allocated}:
        raise BudgetChangedError("The budget was changed meanwhile", current_budget=before.allocated)
    if amount == before.allocated:
        raise BudgetUnchangedError("The budget is that already", current_budget=before.allocated)
    numbers = {
        "current_budget": before.allocated,
        "requested_budget": amount,
        "decrease_amount": before.allocated - amount,
        "current_spent": before.spent,
        "held": before.held,
        "new_remaining_if_applied": amount - before.spent - before.held,
    }
    if amount > before.allocated:
        return
    if not force:
        raise BudgetDecreaseRequiresConfirmationError("A lower budget needs force", **numbers)
    if amount < before.spent:
        raise BudgetBelowSpentError("The agent has spent more than that", **numbers)


def _tell(uow: UnitOfWork, changed: ChangedAllocation, actor: Actor, request_id: str | None) -> None:
    agent_id, previous, now = changed.balance.agent_id, changed.previous, changed.allocated
    cause: dict[str, object] = {} if request_id is None else {"budget_request_id": request_id}
    changes = {"before": {"budget_micros": previous}, "after": {"budget_micros": now}}
    uow.audit.append(
        AuditNote(
            "BUDGET_UPDATED", "budget", "agent", agent_id, actor,
            reason=changed.reason, changes=changes, metadata=cause,
        )
    )  # fmt: skip
    data = {"budget_micros": now, "previous_budget_micros": previous, "changed_by": actor.id, **cause}
    uow.feed.append("AGENT_EVENT", agent_id=agent_id, name="budget_changed", data=data)


def budget_of(uow: UnitOfWork, agent_id: str) -> BudgetView:
    """Return an agent's budget as of this instant, with what holds its money.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
    """
    agent = live_agent(uow, agent_id)
    catch_up(uow, agent_id)
    bank = capped_month(uow, agent.owner_id)
    return BudgetView(agent, balance_of(uow, agent_id), list(uow.leases.open_of(agent_id)), bank)


def list_budgets(
    uow: UnitOfWork, which: BalanceFilter, paging: Paging
) -> tuple[Page[tuple[Agent, Balance]], BudgetTotals]:
    """Return one page of budgets as of this instant and the sums over the whole selection."""
    catch_up_selected(uow, None)
    return uow.balances.page(which, paging), uow.balances.totals(which)


def list_entries(uow: UnitOfWork, which: EntryFilter, paging: Paging) -> Page[Entry]:
    """Return ledger entries as of this instant, newest first."""
    catch_up_selected(uow, which.agent_id)
    return uow.ledger.page(which, paging)
