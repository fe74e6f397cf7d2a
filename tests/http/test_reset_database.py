"""IRON_DEV_RESET_DB: a development server starts on an empty database, and nothing else is ever removed."""

import sqlite3
from pathlib import Path

import pytest

from ironcage_core.errors.faults import DatabaseDamagedError
from ironcage_http.secrets_file import secrets_path
from ironcage_storage.sqlite.backups import DatabaseInUseError
from ironcage_storage.sqlite.removal import remove_database
from ironcage_storage.sqlite.store import SqliteStore
from tests.http.test_first_run import PASSWORD_LINE, log_in
from tests.support.servers import ServerProcess, run_ironcage

RESET = {"IRON_DEPLOYMENT_MODE": "development", "IRON_DEV_RESET_DB": "true"}


def test_a_development_server_starts_anew_and_says_so(tmp_path: Path) -> None:
    """The first admin is made again, with another password; the secrets stay, so that nothing else is lost."""
    first, second = ServerProcess(tmp_path, IRON_DEPLOYMENT_MODE="development"), ServerProcess(tmp_path, **RESET)
    with first:
        (old,) = PASSWORD_LINE.findall(first.said)
        first.terminate()
    secrets = secrets_path(tmp_path / "iron.db").read_bytes()
    with second:
        (new,) = PASSWORD_LINE.findall(second.said)
        said = second.said
        logins = [log_in(second, "admin", password).status for password in (old, new)]
        second.terminate()
    verified = run_ironcage(tmp_path, "verify", "iron.db")

    assert "0 agents" in verified.stdout  # nor is a demo world made by a server that is not told to
    assert logins == [401, 200]
    assert "IRON_DEV_RESET_DB: the database" in said
    assert "was removed" in said
    assert secrets_path(tmp_path / "iron.db").read_bytes() == secrets
    assert verified.returncode == 0


def test_what_a_killed_server_leaves_behind_goes_too(tmp_path: Path) -> None:
    """Its log would bring back what was removed."""
    with ServerProcess(tmp_path, IRON_DEPLOYMENT_MODE="development") as first:
        first.kill()
    assert (tmp_path / "iron.db-wal").stat().st_size > 0

    with ServerProcess(tmp_path, **RESET) as second:
        assert len(PASSWORD_LINE.findall(second.said)) == 1


def test_a_database_that_another_server_has_open_stays(tmp_path: Path) -> None:
    """The start fails, and the other server goes on."""
    with ServerProcess(tmp_path, IRON_DEPLOYMENT_MODE="development") as first:
        (password,) = PASSWORD_LINE.findall(first.said)
        done = run_ironcage(tmp_path, "serve", SERVER_PORT=str(ServerProcess(tmp_path).port), **RESET)
        login = log_in(first, "admin", password)

        assert (done.returncode, login.status) == (3, 200)
        assert "A process has" in " ".join(done.stderr.split())
        assert "was removed" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"a letter to somebody", b"SQLite format 3\0" + bytes(2000)])
def test_a_file_that_is_no_database_stays(tmp_path: Path, content: bytes) -> None:
    """But for an empty one, which the server would take for its own."""
    file = tmp_path / "iron.db"
    file.write_bytes(content)

    if not content:
        assert remove_database(file)
        return
    with pytest.raises(DatabaseDamagedError):
        remove_database(file)

    assert file.read_bytes() == content


def test_somebody_elses_database_stays(tmp_path: Path) -> None:
    """It has tables and not our mark; not even its journal mode changes."""
    file = tmp_path / "iron.db"
    other = sqlite3.connect(file)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE letters (text)")
    other.close()
    before = file.read_bytes()

    done = run_ironcage(tmp_path, "serve", **RESET, SERVER_PORT=str(ServerProcess(tmp_path).port))

    assert (done.returncode, "not an ironcage database" in " ".join(done.stderr.split())) == (3, True)
    assert file.read_bytes() == before


def test_only_the_database_and_its_logs_go(tmp_path: Path) -> None:
    """What merely has a similar name is somebody else's."""
    file = tmp_path / "iron.db"
    neighbours = {"iron.db.secrets", "iron.db-notes", "iron.db2", "iron.db.bak"}
    for name in neighbours:
        (tmp_path / name).touch()
    with SqliteStore(file):
        pass

    assert remove_database(file)

    assert {each.name for each in tmp_path.iterdir()} == neighbours


@pytest.mark.parametrize("is_reading", [True, False])
def test_whoever_has_it_open_keeps_it(tmp_path: Path, is_reading: bool) -> None:
    """A connection that rests, and one that reads at this moment."""
    file = tmp_path / "iron.db"
    with SqliteStore(file), sqlite3.connect(file, isolation_level=None) as other:
        if is_reading:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM users").fetchone()

        with pytest.raises(DatabaseInUseError):
            remove_database(file)

        assert file.exists()
    other.close()


def test_behind_a_link_the_database_itself_goes(tmp_path: Path) -> None:
    """The link stays and leads to where the next one is made."""
    real, link = tmp_path / "real.db", tmp_path / "iron.db"
    with SqliteStore(real):
        pass
    link.symlink_to(real)

    assert remove_database(link)

    assert (real.exists(), link.is_symlink()) == (False, True)
    with SqliteStore(link):
        assert real.exists()


def test_where_there_is_none_nothing_happens(tmp_path: Path) -> None:
    """Looking makes no file."""
    assert not remove_database(tmp_path / "iron.db")
    assert list(tmp_path.iterdir()) == []


def test_a_database_in_memory_needs_no_reset(tmp_path: Path) -> None:
    """It is always new; the server starts."""
    with ServerProcess(tmp_path, DATABASE_URL="sqlite::memory:", **RESET) as server:
        assert "was removed" not in server.said
