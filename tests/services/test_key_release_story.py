"""Keys in the clear: which one a token or an agent gets, what bars it, and what is remembered of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from ironcage_core.domain.access import Principal
from ironcage_core.domain.api_tokens import ApiToken
from ironcage_core.domain.audit import AuditRow
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.ids import MASTER_PROJECT
from ironcage_core.domain.projects import Project, ProjectKey
from ironcage_core.errors.access import InsufficientScopeError, WrongTokenTypeError
from ironcage_core.errors.faults import CryptoUnavailableError, SecretUnreadableError
from ironcage_core.errors.money import BudgetExceededError
from ironcage_core.errors.resources import (
    AgentInactiveError,
    NoProviderAssignedError,
    NoProviderKeyError,
    OwnerSuspendedError,
    ProviderKeyDisabledError,
    TokenNotInProjectError,
)
from ironcage_core.errors.tree import IroncageError, ValidationError
from ironcage_core.ports.secrecy import Vault
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.key_release import ReleasedKey, key_of_agent, release_to_agent, release_to_token
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey, NoVault
from tests.support.rows import api_row
from tests.support.world import ADMIN, USD, TestAgent, World

OTHER = "proj_" + "1" * 32


@dataclass
class Safe:
    """A world whose user has a token of the master project; the key `n` has the secret `sk-secret-n`."""

    world: World
    secrets: int = 0

    def __post_init__(self) -> None:
        self.world.store.write(lambda uow: uow.projects.put(Project(OTHER, "Other", None, None, 0, 0)))
        self.token = self.new_token(project_id=MASTER_PROJECT)

    def new_token(self, **fields: object) -> ApiToken:
        token = api_row(self.world.owner_id, **fields)
        self.world.store.write(lambda uow: uow.api_tokens.put(token))
        return token

    def key(self, provider: str = "openai", **fields: Any) -> str:  # noqa: ANN401 - as the test says
        self.secrets += 1
        secret = f"sk-secret-{self.secrets}"
        adding = partial(add_provider_key, provider=provider, api_key=secret, actor=ADMIN, vault=self.world.vault)
        return self.world.store.write(partial(adding, **fields)).id

    def assign(self, key_id: str, project_id: str = MASTER_PROJECT) -> str:
        """Give a project a key, a second after whatever was done before."""
        self.world.clock.pass_s(1)

        def assigning(uow: UnitOfWork) -> None:
            key = uow.provider_keys.find(key_id)
            assert key is not None
            uow.projects.assign(ProjectKey(project_id, key.provider, key_id, uow.now))

        self.world.store.write(assigning)
        return key_id

    def disable(self, key_id: str) -> None:
        self.change_key(key_id, is_enabled=0)

    def change_key(self, key_id: str, **fields: Any) -> None:  # noqa: ANN401 - as the test says
        self.world.store.write(lambda uow: uow.provider_keys.put(found(uow.provider_keys.find(key_id), **fields)))

    def to_token(
        self, token: ApiToken | None = None, provider: str | None = None, vault: Vault | None = None
    ) -> ReleasedKey:
        principal = Principal(
            self.world.owner_id, "ann", "ann@test", "ann", "user", None,
            must_change_password=False, reach="own", token=token or self.token,
        )  # fmt: skip
        return self.world.store.write(
            lambda uow: release_to_token(uow, principal, provider=provider, vault=vault or self.world.vault)
        )

    def to_agent(
        self,
        agent: TestAgent,
        provider: str | None = None,
        vault: Vault | None = None,
        permissions: tuple[str, ...] | None = None,
    ) -> ReleasedKey:
        presented = self.world.signer.prove(agent.token, now=self.world.clock.now())

        def releasing(uow: UnitOfWork) -> ReleasedKey:
            identity: AgentIdentity = authenticate(uow, presented)
            if permissions is not None:
                identity = replace(identity, permissions=permissions)
            key = key_of_agent(uow, identity, provider=provider)
            return release_to_agent(uow, identity, key, vault=vault or self.world.vault)

        return self.world.store.write(releasing)

    def agent(self, *key_ids: str, budget: int = 100 * USD) -> TestAgent:
        agent = self.world.agent(budget)
        self.world.store.write(lambda uow: uow.provider_keys.assign(agent.id, key_ids))
        return agent

    def releases(self) -> list[AuditRow]:
        rows = self.world.store.read(lambda uow: list(uow.audit.rows()))
        return [row for row in rows if row.operation == "CREDENTIAL_ACCESSED"]


def found(row: Any, **fields: Any) -> Any:  # noqa: ANN401 - any row
    return row._replace(**fields)


@pytest.fixture
def safe(world: World) -> Safe:
    return Safe(world)


def refusal(act: Callable[[], object], safe: Safe) -> IroncageError:
    """Return what an act is refused with; nothing may be released or remembered."""
    before = safe.releases()
    with pytest.raises(IroncageError) as caught:
        act()
    assert safe.releases() == before
    return caught.value


# --- to tokens ---------------------------------------------------------------


def test_a_token_gets_the_key_that_its_project_was_given_last(safe: Safe) -> None:
    """Whatever its provider, unless one is asked for or the token is for one."""
    safe.assign(safe.key("openai"))
    safe.assign(safe.key("anthropic", base_url="https://proxy.test/v1"))
    for_openai = safe.new_token(project_id=MASTER_PROJECT, provider="openai")

    assert safe.to_token() == ReleasedKey("anthropic", "https://proxy.test/v1", "sk-secret-2")
    assert safe.to_token(provider="openai") == ReleasedKey("openai", None, "sk-secret-1")
    assert safe.to_token(for_openai).api_key == "sk-secret-1"
    assert safe.to_token(for_openai, provider="anthropic").api_key == "sk-secret-2"
    safe.assign(safe.key("openai"))
    assert safe.to_token().api_key == "sk-secret-3"


def test_a_project_never_gives_another_projects_key(safe: Safe) -> None:
    """Nor one that is assigned nowhere, nor one that was taken away."""
    safe.assign(safe.key("openai"), OTHER)
    safe.key("openai")

    assert isinstance(refusal(safe.to_token, safe), NoProviderKeyError)
    assert safe.to_token(safe.new_token(project_id=OTHER)).api_key == "sk-secret-1"
    safe.world.store.write(lambda uow: uow.projects.unassign(OTHER, "openai"))
    assert isinstance(refusal(lambda: safe.to_token(safe.new_token(project_id=OTHER)), safe), NoProviderKeyError)


def test_a_token_without_a_project_or_a_key_of_its_kind_gets_none(safe: Safe) -> None:
    """Each told apart; a provider nobody knows is a mistake of the caller's."""
    safe.assign(safe.key("openai"))
    acme = safe.new_token(project_id=MASTER_PROJECT, provider="acme")

    assert isinstance(refusal(lambda: safe.to_token(safe.new_token()), safe), TokenNotInProjectError)
    assert isinstance(refusal(lambda: safe.to_token(acme), safe), NoProviderKeyError)
    assert isinstance(refusal(lambda: safe.to_token(provider="anthropic"), safe), NoProviderKeyError)
    assert isinstance(refusal(lambda: safe.to_token(provider="acme"), safe), ValidationError)


def test_a_session_gets_no_key(world: World) -> None:
    """Even one that got as far as this."""
    ann = Principal(world.owner_id, "ann", "ann@test", "ann", "user", "sess", must_change_password=False, reach="own")

    with pytest.raises(WrongTokenTypeError):
        world.store.write(lambda uow: release_to_token(uow, ann, vault=world.vault))


def test_a_disabled_key_bars_its_project(safe: Safe) -> None:
    """No other key is given in its place, and it is told before money is."""
    safe.assign(safe.key("openai"))
    safe.disable(safe.assign(safe.key("anthropic")))
    spent_up(safe)

    assert isinstance(refusal(safe.to_token, safe), ProviderKeyDisabledError)


def spent_up(safe: Safe) -> None:
    """Let the user's agents spend all that the month allows."""
    agent = safe.world.agent(10 * USD)
    agent.report(agent.handshake(USD).lease.id, "one", USD)
    agent.handshake(USD)
    safe.world.cap(2 * USD)


def test_a_user_whose_month_is_spent_gets_no_key(safe: Safe) -> None:
    """What is lent to the user's agents counts; with a micro-USD left the key is released."""
    safe.assign(safe.key())
    spent_up(safe)

    error = refusal(safe.to_token, safe)

    assert isinstance(error, BudgetExceededError)
    told = {name: error.details[name] for name in ("scope", "spent", "held", "limit", "remaining")}
    assert told == {"scope": "user_month", "spent": USD, "held": USD, "limit": 2 * USD, "remaining": 0}
    safe.world.cap(2 * USD + 1)
    assert safe.to_token().api_key == "sk-secret-1"


def test_a_key_that_cannot_be_opened_is_not_released(safe: Safe) -> None:
    """Without a master key, and with another one than it was sealed with; the key is named by its id."""
    key_id = safe.assign(safe.key())

    assert isinstance(refusal(lambda: safe.to_token(vault=NoVault()), safe), CryptoUnavailableError)
    error = refusal(lambda: safe.to_token(vault=AesGcmVault(MasterKey.generate())), safe)
    assert isinstance(error, SecretUnreadableError)
    assert key_id in error.message


def test_a_release_to_a_token_is_remembered_with_it(safe: Safe) -> None:
    """Who, by which token, which key of which project; never the secret. Key and token were used now."""
    key_id = safe.assign(safe.key())
    now = safe.world.clock.now()

    safe.to_token()

    (row,) = safe.releases()
    assert (row.actor_id, row.token_id, row.resource_id) == (safe.world.owner_id, safe.token.id, key_id)
    assert (row.category, row.actor_type) == ("credential", "api_token")
    assert json.loads(row.metadata) == {"project_id": MASTER_PROJECT, "provider": "openai"}
    assert "sk-secret" not in repr(row)
    key, token = safe.world.store.read(lambda uow: (uow.provider_keys.find(key_id), uow.api_tokens.find(safe.token.id)))
    assert (key and key.last_used_at, token and token.last_used_at) == (now, now)


def test_what_is_released_does_not_show_in_a_log(safe: Safe) -> None:
    """The secret is no part of its text."""
    safe.assign(safe.key())

    assert "sk-secret" not in repr(safe.to_token())


# --- to agents ---------------------------------------------------------------


def test_an_agent_gets_its_first_enabled_key(safe: Safe) -> None:
    """Of the asked provider; its project's keys are not its own."""
    off, first, second = safe.key(), safe.key("anthropic", base_url="https://proxy.test"), safe.key()
    safe.disable(off)
    safe.assign(safe.key())
    agent = safe.agent(off, first, second)

    assert safe.to_agent(agent) == ReleasedKey("anthropic", "https://proxy.test", "sk-secret-2")
    assert safe.to_agent(agent, "openai").api_key == "sk-secret-3"
    for keyless, provider in ((safe.agent(), None), (safe.agent(off), None), (safe.agent(first), "openai")):
        error = refusal(partial(safe.to_agent, keyless, provider), safe)
        assert isinstance(error, NoProviderAssignedError)


def test_who_may_get_no_money_gets_no_key(safe: Safe) -> None:
    """A held, failed or inactive agent, one of a suspended owner; told before what keys there are."""
    for fields, reason in (
        ({"runtime_status": "stopped", "stop_hold": 1}, "stopped"),
        ({"runtime_status": "failed"}, "failed"),
        ({"status": "inactive"}, "inactive"),
    ):
        agent = safe.agent()
        change = partial(found, **fields)
        safe.world.store.write(
            partial(
                lambda uow, agent, change: uow.agents.put(change(uow.agents.find(agent.id))), agent=agent, change=change
            )
        )
        error = refusal(partial(safe.to_agent, agent), safe)
        assert isinstance(error, AgentInactiveError)
        assert error.details["reason"] == reason
    agent = safe.agent(safe.key())
    owner_id = safe.world.owner_id
    safe.world.store.write(
        lambda uow: uow.users.put(found(uow.users.find(owner_id), status="suspended", suspended_at=1))
    )
    assert isinstance(refusal(lambda: safe.to_agent(agent), safe), OwnerSuspendedError)


def test_an_agent_needs_the_permission_and_a_provider_that_is_known(safe: Safe) -> None:
    """In this order, and before anything is said of the agent."""
    agent = safe.agent()

    lacking = refusal(lambda: safe.to_agent(agent, "acme", permissions=("analytics:write",)), safe)
    unknown = refusal(lambda: safe.to_agent(agent, "acme"), safe)

    assert isinstance(lacking, InsufficientScopeError)
    assert isinstance(unknown, ValidationError)
    assert set(unknown.fields) == {"provider"}


def test_a_spent_budget_releases_no_key(safe: Safe) -> None:
    """What is only lent to the agent itself bars nothing."""
    agent = safe.agent(safe.key(), budget=USD)
    lease = agent.handshake(USD).lease

    assert safe.to_agent(agent).api_key == "sk-secret-1"
    agent.report(lease.id, "one", USD - 1)
    assert safe.to_agent(agent).api_key == "sk-secret-1"
    agent.report(lease.id, "two", 1)
    error = refusal(lambda: safe.to_agent(agent), safe)

    assert isinstance(error, BudgetExceededError)
    assert (error.details["scope"], error.details["spent"], error.details["limit"]) == ("agent", USD, USD)


def test_an_owner_whose_month_is_spent_bars_the_agents_key(safe: Safe) -> None:
    """Though the agent itself has money left; a lease whose time is over holds nothing any more."""
    agent = safe.agent(safe.key())
    lease = agent.handshake(USD).lease
    safe.world.cap(USD)

    error = refusal(lambda: safe.to_agent(agent), safe)
    safe.world.clock.instant = lease.lives_until + 1

    assert isinstance(error, BudgetExceededError)
    assert error.details["scope"] == "user_month"
    assert safe.to_agent(agent).api_key == "sk-secret-1"


def test_an_agents_key_that_cannot_be_opened_is_not_released(safe: Safe) -> None:
    """Money is told first."""
    agent, broke = safe.agent(safe.key()), safe.agent(safe.key(), budget=USD)
    broke.report(broke.handshake(USD).lease.id, "one", USD)

    assert isinstance(refusal(lambda: safe.to_agent(agent, vault=NoVault()), safe), CryptoUnavailableError)
    assert isinstance(refusal(lambda: safe.to_agent(broke, vault=NoVault()), safe), BudgetExceededError)


def test_a_release_to_an_agent_is_remembered_with_it(safe: Safe) -> None:
    """Which agent, which key; key and IC token were used now."""
    key_id = safe.key()
    agent = safe.agent(key_id)
    safe.world.clock.pass_s(5)

    safe.to_agent(agent)

    (row,) = safe.releases()
    assert (row.actor_type, row.actor_id, row.resource_id) == ("agent", agent.id, key_id)
    key, token = safe.world.store.read(
        lambda uow: (uow.provider_keys.find(key_id), uow.ic_tokens.find_active_of(agent.id))
    )
    now = safe.world.clock.now()
    assert (key and key.last_used_at, token and token.last_used_at) == (now, now)
