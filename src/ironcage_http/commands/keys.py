"""`ironcage keys`: the master key renewed without losing a secret.

A rotation has four steps, and each refuses to be taken before the one it needs: a new key beside the old one, a server
that knows both, every secret sealed anew, the old key gone. Whatever stops in between is a sound state.
"""

from functools import partial
from pathlib import Path
from typing import Final

import click

from ironcage_core.services.master_key import check_secrets, key_in_use, reseal, secrets_to_reseal
from ironcage_http import variables as v
from ironcage_http.commands.databases import EXISTING, chosen
from ironcage_http.commands.failures import telling
from ironcage_http.commands.master_keys import environment, known_keys
from ironcage_http.commands.screen import progress, tell
from ironcage_http.commands.shell import Exit, Group
from ironcage_http.commands.stopping import Work, working
from ironcage_http.secrets_file import (
    forget_previous_master_key,
    renew_master_key,
    secrets_beside,
    secrets_path,
)
from ironcage_storage.sealed.vault import AesGcmVault
from ironcage_storage.sqlite.store import SqliteStore

BATCH: Final = 32
"""Secrets sealed anew in one unit of work: a server's writes wait for a millisecond or two."""

_UNTOUCHED: Final = "Nothing was changed: run the command again."


@click.group(cls=Group)
def keys() -> None:
    """Renew the master key that encrypts provider keys, while the server goes on serving."""


@keys.command()
@EXISTING
def new(database: Path | None) -> None:
    """Put a new master key into the secrets file beside DATABASE; the old one still opens what it encrypted.

    Without DATABASE it is the one of DATABASE_URL.
    """
    file = chosen(database)
    with working(_UNTOUCHED) as work, telling():
        if environment().has(v.MASTER_KEY.name):
            raise click.UsageError(
                f"the master key is in {v.MASTER_KEY.name}: set a new one there (head -c 32 /dev/urandom | base64),"
                f" and {v.MASTER_KEY_PREVIOUS.name} to the old one"
            )
        work.check()
        key_id = renew_master_key(file).master_key.key_id
        tell(
            f"{secrets_path(file)} has the new master key {key_id}: restart the server, then run ironcage keys rotate",
            secrets_file=str(secrets_path(file)),
            master_key=key_id,
        )


@keys.command()
@EXISTING
@click.option("--offline", is_flag=True, help="No server runs on DATABASE.")
def rotate(database: Path | None, offline: bool) -> None:
    """Encrypt every provider key of DATABASE with the current master key; running it again goes on where it stopped.

    Without DATABASE it is the one of DATABASE_URL.
    """
    file = chosen(database)
    with working(_UNTOUCHED) as work:
        with telling(), SqliteStore(file, must_exist=True) as store:
            known = known_keys(file)
            if known.current is None:
                raise click.UsageError(
                    f"there is no master key: set {v.MASTER_KEY.name}, or put the secrets file back in its place,"
                    f" {secrets_path(file)}"
                )
            vault = AesGcmVault(known.current, known.previous)
            todo = store.read(partial(secrets_to_reseal, vault=vault))
            _check_in_use(store, vault.key_id, offline=offline)
            done, unreadable = _reseal_all(work, store, vault, todo)
        _show_rotated(vault.key_id, done, unreadable)
    if unreadable:
        raise SystemExit(Exit.DIFFERENCES)


def _check_in_use(store: SqliteStore, key_id: str, *, offline: bool) -> None:
    if not offline and store.read(key_in_use) != key_id:
        raise click.UsageError(
            f"no server has started with master key {key_id} yet, and one that runs with another would not open what"
            " is encrypted with it, or would go on with the old one: restart it first, or say --offline if none runs"
        )


def _reseal_all(work: Work, store: SqliteStore, vault: AesGcmVault, todo: list[str]) -> tuple[int, list[str]]:
    done = 0
    unreadable: list[str] = []
    with progress("encrypting secrets anew", len(todo)) as advance:
        for start in range(0, len(todo), BATCH):
            work.check()
            resealed = store.write(partial(reseal, key_ids=todo[start : start + BATCH], vault=vault))
            done += len(resealed.resealed)
            unreadable += resealed.unreadable
            advance(start + BATCH, None)
            work.what_is_left = (
                f"{done} of {len(todo)} secrets are encrypted with master key {vault.key_id} now, and the others with"
                " the old one: keep both keys, and run ironcage keys rotate again for the rest."
            )
    return done, unreadable


def _show_rotated(key_id: str, done: int, unreadable: list[str]) -> None:
    text = f"{done} secrets are encrypted with master key {key_id} now"
    if unreadable:
        text += (
            f"; {len(unreadable)} secrets do not decrypt: {' '.join(unreadable)}. Keep the old key: give the key that"
            f" made them as {v.MASTER_KEY_PREVIOUS.name} and run this again, or enter those API keys anew with"
            " ironcage providers rotate"
        )
    tell(text, master_key=key_id, resealed=done, unreadable=unreadable)


@keys.command()
@EXISTING
@click.option("--offline", is_flag=True, help="No server runs on the database.")
def forget(database: Path | None, offline: bool) -> None:
    """Take the old master key out of the secrets file beside DATABASE, if no secret needs it any more.

    Without DATABASE it is the one of DATABASE_URL.
    """
    file = chosen(database)
    with working(_UNTOUCHED) as work, telling():
        stored = secrets_beside(file, may_create=False)
        old = None if stored is None else stored.previous_master_key
        if old is None:
            raise click.UsageError(
                f"{secrets_path(file)} holds no old master key: nothing is to be forgotten there; one in"
                f" {v.MASTER_KEY_PREVIOUS.name} is forgotten by unsetting that"
            )
        known = known_keys(file)
        with SqliteStore(file, must_exist=True) as store:
            if known.current is not None:
                _check_in_use(store, known.current.key_id, offline=offline)
            health = store.read(partial(check_secrets, vault=known.vault()))
        if needing := health.by_key.get(old.key_id):
            raise click.UsageError(f"{needing} secrets need master key {old.key_id}: run ironcage keys rotate first")
        work.check()
        forget_previous_master_key(file)
        tell(
            f"master key {old.key_id} is gone from {secrets_path(file)}: backups from before the rotation need it,"
            " so keep it elsewhere as long as those; restart the server when convenient",
            secrets_file=str(secrets_path(file)),
            forgotten=old.key_id,
        )
