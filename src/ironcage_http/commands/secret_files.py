"""Secrets of a command line: from a file or typed without an echo, never an argument that other users can read."""

import sys
from typing import Final, TextIO

import click

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
    typed: str = click.prompt(f"{what[:1].upper()}{what[1:]}", hide_input=True, err=True)
    return typed
