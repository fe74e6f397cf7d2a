"""The table of faults in docs/explanation/guarantees.md: its rows are made of outcomes, and of nothing else."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.faults.outcome import SCENARIOS, Outcome

PAGE: Final = Path(__file__).parents[2] / "docs" / "explanation" / "guarantees.md"
RECOVER: Final = PAGE.parents[1] / "how-to" / "recover.md"
_MARKS: Final = re.compile(r"(<!-- fault table: begin[^>]*-->\n).*?(<!-- fault table: end -->)", re.DOTALL)
_HEAD: Final = (
    "| fault | what is seen | nothing lost of | invariants | what to do |",
    "|---|---|---|---|---|",
)
_COUNTED: Final = re.compile(r"\d[\d,]*")


def row(outcome: Outcome) -> str:
    """Return the line of an outcome."""
    counts = outcome.counts
    cells = (
        f"**{outcome.name}**: {outcome.made}",
        outcome.seen,
        f"{counts.answered:,} {outcome.kept}; made {counts.faults:,} times",
        f"hold; checks: {counts.checks:,}",
        f"[{outcome.recover.replace('-', ' ')}](../how-to/recover.md#{outcome.recover})",
    )
    return f"| {' | '.join(cells)} |"


def rewritten(page: str, outcomes: Iterable[Outcome]) -> str:
    """Return the page with the rows of these outcomes between its marks; those of others stay."""
    rows = {_name_of(line): line for line in rows_of(page)} | {each.name: row(each) for each in outcomes}
    lines = "\n".join((*_HEAD, *(rows[name] for name in SCENARIOS if name in rows)))
    return _MARKS.sub(lambda found: f"{found[1]}\n{lines}\n\n{found[2]}", page)


def rows_of(page: str) -> list[str]:
    """Return the lines of the table, without its head."""
    found = _MARKS.search(page)
    assert found is not None, "the marks of the table are gone"
    return [line for line in found[0].splitlines() if line.startswith("| **")]


def _name_of(line: str) -> str:
    return line.split("**")[1]


def counts_of(line: str) -> list[int]:
    """Return what was counted in the run of a row."""
    return [int(number.replace(",", "")) for number in _COUNTED.findall("".join(_cells(line)[2:4]))]


def without_counts(line: str) -> str:
    """Return a row as it is whatever was counted."""
    cells = _cells(line)
    return " | ".join((*cells[:2], *(_COUNTED.sub("n", each) for each in cells[2:4]), *cells[4:]))


def _cells(line: str) -> list[str]:
    return line.removeprefix("| ").removesuffix(" |").split(" | ")
