"""Settlement over the wire: which calls a dead IC token still makes, and that every other is an invalid token."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from ironcage_storage.sealed.tokens import IcTokenSigner
from tests.support.http_agents import Stage, books, usd
from tests.support.web import Answer
from tests.support.world import USD, TestAgent

pytestmark = pytest.mark.usefixtures("silence")

CALL = {"model": "gpt-test", "provider": "openai", "tokens": 10}
END: dict[str, Callable[[Stage, TestAgent], object]] = {
    "replaced": lambda world, agent: rotate(world, agent, revoke_leases=True),
    "deleted": lambda world, agent: world.send("DELETE", f"/agents/{agent.id}/ic-token", user="ann"),
    "agent deleted": lambda world, agent: world.send("DELETE", f"/agents/{agent.id}", user="admin"),
}
"""What revokes leases together with the value."""


def rotate(world: Stage, agent: TestAgent, **body: object) -> str:
    answer = world.post(f"/agents/{agent.id}/ic-token/regenerate", body, user="ann")
    assert answer.status == 200, answer.raw
    world.clock.pass_s(1)
    return str(answer.body["token"])


def lent(world: Stage, token: str) -> str:
    answer = world.post("/budget/handshake", {"requested_budget": 10}, token=token)
    assert answer.status == 200, answer.raw
    return str(answer.body["lease_id"])


def report(world: Stage, token: str, lease_id: str, request_id: str, cost: float | str) -> Answer:
    body = {**CALL, "lease_id": lease_id, "request_id": request_id, "cost_usd": cost}
    return world.post("/budget/report", body, token=token)


def is_invalid(world: Stage, answer: Answer) -> bool:
    """Tell whether the answer is that to any nonsense for a token."""
    nonsense = world.post("/budget/report", {}, token="nonsense")
    return (answer.status, answer.code, answer.raw) == (401, "AUTH_INVALID_TOKEN", nonsense.raw)


def refused(world: Stage, lease_id: str) -> list[str]:
    """Return the metadata of what was refused to be settled on a lease."""
    rows = world.store.read(lambda uow: [row for row in uow.audit.rows() if row.resource_id == lease_id])
    return [row.metadata.replace(" ", "") for row in rows if row.operation == "SETTLEMENT_REFUSED"]


def test_an_old_value_settles_what_its_lease_held_and_no_more(world: Stage, agent: TestAgent) -> None:
    """The refusal is the one of any invalid token, has no effect, and the audit log knows the amount."""
    old, lease_id = agent.token, lent(world, agent.token)
    new = rotate(world, agent)
    first = report(world, old, lease_id, "late-1", 9)
    before = books(agent)

    over = report(world, old, lease_id, "late-2", 1.000001)

    assert (first.status, first.body["stop"], first.body["lease_remaining_usd"]) == (200, False, usd("1"))
    assert is_invalid(world, over)
    assert books(agent) == before
    assert refused(world, lease_id) == ['{"refused_micros":1000001,"reports":1}']
    assert report(world, old, lease_id, "late-3", 1).status == 200
    assert is_invalid(world, report(world, old, lease_id, "late-4", "0.000001"))
    assert report(world, new, lease_id, "new", 3).body["overspent_usd"] == usd("3")
    assert world.verify().holds


def test_a_known_report_answers_as_a_duplicate(world: Stage, agent: TestAgent) -> None:
    """The lost answer of a report is told again, though nothing may be settled any more."""
    old, lease_id = agent.token, lent(world, agent.token)
    report(world, old, lease_id, "before", 10)
    rotate(world, agent)

    again = report(world, old, lease_id, "before", 10)

    assert (again.status, again.body["duplicate"]) == (200, True)
    assert is_invalid(world, report(world, old, lease_id, "late", 1))


@pytest.mark.parametrize("end", END)
def test_a_lease_revoked_with_its_value_is_reported_on_and_returned(world: Stage, agent: TestAgent, end: str) -> None:
    """Real spend stays on the books as overspend, the runtime is told to stop, and shutdown is repeatable."""
    token, lease_id = agent.token, lent(world, agent.token)
    END[end](world, agent)

    late = report(world, token, lease_id, "late", 10)
    returned = [world.post("/budget/return", {"lease_id": lease_id}, token=token) for _ in range(2)]

    assert (late.status, late.body["stop"], late.body["overspent_usd"]) == (200, True, usd("10"))
    assert late.body["lease_status"] == "revoked"
    assert [(answer.status, answer.body["already_closed"]) for answer in returned] == [(200, True)] * 2
    assert returned[0].body["lease_status"] == "revoked"
    assert is_invalid(world, report(world, token, lease_id, "later", "0.000001"))
    assert agent.balance().spent == 10 * USD
    assert world.verify().holds


def test_a_batch_refuses_only_the_items_that_do_not_fit(world: Stage, agent: TestAgent) -> None:
    """The answer is 200, and what was refused of it is one row of the audit log."""
    old, lease_id = agent.token, lent(world, agent.token)
    new = rotate(world, agent)
    other = lent(world, new)
    names = [(lease_id, "a", 8), (lease_id, "b", 3), (lease_id, "c", 2), (other, "d", 1), (lease_id, "a", 8)]
    items = [{**CALL, "lease_id": lease, "request_id": name, "cost_usd": cost} for lease, name, cost in names]

    answer = world.post("/budget/report", {"reports": items}, token=old)

    statuses = [each["status"] for each in answer.body["results"]]
    assert (answer.status, statuses) == (200, ["accepted", "rejected", "accepted", "rejected", "duplicate"])
    assert [each.get("code") for each in answer.body["results"]][1:4:2] == ["AUTH_INVALID_TOKEN"] * 2
    assert answer.body["rejected"] == 2
    assert refused(world, lease_id) == ['{"refused_micros":3000000,"reports":1}']


def test_every_other_call_of_a_dead_value_is_that_of_an_invalid_token(world: Stage, agent: TestAgent) -> None:
    """Whatever else would be wrong with it is not told."""
    old, lease_id = agent.token, lent(world, agent.token)
    new = rotate(world, agent)
    newer, foreign = lent(world, new), lent(world, world.agent().token)
    before = books(agent)
    reserve = {**CALL, "lease_id": lease_id, "request_id": "r", "amount_usd": 1}
    calls: list[tuple[str, str, object]] = [
        ("POST", "/budget/handshake", {}),
        ("POST", "/budget/refresh", {"lease_id": lease_id}),
        ("POST", "/budget/reserve", reserve),
        ("POST", "/agents/provider-key", {}),
        ("GET", "/agents", None),
        ("GET", "/budget", None),
        ("GET", "/budget/leases", None),
        ("GET", f"/budget/leases/{lease_id}", None),
        ("POST", "/budget/return", {"lease_id": lease_id}),
        *(("POST", "/budget/return", {"lease_id": each}) for each in (newer, foreign, "lease_" + "0" * 32, "x")),
        ("POST", "/budget/return", {"lease_id": foreign, "final_spent_usd": 0.0000001}),
        *(
            ("POST", "/budget/report", {**CALL, "lease_id": each, "request_id": "r", "cost_usd": cost})
            for each in (newer, foreign, "lease_" + "0" * 32, "x") for cost in (1, -1, 0, 0.0000001)
        ),
        ("POST", "/budget/report", {"lease_id": lease_id}),
        ("POST", "/budget/report", {"reports": 5}),
    ]  # fmt: skip

    answers = {
        f"{method} {path} {body}": world.send(method, path, body, headers={"X-IC-Token": old})
        for method, path, body in calls
    }

    assert [name for name, answer in answers.items() if not is_invalid(world, answer)] == []
    assert books(agent) == before


def test_settling_ends_a_day_after_the_death(world: Stage, agent: TestAgent) -> None:
    """The default of the setting, to the millisecond."""
    token, lease_id = agent.token, lent(world, agent.token)
    world.send("DELETE", f"/agents/{agent.id}/ic-token", user="ann")
    world.clock.pass_s(86_400)
    last = report(world, token, lease_id, "last", 1)
    world.clock.instant += 1

    assert last.status == 200
    assert is_invalid(world, report(world, token, lease_id, "later", 1))
    assert is_invalid(world, world.post("/budget/return", {"lease_id": lease_id}, token=token))


def test_nobody_settles_with_a_value_that_is_not_genuine(world: Stage, agent: TestAgent) -> None:
    """Another key, another generation, a changed byte."""
    old, lease_id = agent.token, lent(world, agent.token)
    rotate(world, agent)
    claims = world.signer.prove(old, now=world.clock.now()).claims
    head, payload, signature = old.split(".")
    false = [
        IcTokenSigner("another secret of more than 32 characters").sign(claims),
        world.signer.sign(replace(claims, gen=7)),
        world.signer.sign(replace(claims, gen=2, issued_at=claims.issued_at - 1000)),
        world.signer.sign(replace(claims, token_id="ict_" + "0" * 32)),
        world.signer.sign(replace(claims, agent_id=world.agent().id)),
        f"{head}.{payload}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}",
    ]

    answers = [report(world, token, lease_id, "late", 1) for token in false]

    assert [is_invalid(world, answer) for answer in answers] == [True] * len(false)
    assert agent.balance().spent == 0


def test_a_genuine_value_that_has_expired_is_told_so(world: Stage, agent: TestAgent) -> None:
    """Time is over for it whether it died or not."""
    old, lease_id = agent.token, lent(world, agent.token)
    claims = world.signer.prove(old, now=world.clock.now()).claims
    rotate(world, agent)
    past = int(time.time() - 60) * 1000  # the app reads its own clock
    expired = world.signer.sign(replace(claims, issued_at=past, expires_at=past + 1000))

    answer = report(world, expired, lease_id, "late", 1)

    assert (answer.status, answer.code) == (401, "AUTH_TOKEN_EXPIRED")


def test_an_overlap_limits_neither_value(world: Stage, agent: TestAgent) -> None:
    """Until its last second; then the old one settles what is held."""
    old, lease_id = agent.token, lent(world, agent.token)
    new = rotate(world, agent, overlap_seconds=60)
    other = lent(world, new)
    during = [report(world, old, other, "a", 30), report(world, old, lease_id, "b", 4)]
    world.clock.pass_s(60)

    assert [answer.status for answer in during] == [200, 200]
    assert is_invalid(world, report(world, old, lease_id, "c", 7))
    assert report(world, old, lease_id, "d", 6).status == 200
    assert is_invalid(world, report(world, old, other, "e", 0))
    assert world.verify().holds
