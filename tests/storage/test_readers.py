"""The readers: one that cannot be opened is not lost, closed ones refuse everybody, and memory is no file."""

import sqlite3
import threading
from pathlib import Path

import pytest

from ironcage_core.errors.faults import StorageError
from ironcage_core.errors.tree import UnavailableError
from ironcage_storage.sqlite.connection import MEMORY, connect
from ironcage_storage.sqlite.glances import Reader
from ironcage_storage.sqlite.readers import READERS, Readers


def refusal_of(readers: Readers) -> type[Exception] | None:
    """Return with what one that asks is refused, None if it waits for ever."""
    raised: list[type[Exception]] = []

    def ask() -> None:
        try:
            with readers.lent():
                pass
        except Exception as error:  # noqa: BLE001 - whatever it is
            raised.append(type(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(5)
    return raised[0] if raised else None


def broken() -> Reader:
    raise StorageError("no")


def test_a_reader_that_cannot_be_opened_is_tried_again() -> None:
    """However often: nobody waits for one that never comes back."""
    readers = Readers(broken)

    assert [refusal_of(readers) for _ in range(READERS + 1)] == [StorageError] * (READERS + 1)


def test_closed_readers_refuse_everybody() -> None:
    """One after the other; nobody waits."""
    readers = Readers(broken)
    readers.close()

    assert [refusal_of(readers) for _ in range(2)] == [UnavailableError] * 2


def test_a_database_in_memory_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one of that name."""
    monkeypatch.chdir(tmp_path)

    connection: sqlite3.Connection = connect(MEMORY)
    connection.close()

    assert list(tmp_path.iterdir()) == []
