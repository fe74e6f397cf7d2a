"""Provider keys in a database file, sealed with master keys that a test knows."""

from pathlib import Path

from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import ADMIN, API_KEY

OLD, NEW = MasterKey(bytes(range(32))), MasterKey(bytes(range(1, 33)))
BOTH = {"IRON_SECRETS_MASTER_KEY": NEW.to_base64(), "IRON_SECRETS_MASTER_KEY_PREVIOUS": OLD.to_base64()}
"""The environment in the middle of a rotation."""


def fill(database: Path, master_key: MasterKey = OLD, count: int = 3) -> None:
    """Add so many provider keys."""
    vault = AesGcmVault(master_key)

    def add(uow: UnitOfWork) -> None:
        for number in range(count):
            add_provider_key(uow, provider="openai", api_key=f"{API_KEY}-{number}", actor=ADMIN, vault=vault)

    with SqliteStore(database) as store:
        store.write(add)
