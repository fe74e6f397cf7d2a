"""`ironcage verify`, `repair` and `rebuild-rollups`: whether a database adds up, and what makes it add up again."""

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
from ironcage_http.commands.databases import EXISTING, chosen
from ironcage_http.commands.failures import telling
from ironcage_http.commands.screen import console
from ironcage_http.commands.shell import Command, Exit
from ironcage_http.verification import show_verification
from ironcage_storage.sqlite.store import SqliteStore

_BROKEN_RULE: Final = "CHECK constraint failed"
"""What SQLite says of numbers that cannot be, on pages that are sound: a repair may mend it."""


@click.command(cls=Command)
@EXISTING
@click.option("--agent", "agent_id", help="Check only this agent.")
def verify(database: Path | None, agent_id: str | None) -> None:
    """Recompute every balance of DATABASE from its ledger; exit 1 if anything differs.

    Without DATABASE it is the one of DATABASE_URL.
    """
    screen = console()
    if agent_id is not None and not is_id(agent_id, "agent"):
        raise click.UsageError("an agent id is agent_ and 32 hex digits")
    with telling(), SqliteStore(chosen(database), must_exist=True) as store:
        is_sound = _is_sound(store, screen)
        checked = store.read(partial(verify_books, agent_id=agent_id))
    if agent_id is not None and not checked.agents:
        raise click.UsageError(f"there is no agent {agent_id}")
    show_verification(checked, screen)
    if not (is_sound and checked.holds):
        raise SystemExit(Exit.DIFFERENCES)


@click.command(cls=Command)
@EXISTING
def repair(database: Path | None) -> None:
    """Make every sum in DATABASE anew from ledger, leases and usage records; exit 1 if anything still differs.

    Without DATABASE it is the one of DATABASE_URL. One transaction: a server may run, and its writes wait meanwhile.
    """
    _repair(database, rollups_only=False)


@click.command("rebuild-rollups", cls=Command)
@EXISTING
def rebuild_rollups(database: Path | None) -> None:
    """As repair, but only the sums of usage by hour and by day."""
    _repair(database, rollups_only=True)


def _repair(database: Path | None, *, rollups_only: bool) -> None:
    screen = console()
    with telling(), SqliteStore(chosen(database), must_exist=True) as store:
        if any(not complaint.startswith(_BROKEN_RULE) for complaint in store.check_file()):
            _is_sound(store, screen)  # a sum over damaged pages would look right and be wrong
            raise SystemExit(Exit.DIFFERENCES)
        done = store.write(partial(repair_books, rollups_only=rollups_only))
        is_sound = _is_sound(store, screen)
    _show(done, screen)
    if not (is_sound and done.now.holds):
        raise SystemExit(Exit.DIFFERENCES)


def _show(done: Repaired, screen: Console) -> None:
    if done.rows:
        table = Table("table", "rows repaired")
        for name, rows in done.rows.items():
            table.add_row(name, str(rows))
        screen.print(table)
    else:
        screen.print("[bold]repair[/]      nothing to do")
    show_verification(done.now, screen)


def _is_sound(store: SqliteStore, screen: Console) -> bool:
    complaints = store.check_file()
    for complaint in complaints:
        screen.print(f"[red]file[/]        {complaint}")
    return not complaints
