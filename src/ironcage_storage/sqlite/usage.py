"""Usage records, one a call, found by the key the call is known by."""

from collections.abc import Sequence
from typing import Final

from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import LeaseReports
from ironcage_storage.sqlite.rows import Table
from ironcage_storage.sqlite.session import Session

KEYS_AT_ONCE: Final = 250
"""Parameters of one statement; a few different lengths keep the statement cache small."""


class SqliteUsage:
    """Implements `Usage`."""

    def __init__(self, session: Session) -> None:
        self._table: Table[UsageRecord] = Table(
            session, "usage_records", UsageRecord, ("agent_id", "call_key"), remembers=0
        )

    def expect(self, agent_id: str, call_keys: Sequence[str]) -> None:
        """Fetch these records together; what is not there is remembered as well."""
        for start in range(0, len(call_keys), KEYS_AT_ONCE):
            keys = call_keys[start : start + KEYS_AT_ONCE]
            where = f"agent_id = ? AND call_key IN ({', '.join('?' * len(keys))})"
            self._table.preload([(agent_id, key) for key in keys], where, (agent_id, *keys))

    def find(self, agent_id: str, call_key: str) -> UsageRecord | None:
        """Return the record of a call."""
        return self._table.get((agent_id, call_key))

    def put(self, record: UsageRecord) -> None:
        """Store the record, new or changed."""
        self._table.put(record)

    def reported_by_lease(self, agent_id: str) -> Sequence[LeaseReports]:
        """Return the sum of reported cost per lease."""
        sql = """SELECT lease_id, sum(report_cost_micros) FROM usage_records
            WHERE agent_id = ? AND report_cost_micros IS NOT NULL AND lease_id IS NOT NULL GROUP BY lease_id"""
        return [LeaseReports._make(row) for row in self._table.session.query(sql, (agent_id,), self._table)]
