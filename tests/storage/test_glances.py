"""Glances: reads at once that are never behind what anybody has committed."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from ironcage_core.domain.users import User
from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore

ID = "user_" + "0" * 32


def named(name: str) -> User:
    return User(ID, name, "a@test.io", "admin", "active", 1, 1)


def name_of(uow: UnitOfWork) -> str | None:
    user = uow.users.find(ID)
    return None if user is None else user.username


def glance(store: SqliteStore) -> str | None:
    return asyncio.run(store.glance_async(name_of))


def test_a_glance_sees_each_commit_at_once(tmp_path: Path) -> None:
    """Remembered rows are forgotten with the first commit of the writing connection."""
    with SqliteStore(tmp_path / "iron.db") as store:
        seen = [glance(store)]
        for name in ("first", "second", "third"):
            store.write(lambda uow, name=name: uow.users.put(named(name)))  # type: ignore[misc]  # a default
            seen += [glance(store), glance(store)]

    assert seen == [None, "first", "first", "second", "second", "third", "third"]


def test_a_glance_sees_what_another_process_commits(tmp_path: Path) -> None:
    """The database says that it was written, whoever wrote."""
    path = tmp_path / "iron.db"
    with SqliteStore(path) as store:
        store.write(lambda uow: uow.users.put(named("before")))
        glance(store)
        other = sqlite3.connect(path)
        other.execute("UPDATE users SET username = 'after'")
        other.commit()
        other.close()

        assert glance(store) == "after"


def test_a_glance_that_writes_is_run_as_a_write(tmp_path: Path) -> None:
    """Nobody needs to know beforehand."""
    with SqliteStore(tmp_path / "iron.db") as store:
        asyncio.run(store.glance_async(lambda uow: uow.users.put(named("written"))))

        assert glance(store) == "written"


def test_a_glance_that_fails_leaves_the_next_one_whole(tmp_path: Path) -> None:
    """The snapshot is given back whatever happens."""
    with SqliteStore(tmp_path / "iron.db") as store:
        store.write(lambda uow: uow.users.put(named("there")))
        with pytest.raises(ZeroDivisionError):
            asyncio.run(store.glance_async(lambda uow: 1 // (uow.now - uow.now)))

        assert glance(store) == "there"


def test_no_glance_is_behind_a_commit_that_was_acknowledged(tmp_path: Path) -> None:
    """While a thread writes, a reader that starts later sees at least what was acknowledged before."""
    done = threading.Event()
    acknowledged = ["0"]
    with SqliteStore(tmp_path / "iron.db") as store:
        store.write(lambda uow: uow.users.put(named("0")))

        def write() -> None:
            for number in range(1, 200):
                store.write(lambda uow, number=number: uow.users.put(named(str(number))))  # type: ignore[misc]
                acknowledged[0] = str(number)
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        behind = []
        while not done.is_set():
            least = int(acknowledged[0])
            seen = int(glance(store) or -1)
            if seen < least:
                behind.append((seen, least))
        writer.join()

    assert behind == []


def test_a_closed_store_is_not_glanced_at(tmp_path: Path) -> None:
    """As for every other call."""
    store = SqliteStore(tmp_path / "iron.db")
    store.close()

    with pytest.raises(UnavailableError):
        glance(store)
