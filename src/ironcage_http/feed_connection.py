"""A connection of the live feed: what waits for one client, how it is sent, and how it catches up with the log.

What is live goes out at once, all of one round in one piece, as long as the client takes it. Else it waits in a queue
that is bounded: a client that does not keep up is closed, and nothing is left out silently. What a client missed is
read from the log as fast as it takes it, outside of the queue; at the end of that a boundary is set, everything behind
it waits in the queue, and the rest before it is read.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from ironcage_core.domain.events import FeedEvent
from ironcage_core.domain.feed_audience import Audience, Belonging, sees
from ironcage_core.domain.feed_filters import EVERYTHING, FeedFilter, matches
from ironcage_http.feed_auth import Subscriber
from ironcage_http.feed_messages import Message, Told, told_to
from ironcage_http.protocols import text_frame
from ironcage_http.wire import encode

MAX_QUEUED: Final = 1000
MAX_QUEUED_BYTES: Final = 1 << 20
CHUNK: Final = 200
"""How many events are read from the log at once."""

CLOSE_S: Final = 5.0
"""How long a client may take to accept what was sent before it is closed, and the close itself."""

Rows = Sequence[tuple[FeedEvent, Belonging | None]]


class Feed(Protocol):
    """What a connection needs of the hub."""

    position: int

    def count_sent(self, messages: int = 1) -> None:
        """Count messages."""
        ...

    async def tail(self, seq: int) -> Rows:
        """Return the next `CHUNK` events of the log."""
        ...

    def tell(self, event: FeedEvent) -> Told | None:
        """Return an event as it is told; None if it cannot be."""
        ...


class Connection:
    """One client.

    `is_live` tells whether the hub offers it new events; `position` is the last event that it was sent from the log, or
    that its client knows: none before it is offered. `is_stuck` tells that the client did not take even its end in
    time.

    Args:
        connection_id: Its name, for people.
        feed: Where it catches up.
        send: Sends an ASGI message.
        link: What the server tells of the socket beyond ASGI, if it does.
        now_s: The time of the loop.
    """

    def __init__(
        self,
        connection_id: str,
        feed: Feed,
        send: Callable[[Any], Awaitable[None]],
        link: Any,  # noqa: ANN401 - the server's
        now_s: float,
    ) -> None:
        self.id = connection_id
        self.link = link
        self.subscriber: Subscriber | None = None
        self.filter: FeedFilter = EVERYTHING
        self.opened_s = self.heard_s = self.beaten_s = now_s
        self.is_warned = False
        self.is_live = False
        self.position = 0
        self.is_stuck = False
        self.ending: tuple[int, str] | None = None
        self._feed = feed
        self._send = send
        self._is_behind = False
        self._turn = 0
        self._queue: deque[tuple[str, int, bool]] = deque()
        self._queued_bytes = 0
        self._is_sending = False
        self._burst: list[bytes] = []
        self._bell = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def audience(self) -> Audience | None:
        """Who listens; None until that is known."""
        return None if self.subscriber is None else self.subscriber.audience

    def tell(self, message: Message) -> None:
        """Send a message that is no event."""
        words = encode(message)
        self._put(words.decode(), len(words), is_event=False)

    def offer(self, told: Told, belonging: Belonging | None) -> bool:
        """Take a new event, if the client is to be told of it; return whether `flush` is to be called."""
        words = self._words(told, belonging)
        if words is None or self.ending is not None:
            return False
        if self._burst or self._goes_at_once():
            self._burst.append(text_frame(words))
            return True
        self._put(words.decode(), len(words), is_event=True)
        return False

    def _goes_at_once(self) -> bool:
        is_idle = not self._queue and not self._is_sending and not self._is_behind
        return is_idle and self.link is not None and self.link.can_write

    def flush(self) -> None:
        """Send the events that were taken since the last time."""
        burst, self._burst = self._burst, []
        if burst and self.ending is None:
            self.link.write(b"".join(burst))
            self._feed.count_sent(len(burst))

    def _words(self, told: Told, belonging: Belonging | None) -> bytes | None:
        audience = self.audience
        if audience is None or not sees(audience, told, belonging) or not matches(self.filter, told):
            return None
        return told_to(told, audience)

    def _put(self, text: str, size: int, *, is_event: bool) -> None:
        if self.ending is not None:
            return
        if len(self._queue) >= MAX_QUEUED or self._queued_bytes + size > MAX_QUEUED_BYTES:
            self._queue.clear()
            self.end(4409, "too slow; connect again with last_event_id")
            return
        self._queue.append((text, size, is_event))
        self._queued_bytes += size
        self._bell.set()

    def end(self, code: int, reason: str) -> None:
        """Close after what waits was sent, or without, if the client does not take it in time."""
        if self.ending is None:
            self.ending = (code, reason)
            self.is_live = self._is_behind = False
            self._turn += 1
            self._deadline = asyncio.get_running_loop().call_later(CLOSE_S, self._give_up)
            self._bell.set()

    def _give_up(self) -> None:
        if self._sending is not None:
            self.is_stuck = True
            self._sending.cancel()

    def follow(self, seq: int) -> None:
        """Send everything that comes after an event, from the log first."""
        self._go_on(seq)
        self.is_live, self._is_behind = False, True

    def join(self, seq: int) -> None:
        """Send what is offered from now on, as far as it comes after an event."""
        self._go_on(seq)
        self.is_live, self._is_behind = True, False

    def _go_on(self, seq: int) -> None:
        """Forget the events that wait: they come once more, in their order."""
        kept = [each for each in self._queue if not each[2]]
        self._queue = deque(kept)
        self._queued_bytes = sum(size for _, size, _ in kept)
        self.position = seq
        self._turn += 1
        self._bell.set()

    async def send_all(self) -> None:
        """Send what waits and what was missed until the connection ends; then close it."""
        self._sending = asyncio.current_task()
        try:
            while self._queue or self.ending is None:
                if self._queue:
                    await self._send_next()
                elif self._is_behind:
                    await self._catch_up()
                else:
                    self._bell.clear()
                    await self._bell.wait()
            code, reason = self.ending
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except OSError:  # the client has gone
            return
        finally:
            self._sending = None
            if self._deadline is not None:
                self._deadline.cancel()

    async def _send_next(self) -> None:
        text, size, _ = self._queue.popleft()
        self._queued_bytes -= size
        await self._send_text(text)

    async def _send_text(self, text: str) -> None:
        self._is_sending = True  # what is new must not overtake it
        try:
            await self._send({"type": "websocket.send", "text": text})
        finally:
            self._is_sending = False
        self._feed.count_sent()

    async def _catch_up(self) -> None:
        turn = self._turn
        rows = await self._feed.tail(self.position)
        await self._replay(rows, turn)
        if len(rows) == CHUNK or turn != self._turn:
            return
        boundary = self._feed.position
        self.is_live = True  # from here on: what comes behind the boundary waits in the queue
        while self.position < boundary:
            rows = await self._feed.tail(self.position)
            await self._replay([row for row in rows if (row[0].seq or 0) <= boundary], turn)
            if turn != self._turn:
                return
            if len(rows) < CHUNK:
                break
        self._is_behind = False

    async def _replay(self, rows: Rows, turn: int) -> None:
        for event, belonging in rows:
            if turn != self._turn:  # the client asked for something else meanwhile, or is closed
                return
            self.position = event.seq or self.position
            told = self._feed.tell(event)
            words = None if told is None else self._words(told, belonging)
            if words is not None:
                await self._send_text(words.decode())
