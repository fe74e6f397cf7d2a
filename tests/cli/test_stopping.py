"""Ctrl-C at a command that works on a file: it ends soon, says what is left, and nothing is damaged."""

import json
import sqlite3
from pathlib import Path

import pytest

from ironcage_http.secrets_file import renew_master_key, secrets_beside, secrets_path
from tests.support.interrupting import Stopped, stopped
from tests.support.provider_keys import BOTH, NEW, fill
from tests.support.shell import dump, run, tamper

SLOW_CHECK = """
from ironcage_storage.sqlite.store import SqliteStore
SqliteStore.check_file = lambda store: long_statement(store._connection)
"""
SLOW_VERIFY = """
from ironcage_http.commands import books
books.verify_books = lambda uow, agent_id: long_statement(uow._session.connection)
"""
SLOW_REPAIR = """
from ironcage_http.commands import books
repair = books.repair_books
def slow(uow, **options):
    done = repair(uow, **options)
    long_statement(uow._session.connection)
    return done
books.repair_books = slow
"""
LATE = """
import time
from ironcage_http.commands import books
repair = books.repair_books
def slow(uow, **options):
    done = repair(uow, **options)
    mark()
    time.sleep(1)  # no statement runs that could be given up
    return done
books.repair_books = slow
"""
SLOW_SECOND_CHECK = """
from ironcage_storage.sqlite.store import SqliteStore
checks = []
check = SqliteStore.check_file
def slow(store):
    checks.append(1)
    return check(store) if len(checks) == 1 else long_statement(store._connection)
SqliteStore.check_file = slow
"""
SLOW_CLOSING = """
from ironcage_storage.sqlite.store import SqliteStore
import time
close = SqliteStore.close
def slow(store):
    mark()
    time.sleep(0.5)
    close(store)
SqliteStore.close = slow
"""
SLOW_DOCTOR = """
from ironcage_storage.sqlite.inspection import Inspection
Inspection.complaints = lambda look: long_statement(look._connection)
"""


def is_clean(ended: Stopped, left: str) -> bool:
    """Tell whether a command was stopped with one message and no more."""
    lines = ended.err.splitlines()
    assert (ended.code, len(lines), lines[0][:15], ended.out) == (130, 1, "Error: Stopped.", ""), ended
    assert left in lines[0], ended
    return True


def held(file: Path) -> int:
    connection = sqlite3.connect(file)
    ((sum_held,),) = connection.execute("SELECT sum(held) FROM bank_holds").fetchall()
    connection.close()
    return int(sum_held)


def is_closed(file: Path) -> bool:
    """Tell whether the last process that had the file open closed it as it should."""
    return not any(file.with_name(file.name + suffix).exists() for suffix in ("-wal", "-shm"))


@pytest.mark.parametrize("times", [1, 300])
@pytest.mark.parametrize("change", [SLOW_CHECK, SLOW_VERIFY, SLOW_CLOSING])
def test_verify_can_be_stopped_wherever_it_is(database: Path, change: str, times: int) -> None:
    """In the check of the file, in the sums and while it closes; pressed on and on it changes nothing."""
    ended = stopped(change, "verify", database, times=times)

    assert is_clean(ended, "run it again")
    assert is_closed(database)
    assert run("verify", database)[0] == 0


@pytest.mark.parametrize("times", [1, 300])
@pytest.mark.parametrize("change", [SLOW_CHECK, SLOW_REPAIR, LATE])
def test_a_repair_that_is_stopped_has_changed_nothing(database: Path, change: str, times: int) -> None:
    """It is one transaction: what it had done by then is undone, and the next one does it all."""
    tamper(database, "UPDATE bank_holds SET held = held - 5", "DELETE FROM usage_days")
    before = held(database)

    ended = stopped(change, "repair", database, times=times)

    assert is_clean(ended, "Nothing was repaired")
    assert is_closed(database)
    assert held(database) == before
    code, output = run("repair", database)
    assert (code, "bank_holds │ 1" in output, "usage_days │ 1" in output) == (0, True, True)


def test_a_repair_that_is_done_stays_and_says_so(database: Path) -> None:
    """Ctrl-C comes in the check behind it."""
    tamper(database, "UPDATE bank_holds SET held = held - 5")
    before = held(database)

    ended = stopped(SLOW_SECOND_CHECK, "repair", database)

    assert is_clean(ended, "The repair was done whole and stays")
    assert (held(database), run("verify", database)[0]) == (before + 5, 0)


def test_rebuilding_rollups_can_be_stopped_too(database: Path) -> None:
    """As the repair it is a part of."""
    tamper(database, "DELETE FROM usage_days")

    ended = stopped(SLOW_REPAIR, "rebuild-rollups", database)

    assert is_clean(ended, "Nothing was repaired")
    assert run("verify", database)[0] == 1


@pytest.mark.parametrize("times", [1, 300])
def test_the_doctor_can_be_stopped(database: Path, times: int) -> None:
    """It has changed nothing anyway."""
    ended = stopped(SLOW_DOCTOR, "doctor", database, times=times)

    assert is_clean(ended, "run it again")


def test_a_program_is_told_that_a_command_was_stopped(database: Path) -> None:
    """As JSON on standard error, nothing on standard output."""
    ended = stopped(SLOW_VERIFY, "verify", database, "--json")

    told = json.loads(ended.err)
    assert (ended.code, ended.out, told["code"], "Stopped." in told["error"]) == (130, "", "INTERRUPTED", True)


def test_who_ignores_ctrl_c_for_a_command_is_obeyed(database: Path) -> None:
    """A shell does so for what it runs in the background."""
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"

    ended = stopped(ignoring + SLOW_CLOSING, "verify", database, times=20)

    assert (ended.code, "everything adds up" in ended.out) == (0, True)


def slowed(place: str, *, after: bool = False) -> str:
    """Return the change that makes a function mark its beginning, or its end, and then rest for a while."""
    module, name = place.rsplit(".", 1)
    rest = "mark(); time.sleep(0.5)"
    before_it, behind_it = ("pass", rest) if after else (rest, "pass")
    return f"""
import time
from ironcage_http.commands import {module} as module
real = module.{name}
def slow(*args, **options):
    {before_it}
    done = real(*args, **options)
    {behind_it}
    return done
module.{name} = slow
"""


@pytest.fixture
def rotating(tmp_path: Path) -> Path:
    """A database with a provider key, and a secrets file in the middle of a rotation."""
    file = tmp_path / "iron.db"
    stored = secrets_beside(file, may_create=True)
    assert stored is not None
    fill(file, stored.master_key, count=1)
    renew_master_key(file)
    return file


NEW_ADMIN = ("--email", "x@test", "--username", "x", "--generate")


@pytest.mark.parametrize(
    ("place", "command", "options"),
    [
        ("keys.environment", ("keys", "new"), ()),
        ("keys.check_secrets", ("keys", "forget"), ("--offline",)),
        ("keys.secrets_to_reseal", ("keys", "rotate"), ("--offline",)),
        ("admin.user_problems", ("admin", "create"), NEW_ADMIN),
        ("admin.find_account", ("admin", "reset-password"), ("root", "--generate")),
    ],
)
def test_a_short_command_is_stopped_before_its_only_step(
    rotating: Path, place: str, command: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """Nothing is changed then, and it says so."""
    assert run("admin", "create", rotating, "--email", "root@test", "--username", "root", "--generate")[0] == 0
    if command[1] in {"new", "forget"}:
        assert run("keys", "rotate", rotating, "--offline")[0] == 0
    if command[1] == "new":
        assert run("keys", "forget", rotating, "--offline")[0] == 0
    before = [*dump(rotating), secrets_path(rotating).read_text()]

    ended = stopped(slowed(place), *command, rotating, *options)

    assert is_clean(ended, "was changed: run the command again.")
    assert [*dump(rotating), secrets_path(rotating).read_text()] == before


@pytest.mark.parametrize("times", [1, 300])
def test_a_password_that_counts_by_then_is_shown(tmp_path: Path, times: int) -> None:
    """The account is made: who would not be shown its password could not use it."""
    file = tmp_path / "iron.db"

    ended = stopped(SLOW_CLOSING, "admin", "create", file, *NEW_ADMIN, times=times)

    assert (ended.code, "x is an admin now; password " in ended.out, ended.err) == (0, True, "")


@pytest.mark.parametrize("times", [1, 300])
def test_a_rotation_that_is_stopped_says_how_far_it_came(tmp_path: Path, times: int) -> None:
    """It ends between two batches, and the next one does the rest."""
    file, count = tmp_path / "iron.db", 24
    fill(file, count=count)

    in_eights = slowed("keys.reseal") + "module.BATCH = 8\n"
    ended = stopped(in_eights, "keys", "rotate", file, "--offline", times=times, env=BOTH)

    assert is_clean(ended, f"8 of {count} secrets are encrypted with master key {NEW.key_id} now")
    assert is_closed(file)
    assert run("doctor", file, env=BOTH)[0] == 0
    code, output = run("keys", "rotate", file, "--offline", env=BOTH)
    assert (code, output.startswith("16 secrets are encrypted")) == (0, True)


def test_ctrl_c_at_the_question_for_a_password_is_no_wrong_usage(tmp_path: Path) -> None:
    """As anywhere else; the end of standard input is."""
    typing = """
import click.termui, signal
def asked(_):
    mark(); signal.pause()
click.termui.hidden_prompt_func = asked
"""

    ended = stopped(typing, "admin", "create", tmp_path / "iron.db", "--email", "x@test", "--username", "x")

    assert (ended.code, "Nothing was done." in ended.err) == (130, True)
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_the_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its database is gone with its folder."""
    slow = """
from ironcage_http import rehearsal
import time
def slow(*_):
    mark(); time.sleep(20)
rehearsal.play = slow
"""

    ended = stopped(slow, "demo", "--json", env={"TMPDIR": str(tmp_path)})

    assert (ended.code, ended.out, "Traceback" in ended.err, "Stopped." in ended.err) == (130, "", False, True)
    assert list(tmp_path.iterdir()) == []
