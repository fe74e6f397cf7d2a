"""Removal: a database file goes with its log, and only if it is ours and nobody has it open."""

from pathlib import Path

from ironcage_core.errors.faults import StorageError
from ironcage_storage.sqlite.backups import held
from ironcage_storage.sqlite.files import companions


def remove_database(file: Path) -> bool:
    """Remove a database file and what SQLite keeps beside it; tell whether there was one.

    Raises:
        DatabaseInUseError: Another process has it open.
        DatabaseDamagedError: It is damaged, or it is somebody else's.
        StorageError: It cannot be removed.
    """
    place = file.resolve()  # where SQLite keeps the log of a file that is linked to
    if not place.exists():
        return False
    with held(place):
        try:
            for each in (place, *companions(place)):
                each.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{file} cannot be removed: {error.strerror}") from error
    return True
