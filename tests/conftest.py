"""What holds for every test: how long a draw takes says something of the machine, not of what is tested."""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings

from ironcage_storage.sqlite import store
from ironcage_storage.sqlite.connection import MEMORY, connect
from ironcage_storage.sqlite.schema import migrate

_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("ironcage", _COMMON)
# The long run of tests/fuzz, each time along other ways.
settings.register_profile("fuzz", _COMMON, max_examples=2000, derandomize=False, print_blob=True)
settings.load_profile("ironcage")


@pytest.fixture(scope="session", autouse=True)
def _migrated_once() -> Iterator[None]:
    """New databases are copies of one that was migrated; all migrations anew take longer than most tests do.

    Those of other processes, and those that are there already, are migrated each.
    """
    migrated = connect(MEMORY)
    migrate(migrated)

    def copied_or_migrated(connection: sqlite3.Connection) -> None:
        with suppress(sqlite3.Error):  # which the real one is to tell of
            if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                migrated.backup(connection)
        migrate(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "migrate", copied_or_migrated)
        yield
    migrated.close()
