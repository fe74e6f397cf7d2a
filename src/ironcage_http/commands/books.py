"""`ironcage verify`, `repair` and `rebuild-rollups`: whether a database adds up, and what makes it add up again."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from ironcage_core.domain.ids import is_id
from ironcage_core.errors.tree import IroncageError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.repair import Repaired
from ironcage_core.services.repair import repair as repair_books
from ironcage_core.services.verify import Verification
from ironcage_core.services.verify import verify as verify_books
from ironcage_http.commands.databases import CHECKING, EXISTING, chosen
from ironcage_http.commands.failures import telling
from ironcage_http.commands.screen import console, show_json
from ironcage_http.commands.shell import Command, Exit, wants_json
from ironcage_http.commands.stopping import Work, working
from ironcage_http.commands.verification import (
    FILE_ADVICE,
    differences_of,
    facts_of,
    show_complaints,
    show_verification,
)
from ironcage_storage.sqlite.store import SqliteStore

_BROKEN_RULE: Final = "CHECK constraint failed"
"""What SQLite says of numbers that cannot be, on pages that are sound: a repair may mend it."""

_RECOMPUTING: Final = "recomputing every sum"
_NO_RESULT: Final = "Verify changes no numbers, and there is no result: run it again for one."
_UNTOUCHED: Final = "Nothing was repaired, and no number was changed: run the command again."
_REPAIRED: Final = "The repair was done whole and stays; only its check is missing: run ironcage verify."


@click.command(cls=Command)
@EXISTING
@click.option("--agent", help="Check only this agent, by name or id.")
def verify(database: Path | None, agent: str | None) -> None:
    """Recompute every balance of DATABASE from its ledger; exit 1 if anything differs.

    Without DATABASE it is the one of DATABASE_URL.
    """
    file = chosen(database)
    with working(_NO_RESULT) as work:
        with telling(), SqliteStore(file, must_exist=True) as store:
            complaints = work.run(CHECKING, store, store.check_file)
            checked = _recomputed(work, store, agent, is_sound=not complaints)
        work.check()
        if agent is not None and checked is not None and not checked.agents:
            raise _nobody(agent)
        _show_verified(file, complaints, checked)
    if complaints or checked is None or not checked.holds:
        raise SystemExit(Exit.DIFFERENCES)


def _recomputed(work: Work, store: SqliteStore, agent: str | None, *, is_sound: bool) -> Verification | None:
    """Return what was recomputed; None where a damaged file does not even let itself be read."""
    try:
        return work.run(_RECOMPUTING, store, partial(store.read, partial(_verified, agent=agent)))
    except IroncageError:
        if is_sound:
            raise
        return None


def _verified(uow: UnitOfWork, agent: str | None) -> Verification:
    return verify_books(uow, agent_id=None if agent is None else _id_of(uow, agent))


def _id_of(uow: UnitOfWork, agent: str) -> str:
    """Return the id of an agent that somebody named by its name or its id; of names only living ones count.

    Raises:
        click.UsageError: None has that name, or more than one.
    """
    if is_id(agent, "agent"):
        return agent
    names = uow.agents.names([balance.agent_id for balance in uow.balances.all()])
    named = (uow.agents.find(agent_id) for agent_id, name in names.items() if name == agent)
    ids = [each.id for each in named if each is not None and each.deleted_at is None]
    if not ids:
        raise _nobody(agent)
    if len(ids) > 1:
        raise click.UsageError(f"{len(ids)} agents are named {agent}: {' '.join(ids)}")
    return ids[0]


def _nobody(agent: str) -> click.UsageError:
    return click.UsageError(f"there is no agent {agent}; ironcage agents list shows those there are")


def _show_verified(file: Path, complaints: Sequence[str], checked: Verification | None) -> None:
    if wants_json():
        show_json(_document(file, complaints, checked))
        return
    screen = console()
    show_complaints(complaints, screen)
    if checked is not None:
        show_verification(checked, screen)
    if _has_damage(complaints) or checked is None:
        screen.print(FILE_ADVICE)
    elif complaints or not checked.holds:
        screen.print("Keep a copy of the file (ironcage backup), then let ironcage repair make the sums anew.")


def _has_damage(complaints: Sequence[str]) -> bool:
    return any(not complaint.startswith(_BROKEN_RULE) for complaint in complaints)


def _document(file: Path, complaints: Sequence[str], checked: Verification | None, **more: object) -> dict[str, Any]:
    is_well = not complaints and checked is not None and checked.holds
    books = None if checked is None else facts_of(checked)
    return {"database": str(file), "sound": is_well, "file_complaints": complaints, **more, "books": books}


@click.command(cls=Command)
@EXISTING
def repair(database: Path | None) -> None:
    """Make every sum in DATABASE anew from ledger, leases and usage records; exit 1 if anything still differs.

    Without DATABASE it is the one of DATABASE_URL. One transaction: a server may run, and its writes wait meanwhile.
    """
    _repair(chosen(database), rollups_only=False)


@click.command("rebuild-rollups", cls=Command)
@EXISTING
def rebuild_rollups(database: Path | None) -> None:
    """As repair, but only the sums of usage by hour and by day."""
    _repair(chosen(database), rollups_only=True)


def _repair(file: Path, *, rollups_only: bool) -> None:
    done: Repaired | None = None
    with working(_UNTOUCHED) as work:
        with telling(), SqliteStore(file, must_exist=True) as store:
            complaints = work.run(CHECKING, store, store.check_file)
            if not _has_damage(complaints):  # a sum over damaged pages would look right and be wrong
                mend = partial(_whole, work=work, rollups_only=rollups_only)
                done = work.run("making every sum anew", store, partial(store.write, mend))
                work.what_is_left = _REPAIRED
                complaints = work.run(CHECKING, store, store.check_file)
        work.check()
        _show_repaired(file, complaints, done)
    if complaints or done is None or not done.now.holds:
        raise SystemExit(Exit.DIFFERENCES)


def _whole(uow: UnitOfWork, *, work: Work, rollups_only: bool) -> Repaired:
    """Repair, unless Ctrl-C is pressed before the end: then it is undone."""
    done = repair_books(uow, rollups_only=rollups_only)
    work.check()
    return done


def _show_repaired(file: Path, complaints: Sequence[str], done: Repaired | None) -> None:
    if wants_json():
        rows, found = ({}, []) if done is None else (done.rows, differences_of(done.differences))
        more = {"rows_repaired": rows, "differences_before": found}
        show_json(_document(file, complaints, None if done is None else done.now, **more))
        return
    screen = console()
    if done is not None:
        _show(done, screen)
    show_complaints(complaints, screen)
    if done is None or _has_damage(complaints):
        screen.print(f"Nothing was repaired. {FILE_ADVICE}" if done is None else FILE_ADVICE)
    elif complaints or not done.now.holds:
        screen.print(
            "What still differs is wrong in the ledger, the usage records or the audit log, which a repair never"
            " changes: keep a copy of the file, and restore a backup from before with ironcage restore."
        )


def _show(done: Repaired, screen: Console) -> None:
    if done.rows:
        table = Table("table", "rows repaired")
        for name, rows in done.rows.items():
            table.add_row(name, str(rows))
        screen.print(table)
    else:
        screen.print("[bold]repair[/]      nothing to do")
    show_verification(done.now, screen)
