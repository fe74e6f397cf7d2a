"""The files of a database: what SQLite keeps beside it, and which of their bytes a connection locks."""

from pathlib import Path
from typing import Final

COMPANIONS: Final = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file, by what it adds to the name; without the file it means nothing."""

DATABASE_LOCK: Final = (0x40000000, 512)
"""Start and length, in a database file, of what SQLite locks of it: a connection in use holds a part of it."""

INDEX_LOCK: Final = (128, 1)
"""The same in the index of its log, `-shm`, for as long as a connection has it open."""


def beside(database: Path, suffix: str) -> Path:
    """Return where SQLite keeps something of a database, which may be a link to it."""
    place = database.resolve()
    return place.with_name(place.name + suffix)


def companions(database: Path) -> list[Path]:
    """Return where SQLite keeps what belongs to a file."""
    return [beside(database, suffix) for suffix in COMPANIONS]
