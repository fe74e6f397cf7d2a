"""What tests of runtimes share: a control plane, a folder for outboxes, a provider, and a purse that pays it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_llm import FakeLlm
from tests.support.panel import Panel, panel_in
from tests.support.purse import Purse
from tests.support.sdk import KEY


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    """A control plane that is up for all tests of a module."""
    with panel_in(tmp_path_factory.mktemp("panel")) as panel, panel.up():
        yield panel


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Panel]:
    """A control plane that is down."""
    with panel_in(tmp_path) as panel:
        yield panel


@pytest.fixture
def llm() -> Iterator[FakeLlm]:
    """A provider that keeps a bill."""
    with FakeLlm(KEY) as provider:
        yield provider


@pytest.fixture
def purse(llm: FakeLlm) -> Iterator[Purse]:
    """A purse with OpenAI's key, good at the provider's origin; every call must be settled once in the end."""
    purse = Purse(KEY, "openai", llm.root)
    yield purse
    purse.close()
    assert purse.books is not None
