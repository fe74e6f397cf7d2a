"""What an admin sets up: users, caps, keys, agents, IC tokens, allocations."""

from functools import partial

import pytest

from ironcage_core.domain.money import parse_usd
from ironcage_core.errors.access import InvalidTokenError
from ironcage_core.errors.faults import CryptoUnavailableError, SecretUnreadableError
from ironcage_core.errors.identity import (
    DuplicateEmailError,
    DuplicateUsernameError,
    IcTokenExistsError,
    UserNotFoundError,
)
from ironcage_core.errors.money import (
    BudgetBelowSpentError,
    BudgetChangedError,
    BudgetDecreaseRequiresConfirmationError,
    BudgetUnchangedError,
)
from ironcage_core.errors.resources import (
    AgentNotFoundError,
    InvalidProviderIdError,
    NoProviderAssignedError,
    ProviderKeyDisabledError,
    ProviderKeyMismatchError,
    ProviderNotFoundError,
    UnsupportedProviderError,
)
from ironcage_core.errors.tree import IroncageError, ValidationError
from ironcage_core.ports.lists import Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agents import create_agent
from ironcage_core.services.allocations import budget_of, set_allocation
from ironcage_core.services.ic_tokens import issue_ic_token, regenerate_ic_token
from ironcage_core.services.key_lending import Sealing
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_core.services.users import any_user
from ironcage_storage.sealed.ip_tokens import IpTokenSealer
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey, NoVault
from tests.support.world import ADMIN, API_KEY, USD, TestAgent, World


def disable(world: World, key_id: str) -> None:
    world.store.write(lambda uow: uow.provider_keys.put(uow.provider_keys.find(key_id)._replace(is_enabled=0)))  # type: ignore[union-attr]


def rows_of_everything(world: World) -> int:
    return world.store.read(lambda uow: len(list(uow.audit.rows())) + len(uow.feed.after(0, 10_000)))


BAD_USERS = [
    ({"username": ""}, "username"),
    ({"username": "a@b"}, "username"),
    ({"username": "a\0"}, "username"),
    ({"username": "u" * 256}, "username"),
    ({"email": "nobody"}, "email"),
    ({"email": "@x"}, "email"),
    ({"email": "a@b@c"}, "email"),
    ({"role": "root"}, "role"),
]


@pytest.mark.parametrize(("change", "field"), BAD_USERS)
def test_a_bad_user_is_named_by_field(world: World, change: dict[str, str], field: str) -> None:
    """Nothing is stored."""
    before = rows_of_everything(world)
    content = {"username": "bob", "email": "bob@test", "role": "user", **change}

    with pytest.raises(ValidationError) as refusal:
        world.store.write(partial(add_user, actor=ADMIN, **content))  # type: ignore[arg-type]

    assert list(refusal.value.fields) == [field]
    assert rows_of_everything(world) == before


def test_names_and_addresses_are_unique_in_whatever_case(world: World) -> None:
    """A living user keeps its name."""
    add = partial(add_user, role="user", actor=ADMIN)

    with pytest.raises(DuplicateUsernameError):
        world.store.write(partial(add, username="ANN", email="other@test"))
    with pytest.raises(DuplicateEmailError):
        world.store.write(partial(add, username="other", email="Ann@Test"))


BAD_KEYS = [
    {"provider": "acme"},
    {"api_key": ""},
    {"api_key": "two words"},
    {"api_key": "sk-\u00e9"},
    {"api_key": "k" * 501},
    {"base_url": "ftp://x"},
    {"base_url": "http://example.com"},
    {"base_url": "https://me:pw@example.com"},
    {"base_url": "https://example.com/#f"},
    {"base_url": "https://[bad"},
    {"base_url": "nowhere"},
]


@pytest.mark.parametrize("change", BAD_KEYS, ids=str)
def test_an_unusable_provider_key_is_refused_without_an_echo(world: World, change: dict[str, str]) -> None:
    """The message names the field and never the key."""
    content = {"provider": "openai", "api_key": API_KEY, **change}

    with pytest.raises(ValidationError) as refusal:
        world.store.write(partial(add_provider_key, actor=ADMIN, vault=world.vault, **content))  # type: ignore[arg-type]

    assert list(refusal.value.fields) == list(change)
    assert API_KEY not in str(refusal.value)
    assert change.get("api_key", "") in {"", *refusal.value.fields} or change["api_key"] not in str(refusal.value)


def test_a_stored_key_shows_its_mask_alone(world: World) -> None:
    """The ciphertext is not the key, and neither is anything in the audit log or the feed."""
    key = world.store.read(lambda uow: uow.provider_keys.find(world.key_id))
    everything = world.store.read(lambda uow: (list(uow.audit.rows()), uow.feed.after(0, 1000)))

    assert key is not None
    assert key.masked_key == "sk-t...def"
    assert API_KEY not in key.ciphertext
    assert API_KEY not in repr(everything)


def test_without_a_master_key_nothing_is_lent_and_nothing_lost(world: World) -> None:
    """503 for a missing master key, 500 for a wrong one; no money moves."""
    agent = world.agent()
    wrong = AesGcmVault(MasterKey.generate())
    for vault, error in ((NoVault(), CryptoUnavailableError), (wrong, SecretUnreadableError)):
        world.sealing = Sealing(vault, IpTokenSealer())
        with pytest.raises(error) as refusal:
            agent.handshake()
        assert API_KEY not in repr(refusal.value) + str(refusal.value.__context__)

    assert agent.kinds() == [("adjust", 100 * USD)]


def test_the_named_key_must_be_assigned_enabled_and_of_the_provider(world: World) -> None:
    """Unknown and unassigned are one answer; each refusal has its code."""
    agent = world.agent()
    other = world.store.write(
        partial(add_provider_key, provider="anthropic", api_key=API_KEY, actor=ADMIN, vault=world.vault)
    )
    refusals: list[tuple[dict[str, str], type[IroncageError]]] = [
        ({"provider": "acme"}, UnsupportedProviderError),
        ({"provider_key_id": "openai"}, InvalidProviderIdError),
        ({"provider_key_id": "prov_" + "0" * 32}, ProviderNotFoundError),
        ({"provider": "anthropic", "provider_key_id": world.key_id}, ProviderKeyMismatchError),
        ({"provider": "open\0ai"}, ValidationError),
        ({"runtime_id": ""}, ValidationError),
        ({"ttl_s": 0}, ValidationError),  # type: ignore[dict-item]
        ({"ttl_s": 86_401}, ValidationError),  # type: ignore[dict-item]
    ]
    with pytest.raises(NoProviderAssignedError):
        agent.handshake(provider="anthropic")
    with pytest.raises(ProviderNotFoundError):
        agent.handshake(provider_key_id=other.id)
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, [world.key_id, other.id]))
    for fields, error in refusals:
        with pytest.raises(error):
            agent.handshake(**fields)  # type: ignore[arg-type]
    disable(world, world.key_id)
    with pytest.raises(ProviderKeyDisabledError):
        agent.handshake(provider_key_id=world.key_id)
    disable(world, other.id)
    with pytest.raises(NoProviderAssignedError):
        agent.handshake()

    assert agent.kinds() == [("adjust", 100 * USD)]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": ""}, ValidationError),
        ({"name": "a\0b"}, ValidationError),
        ({"name": "\ud800"}, ValidationError),
        ({"budget": 9_999}, ValidationError),
        ({"budget": -USD}, ValidationError),
        ({"budget": 10**12}, ValidationError),
        ({"owner_id": "user_" + "0" * 32}, ValidationError),
        ({"provider_key_ids": ["openai"]}, InvalidProviderIdError),
        ({"provider_key_ids": ["prov_" + "0" * 32]}, ProviderNotFoundError),
    ],
)
def test_a_bad_agent_is_not_created_at_all(world: World, change: dict[str, object], error: type[Exception]) -> None:
    """One unit of work: agent, budget, keys, token, audit row, or none of them."""
    before = rows_of_everything(world)
    content = {"name": "a", "budget": USD, "owner_id": world.owner_id, "provider_key_ids": [world.key_id], **change}

    with pytest.raises(error):
        world.store.write(partial(create_agent, actor=ADMIN, signer=world.signer, **content))  # type: ignore[arg-type]

    assert rows_of_everything(world) == before


def regenerated(world: World, agent: TestAgent, overlap_s: int = 0) -> str:
    return world.store.write(
        lambda uow: regenerate_ic_token(uow, agent.id, overlap_s=overlap_s, actor=ADMIN, signer=world.signer)
    ).value


def test_a_regenerated_token_is_dead_at_once_and_its_leases_live_on(world: World) -> None:
    """The stored hash decides, not the signature; the new value works on the old leases."""
    agent = world.agent()
    lease = agent.handshake().lease.id
    old, agent.token = agent.token, regenerated(world, agent)

    assert agent.report(lease, "r1", USD).balance.spent == USD
    agent.token = old
    with pytest.raises(InvalidTokenError):
        agent.report(lease, "r2", USD)
    assert agent.balance().spent == USD


def test_during_an_overlap_both_values_work(world: World) -> None:
    """Until its end, and at most one previous value."""
    agent = world.agent()
    old = agent.token
    regenerated(world, agent, overlap_s=60)
    assert agent.handshake(USD).new_money == USD
    world.clock.pass_s(60)
    with pytest.raises(InvalidTokenError):
        agent.handshake(USD)

    agent.token = regenerated(world, agent, overlap_s=60)
    assert agent.token != old
    assert agent.handshake(USD).new_money == USD


def test_an_agent_has_one_active_token(world: World) -> None:
    """Issue while one is active is a conflict that names it; an unknown agent is not found."""
    agent = world.agent()
    issue = partial(issue_ic_token, actor=ADMIN, signer=world.signer)

    with pytest.raises(IcTokenExistsError) as conflict:
        world.store.write(lambda uow: issue(uow, agent.id))
    assert str(conflict.value.details["existing_token_id"]).startswith("ict_")
    with pytest.raises(AgentNotFoundError):
        world.store.write(lambda uow: issue(uow, "agent_" + "0" * 32))


def test_a_deleted_agent_s_token_is_dead(world: World) -> None:
    """No grant, and the same message as for any bad token."""
    agent = world.agent()

    def bury(uow: UnitOfWork) -> None:
        found = uow.agents.find(agent.id)
        assert found is not None
        uow.agents.put(found._replace(deleted_at=uow.now))

    world.store.write(bury)

    with pytest.raises(InvalidTokenError):
        agent.handshake()


def test_an_allocation_is_set_from_the_live_value(world: World) -> None:
    """Contract budget.md 6: unchanged, decrease, below spent, changed meanwhile, forced."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(50 * USD).lease.id
    agent.report(lease, "r1", 20 * USD)

    def allocate(amount: int, **rules: object) -> int:
        return world.store.write(
            lambda uow: set_allocation(uow, agent.id, amount, actor=ADMIN, **rules)  # type: ignore[arg-type]
        ).balance.remaining

    for amount, rules, error in (
        (100 * USD, {}, BudgetUnchangedError),
        (60 * USD, {}, BudgetDecreaseRequiresConfirmationError),
        (19 * USD, {}, BudgetDecreaseRequiresConfirmationError),
        (19 * USD, {"force": True}, BudgetBelowSpentError),
        (150 * USD, {"expected": 99 * USD}, BudgetChangedError),
        (9_999, {}, ValidationError),
        (parse_usd("1000000", field="budget"), {}, ValidationError),
    ):
        with pytest.raises(error):
            allocate(amount, **rules)
    assert agent.balance().allocated == 100 * USD

    agent.report(lease, "beyond", 110 * USD)
    assert allocate(120 * USD) == -10 * USD  # a raise, and still below what is spent
    assert allocate(150 * USD) == 20 * USD
    assert allocate(131 * USD, force=True) == USD
    assert world.verify().holds
    for unknown in ("agent_" + "0" * 32, "abc", "\ud800"):
        with pytest.raises(AgentNotFoundError):
            world.store.read(partial(budget_of, agent_id=unknown))


def test_a_budget_shows_what_holds_its_money_and_the_owner_s_month(world: World) -> None:
    """Open leases, and the bank when there is a cap."""
    agent = world.agent()
    assert world.store.read(partial(budget_of, agent_id=agent.id)).bank is None
    world.cap(20 * USD)
    lease = agent.handshake(5 * USD).lease
    agent.report(lease.id, "r1", 2 * USD)

    view = world.store.read(partial(budget_of, agent_id=agent.id))

    assert [(one.id, one.held) for one in view.open_leases] == [(lease.id, 3 * USD)]
    assert view.bank is not None
    assert (view.bank.spent, view.bank.held, view.bank.available) == (2 * USD, 3 * USD, 15 * USD)


@pytest.mark.parametrize("overlap_s", [-1, 86_401, True, 10**17])
def test_an_overlap_is_a_day_at_most(world: World, overlap_s: int) -> None:
    """0 to 86400 seconds; the old value stays the only one."""
    agent = world.agent()

    with pytest.raises(ValidationError):
        regenerated(world, agent, overlap_s=overlap_s)

    assert agent.handshake(USD).new_money == USD


@pytest.mark.parametrize("reason", ["a\0", "\ud800", "x" * 501, b"x"])
def test_a_reason_is_a_short_text(world: World, reason: str) -> None:
    """At most 500 characters; a bad one changes nothing and harms nobody after it."""
    agent = world.agent()

    with pytest.raises(ValidationError):
        world.store.write(lambda uow: set_allocation(uow, agent.id, 200 * USD, reason=reason, actor=ADMIN))

    assert agent.balance().allocated == 100 * USD
    assert agent.handshake(USD).new_money == USD


@pytest.mark.parametrize(("page", "per_page"), [(0, 50), (1, 0), (-1, 1), (1, 10_001), (True, 1), (2**70, 50)])
def test_a_page_that_cannot_be_is_refused(page: int, per_page: int) -> None:
    """From 1; no huge numbers for the database to choke on."""
    with pytest.raises(ValidationError):
        Paging(page, per_page)


def test_unencodable_ids_are_unknown_ids(world: World) -> None:
    """A lone surrogate is no reason for a fault."""
    content = {"name": "a", "budget": USD, "actor": ADMIN, "signer": world.signer}

    with pytest.raises(ValidationError):
        world.store.write(partial(create_agent, owner_id="user_\ud800", **content))  # type: ignore[arg-type]
    with pytest.raises(UserNotFoundError):
        world.store.read(lambda uow: any_user(uow, "user_\ud800"))
    with pytest.raises(AgentNotFoundError):
        world.store.write(lambda uow: regenerate_ic_token(uow, "agent_\ud800", actor=ADMIN, signer=world.signer))
