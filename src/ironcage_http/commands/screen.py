"""The screen: what a command shows, as a table for a person or as JSON for a program.

What comes from elsewhere is shown as plain text: no name can colour a line, move the cursor or hide what stands before
it.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ironcage_core.domain.money import MICROS_PER_USD, format_usd
from ironcage_http.commands.plain_text import plain, plain_json, plain_lines
from ironcage_http.commands.shell import wants_json

_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
_OF_A_PIPE: Final = 240
_NARROWEST: Final = 100
_MOST_DIGITS: Final = 30


class Column(NamedTuple):
    """One column of a table.

    Args:
        title: Its heading.
        key: Which field of a record it shows; dots lead into records inside.
        show: Makes a text of the value.
    """

    title: str
    key: str
    show: Callable[[Any], str] = str

    def text_of(self, record: Mapping[str, Any]) -> str:
        """Return what the column shows of a record; a dash where there is nothing."""
        value: Any = record
        for name in self.key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return "-" if value is None else plain(self.show(value))


def money(value: Any) -> str:  # noqa: ANN401 - a number of JSON
    """Show an amount in USD, to the micro-dollar where it has one."""
    micros = Decimal(str(value)) * MICROS_PER_USD
    if micros.adjusted() > _MOST_DIGITS:  # as an integer it could fill the memory
        raise ValueError("an amount is too large")
    return format_usd(int(micros))


def count(value: int) -> str:
    """Show how many, the thousands apart."""
    return f"{value:,}"


def percent(value: object) -> str:
    """Show a share in percent."""
    return f"{value} %"


def milliseconds(value: object) -> str:
    """Show how long something took."""
    return f"{value} ms"


_NUMBERS: Final = frozenset((money, count, percent))


def instant(value: str) -> str:
    """Show a time of RFC 3339 to the second, in UTC."""
    return value[:19].replace("T", " ")


def yes(value: object) -> str:
    """Show a truth."""
    return "yes" if value else "no"


def several(value: Iterable[object]) -> str:
    """Show a list of names."""
    return ", ".join(map(str, value)) or "-"


def console() -> Console:
    """Return a console that cuts no number off: never narrower than the widest table, and wide into a pipe."""
    made = Console(highlight=False)
    made.width = max(made.width, _NARROWEST if made.is_terminal else _OF_A_PIPE)
    return made


def show_json(data: object) -> None:
    """Print a value as JSON, the members of a record on lines of their own."""
    click.echo(plain_json(msgspec.json.format(_encode(data), indent=2)))  # bytes: whatever the terminal is


def as_json(data: object) -> str:
    """Return a value as one line of JSON."""
    return plain_json(_encode(data)).decode()


def show_line(data: object) -> None:
    """Print a value as one line of JSON, at once: for what goes on."""
    click.echo(plain_json(_encode(data)))


def show_text(text: str) -> None:
    """Print a text from elsewhere: as it is for programs, as plain text on a terminal."""
    click.echo(plain_lines(text) if sys.stdout.isatty() else text, nl=False)


def tell(text: str, **facts: object) -> None:
    """Say what was done.

    Args:
        text: For a person.
        facts: For a program.
    """
    if wants_json():
        show_json(facts)
    else:
        click.echo(plain(text))


def note(text: str) -> None:
    """Say something beside what was done; a program has it among the facts."""
    if not wants_json():
        click.echo(plain(text))


def show_rows(records: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, whole: object) -> None:
    """Show records as the rows of a table.

    Args:
        records: What to show, in order.
        columns: What of it.
        whole: What a program gets instead.
    """
    if wants_json():
        show_json(whole)
        return
    table = Table(*(column.title for column in columns))
    for column, shown in zip(columns, table.columns, strict=True):
        shown.justify = "right" if column.show in _NUMBERS else "left"
        shown.overflow = "fold"
        shown.no_wrap = column.key == "id" or column.show is money  # what people copy or compare stays whole
    for record in records:
        table.add_row(*(Text(column.text_of(record)) for column in columns))
    console().print(table)


def show_record(record: Mapping[str, Any], columns: Sequence[Column]) -> None:
    """Show one record, a line a field."""
    if wants_json():
        show_json(record)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for column in columns:
        table.add_row(column.title, Text(column.text_of(record)))
    console().print(table)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """Show how far long work has come, on standard error and only where somebody looks.

    Yields:
        What is told how much is done, and of how much where that has become known.
    """
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as shown:
        task = shown.add_task(what, total=total)

        def advance(done: int, of: int | None = None) -> None:
            shown.update(task, completed=done, total=total if of is None else of)

        yield advance
