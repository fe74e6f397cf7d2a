"""The feed: events as JSON, numbered in the order of commits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from ironcage_core.domain.events import FeedEvent, FeedType
from ironcage_core.domain.feed_audience import Belonging
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.instants import Instant
from ironcage_storage.sqlite.logs import Log
from ironcage_storage.sqlite.session import Pending, Session
from ironcage_storage.sqlite.stamp import Stamp

ASTRAY: Final = 1000
"""How many rows to each side of its place an id is looked for."""

_COLUMNS: Final = ", ".join(f"feed.{column}" for column in FeedEvent._fields)
_TAIL: Final = (
    f"SELECT {_COLUMNS}, agents.owner_id, agents.project_id FROM feed LEFT JOIN agents ON agents.id = feed.agent_id "
    "WHERE seq > ? ORDER BY seq LIMIT ?"
)
_PURGE: Final = (
    "DELETE FROM feed WHERE seq IN (SELECT seq FROM feed ORDER BY seq LIMIT ?) "
    "AND seq < (SELECT max(seq) FROM feed) AND (at < ? OR seq <= (SELECT max(seq) FROM feed) - ?)"
)

_encode = msgspec.json.Encoder().encode


class _EncodedLog(Log[FeedEvent]):
    """The rows; its listeners are called after each commit that wrote some."""

    listeners: tuple[Callable[[], None], ...] = ()
    _has_news = False

    def written(self, rows: list[FeedEvent]) -> Sequence[Sequence[Any]]:
        self._has_news = True
        return [(*row[:-1], _encode(row.data).decode()) for row in rows]

    def rest(self) -> None:
        if self._has_news:  # or was undone: to be called for nothing does no harm
            self._has_news = False
            for listener in self.listeners:
                listener()


class SqliteFeed:
    """Implements `Feed`.

    Args:
        session: Where it belongs.
        stamp: Gives times and ids.
        agents: Whose owners and projects decide who is told.
    """

    def __init__(self, session: Session, stamp: Stamp, agents: Pending) -> None:
        self._log = _EncodedLog(session, "feed", FeedEvent)
        self._stamp = stamp
        self._agents = agents

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have something called after each commit that wrote events; return what takes it back."""
        self._log.listeners += (listener,)

        def leave() -> None:
            self._log.listeners = tuple(each for each in self._log.listeners if each is not listener)

        return leave

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

    def tail(self, seq: int, limit: int) -> Sequence[tuple[FeedEvent, Belonging | None]]:
        """Return as `after`, each with where its agent belongs now."""
        cursor = self._log.session.query(_TAIL, (seq, limit), self._log, self._agents)
        return [
            (
                FeedEvent._make((*row[:-3], msgspec.json.decode(row[-3]))),
                None if row[-2] is None else Belonging(row[-2], row[-1]),
            )
            for row in cursor
        ]

    def newest(self) -> tuple[int, str] | None:
        """Return number and id of the newest event."""
        found: tuple[int, str] | None = self._log.session.query(
            "SELECT seq, id FROM feed ORDER BY seq DESC LIMIT 1", (), self._log
        ).fetchone()
        return found

    def seq_of(self, event_id: str) -> int | None:
        """Return the number of an event that is still there.

        Ids grow with numbers, so halving leads there without an index that every event would have to be written to.
        Several processes may disturb that order a little, and a clock that was set back over a restart very much:
        what is not found then counts as purged.
        """
        if not is_id(event_id, "evt"):
            return None
        near = self._place_of(event_id)
        sql = "SELECT seq FROM feed WHERE seq BETWEEN ? AND ? AND id = ?"
        found = self._log.session.query(sql, (near - ASTRAY, near + ASTRAY, event_id), self._log).fetchone()
        return None if found is None else int(found[0])

    def _place_of(self, event_id: str) -> int:
        """Return the number of the first event whose id is not smaller, or the next number to come."""
        query = self._log.session.query
        low, high = query("SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) + 1 FROM feed", (), self._log).fetchone()
        while low < high:
            middle = (low + high) // 2
            (found,) = query("SELECT id FROM feed WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,), self._log).fetchone()
            if found < event_id:
                low = middle + 1
            else:
                high = middle
        return int(low)

    def purge(self, before: Instant, keep: int, limit: int) -> int:
        """Remove what need not be kept, oldest first, and return how many events went; the newest always stays.

        Args:
            before: Events older than this go.
            keep: At most so many stay.
            limit: At most how many go at once.
        """
        return self._log.session.execute(_PURGE, (limit, before, keep))
