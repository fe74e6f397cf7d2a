"""Agents, provider keys and IC tokens as their owners and admins see and change them."""

from dataclasses import replace
from functools import partial

import pytest

from ironcage_core.domain.access import Principal
from ironcage_core.domain.ic_tokens import KNOWN_PERMISSIONS
from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.errors.access import InvalidTokenError
from ironcage_core.errors.resources import AgentNotFoundError, ProviderExistsError, ProviderNotFoundError
from ironcage_core.errors.tree import ForbiddenError, ValidationError
from ironcage_core.ports.lists import BalanceFilter, KeyFilter, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agent_lists import agent_overview, list_agents
from ironcage_core.services.ic_token_changes import ReplacedIcToken, replace_ic_token
from ironcage_core.services.ic_tokens import issue_ic_token
from ironcage_core.services.provider_keys import add_provider_key, list_provider_keys, provider_key_overview
from tests.support.world import ADMIN, API_KEY, NOON, THE_ADMIN, USD, TestAgent, World


def owner(world: World) -> Principal:
    return replace(THE_ADMIN, user_id=world.owner_id, role="user", reach="own")


def names_seen(world: World, principal: Principal, which: BalanceFilter) -> list[str]:
    page = world.store.read(
        lambda uow: list_agents(uow, which, Paging(), "name", descending=False, principal=principal)
    )
    assert page.total == len(page.rows)
    return [seen.agent.name for seen in page.rows]


def test_a_list_holds_one_s_own_and_an_admin_s_everything(world: World) -> None:
    """Another owner's agents are not there, even when they are asked for."""
    bob = world.store.write(partial(add_user, username="bob", email="bob@test", role="user", actor=ADMIN))
    world.agent(name="a")
    world.agent(name="b", owner_id=bob.id)

    assert names_seen(world, THE_ADMIN, BalanceFilter()) == ["a", "b"]
    assert names_seen(world, THE_ADMIN, BalanceFilter(owner_id=bob.id)) == ["b"]
    assert names_seen(world, owner(world), BalanceFilter()) == ["a"]
    assert names_seen(world, owner(world), BalanceFilter(owner_id=world.owner_id)) == ["a"]
    assert names_seen(world, owner(world), BalanceFilter(owner_id=bob.id)) == []


def test_an_agent_is_seen_as_of_now(world: World) -> None:
    """A lease whose time is over holds no money any more, in the list as in the single view."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease
    assert world.store.read(partial(agent_overview, agent_id=agent.id, principal=owner(world))).balance.held == 10 * USD
    world.clock.instant = lease.lives_until + 1

    page = world.store.read(partial(list_agents, which=BalanceFilter(), paging=Paging(), principal=THE_ADMIN))
    seen = world.store.read(partial(agent_overview, agent_id=agent.id, principal=THE_ADMIN))

    assert page.rows == [seen]
    assert seen.balance.held == 0
    assert list(seen.provider_key_ids) == [world.key_id]
    assert seen.ic_token is not None


def test_another_s_agent_is_forbidden_and_an_unknown_one_unknown(world: World) -> None:
    """To its owner it is neither."""
    agent = world.agent()
    stranger = replace(owner(world), user_id="user_" + "0" * 32)

    with pytest.raises(ForbiddenError):
        world.store.read(partial(agent_overview, agent_id=agent.id, principal=stranger))
    for unknown in ("agent_" + "0" * 32, "abc"):
        with pytest.raises(AgentNotFoundError):
            world.store.read(partial(agent_overview, agent_id=unknown, principal=stranger))


def add_key(world: World, **fields: object) -> str:
    content = {"provider": "openai", "api_key": API_KEY, "actor": ADMIN, "vault": world.vault, **fields}
    return world.store.write(partial(add_provider_key, **content)).id  # type: ignore[arg-type]  # as the test says


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "a-", "a--b", "a_b", "\u00e9", "a\n", "a" * 51])
def test_a_key_s_name_is_a_slug(world: World, name: str) -> None:
    """1 to 50 lower-case letters and digits, joined by single hyphens."""
    with pytest.raises(ValidationError) as refusal:
        add_key(world, name=name)
    assert list(refusal.value.fields) == ["name"]


def test_every_bad_field_of_a_key_is_named(world: World) -> None:
    """At once, without the key."""
    with pytest.raises(ValidationError) as refusal:
        add_key(world, provider="acme", api_key="two words", name="A", base_url="ftp://x")
    assert set(refusal.value.fields) == {"provider", "api_key", "name", "base_url"}
    assert "two words" not in str(refusal.value)


def test_a_key_s_name_is_taken_once(world: World) -> None:
    """A second key of the provider is one more; a second one of the name is a conflict."""
    key_id = add_key(world, name="main", is_enabled=False)
    with pytest.raises(ProviderExistsError):
        add_key(world, name="main", provider="anthropic")
    add_key(world, name="main-2")
    world.agent()

    page = world.store.read(partial(list_provider_keys, which=KeyFilter(), paging=Paging(), principal=THE_ADMIN))
    seen = world.store.read(partial(provider_key_overview, key_id=key_id, principal=THE_ADMIN))

    assert {each.key.id: each.agents for each in page.rows}[world.key_id] == 1
    assert page.total == 3
    assert (seen.key.name, seen.key.is_enabled, seen.agents) == ("main", 0, 0)
    for unknown in ("prov_" + "0" * 32, "openai"):
        with pytest.raises(ProviderNotFoundError):
            world.store.read(partial(provider_key_overview, key_id=unknown, principal=THE_ADMIN))


def replaced(world: World, agent: TestAgent, **wish: object) -> ReplacedIcToken:
    content = {"agent_id": agent.id, "actor": ADMIN, "signer": world.signer, **wish}
    return world.store.write(partial(replace_ic_token, **content))  # type: ignore[arg-type]  # as the test says


def test_a_new_value_ends_leases_only_on_demand(world: World) -> None:
    """What they held goes back to the budget, and the reason is told."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(10 * USD).lease
    kept = replaced(world, agent, overlap_s=60)
    assert (kept.is_old_dead, kept.leases_revoked, agent.lease(lease.id).status) == (False, 0, "active")

    ended = replaced(world, agent, revokes_leases=True)

    assert (ended.is_old_dead, ended.leases_revoked) == (True, 1)
    assert ended.issued.record.id == kept.issued.record.id
    assert (agent.lease(lease.id).status, agent.lease(lease.id).status_reason) == ("revoked", "ic_token_regenerated")
    assert agent.balance().held == 0
    assert world.verify().holds


def test_without_a_token_one_is_issued(world: World) -> None:
    """No old value was there to die."""
    agent = world.agent()

    def revoke(uow: UnitOfWork) -> None:
        record = uow.ic_tokens.find_active_of(agent.id)
        assert record is not None
        uow.ic_tokens.put(record._replace(status="revoked", revoked_at=uow.now))

    world.store.write(revoke)
    assert replaced(world, agent).is_old_dead is False
    with pytest.raises(InvalidTokenError):
        agent.handshake(USD)
    world.store.write(revoke)

    issue = partial(issue_ic_token, agent_id=agent.id, actor=ADMIN, signer=world.signer)
    with pytest.raises(ValidationError) as refusal:
        world.store.write(partial(issue, expires_at=NOON, description="\0", permissions=["root"]))
    assert set(refusal.value.fields) == {"expires_at", "description", "permissions"}
    twice = (*KNOWN_PERMISSIONS, "llm:call")
    issued = world.store.write(partial(issue, expires_at=NOON + 1500, description="night shift", permissions=twice))
    assert issued.record.permissions == " ".join(KNOWN_PERMISSIONS)
    assert issued.record.expires_at == NOON + MS_PER_S
    assert replaced(world, agent, expires_at=NOON + 9000).issued.record.expires_at == NOON + 9000
    assert replaced(world, agent).issued.record.expires_at == NOON + 9000
