"""The session: one connection and what is not yet written to it.

Units of work of one batch share the session. Rows that a unit puts stay in memory, first as the *member's*, then,
when it returns, as the *batch's*; they are written with `executemany` when the batch ends. Point reads look there
first, so a unit sees everything before it. A query that SQL must answer settles the tables it reads: the batch's rows
are written, a savepoint is set, then the member's rows are written behind it. So a unit that fails is cut back by
forgetting its rows, and by its savepoint if it has one.
"""

import sqlite3
from collections.abc import Sequence
from typing import Protocol


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
        """Forget everything, written or not: the database is not what it was."""
        ...

    def rest(self) -> None:
        """The batch is committed; give up what need not be remembered for the next one."""
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
        self._broken_by: Exception | None = None

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

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Run a statement that writes, inside the member's savepoint; return how many rows it changed."""
        if not self._writable:
            raise ReadOnlyError
        self.settle()
        return self.connection.execute(sql, parameters).rowcount

    def settle(self) -> None:
        """Write everything pending, with the member's own rows behind a savepoint."""
        if not self._has_savepoint:
            try:
                self.flush()
            except Exception as error:
                self._broken_by = error
                raise BrokenBatchError from error
            self.connection.execute("SAVEPOINT member")
            self._has_savepoint = True
        self._keep_touched()
        self.flush()

    def reread(self) -> None:
        """Write everything pending and forget every row: statements have changed what the tables know."""
        self.settle()
        for part in self._parts:
            part.forget()

    def flush(self) -> None:
        """Write the batch's rows."""
        for part in self._parts:
            part.flush()

    def keep_member(self) -> None:
        """End a member that returned.

        Raises:
            BrokenBatchError: Rows could not be written while it ran, even if it took no notice.
        """
        if self._broken_by is not None:
            raise BrokenBatchError from self._broken_by
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
        """Start again from the database alone."""
        self._broken_by = None
        self._touched.clear()
        self._has_savepoint = False
        for part in self._parts:
            part.forget()

    def rest(self) -> None:
        """End a batch that was committed."""
        self._has_savepoint = False
        for part in self._parts:
            part.rest()

    def _keep_touched(self) -> None:
        for part in self._touched:
            part.keep()
        self._touched.clear()
