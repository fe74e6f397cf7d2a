"""The shape of a database: its tables, indexes, triggers and views, held against those of a new one.

Every guard of the books is one of them, and whoever has the file can drop it without a trace in any sum.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Final, Literal, NamedTuple

from ironcage_storage.sqlite.connection import MEMORY, connect
from ironcage_storage.sqlite.schema import migrate

_OTHERS: Final = ("sqlite_", "_sqlite_migrations")
"""How the names of what SQLite and sqlite-utils make for themselves begin."""


class Deviation(NamedTuple):
    """A part of the schema that is not as a new database has it.

    Args:
        kind: `table`, `index`, `trigger` or `view`.
        name: Its name.
        how: What is wrong with it; `strange` is one that a new database does not have.
    """

    kind: str
    name: str
    how: Literal["missing", "changed", "strange"]


def deviations(connection: sqlite3.Connection) -> Iterator[Deviation]:
    """Yield what differs from a new database, for one that has had every migration.

    Raises:
        sqlite3.Error: The file cannot be read.
    """
    with closing(connect(MEMORY)) as new:
        migrate(new)
        wanted = _parts(new)
    found = _parts(connection)
    for part in sorted(wanted.keys() | found.keys()):
        if part not in found:
            yield Deviation(*part, "missing")
        elif part not in wanted:
            yield Deviation(*part, "strange")
        elif found[part] != wanted[part]:
            yield Deviation(*part, "changed")


def _parts(connection: sqlite3.Connection) -> dict[tuple[str, str], str | None]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    return {(kind, name): sql for kind, name, sql in rows if not name.startswith(_OTHERS)}
