"""Agents from their making to their end: what owners and admins change, stop, start and delete."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from ironcage_core.domain.access import Principal, principal_of
from ironcage_core.domain.agents import RUNTIME_TRANSITIONS, Agent, RuntimeEvent
from ironcage_core.domain.api_tokens import ApiToken
from ironcage_core.domain.audit import AuditRow
from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT
from ironcage_core.domain.projects import Project, ProjectKey
from ironcage_core.errors.access import InsufficientScopeError
from ironcage_core.errors.money import LeaseRevokedError
from ironcage_core.errors.resources import (
    AgentInactiveError,
    AgentNotFoundError,
    InvalidProviderIdError,
    ProviderNotAssignedError,
    ProviderNotFoundError,
)
from ironcage_core.errors.tree import ForbiddenError, NoFieldsError, RefusalError, ValidationError
from ironcage_core.ports.lists import AuditFilter, BalanceFilter, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agent_changes import delete_agent, update_agent
from ironcage_core.services.agent_keys import agent_keys, assign_agent_keys, unassign_agent_key
from ironcage_core.services.agent_lists import agent_tokens, list_agents
from ironcage_core.services.agent_states import start_agent, stop_agent
from ironcage_core.services.agents import create_agent, project_for
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_core.services.runtime_states import note_runtime_event
from tests.support.world import ADMIN, API_KEY, NOON, THE_ADMIN, USD, TestAgent, World

SYSTEM_TAGS = ["orphaned", "original-owner:user_" + "0" * 32]


def owner(world: World) -> Principal:
    return replace(THE_ADMIN, user_id=world.owner_id, role="user", reach="own")


def api_token(world: World, user_id: str = "", **fields: Any) -> ApiToken:  # noqa: ANN401 - columns
    """Store a token of the owner's."""

    def put(uow: UnitOfWork) -> ApiToken:
        token_id = uow.new_id("tok")
        bound = {"project_id": None, "agent_id": None, "scopes": "*", **fields}
        token = ApiToken(
            id=token_id, hash=token_id, lineage=token_id, user_id=user_id or world.owner_id, name="t",
            description=None, provider=None, is_active=1, hint="abcd", expires_at=None, rate_limit_rps=None,
            daily_request_limit=None, daily_token_limit=None, daily_limit_micros=None, cost_cap_micros=None,
            created_at=uow.now, updated_at=uow.now, **bound,
        )  # fmt: skip
        uow.api_tokens.put(token)
        return token

    return world.store.write(put)


def with_token(world: World, **fields: Any) -> Principal:  # noqa: ANN401 - columns of a token
    """Return an admin who calls by a token."""
    boss = world.store.write(partial(add_user, username="boss", email="boss@test", role="admin", actor=ADMIN))
    return principal_of(boss, token=api_token(world, boss.id, **fields))


def project(world: World) -> str:
    def put(uow: UnitOfWork) -> str:
        project_id = uow.new_id("proj")
        uow.projects.put(Project(project_id, project_id, None, None, uow.now, uow.now))
        return project_id

    return world.store.write(put)


def key(world: World, **fields: Any) -> str:  # noqa: ANN401 - as the use case takes them
    content = {"provider": "openai", "api_key": API_KEY, "actor": ADMIN, "vault": world.vault, **fields}
    return world.store.write(partial(add_provider_key, **content)).id


def put_agent(world: World, agent_id: str, **columns: Any) -> None:  # noqa: ANN401 - columns
    world.store.write(lambda uow: uow.agents.put(stored(uow, agent_id)._replace(**columns)))


def stored(uow: UnitOfWork, agent_id: str) -> Agent:
    found = uow.agents.find(agent_id)
    assert found is not None
    return found


def agent_of(world: World, agent_id: str) -> Agent:
    return world.store.read(lambda uow: stored(uow, agent_id))


def audit(world: World, operation: str) -> list[AuditRow]:
    page = world.store.read(lambda uow: uow.audit.page(AuditFilter(operation=operation), Paging()))
    return list(page.rows)


def states(world: World, agent_id: str) -> list[tuple[str | None, object]]:
    """Return the published changes of an agent's runtime state, with what they came from."""
    events = world.store.read(lambda uow: uow.feed.after(0, 1000))
    mine = [event for event in events if event.agent_id == agent_id and event.type == "STATE_UPDATE"]
    return [(event.name, event.data["previous_state"]) for event in mine]


def new(world: World, **fields: Any) -> Agent:  # noqa: ANN401 - as the use case takes them
    content = {"name": "a", "budget": USD, "owner_id": world.owner_id, "actor": ADMIN, "signer": world.signer}
    return world.store.write(partial(create_agent, **{**content, **fields})).agent


def update(world: World, agent_id: str, principal: Principal = THE_ADMIN, **fields: Any) -> Agent:  # noqa: ANN401
    return world.store.write(lambda uow: update_agent(uow, agent_id, fields, principal=principal))  # type: ignore[arg-type]


def stop(world: World, agent_id: str, reason: str | None = None) -> tuple[int, Agent]:
    stopped = world.store.write(partial(stop_agent, agent_id=agent_id, reason=reason, principal=owner(world)))
    return stopped.leases_revoked, stopped.agent


def start(world: World, agent_id: str) -> Agent:
    return world.store.write(partial(start_agent, agent_id=agent_id, principal=owner(world)))


def bad_fields(use: Callable[[], object]) -> dict[str, str]:
    with pytest.raises(ValidationError) as refusal:
        use()
    return refusal.value.fields


def test_a_new_agent_says_what_it_is(world: World) -> None:
    """Blanks around texts go, tags are there once, and the project is the one that was asked for."""
    place = project(world)

    agent = new(world, description=" does it ", tags=[" a", "b", "a "], project_id=place)

    assert (agent.description, json.loads(agent.tags), agent.project_id) == ("does it", ["a", "b"], place)
    plain = new(world, description=" ")
    assert (plain.description, plain.tags, plain.project_id) == (None, "[]", MASTER_PROJECT)


def test_every_bad_field_of_a_new_agent_is_named(world: World) -> None:
    """At once, a tag by its place."""
    tags = ["a", "", "x" * 51, 7, "orphaned", "original-owner:me", "a\n\0b"]

    problems = bad_fields(
        lambda: new(world, name="", description="x" * 501, tags=tags, project_id="proj_\ud800", budget=0, owner_id="me")
    )

    assert set(problems) == {
        "name", "description", "project_id", "budget", "owner_id", *(f"tags[{place}]" for place in range(1, 7)),
    }  # fmt: skip
    assert list(bad_fields(lambda: new(world, tags=[f"{n}" for n in range(21)]))) == ["tags"]
    assert len(json.loads(new(world, tags=[f"{n % 20}" for n in range(40)]).tags)) == 20


def test_a_project_bound_token_makes_agents_in_its_project(world: World) -> None:
    """It is also where they go when nothing is said."""
    place = project(world)
    bound = with_token(world, project_id=place)

    assert (project_for(bound, None), project_for(bound, place)) == (place, place)
    with pytest.raises(ForbiddenError):
        project_for(bound, MASTER_PROJECT)
    assert project_for(THE_ADMIN, None) == MASTER_PROJECT


def test_an_owner_changes_what_an_agent_is_called(world: World) -> None:
    """What is not given stays; the audit log has before and after of what changed."""
    agent = new(world, description="old", tags=["x"])
    world.clock.pass_s(1)

    changed = update(world, agent.id, owner(world), name=" b ", tags=["y", "x"])

    assert (changed.name, json.loads(changed.tags), changed.description) == ("b", ["y", "x"], "old")
    assert (changed.updated_at, changed.created_at) == (NOON + 1000, NOON)
    assert agent_of(world, agent.id) == changed
    [row] = audit(world, "AGENT_UPDATED")
    assert json.loads(row.changes or "") == {
        "before": {"name": "a", "tags": ["x"]},
        "after": {"name": "b", "tags": ["y", "x"]},
    }
    assert update(world, agent.id, owner(world), description=None).description is None


def test_what_changes_nothing_is_no_change(world: World) -> None:
    """Nothing is written of it."""
    agent = new(world, tags=["x"])
    world.clock.pass_s(1)

    assert update(world, agent.id, name="a", tags=["x"], status="active", providers=[]) == agent
    assert audit(world, "AGENT_UPDATED") == []
    with pytest.raises(NoFieldsError):
        update(world, agent.id)


@pytest.mark.parametrize("field", ["owner_id", "project_id", "providers", "provider_key_id", "status"])
def test_an_owner_who_sends_an_admin_s_field_changes_nothing(world: World, field: str) -> None:
    """Not even what the owner may change, and whatever the value is."""
    agent = new(world)

    for value in (None, "x"):
        with pytest.raises(ForbiddenError):
            update(world, agent.id, owner(world), name="b", **{field: value})

    assert agent_of(world, agent.id) == agent


def test_an_admin_s_fields_need_an_admin_s_scope(world: World) -> None:
    """A token that may write agents may name them, not give them away."""
    agent = new(world)
    narrow = with_token(world, scopes="agents:write")

    assert update(world, agent.id, narrow, name="b").name == "b"
    with pytest.raises(InsufficientScopeError):
        update(world, agent.id, narrow, status="inactive")


def test_a_project_bound_token_moves_no_agent_away(world: World) -> None:
    """What leaves its project would leave its reach."""
    place = project(world)
    agent = new(world, project_id=place)
    bound = with_token(world, project_id=place)

    assert update(world, agent.id, bound, project_id=place, name="b").name == "b"
    with pytest.raises(ForbiddenError):
        update(world, agent.id, bound, project_id=MASTER_PROJECT)
    with pytest.raises(ForbiddenError):
        update(world, new(world).id, bound, name="b")


def test_every_bad_change_is_named(world: World) -> None:
    """The budget has a way of its own."""
    agent = new(world)
    gone = world.store.write(partial(add_user, username="bob", email="bob@test", role="user", actor=ADMIN))
    world.store.write(lambda uow: uow.users.put(gone._replace(status="deleted")))

    problems = bad_fields(
        lambda: update(
            world, agent.id, name="", description="\0", tags=["", "orphaned"], owner_id=gone.id, project_id="proj_x",
            status="stopped", budget=5, providers=["openai"], provider_key_id=None,
        )
    )  # fmt: skip

    assert set(problems) == {
        "name", "description", "tags[0]", "tags[1]", "owner_id", "project_id", "status", "budget", "provider_key_id",
    }  # fmt: skip
    assert "PUT /limits/agents" in problems["budget"]
    with pytest.raises(InvalidProviderIdError):
        update(world, agent.id, providers=["openai"])
    with pytest.raises(ProviderNotFoundError):
        update(world, agent.id, provider_key_id="prov_" + "0" * 32)
    assert agent_of(world, agent.id) == agent


def test_what_the_server_has_tagged_outlives_an_owner_s_tags(world: World) -> None:
    """It may be sent back, not made up, and does not count; an admin's list decides."""
    agent = new(world, tags=["x"])
    put_agent(world, agent.id, tags=json.dumps(["x", *SYSTEM_TAGS]))
    twenty = [f"{n}" for n in range(20)]

    assert json.loads(update(world, agent.id, owner(world), tags=twenty).tags) == [*twenty, *SYSTEM_TAGS]
    assert json.loads(update(world, agent.id, owner(world), tags=["orphaned", "y"]).tags) == [
        "orphaned", "y", SYSTEM_TAGS[1],
    ]  # fmt: skip
    assert list(bad_fields(lambda: update(world, agent.id, tags=["original-owner:someone"]))) == ["tags[0]"]
    assert json.loads(update(world, agent.id, tags=["y", SYSTEM_TAGS[1]]).tags) == ["y", SYSTEM_TAGS[1]]


def test_a_new_owner_gets_the_agent_and_not_the_spending(world: World) -> None:
    """An open lease runs on in the bank of who owned the agent when it was granted."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease
    bob = world.store.write(partial(add_user, username="bob", email="bob@test", role="user", actor=ADMIN))
    place = project(world)

    changed = update(world, agent.id, owner_id=bob.id, project_id=place)

    assert (changed.owner_id, changed.project_id) == (bob.id, place)
    agent.report(lease.id, "r1", USD)
    assert agent.lease(lease.id).bank_user_id == world.owner_id
    with pytest.raises(ForbiddenError):
        update(world, agent.id, owner(world), name="mine")
    assert world.verify().holds


def test_an_inactive_agent_gets_nothing_until_it_is_active_again(world: World) -> None:
    """Its leases are revoked, its runtime counts as stopped, without a hold; its token is the same afterwards."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease

    inactive = update(world, agent.id, status="inactive")

    assert (inactive.status, inactive.runtime_status, inactive.stop_hold) == ("inactive", "stopped", 0)
    assert (agent.lease(lease.id).status, agent.lease(lease.id).status_reason) == ("revoked", "agent_stopped")
    assert agent.balance().held == 0
    with pytest.raises(AgentInactiveError) as refusal:
        agent.handshake(USD)
    assert refusal.value.details["reason"] == "inactive"
    assert states(world, agent.id)[-1] == ("stopped", "running")
    [row] = audit(world, "AGENT_UPDATED")
    assert json.loads(row.changes or "")["after"] == {"status": "inactive", "runtime_status": "stopped"}
    update(world, agent.id, status="active")
    agent.handshake(USD)
    assert agent_of(world, agent.id).runtime_status == "running"
    assert world.verify().holds


def test_an_operator_s_stop_outlives_a_change_of_status(world: World) -> None:
    """Only a start lifts it."""
    agent = world.agent()
    stop(world, agent.id)

    update(world, agent.id, status="inactive")
    update(world, agent.id, status="active")

    with pytest.raises(AgentInactiveError) as refusal:
        agent.handshake(USD)
    assert refusal.value.details["reason"] == "stopped"


def test_a_stop_takes_the_money_back_and_holds(world: World) -> None:
    """Asking again answers as the first time and writes nothing."""
    agent = world.agent(100 * USD)
    first, second = agent.handshake(10 * USD).lease, agent.handshake(5 * USD).lease
    world.clock.pass_s(1)

    revoked, stopped = stop(world, agent.id, " runs wild ")
    world.clock.pass_s(1)
    again, same = stop(world, agent.id)

    assert (revoked, again) == (2, 0)
    assert (stopped.runtime_status, stopped.stop_hold, stopped.stopped_at) == ("stopped", 1, NOON + 1000)
    assert stopped.state_changed_at == NOON + 1000
    assert same == stopped
    assert {agent.lease(lease.id).status_reason for lease in (first, second)} == {"agent_stopped"}
    assert agent.balance().held == 0
    for attempt in (partial(agent.handshake, USD), partial(agent.refresh, first.id)):
        with pytest.raises((AgentInactiveError, LeaseRevokedError)):
            attempt()
    [row] = audit(world, "AGENT_STOPPED")
    assert (row.reason, json.loads(row.metadata)) == ("runs wild", {"leases_revoked": 2})
    assert states(world, agent.id)[-1] == ("stopped", "running")
    agent.report(first.id, "late", USD)
    assert world.verify().holds


def test_a_stop_holds_what_had_stopped_by_itself(world: World) -> None:
    """The state does not change, and nothing is published; the hold is new."""
    agent = world.agent()
    agent.return_lease(agent.handshake(USD).lease.id)
    before = states(world, agent.id)

    _, stopped = stop(world, agent.id)

    assert (stopped.runtime_status, stopped.stop_hold) == ("stopped", 1)
    assert states(world, agent.id) == before
    assert len(audit(world, "AGENT_STOPPED")) == 1


def test_a_failed_agent_stays_failed_until_it_is_started(world: World) -> None:
    """A stop ends its leases and is remembered by its time; a start clears the reason."""
    agent = world.agent()
    agent.handshake(USD)
    put_agent(world, agent.id, runtime_status="failed", failure_reason="out of memory")

    revoked, stopped = stop(world, agent.id)
    world.clock.pass_s(1)
    again, same = stop(world, agent.id)

    assert (revoked, again) == (1, 0)
    assert (stopped.runtime_status, stopped.stop_hold, stopped.stopped_at) == ("failed", 0, NOON)
    assert same == stopped
    started = start(world, agent.id)
    assert (started.runtime_status, started.failure_reason, started.stopped_at) == ("idle", None, None)
    assert states(world, agent.id)[-1] == ("idle", "failed")


def test_a_start_permits_the_next_handshake(world: World) -> None:
    """It starts nothing; of an agent that is idle or running it changes nothing."""
    agent = world.agent()
    assert start(world, agent.id) == agent_of(world, agent.id)
    stop(world, agent.id)
    world.clock.pass_s(1)

    started = start(world, agent.id)

    assert (started.runtime_status, started.stop_hold, started.stopped_at) == ("idle", 0, None)
    assert started.state_changed_at == NOON + 1000
    agent.handshake(USD)
    assert start(world, agent.id).runtime_status == "running"
    assert len(audit(world, "AGENT_STARTED")) == 1
    world.clock.pass_s(1)
    assert stop(world, agent.id)[1].stopped_at == NOON + 2000


@pytest.mark.parametrize(
    ("event", "moves"),
    [
        ("handshake", {"idle": "running", "completed": "running", "stopped": "running"}),
        ("last_lease_returned", {"running": "stopped"}),
        ("stop", {"idle": "stopped", "running": "stopped", "completed": "stopped"}),
        ("start", {"completed": "idle", "stopped": "idle", "failed": "idle"}),
        ("inactivation", {"idle": "stopped", "running": "stopped", "completed": "stopped"}),
        ("deletion", {"running": "stopped"}),
    ],
)
def test_each_event_moves_the_states_it_names(world: World, event: RuntimeEvent, moves: dict[str, str]) -> None:
    """Every other state stays, and only a change is published."""
    agent = world.agent()

    for state in ("idle", "running", "completed", "stopped", "failed"):
        put_agent(world, agent.id, runtime_status=state)
        published = len(states(world, agent.id))
        world.store.write(lambda uow: note_runtime_event(uow, stored(uow, agent.id), event))

        assert agent_of(world, agent.id).runtime_status == moves.get(state, state)
        assert len(states(world, agent.id)) - published == (state in moves)
    assert {(state, event) for state in moves} <= set(RUNTIME_TRANSITIONS)


def test_a_bad_reason_stops_nothing(world: World) -> None:
    """The agent runs on."""
    agent = world.agent()

    assert bad_fields(lambda: stop(world, agent.id, "x" * 501)) == {"reason": "must have at most 500 characters"}
    assert list(bad_fields(lambda: stop(world, agent.id, "a\x1bb"))) == ["reason"]
    assert agent_of(world, agent.id).stop_hold == 0


def deleted(world: World) -> TestAgent:
    agent = world.agent(100 * USD)
    agent.handshake(10 * USD)
    api_token(world, agent_id=agent.id)
    world.store.write(partial(delete_agent, agent_id=agent.id, principal=THE_ADMIN))
    return agent


def test_a_deleted_agent_leaves_nothing_that_opens_anything(world: World) -> None:
    """Its token, those bound to it, its leases and its keys go in one; it is in no list."""
    other = api_token(world)
    agent = deleted(world)

    def left(uow: UnitOfWork) -> tuple[object, ...]:
        tokens = uow.api_tokens.unended_of(world.owner_id)
        return tokens, uow.leases.open_of(agent.id), uow.provider_keys.ids_of([agent.id])

    assert world.store.read(left) == ([other], [], {})
    with pytest.raises(RefusalError):
        agent.handshake(USD)
    page = world.store.read(partial(list_agents, which=BalanceFilter(), paging=Paging(), principal=THE_ADMIN))
    assert page.total == 0
    for use in (delete_agent, stop_agent, start_agent, agent_keys):
        with pytest.raises(AgentNotFoundError):
            world.store.write(partial(use, agent_id=agent.id, principal=THE_ADMIN))
    assert world.verify().holds


def test_what_a_deleted_agent_did_stays(world: World) -> None:
    """Its ledger and its lease with the reason of the end; the feed says that it stopped, the log who did it."""
    agent = deleted(world)

    ended = agent.lease(agent.entries()[-1].lease_id or "")

    assert (ended.status, ended.status_reason) == ("revoked", "agent_deleted")
    assert [kind for kind, _ in agent.kinds()][-1] == "reclaim"
    assert agent_of(world, agent.id).deleted_at == NOON
    assert states(world, agent.id)[-1] == ("stopped", "running")
    [row] = audit(world, "AGENT_DELETED")
    told = json.loads(row.metadata)
    assert (told["leases_revoked"], told["api_tokens_revoked"], row.actor_id) == (1, 1, ADMIN.id)
    assert [row.reason for row in audit(world, "API_TOKEN_REVOKED")] == ["agent deleted"]
    assert len(audit(world, "IC_TOKEN_REVOKED")) == 1


def test_an_idle_agent_is_deleted_without_a_word_of_stopping(world: World) -> None:
    """It did not run."""
    agent = new(world)

    world.store.write(partial(delete_agent, agent_id=agent.id, principal=THE_ADMIN))

    assert states(world, agent.id) == [("idle", None)]


def assign(world: World, agent_id: str, keys: list[str], principal: Principal = THE_ADMIN) -> list[str]:
    use = partial(assign_agent_keys, agent_id=agent_id, key_ids=keys, principal=principal)
    return [each.id for each in world.store.write(use).keys]


def test_an_admin_gives_any_enabled_key(world: World) -> None:
    """In the order that is asked for, each once; one that is disabled may stay and not come."""
    agent = new(world)
    second, off = key(world, provider="anthropic"), key(world, is_enabled=False)
    world.clock.pass_s(1)

    assert assign(world, agent.id, [second, world.key_id, second]) == [second, world.key_id]
    assert agent_of(world, agent.id).updated_at == NOON + 1000
    for unknown in (off, "prov_" + "0" * 32):
        with pytest.raises(ProviderNotFoundError):
            assign(world, agent.id, [unknown])
    with pytest.raises(InvalidProviderIdError):
        assign(world, agent.id, ["openai"])
    [row] = audit(world, "PROVIDERS_ASSIGNED")
    assert json.loads(row.changes or "") == {
        "before": {"providers": []},
        "after": {"providers": [second, world.key_id]},
    }
    world.store.write(lambda uow: uow.provider_keys.put(find_key(uow, second)._replace(is_enabled=0)))
    assert assign(world, agent.id, [world.key_id, second]) == [world.key_id, second]


def find_key(uow: UnitOfWork, key_id: str) -> Any:  # noqa: ANN401 - a key that is there
    return uow.provider_keys.find(key_id)


def test_an_owner_adds_the_project_s_keys_only(world: World) -> None:
    """What the agent has may be reordered and taken whatever the project has."""
    place = project(world)
    of_project, foreign, had = key(world), key(world), key(world)
    world.store.write(lambda uow: uow.projects.assign(ProjectKey(place, "openai", of_project, NOON)))
    agent = new(world, project_id=place, provider_key_ids=[had])

    assert assign(world, agent.id, [of_project, had], owner(world)) == [of_project, had]
    with pytest.raises(ForbiddenError):
        assign(world, agent.id, [of_project, had, foreign], owner(world))
    assert assign(world, agent.id, [had, of_project], owner(world)) == [had, of_project]
    assert assign(world, agent.id, [], owner(world)) == []
    with pytest.raises(ForbiddenError):
        assign(world, agent.id, [had], owner(world))


@pytest.mark.parametrize("way", ["assign", "unassign", "update"])
def test_a_key_that_goes_takes_its_leases_along(world: World, way: str) -> None:
    """Those on the other keys run on."""
    agent, second = world.agent(100 * USD), key(world, provider="anthropic")
    assign(world, agent.id, [world.key_id, second])
    lost, kept = agent.handshake(USD).lease, agent.handshake(USD, provider="anthropic").lease

    if way == "assign":
        assign(world, agent.id, [second], owner(world))
    elif way == "update":
        update(world, agent.id, provider_key_id=second)
    else:
        use = partial(unassign_agent_key, agent_id=agent.id, key_id=world.key_id, principal=owner(world))
        assert [each.id for each in world.store.write(use).keys] == [second]

    assert (agent.lease(lost.id).status, agent.lease(lost.id).status_reason) == ("revoked", "provider_key_removed")
    assert agent.lease(kept.id).status == "active"
    assert world.verify().holds


def test_a_key_is_taken_once(world: World) -> None:
    """One that is unknown and one that the agent does not have are told apart."""
    agent, other = world.agent(), key(world)

    for key_id, refusal in ((other, ProviderNotAssignedError), ("openai", ProviderNotFoundError)):
        with pytest.raises(refusal):
            world.store.write(partial(unassign_agent_key, agent_id=agent.id, key_id=key_id, principal=owner(world)))


def test_keys_in_an_update_are_ordered_and_cleared(world: World) -> None:
    """The primary one goes first; null takes all."""
    agent, second = new(world), key(world)

    def keys() -> list[str]:
        use = partial(agent_keys, agent_id=agent.id, principal=owner(world))
        return [each.id for each in world.store.read(use).keys]

    update(world, agent.id, providers=[second, world.key_id], provider_key_id=world.key_id)
    assert keys() == [world.key_id, second]
    update(world, agent.id, provider_key_id=None)
    assert keys() == []


def test_an_agent_s_api_tokens_are_listed_with_the_ended_ones(world: World) -> None:
    """Newest first; nobody else's, and none of other agents."""
    agent = world.agent()
    old = api_token(world, agent_id=agent.id, revoked_at=NOON, revoked_by=ADMIN.id)
    world.clock.pass_s(1)
    young = api_token(world, agent_id=agent.id)
    api_token(world)

    page = world.store.read(partial(agent_tokens, agent_id=agent.id, paging=Paging(), principal=owner(world)))

    assert ([token.id for token in page.rows], page.total) == ([young.id, old.id], 2)
    stranger = replace(owner(world), user_id="user_" + "0" * 32)
    with pytest.raises(ForbiddenError):
        world.store.read(partial(agent_tokens, agent_id=agent.id, paging=Paging(), principal=stranger))


def test_the_well_known_projects_take_agents(world: World) -> None:
    """They exist as all others do."""
    assert new(world, project_id=ORPHANED_PROJECT).project_id == ORPHANED_PROJECT
