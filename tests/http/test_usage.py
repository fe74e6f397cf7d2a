"""Usage over HTTP: its bodies, its filters and everything that is wrong with a question."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, as_datetime, format_instant
from ironcage_core.ports.storage import UnitOfWork
from ironcage_http.server import embedded_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage, stage
from tests.support.rows import agent_row, fresh_id, usage_row
from tests.support.web import serving
from tests.support.world import TestAgent

PATHS = ("/usage", "/usage/aggregate", "/usage/by-project/p1", "/usage/by-provider/openai")


@pytest.fixture
def fresh() -> Iterator[Stage]:
    """A stage of one test alone, on which nothing was ever called."""
    with stage() as made:
        yield made


def called(world: Stage, agent: TestAgent, **fields: Any) -> str:  # noqa: ANN401 - fields of a record
    """Put a record of a call and return its id."""
    content = {"occurred_at": world.clock.now(), "cost_micros": 1_000_001, "unsplit_tokens": 0, "input_tokens": 3}
    record = usage_row(agent.id, fresh_id("call"), **{**content, **fields})
    world.store.write(lambda uow: uow.usage.put(record))
    return record.id


def test_an_empty_system_answers_zeros(fresh: Stage) -> None:
    """On every path, for a project and a provider that nobody knows as well."""
    now = format_instant(fresh.clock.now())
    echo = {
        "period": "all-time",
        "range": {"start": None, "end": now},
        "filters": {"agent_id": None, "provider_id": None},
        "calculated_at": now,
    }
    sums = {
        "total_tokens": 0, "total_input_tokens": 0, "total_output_tokens": 0, "total_requests": 0, "total_cost": 0,
        "providers": [], "scope": "all",
    }  # fmt: skip

    bodies = [fresh.get(path, user="admin").body for path in PATHS]

    assert bodies == [
        {**echo, **sums},
        {**echo, **sums},
        {**echo, **sums, "project_id": "p1"},
        {**echo, "provider": "openai", "tokens": 0, "requests": 0, "total_cost": 0, "scope": "all"},
    ]


def test_the_totals_of_a_caller_are_of_its_own_agents(fresh: Stage) -> None:
    """Completed calls are requests, failed ones only cost; each role sees its own part."""
    anns, veras = fresh.agent(), fresh.agent(owner_id=fresh.user_id("vera"))
    called(fresh, anns, output_tokens=2, unsplit_tokens=4, project_id="p1")
    called(fresh, anns, outcome="failed", provider="anthropic", input_tokens=0, project_id="p2")
    called(fresh, veras, provider="anthropic", cost_micros=5, project_id="p1")

    bodies = {user: fresh.get("/usage", user=user).body for user in ("admin", "ann", "vera")}

    assert bodies["ann"].items() >= {
        "total_tokens": 9, "total_input_tokens": 3, "total_output_tokens": 2, "total_requests": 1,
        "total_cost": Decimal("2.000002"), "scope": "own",
    }.items()  # fmt: skip
    assert bodies["ann"]["providers"] == [
        {"provider": "anthropic", "tokens": 0, "requests": 0, "cost": Decimal("1.000001")},
        {"provider": "openai", "tokens": 9, "requests": 1, "cost": Decimal("1.000001")},
    ]
    assert bodies["vera"]["providers"] == [
        {"provider": "anthropic", "tokens": 3, "requests": 1, "cost": Decimal("0.000005")}
    ]
    assert (bodies["admin"]["total_requests"], bodies["admin"]["scope"]) == (2, "all")
    assert bodies["ann"]["range"] == dict.fromkeys(("start", "end"), format_instant(fresh.clock.now()))


def test_project_and_provider_are_part_of_the_path(fresh: Stage) -> None:
    """The project without the blanks around it, the provider as it is written, both case-sensitive."""
    agent = fresh.agent()
    called(fresh, agent, project_id="Search team-1", provider="openai")
    called(fresh, agent, project_id="Search team-1", provider="anthropic", cost_micros=7)
    called(fresh, agent, project_id="other")

    project = fresh.get(f"/usage/by-project/{quote('  Search team-1 ')}", user="ann").body
    provider = fresh.get("/usage/by-provider/anthropic?period=today", user="ann").body

    assert (project["project_id"], project["total_requests"], project["total_cost"]) == (
        "Search team-1", 2, Decimal("1.000008"),
    )  # fmt: skip
    assert [each["provider"] for each in project["providers"]] == ["openai", "anthropic"]
    assert (provider["provider"], provider["tokens"], provider["requests"]) == ("anthropic", 3, 1)
    assert (provider["total_cost"], provider["period"]) == (Decimal("0.000007"), "today")
    assert project["filters"] == provider["filters"] == {"agent_id": None, "provider_id": None}
    for path in ("by-project/search%20team-1", "by-provider/OpenAI"):
        assert fresh.get(f"/usage/{path}", user="ann").body["total_cost"] == 0


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("by-project/%20%20", "project_id"),
        (f"by-project/{'x' * 501}", "project_id"),
        ("by-project/a%00b", "project_id"),
        ("by-provider/%20", "provider"),
        (f"by-provider/{'x' * 101}", "provider"),
    ],
)
def test_a_bad_part_of_the_path_is_named(world: Stage, path: str, field: str) -> None:
    """Blank, too long or not to be printed."""
    answer = world.get(f"/usage/{path}", user="ann")

    assert (answer.status, answer.code, list(answer.fields)) == (400, "VALIDATION_ERROR", [field])


def test_the_longest_parts_of_a_path_are_fine(world: Stage) -> None:
    """500 characters of a project, 100 of a provider."""
    assert world.get(f"/usage/by-project/{'x' * 500}", user="ann").status == 200
    assert world.get(f"/usage/by-provider/{'x' * 100}", user="ann").status == 200


def test_what_is_no_route_is_not_found_and_nothing_is_written(world: Stage) -> None:
    """A missing part is 404, another method 405."""
    for path in ("/usage/by-project", "/usage/by-project/", "/usage/by-provider/"):
        assert world.get(path, user="admin").status == 404
    for path in PATHS:
        for method in ("POST", "PUT", "DELETE"):
            answer = world.send(method, path, {}, user="admin")
            assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")


def test_a_question_is_echoed_as_it_was_understood(fresh: Stage) -> None:
    """The period by its first name, the range in whole hours, the filters that are used."""
    agent = fresh.agent()
    called(fresh, agent, model="m1")
    ann = fresh.user_id("ann")
    day = as_datetime(fresh.clock.now()).date().isoformat()
    start = fresh.clock.now() // MS_PER_DAY * MS_PER_DAY
    query = f"agent_id={agent.id}&provider=openai&model=m1&project_id=proj&user_id={ann}"

    named = fresh.get(f"/usage?period=last7-days&{query}", user="admin").body
    dated = fresh.get(f"/usage?start_date={day}&end_date={day}", user="ann").body
    in_seconds = fresh.get(f"/usage?start_date={start // 1000 + 1}&end_date={start // 1000 + 3601}", user="ann").body

    assert named["period"] == "last-7-days"
    assert named["range"] == {
        "start": format_instant(start - 7 * MS_PER_DAY), "end": format_instant(fresh.clock.now())
    }  # fmt: skip
    assert named["filters"] == {
        "agent_id": agent.id, "provider_id": None, "provider": "openai", "model": "m1", "project_id": "proj",
        "user_id": ann,
    }  # fmt: skip
    assert named["total_requests"] == dated["total_requests"] == 1
    assert (dated["period"], dated["range"]) == (
        "custom", {"start": format_instant(start), "end": format_instant(start + MS_PER_DAY)},
    )  # fmt: skip
    assert in_seconds["range"] == {
        "start": format_instant(start), "end": format_instant(start + 2 * MS_PER_HOUR)
    }  # fmt: skip


UNKNOWN = "0" * 32
WRONG = [
    ("period=fortnight", 400, "INVALID_PERIOD"),
    ("period=", 400, "VALIDATION_ERROR"),
    ("period=today&period=today", 400, "VALIDATION_ERROR"),
    ("period=today&start_date=2025-01-01", 400, "VALIDATION_ERROR"),
    ("start_date=2025-01-02&end_date=2025-01-01", 400, "VALIDATION_ERROR"),
    ("start_date=2025-01-01T00:00:00Z&end_date=2025-01-01T00:00:00Z", 400, "VALIDATION_ERROR"),
    ("start_date=yesterday", 400, "VALIDATION_ERROR"),
    ("start_date=1735689600000", 400, "VALIDATION_ERROR"),
    ("end_date=9999-12-31", 200, None),
    ("period=fortnight&agent_id={vera}", 403, "FORBIDDEN"),
    ("period=&provider_id=abc", 404, "PROVIDER_NOT_FOUND"),
    (f"start_date=x&agent_id=agent_{UNKNOWN}", 404, "AGENT_NOT_FOUND"),
    (f"user_id=&agent_id=agent_{UNKNOWN}", 403, "FORBIDDEN"),
    ("provider=", 400, "VALIDATION_ERROR"),
    ("project_id=", 400, "VALIDATION_ERROR"),
    ("project_id=a&project_id=a", 400, "VALIDATION_ERROR"),
    ("end_date=2025-02-30", 400, "VALIDATION_ERROR"),
    ("agent_id=abc", 400, "VALIDATION_ERROR"),
    ("agent_id=", 400, "VALIDATION_ERROR"),
    (f"agent_id=agent_{UNKNOWN}", 404, "AGENT_NOT_FOUND"),
    ("agent_id={vera}", 403, "FORBIDDEN"),
    ("provider_id=abc", 404, "PROVIDER_NOT_FOUND"),
    ("user_id={ann}", 403, "FORBIDDEN"),
    ("user_id=ann", 403, "FORBIDDEN"),
    ("user_id={ann}&user_id={ann}", 403, "FORBIDDEN"),
    (f"model={'x' * 201}", 400, "VALIDATION_ERROR"),
    ("provider=a&provider=b", 400, "VALIDATION_ERROR"),
    ("color=&color=", 200, None),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("query", "status", "code"), WRONG)
def test_a_question_that_cannot_be_answered_is_refused(
    world: Stage, path: str, query: str, status: int, code: str | None
) -> None:
    """On every path alike."""
    if "{vera}" in query:
        query = query.format(vera=world.agent(owner_id=world.user_id("vera")).id)
    query = query.replace("{ann}", world.user_id("ann"))

    answer = world.get(f"{path}?{query}", user="ann")

    assert (answer.status, answer.code if status >= 400 else None) == (status, code), answer.raw


def test_a_question_by_user_is_checked_for_an_admin_alone(world: Stage) -> None:
    """Anybody else is told that it is not for him, whatever is wrong with it."""
    answers = [world.get(f"/usage?user_id={user}", user="admin") for user in ("ann", "")]

    assert [(answer.status, list(answer.fields)) for answer in answers] == [(400, ["user_id"])] * 2


@pytest.mark.parametrize(
    ("path", "name", "value", "other"),
    [("by-provider/openai", "provider", "openai", "anthropic"), ("by-project/p1", "project_id", "p1", "p2")],
)
def test_a_filter_beside_the_path_is_one_more_condition(
    fresh: Stage, path: str, name: str, value: str, other: str
) -> None:
    """The same takes nothing away, another everything; both are echoed."""
    agent = fresh.agent()
    for project_id in ("p1", "p2"):
        for provider in ("openai", "anthropic"):
            called(fresh, agent, project_id=project_id, provider=provider)

    plain, same, apart = (
        fresh.get(f"/usage/{path}{query}", user="ann").body for query in ("", f"?{name}={value}", f"?{name}={other}")
    )

    assert plain["total_cost"] == same["total_cost"] == Decimal("2.000002")
    assert apart["total_cost"] == 0
    assert name not in plain["filters"]
    assert (same["filters"][name], apart["filters"][name], apart[name]) == (value, other, value)


def test_a_range_without_a_start_begins_with_the_first_call_in_it(fresh: Stage) -> None:
    """Null if there is none before the end; the day of the call where only that is still known."""
    agent = fresh.agent()
    first = fresh.clock.now() - 3 * MS_PER_DAY
    called(fresh, agent, occurred_at=first + 5, provider_id="prov_x")
    called(fresh, agent, occurred_at=first + 9)
    called(fresh, agent, occurred_at=first, project_id="p1")

    def start(query: str = "") -> str | None:
        found: str | None = fresh.get(f"/usage{query}", user="ann").body["range"]["start"]
        return found

    assert [start(), start("?provider_id=prov_x"), start("?project_id=proj")] == [
        format_instant(first), format_instant(first + 5), format_instant(first + 5)
    ]  # fmt: skip
    assert start("?end_date=2001-01-01") is None
    assert start("?end_date=9999-12-31") == format_instant(first)
    fresh.store.write(lambda uow: uow.usage.advance_horizon("records", fresh.clock.now() // MS_PER_DAY * MS_PER_DAY))
    assert start() == format_instant(first // MS_PER_DAY * MS_PER_DAY)


def test_a_range_without_a_start_never_begins_after_its_end(fresh: Stage) -> None:
    """A runtime's clock may be a little ahead."""
    called(fresh, fresh.agent(), occurred_at=fresh.clock.now() + 60_000)

    body = fresh.get("/usage", user="ann").body

    assert (body["total_requests"], body["range"]["start"]) == (1, body["range"]["end"])


@pytest.mark.parametrize("name", ["a/b", "/", "//", "a//b/", "100%", "a%2Fb", "x?y", "ж", "..", "a/../b"])
def test_every_character_of_the_last_part_of_a_path_is_its_own(fresh: Stage, name: str) -> None:
    """An encoded slash as well, however often."""
    called(fresh, fresh.agent(), project_id=name, provider=name)
    part = quote(name, safe="").replace(".", "%2E")

    for path, field in (("by-project", "project_id"), ("by-provider", "provider")):
        for base in ("/api/v1", "/api"):
            body = fresh.get(f"{base}/usage/{path}/{part}?period=all-time", user="ann").body
            assert (body[field], body["total_cost"]) == (name, Decimal("1.000001"))


def test_a_part_of_a_path_that_is_no_text_is_named(world: Stage) -> None:
    """Not as UTF-8; and a slash that is not encoded makes another path, which does not exist."""
    answers = [world.get(f"/usage/{path}", user="ann") for path in ("by-project/%ff", "by-provider/a%2F%C3")]

    assert [(answer.status, list(answer.fields)) for answer in answers] == [(400, ["project_id"]), (400, ["provider"])]
    assert [world.get(f"/usage/by-project/{path}", user="ann").status for path in ("a/b", "a/b%2Fc", "")] == [404] * 3


def test_a_wrong_period_is_told_what_there_is(world: Stage) -> None:
    """Every canonical name."""
    details = world.get("/usage?period=x", user="ann").body["details"]

    assert len(details["allowed"]) == 9


def test_hours_that_are_gone_are_told_with_when_they_begin(fresh: Stage) -> None:
    """As a time that a person can read."""
    fresh.store.write(lambda uow: uow.usage.advance_horizon("hours", 20_000 * MS_PER_DAY))

    answer = fresh.get("/usage?start_date=2024-01-01T05:00:00Z&end_date=2024-02-01", user="ann")

    assert (answer.status, answer.code) == (400, "RANGE_TOO_OLD")
    assert answer.body["details"] == {"kept_since": format_instant(20_000 * MS_PER_DAY)}
    assert fresh.get("/usage?start_date=2024-01-01&end_date=2024-02-01", user="ann").status == 200


@pytest.mark.anyio
async def test_every_usage_route_shares_one_limit_of_300_a_minute(store: SqliteStore) -> None:
    """By user, as analytics do."""
    async with serving(store, replace(embedded_settings(), rate_limit_enabled=True)) as nobody:
        ann = await nobody.login("ann")
        answers = [await ann.get(path) for path in (*PATHS, "/traces")]

    assert [int(each.headers["X-RateLimit-Remaining"]) for each in answers] == [299, 298, 297, 296, 295]


@pytest.mark.anyio
async def test_usage_survives_a_restart_and_the_end_of_everything_it_names(tmp_path: Path) -> None:
    """Agent deleted, provider key gone, records purged: the totals stay."""
    path = tmp_path / "ironcage.db"
    with SqliteStore(path) as store:
        async with serving(store):
            store.write(_put_a_call_of_a_deleted_agent)
    with SqliteStore(path) as store:
        async with serving(store) as nobody:
            ann = await nobody.login("ann")
            before = (await ann.get("/usage?provider_id=prov_gone")).body
            store.write(lambda uow: uow.usage.advance_horizon("records", MS_PER_DAY))
            purged = store.write(lambda uow: uow.usage.purge_records(10))
            after = (await ann.get("/usage?provider_id=prov_gone")).body

    assert before["providers"] == [{"provider": "openai", "tokens": 3, "requests": 1, "cost": Decimal("1.25")}]
    starts = [body["range"]["start"] for body in (before, after)]
    assert starts == ["1970-01-01T00:00:00.005Z", "1970-01-01T00:00:00.000Z"]  # of what was purged, the day is known
    assert purged == 1
    for body in (before, after):
        del body["calculated_at"], body["range"]
    assert after == before


def _put_a_call_of_a_deleted_agent(uow: UnitOfWork) -> None:
    ann = uow.users.find_by_username("ann")
    assert ann is not None
    agent = agent_row(ann.id, deleted_at=1)
    uow.agents.put(agent)
    fields = {"occurred_at": 5, "unsplit_tokens": 3, "cost_micros": 1_250_000, "provider_id": "prov_gone"}
    uow.usage.put(usage_row(agent.id, "call", **fields))
