"""What the tests of the command line share."""

from pathlib import Path

import pytest

from ironcage_storage.sqlite.store import SqliteStore
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
