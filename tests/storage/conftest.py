"""Stores on a file, for tests of what may happen to one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.stores import close_or_abandon
from tests.support.world import SetClock


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "ironcage.db"


@pytest.fixture
def store(database: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(database, clock=SetClock())
    yield store
    close_or_abandon(store)
