"""Budget requests: asked for by owners, decided once by admins, and ended with the agent or the user."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ironcage_core.domain.access import Principal, judged, principal_of
from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.budget_requests import TRANSITIONS, BudgetRequest, RequestStatus
from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.domain.users import Role, User
from ironcage_core.errors.money import (
    ApprovalDecreasesBudgetError,
    BudgetDecreaseRequestError,
    BudgetRequestNotFoundError,
    CannotCancelReviewedError,
    IdempotencyKeyReusedError,
    RequestAlreadyReviewedError,
)
from ironcage_core.errors.resources import AgentNotFoundError
from ironcage_core.errors.tree import ForbiddenError, IroncageError, ValidationError
from ironcage_core.ports.lists import AuditFilter, Paging, RequestFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agent_changes import delete_agent
from ironcage_core.services.allocation_history import allocation_history
from ironcage_core.services.allocations import MAX_ALLOCATION, ChangedAllocation, set_allocation
from ironcage_core.services.budget_requests import (
    RequestDetail,
    SeenRequest,
    cancel_request,
    get_request,
    list_requests,
    submit_request,
)
from ironcage_core.services.budget_reviews import Approved, approve, reject
from ironcage_core.services.user_removal import delete_user
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import api_row, fresh_id
from tests.support.world import ADMIN, NOON, USD, SetClock, TestAgent, World

T = TypeVar("T")
WHY = "the archive is indexed anew"
NO = "use the smaller model first"


class Desk:
    """A world with ann, who owns agents, bea, who owns others, and two admins."""

    def __init__(self, world: World) -> None:
        self.world = world
        ann = world.store.read(lambda uow: uow.users.find(world.owner_id))
        assert ann is not None
        self.ann = principal_of(ann)
        self.bea = principal_of(self.user("bea", "user"))
        self.root = principal_of(self.user("root", "admin"))
        self.dana = principal_of(self.user("dana", "admin"))

    def user(self, name: str, role: Role) -> User:
        add = partial(add_user, username=name, email=f"{name}@test", role=role, actor=SYSTEM, name=name.title())
        return self.world.store.write(add)

    def write(self, use_case: Callable[..., T], *args: object, **kwargs: object) -> T:
        return self.world.store.write(lambda uow: use_case(uow, *args, **kwargs))

    def ask(
        self,
        agent: TestAgent,
        requested: int = 150 * USD,
        why: str | None = WHY,
        by: Principal | None = None,
        **o: Any,  # noqa: ANN401 - as the use case takes them
    ) -> SeenRequest:
        return self.write(submit_request, agent.id, requested, why, principal=by or self.ann, **o)

    def approve(self, seen: SeenRequest, by: Principal | None = None, **options: Any) -> Approved:  # noqa: ANN401 - as the use case takes them
        return self.write(approve, seen.request.id, principal=by or self.root, **options)

    def reject(self, seen: SeenRequest, notes: str | None = NO, **options: Any) -> SeenRequest:  # noqa: ANN401 - as the use case takes them
        return self.write(reject, seen.request.id, notes, principal=self.root, **options)

    def cancel(self, seen: SeenRequest, by: Principal | None = None) -> SeenRequest:
        return self.write(cancel_request, seen.request.id, principal=by or self.ann)

    def get(self, seen: SeenRequest, by: Principal | None = None) -> RequestDetail:
        return self.world.store.read(lambda uow: get_request(uow, seen.request.id, by or self.root))

    def stored(self, seen: SeenRequest) -> BudgetRequest:
        found = self.world.store.read(lambda uow: uow.budget_requests.find(seen.request.id))
        assert found is not None
        return found

    def listed(self, by: Principal, **which: Any) -> set[str]:  # noqa: ANN401 - as the filter takes them
        page = self.world.store.read(lambda uow: list_requests(uow, by, RequestFilter(**which), Paging()))
        assert page.total == len(page.rows)
        return {each.request.id for each in page.rows}

    def events(self, *names: str) -> list[tuple[str | None, dict[str, object]]]:
        feed = self.world.store.read(lambda uow: uow.feed.after(0, 10_000))
        return [
            (event.name, dict(event.data))
            for event in feed
            if (event.name or "").startswith("budget_request") or event.name in names or event.type in names
        ]

    def rows(self, operation: str) -> list[Any]:
        page = self.world.store.read(lambda uow: uow.audit.page(AuditFilter(operation=operation), Paging()))
        return list(page.rows)

    def traces(self) -> tuple[object, ...]:
        """Return everything that a request or a decision leaves."""

        def look(uow: UnitOfWork) -> tuple[object, ...]:
            requests = uow.budget_requests.page(RequestFilter(), Paging()).rows
            return (
                requests,
                len(list(uow.audit.rows())),
                len(uow.feed.after(0, 10_000)),
                len(list(uow.ledger.by_agent())),
            )

        return self.world.store.read(look)


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


def bad_fields(use: Callable[[], object]) -> set[str]:
    with pytest.raises(ValidationError) as refusal:
        use()
    return set(refusal.value.fields)


def retry(key: str = "k1", body: str = "same", scope: str = "scope") -> RetryKey:
    return RetryKey(scope, key, body)


# --- asked for --------------------------------------------------------------


def test_a_request_remembers_what_was_then(desk: Desk) -> None:
    """The allocation, not what remains of it; who asked; trimmed words."""
    agent = desk.world.agent(100 * USD)
    agent.report(agent.handshake(60 * USD).lease.id, "r1", 60 * USD)

    seen = desk.ask(agent, why=f"\n {WHY}\r\nat last \t")

    assert seen.request == BudgetRequest(
        seen.request.id, agent.id, desk.ann.user_id, 100 * USD, 150 * USD, f"{WHY}\r\nat last", "pending", NOON, NOON
    )
    assert desk.stored(seen) == seen.request
    assert (seen.agent.name, seen.requester_name, seen.reviewed_by_name, seen.is_replay) == (
        "worker",
        "ann",
        None,
        False,
    )
    assert desk.events() == [
        ("budget_request_created", {"budget_request_id": seen.request.id, "requested_budget_micros": 150 * USD})
    ]
    (row,) = desk.rows("BUDGET_REQUEST_CREATED")
    assert (row.category, row.resource_type, row.resource_id, row.actor_id) == (
        "budget", "budget_request", seen.request.id, desk.ann.user_id,
    )  # fmt: skip
    assert agent.balance().allocated == 100 * USD


@pytest.mark.parametrize("length", [20, 500])
@pytest.mark.parametrize("letter", ["x", "ж", "🦀"])
def test_lengths_are_those_of_characters(desk: Desk, letter: str, length: int) -> None:
    """Not of bytes, here and in the notes of a review."""
    words = letter * length

    seen = desk.ask(desk.world.agent(), why=f"  {words}\n")

    assert seen.request.justification == words
    assert desk.reject(seen, words).request.review_notes == words


@pytest.mark.parametrize(
    "why", [None, "", " " * 30, "x" * 19, f" {'x' * 19} ", "ж" * 19, "x" * 501, "x" * 20 + "\x00y"]
)
def test_words_of_the_wrong_length_are_refused(desk: Desk, why: str | None) -> None:
    """And control characters but breaks; nothing is left behind."""
    agent = desk.world.agent()
    seen = desk.ask(agent)
    before = desk.traces()

    assert bad_fields(lambda: desk.ask(agent, why=why)) == {"justification"}
    assert bad_fields(lambda: desk.reject(seen, why)) == {"review_notes"}

    assert desk.traces() == before


@pytest.mark.parametrize(("live", "requested"), [(10_000, 10_001), (8_200_000, 8_200_001), (USD, 10_000 * USD)])
def test_a_request_may_be_for_anything_above_what_there_is(desk: Desk, live: int, requested: int) -> None:
    """To the last micro-USD, up to ten thousand dollars."""
    seen = desk.ask(desk.world.agent(live), requested)

    assert desk.approve(seen).new_budget == requested


@pytest.mark.parametrize("requested", [-1, 0, 9_999, 10_000 * USD + 1])
def test_a_request_out_of_bounds_is_refused(desk: Desk, requested: int) -> None:
    """Before it is compared with what there is; all that is wrong is named at once."""
    agent = desk.world.agent()

    assert bad_fields(lambda: desk.ask(agent, requested)) == {"requested_budget"}
    assert bad_fields(lambda: desk.ask(agent, requested, "short")) == {"requested_budget", "justification"}
    assert bad_fields(lambda: desk.approve(desk.ask(agent), approved=requested)) == {"approved_budget"}


def test_an_operator_sets_how_much_may_be_asked_for(desk: Desk) -> None:
    """What was asked for before is not approved beyond it, and nothing beyond what an allocation may be."""
    agent = desk.world.agent()
    seen, far = desk.ask(agent, 200 * USD), 2 * MAX_ALLOCATION

    assert bad_fields(lambda: desk.ask(agent, 180 * USD + 1, highest=180 * USD)) == {"requested_budget"}
    assert bad_fields(lambda: desk.approve(seen, highest=180 * USD)) == {"approved_budget"}
    assert bad_fields(lambda: desk.ask(agent, MAX_ALLOCATION + 1, highest=far)) == {"requested_budget"}
    assert desk.ask(agent, MAX_ALLOCATION, highest=far).request.requested_budget == MAX_ALLOCATION
    assert desk.approve(seen, approved=180 * USD, highest=180 * USD).new_budget == 180 * USD


@pytest.mark.parametrize("requested", [100 * USD, 100 * USD - 1, 10_000])
def test_a_request_for_no_more_than_there_is_is_refused(desk: Desk, requested: int) -> None:
    """Equal as well; what is spent has no say."""
    agent = desk.world.agent(100 * USD)
    agent.report(agent.handshake(60 * USD).lease.id, "r1", 60 * USD)
    before = desk.traces()

    with pytest.raises(BudgetDecreaseRequestError) as refusal:
        desk.ask(agent, requested)

    assert dict(refusal.value.details) == {"current_budget": 100 * USD, "requested_budget": requested}
    assert desk.traces() == before


def test_requests_are_for_own_agents_that_live(desk: Desk) -> None:
    """An admin asks for any; several may wait for one agent."""
    agent, dead = desk.world.agent(), desk.world.agent()
    desk.write(delete_agent, dead.id, principal=desk.root)

    with pytest.raises(ForbiddenError):
        desk.ask(agent, 1, "short", by=desk.bea)
    for agent_id in (dead.id, "agent_" + "0" * 32, "abc", ""):
        with pytest.raises(AgentNotFoundError):
            desk.write(submit_request, agent_id, 1, "short", principal=desk.root)
    waiting = {desk.ask(agent, by=by).request.id for by in (desk.root, desk.ann, desk.ann)}
    assert desk.listed(desk.root, status="pending") == waiting
    assert len(waiting) == 3


# --- approved ---------------------------------------------------------------


def test_an_approval_sets_what_was_asked_for_whatever_is_spent(desk: Desk) -> None:
    """100 allocated, 60 spent, a request for 150: the allocation is 150."""
    agent = desk.world.agent(100 * USD)
    agent.report(agent.handshake(60 * USD).lease.id, "r1", 60 * USD)
    seen = desk.ask(agent, 150 * USD)
    desk.world.clock.pass_s(5)

    approved = desk.approve(seen, notes=" fine \n by me ")

    balance, entry, later = agent.balance(), agent.entries()[-1], NOON + 5000
    assert (balance.allocated, balance.spent, balance.remaining) == (150 * USD, 60 * USD, 90 * USD)
    assert (approved.old_budget, approved.new_budget, approved.entry_id) == (100 * USD, 150 * USD, entry.id)
    assert (entry.kind, entry.amount, entry.cause, entry.ref, entry.actor) == (
        "adjust", 50 * USD, "request", seen.request.id, desk.root.user_id,
    )  # fmt: skip
    assert approved.seen.request == desk.stored(seen) == seen.request._replace(
        status="approved", updated_at=later, reviewed_at=later, reviewed_by=desk.root.user_id,
        review_notes="fine \n by me", approved_budget=150 * USD,
    )  # fmt: skip
    assert approved.seen.reviewed_by_name == "Root"
    assert desk.world.verify().holds


def test_an_approval_is_in_the_history_the_log_and_the_feed(desk: Desk) -> None:
    """With the request and the real approver."""
    agent = desk.world.agent(100 * USD)
    seen = desk.ask(agent)
    request_id = seen.request.id

    approved = desk.approve(seen, by=desk.dana, notes="so")

    history = desk.world.store.read(lambda uow: allocation_history(uow, agent.id, Paging(), desk.root))
    (past,) = history.page.rows
    assert (past.entry.id, past.request_id, past.modified_by_name) == (approved.entry_id, request_id, "Dana")
    assert past.note is not None
    assert (past.note.reason, past.note.is_forced) == ("so", 0)
    assert desk.events("budget_changed")[1:] == [
        (
            "budget_changed",
            {
                "budget_micros": 150 * USD, "previous_budget_micros": 100 * USD, "changed_by": desk.dana.user_id,
                "budget_request_id": request_id,
            },
        ),
        ("budget_request_approved", {"budget_request_id": request_id, "requested_budget_micros": 150 * USD}),
    ]  # fmt: skip
    (updated,), (decided,) = desk.rows("BUDGET_UPDATED"), desk.rows("BUDGET_REQUEST_APPROVED")
    assert json.loads(updated.changes) == {
        "before": {"budget_micros": 100 * USD},
        "after": {"budget_micros": 150 * USD},
    }
    assert (updated.resource_id, json.loads(updated.metadata)) == (agent.id, {"budget_request_id": request_id})
    assert (decided.resource_id, decided.actor_id, decided.reason) == (request_id, desk.dana.user_id, "so")
    assert json.loads(decided.metadata) == {
        "agent_id": agent.id, "requester_id": desk.ann.user_id, "requested_budget_micros": 150 * USD,
        "approved_budget_micros": 150 * USD, "history_entry_id": approved.entry_id, "self_approved": False,
    }  # fmt: skip


@pytest.mark.parametrize("by_same", [True, False])
def test_an_own_request_may_be_approved_and_is_marked(desk: Desk, *, by_same: bool) -> None:
    """By an admin; the log says so."""
    seen = desk.ask(desk.world.agent(), by=desk.root)

    desk.approve(seen, by=desk.root if by_same else desk.dana)

    (row,) = desk.rows("BUDGET_REQUEST_APPROVED")
    assert json.loads(row.metadata)["self_approved"] is by_same


@pytest.mark.parametrize("approved", [120 * USD, 100 * USD + 1, 170 * USD])
def test_another_amount_may_be_approved(desk: Desk, approved: int) -> None:
    """Less or more than was asked for; both stay known."""
    agent = desk.world.agent(100 * USD)

    done = desk.approve(desk.ask(agent, 150 * USD), approved=approved)

    assert agent.balance().allocated == done.new_budget == done.seen.request.approved_budget == approved
    assert done.seen.request.requested_budget == 150 * USD


def test_an_approval_counts_from_the_live_allocation(desk: Desk) -> None:
    """Not from the one that was when it was asked for, which stays on the request."""
    agent = desk.world.agent(100 * USD)
    seen, other = desk.ask(agent, 150 * USD), desk.ask(agent, 200 * USD)
    desk.write(set_allocation, agent.id, 130 * USD, actor=ADMIN)

    approved = desk.approve(seen)

    assert (approved.old_budget, agent.balance().allocated) == (130 * USD, 150 * USD)
    assert approved.seen.request.current_budget == 100 * USD
    assert desk.approve(other).old_budget == 150 * USD
    assert agent.kinds() == [("adjust", 100 * USD), ("adjust", 30 * USD), ("adjust", 20 * USD), ("adjust", 50 * USD)]


@pytest.mark.parametrize("approved", [None, 150 * USD, 149 * USD])
def test_an_approval_of_no_more_than_there_is_by_now_is_refused(desk: Desk, approved: int | None) -> None:
    """The request waits on."""
    agent = desk.world.agent(100 * USD)
    seen = desk.ask(agent, 150 * USD)
    desk.write(set_allocation, agent.id, 150 * USD, actor=ADMIN)
    before = desk.traces()

    with pytest.raises(ApprovalDecreasesBudgetError) as refusal:
        desk.approve(seen, approved=approved)

    assert dict(refusal.value.details) == {"current_budget": 150 * USD, "approved_budget": approved or 150 * USD}
    assert desk.traces() == before
    assert desk.approve(seen, approved=151 * USD).new_budget == 151 * USD


@pytest.mark.parametrize("notes", ["x" * 501, "a\x1bb"])
def test_notes_of_an_approval_may_be_short_but_not_long(desk: Desk, notes: str) -> None:
    """Empty ones are none; 500 characters will do."""
    agent = desk.world.agent()
    seen = desk.ask(agent, 150 * USD)

    assert bad_fields(lambda: desk.approve(seen, notes=notes)) == {"review_notes"}

    assert desk.approve(seen, notes=" \n ").seen.request.review_notes is None
    assert desk.approve(desk.ask(agent, 160 * USD), notes="ж" * 500).seen.request.review_notes == "ж" * 500


def test_an_approval_wakes_an_exhausted_agent_and_lets_alerts_come_again(desk: Desk) -> None:
    """At once; the level falls in silence."""
    agent = desk.world.agent(10 * USD)
    agent.report(agent.handshake(10 * USD).lease.id, "r1", 10 * USD)
    seen = desk.ask(agent, 100 * USD)
    used_up = agent.balance()._replace(alert_level=100)
    desk.world.store.write(lambda uow: uow.balances.put(used_up))
    told = len(desk.events("COST_ALERT", "budget_status_changed"))

    desk.approve(seen, levels=(50, 100))

    assert (agent.balance().status, agent.balance().alert_level) == ("active", 0)
    assert [name for name, _ in desk.events("COST_ALERT", "budget_status_changed")[told:]] == [
        "budget_status_changed", "budget_request_approved",
    ]  # fmt: skip
    assert agent.handshake(5 * USD).new_money == 5 * USD


# --- rejected and cancelled -------------------------------------------------


def test_a_rejection_says_why_and_moves_no_money(desk: Desk) -> None:
    """It is told to the log and the feed."""
    agent = desk.world.agent(100 * USD)
    seen = desk.ask(agent)

    rejected = desk.reject(seen, f" {NO} ")

    assert (
        rejected.request
        == desk.stored(seen)
        == seen.request._replace(status="rejected", reviewed_at=NOON, reviewed_by=desk.root.user_id, review_notes=NO)
    )
    assert rejected.reviewed_by_name == "Root"
    assert agent.kinds() == [("adjust", 100 * USD)]
    assert desk.events("budget_changed")[1:] == [
        ("budget_request_rejected", {"budget_request_id": seen.request.id, "requested_budget_micros": 150 * USD})
    ]
    (row,) = desk.rows("BUDGET_REQUEST_REJECTED")
    assert (row.reason, json.loads(row.changes)) == (
        NO,
        {"before": {"status": "pending"}, "after": {"status": "rejected"}},
    )


@pytest.mark.parametrize("who", ["ann", "root"])
def test_a_request_is_cancelled_by_whom_it_is_of_or_an_admin(desk: Desk, who: str) -> None:
    """Once; a second time changes nothing and tells nothing."""
    seen, by = desk.ask(desk.world.agent()), getattr(desk, who)

    cancelled = desk.cancel(seen, by)
    before = desk.traces()
    desk.world.clock.pass_s(9)
    again = desk.cancel(seen, desk.root)

    assert (
        cancelled.request
        == desk.stored(seen)
        == seen.request._replace(status="cancelled", cancelled_at=NOON, cancelled_by=by.user_id)
    )
    assert again == cancelled
    assert desk.traces() == before
    assert desk.events()[1:] == [
        ("budget_request_cancelled", {"budget_request_id": seen.request.id, "requested_budget_micros": 150 * USD})
    ]
    assert [row.actor_id for row in desk.rows("BUDGET_REQUEST_CANCELLED")] == [by.user_id]


def test_the_owner_of_an_agent_does_not_cancel_what_others_asked_for(desk: Desk) -> None:
    """Though he sees it."""
    seen = desk.ask(desk.world.agent(), by=desk.root)

    with pytest.raises(ForbiddenError):
        desk.cancel(seen, desk.ann)

    assert desk.get(seen, desk.ann).seen.request.status == "pending"


ENDS: dict[RequestStatus, Callable[[Desk, SeenRequest], object]] = {
    "approved": lambda desk, seen: desk.approve(seen),
    "rejected": lambda desk, seen: desk.reject(seen),
    "cancelled": lambda desk, seen: desk.cancel(seen),
}


@pytest.mark.parametrize("status", ENDS)
def test_what_is_decided_is_not_decided_again(desk: Desk, status: RequestStatus) -> None:
    """Every pair of end and event; who decided and when is told."""
    seen = desk.ask(desk.world.agent())
    ENDS[status](desk, seen)
    before, ended = desk.traces(), desk.stored(seen)
    desk.world.clock.pass_s(1)

    for decide in (lambda: desk.approve(seen), lambda: desk.approve(seen, approved=5 * USD), lambda: desk.reject(seen)):
        with pytest.raises(RequestAlreadyReviewedError) as refusal:
            decide()
        assert dict(refusal.value.details) == {
            "current_status": status, "reviewed_by": ended.reviewed_by, "reviewed_at": ended.reviewed_at,
        }  # fmt: skip
    if status != "cancelled":
        with pytest.raises(CannotCancelReviewedError):
            desk.cancel(seen)

    assert (ended.reviewed_by is None) == (status == "cancelled")
    assert desk.traces() == before
    assert not [event for at, event in TRANSITIONS if at == status]


def test_a_request_that_is_not_there_is_not_found(desk: Desk) -> None:
    """Unknown and misspelled alike, whoever asks and whatever else is wrong."""
    for request_id in ("breq_" + "0" * 32, "abc", "", "agent_" + "0" * 32):
        for use_case in (get_request, cancel_request, partial(approve, approved=0), partial(reject, notes="")):
            run: Any = partial(use_case, request_id=request_id, principal=desk.root)
            with pytest.raises(BudgetRequestNotFoundError):
                desk.world.store.write(run)


# --- who sees ---------------------------------------------------------------


def test_requests_are_seen_by_whom_they_concern(desk: Desk) -> None:
    """The requester, the agent's owner of now, and admins."""
    hers, other = desk.world.agent(), desk.world.agent(owner_id=desk.bea.user_id)
    own, for_hers = desk.ask(hers), desk.ask(hers, by=desk.root)
    beas = desk.ask(other, by=desk.bea)
    vera = principal_of(desk.user("vera", "viewer"))
    veras = desk.ask(desk.world.agent(owner_id=vera.user_id), by=desk.root)
    sights = [
        (desk.ann, [own, for_hers]), (desk.bea, [beas]), (vera, [veras]), (desk.root, [own, for_hers, beas, veras]),
    ]  # fmt: skip

    for principal, seen in sights:
        ids = {each.request.id for each in seen}
        assert desk.listed(judged(principal, "budget_requests.read")) == ids
        for request in (own, for_hers, beas, veras):
            if request.request.id in ids:
                assert desk.get(request, principal).seen == request
            else:
                with pytest.raises(ForbiddenError):
                    desk.get(request, principal)
    assert desk.listed(desk.root, agent_id=hers.id, requester_id=desk.ann.user_id) == {own.request.id}
    assert desk.listed(desk.ann, requester_id=desk.bea.user_id) == set()


def test_a_new_owner_sees_and_the_requester_still_does(desk: Desk) -> None:
    """The old owner no more what others asked for."""
    agent = desk.world.agent()
    own, admins = desk.ask(agent), desk.ask(agent, by=desk.root)

    def hand_over(uow: UnitOfWork) -> None:
        found = uow.agents.find(agent.id)
        assert found is not None
        uow.agents.put(found._replace(owner_id=desk.bea.user_id))

    desk.world.store.write(hand_over)

    assert desk.listed(desk.ann) == {own.request.id}
    assert desk.listed(desk.bea) == {own.request.id, admins.request.id}
    standings = [desk.get(own, each).balance for each in (desk.ann, desk.bea, desk.root)]
    assert standings == [None, agent.balance(), agent.balance()]
    with pytest.raises(ForbiddenError):
        desk.get(admins, desk.ann)


def test_a_token_of_a_project_reaches_requests_for_its_agents(desk: Desk) -> None:
    """And no others, be it an admin's."""
    agent = desk.world.agent()
    seen = desk.ask(agent)
    project = seen.agent.project_id
    inside = [replace(each, token=api_row(each.user_id, project_id=project)) for each in (desk.root, desk.ann)]
    outside = [
        replace(each, token=api_row(each.user_id, project_id=fresh_id("proj"))) for each in (desk.root, desk.ann)
    ]

    for principal in inside:
        assert desk.listed(principal) == {seen.request.id}
        assert desk.get(seen, principal).seen == seen
    for principal in outside:
        assert desk.listed(principal) == set()
        for use_case in (get_request, cancel_request, approve, partial(reject, notes=NO)):
            run: Any = partial(use_case, request_id=seen.request.id, principal=principal)
            with pytest.raises(ForbiddenError):
                desk.world.store.write(run)
        with pytest.raises(ForbiddenError):
            desk.ask(agent, by=principal)


def test_a_look_at_a_request_shows_where_the_agent_stands_now(desk: Desk) -> None:
    """As time has left it: what an expired lease held is back."""
    agent = desk.world.agent(100 * USD)
    seen = desk.ask(agent)
    lease = agent.handshake(50 * USD).lease.id
    agent.report(lease, "r1", 20 * USD)
    held = desk.get(seen).balance
    desk.world.clock.instant += desk.world.policy.ttl + desk.world.policy.grace

    found = desk.get(seen).balance

    assert held is not None
    assert found is not None
    assert (held.allocated, held.spent, held.remaining) == (100 * USD, 20 * USD, 50 * USD)
    assert (found.allocated, found.spent, found.remaining) == (100 * USD, 20 * USD, 80 * USD)


# --- the end of agents and users --------------------------------------------


def test_what_waits_for_an_agent_ends_with_it(desk: Desk) -> None:
    """In its transaction, whoever asked; decided ones and other agents' stay as they are."""
    agent, other = desk.world.agent(), desk.world.agent()
    waiting = [desk.ask(agent), desk.ask(agent, by=desk.dana)]
    done, elsewhere = desk.reject(desk.ask(agent)), desk.ask(other)
    told = len(desk.events())

    desk.write(delete_agent, agent.id, principal=desk.root)

    for seen in waiting:
        assert desk.stored(seen) == seen.request._replace(
            status="cancelled", cancelled_at=NOON, cancelled_by=desk.root.user_id,
            review_notes="Auto-cancelled: Agent was deleted",
        )  # fmt: skip
    assert (desk.stored(done), desk.stored(elsewhere)) == (done.request, elsewhere.request)
    assert [name for name, _ in desk.events()[told:]] == ["budget_request_cancelled"] * 2
    assert len(desk.rows("BUDGET_REQUEST_CANCELLED")) == 2
    (row,) = desk.rows("AGENT_DELETED")
    assert json.loads(row.metadata)["budget_requests_cancelled"] == 2
    found = desk.get(waiting[0])
    assert found.balance is not None
    assert (found.seen.agent.name, found.balance.allocated) == ("worker", 100 * USD)
    assert desk.listed(desk.root, agent_id=agent.id) == {each.request.id for each in (*waiting, done)}
    with pytest.raises(RequestAlreadyReviewedError):
        desk.approve(waiting[0])
    assert desk.world.verify().holds


def test_what_a_user_asked_for_ends_with_the_user(desk: Desk) -> None:
    """What others asked for the same agents waits on; the names stay known."""
    agent = desk.world.agent()
    own, admins = desk.ask(agent), desk.ask(agent, by=desk.dana)
    rejected = desk.reject(desk.ask(agent))

    removed = desk.write(delete_user, desk.world.owner_id, principal=desk.root)

    assert removed.budget_requests_cancelled == 1
    assert desk.stored(own) == own.request._replace(
        status="cancelled", cancelled_at=NOON, cancelled_by=desk.root.user_id,
        review_notes="Auto-cancelled: user deleted",
    )  # fmt: skip
    assert (desk.stored(admins), desk.stored(rejected)) == (admins.request, rejected.request)
    assert desk.get(own).seen.requester_name == "ann"
    assert desk.events()[-1][0] == "budget_request_cancelled"
    (row,) = desk.rows("USER_DELETED")
    assert json.loads(row.metadata)["budget_requests_cancelled"] == 1


def test_a_deletion_that_fails_cancels_nothing(desk: Desk) -> None:
    """One transaction."""
    seen = desk.ask(desk.world.agent())

    def fails(uow: UnitOfWork) -> None:
        delete_agent(uow, seen.request.agent_id, principal=desk.root)
        delete_agent(uow, seen.request.agent_id, principal=desk.root)

    with pytest.raises(AgentNotFoundError):
        desk.world.store.write(fails)

    assert desk.stored(seen) == seen.request


# --- retries ----------------------------------------------------------------


def test_a_retry_of_a_request_makes_no_second_one(desk: Desk) -> None:
    """It is told the same one, as it stands by now, even where it could not be made any more."""
    agent = desk.world.agent(100 * USD)
    first = desk.ask(agent, retry=retry())
    again = desk.ask(agent, retry=retry())
    approved = desk.approve(first)
    later = desk.ask(agent, retry=retry())

    assert again == replace(first, is_replay=True)
    assert later == replace(approved.seen, is_replay=True)
    assert len(desk.rows("BUDGET_REQUEST_CREATED")) == 1
    with pytest.raises(IdempotencyKeyReusedError):
        desk.ask(agent, 170 * USD, retry=retry(body="other"))
    assert desk.ask(agent, 170 * USD, retry=retry("k2")).is_replay is False


def test_a_retry_of_an_approval_moves_no_money_again(desk: Desk) -> None:
    """And is told what it had moved, whatever the allocation is by now."""
    agent = desk.world.agent(100 * USD)
    seen = desk.ask(agent)
    first = desk.approve(seen, approved=120 * USD, retry=retry())
    desk.write(set_allocation, agent.id, 300 * USD, actor=ADMIN)

    again = desk.approve(seen, approved=120 * USD, retry=retry())

    assert again == replace(first, is_replay=True)
    assert (again.old_budget, again.new_budget) == (100 * USD, 120 * USD)
    assert agent.balance().allocated == 300 * USD
    with pytest.raises(IdempotencyKeyReusedError):
        desk.approve(seen, retry=retry(body="other"))
    with pytest.raises(RequestAlreadyReviewedError):
        desk.approve(seen, retry=retry("k2"))


def test_a_retry_of_a_rejection_is_told_the_same(desk: Desk) -> None:
    """Another decision is still refused."""
    seen = desk.ask(desk.world.agent())
    first = desk.reject(seen, retry=retry())

    assert desk.reject(seen, retry=retry()) == replace(first, is_replay=True)
    with pytest.raises(IdempotencyKeyReusedError):
        desk.reject(seen, retry=retry(body="other"))
    with pytest.raises(RequestAlreadyReviewedError):
        desk.reject(seen)
    assert len(desk.rows("BUDGET_REQUEST_REJECTED")) == 1


def test_a_retry_of_a_direct_change_changes_nothing_more(desk: Desk) -> None:
    """The amounts of the first answer, the spending of now."""
    agent = desk.world.agent(100 * USD)

    def change() -> ChangedAllocation:
        return desk.write(set_allocation, agent.id, 150 * USD, actor=ADMIN, reason="more", retry=retry())

    first = change()
    desk.world.clock.pass_s(3)
    desk.write(set_allocation, agent.id, 200 * USD, actor=ADMIN)
    agent.report(agent.handshake(20 * USD).lease.id, "r1", 5 * USD)

    again = change()

    assert again == replace(first, balance=agent.balance(), is_replay=True)
    assert (again.previous, again.allocated, again.increase, again.reason) == (100 * USD, 150 * USD, 50 * USD, "more")
    assert (again.balance.spent, again.balance.allocated, again.modified_at) == (5 * USD, 200 * USD, NOON)
    assert agent.balance().allocated == 200 * USD
    with pytest.raises(IdempotencyKeyReusedError):
        desk.write(set_allocation, agent.id, 150 * USD, actor=ADMIN, retry=retry(body="other"))


def test_what_is_refused_is_not_remembered(desk: Desk) -> None:
    """The same key may try again when things are better; who may not is not told."""
    agent = desk.world.agent(100 * USD)
    bad: list[Callable[[], object]] = [
        lambda: desk.ask(agent, 90 * USD, retry=retry()),
        lambda: desk.ask(agent, 0, retry=retry()),
    ]
    for each in bad:
        with pytest.raises(IroncageError):
            each()

    seen = desk.ask(agent, retry=retry())

    assert seen.is_replay is False
    with pytest.raises(ForbiddenError):
        desk.ask(agent, by=desk.bea, retry=retry())
    desk.write(delete_agent, agent.id, principal=desk.root)
    with pytest.raises(AgentNotFoundError):
        desk.ask(agent, retry=retry())


def test_what_is_remembered_are_ids_and_amounts(desk: Desk) -> None:
    """No words of anybody's."""
    agent = desk.world.agent(100 * USD)
    seen = desk.ask(agent, retry=retry("a"))
    approved = desk.approve(seen, notes="secret plans", retry=retry("b"))
    rejected = desk.reject(desk.ask(agent, 160 * USD), retry=retry("c"))
    changed = desk.write(set_allocation, agent.id, 170 * USD, actor=ADMIN, reason="secret", retry=retry("d"))

    found = desk.world.store.read(lambda uow: [uow.remembered_answers.find("scope", key) for key in "abcd"])

    assert [json.loads(each.result) for each in found if each is not None] == [
        {"id": seen.request.id},
        {"old_budget": 100 * USD, "new_budget": 150 * USD, "entry_id": approved.entry_id},
        {"id": rejected.request.id},
        {"previous": 150 * USD, "allocated": 170 * USD, "entry_id": changed.entry_id, "at": NOON},
    ]


# --- at the same time -------------------------------------------------------


DECISIONS: list[tuple[RequestStatus, Callable[[Desk, SeenRequest], object]]] = [
    ("approved", lambda desk, seen: desk.approve(seen, approved=120 * USD)),
    ("approved", lambda desk, seen: desk.approve(seen, approved=130 * USD)),
    ("rejected", lambda desk, seen: desk.reject(seen)),
    ("rejected", lambda desk, seen: desk.reject(seen, NO * 2)),
    ("cancelled", lambda desk, seen: desk.cancel(seen)),
]


def race(desk: Desk, seen: SeenRequest) -> list[str]:
    """Return what became of all decisions that were made at once."""
    start = threading.Barrier(len(DECISIONS))
    outcomes: list[str] = []

    def decide(status: RequestStatus, decision: Callable[[Desk, SeenRequest], object]) -> None:
        start.wait()
        try:
            decision(desk, seen)
        except (RequestAlreadyReviewedError, CannotCancelReviewedError) as refusal:
            outcomes.append(refusal.code)
        else:
            outcomes.append(status)

    threads = [threading.Thread(target=decide, args=each) for each in DECISIONS]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return outcomes


def test_of_many_decisions_at_once_exactly_one_holds(tmp_path: Path) -> None:
    """The others are told that it is decided; the money moves once or not at all."""
    clock = SetClock()
    with SqliteStore(tmp_path / "ironcage.db", clock=clock) as store:
        desk = Desk(World(store, clock))
        for _ in range(12):
            agent = desk.world.agent(100 * USD)
            seen = desk.ask(agent)

            outcomes = race(desk, seen)

            final = desk.stored(seen)
            assert len(outcomes) == len(DECISIONS)
            assert [each for each in outcomes if each.islower()] == [final.status]
            assert agent.balance().allocated == (final.approved_budget or 100 * USD)
            assert len(agent.entries()) == (2 if final.status == "approved" else 1)
        assert desk.world.verify().holds


def test_requests_outlive_a_restart(tmp_path: Path) -> None:
    """Waiting and decided."""
    path, clock = tmp_path / "ironcage.db", SetClock()
    with SqliteStore(path, clock=clock) as store:
        desk = Desk(World(store, clock))
        agent = desk.world.agent()
        waiting, done = desk.ask(agent), desk.approve(desk.ask(agent)).seen

    with SqliteStore(path, clock=clock) as store:
        found = store.read(lambda uow: uow.budget_requests.page(RequestFilter(), Paging()))

    assert set(found.rows) == {waiting.request, done.request}
