"""Every storage, one after the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.stores import close_or_abandon
from tests.support.world import SetClock, World


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> Iterator[SqliteStore]:
    store = SqliteStore(":memory:" if request.param == "memory" else tmp_path / "ironcage.db", clock=clock)
    yield store
    close_or_abandon(store)


@pytest.fixture
def world(store: SqliteStore, clock: SetClock) -> World:
    return World(store, clock)
