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
        self._project_months = Tally(session, "bank_project_months", ("user_id", "project_id", "period"), "spent")
        self._project_holds = Tally(session, "bank_project_holds", ("user_id", "project_id"), "held")
        self._session = session

    def add(self, user_id: str, project_id: str, period: str, *, spent: Micros, held: Micros) -> None:
        """Move the owner's numbers, in all and in the project of the lease."""
        self._months.add((user_id, period), spent)
        self._holds.add((user_id,), held)
        self._project_months.add((user_id, project_id, period), spent)
        self._project_holds.add((user_id, project_id), held)

    def spent(self, user_id: str, period: str, project_id: str | None = None) -> Micros:
        """Return what was spent in a month, in all or in one project."""
        if project_id is None:
            return self._months.value((user_id, period))
        return self._project_months.value((user_id, project_id, period))

    def held(self, user_id: str, project_id: str | None = None) -> Micros:
        """Return what is lent now, in all or in one project."""
        if project_id is None:
            return self._holds.value((user_id,))
        return self._project_holds.value((user_id, project_id))

    def all_spent(self) -> Mapping[tuple[str, str], Micros]:
        """Return every (user_id, period) with its spend."""
        cursor = self._session.query("SELECT user_id, period, spent FROM bank_months", (), self._months)
        return {(user_id, period): spent for user_id, period, spent in cursor}

    def all_held(self) -> Mapping[str, Micros]:
        """Return every user with its hold."""
        return dict(self._session.query("SELECT user_id, held FROM bank_holds", (), self._holds).fetchall())

    def all_spent_in_projects(self) -> Mapping[tuple[str, str, str], Micros]:
        """Return every (user_id, project_id, period) with its spend."""
        sql = "SELECT user_id, project_id, period, spent FROM bank_project_months"
        return {(row[0], row[1], row[2]): row[3] for row in self._session.query(sql, (), self._project_months)}

    def all_held_in_projects(self) -> Mapping[tuple[str, str], Micros]:
        """Return every (user_id, project_id) with its hold."""
        sql = "SELECT user_id, project_id, held FROM bank_project_holds"
        return {(row[0], row[1]): row[2] for row in self._session.query(sql, (), self._project_holds)}
