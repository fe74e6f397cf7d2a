"""Reservations over the wire: what they answer, refuse and show."""

from decimal import Decimal

import pytest

from ironcage_core.domain.limit_classes import LIMITS, Limit
from ironcage_core.domain.rate_limits import Rate
from ironcage_core.services.ic_tokens import regenerate_ic_token
from ironcage_http.app import ROUTES
from tests.support.http_agents import Stage, books, usd
from tests.support.web import Answer
from tests.support.world import ADMIN, USD, TestAgent

pytestmark = pytest.mark.usefixtures("silence")

UNKNOWN = "lease_" + "0" * 32


def reserve(world: Stage, agent: TestAgent, amount: object = 1, request_id: str = "call-1", **fields: object) -> Answer:
    body = {"request_id": request_id, "amount": amount, **fields}
    return world.post("/budget/reserve", body, token=agent.token)


def cancel(world: Stage, agent: TestAgent, request_id: str = "call-1") -> Answer:
    return world.send("DELETE", f"/budget/reserve/{request_id}", token=agent.token)


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
def test_a_reservation_answers_with_its_lease_its_time_and_what_is_left(
    world: Stage, agent: TestAgent, base: str
) -> None:
    """Every field of the contract, to the last micro-USD; 201 the first time, 200 and the same body after that."""
    lease = agent.handshake(5 * USD).lease.id
    before = books(agent)
    sent = b'{"request_id": "a call", "amount": "1.000001", "ttl_seconds": 60}'

    first = world.post(f"{base}/budget/reserve", sent, token=agent.token)
    again = world.post(f"{base}/budget/reserve", sent, token=agent.token)

    assert (first.status, again.status) == (201, 200)
    assert b'"reserved_usd":1.000001' in first.raw
    assert again.body == first.body
    assert set(first.body) == {"lease_id", "request_id", "reserved_usd", "expires_at", "lease_available_usd"}
    assert (first.body["lease_id"], first.body["request_id"]) == (lease, "a call")
    assert (first.body["lease_available_usd"], first.body["expires_at"][-1]) == (usd("3.999999"), "Z")
    assert "idempotent-replayed" not in again.headers
    assert books(agent) == before


def test_a_cancelled_reservation_is_released_once(world: Stage, agent: TestAgent) -> None:
    """The second time it is 0; the path may hold any request id, a slash included."""
    agent.handshake(5 * USD)
    reserve(world, agent, 2, "ein Ruf/ü 1%")

    answers = [cancel(world, agent, "ein%20Ruf%2F%C3%BC%201%25") for _ in range(2)]

    assert [(each.status, each.body) for each in answers] == [
        (200, {"request_id": "ein Ruf/ü 1%", "released_usd": 2}),
        (200, {"request_id": "ein Ruf/ü 1%", "released_usd": 0}),
    ]


@pytest.mark.parametrize("carrier", ["body", "bearer"])
def test_the_token_may_come_in_a_body_or_as_bearer(world: Stage, agent: TestAgent, carrier: str) -> None:
    """On both routes."""
    agent.handshake(5 * USD)
    body: dict[str, object] = {"ic_token": f"ic_{agent.token}"} if carrier == "body" else {}
    headers = {"Authorization": f"Bearer {agent.token}"} if carrier == "bearer" else {}

    made = world.post("/budget/reserve", {"request_id": "a", "amount": 1, **body}, headers=headers)
    gone = world.send("DELETE", "/budget/reserve/a", body or None, headers=headers)

    assert (made.status, gone.status, gone.body["released_usd"]) == (201, 200, 1)


def test_more_than_is_left_is_refused_in_usd(world: Stage, agent: TestAgent) -> None:
    """With what there is, what was asked for, and the numbers of the lease."""
    lease = agent.handshake(5 * USD).lease.id
    agent.report(lease, "r", 1_500_000)

    answer = reserve(world, agent, Decimal("3.5") + Decimal("0.000001"))

    assert (answer.status, answer.code) == (403, "BUDGET_EXCEEDED")
    assert answer.body["details"] == {
        "scope": "lease", "available": usd("3.5"), "requested": usd("3.500001"), "spent": usd("1.5"), "limit": 5,
    }  # fmt: skip
    assert reserve(world, agent, "3.5").status == 201


def test_each_refusal_has_its_status_and_code(world: Stage, agent: TestAgent) -> None:
    """Contract budget.md 5.5, every error, in one agent's day."""
    told = []

    def tell(answer: Answer) -> None:
        told.append((answer.status, answer.code))

    tell(reserve(world, agent))
    lease = agent.handshake(5 * USD).lease.id
    tell(reserve(world, agent, lease_id=UNKNOWN))
    tell(reserve(world, agent, lease_id=world.agent().handshake().lease.id))
    reserve(world, agent)
    tell(reserve(world, agent, 2))
    tell(cancel(world, agent, "unknown"))
    agent.report(lease, "call-1", USD)
    tell(reserve(world, agent))
    tell(cancel(world, agent))
    other = agent.handshake(USD).lease.id
    several = reserve(world, agent, 0, "call-2")
    agent.return_lease(other)
    tell(reserve(world, agent, 0, "call-2", lease_id=other))
    world.post(f"/budget/leases/{lease}/revoke", user="admin")
    tell(reserve(world, agent, 0, "call-2", lease_id=lease))
    third = agent.handshake(USD, ttl_s=1).lease.id
    world.clock.pass_s(1)
    tell(reserve(world, agent, 0, "call-2", lease_id=third))

    assert told == [
        (409, "NO_ACTIVE_LEASE"),
        (404, "LEASE_NOT_FOUND"),
        (403, "FORBIDDEN"),
        (409, "REQUEST_ID_CONFLICT"),
        (404, "RESERVATION_NOT_FOUND"),
        (409, "ALREADY_REPORTED"),
        (409, "ALREADY_REPORTED"),
        (409, "LEASE_CLOSED"),
        (403, "LEASE_REVOKED"),
        (403, "LEASE_EXPIRED"),
    ]
    assert (several.status, list(several.fields)) == (400, ["lease_id"])


@pytest.mark.parametrize(
    ("body", "bad"),
    [
        (b"{}", {"request_id", "amount"}),
        (b'{"request_id": 1, "amount": 1}', {"request_id"}),
        (b'{"request_id": ".", "amount": 1}', {"request_id"}),
        (b'{"request_id": "..", "amount": 1}', {"request_id"}),
        (b'{"request_id": "a", "amount": null}', {"amount"}),
        (b'{"request_id": "a", "amount": true}', {"amount"}),
        (b'{"request_id": "a", "amount": -0.000001}', {"amount"}),
        (b'{"request_id": "a", "amount": 0.0000001}', {"amount"}),
        (b'{"request_id": "a", "amount": 1000.000001}', {"amount"}),
        (b'{"request_id": "", "amount": 1, "ttl_seconds": 0}', {"request_id", "ttl_seconds"}),
        (b'{"request_id": "a", "amount": 1, "ttl_seconds": 1.5}', {"ttl_seconds"}),
        (b'{"request_id": "a", "amount": 1, "lease_id": 7}', {"lease_id"}),
    ],
)
def test_bad_fields_are_told_by_name(world: Stage, agent: TestAgent, body: bytes, bad: set[str]) -> None:
    """Nothing is set aside."""
    agent.handshake()

    answer = world.post("/budget/reserve", body, token=agent.token)

    assert (answer.status, answer.code, set(answer.fields)) == (400, "VALIDATION_ERROR", bad)


def test_a_dead_token_neither_reserves_nor_cancels(world: Stage, agent: TestAgent) -> None:
    """There is no exception for these: they settle nothing."""
    agent.handshake()
    reserve(world, agent)
    world.store.write(lambda uow: regenerate_ic_token(uow, agent.id, actor=ADMIN, signer=world.signer))

    answers = [reserve(world, agent), reserve(world, agent, 1, "other"), cancel(world, agent)]

    assert [(each.status, each.code) for each in answers] == [(401, "AUTH_INVALID_TOKEN")] * 3


def test_a_lease_shows_what_is_set_aside_on_it(world: Stage, agent: TestAgent) -> None:
    """One by one and in lists, each lease its own; nothing once it has ended."""
    first, second = agent.handshake(5 * USD).lease.id, agent.handshake(5 * USD).lease.id
    reserve(world, agent, "1.25", lease_id=first)
    reserve(world, agent, "2.5", "call-2", lease_id=first)

    def shown() -> list[object]:
        listed = world.get("/budget/leases", token=agent.token).body["data"]
        by_id = {each["id"]: each["reserved"] for each in listed}
        single = world.get(f"/budget/leases/{first}", token=agent.token).body["reserved"]
        return [by_id[first], by_id[second], single]

    before = shown()
    agent.report(first, "call-1", 0)
    reported = shown()
    revoked = world.post(f"/budget/leases/{first}/revoke", user="admin")

    assert (before, reported) == ([usd("3.75"), 0, usd("3.75")], [usd("2.5"), 0, usd("2.5")])
    assert (revoked.body["reserved"], shown()) == (0, [0, 0, 0])


def test_reservations_count_against_their_own_limit() -> None:
    """A thousand a minute for each agent, both routes together."""
    limits = {route.limit_class for route in ROUTES if route.path.startswith("/budget/reserve")}

    assert limits == {"reserve"}
    assert LIMITS["reserve"] == Limit(Rate(1000, 60), "agent")
