"""Commands that are killed at steps spread over their run: what they leave is the old state or the new one, whole."""

import json
import shutil
from collections.abc import Iterator
from typing import Final

from ironcage_http.secrets_file import secrets_beside
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey
from tests.faults import books
from tests.faults.load import Load
from tests.faults.outcome import Bench, Counts, scenario
from tests.faults.site import Site
from tests.faults.told import Told
from tests.storage.test_older_schemas import as_it_was
from tests.support.provider_keys import BOTH, NEW, OLD, fill
from tests.support.shell import dump

_BOUNDED: Final = 4
_LONG: Final = 40
_KEYS: Final = 70
"""Provider keys to be sealed anew: more than two batches."""

_FIRST_MISSING: Final = "usage_and_limits"


def _kills(bench: Bench, name: str, steps: int) -> Iterator[int]:
    """Return at which of so many steps to kill, the first and the last among them."""
    assert steps > 1, "there is nothing to be killed in"
    count = min(steps, bench.some(_BOUNDED, _LONG))
    return bench.rounds_of(name, [1 + number * (steps - 1) // (count - 1) for number in range(count)])


def _worked(site: Site, writes: int) -> Told:
    with site.server, Load(site.server.port, site.agents).running() as load:
        load.wait_for(writes)
        load.finish()
        site.server.stop()
    return load.told


def _content(site: Site, database: str) -> list[str]:
    """Return all that a file holds, but for when its migrations were applied."""
    return [line for line in dump(site.folder / database) if "_sqlite_migrations" not in line]


@scenario(
    name="migration killed",
    made="SIGKILL of `ironcage migrate` at steps spread over it, on a database of an older version",
    seen="exit 137; then the old schema or the new one; the same command, or a start, goes on",
    recover="a-command-was-killed",
)
def migration_killed(bench: Bench) -> Counts:
    """Each time on a copy of the older database."""
    site = bench.site()
    told = _worked(site, 60)
    told.notes.clear()  # the older version knows none
    older, copy = site.folder / "older.db", site.folder / "copy.db"
    as_it_was(site.database, older, before=_FIRST_MISSING)
    before = _content(site, "older.db")
    shutil.copy(older, copy)
    steps = site.kill_at(0, "migrate", "copy.db")
    after = _content(site, "copy.db")
    assert after != before
    checks = undone = 0
    for step in _kills(bench, "migration killed", steps):
        shutil.copy(older, copy)
        site.kill_at(step, "migrate", "copy.db")
        left = _content(site, "copy.db")
        assert left in (before, after)
        undone += left == before
        assert site.run("migrate", "copy.db").code == 0
        assert _content(site, "copy.db") == after
        books.check(site, told, is_over=True, database="copy.db")
        checks += 1
    assert undone, "no kill was before the end"
    site.verify("copy.db")
    return Counts(checks, told.count, checks)


@scenario(
    name="key rotation killed",
    made="SIGKILL of `ironcage keys new`, `rotate` and `forget` at steps spread over each",
    seen="exit 137; both keys together open every provider key; the same command again goes on",
    recover="a-command-was-killed",
)
def rotation_killed(bench: Bench) -> Counts:
    """Seal anew with a key in a variable, and with one in the secrets file."""
    site = bench.site()
    told = _worked(site, 30)
    fill(site.database, OLD, count=_KEYS)
    original = site.folder / "original.db"
    shutil.copy(site.database, original)
    rotate = ("keys", "rotate", "iron.db", "--offline")
    kills = partly = 0
    for step in _kills(bench, "key rotation killed", site.kill_at(0, *rotate, environ=BOTH)):
        shutil.copy(original, site.database)
        site.kill_at(step, *rotate, environ=BOTH)
        kills += 1
        assert _opened(site, NEW, OLD) == _KEYS + 1
        partly += 0 < _opened(site, NEW) < _KEYS + 1
        assert site.run(*rotate, environ=BOTH).code == 0
        assert _opened(site, NEW) == _KEYS + 1
    assert partly, "no kill was between two batches"
    kills += _kill_renewals(bench)
    site.verify()
    return Counts(kills, books.check(site, told, is_over=True) + (_KEYS + 1), kills)


def _opened(site: Site, *keys: MasterKey) -> int:
    """Return how many of the stored secrets these master keys open."""
    vault = AesGcmVault(keys[0], keys[1:])
    known = {key.key_id for key in keys}
    rows = site.rows("SELECT id, ciphertext FROM provider_keys")
    mine = [(record, sealed) for record, sealed in rows if vault.key_id_of(sealed) in known]
    return sum(vault.open(sealed, record_id=record).startswith("sk-") for record, sealed in mine)


def _kill_renewals(bench: Bench) -> int:
    """Kill `keys new` and `keys forget`: the secrets file is the old one or the new one."""
    site = bench.site()
    file = site.folder / "iron.db.secrets"
    in_file = {"IRON_SECRETS_MASTER_KEY": ""}
    secrets_beside(site.database, may_create=True)
    kills = 0
    for command in (("keys", "new", "iron.db"), ("keys", "forget", "iron.db", "--offline")):
        before = file.read_bytes()
        steps = site.kill_at(0, *command, environ=in_file)
        for step in _kills(bench, "key rotation killed", steps):
            file.write_bytes(before)
            site.kill_at(step, *command, environ=in_file)
            left = json.loads(file.read_bytes())
            old = json.loads(before)
            assert {left["master_key"], left.get("previous_master_key")} >= {old["master_key"]}
            assert file.stat().st_mode & 0o077 == 0
            kills += 1
            if file.read_bytes() == before:
                assert site.run(*command, environ=in_file).code == 0
    return kills


@scenario(
    name="backup killed",
    made="SIGKILL of `ironcage backup` at steps spread over it, while the server works under load",
    seen="exit 137; no backup, or a whole one, and a `*.draft-*` that may be removed; the server goes on",
    recover="a-command-was-killed",
)
def backup_killed(bench: Bench) -> Counts:
    """Whatever bears the name of a backup is one."""
    site = bench.site()
    target = site.folder / "b.db"
    kills = unmade = 0
    with site.server, Load(site.server.port, site.agents).running() as load:
        load.wait_for(30)
        steps = site.kill_at(0, "backup", "iron.db", "first.db")
        for step in _kills(bench, "backup killed", steps):
            told = load.told.copy()
            site.kill_at(step, "backup", "iron.db", "b.db")
            if target.exists():
                _check_backup(site, told)
                target.unlink()
            else:
                unmade += 1
            kills += 1
        assert unmade, "no kill was before the end"
        for draft in site.folder.glob("*.draft-*"):
            draft.unlink()
        for _ in range(bench.some(2, 10)):
            load.wait_for(10)
            told = load.told.copy()
            assert site.run("backup", "iron.db", "b.db").code == 0
            _check_backup(site, told)
            target.unlink()
        load.finish()
        books.recount(site)
        site.server.stop()
    assert not load.refused, load.refused
    site.verify()
    return Counts(kills, books.check(site, load.told, is_over=True), kills)


def _check_backup(site: Site, told: Told) -> None:
    """All that was told before it was begun is in it, and it adds up."""
    site.verify("b.db")
    books.check(site, told, is_over=False, database="b.db")


@scenario(
    name="restore killed",
    made="SIGKILL of `ironcage restore --replace` at steps spread over it",
    seen="exit 137; the database as it was or as it was backed up, whole; the same command again goes on",
    recover="a-command-was-killed",
)
def restore_killed(bench: Bench) -> Counts:
    """Put an older state over a newer one."""
    site = bench.site()
    old = _worked(site, 40)
    assert site.run("backup", "iron.db", "b.db").code == 0
    backed_up = _content(site, "b.db")
    new = _worked(site, 40)
    current = site.folder / "current.db"
    shutil.copy(site.database, current)
    before = _content(site, "current.db")
    restore = ("restore", "b.db", "iron.db", "--replace")
    kills = undone = 0
    for step in _kills(bench, "restore killed", site.kill_at(0, *restore)):
        shutil.copy(current, site.database)
        site.kill_at(step, *restore)
        left = _content(site, "iron.db")
        assert left in (before, backed_up)
        undone += left == before
        assert site.run(*restore).code == 0
        assert _content(site, "iron.db") == backed_up
        kills += 1
        for kept in site.folder.glob("iron.db.replaced-*"):
            kept.unlink()
    assert undone, "no kill was before the end"
    site.verify()
    return Counts(kills, books.check(site, old, is_over=True) + new.count, kills)
