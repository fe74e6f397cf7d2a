"""The feed: events as JSON, numbered in the order of commits."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ironcage_core.domain.events import FeedEvent, FeedType
from ironcage_storage.sqlite.logs import Log
from ironcage_storage.sqlite.session import Session
from ironcage_storage.sqlite.stamp import Stamp

_encode = msgspec.json.Encoder().encode


class _EncodedLog(Log[FeedEvent]):
    def written(self, rows: list[FeedEvent]) -> Sequence[Sequence[Any]]:
        return [(*row[:-1], _encode(row.data).decode()) for row in rows]


class SqliteFeed:
    """Implements `Feed`."""

    def __init__(self, session: Session, stamp: Stamp) -> None:
        self._log = _EncodedLog(session, "feed", FeedEvent)
        self._stamp = stamp

    def append(
        self,
        type: FeedType,  # noqa: A002 - the event's own word
        *,
        agent_id: str | None,
        name: str | None,
        data: Mapping[str, object],
        severity: str | None = None,
    ) -> None:
        """Publish an event with the commit."""
        stamp = self._stamp
        self._log.add(FeedEvent(None, stamp.new_id("evt"), stamp.now, type, agent_id, name, severity, data))

    def after(self, seq: int, limit: int) -> Sequence[FeedEvent]:
        """Return at most `limit` events with a larger `seq`, in order."""
        cursor = self._log.select("feed WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))
        return [FeedEvent._make((*row[:-1], msgspec.json.decode(row[-1]))) for row in cursor]
