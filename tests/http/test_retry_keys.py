"""The header `Idempotency-Key` on the calls of a runtime."""

from collections.abc import Callable

import pytest

from ironcage_http.retry_keys import _hash
from tests.support.http_agents import Stage, books
from tests.support.stores import raw
from tests.support.web import Answer
from tests.support.world import USD, TestAgent

pytestmark = pytest.mark.usefixtures("silence")

Send = Callable[[str | bytes, object], Answer]
OPERATIONS = ("handshake", "refresh", "return", "reserve")


def sending(world: Stage, agent: TestAgent, operation: str) -> tuple[Send, dict[str, object]]:
    """Return what sends an operation with a key, and a body for it."""
    lease = "" if operation == "handshake" else agent.handshake(5 * USD).lease.id
    bodies: dict[str, dict[str, object]] = {
        "handshake": {"requested_budget": 2},
        "refresh": {"lease_id": lease, "requested_budget": 2, "current_remaining": 4},
        "return": {"lease_id": lease, "final_spent_usd": 1},
        "reserve": {"lease_id": lease, "request_id": "call", "amount": 1},
    }

    def send(key: str | bytes, body: object) -> Answer:
        headers = {"Idempotency-Key": key, "X-IC-Token": agent.token}
        return world.post(f"/budget/{operation}", body, headers=headers)

    return send, bodies[operation]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_retry_gets_the_first_answer_and_is_told_so(world: Stage, agent: TestAgent, operation: str) -> None:
    """Status and body are the same but for the sealing of the key; nothing happens twice."""
    send, body = sending(world, agent, operation)
    first = send("key-1", body)
    before = books(agent)
    notes = count_notes(world, agent)

    again = send("key-1", body)

    assert first.status == again.status == (201 if operation == "reserve" else 200)
    assert first.headers.get("idempotent-replayed") is None
    assert again.headers["idempotent-replayed"] == "true"
    assert without(again, "ip_token") == without(first, "ip_token")
    assert books(agent) == before
    is_grant = operation in {"handshake", "refresh"}
    assert count_notes(world, agent) - notes == (1 if is_grant else 0)
    if is_grant:
        assert again.body["ip_token"] != first.body["ip_token"]
        assert again.headers["cache-control"] == "no-store"


def without(answer: Answer, name: str) -> dict[str, object]:
    return {field: value for field, value in answer.body.items() if field != name}


def count_notes(world: Stage, agent: TestAgent) -> int:
    return sum(row.actor_id == agent.id for row in world.store.read(lambda uow: list(uow.audit.rows())))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_retry_with_another_body_is_refused(world: Stage, agent: TestAgent, operation: str) -> None:
    """The order of fields and where the token stands make no other body; a field more does."""
    send, body = sending(world, agent, operation)
    send("key-1", body)
    before = books(agent)

    same = send("key-1", {**dict(reversed(body.items())), "ic_token": agent.token})
    other = send("key-1", {**body, "runtime_id": "another"})

    assert same.headers.get("idempotent-replayed") == "true"
    assert (other.status, other.code) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert books(agent) == before


@pytest.mark.parametrize(
    ("fields", "is_same"),
    [
        (b'"requested_budget": 10', True),
        (b'"requested_budget": 10.0', True),
        (b'"requested_budget": 1e1', True),
        (b'"requested_budget": 1000E-2, "runtime_id": null', True),
        (b'"requested_budget": 10, "more": null', True),
        (b'"requested_budget": 10.000001', False),
        (b'"requested_budget": "10"', False),
        (b'"requested_budget": "1E+1"', False),
        (b'"requested_budget": 10, "more": 0', False),
        (b'"requested_budget": 10, "more": [null]', False),
        (b'"requested_budget": 10, "more": 1e99999999999999999999', False),
    ],
)
def test_bodies_are_the_same_by_what_they_say(world: Stage, agent: TestAgent, fields: bytes, is_same: bool) -> None:
    """However numbers are written, and with null for what is left out; a string is no number."""
    headers = {"Idempotency-Key": "k", "X-IC-Token": agent.token}
    world.post("/budget/handshake", b'{"requested_budget": 10}', headers=headers)

    answer = world.post("/budget/handshake", b"{" + fields + b"}", headers=headers)

    assert (answer.status, answer.headers.get("idempotent-replayed")) == ((200, "true") if is_same else (409, None))


def test_what_stands_inside_a_field_is_compared_as_well() -> None:
    """Null, order and numbers at any depth, to the last digit, and without a sign of zero."""
    told, same, other = (
        _hash(body)
        for body in (
            b'{"a": [{"b": 0, "c": 1.' + b"0" * 40 + b"1}]}",
            b'{"a": [{"d": null, "c": 1.' + b"0" * 40 + b'10, "b": -0.0}]}',
            b'{"a": [{"b": 0, "c": 1.' + b"0" * 40 + b"2}]}",
        )
    )

    assert told == same
    assert told != other


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("key", ["", "x" * 201, "with blank", "ü", "tab\t1"])
def test_a_key_has_one_to_two_hundred_visible_characters(
    world: Stage, agent: TestAgent, operation: str, key: str
) -> None:
    """Anything else is a bad field, and nothing happens."""
    send, body = sending(world, agent, operation)
    before = books(agent)

    answer = send(key.encode("latin-1"), body)

    assert (answer.status, answer.code, list(answer.fields)) == (400, "VALIDATION_ERROR", ["Idempotency-Key"])
    assert books(agent) == before


@pytest.mark.parametrize("key", ["!", "~" * 200])
def test_the_limits_of_a_key_are_themselves_allowed(world: Stage, agent: TestAgent, key: str) -> None:
    """One character, two hundred, the first and the last there are."""
    send, body = sending(world, agent, "handshake")

    answers = [send(key, body) for _ in range(2)]

    assert [each.status for each in answers] == [200, 200]
    assert answers[0].body["lease_id"] == answers[1].body["lease_id"]


def test_both_base_paths_are_one_scope_and_each_route_and_agent_another(world: Stage, agent: TestAgent) -> None:
    """Principal, method and path belong to the key."""
    other = world.agent()
    lease = agent.handshake().lease.id

    def send(path: str, body: object, who: TestAgent) -> Answer:
        return world.post(path, body, token=who.token, headers={"Idempotency-Key": "k"})

    first = send("/api/v1/budget/handshake", {}, agent)
    same = send("/api/budget/handshake", {}, agent)
    foreign = send("/budget/handshake", {}, other)
    refreshed = send("/budget/refresh", {"lease_id": lease}, agent)

    assert [each.status for each in (first, same, foreign, refreshed)] == [200] * 4
    assert same.body["lease_id"] == first.body["lease_id"]
    assert foreign.body["lease_id"] != first.body["lease_id"]
    assert [each.headers.get("idempotent-replayed") for each in (same, foreign, refreshed)] == ["true", None, None]


def test_no_body_and_an_empty_one_are_the_same(world: Stage, agent: TestAgent) -> None:
    """A handshake needs none."""
    headers = {"Idempotency-Key": "k", "X-IC-Token": agent.token}

    first = world.post("/budget/handshake", headers=headers)
    again = world.post("/budget/handshake", {}, headers=headers)

    assert again.body["lease_id"] == first.body["lease_id"]


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [("revoke", 403, "LEASE_REVOKED"), ("return", 409, "LEASE_CLOSED"), ("time", 403, "LEASE_EXPIRED")],
)
def test_a_handshake_retried_after_its_lease_has_ended_is_refused(
    world: Stage, agent: TestAgent, end: str, status: int, code: str
) -> None:
    """No key for a lease that is over."""
    send, body = sending(world, agent, "handshake")
    lease = send("k", body).body["lease_id"]
    if end == "revoke":
        world.post(f"/budget/leases/{lease}/revoke", user="admin")
    elif end == "return":
        agent.return_lease(lease)
    else:
        world.clock.pass_s(3660)

    answer = send("k", body)

    assert (answer.status, answer.code) == (status, code)


def test_a_retry_shows_the_balance_of_now(world: Stage, agent: TestAgent) -> None:
    """Amounts of the first answer, balances of this one."""
    send, body = sending(world, agent, "handshake")
    first = send("k", body)
    agent.report(first.body["lease_id"], "r", USD)
    agent.handshake(3 * USD)

    again = send("k", body).body

    assert (again["budget_granted"], again["total_spent"], again["budget_remaining"]) == (2, 1, 95)


def test_a_denied_refresh_and_a_refusal_are_judged_anew(world: Stage) -> None:
    """The same key works once there is money."""
    agent = world.agent(5 * USD)
    send, body = sending(world, agent, "refresh")

    denied = send("k", body)
    raised = world.send("PUT", f"/limits/agents/{agent.id}/budget", {"budget": 50}, user="admin")
    approved = send("k", body)

    assert (denied.body["status"], raised.status, approved.body["status"]) == ("denied", 200, "approved")
    assert "idempotent-replayed" not in approved.headers


def test_a_retried_refresh_is_not_noted_as_a_difference_of_numbers(world: Stage, agent: TestAgent) -> None:
    """The numbers it tells were those of a lease that is over by then, with or without a key."""
    lease = agent.handshake(5 * USD).lease.id
    body = {"lease_id": lease, "current_remaining": 5, "total_spent": 0}
    world.post("/budget/refresh", body, token=agent.token)

    world.post("/budget/refresh", body, token=agent.token)

    operations = [
        row.operation for row in world.store.read(lambda uow: list(uow.audit.rows())) if row.actor_id == agent.id
    ]
    assert "BUDGET_DISCREPANCY" not in operations


def test_nothing_secret_is_stored_with_a_key(world: Stage, agent: TestAgent) -> None:
    """Wherever the token stood; sealed keys neither."""
    for operation in OPERATIONS:
        send, body = sending(world, agent, operation)
        answer = send("k", {**body, "ic_token": f"ic_{agent.token}"})
        assert answer.status < 300, answer.raw
        world.known_secrets.add(answer.body.get("ip_token", agent.token))
    stored = repr(raw(world.store, "SELECT * FROM idempotency_keys"))
    shown = [each for each in world.known_secrets if each in stored]
    world.known_secrets.difference_update(each for each in set(world.known_secrets) if each.startswith("AES256"))

    assert agent.id in stored
    assert shown == []
