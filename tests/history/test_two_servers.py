"""What 64 clients of two servers on one file are told at once is what one server would have told them one by one."""

from pathlib import Path

import pytest

from tests.history.checker import Explained, check
from tests.history.recording import record, with_books
from tests.history.serial import books_of
from tests.history.telling import tell
from tests.history.town import Town

CLIENTS = 64
MONEYS = 8
"""One for each crew of eight; with them the run is over, however fast the machine is."""


@pytest.mark.timeout(300)  # two servers and 64 clients, on a machine that others may use
def test_some_serial_order_explains_what_clients_of_two_servers_are_told(tmp_path: Path) -> None:
    """Even though one of the servers is killed meanwhile; that order ends with the books that the file holds."""
    town = Town(tmp_path, moneys=MONEYS, servers=2)
    with town:
        recorded = record(town, clients=CLIENTS, crew=8, seconds=200, seed=7, kill_after=[500])
    recorded = with_books(town, recorded)

    overlaps = [count for history in recorded.histories for count in history.overlaps]
    assert sum(overlaps) > 2 * len(overlaps)
    assert recorded.kills == 1
    assert {each.server for each in recorded.operations if each.answer} == {0, 1}
    assert min(len(recorded.short), len(recorded.replayed), len(recorded.unknown)) > 0
    assert len(recorded.histories) == MONEYS
    for history in recorded.histories:
        verdict = check(history)
        assert isinstance(verdict, Explained), tell(history, verdict)
        books = town.books(list(history.opening.allocated))
        assert books["agents"] == books_of(verdict.state)["agents"]
    assert town.verify() == ""
