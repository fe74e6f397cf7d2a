"""Usage from a shell: added up every way, one by one, and taken away."""

import csv
import json
from pathlib import Path

import pytest

from ironcage_core.domain.call_events import FAILED, CallEvent
from ironcage_core.services.ingestion import ingest
from tests.support.crew import busy_agent, crew_of
from tests.support.desk import Desk
from tests.support.world import TestAgent


@pytest.fixture
def worker(desk: Desk) -> TestAgent:
    """Return an agent of ann's, with a call that cost $1.50 and one that failed."""
    agent, lease_id = busy_agent(crew_of(desk.store))
    failure = CallEvent(
        "e1", FAILED, "gpt-test", "openai", agent.world.clock.now(), 0, 0, 0, lease_id=lease_id,
        error_code="rate_limit", duration_ms=1200,
    )  # fmt: skip
    agent.call(ingest, [failure], admit=lambda _: None, key_days=None)
    return agent


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("total", "spending $1.50 calls 2 failed 1 success 50.00 % tokens 100 input tokens 60 output tokens 40"),
        ("health", "calls 2 success 50.00 % failed 50.00 % calls with a time 1"),
        ("health", "errors 1 x rate_limit of openai"),
        ("cost-of-a-call", "on average $1.50 half cost at most $1.50"),
        ("project proj_master_001", "spending $1.50 completed calls 1 tokens 100"),
        ("by-agent", "│ worker │ $1.50 │ $10.00 │ 15.00 % │ 1 │"),
        ("tokens", "│ worker │ 100 │ 60 │ 40 │ 1 │ 1 │ $1.50 │"),
        ("by-provider", "│ $1.50 │ 1 │ $1.50 │ 1 │"),
        ("by-model", "│ gpt-test │ openai │ $1.50 │ 1 │ 100 │ 60 │ 40 │ $1.50 │"),
        ("errors", "│ rate_limit │ openai │ 1 │"),
        ("calls --status completed", "│ gpt-test │ completed │ 100 │ $1.50 │ - │"),
        ("by-period --period today", "│ $1.50 │ 1 │ 1 │ 100 │ yes │"),
        ("by-period --period today --group-by agent", "│ worker │ $1.50 │ 1 │ 1 │ 100 │ yes │"),
        ("by-period --period today", "$1.50 for 1 completed calls in all"),
    ],
)
@pytest.mark.usefixtures("worker")
def test_usage_is_shown(admin_desk: Desk, command: str, words: str) -> None:
    """Added up as the server says."""
    arguments = command.replace("--period today", "--bucket day --period today").split()
    shown = admin_desk.run("usage", *arguments)

    assert (shown.code, words in shown.words) == (0, True), shown.out + shown.err
    assert admin_desk.run("usage", *arguments, "--json").json != {}


@pytest.mark.usefixtures("worker")
def test_usage_is_filtered(admin_desk: Desk) -> None:
    """Agents and users by name or id; the time by a period or by dates."""
    other, _ = busy_agent(crew_of(admin_desk.store), "other")

    def spending(*filters: str) -> float:
        return float(admin_desk.ask("usage", "total", *filters)["total_spend"])

    assert [spending(), spending("--agent", "other"), spending("--agent", other.id)] == [3, 1.5, 1.5]
    assert [spending("--user", "ann"), spending("--user", "vera")] == [3, 0]
    assert [spending("--period", "today"), spending("--period", "last-month")] == [3, 0]
    assert [spending("--start-date", "2020-01-01"), spending("--end-date", "2020-01-01")] == [3, 0]
    assert [spending("--model", "gpt-test", "--provider", "openai"), spending("--model", "none")] == [3, 0]
    assert [row["agent_name"] for row in admin_desk.ask("usage", "by-agent", "--agent", "other")["data"]] == ["other"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["total", "--period", "sometimes"], "INVALID_PERIOD"),
        (["by-agent", "--period", "today", "--start-date", "2020-01-01"], "VALIDATION_ERROR"),
        (["by-period", "--bucket", "minute"], "VALIDATION_ERROR"),
        (["call", "trace_nothing"], "TRACE_NOT_FOUND"),
        (["total", "--agent", "nobody"], "AGENT_NOT_FOUND"),
        (["export", "usage", "--format", "xlsx"], "UNSUPPORTED_FORMAT"),
    ],
)
@pytest.mark.usefixtures("worker")
def test_what_is_refused_is_exit_4(admin_desk: Desk, arguments: list[str], code: str) -> None:
    """With the code of the server."""
    shown = admin_desk.run("usage", *arguments, "--json") if "export" not in arguments else None
    shown = shown or admin_desk.run("usage", *arguments)

    assert (shown.code, code in shown.err, shown.out) == (4, True, "")


@pytest.mark.usefixtures("worker")
def test_one_call_is_shown(admin_desk: Desk) -> None:
    """With its lease and how it failed."""
    (failed,) = admin_desk.ask("usage", "calls", "--status", "failed")["data"]

    shown = admin_desk.run("usage", "call", failed["id"]).words

    assert "error rate_limit" in shown
    assert f"lease {failed['lease_id']}" in shown
    assert "took 1200 ms" in shown


@pytest.mark.usefixtures("worker")
def test_others_see_their_own_usage(desk: Desk) -> None:
    """Ann's is none of vera's."""
    desk.log_in("vera")
    of_vera = desk.ask("usage", "total")["total_spend"]
    desk.log_in("ann")

    assert (of_vera, desk.ask("usage", "total")["total_spend"]) == (0, 1.5)
    assert desk.run("usage", "total", "--user", "ann").code == 4


@pytest.mark.usefixtures("worker")
def test_an_export_goes_to_standard_output(admin_desk: Desk) -> None:
    """As CSV, as it came; as JSON if that is asked for."""
    text = admin_desk.run("usage", "export", "spending")
    told = admin_desk.ask("usage", "export", "usage")

    (row,) = csv.DictReader(text.out.splitlines())
    assert (row["agent_name"], row["spending"], row["currency"]) == ("worker", "1.5", "USD")
    assert (told["format"], told["data"][0]["failed_requests"]) == ("json", 1)
    assert admin_desk.run("usage", "export", "usage", "--json", "--format", "csv").code == 2


@pytest.mark.usefixtures("worker")
def test_an_export_goes_into_a_file(admin_desk: Desk, tmp_path: Path) -> None:
    """Whole, with the line ends that CSV has; `.json` says what is wanted."""
    table, record = tmp_path / "usage.csv", tmp_path / "usage.json"

    shown = admin_desk.run("usage", "export", "usage", "--out", table)
    told = admin_desk.ask("usage", "export", "usage", "--out", record)

    assert (shown.code, shown.out) == (0, f"the usage is in {table}\n")
    assert table.read_bytes().count(b"\r\n") == 2
    assert told == {"file": str(record), "format": "json"}
    assert json.loads(record.read_text())["data"][0]["requests"] == 1
    assert sorted(path.name for path in tmp_path.glob("usage*")) == ["usage.csv", "usage.json"]


@pytest.mark.usefixtures("worker")
def test_a_file_is_written_over_only_with_a_yes(admin_desk: Desk, tmp_path: Path) -> None:
    """Exit 2, and the server was not asked; what an export cannot replace stays whole."""
    file = tmp_path / "usage.csv"
    file.write_text("mine")

    kept = admin_desk.run("usage", "export", "usage", "--out", file)
    content = file.read_text()
    exports = admin_desk.ask("audit", "list", "--operation", "ANALYTICS_EXPORTED")["data"]
    refused = admin_desk.run("usage", "export", "usage", "--out", file, "--yes", "--period", "odd")
    content_2 = file.read_text()
    written = admin_desk.run("usage", "export", "usage", "--out", file, "--yes")

    assert (kept.code, "give --yes" in kept.err, content, exports) == (2, True, "mine", [])
    assert (refused.code, content_2) == (4, "mine")
    assert (written.code, "worker" in file.read_text()) == (0, True)
    assert [path.name for path in tmp_path.glob("usage*")] == ["usage.csv"]


@pytest.mark.usefixtures("worker")
def test_a_place_where_no_file_can_be_is_said(admin_desk: Desk, tmp_path: Path) -> None:
    """Before the server is asked, or after."""
    nowhere = admin_desk.run("usage", "export", "usage", "--out", tmp_path / "none" / "a.csv")
    too_long = admin_desk.run("usage", "export", "usage", "--out", tmp_path / f"{'a' * 250}")

    assert (nowhere.code, "there is no folder" in nowhere.err) == (2, True)
    assert (too_long.code, "cannot be written" in too_long.err) == (3, True)
