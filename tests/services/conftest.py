"""A world in memory for stories about use cases."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from ironcage_core.domain.access import Principal
from ironcage_core.services.accounts import add_user
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import ADMIN, THE_ADMIN, SetClock, World


@pytest.fixture
def world() -> Iterator[World]:
    """A fresh world whose clock stands at noon."""
    clock = SetClock()
    with SqliteStore(":memory:", clock=clock) as store:
        yield World(store, clock)


@pytest.fixture
def ann(world: World) -> Principal:
    """The owner of the world's agents."""
    return replace(THE_ADMIN, user_id=world.owner_id, role="user", reach="own")


@pytest.fixture
def bob(world: World) -> Principal:
    """Another user, without agents at first."""
    user = world.store.write(partial(add_user, username="bob", email="bob@test", role="user", actor=ADMIN))
    return replace(THE_ADMIN, user_id=user.id, role="user", reach="own")
