"""Events about calls over the wire: what is taken in, known or refused, and what their sender may do."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ironcage_core.domain.audit import AuditRow
from ironcage_core.domain.events import FeedEvent
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.lists import Paging, TraceFilter
from tests.support.http_agents import Stage, books, stage
from tests.support.web import Answer
from tests.support.world import TestAgent

pytestmark = pytest.mark.usefixtures("silence")

PATH = "/analytics/events"


@pytest.fixture(scope="module")
def limited() -> Iterator[Stage]:
    """Return a stage on which few events are too many."""
    rates = '{"analytics_events": "3/min", "analytics_duplicates": "4/min"}'
    with stage(IRON_RATE_LIMIT_ENABLED="true", IRON_RATE_LIMITS=rates) as made:
        yield made


def event(world: Stage, event_id: object = "e1", **fields: object) -> dict[str, object]:
    """Return an event of an ordinary call."""
    return {
        "event_id": event_id, "timestamp_ms": world.clock.now(), "event_type": "llm_request_completed",
        "model": "gpt-test", "provider": "openai", "input_tokens": 30, "output_tokens": 20, "cost_micros": 1500,
        **fields,
    }  # fmt: skip


def failed(world: Stage, event_id: str = "e1", **fields: object) -> dict[str, object]:
    """Return an event of a call that failed."""
    plain = event(world, event_id, event_type="llm_request_failed")
    return {name: plain[name] for name in plain if "tokens" not in name and name != "cost_micros"} | fields


def records(agent: TestAgent) -> list[UsageRecord]:
    """Return the agent's usage records, the latest first."""
    which = TraceFilter(agent_id=agent.id)
    return list(agent.world.store.read(lambda uow: uow.usage.page(which, Paging(1, 1000)).rows))


def told(agent: TestAgent) -> list[FeedEvent]:
    """Return what observers were told of the agent."""
    events = agent.world.store.read(lambda uow: list(uow.feed.after(0, 10**6)))
    return [each for each in events if each.agent_id == agent.id]


def audit_of(agent: TestAgent) -> list[AuditRow]:
    """Return the rows of the audit log that the agent has left."""
    rows = agent.world.store.read(lambda uow: list(uow.audit.rows()))
    return [row for row in rows if row.actor_id == agent.id]


def post(world: Stage, agent: TestAgent, body: object) -> Answer:
    return world.post(PATH, body, token=agent.token)


def statuses(answer: Answer) -> list[str]:
    """Return the fate of each event of a batch."""
    results = answer.body["results"] if answer.status < 400 else answer.body["details"]["results"]
    assert [each["index"] for each in results] == list(range(len(results)))
    return [each["status"] for each in results]


# --- one event ---------------------------------------------------------------


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
def test_a_new_event_is_accepted_and_seen_at_once(world: Stage, agent: TestAgent, base: str) -> None:
    """202 after the commit: its record is there, no money has moved, and no row of the audit log is written."""
    before, rows = books(agent), audit_of(agent)

    answer = world.post(base + PATH, event(world, "evt_1"), token=agent.token)

    (record,) = records(agent)
    assert (answer.status, answer.body) == (202, {"event_id": "evt_1", "status": "accepted"})
    assert (record.event_id, record.cost_micros, record.input_tokens, record.output_tokens) == ("evt_1", 1500, 30, 20)
    assert (record.occurred_at, record.outcome, record.cost_source) == (world.clock.now(), "completed", "event")
    assert (books(agent), audit_of(agent)) == (before, rows)
    assert [each.name for each in told(agent) if each.type == "AGENT_EVENT"] == ["llm_call"]


def test_every_optional_field_is_kept(world: Stage, agent: TestAgent) -> None:
    """As it was sent; what no field is for is not kept anywhere."""
    lease = agent.handshake().lease.id
    fields = {
        "provider_id": "key 7", "request_id": "call-7", "lease_id": lease, "duration_ms": 1234, "endpoint": "/v1/chat",
        "response_status": 200,
    }  # fmt: skip

    answer = post(world, agent, event(world, **fields, prompt="a prompt nobody keeps", agent_id="agent_x"))

    (record,) = records(agent)
    assert answer.status == 202
    assert {name: getattr(record, name) for name in fields} == fields
    assert record.agent_id == agent.id
    assert "a prompt" not in repr((record, told(agent)))


@pytest.mark.parametrize("again", [{}, {"cost_micros": 9}, {"event_type": "llm_request_failed"}, {"model": "other"}])
def test_a_known_event_is_a_duplicate_whatever_it_says(world: Stage, agent: TestAgent, again: dict[str, Any]) -> None:
    """200, the first write wins, and nobody is told again."""
    post(world, agent, event(world))
    before = (records(agent), told(agent))

    answer = post(world, agent, event(world, **again))

    assert (answer.status, answer.body) == (200, {"event_id": "e1", "status": "duplicate"})
    assert (records(agent), told(agent)) == before


def test_an_id_is_one_agents_own(world: Stage, agent: TestAgent) -> None:
    """Two agents may use the same one; case and blanks make another."""
    other = world.agent()

    answers = [post(world, who, event(world, name)) for who in (agent, other) for name in ("e1", "E1", " e1")]

    assert [each.status for each in answers] == [202] * 6


def test_a_failed_call_costs_nothing_and_its_error_holds_no_secret(world: Stage, agent: TestAgent) -> None:
    """Not in the record, not in the feed; a code that was left out is `unknown`."""
    secrets = ["sk-proj-abcdefghijklmnopqrstuv", "Bearer abcdefghijklmnop1234", "joe@example.com", "at_" + "x" * 43]
    message = f"401:\x00 {' '.join(secrets)} " + "y" * 600

    answer = post(world, agent, failed(world, error_message=message, cost_micros=7, input_tokens=7))

    (record,) = records(agent)
    kept = repr((record, told(agent)))
    assert answer.status == 202
    assert (record.outcome, record.cost_micros, record.total_tokens, record.error_code) == ("failed", 0, 0, "unknown")
    assert len(record.error_message or "x" * 501) <= 500
    assert [each for each in [*secrets, "abcdefghijklmnop", "\\x00"] if each in kept] == []


@pytest.mark.parametrize("message", [5, [], {"a": 1}, "", "x" * 100_000, None, "a\u0000b"])
def test_a_message_of_an_error_is_never_refused(world: Stage, agent: TestAgent, message: object) -> None:
    """Nor is a lease that is none of the agent's."""
    answer = post(world, agent, failed(world, error_message=message, lease_id=message))

    assert (answer.status, records(agent)[0].lease_id) == (202, None)


def test_a_lease_of_another_agent_is_overlooked(world: Stage, agent: TestAgent) -> None:
    """It neither stamps the record nor refuses the event."""
    lease = world.agent().handshake().lease.id

    answer = post(world, agent, event(world, lease_id=lease))

    assert (answer.status, records(agent)[0].lease_id) == (202, None)


BAD: dict[str, list[object]] = {
    "timestamp_ms": [
        1_763_726_400, 946_684_799_999, 1_763_726_400_000.0, "1763726400000", -1, True, None,
    ],
    "event_id": ["", "x" * 101, "a\nb", "a\u202eb", 5, None],
    "event_type": ["LLM_REQUEST_COMPLETED", "router_started", None],
    "model": ["", "m" * 201, None],
    "provider": ["OpenAI", "acme", None],
    "input_tokens": [-1, 1.0, 10**9 + 1, 10**30],
    "output_tokens": [None, "5"],
    "cost_micros": [None, -1, 10**12 + 1, 0.5, True],
    "provider_id": ["", "x" * 101],
    "request_id": ["", "x" * 101],
    "error_code": ["x" * 101],
    "duration_ms": [-1, 86_400_001, 1.0],
    "endpoint": ["x" * 201],
    "response_status": [99, 600],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_field_refuses_an_event(world: Stage, agent: TestAgent, name: str, value: object) -> None:
    """400 that names it, alone and in a batch; nothing is kept, and the id is free."""
    alone = post(world, agent, event(world, **{"event_id": "e1", name: value}))
    batch = post(world, agent, {"events": [event(world, **{"event_id": "e1", name: value}), event(world, "fine")]})

    result = batch.body["results"][0]
    assert (alone.status, alone.code, set(alone.fields)) == (400, "VALIDATION_ERROR", {name})
    assert (batch.status, result["status"], result["code"]) == (202, "rejected", "VALIDATION_ERROR")
    assert set(result["fields"]) == {name}
    assert [each.event_id for each in records(agent)] == ["fine"]
    assert post(world, agent, event(world)).status == 202


@pytest.mark.parametrize("timestamp", ["yesterday", "2025-11-21T12:00:00", 1.5, 5, True])
def test_a_bad_timestamp_is_named_as_it_was_sent(world: Stage, agent: TestAgent, timestamp: object) -> None:
    """RFC 3339 with an offset, or whole Unix seconds from 2000 on."""
    answer = post(world, agent, event(world, timestamp_ms=None, timestamp=timestamp))

    assert (answer.status, set(answer.fields)) == (400, {"timestamp"})


@pytest.mark.parametrize("fields", [{"cost_micros": 0, "input_tokens": 0, "output_tokens": 0}, {"model": "m" * 200}])
def test_the_ends_of_the_ranges_are_fine(world: Stage, agent: TestAgent, fields: dict[str, Any]) -> None:
    """A call may have cost nothing."""
    ends = {"event_id": "x" * 100, "duration_ms": 86_400_000, "response_status": 599, "timestamp_ms": 946_684_800_000}

    assert post(world, agent, event(world, **{**ends, **fields})).status == 202


def test_all_bad_fields_are_told_together(world: Stage, agent: TestAgent) -> None:
    """Those of the wrong kind, of the wrong size, and those that are missing."""
    bad = {"event_id": "x" * 101, "input_tokens": "5", "provider": "acme", "timestamp_ms": 5}

    answer = post(world, agent, {**event(world), **bad, "model": None})
    empty = post(world, agent, {})

    assert set(answer.fields) == {*bad, "model"}
    assert set(empty.fields) == {"event_id", "event_type", "model", "provider", "timestamp_ms"}


def test_a_closed_list_is_told(world: Stage, agent: TestAgent) -> None:
    """`details.allowed` has every type, or every provider."""
    types = post(world, agent, event(world, event_type="x"))
    providers = post(world, agent, event(world, provider="x", input_tokens="x"))

    assert types.body["details"]["allowed"] == ["llm_request_completed", "llm_request_failed"]
    assert {"openai", "anthropic", "unknown"} <= set(providers.body["details"]["allowed"])


@pytest.mark.parametrize("ahead_ms", [300_001, 10**15, 10**40])
def test_a_time_to_come_counts_as_now(world: Stage, agent: TestAgent, ahead_ms: int) -> None:
    """It is not refused; clocks are wrong."""
    answer = post(world, agent, event(world, timestamp_ms=world.clock.now() + ahead_ms))

    assert (answer.status, records(agent)[0].occurred_at) == (202, world.clock.now())


@pytest.mark.parametrize(
    ("given", "at"), [("2025-11-21T13:00:00.5+01:00", 1_763_726_400_500), (1_763_726_400, 1_763_726_400_000)]
)
def test_a_time_may_be_rfc_3339_or_unix_seconds(world: Stage, agent: TestAgent, given: object, at: int) -> None:
    """Only where no milliseconds are given."""
    other = world.agent()
    post(world, agent, event(world, timestamp_ms=None, timestamp=given))

    post(world, other, event(world, timestamp_ms=at + 7, timestamp=given))

    assert [each.occurred_at for who in (agent, other) for each in records(who)] == [at, at + 7]


# --- batches -----------------------------------------------------------------


def test_each_event_of_a_batch_is_judged_alone(world: Stage, agent: TestAgent) -> None:
    """In order; an id is told as far as it is a text, and a token in an event is overlooked."""
    post(world, agent, event(world, "known"))
    items = [
        event(world, "a", ic_token="x"), event(world, "known"), event(world, "a"), {"event_id": "b"}, 5, None, [],
        event(world, ["c"]), failed(world, "d"),
    ]  # fmt: skip

    answer = post(world, agent, {"events": items})

    counts_told = [answer.body[name] for name in ("accepted", "duplicates", "rejected")]
    assert (answer.status, counts_told) == (202, [2, 2, 5])
    assert statuses(answer) == ["accepted", "duplicate", "duplicate", *["rejected"] * 5, "accepted"]
    ids = [each["event_id"] for each in answer.body["results"]]
    assert ids == ["a", "known", "a", "b", None, None, None, None, "d"]
    assert answer.body["results"][4]["fields"] == {"body": "must be a JSON object"}


def test_a_batch_of_known_events_is_200_and_one_of_bad_ones_400(world: Stage, agent: TestAgent) -> None:
    """With one known among the bad it is 200; the fate of each is told in any case."""
    post(world, agent, event(world, "known"))

    known = post(world, agent, {"events": [event(world, "known"), {}]})
    bad = post(world, agent, {"events": [{}, {"event_id": "x"}]})

    assert (known.status, statuses(known)) == (200, ["duplicate", "rejected"])
    assert (bad.status, bad.code, statuses(bad)) == (400, "VALIDATION_ERROR", ["rejected", "rejected"])


@pytest.mark.parametrize("events", [[], [{}] * 1001, "x", 5, {}])
def test_a_batch_has_1_to_1000_events(world: Stage, agent: TestAgent, events: object) -> None:
    """Else it is refused as a whole."""
    answer = post(world, agent, {"events": events})

    assert (answer.status, answer.code, set(answer.fields)) == (400, "VALIDATION_ERROR", {"events"})


def test_a_full_batch_is_taken_in(world: Stage, agent: TestAgent) -> None:
    """A thousand events, in order, and all of them known afterwards."""
    items = [event(world, f"n{number}") for number in range(1000)]

    first = post(world, agent, {"events": items})
    again = post(world, agent, {"events": items})

    assert (first.status, first.body["accepted"], len(records(agent))) == (202, 1000, 1000)
    assert statuses(first) == ["accepted"] * 1000
    assert (again.status, again.body["duplicates"]) == (200, 1000)


def test_a_batch_takes_turns_with_other_calls(world: Stage, agent: TestAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 200 events go into one unit of work; if a later one cannot be written, the earlier ones stay."""
    write, units = world.store.write_async, []

    async def flaky(use_case: Any) -> Any:  # noqa: ANN401 - as the use case returns
        units.append(use_case)
        if len(units) == 3:
            raise UnavailableError("busy")
        return await write(use_case)

    monkeypatch.setattr(world.store, "write_async", flaky)
    answer = post(world, agent, {"events": [event(world, f"n{number}") for number in range(450)]})

    assert (answer.status, answer.body["accepted"], answer.body["rejected"]) == (202, 400, 50)
    assert answer.body["results"][-1] == {
        "index": 449, "event_id": "n449", "status": "rejected", "code": "SERVICE_UNAVAILABLE", "error": "busy",
    }  # fmt: skip
    assert len(records(agent)) == 400


def test_a_batch_may_be_twice_as_large_as_other_bodies(world: Stage, agent: TestAgent) -> None:
    """2 MiB; what is larger is 413 before anything else, and other routes keep their limit."""
    padded = [event(world, f"n{number}", prompt="x" * 1700) for number in range(1000)]

    fits = post(world, agent, {"events": padded})
    too_large = world.post(PATH, b" " * (2 * 1_048_576 + 1))
    other = world.post("/budget/report", b" " * (1_048_576 + 1))
    single = post(world, agent, event(world, "alone", prompt="x" * 1_048_576))

    assert (fits.status, fits.body["accepted"]) == (202, 1000)
    assert [(each.status, each.code) for each in (too_large, other, single)] == [(413, "PAYLOAD_TOO_LARGE")] * 3


def test_a_batch_is_one_however_its_name_is_spelled(world: Stage, agent: TestAgent) -> None:
    """JSON lets every letter be an escape."""
    body = json.dumps({"events": [event(world, "spelled")]}).replace('"events"', '"\\u0065vents"')

    answer = world.post(PATH, body.encode(), token=agent.token)

    assert (answer.status, answer.body["accepted"]) == (202, 1)


# --- who may -----------------------------------------------------------------


def test_the_token_may_stand_in_the_body_or_in_either_header(world: Stage, agent: TestAgent) -> None:
    """Also with its prefix, and beside a user's credential."""
    answers = [
        world.post(PATH, {**event(world, "a"), "ic_token": agent.token}),
        world.post(PATH, {"ic_token": f"ic_{agent.token}", "events": [event(world, "b")]}),
        world.post(PATH, event(world, "c"), headers={"Authorization": f"Bearer {agent.token}"}),
        world.post(PATH, {**event(world, "d"), "ic_token": None}, token=agent.token),
        world.post(PATH, event(world, "e"), token=agent.token, user="ann"),
    ]

    assert [each.status for each in answers] == [202] * 5
    assert len(records(agent)) == 5


@pytest.mark.parametrize("token", ["", " ", 5, [], "x" * 2001])
def test_a_misshapen_token_is_a_bad_field(world: Stage, agent: TestAgent, token: object) -> None:
    """400 before anything else is asked, whatever stands in a header."""
    answer = world.post(PATH, {"ic_token": token}, token=agent.token)

    assert (answer.status, answer.code, set(answer.fields)) == (400, "VALIDATION_ERROR", {"ic_token"})


def test_two_different_tokens_are_ambiguous(world: Stage, agent: TestAgent) -> None:
    """400, though both are good."""
    answer = world.post(PATH, {**event(world), "ic_token": world.agent().token}, token=agent.token)

    assert (answer.status, answer.code) == (400, "AMBIGUOUS_CREDENTIALS")


@pytest.mark.parametrize(
    ("body", "content_type", "told"),
    [
        (b"{}", "text/plain", (415, "UNSUPPORTED_MEDIA_TYPE")),
        (b"{", "application/json", (400, "MALFORMED_JSON")),
        (b"", "application/json", (400, "MALFORMED_JSON")),
        (b"[]", "application/json", (400, "VALIDATION_ERROR")),
        (b'"events"', "application/json", (400, "VALIDATION_ERROR")),
        (b'{"event_id": "\\ud800"}', "application/json", (400, "MALFORMED_JSON")),
        (b'{"ic_token": 5}', "application/json", (400, "VALIDATION_ERROR")),
        (b"{}", "application/json", (401, "AUTH_MISSING_TOKEN")),
        (b'{"events": []}', "application/json", (401, "AUTH_MISSING_TOKEN")),
    ],
)
def test_what_is_told_to_nobody(world: Stage, body: bytes, content_type: str, told: tuple[int, str]) -> None:
    """Media type, JSON, an object and the token's shape come before 401; the fields after it."""
    answer = world.post(PATH, body, headers={"Content-Type": content_type})

    assert (answer.status, answer.code) == told


def test_a_users_credential_in_the_place_of_an_agents_is_not_valid(world: Stage) -> None:
    """401 with the one message of every bad token."""
    answer = world.post(PATH, {**event(world), "ic_token": world.session("ann")})

    assert (answer.status, answer.code) == (401, "AUTH_INVALID_TOKEN")


def test_a_token_without_the_permission_is_refused_before_the_fields(world: Stage) -> None:
    """403, for a single event, a batch and telemetry alike."""
    agent = world.agent()
    token_id = world.signer.prove(agent.token, now=world.clock.now()).claims.token_id
    world.store.write(lambda uow: uow.ic_tokens.put(uow.ic_tokens.find(token_id)._replace(permissions="llm:call")))  # type: ignore[union-attr]  # it is there
    token = world.post(f"/agents/{agent.id}/ic-token/regenerate", user="admin").body["ic_token"]

    answers = [world.post(path, body, token=token) for path, body in
               ((PATH, {}), (PATH, {"events": []}), (PATH, event(world)), ("/telemetry/events", {}))]  # fmt: skip

    assert {(each.status, each.code) for each in answers} == {(403, "INSUFFICIENT_SCOPE")}
    assert records(agent) == []


def test_during_a_rotation_both_values_are_good_and_afterwards_one(world: Stage, agent: TestAgent) -> None:
    """A dead value is refused; it may settle leases, but not tell of calls."""
    lease = agent.handshake().lease.id
    body = {"overlap_seconds": 60}
    new = world.post(f"/agents/{agent.id}/ic-token/regenerate", body, user="admin").body["ic_token"]
    both = [
        world.post(PATH, event(world, name), token=token).status for name, token in (("a", agent.token), ("b", new))
    ]
    world.clock.pass_s(61)

    old, newer = (world.post(PATH, event(world, "c", lease_id=lease), token=token) for token in (agent.token, new))

    assert both == [202, 202]
    assert (old.status, old.code, newer.status) == (401, "AUTH_INVALID_TOKEN", 202)


@pytest.mark.parametrize("how", ["revoked", "deleted"])
def test_a_token_that_is_over_is_refused(world: Stage, how: str) -> None:
    """And nothing is kept of what it tells."""
    agent = world.agent()
    path = f"/agents/{agent.id}/ic-token" if how == "revoked" else f"/agents/{agent.id}"
    assert world.send("DELETE", path, user="admin").status in {200, 204}

    answer = post(world, agent, event(world))

    assert (answer.status, answer.code, records(agent)) == (401, "AUTH_INVALID_TOKEN", [])


@pytest.mark.parametrize("how", ["stopped", "inactive"])
def test_an_agent_that_may_make_no_call_tells_of_those_it_made(world: Stage, agent: TestAgent, how: str) -> None:
    """The money is gone."""
    if how == "stopped":
        assert world.post(f"/agents/{agent.id}/stop", user="ann").status == 200
    else:
        assert world.send("PUT", f"/agents/{agent.id}", {"status": "inactive"}, user="admin").status == 200

    assert post(world, agent, event(world)).status == 202


# --- how often ---------------------------------------------------------------


def test_new_events_and_known_ones_have_limits_of_their_own(limited: Stage) -> None:
    """Three new and four known here: each event counts, whatever call it comes in, and bad ones do not."""
    world, agent, other = limited, limited.agent(), limited.agent()

    first = post(world, agent, {"events": [event(world, name) for name in ("a", "b", "c", "d", "a")] + [{}]})
    single = post(world, agent, event(world, "d"))
    batch = post(world, agent, {"events": [event(world, "d"), event(world, "e")]})
    mixed = post(world, agent, {"events": [event(world, "d"), event(world, "a")]})

    assert (first.status, first.headers["retry-after"]) == (202, "20")
    assert statuses(first) == ["accepted"] * 3 + ["rejected", "duplicate", "rejected"]
    assert first.body["results"][3]["code"] == "RATE_LIMIT_EXCEEDED"
    assert first.headers["x-ratelimit-limit"] == "3"
    assert (single.status, single.code, single.headers["retry-after"]) == (429, "RATE_LIMIT_EXCEEDED", "20")
    assert (batch.status, statuses(batch), batch.headers["retry-after"]) == (429, ["rejected"] * 2, "20")
    assert (mixed.status, statuses(mixed), mixed.headers["retry-after"]) == (200, ["rejected", "duplicate"], "20")
    assert [post(world, agent, event(world, "a")).status for _ in range(3)] == [200, 200, 429]
    assert post(world, other, event(world, "a")).status == 202


def test_events_of_both_routes_share_a_limit(limited: Stage) -> None:
    """Three new ones, wherever they come in."""
    world, agent = limited, limited.agent()
    post(world, agent, {"events": [event(world, name) for name in ("a", "b")]})
    note = {"timestamp_ms": world.clock.now(), "type": "agent_idle"}

    answer = world.post(
        "/telemetry/events", {"events": [{"event_id": name, **note} for name in "cd"]}, token=agent.token
    )

    assert statuses(answer) == ["accepted", "rejected"]


def test_an_event_counts_once_though_its_unit_of_work_runs_twice(
    limited: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a batch does that is repeated: three new ones are still three."""
    world, agent, write = limited, limited.agent(), limited.store.write_async

    async def twice(use_case: Any) -> Any:  # noqa: ANN401 - as the use case returns
        class AgainError(Exception):
            pass

        def lost(uow: Any) -> None:  # noqa: ANN401 - as the store passes it
            use_case(uow)
            raise AgainError

        with pytest.raises(AgainError):
            await write(lost)
        return await write(use_case)

    monkeypatch.setattr(world.store, "write_async", twice)
    answer = post(world, agent, {"events": [event(world, name) for name in "abcd"]})

    assert statuses(answer) == ["accepted"] * 3 + ["rejected"]


# --- the original's runtime ---------------------------------------------------


def test_a_runtime_that_resends_its_buffer_each_cycle_counts_every_call_once(world: Stage, agent: TestAgent) -> None:
    """One event a request, bare UUIDs, the token in the body; late ones come after the lease was returned."""
    lease = agent.handshake().lease.id
    uuids = [f"7d3f1c52-8a44-4b7e-9d0c-2f6b1e5a9c{number:02x}" for number in range(6)]
    buffer = [{**event(world, each), "ic_token": agent.token} for each in uuids[:4]]
    buffer.append({**failed(world, uuids[4], error_code="Too Many Requests"), "ic_token": agent.token})
    first = [world.post(PATH, each).status for each in buffer]
    second = [world.post(PATH, each).status for each in buffer]
    agent.return_lease(lease, 6000)
    buffer.append({**event(world, uuids[5]), "ic_token": agent.token})

    third = [world.post(PATH, each).status for each in buffer]

    late = next(each for each in records(agent) if each.event_id == uuids[5])
    assert (first, second, third) == ([202] * 5, [200] * 5, [*[200] * 5, 202])
    assert sum(each.cost_micros for each in records(agent)) == 5 * 1500
    assert (late.lease_id, len(records(agent))) == (None, 6)


def test_two_posts_of_one_event_at_once_are_accepted_once(world: Stage, agent: TestAgent) -> None:
    """Exactly one 202, alone and in batches, on both routes."""
    headers = {"X-IC-Token": agent.token}
    note = {"event_id": "e1", "timestamp_ms": world.clock.now(), "type": "agent_idle"}
    bodies = [(PATH, event(world)), (PATH, {"events": [event(world)]}), ("/telemetry/events", {"events": [note]})] * 4

    async def all_at_once() -> list[int]:
        calls = [world._client.post(f"/api/v1{path}", json=body, headers=headers) for path, body in bodies]
        return [each.status_code for each in await asyncio.gather(*calls)]

    answers = world._runner.run(all_at_once())

    assert sorted(answers) == [200] * 11 + [202]


def test_what_became_of_events_is_counted(world: Stage, agent: TestAgent) -> None:
    """By route, and how many of them named another cost than the report of their call."""
    lease = agent.handshake().lease.id
    agent.report(lease, "r1", 7)
    before = counts(world)

    post(world, agent, {"events": [event(world, "a", request_id="r1"), event(world, "b"), event(world, "a"), {}]})

    after = counts(world)
    grown = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name)}
    assert grown == {
        'ironcage_events_total{route="/analytics/events",status="accepted"}': 2,
        'ironcage_events_total{route="/analytics/events",status="duplicate"}': 1,
        'ironcage_events_total{route="/analytics/events",status="rejected"}': 1,
        "analytics_cost_mismatch_total": 1,
    }


def counts(world: Stage) -> dict[str, float]:
    """Return the counters of events."""
    lines = world.get("/metrics").raw.decode().splitlines()
    named = ("ironcage_events_total", "analytics_cost_mismatch_total")
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name.startswith(named)}
