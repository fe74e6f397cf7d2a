"""The registry of the live feed: which connections there are, how many there may be, and whom an event may concern.

Source: contract analytics.md 6.2, 6.5.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Final

from ironcage_core.domain.events import FeedEvent
from ironcage_core.domain.feed_audience import Belonging
from ironcage_core.errors.access import RateLimitExceededError
from ironcage_http.feed_auth import Subscriber
from ironcage_http.feed_connection import Connection

MAX_CONNECTIONS: Final = 1000
MAX_OF_ONE: Final = 10
MAX_UNPROVEN: Final = 100
"""How many may be connected and have not said who they are."""

RETRY_AFTER_S: Final = 5

Key = tuple[str, str]
_ALL: Final[Key] = ("all", "")


class Registry:
    """The connections of one app, by who listens and by what they may see.

    Args:
        count_slow: Counts a client that is closed because it was too slow.
    """

    def __init__(self, count_slow: Callable[[], None]) -> None:
        self.connections: dict[str, Connection] = {}
        self._count_slow = count_slow
        self._by_audience: defaultdict[Key, set[Connection]] = defaultdict(set)
        self._by_who: defaultdict[Key, set[Connection]] = defaultdict(set)

    @property
    def has_listeners(self) -> bool:
        """Whether anybody is connected who has said who he is."""
        return bool(self._by_who)

    def add(self, connection: Connection) -> None:
        """Take in a connection, proven or not.

        Raises:
            RateLimitExceededError: There are too many.
        """
        if len(self.connections) >= MAX_CONNECTIONS:
            raise _too_many(MAX_CONNECTIONS)
        if connection.subscriber is None:
            unproven = sum(each.subscriber is None for each in self.connections.values())
            if unproven >= MAX_UNPROVEN:
                raise _too_many(MAX_UNPROVEN)
        else:
            self._check_room(connection.subscriber)
        self.connections[connection.id] = connection
        if connection.subscriber is not None:
            self._index(connection, connection.subscriber)

    def prove(self, connection: Connection, subscriber: Subscriber) -> None:
        """Take a connection for that of somebody, the first time or again.

        Raises:
            RateLimitExceededError: He has too many.
        """
        if connection.subscriber is None:
            self._check_room(subscriber)
        self._forget(connection)
        connection.subscriber = subscriber
        connection.is_warned = False
        self._index(connection, subscriber)

    def remove(self, connection: Connection) -> None:
        """Let a connection go."""
        if self.connections.pop(connection.id, None) is not None:
            self._forget(connection)
            if connection.ending is not None and connection.ending[0] == 4409:
                self._count_slow()

    def _check_room(self, subscriber: Subscriber) -> None:
        if len(self._by_who.get(_name_of(subscriber), ())) >= MAX_OF_ONE:
            raise _too_many(MAX_OF_ONE)

    def _index(self, connection: Connection, subscriber: Subscriber) -> None:
        self._by_who[_name_of(subscriber)].add(connection)
        self._by_audience[_key_of(subscriber)].add(connection)

    def _forget(self, connection: Connection) -> None:
        subscriber = connection.subscriber
        if subscriber is None:
            return
        for index, key in ((self._by_who, _name_of(subscriber)), (self._by_audience, _key_of(subscriber))):
            index[key].discard(connection)
            if not index[key]:
                del index[key]

    def listeners(self, event: FeedEvent, belonging: Belonging | None) -> list[Connection]:
        """Return the connections that an event may concern; the audience rule decides for each."""
        keys = [_ALL]
        if belonging is not None:
            keys.append(("owner", belonging.owner_id))
        if event.agent_id is not None:
            keys.append(("agent", event.agent_id))
        return [connection for key in keys for connection in self._by_audience.get(key, ())]


def _name_of(subscriber: Subscriber) -> Key:
    return subscriber.who.kind, subscriber.who.id


def _key_of(subscriber: Subscriber) -> Key:
    """Return under what a connection is found for an event; the audience rule decides on what is found."""
    audience = subscriber.audience
    if audience.agent_id is not None:
        return "agent", audience.agent_id
    return _ALL if audience.kind == "all" else ("owner", audience.owner_id or "")


def _too_many(limit: int) -> RateLimitExceededError:
    return RateLimitExceededError("Too many connections are open", limit=limit, retry_after_s=RETRY_AFTER_S)
