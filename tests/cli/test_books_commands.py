"""Repair from a shell: what it mends, what it leaves, and what it says."""

import sqlite3
from pathlib import Path

import pytest

from ironcage_core.domain.audit import AuditRow
from ironcage_core.ports.lists import AuditFilter, Paging
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.shell import run, tamper
from tests.support.world import USD


def dump(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    lines = sorted(connection.iterdump())
    connection.close()
    return lines


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
