"""Events of runtimes, found by agent and event; those that were purged keep their key."""

import json
from collections.abc import Sequence
from typing import Final

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.telemetry import KeptTelemetry
from ironcage_storage.sqlite.rows import Table
from ironcage_storage.sqlite.session import Session

_CHOSEN: Final = "(agent_id, event_id) IN (SELECT agent_id, event_id FROM telemetry_events WHERE {} LIMIT ?)"
_WITH_DATA: Final = _CHOSEN.format("is_safety = ? AND data IS NOT NULL AND at < ? ORDER BY at")
_OLD: Final = _CHOSEN.format("at < ? ORDER BY at")


class SqliteTelemetry:
    """Implements `Telemetry`."""

    def __init__(self, session: Session) -> None:
        self._table: Table[KeptTelemetry] = Table(
            session, "telemetry_events", KeptTelemetry, ("agent_id", "event_id"), remembers=0
        )
        self._session = session

    def expect(self, agent_id: str, event_ids: Sequence[str]) -> None:
        """Fetch these events together; what is not there is remembered as well."""
        where = "agent_id = ? AND event_id IN (SELECT value FROM json_each(?))"
        keys = [(agent_id, event_id) for event_id in event_ids]
        self._table.preload(keys, where, (agent_id, json.dumps(event_ids)))

    def find(self, agent_id: str, event_id: str) -> KeptTelemetry | None:
        """Return what is kept of an event."""
        return self._table.get((agent_id, event_id))

    def put(self, event: KeptTelemetry) -> None:
        """Store the event."""
        self._table.put(event)

    def purge_data(self, before: Instant, limit: int, *, is_safety: bool) -> int:
        """Remove what at most `limit` events of either kind from before an instant said."""
        sql = f"UPDATE telemetry_events SET data = NULL, runtime_id = NULL, runtime_version = NULL WHERE {_WITH_DATA}"
        return self._purge(sql, (int(is_safety), before, limit))

    def purge(self, before: Instant, limit: int) -> int:
        """Remove at most `limit` events from before an instant."""
        return self._purge(f"DELETE FROM telemetry_events WHERE {_OLD}", (before, limit))

    def _purge(self, sql: str, parameters: Sequence[object]) -> int:
        changed = self._session.execute(sql, parameters)
        # Behind a statement that writes nothing is pending: only what is remembered of the old goes.
        self._table.forget()
        return changed
