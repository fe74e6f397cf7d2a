"""Provider keys over HTTP: taken in, changed, disabled, deleted, and what each role sees of them."""

from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from ironcage_core.domain.ids import MASTER_PROJECT
from ironcage_core.domain.projects import Project, ProjectKey
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.storage import UnitOfWork
from ironcage_http.metrics import Metrics
from tests.support.http_agents import Stage, stage
from tests.support.rows import HOUR, usage_row
from tests.support.web import Answer
from tests.support.world import USD

DAY = 24 * HOUR
USAGE = ("agent_count", "total_requests", "total_spend", "requests_today", "spend_today")
SECRET = "sk-proj-zyxwvutsrqponm"
FIELDS = {
    "id", "name", "provider", "base_url", "description", "models", "is_enabled", "status", "credentials_configured",
    "masked_key", "assigned_projects", "agent_count", "created_by", "created_at", "updated_at", "last_used_at",
}  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Iterator[Stage]:
    with stage() as world:
        world.known_secrets.add(SECRET)
        yield world


def create(world: Stage, **fields: Any) -> Answer:  # noqa: ANN401 - fields of a body
    return world.post("/providers", {"provider": "openai", "api_key": SECRET, **fields}, user="admin")


def put(world: Stage, key_id: str, body: object) -> Answer:
    return world.send("PUT", f"/providers/{key_id}", body, user="admin")


def shown(world: Stage, key_id: str, user: str = "admin") -> Any:  # noqa: ANN401 - whatever the JSON is
    answer = world.get(f"/providers/{key_id}", user=user)
    assert answer.status == 200
    usage = answer.body.pop("usage")
    assert (usage is None) == (user != "admin")
    return answer.body


def _assign(uow: UnitOfWork, key: ProjectKey) -> None:
    uow.projects.assign(key)


def test_a_key_is_taken_in_with_all_that_it_says(world: Stage) -> None:
    """One shape in create, get, list and update; the mask is that of the key."""
    created = create(world, name="full", description="für uns", models=["gpt-b", "gpt-a", "gpt-b"], is_enabled=False)

    assert created.status == 201
    assert set(created.body) == FIELDS
    assert created.body["models"] == ["gpt-b", "gpt-a"]
    assert (created.body["description"], created.body["masked_key"]) == ("für uns", "sk-p...onm")
    assert (created.body["is_enabled"], created.body["status"]) == (False, "inactive")
    assert shown(world, created.body["id"]) == created.body
    assert world.get("/providers?name=full", user="admin").body["data"] == [created.body]
    assert put(world, created.body["id"], {"name": "full"}).body == created.body


def test_bad_fields_are_named_and_never_echoed(world: Stage) -> None:
    """All at once, a mistyped one too, each model by its place."""
    bad = {
        "provider": "openAI", "api_key": f"{SECRET} ", "name": "Main", "base_url": "http://llm.test", "apikey": SECRET,
        "description": "d" * 501, "models": ["m"] * 101, "is_enabled": 1,
    }  # fmt: skip

    assert set(create(world, **bad).fields) == {"apikey", "is_enabled"}
    del bad["apikey"], bad["is_enabled"]
    assert set(create(world, **bad, models_=1).fields) == {"models_"}
    assert set(create(world, **{**bad, "api_key": "a b"}).fields) == {*bad}
    assert set(create(world, models=["ok", "", "m" * 101]).fields) == {"models[1]", "models[2]"}


def test_a_change_is_partial_and_strict(world: Stage) -> None:
    """Absent is unchanged, null clears what may be empty and is refused elsewhere."""
    key = create(world, base_url="https://llm.test/v1", description="x", models=["m"]).body

    cleared = put(world, key["id"], {"base_url": None, "description": ""})

    assert cleared.status == 200
    assert {**cleared.body, "updated_at": ""} == {**key, "base_url": None, "description": None, "updated_at": ""}
    assert put(world, key["id"], {"provider": "openai", "models": []}).body["models"] == []
    nulls = put(world, key["id"], {"name": None, "api_key": None, "is_enabled": None, "models": None, "provider": None})
    assert set(nulls.fields) >= {"provider"}
    nulls = put(world, key["id"], {"name": None, "api_key": None, "is_enabled": None, "models": None})
    assert set(nulls.fields) == {"name", "api_key", "is_enabled", "models"}
    assert set(put(world, key["id"], {"provider": "anthropic", "name": "X"}).fields) == {"provider", "name"}
    assert set(put(world, key["id"], {"apikey": SECRET}).fields) == {"apikey"}
    assert shown(world, key["id"])["masked_key"] == key["masked_key"]


def test_refusals_come_in_their_order(world: Stage) -> None:
    """Role, syntax, the record, the fields, then what is taken."""
    name = create(world, name="taken").body["name"]
    key_id = create(world).body["id"]
    ghost = "prov_" + "0" * 32

    for path, body, user, told in (
        (ghost, b"{", "ann", (403, "FORBIDDEN")),
        (ghost, b"{", "admin", (400, "MALFORMED_JSON")),
        (ghost, {"is_enabled": 1}, "admin", (404, "PROVIDER_NOT_FOUND")),
        ("openai", {}, "admin", (404, "PROVIDER_NOT_FOUND")),
        (key_id, {}, "admin", (400, "NO_FIELDS_PROVIDED")),
        (key_id, {"name": name, "models": [""]}, "admin", (400, "VALIDATION_ERROR")),
        (key_id, {"name": name}, "admin", (409, "PROVIDER_EXISTS")),
    ):
        answer = world.send("PUT", f"/providers/{path}", body, user=user)
        assert (answer.status, answer.code) == told


def test_a_new_api_key_changes_the_mask_and_reaches_the_next_lease(world: Stage) -> None:
    """Under the same id; the audit log tells that it was done and nothing of the key."""
    key_id, agent = create(world).body["id"], world.agent()
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, [key_id]))

    changed = put(world, key_id, {"api_key": f"{SECRET}-two"})

    assert (changed.status, changed.body["masked_key"]) == (200, "sk-p...two")
    assert world.post("/budget/handshake", {}, token=agent.token).status == 200
    rows = world.get(f"/audit-logs?resource_id={key_id}&operation=PROVIDER_ROTATED", user="admin").body["data"]
    assert [row["changes"]["after"] for row in rows] == [{"masked_key": "sk-p...two"}]


def test_a_disabled_key_is_lent_no_more(world: Stage) -> None:
    """Leases on it end at once, and their calls are told why."""
    key_id, agent = create(world).body["id"], world.agent()
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, [key_id]))
    lease = world.post("/budget/handshake", {}, token=agent.token).body

    disabled = put(world, key_id, {"is_enabled": False})

    assert (disabled.body["status"], disabled.body["agent_count"]) == ("inactive", 1)
    refused = world.post("/budget/refresh", {"lease_id": lease["lease_id"]}, token=agent.token)
    assert (refused.status, refused.code) == (403, "LEASE_REVOKED")
    again = world.post("/budget/handshake", {}, token=agent.token)
    assert (again.status, again.code) == (403, "NO_PROVIDER_ASSIGNED")
    assert (agent.balance().held, agent.balance().remaining) == (0, 100 * USD)


def test_a_deleted_key_is_gone_and_says_whom_it_served(world: Stage) -> None:
    """The second call finds nothing."""
    key_id, agent = create(world, name="doomed").body["id"], world.agent()
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, [key_id, world.key_id]))
    world.store.write(lambda uow: uow.projects.assign(ProjectKey(MASTER_PROJECT, "openai", key_id, uow.now)))

    gone = world.send("DELETE", f"/providers/{key_id}", user="admin")

    assert (gone.status, gone.body) == (
        200,
        {
            "id": key_id, "name": "doomed", "deleted": True, "agents_affected": [agent.id], "agents_count": 1,
            "projects_affected": [MASTER_PROJECT],
        },
    )  # fmt: skip
    assert world.get(f"/agents/{agent.id}", user="ann").body["providers"] == [world.key_id]
    for method in ("DELETE", "GET"):
        assert world.send(method, f"/providers/{key_id}", user="admin").code == "PROVIDER_NOT_FOUND"
    assert create(world, name="doomed").status == 201


def test_each_role_sees_its_part(world: Stage) -> None:
    """An admin everything; a user no mask, maker or hidden project; a viewer neither URL nor description."""
    key = create(world, base_url="https://llm.test", description="x", models=["m"]).body
    hidden = world.store.write(lambda uow: uow.new_id("proj"))
    world.store.write(lambda uow: uow.projects.put(Project(hidden, f"P {hidden}", None, None, uow.now, uow.now)))
    for project in (MASTER_PROJECT, hidden):
        assigned = ProjectKey(project, "openai", key["id"], 0)
        world.store.write(partial(_assign, key=assigned))

    whole = {**key, "assigned_projects": sorted([MASTER_PROJECT, hidden])}
    part = {**key, "masked_key": "***", "created_by": None, "assigned_projects": [MASTER_PROJECT]}

    admins = shown(world, key["id"])
    assert {**admins, "assigned_projects": sorted(admins["assigned_projects"])} == whole
    assert shown(world, key["id"], "ann") == part
    narrow = {**part, "base_url": None, "description": None, "assigned_projects": []}
    assert shown(world, key["id"], "vera") == narrow
    assert world.get("/providers?sort=-created_at", user="vera").body["data"][0] == narrow


def test_an_admin_sees_what_a_key_was_used_for(world: Stage) -> None:
    """Completed calls and money, ever and since 00:00 UTC, of all agents; nobody else does."""
    key_id, agents = create(world).body["id"], [world.agent(), world.agent()]
    new = world.get(f"/providers/{key_id}", user="admin").body["usage"]
    for agent in agents:
        world.store.write(partial(_give, agent_id=agent.id, key_id=key_id))
    midnight = world.clock.now() // DAY * DAY
    world.clock.instant = midnight + DAY + 12 * HOUR
    today = midnight + DAY
    calls: list[tuple[str, dict[str, Any]]] = [
        (agents[0].id, {"occurred_at": today - 1, "cost_micros": 4}),
        (agents[0].id, {"occurred_at": today, "cost_micros": 2}),
        (agents[1].id, {"occurred_at": today + HOUR, "cost_micros": 1}),
        (agents[1].id, {"occurred_at": today + HOUR, "cost_micros": 0, "outcome": "failed"}),
        (agents[1].id, {"occurred_at": today + HOUR, "cost_micros": 9, "provider_id": world.key_id}),
    ]
    for place, (agent_id, fields) in enumerate(calls):
        row = usage_row(agent_id, f"call-{place}", **{"provider_id": key_id, **fields})
        world.store.write(partial(_book, row=row))

    seen = {user: world.get(f"/providers/{key_id}", user=user).body["usage"] for user in ("admin", "ann", "vera")}

    assert new == dict.fromkeys(USAGE, 0)
    assert seen == {
        "admin": dict(zip(USAGE, (2, 3, Decimal("0.000007"), 2, Decimal("0.000003")), strict=True)),
        "ann": None,
        "vera": None,
    }


def _give(uow: UnitOfWork, agent_id: str, key_id: str) -> None:
    uow.provider_keys.assign(agent_id, [key_id])


def _book(uow: UnitOfWork, row: UsageRecord) -> None:
    uow.usage.put(row)


def test_without_a_master_key_only_secrets_are_out_of_reach() -> None:
    """Looking, renaming, disabling and deleting still work."""
    with stage(has_master_key=False) as world:
        world.known_secrets.add(SECRET)
        refused = [create(world), put(world, world.key_id, {"api_key": SECRET, "name": "kept-out"})]

        assert [(answer.status, answer.code) for answer in refused] == [(503, "CRYPTO_UNAVAILABLE")] * 2
        assert put(world, world.key_id, {"name": "renamed", "is_enabled": False}).status == 200
        assert shown(world, world.key_id)["name"] == "renamed"
        assert world.send("DELETE", f"/providers/{world.key_id}", user="admin").status == 200


def test_the_metrics_name_secrets_that_do_not_decrypt() -> None:
    """Nothing is claimed before somebody has looked; one that opens again is named no more."""
    metrics = Metrics(lambda: 0)

    assert b"ironcage_undecryptable_secrets NaN" in metrics.exposition()
    metrics.tell_undecryptable(["prov_a", "prov_b"])
    metrics.tell_undecryptable(["prov_b"])
    assert b"ironcage_undecryptable_secrets 1.0" in metrics.exposition()
    assert b'ironcage_undecryptable_secret{provider_key="prov_b"} 1.0' in metrics.exposition()
    assert b"prov_a" not in metrics.exposition()
