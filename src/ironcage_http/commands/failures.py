"""Failures of commands: what an operator is told of an error, and with which exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from ironcage_core.errors.tree import IroncageError, RefusalError, UnavailableError
from ironcage_http.commands.shell import Exit, Failure


def refused(error: IroncageError) -> Failure:
    """Return how a command ends that a typed error stops."""
    return Failure(Exit.CANNOT, f"{error.message} ({error.code})", code=error.code)


@contextmanager
def telling() -> Iterator[None]:
    """Turn a refusal into wrong usage, and whatever stops the store into a failure of its own."""
    try:
        yield
    except IroncageError as error:
        if isinstance(error, RefusalError) and not isinstance(error, UnavailableError):
            raise click.UsageError(f"{error.message} ({error.code})") from error
        raise refused(error) from error
