"""Several processes, or several stores, on one file."""

import sqlite3
from pathlib import Path

import pytest

from ironcage_core.domain.reservations import Reservation
from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.lists import EntryFilter, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite.schema import migrations
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.processes import finish, lock_held, start
from tests.support.rows import note, put_agent, tell, told
from tests.support.stores import raw
from tests.support.world import NOON, SetClock, World


def test_a_write_waits_for_another_process_and_succeeds(store: SqliteStore, database: Path) -> None:
    """A lock held for a moment delays a write, no more."""
    with lock_held(database, 0.7):
        assert store.write(lambda uow: tell(uow, "waited")) == "waited"

    assert store.read(told) == ["waited"]


def test_reads_do_not_wait_for_another_process(store: SqliteStore, database: Path) -> None:
    """A reader is not in the way of a writer, nor a writer in a reader's."""
    store.write(lambda uow: tell(uow, "before"))
    with lock_held(database, 0.3):
        assert store.read(told) == ["before"]


def test_a_lock_held_too_long_refuses_and_writes_nothing(store: SqliteStore, database: Path) -> None:
    """The caller may come again; the next write after the lock is gone works."""
    raw(store, "PRAGMA busy_timeout = 1")
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError) as refused:
        store.write(lambda uow: tell(uow, "refused"))
    with pytest.raises(UnavailableError), store.transaction() as uow:
        tell(uow, "refused")
    other.execute("ROLLBACK")
    other.close()

    assert refused.value.details["retry_after_s"] == 1
    assert store.write(told) == []
    assert store.write(lambda uow: tell(uow, "later")) == "later"


def test_the_write_lock_is_taken_before_the_first_read(store: SqliteStore, database: Path) -> None:
    """A unit of work that has read so far already keeps other writers out: what it read stays true until it writes."""
    other = sqlite3.connect(database, isolation_level=None, timeout=0)
    with store.transaction() as uow:
        told(uow)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        tell(uow, "kept")
    other.close()

    assert store.read(told) == ["kept"]


def test_two_stores_take_turns_and_see_each_other(store: SqliteStore, database: Path) -> None:
    """Neither rows nor chain heads are remembered from before the other's commit."""
    with SqliteStore(database, clock=SetClock()) as other:
        for number in range(6):
            writer = (store, other)[number % 2]
            seen = writer.write(
                lambda uow, n=str(number): (told(uow), uow.audit.append(note(n)), tell(uow, n))[0]  # type: ignore[misc]
            )
            assert seen == [str(n) for n in range(number)]

        assert store.read(verify).holds
        assert other.read(told) == list("012345")


def test_two_stores_see_each_others_rows_by_key(store: SqliteStore, database: Path) -> None:
    """A row that one store has read and the other changed is read anew."""
    world = World(store, SetClock())
    agent = world.agent()
    with SqliteStore(database, clock=SetClock()) as other:
        found = other.write(lambda uow: uow.agents.find(agent.id))
        assert found is not None
        store.write(lambda uow: uow.agents.put(found._replace(name="renamed")))
        again = other.write(lambda uow: uow.agents.find(agent.id))

    assert again is not None
    assert again.name == "renamed"


def test_two_processes_report_into_one_file(store: SqliteStore, database: Path) -> None:
    """Everything that either of them acknowledged is there once, and the books hold."""
    agent = World(store, SetClock()).agent()
    lease_id = agent.handshake().lease.id
    children = [start("report", database, agent.id, lease_id, prefix, 60) for prefix in "ab"]
    acknowledged = sorted(line for lines in finish(*children) for line in lines)
    page = store.read(lambda uow: uow.ledger.page(EntryFilter(agent_id=agent.id, kind="spend"), Paging(1, 1000)))

    assert len(acknowledged) == 120
    assert sorted(entry.ref or "" for entry in page.rows) == acknowledged
    assert agent.balance().spent == 1200
    assert store.read(verify).holds
    assert store.check_file() == []


def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    """All of them find a complete schema, also on a file that was not there before."""
    database = tmp_path / "fresh.db"
    finish(*[start("open", database) for _ in range(4)])

    with SqliteStore(database) as store:
        assert store.check_file() == []
        assert raw(store, "SELECT count(*) FROM _sqlite_migrations") == [(len(migrations._migrations),)]


def test_a_table_that_was_empty_is_looked_at_again_once_another_has_written(store: SqliteStore, database: Path) -> None:
    """What a store knows to be empty is so only until somebody writes."""
    agent_id = store.write(put_agent).id
    ours, theirs = (Reservation(agent_id, name, "lease", 1, "open", NOON, NOON + 1) for name in ("ours", "theirs"))

    def find(name: str) -> bool:
        return store.write(lambda uow: uow.reservations.find(agent_id, name) is not None)

    def fail(uow: UnitOfWork) -> None:
        uow.reservations.put(ours)
        assert uow.reservations.find(agent_id, "ours") == ours
        raise LookupError

    seen = [find("theirs")]
    with pytest.raises(LookupError):
        store.write(fail)
    seen.append(find("ours"))
    with SqliteStore(database) as other:
        other.write(lambda uow: uow.reservations.put(theirs))
    seen.append(find("theirs"))
    store.write(lambda uow: uow.reservations.put(ours))
    seen += [find("ours"), find("theirs"), find("nobodys")]

    assert seen == [False, False, True, True, True, False]
