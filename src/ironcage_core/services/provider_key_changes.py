"""Changes of a provider key: what it is, its secret, whether it is lent, and its end.

A key that is disabled or deleted is taken out of the hands that hold it in the same unit of work: open leases on it
are revoked, whoever's they are.

Source: contract resources.md 2.2, 2.3 and 11.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.providers import (
    ProviderKey,
    ProviderKeyFields,
    check_api_key,
    columns_of,
    key_problems,
    mask,
)
from ironcage_core.errors.tree import NoFieldsError, ValidationError
from ironcage_core.ports.secrecy import Vault
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.leasing import revoke_leases
from ironcage_core.services.provider_keys import check_name_is_free, get_provider_key

_TOLD = ("name", "base_url", "description", "models")
"""The fields whose values a change tells; the secret's are never told."""


def update_provider_key(
    uow: UnitOfWork, key_id: str, fields: ProviderKeyFields, *, allows_http: bool = True, actor: Actor, vault: Vault
) -> ProviderKey:
    """Change what is given of a key, and nothing else.

    A new API key takes the place of the old one under the same id; leases that are open keep what they were lent.

    Args:
        uow: The open unit of work.
        key_id: Which key.
        fields: At least one; the provider may be repeated, not changed.
        allows_http: Whether a base URL of this machine may do without TLS.
        actor: Who does it.
        vault: Seals a new API key; not asked without one.

    Raises:
        ProviderNotFoundError: No such key.
        NoFieldsError: Nothing is given.
        ValidationError: A field breaks its rule; every bad one is named.
        ProviderExistsError: Another key has that name, in whatever case.
        CryptoUnavailableError: A new API key is given and no master key is configured.
    """
    key = get_provider_key(uow, key_id)
    if not fields:
        raise NoFieldsError("At least one field is needed")
    problems = key_problems(fields, allows_http=allows_http)
    if fields.get("provider", key.provider) != key.provider:
        problems.setdefault("provider", "cannot be changed: add another key")
    if problems:
        raise ValidationError(problems)
    changed = key._replace(**columns_of(fields))
    check_name_is_free(uow, changed.name, besides=key.id)
    if "api_key" in fields:
        secret = check_api_key(fields["api_key"])
        changed = changed._replace(ciphertext=vault.seal(secret, record_id=key.id), masked_key=mask(secret))
    if changed == key:
        return key
    changed = changed._replace(updated_at=uow.now)
    uow.provider_keys.put(changed)
    _note_changes(uow, key, changed, actor)
    if key.is_enabled and not changed.is_enabled:
        revoke_leases_on_key(uow, key.id, reason="provider_key_disabled", actor=actor)
    return changed


def _note_changes(uow: UnitOfWork, before: ProviderKey, after: ProviderKey, actor: Actor) -> None:
    """Remember a change of fields, of the secret and of whether the key is lent, each as an event of its own."""
    names = [name for name in _TOLD if getattr(before, name) != getattr(after, name)]
    if names:
        _note(uow, "PROVIDER_UPDATED", after, actor, _told(before, names), _told(after, names))
    if before.ciphertext != after.ciphertext:
        masks = ({"masked_key": key.masked_key} for key in (before, after))
        _note(uow, "PROVIDER_ROTATED", after, actor, *masks)
    if before.is_enabled != after.is_enabled:
        states = ({"is_enabled": bool(key.is_enabled)} for key in (before, after))
        _note(uow, "PROVIDER_ENABLED" if after.is_enabled else "PROVIDER_DISABLED", after, actor, *states)


def _told(key: ProviderKey, names: Sequence[str]) -> dict[str, Any]:
    return {name: json.loads(key.models) if name == "models" else getattr(key, name) for name in names}


def _note(
    uow: UnitOfWork, operation: str, key: ProviderKey, actor: Actor, before: dict[str, Any], after: dict[str, Any]
) -> None:
    changes = {"before": before, "after": after}
    uow.audit.append(AuditNote(operation, "credential", "provider_key", key.id, actor, changes=changes))


@dataclass(frozen=True, slots=True)
class DeletedKey:
    """A provider key that is gone, and whom it was assigned to."""

    key: ProviderKey
    agents: Sequence[str]
    projects: Sequence[str]


def delete_provider_key(uow: UnitOfWork, key_id: str, *, actor: Actor) -> DeletedKey:
    """Remove a key with its ciphertext: it is assigned to nothing any more, and open leases on it are revoked.

    Raises:
        ProviderNotFoundError: No such key, or it was deleted before.
    """
    key = get_provider_key(uow, key_id)
    revoked = revoke_leases_on_key(uow, key.id, reason="provider_key_deleted", actor=actor)
    agents, projects = uow.provider_keys.agents_of(key.id), uow.projects.projects_of_key(key.id)
    for agent_id, key_ids in uow.provider_keys.ids_of(agents).items():
        uow.provider_keys.assign(agent_id, [each for each in key_ids if each != key.id])
    for project_id in projects:
        uow.projects.unassign(project_id, key.provider)
    uow.provider_keys.remove(key.id)
    metadata = {
        "name": key.name,
        "provider": key.provider,
        "agents_affected": agents,
        "projects_affected": projects,
        "leases_revoked": [lease.id for lease in revoked],
    }
    note = AuditNote("PROVIDER_DELETED", "credential", "provider_key", key.id, actor, metadata=metadata)
    uow.audit.append(note)
    return DeletedKey(key, agents, projects)


def revoke_leases_on_key(uow: UnitOfWork, key_id: str, *, reason: str, actor: Actor) -> list[Lease]:
    """Revoke the open leases on a key, of all agents."""
    return revoke_leases(uow, [lease.id for lease in uow.leases.open_on_key(key_id)], reason=reason, actor=actor)
