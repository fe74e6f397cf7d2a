"""Whatever breaks: users see what is documented, nothing that was answered is lost, and the books add up."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.outcome import Bench
from tests.faults.scenarios import all_scenarios
from tests.faults.site import Forge


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    """Where the processes of all scenarios come from."""
    with Forge() as made:
        yield made


@pytest.mark.parametrize("name", list(all_scenarios()))
def test_nothing_that_was_answered_is_lost_and_the_books_add_up(forge: Forge, tmp_path: Path, name: str) -> None:
    """The bounded form of each scenario; `make faults` plays the long one."""
    counts = all_scenarios()[name].play(Bench(forge, tmp_path)).counts

    assert min(counts) > 0
