"""Budgets of agents over the wire: shown, set by admins, and their history."""

import asyncio
import secrets
from pathlib import Path
from typing import Any

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage, books, usd
from tests.support.web import Answer, serving
from tests.support.world import USD, TestAgent

pytestmark = pytest.mark.usefixtures("silence")

UNKNOWN = ("agent_" + "0" * 32, "abc", "lease_" + "0" * 32)
ROUTES = (("GET", "/budget", None), ("PUT", "/budget", {"budget": "x"}), ("GET", "/budget/history?page=0", None))
CHANGED = {
    "agent_id", "previous_budget", "new_budget", "increase_amount", "increase_percent", "current_spent", "held",
    "new_remaining", "reason", "modified_by", "modified_at", "history_entry_id",
}  # fmt: skip
PAST = {
    "id", "previous_budget", "new_budget", "increase_amount", "increase_percent", "change_type", "reason",
    "modified_by", "modified_by_name", "modified_at", "request_id", "force_flag",
}  # fmt: skip


def path(agent_id: str) -> str:
    return f"/limits/agents/{agent_id}/budget"


def change(world: Stage, agent: TestAgent, budget: object, user: str = "admin", **fields: Any) -> Answer:  # noqa: ANN401 - fields of a body
    return world.send("PUT", path(agent.id), {"budget": budget, **fields}, user=user)


def history(world: Stage, agent: TestAgent, query: str = "", user: str = "admin") -> Answer:
    return world.get(f"{path(agent.id)}/history{query}", user=user)


def api_token(world: Stage, user: str, **fields: object) -> dict[str, str]:
    made = world.post("/api-tokens", {"name": secrets.token_hex(4), **fields}, user=user)
    assert made.status == 201, made.raw
    return {"X-API-Token": made.body["token"]}


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.code


# --- shown ------------------------------------------------------------------


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
@pytest.mark.parametrize("user", ["admin", "ann"])
def test_admin_and_owner_see_a_budget(world: Stage, agent: TestAgent, user: str, base: str) -> None:
    """Amounts to the last micro-USD, and nothing else."""
    lease = agent.handshake(20 * USD).lease.id
    agent.report(lease, "r1", 12_345_678)

    answer = world.get(f"{base}{path(agent.id)}", user=user)

    assert answer.status == 200, answer.raw
    expected = (
        b'{"agent_id":"%s","budget":100,"spent":12.345678,"held":7.654322,"remaining":80,"percent_used":12.35,'
        b'"status":"active"}'
    )
    assert answer.raw == expected % agent.id.encode()


def test_a_budget_is_shown_as_time_has_left_it(world: Stage, agent: TestAgent) -> None:
    """What an expired lease held is back, whether or not the sweep has run."""
    agent.handshake(20 * USD)
    world.clock.instant += world.policy.ttl + world.policy.grace

    body = world.get(path(agent.id), user="ann").body

    assert (body["held"], body["remaining"]) == (0, 100)


@pytest.mark.parametrize(("spent", "status"), [("9.999999", "active"), ("10", "exhausted")])
def test_a_budget_that_is_used_up_is_exhausted(world: Stage, spent: str, status: str) -> None:
    """At the last micro-USD, not before."""
    agent = world.agent(10 * USD)
    agent.report(agent.handshake(10 * USD).lease.id, "r1", int(usd(spent) * USD))

    assert world.get(path(agent.id), user="ann").body["status"] == status


def test_an_agent_s_token_sees_the_own_budget_and_no_history(world: Stage, agent: TestAgent) -> None:
    """And one answer about every other agent, whether it exists or not."""
    headers = api_token(world, "ann", agent_id=agent.id)

    own = world.get(path(agent.id), headers=headers)
    others = [world.get(path(other), headers=headers) for other in (world.agent().id, *UNKNOWN)]
    past = world.get(f"{path(agent.id)}/history", headers=headers)
    changed = world.send("PUT", path(agent.id), {"budget": 200}, headers=headers)

    assert (own.status, own.body["budget"]) == (200, 100)
    assert {refusal(each) for each in (*others, past, changed)} == {(403, "AGENT_TOKEN_FORBIDDEN")}


@pytest.mark.parametrize("suffix", ["", "/history"])
def test_a_budget_is_seen_by_whom_the_agent_belongs_to(world: Stage, agent: TestAgent, suffix: str) -> None:
    """A viewer too, of the own; of somebody else's it is forbidden, not unknown."""
    veras = world.agent(owner_id=world.user_id("vera"))

    assert world.get(path(veras.id) + suffix, user="vera").status == 200
    assert refusal(world.get(path(agent.id) + suffix, user="vera")) == (403, "FORBIDDEN")
    assert refusal(world.get(path(veras.id) + suffix + "?page=0", user="ann")) == (403, "FORBIDDEN")


@pytest.mark.parametrize(("method", "suffix", "body"), ROUTES)
def test_an_agent_that_is_not_there_has_no_budget(world: Stage, method: str, suffix: str, body: object) -> None:
    """Unknown, misspelled or deleted: 404 comes before what else is wrong."""
    dead = world.agent()
    world.send("DELETE", f"/agents/{dead.id}", user="admin")

    for agent_id in (*UNKNOWN, dead.id):
        answer = world.send(method, f"/limits/agents/{agent_id}{suffix}", body, user="admin")
        assert refusal(answer) == (404, "AGENT_NOT_FOUND")


# --- set --------------------------------------------------------------------


def test_a_change_answers_with_what_it_has_made(world: Stage, agent: TestAgent) -> None:
    """Unknown fields are ignored."""
    agent.report(agent.handshake(20 * USD).lease.id, "r1", 3_000_001)

    answer = change(world, agent, usd("150.5"), reason=" a busy month ", status="inactive")

    body = answer.body
    assert answer.status == 200, answer.raw
    assert set(body) == CHANGED
    assert b'"previous_budget":100,"new_budget":150.5,"increase_amount":50.5,"increase_percent":50.50,' in answer.raw
    assert b'"current_spent":3.000001,"held":16.999999,"new_remaining":130.5,' in answer.raw
    assert (body["agent_id"], body["reason"]) == (agent.id, "a busy month")
    assert body["modified_by"] == world.user_id("admin")
    assert body["modified_at"].endswith("Z")
    assert body["history_entry_id"] == agent.entries()[-1].id
    assert agent.balance().allocated == 150_500_000


@pytest.mark.parametrize(
    ("budget", "micros"),
    [("0.01", 10_000), (0.01, 10_000), ("999999.99", 999_999_990_000), ("8.20", 8_200_000), (32.01, 32_010_000),
     ("100.000001", 100_000_001), (b"1e2", None), (b"100.0000010", 100_000_001)],
)  # fmt: skip
def test_a_budget_is_exact(world: Stage, agent: TestAgent, budget: object, micros: int | None) -> None:
    """A number or a numeric string with at most 6 decimals; 1e2 is what it was."""
    sent = (
        b'{"force":true,"budget":' + budget + b"}" if isinstance(budget, bytes) else {"budget": budget, "force": True}
    )

    answer = world.send("PUT", path(agent.id), sent, user="admin")

    assert answer.code == "BUDGET_UNCHANGED" if micros is None else answer.status == 200
    assert agent.balance().allocated == (micros or 100 * USD)


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({}, {"budget"}),
        ({"budget": None}, {"budget"}),
        ({"budget": 0}, {"budget"}),
        ({"budget": 0.009999}, {"budget"}),
        ({"budget": -5}, {"budget"}),
        ({"budget": 1_000_000}, {"budget"}),
        ({"budget": 150_000_000}, {"budget"}),  # 150 USD in micro-USD
        ({"budget": "150.0000001"}, {"budget"}),
        ({"budget": "NaN"}, {"budget"}),
        ({"budget": "Infinity"}, {"budget"}),
        ({"budget": "much"}, {"budget"}),
        ({"budget": True}, {"budget"}),
        ({"budget": 150, "force": "true"}, {"force"}),
        ({"budget": 50, "force": 1}, {"force"}),
        ({"budget": 150, "reason": 5}, {"reason"}),
        ({"budget": 150, "reason": "x" * 501}, {"reason"}),
        ({"budget": 150, "reason": "a\x00b"}, {"reason"}),
        ({"budget": 150, "reason": "a\rb"}, {"reason"}),
        ({"budget": 150, "reason": "a\u202e\x1b[31mb"}, {"reason"}),
        ({"budget": 150, "expected_budget": -1}, {"expected_budget"}),
        ({"budget": 150, "expected_budget": "x"}, {"expected_budget"}),
        ({"budget": 150, "expected_budget": "0.0000001"}, {"expected_budget"}),
        ({"budget": "1.0000001", "expected_budget": "1e99", "reason": "\x07"}, {"budget", "expected_budget", "reason"}),
        ({"budget": 100, "reason": "x" * 501}, {"reason"}),  # and unchanged
    ],
)
def test_what_a_change_may_not_be_is_told_by_field(
    world: Stage, agent: TestAgent, fields: dict[str, object], bad: set[str]
) -> None:
    """Every bad field at once, and nothing changes."""
    before = books(agent)

    answer = world.send("PUT", path(agent.id), fields, user="admin")

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == bad
    assert books(agent) == before


def test_an_amount_that_cannot_be_read_is_told_as_what_it_is(world: Stage, agent: TestAgent) -> None:
    """Not as one that is out of bounds."""
    answer = change(world, agent, "150.0000001", expected_budget="0.0000001")

    assert answer.fields == dict.fromkeys(("budget", "expected_budget"), "may have at most 6 decimals")


def test_null_is_absent_where_a_field_may_be(world: Stage, agent: TestAgent) -> None:
    """Not forced, no reason, nothing expected."""
    nothing: dict[str, Any] = {"force": None, "reason": None, "expected_budget": None}

    assert refusal(change(world, agent, 50, **nothing)) == (400, "BUDGET_DECREASE_REQUIRES_CONFIRMATION")
    assert change(world, agent, 150, **nothing).body["reason"] is None


def test_a_body_that_cannot_be_read_comes_before_the_agent(world: Stage) -> None:
    """Syntax first."""
    answer = world.send("PUT", path("abc"), b"{", user="admin")

    assert refusal(answer) == (400, "MALFORMED_JSON")


def test_a_token_of_a_project_changes_no_budget_elsewhere(world: Stage, agent: TestAgent) -> None:
    """Refused before its body is judged; within the project it may."""
    made = world.post("/projects", {"name": secrets.token_hex(6)}, user="admin")
    headers = api_token(world, "admin", project_id=made.body["id"])

    outside = world.send("PUT", path(agent.id), {"budget": "x"}, headers=headers)
    world.send("PUT", f"/agents/{agent.id}", {"project_id": made.body["id"]}, user="admin")
    inside = world.send("PUT", path(agent.id), {"budget": 120}, headers=headers)

    assert refusal(outside) == (403, "FORBIDDEN")
    assert (inside.status, inside.body["modified_by"]) == (200, world.user_id("admin"))


def test_refusals_tell_their_numbers_in_usd(world: Stage, agent: TestAgent) -> None:
    """And leave everything as it was."""
    agent.report(agent.handshake(50 * USD).lease.id, "r1", 20_500_000)
    before = books(agent)
    numbers = {"current_budget": 100, "current_spent": usd("20.5"), "held": usd("29.5")}

    lower = change(world, agent, 40)
    below = change(world, agent, "20.499999", force=True)
    same = change(world, agent, "100.000000", force=True)
    stale = change(world, agent, 150, expected_budget="99.999999")

    assert refusal(lower) == (400, "BUDGET_DECREASE_REQUIRES_CONFIRMATION")
    assert lower.body["details"] == {
        "requested_budget": 40, "decrease_amount": 60, "new_remaining_if_applied": -10, **numbers,
    }  # fmt: skip
    assert refusal(below) == (400, "BUDGET_BELOW_SPENT")
    assert below.body["details"]["new_remaining_if_applied"] == usd("-29.500001")
    assert (*refusal(same), same.body["details"]) == (400, "BUDGET_UNCHANGED", {"current_budget": 100})
    assert (*refusal(stale), stale.body["details"]) == (409, "BUDGET_CHANGED", {"current_budget": 100})
    assert books(agent) == before
    assert history(world, agent).body["data"] == []


def test_a_forced_decrease_into_the_holds_stops_new_money(world: Stage, agent: TestAgent) -> None:
    """What is left is negative; the open lease keeps what it was lent."""
    lease = agent.handshake(50 * USD).lease.id

    body = change(world, agent, 30, force=True).body

    assert (body["increase_amount"], body["increase_percent"]) == (-70, -70)
    assert (body["held"], body["new_remaining"]) == (50, -20)
    denied = world.post("/budget/handshake", {}, token=agent.token)
    assert refusal(denied) == (403, "BUDGET_EXCEEDED")
    assert agent.lease(lease).held == 50 * USD


def test_a_raise_makes_an_exhausted_agent_active_at_once(world: Stage) -> None:
    """In every answer after it, and the next handshake gets money."""
    agent = world.agent(10 * USD)
    agent.report(agent.handshake(10 * USD).lease.id, "r1", 10 * USD)
    assert world.get(path(agent.id), user="admin").body["status"] == "exhausted"

    assert change(world, agent, 15).status == 200

    body = world.get(path(agent.id), user="admin").body
    assert (body["status"], body["remaining"], body["percent_used"]) == ("active", 5, usd("66.67"))
    assert world.post("/budget/handshake", {}, token=agent.token).body["budget_granted"] == 5


def test_of_changes_at_once_from_the_same_budget_one_wins(tmp_path: Path) -> None:
    """The others are told what it is now; without an expectation the last one wins."""

    async def race() -> tuple[list[Answer], Answer]:
        with SqliteStore(tmp_path / "iron.db") as store:
            async with serving(store) as caller:
                admin = await caller.login()
                agent = (await admin.post("/agents", {"name": "a", "budget": 100})).body["id"]
                bodies = [{"budget": 101 + number, "expected_budget": 100} for number in range(5)]
                told = await asyncio.gather(*(admin.send("PUT", path(agent), body) for body in bodies))
                return list(told), await admin.get(f"{path(agent)}/history")

    answers, past = asyncio.run(race())

    (won,) = [each for each in answers if each.status == 200]
    lost = [each for each in answers if each is not won]
    assert {(*refusal(each), each.body["details"]["current_budget"]) for each in lost} == {
        (409, "BUDGET_CHANGED", won.body["new_budget"])
    }
    assert [each["id"] for each in past.body["data"]] == [won.body["history_entry_id"]]


# --- history ----------------------------------------------------------------


def test_a_history_shows_each_change_and_their_summary(world: Stage, agent: TestAgent) -> None:
    """The newest first; the initial budget is only in the summary."""
    first = change(world, agent, "150.25", reason="more").body
    second = change(world, agent, 80, force=True).body

    answer = history(world, agent, user="ann")

    body, admin_id = answer.body, world.user_id("admin")
    assert set(body) == {"agent_id", "current_budget", "data", "summary", "pagination"}
    assert (body["agent_id"], body["current_budget"]) == (agent.id, 80)
    assert all(set(each) == PAST for each in body["data"])
    assert body["data"] == [
        {
            "id": second["history_entry_id"], "previous_budget": usd("150.25"), "new_budget": 80,
            "increase_amount": usd("-70.25"), "increase_percent": usd("-46.76"), "change_type": "decrease",
            "reason": None, "modified_by": admin_id, "modified_by_name": "admin",
            "modified_at": second["modified_at"], "request_id": None, "force_flag": True,
        },
        {
            "id": first["history_entry_id"], "previous_budget": 100, "new_budget": usd("150.25"),
            "increase_amount": usd("50.25"), "increase_percent": usd("50.25"), "change_type": "increase",
            "reason": "more", "modified_by": admin_id, "modified_by_name": "admin",
            "modified_at": first["modified_at"], "request_id": None, "force_flag": False,
        },
    ]  # fmt: skip
    assert body["summary"] == {
        "initial_budget": 100, "current_budget": 80, "total_increases": usd("50.25"), "modification_count": 2,
    }  # fmt: skip
    assert body["pagination"] == {"page": 1, "per_page": 50, "total": 2, "total_pages": 1}


def test_a_history_without_changes_is_empty(world: Stage, agent: TestAgent) -> None:
    """And has its summary."""
    body = history(world, agent).body

    assert (body["data"], body["pagination"]["total"], body["pagination"]["total_pages"]) == ([], 0, 0)
    assert body["summary"] == {
        "initial_budget": 100, "current_budget": 100, "total_increases": 0, "modification_count": 0,
    }  # fmt: skip


def test_a_history_is_paged_and_its_summary_is_not(world: Stage, agent: TestAgent) -> None:
    """Past the end there is nothing, with true totals."""
    for budget in (110, 120, 130):
        change(world, agent, budget)

    pages = [history(world, agent, f"?page={page}&per_page=2&sort=-created_at").body for page in (1, 2, 3)]

    assert [[each["new_budget"] for each in page["data"]] for page in pages] == [[130, 120], [110], []]
    assert [page["pagination"]["total"] for page in pages] == [3, 3, 3]
    assert [page["summary"]["modification_count"] for page in pages] == [3, 3, 3]


@pytest.mark.parametrize(
    "query", ["page=0", "per_page=101", "page=", "page=1&page=2", "sort=modified_at", "per_page=x"]
)
def test_a_bad_query_of_a_history_is_told_by_field(world: Stage, agent: TestAgent, query: str) -> None:
    """Empty and repeated ones as well."""
    answer = history(world, agent, f"?{query}")

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {query.partition("=")[0]}
