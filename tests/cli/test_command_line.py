"""The command line, as an operator meets it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ironcage_storage.sqlite.store import SqliteStore
from tests.support.processes import ROOT
from tests.support.servers import MAIN, PATIENCE_S, ask, free_port, run_ironcage
from tests.support.shell import run, tamper


def test_the_demo_ends_with_books_that_add_up() -> None:
    """Make demo: exit 0 only if every balance recomputes."""
    code, output = run("demo")

    assert code == 0
    assert "the IP token opens to the provider key: yes" in output
    assert "counted once" in output
    assert "everything adds up" in output
    assert "sk-demo-0123" not in output


def test_verify_says_that_a_sound_database_adds_up(database: Path) -> None:
    """Exit 0, and what was recomputed."""
    code, output = run("verify", database)

    assert (code, "2 agents, 1 leases, 4 ledger entries" in output) == (0, True)


@pytest.mark.parametrize(
    ("statements", "number"),
    [
        (["UPDATE agent_budgets SET spent = spent + 1 WHERE spent > 0"], "spent"),
        (["UPDATE agent_budgets SET allocated = allocated * 2"], "allocated"),
        (["UPDATE leases SET granted = granted + 1"], "granted"),
        (["UPDATE leases SET unattributed = 5"], "total spent"),
        (["UPDATE leases SET due_at = expires_at + 1"], "due_at"),
        (["UPDATE bank_months SET spent = 0"], "bank spent"),
        (["UPDATE bank_holds SET held = held - 1"], "bank held"),
        (["UPDATE ledger_counts SET n = n + 1"], "number of adjust entries"),
        (["UPDATE lease_counts SET n = 7"], "number of active leases"),
        (["UPDATE usage_records SET report_cost_micros = 1"], "total spent"),
        (["DROP TRIGGER ledger_no_update", "UPDATE ledger SET amount = amount + 1 WHERE kind = 'spend'"], "spent"),
        (["DROP TRIGGER ledger_no_delete", "DELETE FROM ledger WHERE kind = 'spend'"], "spent"),
        (["DROP TRIGGER audit_no_update", "UPDATE audit_log SET actor_id = 'me' WHERE seq = 2"], "audit chain"),
        (["DROP TRIGGER audit_no_delete", "DELETE FROM audit_log WHERE seq = 4"], "audit chain"),
        (["DELETE FROM agent_budgets WHERE spent = 0"], "balance"),
    ],
)
def test_verify_names_what_was_changed_behind_its_back(database: Path, statements: list[str], number: str) -> None:
    """Whoever has the file can change it; the books tell."""
    tamper(database, *statements)

    code, output = run("verify", database)

    assert (code, number in output) == (1, True), output


def test_verify_of_one_agent_looks_at_that_agent_alone(database: Path) -> None:
    """The other agent's books are not read; an unknown agent is wrong usage."""
    with SqliteStore(database) as store:
        spender, saver = [balance.agent_id for balance in store.read(lambda uow: list(uow.balances.all()))]
    tamper(database, f"UPDATE agent_budgets SET spent = spent + 5 WHERE agent_id = '{spender}'")

    assert run("verify", database, "--agent", saver)[0] == 0
    assert run("verify", database, "--agent", spender)[0] == 1
    assert run("verify", database, "--agent", "agent_nobody")[0] == 2
    assert run("verify", database, "--agent", f"agent_{'0' * 32}")[0] == 2


def test_verify_takes_the_name_of_an_agent_too(database: Path) -> None:
    """Of those that live; one that several have is wrong usage."""
    with SqliteStore(database) as store:
        spender, saver = [balance.agent_id for balance in store.read(lambda uow: list(uow.balances.all()))]
    tamper(
        database,
        f"UPDATE agent_budgets SET spent = spent + 5 WHERE agent_id = '{spender}'",
        f"UPDATE agents SET name = 'spender' WHERE id = '{spender}'",
        f"UPDATE agents SET name = 'saver' WHERE id = '{saver}'",
    )

    assert [run("verify", database, "--agent", name)[0] for name in ("spender", "saver", "nobody")] == [1, 0, 2]

    tamper(database, "UPDATE agents SET name = 'both'")
    code, output = run("verify", database, "--agent", "both")
    assert (code, "2 agents are named both" in output, spender in output, saver in output) == (2, True, True, True)

    tamper(database, f"UPDATE agents SET deleted_at = 1 WHERE id = '{spender}'")
    assert run("verify", database, "--agent", "both") == run("verify", database, "--agent", saver)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--json", "agents", "list"], "--json comes after the command: main COMMAND --json"),
        (["agents", "--json", "list"], "--json comes after the command: main agents COMMAND --json"),
        (["budget", "--url", "http://h", "status"], "--url comes after the command: main budget COMMAND --url"),
        (["--jason", "agents"], "No such option '--jason'"),
    ],
)
def test_what_a_command_takes_is_told_of_before_it(arguments: list[str], hint: str) -> None:
    """Its options stand after it."""
    code, output = run(*arguments)

    assert (code, hint in output) == (2, True), output


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read as one" * 20, b"short", b""])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    """Exit 3 with what to do."""
    file = tmp_path / "notes.txt"
    file.write_bytes(content)

    code, output = run("verify", file)

    assert (code, "DATABASE_DAMAGED" in output) == (3, True)
    assert file.read_bytes() == content


def test_a_newer_database_is_refused(database: Path) -> None:
    """Exit 3: upgrade this program."""
    tamper(
        database,
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('ironcage', 'the_future', 'now')",
    )

    code, output = run("verify", database)

    assert (code, "DATABASE_NEWER" in output) == (3, True)


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    """Exit 2, and no file is made."""
    assert run("verify", tmp_path / "nowhere.db")[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_the_demo_tells_a_program_whether_it_went_well(tmp_path: Path) -> None:
    """Its story is on standard error then."""
    told = run_ironcage(tmp_path, "demo", "--json")

    document = json.loads(told.stdout)
    assert (told.returncode, document["went_well"], document["books"]["holds"]) == (0, True, True)
    assert "counted once" in told.stderr


def test_a_script_for_a_shell_is_a_document_too(tmp_path: Path) -> None:
    """With the shell it is for."""
    document = json.loads(run_ironcage(tmp_path, "completion", "zsh", "--json").stdout)

    assert (document["shell"], "_IRONCAGE_COMPLETE" in document["script"]) == ("zsh", True)


def test_a_server_tells_a_program_once_that_it_answers(tmp_path: Path) -> None:
    """One line with the address and the first login, which works; nothing of the password is on standard error."""
    port = free_port()
    child = subprocess.Popen(  # noqa: S603 - our own command line
        [sys.executable, "-c", MAIN, "serve", "--json"],
        cwd=tmp_path,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT / "src"), "SERVER_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    told = json.loads(child.stdout.readline())
    reply = ask(port, "POST", "/api/v1/auth/login", told["first_login"])
    child.send_signal(signal.SIGTERM)
    rest, said = child.communicate(timeout=PATIENCE_S)

    assert (told["url"], told["docs"]) == (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/api/docs")
    assert (reply.status, told["demo_logins"]) == (200, [])
    assert (child.returncode, rest, told["first_login"]["password"] in said) == (0, "", False)
