"""Bodies and views of budget requests."""

from decimal import Decimal
from typing import Any, Final

import msgspec

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ledger import Balance
from ironcage_core.services.agent_records import status_of
from ironcage_core.services.budget_requests import RequestDetail, SeenRequest
from ironcage_core.services.budget_reviews import Approved
from ironcage_http.wire import amount, moment

DELETED: Final = "deleted"


class RequestBody(msgspec.Struct, frozen=True):
    """For which agent, which budget in USD it shall have, and why."""

    agent_id: str
    requested_budget: Decimal
    justification: str


class ApprovalBody(msgspec.Struct, frozen=True):
    """What is approved in USD, if it is not what was asked for."""

    approved_budget: Decimal | None = None
    review_notes: str | None = None


class RejectionBody(msgspec.Struct, frozen=True):
    """Why a request is rejected."""

    review_notes: str


class RequestView(msgspec.Struct, frozen=True):
    """A budget request; `current_budget` is what the agent had when it was made."""

    id: str
    agent_id: str
    agent_name: str
    requester_id: str
    requester_name: str | None
    current_budget: Decimal
    requested_budget: Decimal
    justification: str
    status: str
    created_at: str | None
    updated_at: str | None
    reviewed_at: str | None
    reviewed_by: str | None
    reviewed_by_name: str | None
    review_notes: str | None
    approved_budget: Decimal | None
    cancelled_at: str | None
    cancelled_by: str | None


class RequestDetailView(RequestView, frozen=True, kw_only=True):
    """A budget request, and where the agent's budget stands now; a deleted agent has the status `deleted`.

    Where the agent stands is null for a requester whose agent it is not any more.
    """

    agent_current_budget: Decimal | None
    agent_spent: Decimal | None
    agent_remaining: Decimal | None
    agent_status: str | None


class RaisedAgentView(msgspec.Struct, frozen=True):
    """An agent whose budget was changed."""

    id: str
    name: str
    old_budget: Decimal
    new_budget: Decimal


class ApprovedView(RequestView, frozen=True, kw_only=True):
    """A budget request that was approved, and what that has done."""

    budget_updated: bool
    agent: RaisedAgentView
    history_entry_id: str


def request_view(seen: SeenRequest) -> RequestView:
    """Return a request as callers see it."""
    return RequestView(**_shown(seen))


def detail_view(found: RequestDetail) -> RequestDetailView:
    """Return a request with where its agent stands."""
    return RequestDetailView(**_shown(found.seen), **_standing(found.seen.agent, found.balance))


def approved_view(approved: Approved) -> ApprovedView:
    """Return an approved request with what that has done."""
    agent, old, new = approved.seen.agent, amount(approved.old_budget), amount(approved.new_budget)
    return ApprovedView(
        **_shown(approved.seen),
        budget_updated=True,
        agent=RaisedAgentView(agent.id, agent.name, old, new),
        history_entry_id=approved.entry_id,
    )


def _standing(agent: Agent, balance: Balance | None) -> dict[str, Any]:
    if balance is None:
        return dict.fromkeys(("agent_current_budget", "agent_spent", "agent_remaining", "agent_status"))
    return {
        "agent_current_budget": amount(balance.allocated),
        "agent_spent": amount(balance.spent),
        "agent_remaining": amount(balance.remaining),
        "agent_status": status_of(agent, balance) if agent.deleted_at is None else DELETED,
    }


def _shown(seen: SeenRequest) -> dict[str, Any]:
    request = seen.request
    return {
        "id": request.id,
        "agent_id": request.agent_id,
        "agent_name": seen.agent.name,
        "requester_id": request.requester_id,
        "requester_name": seen.requester_name,
        "current_budget": amount(request.current_budget),
        "requested_budget": amount(request.requested_budget),
        "justification": request.justification,
        "status": request.status,
        "created_at": moment(request.created_at),
        "updated_at": moment(request.updated_at),
        "reviewed_at": moment(request.reviewed_at),
        "reviewed_by": request.reviewed_by,
        "reviewed_by_name": seen.reviewed_by_name,
        "review_notes": request.review_notes,
        "approved_budget": None if request.approved_budget is None else amount(request.approved_budget),
        "cancelled_at": moment(request.cancelled_at),
        "cancelled_by": request.cancelled_by,
    }
