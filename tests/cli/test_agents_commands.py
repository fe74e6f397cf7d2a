"""Agents from a shell: made, looked at, changed, stopped and deleted, and the one time their token is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.desk import Desk
from tests.support.terminal import at_a_terminal

KEY = "sk-proj-0123456789abcdefghij"


def _agent(desk: Desk, name: str = "worker", *more: object) -> dict[str, Any]:
    made: dict[str, Any] = desk.ask("agents", "create", name, "--budget", "25", *more)
    return made


def _key(desk: Desk, name: str, tmp_path: Path) -> str:
    file = tmp_path / "key"
    file.write_text(KEY)
    return str(desk.ask("providers", "add", "openai", "--name", name, "--key-file", file)["id"])


def test_an_agent_is_made_with_all_that_is_said_of_it(admin_desk: Desk, tmp_path: Path) -> None:
    """Keys in their order, and what is named is found by its name."""
    first, second = _key(admin_desk, "first", tmp_path), _key(admin_desk, "second", tmp_path)
    project = admin_desk.ask("projects", "create", "Night shift")

    made = _agent(
        admin_desk, "w", "--provider", "second", "--provider", first, "--project", "Night shift", "--owner", "ann",
        "--description", "counts", "--tag", "a", "--tag", "b", "--budget", "2.50",
    )  # fmt: skip

    ann = admin_desk.store.read(lambda uow: uow.users.find_by_username("ann"))
    assert ann is not None
    assert (made["providers"], made["provider_key_id"]) == ([second, first], second)
    assert (made["project_id"], made["owner_id"]) == (project["id"], ann.id)
    assert (made["description"], made["tags"], made["budget"]) == ("counts", ["a", "b"], 2.5)


def test_a_new_token_is_the_last_line_and_shown_this_once(admin_desk: Desk) -> None:
    """Standard error says so; no other command shows it."""
    shown = admin_desk.run("agents", "create", "worker", "--budget", "25")
    token = shown.out.splitlines()[-1]

    assert (shown.code, shown.out.count(token)) == (0, 1)
    assert (token.startswith("eyJ"), token in shown.err, "shown this once" in shown.err) == (True, False, True)
    for other in ("show", "status", "metrics", "providers", "api-tokens"):
        assert token not in admin_desk.run("agents", other, "worker").out
    assert token not in admin_desk.run("agents", "token", "show", "worker").out


def test_a_new_token_is_in_the_document_of_a_program(admin_desk: Desk) -> None:
    """As over HTTP."""
    shown = admin_desk.run("agents", "create", "worker", "--budget", "25", "--json")

    assert shown.json["ic_token"]["token"].startswith("eyJ")


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_token_goes_into_a_new_file_instead(admin_desk: Desk, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Its owner alone may read it, and it is shown nowhere."""
    file = tmp_path / "token"

    shown = admin_desk.run("agents", "create", "worker", "--budget", "25", "--token-out", file, *flags)

    token = file.read_text().removesuffix("\n")
    assert (shown.code, file.stat().st_mode & 0o777, token.count(".")) == (0, 0o600, 2)
    assert (token in shown.out + shown.err, str(file) in shown.out) == (False, True)
    assert [each for each in tmp_path.iterdir() if each.name.startswith("token")] == [file]


def test_a_token_is_written_over_no_file(admin_desk: Desk, tmp_path: Path) -> None:
    """Then none is made; nor is one in a folder that is not there, or through a link."""
    file, link = tmp_path / "token", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")

    codes = [
        admin_desk.run("agents", "create", "worker", "--budget", "25", "--token-out", place).code
        for place in (file, link, tmp_path / "missing" / "token", tmp_path)
    ]

    assert (codes, file.read_text(), (tmp_path / "nowhere").exists()) == ([2, 2, 2, 2], "mine", False)
    assert admin_desk.ask("agents", "list")["data"] == []


def test_a_refused_agent_leaves_no_file_for_its_token(admin_desk: Desk, tmp_path: Path) -> None:
    """The next try may name the same one."""
    file = tmp_path / "token"

    refused = admin_desk.run("agents", "create", "worker", "--budget", "0", "--token-out", file)

    assert (refused.code, "budget" in refused.err, file.exists()) == (4, True, False)
    _agent(admin_desk, "worker", "--token-out", file)
    assert file.exists()


def test_every_bad_field_is_named(admin_desk: Desk) -> None:
    """All at once."""
    shown = admin_desk.run("agents", "create", "x" * 101, "--budget", "0", "--tag", "t" * 51, "--json")

    assert (shown.code, shown.out) == (4, "")
    assert set(json.loads(shown.err)["details"]["fields"]) == {"name", "budget", "tags[0]"}


@pytest.mark.parametrize("amount", ["abc", "1e-7", "NaN", "1_0", ""])
def test_what_is_no_amount_is_wrong_usage(admin_desk: Desk, amount: str) -> None:
    """Before anybody is asked."""
    shown = admin_desk.run("agents", "create", "worker", "--budget", amount)

    assert (shown.code, "--budget" in shown.err) == (2, True)


def test_agents_are_listed_by_what_is_asked_for(admin_desk: Desk, tmp_path: Path) -> None:
    """Every filter of the route, by name where it names something."""
    key = _key(admin_desk, "main", tmp_path)
    admin_desk.ask("projects", "create", "Search")
    wanted = _agent(admin_desk, "one", "--project", "Search", "--provider", key, "--owner", "ann", "--tag", "prod")
    _agent(admin_desk, "two")

    for filters in (
        ("--name", "on"), ("--tag", "prod"), ("--project", "Search"), ("--provider", "main"), ("--owner", "ann"),
        ("--owner-id", wanted["owner_id"], "--status", "active", "--runtime-status", "idle"),
    ):  # fmt: skip
        assert [each["name"] for each in admin_desk.ask("agents", "list", *filters)["data"]] == ["one"], filters
    names = [each["name"] for each in admin_desk.ask("agents", "list", "--sort", "name")["data"]]
    assert names == ["one", "two"]
    assert f"{wanted['id']} │ one │ active │ idle │ $25.00 │ $25.00" in admin_desk.run("agents", "list").words


def test_an_agent_is_shown_as_a_table_and_as_json(admin_desk: Desk) -> None:
    """By name and by id."""
    made = _agent(admin_desk, "worker", "--tag", "prod")

    words = admin_desk.run("agents", "show", "worker").words
    status, metrics = (admin_desk.run("agents", what, made["id"]).words for what in ("status", "metrics"))

    for told in (
        f"id {made['id']}",
        "name worker",
        "tags prod",
        "budget $25.00",
        "used 0.00 %",
        made["ic_token"]["id"],
    ):
        assert told in words
    assert "runtime idle" in status
    assert "requests today 0" in status
    assert "cost of its calls $0.00" in metrics
    assert admin_desk.ask("agents", "show", made["id"])["name"] == "worker"
    assert admin_desk.ask("agents", "status", "worker")["budget"]["total"] == 25
    assert admin_desk.ask("agents", "metrics", "worker")["requests"] == {"total": 0, "succeeded": 0, "failed": 0}


def test_a_change_leaves_alone_what_is_not_given(admin_desk: Desk) -> None:
    """And an empty text takes away what is there."""
    admin_desk.ask("projects", "create", "Search")
    before = _agent(admin_desk, "worker", "--description", "counts", "--tag", "a")

    renamed = admin_desk.ask("agents", "update", "worker", "--name", "other", "--project", "Search", "--owner", "ann")
    cleared = admin_desk.ask("agents", "update", "other", "--description", "", "--tag", "")
    paused = admin_desk.ask("agents", "update", "other", "--status", "inactive", "--tag", "x", "--tag", "y")

    assert (renamed["name"], renamed["description"], renamed["tags"]) == ("other", "counts", ["a"])
    assert before["project_id"] != renamed["project_id"]
    assert before["owner_id"] != renamed["owner_id"]
    assert (cleared["name"], cleared["description"], cleared["tags"]) == ("other", None, [])
    assert (paused["status"], paused["tags"], paused["project_id"]) == ("inactive", ["x", "y"], renamed["project_id"])


def test_a_change_of_nothing_is_wrong_usage(admin_desk: Desk) -> None:
    """It would be refused."""
    _agent(admin_desk)

    shown = admin_desk.run("agents", "update", "worker")

    assert (shown.code, "at least one option" in shown.err) == (2, True)


def test_an_agent_stops_and_starts(admin_desk: Desk) -> None:
    """The reason stands in the audit log."""
    agent_id = _agent(admin_desk)["id"]

    stopped = admin_desk.run("agents", "stop", "worker", "--reason", "runs wild")
    standing = admin_desk.ask("agents", "status", "worker")
    started = admin_desk.ask("agents", "start", "worker")

    assert (stopped.code, "0 leases were revoked" in stopped.out) == (0, True)
    assert (standing["runtime_status"], standing["stop_hold"]) == ("stopped", True)
    assert started == {"agent_id": agent_id, "runtime_status": "idle", "stop_hold": False}
    rows = admin_desk.ask("api", "GET", "/audit-logs", "-q", "action=AGENT_STOPPED")["data"]
    assert "runs wild" in json.dumps(rows)


def test_the_keys_of_an_agent_are_set_in_their_order_and_taken_away(admin_desk: Desk, tmp_path: Path) -> None:
    """By name or id; an empty text alone leaves none."""
    first, second = _key(admin_desk, "first", tmp_path), _key(admin_desk, "second", tmp_path)
    _agent(admin_desk)

    def ids(*options: str) -> list[str]:
        return [each["id"] for each in admin_desk.ask("agents", "providers", "worker", *options)["providers"]]

    assert ids() == []
    assert ids("--set", "second", "--set", first) == [second, first]
    assert ids() == [second, first]
    assert "second" in admin_desk.run("agents", "providers", "worker").words
    assert ids("--remove", "second") == [first]
    assert ids("--set", "") == []
    assert admin_desk.run("agents", "providers", "worker", "--remove", first).code == 4
    assert admin_desk.run("agents", "providers", "worker", "--remove", first, "--set", first).code == 2


def test_an_ic_token_is_looked_at_renewed_revoked_and_issued(admin_desk: Desk, tmp_path: Path) -> None:
    """With every option of each."""
    made = _agent(admin_desk)["ic_token"]
    token = ("agents", "token")

    renewed = admin_desk.ask(
        *token, "regenerate", "worker", "--overlap-seconds", "60", "--revoke-leases", "--expires-at",
        "2999-01-31T00:00:00Z",
    )  # fmt: skip
    looked = admin_desk.ask(*token, "show", "worker")
    exists = admin_desk.run(*token, "issue", "worker", "--token-out", tmp_path / "token")
    revoked = admin_desk.ask(*token, "revoke", "worker", "--yes")
    issued = admin_desk.ask(*token, "issue", "worker", "--description", "node 7", "--permission", "llm:call")

    assert (renewed["id"], renewed["old_token_invalidated"]) == (made["id"], False)
    assert renewed["token"] != made["token"]
    assert looked["expires_at"].startswith("2999-01-31")
    assert (exists.code, "IC_TOKEN_EXISTS" in exists.err, (tmp_path / "token").exists()) == (4, True, False)
    assert (revoked["has_ic_token"], issued["id"] == made["id"]) == (False, False)
    assert (issued["description"], issued["permissions"]) == ("node 7", ["llm:call"])


def test_a_renewed_ic_token_is_shown_once(admin_desk: Desk, tmp_path: Path) -> None:
    """In the last line, or in a file; the document of a program then has it under neither of its names."""
    _agent(admin_desk)

    shown = admin_desk.run("agents", "token", "regenerate", "worker")
    kept = admin_desk.ask("agents", "token", "regenerate", "worker", "--token-out", tmp_path / "token")

    assert shown.out.count(shown.out.splitlines()[-1]) == 1
    assert shown.out.splitlines()[-1].startswith("eyJ")
    assert "old token is dead yes" in shown.words
    assert {"token", "ic_token"} & set(kept) == set()
    assert kept["token_file"] == str(tmp_path / "token")


def test_what_cannot_be_undone_needs_a_yes(admin_desk: Desk) -> None:
    """Without a terminal it must be said on the command line."""
    _agent(admin_desk)

    for command in (("agents", "delete"), ("agents", "token", "revoke")):
        shown = admin_desk.run(*command, "worker", typed="y\n")
        assert (shown.code, "give --yes" in shown.err, shown.out) == (2, True, "")

    assert admin_desk.ask("agents", "token", "show", "worker")["has_ic_token"] is True
    assert admin_desk.run("agents", "delete", "worker", "--yes").code == 0
    assert admin_desk.run("agents", "show", "worker").code == 4


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 130, 1), ("", 130, 1), ("y", 0, 0)])
def test_somebody_at_a_terminal_is_asked(admin_desk: Desk, answer: str, code: int, left: int) -> None:
    """Only a yes is one; a no says that nothing was done."""
    _agent(admin_desk)

    ended, seen = at_a_terminal(admin_desk, "agents", "delete", "worker", asked="[y/N]: ", typed=answer)

    assert (ended, "Delete agent worker" in seen, "Nothing was done" in seen) == (code, True, bool(left)), seen
    assert len(admin_desk.ask("agents", "list")["data"]) == left


@pytest.mark.parametrize("agent", ["nobody", "agent_" + "0" * 32, "../users"])
def test_an_agent_that_is_not_there_is_refused(admin_desk: Desk, agent: str) -> None:
    """By name, by id, and whatever stands in the path."""
    commands = (
        ("show",), ("status",), ("metrics",), ("providers",), ("api-tokens",), ("stop",), ("start",),
        ("delete", "--yes"), ("update", "--name", "x"), ("token", "show"), ("token", "issue"), ("token", "regenerate"),
        ("token", "revoke", "--yes"),
    )  # fmt: skip

    for command in commands:
        shown = admin_desk.run("agents", *command, "--json", "--", agent)

        assert (shown.code, shown.out, json.loads(shown.err)["code"]) == (4, "", "AGENT_NOT_FOUND"), command


def test_a_viewer_may_look_and_no_more(admin_desk: Desk) -> None:
    """The server's refusal, and exit 4."""
    mine = _agent(admin_desk, "veras", "--owner", "vera")["id"]
    other = _agent(admin_desk, "other")["id"]
    admin_desk.log_in("vera")

    refused = [
        admin_desk.run("agents", *arguments, "--json")
        for arguments in (
            ("create", "x", "--budget", "1"), ("update", mine, "--name", "x"), ("stop", mine), ("start", mine),
            ("delete", mine, "--yes"), ("show", other), ("token", "regenerate", mine),
            ("token", "revoke", mine, "--yes"), ("providers", mine, "--set", ""),
        )
    ]  # fmt: skip

    assert [(shown.code, json.loads(shown.err)["code"]) for shown in refused] == [(4, "FORBIDDEN")] * len(refused)
    assert [each["id"] for each in admin_desk.ask("agents", "list")["data"]] == [mine]
    assert admin_desk.run("agents", "show", "veras").code == 0


def test_an_owner_changes_his_own_agent_but_not_its_owner(admin_desk: Desk) -> None:
    """Nothing of a refused change is done."""
    _agent(admin_desk, "mine", "--owner", "ann")
    admin_desk.log_in("ann")

    renamed = admin_desk.ask("agents", "update", "mine", "--name", "better")
    refused = admin_desk.run("agents", "update", "better", "--name", "x", "--status", "inactive")

    assert (renamed["name"], refused.code) == ("better", 4)
    assert admin_desk.ask("agents", "show", "better")["status"] == "active"


def test_api_tokens_of_an_agent_are_listed(admin_desk: Desk) -> None:
    """Without their values."""
    agent_id = _agent(admin_desk)["id"]
    made = admin_desk.ask("tokens", "create", "watcher", "--agent", "worker")

    shown = admin_desk.run("agents", "api-tokens", "worker")

    assert (made["agent_id"], made["id"] in shown.out, made["token"] in shown.out) == (agent_id, True, False)
    assert [each["name"] for each in admin_desk.ask("agents", "api-tokens", agent_id)["data"]] == ["watcher"]
