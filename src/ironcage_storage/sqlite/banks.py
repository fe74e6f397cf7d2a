"""The banks: what each owner's agents spent per month and hold now."""

from collections.abc import Mapping

from ironcage_core.domain.money import Micros
from ironcage_storage.sqlite.logs import Tally
from ironcage_storage.sqlite.session import Session


class SqliteBanks:
    """Implements `Banks`."""

    def __init__(self, session: Session) -> None:
        self._months = Tally(session, "bank_months", ("user_id", "period"), "spent")
        self._holds = Tally(session, "bank_holds", ("user_id",), "held")
        self._session = session

    def add(self, user_id: str, period: str, *, spent: Micros, held: Micros) -> None:
        """Move the owner's numbers."""
        self._months.add((user_id, period), spent)
        self._holds.add((user_id,), held)

    def spent(self, user_id: str, period: str) -> Micros:
        """Return what was spent in a month."""
        return self._months.value((user_id, period))

    def held(self, user_id: str) -> Micros:
        """Return what is lent now."""
        return self._holds.value((user_id,))

    def all_spent(self) -> Mapping[tuple[str, str], Micros]:
        """Return every (user_id, period) with its spend."""
        cursor = self._session.query("SELECT user_id, period, spent FROM bank_months", (), self._months)
        return {(user_id, period): spent for user_id, period, spent in cursor}

    def all_held(self) -> Mapping[str, Micros]:
        """Return every user with its hold."""
        return dict(self._session.query("SELECT user_id, held FROM bank_holds", (), self._holds).fetchall())
