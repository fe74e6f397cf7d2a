"""The one table of all benches: what was measured, what it is divided by, what was asked of it, and whether that holds.

A `Line` says what a row is made of, before anything is measured; a `Row` is its result. Both a figure and a ratio are
medians over the rounds, and a ratio is taken within a round, so that noise of the machine hits both sides alike.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Figures = Mapping[str, float]

HEADINGS: Final = ("figure", "value", "unit", "yardstick", "ratio", "asked", "met?")
_NUMBERS: Final = frozenset({"value", "yardstick", "ratio", "asked"})
_COLOURS: Final = {"yes": "green", "no": "red", "failed": "red"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A bound that a ratio, or a figure without a yardstick, should keep, and who asked for it."""

    bound: float
    source: str
    is_most: bool = False

    def is_met(self, value: float) -> bool:
        """Say whether a value keeps it."""
        return value <= self.bound if self.is_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.is_most else '>='} {number(self.bound)}"


def least(bound: float, source: str) -> Asked:
    """Return a bound from below."""
    return Asked(bound, source)


def most(bound: float, source: str) -> Asked:
    """Return a bound from above."""
    return Asked(bound, source, is_most=True)


@dataclass(frozen=True, slots=True)
class Line:
    """What a row is made of: a figure, its yardstick, both by name, and what was asked."""

    name: str
    figure: str
    unit: str = "/s"
    yardstick: str | None = None
    asked: Asked | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One result. What was asked is asked of the ratio where there is a yardstick, else of the value."""

    name: str
    value: float | None
    unit: str = ""
    yardstick: float | None = None
    ratio: float | None = None
    asked: Asked | None = None
    rounds: Sequence[float] = ()
    failure: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is as asked; None if nothing was."""
        if self.failure is not None:
            return False
        judged = self.value if self.ratio is None else self.ratio
        return None if self.asked is None or judged is None else self.asked.is_met(judged)

    def cells(self) -> tuple[str, ...]:
        """Return what is shown under each heading."""
        if self.failure is not None:
            return (f"{self.name}: {self.failure}", "", "", "", "", "", "failed")
        met = {None: "", True: "yes", False: "no"}[self.met]
        asked = "" if self.asked is None else str(self.asked)
        return (self.name, number(self.value), self.unit, number(self.yardstick), number(self.ratio), asked, met)


class Measured(NamedTuple):
    """What a part has measured, and with how many of what."""

    extent: str
    rows: Sequence[Row]


class Group(NamedTuple):
    """The rows of one part."""

    name: str
    title: str
    seconds: float
    rows: Sequence[Row]

    @property
    def has_failed(self) -> bool:
        """Whether the part could not be measured."""
        return any(row.failure is not None for row in self.rows)


def rows_of(lines: Sequence[Line], rounds: Sequence[Figures]) -> list[Row]:
    """Return the row of each line. A round need not have every figure; those that lack one are left out of its row."""
    return [_row_of(line, rounds) for line in lines]


def _row_of(line: Line, rounds: Sequence[Figures]) -> Row:
    of = line.yardstick
    found = [figures for figures in rounds if line.figure in figures and (of is None or of in figures)]
    values = [figures[line.figure] for figures in found]
    value = statistics.median(values)
    if of is None:
        return Row(line.name, value, line.unit, asked=line.asked, rounds=values)
    against = [figures[of] for figures in found]
    ratio = statistics.median(one / other for one, other in zip(values, against, strict=True))
    return Row(line.name, value, line.unit, statistics.median(against), ratio, line.asked, values)


def failed(error: BaseException) -> Row:
    """Return the row that says why a part could not be measured."""
    text = " ".join(str(error).split())
    return Row("not measured", None, failure=f"{type(error).__name__}: {text}" if text else type(error).__name__)


def number(value: float | None) -> str:
    """Return a number as it is read best: whole from a hundred on, with three digits that count below."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def asked_of(groups: Sequence[Group]) -> list[Row]:
    """Return the rows of which something was asked, those that could not be measured aside."""
    return [row for group in groups for row in group.rows if row.asked is not None]


def show(groups: Sequence[Group], console: Console, caption: str) -> None:
    """Print the table."""
    table = Table(caption=escape(caption), caption_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left", no_wrap=heading != "figure")
    for group in groups:
        table.add_row(f"[bold]{escape(group.title)}[/]")
        for row in group.rows:
            *cells, met = row.cells()
            colour = _COLOURS.get(met)
            table.add_row(*map(escape, cells), f"[{colour}]{met}[/]" if colour else met)
        table.add_section()
    console.print(table)


def markdown(groups: Sequence[Group], caption: str) -> str:
    """Return the table as Markdown."""
    return "\n".join((*_markdown_lines(groups), "", caption, ""))


def _markdown_lines(groups: Sequence[Group]) -> Iterator[str]:
    yield _markdown_row(HEADINGS)
    yield _markdown_row("---:" if heading in _NUMBERS else "---" for heading in HEADINGS)
    for group in groups:
        yield _markdown_row((f"**{group.title}**", *[""] * (len(HEADINGS) - 1)))
        for row in group.rows:
            name, *cells = row.cells()
            indent = "&nbsp;&nbsp;" if name.startswith(" ") else ""
            yield _markdown_row((indent + name.strip(), *cells))


def _markdown_row(cells: Sequence[str] | Iterator[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def to_json(groups: Sequence[Group], machine: Mapping[str, object]) -> str:
    """Return the results, and what they were measured on, as JSON."""
    parts = [
        {
            "part": group.name,
            "title": group.title,
            "seconds": round(group.seconds, 1),
            "rows": [{**asdict(row), "name": row.name.strip(), "met": row.met} for row in group.rows],
        }
        for group in groups
    ]
    return json.dumps({**machine, "parts": parts}, indent=2) + "\n"
