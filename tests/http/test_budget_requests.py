"""Budget requests over the wire: every code, who sees what, retries and rates."""

import asyncio
import secrets
from typing import Any

import pytest

from ironcage_http.settings import read_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage, books, usd
from tests.support.web import Answer, serving
from tests.support.world import USD, TestAgent

pytestmark = pytest.mark.usefixtures("silence")

WHY, NO = "the archive is indexed anew", "use the smaller model first"
UNKNOWN = ("breq_" + "0" * 32, "abc", "-1", "agent_" + "0" * 32)
FIELDS = {
    "id", "agent_id", "agent_name", "requester_id", "requester_name", "current_budget", "requested_budget",
    "justification", "status", "created_at", "updated_at", "reviewed_at", "reviewed_by", "reviewed_by_name",
    "review_notes", "approved_budget", "cancelled_at", "cancelled_by",
}  # fmt: skip
LIVE = {"agent_current_budget", "agent_spent", "agent_remaining", "agent_status"}
APPROVED = {"budget_updated", "agent", "history_entry_id"}
ROUTES = [
    ("GET", "", None), ("PATCH", "/approve", {"approved_budget": "x"}), ("PATCH", "/reject", {}),
    ("PATCH", "/cancel", None), ("DELETE", "", None),
]  # fmt: skip


def body_of(agent: TestAgent, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a body
    return {"agent_id": agent.id, "requested_budget": 150, "justification": WHY, **fields}


def ask(world: Stage, agent: TestAgent, user: str = "ann", key: str = "", **fields: Any) -> Answer:  # noqa: ANN401 - fields of a body
    return world.post("/budget/requests", body_of(agent, **fields), user=user, headers=keyed(key))


def asked(world: Stage, agent: TestAgent, user: str = "ann", **fields: Any) -> str:  # noqa: ANN401 - fields of a body
    answer = ask(world, agent, user, **fields)
    assert answer.status == 201, answer.raw
    return f"/budget/requests/{answer.body['id']}"


def patch(world: Stage, path: str, body: object = None, user: str = "admin", key: str = "") -> Answer:
    return world.send("PATCH", path, body, user=user, headers=keyed(key))


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key} if key else {}


def refusal(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.code


# --- asked for --------------------------------------------------------------


def test_a_request_is_answered_with_all_of_it(world: Stage, agent: TestAgent) -> None:
    """What is not yet known is null; who asks is who calls, whatever the body says."""
    answer = ask(world, agent, requester_id=world.user_id("admin"), requested_budget=usd("150.5"), status="approved")

    body = answer.body
    assert (answer.status, set(body)) == (201, FIELDS)
    assert b'"current_budget":100,"requested_budget":150.5,' in answer.raw
    assert (body["agent_id"], body["requester_id"], body["requester_name"]) == (agent.id, world.owner_id, "ann")
    assert (body["status"], body["justification"]) == ("pending", WHY)
    assert {name for name in FIELDS if body[name] is None} == {
        "reviewed_at", "reviewed_by", "reviewed_by_name", "review_notes", "approved_budget", "cancelled_at",
        "cancelled_by",
    }  # fmt: skip
    assert body["created_at"] == body["updated_at"]
    assert body["created_at"].endswith("Z")


@pytest.mark.parametrize(("budget", "shown"), [("8.20", b"8.2"), ("32.01", b"32.01"), ('"8.20"', b"8.2")])
def test_amounts_are_exact_to_the_last_micro_usd(world: Stage, budget: str, shown: bytes) -> None:
    """Asked for, approved and kept: no float is on the way."""
    agent = world.agent(USD)
    raw = b'{"agent_id":"%s","requested_budget":%s,"justification":"%s"}'

    answer = world.post("/budget/requests", raw % (agent.id.encode(), budget.encode(), WHY.encode()), user="ann")
    approved = patch(world, f"/budget/requests/{answer.body['id']}/approve")

    assert b'"requested_budget":%s,' % shown in answer.raw
    assert b'"old_budget":1,"new_budget":%s}' % shown in approved.raw
    assert agent.balance().allocated == int(usd(shown.decode()) * USD)


BAD = [
    ({"requested_budget": 0}, {"requested_budget"}),
    ({"requested_budget": -5}, {"requested_budget"}),
    ({"requested_budget": usd("0.009999")}, {"requested_budget"}),
    ({"requested_budget": usd("10000.01")}, {"requested_budget"}),
    ({"requested_budget": "1.2345678"}, {"requested_budget"}),
    ({"requested_budget": "NaN"}, {"requested_budget"}),
    ({"requested_budget": True}, {"requested_budget"}),
    ({"requested_budget": None}, {"requested_budget"}),
    ({"justification": "short"}, {"justification"}),
    ({"justification": "x" * 501}, {"justification"}),
    ({"justification": f"{' ' * 20}x"}, {"justification"}),
    ({"justification": "x" * 20 + "\0"}, {"justification"}),
    ({"justification": 5}, {"justification"}),
    ({"justification": None, "requested_budget": "x"}, {"justification", "requested_budget"}),
    ({"justification": "short", "requested_budget": "1.2345678"}, {"justification", "requested_budget"}),
    ({"agent_id": None}, {"agent_id"}),
    ({"agent_id": 5}, {"agent_id"}),
]


@pytest.mark.parametrize(("fields", "bad"), BAD)
def test_what_a_request_may_not_be_is_told_by_field(
    world: Stage, agent: TestAgent, fields: dict[str, Any], bad: set[str]
) -> None:
    """All at once."""
    answer = ask(world, agent, **fields)

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == bad


def test_the_agent_is_looked_at_before_the_rest(world: Stage, agent: TestAgent) -> None:
    """404 before 403 before 400; the role before all."""
    dead = world.agent()
    world.send("DELETE", f"/agents/{dead.id}", user="admin")
    others = world.agent(owner_id=world.user_id("admin"))
    bad: dict[str, Any] = {"requested_budget": "x", "justification": 5}

    gone = [ask(world, agent, agent_id=each, **bad) for each in (dead.id, "agent_" + "0" * 32, "abc", "")]

    assert {refusal(each) for each in gone} == {(404, "AGENT_NOT_FOUND")}
    assert refusal(ask(world, others, **bad)) == (403, "FORBIDDEN")
    assert refusal(ask(world, agent, user="vera", agent_id="abc")) == (403, "FORBIDDEN")
    assert refusal(ask(world, agent, agent_id="abc", user="admin")) == (404, "AGENT_NOT_FOUND")
    assert refusal(world.post("/budget/requests", b"{", user="ann")) == (400, "MALFORMED_JSON")
    assert refusal(world.post("/budget/requests", user="ann")) == (400, "MALFORMED_JSON")


@pytest.mark.parametrize("budget", [100, usd("99.99")])
def test_a_request_for_no_more_than_there_is(world: Stage, agent: TestAgent, budget: object) -> None:
    """The numbers in USD."""
    answer = ask(world, agent, requested_budget=budget)

    assert refusal(answer) == (400, "BUDGET_DECREASE_REQUEST")
    assert answer.body["details"] == {"current_budget": 100, "requested_budget": budget}


# --- looked at --------------------------------------------------------------


def test_a_look_shows_where_the_agent_stands_now(world: Stage, agent: TestAgent) -> None:
    """The request itself stays as it was made; a deleted agent keeps its numbers."""
    agent.report(agent.handshake(60 * USD).lease.id, "r1", 20 * USD)
    path = asked(world, agent, requested_budget=300)
    world.send("PUT", f"/limits/agents/{agent.id}/budget", {"budget": 200}, user="admin")

    body = world.get(path, user="ann").body
    world.send("DELETE", f"/agents/{agent.id}", user="admin")
    after = world.get(path, user="admin").body

    assert set(body) == FIELDS | LIVE
    assert [body[name] for name in ("current_budget", *sorted(LIVE))] == [100, 200, 140, 20, "active"]
    assert (after["status"], after["review_notes"]) == ("cancelled", "Auto-cancelled: Agent was deleted")
    assert (after["agent_status"], after["agent_remaining"], after["agent_name"]) == (
        "deleted",
        180,
        body["agent_name"],
    )
    assert (after["cancelled_by"], after["reviewed_by"]) == (world.user_id("admin"), None)


def test_lists_are_filtered_and_sorted(world: Stage, agent: TestAgent) -> None:
    """Newest first unless told otherwise; bad values are named."""
    ids = []
    for budget in (300, 200, 400):
        ids.append(asked(world, agent, requested_budget=budget).rpartition("/")[2])
        world.clock.pass_s(1)
    first, second, third = ids
    patch(world, f"/budget/requests/{second}/reject", {"review_notes": NO})

    def listed(query: str, user: str = "admin") -> list[str]:
        body = world.get(f"/budget/requests?agent_id={agent.id}{query}", user=user).body
        assert body["pagination"]["total"] >= len(body["data"])
        assert all(set(each) == FIELDS for each in body["data"])
        return [each["id"] for each in body["data"]]

    assert listed("") == listed("&sort=-created_at", "ann") == [third, second, first]
    assert listed("&sort=created_at") == ids
    assert listed("&sort=requested_budget") == [second, first, third]
    assert listed("&sort=-requested_budget") == [third, first, second]
    assert listed("&status=rejected") == [second]
    assert listed(f"&requester_id={world.owner_id}&status=pending") == [third, first]
    assert listed(f"&requester_id={world.user_id('admin')}") == listed("", "vera") == []
    assert listed("&per_page=2&page=2") == [first]
    bad = "?status=open&agent_id=x&requester_id=y&sort=name&page=0"
    answer = world.get(f"/budget/requests{bad}", user="ann")
    assert (answer.status, set(answer.fields)) == (400, {"status", "agent_id", "requester_id", "sort", "page"})


@pytest.mark.parametrize(("method", "suffix", "body"), ROUTES)
def test_a_request_that_is_not_there(world: Stage, method: str, suffix: str, body: object) -> None:
    """Unknown and malformed alike, before what else is wrong."""
    answers = [world.send(method, f"/budget/requests/{each}{suffix}", body, user="admin") for each in UNKNOWN]

    assert {refusal(each) for each in answers} == {(404, "REQUEST_NOT_FOUND")}


@pytest.mark.parametrize(("method", "suffix", "body"), ROUTES)
def test_a_request_of_somebody_else(world: Stage, agent: TestAgent, method: str, suffix: str, body: object) -> None:
    """Neither seen nor touched by a stranger; decided by admins alone, a requester is none."""
    if "otto" not in world._sessions:
        world.add_user("otto")
    path = asked(world, agent)

    answer = world.send(method, path + suffix, body, user="otto")

    assert refusal(answer) == (403, "FORBIDDEN")
    if suffix in {"/approve", "/reject"}:
        assert refusal(world.send(method, path + suffix, body, user="ann")) == (403, "FORBIDDEN")
    assert world.get(path, user="ann").body["status"] == "pending"


def test_a_viewer_sees_requests_for_own_agents(world: Stage) -> None:
    """And changes nothing."""
    agent = world.agent(owner_id=world.user_id("vera"))
    path = asked(world, agent, "admin")

    assert world.get(path, user="vera").status == 200
    assert refusal(ask(world, agent, "vera")) == (403, "FORBIDDEN")
    assert refusal(patch(world, f"{path}/cancel", user="vera")) == (403, "FORBIDDEN")


def test_a_token_bound_to_a_project_or_an_agent(world: Stage, agent: TestAgent) -> None:
    """Reaches requests for agents of that project, or none."""

    def token(**binding: str) -> dict[str, str]:
        made = world.post("/api-tokens", {"name": secrets.token_hex(4), **binding}, user="admin")
        assert made.status == 201, made.raw
        return {"X-API-Token": made.body["token"]}

    path = asked(world, agent)
    project = world.post("/projects", {"name": secrets.token_hex(4)}, user="admin").body["id"]
    inside, outside = token(project_id="proj_master_001"), token(project_id=project)

    assert world.get(path, headers=inside).status == 200
    assert world.get(f"/budget/requests?agent_id={agent.id}", headers=inside).body["pagination"]["total"] == 1
    assert world.get("/budget/requests", headers=outside).body["data"] == []
    for method, suffix, body in ROUTES:
        assert refusal(world.send(method, path + suffix, body, headers=outside)) == (403, "FORBIDDEN")
    bound = token(agent_id=agent.id)
    assert refusal(world.get(path, headers=bound)) == (403, "AGENT_TOKEN_FORBIDDEN")
    assert refusal(world.get("/budget/requests", headers={"X-IC-Token": agent.token})) == (403, "AGENT_TOKEN_FORBIDDEN")


# --- decided ----------------------------------------------------------------


@pytest.mark.parametrize("body", [None, {}, {"approved_budget": None, "review_notes": None}])
def test_an_approval_needs_no_body(world: Stage, agent: TestAgent, body: object) -> None:
    """What was asked for is approved; 60 spent of 100 and a request for 150 make 150."""
    agent.report(agent.handshake(60 * USD).lease.id, "r1", 60 * USD)
    path = asked(world, agent)

    answer = patch(world, f"{path}/approve", body)

    told = answer.body
    assert (answer.status, set(told)) == (200, FIELDS | APPROVED)
    assert told["budget_updated"] is True
    assert told["agent"] == {"id": agent.id, "name": told["agent_name"], "old_budget": 100, "new_budget": 150}
    assert (told["status"], told["approved_budget"], told["reviewed_by_name"]) == ("approved", 150, "admin")
    assert told["history_entry_id"] == agent.entries()[-1].id
    assert (agent.balance().allocated, agent.balance().remaining) == (150 * USD, 90 * USD)
    (past,) = world.get(f"/limits/agents/{agent.id}/budget/history", user="ann").body["data"]
    assert (past["id"], past["request_id"]) == (told["history_entry_id"], told["id"])
    assert (past["modified_by_name"], past["increase_amount"]) == ("admin", 50)


BAD_DECISIONS = [
    ("approve", {"approved_budget": 0}, {"approved_budget"}),
    ("approve", {"approved_budget": usd("10000.000001")}, {"approved_budget"}),
    ("approve", {"approved_budget": "1.2345678", "review_notes": "x" * 501}, {"approved_budget", "review_notes"}),
    ("approve", {"approved_budget": []}, {"approved_budget"}),
    ("reject", {}, {"review_notes"}),
    ("reject", {"review_notes": None}, {"review_notes"}),
    ("reject", {"review_notes": "x" * 19}, {"review_notes"}),
    ("reject", {"review_notes": "x" * 501}, {"review_notes"}),
]


@pytest.mark.parametrize(("decision", "body", "bad"), BAD_DECISIONS)
def test_what_a_decision_may_not_be_is_told_by_field(
    world: Stage, agent: TestAgent, decision: str, body: object, bad: set[str]
) -> None:
    """Also of a request that is decided already."""
    path = asked(world, agent)

    first = patch(world, f"{path}/{decision}", body)
    patch(world, f"{path}/cancel")
    later = patch(world, f"{path}/{decision}", body)

    for answer in (first, later):
        assert (refusal(answer), set(answer.fields)) == ((400, "VALIDATION_ERROR"), bad)
    assert agent.balance().allocated == 100 * USD


def test_an_approval_of_no_more_than_there_is_by_now(world: Stage, agent: TestAgent) -> None:
    """The numbers in USD; the request waits."""
    path = asked(world, agent)
    world.send("PUT", f"/limits/agents/{agent.id}/budget", {"budget": 160}, user="admin")

    answers = [patch(world, f"{path}/approve", body) for body in (None, {"approved_budget": 160})]

    assert {refusal(each) for each in answers} == {(400, "APPROVAL_DECREASES_BUDGET")}
    assert [each.body["details"] for each in answers] == [
        {"current_budget": 160, "approved_budget": 150}, {"current_budget": 160, "approved_budget": 160},
    ]  # fmt: skip
    assert patch(world, f"{path}/approve", {"approved_budget": usd("160.01")}).status == 200


@pytest.mark.parametrize("end", ["approve", "reject", "cancel"])
def test_a_decided_request_is_not_decided_again(world: Stage, agent: TestAgent, end: str) -> None:
    """Who decided and when is told; of a cancelled one nobody did."""
    path = asked(world, agent)
    notes = {"review_notes": NO}
    done = patch(world, f"{path}/{end}", None if end == "cancel" else notes).body
    before = books(agent)

    again = [patch(world, f"{path}/approve"), patch(world, f"{path}/reject", notes)]
    undone = [patch(world, f"{path}/cancel", user="ann"), world.send("DELETE", path, user="ann")]

    assert {refusal(each) for each in again} == {(409, "REQUEST_ALREADY_REVIEWED")}
    expected = {"current_status": done["status"]}
    if end == "cancel":
        assert [(each.status, each.body) for each in undone] == [(200, done)] * 2
    else:
        expected |= {"reviewed_by": world.user_id("admin"), "reviewed_at": done["reviewed_at"]}
        assert {refusal(each) for each in undone} == {(409, "CANNOT_CANCEL_REVIEWED")}
    assert [each.body["details"] for each in again] == [expected] * 2
    assert books(agent) == before


@pytest.mark.parametrize(("method", "suffix"), [("PATCH", "/cancel"), ("DELETE", "")])
@pytest.mark.parametrize("user", ["ann", "admin"])
def test_a_request_is_taken_back(world: Stage, agent: TestAgent, method: str, suffix: str, user: str) -> None:
    """By either route, by the requester or an admin."""
    path = asked(world, agent)

    answer = world.send(method, path + suffix, user=user)

    body = answer.body
    assert (answer.status, set(body), body["status"]) == (200, FIELDS, "cancelled")
    assert (body["cancelled_by"], body["cancelled_at"]) == (world.user_id(user), body["updated_at"])
    assert (body["reviewed_at"], body["review_notes"]) == (None, None)


def test_a_deleted_user_leaves_no_request_waiting(world: Stage) -> None:
    """The answer of the deletion counts them; admins still read them, with the name."""
    user_id = world.add_user("leaver")
    agent = world.agent(owner_id=user_id)
    path = asked(world, agent, "leaver")
    asked(world, agent, "admin")

    removed = world.send("DELETE", f"/users/{user_id}", user="admin")

    assert removed.body["budget_requests_cancelled"] == 1
    body = world.get(path, user="admin").body
    assert (body["status"], body["review_notes"]) == ("cancelled", "Auto-cancelled: user deleted")
    assert body["requester_name"] == "leaver"


# --- retries ----------------------------------------------------------------


def test_a_retry_gets_the_first_answer(world: Stage, agent: TestAgent) -> None:
    """With a header that says so, and once only is anything done; another body with the same key is refused."""
    key = secrets.token_hex(8)
    first, again = (ask(world, agent, key=key) for _ in range(2))
    path = f"/budget/requests/{first.body['id']}"
    approvals = [patch(world, f"{path}/approve", {"approved_budget": 120}, key=key) for _ in range(2)]
    other = f"{asked(world, agent)}/reject"
    rejections = [patch(world, other, {"review_notes": NO}, key=key) for _ in range(2)]
    change = f"/limits/agents/{agent.id}/budget"
    changes = [world.send("PUT", change, {"budget": 130}, user="admin", headers=keyed(key)) for _ in range(2)]

    for one, two in ((first, again), approvals, rejections, changes):
        assert (one.status, one.body) == (two.status, two.body)
        assert "Idempotent-Replayed" not in one.headers
        assert two.headers["Idempotent-Replayed"] == "true"
    assert [entry.amount for entry in agent.entries()] == [100 * USD, 20 * USD, 10 * USD]
    reused = [
        ask(world, agent, key=key, requested_budget=160),
        patch(world, f"{path}/approve", key=key),
        patch(world, other, {"review_notes": NO * 2}, key=key),
        world.send("PUT", change, {"budget": 140}, user="admin", headers=keyed(key)),
    ]
    assert {refusal(each) for each in reused} == {(409, "IDEMPOTENCY_KEY_REUSED")}


def test_a_key_is_bound_to_who_calls_and_to_what(world: Stage, agent: TestAgent) -> None:
    """The same key of another caller is another request; under both bases it is the same."""
    key = secrets.token_hex(8)
    first = ask(world, agent, key=key)

    admins = ask(world, agent, "admin", key=key)
    unversioned = world.post("/api/budget/requests", body_of(agent), user="ann", headers=keyed(key))

    assert admins.body["id"] != first.body["id"]
    assert unversioned.body == first.body


@pytest.mark.parametrize("key", ["x" * 201, "a b", "schl\u00fcssel"])
def test_a_key_of_another_form_is_refused(world: Stage, agent: TestAgent, key: str) -> None:
    """It would not be what the caller believes."""
    path = asked(world, agent)
    headers = {"Idempotency-Key": key.encode()}
    calls: list[tuple[str, str, object]] = [
        ("POST", "/budget/requests", body_of(agent)), ("PATCH", f"{path}/approve", None),
        ("PATCH", f"{path}/reject", {"review_notes": NO}), ("PUT", f"/limits/agents/{agent.id}/budget", {"budget": 7}),
    ]  # fmt: skip

    answers = [world.send(method, to, body, user="admin", headers=headers) for method, to, body in calls]

    assert {refusal(each) for each in answers} == {(400, "VALIDATION_ERROR")}
    assert all(set(each.fields) == {"Idempotency-Key"} for each in answers)


# --- settings and rates -----------------------------------------------------


def with_settings(store: SqliteStore, **environ: str) -> list[Answer]:
    """Ask eleven times, then decide thirty-one times, and return the answers."""
    settings = read_settings({"DATABASE_URL": "sqlite::memory:", "IRON_DEPLOYMENT_MODE": "development", **environ})

    async def run() -> list[Answer]:
        async with serving(store, settings) as caller:
            admin = await caller.login()
            agent = (await admin.post("/agents", {"name": "a", "budget": 100})).body["id"]
            body = {"agent_id": agent, "requested_budget": 150, "justification": WHY}
            asking = [await admin.post("/budget/requests", body) for _ in range(11)]
            path = f"/budget/requests/{UNKNOWN[0]}"
            suffixes = ("/approve", "/reject", "/cancel", "")
            routes = [("DELETE" if not suffix else "PATCH", path + suffix) for suffix in suffixes] * 8
            return [*asking, *[await admin.send(method, to) for method, to in routes[:31]]]

    return asyncio.run(run())


def test_requests_and_decisions_have_their_rates(store: SqliteStore) -> None:
    """Ten an hour are asked for, thirty a minute decided or cancelled, together."""
    answers = with_settings(store, IRON_RATE_LIMIT_ENABLED="true")

    asking, deciding = answers[:11], answers[11:]
    assert [each.status for each in asking] == [201] * 10 + [429]
    assert asking[-1].code == "RATE_LIMIT_EXCEEDED"
    assert asking[-1].body["details"]["window_seconds"] == 3600
    assert [each.status == 429 for each in deciding] == [False] * 30 + [True]
    assert deciding[-1].body["details"]["limit"] == 30


def test_an_operator_sets_how_much_may_be_asked_for(store: SqliteStore) -> None:
    """By a variable."""
    answers = with_settings(store, IRON_BUDGET_REQUEST_MAX_USD="149.99")

    assert {(each.status, *each.fields) for each in answers[:11]} == {(400, "requested_budget")}
    assert "$149.99" in answers[0].fields["requested_budget"]
