"""Budget requests: an owner asks for a larger allocation, and may take that back while nobody has decided.

What an end of the agent or of the requester leaves pending is cancelled with it. Source: contract budget.md 7.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ironcage_core.domain.access import Principal, Target, reaches
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.budget_requests import (
    AGENT_DELETED,
    DEFAULT_MAX_REQUEST,
    USER_DELETED,
    BudgetRequest,
    words_problem,
)
from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import Micros, format_usd
from ironcage_core.domain.texts import tidied
from ironcage_core.errors.money import (
    BudgetDecreaseRequestError,
    BudgetRequestNotFoundError,
    CannotCancelReviewedError,
)
from ironcage_core.errors.tree import ForbiddenError, ValidationError
from ironcage_core.ports.lists import Page, Paging, RequestFilter, RequestOrder
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import any_agent, own_agent, scope_of, target_of
from ironcage_core.services.allocations import MAX_ALLOCATION, MIN_ALLOCATION
from ironcage_core.services.expiry import catch_up
from ironcage_core.services.posting import balance_of
from ironcage_core.services.retries import remember, what_it_did


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request, its agent, what its requester and reviewer are called, and whether a retry was told of it."""

    request: BudgetRequest
    agent: Agent
    requester_name: str | None
    reviewed_by_name: str | None
    is_replay: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class RequestDetail:
    """A request and where its agent's budget stands at this instant; None for who may not look at the agent."""

    seen: SeenRequest
    balance: Balance | None


def submit_request(
    uow: UnitOfWork,
    agent_id: str,
    requested: Micros,
    justification: str | None,
    *,
    principal: Principal,
    highest: Micros = DEFAULT_MAX_REQUEST,
    retry: RetryKey | None = None,
) -> SeenRequest:
    """Ask for a larger allocation; an agent may have several requests that wait.

    Args:
        uow: The open unit of work.
        agent_id: Whose allocation.
        requested: The allocation that is wanted, in micro-USD, not what is to be added.
        justification: Why; 20 to 500 characters without the blanks around them.
        principal: Who asks: an admin or the agent's owner.
        highest: The most that may be asked for.
        retry: The key that a retry names as well.

    Raises:
        AgentNotFoundError, ForbiddenError: No such agent, or it was deleted; it is another user's.
        IdempotencyKeyReusedError: The key was used for another request.
        ValidationError: An argument breaks its rule; each is named.
        BudgetDecreaseRequestError: The agent has that much already.
    """
    agent = own_agent(uow, agent_id, principal)
    if (done := what_it_did(uow, retry)) is not None:
        return seen_request(uow, known_request(uow, done["id"]), is_replay=True)
    words = tidied(justification)
    problems = {"requested_budget": amount_problem(requested, highest), "justification": words_problem(words)}
    check_none(problems)
    current = balance_of(uow, agent.id).allocated
    if requested <= current:
        message = f"The agent has {format_usd(current)} already"
        raise BudgetDecreaseRequestError(message, current_budget=current, requested_budget=requested)
    request = BudgetRequest(
        id=uow.new_id("breq"),
        agent_id=agent.id,
        requester_id=principal.user_id,
        current_budget=current,
        requested_budget=requested,
        justification=words or "",
        status="pending",
        created_at=uow.now,
        updated_at=uow.now,
    )
    store_request(uow, request, principal.actor, reason=request.justification)
    remember(uow, retry, {"id": request.id})
    return seen_request(uow, request)


def list_requests(
    uow: UnitOfWork,
    principal: Principal,
    which: RequestFilter,
    paging: Paging,
    order: RequestOrder = "created_at",
    *,
    descending: bool = True,
) -> Page[SeenRequest]:
    """Return one page of the requests that a user may see: an admin all, others their own and those for their agents.

    `visible_to` and `project_id` of the filter are overwritten.
    """
    scope = scope_of(principal)
    which = replace(which, visible_to=scope.owner_id, project_id=scope.project_id)
    page = uow.budget_requests.page(which, paging, order, descending=descending)
    names = _names(uow, (each for row in page.rows for each in (row.requester_id, row.reviewed_by)))
    return Page([_seen(uow, row, names) for row in page.rows], page.total)


def get_request(uow: UnitOfWork, request_id: str, principal: Principal) -> RequestDetail:
    """Return a request and, to an admin and to the agent's owner of now, where its agent stands.

    Raises:
        BudgetRequestNotFoundError: No such request.
        ForbiddenError: Neither the principal's own nor for one of his agents.
    """
    request = known_request(uow, request_id)
    seen = seen_request(uow, request)
    if not reaches(principal, target_of(seen.agent)):
        if not reaches(principal, _as_target(request, seen.agent)):
            raise ForbiddenError("The request is somebody else's")
        return RequestDetail(seen, None)
    catch_up(uow, request.agent_id)
    return RequestDetail(seen, balance_of(uow, request.agent_id))


def cancel_request(uow: UnitOfWork, request_id: str, *, principal: Principal) -> SeenRequest:
    """Take back a request that waits; one that was cancelled stays as it is.

    Raises:
        BudgetRequestNotFoundError: No such request.
        ForbiddenError: Another user's.
        CannotCancelReviewedError: It was approved or rejected.
    """
    request = own_request(uow, request_id, principal)
    if request.status != "cancelled":
        request = _cancelled(uow, request, principal.actor, notes=None)
    return seen_request(uow, request)


def cancel_pending_of_agent(uow: UnitOfWork, agent_id: str, *, actor: Actor) -> int:
    """Cancel what waits for an agent that is deleted, and return how many requests it were."""
    return _cancel_all(uow, uow.budget_requests.pending_of_agent(agent_id), actor, AGENT_DELETED)


def cancel_pending_by_user(uow: UnitOfWork, user_id: str, *, actor: Actor) -> int:
    """Cancel what a user who is deleted has asked for, and return how many requests it were."""
    return _cancel_all(uow, uow.budget_requests.pending_by(user_id), actor, USER_DELETED)


def known_request(uow: UnitOfWork, request_id: str) -> BudgetRequest:
    """Return a request.

    Raises:
        BudgetRequestNotFoundError: No such request.
    """
    request = uow.budget_requests.find(request_id) if is_id(request_id, "breq") else None
    if request is None:
        raise BudgetRequestNotFoundError("No such budget request")
    return request


def own_request(uow: UnitOfWork, request_id: str, principal: Principal) -> BudgetRequest:
    """Return a request that the principal has made, or that his action reaches because it reaches all.

    Raises:
        BudgetRequestNotFoundError: No such request.
        ForbiddenError: Another user's, or for an agent of another project than the token's.
    """
    request = known_request(uow, request_id)
    if not reaches(principal, _as_target(request, any_agent(uow, request.agent_id))):
        raise ForbiddenError("The request is somebody else's")
    return request


def store_request(
    uow: UnitOfWork,
    request: BudgetRequest,
    actor: Actor,
    *,
    reason: str | None = None,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Store a request that was made or has ended, and tell it: to the audit log and to whoever watches the agent."""
    uow.budget_requests.put(request)
    what = "created" if request.status == "pending" else request.status
    about = {
        "agent_id": request.agent_id,
        "requester_id": request.requester_id,
        "requested_budget_micros": request.requested_budget,
        **(metadata or {}),
    }
    operation, status = f"BUDGET_REQUEST_{what.upper()}", {"status": request.status}
    changes = {} if what == "created" else {"before": {"status": "pending"}, "after": status}
    uow.audit.append(
        AuditNote(
            operation, "budget", "budget_request", request.id, actor, reason=reason, changes=changes, metadata=about
        )
    )
    data = {"budget_request_id": request.id, "requested_budget_micros": request.requested_budget}
    uow.feed.append("AGENT_EVENT", agent_id=request.agent_id, name=f"budget_request_{what}", data=data)


def seen_request(uow: UnitOfWork, request: BudgetRequest, *, is_replay: bool = False) -> SeenRequest:
    """Return a request with the names that belong to it."""
    seen = _seen(uow, request, _names(uow, (request.requester_id, request.reviewed_by)))
    return replace(seen, is_replay=is_replay)


def amount_problem(amount: Micros, highest: Micros) -> str | None:
    """Return what is wrong with an allocation that is asked for or approved, or None."""
    most = min(highest, MAX_ALLOCATION)
    return (
        None if MIN_ALLOCATION <= amount <= most else f"must be from {format_usd(MIN_ALLOCATION)} to {format_usd(most)}"
    )


def check_none(problems: Mapping[str, str | None]) -> None:
    """Refuse the fields that have a problem.

    Raises:
        ValidationError: There is at least one.
    """
    if found := {name: problem for name, problem in problems.items() if problem is not None}:
        raise ValidationError(found)


def _cancel_all(uow: UnitOfWork, pending: Sequence[BudgetRequest], actor: Actor, notes: str) -> int:
    for request in pending:
        _cancelled(uow, request, actor, notes=notes)
    return len(pending)


def _cancelled(uow: UnitOfWork, request: BudgetRequest, actor: Actor, *, notes: str | None) -> BudgetRequest:
    ended = request.after("cancel", at=uow.now)
    if ended is None:
        raise CannotCancelReviewedError(f"The request is {request.status}", current_status=request.status)
    ended = ended._replace(cancelled_at=uow.now, cancelled_by=actor.id, review_notes=notes)
    store_request(uow, ended, actor, reason=notes)
    return ended


def _as_target(request: BudgetRequest, agent: Agent) -> Target:
    """Return a request as a thing of whoever made it."""
    return Target(request.requester_id, agent.id, agent.project_id)


def _seen(uow: UnitOfWork, request: BudgetRequest, names: Mapping[str, str]) -> SeenRequest:
    reviewer = names.get(request.reviewed_by) if request.reviewed_by else None
    return SeenRequest(request, any_agent(uow, request.agent_id), names.get(request.requester_id), reviewer)


def _names(uow: UnitOfWork, user_ids: Iterable[str | None]) -> Mapping[str, str]:
    users = [uow.users.find(each) for each in {*user_ids} if each is not None]
    return {user.id: user.shown_name for user in users if user is not None}
