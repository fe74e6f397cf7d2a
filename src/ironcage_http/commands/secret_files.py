"""Secrets of a command line: from a file or typed without an echo, never an argument that other users can read."""

import sys
import warnings
from getpass import GetPassWarning
from typing import Any, Final, TextIO

import click

from ironcage_http.commands.shell import Exit, Failure

_MOST_CHARS: Final = 10_000


def line_of(file: TextIO, what: str) -> str:
    """Return the secret that a file holds, without the end of its line.

    Args:
        file: An open file.
        what: What it is, for a person.

    Raises:
        click.UsageError: It holds none.
    """
    try:
        text = file.read(_MOST_CHARS).removesuffix("\n")
    except UnicodeDecodeError:
        raise click.UsageError(f"the {what} file is not UTF-8") from None
    if not text:
        raise click.UsageError(f"the {what} file is empty")
    return text


def secret_of(file: TextIO | None, what: str, option: str) -> str:
    """Return the secret of a file, or ask for it.

    Args:
        file: An open file; None to ask.
        what: What it is, for a person.
        option: That of the file.

    Raises:
        click.UsageError: There is none, and nobody to ask.
    """
    if file is not None:
        return line_of(file, what)
    if not sys.stdin.isatty():
        raise click.UsageError(f"give {option}, - for standard input: there is no terminal to ask for the {what} on")
    return typed(what, f"give {option}")


def typed(what: str, otherwise: str, **options: Any) -> str:  # noqa: ANN401 - click's
    """Ask for something before anything is done; a secret unless `hide_input` says otherwise.

    Args:
        what: What it is, for a person.
        otherwise: What to do instead where nobody types.
        options: Of click's prompt.

    Raises:
        click.UsageError: The input ends.
        Failure: Ctrl-C.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GetPassWarning)  # a pipe has no echo to turn off
            found: str = click.prompt(f"{what[:1].upper()}{what[1:]}", **{"hide_input": True, "err": True, **options})
    except click.Abort as error:
        click.echo(err=True)  # ends the line of the question
        if isinstance(error.__context__, KeyboardInterrupt):
            raise Failure(Exit.INTERRUPTED, "Nothing was done.", code="INTERRUPTED") from None
        raise click.UsageError(f"the {what} is needed: type it, or {otherwise}") from None
    return found
