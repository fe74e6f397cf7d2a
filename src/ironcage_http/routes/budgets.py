"""Budgets, leases and the ledger, to look at: what an agent may still spend, and where the money went."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import Balance
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.lists import BalanceFilter, Page
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import BudgetTotals
from ironcage_core.services.agent_records import STATUSES, check_sees, live_agent, scope_of, status_of
from ironcage_core.services.allocations import BudgetView as Budget
from ironcage_core.services.allocations import budget_of, list_budgets
from ironcage_core.services.months import Month
from ironcage_core.services.past_budgets import PastBudget, budget_at
from ironcage_http.calls import Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import amount, moment

RISKS: Final = ((50, "low"), (80, "medium"), (95, "high"), (100, "critical"))
"""Below which percentage of the allocation spent a risk level ends. Source: contract budget.md 5.6."""


class BankView(msgspec.Struct, frozen=True):
    """The owner's month."""

    period: str
    cap: Decimal
    spent: Decimal
    held: Decimal
    available: Decimal
    resets_at: str | None


class HoldView(msgspec.Struct, frozen=True):
    """What a lease holds, and when it comes back by itself if its runtime is silent from now on."""

    lease_id: str
    held: Decimal
    frees_at: str | None


class PastBudgetView(msgspec.Struct, frozen=True):
    """One agent's budget as the ledger says it was at an instant."""

    budget_id: str
    agent_id: str
    at: str | None
    total_allocated: Decimal
    total_spent: Decimal
    overspent: Decimal
    budget_held: Decimal
    budget_remaining: Decimal
    percent_used: Decimal


class BudgetView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One agent's budget; `holds` is told of a single one."""

    budget_id: str
    agent_id: str
    agent_name: str
    owner_id: str
    status: str
    total_allocated: Decimal
    total_spent: Decimal
    overspent: Decimal
    budget_held: Decimal
    budget_remaining: Decimal
    percent_used: Decimal
    risk_level: str
    open_leases: int
    alert_level: int
    updated_at: str | None
    bank: BankView | None = None
    holds: list[HoldView] | None = None


async def get_budget(call: Call) -> ASGIResponse:
    """Return one agent's budget, or the list of those the caller may see."""
    who = call.caller()
    query = Query(call.query)
    agent_id = query.text("agent_id")
    status = query.choice("status", STATUSES)
    at = query.instant("at", takes_unix_s=True)
    query.choice("sort", ("-created_at",))  # the one order there is
    paging = query.paging()

    def use_case(uow: UnitOfWork) -> Budget | PastBudget | tuple[Page[Any], BudgetTotals, dict[str, int]]:
        caller = who(uow)
        query.check()
        scope = scope_of(caller)
        wanted = agent_id or scope.agent_id
        if wanted is not None:
            check_sees(live_agent(uow, wanted), caller)
            return budget_of(uow, wanted) if at is None else budget_at(uow, wanted, at)
        if at is not None:
            raise ValidationError({"at": "is for one agent: give agent_id"})
        which = BalanceFilter(owner_id=scope.owner_id, status=status, project_id=scope.project_id)
        page, totals = list_budgets(uow, which, paging)
        return page, totals, {agent.id: len(uow.leases.open_of(agent.id)) for agent, _ in page.rows}

    found = await call.see_all(who, use_case, agent_id=agent_id)
    if isinstance(found, PastBudget):
        return answer(_past_view(found))
    if isinstance(found, Budget):
        view = budget_view(found.agent, found.balance, len(found.open_leases), found.bank)
        return answer(msgspec.structs.replace(view, holds=_holds(found.open_leases)))
    page, totals, open_leases = found
    views = [budget_view(agent, balance, open_leases[agent.id], None) for agent, balance in page.rows]
    return listed(page, paging, views, summary=_summary(totals))


def budget_view(agent: Agent, balance: Balance, open_leases: int, bank: Month | None) -> BudgetView:
    """Return a budget as callers see it."""
    percent = balance.percent_used
    return BudgetView(
        budget_id=balance.budget_id,
        agent_id=agent.id,
        agent_name=agent.name,
        owner_id=agent.owner_id,
        status=status_of(agent, balance),
        total_allocated=amount(balance.allocated),
        total_spent=amount(balance.spent),
        overspent=amount(balance.overspent),
        budget_held=amount(balance.held),
        budget_remaining=amount(balance.remaining),
        percent_used=percent,
        risk_level=next((name for below, name in RISKS if percent < below), "exhausted"),
        open_leases=open_leases,
        alert_level=balance.alert_level,
        updated_at=moment(balance.updated_at),
        bank=None if bank is None else _bank_view(bank),
    )


def _past_view(past: PastBudget) -> PastBudgetView:
    balance = past.balance
    return PastBudgetView(
        budget_id=balance.budget_id,
        agent_id=balance.agent_id,
        at=moment(past.at),
        total_allocated=amount(balance.allocated),
        total_spent=amount(balance.spent),
        overspent=amount(balance.overspent),
        budget_held=amount(balance.held),
        budget_remaining=amount(balance.remaining),
        percent_used=balance.percent_used,
    )


def _holds(leases: Sequence[Lease]) -> list[HoldView]:
    return [HoldView(each.id, amount(each.held), moment(each.frees_at)) for each in leases if each.held]


def _bank_view(bank: Month) -> BankView:
    return BankView(
        period=bank.period,
        cap=amount(bank.cap),
        spent=amount(bank.spent),
        held=amount(bank.held),
        available=amount(bank.available),
        resets_at=moment(bank.resets_at),
    )


def _summary(totals: BudgetTotals) -> dict[str, object]:
    return {
        "total_allocated": amount(totals.allocated),
        "total_spent": amount(totals.spent),
        "total_held": amount(totals.held),
        "total_remaining": amount(totals.allocated - totals.spent - totals.held),
        "agents": totals.agents,
    }


ROUTES: Final = (
    Route(
        "GET", "/budget", get_budget, "One agent's budget, now or as of a time, or all that the caller sees, summed up",
        answer=BudgetView, other_answers=((200, BudgetView), (200, PastBudgetView)), action="budget.read",
        query=(*PAGED, "agent_id", "status", "at"), codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
)  # fmt: skip
