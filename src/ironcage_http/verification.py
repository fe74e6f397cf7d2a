"""How a verification of the books is shown to an operator."""

from rich.console import Console
from rich.table import Table

from ironcage_core.services.verify import Difference, Verification


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
        table.add_row(*_difference_cells(difference))
    console.print(table)


def _difference_cells(difference: Difference) -> list[str]:
    return [difference.subject, difference.number, str(difference.stored), str(difference.recomputed)]
