"""Repair from a shell: what it mends, what it leaves, and what it says."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ironcage_core.domain.audit import AuditRow
from ironcage_core.ports.lists import AuditFilter, Paging
from ironcage_http.cli import main
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.shell import dump, run, tamper
from tests.support.world import USD


def repairs(file: Path) -> list[AuditRow]:
    with SqliteStore(file) as store:
        page = store.read(lambda uow: uow.audit.page(AuditFilter(operation="BOOKS_REPAIRED"), Paging()))
    return list(page.rows)


def test_a_sound_database_is_left_as_it_is(database: Path) -> None:
    """Exit 0, nothing to do, and not a row has changed."""
    before = dump(database)

    code, output = run("repair", database)

    assert (code, "nothing to do" in output, "everything adds up" in output) == (0, True, True), output
    assert dump(database) == before


def test_a_repair_makes_verify_hold_again(database: Path) -> None:
    """It says which tables were wrong, and the audit log remembers it as the system's doing."""
    tamper(
        database,
        "DROP TRIGGER budgets_spend_grows",
        "UPDATE agent_budgets SET spent = spent + 1 WHERE spent > 0",
        "UPDATE bank_holds SET held = held - 1",
        "DELETE FROM usage_days",
    )
    assert run("verify", database)[0] == 1

    code, output = run("repair", database)

    assert (code, "everything adds up" in output) == (0, True), output
    assert all(f"{table} │ 1" in output for table in ("agent_budgets", "bank_holds", "usage_days")), output
    assert run("verify", database)[0] == 0
    (row,) = repairs(database)
    assert (row.actor_id, row.category, '"agent_budgets":1' in row.metadata) == ("system", "budget", True)


def test_what_a_repair_cannot_mend_is_told(database: Path) -> None:
    """Exit 1: the ledger itself was changed, and stays as it is."""
    tamper(
        database,
        "DROP TRIGGER ledger_no_update",
        "UPDATE ledger SET period = '1999-01' WHERE kind = 'spend'",
        "UPDATE lease_counts SET n = 7",
    )

    code, output = run("repair", database)

    assert (code, "lease_counts" in output, "1 differences" in output, "period" in output) == (1, True, True, True)
    assert run("verify", database)[0] == 1


def test_numbers_that_cannot_be_are_mended_as_well(database: Path) -> None:
    """SQLite calls a broken rule a fault of the file; its pages are sound."""
    tamper(database, "UPDATE bank_holds SET held = -5", "UPDATE agent_budgets SET overspent = spent + 5")
    assert "CHECK constraint failed" in run("verify", database)[1]

    code, output = run("repair", database)

    assert (code, "CHECK constraint failed" in output) == (0, False), output
    assert run("verify", database)[0] == 0


def test_a_file_with_damaged_references_is_not_repaired(database: Path) -> None:
    """Exit 1 with the complaint: sums over what is missing would look right."""
    tamper(database, "DELETE FROM agents WHERE id = (SELECT max(id) FROM agents)", "UPDATE bank_holds SET held = 5")
    before = dump(database)

    code, output = run("repair", database)

    assert (code, "agents" in output) == (1, True), output
    assert dump(database) == before


def test_rollups_are_rebuilt_alone(database: Path) -> None:
    """What else is wrong stays, and makes the exit 1."""
    tamper(database, "DELETE FROM usage_hours")
    assert run("rebuild-rollups", database)[0] == 0

    tamper(database, "DELETE FROM usage_hours", "UPDATE bank_holds SET held = held + 1")
    code, output = run("rebuild-rollups", database)

    assert (code, "usage_hours │ 1" in output, "bank held" in output) == (1, True, True), output


@pytest.mark.parametrize("command", ["verify", "repair", "rebuild-rollups"])
def test_the_database_may_be_that_of_the_environment(database: Path, command: str) -> None:
    """Without one, or with one that no file is, it is wrong usage, and no file is made."""
    assert run(command, env={"DATABASE_URL": f"sqlite:///{database}"})[0] == 0

    for url in (None, "sqlite::memory:", f"sqlite:///{database}.not", "mysql://"):
        code, output = run(command, env={"DATABASE_URL": url})
        assert (code, "DATABASE_URL" in output) == (2, True), output
    assert {each.name for each in database.parent.iterdir()} == {"iron.db"}


@pytest.mark.parametrize("command", ["repair", "rebuild-rollups"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, command: str) -> None:
    """Exit 3 with what to do."""
    file = tmp_path / "notes.txt"
    file.write_bytes(b"not a database at all")

    code, output = run(command, file)

    assert (code, "DATABASE_DAMAGED" in output, file.read_bytes()) == (3, True, b"not a database at all")


def test_a_repair_beside_a_running_server(database: Path) -> None:
    """The server's next unit of work sees what was repaired."""
    with SqliteStore(database) as serving:
        tamper(database, "UPDATE agent_budgets SET held = held + 5 WHERE spent > 0")
        assert max(each.held for each in serving.read(lambda uow: list(uow.balances.all()))) == 9 * USD + 5

        assert run("repair", database)[0] == 0

        assert max(each.held for each in serving.write(lambda uow: list(uow.balances.all()))) == 9 * USD


def json_of(*arguments: object) -> tuple[int, Any]:
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"], env={"DATABASE_URL": None})
    assert result.stderr == ""
    return result.exit_code, json.loads(result.stdout)


def test_a_program_gets_what_was_recomputed(database: Path) -> None:
    """Numbers as numbers, and no difference."""
    code, told = json_of("verify", database)

    books = {"holds": True, "agents": 2, "leases": 1, "ledger_entries": 4, "audit_rows": 6, "differences": []}
    assert (code, told["sound"], told["file_complaints"]) == (0, True, [])
    assert {**told["books"], "audit_rows": 6} == books
    assert told["database"] == str(database)


def test_a_program_gets_differences_as_records(database: Path) -> None:
    """Micro-USD as whole numbers; the exit is 1 as for a person."""
    tamper(database, "UPDATE bank_holds SET held = held - 1", "DELETE FROM agent_budgets WHERE spent = 0")

    code, told = json_of("verify", database)

    assert (code, told["sound"], told["books"]["holds"]) == (1, False, False)
    by_number = {each["number"]: each for each in told["books"]["differences"]}
    assert by_number["bank held"]["recomputed"] - by_number["bank held"]["stored"] == 1
    assert isinstance(by_number["balance"]["recomputed"], dict)


def test_a_program_gets_what_was_repaired(database: Path) -> None:
    """The rows by table, the differences there were, and the books as they are now."""
    tamper(database, "UPDATE bank_holds SET held = held - 1")

    code, told = json_of("repair", database)
    again = json_of("rebuild-rollups", database)[1]

    assert (code, told["rows_repaired"], told["sound"], told["books"]["holds"]) == (0, {"bank_holds": 1}, True, True)
    assert [each["number"] for each in told["differences_before"]] == ["bank held"]
    assert (again["rows_repaired"], again["differences_before"]) == ({}, [])


def test_a_program_is_told_of_damage(database: Path) -> None:
    """Nothing was repaired, so there are no books."""
    tamper(database, "DELETE FROM agents WHERE id = (SELECT max(id) FROM agents)")

    code, told = json_of("repair", database)

    assert (code, told["sound"], told["rows_repaired"], told["books"]) == (1, False, {}, None)
    assert told["file_complaints"]


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_damaged_pages_are_told_with_what_to_do(database: Path, command: str) -> None:
    """Where the file does not even let itself be checked."""
    connection = sqlite3.connect(database)
    ((page,),) = connection.execute(
        "SELECT max(rootpage) FROM sqlite_master WHERE tbl_name = 'ledger' AND type = 'index'"
    ).fetchall()
    ((size,),) = connection.execute("PRAGMA page_size").fetchall()
    connection.close()
    with database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)

    code, output = run(command, database)

    assert (code, "restore a backup" in output) == (3, True), output


def test_names_in_a_database_colour_nothing(database: Path) -> None:
    """What somebody wrote into the file is shown as it is, without markup or escape sequences."""
    tamper(database, "INSERT INTO bank_holds (user_id, held) VALUES ('[red]\x1b[2Juser', 5)")

    _, output = run("verify", database)

    assert ("[red]\N{REPLACEMENT CHARACTER}[2Juser" in output, "\x1b" in output) == (True, False)


@pytest.mark.parametrize("command", ["verify", "repair", "rebuild-rollups"])
def test_without_an_argument_it_is_the_database_of_the_environment(database: Path, command: str) -> None:
    """One that is not there, or in memory, is wrong usage."""
    assert run(command, env={"DATABASE_URL": f"sqlite:///{database}"})[0] == 0
    for url, says in (
        (f"sqlite:///{database}.no", "is not there"),
        ("sqlite::memory:", "name a file"),
        ("mysql://x", "DATABASE_URL"),
        (None, "which database? Name a file, or set DATABASE_URL"),
    ):
        code, output = run(command, env={"DATABASE_URL": url})
        assert (code, says in output) == (2, True), output
