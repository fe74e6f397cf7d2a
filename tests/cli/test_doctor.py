"""The doctor: what an operator runs first. It finds what is wrong, says what to do, and changes nothing."""

import json
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from ironcage_http import checkup
from ironcage_http.cli import main
from ironcage_http.secrets_file import renew_master_key, secrets_beside, secrets_path
from ironcage_storage.sqlite.files import beside
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.provider_keys import BOTH, NEW, OLD, fill
from tests.support.servers import ServerProcess, run_ironcage
from tests.support.shell import dump, run, tamper


class Usage(NamedTuple):
    """What a disk holds, as `shutil.disk_usage` says it."""

    total: int
    used: int
    free: int


WELL = {**BOTH, "JWT_SECRET": "a" * 40}
"""The environment of a server that is set right."""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file with three secrets of the old master key."""
    fill(tmp_path / "iron.db")
    (tmp_path / "iron.db").chmod(0o600)
    return tmp_path / "iron.db"


def doctor(database: Path, env: Mapping[str, str | None] | None = None) -> tuple[int, list[dict[str, str]], Any]:
    """Return the exit code, what was found and the whole document."""
    result = CliRunner().invoke(main, ["doctor", str(database), "--json"], env={"DATABASE_URL": None, **(env or {})})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    for key in (OLD, NEW):
        assert key.to_base64() not in result.output
    document = json.loads(result.stdout)
    for each in document["checks"]:
        assert each["state"] == "ok" or each["advice"], f"no advice: {each}"
    return result.exit_code, document["checks"], document


def states(checks: list[dict[str, str]], *, but: str = "ok") -> list[tuple[str, str]]:
    return [(each["what"], each["state"]) for each in checks if each["state"] != but]


def found(checks: list[dict[str, str]], what: str) -> list[str]:
    return [each["found"] for each in checks if each["what"] == what]


def test_all_is_well(database: Path) -> None:
    """Exit 0, every check once, and which master keys are needed."""
    code, checks, document = doctor(database, WELL)

    assert (code, states(checks)) == (0, [])
    assert {each["what"] for each in checks} == {
        "ironcage", "sqlite", "schema", "file", "secrets", "master key", "secrets file", "database mode", "disk", "log",
        "in use", "settings",
    }  # fmt: skip
    assert found(checks, "master key") == [f"{OLD.key_id} (old): 3 secrets", f"{NEW.key_id} (current): 0 secrets"]
    assert found(checks, "secrets") == ["3 provider keys, of which 0 do not decrypt"]
    assert document["secrets"]["by_master_key"] == [{"master_key": OLD.key_id, "secrets": 3}]


@pytest.mark.parametrize(
    ("statement", "state", "said"),
    [
        ("DROP TRIGGER ledger_no_update", "trouble", "the trigger ledger_no_update is missing"),
        ("DROP INDEX ledger_agent", "trouble", "the index ledger_agent is missing"),
        ("ALTER TABLE ledger ADD COLUMN note TEXT", "trouble", "the table ledger is changed"),
        (
            "CREATE TRIGGER own AFTER INSERT ON ledger BEGIN DELETE FROM feed; END", "trouble",
            "the trigger own is none of ironcage",
        ),
        ("CREATE INDEX own ON ledger (kind)", "note", "the index own is none of ironcage"),
        ("CREATE VIEW own AS SELECT 1", "note", "the view own is none of ironcage"),
    ],
)  # fmt: skip
def test_a_schema_that_somebody_has_changed_is_found(database: Path, statement: str, state: str, said: str) -> None:
    """A guard that is gone is in no sum."""
    tamper(database, statement)

    code, checks, _ = doctor(database, WELL)

    assert (code, states(checks)) == (int(state == "trouble"), [("schema", state)])
    assert said in found(checks, "schema")


def test_what_sqlite_makes_for_itself_is_no_change(database: Path) -> None:
    """Its statistics."""
    tamper(database, "ANALYZE")

    assert doctor(database, WELL)[0] == 0


def test_a_person_gets_a_table(database: Path) -> None:
    """With a line at its end that says how it stands."""
    code, output = run("doctor", database, env={"DATABASE_URL": None, **WELL})

    assert (code, output.endswith("iron.db: 0 troubles, 0 notes")) == (0, True)
    assert "│ schema │ ok │ the newest, " in output


def test_it_makes_and_changes_nothing(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even an index of a log, nor the secrets file that a server in that folder would make."""
    monkeypatch.chdir(database.parent)
    before = database.read_bytes()

    assert doctor(database, {"SERVER_PORT": "8081"})[0] == 1

    assert (database.read_bytes(), [each.name for each in database.parent.iterdir()]) == (before, ["iron.db"])


def test_a_log_is_read_with_the_file(database: Path) -> None:
    """What is only in the log of a process that died counts, and stays there."""
    copy = database.with_name("copy.db")
    with SqliteStore(database):
        fill(database, count=2)
        for suffix in ("", "-wal"):
            shutil.copy(beside(database, suffix), beside(copy, suffix))
    log = beside(copy, "-wal").read_bytes()
    assert log

    link = database.with_name("link.db")
    link.symlink_to(copy)

    for path in (copy, link):
        _, checks, _ = doctor(path, WELL)
        assert found(checks, "secrets") == ["5 provider keys, of which 0 do not decrypt"]

    assert beside(copy, "-wal").read_bytes() == log


def test_what_does_not_decrypt_is_named(database: Path) -> None:
    """A damaged secret by its id, and all of them where the key is not known."""
    connection = sqlite3.connect(database)
    ((bad,),) = connection.execute("SELECT min(id) FROM provider_keys").fetchall()
    connection.close()
    tamper(database, f"UPDATE provider_keys SET ciphertext = 'x' WHERE id = '{bad}'")

    code, checks, document = doctor(database, WELL)
    assert (code, found(checks, "secret")) == (1, [f"{bad} does not decrypt"])
    assert document["secrets"]["unreadable"] == [bad]
    assert "damaged beyond a key id: 1 secrets" in found(checks, "master key")
    code, checks, _ = doctor(database)
    assert (code, len(found(checks, "secret"))) == (1, 3)
    assert found(checks, "master key")[:2] == ["none is known", f"{OLD.key_id} (unknown): 2 secrets"] or found(
        checks, "master key"
    )[1:] == ["damaged beyond a key id: 1 secrets", f"{OLD.key_id} (unknown): 2 secrets"]


def test_a_schema_that_is_old_is_a_note_and_stays_old(database: Path) -> None:
    """A server would migrate it; the doctor says how to do that after a backup."""
    tamper(database, "DELETE FROM _sqlite_migrations WHERE name = 'telemetry'")
    before = dump(database)

    code, checks, _ = doctor(database, WELL)

    assert (code, states(checks)) == (0, [("schema", "note")])
    assert found(checks, "schema") == ["1 migrations are missing: telemetry"]
    assert dump(database) == before


def test_secrets_that_an_old_schema_hides_are_a_note(database: Path) -> None:
    """Their table is not as this version reads it."""
    tamper(
        database,
        "DELETE FROM _sqlite_migrations WHERE name = 'telemetry'",
        "ALTER TABLE provider_keys RENAME COLUMN ciphertext TO sealed",
    )

    code, checks, document = doctor(database, WELL)

    assert (code, states(checks)) == (0, [("schema", "note"), ("secrets", "note")])
    assert document["secrets"] is None


def test_a_newer_database_is_trouble(database: Path) -> None:
    """This program must not touch it; the other checks go on."""
    tamper(
        database,
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('ironcage', 'the_future', 'now')",
    )

    code, checks, _ = doctor(database, WELL)

    assert (code, states(checks)) == (1, [("schema", "trouble")])
    assert found(checks, "disk")


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read as one" * 20, b""])
def test_a_file_that_is_no_database_is_trouble(tmp_path: Path, content: bytes) -> None:
    """What stands beside it is looked at all the same."""
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    file.chmod(0o600)

    code, checks, _ = doctor(file)

    assert (code, states(checks)) == (1, [("file", "trouble")])
    assert found(checks, "disk")
    assert file.read_bytes() == content


def test_damaged_pages_are_trouble(database: Path) -> None:
    """Each complaint is a line."""
    tamper(database, "INSERT INTO agent_providers VALUES ('agent_nobody', 0, 'prov_nothing')")

    code, checks, _ = doctor(database, WELL)

    assert (code, set(states(checks))) == (1, {("file", "trouble")})
    assert all("agent_providers" in each for each in found(checks, "file"))


@pytest.mark.parametrize(("count", "last"), [(20, "complaint 19"), (23, "and 3 more complaints")])
def test_of_very_many_complaints_the_first_are_told(count: int, last: str) -> None:
    """And how many more there are."""
    told = [each.found for each in checkup.pages([f"complaint {number}" for number in range(count)])]

    assert (told[0], told[checkup.SHOWN - 1], told[-1]) == ("complaint 0", "complaint 19", last)
    assert len(told) == min(count, checkup.SHOWN + 1)


def test_of_very_many_secrets_that_do_not_decrypt_the_first_are_named(tmp_path: Path) -> None:
    """And how many more there are."""
    fill(tmp_path / "many.db", count=checkup.SHOWN + 2)

    _, checks, document = doctor(tmp_path / "many.db")

    assert len(found(checks, "secret")) == checkup.SHOWN + 1
    assert found(checks, "secret")[-1] == "and 2 more do not decrypt"
    assert len(document["secrets"]["unreadable"]) == checkup.SHOWN + 2


def test_a_database_is_the_same_by_whatever_path(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of the environment is the one that is looked at, through a link and from where one is."""
    (database.parent / "link").symlink_to(database.parent, target_is_directory=True)
    monkeypatch.chdir(database.parent)

    code, checks, _ = doctor(Path("iron.db"), {**WELL, "DATABASE_URL": f"sqlite:///{database.parent}/link/iron.db"})

    assert (code, found(checks, "settings")) == (0, ["a server would start with them"])


@pytest.mark.parametrize(
    ("mode", "state", "says"),
    [(0o600, "ok", "only its owner"), (0o640, "note", "read it"), (0o620, "note", "change it"),
     (0o644, "note", "read it"), (0o646, "trouble", "change it")],
)  # fmt: skip
def test_who_else_may_read_or_change_the_database(database: Path, mode: int, state: str, says: str) -> None:
    """A default database may be read by others: a note. Whoever may change it may do anything."""
    database.chmod(mode)

    code, checks, _ = doctor(database, WELL)

    (line,) = [each for each in checks if each["what"] == "database mode"]
    assert (line["state"], says in line["found"], code) == (state, True, int(state == "trouble"))


def spoil(path: Path, how: str) -> None:
    """Make a secrets file one that cannot be used."""
    if how == "open":
        path.chmod(0o644)
    elif how == "damaged":
        path.write_text(json.dumps({**json.loads(path.read_text()), "master_key": "?"}))
    else:
        path.unlink()
        path.mkdir(0o700)


WAYS = {"open": "run chmod 600 on it", "damaged": "put a backup of it back", "folder": "Is a directory; make it a file"}


@pytest.mark.parametrize("how", WAYS)
def test_an_unusable_secrets_file_is_trouble_and_no_end(database: Path, how: str) -> None:
    """Told once, though the settings are about it as well; the file and the disk are looked at."""
    secrets_beside(database, may_create=True)
    spoil(secrets_path(database), how)

    code, checks, _ = doctor(database, {**WELL, "DATABASE_URL": f"sqlite:///{database}"})

    assert (code, states(checks)) == (1, [("secrets file", "trouble")])
    assert WAYS[how] in found(checks, "secrets file")[0]
    assert found(checks, "file") == ["every page, index and reference is sound"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "command", [("keys", "new"), ("keys", "rotate"), ("keys", "rotate", "--offline"), ("keys", "forget")]
)
def test_a_command_that_needs_the_secrets_file_says_what_is_wrong_with_it(
    database: Path, command: tuple[str, ...], how: str
) -> None:
    """Exit 3, and nothing is changed."""
    secrets_beside(database, may_create=True)
    renew_master_key(database)
    path = secrets_path(database)
    spoil(path, how)
    before = [*dump(database), path.is_dir() or path.read_text()]

    code, output = run(*command, database)

    assert (code, WAYS[how] in output) == (3, True), output
    assert [*dump(database), path.is_dir() or path.read_text()] == before


def test_a_rotation_that_is_not_at_its_end_is_a_note(database: Path) -> None:
    """The old key is to be forgotten some day."""
    stored = secrets_beside(database, may_create=True)
    assert stored is not None
    renew_master_key(database)

    code, checks, _ = doctor(
        database, {**WELL, "IRON_SECRETS_MASTER_KEY": OLD.to_base64(), "IRON_SECRETS_MASTER_KEY_PREVIOUS": ""}
    )

    assert (code, states(checks)) == (0, [("rotation", "note")])


@pytest.mark.parametrize(
    ("free", "state"),
    [
        (checkup.LITTLE_SPACE - 1, "trouble"),
        (checkup.LITTLE_SPACE, "note"),
        (checkup.LITTLE_SPACE + 2, "note"),  # room for the database, and none for its log
        (10**12, "ok"),
    ],
)
def test_a_disk_that_is_nearly_full_is_told(
    database: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    """Trouble where little is left, a note where no copy would have room."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free))
    with database.open("r+b") as file:
        size = file.seek(0, 2)
    monkeypatch.setattr(checkup, "_size", lambda path: checkup.LITTLE_SPACE + 1 if path == database else size)

    code, checks, _ = doctor(database, WELL)

    assert [each["state"] for each in checks if each["what"] == "disk"] == [state]
    assert code == (state == "trouble")


def test_a_log_that_only_grows_is_a_note(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something keeps it from being emptied."""
    monkeypatch.setattr(checkup, "_size", lambda path: checkup.LARGE_LOG + 1 if path.name.endswith("-wal") else 0)

    code, checks, _ = doctor(database, WELL)

    assert (code, states(checks)) == (0, [("log", "note")])
    assert found(checks, "log") == ["256.0 MB are not in the database file yet"]


@pytest.mark.parametrize(
    ("variables", "state", "says"),
    [
        ({"SERVER_PORT": "99999"}, "trouble", "SERVER_PORT must be"),
        ({"IRON_DEPLOYMENT_MODE": "production", "DATABASE_URL": ""}, "trouble", "DATABASE_URL is required"),
        ({"IRON_LOG_LEVL": "info"}, "note", "did you mean IRON_LOG_LEVEL?"),
        ({"DATABASE_URL": "sqlite:////nowhere/else.db"}, "note", "would serve /nowhere/else.db"),
        ({"DATABASE_URL": "sqlite::memory:"}, "note", "would serve :memory:"),
    ],
)
def test_the_settings_of_the_environment_are_checked(
    database: Path, variables: dict[str, str], state: str, says: str
) -> None:
    """As a server would check them, without the secrets file that it would make."""
    env = {**WELL, "DATABASE_URL": f"sqlite:///{database}", **variables}

    code, checks, _ = doctor(database, env)

    lines = [each for each in checks if each["what"] == "settings"]
    assert any(each["state"] == state and says in each["found"] for each in lines), lines
    assert (code, secrets_path(database).exists()) == (int(state == "trouble"), False)


def test_whoever_has_the_database_open_is_named(tmp_path: Path) -> None:
    """A server at work is no trouble, and the doctor disturbs it in nothing."""
    with ServerProcess(tmp_path) as server:
        told = run_ironcage(tmp_path, "doctor", "iron.db", "--json")
        assert server.ask("POST", "/auth/login", {"username": "admin", "password": "wrong"}).status == 401
        process = server.process.pid
    behind = run_ironcage(tmp_path, "doctor", "iron.db", "--json")

    assert (told.returncode, behind.returncode) == (0, 0), told.stdout
    assert found(json.loads(told.stdout)["checks"], "in use") == [f"process {process} has it open"]
    assert found(json.loads(behind.stdout)["checks"], "in use") == ["no other process has it open"]
