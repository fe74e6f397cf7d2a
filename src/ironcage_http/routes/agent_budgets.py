"""Budgets of agents, as the limits they are: shown, set by an admin, and how they came to be."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final, Literal

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.audit import Actor
from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_lists import agent_overview
from ironcage_core.services.agent_records import own_agent, status_of
from ironcage_core.services.allocation_history import (
    AllocationHistory,
    AllocationSummary,
    PastChange,
    allocation_history,
)
from ironcage_core.services.allocations import ChangedAllocation, set_allocation
from ironcage_http.calls import Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.retry_keys import REPLAYED, retry_key
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import amount, micros, moment


class AllocationBody(msgspec.Struct, frozen=True):
    """The new budget in USD, and the one that the caller believes it to be now."""

    budget: Decimal
    force: bool | None = None
    reason: str | None = None
    expected_budget: Decimal | None = None


class AgentBudgetView(msgspec.Struct, frozen=True):
    """An agent's budget and where it stands, in USD."""

    agent_id: str
    budget: Decimal
    spent: Decimal
    held: Decimal
    remaining: Decimal
    percent_used: Decimal
    status: str


class ChangedAllocationView(msgspec.Struct, frozen=True):
    """What became of a budget that was set; an increase is negative where it is a decrease."""

    agent_id: str
    previous_budget: Decimal
    new_budget: Decimal
    increase_amount: Decimal
    increase_percent: Decimal
    current_spent: Decimal
    held: Decimal
    new_remaining: Decimal
    reason: str | None
    modified_by: str
    modified_at: str | None
    history_entry_id: str


class PastChangeView(msgspec.Struct, frozen=True):
    """One change of a budget; `request_id` is the budget request that was approved, if it was one."""

    id: str
    previous_budget: Decimal
    new_budget: Decimal
    increase_amount: Decimal
    increase_percent: Decimal
    change_type: Literal["increase", "decrease"]
    reason: str | None
    modified_by: str
    modified_by_name: str | None
    modified_at: str | None
    request_id: str | None
    force_flag: bool


class SummaryView(msgspec.Struct, frozen=True):
    """All changes of a budget; `total_increases` is without the decreases."""

    initial_budget: Decimal
    current_budget: Decimal
    total_increases: Decimal
    modification_count: int


async def get(call: Call) -> ASGIResponse:
    """Show an agent's budget."""
    who = call.user()
    seen = await call.see(lambda uow: agent_overview(uow, call.path["agent_id"], who(uow)))
    agent, balance = seen.agent, seen.balance
    return answer(
        AgentBudgetView(
            agent_id=agent.id,
            budget=amount(balance.allocated),
            spent=amount(balance.spent),
            held=amount(balance.held),
            remaining=amount(balance.remaining),
            percent_used=balance.percent_used,
            status=status_of(agent, balance),
        )
    )


async def change(call: Call) -> ASGIResponse:
    """Set an agent's budget."""
    who = call.user()
    body = call.read(AllocationBody)
    levels = call.wiring.settings.leases.alert_levels

    def run(uow: UnitOfWork) -> ChangedAllocation:
        principal = who(uow)
        body.check_syntax()
        agent = own_agent(uow, call.path["agent_id"], principal)
        wish = body.value()
        return _change(uow, agent.id, wish, principal.actor, retry_key(call, principal), levels)

    changed = await call.write(run)
    return answer(_changed_view(changed), headers=REPLAYED if changed.is_replay else None)


def _change(
    uow: UnitOfWork,
    agent_id: str,
    wish: AllocationBody,
    actor: Actor,
    retry: RetryKey | None,
    levels: Sequence[int],
) -> ChangedAllocation:
    unreadable: dict[str, str] = {}
    budget, expected = micros(wish.budget, field="budget", problems=unreadable), None
    if wish.expected_budget is not None:
        expected = micros(wish.expected_budget, field="expected_budget", problems=unreadable)
    force = wish.force is True
    try:
        return set_allocation(
            uow, agent_id, budget, actor=actor, force=force, expected=expected, reason=wish.reason, retry=retry,
            levels=levels,
        )  # fmt: skip
    except ValidationError as error:
        raise ValidationError({**error.fields, **unreadable}) from None


async def history(call: Call) -> ASGIResponse:
    """List the changes of an agent's budget."""
    who = call.user()
    query = Query(call.query)
    query.choice("sort", ("-created_at",))  # the one order there is
    paging = query.paging()

    def run(uow: UnitOfWork) -> AllocationHistory:
        principal = who(uow)
        agent = own_agent(uow, call.path["agent_id"], principal)
        query.check()
        return allocation_history(uow, agent.id, paging, principal)

    found = await call.see(run)
    summary = _summary_view(found.summary)
    views = [_past_view(each) for each in found.page.rows]
    about = {"agent_id": call.path["agent_id"], "current_budget": summary.current_budget}
    return listed(found.page, paging, views, summary=summary, **about)


def _changed_view(changed: ChangedAllocation) -> ChangedAllocationView:
    balance = changed.balance
    return ChangedAllocationView(
        agent_id=balance.agent_id,
        previous_budget=amount(changed.previous),
        new_budget=amount(changed.allocated),
        increase_amount=amount(changed.increase),
        increase_percent=changed.increase_percent,
        current_spent=amount(balance.spent),
        held=amount(balance.held),
        new_remaining=amount(balance.remaining),
        reason=changed.reason,
        modified_by=changed.modified_by,
        modified_at=moment(changed.modified_at),
        history_entry_id=changed.entry_id,
    )


def _past_view(past: PastChange) -> PastChangeView:
    entry, note = past.entry, past.note
    return PastChangeView(
        id=entry.id,
        previous_budget=amount(past.previous),
        new_budget=amount(entry.allocated_after),
        increase_amount=amount(entry.amount),
        increase_percent=past.increase_percent,
        change_type="increase" if entry.amount > 0 else "decrease",
        reason=None if note is None else note.reason,
        modified_by=entry.actor,
        modified_by_name=past.modified_by_name,
        modified_at=moment(entry.posted_at),
        request_id=past.request_id,
        force_flag=note is not None and bool(note.is_forced),
    )


def _summary_view(summary: AllocationSummary) -> SummaryView:
    return SummaryView(
        initial_budget=amount(summary.initial),
        current_budget=amount(summary.current),
        total_increases=amount(summary.increases),
        modification_count=summary.changes,
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/limits/agents/{agent_id}/budget", get, "Show an agent's budget and where it stands",
        action="agent_budgets.read", limit="read", answer=AgentBudgetView, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "PUT", "/limits/agents/{agent_id}/budget", change, "Set an agent's budget; a lower one needs `force`",
        action="agent_budgets.write",
        is_retried_by_key=True, limit="update", body=AllocationBody, answer=ChangedAllocationView,
        codes=(
            "AGENT_NOT_FOUND", "FORBIDDEN", "BUDGET_CHANGED", "BUDGET_UNCHANGED", "BUDGET_BELOW_SPENT",
            "BUDGET_DECREASE_REQUIRES_CONFIRMATION", "IDEMPOTENCY_KEY_REUSED",
        ),
        example={"budget": 150, "reason": "a busy month", "expected_budget": 100},
    ),
    Route(
        "GET", "/limits/agents/{agent_id}/budget/history", history,
        "Changes of an agent's budget, newest first, and their summary", action="budget.history",
        query=PAGED, limit="read",
        answer=PastChangeView, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
)  # fmt: skip
