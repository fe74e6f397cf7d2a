"""Users, deleted ones included.

SQLite folds the case of ASCII letters only, and the unique index on usernames with it. A username with other letters
is compared with all of its kind here, so that no two users differ by case alone, whatever their script. (Emails are
lower-cased by the core before they come here.)
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ironcage_core.domain.users import User
from ironcage_core.ports.lists import Page, Paging, UserFilter, UserOrder
from ironcage_storage.sqlite.rows import Table, conjunction
from ironcage_storage.sqlite.session import Session

_SHOWN_STATUS: Final = "CASE WHEN status = 'active' AND locked_until > ? THEN 'locked' ELSE status END"
_HAS_OTHER_LETTERS: Final = "length(username) < length(CAST(username AS BLOB))"

# No control character is in a name or a search, so a match never spans two of them.
_SEARCHED: Final = "instr(fold(username || char(10) || email || char(10) || coalesce(name, '')), fold(?)) > 0"

_ORDERS: Final[Mapping[UserOrder, str]] = MappingProxyType(
    {
        "created_at": "created_at",
        "username": "lower(username)",
        "email": "email",
        "role": "role",
        "last_login": "last_login_at",
    }
)


class SqliteUsers:
    """Implements `Users`."""

    def __init__(self, session: Session) -> None:
        self._table: Table[User] = Table(session, "users", User)
        self._session = session

    def find(self, user_id: str) -> User | None:
        """Return the user with this id."""
        return self._table.get(user_id)

    def find_by_username(self, username: str) -> User | None:
        """Return the living user with this username, in whatever case."""
        rows = self._table.rows("users WHERE lower(username) = lower(?) AND status <> 'deleted'", (username,))
        if not rows and not username.isascii():
            others = self._table.rows(f"users WHERE {_HAS_OTHER_LETTERS} AND status <> 'deleted'")
            rows = [user for user in others if user.username.lower() == username.lower()]
        return rows[0] if rows else None

    def find_by_email(self, email: str) -> User | None:
        """Return the living user with this email, in whatever case."""
        rows = self._table.rows("users WHERE lower(email) = lower(?) AND status <> 'deleted'", (email,))
        return rows[0] if rows else None

    def is_empty(self) -> bool:
        """Tell whether there was never any user."""
        return self._session.query("SELECT 1 FROM users LIMIT 1", (), self._table).fetchone() is None

    def put(self, user: User) -> None:
        """Store the user, new or changed."""
        self._table.put(user)

    def page(
        self, which: UserFilter, paging: Paging, order: UserOrder = "created_at", *, descending: bool = True
    ) -> Page[User]:
        """Return users, newest first unless told otherwise; who never logged in comes last in either direction."""
        terms, parameters = _selection(which)
        by = f"{_ORDERS[order]} {'DESC' if descending else 'ASC'} NULLS LAST, id DESC"
        where = f"users WHERE {terms} ORDER BY {by} LIMIT ? OFFSET ?"
        rows = self._table.rows(where, (*parameters, paging.per_page, paging.offset))
        (total,) = self._session.query(f"SELECT count(*) FROM users WHERE {terms}", parameters, self._table).fetchone()
        return Page(rows, total)

    def count_active_admins(self) -> int:
        """Return how many admins are neither suspended nor deleted."""
        sql = "SELECT count(*) FROM users WHERE role = 'admin' AND status = 'active'"
        count: int = self._session.query(sql, (), self._table).fetchone()[0]
        return count


def _selection(which: UserFilter) -> tuple[str, tuple[object, ...]]:
    terms, parameters = conjunction(
        {"role = ?": which.role, "(status = 'active') = ?": which.is_active, _SEARCHED: which.search}
    )
    if which.status is not None:
        return f"{terms} AND {_SHOWN_STATUS} = ?", (*parameters, which.now, which.status)
    return terms if which.include_deleted else f"{terms} AND status <> 'deleted'", parameters
