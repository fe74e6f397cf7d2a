"""Failed logins with identifiers that no user has: so many, and no more.

They are written at once and not kept in memory: each has cost a hash of a password, beside which this is nothing.
"""

from typing import Final

from ironcage_core.domain.users import UnknownLogin
from ironcage_storage.sqlite.rows import statements
from ironcage_storage.sqlite.session import Session

MAX_REMEMBERED: Final = 10_000

_SQL: Final = statements("unknown_logins", UnknownLogin._fields, ("identifier_hash",))
_FORGET_OLDEST: Final = """DELETE FROM unknown_logins WHERE identifier_hash IN (
    SELECT identifier_hash FROM unknown_logins WHERE identifier_hash <> ? ORDER BY last_at, identifier_hash
    LIMIT (SELECT max(0, count(*) - ?) FROM unknown_logins)
)"""


class SqliteUnknownLogins:
    """Implements `UnknownLogins`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, identifier_hash: str) -> UnknownLogin | None:
        """Return what is remembered of an identifier."""
        found = self._session.query(_SQL.find, (identifier_hash,)).fetchone()
        return None if found is None else UnknownLogin._make(found)

    def put(self, login: UnknownLogin) -> None:
        """Remember it; the longest unused one is forgotten where there are too many."""
        self._session.execute(_SQL.upsert, login)
        self._session.execute(_FORGET_OLDEST, (login.identifier_hash, MAX_REMEMBERED))
