"""The master key renewed from a shell, whatever goes wrong on the way; and what the doctor says."""

import contextlib
import json
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from ironcage_core.services.master_key import key_in_use, note_key_in_use
from ironcage_http.cli import main
from ironcage_http.commands import keys as key_commands
from ironcage_http.secrets_file import secrets_beside, secrets_path
from ironcage_http.settings import read_settings
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.processes import ROOT
from tests.support.provider_keys import BOTH, NEW, OLD, fill
from tests.support.servers import MAIN, ServerProcess, add_agent, ask, run_ironcage
from tests.support.world import API_KEY


def run(*arguments: object, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)
    for key in (OLD, NEW):
        assert key.to_base64() not in result.output
    return result.exit_code, " ".join(result.output.replace("│", "").split())


def start_server_with(database: Path, key: MasterKey) -> None:
    """Leave the note that a server leaves which starts with this key and an older one."""
    with SqliteStore(database, must_exist=True) as store:
        store.write(partial(note_key_in_use, key_id=key.key_id, opens_others=True))


def opened(database: Path, *keys: MasterKey) -> int:
    """Return how many of the stored secrets these master keys open."""
    vault = AesGcmVault(keys[0], keys[1:])
    with SqliteStore(database, must_exist=True) as store:
        stored = store.read(lambda uow: uow.provider_keys.all())
    count = 0
    for key in stored:
        with contextlib.suppress(Exception):
            count += vault.open(key.ciphertext, record_id=key.id).startswith(API_KEY)
    return count


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file with three secrets of the old master key."""
    fill(tmp_path / "iron.db")
    return tmp_path / "iron.db"


def test_variables_carry_a_rotation_from_key_to_key(database: Path) -> None:
    """Both keys, a server that has started with them, the rotation, and the old one is not needed any more."""
    assert run("keys", "rotate", database, **BOTH)[0] == 2
    start_server_with(database, NEW)

    code, output = run("keys", "rotate", database, **BOTH)

    assert (code, output) == (0, f"3 secrets are encrypted with master key {NEW.key_id} now")
    assert (opened(database, NEW), opened(database, OLD)) == (3, 0)
    assert run("keys", "rotate", database, **BOTH) == (0, f"0 secrets are encrypted with master key {NEW.key_id} now")


def test_a_rotation_waits_for_a_server_that_knows_the_new_key(database: Path) -> None:
    """Also when one went back to the old key; who says that none runs is believed."""
    for key in (None, OLD):
        if key is not None:
            start_server_with(database, NEW)
            start_server_with(database, key)
        code, output = run("keys", "rotate", database, **BOTH)
        assert (code, "no server has started with master key" in output) == (2, True)
        assert opened(database, OLD) == 3

    assert run("keys", "rotate", database, "--offline", **BOTH)[0] == 0
    assert opened(database, NEW) == 3


def test_a_rotation_without_the_old_key_changes_nothing(database: Path) -> None:
    """It says which secrets it could not open; with the old key at hand it goes on."""
    alone = {"IRON_SECRETS_MASTER_KEY": NEW.to_base64()}

    code, output = run("keys", "rotate", database, "--offline", **alone)

    assert (code, "3 secrets do not decrypt: prov_" in output) == (1, True)
    assert opened(database, OLD) == 3
    assert run("keys", "rotate", database, "--offline", **BOTH)[0] == 0


def test_keys_that_changed_places_rotate_back(database: Path) -> None:
    """Nothing is lost, and the right way round it is done again."""
    swapped = dict(zip(BOTH, reversed(BOTH.values()), strict=True))
    assert run("keys", "rotate", database, "--offline", **BOTH)[0] == 0

    assert run("keys", "rotate", database, "--offline", **swapped)[0] == 0

    assert opened(database, OLD) == 3


def test_the_secrets_file_carries_a_rotation_too(tmp_path: Path) -> None:
    """New key, restart, rotation, old key gone: each step refuses before the one it needs."""
    database, file = tmp_path / "iron.db", tmp_path / "iron.db.secrets"
    before = secrets_beside(database, may_create=True)
    assert before is not None
    fill(database, before.master_key)

    assert run("keys", "forget", database)[0] == 2
    assert run("keys", "new", database)[0] == 0
    during = secrets_beside(database, may_create=False)
    assert during is not None
    assert during.previous_master_key == before.master_key != during.master_key
    assert (during.jwt_secret, during.ic_token_secret) == (before.jwt_secret, before.ic_token_secret)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, output = run("keys", "new", database)
    assert (code, "end that rotation first" in output) == (3, True)
    assert run("keys", "rotate", database)[0] == 2
    settings = read_settings({}, folder=tmp_path)
    assert (settings.master_key, settings.previous_master_keys) == (during.master_key, (before.master_key,))
    start_server_with(database, during.master_key)
    code, output = run("keys", "forget", database)
    assert (code, f"3 secrets need master key {before.master_key.key_id}" in output) == (2, True)
    assert run("keys", "rotate", database)[0] == 0
    assert run("keys", "forget", database)[0] == 0
    after = secrets_beside(database, may_create=False)
    assert after is not None
    assert (after.master_key, after.previous_master_key) == (during.master_key, None)
    assert opened(database, after.master_key) == 3
    assert sorted(each.name for each in tmp_path.iterdir() if "secrets" in each.name) == ["iron.db.secrets"]


def test_a_key_in_a_variable_is_renewed_there(database: Path) -> None:
    """A new key in the file would be hidden by the variable."""
    secrets_beside(database, may_create=True)
    before = secrets_path(database).read_bytes()

    assert run("keys", "new", database, IRON_SECRETS_MASTER_KEY=OLD.to_base64())[0] == 2
    assert secrets_path(database).read_bytes() == before


def test_without_any_key_there_is_nothing_to_rotate_to(database: Path) -> None:
    """Nor a file to renew one in; a malformed variable is wrong usage and not repeated."""
    assert run("keys", "rotate", database)[0] == 2
    assert run("keys", "new", database)[0] == 3
    code, output = run("keys", "rotate", database, IRON_SECRETS_MASTER_KEY="c2hvcnQ=")
    assert (code, "IRON_SECRETS_MASTER_KEY must be base64" in output, "c2hvcnQ" in output) == (2, True, False)


@pytest.mark.parametrize("content", [5, None, "short"])
def test_a_damaged_old_key_is_no_missing_one(tmp_path: Path, content: object) -> None:
    """What it sealed would be lost without a word."""
    database = tmp_path / "iron.db"
    secrets_beside(database, may_create=True)
    file = secrets_path(database)
    file.write_text(json.dumps({**json.loads(file.read_text()), "previous_master_key": content}))
    fill(database)

    for command in (["keys", "rotate", "--offline"], ["keys", "forget"], ["keys", "new"]):
        code, output = run(*command, database)
        assert (code, "is damaged: put a backup of it back in its place" in output) == (3, True)
    code, output = run("doctor", database)
    assert (code, "is damaged: put a backup of it back in its place" in output) == (1, True)


def test_moving_from_the_file_to_a_variable_is_a_rotation(tmp_path: Path) -> None:
    """The file's key goes on opening what it sealed."""
    database = tmp_path / "iron.db"
    stored = secrets_beside(database, may_create=True)
    assert stored is not None

    settings = read_settings(
        {"DATABASE_URL": f"sqlite:///{database}", "IRON_SECRETS_MASTER_KEY": NEW.to_base64()}, folder=tmp_path
    )

    assert (settings.master_key, settings.previous_master_keys) == (NEW, (stored.master_key,))


def test_a_rotation_killed_at_any_point_is_finished_by_the_next(tmp_path: Path) -> None:
    """Whenever it dies, both keys together open everything."""
    database, count = tmp_path / "iron.db", key_commands.BATCH * 6
    fill(database, count=count)
    program = (
        "import time; from ironcage_http.commands import keys as key_commands; reseal = key_commands.reseal\n"
        "def slow(*args, **kwargs):\n"
        "    time.sleep(0.03); print('batch', flush=True); return reseal(*args, **kwargs)\n"
        f"key_commands.reseal = slow; key_commands.BATCH = 8\n{MAIN}"
    )
    partly = 0
    for batches in (1, 3):
        child = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", program, "keys", "rotate", str(database), "--offline"],
            env={"PYTHONPATH": str(ROOT / "src"), **BOTH},
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        for _ in range(batches + 1):
            child.stdout.readline()
        child.kill()
        child.wait()
        child.stdout.close()
        assert opened(database, NEW, OLD) == count
        partly += 0 < opened(database, NEW) < count

    assert partly == 2
    assert run("keys", "rotate", database, "--offline", **BOTH)[0] == 0
    assert opened(database, NEW) == count


def test_a_server_serves_through_a_rotation(tmp_path: Path) -> None:
    """Leases before, during and after it, on the same file, and the metrics name no secret."""
    database = tmp_path / "iron.db"
    server = ServerProcess(tmp_path)
    with server:
        with SqliteStore(database, must_exist=True) as store:
            agent = add_agent(store, read_settings({}, folder=tmp_path))
        fill(database, read_settings({}, folder=tmp_path).master_key or OLD, count=40)
        assert server.ask("POST", "/budget/handshake", {}, agent.headers).status == 200
        assert run("keys", "new", database)[0] == 0
        assert server.ask("POST", "/budget/handshake", {}, agent.headers).status == 200
        assert run_ironcage(tmp_path, "keys", "rotate", database).returncode == 2

    with server:
        assert server.ask("POST", "/budget/handshake", {}, agent.headers).status == 200
        _wait_for_the_note(tmp_path)
        rotated = run_ironcage(tmp_path, "keys", "rotate", database)
        assert (rotated.returncode, rotated.stdout.startswith("41 secrets")) == (0, True)
        assert server.ask("POST", "/budget/handshake", {}, agent.headers).status == 200
        assert run_ironcage(tmp_path, "keys", "forget", database).returncode == 0
        assert server.ask("POST", "/budget/handshake", {}, agent.headers).status == 200
        assert b"ironcage_undecryptable_secrets 0.0" in _metrics(server)

    with server:
        assert server.ask("POST", "/budget/handshake", {}, agent.headers).status == 200
    assert run("doctor", database)[0] == 0


def _wait_for_the_note(folder: Path) -> None:
    key = read_settings({}, folder=folder).master_key
    assert key is not None
    deadline = time.monotonic() + 10
    with SqliteStore(folder / "iron.db", must_exist=True) as store:
        while store.read(key_in_use) != key.key_id:
            assert time.monotonic() < deadline, "the server has left no note"
            time.sleep(0.05)


def _metrics(server: ServerProcess) -> bytes:
    return ask(server.port, "GET", "/metrics").raw


def test_a_server_says_at_its_start_which_secrets_do_not_decrypt(tmp_path: Path) -> None:
    """In its log and its metrics, by id."""
    fill(tmp_path / "iron.db", count=1)
    with SqliteStore(tmp_path / "iron.db", must_exist=True) as store:
        (key,) = store.read(lambda uow: uow.provider_keys.all())

    with ServerProcess(tmp_path) as server:
        deadline = time.monotonic() + 10
        while b"ironcage_undecryptable_secrets 1.0" not in _metrics(server) and time.monotonic() < deadline:
            time.sleep(0.05)
        metrics, said = _metrics(server), server.said

    assert f'ironcage_undecryptable_secret{{provider_key="{key.id}"}} 1.0'.encode() in metrics
    assert f"1 secrets do not decrypt: {key.id}" in said


def test_a_program_gets_facts_of_every_step(tmp_path: Path) -> None:
    """The database of the environment, and ids of keys, never a key."""
    file = tmp_path / "iron.db"
    before = secrets_beside(file, may_create=True)
    assert before is not None
    fill(file, before.master_key, count=2)

    def told(*arguments: str) -> dict[str, object]:
        env = {"DATABASE_URL": f"sqlite:///{file}"}
        result = CliRunner().invoke(main, ["keys", *arguments, "--json"], env=env)
        assert (result.exit_code, result.stderr) == (0, "")
        facts: dict[str, object] = json.loads(result.stdout)
        return facts

    new = told("new")
    after = secrets_beside(file, may_create=False)
    assert after is not None
    assert new == {"secrets_file": str(secrets_path(file)), "master_key": after.master_key.key_id}
    assert told("rotate", "--offline") == {"master_key": after.master_key.key_id, "resealed": 2, "unreadable": []}
    assert told("forget", "--offline")["forgotten"] == before.master_key.key_id
