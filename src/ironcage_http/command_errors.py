"""Errors of the command line: what an operator is told, and with which exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from ironcage_core.errors.tree import IroncageError, RefusalError, UnavailableError

CANNOT_START: Final = 3


class Refused(click.ClickException):
    """A typed error, told to the operator with its code."""

    exit_code = CANNOT_START

    def __init__(self, error: IroncageError) -> None:
        super().__init__(f"{error.message} ({error.code})")


@contextmanager
def telling() -> Iterator[None]:
    """Turn a refusal into wrong usage, and whatever stops the store into an error of its own."""
    try:
        yield
    except IroncageError as error:
        if isinstance(error, RefusalError) and not isinstance(error, UnavailableError):
            raise click.UsageError(f"{error.message} ({error.code})") from error
        raise Refused(error) from error
