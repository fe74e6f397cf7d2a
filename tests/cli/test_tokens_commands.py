"""API tokens from a shell: shown once or written into a file, changed, renewed, revoked and checked."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.desk import Desk

NOBODY = "tok_" + "0" * 32


def _token(desk: Desk, name: str = "ci", *more: object) -> dict[str, Any]:
    made: dict[str, Any] = desk.ask("tokens", "create", name, *more)
    return made


def test_a_token_is_made_with_all_that_is_said_of_it(admin_desk: Desk) -> None:
    """What is named is found by its name."""
    agent = admin_desk.ask("agents", "create", "worker", "--budget", "1")

    made = _token(
        admin_desk, "ci", "--description", "builds", "--project", "Master", "--agent", "worker", "--provider", "openai",
        "--scope", "agents:read", "--scope", "usage:read", "--expires-at", "2999-01-31T00:00:00Z",
        "--rate-limit-rps", "5", "--daily-request-limit", "6", "--daily-token-limit", "7",
        "--daily-limit-usd", "2.50", "--cost-cap-usd", "0.000001",
    )  # fmt: skip

    assert (made["name"], made["description"], made["provider"]) == ("ci", "builds", "openai")
    assert (made["project_id"], made["agent_id"]) == ("proj_master_001", agent["id"])
    assert (made["scopes"], made["expires_at"][:10]) == (["agents:read", "usage:read"], "2999-01-31")
    assert (made["rate_limit_rps"], made["daily_request_limit"], made["daily_token_limit"]) == (5, 6, 7)
    assert (made["daily_limit_usd"], made["cost_cap_usd"]) == (2.5, 0.000001)


def test_a_token_is_the_last_line_and_shown_this_once(admin_desk: Desk) -> None:
    """No other command shows it; it opens what its user may see."""
    shown = admin_desk.run("tokens", "create", "ci")
    token = shown.out.splitlines()[-1]
    token_id = admin_desk.ask("tokens", "list")["data"][0]["id"]

    assert (token.startswith("at_"), shown.out.count(token), token in shown.err) == (True, 1, False)
    assert "shown this once" in shown.err
    for command in (("list",), ("list-both",), ("show", token_id), ("update", token_id, "--name", "x")):
        assert token not in admin_desk.run("tokens", *command).out
    env = {"IRON_API_TOKEN": token, "IRON_URL": admin_desk.url}
    assert admin_desk.run("agents", "list", env=env).code == 0


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_tokens_go_into_new_files_instead(admin_desk: Desk, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Their owner alone may read them; a file that is there stays, and the token that was not made too."""
    first, second = tmp_path / "first", tmp_path / "second"

    made = admin_desk.run("tokens", "create", "ci", "--token-out", first, *flags)
    token_id = admin_desk.ask("tokens", "list")["data"][0]["id"]
    over = admin_desk.run("tokens", "rotate", token_id, "--token-out", first, *flags)
    rotated = admin_desk.run("tokens", "rotate", token_id, "--token-out", second, *flags)

    assert [each.code for each in (made, over, rotated)] == [0, 2, 0]
    for file, shown in ((first, made), (second, rotated)):
        value = file.read_text().removesuffix("\n")
        assert (value.startswith("at_"), file.stat().st_mode & 0o777) == (True, 0o600)
        assert value not in shown.out + shown.err
    assert first.read_text() != second.read_text()


def test_tokens_are_listed_by_what_is_asked_for(admin_desk: Desk) -> None:
    """Every filter of both lists."""
    admin_desk.ask("agents", "create", "worker", "--budget", "1")
    made = _token(admin_desk, "bound", "--agent", "worker", "--project", "Master")
    _token(admin_desk, "free")

    for filters in (("--name", "bou"), ("--agent", "worker"), ("--project", "Master", "--user", "admin")):
        assert [each["name"] for each in admin_desk.ask("tokens", "list", *filters)["data"]] == ["bound"], filters
    assert admin_desk.ask("tokens", "list", "--status", "revoked")["data"] == []
    assert admin_desk.ask("tokens", "list", "--user", "ann")["data"] == []
    assert f"{made['id']} │ bound │ active │ * │ - │ -" in admin_desk.run("tokens", "list", "--sort", "name").words
    kinds = [each["kind"] for each in admin_desk.ask("tokens", "list-both", "--agent", "worker")["data"]]
    assert sorted(kinds) == ["api", "ic"]
    for more in ((), ("--search", "work"), ("--status", "active", "--project", "Master")):
        assert [each["kind"] for each in admin_desk.ask("tokens", "list-both", "--kind", "ic", *more)["data"]] == ["ic"]
    assert f"{made['id']} │ api │ bound" in admin_desk.run("tokens", "list-both").words


def test_a_token_is_shown_with_what_it_has_used(admin_desk: Desk) -> None:
    """As a table and as JSON."""
    made = _token(admin_desk, "ci", "--daily-limit-usd", "2.50")

    told = admin_desk.ask("tokens", "show", made["id"])
    words = admin_desk.run("tokens", "show", made["id"]).words

    assert (told["name"], told["usage_stats"]["total_requests"]) == ("ci", 0)
    assert ("USD a day $2.50" in words, "cost today $0.00" in words, "expires -" in words) == (True, True, True)


def test_a_change_leaves_alone_what_is_not_given(admin_desk: Desk) -> None:
    """And an empty text takes away what is there, a number too."""
    made = _token(
        admin_desk, "ci", "--description", "builds", "--project", "Master", "--expires-at", "2999-01-31T00:00:00Z",
        "--rate-limit-rps", "5", "--daily-limit-usd", "2.50", "--scope", "agents:read",
    )  # fmt: skip

    renamed = admin_desk.ask("tokens", "update", made["id"], "--name", "cd", "--inactive", "--scope", "usage:read")
    cleared = admin_desk.ask(
        "tokens", "update", made["id"], "--description", "", "--project", "", "--expires-at", "",
        "--rate-limit-rps", "", "--daily-limit-usd", "", "--active",
    )  # fmt: skip
    bounded = admin_desk.ask("tokens", "update", made["id"], "--cost-cap-usd", "3", "--daily-token-limit", "9")

    assert (renamed["name"], renamed["is_active"], renamed["scopes"]) == ("cd", False, ["usage:read"])
    assert (renamed["description"], renamed["rate_limit_rps"], renamed["daily_limit_usd"]) == ("builds", 5, 2.5)
    assert (cleared["name"], cleared["is_active"], cleared["scopes"]) == ("cd", True, ["usage:read"])
    gone = ("description", "project_id", "expires_at", "rate_limit_rps", "daily_limit_usd")
    assert [cleared[field] for field in gone] == [None] * 5
    assert (bounded["cost_cap_usd"], bounded["daily_token_limit"]) == (3, 9)
    assert admin_desk.run("tokens", "update", made["id"]).code == 2


def test_a_renewed_token_ends_the_old_one(admin_desk: Desk) -> None:
    """The new one has an id of its own, and may end at another time."""
    made = _token(admin_desk)

    shown = admin_desk.run("tokens", "rotate", made["id"], "--expires-at", "2999-01-31T00:00:00Z")

    assert shown.out.splitlines()[-1].startswith("at_")
    assert ("expires 2999-01-31" in shown.words, f"in the place of {made['id']}" in shown.words) == (True, True)
    assert _is_valid(admin_desk, made["token"]) == (1, False)
    assert _is_valid(admin_desk, shown.out.splitlines()[-1]) == (0, True)


def _is_valid(desk: Desk, token: str) -> tuple[int, bool]:
    shown = desk.run("tokens", "check", "--token-file", "-", "--json", typed=token)
    assert token not in shown.out + shown.err
    return shown.code, shown.json["valid"]


def test_revoking_a_token_needs_a_yes(admin_desk: Desk) -> None:
    """With a reason for the audit log; a second time is refused."""
    made = _token(admin_desk)

    asked = admin_desk.run("tokens", "revoke", made["id"], typed="y\n")
    done = admin_desk.ask("tokens", "revoke", made["id"], "--yes", "--reason", "leaked")
    again = admin_desk.run("tokens", "revoke", made["id"], "--yes")

    assert (asked.code, asked.out, done["revoked"], again.code) == (2, "", True, 4)
    assert "TOKEN_ALREADY_REVOKED" in again.err
    rows = admin_desk.ask("api", "GET", "/audit-logs", "-q", "action=API_TOKEN_REVOKED")["data"]
    assert "leaked" in json.dumps(rows)


def test_a_token_is_looked_at_without_a_login(desk: Desk) -> None:
    """Whoever has a value may ask what it is; the table says it in a word."""
    shown = desk.run("tokens", "check", "--token-file", "-", "--url", desk.url, typed="at_nonsense")

    assert (shown.code, "valid no" in shown.words) == (1, True)


def test_a_token_that_is_not_there_is_refused(admin_desk: Desk) -> None:
    """Whatever stands in its place."""
    for token_id in (NOBODY, "agent_" + "0" * 32, "..", "a b?c#d%2F"):
        for command in (("show",), ("update", "--name", "x"), ("rotate",), ("revoke", "--yes")):
            shown = admin_desk.run("tokens", *command, token_id, "--json")

            assert (shown.code, json.loads(shown.err)["code"]) == (4, "TOKEN_NOT_FOUND"), (command, token_id)
    assert admin_desk.run("tokens", "show", "").code == 2


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--scope", "nonsense"), 4, "scopes"),
        (("--expires-at", "tomorrow"), 4, "expires_at"),
        (("--expires-at", "2020-01-01T00:00:00Z"), 4, "expires_at"),
        (("--rate-limit-rps", "1001"), 4, "rate_limit_rps"),
        (("--rate-limit-rps", "0"), 2, "--rate-limit-rps"),
        (("--rate-limit-rps", ""), 2, "--rate-limit-rps"),
        (("--daily-limit-usd", "much"), 2, "--daily-limit-usd"),
        (("--cost-cap-usd", "0"), 4, "cost_cap_usd"),
        (("--agent", "nobody"), 4, "no agent nobody"),
        (("--project", "nowhere"), 4, "no project nowhere"),
    ],
)
def test_what_a_token_cannot_be_is_named(
    admin_desk: Desk, tmp_path: Path, options: tuple[str, ...], code: int, told: str
) -> None:
    """And no file is left for it."""
    shown = admin_desk.run("tokens", "create", "ci", "--token-out", tmp_path / "token", *options)

    assert (shown.code, told in shown.err, (tmp_path / "token").exists()) == (code, True, False), shown.err


def test_a_viewer_makes_no_token_and_sees_no_other_s(admin_desk: Desk) -> None:
    """The server's refusal, and exit 4."""
    other = _token(admin_desk)
    admin_desk.log_in("vera")

    refused = [
        admin_desk.run("tokens", *arguments, "--json")
        for arguments in (("create", "x"), ("show", other["id"]), ("revoke", other["id"], "--yes"))
    ]

    assert [(shown.code, json.loads(shown.err)["code"]) for shown in refused] == [(4, "FORBIDDEN")] * 3
    assert admin_desk.ask("tokens", "list")["data"] == []
