"""Which database a command works on: the one of its argument, else the one of the environment."""

import os
from pathlib import Path
from typing import Final

import click

from ironcage_http import variables as v
from ironcage_http.environment import Environment

EXISTING: Final = click.argument(
    "database", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False
)
"""The argument of every command on a database that is there; `chosen` makes it a file."""

MAY_BE_NEW: Final = click.argument("database", type=click.Path(dir_okay=False, path_type=Path), required=False)
"""The argument of a command that makes the database where there is none; `chosen` with `may_be_new` makes it a file."""

CHECKING: Final = "checking every page, index and reference"
"""What is shown while SQLite looks at a whole file."""


def chosen(database: Path | None, *, may_be_new: bool = False) -> Path:
    """Return the file of the argument, else that of `DATABASE_URL`.

    Args:
        database: What was given.
        may_be_new: Whether the file of the environment need not be there.

    Raises:
        click.UsageError: Neither names a file, or one that is not there and must be.
    """
    if database is not None:
        return database
    env = Environment(os.environ, [v.DATABASE])
    if env.problems:
        raise click.UsageError(env.problems[0])
    file = env.read(v.DATABASE)
    if file is None:
        raise click.UsageError(f"which database? Name a file, or set {v.DATABASE.name}")
    if not isinstance(file, Path):
        raise click.UsageError(f"{v.DATABASE.name} is a database in memory, of one process alone: name a file")
    if not may_be_new and not file.is_file():
        raise click.UsageError(f"the file of {v.DATABASE.name}, {file.absolute()}, is not there: name another")
    return file
