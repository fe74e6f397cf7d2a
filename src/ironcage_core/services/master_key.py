"""The master key's rotation: stored secrets are sealed anew in small batches, and those that do not open are named.

The vault opens with the old key until nothing needs it, so any subset of sealed records is a sound state: a rotation
that was interrupted is finished by the next one. A server that knows only the old key would find secrets it cannot
open, so a server that starts with an old key beside its own leaves a note, and a rotation asks for it.

Source: contract resources.md 2.3, "Encryption at rest".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ironcage_core.domain.audit import SYSTEM, AuditNote
from ironcage_core.errors.faults import CryptoUnavailableError, SecretUnreadableError
from ironcage_core.ports.lists import AuditFilter, Paging
from ironcage_core.ports.secrecy import Vault
from ironcage_core.ports.storage import UnitOfWork

IN_USE: Final = "MASTER_KEY_IN_USE"


class Resealed(NamedTuple):
    """The ids of the provider keys that were sealed anew, and of those that do not open and stay as they are."""

    resealed: tuple[str, ...]
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SecretsHealth:
    """How many secrets there are, which do not open, and how many each master key made (None: what no vault made)."""

    total: int
    unreadable: Sequence[str]
    by_key: Mapping[str | None, int]


def check_secrets(uow: UnitOfWork, *, vault: Vault) -> SecretsHealth:
    """Open every stored secret and say which do not open; without a master key none does."""
    keys = uow.provider_keys.all()
    unreadable = [key.id for key in keys if _opened(vault, key.ciphertext, key.id) is None]
    return SecretsHealth(len(keys), unreadable, Counter(vault.key_id_of(key.ciphertext) for key in keys))


def secrets_to_reseal(uow: UnitOfWork, *, vault: Vault) -> list[str]:
    """Return the ids of the provider keys that another master key made than the one that seals now."""
    return [key.id for key in uow.provider_keys.all() if vault.key_id_of(key.ciphertext) != vault.key_id]


def reseal(uow: UnitOfWork, key_ids: Sequence[str], *, vault: Vault) -> Resealed:
    """Seal some provider keys anew with the master key that seals now; nothing else of them changes.

    Those that are gone or sealed so already are passed over, so that doing it again is harmless.

    Args:
        uow: The open unit of work.
        key_ids: Which; a batch small enough that other writes need not wait for long.
        vault: Opens with the old key, seals with the new one.
    """
    resealed, unreadable, old_keys = [], [], set()
    for key_id in key_ids:
        key = uow.provider_keys.find(key_id)
        made_by = None if key is None else vault.key_id_of(key.ciphertext)
        if key is None or made_by == vault.key_id:
            continue
        secret = _opened(vault, key.ciphertext, key.id)
        if secret is None:
            unreadable.append(key.id)
            continue
        uow.provider_keys.put(key._replace(ciphertext=vault.seal(secret, record_id=key.id)))
        resealed.append(key.id)
        old_keys.add(made_by)
    if resealed:
        metadata = {"provider_keys": resealed, "master_keys_before": sorted(map(str, old_keys))}
        note = AuditNote("SECRETS_RESEALED", "credential", "master_key_id", vault.key_id, SYSTEM, metadata=metadata)
        uow.audit.append(note)
    return Resealed(tuple(resealed), tuple(unreadable))


def note_key_in_use(uow: UnitOfWork, key_id: str, *, opens_others: bool) -> bool:
    """Remember which master key a server that starts seals with; tell whether that was news.

    Nothing is noted before the first rotation begins.

    Args:
        uow: The open unit of work.
        key_id: The master key that seals.
        opens_others: Whether the server opens what other master keys made.
    """
    noted = key_in_use(uow)
    if noted == key_id or (noted is None and not opens_others):
        return False
    uow.audit.append(AuditNote(IN_USE, "credential", "master_key_id", key_id, SYSTEM, metadata={"before": noted}))
    return True


def key_in_use(uow: UnitOfWork) -> str | None:
    """Return the id of the master key that a server noted last."""
    rows = uow.audit.page(AuditFilter(operation=IN_USE), Paging(1, 1)).rows
    return rows[0].resource_id if rows else None


def _opened(vault: Vault, ciphertext: str, record_id: str) -> str | None:
    try:
        return vault.open(ciphertext, record_id=record_id)
    except (SecretUnreadableError, CryptoUnavailableError):
        return None
