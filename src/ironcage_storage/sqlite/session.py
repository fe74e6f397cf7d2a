"""The session: one connection and what is not yet written to it.

Units of work of one batch share the session. Rows that a unit puts stay in memory, first as the *member's*, then,
when it returns, as the *batch's*; they are written with `executemany` when the batch ends. Point reads look there
first, so a unit sees everything before it. A query that SQL must answer settles the tables it reads: the batch's rows
are written, a savepoint is set, then the member's rows are written behind it. So a unit that fails is cut back by
forgetting its rows, and by its savepoint if it has one.
"""

import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

Row = TypeVar("Row", bound=NamedTuple)
_MISSING: Final = object()


class ReadOnlyError(Exception):
    """A read turned out to write; the store runs it again as a write."""


class BrokenBatchError(Exception):
    """Rows of earlier members could not be written: the batch must be undone and run again one by one."""


class Pending(Protocol):
    """A table with rows that are not yet written."""

    def keep(self) -> None:
        """Make the member's rows the batch's."""
        ...

    def drop(self) -> None:
        """Forget the member's rows."""
        ...

    def flush(self) -> None:
        """Write the batch's rows."""
        ...

    def forget(self) -> None:
        """Forget everything, written or not: the database has been rolled back."""
        ...

    @property
    def is_pending(self) -> bool:
        """Whether rows wait to be written."""
        ...


class Session:
    """One connection and its pending tables, in the order in which foreign keys need them written."""

    def __init__(self, connection: sqlite3.Connection, *, writable: bool) -> None:
        self.connection = connection
        self._writable = writable
        self._parts: list[Pending] = []
        self._touched: list[Pending] = []
        self._has_savepoint = False

    def register(self, part: Pending) -> None:
        """Add a table; parents before children."""
        self._parts.append(part)

    def touch(self, part: Pending) -> None:
        """Note that the member is about to change a table.

        Raises:
            ReadOnlyError: The session only reads.
        """
        if not self._writable:
            raise ReadOnlyError
        self._touched.append(part)

    def query(self, sql: str, parameters: Sequence[object] = (), *reads: Pending) -> sqlite3.Cursor:
        """Run a SELECT after settling the tables it reads."""
        if any(part.is_pending for part in reads):
            self.settle()
        return self.connection.execute(sql, parameters)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """Run a statement that writes, inside the member's savepoint."""
        if not self._writable:
            raise ReadOnlyError
        self.settle()
        self.connection.execute(sql, parameters)

    def settle(self) -> None:
        """Write everything pending, with the member's own rows behind a savepoint."""
        if not self._has_savepoint:
            try:
                self.flush()
            except sqlite3.Error as error:
                raise BrokenBatchError from error
            self.connection.execute("SAVEPOINT member")
            self._has_savepoint = True
        self._keep_touched()
        self.flush()

    def flush(self) -> None:
        """Write the batch's rows."""
        for part in self._parts:
            part.flush()

    def keep_member(self) -> None:
        """End a member that returned."""
        self._keep_touched()
        if self._has_savepoint:
            self.flush()  # while the savepoint can still take them back
            self.connection.execute("RELEASE member")
            self._has_savepoint = False

    def drop_member(self) -> None:
        """End a member that raised; the transaction must still be open."""
        for part in self._touched:
            part.drop()
        self._touched.clear()
        if self._has_savepoint:
            self._has_savepoint = False
            self.connection.execute("ROLLBACK TO member")
            self.connection.execute("RELEASE member")
            for part in self._parts:
                part.forget()

    def forget(self) -> None:
        """Start the next batch from the database alone."""
        self._touched.clear()
        self._has_savepoint = False
        for part in self._parts:
            part.forget()

    def _keep_touched(self) -> None:
        for part in self._touched:
            part.keep()
        self._touched.clear()


class Statements(NamedTuple):
    """The SQL of one table, made from the fields of its row type."""

    columns: str
    insert: str
    upsert: str
    find: str


@lru_cache
def statements(table: str, columns: tuple[str, ...], key: tuple[str, ...]) -> Statements:
    """Return the SQL of a table. Names come from our own row types; values are always bound."""
    names = ", ".join(columns)
    insert = f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in key)
    found = " AND ".join(f"{column} = ?" for column in key)
    return Statements(
        columns=names,
        insert=insert,
        upsert=f"{insert} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}",
        find=f"SELECT {names} FROM {table} WHERE {found}",
    )


class Table(Generic[Row]):
    """Rows found by their key and written back at the end of the batch, once each, however often they change."""

    def __init__(self, session: Session, name: str, row_type: type[Row], key: tuple[str, ...] = ("id",)) -> None:
        self.session = session
        self.name = name
        self.sql = statements(name, row_type._fields, key)
        self._make: Callable[[Sequence[Any]], Row] = row_type._make
        self._key_of: Callable[[Row], Any] = attrgetter(*key)
        self._is_composite = len(key) > 1
        self._member: dict[Any, Row] = {}
        self._batch: dict[Any, Row] = {}
        self._loaded: dict[Any, Row | None] = {}
        session.register(self)

    def get(self, key: Any) -> Row | None:  # noqa: ANN401 - a str, or a tuple of them
        """Return the row with this key as the unit of work sees it."""
        row = self._member.get(key) or self._batch.get(key)
        if row is not None:
            return row
        loaded = self._loaded.get(key, _MISSING)
        if loaded is _MISSING:
            parameters = key if self._is_composite else (key,)
            found = self.session.connection.execute(self.sql.find, parameters).fetchone()
            loaded = self._loaded[key] = None if found is None else self._make(found)
        return loaded  # type: ignore[return-value]  # a sentinel that was just replaced

    def preload(self, keys: Sequence[Any], where: str, parameters: Sequence[object]) -> None:
        """Fetch the rows of many keys with one statement; a key without a row is known to have none."""
        self._loaded.update((key, None) for key in keys if key not in self._loaded)
        sql = f"SELECT {self.sql.columns} FROM {self.name} WHERE {where}"
        for found in self.session.connection.execute(sql, parameters):
            row = self._make(found)
            self._loaded[self._key_of(row)] = row

    def put(self, row: Row) -> None:
        """Store a row, new or changed."""
        if not self._member:
            self.session.touch(self)
        self._member[self._key_of(row)] = row

    def rows(self, where: str, parameters: Sequence[object] = (), *reads: Pending) -> list[Row]:
        """Return the rows of a SELECT over this table; `where` is everything behind its name."""
        cursor = self.session.query(f"SELECT {self.sql.columns} FROM {where}", parameters, self, *reads)
        return [self._make(row) for row in cursor]

    @property
    def is_pending(self) -> bool:
        """Whether rows wait to be written."""
        return bool(self._member or self._batch)

    def keep(self) -> None:
        """Make the member's rows the batch's."""
        self._batch.update(self._member)
        self._member.clear()

    def drop(self) -> None:
        """Forget the member's rows."""
        self._member.clear()

    def flush(self) -> None:
        """Write the batch's rows."""
        if self._batch:
            self.session.connection.executemany(self.sql.upsert, self._batch.values())
            self._loaded.update(self._batch)
            self._batch.clear()

    def forget(self) -> None:
        """Forget everything."""
        self._member.clear()
        self._batch.clear()
        self._loaded.clear()


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

    def select(self, where: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Return the rows of a SELECT over this table as tuples; `where` is everything behind its name."""
        return self.session.query(f"SELECT {self.sql.columns} FROM {where}", parameters, self)

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
