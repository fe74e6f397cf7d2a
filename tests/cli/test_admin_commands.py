"""Accounts from a shell, without a server."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from ironcage_core.domain.audit import AuditRow
from ironcage_core.domain.sessions import DEFAULT_SESSION_POLICY, opened
from ironcage_core.domain.users import User
from ironcage_core.ports.storage import UnitOfWork
from ironcage_http.cli import main
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sqlite.store import SqliteStore

PASSWORD = "correct horse battery"
TYPED_TWICE = f"{PASSWORD}\n{PASSWORD}\n"


def run(*arguments: object, typed: str | None = None, **environment: str) -> tuple[int, str]:
    texts = [str(argument) for argument in arguments]
    result = CliRunner().invoke(main, ["admin", *texts], input=typed, env=environment)
    return result.exit_code, " ".join(result.output.split())


def create(database: Path, *options: object, name: str = "root", typed: str | None = None) -> tuple[int, str]:
    return run("create", database, "--email", f"{name}@test", "--username", name, *options, typed=typed)


def user_of(database: Path, name: str = "root") -> User:
    with SqliteStore(database, must_exist=True) as store:
        user = store.read(lambda uow: uow.users.find_by_username(name))
    assert user is not None
    return user


def opens(user: User, password: str) -> bool:
    return Argon2PasswordHasher().verify(user.password_hash or "", password)


def audit_of(database: Path) -> list[AuditRow]:
    with SqliteStore(database, must_exist=True) as store:
        return store.read(lambda uow: list(uow.audit.rows()))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file with one admin, root."""
    file = tmp_path / "iron.db"
    assert create(file, typed=TYPED_TWICE) == (0, "Password: Repeat for confirmation: root is an admin now")
    return file


def test_the_first_admin_is_made_with_the_database(database: Path) -> None:
    """By the system, with the password that was typed and not shown, and nothing to change."""
    root = user_of(database)

    assert (root.role, root.status, root.email, root.force_password_change) == ("admin", "active", "root@test", 0)
    assert opens(root, PASSWORD)
    (row,) = audit_of(database)
    assert (row.operation, row.actor_type, row.resource_id) == ("ADMIN_BOOTSTRAPPED", "system", root.id)


def test_another_admin_is_added_with_a_password_that_is_made_up(database: Path) -> None:
    """It is printed once, and the first login must change it."""
    code, output = create(database, "--generate", name="second")

    found = re.fullmatch(r"second is an admin now; password ([\w-]{24}) \(to be changed at the first login\)", output)
    assert (code, found is not None) == (0, True)
    second = user_of(database, "second")
    assert (second.role, second.force_password_change) == ("admin", 1)
    assert found is not None
    assert opens(second, found[1])
    assert [(row.operation, row.actor_id) for row in audit_of(database)[1:]] == [("USER_CREATED", "system")]


@pytest.mark.parametrize(("content", "password"), [("abcd efgh\n", "abcd efgh"), ("  abcdefgh ", "  abcdefgh ")])
def test_a_password_may_come_from_a_file(tmp_path: Path, content: str, password: str) -> None:
    """Without the newline at its end, and otherwise as it is."""
    file = tmp_path / "password"
    file.write_text(content)

    code, _ = create(tmp_path / "iron.db", "--password-file", file)

    assert (code, opens(user_of(tmp_path / "iron.db"), password)) == (0, True)


def test_a_password_may_come_from_standard_input(tmp_path: Path) -> None:
    """For a pipe."""
    code, _ = create(tmp_path / "iron.db", "--password-file", "-", typed=f"{PASSWORD}\n")

    assert (code, opens(user_of(tmp_path / "iron.db"), PASSWORD)) == (0, True)


@pytest.mark.parametrize("identifier", ["root", "ROOT", "Root@Test"])
def test_a_lost_password_is_reset(database: Path, identifier: str) -> None:
    """Sessions and the lock end; the made-up password must be changed."""

    def lock_and_log_in(uow: UnitOfWork) -> str:
        user = uow.users.find_by_username("root")
        assert user is not None
        uow.users.put(user._replace(failed_logins=10, locked_until=uow.now + 1_000_000))
        session = opened(uow.new_id("sess"), user.id, "hash", now=uow.now, policy=DEFAULT_SESSION_POLICY)
        uow.sessions.put(session)
        return session.id

    with SqliteStore(database) as store:
        session_id = store.write(lock_and_log_in)

    code, output = run("reset-password", database, identifier, "--generate")

    assert code == 0
    found = re.search(r"password ([\w-]{24}) ", output)
    root = user_of(database)
    assert found is not None
    assert (opens(root, found[1]), opens(root, PASSWORD)) == (True, False)
    assert (root.force_password_change, root.failed_logins, root.locked_until) == (1, 0, None)
    with SqliteStore(database) as store:
        session = store.read(lambda uow: uow.sessions.find(session_id))
    assert session is not None
    assert session.revoked_reason == "password_reset"
    row = audit_of(database)[-1]
    assert (row.operation, row.actor_type) == ("USER_PASSWORD_RESET", "system")
    assert json.loads(row.metadata) == {"force_change": True, "sessions_revoked": 1}


def test_a_password_that_was_chosen_need_not_be_changed(database: Path) -> None:
    """Whoever typed it knows it."""
    code, _ = run("reset-password", database, "root", typed="another password\nanother password\n")

    root = user_of(database)
    assert (code, root.force_password_change, opens(root, "another password")) == (0, 0, True)


@pytest.mark.parametrize(
    ("password", "problem"),
    [("short", "8 to 1000 characters"), ("root@TEST", "username or the email"), (" " * 9, "whitespace")],
)
def test_the_password_policy_holds_here_too(database: Path, password: str, problem: str) -> None:
    """Exit 2 with the rule, never with the password, and nothing is changed."""
    before = user_of(database)
    typed = f"{password}\n{password}\n"

    reset = run("reset-password", database, "root", typed=typed)
    created = create(database.with_name("new.db"), typed=typed)

    for code, output in (reset, created):
        assert (code, problem in output) == (2, True), output
        assert password.strip() == "" or f" {password} " not in output
    assert user_of(database) == before
    assert not database.with_name("new.db").exists()


def test_a_longer_shortest_password_of_the_environment_counts(database: Path) -> None:
    """The server's policy is the policy; a value that is none is named."""
    typed = "ten chars.\nten chars.\n"

    tight = run("reset-password", database, "root", typed=typed, IRON_PASSWORD_MIN_LENGTH="12")
    broken = run("reset-password", database, "root", typed=typed, IRON_PASSWORD_MIN_LENGTH="soon")

    assert (tight[0], "12 to 1000 characters" in tight[1]) == (2, True)
    assert (broken[0], "IRON_PASSWORD_MIN_LENGTH must be" in broken[1]) == (2, True)
    assert opens(user_of(database), PASSWORD)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "--email", "x@test", "--username", "ROOT", "--generate"], "DUPLICATE_USERNAME"),
        (["create", "--email", "ROOT@test", "--username", "x", "--generate"], "DUPLICATE_EMAIL"),
        (["create", "--email", "x", "--username", "x@", "--generate"], "VALIDATION_ERROR"),
        (["create", "--email", "x@test", "--generate"], "--username"),
        (["create", "--email", "x@test", "--username", "x"], "the password is needed"),
        (["create", "--email", "x@test", "--username", "x", "--password-file", "nowhere"], "nowhere"),
        (["create", "--email", "x@test", "--username", "x", "--password-file", "-", "--generate"], "only one of"),
        (["reset-password", "nobody", "--generate"], "there is no user nobody"),
        (["reset-password", "--generate"], "USER"),
        (["create", "--email", "x@test", "--username", "x", "--password", PASSWORD], "--password"),
    ],
)
def test_wrong_usage_changes_nothing(database: Path, arguments: list[str], told: str) -> None:
    """Exit 2 and what is wrong; a password is never an argument."""
    before = audit_of(database)
    command, *rest = arguments

    code, output = run(command, database, *rest, typed="")

    assert (code, told in output) == (2, True), output
    assert audit_of(database) == before


def test_a_password_file_that_is_no_text_is_wrong_usage(tmp_path: Path) -> None:
    """Exit 2 without a trace of its content."""
    file = tmp_path / "password"
    file.write_bytes(b"abcdefgh\xff\xfe")

    code, output = create(tmp_path / "iron.db", "--password-file", file)

    assert (code, "abcdefgh" in output, (tmp_path / "iron.db").exists()) == (2, False, False)


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """Exit 3, as everywhere."""
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but long enough to look at it as if it were one\n" * 20)
    content = file.read_bytes()

    outcomes = [create(file, "--generate"), run("reset-password", file, "root", "--generate")]

    assert [(code, "DATABASE_DAMAGED" in output) for code, output in outcomes] == [(3, True), (3, True)]
    assert file.read_bytes() == content
    assert not any("password " in output for _, output in outcomes)


def test_no_database_is_made_to_reset_a_password(tmp_path: Path) -> None:
    """Exit 2: that would be a typing error."""
    code, _ = run("reset-password", tmp_path / "iron.db", "root", "--generate")

    assert (code, list(tmp_path.iterdir())) == (2, [])


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    """Exit 3, and no folder is made."""
    code, _ = create(tmp_path / "nowhere" / "iron.db", "--generate")

    assert (code, list(tmp_path.iterdir())) == (3, [])


def test_without_an_argument_it_is_the_database_of_the_environment(tmp_path: Path) -> None:
    """A new admin may make it; a lost password needs it there."""
    file = tmp_path / "iron.db"
    url = f"sqlite:///{file}"

    assert run("reset-password", "root", "--generate", DATABASE_URL=url)[0] == 2
    assert not file.exists()
    assert run("create", "--email", "root@test", "--username", "root", "--generate", DATABASE_URL=url)[0] == 0
    code, output = run("reset-password", "root", "--generate", DATABASE_URL=url)

    assert (code, output.startswith("root has a new password; password ")) == (0, True)
    assert run("reset-password", file, file, "root", "--generate", DATABASE_URL=url)[0] == 2
    assert run("create", "--email", "r@test", "--username", "r", "--generate", DATABASE_URL="sqlite::memory:")[0] == 2


def test_a_program_gets_the_account_and_its_password(tmp_path: Path) -> None:
    """On standard output alone; a question for a password stands on standard error."""
    file = tmp_path / "iron.db"
    who = ["--email", "root@test", "--username", "root"]

    made = CliRunner().invoke(main, ["admin", "create", str(file), *who, "--json"], input=TYPED_TWICE)
    renewed = CliRunner().invoke(main, ["admin", "reset-password", str(file), "root", "--generate", "--json"])

    root = user_of(file)
    told, again = json.loads(made.stdout), json.loads(renewed.stdout)
    facts = {"id": root.id, "username": "root", "email": "root@test", "role": "admin"}
    assert told == {**facts, "force_password_change": False}
    assert again == {**facts, "force_password_change": True, "password": again["password"]}
    assert opens(root, again["password"])
