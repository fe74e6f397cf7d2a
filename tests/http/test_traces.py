"""Traces over HTTP: what they tell, to whom, and how they are found."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, as_datetime, format_instant
from ironcage_core.domain.usage import UsageRecord
from tests.support.http_agents import Stage, stage
from tests.support.rows import fresh_id, usage_row
from tests.support.world import USD, TestAgent

UNKNOWN = "0" * 32


@pytest.fixture
def fresh() -> Iterator[Stage]:
    """A stage of one test alone, on which nothing was ever called."""
    with stage() as made:
        yield made


def called(world: Stage, agent: TestAgent, call_key: str = "", **fields: Any) -> UsageRecord:  # noqa: ANN401 - fields of a record
    """Put a record of a call."""
    record = usage_row(agent.id, call_key or fresh_id("call"), **{"occurred_at": world.clock.now(), **fields})
    world.store.write(lambda uow: uow.usage.put(record))
    return record


def ids(world: Stage, query: str = "", user: str = "ann", **options: Any) -> list[str]:  # noqa: ANN401 - of a request
    """Return the ids of a page of traces, whose total is right."""
    answer = world.get(f"/traces?{query}", **(options or {"user": user}))
    assert answer.status == 200, answer.raw
    found = [each["id"] for each in answer.body["data"]]
    assert "page" in query or answer.body["pagination"]["total"] == len(found)
    return found


def test_a_report_s_trace_has_every_field(fresh: Stage) -> None:
    """What a report does not know is null; cost is exact in both forms."""
    agent = fresh.agent()
    lease = agent.handshake().lease.id
    agent.report(lease, "r1", 1_234_567, tokens=None, input_tokens=30, output_tokens=12)

    (trace,) = fresh.get("/traces", user="ann").body["data"]

    assert list(trace) == [
        "id", "request_id", "event_id", "agent_id", "project_id", "lease_id", "provider", "provider_id", "model",
        "endpoint", "response_status", "status", "duration_ms", "input_tokens", "output_tokens", "total_tokens",
        "cost", "cost_micros", "error_code", "error_message", "traced_at",
    ]  # fmt: skip
    assert trace["id"].startswith("trace_")
    assert {**trace, "id": ""} == {
        "id": "", "request_id": "r1", "event_id": None, "agent_id": agent.id, "project_id": "proj_master_001",
        "lease_id": lease, "provider": "openai", "provider_id": fresh.key_id, "model": "gpt-test", "endpoint": None,
        "response_status": None, "status": "completed", "duration_ms": None, "input_tokens": 30, "output_tokens": 12,
        "total_tokens": 42, "cost": Decimal("1.234567"), "cost_micros": 1_234_567, "error_code": None,
        "error_message": None, "traced_at": format_instant(fresh.clock.now()),
    }  # fmt: skip
    assert fresh.get(f"/traces/{trace['id']}", user="ann").body == trace


FAILED = {
    "event_id": "evt_1", "request_id": None, "outcome": "failed", "endpoint": "/v1/chat", "response_status": 429,
    "duration_ms": 15, "error_code": "rate_limited", "error_message": "too many", "cost_micros": 0,
}  # fmt: skip


def test_an_event_s_trace_tells_how_it_failed(fresh: Stage) -> None:
    """Its own id is its request id; a viewer does not read the words of the error."""
    anns = called(fresh, fresh.agent(), "evt_1", **FAILED)
    veras = called(fresh, fresh.agent(owner_id=fresh.user_id("vera")), "evt_1", **FAILED)
    expected = {
        "request_id": "evt_1", "event_id": "evt_1", "status": "failed", "endpoint": "/v1/chat",
        "response_status": 429, "duration_ms": 15, "error_code": "rate_limited", "cost": 0,
    }  # fmt: skip

    for user, record, message in (
        ("ann", anns, "too many"), ("admin", veras, "too many"), ("vera", veras, None),
    ):  # fmt: skip
        one = fresh.get(f"/traces/{record.id}", user=user).body
        (listed,) = fresh.get(f"/traces?agent_id={record.agent_id}", user=user).body["data"]
        assert one == listed
        assert one.items() >= {**expected, "error_message": message}.items()


def test_each_sees_the_traces_of_the_own_agents(fresh: Stage) -> None:
    """An admin all; in one project a token of it; by a bound token those of its agent."""
    agent, sibling = fresh.agent(), fresh.agent()
    one = called(fresh, agent, occurred_at=fresh.clock.now() - 1, project_id="proj_master_001").id
    two = called(fresh, sibling, project_id="gone").id
    veras = called(fresh, fresh.agent(owner_id=fresh.user_id("vera")), occurred_at=5).id

    def token(user: str, **fields: object) -> dict[str, str]:
        made = fresh.post("/api-tokens", {"name": fresh_id("t")[-9:], **fields}, user=user)
        assert made.status == 201, made.raw
        return {"X-API-Token": made.body["token"]}

    in_project, bound = token("admin", project_id="proj_master_001"), token("ann", agent_id=agent.id)

    assert (ids(fresh), ids(fresh, user="vera"), ids(fresh, user="admin")) == ([two, one], [veras], [two, one, veras])
    assert ids(fresh, headers=in_project) == ids(fresh, headers=bound) == [one]
    assert fresh.get(f"/traces/{two}", headers=in_project).code == "FORBIDDEN"
    assert fresh.get(f"/traces/{two}", headers=bound).code == "AGENT_TOKEN_FORBIDDEN"
    assert fresh.get(f"/traces?agent_id={sibling.id}", headers=bound).code == "AGENT_TOKEN_FORBIDDEN"
    assert fresh.get(f"/traces/{veras}", user="ann").code == "FORBIDDEN"
    assert fresh.get("/usage", headers=bound).code == "AGENT_TOKEN_FORBIDDEN"
    assert fresh.get("/usage", headers=in_project).body["total_requests"] == 1


def test_reassignment_and_deletion_move_no_more_than_who_sees(fresh: Stage) -> None:
    """To the new owner by a PUT of an admin; a deleted agent's traces stay with the last one."""
    agent = fresh.agent()
    record = called(fresh, agent).id
    otto = fresh.add_user("otto")
    changed = fresh.send("PUT", f"/agents/{agent.id}", {"owner_id": otto}, user="admin")
    assert changed.status == 200, changed.raw
    assert (ids(fresh), ids(fresh, user="otto"), ids(fresh, user="admin")) == ([], [record], [record])

    assert fresh.send("DELETE", f"/agents/{agent.id}", user="admin").status == 204

    for user in ("otto", "admin"):
        assert ids(fresh, f"agent_id={agent.id}", user=user) == [record]
        assert fresh.get("/usage", user=user).body["total_requests"] == 1
        assert fresh.get(f"/usage?agent_id={agent.id}", user=user).body["total_requests"] == 1
    assert fresh.get(f"/traces/{record}", user="ann").code == "FORBIDDEN"
    assert fresh.get("/usage", user="ann").body["total_requests"] == 0


def test_filters_narrow_and_pages_follow_the_order(fresh: Stage) -> None:
    """Each filter alone, all of them together, times in every form, both orders."""
    agent = fresh.agent()
    now = fresh.clock.now()
    told = {"project_id": "p1", "provider": "p2", "model": "m1", "outcome": "failed"}
    newest = called(fresh, agent, "k1", **told).id
    lease = agent.handshake().lease.id
    agent.report(lease, "k2", USD, occurred_at=now - MS_PER_HOUR)
    middle = ids(fresh, "request_id=k2")[0]
    oldest = called(fresh, agent, "k3", occurred_at=now - 3 * MS_PER_DAY).id
    day = as_datetime(now - 3 * MS_PER_DAY).date().isoformat()
    every = f"agent_id={agent.id}&project_id=p1&provider=p2&model=m1&status=failed&request_id=k1"

    for query, expected in {
        "": [newest, middle, oldest],
        "sort=traced_at": [oldest, middle, newest],
        "sort=-traced_at&per_page=2&page=2": [oldest],
        "sort=traced_at&per_page=2&page=2": [newest],
        "page=9": [],
        "project_id=p1": [newest],
        "provider=p2": [newest],
        "model=m1": [newest],
        "status=failed": [newest],
        "status=completed": [middle, oldest],
        "request_id=k3": [oldest],
        f"lease_id={lease}": [middle],
        every: [newest],
        f"{every}&status=failed".replace("k1", "k3").replace("&status=failed", "", 1): [],
        f"from={day}&to={day}": [oldest],
        f"to={day}": [oldest],
        f"from={(now - MS_PER_HOUR) // 1000}&to={now // 1000}": [middle],
        f"from={format_instant(now)}": [newest],
        f"to={format_instant(now)}": [middle, oldest],
    }.items():
        assert ids(fresh, query) == expected, query
    page = fresh.get("/traces?per_page=2&page=2", user="ann").body["pagination"]
    assert page == {"page": 2, "per_page": 2, "total": 3, "total_pages": 2}


WRONG = [
    ("agent_id=abc", 400, "VALIDATION_ERROR"),
    (f"agent_id=agent_{UNKNOWN}", 404, "AGENT_NOT_FOUND"),
    ("agent_id={vera}", 403, "FORBIDDEN"),
    ("lease_id=abc", 400, "VALIDATION_ERROR"),
    (f"lease_id=lease_{UNKNOWN}", 404, "LEASE_NOT_FOUND"),
    ("lease_id={lease}", 403, "FORBIDDEN"),
    ("from=2025-01-02&to=2025-01-01", 400, "VALIDATION_ERROR"),
    ("from=1735689600&to=1735689600", 400, "VALIDATION_ERROR"),
    ("from=yesterday", 400, "VALIDATION_ERROR"),
    ("to=", 400, "VALIDATION_ERROR"),
    ("status=running", 400, "VALIDATION_ERROR"),
    ("sort=cost", 400, "VALIDATION_ERROR"),
    ("page=0", 400, "VALIDATION_ERROR"),
    ("per_page=101", 400, "VALIDATION_ERROR"),
    ("model=a&model=b", 400, "VALIDATION_ERROR"),
    ("project_id=", 400, "VALIDATION_ERROR"),
    ("status=running&agent_id={vera}", 403, "FORBIDDEN"),
    (f"page=0&agent_id=agent_{UNKNOWN}", 404, "AGENT_NOT_FOUND"),
    (f"from=x&lease_id=lease_{UNKNOWN}", 404, "LEASE_NOT_FOUND"),
]


@pytest.mark.parametrize(("query", "status", "code"), WRONG)
def test_a_bad_filter_is_refused(world: Stage, query: str, status: int, code: str) -> None:
    """What is not there, what is somebody else's, and only then what breaks a rule."""
    if "{" in query:
        agent = world.agent(owner_id=world.user_id("vera"))
        query = query.format(vera=agent.id, lease=agent.handshake().lease.id)

    answer = world.get(f"/traces?{query}", user="ann")

    assert (answer.status, answer.code) == (status, code), answer.raw


@pytest.mark.parametrize("trace_id", [f"trace_{UNKNOWN}", "abc", f"evt_{UNKNOWN}", "999999"])
def test_a_trace_that_is_not_there_is_404(world: Stage, trace_id: str) -> None:
    """Malformed or unknown, to an admin as to anybody."""
    for user in ("admin", "ann"):
        answer = world.get(f"/traces/{trace_id}", user=user)
        assert (answer.status, answer.code) == (404, "TRACE_NOT_FOUND")


def test_nobody_writes_traces(world: Stage) -> None:
    """No method but GET."""
    for path in ("/traces", f"/traces/trace_{UNKNOWN}"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = world.send(method, path, {}, user="admin")
            assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
            assert set(answer.headers["allow"].split(", ")) == {"GET", "OPTIONS"}


@pytest.mark.usefixtures("silence")
def test_no_trace_holds_a_secret(world: Stage) -> None:
    """Nor does the log, whatever is asked for; every answer of this stage is searched for its tokens and keys."""
    agent = world.agent()
    lent = agent.handshake()
    world.known_secrets |= {lent.ip_token}
    agent.report(lent.lease.id, "r1", USD)

    answers = [world.get(path, user="admin") for path in ("/traces", f"/traces?lease_id={lent.lease.id}", "/usage")]

    assert [each.status for each in answers] == [200, 200, 200]


def test_what_is_older_than_the_records_is_gone_from_traces_alone(fresh: Stage) -> None:
    """The totals remember it."""
    agent = fresh.agent()
    now = fresh.clock.now()
    old = called(fresh, agent, occurred_at=now - 9 * MS_PER_DAY).id
    new = called(fresh, agent).id
    today = now // MS_PER_DAY * MS_PER_DAY
    fresh.store.write(lambda uow: uow.usage.advance_horizon("records", today))

    assert ids(fresh) == [new]
    assert fresh.get(f"/traces/{old}", user="ann").code == "TRACE_NOT_FOUND"
    assert fresh.get("/usage", user="ann").body["total_requests"] == 2
