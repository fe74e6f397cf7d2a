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


def chosen(database: Path | None) -> Path:
    """Return the file of the argument, else that of `DATABASE_URL`.

    Raises:
        click.UsageError: Neither names a file that is there.
    """
    if database is not None:
        return database
    env = Environment(os.environ, [v.DATABASE])
    if env.problems:
        raise click.UsageError(env.problems[0])
    file = env.read(v.DATABASE)
    if not isinstance(file, Path) or not file.is_file():
        raise click.UsageError(f"which database? Name a file, or set {v.DATABASE.name}")
    return file
