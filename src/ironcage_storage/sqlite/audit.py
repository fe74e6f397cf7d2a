"""The audit log: rows are linked into their chain when they are written, behind the head read in the transaction."""

from collections.abc import Iterator, Sequence
from typing import Any

from ironcage_core.domain.audit import AuditNote, AuditRow, chained, unchained
from ironcage_storage.sqlite.logs import Log
from ironcage_storage.sqlite.session import Session
from ironcage_storage.sqlite.stamp import Stamp


class _ChainedLog(Log[AuditRow]):
    """Links rows to the newest row of their chain; the head is never remembered between transactions."""

    def written(self, rows: list[AuditRow]) -> Sequence[Sequence[Any]]:
        heads: dict[str, str] = {}
        linked = []
        for row in rows:
            head = heads.get(row.chain)
            link = chained(row, self._head(row.chain) if head is None else head)
            heads[row.chain] = link.hash
            linked.append(link)
        return linked

    def _head(self, chain: str) -> str:
        sql = "SELECT hash FROM audit_log WHERE chain = ? ORDER BY seq DESC LIMIT 1"
        found = self.session.connection.execute(sql, (chain,)).fetchone()
        return str(found[0]) if found else ""


class SqliteAuditLog:
    """Implements `AuditLog`."""

    def __init__(self, session: Session, stamp: Stamp) -> None:
        self._log = _ChainedLog(session, "audit_log", AuditRow)
        self._stamp = stamp

    def append(self, note: AuditNote) -> None:
        """Remember a note; it is linked into its chain when it is written."""
        self._log.add(unchained(note, id=self._stamp.new_id("aud"), at=self._stamp.now))

    def rows(self) -> Iterator[AuditRow]:
        """Yield every row in the order of writing."""
        for row in self._log.select("audit_log ORDER BY seq"):
            yield AuditRow._make(row)
