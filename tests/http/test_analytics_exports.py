"""Exports over HTTP: the finest sums, as a table that no spreadsheet runs, piece by piece, and remembered."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, as_datetime, format_instant
from ironcage_core.domain.usage import UsageRecord
from ironcage_http.routes.analytics_exports import ROWS_AT_ONCE
from ironcage_http.server import embedded_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage, stage
from tests.support.metered import QUESTIONS, Metered, alter_agent, known_agent, metered
from tests.support.web import Answer, serving

PATHS = ("/analytics/export/usage", "/analytics/export/spending")
USAGE, SPENDING = PATHS
UNKNOWN = "0" * 32
CELL = ["bucket_start", "agent_id", "agent_name", "project_id", "provider", "provider_id", "model", "requests"]
COLUMNS = {
    USAGE: [*CELL, "failed_requests", "input_tokens", "output_tokens", "total_tokens"],
    SPENDING: [*CELL, "spending", "currency"],
}
HOSTILE = ['=cmd|"/c calc"!A1', "+1", "-1", "@sum", 'a "quoted", name', "имя ✓", "'", " =not", "a,b", "\rcr", "plain"]


@pytest.fixture(scope="module")
def calls() -> Iterator[Metered]:
    """Calls that no test adds to."""
    with metered(calls=200) as made:
        yield made


@pytest.fixture
def fresh() -> Iterator[Stage]:
    """A stage of one test alone, on which nothing was ever called."""
    with stage() as made:
        yield made


def recounted(calls: Metered, records: list[UsageRecord], path: str, bucket: str) -> list[dict[str, Any]]:
    """Return the rows of an export, made by walking through the records."""
    length = MS_PER_HOUR if bucket == "hour" else MS_PER_DAY
    cells: dict[tuple[Any, ...], list[UsageRecord]] = {}
    for record in records:
        start = record.occurred_at // length * length
        of = (record.agent_id, record.project_id, record.provider, record.provider_id or "", record.model)
        cells.setdefault((start, *of), []).append(record)
    rows = []
    for (start, agent_id, project_id, provider, provider_id, model), group in sorted(cells.items()):
        row = {
            "bucket_start": format_instant(start), "agent_id": agent_id,
            "agent_name": known_agent(calls.stage, agent_id).name,
            "project_id": project_id, "provider": provider, "provider_id": provider_id or None, "model": model,
            "requests": sum(each.outcome == "completed" for each in group),
            "failed_requests": sum(each.outcome == "failed" for each in group),
            "input_tokens": sum(each.input_tokens for each in group),
            "output_tokens": sum(each.output_tokens for each in group),
            "total_tokens": sum(each.total_tokens for each in group),
            "spending": Decimal(sum(each.cost_micros for each in group)) / 1_000_000, "currency": "USD",
        }  # fmt: skip
        rows.append({name: row[name] for name in COLUMNS[path]})
    return rows


def table(answer: Answer) -> list[list[str]]:
    """Return the rows of a CSV file."""
    return list(csv.reader(io.StringIO(answer.raw.decode(), newline=""), strict=True))


TIMES: list[Mapping[str, str]] = [{}, {"period": "last-7-days"}, {"period": "last-24-hours"}, {"period": "yesterday"}]


@pytest.mark.parametrize("time", TIMES, ids=str)
@pytest.mark.parametrize(("user", "filters"), QUESTIONS, ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_an_export_is_what_a_walk_through_the_calls_finds(
    calls: Metered, path: str, user: str, filters: Mapping[str, str], time: Mapping[str, str]
) -> None:
    """By day and by hour, in both formats, in the order of the cells."""
    for bucket in ("day", "hour"):
        body = calls.ask(path, user, filters, bucket=bucket, **time)
        sent = {**calls.parameters(filters), **time, "bucket": bucket, "format": "csv"}
        answer = calls.stage.get(path, user=user, params=sent)

        expected = recounted(calls, calls.found(user, filters, body["range"]), path, bucket)
        assert body["data"] == expected
        assert table(answer) == [COLUMNS[path], *([_text(value) for value in row.values()] for row in expected)]


@pytest.mark.parametrize("path", PATHS)
def test_days_that_a_range_cuts_stand_in_their_place(calls: Metered, path: str) -> None:
    """Before and behind the whole days between them."""
    time = {
        "start_date": format_instant((calls.now // MS_PER_DAY - 8) * MS_PER_DAY + 5 * MS_PER_HOUR),
        "end_date": format_instant((calls.now // MS_PER_DAY - 1) * MS_PER_DAY + 19 * MS_PER_HOUR),
    }

    body = calls.ask(path, "admin", {}, **time)

    expected = recounted(calls, calls.found("admin", {}, body["range"]), path, "day")
    assert len({row["bucket_start"] for row in expected}) > 2
    assert body["data"] == expected


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return "" if value is None else str(value)


def test_an_export_says_what_it_is(calls: Metered) -> None:
    """As JSON in its body, for both by the name of its file."""
    as_json = calls.stage.get(f"{USAGE}?period=last-7-days", user="ann")
    as_csv = calls.stage.get(f"{SPENDING}?start_date=2026-01-01&end_date=2026-01-31&format=csv", user="ann")

    now = format_instant(calls.now)
    start = format_instant((calls.now // MS_PER_DAY - 7) * MS_PER_DAY)
    assert {name: as_json.body[name] for name in as_json.body if name != "data"} == {
        "format": "json", "period": "last-7-days", "range": {"start": start, "end": now}, "generated_at": now
    }  # fmt: skip
    assert as_json.headers["content-type"].startswith("application/json")
    name = f"usage_{start[:10]}_{as_datetime(calls.now):%Y-%m-%d}.json"
    assert as_json.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert as_csv.headers["content-type"] == "text/csv; charset=utf-8"
    assert as_csv.headers["content-disposition"] == 'attachment; filename="spending_2026-01-01_2026-02-01.csv"'


@pytest.mark.parametrize(
    ("accept", "query", "expected"),
    [
        ("text/csv", "", "text/csv"),
        ("text/html, TEXT/CSV;q=0.9", "", "text/csv"),
        ("*/*", "", "application/json"),
        ("text/csv", "?format=json", "application/json"),
        ("application/json", "?format=csv", "text/csv"),
    ],
)
def test_the_format_is_the_one_that_is_named_or_else_accepted(
    calls: Metered, accept: str, query: str, expected: str
) -> None:
    """JSON if nothing is said."""
    answer = calls.stage.get(f"{USAGE}{query}", user="ann", headers={"Accept": accept})

    assert answer.headers["content-type"].split(";")[0] == expected


def test_hostile_names_run_in_no_spreadsheet(fresh: Stage) -> None:
    """What looks like a formula is marked, everything else is read back as it was; lines end as RFC 4180 has it."""
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    for name in HOSTILE:
        calls.put("ann 1", model=name, provider_id=name, project_id="\ttab" if name == "plain" else name)
    alter_agent(fresh, calls.agents["ann 1"].id, name='=two\nlines\rof "words"')

    answer = fresh.get(f"{USAGE}?format=csv", user="ann")
    as_json = fresh.get(USAGE, user="ann").body["data"]

    names, *rows = table(answer)
    assert names == COLUMNS[USAGE]
    marked = {name: f"'{name}" if name[0] in "=+-@\r" else name for name in HOSTILE}
    assert sorted(row[6] for row in rows) == sorted(marked.values())
    assert sorted(row[5] for row in rows) == sorted(marked.values())
    assert {row[2] for row in rows} == {'\'=two\nlines\rof "words"'}
    assert {row[3] for row in rows if row[6] == "plain"} == {"'\ttab"}
    assert sorted(row["model"] for row in as_json) == sorted(HOSTILE)
    assert not answer.raw.startswith(b"\xef\xbb\xbf")
    assert answer.raw.endswith(b"\r\n")
    assert answer.raw.count(b"\r\n") == 1 + len(HOSTILE)


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_system_exports_a_head_alone(fresh: Stage, path: str) -> None:
    """Or an empty list."""
    as_csv = fresh.get(f"{path}?format=csv", user="vera")
    as_json = fresh.get(path, user="vera").body

    assert as_csv.raw.decode() == ",".join(COLUMNS[path]) + "\r\n"
    assert as_json["data"] == []


def test_an_export_is_remembered_with_its_filters_and_rows(calls: Metered) -> None:
    """Before it is sent; one that is refused is not."""
    agent_id = calls.agents["ann 1"].id
    body = calls.ask(SPENDING, "ann", {"agent_id": "ann 1"}, period="last-7-days", bucket="hour", format="json")
    calls.stage.get(f"{SPENDING}?format=yaml", user="ann")

    row = calls.stage.get("/audit-logs?operation=ANALYTICS_EXPORTED&per_page=1", user="admin").body["data"][0]

    assert (row["user_id"], row["resource_type"]) == (calls.stage.owner_id, "analytics")
    assert row["metadata"] == {
        "export": "spending", "format": "json", "bucket": "hour", "period": "last-7-days", "range": body["range"],
        "filters": {"agent_id": agent_id, "provider_id": None}, "rows": len(body["data"]),
    }  # fmt: skip


def test_too_many_rows_are_refused_before_the_first(calls: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit all of them are sent, and nothing of what is too large is remembered."""
    rows = len(calls.ask(USAGE, "ann", {})["data"])
    monkeypatch.setattr("ironcage_core.services.usage_exports.MAX_ROWS", rows)
    assert len(calls.ask(USAGE, "ann", {})["data"]) == rows
    monkeypatch.setattr("ironcage_core.services.usage_exports.MAX_ROWS", rows - 1)
    told = calls.stage.get("/audit-logs?operation=ANALYTICS_EXPORTED", user="admin").body["pagination"]["total"]

    answers = [calls.stage.get(f"{USAGE}?bucket={bucket}", user="ann") for bucket in ("day", "hour")]

    assert [(answer.status, answer.code) for answer in answers] == [(400, "EXPORT_TOO_LARGE")] * 2
    assert answers[0].body["details"] == {"limit": rows - 1}
    again = calls.stage.get("/audit-logs?operation=ANALYTICS_EXPORTED", user="admin").body["pagination"]["total"]
    assert again == told


@pytest.mark.parametrize("written", ["csv", "json"])
def test_a_long_export_is_sent_in_pieces(fresh: Stage, written: str) -> None:
    """Which make up one whole, whatever is left for the last one."""
    agent = fresh.agent()
    calls = Metered(fresh, {"ann 1": agent})
    models = [f"m{number:04}" for number in range(2 * ROWS_AT_ONCE + 1)]
    for start in range(0, len(models), ROWS_AT_ONCE):
        for model in models[start : start + ROWS_AT_ONCE]:
            calls.put("ann 1", model=model)

    answer = fresh.get(f"{USAGE}?format={written}", user="ann")

    if written == "csv":
        assert [row[6] for row in table(answer)[1:]] == models
    else:
        assert [row["model"] for row in json.loads(answer.raw)["data"]] == models
    assert "content-length" not in answer.headers


@pytest.mark.anyio
async def test_exports_share_a_limit_of_ten_a_minute(store: SqliteStore) -> None:
    """By user; other questions have theirs."""
    async with serving(store, replace(embedded_settings(), rate_limit_enabled=True)) as nobody:
        ann = await nobody.login("ann")
        answers = [await ann.get(PATHS[number % 2]) for number in range(11)]
        other = await ann.get("/analytics/metrics")

    assert [answer.status for answer in answers] == [200] * 10 + [429]
    assert other.headers["X-RateLimit-Limit"] == "300"


WRONG = [
    ("format=xlsx", 400, "UNSUPPORTED_FORMAT"),
    ("format=yaml", 400, "UNSUPPORTED_FORMAT"),
    ("format=CSV", 400, "UNSUPPORTED_FORMAT"),
    ("format=", 400, "VALIDATION_ERROR"),
    ("format=csv&format=csv", 400, "VALIDATION_ERROR"),
    ("bucket=week", 400, "VALIDATION_ERROR"),
    ("period=x", 400, "INVALID_PERIOD"),
    ("agent_id={vera}&format=xlsx", 403, "FORBIDDEN"),
    (f"agent_id=agent_{UNKNOWN}&format=xlsx", 404, "AGENT_NOT_FOUND"),
    ("provider_id=abc", 404, "PROVIDER_NOT_FOUND"),
    ("user_id={ann}", 403, "FORBIDDEN"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("query", "status", "code"), WRONG)
def test_a_bad_question_is_refused(calls: Metered, path: str, query: str, status: int, code: str) -> None:
    """What is not there or somebody else's first."""
    query = query.format(vera=calls.agents["vera 1"].id, ann=calls.stage.owner_id)

    answer = calls.stage.get(f"{path}?{query}", user="ann")

    assert (answer.status, answer.code) == (status, code), answer.raw


def test_hours_that_are_gone_are_too_old(fresh: Stage) -> None:
    """By day they are exported for ever."""
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    day = calls.now // MS_PER_DAY * MS_PER_DAY
    calls.put("ann 1", occurred_at=day - 9 * MS_PER_DAY)
    fresh.store.write(lambda uow: uow.usage.advance_horizon("hours", day - 5 * MS_PER_DAY))

    oldest, older = (f"bucket=hour&start_date={format_instant(day - 5 * MS_PER_DAY - ms)}" for ms in (0, 1))
    answers = [
        fresh.get(f"{USAGE}?{query}", user="ann")
        for query in (older, "bucket=hour", "bucket=hour&period=last-7-days", oldest, "bucket=hour&period=today", "")
    ]

    assert [answer.status for answer in answers] == [400, 400, 400, 200, 200, 200]
    assert {answer.code for answer in answers[:3]} == {"RANGE_TOO_OLD"}
    assert len(answers[5].body["data"]) == 1
