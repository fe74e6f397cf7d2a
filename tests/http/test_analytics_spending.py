"""Spending over HTTP: every number is what a walk through the records finds, for every filter and every caller."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest

from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.ports.storage import UnitOfWork
from tests.support.http_agents import Stage, stage
from tests.support.rows import fresh_id, usage_row
from tests.support.scene import QUESTIONS, Scene, made
from tests.support.world import USD, TestAgent

SPENDING = "/analytics/spending"
PATHS = (
    f"{SPENDING}/total",
    f"{SPENDING}/by-agent",
    f"{SPENDING}/by-provider",
    f"{SPENDING}/by-provider?group_by=provider_id",
    f"{SPENDING}/avg-per-request",
    SPENDING,
)
ECHO = ("period", "range", "filters", "calculated_at")


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Calls of all kinds."""
    with stage() as made_stage:
        yield made(made_stage)


@pytest.fixture
def fresh() -> Iterator[Stage]:
    """A stage of one test alone, on which nothing was ever called."""
    with stage() as made_stage:
        yield made_stage


def called(world: Stage, agent: TestAgent, cost: int = USD, **fields: Any) -> None:  # noqa: ANN401 - of a record
    """Put a record of a call."""
    content = {"occurred_at": world.clock.now(), "cost_micros": cost, **fields}
    world.store.write(lambda uow: uow.usage.put(usage_row(agent.id, fresh_id("call"), **content)))


def told(path: str, **query: object) -> str:
    """Return a path with more of a query."""
    return path + ("&" if "?" in path else "?") + urlencode(query)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", list(QUESTIONS))
def test_every_filter_is_honoured_as_a_walk_through_the_records_says(scene: Scene, path: str, name: str) -> None:
    """In every number, summaries and counts included; and the question is echoed as it is by /usage."""
    question = QUESTIONS[name]

    body = scene.world.get(told(path, **scene.query(question)), user="admin").body
    echo = scene.world.get(told("/usage", **scene.query(question)), user="admin").body

    assert {each: body.pop(each) for each in ECHO} == {each: echo[each] for each in ECHO}
    assert body == scene.expected(question, "admin")[path]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("user", ["ann", "vera"])
def test_nobody_else_s_calls_are_in_any_number(scene: Scene, path: str, user: str) -> None:
    """A user and a viewer are told of their own agents alone."""
    for name in ("everything", "a provider", "a period"):
        question = QUESTIONS[name]
        body = scene.world.get(told(path, **scene.query(question)), user=user).body

        assert {each: body[each] for each in body if each not in ECHO} == scene.expected(question, user)[path]


def test_an_empty_system_answers_zeros(fresh: Stage) -> None:
    """Nothing is null, divided by zero or an error."""
    bodies = {path: fresh.get(path, user="admin").body for path in PATHS}

    assert bodies[PATHS[0]]["total_spend"] == 0
    assert bodies[PATHS[0]]["request_count"] == 0
    for path in PATHS[1:4]:
        assert bodies[path]["data"] == []
        assert bodies[path]["pagination"] == {"page": 1, "per_page": 50, "total": 0, "total_pages": 0}
        assert set(bodies[path]["summary"].values()) == {0}
    costs = {name: value for name, value in bodies[PATHS[4]].items() if name not in ECHO}
    assert costs.pop("median_is_exact") is True
    assert set(costs.values()) == {0}
    assert (bodies[PATHS[5]]["by_agent"], bodies[PATHS[5]]["by_provider"]) == ([], [])


@pytest.mark.parametrize("path", PATHS[1:4])
def test_pages_are_parts_of_one_list_below_one_summary(scene: Scene, path: str) -> None:
    """One row at a time gives the list; past its end there is none, and the totals stay."""
    whole = scene.world.get(path, user="admin").body
    total = len(whole["data"])

    pages = [scene.world.get(told(path, per_page=1, page=page), user="admin").body for page in range(1, total + 2)]

    assert [page["data"] for page in pages] == [[row] for row in whole["data"]] + [[]]
    assert all(page["summary"] == whole["summary"] for page in pages)
    assert all(page["pagination"]["total"] == page["pagination"]["total_pages"] == total for page in pages)


@pytest.mark.parametrize("field", ["spending", "request_count", "percent_used", "agent_name"])
def test_agents_are_sorted_by_each_of_their_numbers(scene: Scene, field: str) -> None:
    """Either way, with the page cut off after that; names are those of the page's agents."""
    rows = scene.world.get(f"{SPENDING}/by-agent", user="admin").body["data"]
    by = sorted(rows, key=lambda row: row["agent_id"])

    rising = scene.world.get(f"{SPENDING}/by-agent?sort={field}&per_page=2", user="admin").body["data"]
    falling = scene.world.get(f"{SPENDING}/by-agent?sort=-{field}&per_page=2&page=2", user="admin").body["data"]

    assert rising == sorted(by, key=lambda row: row[field])[:2]
    assert falling == sorted(by, key=lambda row: row[field], reverse=True)[2:4]


def test_those_alike_come_by_id_and_by_name_in_either_order(fresh: Stage) -> None:
    """However the rest is sorted."""
    agents = [fresh.agent(name="Twin") for _ in range(3)]
    for agent in reversed(agents):
        called(fresh, agent, provider="openai")
        called(fresh, agent, provider="anthropic")
        called(fresh, agent, provider="anthropic", provider_id="prov_b", cost=0)
        called(fresh, agent, provider="anthropic", provider_id="prov_a", cost=0)
    ids = [agent.id for agent in agents]

    for sort in ("spending", "-spending", "agent_name", "-agent_name", "request_count", "-percent_used"):
        rows = fresh.get(f"{SPENDING}/by-agent?sort={sort}", user="ann").body["data"]
        assert [row["agent_id"] for row in rows] == sorted(ids)
    for sort in ("spending", "-spending"):
        rows = fresh.get(f"{SPENDING}/by-provider?sort={sort}", user="ann").body["data"]
        assert [row["provider"] for row in rows] == ["anthropic", "openai"]
    rows = fresh.get(f"{SPENDING}/by-provider?group_by=provider_id&sort=spending", user="ann").body["data"]
    assert [(row["provider"], row["provider_id"]) for row in rows] == [
        ("anthropic", "prov_a"), ("anthropic", "prov_b"), ("anthropic", None), ("openai", None)
    ]  # fmt: skip


def test_names_are_sorted_as_people_do(fresh: Stage) -> None:
    """Capital letters do not come first."""
    for name in ("beta", "Alpha", "alpine", "Zeta"):
        called(fresh, fresh.agent(name=name))

    rows = fresh.get(f"{SPENDING}/by-agent?sort=agent_name", user="ann").body["data"]

    assert [row["agent_name"] for row in rows] == ["Alpha", "alpine", "beta", "Zeta"]


def test_the_percentage_is_of_the_same_money_and_of_the_time_asked_about(fresh: Stage) -> None:
    """USD by USD, half up to two decimals, beyond 100 as well; nothing of no budget."""
    agent, broke = fresh.agent(8 * USD), fresh.agent(USD)
    called(fresh, agent, cost=10_000_400)
    called(fresh, agent, cost=1_000_400, occurred_at=fresh.clock.now() - 2 * MS_PER_DAY)
    called(fresh, broke, cost=5)
    fresh.store.write(lambda uow: _empty_budget(uow, broke.id))

    body = fresh.get(f"{SPENDING}/by-agent", user="ann").body
    today = fresh.get(f"{SPENDING}/by-agent?period=today", user="ann").body

    assert [(row["spending"], row["budget"], row["percent_used"]) for row in body["data"]] == [
        (Decimal("11.0008"), 8, Decimal("137.51")), (Decimal("0.000005"), 0, 0)
    ]  # fmt: skip
    assert today["data"][0]["percent_used"] == Decimal("125.01")  # 125.005
    assert body["summary"]["average_percent_used"] == Decimal("137.51")


def _empty_budget(uow: UnitOfWork, agent_id: str) -> None:
    balance = uow.balances.find(agent_id)
    assert balance is not None
    uow.balances.put(balance._replace(allocated=0))


def test_an_agent_keeps_its_last_name_and_its_calls_when_it_is_gone(fresh: Stage) -> None:
    """Renamed, then deleted: the list still shows both to its last owner."""
    agent = fresh.agent(name="first name")
    called(fresh, agent)
    assert fresh.send("PUT", f"/agents/{agent.id}", {"name": "last name"}, user="ann").status == 200
    assert fresh.send("DELETE", f"/agents/{agent.id}", user="admin").status == 204

    for user in ("ann", "admin"):
        body = fresh.get(f"{SPENDING}/by-agent?agent_id={agent.id}", user=user).body
        assert [(row["agent_name"], row["spending"]) for row in body["data"]] == [("last name", 1)]
        assert fresh.get(f"{SPENDING}/total", user=user).body["total_spend"] == 1


def test_an_agent_that_is_given_away_takes_its_calls_along(fresh: Stage) -> None:
    """On every path, whoever the owner was when it called."""
    agent = fresh.agent()
    called(fresh, agent, owner_id=fresh.user_id("ann"))
    vera = fresh.user_id("vera")
    before = [fresh.get(path, user="vera").raw for path in PATHS]

    given = fresh.send("PUT", f"/agents/{agent.id}", {"owner_id": vera}, user="admin")

    assert given.status == 200, given.raw
    for path, empty in zip(PATHS, before, strict=True):
        assert fresh.get(path, user="ann").raw == empty
        assert fresh.get(path, user="vera").raw != empty
        assert fresh.get(told(path, user_id=vera), user="admin").body != fresh.get(
            told(path, user_id=fresh.user_id("ann")), user="admin"
        ).body  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("period=fortnight", 400, "INVALID_PERIOD"),
        ("period=", 400, "VALIDATION_ERROR"),
        ("period=today&period=today", 400, "VALIDATION_ERROR"),
        ("period=today&start_date=2025-01-01", 400, "VALIDATION_ERROR"),
        ("start_date=2025-01-02&end_date=2025-01-01", 400, "VALIDATION_ERROR"),
        ("agent_id=abc", 400, "VALIDATION_ERROR"),
        (f"agent_id=agent_{'0' * 32}", 404, "AGENT_NOT_FOUND"),
        ("agent_id={vera}", 403, "FORBIDDEN"),
        ("provider_id=nobodys", 404, "PROVIDER_NOT_FOUND"),
        ("user_id={ann}", 403, "FORBIDDEN"),
        ("model=a&model=b", 400, "VALIDATION_ERROR"),
        ("color=", 200, None),
    ],
)
def test_a_bad_question_is_refused(scene: Scene, path: str, query: str, status: int, code: str | None) -> None:
    """With a code for what is wrong, as JSON."""
    query = query.replace("{vera}", scene.agents[3]).replace("{ann}", scene.world.user_id("ann"))

    answer = scene.world.get(path + ("&" if "?" in path else "?") + query, user="ann")

    assert (answer.status, answer.body.get("code")) == (status, code)
    if code == "INVALID_PERIOD":
        assert "last-7-days" in answer.body["details"]["allowed"]


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [(path, query, query.partition("=")[0]) for path in PATHS[1:3]
     for query in ("page=0", "page=-1", "page=x", "page=1.0", "per_page=0", "per_page=101", "page=", "sort=budget",
                   "sort=", "sort=-")]
    + [(PATHS[2], "group_by=agent", "group_by"), (PATHS[2], "group_by=", "group_by")],
)  # fmt: skip
def test_a_bad_page_order_or_grouping_is_named(scene: Scene, path: str, query: str, field: str) -> None:
    """Whatever it is, it is a 400."""
    answer = scene.world.get(f"{path}?{query}", user="ann")

    assert (answer.status, answer.code, list(answer.fields)) == (400, "VALIDATION_ERROR", [field])


def test_dated_names_of_a_period_are_told_by_the_first_one(scene: Scene) -> None:
    """`last7-days` is `last-7-days`."""
    assert scene.world.get(f"{SPENDING}/total?period=last7-days", user="ann").body["period"] == "last-7-days"
