"""`ironcage restore`: a backup put in the place of a database, which nobody may have open meanwhile.

Nothing is touched before the whole backup was found sound, and what was there is kept. A database that SQLite can open
is written over in one transaction, in the file it is: whatever stops it leaves the old content, and no process can be
left behind on a file without a name. Only one that SQLite cannot open is moved away.
"""

import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import Final, NamedTuple

import click

from ironcage_core.errors.tree import IroncageError
from ironcage_http import variables as v
from ironcage_http.commands.databases import MAY_BE_NEW, chosen
from ironcage_http.commands.drafts import copying, draft_of, filing, put_new
from ironcage_http.commands.failures import telling
from ironcage_http.commands.screen import note, tell
from ironcage_http.commands.secret_copies import has_secrets, put_secrets, secrets_of
from ironcage_http.commands.shell import Command, Exit, Failure
from ironcage_http.commands.stopping import Work, working
from ironcage_http.folders import sync_folder
from ironcage_http.secrets_file import secrets_path
from ironcage_storage.sqlite.backups import (
    UnreadableError,
    check,
    copy,
    held,
    locked_out,
    overwrite,
    snapshot,
)
from ironcage_storage.sqlite.files import companions

_FORGOTTEN: Final = (
    "What was done since the backup is forgotten: money granted since may be granted again, and tokens and users that"
    " were revoked since live again; docs/how-to/back-up.md says what to do about it"
)


class Places(NamedTuple):
    """The database as it was named, the file that it is, and under which name what was there is kept."""

    named: Path
    file: Path
    kept: Path


@click.command(cls=Command)
@click.argument("backup", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@MAY_BE_NEW
@click.option("--replace", is_flag=True, help="Put it over a database that is there; that one is kept as a copy.")
@click.option("--with-secrets", is_flag=True, help="Put BACKUP.secrets beside it too.")
def restore(backup: Path, database: Path | None, replace: bool, with_secrets: bool) -> None:
    """Put BACKUP in the place of DATABASE, which no process may have open.

    Without DATABASE it is the one of DATABASE_URL. BACKUP is checked before anything is touched, and stays.
    """
    place = chosen(database, may_be_new=True)
    now = datetime.now(UTC)
    at = f"{now:%Y%m%dT%H%M%S}.{now.microsecond:06d}Z"  # whoever restores twice within a second keeps both
    file = place.resolve()  # SQLite keeps its log beside the file itself, not beside a link to it
    if file == backup.resolve():
        raise click.UsageError("BACKUP and DATABASE are the same file")
    places = Places(place, file, file.with_name(f"{file.name}.replaced-{at}"))
    _check_places(places, replace=replace)
    with working(f"{place} is as it was.") as work, telling():
        secrets = secrets_of(backup) if with_secrets else None
        missing = None if secrets is None or has_secrets(place, secrets) else secrets
        with snapshot(backup) as source:
            work.run("checking", source, partial(check, source))
            with put_secrets(missing, place), filing(file):
                kept = _put(work, source, places)
    _tell(backup, place, kept)


def _check_places(places: Places, *, replace: bool) -> None:
    """Refuse what would be replaced without having been asked for it."""
    if replace:
        return
    if places.file.exists():
        hint = f"{places.named} is there: --replace puts the backup over it and keeps what was there as a copy"
        raise Failure(Exit.CANNOT, hint, code="ALREADY_THERE")
    for left in companions(places.file):
        if left.exists():
            hint = (
                f"{left} is left of a database that is gone, and would be mixed into the restored one: move it away,"
                " or --replace does"
            )
            raise Failure(Exit.CANNOT, hint, code="LEFT_OVER")


def _put(work: Work, source: Connection, places: Places) -> list[Path]:
    """Put the backup in its place; return the files that keep what was there."""
    if places.file.exists():
        try:
            with held(places.file) as old:
                return _put_over(work, source, old, places)
        except UnreadableError:
            pass  # nothing of it can be copied
    with draft_of(places.file) as draft:
        with copying(work, "restoring") as advance:
            copy(source, draft, advance)
        work.check()
        with locked_out(places.file):
            kept = _move_away(places)
            put_new(draft, places.file)
    return kept


def _put_over(work: Work, source: Connection, old: Connection, places: Places) -> list[Path]:
    with draft_of(places.kept) as draft:
        with copying(work, "keeping what is there") as advance:
            copy(old, draft, advance)
        put_new(draft, places.kept)
    left = f"{places.named} is as it was, and the copy of it, {places.kept}, may be removed"
    work.what_is_left = f"{left}."
    try:
        with copying(work, "restoring") as advance:
            overwrite(source, old, advance)
    except IroncageError as error:
        raise Failure(Exit.CANNOT, f"{error.message}; {left}", code=error.code) from error
    return [places.kept]


def _move_away(places: Places) -> list[Path]:
    kept = []
    for old, new in zip((places.file, *companions(places.file)), (places.kept, *companions(places.kept)), strict=True):
        if os.path.lexists(old):
            old.rename(new)
            kept.append(new)
    sync_folder(places.file.parent)
    return kept


def _tell(backup: Path, place: Path, kept: list[Path]) -> None:
    needed, there = secrets_path(place), secrets_path(place).exists()
    tell(
        f"{place} holds the backup {backup} now",
        database=str(place),
        backup=str(backup),
        kept=[str(each) for each in kept],
        secrets=str(needed) if there else None,
    )
    for each in kept:
        note(f"What was there is kept as {each}")
    if not there and not os.environ.get(v.MASTER_KEY.name):
        own = secrets_path(backup)
        hint = f"--with-secrets would have put {own} there" if own.exists() else "put the one back that belongs to it"
        note(f"There is no {needed}: without it a server makes new secrets, which open no provider key; {hint}")
    note(f"Next: ironcage verify {place}, then start the server")
    note(_FORGOTTEN)
