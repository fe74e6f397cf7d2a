"""How a check of the books is shown: to an operator as sentences and a table, to a program as a record."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ironcage_core.services.verify import Difference, Verification
from ironcage_http.commands.plain_text import plain

FILE_ADVICE: Final = "The file is damaged, and no sum over it can be trusted: restore a backup with ironcage restore."
_LARGEST: Final = 2**63


def show_verification(checked: Verification, console: Console) -> None:
    """Print what was recomputed and each difference found."""
    console.print(
        f"[bold]verify[/]      {checked.agents} agents, {checked.leases} leases, {checked.entries} ledger entries"
        f" and {checked.audit_rows} audit rows recomputed: "
        + ("[green]everything adds up[/]" if checked.holds else f"[red]{len(checked.differences)} differences[/]")
    )
    if checked.holds:
        return
    table = Table("what", "number", "stored", "recomputed")
    for difference in checked.differences:
        table.add_row(*(Text(plain(str(cell))) for cell in _cells(difference)))
    console.print(table)


def show_complaints(complaints: Sequence[str], console: Console) -> None:
    """Print what SQLite complains of."""
    for complaint in complaints:
        console.print("[red]file[/]       ", Text(plain(complaint)))


def facts_of(checked: Verification) -> dict[str, Any]:
    """Return the same for a program; money in it is micro-USD, as it is stored."""
    return {
        "holds": checked.holds,
        "agents": checked.agents,
        "leases": checked.leases,
        "ledger_entries": checked.entries,
        "audit_rows": checked.audit_rows,
        "differences": differences_of(checked.differences),
    }


def differences_of(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """Return differences as records."""
    return [
        dict(zip(("subject", "number", "stored", "recomputed"), map(_fact, _cells(each)), strict=True))
        for each in differences
    ]


def _cells(difference: Difference) -> tuple[object, ...]:
    return difference.subject, difference.number, difference.stored, difference.recomputed


def _fact(value: object) -> object:
    """Return a value as JSON can hold it; a number that is beyond everybody's integers as a text."""
    if isinstance(value, Mapping):
        return {str(name): _fact(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_fact(each) for each in value]
    if value is None or (isinstance(value, int) and abs(value) < _LARGEST):
        return value
    return str(value)
