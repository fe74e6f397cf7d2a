"""`ironcage migrate`: what a database lacks, applied or only told."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from ironcage_storage.sqlite.connection import APPLICATION_ID, connect
from ironcage_storage.sqlite.schema import migrations
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.shell import run, tamper

NAMES = [each.name for each in migrations._migrations]
LAST_TWO, TOTAL = NAMES[-2:], len(NAMES)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Return a database that lacks the last two migrations."""
    file = tmp_path / "older.db"
    with closing(connect(str(file))) as old:
        migrations.apply(Database(old, execute_plugins=False), stop_before=LAST_TWO)
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    return file


def names_of(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM _sqlite_migrations ORDER BY id")]


def test_a_check_tells_what_is_missing_and_changes_nothing(older: Path) -> None:
    """Exit 1, each with what it does, and which backup to take first."""
    before = older.read_bytes()

    code, output = run("migrate", older, "--check")

    assert (code, f"2 of {TOTAL} migrations are missing" in output) == (1, True), output
    assert all(f"{step.name} │ {step.fn.__doc__}" in output for step in migrations._migrations[-2:])
    assert f"Take a backup before you apply them: ironcage backup {older} TARGET" in output
    assert older.read_bytes() == before


def test_missing_migrations_are_applied_once(older: Path) -> None:
    """Then there are none; a server finds the database as new as itself."""
    code, output = run("migrate", older)

    assert (code, f"2 of {TOTAL} migrations were applied now" in output) == (0, True), output
    assert names_of(older)[-2:] == LAST_TWO
    code, output = run("migrate", older)
    assert (code, output) == (0, f"0 of {TOTAL} migrations were applied now")
    assert run("migrate", older, "--check") == (0, f"0 of {TOTAL} migrations are missing")
    with SqliteStore(older) as store:
        assert store.check_file() == []


def test_programs_get_the_names(older: Path) -> None:
    """One document, of what was missing and of what was applied."""
    code, output = run("migrate", older, "--check", "--json")
    found = json.loads(output)
    assert (code, [step["name"] for step in found["missing"]], found["applied"]) == (1, LAST_TWO, [])

    code, output = run("migrate", older, "--json")

    found = json.loads(output)
    assert (code, [step["name"] for step in found["applied"]], found["missing"]) == (0, LAST_TWO, [])
    assert found["total"] == TOTAL
    assert json.loads(run("migrate", older, "--json")[1]) == {"applied": [], "missing": [], "total": TOTAL}


@pytest.mark.parametrize("option", [[], ["--check"]])
def test_what_cannot_be_migrated_is_left_alone(tmp_path: Path, older: Path, option: list[str]) -> None:
    """A newer database, somebody else's, an empty file, and none at all, which is not made."""
    tamper(older, "UPDATE _sqlite_migrations SET name = 'the_future' WHERE name = 'ingestion'")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY)")
    (tmp_path / "empty.db").touch()
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}

    for file, code, said in (
        ("older.db", 3, "DATABASE_NEWER"),
        ("other.db", 3, "is not an ironcage database"),
        ("empty.db", 3, "is not an ironcage database"),
        ("none.db", 2, "does not exist"),
    ):
        found, output = run("migrate", tmp_path / file, *option)
        assert (found, said in output) == (code, True), output
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before
