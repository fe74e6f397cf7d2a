"""Files: whatever is made is for its owner alone, and nothing is written where somebody else has put a link."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ironcage_http.cli import main
from ironcage_http.private_files import make_private, write_private
from ironcage_http.secrets_file import SecretsFileError, secrets_beside, secrets_path
from ironcage_http.settings import SettingsError, read_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.servers import ServerProcess, run_ironcage

NOBODY = 65534
PASSWORD = "the password of a test"
API_KEY = "sk-proj-of-a-test-0123456789abcdef"
ADMIN = {"IRON_ADMIN_EMAIL": "root@test.io", "IRON_ADMIN_PASSWORD": PASSWORD, "IRON_DEPLOYMENT_MODE": "development"}


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A shell that takes nothing away from the modes of files: what is private is made so."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_everything_that_a_day_makes_is_for_its_owner_alone(tmp_path: Path) -> None:
    """The database and its companions, secrets, login, token, export, backup and what is kept of a restore."""
    given, made = tmp_path / "given", tmp_path / "made"
    given.mkdir()
    made.mkdir()
    (given / "password").write_text(PASSWORD)
    (given / "key").write_text(API_KEY)
    environ = {"IRON_CONFIG_DIR": str(made / "config" / "ironcage")}

    def run(*arguments: object) -> None:
        done = run_ironcage(made, *arguments, **environ)
        assert done.returncode == 0, done.stderr
        assert not any(each in done.stdout + done.stderr for each in (PASSWORD, API_KEY))

    with ServerProcess(made, **ADMIN) as server:
        run("login", f"http://127.0.0.1:{server.port}", "-u", "admin", "--password-file", given / "password")
        run("providers", "add", "openai", "--key-file", given / "key")
        run("tokens", "create", "mine", "--token-out", "token.txt")
        run("usage", "export", "usage", "--out", "usage.csv")
        run("backup", "iron.db", "copy.db", "--with-secrets")
        modes = modes_in(made)
        server.terminate()
    run("restore", "copy.db", "iron.db", "--replace")

    assert {"iron.db", "iron.db-wal", "iron.db-shm", "iron.db.secrets", "token.txt", "usage.csv"} <= set(modes)
    assert {"copy.db", "copy.db.secrets", "config", "ironcage"} <= set(modes)
    assert open_to_others(modes) == []
    after = modes_in(made)
    assert len(set(after) - set(modes)) == 1  # what the restore has put away
    assert open_to_others(after) == []


def modes_in(folder: Path) -> dict[str, int]:
    """Return the mode of everything in a folder, but for what the test itself writes there."""
    found = [path for path in folder.rglob("*") if not path.name.startswith("output-")]
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in found}


def open_to_others(modes: dict[str, int]) -> list[str]:
    # The folder above the last one is nobody's secret: only the last is ours.
    return [name for name, mode in modes.items() if mode & 0o077 and name != "config"]


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_link_that_somebody_has_planted_is_not_written_through(tmp_path: Path, target: str) -> None:
    """As in a folder that everybody may write to."""
    victim = tmp_path / "victim"
    if target == "there":
        victim.write_text("precious")
    place = tmp_path / "place"
    place.symlink_to(victim)

    with pytest.raises(FileExistsError):
        make_private(place)
    write_private(place, b"new")

    assert not place.is_symlink()
    assert (victim.read_text() if victim.exists() else None) == ("precious" if target == "there" else None)


def test_a_backup_is_not_written_through_a_link(tmp_path: Path) -> None:
    """Not even to where nothing is yet."""
    with SqliteStore(tmp_path / "iron.db"):
        pass
    (tmp_path / "copy.db").symlink_to(tmp_path / "victim")

    assert run_ironcage(tmp_path, "backup", "iron.db", "copy.db").returncode == 3
    assert not (tmp_path / "victim").exists()


@pytest.mark.usefixtures("open_umask")
def test_a_database_behind_a_link_is_private_too(tmp_path: Path) -> None:
    """Operators link to a larger disk before there is anything there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "iron.db").symlink_to(disk / "real.db")

    with SqliteStore(tmp_path / "iron.db") as store:
        store.read(lambda uow: uow.users.is_empty())
        modes = modes_in(disk)

    assert (set(modes), open_to_others(modes)) == ({"real.db", "real.db-wal", "real.db-shm"}, [])


def test_secrets_are_not_made_where_a_link_leads(tmp_path: Path) -> None:
    """Somebody may have put it there to learn them, or to have another file written over."""
    database, victim = tmp_path / "iron.db", tmp_path / "victim"
    secrets_path(database).symlink_to(victim)

    with pytest.raises(SecretsFileError, match="leads nowhere"):
        secrets_beside(database, may_create=True)

    assert not victim.exists()


def test_a_server_whose_secrets_are_not_there_does_not_take_public_ones(tmp_path: Path) -> None:
    """A disk that is not mounted leaves a link that leads nowhere; what would be signed then, anybody could sign."""
    secrets_path(tmp_path / "iron.db").symlink_to(tmp_path / "disk" / "secrets")

    with pytest.raises(SettingsError, match="leads nowhere"):
        read_settings({"SERVER_HOST": "0.0.0.0"}, folder=tmp_path)  # noqa: S104 - as others reach it


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_secrets_that_somebody_has_put_there_are_not_used(tmp_path: Path) -> None:
    """Root reads everything; what a neighbour has put into `/tmp` must not become the master key."""
    database = tmp_path / "iron.db"
    secrets_beside(database, may_create=True)
    os.chown(secrets_path(database), NOBODY, NOBODY)

    with pytest.raises(SecretsFileError, match="belongs to somebody else"):
        secrets_beside(database, may_create=True)

    os.chown(tmp_path, NOBODY, NOBODY)
    assert secrets_beside(database, may_create=True) is not None  # root looks after a service's folder


def commands(group: click.Group) -> Iterator[click.Command]:
    """Return every command below a group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command) if isinstance(command, click.Group) else [command]


NAMES = {
    "token_id": "the id of an API token",
    "key": "the name or id of a provider key",
    "keys": "likewise",
    "provider_key": "likewise",
    "idempotency_key": "made up by who asks, so that the same again counts once",
    "max_tokens_per_day": "a number",
    "daily_token_limit": "a number",
}
"""What is called like a secret and is none."""


def test_no_command_takes_a_secret_as_an_argument() -> None:
    """Everybody on the machine reads the arguments of a process, and a shell remembers them."""
    words = ("password", "secret", "token", "key", "credential")
    taken = {
        parameter.name
        for command in commands(main)
        for parameter in command.params
        if any(word in str(parameter.name) for word in words)
        and not isinstance(parameter.type, click.File | click.Path | click.types.BoolParamType)
    }

    assert taken == set(NAMES)


def test_the_list_of_processes_shows_no_secret(tmp_path: Path) -> None:
    """Neither that of the variables nor one that was made up."""
    with ServerProcess(tmp_path, **ADMIN, JWT_SECRET="j" * 40) as server:
        path = Path(f"/proc/{server.process.pid}/cmdline")
        if not path.exists():
            pytest.skip("this machine lists processes elsewhere")
        shown = path.read_bytes()

    assert b"ironcage" in shown
    assert not any(each in shown for each in (PASSWORD.encode(), b"jjjj"))
