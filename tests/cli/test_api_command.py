"""Any request from a shell: how its body and query are given, and what comes back."""

import json
from pathlib import Path

import pytest

from tests.support.desk import Desk


def test_fields_make_a_body_and_the_answer_is_json(admin_desk: Desk) -> None:
    """`-f` is a text, `-F` any JSON; amounts stay exact."""
    made = admin_desk.ask("api", "post", "/agents", "-f", "name=007", "-F", "budget=1.000001", "-F", 'tags=["a"]')

    assert (made["name"], made["budget"], made["tags"]) == ("007", 1.000001, ["a"])


def test_a_body_comes_from_a_file_or_from_standard_input(admin_desk: Desk, tmp_path: Path) -> None:
    """Whole, as JSON."""
    file = tmp_path / "body.json"
    file.write_text('{"name": "a", "budget": 1}')

    of_file = admin_desk.run("api", "POST", "/agents", "--input", file)
    of_input = admin_desk.run("api", "POST", "/agents", "--input", "-", typed=file.read_text())

    assert [of_file.code, of_input.code] == [0, 0]
    assert of_file.json["id"] != of_input.json["id"]


@pytest.mark.parametrize("path", ["/agents", "agents", "/api/agents", "/api/v1/agents", "api/v1/agents"])
def test_the_base_path_may_be_left_out(admin_desk: Desk, path: str) -> None:
    """All of them are one route."""
    assert admin_desk.ask("api", "GET", path)["data"] == []


def test_a_query_comes_from_options_and_from_the_path(admin_desk: Desk) -> None:
    """A parameter may come more than once; blanks and signs in it are no trouble."""
    for name in ("a b&c", "other"):
        admin_desk.ask("api", "POST", "/agents", "-f", f"name={name}", "-F", "budget=1", "-F", 'tags=["x", "y"]')

    by_option = admin_desk.ask("api", "GET", "/agents", "-q", "name=a b&c", "-q", "tag=x", "-q", "tag=y")
    by_path = admin_desk.ask("api", "GET", "/agents?name=a%20b%26c&tag=x", "-q", "tag=y")

    assert by_option == by_path
    assert [each["name"] for each in by_option["data"]] == ["a b&c"]


@pytest.mark.parametrize("arguments", [("/agents?status=",), ("/agents", "-q", "status=")])
def test_a_parameter_without_a_value_is_sent_as_it_is(admin_desk: Desk, arguments: tuple[str, ...]) -> None:
    """The route is asked, and says what it thinks of it."""
    shown = admin_desk.run("api", "GET", *arguments)

    assert (shown.code, "status: " in shown.err) == (4, True), shown.err


def test_an_answer_that_is_no_json_is_printed_as_it_is(admin_desk: Desk) -> None:
    """An export as CSV."""
    shown = admin_desk.run("api", "GET", "/analytics/export/usage", "-q", "format=csv")

    assert (shown.code, shown.out.count("\n"), "," in shown.out) == (0, 1, True), shown.err


def test_nothing_answered_is_nothing_printed(admin_desk: Desk) -> None:
    """204."""
    agent = admin_desk.ask("api", "POST", "/agents", "-f", "name=a", "-F", "budget=1")

    shown = admin_desk.run("api", "DELETE", f"/agents/{agent['id']}")

    assert (shown.code, shown.out, shown.err) == (0, "", "")


def test_a_refusal_names_the_bad_fields(admin_desk: Desk) -> None:
    """Exit 4; for a program with all details."""
    shown = admin_desk.run("api", "POST", "/agents", "-f", "name=", "-F", "budget=-1")
    told = admin_desk.run("api", "POST", "/agents", "-f", "name=", "-F", "budget=-1", "--json")

    assert (shown.code, "\n  name: " in shown.err, "\n  budget: " in shown.err) == (4, True, True)
    assert set(json.loads(told.err)["details"]["fields"]) == {"name", "budget"}


def test_a_retry_with_a_key_is_one_request(admin_desk: Desk) -> None:
    """The key goes as a header."""
    agent = admin_desk.ask("api", "POST", "/agents", "-f", "name=a", "-F", "budget=10")
    ask = ("api", "POST", "/budget/requests", "-F", "requested_budget=20", "-f", "justification=" + "more " * 20,
           "-f", f"agent_id={agent['id']}", "--idempotency-key", "one")  # fmt: skip

    first, second = (admin_desk.run(*ask) for _ in range(2))

    assert (first.code, first.out) == (0, second.out), first.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["-f", "name"], "is not NAME=VALUE"),
        (["-q", "=1"], "is not NAME=VALUE"),
        (["-F", "budget=ten"], "budget: not JSON"),
        (["-F", f"tags={'[' * 5_000}"], "tags: nests too deep"),
        (["--input", "-", "-f", "a=b"], "not from both"),
        (["--input", "no such file"], "No such file"),
    ],
)
def test_what_cannot_be_sent_is_wrong_usage(admin_desk: Desk, arguments: list[str], problem: str) -> None:
    """Nothing is asked."""
    shown = admin_desk.run("api", "POST", "/agents", *arguments, typed="{}")

    assert (shown.code, problem in shown.err) == (2, True), shown.err


def test_a_public_route_needs_no_login(desk: Desk) -> None:
    """For health checks."""
    assert desk.run("api", "GET", "/health", "--url", desk.url).json["status"] == "healthy"
