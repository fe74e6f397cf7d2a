"""Failures of commands: what an operator is told of an error, and with which exit code."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ironcage_core.errors.faults import StorageError
from ironcage_core.errors.tree import IroncageError, RefusalError, UnavailableError
from ironcage_http.commands.shell import Exit, Failure

_STORAGE_ADVICE: Final = "Look whether the folder is there and you may write to it; ironcage doctor tells more"


def refused(error: IroncageError) -> Failure:
    """Return how a command ends that a typed error stops."""
    is_ours = error.code == IroncageError.code  # which would only tell an operator that something is wrong with us
    said = error.message if is_ours else f"{error.message} ({error.code})"
    if isinstance(error, StorageError) and isinstance(error.__cause__, sqlite3.Error):
        said += f": {error.__cause__}. {_STORAGE_ADVICE}"
    return Failure(Exit.CANNOT, said, code=error.code)


@contextmanager
def telling() -> Iterator[None]:
    """Turn a refusal into wrong usage, and whatever stops the store into a failure of its own."""
    try:
        yield
    except IroncageError as error:
        if isinstance(error, RefusalError) and not isinstance(error, UnavailableError):
            said = f"{error.message} ({error.code})"
            raise Failure(Exit.USAGE, said, code=error.code, details=error.details) from error
        raise refused(error) from error
