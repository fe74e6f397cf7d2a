"""Projects over HTTP: their object, who sees it, and what each request is refused with."""

import secrets
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT
from tests.support.http_agents import Stage, stage
from tests.support.web import Answer
from tests.support.world import USD

UNKNOWN = "proj_" + "0" * 32
LISTED = {
    "id", "name", "description", "owner_id", "user_count", "agent_count", "provider_count", "scope", "created_at",
    "updated_at",
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[Stage]:
    with stage() as made:
        yield made


def create(world: Stage, **fields: Any) -> Answer:  # noqa: ANN401 - fields of a body
    return world.post("/projects", {"name": f"Project {secrets.token_hex(6)}", **fields}, user="admin")


def put_agent(world: Stage, project_id: str, budget: int = 10 * USD, owner_id: str = "") -> str:
    """Make an agent in a project; it is the ordinary user's unless somebody else is named."""
    agent = world.agent(budget, owner_id=owner_id)

    def moving(uow: Any) -> None:  # noqa: ANN401 - a unit of work
        uow.agents.put(uow.agents.find(agent.id)._replace(project_id=project_id))

    world.store.write(moving)
    return agent.id


def refusal(answer: Answer) -> tuple[int, str]:
    assert answer.status >= 400, answer.raw
    return answer.status, answer.code


def test_a_project_looks_the_same_wherever_it_is_shown(world: Stage) -> None:
    """Made, listed, shown and changed; the list has no sums."""
    made = create(world, name="  W\u00e4lder ", description="trees", unknown="ignored")
    project_id = made.body["id"]

    shown = world.get(f"/projects/{project_id}", user="admin")
    listed = world.get("/projects?name=w%C3%84L", user="admin")
    changed = world.send("PUT", f"/projects/{project_id}", {"description": None, "unknown": 1}, user="admin")

    assert made.status == 201
    assert set(made.body) == LISTED | {"total_budget", "total_spent"}
    told = {
        "id": project_id, "name": "W\u00e4lder", "description": "trees", "owner_id": world.user_id("admin"),
        "user_count": 0, "agent_count": 0, "provider_count": 0, "scope": "all", "total_budget": 0, "total_spent": 0,
    }  # fmt: skip
    assert told.items() <= made.body.items()
    assert shown.body == made.body
    assert listed.body["data"] == [{name: made.body[name] for name in LISTED}]
    assert changed.body == {**made.body, "description": None, "updated_at": changed.body["updated_at"]}


def test_an_admin_is_shown_all_and_others_the_own(world: Stage) -> None:
    """Money in USD; how many users there are is nobody else's business."""
    project_id = create(world).body["id"]
    put_agent(world, project_id, 1_500_000)
    put_agent(world, project_id, 20 * USD, owner_id=world.user_id("vera"))
    assign(world, project_id, world.key_id)

    seen = {user: world.get(f"/projects/{project_id}", user=user).body for user in ("admin", "ann", "vera")}

    names = ("scope", "user_count", "agent_count", "provider_count", "total_budget")
    assert {user: tuple(body[name] for name in names) for user, body in seen.items()} == {
        "admin": ("all", 2, 2, 1, Decimal("21.5")),
        "ann": ("own", None, 1, 1, Decimal("1.5")),
        "vera": ("own", None, 1, 1, 20),
    }


def test_what_somebody_may_not_see_is_not_there(world: Stage) -> None:
    """A project of others, the one of orphaned agents, and what was never one: one answer."""
    name = f"newcomer-{secrets.token_hex(4)}"
    world.add_user(name)
    project_id = create(world).body["id"]

    answers = [world.get(f"/projects/{each}", user=name) for each in (project_id, ORPHANED_PROJECT, UNKNOWN, "abc")]
    listed = world.get("/projects", user=name).body

    assert {(refusal(each), each.raw) for each in answers} == {((404, "PROJECT_NOT_FOUND"), answers[0].raw)}
    assert [each["id"] for each in listed["data"]] == [MASTER_PROJECT]
    assert listed["pagination"]["total"] == 1
    assert world.get(f"/projects/{ORPHANED_PROJECT}", user="admin").status == 200


def test_a_token_of_a_project_sees_only_that(world: Stage) -> None:
    """And changes none, though its owner could."""
    project_id = create(world).body["id"]
    made = world.post("/api-tokens", {"name": "bound", "project_id": project_id}, user="admin")
    headers = {"X-API-Token": made.body["token"]}

    listed = world.get("/projects", headers=headers).body

    assert [each["id"] for each in listed["data"]] == [project_id]
    assert world.get(f"/projects/{project_id}", headers=headers).status == 200
    assert refusal(world.get(f"/projects/{MASTER_PROJECT}", headers=headers)) == (404, "PROJECT_NOT_FOUND")
    assert refusal(world.send("PUT", f"/projects/{project_id}", {}, headers=headers)) == (403, "FORBIDDEN")


def test_a_token_is_bound_to_what_its_owner_sees(world: Stage) -> None:
    """Else it would open other people's keys."""
    name = f"nosy-{secrets.token_hex(4)}"
    user_id = world.add_user(name)
    project_id = create(world).body["id"]

    hidden = world.post("/api-tokens", {"name": "t", "project_id": project_id}, user=name)
    put_agent(world, project_id, owner_id=user_id)
    seen = world.post("/api-tokens", {"name": "t", "project_id": project_id}, user=name)

    assert (refusal(hidden), set(hidden.fields)) == ((400, "VALIDATION_ERROR"), {"project_id"})
    assert seen.status == 201


def test_a_list_is_sorted_and_paged(world: Stage) -> None:
    """By name or by age, newest first by default; what is no such order is refused."""
    mark = secrets.token_hex(4)
    for name in ("b", "A", "c"):
        world.clock.pass_s(1)
        create(world, name=f"{mark} {name}")

    def names(query: str) -> list[str]:
        body = world.get(f"/projects?name={mark}&{query}", user="admin").body
        assert body["pagination"]["total"] == 3
        return [each["name"].removeprefix(f"{mark} ") for each in body["data"]]

    assert names("") == ["c", "A", "b"]
    assert names("sort=name") == ["A", "b", "c"]
    assert names("sort=created_at&per_page=2") == ["b", "A"]
    assert names("page=9") == []
    for bad in ("sort=owner", "page=0", "name=", "name=a&name=b"):
        assert refusal(world.get(f"/projects?{bad}", user="admin")) == (400, "VALIDATION_ERROR")


def test_a_bad_project_is_refused_with_every_field(world: Stage) -> None:
    """A name that is taken is a conflict, in whatever case."""
    name = create(world).body["name"]

    bad = create(world, name="", description="x" * 501, owner_id="user_" + "0" * 32)

    assert (refusal(bad), set(bad.fields)) == ((400, "VALIDATION_ERROR"), {"name", "description", "owner_id"})
    for body in ({}, {"name": None}, {"name": 5}):
        answer = world.post("/projects", body, user="admin")
        assert (refusal(answer), set(answer.fields)) == ((400, "VALIDATION_ERROR"), {"name"})
    assert refusal(create(world, name=name.upper())) == (409, "PROJECT_EXISTS")
    assert refusal(world.send("POST", "/projects", b"{", user="admin")) == (400, "MALFORMED_JSON")
    assert refusal(world.post("/projects", {"name": ""}, user="ann")) == (403, "FORBIDDEN")


def test_a_change_is_refused_in_order(world: Stage) -> None:
    """No such project, nothing given, bad fields, protected, name taken."""
    taken, project_id = create(world).body["name"], create(world).body["id"]

    def put(project: str, body: object) -> tuple[int, str]:
        return refusal(world.send("PUT", f"/projects/{project}", body, user="admin"))

    assert put("abc", b"{") == (400, "MALFORMED_JSON")
    assert put("abc", {"name": 5}) == put(UNKNOWN, {}) == (404, "PROJECT_NOT_FOUND")
    assert put(project_id, {}) == put(project_id, {"colour": "red"}) == (400, "NO_FIELDS_PROVIDED")
    assert put(MASTER_PROJECT, {"name": None}) == (400, "VALIDATION_ERROR")
    assert put(project_id, {"owner_id": None}) == put(project_id, {"description": 5}) == (400, "VALIDATION_ERROR")
    for protected in (MASTER_PROJECT, ORPHANED_PROJECT):
        assert put(protected, {"name": "Mine"}) == (409, "PROJECT_PROTECTED")
    assert put(project_id, {"name": taken}) == (409, "PROJECT_EXISTS")


def test_only_an_empty_project_is_removed(world: Stage) -> None:
    """Once; the details say what is in it."""
    project_id, empty = create(world).body["id"], create(world).body["id"]
    put_agent(world, project_id)
    assign(world, empty, world.key_id)

    full = world.send("DELETE", f"/projects/{project_id}", user="admin")
    gone = world.send("DELETE", f"/projects/{empty}", user="admin")

    assert (refusal(full), full.body["details"]) == ((409, "PROJECT_NOT_EMPTY"), {"agents": 1, "api_tokens": 0})
    assert (gone.status, gone.raw) == (204, b"")
    assert refusal(world.send("DELETE", f"/projects/{empty}", user="admin")) == (404, "PROJECT_NOT_FOUND")
    assert refusal(world.send("DELETE", f"/projects/{MASTER_PROJECT}", user="admin")) == (409, "PROJECT_PROTECTED")


def assign(world: Stage, project_id: str, key_id: object) -> Answer:
    return world.post(f"/projects/{project_id}/provider", {"provider_key_id": key_id}, user="admin")


def test_a_project_is_given_one_key_of_a_provider(world: Stage) -> None:
    """Another takes its place, a disabled one as well; the same one again changes nothing."""
    project_id = create(world).body["id"]

    first = assign(world, project_id, world.key_id)
    world.clock.pass_s(1)
    again = assign(world, project_id, world.key_id)
    second = assign(world, project_id, world.disabled_key_id)

    assert first.body == {
        "project_id": project_id, "provider_key_id": world.key_id, "provider": "openai",
        "assigned_at": first.body["assigned_at"], "replaced_key_id": None,
    }  # fmt: skip
    assert (first.status, again.status, again.body) == (200, 200, first.body)
    assert (second.body["replaced_key_id"], second.body["provider_key_id"]) == (world.key_id, world.disabled_key_id)
    assert second.body["assigned_at"] > first.body["assigned_at"]


def test_an_assignment_is_refused_in_order(world: Stage) -> None:
    """Project, body, key, protection; nobody but an admin gets so far."""
    unknown = "prov_" + "0" * 32

    assert refusal(assign(world, UNKNOWN, 5)) == (404, "PROJECT_NOT_FOUND")
    assert refusal(assign(world, MASTER_PROJECT, None)) == (400, "VALIDATION_ERROR")
    assert refusal(assign(world, MASTER_PROJECT, 5)) == (400, "VALIDATION_ERROR")
    assert refusal(assign(world, MASTER_PROJECT, "openai")) == (400, "INVALID_PROVIDER_ID")
    assert refusal(assign(world, MASTER_PROJECT, unknown)) == (404, "PROVIDER_NOT_FOUND")
    assert refusal(assign(world, ORPHANED_PROJECT, world.key_id)) == (409, "PROJECT_PROTECTED")
    denied = world.post(f"/projects/{UNKNOWN}/provider", {}, user="ann")
    assert refusal(denied) == (403, "FORBIDDEN")


def test_keys_are_taken_away_by_provider_by_id_or_all(world: Stage) -> None:
    """Nothing that matches is not assigned."""
    project_id = create(world).body["id"]
    path = f"/projects/{project_id}/provider"

    def given() -> int:
        count: int = world.get(f"/projects/{project_id}", user="admin").body["provider_count"]
        return count

    def take(query: str = "") -> Answer:
        return world.send("DELETE", f"{path}{query}", user="admin")

    for key_id in (world.key_id, world.other_key_id):
        assign(world, project_id, key_id)
    assert refusal(take(f"?provider_key_id={world.disabled_key_id}")) == (404, "PROVIDER_NOT_ASSIGNED")
    for bad in ("?provider=acme", "?provider=", "?provider_key_id=openai"):
        assert refusal(take(bad)) == (400, "VALIDATION_ERROR")
    assert (take("?provider=anthropic").status, given()) == (204, 1)
    assert refusal(take("?provider=anthropic")) == (404, "PROVIDER_NOT_ASSIGNED")
    assign(world, project_id, world.other_key_id)
    assert (take(f"?provider_key_id={world.key_id}").status, given()) == (204, 1)
    assign(world, project_id, world.key_id)
    assert (take().status, given()) == (204, 0)
    assert refusal(take()) == (404, "PROVIDER_NOT_ASSIGNED")
    assert refusal(world.send("DELETE", f"/projects/{UNKNOWN}/provider?provider=x", user="admin")) == (
        404, "PROJECT_NOT_FOUND",
    )  # fmt: skip


def test_every_change_is_remembered(world: Stage) -> None:
    """By whom and of which project."""
    project_id = create(world).body["id"]
    world.send("PUT", f"/projects/{project_id}", {"description": "new"}, user="admin")
    assign(world, project_id, world.key_id)
    world.send("DELETE", f"/projects/{project_id}/provider", user="admin")
    world.send("DELETE", f"/projects/{project_id}", user="admin")

    rows = world.get(f"/audit-logs?resource_id={project_id}&sort=timestamp", user="admin").body["data"]

    assert [row["operation"] for row in rows] == [
        "PROJECT_CREATED", "PROJECT_UPDATED", "PROJECT_PROVIDER_ASSIGNED", "PROJECT_PROVIDER_UNASSIGNED",
        "PROJECT_DELETED",
    ]  # fmt: skip
    assert {row["user_id"] for row in rows} == {world.user_id("admin")}
    assert {row["resource_type"] for row in rows} == {"project"}
