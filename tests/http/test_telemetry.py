"""Telemetry over the wire: what runtimes tell of themselves, what it changes, and what of it is refused."""

import json
from typing import Any

import pytest

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.telemetry import KINDS, TELEMETRY_TYPES, KeptTelemetry
from tests.http.test_analytics_events import audit_of, event, records, statuses, told
from tests.support.http_agents import Stage, books
from tests.support.web import Answer
from tests.support.world import TestAgent

pytestmark = pytest.mark.usefixtures("silence")

PATH = "/telemetry/events"
GOOD: dict[str, dict[str, Any]] = {
    "agent_started": {"runtime_version": "1.2", "pid": 7},
    "agent_idle": {"reason": "waits", "current_lead": 3},
    "agent_completed": {"reason": "done", "current_lead": 3},
    "agent_stopped": {"reason": "asked to"},
    "agent_failed": {"error_code": "E1", "error_message": "broke"},
    "tool_invocation": {"tool": "search", "duration_ms": 5, "success": True, "error_code": "none"},
    "pii_detected": {"pii_type": "email", "direction": "input", "count": 2, "location": 9, "action": "redacted"},
    "budget_threshold_reached": {"threshold_percent": 80, "current_spend_micros": 8, "budget_micros": 10},
    "router_started": {"port": 8080},
    "router_stopped": {"total_requests": 5, "total_cost_micros": 77},
    "circuit_breaker_opened": {"provider": "openai", "failures": 5},
    "circuit_breaker_closed": {"provider": "anthropic", "failures": 0},
}
"""Every kind of event with everything that it says."""

TOLD = {"tool_invocation", "pii_detected", "router_started", "router_stopped"}
TOLD |= {"circuit_breaker_opened", "circuit_breaker_closed"}


def note(world: Stage, kind: str, event_id: object = "t1", **data: object) -> dict[str, object]:
    """Return an event of a runtime."""
    return {"event_id": event_id, "timestamp_ms": world.clock.now(), "type": kind, "data": data}


def post(world: Stage, agent: TestAgent, *events: object, **fields: object) -> Answer:
    return world.post(PATH, {"events": list(events), **fields}, token=agent.token)


def kept(agent: TestAgent, event_id: str = "t1") -> KeptTelemetry | None:
    return agent.world.store.read(lambda uow: uow.telemetry.find(agent.id, event_id))


def stored(agent: TestAgent) -> Agent:
    """Return the agent as it is stored."""
    found = agent.world.store.read(lambda uow: uow.agents.find(agent.id))
    assert found is not None
    return found


def agent_events(agent: TestAgent) -> list[tuple[str | None, Any]]:
    """Return what observers were told that is no change of state."""
    return [(each.name, each.data) for each in told(agent) if each.type == "AGENT_EVENT"]


def test_there_is_no_other_kind_of_event() -> None:
    """One that is added must be added here."""
    assert set(GOOD) == set(KINDS)
    assert set(TELEMETRY_TYPES) == {*GOOD, "llm_request_completed", "llm_request_failed"}


@pytest.mark.parametrize("kind", GOOD)
def test_an_event_is_kept_with_what_its_kind_says(world: Stage, agent: TestAgent, kind: str) -> None:
    """Whatever else is in its data is not kept anywhere, and no money moves."""
    before = books(agent)

    answer = world.post(
        PATH,
        {
            "events": [note(world, kind, **GOOD[kind], matched_text="joe@example.com", prompt="hush")],
            "runtime_id": "pod-1", "runtime_version": "0.3",
        },
        token=agent.token,
    )  # fmt: skip

    row = kept(agent)
    assert row is not None
    assert (answer.status, statuses(answer)) == (202, ["accepted"])
    assert (row.type, row.at, row.runtime_id, row.runtime_version) == (kind, world.clock.now(), "pod-1", "0.3")
    assert row.data is not None
    assert json.loads(row.data) == GOOD[kind]
    assert agent_events(agent) == ([(kind, GOOD[kind])] if kind in TOLD else [])
    assert [each for each in ("joe@example.com", "hush") if each in repr((row, told(agent), audit_of(agent)))] == []
    assert books(agent) == before
    assert records(agent) == []


@pytest.mark.parametrize("base", ["/api/v1", "/api", "/v1"])
def test_every_path_that_was_promised_answers(world: Stage, agent: TestAgent, base: str) -> None:
    """Also the one without `/api`."""
    body = {"events": [note(world, "agent_idle")]}

    answer = world._runner.run(
        world._client.post(f"{base}/telemetry/events", json=body, headers={"X-IC-Token": agent.token})
    )

    assert (answer.status_code, answer.json()["accepted"]) == (202, 1)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("agent_started", {"pid": 1.0}, "data.pid"),
    ("agent_started", {"runtime_version": ""}, "data.runtime_version"),
    ("agent_idle", {"current_lead": "x"}, "data.current_lead"),
    ("agent_idle", {"reason": 5}, "data.reason"),
    ("agent_stopped", {"reason": []}, "data.reason"),
    ("agent_failed", {"error_code": "x" * 101}, "data.error_code"),
    ("tool_invocation", {"tool": None}, "data.tool"),
    ("tool_invocation", {"tool": "x" * 101}, "data.tool"),
    ("tool_invocation", {"success": 1}, "data.success"),
    ("tool_invocation", {"duration_ms": 86_400_001}, "data.duration_ms"),
    ("pii_detected", {"pii_type": "name"}, "data.pii_type"),
    ("pii_detected", {"direction": None}, "data.direction"),
    ("pii_detected", {"count": 0}, "data.count"),
    ("pii_detected", {"count": 2.0}, "data.count"),
    ("pii_detected", {"count": True}, "data.count"),
    ("pii_detected", {"location": "x"}, "data.location"),
    ("pii_detected", {"action": "ignored"}, "data.action"),
    ("pii_detected", {"action": None}, "data.action"),
    ("budget_threshold_reached", {"threshold_percent": 101}, "data.threshold_percent"),
    ("budget_threshold_reached", {"threshold_percent": None}, "data.threshold_percent"),
    ("budget_threshold_reached", {"current_spend_micros": -1}, "data.current_spend_micros"),
    ("budget_threshold_reached", {"budget_micros": 1.5}, "data.budget_micros"),
    ("router_started", {"port": 0}, "data.port"),
    ("router_started", {"port": 65_536}, "data.port"),
    ("router_stopped", {"total_requests": None}, "data.total_requests"),
    ("router_stopped", {"total_cost_micros": 10**30}, "data.total_cost_micros"),
    ("circuit_breaker_opened", {"provider": "acme"}, "data.provider"),
    ("circuit_breaker_closed", {"failures": -1}, "data.failures"),
]


@pytest.mark.parametrize(("kind", "data", "bad"), BAD)
def test_bad_data_refuses_an_event(world: Stage, agent: TestAgent, kind: str, data: dict[str, Any], bad: str) -> None:
    """It changes nothing, is told to nobody, and its id stays free; the others are taken in."""
    before = stored(agent)

    answer = post(
        world, agent, note(world, kind, **{**GOOD[kind], **data}), note(world, "router_started", "t2", port=1)
    )

    result = answer.body["results"][0]
    assert (answer.status, statuses(answer)) == (202, ["rejected", "accepted"])
    assert (result["event_id"], result["code"], set(result["fields"])) == ("t1", "VALIDATION_ERROR", {bad})
    assert (stored(agent), kept(agent)) == (before, None)
    assert [name for name, _ in agent_events(agent)] == ["router_started"]


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"event_id": ""}, "event_id"),
        ({"event_id": 5}, "event_id"),
        ({"event_id": "a\nb"}, "event_id"),
        ({"event_id": "x" * 101}, "event_id"),
        ({"timestamp_ms": None}, "timestamp_ms"),
        ({"timestamp_ms": 1_763_726_400}, "timestamp_ms"),
        ({"timestamp_ms": 1.5}, "timestamp_ms"),
        ({"timestamp_ms": None, "timestamp": "never"}, "timestamp"),
        ({"type": "agent_exploded"}, "type"),
        ({"type": None}, "type"),
        ({"type": 5}, "type"),
        ({"data": []}, "data"),
        ({"data": "x"}, "data"),
        ({"data": {"text": "x" * 16_384}}, "data"),
    ],
)
def test_a_bad_field_around_the_data_refuses_an_event(
    world: Stage, agent: TestAgent, fields: dict[str, Any], bad: str
) -> None:
    """All of them rejected is a 400 that tells the fate of each."""
    answer = post(world, agent, {**note(world, "agent_idle"), **fields})

    (result,) = answer.body["details"]["results"]
    assert (answer.status, answer.code, set(result["fields"])) == (400, "VALIDATION_ERROR", {bad})
    assert result["event_id"] == (None if fields.get("event_id") == 5 else fields.get("event_id", "t1"))


def test_an_unknown_type_is_told_the_known_ones(world: Stage, agent: TestAgent) -> None:
    """Every one of them."""
    answer = post(world, agent, note(world, "x"))

    assert answer.body["details"]["results"][0]["allowed"] == list(TELEMETRY_TYPES)


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"events": []}, "events"),
        ({"events": [{}] * 501}, "events"),
        ({"events": None}, "events"),
        ({"runtime_id": ""}, "runtime_id"),
        ({"runtime_id": 5}, "runtime_id"),
        ({"runtime_version": "x" * 101}, "runtime_version"),
    ],
)
def test_a_bad_field_around_the_events_refuses_all(
    world: Stage, agent: TestAgent, fields: dict[str, Any], bad: str
) -> None:
    """None of them is looked at."""
    answer = world.post(PATH, {"events": [note(world, "agent_idle")], **fields}, token=agent.token)

    assert (answer.status, answer.code, set(answer.fields)) == (400, "VALIDATION_ERROR", {bad})
    assert kept(agent) is None


def test_data_of_16_kib_and_500_events_are_fine(world: Stage, agent: TestAgent) -> None:
    """A message is cut, not refused; a body over 1 MiB is 413."""
    long = note(world, "agent_failed", "long", error_message="word " * 3_200)

    answer = post(world, agent, long, *[note(world, "agent_idle", f"n{number}") for number in range(499)])
    too_large = world.post(PATH, b" " * (1_048_576 + 1), token=agent.token)

    assert (answer.status, answer.body["accepted"], too_large.status) == (202, 500, 413)
    assert 490 <= len(stored(agent).failure_reason or "") <= 500


def test_a_known_event_does_nothing_again(world: Stage, agent: TestAgent) -> None:
    """200; neither counted nor told twice, whatever it says the second time."""
    seen = note(world, "pii_detected", **GOOD["pii_detected"])
    post(world, agent, seen)
    before = (stored(agent), told(agent), audit_of(agent))

    answer = post(world, agent, seen, note(world, "agent_failed"))

    assert (answer.status, statuses(answer)) == (200, ["duplicate", "duplicate"])
    assert (stored(agent), told(agent), audit_of(agent)) == before
    assert stored(agent).pii_detections == 2


def test_a_call_counts_once_on_both_routes(world: Stage, agent: TestAgent) -> None:
    """Its facts stand in the data; bad ones are named."""
    facts = {"model": "gpt-test", "provider": "openai", "input_tokens": 30, "output_tokens": 20, "cost_micros": 1500}
    world.post("/analytics/events", event(world, "a"), token=agent.token)

    answer = post(
        world, agent,
        note(world, "llm_request_completed", "a", **facts), note(world, "llm_request_completed", "b", **facts),
        note(world, "llm_request_completed", "c", **{**facts, "cost_micros": "1"}),
        note(world, "llm_request_failed", "d", model="m", provider="unknown", error_message="Bearer abcdefghijklmn12"),
    )  # fmt: skip
    again = world.post("/analytics/events", event(world, "b"), token=agent.token)

    assert statuses(answer) == ["duplicate", "accepted", "rejected", "accepted"]
    assert set(answer.body["results"][2]["fields"]) == {"data.cost_micros"}
    assert again.status == 200
    assert {each.event_id: each.cost_micros for each in records(agent)} == {"a": 1500, "b": 1500, "d": 0}
    assert "abcdefghijklmn12" not in repr((records(agent), told(agent)))


def test_an_id_is_known_to_both_routes(world: Stage, agent: TestAgent) -> None:
    """An event that was no call makes one of the same name a duplicate, and the other way round."""
    post(world, agent, note(world, "agent_idle", "x"))
    world.post("/analytics/events", event(world, "y"), token=agent.token)

    as_call = world.post("/analytics/events", event(world, "x"), token=agent.token)
    as_note = post(world, agent, note(world, "agent_idle", "y"))

    assert (as_call.status, as_note.status) == (200, 200)
    assert [each.event_id for each in records(agent)] == ["y"]


def test_secrets_in_texts_are_neither_kept_nor_told(world: Stage, agent: TestAgent) -> None:
    """Whatever field they hide in."""
    secret = "sk-proj-abcdefghijklmnopqrstuv"
    events = [
        note(world, "tool_invocation", "a", tool=secret, error_code=secret),
        note(world, "agent_started", "b", runtime_version=secret),
        note(world, "agent_idle", "c", reason=f"because {secret}"),
        note(world, "agent_failed", "d", error_code=secret, error_message=f"no {secret}"),
    ]

    answer = post(world, agent, *events)

    rows = [kept(agent, name) for name in "abcd"]
    assert (answer.body["accepted"], None in rows) == (4, False)
    assert secret not in repr((rows, told(agent), stored(agent), audit_of(agent)))
