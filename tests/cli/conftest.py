"""What the tests of the command line share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.desk import Desk, desk_before
from tests.support.web import people
from tests.support.world import USD, SetClock, World


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a file with one agent that spent a dollar, and one that spent nothing."""
    file = tmp_path / "iron.db"
    clock = SetClock()
    with SqliteStore(file, clock=clock) as store:
        world = World(store, clock)
        agent = world.agent()
        agent.report(agent.handshake().lease.id, "r1", USD)
        world.agent()
    return file


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """Return the store of a server, with an admin, `ann` (user) and `vera` (viewer)."""
    with SqliteStore(tmp_path / "served.db") as opened:
        people(opened)
        yield opened


@pytest.fixture
def desk(store: SqliteStore, tmp_path: Path) -> Iterator[Desk]:
    """Return a desk before that server, with nobody logged in."""
    with desk_before(store, tmp_path / "desk") as set_up:
        yield set_up


@pytest.fixture
def admin_desk(desk: Desk) -> Desk:
    """Return the same with the admin logged in."""
    desk.log_in("admin")
    return desk
