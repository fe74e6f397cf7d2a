"""A connection that fails at a chosen statement: once, or for ever, as when the power is cut."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeAlias, TypeVar, cast

from ironcage_storage.sqlite.store import SqliteStore

T = TypeVar("T")

Kind: TypeAlias = Literal["any", "rows", "commit"]


class PowerCutError(BaseException):
    """From here on the process does not exist; nothing that handles errors may handle this one."""


class SabotagedConnection:
    """Stands before the writing connection of a store.

    Args:
        connection: The real one.
        kind: Which statements count: any, those that write rows, or the commit.
        at: Which of them fails, from 0.
        is_final: Whether it is a power cut; otherwise it is one I/O error.
        after: Whether it fails behind the statement.
    """

    def __init__(
        self, connection: sqlite3.Connection, kind: Kind, at: int, *, is_final: bool, after: bool = False
    ) -> None:
        self.raw = connection
        self.has_failed = False
        self.has_committed = False
        self._kind = kind
        self._left = at
        self._is_final = is_final
        self._after = after

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._run(sql, "any", lambda: self.raw.execute(sql, cast("tuple[str, ...]", parameters)))

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> sqlite3.Cursor:
        return self._run(sql, "rows", lambda: self.raw.executemany(sql, cast("Iterable[tuple[str, ...]]", rows)))

    @property
    def in_transaction(self) -> bool:
        return self.raw.in_transaction

    def close(self) -> None:
        self.raw.close()

    def _run(self, sql: str, kind: Kind, statement: Callable[[], T]) -> T:
        if self.has_failed and self._is_final:
            raise PowerCutError
        kind = "commit" if sql == "COMMIT" else kind
        if self.has_failed or self._kind not in {"any", kind}:
            return self._noted(sql, statement)
        self._left -= 1
        if self._left >= 0:
            return self._noted(sql, statement)
        if self._after:
            self._noted(sql, statement)
        self.has_failed = True
        raise PowerCutError if self._is_final else sqlite3.OperationalError("disk I/O error")

    def _noted(self, sql: str, statement: Callable[[], T]) -> T:
        result = statement()
        self.has_committed = self.has_committed or sql == "COMMIT"
        return result


def sabotage(store: SqliteStore, kind: Kind, at: int, *, is_final: bool, after: bool = False) -> SabotagedConnection:
    """Make the store's writing connection fail at a statement to come."""
    sabotaged = SabotagedConnection(store._connection, kind, at, is_final=is_final, after=after)
    _wire(store, cast("sqlite3.Connection", sabotaged))
    return sabotaged


def repair(store: SqliteStore, sabotaged: SabotagedConnection) -> None:
    """Give the store its connection back."""
    _wire(store, sabotaged.raw)


def abandon(store: SqliteStore) -> None:
    """Let go of a store as a dying process does: nothing is committed, nothing is put in order."""
    store._is_closed = True
    store._connection.close()  # with it SQLite rolls back what was open
    assert store._queue is not None
    store._queue.close()
    while not store._readers._idle.empty():
        reader = store._readers._idle.get()
        if isinstance(reader, tuple):  # the others were never opened
            reader[0].close()


def _wire(store: SqliteStore, connection: sqlite3.Connection) -> None:
    store._connection = connection
    store._writer._connection = connection
    store._writer._uow._session.connection = connection
