"""How calls went, over HTTP: rates, latency and errors are what a walk through the calls finds."""

from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal

import pytest

from ironcage_core.domain.instants import MS_PER_DAY, format_instant
from tests.support.http_agents import Stage, stage
from tests.support.metered import QUESTIONS, Metered, alter_agent, metered

METRICS, ERRORS = "/analytics/metrics", "/analytics/errors"
UNKNOWN = "0" * 32
TIMES = [{}, {"period": "last-24-hours"}, {"period": "last-7-days"}]


@pytest.fixture(scope="module")
def calls() -> Iterator[Metered]:
    """Calls that no test adds to."""
    with metered(calls=251) as made:
        yield made


@pytest.fixture
def fresh() -> Iterator[Stage]:
    """A stage of one test alone, on which nothing was ever called."""
    with stage() as made:
        yield made


def share(part: int, whole: int) -> Decimal:
    """Return a percentage as people round it."""
    exact = Decimal(100 * part) / whole if whole else Decimal(0)
    return exact.quantize(Decimal("0.01"), ROUND_HALF_UP)


def nearest_rank(durations: list[int], percent: int) -> int:
    """Return the least duration that so many percent of all do not exceed."""
    return next(
        each for each in durations if 100 * sum(other <= each for other in durations) >= percent * len(durations)
    )


@pytest.mark.parametrize("time", TIMES, ids=str)
@pytest.mark.parametrize(("user", "filters"), QUESTIONS, ids=str)
def test_metrics_are_what_a_walk_through_the_calls_finds(
    calls: Metered, user: str, filters: Mapping[str, str], time: Mapping[str, str]
) -> None:
    """Averages and rates exactly, percentiles within a hundredth."""
    body = calls.ask(METRICS, user, filters, **time)

    records = calls.found(user, filters, body["range"])
    failed = sum(record.outcome == "failed" for record in records)
    durations = sorted(record.duration_ms for record in records if record.duration_ms is not None)
    average = Decimal(sum(durations)) / (len(durations) or 1)
    assert body["total_requests"] == len(records)
    assert body["success_rate"] == share(len(records) - failed, len(records))
    assert body["error_rate"] == share(failed, len(records))
    latency = body["latency_ms"]
    assert latency["samples"] == len(durations)
    assert latency["avg"] == average.quantize(Decimal("0.000001"), ROUND_HALF_UP)
    for name, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
        exact = nearest_rank(durations, percent) if durations else 0
        assert abs(latency[name] - exact) <= exact / 100, name
    assert body["errors"] == calls.ask(ERRORS, user, filters, **time)["data"][:10]
    assert ("pii_detections" in body) == (user != "vera")


@pytest.mark.parametrize("time", TIMES, ids=str)
@pytest.mark.parametrize(("user", "filters"), QUESTIONS, ids=str)
def test_errors_are_counted_by_code_and_provider(
    calls: Metered, user: str, filters: Mapping[str, str], time: Mapping[str, str]
) -> None:
    """The most frequent first, then by name; what has no code is unknown."""
    body = calls.ask(ERRORS, user, filters, **time)

    failed = [record for record in calls.found(user, filters, body["range"]) if record.outcome == "failed"]
    counted = Counter((record.error_code or "unknown", record.provider) for record in failed)
    rows = [(row["error_code"], row["provider"], row["count"]) for row in body["data"]]
    assert rows == sorted(((*key, count) for key, count in counted.items()), key=lambda row: (-row[2], *row[:2]))
    for row in body["data"]:
        of_row = [each for each in failed if (each.error_code or "unknown") == row["error_code"]]
        last = max(each.occurred_at for each in of_row if each.provider == row["provider"])
        assert row["last_seen"] == format_instant(last)
    assert body["pagination"]["total"] == len(rows)


def test_errors_are_paged_and_may_be_turned_around(fresh: Stage) -> None:
    """A summary of metrics has the ten most frequent ones."""
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    for number in range(12):
        for _ in range(1 + number // 6):
            calls.put("ann 1", outcome="failed", error_code=f"e{number:02}")

    rising = calls.ask(ERRORS, "ann", {}, sort="count", per_page=5)
    last = calls.ask(ERRORS, "ann", {}, per_page=5, page=3)
    beyond = calls.ask(ERRORS, "ann", {}, page=9)

    assert [row["error_code"] for row in rising["data"]] == [f"e{number:02}" for number in range(5)]
    assert [row["error_code"] for row in last["data"]] == ["e04", "e05"]
    assert last["pagination"] == {"page": 3, "per_page": 5, "total": 12, "total_pages": 3}
    assert beyond["data"] == []
    top = [row["error_code"] for row in calls.ask(METRICS, "ann", {})["errors"]]
    assert top == [f"e{number:02}" for number in (6, 7, 8, 9, 10, 11, 0, 1, 2, 3)]


def test_an_empty_system_has_zeros(fresh: Stage) -> None:
    """Rates and latency as well."""
    body = fresh.get(METRICS, user="ann").body
    errors = fresh.get(ERRORS, user="ann").body

    told = {name: body[name] for name in ("period", "range", "filters", "calculated_at")}
    assert told == {
        "period": "all-time", "range": {"start": None, "end": format_instant(fresh.clock.now())},
        "filters": {"agent_id": None, "provider_id": None}, "calculated_at": format_instant(fresh.clock.now()),
    }  # fmt: skip
    assert {name: body[name] for name in body if name not in told} == {
        "total_requests": 0, "success_rate": 0, "error_rate": 0, "errors": [], "pii_detections": 0,
        "latency_ms": {"avg": 0, "p50": 0, "p95": 0, "p99": 0, "samples": 0},
    }  # fmt: skip
    assert (errors["data"], errors["pagination"]["total_pages"]) == ([], 0)


def test_private_data_is_counted_for_agents_in_sight(fresh: Stage) -> None:
    """By agent, owner and project; a viewer is not told."""
    ann, vera = fresh.agent(), fresh.agent(owner_id=fresh.user_id("vera"))
    for agent, found in ((ann, 3), (vera, 40)):
        alter_agent(fresh, agent.id, pii_detections=found)

    def counted(query: str, user: str) -> object:
        return fresh.get(f"{METRICS}?{query}", user=user).body.get("pii_detections")

    assert [counted("", user) for user in ("admin", "ann", "vera")] == [43, 3, None]
    assert counted(f"agent_id={vera.id}", "admin") == 40
    assert counted(f"user_id={fresh.user_id('ann')}", "admin") == 3
    assert counted("project_id=p1", "admin") == 0


def test_a_percentile_is_the_nearest_rank(fresh: Stage) -> None:
    """Of a hundred steps each is its own; of two calls the first is the half."""
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    for number in (2, 1):
        calls.put("ann 1", duration_ms=number)
    two = calls.ask(METRICS, "ann", {})["latency_ms"]
    for number in range(3, 101):
        calls.put("ann 1", duration_ms=number)

    hundred = calls.ask(METRICS, "ann", {})["latency_ms"]

    assert two == {"avg": Decimal("1.5"), "p50": 1, "p95": 2, "p99": 2, "samples": 2}
    assert hundred == {"avg": Decimal("50.5"), "p50": 50, "p95": 95, "p99": 99, "samples": 100}


WRONG = [
    ("period=x", 400, "INVALID_PERIOD"),
    ("period=today&end_date=2026-01-01", 400, "VALIDATION_ERROR"),
    ("model=", 400, "VALIDATION_ERROR"),
    ("agent_id=abc", 400, "VALIDATION_ERROR"),
    (f"period=x&agent_id=agent_{UNKNOWN}", 404, "AGENT_NOT_FOUND"),
    ("agent_id={vera}", 403, "FORBIDDEN"),
    ("provider_id=abc", 404, "PROVIDER_NOT_FOUND"),
    ("user_id={ann}", 403, "FORBIDDEN"),
    ("color=red", 200, None),
]


@pytest.mark.parametrize("path", [METRICS, ERRORS])
@pytest.mark.parametrize(("query", "status", "code"), WRONG)
def test_a_bad_question_is_refused(calls: Metered, path: str, query: str, status: int, code: str | None) -> None:
    """On both alike."""
    query = query.format(vera=calls.agents["vera 1"].id, ann=calls.stage.owner_id)

    answer = calls.stage.get(f"{path}?{query}", user="ann")

    assert (answer.status, answer.code if status >= 400 else None) == (status, code), answer.raw


def test_hours_that_are_gone_are_too_old(fresh: Stage) -> None:
    """Whole days are told for ever."""
    day = fresh.clock.now() // MS_PER_DAY * MS_PER_DAY
    fresh.store.write(lambda uow: uow.usage.advance_horizon("hours", day))
    for path in (METRICS, ERRORS):
        cut = fresh.get(f"{path}?start_date={(day - MS_PER_DAY) // 1000 + 3600}", user="ann")
        assert (cut.status, cut.code) == (400, "RANGE_TOO_OLD")
        assert fresh.get(f"{path}?start_date={(day - MS_PER_DAY) // 1000}", user="ann").status == 200
