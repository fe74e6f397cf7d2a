"""Spending over time: buckets hold what a walk through the calls finds, and nobody else's."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, as_datetime, format_instant, from_datetime
from tests.support.calendars import start_by_calendar
from tests.support.http_agents import Stage, stage
from tests.support.metered import QUESTIONS, Metered, known_agent, metered

PATH = "/analytics/spending/by-period"
UNKNOWN = "0" * 32


@pytest.fixture(scope="module")
def calls() -> Iterator[Metered]:
    """Calls that no test adds to."""
    with metered(calls=250) as made:
        yield made


@pytest.fixture
def fresh() -> Iterator[Stage]:
    """A stage of one test alone, on which nothing was ever called."""
    with stage() as made:
        yield made


def end_of(bucket: str, start: datetime) -> datetime:
    """Return where the next bucket starts."""
    length = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}.get(bucket)
    if length is not None:
        return start + length
    if bucket == "year":
        return start.replace(year=start.year + 1)
    return (start + timedelta(days=31)).replace(day=1)


def recounted(records: list[Any], bucket: str, by: str | None, now: int) -> list[dict[str, Any]]:
    """Return the rows of buckets with calls, made by walking through the records."""
    groups: dict[tuple[datetime, str], list[Any]] = {}
    for record in records:
        key = "" if by is None else getattr(record, by)
        groups.setdefault((start_by_calendar(bucket, record.occurred_at), key), []).append(record)
    return [
        {
            "bucket_start": format_instant(from_datetime(start)),
            "bucket_end": format_instant(from_datetime(end_of(bucket, start))),
            "spending": Decimal(sum(each.cost_micros for each in group)) / 1_000_000,
            "request_count": sum(each.outcome == "completed" for each in group),
            "failed_requests": sum(each.outcome == "failed" for each in group),
            "input_tokens": sum(each.input_tokens for each in group),
            "output_tokens": sum(each.output_tokens for each in group),
            "total_tokens": sum(each.total_tokens for each in group),
            "partial": from_datetime(end_of(bucket, start)) > now,
            **({} if by is None else {"key": key}),
        }
        for (start, key), group in sorted(groups.items(), key=lambda each: each[0])
    ]


TIMES: list[Mapping[str, str]] = [
    {},
    {"period": "all-time"},
    {"period": "today"},
    {"period": "yesterday"},
    {"period": "last-24-hours"},
    {"period": "last-7-days"},
    {"period": "this-month"},
    {"period": "last-month"},
    {"start_date": "{-9:05:00}", "end_date": "{-2:17:30}"},
    {"start_date": "{-3:02:00}", "end_date": "{-3:19:00}"},
]


def at(calls: Metered, text: str) -> str:
    """Return a time that is written as so many days ago, and a time of that day."""
    if not text.startswith("{"):
        return text
    days, _, clock = text.strip("{}").partition(":")
    return f"{as_datetime(calls.now + int(days) * MS_PER_DAY):%Y-%m-%d}T{clock}:00Z"


@pytest.mark.parametrize("time", TIMES, ids=str)
@pytest.mark.parametrize("bucket", ["hour", "day", "week", "month", "year"])
def test_buckets_are_what_a_walk_through_the_calls_finds(calls: Metered, bucket: str, time: Mapping[str, str]) -> None:
    """Of whatever time, and as much in all as the total of the same time; buckets without a call are all zeros."""
    sent = {name: at(calls, value) for name, value in time.items()}
    if bucket == "hour" and sent.get("period") in {"all-time", "last-month"}:
        sent = {"period": "last-7-days"}

    body = calls.ask(PATH, "ann", {}, bucket=bucket, **sent)

    records = calls.found("ann", {}, body["range"])
    assert [row for row in body["data"] if row["request_count"] + row["failed_requests"]] == recounted(
        records, bucket, None, calls.now
    )
    if sent:
        total = calls.ask("/analytics/spending/total", "ann", {}, **sent)
        assert (total["total_spend"], total["range"]) == (body["summary"]["total_spend"], body["range"])
    assert sum(row["spending"] for row in body["data"]) == body["summary"]["total_spend"]
    starts = [row["bucket_start"] for row in body["data"]]
    assert starts[1:] == [row["bucket_end"] for row in body["data"]][:-1]
    if body["range"]["start"] is not None and sent != {"period": "all-time"}:
        assert starts[0] == format_instant(from_datetime(start_by_calendar(bucket, from_text(body["range"]["start"]))))
        assert starts[-1] == format_instant(
            from_datetime(start_by_calendar(bucket, from_text(body["range"]["end"]) - 1))
        )


def from_text(text: str) -> int:
    """Return the instant of an answer."""
    return from_datetime(datetime.fromisoformat(text))


@pytest.mark.parametrize(("user", "filters"), QUESTIONS, ids=str)
@pytest.mark.parametrize("grouping", ["agent", "provider", "model", "project", "none"])
def test_groups_are_those_of_the_calls_that_are_meant(
    calls: Metered, user: str, filters: Mapping[str, str], grouping: str
) -> None:
    """For every filter; the summary is of the same calls."""
    body = calls.ask(PATH, user, filters, group_by=grouping, bucket="week", period="last-90-days")

    by = {"agent": "agent_id", "project": "project_id", "none": None}.get(grouping, grouping)
    records = calls.found(user, filters, body["range"])
    rows = [{name: row[name] for name in row if name != "label"} for row in body["data"]]
    rows = [row for row in rows if row["request_count"] + row["failed_requests"]]
    assert rows == recounted(records, "week", by, calls.now)
    spent = {start: Decimal(0) for start in [row["bucket_start"] for row in rows]}
    for row in rows:
        spent[row["bucket_start"]] += row["spending"]
    peak = max(spent.values(), default=0)
    assert body["summary"] == {
        "total_spend": sum(spent.values()),
        "total_requests": sum(record.outcome == "completed" for record in records),
        "peak_spend": peak,
        "peak_bucket_start": next((start for start, each in spent.items() if each == peak), None),
    }
    assert body["filters"] == {"agent_id": None, "provider_id": None, **calls.parameters(filters)}


def test_groups_are_told_by_what_people_call_them(calls: Metered) -> None:
    """Agents by name, the last one of a deleted agent; projects only to whom they exist."""

    def labels(grouping: str, user: str) -> dict[str, str]:
        body = calls.ask(PATH, user, {}, group_by=grouping, bucket="year")
        return {row["key"]: row["label"] for row in body["data"]}

    names = {agent.id: known_agent(calls.stage, agent.id).name for agent in calls.agents.values()}

    assert labels("agent", "admin") == names
    assert labels("model", "ann") == {"m1": "m1", "m2": "m2", "m3": "m3"}
    projects = labels("project", "ann")
    assert (projects["p1"], set(projects)) == ("p1", {"p1", "p2", "proj_master_001"})
    assert projects["proj_master_001"] != "proj_master_001"


def test_the_name_of_a_project_is_told_to_whom_it_exists_alone(fresh: Stage) -> None:
    """A call may have been made in a project of which its owner knows nothing any more."""
    project = fresh.post("/projects", {"name": "Secret plans"}, user="admin").body["id"]
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    calls.put("ann 1", project_id=project)

    rows = {user: calls.ask(PATH, user, {}, group_by="project")["data"] for user in ("ann", "admin")}

    assert {user: [row["label"] for row in found] for user, found in rows.items()} == {
        "ann": [project], "admin": ["Secret plans"]
    }  # fmt: skip


@pytest.mark.parametrize(("bucket", "count"), [("hour", 24), ("day", 31), ("week", 13), ("month", 12), ("year", 0)])
def test_an_empty_system_has_empty_buckets(fresh: Stage, bucket: str, count: int) -> None:
    """Of the default time of each; of all the time there are none. Only the last one is still running."""
    answer = fresh.get(f"{PATH}?bucket={bucket}", user="ann")

    body = answer.body
    assert len(body["data"]) == count
    assert {row["spending"] for row in body["data"]} <= {0}
    assert [row["partial"] for row in body["data"]] == [False] * (count - 1) + [True] * bool(count)
    assert body["summary"] == {
        "total_spend": 0, "total_requests": 0, "peak_spend": 0, "peak_bucket_start": None
    }  # fmt: skip
    assert (body["currency"], body["bucket"]) == ("USD", bucket)


@pytest.mark.parametrize("bucket", ["day", "week", "month", "year"])
def test_a_period_may_name_the_bucket(calls: Metered, bucket: str) -> None:
    """Of its default time, or of the dates beside it."""
    plain, named = calls.ask(PATH, "ann", {}, bucket=bucket), calls.ask(PATH, "ann", {}, period=bucket)
    both = calls.ask(PATH, "ann", {}, period=bucket, bucket=bucket)
    dated = calls.ask(PATH, "ann", {}, period=bucket, start_date="2026-01-01", end_date="2026-01-01")

    assert plain == named == both
    assert plain["period"] == {"day": "last-30-days", "year": "all-time"}.get(bucket, "custom")
    assert (dated["bucket"], len(dated["data"])) == (bucket, 1)


@pytest.mark.parametrize("bucket", ["day", "week", "month", "year"])
def test_a_time_that_ends_before_the_first_call_has_no_buckets(calls: Metered, bucket: str) -> None:
    """It has no start to fill from; the bucket of the first call is not of that time."""
    body = calls.ask(PATH, "admin", {}, bucket=bucket, end_date="2001-01-01")

    assert body["range"]["start"] is None
    assert body["data"] == []


@pytest.mark.parametrize("bucket", ["hour", "day", "week", "month", "year"])
def test_a_time_that_ends_as_the_first_day_begins_has_no_buckets(fresh: Stage, bucket: str) -> None:
    """Its end is not of it any more."""
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    day = (calls.now // MS_PER_DAY - 3) * MS_PER_DAY
    calls.put("ann 1", occurred_at=day)

    body = calls.ask(PATH, "ann", {}, bucket=bucket, end_date=format_instant(day))

    assert (body["range"]["start"], body["data"]) == (None, [])


@pytest.mark.parametrize("bucket", ["hour", "day"])
def test_a_bucket_runs_until_the_next_one_starts(fresh: Stage, bucket: str) -> None:
    """At that very instant it is over."""
    midnight = (fresh.clock.now() // MS_PER_DAY + 1) * MS_PER_DAY
    time = {"start_date": format_instant(midnight - MS_PER_DAY), "end_date": format_instant(midnight)}
    calls = Metered(fresh, {})

    last = []
    for now in (midnight - 1, midnight):
        fresh.clock.instant = now
        last.append(calls.ask(PATH, "admin", {}, bucket=bucket, **time)["data"][-1])

    assert [row["bucket_end"] for row in last] == [format_instant(midnight)] * 2
    assert [row["partial"] for row in last] == [True, False]


def test_calls_ahead_of_the_clock_are_in_a_bucket(fresh: Stage) -> None:
    """A runtime's clock may be a little ahead, even over midnight."""
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    calls.put("ann 1", occurred_at=fresh.clock.now() // MS_PER_HOUR * MS_PER_HOUR + MS_PER_HOUR + 5)
    ahead = Metered(fresh, calls.agents)

    for bucket in ("hour", "day", "week", "month", "year"):
        body = ahead.ask(PATH, "ann", {}, bucket=bucket, period="all-time")
        assert body["summary"]["total_requests"] == sum(row["request_count"] for row in body["data"]) == 1
    fresh.clock.instant = fresh.clock.now() // MS_PER_DAY * MS_PER_DAY - 5
    body = ahead.ask(PATH, "ann", {}, bucket="day", period="all-time")
    assert body["summary"]["total_requests"] == sum(row["request_count"] for row in body["data"]) == 1


def test_of_two_peaks_the_earlier_is_told(fresh: Stage) -> None:
    """As much was spent on both days."""
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    for days in (1, 3, 2):
        calls.put("ann 1", occurred_at=calls.now - days * MS_PER_DAY, cost_micros=5 if days == 2 else 9)

    summary = calls.ask(PATH, "ann", {})["summary"]

    day = calls.now // MS_PER_DAY * MS_PER_DAY
    assert summary["peak_bucket_start"] == format_instant(day - 3 * MS_PER_DAY)
    assert summary["peak_spend"] == Decimal("0.000009")


WRONG = [
    ("bucket=minute", 400, "VALIDATION_ERROR"),
    ("bucket=", 400, "VALIDATION_ERROR"),
    ("group_by=user", 400, "VALIDATION_ERROR"),
    ("period=hour", 400, "INVALID_PERIOD"),
    ("period=week&bucket=day", 400, "VALIDATION_ERROR"),
    ("period=today&start_date=2026-01-01", 400, "VALIDATION_ERROR"),
    ("period=week&start_date=2026-02-01&end_date=2026-01-01", 400, "VALIDATION_ERROR"),
    ("agent_id=abc", 400, "VALIDATION_ERROR"),
    (f"agent_id=agent_{UNKNOWN}&bucket=minute", 404, "AGENT_NOT_FOUND"),
    ("agent_id={vera}&period=x", 403, "FORBIDDEN"),
    ("provider_id=abc", 404, "PROVIDER_NOT_FOUND"),
    ("user_id=x", 403, "FORBIDDEN"),
    ("bucket=hour&start_date=2026-01-01&end_date=2026-01-31", 200, None),
    ("bucket=hour&start_date=2026-01-01&end_date=2026-02-01T01:00:00Z", 400, "RANGE_TOO_LARGE"),
    ("bucket=day&start_date=2024-01-01&end_date=2025-12-31", 200, None),
    ("bucket=day&start_date=2024-01-01&end_date=2026-01-01", 400, "RANGE_TOO_LARGE"),
    ("bucket=week&start_date=2024-01-01&end_date=2033-12-18", 200, None),
    ("bucket=week&start_date=2024-01-01&end_date=2033-12-19", 400, "RANGE_TOO_LARGE"),
    ("bucket=month&start_date=2024-01-01&end_date=2033-12-31", 200, None),
    ("bucket=month&start_date=2024-01-01&end_date=2034-01-01", 400, "RANGE_TOO_LARGE"),
    ("bucket=year&start_date=0001-01-01&end_date=9999-12-31", 200, None),
    ("bucket=hour&start_date=0001-01-01&end_date=9999-12-31", 400, "RANGE_TOO_LARGE"),
]


@pytest.mark.parametrize(("query", "status", "code"), WRONG)
def test_a_series_that_cannot_be_told_is_refused(calls: Metered, query: str, status: int, code: str | None) -> None:
    """What is not there or somebody else's before what breaks a rule; caps are exact."""
    answer = calls.stage.get(f"{PATH}?{query.format(vera=calls.agents['vera 1'].id)}", user="ann")

    assert (answer.status, answer.code if status >= 400 else None) == (status, code), answer.raw


def test_all_of_the_time_may_be_too_long(fresh: Stage) -> None:
    """By the first call; years are not limited."""
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    calls.put("ann 1", occurred_at=fresh.clock.now() - 900 * MS_PER_DAY)

    answers = {
        bucket: fresh.get(f"{PATH}?period=all-time&bucket={bucket}", user="ann")
        for bucket in ("hour", "day", "week", "year")
    }

    assert {bucket: answer.status for bucket, answer in answers.items()} == {
        "hour": 400, "day": 400, "week": 200, "year": 200
    }  # fmt: skip
    assert answers["day"].body["details"] == {"bucket": "day", "limit": 731}


def test_too_many_groups_are_refused(fresh: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row more than there may be; without groups there is no such limit."""
    monkeypatch.setattr("ironcage_core.services.usage_series.MAX_GROUPED_ROWS", 3)
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    for number in range(3):
        calls.put("ann 1", model=f"m{number}")
    assert fresh.get(f"{PATH}?group_by=model", user="ann").status == 200
    calls.put("ann 1", model="m4")

    answer = fresh.get(f"{PATH}?group_by=model", user="ann")

    assert (answer.status, answer.code) == (400, "RANGE_TOO_LARGE")
    assert fresh.get(PATH, user="ann").status == 200


def test_hours_that_are_gone_are_told_as_too_old(fresh: Stage) -> None:
    """But by day what is left of that time is shown; the cap comes first."""
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    day = fresh.clock.now() // MS_PER_DAY * MS_PER_DAY
    calls.put("ann 1", occurred_at=day - 9 * MS_PER_DAY)
    fresh.store.write(lambda uow: uow.usage.advance_horizon("hours", day - 5 * MS_PER_DAY))

    def answer(query: str) -> tuple[int, str | None]:
        got = fresh.get(f"{PATH}?{query}", user="ann")
        return got.status, None if got.status == 200 else got.code

    assert answer("bucket=hour&period=last-7-days") == (400, "RANGE_TOO_OLD")
    assert answer("bucket=hour&period=all-time") == (400, "RANGE_TOO_OLD")
    assert answer("bucket=hour&period=yesterday") == (200, None)
    oldest = f"start_date={format_instant(day - 5 * MS_PER_DAY)}"
    assert answer(f"bucket=hour&{oldest}&end_date={format_instant(day - 4 * MS_PER_DAY)}") == (200, None)
    assert answer("bucket=hour&period=last-90-days") == (400, "RANGE_TOO_LARGE")
    assert answer("bucket=day&period=last-30-days") == (200, None)
    cut = f"start_date={format_instant(day - 9 * MS_PER_DAY + MS_PER_HOUR)}"
    assert answer(f"bucket=day&{cut}") == (400, "RANGE_TOO_OLD")
