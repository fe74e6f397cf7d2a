"""Reservations, answers remembered for retries, deaths of IC token values, and levels of banks that were told."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ironcage_core.domain.idempotency import RememberedAnswer
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import Micros
from ironcage_core.domain.reservations import Reservation
from ironcage_core.domain.settlements import Settlement
from ironcage_storage.sqlite.rows import Table
from ironcage_storage.sqlite.session import Session


class SqliteReservations:
    """Implements `Reservations`."""

    def __init__(self, session: Session) -> None:
        self._table: Table[Reservation] = Table(
            session, "reservations", Reservation, ("agent_id", "request_id"), is_often_empty=True
        )
        self._session = session

    def expect(self, agent_id: str, request_ids: Sequence[str]) -> None:
        """Fetch these reservations together; what is not there is remembered as well."""
        where = "agent_id = ? AND request_id IN (SELECT value FROM json_each(?))"
        keys = [(agent_id, request_id) for request_id in request_ids]
        self._table.preload(keys, where, (agent_id, json.dumps(request_ids)))

    def find(self, agent_id: str, request_id: str) -> Reservation | None:
        """Return the reservation of a call."""
        return self._table.get((agent_id, request_id))

    def put(self, reservation: Reservation) -> None:
        """Store the reservation, new or changed."""
        self._table.put(reservation)

    def open_of(self, lease_id: str, now: Instant) -> Sequence[Reservation]:
        """Return the lease's reservations that are open at this instant, oldest first."""
        found = self._table.unsettled_rows(
            "reservations WHERE lease_id = ? AND status = 'open' AND expires_at > ?",
            (lease_id, now),
            lambda each: each.lease_id == lease_id and each.is_open(now),
        )
        return sorted(found, key=lambda each: (each.created_at, each.request_id))

    def sums(self, lease_ids: Sequence[str], now: Instant) -> Mapping[str, Micros]:
        """Return what is set aside on each of these leases that has an open reservation at this instant."""
        sql = """SELECT lease_id, sum(amount) FROM reservations WHERE status = 'open' AND expires_at > ?
            AND lease_id IN (SELECT value FROM json_each(?)) GROUP BY lease_id"""
        return dict(self._session.query(sql, (now, json.dumps(lease_ids)), self._table))

    def forget(self, before: Instant, limit: int) -> int:
        """Remove at most `limit` reservations that ended before an instant."""
        rows = self._table.rows("reservations WHERE expires_at < ? ORDER BY expires_at LIMIT ?", (before, limit))
        for each in rows:
            self._table.remove((each.agent_id, each.request_id))
        return len(rows)


class SqliteRememberedAnswers:
    """Implements `RememberedAnswers`."""

    def __init__(self, session: Session) -> None:
        self._table: Table[RememberedAnswer] = Table(session, "idempotency_keys", RememberedAnswer, ("scope", "key"))

    def find(self, scope: str, key: str) -> RememberedAnswer | None:
        """Return what a request with this key has done."""
        return self._table.get((scope, key))

    def put(self, answer: RememberedAnswer) -> None:
        """Remember what a request has done."""
        self._table.put(answer)

    def forget(self, before: Instant, limit: int) -> int:
        """Remove at most `limit` answers from before an instant."""
        rows = self._table.rows("idempotency_keys WHERE created_at < ? ORDER BY created_at LIMIT ?", (before, limit))
        for each in rows:
            self._table.remove((each.scope, each.key))
        return len(rows)


class _Death(NamedTuple):
    """When a value died; a column each, in order."""

    token_id: str
    gen: int
    died_at: Instant


class SqliteDeadTokens:
    """Implements `DeadTokens`."""

    def __init__(self, session: Session) -> None:
        self._deaths: Table[_Death] = Table(session, "ic_token_deaths", _Death, ("token_id", "gen"))
        self._settlements: Table[Settlement] = Table(session, "settlements", Settlement, ("lease_id",))

    def died_at(self, token_id: str, gen: int) -> Instant | None:
        """Return when a value died or will die."""
        found = self._deaths.get((token_id, gen))
        return None if found is None else found.died_at

    def note_death(self, token_id: str, gen: int, at: Instant) -> None:
        """Remember when a value dies; one that was to die earlier does so."""
        known = self.died_at(token_id, gen)
        if known is None or at < known:
            self._deaths.put(_Death(token_id, gen, at))

    def settlement(self, lease_id: str) -> Settlement | None:
        """Return what a dead value has settled on a lease, and may."""
        return self._settlements.get(lease_id)

    def put_settlement(self, settlement: Settlement) -> None:
        """Store the settlement, new or grown."""
        self._settlements.put(settlement)


class _BankLevel(NamedTuple):
    """The level of a month that was told; a column each, in order."""

    user_id: str
    period: str
    level: int


class SqliteBankAlerts:
    """Implements `BankAlerts`."""

    def __init__(self, session: Session) -> None:
        self._table: Table[_BankLevel] = Table(session, "bank_alerts", _BankLevel, ("user_id", "period"))

    def level(self, user_id: str, period: str) -> int:
        """Return the level in percent; 0 for none."""
        found = self._table.get((user_id, period))
        return 0 if found is None else found.level

    def set_level(self, user_id: str, period: str, level: int) -> None:
        """Remember the level."""
        self._table.put(_BankLevel(user_id, period, level))
