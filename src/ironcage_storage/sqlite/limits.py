"""Usage limits, and what counts against them."""

from collections.abc import Mapping
from typing import Final, Literal

from ironcage_core.domain.instants import Instant, day_of, minute_of
from ironcage_core.domain.users import UsageLimit
from ironcage_core.ports.lists import LimitFilter, Page, Paging
from ironcage_storage.sqlite.logs import Tally
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Session

REMEMBERED_LOOKUPS: Final = 10_000
ALL_PROJECTS: Final = ""
"""The project of what counts against a user as a whole."""


class SqliteLimits:
    """Implements `Limits`."""

    def __init__(self, session: Session) -> None:
        self._table: Table[UsageLimit] = Table(session, "usage_limits", UsageLimit)
        # What was found of whom, also that there is none: every grant and report asks. Any change forgets all of it.
        self._found: dict[tuple[str, str | None], UsageLimit | None] = {}
        self._is_changed = False

    def find(self, limit_id: str) -> UsageLimit | None:
        """Return the limit with this id."""
        return self._table.get(limit_id)

    def find_of(self, user_id: str, project_id: str | None = None) -> UsageLimit | None:
        """Return the user's limit in all, or in one project."""
        try:
            return self._found[user_id, project_id]
        except KeyError:
            found = self._found[user_id, project_id] = self._look_up(user_id, project_id)
            return found

    def _look_up(self, user_id: str, project_id: str | None) -> UsageLimit | None:
        rows = self._table.unsettled_rows(
            "usage_limits WHERE user_id = ? AND project_id IS ?",
            (user_id, project_id),
            lambda limit: limit.user_id == user_id and limit.project_id == project_id,
        )
        return rows[0] if rows else None

    def page(self, which: LimitFilter, paging: Paging) -> Page[UsageLimit]:
        """Return limits, newest first."""
        terms, parameters = conjunction({"user_id = ?": which.user_id, "project_id = ?": which.project_id})
        where = f"usage_limits WHERE {terms} ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?"
        rows = self._table.rows(where, (*parameters, paging.per_page, paging.offset))
        sql = f"SELECT count(*) FROM usage_limits WHERE {terms}"
        (total,) = self._table.session.query(sql, parameters, self._table).fetchone()
        return Page(rows, total)

    def put(self, limit: UsageLimit) -> None:
        """Store the limit, new or changed."""
        self._table.put(limit)
        self._change()

    def remove(self, limit_id: str) -> None:
        """Remove the limit."""
        self._table.remove(limit_id)
        self._change()

    def delete_of_user(self, user_id: str) -> None:
        """Remove the user's limits, in all and in projects."""
        for limit in self._table.rows("usage_limits WHERE user_id = ?", (user_id,)):
            self.remove(limit.id)

    def delete_of_project(self, project_id: str) -> None:
        """Remove all users' limits in this project."""
        for limit in self._table.rows("usage_limits WHERE project_id = ?", (project_id,)):
            self.remove(limit.id)

    def _change(self) -> None:
        self._found.clear()
        self._is_changed = True

    def drop(self) -> None:
        """Forget what may have been found in rows that were cut back."""
        if self._is_changed:
            self._found.clear()

    def forget(self) -> None:
        """Forget all that was found."""
        self._found.clear()
        self._is_changed = False

    def rest(self) -> None:
        """The batch is committed: what was found stays known."""
        self._is_changed = False
        if len(self._found) > REMEMBERED_LOOKUPS:
            self._found.clear()


class SqliteLimitWindows:
    """Implements `LimitWindows`."""

    def __init__(self, session: Session) -> None:
        self._tally = Tally(session, "limit_windows", ("kind", "window", "user_id", "project_id"), "n")
        self._session = session

    def add(self, user_id: str, project_id: str, at: Instant, *, tokens: int = 0, requests: int = 0) -> None:
        """Count tokens that were reported, and reports and grants."""
        day, minute = day_of(at), minute_of(at)
        for project in (ALL_PROJECTS, project_id):
            self._tally.add(("tokens", day, user_id, project), tokens)
            self._tally.add(("requests", minute, user_id, project), requests)

    def tokens(self, user_id: str, project_id: str | None, at: Instant) -> int:
        """Return the tokens of the day of an instant."""
        return self._value(user_id, project_id, "tokens", day_of(at))

    def requests(self, user_id: str, project_id: str | None, at: Instant) -> int:
        """Return the reports and grants of the minute of an instant."""
        return self._value(user_id, project_id, "requests", minute_of(at))

    def _value(self, user_id: str, project_id: str | None, kind: Literal["tokens", "requests"], window: int) -> int:
        return self._tally.value((kind, window, user_id, ALL_PROJECTS if project_id is None else project_id))

    def set_tokens(self, user_id: str, project_id: str | None, at: Instant, tokens: int) -> None:
        """Correct the tokens of the day of an instant."""
        project = ALL_PROJECTS if project_id is None else project_id
        columns = "kind, window, user_id, project_id, n"
        sql = f"INSERT OR REPLACE INTO limit_windows ({columns}) VALUES ('tokens', ?, ?, ?, ?)"
        self._session.execute(sql, (day_of(at), user_id, project, tokens))

    def all_tokens(self, at: Instant) -> Mapping[tuple[str, str | None], int]:
        """Return the tokens of the day of an instant by (user_id, project_id)."""
        sql = "SELECT user_id, nullif(project_id, ?), n FROM limit_windows WHERE kind = 'tokens' AND window = ?"
        cursor = self._session.query(sql, (ALL_PROJECTS, day_of(at)), self._tally)
        return {(user_id, project_id): n for user_id, project_id, n in cursor}

    def forget(self, *, tokens_before: Instant, requests_before: Instant, limit: int) -> int:
        """Drop at most `limit` windows of each kind that ended before an instant; return the more that went of one."""
        gone = 0
        columns = "kind, window, user_id, project_id"
        old = f"SELECT {columns} FROM limit_windows WHERE kind = ? AND window < ? LIMIT ?"
        sql = f"DELETE FROM limit_windows WHERE ({columns}) IN ({old})"
        for kind, window in (("tokens", day_of(tokens_before)), ("requests", minute_of(requests_before))):
            gone = max(gone, self._session.execute(sql, (kind, window, limit)))
        return gone
