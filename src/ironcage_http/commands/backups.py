"""`ironcage backup`: a copy of the database as it is at one moment, while a server goes on writing.

Its arguments stand as those of `cp` do, from where to where, and so do those of `restore`.
"""

import os
from functools import partial
from pathlib import Path

import click

from ironcage_core.errors.faults import DatabaseDamagedError
from ironcage_http.commands.databases import chosen
from ironcage_http.commands.drafts import copying, draft_of, filing, put_new, taken
from ironcage_http.commands.failures import telling
from ironcage_http.commands.screen import note, tell
from ironcage_http.commands.secret_copies import put_secrets, secrets_of
from ironcage_http.commands.shell import Command, Exit, Failure
from ironcage_http.commands.stopping import Work, working
from ironcage_http.secrets_file import secrets_path
from ironcage_storage.sqlite.backups import check, copy, snapshot
from ironcage_storage.sqlite.files import companions
from ironcage_storage.sqlite.schema import standing


def _first(_: click.Context, __: click.Parameter, files: tuple[Path, ...]) -> Path | None:
    if len(files) > 1:
        raise click.UsageError("name one database and one place for its backup")
    return files[0] if files else None


@click.command(cls=Command)
@click.argument(
    "database",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    nargs=-1,  # click gives what comes last to what comes last only behind one of these
    metavar="[DATABASE]",
    callback=_first,
)
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--with-secrets", is_flag=True, help="Copy the secrets file too, to TARGET.secrets.")
@click.option("--no-check", is_flag=True, help="Do not let SQLite check the copy.")
def backup(database: Path | None, target: Path, with_secrets: bool, no_check: bool) -> None:
    """Copy DATABASE to the new file TARGET, as it is at this moment; a server may go on writing.

    Without DATABASE it is the one of DATABASE_URL. The copy is one file that only its owner may read.
    """
    file = chosen(database)
    # What is left beside a database that is gone would be read as a part of the backup.
    for place in (target, *companions(target), *([secrets_path(target)] if with_secrets else [])):
        if os.path.lexists(place):
            raise taken(place)
    with (
        working("No backup was made, and nothing is left of it.") as work,
        telling(),
        filing(target),
        draft_of(target) as draft,
    ):
        with snapshot(file) as source, copying(work, "copying") as advance:
            standing(source)
            kept = secrets_of(file) if with_secrets else None
            copy(source, draft, advance)
        if not no_check:
            _check(work, draft, file)
        size = draft.stat().st_size
        work.check()
        with put_secrets(kept, target):
            put_new(draft, target)
    _tell(file, target, size=size, is_checked=not no_check, has_secrets=with_secrets)


def _check(work: Work, draft: Path, file: Path) -> None:
    try:
        with snapshot(draft) as copied:
            work.run("checking", copied, partial(check, copied))
    except DatabaseDamagedError as error:
        hint = f"{file}: {error.message}; --no-check copies it as it is"
        raise Failure(Exit.CANNOT, hint, code=error.code) from error


def _tell(file: Path, target: Path, *, size: int, is_checked: bool, has_secrets: bool) -> None:
    beside = secrets_path(file)
    is_beside = beside.exists()
    tell(
        f"{target} is a backup of {file}: {size:,} bytes, {'checked' if is_checked else 'not checked'}",
        database=str(file),
        backup=str(target),
        bytes=size,
        is_checked=is_checked,
        secrets=str(secrets_path(target)) if has_secrets else None,
        secrets_not_copied=str(beside) if is_beside and not has_secrets else None,
    )
    if has_secrets:
        note(f"{secrets_path(target)} opens every provider key in it: whoever has both has the keys")
    elif is_beside:
        note(f"The secrets are not in it: keep a copy of {beside} elsewhere, for without it no provider key opens")
