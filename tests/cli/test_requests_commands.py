"""Requests for larger budgets from a shell: asked for by an owner, decided by an admin."""

import json

import pytest

from tests.support.crew import crew_of
from tests.support.desk import Desk
from tests.support.world import USD, TestAgent

WHY = "the index of the archive is rebuilt"


@pytest.fixture
def worker(desk: Desk) -> TestAgent:
    """Return an agent of ann's with $10.00."""
    return crew_of(desk.store).agent(10 * USD, name="worker")


@pytest.fixture
def request_id(desk: Desk, worker: TestAgent) -> str:  # noqa: ARG001 - it is asked for by name
    """Return a request of ann's for $30.00; then the admin is logged in."""
    desk.log_in("ann")
    made = desk.ask("requests", "create", "worker", "30", "--reason", WHY)
    desk.log_in("admin")
    return str(made["id"])


def test_a_request_is_made_by_an_owner(desk: Desk, worker: TestAgent) -> None:
    """And listed with what it asks for and why."""
    desk.log_in("ann")

    shown = desk.run("requests", "create", "worker", "30", "--reason", WHY)

    assert (shown.code, shown.out.endswith(" asks for $30.00 instead of $10.00\n")) == (0, True), shown.err
    assert "worker │ ann │ pending │ $10.00 │ $30.00 │ - │" in desk.run("requests", "list").words
    assert worker.balance().allocated == 10 * USD


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["worker", "30", "--reason", "short"], 4, "justification: must have 20 to 500 characters"),
        (["worker", "10", "--reason", WHY], 4, "BUDGET_DECREASE_REQUEST"),
        (["nobody", "30", "--reason", WHY], 4, "There is no agent nobody"),
        (["worker", "30"], 2, "Missing option '--reason'"),
        (["worker", "much", "--reason", WHY], 2, "much"),
    ],
)
@pytest.mark.usefixtures("worker")
def test_what_cannot_be_asked_for(admin_desk: Desk, arguments: list[str], code: int, says: str) -> None:
    """Nothing is made."""
    shown = admin_desk.run("requests", "create", *arguments)

    assert (shown.code, says in shown.err) == (code, True), shown.err
    assert admin_desk.ask("requests", "list")["data"] == []


def test_an_approval_sets_the_budget(desk: Desk, worker: TestAgent, request_id: str) -> None:
    """To what was asked for."""
    shown = desk.run("requests", "approve", request_id, "--notes", "go on")

    assert shown.out == "the budget of worker is $30.00 now; it was $10.00\n", shown.err
    assert worker.balance().allocated == 30 * USD
    assert "status approved" in desk.run("requests", "show", request_id).words
    assert desk.ask("requests", "show", request_id)["review_notes"] == "go on"


def test_an_approval_may_be_of_another_amount(desk: Desk, worker: TestAgent, request_id: str) -> None:
    """And a second decision is refused."""
    told = desk.ask("requests", "approve", request_id, "--amount", "12.50")
    again = desk.run("requests", "reject", request_id, "--reason", "please use the smaller model", "--json")

    assert (told["agent"]["new_budget"], worker.balance().allocated) == (12.5, 12_500_000)
    assert (again.code, json.loads(again.err)["code"]) == (4, "REQUEST_ALREADY_REVIEWED")


def test_a_rejection_says_why(desk: Desk, worker: TestAgent, request_id: str) -> None:
    """And leaves the budget."""
    too_short = desk.run("requests", "reject", request_id, "--reason", "no")
    shown = desk.run("requests", "reject", request_id, "--reason", "please use the smaller model")

    assert (too_short.code, shown.out) == (4, f"{request_id} is rejected\n"), shown.err
    assert worker.balance().allocated == 10 * USD
    assert desk.ask("requests", "show", request_id)["review_notes"] == "please use the smaller model"


def test_who_asked_may_take_it_back(desk: Desk, request_id: str) -> None:
    """But not decide."""
    desk.log_in("ann")

    approved, cancelled = desk.run("requests", "approve", request_id), desk.run("requests", "cancel", request_id)

    assert (approved.code, "FORBIDDEN" in approved.err) == (4, True)
    assert cancelled.out == f"{request_id} is cancelled\n", cancelled.err


def test_requests_are_filtered(desk: Desk, request_id: str) -> None:
    """By status, agent and requester."""

    def ids(*filters: str) -> list[str]:
        return [each["id"] for each in desk.ask("requests", "list", *filters)["data"]]

    assert ids("--status", "pending", "--agent", "worker", "--requester", "ann") == [request_id]
    assert ids("--status", "approved") == []
    assert desk.run("requests", "list", "--status", "odd").code == 4
    assert desk.run("requests", "show", "breq_nothing").code == 4
