"""`ironcage migrate`: brings a database to the schema of this version, or tells what it lacks."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click

from ironcage_http.commands.databases import EXISTING, chosen
from ironcage_http.commands.failures import telling
from ironcage_http.commands.screen import Column, note, show_rows
from ironcage_http.commands.shell import Command, Exit, wants_json
from ironcage_storage.sqlite.backups import snapshot
from ironcage_storage.sqlite.connection import connect
from ironcage_storage.sqlite.schema import Standing, Step, standing
from ironcage_storage.sqlite.schema import migrate as apply_missing

_COLUMNS = (Column("migration", "name"), Column("what it does", "purpose"))


@click.command(cls=Command)
@EXISTING
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit 1 if the database lacks a migration.")
def migrate(database: Path | None, only_check: bool) -> None:
    """Apply the migrations that DATABASE lacks, as the start of a server does, and list them.

    Without DATABASE it is the one of DATABASE_URL. There is no way back but a backup: take one first.
    """
    file = chosen(database)
    with telling(), snapshot(file) as connection:
        found = standing(connection)
    if only_check:
        _show(found, found.missing, is_applied=False)
        if found.missing:
            note(f"Take a backup before you apply them: ironcage backup {file} TARGET")
            raise SystemExit(Exit.DIFFERENCES)
        return
    with telling(), closing(connect(str(file), must_exist=True)) as connection:
        apply_missing(connection)
    _show(found, found.missing, is_applied=True)


def _show(found: Standing, steps: Sequence[Step], *, is_applied: bool) -> None:
    total = len(found.applied) + len(found.missing)
    whole = {
        "applied": [step._asdict() for step in steps] if is_applied else [],
        "missing": [] if is_applied else [step._asdict() for step in steps],
        "total": total,
    }
    if steps or wants_json():
        show_rows([step._asdict() for step in steps], _COLUMNS, whole=whole)
    note(f"{len(steps)} of {total} migrations {'were applied now' if is_applied else 'are missing'}")
