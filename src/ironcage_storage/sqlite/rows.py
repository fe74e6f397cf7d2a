"""Rows that wait in memory, found by their key, and the SQL that is made from row types.

A table is a part of a session, which says when its rows are kept, dropped, written or forgotten.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, TypeVar

from ironcage_core.errors.faults import StorageError
from ironcage_storage.sqlite.session import Pending, Session

Row = TypeVar("Row", bound=NamedTuple)
_MISSING: Final = object()


def conjunction(chosen: Mapping[str, object]) -> tuple[str, tuple[object, ...]]:
    """Return the terms of a WHERE whose value is given, joined by AND, and the values to bind; `TRUE` for none."""
    used = {term: value for term, value in chosen.items() if value is not None}
    return " AND ".join(used) or "TRUE", tuple(used.values())


class Statements(NamedTuple):
    """The SQL of one table, made from the fields of its row type."""

    columns: str
    insert: str
    upsert: str
    find: str
    delete: str


class Update(NamedTuple):
    """An UPDATE by key, and what it binds of a row."""

    sql: str
    bind: Callable[[Any], Any]


@lru_cache
def statements(
    table: str, columns: tuple[str, ...], key: tuple[str, ...], constant: tuple[str, ...] = ()
) -> Statements:
    """Return the SQL of a table. Names come from our own row types; values are always bound."""
    names = ", ".join(columns)
    insert = f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"
    replaced = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in {*key, *constant})
    return Statements(
        columns=names,
        insert=insert,
        upsert=f"{insert} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {replaced}",
        find=f"SELECT {names} FROM {table} WHERE {_equals(key, ' AND ')}",
        delete=f"DELETE FROM {table} WHERE {_equals(key, ' AND ')}",
    )


@lru_cache
def update(table: str, columns: tuple[str, ...], key: tuple[str, ...]) -> Update:
    """Return the UPDATE of these columns."""
    return Update(
        f"UPDATE {table} SET {_equals(columns, ', ')} WHERE {_equals(key, ' AND ')}", attrgetter(*columns, *key)
    )


def _equals(columns: tuple[str, ...], separator: str) -> str:
    return separator.join(f"{column} = ?" for column in columns)


class Table(Generic[Row]):
    """Rows found by their key and written back at the end of the batch, once each, however often they change.

    Args:
        session: Where it belongs.
        name: The table's name.
        row_type: Its columns, in order.
        key: The columns by which rows are found.
        constant: Columns that never change once a row is there: its indexes on them need no work.
        indexed: Columns that seldom change and are in an index; they are written only when they do.
        remembers: At most how many rows stay in memory between batches.
        is_often_empty: Whether many databases have no row of it, so that it is worth a look before one is looked for.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        row_type: type[Row],
        key: tuple[str, ...] = ("id",),
        *,
        constant: tuple[str, ...] = (),
        indexed: tuple[str, ...] = (),
        remembers: int = 10_000,
        is_often_empty: bool = False,
    ) -> None:
        self.session = session
        self.name = name
        self.sql = statements(name, row_type._fields, key, constant)
        self._remembers = remembers
        changing = tuple(column for column in row_type._fields if column not in {*key, *constant})
        self._update = update(name, changing, key)
        self._narrow_update = update(name, tuple(column for column in changing if column not in indexed), key)
        self._indexed: Callable[[Row], Any] | None = attrgetter(*indexed) if indexed else None
        self._make: Callable[[Sequence[Any]], Row] = row_type._make
        self._key_of: Callable[[Row], Any] = attrgetter(*key)
        self._is_composite = len(key) > 1
        self._member: dict[Any, Row] = {}
        self._batch: dict[Any, Row] = {}
        self._loaded: dict[Any, Row | None] = {}
        self._is_often_empty = is_often_empty
        self._is_empty: bool | None = None
        session.register(self)

    def get(self, key: Any) -> Row | None:  # noqa: ANN401 - a str, or a tuple of them
        """Return the row with this key as the unit of work sees it."""
        row = self._member.get(key) or self._batch.get(key)
        return self.written(key) if row is None else row

    def written(self, key: Any) -> Row | None:  # noqa: ANN401 - a str, or a tuple of them
        """Return the row with this key as it is in the database."""
        loaded = self._loaded.get(key, _MISSING)
        if loaded is _MISSING:
            if self._has_no_row():
                return None
            parameters = key if self._is_composite else (key,)
            found = self.session.connection.execute(self.sql.find, parameters).fetchone()
            loaded = self._loaded[key] = None if found is None else self._make(found)
        return loaded  # type: ignore[return-value]  # a sentinel that was just replaced

    def _has_no_row(self) -> bool:
        """Tell whether it is known that nothing is written; what is known holds until `forget` or the next new row."""
        if self._is_often_empty and self._is_empty is None:
            found = self.session.connection.execute(f"SELECT 1 FROM {self.name} LIMIT 1").fetchone()
            self._is_empty = found is None
        return self._is_empty is True

    def preload(self, keys: Sequence[Any], where: str, parameters: Sequence[object]) -> None:
        """Fetch the rows of many keys with one statement; a key without a row is known to have none."""
        if self._has_no_row():
            return
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

    def remove(self, key: Any) -> None:  # noqa: ANN401 - a str, or a tuple of them
        """Delete the row with this key at once, if there is one."""
        self.session.execute(self.sql.delete, key if self._is_composite else (key,))
        self._loaded.pop(key, None)

    def rows(self, where: str, parameters: Sequence[object] = (), *reads: Pending) -> list[Row]:
        """Return the rows of a SELECT over this table; `where` is everything behind its name."""
        cursor = self.session.query(f"SELECT {self.sql.columns} FROM {where}", parameters, self, *reads)
        return [self._make(row) for row in cursor]

    def known_rows(self, where: str, parameters: Sequence[object] = ()) -> list[Row]:
        """As `rows`, for rows that are about to be changed: point reads need not fetch them once more."""
        found = self.rows(where, parameters)
        self._loaded.update((self._key_of(row), row) for row in found)
        return found

    def unsettled_rows(self, where: str, parameters: Sequence[object], matches: Callable[[Row], bool]) -> list[Row]:
        """Return what `rows` would, in no order, without writing what is pending: that would cost the batch its point.

        Args:
            where: As for `rows`.
            parameters: What it binds.
            matches: Tells of a pending row what `where` tells of a written one.
        """
        pending = {**self._batch, **self._member}
        cursor = self.session.connection.execute(f"SELECT {self.sql.columns} FROM {where}", parameters)
        written = (row for row in map(self._make, cursor) if self._key_of(row) not in pending)
        return [*written, *filter(matches, pending.values())]

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
        if not self._batch:
            return
        new: list[Row] = []
        moved: list[Row] = []
        changed: list[Row] = []
        indexed = self._indexed
        for key, row in self._batch.items():
            known = self._loaded.get(key)
            if known is None:
                new.append(row)
            elif indexed is not None and indexed(row) == indexed(known):
                changed.append(row)
            else:
                moved.append(row)
        self._write_known(self._update, moved)
        self._write_known(self._narrow_update, changed)
        if new:
            self._is_empty = None
            self.session.connection.executemany(self.sql.upsert, new)
        self._loaded.update(self._batch)
        self._batch.clear()

    def _write_known(self, how: Update, rows: list[Row]) -> None:
        # A row that is known to be there needs no upsert, which would touch every index of it.
        if not rows:
            return
        updated = self.session.connection.executemany(how.sql, map(how.bind, rows)).rowcount
        if updated != len(rows):
            raise StorageError(f"{len(rows) - updated} rows of {self.name} are not where they were")

    def forget(self) -> None:
        """Forget everything."""
        self._member.clear()
        self._batch.clear()
        self._loaded.clear()
        self._is_empty = None

    def rest(self) -> None:
        """Forget what is too much to remember."""
        if len(self._loaded) > self._remembers:
            self._loaded.clear()
