"""A process that dies at any moment loses nothing it acknowledged and counts nothing twice."""

import shutil
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from ironcage_core.domain.ledger import Balance
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.child import COST, THREADS, report_of
from tests.support.processes import Crashes
from tests.support.world import NOON, SetClock, World

ROUNDS = 2


class Scene:
    """A database with one agent and its lease, to be copied for each crash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._original = folder / "original.db"
        with SqliteStore(self._original, clock=SetClock()) as store:
            agent = World(store, SetClock()).agent()
            self.agent_id = agent.id
            self.lease_id = agent.handshake().lease.id

    def copy(self, name: object) -> Path:
        return Path(shutil.copy(self._original, self.folder / f"{name}.db"))

    def crash(self, crashes: Crashes, database: Path, rounds: int, **when: object) -> tuple[set[str], bool]:
        """Run reports until the process dies; returns what it acknowledged and whether it survived."""
        job = {"die_at": 0, "die_after_s": None, **when}
        ids = {"agent_id": self.agent_id, "lease_id": self.lease_id}
        result = crashes.run(kind="reporting", database=database, rounds=rounds, **ids, **job)
        return set(result["acknowledged"]), result["survived"]

    def booked(self, uow: UnitOfWork) -> list[str]:
        """Return the request id of each spend in the ledger."""
        return sorted(entry.ref or "" for entry in uow.ledger.by_agent(self.agent_id) if entry.kind == "spend")

    def check(self, database: Path, acknowledged: set[str], sent: set[str]) -> None:
        """Open the database as the next process would and check it, before and after everything is sent again."""
        with SqliteStore(database, clock=SetClock(NOON)) as store:
            booked = store.read(self.booked)
            assert acknowledged <= set(booked) <= sent
            assert len(booked) == len(set(booked))
            assert store.check_file() == []
            assert store.read(verify).holds
            for request_id in sent:
                answer = store.write(report_of(self.agent_id, self.lease_id, request_id))
                assert answer.booked.duplicate == (request_id in booked)
            assert store.read(self.booked) == sorted(sent)
            assert store.read(verify).holds
            balance = store.read(partial(_balance, agent_id=self.agent_id))
            assert balance.spent == COST * len(sent)


def _balance(uow: UnitOfWork, agent_id: str) -> Balance:
    balance = uow.balances.find(agent_id)
    assert balance is not None
    return balance


def _requests(rounds: int) -> set[str]:
    return {f"{thread} {number}" for thread in range(THREADS) for number in range(rounds)}


def test_a_process_killed_between_any_two_statements_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """Killed before every statement of its batches, and between each COMMIT and its answers."""
    scene = Scene(tmp_path)
    survived, die_at = False, 0

    with Crashes() as crashes:
        while not survived and die_at < 150:
            die_at += 1
            database = scene.copy(die_at)
            acknowledged, survived = scene.crash(crashes, database, ROUNDS, die_at=die_at)
            scene.check(database, acknowledged, _requests(ROUNDS))

    assert survived, "the number of steps must end"
    assert die_at > 20, "three reports in one batch take many statements"


@pytest.mark.parametrize("die_after_s", [0.02, 0.05, 0.09, 0.14, 0.2])
def test_a_process_killed_under_load_keeps_what_it_acknowledged(tmp_path: Path, die_after_s: float) -> None:
    """Killed at some moment that no statement marks."""
    scene = Scene(tmp_path)
    database = scene.copy("loaded")

    with Crashes() as crashes:
        acknowledged, survived = scene.crash(crashes, database, 10**6, die_after_s=die_after_s)

    assert not survived
    highest = max((int(request_id.split()[1]) for request_id in acknowledged), default=0)
    scene.check(database, acknowledged, _requests(highest + 2))


STRIDE = 5
"""Every how many statements a migration is killed: at each of its hundreds it would take minutes."""


def test_a_migration_that_is_killed_leaves_all_of_the_schema_or_nothing(tmp_path: Path) -> None:
    """Wherever it is, the next start finds an empty or a complete database and works."""
    complete = _tables_after_opening(tmp_path / "complete.db")
    survived, die_at = False, 0
    seen = set()

    with Crashes() as crashes:
        while not survived and die_at < 400:
            die_at += STRIDE
            database = tmp_path / f"{die_at}.db"
            survived = crashes.run(kind="opening", database=database, die_at=die_at)["survived"]
            tables = _tables(database)
            seen.add(tables)
            assert tables in {frozenset(), complete}
            assert _tables_after_opening(database) == complete

    assert survived
    assert seen == {frozenset(), complete}


def _tables(database: Path) -> frozenset[str]:
    connection = sqlite3.connect(database)
    names = frozenset(name for (name,) in connection.execute("SELECT name FROM sqlite_master"))
    connection.close()
    return names


def _tables_after_opening(database: Path) -> frozenset[str]:
    SqliteStore(database).close()
    return _tables(database)
