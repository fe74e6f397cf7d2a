"""Copies of a database while it is written, and writing over one that nobody else may have open."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from sqlite_utils import Database

from ironcage_core.domain.money import Micros
from ironcage_core.errors.faults import DatabaseDamagedError, DatabaseNewerError, StorageError
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite import backups
from ironcage_storage.sqlite.backups import (
    CopyError,
    DatabaseInUseError,
    UnreadableError,
    check,
    copy,
    held,
    locked_out,
    overwrite,
    snapshot,
)
from ironcage_storage.sqlite.connection import APPLICATION_ID, connect
from ironcage_storage.sqlite.schema import migrations, standing
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.processes import lock_held, start
from tests.support.rows import tell, told
from tests.support.shell import tamper
from tests.support.world import SetClock, World

PAGE = 4096


def ignore(_: int, __: int) -> None:
    """Do not care how far it has come."""


def events_of(database: Path) -> list[str | None]:
    with SqliteStore(database, must_exist=True) as store:
        assert store.check_file() == []
        assert store.read(verify).holds
        return store.read(told)


def written(database: Path, *names: str) -> Path:
    """Return a database with these events."""
    with SqliteStore(database) as store:
        for name in names:
            store.write(lambda uow, name=name: tell(uow, name))  # type: ignore[misc]  # of this round
    return database


def spent(store: SqliteStore, agent_id: str) -> Micros | None:
    balance = store.read(lambda uow: uow.balances.find(agent_id))
    return balance and balance.spent


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return a second database, of other content and more of it."""
    return written(tmp_path / "other.db", *(f"{number} {'x' * 500}" for number in range(400)))


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "STEP_PAGES", 5)


@pytest.mark.usefixtures("small_steps")
def test_a_copy_is_of_one_moment_whatever_is_written_meanwhile(database: Path, tmp_path: Path) -> None:
    """A commit between every two steps does not make it start over, and is not waited for."""
    clock, seen = SetClock(), list[int]()
    with SqliteStore(database, clock=clock) as store:
        world = World(store, clock)
        agent = world.agent()
        lease_id = agent.handshake().lease.id
        agent.report(lease_id, "before", 7)

        def write_more(done: int, _: int) -> None:
            assert len(seen) < 1000, "it starts over and over"
            seen.append(done)
            agent.report(lease_id, f"step {len(seen)}", 10)

        with snapshot(database) as source:
            agent.report(lease_id, "too late", 20)
            copy(source, tmp_path / "copy.db", write_more)

        assert spent(store, agent.id) == 7 + 20 + 10 * len(seen)
    assert len(seen) > 20
    assert seen == sorted(seen)
    with SqliteStore(tmp_path / "copy.db", clock=clock) as store:
        assert spent(store, agent.id) == 7
        assert store.read(verify).holds
        assert store.check_file() == []


def test_a_copy_is_one_file(database: Path, tmp_path: Path) -> None:
    """No log beside it, also where the source has one, and page 1 does not ask for one."""
    with SqliteStore(database) as store:
        store.write(lambda uow: tell(uow, "in the log"))
        with snapshot(database) as source:
            copy(source, tmp_path / "copy.db", ignore)
        assert (tmp_path / "ironcage.db-wal").exists()

    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy.db", "ironcage.db"]
    assert (tmp_path / "copy.db").read_bytes()[18:20] == b"\1\1"
    assert events_of(tmp_path / "copy.db") == ["in the log"]


def test_a_copy_of_an_older_database_is_as_old(database: Path, tmp_path: Path) -> None:
    """Neither is migrated by having been copied."""
    with closing(connect(str(database))) as old:
        migrations.apply(Database(old, execute_plugins=False), stop_before=migrations._migrations[-1].name)
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    with snapshot(database) as source:
        copy(source, tmp_path / "copy.db", ignore)

    for file in (database, tmp_path / "copy.db"):
        with snapshot(file) as connection:
            check(connection)
            found = standing(connection)
        assert list(found.missing) == [(each.name, each.fn.__doc__) for each in migrations._migrations[-1:]]
        assert [step.name for step in found.applied] == [each.name for each in migrations._migrations[:-1]]


def test_a_snapshot_cannot_write(database: Path) -> None:
    """Reading is all it is for."""
    written(database, "kept")

    with pytest.raises(StorageError, match="readonly"), snapshot(database) as connection:
        connection.execute("DELETE FROM feed")


def foreign(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY)")


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (foreign, DatabaseDamagedError, "is not an ironcage database"),
        (lambda file: file.write_bytes(b"no pages of a database " * 1000), DatabaseDamagedError, "is damaged"),
        (lambda file: file.touch(), DatabaseDamagedError, "is not an ironcage database"),
        (lambda _: None, StorageError, "cannot be read"),
    ],
)
def test_what_is_not_ours_is_not_read(
    database: Path, make: Callable[[Path], object], kind: type[Exception], said: str
) -> None:
    """The error names the file, of which not one byte changes; a missing one is not made."""
    make(database)
    before = digest(database) if database.exists() else None

    with pytest.raises(kind, match=said) as refused, snapshot(database):
        pass

    assert str(database) in str(refused.value)
    assert (digest(database) if database.exists() else None) == before


@pytest.mark.parametrize("name", ["a b?mode=memory#.db", "100%41.db", "file:x.db"])
def test_any_name_of_a_file_will_do(tmp_path: Path, name: str) -> None:
    """Nothing of a name is taken for a part of an address."""
    written(tmp_path / name, "here")

    with snapshot(tmp_path / name) as source:
        copy(source, tmp_path / f"copy of {name}", ignore)

    assert events_of(tmp_path / f"copy of {name}") == ["here"]


def test_the_check_finds_an_overwritten_page(other: Path) -> None:
    """Wherever it lies."""
    content = bytearray(other.read_bytes())
    for page in range(len(content) // PAGE - 20, len(content) // PAGE - 10):
        content[page * PAGE : (page + 1) * PAGE] = b"\xa5" * PAGE
    other.write_bytes(content)

    with pytest.raises(DatabaseDamagedError, match="damaged"), snapshot(other) as connection:
        check(connection)


def test_the_check_finds_a_reference_to_nothing(database: Path) -> None:
    """Pages that are sound are not all."""
    written(database)
    tamper(database, "INSERT INTO agent_providers VALUES ('none', 1, 'none')")

    with pytest.raises(DatabaseDamagedError, match="agent_providers"), snapshot(database) as connection:
        check(connection)


def test_the_check_knows_a_newer_database(database: Path) -> None:
    """By a migration this program has never heard of."""
    written(database)
    tamper(database, "UPDATE _sqlite_migrations SET name = 'the_future' WHERE name = 'telemetry'")

    with pytest.raises(DatabaseNewerError), snapshot(database) as connection:
        check(connection)


def test_a_number_that_cannot_be_does_not_stop_a_backup(database: Path) -> None:
    """A repair mends it, and wants a backup first."""
    written(database)
    tamper(database, "INSERT INTO bank_holds (user_id, held) VALUES ('user', -1)")
    with SqliteStore(database) as store:
        assert store.check_file() != []

    with snapshot(database) as connection:
        check(connection)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_held_database_is_nobody_elses(database: Path, mode: str) -> None:
    """Not even to read, not even between two transactions, and afterwards it is free again; also one just restored."""
    written(database, "kept")
    tamper(database, f"PRAGMA journal_mode = {mode}")

    with held(database), closing(sqlite3.connect(database, timeout=0)) as second, pytest.raises(sqlite3.Error) as shut:
        second.execute("SELECT * FROM feed")

    assert str(shut.value) == "database is locked"
    assert events_of(database) == ["kept"]


def test_a_database_that_is_open_is_not_held(database: Path) -> None:
    """An idle server of this or another process is in the way, and goes on."""
    with SqliteStore(database) as store:
        store.write(lambda uow: tell(uow, "before"))
        with pytest.raises(DatabaseInUseError), held(database):
            pass
        store.write(lambda uow: tell(uow, "after"))
        assert store.read(told) == ["before", "after"]

    with lock_held(database, 0.5), pytest.raises(DatabaseInUseError), held(database):
        pass


def test_holding_a_database_keeps_what_its_log_holds(database: Path, tmp_path: Path) -> None:
    """A server that was killed has left its last commits there."""
    with SqliteStore(database) as store:
        store.write(lambda uow: tell(uow, "in the log"))
        for suffix in ("", "-wal"):
            shutil.copy(f"{database}{suffix}", f"{tmp_path / 'killed.db'}{suffix}")

    with held(tmp_path / "killed.db"):
        assert not (tmp_path / "killed.db-wal").exists()

    assert events_of(tmp_path / "killed.db") == ["in the log"]


def test_somebody_elses_database_is_not_held(database: Path) -> None:
    """It is not to be replaced by ours, and stays as it is."""
    foreign(database)
    before = digest(database)

    with pytest.raises(DatabaseDamagedError, match="not an ironcage database"), held(database):
        pass

    assert digest(database) == before


@pytest.mark.parametrize("content", [b"no pages of a database " * 1000, None])
def test_what_sqlite_cannot_open_is_told_apart(database: Path, content: bytes | None) -> None:
    """Garbage, and a file that was cut off."""
    written(database, "x" * 50_000)
    database.write_bytes(content or database.read_bytes()[: PAGE * 3 + 17])

    with pytest.raises(UnreadableError), held(database):
        pass


@pytest.mark.usefixtures("small_steps")
def test_a_database_is_overwritten_whole_or_not_at_all(database: Path, other: Path) -> None:
    """Whatever ends it in the middle leaves the old content."""
    written(database, "old")
    steps = 0

    def fail_late(done: int, of: int) -> None:
        nonlocal steps
        steps += 1
        if done > of // 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), snapshot(other) as source, held(database) as target:
        overwrite(source, target, fail_late)
    assert steps > 10
    assert events_of(database) == ["old"]
    with snapshot(other) as source, held(database) as target:
        overwrite(source, target, ignore)
    assert events_of(database) == events_of(other)
    assert len(events_of(other)) == 400


def test_a_smaller_database_leaves_nothing_of_a_larger_one(database: Path, other: Path) -> None:
    """The file is cut to the size of what it holds now."""
    written(database, "small")

    with snapshot(database) as source, held(other) as target:
        overwrite(source, target, ignore)

    assert events_of(other) == ["small"]
    assert other.stat().st_size == database.stat().st_size


def limit_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file grow beyond some pages."""
    real = sqlite3.connect

    def limited(*args: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*args, **options)  # type: ignore[call-overload]  # passed on
        connection.execute("PRAGMA max_page_count = 50")
        return connection

    monkeypatch.setattr(sqlite3, "connect", limited)


def test_a_full_disk_says_so(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a new file, and of one that is written over, which keeps what it holds."""
    database = written(tmp_path / "ironcage.db", "old")
    with snapshot(other) as source:
        limit_the_disk(monkeypatch)
        with pytest.raises(CopyError, match="full; is there room"):
            copy(source, tmp_path / "copy.db", ignore)
        with pytest.raises(CopyError, match="full; is there room"), held(database) as target:
            overwrite(source, target, ignore)

    monkeypatch.undo()
    assert events_of(database) == ["old"]


def test_a_file_that_sqlite_cannot_open_may_still_be_in_use(database: Path) -> None:
    """Its locks tell, and those of its log where the file itself is gone."""
    written(database, "kept")
    with locked_out(database):
        pass
    child = start("hold", database, 30)
    assert child.stdout is not None
    child.stdout.readline()

    with pytest.raises(DatabaseInUseError), locked_out(database):
        pass
    database.rename(database.with_name("away"))
    with pytest.raises(DatabaseInUseError), locked_out(database):
        pass

    database.with_name("away").rename(database)
    database.with_name("ironcage.db-shm").unlink()
    with pytest.raises(DatabaseInUseError), locked_out(database):
        pass

    child.kill()
    child.communicate()
    with locked_out(database):
        pass
