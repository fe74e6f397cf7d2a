"""Calls one by one, over HTTP: the latest first, by pages and by cursor, each caller's own."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.money import usd
from ironcage_core.domain.usage import UsageRecord
from tests.support.http_agents import Stage, stage
from tests.support.metered import QUESTIONS, Metered, known_agent, metered

PATHS = ("/analytics/events", "/analytics/events/list")
PATH = PATHS[0]
UNKNOWN = "0" * 32
TIMES = [{}, {"period": "last-24-hours"}, {"period": "last-7-days"}]


@pytest.fixture(scope="module")
def calls() -> Iterator[Metered]:
    """Calls that no test adds to, some at the same instant."""
    with metered(calls=140) as made:
        for _ in range(7):
            made.put("ann 1", occurred_at=made.now - 3 * MS_PER_DAY, provider_id="prov_a", project_id="p1", model="m1")
        yield made


@pytest.fixture
def fresh() -> Iterator[Stage]:
    """A stage of one test alone, on which nothing was ever called."""
    with stage() as made:
        yield made


def newest_first(records: list[UsageRecord]) -> list[str]:
    """Return the ids of records in the order of the list."""
    return [record.id for record in sorted(records, key=lambda each: (each.occurred_at, each.id), reverse=True)]


@pytest.mark.parametrize("path", PATHS)
def test_a_call_is_told_with_all_its_fields(calls: Metered, path: str) -> None:
    """A call that only a report tells of has its request id for an event id."""
    by_id = {record.id: record for record in calls.records}
    names = {agent.id: known_agent(calls.stage, agent.id).name for agent in calls.agents.values()}

    rows = calls.ask(path, "admin", {}, per_page=100)["data"]

    assert len(rows) == 100
    for row in rows:
        record = by_id[row["trace_id"]]
        assert row == {
            "event_id": record.event_id or record.request_id,
            "timestamp_ms": record.occurred_at,
            "event_type": f"llm_request_{record.outcome}",
            "model": record.model,
            "provider": record.provider,
            "provider_id": record.provider_id,
            "input_tokens": record.input_tokens,
            "output_tokens": record.output_tokens,
            "cost_micros": record.cost_micros,
            "cost_usd": usd(record.cost_micros),
            "agent_id": record.agent_id,
            "agent_name": names[record.agent_id],
            "error_code": record.error_code,
            "error_message": record.error_message,
            "request_id": record.request_id,
            "lease_id": record.lease_id,
            "trace_id": record.id,
            "cost_source": record.cost_source,
        }


@pytest.mark.parametrize("time", TIMES, ids=str)
@pytest.mark.parametrize(("user", "filters"), QUESTIONS, ids=str)
def test_pages_and_cursors_walk_through_the_calls_that_are_meant(
    calls: Metered, user: str, filters: Mapping[str, str], time: Mapping[str, str]
) -> None:
    """Each once, in the order of time, with exact totals; the cursor ends where the list does."""
    first = calls.ask(PATH, user, filters, per_page=9, **time)
    expected = newest_first(calls.found(user, filters, first["range"]))
    paged: list[str] = []
    for page in range(1, first["pagination"]["total_pages"] + 2):
        body = calls.ask(PATH, user, filters, per_page=9, page=page, **time)
        paged += [row["trace_id"] for row in body["data"]]
        assert body["pagination"]["total"] == len(expected)
        assert (body["pagination"]["next_after"] is not None) == (len(paged) < len(expected))
    followed, cursor = [row["trace_id"] for row in first["data"]], first["pagination"]["next_after"]
    while cursor is not None:
        body = calls.ask(PATH, user, filters, per_page=9, after=cursor, **time)
        followed += [row["trace_id"] for row in body["data"]]
        cursor = body["pagination"]["next_after"]
        assert body["pagination"]["total"] == len(expected)

    assert paged == followed == expected
    if len(expected) > 1:  # what is left fills its page to the last row
        last = calls.ask(PATH, user, filters, per_page=1, after=expected[-2], **time)
        assert ([row["trace_id"] for row in last["data"]], last["pagination"]["next_after"]) == (expected[-1:], None)
    assert first["filters"] == {"agent_id": None, "provider_id": None, **calls.parameters(filters)}


@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_events_of_a_type_are_those_that_ended_so(calls: Metered, outcome: str) -> None:
    """Echoed as a filter."""
    event_type = f"llm_request_{outcome}"
    body = calls.ask(PATH, "ann", {"provider": "openai"}, event_type=event_type, per_page=100)

    records = [each for each in calls.found("ann", {"provider": "openai"}, body["range"]) if each.outcome == outcome]
    assert [row["trace_id"] for row in body["data"]] == newest_first(records)
    assert body["filters"]["event_type"] == event_type


def test_a_viewer_reads_no_words_of_an_error(calls: Metered) -> None:
    """The code, but not the message."""
    rows: dict[str, list[dict[str, Any]]] = {
        user: calls.ask(PATH, user, {"agent_id": "vera 1"}, event_type="llm_request_failed")["data"]
        for user in ("vera", "admin")
    }

    assert {row["error_message"] for row in rows["vera"]} == {None}
    assert {row["error_message"] for row in rows["admin"]} == {"words"}
    assert [row["error_code"] for row in rows["vera"]] == [row["error_code"] for row in rows["admin"]]


def test_an_empty_system_has_no_events(fresh: Stage) -> None:
    """No page either."""
    body = fresh.get(PATH, user="ann").body

    assert body["data"] == []
    assert body["pagination"] == {"page": 1, "per_page": 50, "total": 0, "total_pages": 0, "next_after": None}


def test_what_is_older_than_the_records_is_gone_from_the_list(fresh: Stage) -> None:
    """Neither shown nor counted, and nothing to go on from."""
    calls = Metered(fresh, {"ann 1": fresh.agent()})
    old, new = calls.put("ann 1", occurred_at=calls.now - 9 * MS_PER_DAY), calls.put("ann 1")
    today = calls.now // MS_PER_DAY * MS_PER_DAY
    fresh.store.write(lambda uow: uow.usage.advance_horizon("records", today))

    body = calls.ask(PATH, "ann", {})

    assert ([row["trace_id"] for row in body["data"]], body["pagination"]["total"]) == ([new.id], 1)
    assert fresh.get(f"{PATH}?after={old.id}", user="ann").code == "TRACE_NOT_FOUND"
    assert calls.ask(PATH, "ann", {}, after=new.id)["data"] == []


WRONG = [
    ("page=101&per_page=100", 400, "VALIDATION_ERROR"),
    ("page=100&per_page=100", 200, None),
    ("page=10001&per_page=1", 400, "VALIDATION_ERROR"),
    ("page=0", 400, "VALIDATION_ERROR"),
    ("per_page=101", 400, "VALIDATION_ERROR"),
    ("page=1&after={anns}", 400, "VALIDATION_ERROR"),
    ("after=abc", 400, "VALIDATION_ERROR"),
    ("after=", 400, "VALIDATION_ERROR"),
    (f"after=trace_{UNKNOWN}", 404, "TRACE_NOT_FOUND"),
    ("after={veras}", 403, "FORBIDDEN"),
    ("event_type=tool_invocation", 400, "VALIDATION_ERROR"),
    ("event_type=llm_request_failed&event_type=llm_request_failed", 400, "VALIDATION_ERROR"),
    ("period=x", 400, "INVALID_PERIOD"),
    ("agent_id={vera}&page=0", 403, "FORBIDDEN"),
    (f"page=0&agent_id=agent_{UNKNOWN}", 404, "AGENT_NOT_FOUND"),
    ("provider_id=abc", 404, "PROVIDER_NOT_FOUND"),
    ("user_id={ann}", 403, "FORBIDDEN"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("query", "status", "code"), WRONG)
def test_a_bad_question_is_refused(calls: Metered, path: str, query: str, status: int, code: str | None) -> None:
    """Pages reach to row 10 000; a cursor names a record of the caller's own."""
    of = {name: next(each.id for each in calls.records if each.agent_id == calls.agents[agent].id)
          for name, agent in (("anns", "ann 1"), ("veras", "vera 1"))}  # fmt: skip
    query = query.format(vera=calls.agents["vera 1"].id, ann=calls.stage.owner_id, **of)

    answer = calls.stage.get(f"{path}?{query}", user="ann")

    assert (answer.status, answer.code if status >= 400 else None) == (status, code), answer.raw
