"""The audit log: rows are linked into their chain when they are written, behind the head read in the transaction."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from ironcage_core.domain.audit import RETENTION_DAYS, AuditNote, AuditRow, Chain, chained, unchained
from ironcage_core.domain.instants import Instant
from ironcage_core.ports.lists import AuditFilter, Page, Paging
from ironcage_storage.sqlite.logs import Log, Tally
from ironcage_storage.sqlite.rows import conjunction
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
        # A chain whose rows are all pruned goes on behind the last of them.
        for sql in (
            "SELECT hash FROM audit_log WHERE chain = ? ORDER BY seq DESC LIMIT 1",
            "SELECT hash FROM audit_anchors WHERE chain = ?",
        ):
            found = self.session.connection.execute(sql, (chain,)).fetchone()
            if found:
                return str(found[0])
        return ""


class SqliteAuditLog:
    """Implements `AuditLog`."""

    def __init__(self, session: Session, stamp: Stamp) -> None:
        self._log = _ChainedLog(session, "audit_log", AuditRow)
        self._counts = Tally(session, "audit_counts", ("chain",), "n")
        self._session = session
        self._stamp = stamp

    def append(self, note: AuditNote) -> None:
        """Remember a note; it is linked into its chain when it is written."""
        row = unchained(note, id=self._stamp.new_id("aud"), at=self._stamp.now)
        self._log.add(row)
        self._counts.add((row.chain,), 1)

    def find(self, row_id: str) -> AuditRow | None:
        """Return the row with this id."""
        found = self._log.select("audit_log WHERE id = ?", (row_id,)).fetchone()
        return AuditRow._make(found) if found else None

    def page(self, which: AuditFilter, paging: Paging, *, descending: bool = True) -> Page[AuditRow]:
        """Return rows, newest first unless told otherwise, with their exact number."""
        terms, parameters = _where(which)
        way = "DESC" if descending else "ASC"
        where = f"audit_log WHERE {terms} ORDER BY timestamp {way}, seq {way} LIMIT ? OFFSET ?"
        cursor = self._log.select(where, (*parameters, paging.per_page, paging.offset))
        return Page([AuditRow._make(row) for row in cursor], self._count(which))

    def _count(self, which: AuditFilter) -> int:
        if which == AuditFilter():
            return sum(self.counts().values())
        terms, parameters = _where(which)
        (total,) = self._session.query(
            f"SELECT count(*) FROM audit_log WHERE {terms}", parameters, self._log
        ).fetchone()
        return int(total)

    def prune(self, chain: Chain, before: Instant, limit: int) -> int:
        """Remove at most `limit` of the chain's oldest rows from before an instant; return how many went.

        A row that is older than one before it stays until that one goes, so that the chain has no hole.

        Raises:
            ValueError: The chain is kept for ever.
        """
        if RETENTION_DAYS[chain] is None:
            raise ValueError(f"the chain {chain} is kept for ever")
        sql = "SELECT timestamp, seq, hash FROM audit_log WHERE chain = ? ORDER BY seq LIMIT ?"
        oldest = self._session.query(sql, (chain, limit), self._log).fetchall()
        old = list(takewhile(lambda row: row[0] < before, oldest))
        if not old:
            return 0
        _, last, hash_ = old[-1]
        # The anchor first: it is what lets the rows go, and what the rest of the chain is verified against.
        self._session.execute(
            "INSERT INTO audit_anchors (chain, seq, hash) VALUES (?, ?, ?) "
            "ON CONFLICT (chain) DO UPDATE SET seq = excluded.seq, hash = excluded.hash",
            (chain, last, hash_),
        )
        self._session.execute("DELETE FROM audit_log WHERE chain = ? AND seq <= ?", (chain, last))
        self._counts.add((chain,), -len(old))
        return len(old)

    def anchors(self) -> Mapping[Chain, str]:
        """Return the hash of the last pruned row of each chain that was ever pruned."""
        return dict(self._session.query("SELECT chain, hash FROM audit_anchors").fetchall())

    def counts(self) -> Mapping[Chain, int]:
        """Return the maintained number of rows of each chain."""
        return dict(self._session.query("SELECT chain, n FROM audit_counts", (), self._counts).fetchall())

    def rows(self) -> Iterator[AuditRow]:
        """Yield every row in the order of writing."""
        for row in self._log.select("audit_log ORDER BY seq"):
            yield AuditRow._make(row)


def _where(which: AuditFilter) -> tuple[str, tuple[object, ...]]:
    return conjunction(
        {
            "actor_id = ? AND actor_type IN ('user', 'api_token')": which.user_id,
            "operation = ?": which.operation,
            "resource_type = ?": which.resource_type,
            "resource_id = ?": which.resource_id,
            "category = ?": which.category,
            "outcome = ?": which.outcome,
            "timestamp >= ?": which.since,
            "timestamp < ?": which.until,
        }
    )
