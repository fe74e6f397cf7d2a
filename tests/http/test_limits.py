"""Usage limits over HTTP: who sets and sees them, and what they answer agents and programs that have used them up."""

import secrets
from decimal import Decimal
from typing import Any

import pytest

from ironcage_core.domain.ids import MASTER_PROJECT
from tests.support.http_agents import Stage
from tests.support.web import Answer
from tests.support.world import USD, TestAgent

ADMIN = {"user": "admin"}
UNKNOWN = "lim_" + "0" * 32
OBJECT = {
    "id", "user_id", "project_id", "max_tokens_per_day", "max_requests_per_minute", "max_cost_per_month_usd", "usage",
    "created_at", "updated_at",
}  # fmt: skip
USAGE = {
    "tokens_today", "requests_this_minute", "cost_this_month_usd", "held_usd", "day_resets_at", "minute_resets_at",
    "month_resets_at",
}  # fmt: skip
NO_COUNTS: tuple[object, ...] = (0, -1, 2**53, 2**70, "5", True, 1.5, [], {})
NO_COSTS: tuple[object, ...] = (0, -1, "0.0000001", 1_000_000_001, "1000000000.000001", "1e999", "x", True, [])


def somebody(world: Stage) -> tuple[str, str]:
    """Return name and id of a new user."""
    name = f"user-{secrets.token_hex(6)}"
    return name, world.add_user(name)


def limit(world: Stage, user_id: str, **fields: object) -> Any:  # noqa: ANN401 - a body
    """Limit a user and return the limit as it is shown."""
    made = world.post("/limits", {"user_id": user_id, **fields}, **ADMIN)
    assert made.status == 201, made.raw
    return made.body


def project(world: Stage) -> str:
    made = world.post("/projects", {"name": secrets.token_hex(8)}, **ADMIN)
    return str(made.body["id"])


def change(world: Stage, limit_id: str, body: object, **options: Any) -> Answer:  # noqa: ANN401 - as send takes them
    return world.send("PUT", f"/limits/{limit_id}", body, **{**ADMIN, **options})


def told(answer: Answer) -> tuple[int, str]:
    assert answer.status >= 400, answer.raw
    return answer.status, answer.code


# --- setting and seeing them -------------------------------------------------


def test_a_limit_is_one_object_wherever_it_is_shown(world: Stage) -> None:
    """Made, listed, shown and changed; amounts are numbers in USD, times RFC 3339."""
    name, user_id = somebody(world)
    body = {"user_id": user_id, "max_tokens_per_day": 1000, "max_cost_per_month_usd": "12.5"}

    made = world.post("/limits", body, **ADMIN)
    shown = world.get(f"/limits/{made.body['id']}", user=name)
    listed = world.get("/limits", user=name)
    changed = change(world, made.body["id"], {"max_tokens_per_day": None, "max_requests_per_minute": 3})

    assert made.status == 201
    assert (set(made.body), set(made.body["usage"])) == (OBJECT, USAGE)
    assert {key: made.body[key] for key in OBJECT - {"id", "usage", "created_at", "updated_at"}} == {
        "user_id": user_id,
        "project_id": None,
        "max_tokens_per_day": 1000,
        "max_requests_per_minute": None,
        "max_cost_per_month_usd": Decimal("12.5"),
    }
    usage = made.body["usage"]
    assert [usage[key] for key in ("tokens_today", "requests_this_minute", "cost_this_month_usd", "held_usd")] == [
        0
    ] * 4
    assert usage["day_resets_at"].endswith("T00:00:00.000Z")
    assert usage["minute_resets_at"].endswith(":00.000Z")
    assert usage["month_resets_at"].endswith("-01T00:00:00.000Z")
    assert shown.body == made.body == listed.body["data"][0]
    assert listed.body["pagination"]["total"] == 1
    assert changed.status == 200
    assert (changed.body["max_tokens_per_day"], changed.body["max_requests_per_minute"]) == (None, 3)
    assert changed.body["max_cost_per_month_usd"] == Decimal("12.5")


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({}, {"body"}),
        ({"max_tokens_per_day": None, "project_id": None}, {"body"}),
        *(({"max_tokens_per_day": value}, {"max_tokens_per_day"}) for value in NO_COUNTS),
        *(({"max_requests_per_minute": value}, {"max_requests_per_minute"}) for value in NO_COUNTS),
        *(({"max_cost_per_month_usd": value}, {"max_cost_per_month_usd"}) for value in NO_COSTS),
        ({"user_id": 5, "max_tokens_per_day": 0.5}, {"user_id", "max_tokens_per_day"}),
        ({"user_id": None, "max_tokens_per_day": 1}, {"user_id"}),
        ({"user_id": "user_" + "0" * 32, "max_tokens_per_day": 0}, {"user_id", "max_tokens_per_day"}),
        ({"user_id": "ann", "max_tokens_per_day": 1}, {"user_id"}),
        ({"project_id": "proj_" + "0" * 32, "max_tokens_per_day": 1}, {"project_id"}),
        ({"project_id": "", "max_tokens_per_day": 1}, {"project_id"}),
        ({"max_token_per_day": 5, "max_tokens_per_day": 1}, {"max_token_per_day"}),
        ({"max_cost_per_month": 5}, {"max_cost_per_month"}),
    ],
)
def test_a_limit_that_cannot_be_is_refused(world: Stage, fields: dict[str, object], bad: set[str]) -> None:
    """Every bad field is named, an unknown one too: a mistyped cap must not be silently absent."""
    answer = world.post("/limits", {"user_id": world.owner_id, **fields}, **ADMIN)

    assert told(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == bad
    assert world.get(f"/limits?user_id={world.owner_id}", **ADMIN).body["data"] == []


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_everything_that_is_wrong_with_a_limit_is_told_at_once(world: Stage, method: str) -> None:
    """What has the wrong type or spelling beside what is out of its range or not known; an amount in its own words."""
    path = "/limits" if method == "POST" else f"/limits/{limit(world, somebody(world)[1], max_tokens_per_day=1)['id']}"
    body = {
        "user_id": 5, "project_id": "proj_x", "max_tokens_per_day": True, "max_requests_per_minute": 0,
        "max_cost_per_month_usd": "1.0000001", "colour": 1,
    }  # fmt: skip

    answer = world.send(method, path, body, **ADMIN)

    assert told(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == set(body)
    assert answer.fields["user_id"].startswith("must be a string")
    assert answer.fields["max_tokens_per_day"] == "must be an integer"
    assert answer.fields["max_requests_per_minute"].startswith("must be an integer from 1 to")
    assert answer.fields["max_cost_per_month_usd"] == "may have at most 6 decimals"
    alone = world.send(method, path, {"user_id": world.owner_id, "max_tokens_per_day": "7"}, **ADMIN)
    assert alone.fields["max_tokens_per_day"] == "must be an integer"
    assert "body" not in alone.fields


def test_a_limit_without_anything_is_refused(world: Stage) -> None:
    """An empty object, no JSON, no object, another media type, a number that is no integer."""
    user_id = somebody(world)[1]
    fraction = f'{{"user_id": "{user_id}", "max_tokens_per_day": 1.0}}'.encode()

    assert set(world.post("/limits", {}, **ADMIN).fields) == {"user_id"}
    assert told(world.post("/limits", b"{", **ADMIN)) == (400, "MALFORMED_JSON")
    assert told(world.post("/limits", None, **ADMIN)) == (400, "MALFORMED_JSON")
    assert told(world.post("/limits", [], **ADMIN)) == (400, "VALIDATION_ERROR")
    plain = {"headers": {"Content-Type": "text/plain"}}
    assert told(world.post("/limits", b"{}", **plain, **ADMIN)) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert set(world.post("/limits", fraction, **ADMIN).fields) == {"max_tokens_per_day"}


def test_one_limit_for_a_user_in_a_project(world: Stage) -> None:
    """Also where none is named; what is wrong with the body is told first."""
    user_id = somebody(world)[1]
    for project_id in (None, MASTER_PROJECT):
        known = limit(world, user_id, project_id=project_id, max_tokens_per_day=1)
        again = {"user_id": user_id, "project_id": project_id, "max_requests_per_minute": 1}

        answer = world.post("/limits", again, **ADMIN)

        assert told(answer) == (409, "LIMIT_EXISTS")
        assert answer.body["details"] == {"limit_id": known["id"]}
        assert told(world.post("/limits", {**again, "max_requests_per_minute": 0}, **ADMIN))[0] == 400


def test_a_change_is_of_caps(world: Stage) -> None:
    """One must remain; user and project may be named as they are; what is unknown is refused."""
    user_id = somebody(world)[1]
    made = limit(world, user_id, max_tokens_per_day=1)
    limit_id = made["id"]

    for body, bad in (
        ({"max_tokens_per_day": None}, {"body"}),
        ({"max_tokens_per_day": 0}, {"max_tokens_per_day"}),
        ({"max_tokens_per_day": "1"}, {"max_tokens_per_day"}),
        ({"max_cost_per_month_usd": "0.0000001"}, {"max_cost_per_month_usd"}),
        ({"user_id": world.owner_id}, {"user_id"}),
        ({"user_id": None}, {"user_id"}),
        ({"project_id": MASTER_PROJECT, "max_tokens_per_day": 5}, {"project_id"}),
        ({"max_token_per_day": 5}, {"max_token_per_day"}),
    ):
        answer = change(world, limit_id, body)
        assert told(answer) == (400, "VALIDATION_ERROR")
        assert set(answer.fields) == bad
    assert told(change(world, limit_id, {})) == (400, "NO_FIELDS_PROVIDED")
    same = change(world, limit_id, {"user_id": user_id, "project_id": None, "max_tokens_per_day": 1})
    assert (same.status, same.body) == (200, made)
    assert change(world, limit_id, {"user_id": user_id}).body == made


@pytest.mark.parametrize("limit_id", [UNKNOWN, "abc", "999999", "user_" + "0" * 32])
def test_what_is_no_limit_is_not_found(world: Stage, limit_id: str) -> None:
    """Before the body is looked at, but after its syntax; for users as well."""
    assert told(world.get(f"/limits/{limit_id}", **ADMIN)) == (404, "LIMIT_NOT_FOUND")
    assert told(world.get(f"/limits/{limit_id}", user="ann")) == (404, "LIMIT_NOT_FOUND")
    assert told(change(world, limit_id, {"x": 1})) == (404, "LIMIT_NOT_FOUND")
    assert told(change(world, limit_id, b"{")) == (400, "MALFORMED_JSON")
    assert told(world.send("DELETE", f"/limits/{limit_id}", **ADMIN)) == (404, "LIMIT_NOT_FOUND")


def test_a_limit_is_lifted_once(world: Stage) -> None:
    """The second time it is not there."""
    limit_id = limit(world, somebody(world)[1], max_tokens_per_day=1)["id"]

    first, second = (world.send("DELETE", f"/limits/{limit_id}", **ADMIN) for _ in range(2))

    assert (first.status, first.raw) == (204, b"")
    assert told(second) == (404, "LIMIT_NOT_FOUND")


def test_who_lists_what(world: Stage) -> None:
    """An admin filters all; a user has the own whatever is asked, and nothing of anybody else."""
    (name, user_id), (_, other_id) = somebody(world), somebody(world)
    place = project(world)
    whole = limit(world, user_id, max_tokens_per_day=1)
    world.clock.pass_s(0.001)
    inner = limit(world, user_id, project_id=place, max_tokens_per_day=1)
    world.clock.pass_s(0.001)
    foreign = limit(world, other_id, project_id=place, max_tokens_per_day=1)

    def ids(path: str, **options: Any) -> list[str]:  # noqa: ANN401 - as get takes them
        return [each["id"] for each in world.get(path, **options).body["data"]]

    assert ids("/limits?per_page=3", **ADMIN) == [foreign["id"], inner["id"], whole["id"]]
    assert ids(f"/limits?project_id={place}", **ADMIN) == [foreign["id"], inner["id"]]
    assert ids(f"/limits?user_id={user_id}&project_id={place}", **ADMIN) == [inner["id"]]
    assert ids("/limits", user=name) == ids(f"/limits?user_id={user_id}", user=name) == [inner["id"], whole["id"]]
    assert ids(f"/limits?user_id={other_id}", user=name) == []
    assert told(world.get(f"/limits/{foreign['id']}", user=name)) == (403, "FORBIDDEN")
    for query in (
        "user_id=ann",
        "project_id=x",
        "user_id=",
        "sort=id",
        "page=0",
        "per_page=101",
        "project_id=a&project_id=b",
    ):
        assert told(world.get(f"/limits?{query}", **ADMIN)) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/limits"), ("DELETE", "/limits"), ("POST", f"/limits/{UNKNOWN}")]
)
def test_other_methods_are_refused(world: Stage, method: str, path: str) -> None:
    """405, whoever asks."""
    assert told(world.send(method, path, {})) == (405, "METHOD_NOT_ALLOWED")


# --- what they answer --------------------------------------------------------


def agent_of(world: Stage, user_id: str) -> TestAgent:
    return world.agent(owner_id=user_id)


def grants(world: Stage, agent: TestAgent, lease_id: str) -> list[Answer]:
    """Ask for everything that a limit may hold back from an agent."""
    return [
        world.post("/budget/handshake", {}, token=agent.token),
        world.post("/budget/refresh", {"lease_id": lease_id}, token=agent.token),
        world.post("/agents/provider-key", None, token=agent.token),
    ]


def program(world: Stage, name: str) -> dict[str, str]:
    key = {"provider": "openai", "api_key": f"sk-{secrets.token_hex(16)}"}
    key_id = world.post("/providers", key, **ADMIN).body["id"]
    world.post(f"/projects/{MASTER_PROJECT}/provider", {"provider_key_id": key_id}, **ADMIN)
    made = world.post("/api-tokens", {"name": "program", "project_id": MASTER_PROJECT}, user=name)
    return {"X-API-Token": made.body["token"]}


def test_a_cap_that_is_reached_answers_429_wherever_something_is_granted(world: Stage) -> None:
    """With the limit, its cap, its use and when to come back; a report is booked all the same."""
    name, user_id = somebody(world)
    agent, headers = agent_of(world, user_id), program(world, name)
    lease_id = world.post("/budget/handshake", {}, token=agent.token).body["lease_id"]
    report = {"lease_id": lease_id, "cost_usd": 1, "tokens": 100, "model": "m", "provider": "openai"}
    world.post("/budget/report", {**report, "request_id": "one"}, token=agent.token)
    made = limit(world, user_id, max_tokens_per_day=100)

    answers = [*grants(world, agent, lease_id), world.get("/keys", headers=headers)]
    booked = world.post("/budget/report", {**report, "request_id": "two"}, token=agent.token)

    for answer in answers:
        details = answer.body["details"]
        assert told(answer) == (429, "USAGE_LIMIT_EXCEEDED")
        assert details["limit_id"] == made["id"]
        assert (details["limit"], details["cap"], details["used"]) == ("max_tokens_per_day", 100, 100)
        assert details["resets_at"] == made["usage"]["day_resets_at"]
        assert 1 <= int(answer.headers["retry-after"]) <= 86_400
        assert details["retry_after"] == int(answer.headers["retry-after"])
    assert booked.status == 200
    assert world.get(f"/limits/{made['id']}", user=name).body["usage"]["tokens_today"] == 200


def test_a_minutes_requests_are_grants_and_reports(world: Stage) -> None:
    """Two pass, the third is told to wait at most a minute; then it passes."""
    name, user_id = somebody(world)
    agent = agent_of(world, user_id)
    made = limit(world, user_id, project_id=MASTER_PROJECT, max_requests_per_minute=2)
    world.clock.instant -= world.clock.instant % 60_000

    answers = [world.post("/budget/handshake", {}, token=agent.token) for _ in range(3)]
    world.clock.pass_s(60)
    later = world.get("/keys", headers=program(world, name))

    assert [each.status for each in answers] == [200, 200, 429]
    assert answers[-1].body["details"]["limit"] == "max_requests_per_minute"
    assert answers[-1].headers["retry-after"] == "60"
    assert later.status == 200
    assert world.get(f"/limits/{made['id']}", **ADMIN).body["usage"]["requests_this_minute"] == 1


def test_a_months_cost_in_a_project_answers_403_and_denies_a_refresh(world: Stage) -> None:
    """With the scope and the numbers of the project; the row is told as it is."""
    name, user_id = somebody(world)
    agent, headers = agent_of(world, user_id), program(world, name)
    made = limit(world, user_id, project_id=MASTER_PROJECT, max_cost_per_month_usd=10)
    lease_id = world.post("/budget/handshake", {"requested_budget": 12}, token=agent.token).body["lease_id"]
    agent.report(lease_id, "one", USD)

    handshake, refresh, agents = grants(world, agent, lease_id)
    programs = world.get("/keys", headers=headers)

    for answer in (handshake, agents, programs):
        assert told(answer) == (403, "BUDGET_EXCEEDED")
        details = answer.body["details"]
        assert details["scope"] == "project_month"
        assert [details[key] for key in ("spent", "limit", "held", "remaining")] == [1, 10, 11, -2]
        assert details["frees_at"] < made["usage"]["month_resets_at"]  # when the hold ends
    assert (refresh.status, refresh.body["status"], refresh.body["reason"]) == (200, "denied", "monthly_cap_reached")
    usage = world.get(f"/limits/{made['id']}", user=name).body["usage"]
    assert (usage["cost_this_month_usd"], usage["held_usd"]) == (1, 11)


def test_429_comes_before_money(world: Stage) -> None:
    """At every door, and after what is wrong with the agent or its key."""
    name, user_id = somebody(world)
    agent, headers = agent_of(world, user_id), program(world, name)
    lease_id = agent.handshake(100 * USD).lease.id
    agent.report(lease_id, "one", 99 * USD)
    made = limit(world, user_id, max_tokens_per_day=1, max_cost_per_month_usd=1)

    counted = [*grants(world, agent, lease_id), world.get("/keys", headers=headers)]
    change(world, made["id"], {"max_tokens_per_day": None})
    paid = [*grants(world, agent, lease_id), world.get("/keys", headers=headers)]
    world.send("PUT", f"/agents/{agent.id}", {"status": "inactive"}, **ADMIN)
    change(world, made["id"], {"max_tokens_per_day": 1})
    held = grants(world, agent, lease_id)

    assert {told(each) for each in counted} == {(429, "USAGE_LIMIT_EXCEEDED")}
    assert [each.status for each in paid] == [403, 200, 403, 403]
    assert [paid[n].body["details"]["scope"] for n in (0, 2, 3)] == ["agent", "user_month", "user_month"]
    assert [told(each)[1] for each in held] == ["AGENT_INACTIVE", "LEASE_REVOKED", "AGENT_INACTIVE"]
