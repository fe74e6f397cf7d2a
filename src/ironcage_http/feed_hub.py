"""The hub of the live feed: one reader of the durable feed for all connections, and their clock.

An event is read once, with where its agent belongs at that moment, told once for each kind of listener, and offered to
those connections alone that may see it. No connection costs a query, and nobody who publishes waits for one. After a
commit of this process the hub is rung up; what other processes write it notices a little later by itself.

Source: contract analytics.md 6.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from anyio import to_thread

from ironcage_core.domain.events import FeedEvent
from ironcage_core.domain.feed_audience import Belonging
from ironcage_core.domain.instants import MS_PER_S, Instant, format_instant
from ironcage_core.errors.tree import CredentialError, IroncageError, RefusalError
from ironcage_core.ports.storage import Store, UnitOfWork
from ironcage_core.ports.system import Clock
from ironcage_http.feed_auth import Subscriber
from ironcage_http.feed_connection import CHUNK, Connection, Rows
from ironcage_http.feed_messages import AuthExpiring, Heartbeat, Told, told
from ironcage_http.feed_registry import Registry

logger = logging.getLogger(__name__)

MAX_REPLAYS: Final = 2
"""How many connections may read the log at a time: whoever is live comes first."""

POLL_S: Final = 0.25
"""How often it is looked for what other processes wrote."""

MAX_RECENT: Final = 500
"""How many events are remembered for those who have just come: many come at once, and then need not read the log."""

PAUSE_S: Final = 0.02
"""For how long events are gathered after a round, so that in a storm each client gets many in one piece."""

TICK_S: Final = 0.5
CHECK_S: Final = 2.0
"""How often it is looked whether credentials still hold."""

HEARTBEAT_S: Final = 30
SILENCE_S: Final = 60.0
AUTH_S: Final = 10.0
WARNING_MS: Final = 60 * MS_PER_S
LEAVE_S: Final = 2.0


class FeedHub:
    """The connections of one app.

    Args:
        store: Where the feed is.
        clock: What time it is.
        count_sent: Counts a message.
        count_slow: Counts a client that is closed because it was too slow.
        seconds: The time that passes; None for that of the event loop.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        count_sent: Callable[[int], None],
        count_slow: Callable[[], None],
        seconds: Callable[[], float] | None = None,
    ) -> None:
        self.position = 0
        self.registry = Registry(count_slow)
        self._store = store
        self._clock = clock
        self._count_sent = count_sent
        self.seconds = seconds or (lambda: asyncio.get_running_loop().time())
        self._replays = asyncio.Semaphore(MAX_REPLAYS)
        self._recent: deque[tuple[Told, Belonging | None]] = deque()
        self._remembered_since = 0
        self._bell = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.asynccontextmanager
    async def running(self, _: object = None) -> AsyncIterator[None]:
        """Follow the feed and the clock; at the end every connection is closed."""
        self._loop = asyncio.get_running_loop()
        leave = self._store.on_publish(self._ring)
        rounds: tuple[Callable[[], Awaitable[None]], ...] = (self._follow, self._tick, self._check)
        tasks = [asyncio.create_task(_for_ever(each)) for each in rounds]
        try:
            yield
        finally:
            leave()
            await self._close_all()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _close_all(self) -> None:
        for connection in list(self.registry.connections.values()):
            connection.end(1012, "the server restarts")
        for _ in range(int(LEAVE_S / 0.05)):
            if not self.registry.connections:
                return
            await asyncio.sleep(0.05)

    def _ring(self) -> None:
        """Note, in whatever thread, that there is news."""
        if self._loop is not None and not self._bell.is_set():
            with contextlib.suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(self._bell.set)

    async def _follow(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._bell.wait(), POLL_S if self.registry.connections else None)
        self._bell.clear()
        while self.registry.has_listeners and await self._pass_on():
            pass
        await asyncio.sleep(PAUSE_S)

    async def _pass_on(self) -> bool:
        """Offer the next events to whom they may concern, and tell whether there may be more."""
        rows = await self._read(self.position)
        touched: set[Connection] = set()
        for event, belonging in rows:
            if event.seq is None or event.seq <= self.position:
                continue
            self.position = event.seq
            words = self.tell(event)
            if words is not None:
                self._remember(words, belonging)
                for connection in self.registry.listeners(event, belonging):
                    if connection.is_live and connection.position < event.seq and connection.offer(words, belonging):
                        touched.add(connection)
        for connection in touched:
            connection.flush()
        await asyncio.sleep(0)  # whoever reads takes his before the next ones come
        return len(rows) == CHUNK

    def _remember(self, words: Told, belonging: Belonging | None) -> None:
        if len(self._recent) == MAX_RECENT:
            self._remembered_since = self._recent.popleft()[0].seq
        self._recent.append((words, belonging))

    def count_sent(self, messages: int = 1) -> None:
        """Count messages."""
        self._count_sent(messages)

    def start(self, connection: Connection, newest: int, since: int | None) -> None:
        """Let a connection follow the feed.

        Args:
            connection: Proven.
            newest: The number of the newest event at the time its credential was accepted.
            since: The last event the client knows, if it goes on from there.
        """
        if not any(each.is_live for each in self.registry.connections.values()):
            self.position = self._remembered_since = max(self.position, newest)  # nobody was there for what came before
            self._recent.clear()
        seq = newest if since is None else since
        # What was remembered is told to whom it concerned then; who comes back sees what concerns him now.
        if seq >= self.position or (since is None and seq >= self._remembered_since):
            connection.join(seq)
            for words, belonging in self._recent:
                if words.seq > seq:
                    connection.offer(words, belonging)
            connection.flush()
        else:
            connection.follow(seq)
        self._bell.set()

    async def tail(self, seq: int) -> Rows:
        """Return the next `CHUNK` events of the log."""
        async with self._replays:
            return await self._read(seq)

    async def _read(self, seq: int) -> Rows:
        return await to_thread.run_sync(self._store.read, partial(_tail, seq=seq))

    def tell(self, event: FeedEvent) -> Told | None:
        """Return an event as it is told; None if it cannot be."""
        try:
            return told(event)
        except Exception:  # one bad row must not keep all others from being told
            logger.exception("event %s cannot be told", event.id)
            return None

    async def _tick(self) -> None:
        await asyncio.sleep(TICK_S)
        self.tick()

    def tick(self) -> None:
        """Do what is due by the clock."""
        now, now_s = self._clock.now(), self.seconds()
        beat = Heartbeat(timestamp=format_instant(now))
        for connection in list(self.registry.connections.values()):
            if connection.subscriber is None:
                if now_s - connection.opened_s >= AUTH_S:
                    connection.end(4408, "no authentication in time")
            elif now_s - _heard_s(connection) >= SILENCE_S:
                connection.end(4408, "nothing was heard")
            else:
                self._expire(connection, connection.subscriber, now)
                if now_s - connection.beaten_s >= HEARTBEAT_S:
                    connection.beaten_s += HEARTBEAT_S
                    connection.tell(beat)
                    if connection.link is not None:
                        connection.link.ping()

    def _expire(self, connection: Connection, subscriber: Subscriber, now: Instant) -> None:
        until = subscriber.expires_at
        if until is None:
            return
        if until <= now:
            connection.end(4401, "the credential has expired")
        elif until - now <= WARNING_MS and not connection.is_warned:
            connection.is_warned = True
            connection.tell(AuthExpiring(timestamp=format_instant(now), expires_in=-(-(until - now) // MS_PER_S)))

    async def _check(self) -> None:
        await asyncio.sleep(CHECK_S)
        await self.check_credentials()

    async def check_credentials(self) -> None:
        """Close the connections whose credentials have ended, or say something else by now."""
        subscribers = [
            (each, each.subscriber) for each in self.registry.connections.values() if each.subscriber is not None
        ]
        if not subscribers:
            return
        judge = partial(_judged, subscribers=[subscriber for _, subscriber in subscribers])
        verdicts = await to_thread.run_sync(self._store.read, judge)
        for (connection, subscriber), verdict in zip(subscribers, verdicts, strict=True):
            if verdict is not None and connection.subscriber is subscriber:
                connection.end(*verdict)


async def _for_ever(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except IroncageError:
            logger.warning("a round of the live feed failed; the next one tries again", exc_info=True)
            await asyncio.sleep(POLL_S)
        except Exception:
            logger.exception("a round of the live feed failed; the next one tries again")
            await asyncio.sleep(POLL_S)


def _tail(uow: UnitOfWork, seq: int) -> Rows:
    return uow.feed.tail(seq, CHUNK)


def _judged(uow: UnitOfWork, subscribers: Sequence[Subscriber]) -> list[tuple[int, str] | None]:
    return [_verdict(uow, subscriber) for subscriber in subscribers]


def _verdict(uow: UnitOfWork, subscriber: Subscriber) -> tuple[int, str] | None:
    try:
        subscriber.check(uow)
    except CredentialError:
        return 4401, "the credential has ended"
    except RefusalError:
        return 4403, "the credential may not listen any more"
    return None


def _heard_s(connection: Connection) -> float:
    return connection.heard_s if connection.link is None else max(connection.heard_s, connection.link.heard_at)
