"""Provider keys from a shell: the key comes from a file or a prompt, and is shown nowhere."""

import json
from pathlib import Path

import pytest

from tests.support.desk import Desk, Shown
from tests.support.terminal import at_a_terminal

KEY = "sk-proj-0123456789abcdefghij"
MASK = "sk-p...hij"


def _add(desk: Desk, *options: object, key: str = KEY) -> Shown:
    shown = desk.run("providers", "add", "openai", "--key-file", "-", *options, typed=f"{key}\n")
    assert key not in shown.out + shown.err
    return shown


def test_a_key_is_taken_in_from_a_file_and_not_shown(admin_desk: Desk, tmp_path: Path) -> None:
    """With all that is said of it."""
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")

    made = admin_desk.ask(
        "providers", "add", "anthropic", "--key-file", file, "--name", "main", "--base-url", "https://llm.example.com",
        "--description", "ours", "--model", "a", "--model", "b", "--disabled",
    )  # fmt: skip

    assert KEY not in json.dumps(made)
    assert (made["provider"], made["name"], made["description"]) == ("anthropic", "main", "ours")
    assert (made["base_url"], made["models"], made["is_enabled"]) == ("https://llm.example.com", ["a", "b"], False)


def test_a_key_is_lent_from_the_start_unless_it_is_disabled(admin_desk: Desk) -> None:
    """The table shows its mask."""
    shown = _add(admin_desk)

    assert ("enabled yes" in shown.words, MASK in shown.words) == (True, True)


def test_a_key_is_typed_without_an_echo_where_no_file_is_named(admin_desk: Desk) -> None:
    """At a terminal; where there is none, it is wrong usage."""
    code, seen = at_a_terminal(admin_desk, "providers", "add", "openai", "--name", "main", asked="API key: ", typed=KEY)
    silent = admin_desk.run("providers", "add", "openai", typed=f"{KEY}\n")

    assert (code, KEY in seen, MASK in seen) == (0, False, True), seen
    assert (silent.code, "--key-file" in silent.err, len(admin_desk.ask("providers", "list")["data"])) == (2, True, 1)


def test_a_key_is_no_argument(admin_desk: Desk) -> None:
    """No option takes one."""
    for command in ("add", "rotate", "update"):
        assert "--api-key" not in admin_desk.run("providers", command, "--help").out

    assert admin_desk.run("providers", "add", "openai", "--api-key", KEY).code == 2


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_file_without_a_key_is_wrong_usage(admin_desk: Desk, tmp_path: Path, content: bytes) -> None:
    """Nothing is sent."""
    file = tmp_path / "key"
    file.write_bytes(content)

    shown = admin_desk.run("providers", "add", "openai", "--key-file", file)

    assert (shown.code, "API key file" in shown.err, admin_desk.ask("providers", "list")["data"]) == (2, True, [])


def test_a_bad_field_is_named_without_the_key(admin_desk: Desk) -> None:
    """Of the key too."""
    shown = _add(admin_desk, "--name", "No Slug", "--json", key="inner blank")

    assert (shown.code, set(json.loads(shown.err)["details"]["fields"])) == (4, {"name", "api_key"})


def test_keys_are_listed_by_what_is_asked_for(admin_desk: Desk) -> None:
    """Every filter of the route."""
    _add(admin_desk, "--name", "one", "--disabled")
    _add(admin_desk, "--name", "two")

    for filters in (("--name", "on"), ("--status", "inactive"), ("--is-enabled", "false", "--provider", "openai")):
        assert [each["name"] for each in admin_desk.ask("providers", "list", *filters)["data"]] == ["one"], filters
    assert admin_desk.ask("providers", "list", "--provider", "anthropic")["data"] == []
    assert f"two │ openai │ active │ {MASK} │ 0 │ -" in admin_desk.run("providers", "list").words


def test_a_key_is_shown_by_name_and_id_with_what_it_was_used_for(admin_desk: Desk) -> None:
    """As a table and as JSON."""
    _add(admin_desk, "--name", "main")
    told = admin_desk.ask("providers", "show", "main")

    words = admin_desk.run("providers", "show", told["id"]).words

    assert told["usage"]["total_requests"] == 0
    assert ("name main" in words, "spent today $0.00" in words, KEY in words) == (True, True, False)


def test_a_change_leaves_alone_what_is_not_given(admin_desk: Desk) -> None:
    """And an empty text takes away what is there."""
    _add(admin_desk, "--name", "main", "--description", "ours", "--model", "a", "--base-url", "https://x.example.com")

    renamed = admin_desk.ask("providers", "update", "main", "--name", "other", "--disabled")
    cleared = admin_desk.ask("providers", "update", "other", "--description", "", "--model", "", "--base-url", "")
    enabled = admin_desk.ask("providers", "update", "other", "--enabled", "--model", "b", "--description", "new")
    nothing = admin_desk.run("providers", "update", "other")

    assert (renamed["description"], renamed["models"], renamed["is_enabled"]) == ("ours", ["a"], False)
    assert (cleared["description"], cleared["models"], cleared["base_url"]) == (None, [], None)
    assert (cleared["is_enabled"], enabled["is_enabled"]) == (False, True)
    assert (enabled["models"], enabled["description"]) == (["b"], "new")
    assert nothing.code == 2


def test_a_new_key_takes_the_place_of_the_old_one(admin_desk: Desk) -> None:
    """The record stays, with another mask."""
    _add(admin_desk, "--name", "main")
    before = admin_desk.ask("providers", "show", "main")
    fresh = "sk-proj-zzzzzzzzzzzzzzzzzzz"

    shown = admin_desk.run("providers", "rotate", "main", "--key-file", "-", "--json", typed=fresh)

    assert (shown.code, shown.json["id"], shown.json["masked_key"]) == (0, before["id"], "sk-p...zzz")
    assert fresh not in shown.out


def test_deleting_a_key_needs_a_yes_and_says_who_had_it(admin_desk: Desk) -> None:
    """By name or id."""
    _add(admin_desk, "--name", "main")
    admin_desk.ask("agents", "create", "worker", "--budget", "1", "--provider", "main")

    asked = admin_desk.run("providers", "delete", "main", typed="y\n")
    done = admin_desk.run("providers", "delete", "main", "--yes")

    assert (asked.code, asked.out) == (2, "")
    assert (done.code, "1 agents and 0 projects had it" in done.out) == (0, True)
    assert admin_desk.ask("providers", "list")["data"] == []


@pytest.mark.parametrize("key", ["nothing", "prov_" + "0" * 32])
def test_a_key_that_is_not_there_is_refused(admin_desk: Desk, key: str) -> None:
    """By name and by id."""
    commands = (("show", key), ("update", key, "--name", "x"), ("delete", key, "--yes"))

    for command in commands:
        shown = admin_desk.run("providers", *command, "--json")

        assert (shown.code, json.loads(shown.err)["code"]) == (4, "PROVIDER_NOT_FOUND")
    rotated = admin_desk.run("providers", "rotate", key, "--key-file", "-", typed=KEY)
    assert (rotated.code, KEY in rotated.err) == (4, False)


def test_only_an_admin_takes_keys_in(admin_desk: Desk) -> None:
    """Others see them without mask and maker."""
    _add(admin_desk, "--name", "main")
    admin_desk.log_in("vera")

    refused = [
        _add(admin_desk, "--json"),
        admin_desk.run("providers", "update", "main", "--disabled", "--json"),
        admin_desk.run("providers", "delete", "main", "--yes", "--json"),
    ]

    assert [(shown.code, json.loads(shown.err)["code"]) for shown in refused] == [(4, "FORBIDDEN")] * 3
    assert admin_desk.ask("providers", "show", "main")["masked_key"] == "***"
    assert MASK not in admin_desk.run("providers", "list").out
