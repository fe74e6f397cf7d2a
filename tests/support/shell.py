"""An operator at a shell: the command line as it is called, and hands in a database file behind it."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner

from ironcage_http.cli import main


def run(*arguments: object, env: Mapping[str, str | None] | None = None) -> tuple[int, str]:
    """Return the exit code and what was printed, with single blanks; no database is named unless `env` does."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env=env or {"DATABASE_URL": None})
    return result.exit_code, " ".join(result.output.split())


def dump(file: Path) -> list[str]:
    """Return everything in a database, as statements in no particular order."""
    connection = sqlite3.connect(file)
    lines = sorted(connection.iterdump())
    connection.close()
    return lines


def tamper(file: Path, *statements: str) -> None:
    """Change a database past every check of the code and of its numbers."""
    connection = sqlite3.connect(file)
    for statement in ("PRAGMA ignore_check_constraints = ON", *statements):
        connection.execute(statement)
    connection.commit()
    connection.close()
