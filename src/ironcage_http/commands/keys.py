"""`ironcage keys` and `ironcage doctor`: the master key renewed without losing a secret, and a look at what is stored.

A rotation has four steps, and each refuses to be taken before the one it needs: a new key beside the old one, a server
that knows both, every secret sealed anew, the old key gone. Whatever stops in between is a sound state.
"""

import os
from functools import partial
from pathlib import Path
from typing import Final

import click

from ironcage_core.services.master_key import (
    SecretsHealth,
    check_secrets,
    key_in_use,
    reseal,
    secrets_to_reseal,
)
from ironcage_http import variables as v
from ironcage_http.commands.failures import telling
from ironcage_http.commands.shell import Command, Group
from ironcage_http.environment import Environment
from ironcage_http.secrets_file import (
    forget_previous_master_key,
    renew_master_key,
    secrets_beside,
    secrets_path,
)
from ironcage_http.settings_secrets import MasterKeys, master_keys
from ironcage_storage.sealed.vault import AesGcmVault, NoVault
from ironcage_storage.sqlite.store import SqliteStore

TROUBLE_FOUND: Final = 1
BATCH: Final = 32
"""Secrets sealed anew in one unit of work: a server's writes wait for a millisecond or two."""

_EXISTING: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=Group)
def keys() -> None:
    """Renew the master key that encrypts provider keys, while the server goes on serving."""


@keys.command()
@click.argument("database", type=_EXISTING)
def new(database: Path) -> None:
    """Put a new master key into the secrets file beside DATABASE; the old one still opens what it encrypted."""
    with telling():
        if Environment(os.environ, [v.MASTER_KEY]).has(v.MASTER_KEY.name):
            raise click.UsageError(f"the master key is in {v.MASTER_KEY.name}: set the new one there")
        stored = renew_master_key(database)
    click.echo(f"{secrets_path(database)} has the new master key {stored.master_key.key_id}: restart the server")


@keys.command()
@click.argument("database", type=_EXISTING)
@click.option("--offline", is_flag=True, help="No server runs on DATABASE.")
def rotate(database: Path, offline: bool) -> None:
    """Encrypt every provider key of DATABASE with the current master key; running it again goes on where it stopped."""
    with telling(), SqliteStore(database, must_exist=True) as store:
        known = _known_keys(database)
        if known.current is None:
            raise click.UsageError(f"there is no master key: set {v.MASTER_KEY.name}")
        vault = AesGcmVault(known.current, known.previous)
        todo = store.read(partial(secrets_to_reseal, vault=vault))
        _check_in_use(store, vault.key_id, offline=offline)
        done, unreadable = _reseal_all(store, vault, todo)
    click.echo(f"{done} secrets are encrypted with master key {vault.key_id} now")
    if unreadable:
        click.echo(f"{len(unreadable)} secrets do not decrypt: {' '.join(unreadable)}")
        raise SystemExit(TROUBLE_FOUND)


def _check_in_use(store: SqliteStore, key_id: str, *, offline: bool) -> None:
    if not offline and store.read(key_in_use) != key_id:
        raise click.UsageError(
            f"no server has started with master key {key_id} yet, and one that runs with another would not open what"
            " is encrypted with it, or would go on with the old one: restart it first, or say --offline if none runs"
        )


def _reseal_all(store: SqliteStore, vault: AesGcmVault, todo: list[str]) -> tuple[int, list[str]]:
    done = 0
    unreadable: list[str] = []
    for start in range(0, len(todo), BATCH):
        resealed = store.write(partial(reseal, key_ids=todo[start : start + BATCH], vault=vault))
        done += len(resealed.resealed)
        unreadable += resealed.unreadable
    return done, unreadable


@keys.command()
@click.argument("database", type=_EXISTING)
@click.option("--offline", is_flag=True, help="No server runs on the database.")
def forget(database: Path, offline: bool) -> None:
    """Take the old master key out of the secrets file beside DATABASE, if no secret needs it any more."""
    with telling():
        stored = secrets_beside(database, may_create=False)
        old = None if stored is None else stored.previous_master_key
        if old is None:
            raise click.UsageError(f"{secrets_path(database)} holds no old master key")
        known = _known_keys(database)
        with SqliteStore(database, must_exist=True) as store:
            if known.current is not None:
                _check_in_use(store, known.current.key_id, offline=offline)
            health = store.read(partial(check_secrets, vault=_vault(known)))
        if needing := health.by_key.get(old.key_id):
            raise click.UsageError(f"{needing} secrets need master key {old.key_id}: run ironcage keys rotate first")
        forget_previous_master_key(database)
    click.echo(f"master key {old.key_id} is gone from {secrets_path(database)}")


@click.command(cls=Command)
@click.argument("database", type=_EXISTING)
def doctor(database: Path) -> None:
    """Check the file DATABASE and whether every secret in it decrypts; exit 1 if anything is wrong."""
    with telling(), SqliteStore(database, must_exist=True) as store:
        known = _known_keys(database)
        complaints = store.check_file()
        health = store.read(partial(check_secrets, vault=_vault(known)))
    for complaint in complaints:
        click.echo(f"file: {complaint}")
    if not complaints:
        click.echo("file: sound")
    _tell(health, known)
    if complaints or health.unreadable:
        raise SystemExit(TROUBLE_FOUND)


def _tell(health: SecretsHealth, known: MasterKeys) -> None:
    click.echo(f"secrets: {health.total}, of which {len(health.unreadable)} do not decrypt")
    for key_id in health.unreadable:
        click.echo(f"  {key_id} does not decrypt")
    kinds = {key.key_id: "old" for key in known.previous}
    if known.current is not None:
        kinds[known.current.key_id] = "current"
    else:
        click.echo("master key: none is known")
    for made_by in dict.fromkeys([*kinds, *health.by_key]):
        name = "damaged beyond a key id" if made_by is None else f"master key {made_by}"
        kind = "" if made_by is None else f" ({kinds.get(made_by, 'unknown')})"
        click.echo(f"{name}{kind}: {health.by_key.get(made_by, 0)} secrets")


def _known_keys(database: Path) -> MasterKeys:
    """Return the master keys that a server on this database would know, of this environment and the secrets file."""
    env = Environment(os.environ, [v.MASTER_KEY, v.MASTER_KEY_PREVIOUS])
    if env.problems:
        raise click.UsageError("; ".join(env.problems))
    return master_keys(env, secrets_beside(database, may_create=False))


def _vault(known: MasterKeys) -> AesGcmVault | NoVault:
    return NoVault() if known.current is None else AesGcmVault(known.current, known.previous)
