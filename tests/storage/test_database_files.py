"""Files that must not be used, and what damage says of itself."""

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from ironcage_core.errors.faults import DatabaseDamagedError, DatabaseNewerError
from ironcage_core.errors.tree import IroncageError
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.processes import ENVIRONMENT
from tests.support.rows import note, put_agent, tell
from tests.support.stores import raw

PAGE = 4096


@pytest.fixture
def written(database: Path) -> Path:
    """Return a database of some dozen pages, closed."""
    with SqliteStore(database) as store:
        for number in range(40):
            store.write(lambda uow, n=str(number): (put_agent(uow), uow.audit.append(note(n * 50)), tell(uow, n * 50)))  # type: ignore[misc]
    return database


def test_a_database_of_a_newer_version_is_refused(written: Path) -> None:
    """A migration this program does not know means that it must not write."""
    with SqliteStore(written) as store:
        raw(store, "INSERT INTO _sqlite_migrations SELECT id + 1, migration_set, 'from_the_future', applied_at "
            "FROM _sqlite_migrations ORDER BY id DESC LIMIT 1")  # fmt: skip
    before = _digest(written)

    with pytest.raises(DatabaseNewerError):
        SqliteStore(written)

    assert _digest(written) == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_somebody_elses_database_is_refused_and_left_as_it_is(database: Path, mode: str) -> None:
    """Not one byte of a foreign file changes, not even its journal mode."""
    other = sqlite3.connect(database)
    other.execute(f"PRAGMA journal_mode = {mode}")
    other.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY)")
    other.commit()
    other.close()
    before = _digest(database)

    with pytest.raises(DatabaseDamagedError):
        SqliteStore(database)

    assert _digest(database) == before


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(database: Path) -> None:
    """Whatever it is, it is not ours."""
    database.write_bytes(b"these are no pages of a database " * 1000)
    before = _digest(database)

    with pytest.raises(DatabaseDamagedError):
        SqliteStore(database)

    assert _digest(database) == before


def test_an_empty_file_becomes_a_database(database: Path) -> None:
    """An operator may have made the file beforehand, with the rights it should have."""
    database.touch()

    with SqliteStore(database) as store:
        assert store.check_file() == []


@pytest.mark.parametrize("kept", [PAGE, PAGE * 3 + 17, -PAGE])
def test_a_truncated_file_is_noticed(written: Path, kept: int) -> None:
    """Opening it, checking it or verifying it says that it is damaged."""
    content = written.read_bytes()
    written.write_bytes(content[:kept])

    assert _complaint(written)


@pytest.mark.parametrize("seed", range(4))
def test_an_overwritten_page_is_noticed(written: Path, seed: int) -> None:
    """Wherever the page lies in the file, nobody is told that all is well."""
    content = bytearray(written.read_bytes())
    pages = len(content) // PAGE
    start = (1 + seed * (pages - 2) // 3) * PAGE
    content[start : start + PAGE] = sha256(bytes([seed])).digest() * (PAGE // 32)
    written.write_bytes(content)

    assert _complaint(written)


def test_an_intact_file_raises_no_complaint(written: Path) -> None:
    """The check that finds damage finds none where there is none."""
    assert _complaint(written) == ""


def test_a_store_that_could_not_open_leaves_no_connection(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused file is closed again, whichever statement found out."""
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remembered(*args: object, **kwargs: object) -> sqlite3.Connection:
        made.append(connect(*args, **kwargs))  # type: ignore[call-overload]  # passed on
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", remembered)
    database.write_bytes(b"garbage" * 1000)
    with pytest.raises(DatabaseDamagedError):
        SqliteStore(database)

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[-1].execute("SELECT 1")


@pytest.fixture
def unwritable() -> Iterator[Path]:
    """Return a folder that other users may enter and read, outside of pytest's private ones."""
    folder = Path(tempfile.mkdtemp(prefix="ironcage-unwritable-"))
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_that_cannot_be_written_is_an_error_of_ours(unwritable: Path, is_there: bool) -> None:
    """The error says that the database cannot be opened or written; nothing of sqlite3 reaches the caller."""
    database = unwritable / "ironcage.db"
    if is_there:
        SqliteStore(database).close()
        database.chmod(0o444)
    unwritable.chmod(0o555)
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", _OPEN_AS_NOBODY, str(database)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (run.stdout, run.stderr) == ("StorageError\n", "")


# Root may write everywhere, so a process of root gives its rights up, once it has read the program.
_OPEN_AS_NOBODY = """
import os, sys
from ironcage_core.errors.tree import IroncageError
from ironcage_storage.sqlite.store import SqliteStore
SqliteStore(":memory:").close()
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    SqliteStore(sys.argv[1])
except IroncageError as error:
    print(type(error).__name__)
"""


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _complaint(database: Path) -> str:
    """Return what opening, checking and verifying a file say against it."""
    try:
        with SqliteStore(database) as store:
            complaints = store.check_file()
            if complaints:
                return complaints[0]
            return "" if store.read(verify).holds else "the books do not add up"
    except IroncageError as error:
        assert isinstance(error, DatabaseDamagedError)  # noqa: PT017 - the error is the complaint
        return error.message


def test_a_new_database_and_its_log_are_for_their_owner_alone(database: Path) -> None:
    """Whatever the umask allows; one that is there keeps the mode it has."""
    with SqliteStore(database) as store:
        store.write(put_agent)
        modes = {
            each.name.removeprefix(database.name): each.stat().st_mode & 0o777 for each in database.parent.iterdir()
        }
    database.chmod(0o640)
    with SqliteStore(database):
        pass

    assert modes == {"": 0o600, "-wal": 0o600, "-shm": 0o600}
    assert database.stat().st_mode & 0o777 == 0o640
