"""Calls over HTTP: every number is what a walk through the records finds, for every filter and every caller."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest

from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_http.server import embedded_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage, stage
from tests.support.rows import fresh_id, usage_row
from tests.support.scene import QUESTIONS, Scene, made
from tests.support.web import serving
from tests.support.world import TestAgent

USAGE = "/analytics/usage"
LISTS = (f"{USAGE}/tokens/by-agent", f"{USAGE}/by-agent", f"{USAGE}/by-provider", f"{USAGE}/models")
ALL_TIME = f"{USAGE}/requests?period=all-time"
PATHS = (ALL_TIME, USAGE, *LISTS, "/analytics")
ECHO = ("period", "range", "filters", "calculated_at")


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Calls of all kinds."""
    with stage() as made_stage:
        yield made(made_stage, seed=2)


@pytest.fixture
def fresh() -> Iterator[Stage]:
    """A stage of one test alone, on which nothing was ever called."""
    with stage() as made_stage:
        yield made_stage


def called(world: Stage, agent: TestAgent, **fields: Any) -> None:  # noqa: ANN401 - of a record
    """Put a record of a call."""
    content = {"occurred_at": world.clock.now(), **fields}
    world.store.write(lambda uow: uow.usage.put(usage_row(agent.id, fresh_id("call"), **content)))


def told(path: str, query: dict[str, str]) -> str:
    """Return a path with more of a query; what that says of time is all it says of it."""
    if query.keys() & {"period", "start_date"}:
        path = path.removesuffix("?period=all-time")
    return path + ("&" if "?" in path else "?") + urlencode(query)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", list(QUESTIONS))
def test_every_filter_is_honoured_as_a_walk_through_the_records_says(scene: Scene, path: str, name: str) -> None:
    """In every number, summaries and counts included; and the question is echoed as it is by /usage."""
    question = QUESTIONS[name]

    body = scene.world.get(told(path, scene.query(question)), user="admin").body
    echo = scene.world.get(told("/usage", scene.query(question)), user="admin").body

    assert {each: body.pop(each) for each in ECHO} == {each: echo[each] for each in ECHO}
    assert body == scene.expected(question, "admin")[path]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("user", ["ann", "vera"])
def test_nobody_else_s_calls_are_in_any_number(scene: Scene, path: str, user: str) -> None:
    """A user and a viewer are told of their own agents alone."""
    for name in ("everything", "a provider", "a period"):
        question = QUESTIONS[name]
        body = scene.world.get(told(path, scene.query(question)), user=user).body

        assert {each: body[each] for each in body if each not in ECHO} == scene.expected(question, user)[path]


def test_an_empty_system_answers_zeros(fresh: Stage) -> None:
    """A sum over nothing is 0, and so is its rate."""
    bodies = {path: fresh.get(path, user="admin").body for path in PATHS}

    for path in (ALL_TIME, USAGE):
        assert {value for name, value in bodies[path].items() if name not in ECHO} == {0}
    for path in LISTS:
        assert bodies[path]["data"] == []
        assert bodies[path]["pagination"] == {"page": 1, "per_page": 50, "total": 0, "total_pages": 0}
        assert set(bodies[path]["summary"].values()) == {0}
    glance = {name: value for name, value in bodies["/analytics"].items() if name not in ECHO}
    assert (glance.pop("providers"), glance.pop("models"), glance.pop("currency")) == ([], [], "USD")
    assert set(glance.values()) == {0}


def test_requests_alone_are_those_of_today_unless_told_otherwise(fresh: Stage) -> None:
    """All others are those of all time."""
    agent = fresh.agent()
    called(fresh, agent)
    called(fresh, agent, occurred_at=fresh.clock.now() - 2 * MS_PER_DAY)

    today = fresh.get(f"{USAGE}/requests", user="ann").body

    assert (today["period"], today["total_requests"], today["success_rate"]) == ("today", 1, 100)
    assert fresh.get(f"{USAGE}/requests?start_date=2001-01-01", user="ann").body["total_requests"] == 2
    for path in PATHS:
        assert fresh.get(path, user="ann").body["period"] == "all-time"


@pytest.mark.parametrize("path", LISTS)
def test_pages_are_parts_of_one_list_below_one_summary(scene: Scene, path: str) -> None:
    """One row at a time gives the list; past its end there is none, and the totals stay."""
    whole = scene.world.get(path, user="admin").body
    total = len(whole["data"])

    pages = [scene.world.get(f"{path}?per_page=1&page={page}", user="admin").body for page in range(1, total + 2)]

    assert [page["data"] for page in pages] == [[row] for row in whole["data"]] + [[]]
    assert all(page["summary"] == whole["summary"] for page in pages)
    assert all(page["pagination"]["total"] == page["pagination"]["total_pages"] == total for page in pages)


@pytest.mark.parametrize("path", LISTS)
def test_a_list_turns_around(fresh: Stage, path: str) -> None:
    """Those alike stay in the order of their names."""
    agents = sorted([fresh.agent() for _ in range(3)], key=lambda agent: agent.id)
    for agent, name, output_tokens in zip(agents, "abc", ((25, 25), (0,), (0,)), strict=True):
        for tokens in output_tokens:
            called(fresh, agent, model=name, provider=name, input_tokens=0 if tokens else 5, output_tokens=tokens)
    field, key = ("request_count", "model") if path == LISTS[3] else ("total_tokens", "provider")
    key = "agent_id" if "by-agent" in path else key

    falling = [row[key] for row in fresh.get(f"{path}?sort=-{field}", user="ann").body["data"]]
    rising = [row[key] for row in fresh.get(f"{path}?sort={field}", user="ann").body["data"]]

    assert falling == ([agent.id for agent in agents] if key == "agent_id" else list("abc"))
    assert rising == falling[1:] + falling[:1]


def test_models_are_counted_by_their_names_and_listed_by_provider_as_well(fresh: Stage) -> None:
    """`a` of `bc` is not `ab` of `c`, and one name at two providers is two rows of one name."""
    agent = fresh.agent()
    for model, provider in (("a", "bc"), ("ab", "c"), ("ab", "bc")):
        called(fresh, agent, model=model, provider=provider)

    body = fresh.get(f"{USAGE}/models", user="ann").body

    assert [(row["model"], row["provider"]) for row in body["data"]] == [("a", "bc"), ("ab", "bc"), ("ab", "c")]
    assert (body["summary"]["unique_models"], body["pagination"]["total"]) == (2, 3)


def test_a_key_is_told_where_it_is_the_only_one(fresh: Stage) -> None:
    """Calls on no key do not count; two keys are none."""
    agent = fresh.agent()
    for model, key in (("m1", "prov_a"), ("m1", None), ("m2", "prov_a"), ("m2", "prov_b"), ("m3", None)):
        called(fresh, agent, model=model, provider_id=key)

    rows = fresh.get(f"{USAGE}/models", user="ann").body["data"]

    assert {row["model"]: row["provider_id"] for row in rows} == {"m1": "prov_a", "m2": None, "m3": None}


def test_a_glance_shows_five_models_and_every_provider(fresh: Stage) -> None:
    """And the costliest are ten of each, beside what all of them cost."""
    for number in range(12):
        called(fresh, fresh.agent(), model=f"m{number:02}", provider=f"p{number:02}", cost_micros=number)

    glance = fresh.get("/analytics", user="ann").body
    spending = fresh.get("/analytics/spending", user="ann").body

    assert [row["model"] for row in glance["models"]] == [f"m{number:02}" for number in range(5)]
    assert [row["provider"] for row in glance["providers"]] == [f"p{number:02}" for number in range(11, -1, -1)]
    assert glance["active_agents"] == 12
    assert int(spending["total_spend"] * 10**6) == sum(range(12))
    for rows in (spending["by_provider"], spending["by_agent"]):
        assert [int(row["spending"] * 10**6) for row in rows] == list(range(11, 1, -1))


@pytest.mark.parametrize("path", PATHS)
def test_an_agent_that_is_given_away_takes_its_calls_along(fresh: Stage, path: str) -> None:
    """Whoever the owner was when it called."""
    agent = fresh.agent()
    called(fresh, agent, owner_id=fresh.user_id("ann"))
    before = fresh.get(path, user="vera").raw

    fresh.send("PUT", f"/agents/{agent.id}", {"owner_id": fresh.user_id("vera")}, user="admin")

    assert fresh.get(path, user="ann").raw == before
    assert fresh.get(path, user="vera").raw != before


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("start_date=x", 400, "VALIDATION_ERROR"),
        ("end_date=2025-02-30", 400, "VALIDATION_ERROR"),
        ("agent_id=", 400, "VALIDATION_ERROR"),
        (f"agent_id=agent_{'0' * 32}", 404, "AGENT_NOT_FOUND"),
        ("agent_id={vera}", 403, "FORBIDDEN"),
        ("provider_id=nobodys", 404, "PROVIDER_NOT_FOUND"),
        ("user_id={ann}", 403, "FORBIDDEN"),
        ("project_id=", 400, "VALIDATION_ERROR"),
        ("color=&color=", 200, None),
    ],
)
def test_a_bad_question_is_refused(scene: Scene, path: str, query: str, status: int, code: str | None) -> None:
    """With a code for what is wrong, as JSON."""
    query = query.replace("{vera}", scene.agents[3]).replace("{ann}", scene.world.user_id("ann"))

    answer = scene.world.get(path.partition("?")[0] + "?" + query, user="ann")

    assert (answer.status, answer.body.get("code")) == (status, code)


@pytest.mark.parametrize("path", PATHS)
def test_a_bad_period_is_told_what_there_is(scene: Scene, path: str) -> None:
    """As JSON with the names there are."""
    answer = scene.world.get(f"{path.partition('?')[0]}?period=last7days", user="ann")

    assert (answer.status, answer.code, len(answer.body["details"]["allowed"])) == (400, "INVALID_PERIOD", 9)


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("query", ["page=0", "page=x", "per_page=0", "per_page=101", "sort=spending", "sort="])
def test_a_bad_page_or_order_is_named(scene: Scene, path: str, query: str) -> None:
    """Whatever it is, it is a 400."""
    answer = scene.world.get(f"{path}?{query}", user="ann")

    assert (answer.status, answer.code, list(answer.fields)) == (400, "VALIDATION_ERROR", [query.partition("=")[0]])


@pytest.mark.anyio
async def test_every_question_counts_against_one_limit_of_300_a_minute(store: SqliteStore) -> None:
    """By user, those of /usage among them."""
    async with serving(store, replace(embedded_settings(), rate_limit_enabled=True)) as nobody:
        ann = await nobody.login("ann")
        answers = [await ann.get(path) for path in (*PATHS, "/analytics/spending", "/usage")]

    assert [int(each.headers["X-RateLimit-Remaining"]) for each in answers] == [299 - n for n in range(len(answers))]
