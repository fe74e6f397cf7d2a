"""The app that the tests of agents' calls share, and what holds for each of them."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage, shown_secrets, stage
from tests.support.sockets import Feed, feeding
from tests.support.world import SetClock, TestAgent


@pytest.fixture
def anyio_backend() -> str:
    """The one event loop that the server runs on."""
    return "asyncio"


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    """A store in memory."""
    with SqliteStore(":memory:") as opened:
        yield opened


@pytest.fixture(scope="module")
def world() -> Iterator[Stage]:
    """One app for the module; each test has an agent of its own."""
    with stage() as made:
        yield made


@pytest.fixture
def silence(world: Stage, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that is logged, at any level, holds a secret."""
    caplog.set_level(logging.DEBUG)
    yield
    assert shown_secrets(caplog.get_records("call"), world.known_secrets) == []


@pytest.fixture
def agent(world: Stage) -> TestAgent:
    """An agent of ann's."""
    return world.agent()


@pytest.fixture
async def feed() -> AsyncIterator[Feed]:
    """The live feed of an app over a store in memory, with a clock that is moved by hand."""
    clock = SetClock()
    with SqliteStore(":memory:", clock=clock) as opened:
        async with feeding(opened, clock) as made:
            yield made
