"""A provider key's life: changed, rotated, disabled, deleted; and the master key renewed under all of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from ironcage_core.domain.audit import AuditRow
from ironcage_core.domain.ids import MASTER_PROJECT
from ironcage_core.domain.projects import Project, ProjectKey
from ironcage_core.domain.providers import ProviderKey
from ironcage_core.errors.faults import CryptoUnavailableError, SecretUnreadableError
from ironcage_core.errors.money import LeaseRevokedError
from ironcage_core.errors.resources import NoProviderAssignedError, ProviderExistsError, ProviderNotFoundError
from ironcage_core.errors.tree import NoFieldsError, ValidationError
from ironcage_core.ports.secrecy import Vault
from ironcage_core.services.master_key import (
    check_secrets,
    key_in_use,
    note_key_in_use,
    reseal,
    secrets_to_reseal,
)
from ironcage_core.services.provider_key_changes import delete_provider_key, update_provider_key
from ironcage_core.services.provider_keys import add_provider_key, provider_key_overview
from ironcage_storage.sealed.ip_tokens import open_ip_token
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey, NoVault
from tests.support.world import ADMIN, API_KEY, NOON, THE_ADMIN, USD, World

NEW_KEY = "sk-other-fedcba9876543210"
OLD_MASTER, NEW_MASTER = MasterKey(bytes(range(32))), MasterKey(bytes(range(1, 33)))


def add(world: World, **fields: Any) -> ProviderKey:  # noqa: ANN401 - as the use case takes them
    content = {"provider": "openai", "api_key": API_KEY, "vault": world.vault, **fields}
    return world.store.write(partial(add_provider_key, actor=ADMIN, **content))


def change(world: World, key_id: str, vault: Vault | None = None, **fields: Any) -> ProviderKey:  # noqa: ANN401 - fields of the key
    return world.store.write(
        lambda uow: update_provider_key(uow, key_id, fields, actor=ADMIN, vault=vault or world.vault)  # type: ignore[arg-type]  # as the test says
    )


def stored(world: World, key_id: str) -> ProviderKey:
    found = world.store.read(lambda uow: uow.provider_keys.find(key_id))
    assert found is not None
    return found


def audit_of(world: World, resource_id: str) -> list[AuditRow]:
    rows = world.store.read(lambda uow: [*uow.audit.rows()])
    return [row for row in rows if row.resource_id == resource_id]


def assign_to_project(world: World, key: ProviderKey, project_id: str = MASTER_PROJECT) -> None:
    world.store.write(lambda uow: uow.projects.assign(ProjectKey(project_id, key.provider, key.id, uow.now)))


def test_a_key_says_what_it_is_for(world: World) -> None:
    """Models keep their order, each once; no description and an empty one are the same."""
    key = add(world, description="", models=["gpt-b", "gpt-a", "gpt-b"])

    assert (key.description, json.loads(key.models)) == (None, ["gpt-b", "gpt-a"])
    assert change(world, key.id, description="für uns", models=[]).models == "[]"
    assert stored(world, key.id).description == "für uns"


def test_only_what_is_given_changes(world: World) -> None:
    """The secret, the id and the maker stay; the time of change moves only with a change."""
    key = add(world, name="main", base_url="https://llm.test/v1", description="x", models=["m"])
    world.clock.pass_s(5)

    same = change(world, key.id, name="main", provider="openai", is_enabled=True)
    changed = change(world, key.id, description="y")

    assert same == key
    assert changed == key._replace(description="y", updated_at=NOON + 5000)
    assert change(world, key.id, base_url=None, description="") == changed._replace(base_url=None, description=None)
    rows = audit_of(world, key.id)
    assert [row.operation for row in rows] == ["PROVIDER_CREATED", "PROVIDER_UPDATED", "PROVIDER_UPDATED"]
    assert json.loads(rows[1].changes or "") == {"before": {"description": "x"}, "after": {"description": "y"}}


def test_a_new_api_key_takes_the_old_one_s_place(world: World) -> None:
    """Another mask and another ciphertext under the same id; what agents are lent from now on is the new one."""
    agent = world.agent()
    before = stored(world, world.key_id)

    after = change(world, world.key_id, api_key=f" {NEW_KEY} ")

    assert world.vault.open(after.ciphertext, record_id=after.id) == NEW_KEY
    assert (before.masked_key, after.masked_key) == ("sk-t...def", "sk-o...210")
    row = audit_of(world, after.id)[-1]
    assert row.operation == "PROVIDER_ROTATED"
    assert NEW_KEY not in str(row)
    assert API_KEY not in str(row)
    granted = agent.handshake(USD)
    binding = {"agent_id": agent.id, "lease_id": granted.lease.id, "provider": "openai"}
    assert open_ip_token(granted.ip_token or "", ic_token=agent.token, **binding) == NEW_KEY


def test_the_same_api_key_again_is_sealed_anew(world: World) -> None:
    """Each write has a nonce of its own."""
    before = stored(world, world.key_id).ciphertext.split(":")

    after = change(world, world.key_id, api_key=API_KEY).ciphertext.split(":")

    assert before[:2] == after[:2]
    assert (before[2] != after[2], before[3] != after[3]) == (True, True)


def test_every_bad_field_is_named_and_nothing_changes(world: World) -> None:
    """The API key is not echoed, null is no name, and the provider stays what it is."""
    before = stored(world, world.key_id)
    bad: dict[str, Any] = {
        "provider": "anthropic", "api_key": "two words", "name": None, "base_url": "http://llm.test",
        "description": "\0", "models": ["fine", "", "m" * 101], "is_enabled": None,
    }  # fmt: skip

    with pytest.raises(ValidationError) as refusal:
        change(world, world.key_id, **bad)

    assert set(refusal.value.fields) == {*bad, "models[1]", "models[2]"} - {"models"}
    assert "two words" not in str(refusal.value.fields)
    assert stored(world, world.key_id) == before
    for models in (None, "gpt", ["m"] * 101):
        with pytest.raises(ValidationError):
            change(world, world.key_id, models=models)
    with pytest.raises(NoFieldsError):
        change(world, world.key_id)


def test_a_name_belongs_to_one_key(world: World) -> None:
    """Whatever the case, but a key may keep its own."""
    add(world, name="main")
    other = add(world, name="other")

    with pytest.raises(ProviderExistsError):
        change(world, other.id, name="main")

    assert change(world, other.id, name="other", description="kept").name == "other"


def test_plain_http_is_for_this_machine_where_it_is_allowed(world: World) -> None:
    """An operator in production does not allow it."""
    local: Any = {"base_url": "http://localhost:8000/v1"}

    assert change(world, world.key_id, **local).base_url == local["base_url"]
    with pytest.raises(ValidationError):
        world.store.write(
            lambda uow: update_provider_key(uow, world.key_id, local, allows_http=False, actor=ADMIN, vault=world.vault)
        )


def test_without_a_master_key_all_but_the_secret_can_be_changed(world: World) -> None:
    """Disabling and deleting a key that got out must not wait for it."""
    with pytest.raises(CryptoUnavailableError):
        change(world, world.key_id, NoVault(), api_key=NEW_KEY, description="not kept")

    assert change(world, world.key_id, NoVault(), name="renamed", is_enabled=False).is_enabled == 0
    assert stored(world, world.key_id).description is None
    assert world.store.write(partial(delete_provider_key, key_id=world.key_id, actor=ADMIN)).key.name == "renamed"


def test_disabling_a_key_ends_every_lease_on_it(world: World) -> None:
    """Of all agents, at once; their money comes back, leases on other keys go on, and so does the assignment."""
    one, other, spared = world.agent(), world.agent(), world.agent()
    anthropic = add(world, provider="anthropic")
    world.store.write(lambda uow: uow.provider_keys.assign(spared.id, [anthropic.id]))
    leases = [agent.handshake(10 * USD).lease for agent in (one, other, other, spared)]
    one.report(leases[0].id, "r1", USD)

    change(world, world.key_id, is_enabled=False)

    assert [agent.lease(lease.id).status for agent, lease in zip((one, other, other, spared), leases, strict=True)] == [
        "revoked", "revoked", "revoked", "active",
    ]  # fmt: skip
    assert (one.balance().held, one.balance().remaining, other.balance().held) == (0, 99 * USD, 0)
    with pytest.raises(LeaseRevokedError) as refusal:
        one.refresh(leases[0].id)
    assert refusal.value.details["reason"] == "provider_key_disabled"
    with pytest.raises(NoProviderAssignedError):
        one.handshake(USD)
    assert [row.operation for row in audit_of(world, world.key_id)][-1] == "PROVIDER_DISABLED"

    change(world, world.key_id, is_enabled=True)
    assert one.handshake(USD).lease.provider_key_id == world.key_id
    assert world.verify().holds


def test_a_deleted_key_is_gone_from_everywhere(world: World) -> None:
    """Its ciphertext, its assignments and its leases; the next key of an agent becomes the first."""
    second = add(world)
    alone, both = world.agent(), world.agent()
    world.store.write(lambda uow: uow.provider_keys.assign(both.id, [world.key_id, second.id]))
    assign_to_project(world, stored(world, world.key_id))
    lease = alone.handshake(USD).lease

    gone = world.store.write(partial(delete_provider_key, key_id=world.key_id, actor=ADMIN))

    assert (gone.key.id, set(gone.agents), gone.projects) == (world.key_id, {alone.id, both.id}, [MASTER_PROJECT])
    assert (alone.lease(lease.id).status, alone.lease(lease.id).provider_key_id) == ("revoked", world.key_id)
    assert both.handshake(USD).lease.provider_key_id == second.id
    with pytest.raises(NoProviderAssignedError):
        alone.handshake(USD)
    assert world.store.read(lambda uow: uow.projects.keys_of(MASTER_PROJECT)) == []
    with pytest.raises(ProviderNotFoundError):
        world.store.write(partial(delete_provider_key, key_id=world.key_id, actor=ADMIN))
    row = audit_of(world, world.key_id)[-1]
    assert row.operation == "PROVIDER_DELETED"
    assert json.loads(row.metadata)["leases_revoked"] == [lease.id]
    assert world.verify().holds


def test_each_role_sees_the_projects_it_may_know_of(world: World) -> None:
    """An admin all, a user those that are visible, a viewer none."""
    key = stored(world, world.key_id)
    hidden = world.store.write(lambda uow: uow.new_id("proj"))
    world.store.write(lambda uow: uow.projects.put(Project(hidden, "hidden", None, None, uow.now, uow.now)))
    assign_to_project(world, key)
    assign_to_project(world, key, hidden)

    def seen(**role: Any) -> set[str]:  # noqa: ANN401 - fields of the principal
        principal = replace(THE_ADMIN, **role)
        return {*world.store.read(lambda uow: provider_key_overview(uow, key.id, principal)).projects}

    assert seen() == {MASTER_PROJECT, hidden}
    assert seen(role="user", user_id=world.owner_id) == {MASTER_PROJECT}
    assert seen(role="viewer", user_id=world.owner_id) == set()


# --- the master key ----------------------------------------------------------


@pytest.fixture
def rotated(world: World) -> Callable[[], AesGcmVault]:
    """Five keys under the old master key; what is returned seals with the new one and opens both."""
    world.vault = AesGcmVault(OLD_MASTER)
    world.store.write(partial(delete_provider_key, key_id=world.key_id, actor=ADMIN))
    for number in range(5):
        add(world, name=f"key-{number}", api_key=f"{API_KEY}-{number}")
    return lambda: AesGcmVault(NEW_MASTER, [OLD_MASTER])


def test_secrets_are_sealed_anew_in_batches(world: World, rotated: Callable[[], AesGcmVault]) -> None:
    """After any batch everything opens; after the last the old key is not needed, and nothing else has changed."""
    vault = rotated()
    before = world.store.read(lambda uow: {key.id: key for key in uow.provider_keys.all()})
    todo = world.store.read(partial(secrets_to_reseal, vault=vault))

    first = world.store.write(partial(reseal, key_ids=todo[:2], vault=vault))
    half = world.store.read(partial(check_secrets, vault=vault))
    world.store.write(partial(reseal, key_ids=todo, vault=vault))

    assert (todo, first.resealed, first.unreadable) == (sorted(before), tuple(todo[:2]), ())
    assert (half.unreadable, half.by_key) == ([], {NEW_MASTER.key_id: 2, OLD_MASTER.key_id: 3})
    after = world.store.read(lambda uow: {key.id: key for key in uow.provider_keys.all()})
    alone = AesGcmVault(NEW_MASTER)
    for key_id, key in after.items():
        assert alone.open(key.ciphertext, record_id=key_id).startswith(API_KEY)
        assert key._replace(ciphertext="") == before[key_id]._replace(ciphertext="")
    assert world.store.read(partial(secrets_to_reseal, vault=vault)) == []
    rows = audit_of(world, NEW_MASTER.key_id)
    assert [json.loads(row.metadata)["provider_keys"] for row in rows] == [todo[:2], todo[2:]]
    assert {row.operation for row in rows} == {"SECRETS_RESEALED"}


def test_what_was_sealed_is_not_sealed_again(world: World, rotated: Callable[[], AesGcmVault]) -> None:
    """A second run, or a key that was rotated or deleted meanwhile, costs nothing and leaves no row."""
    vault = rotated()
    todo = world.store.read(partial(secrets_to_reseal, vault=vault))
    world.store.write(partial(delete_provider_key, key_id=todo[0], actor=ADMIN))
    change(world, todo[1], vault, api_key=NEW_KEY)
    world.store.write(partial(reseal, key_ids=todo, vault=vault))
    before = world.store.read(lambda uow: [*uow.provider_keys.all()])

    again = world.store.write(partial(reseal, key_ids=todo, vault=vault))

    assert again == ((), ())
    assert world.store.read(lambda uow: [*uow.provider_keys.all()]) == before
    assert vault.open(stored(world, todo[1]).ciphertext, record_id=todo[1]) == NEW_KEY
    assert len(audit_of(world, NEW_MASTER.key_id)) == 1


def test_a_secret_that_does_not_open_is_named_and_left(world: World, rotated: Callable[[], AesGcmVault]) -> None:
    """It may be readable again with a key that is found later; the others are sealed anew."""
    vault = rotated()
    bad, *good = world.store.read(lambda uow: [*uow.provider_keys.all()])
    damaged = bad._replace(ciphertext="damaged")
    world.store.write(lambda uow: uow.provider_keys.put(damaged))

    done = world.store.write(partial(reseal, key_ids=[bad.id, *(key.id for key in good)], vault=vault))

    assert (done.unreadable, len(done.resealed)) == ((bad.id,), 4)
    assert stored(world, bad.id) == damaged
    health = world.store.read(partial(check_secrets, vault=vault))
    assert (health.total, health.unreadable) == (5, [bad.id])
    assert health.by_key == {None: 1, NEW_MASTER.key_id: 4}
    with pytest.raises(SecretUnreadableError):
        vault.open(damaged.ciphertext, record_id=bad.id)


def test_without_the_key_that_made_them_no_secret_opens(world: World, rotated: Callable[[], AesGcmVault]) -> None:
    """Neither with another master key nor with none."""
    rotated()

    assert len(world.store.read(partial(check_secrets, vault=AesGcmVault(NEW_MASTER))).unreadable) == 5
    health = world.store.read(partial(check_secrets, vault=NoVault()))
    assert (len(health.unreadable), health.by_key) == (5, {OLD_MASTER.key_id: 5})


def test_a_server_notes_its_master_key_from_the_first_rotation_on(world: World) -> None:
    """Once for each change, going back included; before the first rotation there is nothing to note."""
    note = partial(note_key_in_use, opens_others=False)
    told = [
        world.store.write(partial(note, key_id="old")),
        world.store.write(partial(note, key_id="new", opens_others=True)),
        world.store.write(partial(note, key_id="new")),
        world.store.write(partial(note, key_id="old")),
    ]

    assert told == [False, True, False, True]
    assert world.store.read(key_in_use) == "old"
