"""Projects from a shell: made, looked at, changed and removed, and given provider keys."""

import json

import pytest

from tests.support.desk import Desk


def _key(desk: Desk, name: str, provider: str = "openai") -> str:
    shown = desk.run(
        "providers", "add", provider, "--name", name, "--key-file", "-", "--json", typed="sk-proj-0123456789abcdefghij"
    )
    return str(shown.json["id"])


def test_a_project_is_made_and_shown_by_name_and_id(admin_desk: Desk) -> None:
    """As a table and as JSON."""
    made = admin_desk.ask("projects", "create", "Night shift", "--description", "at night", "--owner", "ann")

    words = admin_desk.run("projects", "show", "Night shift").words

    assert admin_desk.ask("projects", "show", made["id"]) == made
    for told in (f"id {made['id']}", "description at night", f"owner {made['owner_id']}", "spent by its agents $0.00"):
        assert told in words


def test_the_well_known_projects_go_by_their_ids(admin_desk: Desk) -> None:
    """And by their names."""
    assert admin_desk.ask("projects", "show", "proj_master_001")["name"] == "Master"
    assert admin_desk.ask("projects", "show", "Master")["id"] == "proj_master_001"
    assert admin_desk.ask("projects", "show", "proj_orphaned")["name"] == "Orphaned"


def test_projects_are_listed(admin_desk: Desk) -> None:
    """By what is in their names, in the order asked for."""
    admin_desk.ask("projects", "create", "Search")

    assert [each["name"] for each in admin_desk.ask("projects", "list", "--name", "sea")["data"]] == ["Search"]
    assert admin_desk.ask("projects", "list", "--sort", "-name")["data"][0]["name"] == "Search"
    assert "Search │ 0 │ 0 │ 0" in admin_desk.run("projects", "list").words


def test_a_change_leaves_alone_what_is_not_given(admin_desk: Desk) -> None:
    """And an empty text takes the description away."""
    before = admin_desk.ask("projects", "create", "Search", "--description", "finds")

    renamed = admin_desk.ask("projects", "update", "Search", "--name", "Find", "--owner", "ann")
    cleared = admin_desk.ask("projects", "update", "Find", "--description", "")

    assert (renamed["id"], renamed["name"], renamed["description"]) == (before["id"], "Find", "finds")
    assert renamed["owner_id"] != before["owner_id"]
    assert (cleared["name"], cleared["description"], cleared["owner_id"]) == ("Find", None, renamed["owner_id"])
    assert admin_desk.run("projects", "update", "Find").code == 2


def test_a_project_has_one_key_of_a_provider(admin_desk: Desk) -> None:
    """Another takes its place; keys are taken away one by one or all at once."""
    first, second, other = _key(admin_desk, "first"), _key(admin_desk, "second"), _key(admin_desk, "a", "anthropic")
    admin_desk.ask("projects", "create", "Search")

    admin_desk.ask("projects", "assign", "Search", "first")
    replaced = admin_desk.ask("projects", "assign", "Search", second)
    shown = admin_desk.run("projects", "assign", "Search", "a").words

    assert (replaced["provider_key_id"], replaced["replaced_key_id"]) == (second, first)
    assert f"provider key {other}" in shown
    assert _keys(admin_desk) == 2
    assert admin_desk.run("projects", "unassign", "Search", "--provider-key", "first").code == 4
    admin_desk.ask("projects", "unassign", "Search", "--provider-key", "second")
    assert _keys(admin_desk) == 1
    admin_desk.ask("projects", "assign", "Search", "first")
    admin_desk.ask("projects", "unassign", "Search", "--provider", "anthropic")
    assert _keys(admin_desk) == 1
    assert "lost every provider key" in admin_desk.run("projects", "unassign", "Search").out
    assert _keys(admin_desk) == 0


def _keys(desk: Desk) -> int:
    return int(desk.ask("projects", "show", "Search")["provider_count"])


def test_removing_a_project_needs_a_yes(admin_desk: Desk) -> None:
    """One with agents in it stays, whatever is said."""
    made = admin_desk.ask("projects", "create", "Search")
    admin_desk.ask("agents", "create", "worker", "--budget", "1", "--project", "Search")

    asked = admin_desk.run("projects", "delete", "Search", typed="y\n")
    kept = admin_desk.run("projects", "delete", "Search", "--yes")
    admin_desk.ask("agents", "delete", "worker", "--yes")
    gone = admin_desk.ask("projects", "delete", "Search", "--yes")

    assert (asked.code, asked.out, kept.code, "PROJECT_NOT_EMPTY" in kept.err) == (2, "", 4, True)
    assert gone == {"project_id": made["id"], "deleted": True}
    assert admin_desk.run("projects", "show", "Search").code == 4


@pytest.mark.parametrize("project", ["nothing", "proj_" + "0" * 32])
def test_a_project_that_is_not_there_is_refused(admin_desk: Desk, project: str) -> None:
    """By name and by id."""
    key_id = _key(admin_desk, "main")

    for command in (
        ("show", project), ("update", project, "--name", "x"), ("delete", project, "--yes"),
        ("assign", project, key_id), ("unassign", project),
    ):  # fmt: skip
        shown = admin_desk.run("projects", *command, "--json")

        assert (shown.code, json.loads(shown.err)["code"]) == (4, "PROJECT_NOT_FOUND"), command
    assert json.loads(admin_desk.run("projects", "assign", "Master", "none", "--json").err)["code"] == (
        "PROVIDER_NOT_FOUND"
    )


def test_a_refusal_names_the_field_or_the_state(admin_desk: Desk) -> None:
    """What is taken, what is protected, what is too long."""
    admin_desk.ask("projects", "create", "Search")

    refused = [
        admin_desk.run("projects", *arguments, "--json")
        for arguments in (
            ("create", "search"), ("update", "Master", "--name", "x"), ("delete", "proj_orphaned", "--yes"),
            ("create", "x" * 101),
        )
    ]  # fmt: skip

    codes = [json.loads(shown.err)["code"] for shown in refused]
    assert codes == ["PROJECT_EXISTS", "PROJECT_PROTECTED", "PROJECT_PROTECTED", "VALIDATION_ERROR"]
    assert list(json.loads(refused[-1].err)["details"]["fields"]) == ["name"]
    assert [shown.code for shown in refused] == [4] * 4


def test_only_an_admin_changes_projects(admin_desk: Desk) -> None:
    """Others see those that concern them."""
    admin_desk.ask("projects", "create", "Search")
    admin_desk.log_in("vera")

    refused = [
        admin_desk.run("projects", *arguments, "--json")
        for arguments in (("create", "x"), ("update", "Master", "--name", "x"), ("delete", "Master", "--yes"))
    ]

    assert [(shown.code, json.loads(shown.err)["code"]) for shown in refused] == [(4, "FORBIDDEN")] * 3
    assert [each["name"] for each in admin_desk.ask("projects", "list")["data"]] == ["Master"]
    assert admin_desk.run("projects", "show", "Search").code == 4
