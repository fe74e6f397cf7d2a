"""Budget reviews: an admin decides on a budget request, once; an approval sets the allocation with it.

Source: contract budget.md 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ironcage_core.domain.access import Principal
from ironcage_core.domain.alerts import DEFAULT_LEVELS
from ironcage_core.domain.budget_requests import DEFAULT_MAX_REQUEST, BudgetRequest, RequestEvent, words_problem
from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.domain.money import Micros, format_usd
from ironcage_core.domain.texts import reason_problem, tidied
from ironcage_core.errors.money import ApprovalDecreasesBudgetError, RequestAlreadyReviewedError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import live_agent
from ironcage_core.services.allocations import move_allocation
from ironcage_core.services.budget_requests import (
    SeenRequest,
    amount_problem,
    check_none,
    own_request,
    seen_request,
    store_request,
)
from ironcage_core.services.expiry import catch_up
from ironcage_core.services.posting import balance_of
from ironcage_core.services.retries import remember, what_it_did


@dataclass(frozen=True, slots=True)
class Approved:
    """A request that was approved, and what that has made of the allocation, in micro-USD."""

    seen: SeenRequest
    old_budget: Micros
    new_budget: Micros
    entry_id: str
    is_replay: bool = field(default=False, kw_only=True)


def approve(
    uow: UnitOfWork,
    request_id: str,
    *,
    principal: Principal,
    approved: Micros | None = None,
    notes: str | None = None,
    highest: Micros = DEFAULT_MAX_REQUEST,
    retry: RetryKey | None = None,
    levels: Sequence[int] = DEFAULT_LEVELS,
) -> Approved:
    """Approve a request: the allocation becomes what is approved, whatever it was when the request was made.

    Args:
        uow: The open unit of work.
        request_id: Which request.
        principal: An admin; the request may be an own one.
        approved: The new allocation in micro-USD; None for the one that was asked for.
        notes: For the requester and the history; at most 500 characters, empty ones are none.
        highest: The most that may be approved.
        retry: The key that a retry names as well.
        levels: At which shares of the allocation an alert is published, in percent, rising.

    Raises:
        BudgetRequestNotFoundError, ForbiddenError: No such request; its agent is of another project than the token.
        IdempotencyKeyReusedError: The key was used for another decision.
        ValidationError: An argument breaks its rule; each is named.
        RequestAlreadyReviewedError: It is decided or cancelled.
        ApprovalDecreasesBudgetError: The agent has that much by now.
    """
    request = own_request(uow, request_id, principal)
    if (done := what_it_did(uow, retry)) is not None:
        seen = seen_request(uow, request)
        return Approved(seen, done["old_budget"], done["new_budget"], done["entry_id"], is_replay=True)
    amount, notes = request.requested_budget if approved is None else approved, tidied(notes)
    check_none({"approved_budget": amount_problem(amount, highest), "review_notes": reason_problem(notes)})
    reviewed = _reviewed(uow, request, "approve", principal, notes)._replace(approved_budget=amount)
    agent = live_agent(uow, request.agent_id)
    catch_up(uow, agent.id)
    current = balance_of(uow, agent.id).allocated
    if amount <= current:
        message = f"The agent has {format_usd(current)} by now"
        raise ApprovalDecreasesBudgetError(message, current_budget=current, approved_budget=amount)
    actor = principal.actor
    changed = move_allocation(uow, agent, amount, actor=actor, reason=notes, request_id=request.id, levels=levels)
    metadata = {
        "approved_budget_micros": amount,
        "history_entry_id": changed.entry_id,
        "self_approved": request.requester_id == principal.user_id,
    }
    store_request(uow, reviewed, actor, reason=notes, metadata=metadata)
    result = {"old_budget": changed.previous, "new_budget": amount, "entry_id": changed.entry_id}
    remember(uow, retry, result)
    return Approved(seen_request(uow, reviewed), changed.previous, amount, changed.entry_id)


def reject(
    uow: UnitOfWork,
    request_id: str,
    notes: str | None,
    *,
    principal: Principal,
    retry: RetryKey | None = None,
) -> SeenRequest:
    """Reject a request.

    Args:
        uow: The open unit of work.
        request_id: Which request.
        notes: Why; 20 to 500 characters without the blanks around them.
        principal: An admin.
        retry: The key that a retry names as well.

    Raises:
        BudgetRequestNotFoundError, ForbiddenError: No such request; its agent is of another project than the token.
        IdempotencyKeyReusedError: The key was used for another decision.
        ValidationError: The notes break their rule.
        RequestAlreadyReviewedError: It is decided or cancelled.
    """
    request = own_request(uow, request_id, principal)
    if what_it_did(uow, retry) is not None:
        return seen_request(uow, request, is_replay=True)
    notes = tidied(notes)
    check_none({"review_notes": words_problem(notes)})
    rejected = _reviewed(uow, request, "reject", principal, notes)
    store_request(uow, rejected, principal.actor, reason=notes)
    remember(uow, retry, {"id": request.id})
    return seen_request(uow, rejected)


def _reviewed(
    uow: UnitOfWork, request: BudgetRequest, event: RequestEvent, principal: Principal, notes: str | None
) -> BudgetRequest:
    reviewed = request.after(event, at=uow.now)
    if reviewed is None:
        raise RequestAlreadyReviewedError(
            f"The request is {request.status}",
            current_status=request.status,
            reviewed_by=request.reviewed_by,
            reviewed_at=request.reviewed_at,
        )
    return reviewed._replace(reviewed_at=uow.now, reviewed_by=principal.user_id, review_notes=notes)
