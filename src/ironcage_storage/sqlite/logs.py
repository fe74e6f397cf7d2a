"""Rows that are only appended, and counters that are only added to, while they wait in memory to be written."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Generic

from ironcage_storage.sqlite.rows import Row, statements
from ironcage_storage.sqlite.session import Pending, Session


class Log(Generic[Row]):
    """Rows that are only ever appended; the database numbers them in the order of appending."""

    def __init__(self, session: Session, name: str, row_type: type[Row]) -> None:
        self.session = session
        self.sql = statements(name, row_type._fields, ("seq",))
        self._make: Callable[[Sequence[Any]], Row] = row_type._make
        self._member: list[Row] = []
        self._batch: list[Row] = []
        session.register(self)

    def add(self, row: Row) -> None:
        """Append a row."""
        if not self._member:
            self.session.touch(self)
        self._member.append(row)

    def select(self, where: str, parameters: Sequence[object] = (), *reads: Pending) -> sqlite3.Cursor:
        """Return the rows of a SELECT over this table as tuples; `where` is everything behind its name."""
        return self.session.query(f"SELECT {self.sql.columns} FROM {where}", parameters, self, *reads)

    def written(self, rows: list[Row]) -> Sequence[Sequence[Any]]:
        """Return rows as they are bound; a log that stores another form overrides this."""
        return rows

    @property
    def is_pending(self) -> bool:
        """Whether rows wait to be written."""
        return bool(self._member or self._batch)

    def keep(self) -> None:
        """Make the member's rows the batch's."""
        self._batch += self._member
        self._member.clear()

    def drop(self) -> None:
        """Forget the member's rows."""
        self._member.clear()

    def flush(self) -> None:
        """Write the batch's rows."""
        if self._batch:
            self.session.connection.executemany(self.sql.insert, self.written(self._batch))
            self._batch.clear()

    def forget(self) -> None:
        """Forget everything."""
        self._member.clear()
        self._batch.clear()

    def rest(self) -> None:
        """Nothing is remembered."""


class Tally:
    """Counters that are only ever added to; the sum of a batch is written once per key."""

    def __init__(self, session: Session, name: str, key: tuple[str, ...], counter: str) -> None:
        keys = ", ".join(key)
        where = " AND ".join(f"{column} = ?" for column in key)
        self.session = session
        self._add = (
            f"INSERT INTO {name} ({keys}, {counter}) VALUES ({'?, ' * len(key)}?) "
            f"ON CONFLICT ({keys}) DO UPDATE SET {counter} = {counter} + excluded.{counter}"
        )
        # An upsert checks the row it would insert first, so a decrease alone would fail a guard against negatives.
        self._decrease = f"UPDATE {name} SET {counter} = {counter} + ? WHERE {where}"
        self._find = f"SELECT {counter} FROM {name} WHERE {where}"
        self._member: dict[tuple[Any, ...], int] = {}
        self._batch: dict[tuple[Any, ...], int] = {}
        session.register(self)

    def add(self, key: tuple[Any, ...], delta: int) -> None:
        """Move a counter."""
        if delta == 0:
            return
        if not self._member:
            self.session.touch(self)
        self._member[key] = self._member.get(key, 0) + delta

    def value(self, key: tuple[Any, ...]) -> int:
        """Return a counter as the unit of work sees it; 0 if it was never moved."""
        found = self.session.connection.execute(self._find, key).fetchone()
        return (found[0] if found else 0) + self._batch.get(key, 0) + self._member.get(key, 0)

    @property
    def is_pending(self) -> bool:
        """Whether rows wait to be written."""
        return bool(self._member or self._batch)

    def keep(self) -> None:
        """Make the member's movements the batch's."""
        for key, delta in self._member.items():
            self._batch[key] = self._batch.get(key, 0) + delta
        self._member.clear()

    def drop(self) -> None:
        """Forget the member's movements."""
        self._member.clear()

    def flush(self) -> None:
        """Write the batch's sums."""
        if not self._batch:
            return
        up = [(*key, delta) for key, delta in self._batch.items() if delta >= 0]
        down = [(delta, *key) for key, delta in self._batch.items() if delta < 0]
        if up:
            self.session.connection.executemany(self._add, up)
        if down:
            self.session.connection.executemany(self._decrease, down)
        self._batch.clear()

    def forget(self) -> None:
        """Forget everything."""
        self._member.clear()
        self._batch.clear()

    def rest(self) -> None:
        """Nothing is remembered."""
