"""Confirming: what cannot be undone is asked about first, or said to be meant with `--yes`."""

import sys
from typing import Final

import click

from ironcage_http.commands.plain_text import plain
from ironcage_http.commands.shell import Exit, Failure

YES: Final = click.option("--yes", "is_sure", is_flag=True, help="Do not ask whether you are sure.")
"""The option of every command that destroys something; `confirm` takes it."""


def confirm(question: str, *, is_sure: bool) -> None:
    """Ask before something that cannot be undone.

    Args:
        question: Names what it is, and ends with a question mark.
        is_sure: Whether `--yes` was given; then nobody is asked.

    Raises:
        click.UsageError: Nobody can be asked.
        Failure: The answer is no.
    """
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on whether this is meant: give --yes if it is")
    try:
        is_meant = click.confirm(plain(question), err=True)
    except click.Abort:
        click.echo(err=True)  # ends the line of the question
        is_meant = False
    if not is_meant:
        raise Failure(Exit.INTERRUPTED, "Nothing was done.", code="NOT_CONFIRMED")
