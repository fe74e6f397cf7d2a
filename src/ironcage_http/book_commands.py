"""`ironcage verify`, `repair` and `rebuild-rollups`: whether a database adds up, and what makes it add up again."""

import os
from functools import partial
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from ironcage_core.domain.ids import is_id
from ironcage_core.services.repair import Repaired
from ironcage_core.services.repair import repair as repair_books
from ironcage_core.services.verify import verify as verify_books
from ironcage_http import variables as v
from ironcage_http.command_errors import telling
from ironcage_http.environment import Environment
from ironcage_http.verification import show_verification
from ironcage_storage.sqlite.store import SqliteStore

DIFFERENCES_FOUND: Final = 1

_BROKEN_RULE: Final = "CHECK constraint failed"
"""What SQLite says of numbers that cannot be, on pages that are sound: a repair may mend it."""

_DATABASE: Final = click.argument(
    "database", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False
)


def table_console() -> Console:
    """Return a console that is never narrower than the widest table: a pipe or a small window cuts no number off."""
    return Console(width=max(Console().width, 100), highlight=False)


@click.command()
@_DATABASE
@click.option("--agent", "agent_id", help="Check only this agent.")
def verify(database: Path | None, agent_id: str | None) -> None:
    """Recompute every balance of DATABASE from its ledger; exit 1 if anything differs.

    Without DATABASE it is the one of DATABASE_URL.
    """
    console = table_console()
    if agent_id is not None and not is_id(agent_id, "agent"):
        raise click.UsageError("an agent id is agent_ and 32 hex digits")
    with telling(), SqliteStore(_chosen(database), must_exist=True) as store:
        is_sound = _is_sound(store, console)
        checked = store.read(partial(verify_books, agent_id=agent_id))
    if agent_id is not None and not checked.agents:
        raise click.UsageError(f"there is no agent {agent_id}")
    show_verification(checked, console)
    if not (is_sound and checked.holds):
        raise SystemExit(DIFFERENCES_FOUND)


@click.command()
@_DATABASE
def repair(database: Path | None) -> None:
    """Make every sum in DATABASE anew from ledger, leases and usage records; exit 1 if anything still differs.

    Without DATABASE it is the one of DATABASE_URL. One transaction: a server may run, and its writes wait meanwhile.
    """
    _repair(database, rollups_only=False)


@click.command("rebuild-rollups")
@_DATABASE
def rebuild_rollups(database: Path | None) -> None:
    """As repair, but only the sums of usage by hour and by day."""
    _repair(database, rollups_only=True)


def _repair(database: Path | None, *, rollups_only: bool) -> None:
    console = table_console()
    with telling(), SqliteStore(_chosen(database), must_exist=True) as store:
        if any(not complaint.startswith(_BROKEN_RULE) for complaint in store.check_file()):
            _is_sound(store, console)  # a sum over damaged pages would look right and be wrong
            raise SystemExit(DIFFERENCES_FOUND)
        done = store.write(partial(repair_books, rollups_only=rollups_only))
        is_sound = _is_sound(store, console)
    _show(done, console)
    if not (is_sound and done.now.holds):
        raise SystemExit(DIFFERENCES_FOUND)


def _show(done: Repaired, console: Console) -> None:
    if done.rows:
        table = Table("table", "rows repaired")
        for name, rows in done.rows.items():
            table.add_row(name, str(rows))
        console.print(table)
    else:
        console.print("[bold]repair[/]      nothing to do")
    show_verification(done.now, console)


def _is_sound(store: SqliteStore, console: Console) -> bool:
    complaints = store.check_file()
    for complaint in complaints:
        console.print(f"[red]file[/]        {complaint}")
    return not complaints


def _chosen(database: Path | None) -> Path:
    """Return the file of the argument, else that of the environment."""
    if database is not None:
        return database
    env = Environment(os.environ, [v.DATABASE])
    if env.problems:
        raise click.UsageError(env.problems[0])
    file = env.read(v.DATABASE)
    if not isinstance(file, Path) or not file.is_file():
        raise click.UsageError(f"which database? Name a file, or set {v.DATABASE.name}")
    return file
