"""Usage limits from a shell: what a user may use."""

import json

import pytest

from tests.support.desk import Desk


@pytest.fixture
def limit_id(admin_desk: Desk) -> str:
    """Return a limit of ann's: 1000 tokens a day, $50.00 a month."""
    made = admin_desk.ask("limits", "create", "ann", "--tokens-per-day", 1000, "--cost-per-month", "50")
    return str(made["id"])


def test_a_limit_is_set_for_a_user_by_name(admin_desk: Desk) -> None:
    """In all or in one project."""
    project = admin_desk.ask("api", "POST", "/projects", "-f", "name=research")

    shown = admin_desk.run(
        "limits", "create", "ann", "--project", "research", "--requests-per-minute", 60, "--cost-per-month", "12.5"
    )

    assert shown.out.endswith(" limits ann: 60 requests a minute, $12.50 a month\n"), shown.err
    (made,) = admin_desk.ask("limits", "list")["data"]
    assert (made["project_id"], made["max_tokens_per_day"]) == (project["id"], None)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ann"], 4, "VALIDATION_ERROR"),
        (["nobody", "--tokens-per-day", "1"], 4, "There is no user nobody"),
        (["ann", "--project", "none", "--tokens-per-day", "1"], 4, "There is no project none"),
        (["ann", "--tokens-per-day", "0"], 2, "--tokens-per-day"),
        (["ann", "--cost-per-month", "lots"], 2, "lots"),
    ],
)
def test_what_is_no_limit_is_refused(admin_desk: Desk, arguments: list[str], code: int, says: str) -> None:
    """Nothing is made."""
    shown = admin_desk.run("limits", "create", *arguments)

    assert (shown.code, says in shown.err) == (code, True), shown.err
    assert admin_desk.ask("limits", "list")["data"] == []


def test_caps_change_one_by_one_and_an_empty_text_lifts_one(admin_desk: Desk, limit_id: str) -> None:
    """What is not spoken of stays."""
    shown = admin_desk.run("limits", "update", limit_id, "--tokens-per-day", "", "--requests-per-minute", "60")

    assert shown.out == f"{limit_id}: 60 requests a minute, $50.00 a month\n", shown.err
    nothing = admin_desk.run("limits", "update", limit_id)
    all_lifted = admin_desk.run(
        "limits", "update", limit_id, "--requests-per-minute", "", "--cost-per-month", "", "--json"
    )
    assert (nothing.code, all_lifted.code, json.loads(all_lifted.err)["code"]) == (2, 4, "VALIDATION_ERROR")


def test_a_limit_is_shown_with_what_counts_against_it(admin_desk: Desk, limit_id: str) -> None:
    """As a table and as JSON."""
    shown = admin_desk.run("limits", "show", limit_id).words

    assert "tokens a day 1,000 used today 0" in shown
    assert "cost a month $50.00 cost this month $0.00" in shown
    assert admin_desk.ask("limits", "show", limit_id)["usage"]["tokens_today"] == 0
    assert "│ 1,000 │ 0 │ - │ $50.00 │ $0.00 │" in admin_desk.run("limits", "list", "--user", "ann").words
    assert admin_desk.ask("limits", "list", "--user", "vera")["data"] == []


def test_a_limit_is_lifted_with_a_yes(admin_desk: Desk, limit_id: str) -> None:
    """Only then, and once."""
    refused = admin_desk.run("limits", "delete", limit_id)
    still = admin_desk.run("limits", "show", limit_id).code

    lifted, again = (admin_desk.run("limits", "delete", limit_id, "--yes") for _ in range(2))

    assert (refused.code, still) == (2, 0)
    assert (lifted.code, lifted.out) == (0, f"{limit_id} is lifted\n")
    assert (again.code, "LIMIT_NOT_FOUND" in again.err) == (4, True)


def test_a_user_sees_what_holds_her_and_cannot_change_it(desk: Desk, limit_id: str) -> None:
    """Exit 4."""
    desk.log_in("ann")

    assert [each["id"] for each in desk.ask("limits", "list")["data"]] == [limit_id]
    assert desk.run("limits", "update", limit_id, "--tokens-per-day", "5").code == 4
    assert desk.run("limits", "delete", limit_id, "--yes").code == 4
