"""The unit of work over SQLite: every collection on one session."""

import sqlite3

from ironcage_core.domain.ids import Prefix
from ironcage_core.domain.instants import Instant
from ironcage_core.ports.system import Clock, Ids
from ironcage_storage.sqlite.api_tokens import SqliteApiTokens, SqliteTokenUsage
from ironcage_storage.sqlite.audit import SqliteAuditLog
from ironcage_storage.sqlite.balances import SqliteBalances
from ironcage_storage.sqlite.banks import SqliteBanks
from ironcage_storage.sqlite.budget_requests import SqliteBudgetRequests
from ironcage_storage.sqlite.control import (
    SqliteBankAlerts,
    SqliteDeadTokens,
    SqliteRememberedAnswers,
    SqliteReservations,
)
from ironcage_storage.sqlite.feed import SqliteFeed
from ironcage_storage.sqlite.leases import SqliteLeases
from ironcage_storage.sqlite.ledger import SqliteAllocationNotes, SqliteLedger
from ironcage_storage.sqlite.limits import SqliteLimits, SqliteLimitWindows
from ironcage_storage.sqlite.projects import SqliteProjects
from ironcage_storage.sqlite.records import (
    SqliteAgents,
    SqliteIcTokens,
    SqliteProviderKeys,
)
from ironcage_storage.sqlite.repairs import SqliteRepairs
from ironcage_storage.sqlite.session import Session
from ironcage_storage.sqlite.sessions import SqliteSessions
from ironcage_storage.sqlite.stamp import Stamp
from ironcage_storage.sqlite.telemetry import SqliteTelemetry
from ironcage_storage.sqlite.unknown_logins import SqliteUnknownLogins
from ironcage_storage.sqlite.usage import SqliteUsage
from ironcage_storage.sqlite.users import SqliteUsers


class SqliteUnitOfWork:
    """Implements `UnitOfWork`; lives as long as its connection and serves one unit of work after the other."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock, ids: Ids, *, writable: bool) -> None:
        session = self._session = Session(connection, writable=writable)
        stamp = self._stamp = Stamp(clock, ids)
        # Registered in this order, and so written in it: a row refers only to rows of tables above it.
        self.users = SqliteUsers(session)
        self.unknown_logins = SqliteUnknownLogins(session)
        self.sessions = SqliteSessions(session, stamp)
        self.limits = SqliteLimits(session)
        self.limit_windows = SqliteLimitWindows(session)
        self.agents = SqliteAgents(session)
        self.balances = SqliteBalances(session, self.agents.table)
        self.provider_keys = SqliteProviderKeys(session)
        self.ic_tokens = SqliteIcTokens(session)
        self.api_tokens = SqliteApiTokens(session, self.ic_tokens.table, self.agents.table)
        self.projects = SqliteProjects(session, self.agents.table, self.balances.table, self.api_tokens.table)
        self.token_usage = SqliteTokenUsage(session)
        self.budget_requests = SqliteBudgetRequests(session, self.agents.table)
        self.dead_tokens = SqliteDeadTokens(session)
        self.reservations = SqliteReservations(session)
        self.remembered_answers = SqliteRememberedAnswers(session)
        self.bank_alerts = SqliteBankAlerts(session)
        self.leases = SqliteLeases(session, self.agents.table)
        self.ledger = SqliteLedger(session, self.agents.table)
        self.allocation_notes = SqliteAllocationNotes(session)
        self.banks = SqliteBanks(session)
        self.usage = SqliteUsage(session, self.agents.table, self.leases.table)
        self.telemetry = SqliteTelemetry(session)
        self.audit = SqliteAuditLog(session, stamp)
        self.feed = SqliteFeed(session, stamp, self.agents.table)
        self.repairs = SqliteRepairs(session, stamp, self.leases)

    @property
    def now(self) -> Instant:
        """The instant of this unit of work."""
        return self._stamp.now

    def new_id(self, prefix: Prefix) -> str:
        """Return a fresh, time-ordered id."""
        return self._stamp.new_id(prefix)

    def begin(self) -> None:
        """Start a unit of work: read the clock."""
        self._stamp.advance()

    def keep(self) -> None:
        """End a unit of work that returned."""
        self._session.keep_member()

    def drop(self) -> None:
        """End a unit of work that raised; the transaction must still be open."""
        self._session.drop_member()
        self.leases.drop()
        self.limits.drop()

    def flush(self) -> None:
        """Write what all units of the batch have left to write."""
        self._session.flush()

    def forget(self) -> None:
        """Start again from the database alone: it was rolled back, or somebody else has written."""
        self._session.forget()
        self.leases.forget()
        self.limits.forget()

    def rest(self) -> None:
        """End a batch that was committed; hot rows stay in memory for the next one."""
        self._session.rest()
        self.leases.rest()
        self.limits.rest()
