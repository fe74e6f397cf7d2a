"""What the screen shows of a value, how wide it is, and where progress is told."""

from decimal import Decimal
from io import StringIO
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ironcage_http.commands.screen import Column, count, instant, money, percent, progress, several, show_rows, yes
from ironcage_http.commands.shell import Command


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (str, None, "-"),
        (several, [], "-"),
        (several, ["a", "b"], "a, b"),
        (money, 0.000001, "$0.000001"),
        (money, Decimal("1.1"), "$1.10"),
        (money, 0.001009, "$0.001009"),
        (count, 1234567, "1,234,567"),
        (percent, 0, "0 %"),
        (instant, "2026-01-02T03:04:05.678Z", "2026-01-02 03:04:05"),
        (yes, False, "no"),
    ],
)
def test_a_value_is_shown_as_people_read_it(show: Any, value: object, text: str) -> None:  # noqa: ANN401 - of each kind
    """A dash where there is nothing, and amounts to the micro-dollar."""
    assert Column("title", "a.b", show).text_of({"a": {"b": value}}) == text
    assert Column("title", "a.b", show).text_of({"a": None}) == "-"


def test_a_pipe_is_wide_enough_for_a_row_to_stay_one_line() -> None:
    """What `grep` finds is the whole row, however long a name is."""
    name = "n" * 150

    @click.command(cls=Command)
    def command() -> None:
        show_rows([{"id": "agent_1", "name": name}], (Column("id", "id"), Column("name", "name")), whole=None)

    assert name in CliRunner().invoke(command).output


@pytest.mark.parametrize(("is_terminal", "is_told"), [("1", True), ("0", False)])
def test_progress_is_told_on_standard_error_to_somebody_who_looks(
    monkeypatch: pytest.MonkeyPatch, is_terminal: str, is_told: bool
) -> None:
    """Into a file nothing is written, and to standard output nothing ever."""
    out, err = StringIO(), StringIO()
    monkeypatch.setenv("TTY_COMPATIBLE", is_terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)

    with progress("looking at everything", total=2) as advance:
        advance(1, None)

    assert ("looking at everything" in err.getvalue(), out.getvalue()) == (is_told, "")
