"""Backup and restore, as an operator meets them: what they refuse, what they keep, and what stops them on the way."""

import errno
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Self

import pytest

from ironcage_core.services.verify import verify
from ironcage_http.commands import backups as backup_commands
from ironcage_http.secrets_file import secrets_beside
from ironcage_http.settings import read_settings
from ironcage_storage.sqlite import backups
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.processes import ENVIRONMENT, lock_held
from tests.support.rows import tell, told
from tests.support.servers import MAIN, ServerProcess, add_agent, run_ironcage
from tests.support.shell import run, tamper

PATIENCE_S = 20


def written(database: Path, *names: str, size: int = 0) -> Path:
    """Return a database with these events and about so many bytes more."""
    with SqliteStore(database) as store:
        for name in names:
            store.write(lambda uow, name=name: tell(uow, name))  # type: ignore[misc]  # of this round
        data = {"text": "x" * size}
        store.write(lambda uow: uow.feed.append("AGENT_EVENT", agent_id=None, name="size", data=data))
    return database


def events_of(database: Path) -> list[str | None]:
    """Return what a database holds, which must be sound."""
    with SqliteStore(database, must_exist=True) as store:
        assert store.check_file() == []
        assert store.read(verify).holds
        return [name for name in store.read(told) if name != "size"]


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a database that holds `old`, and a backup that holds `backed up`."""
    written(tmp_path / "iron.db", "old")
    written(tmp_path / "b.db", "backed up")
    return tmp_path


# --- backup ------------------------------------------------------------------


def test_a_backup_is_one_private_file_of_the_same_content(folder: Path) -> None:
    """Mode 0600, nothing beside it, and the source is not touched."""
    before = (folder / "iron.db").read_bytes()

    code, output = run("backup", folder / "iron.db", folder / "copy.db")

    assert (code, f"is a backup of {folder / 'iron.db'}" in output, "bytes, checked" in output) == (0, True, True)
    assert names_in(folder) == ["b.db", "copy.db", "iron.db"]
    assert (folder / "iron.db").read_bytes() == before
    assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600
    assert events_of(folder / "copy.db") == ["old"]


def test_the_database_of_the_environment_counts(folder: Path) -> None:
    """One argument is the place; under `--json` the facts."""
    env = {"DATABASE_URL": f"sqlite:///{folder / 'iron.db'}"}

    code, output = run("backup", folder / "copy.db", "--no-check", "--json", env=env)

    assert (code, json.loads(output)) == (
        0,
        {
            "database": str(folder / "iron.db"),
            "backup": str(folder / "copy.db"),
            "bytes": (folder / "copy.db").stat().st_size,
            "is_checked": False,
            "secrets": None,
            "secrets_not_copied": None,
        },
    )
    assert run("backup", folder / "copy2.db")[0] == 2
    assert run("backup", folder / "iron.db", folder / "b.db", folder / "copy2.db")[0] == 2
    assert names_in(folder) == ["b.db", "copy.db", "iron.db"]


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ("b.db", 3, "is there already, and stays"),
        ("link", 3, "is there already, and stays"),
        ("iron.db", 3, "is there already, and stays"),
        ("nowhere/copy.db", 3, "is not there: make it first"),
        (".", 2, "is a directory"),
        ("b.db/copy.db", 3, "cannot be written: Not a directory"),
        ("x" * 250, 3, "cannot be written: File name too long"),
    ],
)
def test_a_place_that_will_not_do_is_named(folder: Path, target: str, code: int, said: str) -> None:
    """Nothing is overwritten, and nothing is left behind."""
    (folder / "link").symlink_to(folder / "nothing")
    before = names_in(folder), (folder / "b.db").read_bytes()

    found, output = run("backup", folder / "iron.db", folder / target)

    assert (found, said in output) == (code, True), output
    assert (names_in(folder), (folder / "b.db").read_bytes()) == before


def test_a_place_that_is_taken_meanwhile_is_not_overwritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was faster keeps it; also where the file system knows no links."""
    real = backups.copy

    def slow(source: sqlite3.Connection, draft: Path, advance: backups.Advance) -> None:
        real(source, draft, advance)
        (folder / "copy.db").write_text("somebody else's")

    monkeypatch.setattr(backup_commands, "copy", slow)
    for links in (True, False):
        if not links:
            monkeypatch.setattr(Path, "hardlink_to", no_links)
        (folder / "copy.db").unlink(missing_ok=True)

        code, output = run("backup", folder / "iron.db", folder / "copy.db")

        assert (code, "is there already, and stays" in output) == (3, True)
        assert (folder / "copy.db").read_text() == "somebody else's"
        assert names_in(folder) == ["b.db", "copy.db", "iron.db"]


def no_links(_: Path, __: Path) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_stick_without_links_will_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no hard links takes a backup too."""
    monkeypatch.setattr(Path, "hardlink_to", no_links)

    assert run("backup", folder / "iron.db", folder / "copy.db")[0] == 0
    assert names_in(folder) == ["b.db", "copy.db", "iron.db"]
    assert events_of(folder / "copy.db") == ["old"]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda file: file.write_bytes(b"no pages of a database " * 1000), "DATABASE_DAMAGED"),
        (lambda file: file.write_bytes(b""), "is not an ironcage database"),
        (
            lambda file: tamper(file, "UPDATE _sqlite_migrations SET name = 'the_future' WHERE name = 'telemetry'"),
            "DATABASE_NEWER",
        ),
        (lambda file: tamper(file, "INSERT INTO agent_providers VALUES ('none', 1, 'none')"), "--no-check copies it"),
    ],
)
def test_a_database_that_cannot_be_backed_up_is_named(
    folder: Path, break_it: Callable[[Path], object], said: str
) -> None:
    """Exit 3; what is damaged inside only is copied on demand."""
    break_it(folder / "iron.db")

    code, output = run("backup", folder / "iron.db", folder / "copy.db")

    assert (code, said in output) == (3, True), output
    assert names_in(folder) == ["b.db", "iron.db"]
    is_only_damaged_inside = "--no-check" in said
    assert (run("backup", folder / "iron.db", folder / "copy.db", "--no-check")[0] == 0) is is_only_damaged_inside


def test_a_missing_database_is_wrong_usage(folder: Path) -> None:
    """Nothing is made of it."""
    assert run("backup", folder / "none.db", folder / "copy.db")[0] == 2
    assert run("backup", folder / "c.db", env={"DATABASE_URL": f"sqlite:///{folder / 'none.db'}"})[0] == 2
    assert names_in(folder) == ["b.db", "iron.db"]


def test_secrets_stay_where_they_are_unless_asked_for(folder: Path) -> None:
    """It says where they are; on demand they go beside the backup, for its owner alone."""
    assert "The secrets are not in it" not in run("backup", folder / "iron.db", folder / "none.db")[1]
    secrets_beside(folder / "iron.db", may_create=True)
    secret = (folder / "iron.db.secrets").read_bytes()

    code, output = run("backup", folder / "iron.db", folder / "without.db")
    assert (code, f"keep a copy of {folder / 'iron.db.secrets'} elsewhere" in output) == (0, True)
    assert not (folder / "without.db.secrets").exists()
    code, output = run("backup", folder / "iron.db", folder / "with.db", "--with-secrets")
    copied = folder / "with.db.secrets"
    assert (code, f"{copied} opens every provider key" in output) == (0, True)
    assert (copied.read_bytes(), stat.S_IMODE(copied.stat().st_mode)) == (secret, 0o600)
    assert json.loads(secret)["master_key"] not in output


@pytest.mark.parametrize("case", ["none", "open", "taken", "late"])
def test_a_backup_with_secrets_has_both_or_is_none(folder: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No secrets, secrets that others may read, a place that is taken, a backup that fails at the very end."""
    if case != "none":
        secrets_beside(folder / "iron.db", may_create=True)
    if case == "open":
        (folder / "iron.db.secrets").chmod(0o644)
    if case == "taken":
        (folder / "copy.db.secrets").write_text("others")
    if case == "late":
        monkeypatch.setattr(backup_commands, "put_new", no_links)
    before = names_in(folder)

    assert run("backup", folder / "iron.db", folder / "copy.db", "--with-secrets")[0] == 3
    assert names_in(folder) == before


# --- restore -----------------------------------------------------------------


def kept_in(folder: Path) -> list[str]:
    """Return the names of what was replaced, without the time."""
    return [name.replace(name.split("replaced-")[1][:23], "T") for name in names_in(folder) if "replaced-" in name]


def kept_file(folder: Path) -> Path:
    (file,) = [each for each in folder.iterdir() if "replaced-" in each.name and each.name.endswith("Z")]
    return file


def test_a_backup_is_put_where_nothing_is(folder: Path) -> None:
    """A private file; it says what comes next, and that there are no secrets."""
    code, output = run("restore", folder / "b.db", folder / "new.db")

    assert (code, f"Next: ironcage verify {folder / 'new.db'}" in output) == (0, True)
    assert "a server makes new secrets" in output
    assert "What was done since the backup is forgotten" in output
    assert names_in(folder) == ["b.db", "iron.db", "new.db"]
    assert stat.S_IMODE((folder / "new.db").stat().st_mode) == 0o600
    assert events_of(folder / "new.db") == ["backed up"]


def test_a_database_is_not_replaced_unless_asked_for(folder: Path) -> None:
    """Nothing is touched."""
    before = (folder / "iron.db").read_bytes()

    code, output = run("restore", folder / "b.db", folder / "iron.db")

    assert (code, "--replace puts the backup over it" in output) == (3, True)
    assert (names_in(folder), (folder / "iron.db").read_bytes()) == (["b.db", "iron.db"], before)


def test_a_replaced_database_is_kept(folder: Path) -> None:
    """Its copy is private and whole; the file itself is the same one, with its rights."""
    (folder / "iron.db").chmod(0o640)
    inode = (folder / "iron.db").stat().st_ino
    env = {"DATABASE_URL": f"sqlite:///{folder / 'iron.db'}"}

    code, output = run("restore", folder / "b.db", "--replace", "--json", env=env)

    assert (code, json.loads(output)["kept"]) == (0, [str(kept_file(folder))])
    assert kept_in(folder) == ["iron.db.replaced-T"]
    assert ((folder / "iron.db").stat().st_ino, stat.S_IMODE((folder / "iron.db").stat().st_mode)) == (inode, 0o640)
    assert stat.S_IMODE(kept_file(folder).stat().st_mode) == 0o600
    assert (events_of(folder / "iron.db"), events_of(kept_file(folder))) == (["backed up"], ["old"])


def test_a_database_behind_a_link_is_restored_where_it_is(folder: Path) -> None:
    """The link stays one."""
    (folder / "data").mkdir()
    (folder / "iron.db").rename(folder / "data" / "real.db")
    (folder / "iron.db").symlink_to(folder / "data" / "real.db")

    assert run("restore", folder / "b.db", folder / "iron.db", "--replace")[0] == 0
    assert (folder / "iron.db").is_symlink()
    assert events_of(folder / "data" / "real.db") == ["backed up"]
    assert kept_in(folder / "data") == ["real.db.replaced-T"]


def test_a_newer_database_can_be_replaced(folder: Path) -> None:
    """The way back from an upgrade."""
    tamper(folder / "iron.db", "UPDATE _sqlite_migrations SET name = 'the_future' WHERE name = 'telemetry'")

    assert run("restore", folder / "b.db", folder / "iron.db", "--replace")[0] == 0
    assert events_of(folder / "iron.db") == ["backed up"]


@pytest.mark.parametrize("is_idle", [True, False])
def test_a_database_in_use_is_not_replaced(folder: Path, is_idle: bool) -> None:
    """A process that only has it open is enough, and nothing changes for it."""
    database = folder / "iron.db"
    with SqliteStore(database) as store:
        store.read(told)
        with lock_held(database, 0 if is_idle else 0.5):
            code, output = run("restore", folder / "b.db", database, "--replace")
        assert (code, "DATABASE_IN_USE" in output) == (3, True)
        assert store.write(lambda uow: tell(uow, "goes on")) == "goes on"

    assert events_of(database) == ["old", "goes on"]
    assert names_in(folder) == ["b.db", "iron.db"]


def test_somebody_elses_database_is_not_replaced(folder: Path) -> None:
    """It is not ours to put away."""
    with closing(sqlite3.connect(folder / "other.db")) as other:
        other.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY)")
    before = (folder / "other.db").read_bytes()

    code, output = run("restore", folder / "b.db", folder / "other.db", "--replace")

    assert (code, "move it away yourself" in output) == (3, True)
    assert (folder / "other.db").read_bytes() == before


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda file: file.write_bytes(b"no pages of a database " * 1000), "is damaged"),
        (lambda file: file.write_bytes(b""), "is not an ironcage database"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9000]), "is damaged"),
        (
            lambda file: tamper(file, "UPDATE _sqlite_migrations SET name = 'the_future' WHERE name = 'telemetry'"),
            "DATABASE_NEWER",
        ),
        (lambda file: tamper(file, "INSERT INTO agent_providers VALUES ('none', 1, 'none')"), "is damaged"),
    ],
)
def test_a_backup_that_will_not_do_changes_nothing(folder: Path, break_it: Callable[[Path], object], said: str) -> None:
    """It is checked whole before anything is touched."""
    break_it(folder / "b.db")
    before = (folder / "iron.db").read_bytes()

    code, output = run("restore", folder / "b.db", folder / "iron.db", "--replace")

    assert (code, said in output) == (3, True), output
    assert run("restore", folder / "b.db", folder / "new.db")[0] == 3
    assert (names_in(folder), (folder / "iron.db").read_bytes()) == (["b.db", "iron.db"], before)


def test_a_database_is_not_its_own_backup(folder: Path) -> None:
    """Wrong usage, whatever it is called."""
    (folder / "link").symlink_to(folder / "iron.db")

    assert run("restore", folder / "iron.db", folder / "link", "--replace")[0] == 2
    assert run("restore", folder / "none.db", folder / "iron.db", "--replace")[0] == 2
    assert run("restore", folder / "b.db", folder / "nowhere" / "iron.db")[0] == 3
    assert events_of(folder / "iron.db") == ["old"]


def test_a_database_that_sqlite_cannot_open_is_put_away(folder: Path) -> None:
    """With its log, which must not be played into the restored one."""
    with SqliteStore(folder / "iron.db") as store:
        store.write(lambda uow: tell(uow, "in the log"))
        shutil.copy(folder / "iron.db-wal", folder / "wal")
    (folder / "wal").rename(folder / "iron.db-wal")
    broken = b"no pages of a database " * 1000
    (folder / "iron.db").write_bytes(broken)

    assert run("restore", folder / "b.db", folder / "iron.db", "--replace")[0] == 0
    assert kept_in(folder) == ["iron.db.replaced-T", "iron.db.replaced-T-wal"]
    assert kept_file(folder).read_bytes() == broken
    assert events_of(folder / "iron.db") == ["backed up"]


def test_one_that_cannot_be_opened_and_is_in_use_stays(folder: Path) -> None:
    """Its locks tell that a process has it; what it is called does not matter."""
    with lock_held(folder / "iron.db", 1):
        content = (folder / "iron.db").read_bytes()
        (folder / "iron.db").write_bytes(b"x" * len(content))
        code, output = run("restore", folder / "b.db", folder / "iron.db", "--replace")
        (folder / "iron.db").write_bytes(content)

    assert (code, "DATABASE_IN_USE" in output) == (3, True), output
    assert kept_in(folder) == []


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_what_is_left_of_a_removed_database_is_not_mixed_in(folder: Path, suffix: str) -> None:
    """Refused, or put away on demand; a log would bring rows of the old database back."""
    with SqliteStore(folder / "iron.db") as store:
        store.write(lambda uow: tell(uow, "must not come back"))
        for each in ("-wal", "-shm"):
            shutil.copy(f"{folder / 'iron.db'}{each}", f"{folder / 'kept'}{each}")
    (folder / "iron.db").unlink()
    left = folder / f"iron.db{suffix}"
    (folder / f"kept{suffix}").rename(left) if suffix != "-journal" else left.write_bytes(b"x" * 5000)

    code, output = run("restore", folder / "b.db", folder / "iron.db")

    assert (code, f"{left} is left of a database that is gone" in output) == (3, True)
    assert left.exists()
    assert run("restore", folder / "b.db", folder / "iron.db", "--replace")[0] == 0
    assert kept_in(folder) == [f"iron.db.replaced-T{suffix}"]
    assert events_of(folder / "iron.db") == ["backed up"]


def test_secrets_are_restored_on_demand(folder: Path) -> None:
    """Without it is said what is missing; others than these are never overwritten."""
    secrets_beside(folder / "b.db", may_create=True)
    own, needed = folder / "b.db.secrets", folder / "iron.db.secrets"

    code, output = run("restore", folder / "b.db", folder / "iron.db", "--replace")
    assert (code, f"--with-secrets would have put {own} there" in output, needed.exists()) == (0, True, False)
    kept_file(folder).unlink()
    for _ in range(2):
        code, output = run("restore", folder / "b.db", folder / "iron.db", "--replace", "--with-secrets")
        assert (code, "There is no" in output) == (0, False), output
        assert (needed.read_bytes(), stat.S_IMODE(needed.stat().st_mode)) == (own.read_bytes(), 0o600)
        kept_file(folder).unlink()
    needed.unlink()
    secrets_beside(folder / "iron.db", may_create=True)
    before = needed.read_bytes(), (folder / "iron.db").read_bytes()
    code, output = run("restore", folder / "b.db", folder / "iron.db", "--replace", "--with-secrets")
    assert (code, "OTHER_SECRETS" in output or "holds other secrets, and stays" in output) == (3, True)
    assert (needed.read_bytes(), (folder / "iron.db").read_bytes()) == before
    own.unlink()
    assert run("restore", folder / "b.db", folder / "new.db", "--with-secrets")[0] == 3
    assert not (folder / "new.db").exists()


def test_secrets_do_not_stay_behind_a_restore_that_failed(folder: Path) -> None:
    """Nothing was restored, so nothing is there."""
    secrets_beside(folder / "b.db", may_create=True)

    with SqliteStore(folder / "iron.db"):
        assert run("restore", folder / "b.db", folder / "iron.db", "--replace", "--with-secrets")[0] == 3

    assert names_in(folder) == ["b.db", "b.db.secrets", "iron.db"]


# --- what stops them on the way ----------------------------------------------

SLOW = f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
from ironcage_storage.sqlite import backups
def slow(source, target, advance, real=backups._copy_pages):
    def step(done, of):
        advance(done, of)
        print("step", flush=True)
        time.sleep(0.03)
    real(source, target, step)
backups.STEP_PAGES = 100
backups._copy_pages = slow
{MAIN}
"""
MEGABYTES = 4


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a folder as `folder` is, with files of some megabytes, more than SQLite keeps in memory."""
    written(tmp_path / "iron.db", "old", size=MEGABYTES * 2**20)
    written(tmp_path / "b.db", "backed up", size=(MEGABYTES + 1) * 2**20)
    return tmp_path


@contextmanager
def slowly(folder: Path, *arguments: object, steps: int) -> Iterator["subprocess.Popen[str]"]:
    """Run a command that copies slowly; the block starts after so many steps."""
    command = [sys.executable, "-c", SLOW, *map(str, arguments)]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for _ in range(steps):
            assert child.stdout.readline() == "step\n"
        yield child


def test_a_killed_backup_leaves_a_draft_at_most(large: Path) -> None:
    """By its name it may be removed; the next backup does not mind it."""
    with slowly(large, "backup", "iron.db", "copy.db", steps=8) as child:
        child.kill()

    assert [name.split("-")[0] for name in names_in(large) if "iron.db" not in name] == ["b.db", "copy.db.draft"]
    assert run("backup", large / "iron.db", large / "copy.db")[0] == 0
    assert (events_of(large / "copy.db"), events_of(large / "iron.db")) == (["old"], ["old"])


@pytest.mark.parametrize("arguments", [("backup", "iron.db", "copy.db"), ("restore", "b.db", "new.db")])
def test_a_copy_that_was_stopped_leaves_nothing(large: Path, arguments: tuple[str, ...]) -> None:
    """Ctrl-C ends it between two steps."""
    with slowly(large, *arguments, steps=4) as child:
        child.send_signal(signal.SIGINT)
        steps, errors = child.communicate(timeout=PATIENCE_S)

    assert (child.returncode, errors.startswith("Error: Stopped. ")) == (130, True), errors
    assert steps.count("step") <= 3
    assert names_in(large) == ["b.db", "iron.db"]


@pytest.mark.parametrize("is_killed", [True, False])
@pytest.mark.parametrize("steps", [4, 22])
def test_a_restore_that_did_not_end_leaves_the_old_content(large: Path, steps: int, is_killed: bool) -> None:
    """While it copies what is there, and while it writes over it."""
    before = (large / "iron.db").read_bytes()
    with slowly(large, "restore", "b.db", "iron.db", "--replace", steps=steps) as child:
        is_half_written = (large / "iron.db").read_bytes()[100:] != before[100:]
        child.send_signal(signal.SIGKILL if is_killed else signal.SIGINT)
        _, errors = child.communicate(timeout=PATIENCE_S)

    assert child.returncode == (-signal.SIGKILL if is_killed else 130)
    assert is_half_written is (steps == 22)
    assert is_killed or "iron.db is as it was" in errors
    assert [each.name for each in large.glob("*.draft-*")] == [] or is_killed
    assert events_of(large / "iron.db") == ["old"]
    assert (large / "iron.db").stat().st_size == len(before)
    if steps == 22:
        assert events_of(kept_file(large)) == ["old"]
    assert run("restore", large / "b.db", large / "iron.db", "--replace")[0] == 0
    assert events_of(large / "iron.db") == ["backed up"]


@pytest.mark.parametrize(
    ("arguments", "limit", "kept"),
    [
        (("backup", "iron.db", "copy.db"), MEGABYTES - 2, 0),
        (("restore", "b.db", "new.db"), MEGABYTES - 2, 0),
        (("restore", "b.db", "iron.db", "--replace"), MEGABYTES - 2, 0),
        (("restore", "b.db", "iron.db", "--replace"), MEGABYTES + 0.9, 1),
    ],
)
def test_a_file_that_may_not_grow_leaves_all_as_it_was(
    large: Path, arguments: tuple[str, ...], limit: float, kept: int
) -> None:
    """The system refuses a write in the middle; it says so, and what is there is sound."""
    program = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({int(limit * 2**20)},) * 2)\n{MAIN}"
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *arguments],
        cwd=large,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )

    assert (done.returncode, "is there room on the disk?" in done.stderr) == (3, True), done.stderr
    assert len(kept_in(large)) == kept
    assert ("iron.db is as it was" in done.stderr) is (kept == 1)
    assert [name for name in names_in(large) if "replaced" not in name] == ["b.db", "iron.db"]
    assert events_of(large / "iron.db") == ["old"]


# --- end to end --------------------------------------------------------------


class Load:
    """Reports that runtimes send to a server at full speed, until they are told to stop."""

    def __init__(self, server: ServerProcess, headers: dict[str, str]) -> None:
        self.acknowledged: list[str] = []
        self._server, self._headers = server, headers
        self._is_over = threading.Event()
        answer = server.ask("POST", "/budget/handshake", {"requested_budget": 50}, headers)
        self.lease_id = answer.body["lease_id"]
        self._threads = [threading.Thread(target=self._report, args=(n,)) for n in range(2)]

    def _report(self, thread: int) -> None:
        number = 0
        while not self._is_over.is_set():
            number += 1
            name = f"{thread}-{number}"
            usage = {
                "lease_id": self.lease_id,
                "request_id": name,
                "provider": "openai",
                "model": "gpt-4",
                "tokens": 5,
                "cost_usd": 0.0001,
            }
            if self._server.ask("POST", "/budget/report", usage, self._headers).status == 200:
                self.acknowledged.append(name)

    def wait_for(self, more: int) -> None:
        wanted = len(self.acknowledged) + more
        for _ in range(PATIENCE_S * 100):
            if len(self.acknowledged) >= wanted:
                return
            self._is_over.wait(0.01)
        raise AssertionError("the server does not go on")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def spent(folder: Path, agent_id: str) -> Decimal:
    with SqliteStore(folder / "iron.db", must_exist=True) as store:
        balance = store.read(lambda uow: uow.balances.find(agent_id))
    assert balance is not None
    return Decimal(balance.spent)


def test_what_was_acknowledged_before_a_backup_is_there_after_a_restore(tmp_path: Path) -> None:
    """A server under load, a backup meanwhile, more load, a restore; the books add up and the agent works on."""
    server = ServerProcess(tmp_path)
    with server:
        with SqliteStore(tmp_path / "iron.db", must_exist=True) as store:
            agent = add_agent(store, read_settings({}, folder=tmp_path))
        with Load(server, agent.headers) as load:
            load.wait_for(more=30)
            before = list(load.acknowledged)
            made = run_ironcage(tmp_path, "backup", "iron.db", "b.db", "--with-secrets")
            after = len(load.acknowledged)
            load.wait_for(more=30)
        refused = run_ironcage(tmp_path, "restore", "b.db", "iron.db", "--replace")
        assert (made.returncode, refused.returncode) == (0, 3), made.stderr + refused.stderr
        assert "DATABASE_IN_USE" in refused.stderr
        assert server.terminate() == 0
    total = spent(tmp_path, agent.id)

    restored = run_ironcage(tmp_path, "restore", "b.db", "iron.db", "--replace", "--with-secrets")

    assert restored.returncode == 0, restored.stderr
    assert total == 100 * len(load.acknowledged)
    assert 100 * len(before) <= spent(tmp_path, agent.id) <= 100 * (after + 2) < total
    verified = run_ironcage(tmp_path, "verify", "iron.db")
    assert (verified.returncode, "everything adds up" in verified.stdout) == (0, True), verified.stdout
    with closing(sqlite3.connect(tmp_path / "iron.db")) as connection:
        reported = {name for (name,) in connection.execute("SELECT request_id FROM usage_records")}
    assert set(before) <= reported
    with server:
        assert server.ask("POST", "/budget/handshake", {}, agent.headers).status == 200


def test_a_restored_server_reads_its_secrets(tmp_path: Path) -> None:
    """On a machine that has nothing but the backup and its secrets."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with ServerProcess(tmp_path / "old"):
        with SqliteStore(tmp_path / "old" / "iron.db", must_exist=True) as store:
            agent = add_agent(store, read_settings({}, folder=tmp_path / "old"))
        assert run_ironcage(tmp_path, "backup", "old/iron.db", "b.db", "--with-secrets").returncode == 0

    restored = run_ironcage(tmp_path, "restore", "b.db", "new/iron.db", "--with-secrets")

    assert restored.returncode == 0, restored.stderr
    with ServerProcess(tmp_path / "new") as server:
        assert server.ask("POST", "/budget/handshake", {}, agent.headers).status == 200


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_backup_is_not_put_beside_a_log_that_would_become_its_own(folder: Path, suffix: str) -> None:
    """SQLite would read it in the place of what the backup says."""
    left = folder / f"copy.db{suffix}"
    left.touch()

    code, said = run("backup", folder / "iron.db", folder / "copy.db")

    assert (code, left.name in said, (folder / "copy.db").exists()) == (3, True, False)


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_log_that_is_a_link_is_not_read_with_a_backup(folder: Path, suffix: str) -> None:
    """Whoever may write to the folder of a backup could otherwise say what is restored."""
    run("backup", folder / "iron.db", folder / "copy.db")
    planted = folder / f"copy.db{suffix}"
    planted.symlink_to(folder / "elsewhere")

    code, said = run("restore", folder / "copy.db", folder / "restored.db")

    assert (code, planted.name in said, (folder / "restored.db").exists()) == (3, True, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_a_log_of_somebody_else_is_not_read_with_a_backup(folder: Path) -> None:
    """Likewise."""
    run("backup", folder / "iron.db", folder / "copy.db")
    planted = folder / "copy.db-wal"
    planted.touch()
    os.chown(planted, 65534, 65534)

    code, said = run("restore", folder / "copy.db", folder / "restored.db")

    assert (code, planted.name in said, (folder / "restored.db").exists()) == (3, True, False)
