"""`ironcage doctor`: what an operator runs first. It looks at everything and changes nothing."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from ironcage_core.errors.tree import IroncageError
from ironcage_core.services.master_key import SecretsHealth
from ironcage_http import checkup
from ironcage_http.checkup import Finding
from ironcage_http.commands.databases import CHECKING, EXISTING, chosen
from ironcage_http.commands.screen import Column, note, show_rows
from ironcage_http.commands.shell import Command, Exit
from ironcage_http.commands.stopping import Work, working
from ironcage_storage.sqlite.inspection import Inspection

_COLUMNS: Final = (
    Column("what", "what"),
    Column("state", "state"),
    Column("found", "found"),
    Column("what to do", "advice"),
)
_OPENING: Final = "opening every secret"
_NO_RESULT: Final = "The doctor changes nothing, and there is no result: run it again for one."
_DAMAGED: Final = "is this the right file? If it is, keep a copy, and restore a backup with ironcage restore"
_LOOK: Final = "look whether you may read it, and whether the disk is well"


@click.command(cls=Command)
@EXISTING
def doctor(database: Path | None) -> None:
    """Look at DATABASE, its secrets, its disk and the settings of this environment; exit 1 if anything is wrong.

    Without DATABASE it is the one of DATABASE_URL. A note is worth a look; nothing is changed, nor migrated.
    """
    file = chosen(database)
    with working(_NO_RESULT) as work:
        findings = list(checkup.versions())
        inside, health = _inside(work, file)
        findings += inside
        findings += _beside(file)
        work.check()
        _show(file, findings, health)
    if any(each.state == "trouble" for each in findings):
        raise SystemExit(Exit.DIFFERENCES)


def _inside(work: Work, file: Path) -> tuple[list[Finding], SecretsHealth | None]:
    """Look into the database, as far as it can be read."""
    known = checkup.known_keys(file, os.environ)
    try:
        with Inspection(file) as look:
            findings = checkup.tolerant("schema", partial(checkup.schema, look, file), _DAMAGED)
            is_newest = all(each.state == "ok" for each in findings)
            complaints = _long(work, "file", CHECKING, look, lambda: checkup.pages(look.complaints()))
            try:
                health = work.run(_OPENING, look, partial(checkup.health_of, look, known))
            except IroncageError as error:
                return [*findings, *complaints, _unopened(error, is_newest=is_newest)], None
            return [*findings, *complaints, *checkup.secrets(health, known)], health
    except IroncageError as error:
        return [Finding("file", "trouble", checkup.told(error), _DAMAGED)], None


def _long(
    work: Work, what: str, doing: str, look: Inspection, check: Callable[[], Iterator[Finding]]
) -> Sequence[Finding]:
    found = work.run(doing, look, partial(checkup.tolerant, what, check, _DAMAGED))
    work.check()
    return found


def _unopened(error: IroncageError, *, is_newest: bool) -> Finding:
    if is_newest:
        return Finding("secrets", "trouble", checkup.told(error), _DAMAGED)
    return Finding("secrets", "note", "they cannot be looked at in this schema", "see schema")


def _beside(file: Path) -> Iterator[Finding]:
    """Look at everything around the database."""
    told = set()  # the secrets file is among the settings too
    for what, check in (
        ("secrets file", checkup.secrets_file),
        ("database mode", checkup.modes),
        ("disk", checkup.space),
        ("in use", checkup.holders),
        ("settings", partial(checkup.settings, os.environ)),
    ):
        found = [each for each in checkup.tolerant(what, partial(check, file), _LOOK) if each.found not in told]
        told |= {each.found for each in found}
        yield from found


def _show(file: Path, findings: Sequence[Finding], health: SecretsHealth | None) -> None:
    records: list[dict[str, Any]] = [each._asdict() for each in findings]
    counts = {state: sum(each.state == state for each in findings) for state in ("ok", "note", "trouble")}
    secrets = None
    if health is not None:
        made = [{"master_key": key_id, "secrets": count} for key_id, count in health.by_key.items()]
        secrets = {"total": health.total, "unreadable": health.unreadable, "by_master_key": made}
    show_rows(records, _COLUMNS, whole={"database": str(file), "counts": counts, "checks": records, "secrets": secrets})
    note(f"{file}: {counts['trouble']} troubles, {counts['note']} notes")
