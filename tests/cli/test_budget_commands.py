"""Budgets from a shell: shown, set, and the money followed to the last movement."""

import json
from collections.abc import Callable
from decimal import Decimal

import pytest

from ironcage_core.ports.lists import AuditFilter, Paging
from ironcage_http.commands import budget as commands
from ironcage_http.commands.shell import Exit, Failure
from tests.support.crew import busy_agent, crew_of
from tests.support.desk import Desk
from tests.support.terminal import at_a_terminal
from tests.support.world import USD, TestAgent

Busy = tuple[TestAgent, str]


@pytest.fixture
def busy(desk: Desk) -> Busy:
    """Return an agent of ann's, `worker`, with $10.00 of which $1.50 are spent and $3.50 lent, and its lease."""
    return busy_agent(crew_of(desk.store))


def test_a_budget_is_shown_by_the_name_of_its_agent(admin_desk: Desk, busy: Busy) -> None:
    """As a table, and as the server says it."""
    told = admin_desk.ask("budget", "show", "worker")

    shown = admin_desk.run("budget", "show", busy[0].id).words
    assert (told["agent_id"], told["total_spent"], told["budget_held"]) == (busy[0].id, 1.5, 3.5)
    assert "budget $10.00 spent $1.50 lent $3.50 remaining $5.00 used 15.00 %" in shown


@pytest.mark.usefixtures("busy")
def test_a_budget_is_shown_as_it_was(admin_desk: Desk) -> None:
    """From the first movement of money on."""
    first = admin_desk.ask("budget", "ledger")["data"][-1]["posted_at"]

    shown = admin_desk.run("budget", "show", "worker", "--at", first)

    assert (shown.code, "budget $10.00 spent" in shown.words) == (0, True)
    assert admin_desk.run("budget", "show", "worker", "--at", "2020-01-01").code == 4
    assert admin_desk.run("budget", "show", "worker", "--at", "yesterday").code == 4


def test_a_higher_budget_is_set_at_once(admin_desk: Desk, busy: Busy) -> None:
    """With the reason in its history."""
    shown = admin_desk.run("budget", "set", "worker", "12.50", "--reason", "a busy month")

    assert shown.out == "the budget of worker is $12.50 now, of which $7.50 remain; it was $10.00\n", shown.err
    assert "$10.00 │ $12.50 │ admin │ - │ no │ a busy month" in admin_desk.run("budget", "history", "worker").words
    assert busy[0].balance().allocated == 12_500_000


def test_a_lower_budget_needs_a_yes(admin_desk: Desk, busy: Busy) -> None:
    """Exit 2 where nobody can be asked, and nothing is done."""
    shown = admin_desk.run("budget", "set", "worker", "8")

    assert (shown.code, "give --yes" in shown.err, busy[0].balance().allocated) == (2, True, 10 * USD)
    assert admin_desk.ask("budget", "set", "worker", "8", "--yes")["new_budget"] == 8
    assert busy[0].balance().allocated == 8 * USD


def test_who_is_asked_is_told_what_would_be(admin_desk: Desk, busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing but that is done: a budget that has changed meanwhile stays."""
    asked: list[str] = []

    def answering(do: Callable[[], object]) -> Callable[..., None]:
        def confirm(question: str, *, is_sure: bool) -> None:
            asked.append(question)
            assert not is_sure
            do()

        return confirm

    monkeypatch.setattr(commands, "confirm", answering(lambda: None))
    said_yes = admin_desk.run("budget", "set", "worker", "8")
    monkeypatch.setattr(commands, "confirm", answering(lambda: admin_desk.ask("budget", "set", "worker", "30")))
    changed_meanwhile = admin_desk.run("budget", "set", "worker", "7")
    monkeypatch.setattr(commands, "confirm", answering(_no))
    said_no = admin_desk.run("budget", "set", "worker", "6")

    assert asked[0] == "Lower the budget of worker from $10.00 to $8.00, so that $3.00 remain?"
    assert [said_yes.code, changed_meanwhile.code, said_no.code] == [0, 4, 130]
    assert "BUDGET_CHANGED" in changed_meanwhile.err
    assert busy[0].balance().allocated == 30 * USD


def test_who_sits_at_a_terminal_is_asked(admin_desk: Desk, busy: Busy) -> None:
    """And a yes is enough."""
    code, seen = at_a_terminal(admin_desk, "budget", "set", "worker", "8", asked="remain? [y/N]", typed="y")

    assert (code, "the budget of worker is $8.00 now" in seen) == (0, True), seen
    assert busy[0].balance().allocated == 8 * USD


def _no() -> None:
    raise Failure(Exit.INTERRUPTED, "Nothing was done.", code="NOT_CONFIRMED")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["10"], "BUDGET_UNCHANGED"),
        (["1", "--yes"], "BUDGET_BELOW_SPENT"),
        (["20", "--expect", "9.99"], "BUDGET_CHANGED"),
        (["0"], "VALIDATION_ERROR"),
    ],
)
def test_what_cannot_be_is_refused(admin_desk: Desk, busy: Busy, arguments: list[str], code: str) -> None:
    """Exit 4, and the budget stays."""
    shown = admin_desk.run("budget", "set", "worker", *arguments, "--json")

    assert (shown.code, json.loads(shown.err)["code"], shown.out) == (4, code, "")
    assert busy[0].balance().allocated == 10 * USD


@pytest.mark.parametrize("amount", ["1.2345678", "ten", "1e400", "NaN", ""])
@pytest.mark.usefixtures("busy")
def test_what_is_no_amount_is_wrong_usage(admin_desk: Desk, amount: str) -> None:
    """Nothing is asked of the server."""
    assert admin_desk.run("budget", "set", "worker", amount).code == 2


@pytest.mark.usefixtures("busy")
def test_only_an_admin_sets_a_budget(desk: Desk) -> None:
    """Its owner is refused, and sees it."""
    desk.log_in("ann")

    assert desk.run("budget", "set", "worker", "100").code == 4
    assert desk.run("budget", "show", "worker").code == 0


def test_another_s_agent_is_not_shown(desk: Desk, busy: Busy) -> None:
    """Nor found by its name."""
    desk.log_in("vera")

    by_id, by_name = desk.run("budget", "show", busy[0].id), desk.run("budget", "show", "worker")

    assert (by_id.code, "FORBIDDEN" in by_id.err) == (4, True)
    assert (by_name.code, by_name.err) == (4, "Error: There is no agent worker\n")


def test_every_movement_of_money_is_listed(admin_desk: Desk, busy: Busy) -> None:
    """Newest first; filters narrow."""
    agent, lease_id = busy
    busy_agent(crew_of(admin_desk.store), "other")

    def kinds(*filters: str) -> list[str]:
        return [row["kind"] for row in admin_desk.ask("budget", "ledger", *filters)["data"]]

    assert kinds() == ["spend", "grant", "adjust"] * 2
    assert kinds("--agent", "worker") == ["spend", "grant", "adjust"]
    assert kinds("--lease-id", lease_id) == ["spend", "grant"]
    assert kinds("--agent", agent.id, "--kind", "grant") == ["grant"]
    assert kinds("--to", "2020-01-01") == []
    assert kinds("--from", "2020-01-01") == ["spend", "grant", "adjust"] * 2
    assert "spend │ $1.50 │ report" in admin_desk.run("budget", "ledger", "--agent", "worker").words


@pytest.mark.usefixtures("busy")
def test_agents_are_listed_by_what_they_spent(admin_desk: Desk) -> None:
    """The most used first."""
    busy_agent(crew_of(admin_desk.store), "spender", budget=2, lent=2)

    told = admin_desk.ask("budget", "status")["data"]

    assert [row["agent_name"] for row in told] == ["spender", "worker"]
    assert [row["agent_name"] for row in admin_desk.ask("budget", "status", "--threshold", 50)["data"]] == ["spender"]
    assert [row["agent_name"] for row in admin_desk.ask("budget", "status", "--risk-level", "low")["data"]] == [
        "worker"
    ]
    assert (
        "│ worker │ active │ low │ 15.00 % │ $10.00 │ $1.50 │ $3.50 │ $5.00 │"
        in admin_desk.run("budget", "status", "--agent", "worker").words
    )


def test_a_lease_is_shown_and_taken_back(admin_desk: Desk, busy: Busy) -> None:
    """Only with a yes; what it holds goes back, and why is remembered."""
    agent, lease_id = busy
    listed = admin_desk.ask("budget", "leases", "--agent", "worker", "--status", "active")["data"]
    refused = admin_desk.run("budget", "revoke", lease_id)
    still = agent.lease(lease_id).status

    shown = admin_desk.run("budget", "revoke", lease_id, "--yes", "--reason", "the pod is gone")

    assert [each["id"] for each in listed] == [lease_id]
    assert (refused.code, still) == (2, "active")
    assert shown.out == f"{lease_id} is revoked (manual): $1.50 spent, $3.50 taken back\n", shown.err
    assert agent.balance().held == 0
    assert admin_desk.ask("budget", "lease", lease_id)["reclaimed"] == 3.5
    assert admin_desk.ask("budget", "leases", "--status", "active")["data"] == []
    assert admin_desk.run("budget", "revoke", "lease_nothing", "--yes").code == 4


@pytest.mark.usefixtures("busy")
def test_amounts_are_exact(admin_desk: Desk) -> None:
    """To the micro-dollar, on the way there and back."""
    admin_desk.ask("budget", "set", "worker", "12.345678")

    shown = admin_desk.run("budget", "show", "worker", "--json")

    assert json.loads(shown.out, parse_float=Decimal)["total_allocated"] == Decimal("12.345678")
    assert "$12.345678" in admin_desk.run("budget", "show", "worker").out
    rows = admin_desk.store.read(lambda uow: uow.audit.page(AuditFilter(operation="BUDGET_UPDATED"), Paging(1, 9)))
    assert len(rows.rows) == 1
