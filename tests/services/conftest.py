"""A world in memory for stories about use cases."""

from collections.abc import Iterator

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import SetClock, World


@pytest.fixture
def world() -> Iterator[World]:
    """A fresh world whose clock stands at noon."""
    clock = SetClock()
    with SqliteStore(":memory:", clock=clock) as store:
        yield World(store, clock)
