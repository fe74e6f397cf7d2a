"""The long form of all faults: `python -m tests.faults.suite [--cycles 50] [--only NAME]`.

Makes each fault again and again on real processes, prints what came out, and ends with an error if anything was lost.
A run without one rewrites its rows of the table in docs/explanation/guarantees.md.
"""

import argparse
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.faults.outcome import Bench, Outcome, Scenario
from tests.faults.scenarios import all_scenarios
from tests.faults.site import Forge
from tests.faults.table import PAGE, rewritten


def play(chosen: Sequence[Scenario], folder: Path, cycles: int, seed: int, console: Console) -> list[Outcome]:
    """Play scenarios one after the other; a failure is printed, and the next one goes on."""
    outcomes = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Forge() as forge, Progress(*columns, console=console) as progress:
        for each in chosen:
            task = progress.add_task(each.story.name, total=None)

            def advance(_: str, done: int, of: int, task: object = task) -> None:
                progress.update(task, completed=done, total=of)  # type: ignore[arg-type]  # an id of its own

            try:
                outcomes.append(each.play(Bench(forge, folder, cycles, seed, advance)))
            except Exception:  # noqa: BLE001 - whatever it is, the other faults are worth knowing, too
                console.print(f"[red]{each.story.name} has failed[/]")
                console.print_exception()
            progress.stop_task(task)
    return outcomes


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print what came out."""
    table = Table("fault", "made", "nothing lost of", "checks")
    for each in outcomes:
        counts = each.counts
        table.add_row(each.name, f"{counts.faults:,} times", f"{counts.answered:,} {each.kept}", f"{counts.checks:,}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for; return the exit code."""
    known = all_scenarios()
    parser = argparse.ArgumentParser(prog="python -m tests.faults.suite", description=__doc__)
    parser.add_argument("--cycles", type=int, default=50, help="how often a server is killed; a few: the bounded form")
    parser.add_argument("--only", action="append", choices=list(known), help="a fault; again for another")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of what is drawn")
    options = parser.parse_args(arguments)
    console = Console()
    chosen = [known[name] for name in options.only or known]
    folder = Path(tempfile.mkdtemp(prefix="ironcage-faults-"))
    console.print(f"seed {options.seed}, files in {folder}")
    outcomes = play(chosen, folder, options.cycles, options.seed, console)
    show(outcomes, console)
    if len(outcomes) < len(chosen):
        console.print(
            f"[red]{len(chosen) - len(outcomes)} of {len(chosen)} faults have broken something[/]; see {folder}"
        )
        return 1
    shutil.rmtree(folder)
    if options.cycles > Bench.BOUNDED:
        PAGE.write_text(rewritten(PAGE.read_text(), outcomes))
        console.print(f"the rows of {PAGE.name} are those of this run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
