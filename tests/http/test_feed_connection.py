"""A connection of the live feed catching up, at the very moments when something new comes."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from ironcage_core.domain.events import FeedEvent
from ironcage_core.domain.feed_audience import Audience
from ironcage_http.feed_auth import Subscriber
from ironcage_http.feed_connection import MAX_QUEUED, MAX_QUEUED_BYTES, Connection, Rows
from ironcage_http.feed_messages import Pong, Told, Who, told
from ironcage_http.protocols import Link as RealLink
from ironcage_http.protocols import PingingWebSocket, text_frame
from tests.support.sockets import texts_of
from tests.support.world import NOON

pytestmark = pytest.mark.anyio


class Log:
    """A log that grows while it is read: some events before what a read sees, some after it."""

    def __init__(self, *rounds: tuple[int, int]) -> None:
        self.position = self.last = 2
        self.rounds = list(rounds)
        self.connection: Connection | None = None

    def count_sent(self, messages: int = 1) -> None:
        """Count nothing."""

    def tell(self, event: FeedEvent) -> Told:
        return told(event)

    async def tail(self, seq: int) -> Rows:
        before, after = self.rounds.pop(0) if self.rounds else (0, 0)
        self.commit(before)
        seen = [(row(number), None) for number in range(seq + 1, self.last + 1)]
        self.commit(after)
        return seen

    def commit(self, count: int) -> None:
        """Write events and pass them on, as the hub does."""
        for _ in range(count):
            self.last = self.position = self.last + 1
            connection = self.connection
            if connection is not None and connection.is_live and connection.position < self.last:
                connection.offer(told(row(self.last)), None)
                connection.flush()


class Link:
    """A socket that takes frames at once."""

    can_write = True

    def __init__(self, sent: list[Any]) -> None:
        self.sent = sent

    def write(self, frames: bytes) -> None:
        self.sent += [{"text": text} for text in texts_of(frames)]


@pytest.fixture(params=[False, True], ids=["asgi", "link"])
def has_link(request: pytest.FixtureRequest) -> bool:
    """Whether the server takes frames beside ASGI."""
    return bool(request.param)


def row(number: int) -> FeedEvent:
    """Return the event of a number."""
    return FeedEvent(number, f"evt_{number:032x}", NOON, "AGENT_EVENT", None, "router_started", None, {"port": number})


def listener(log: Log, send: Callable[[Any], Awaitable[None]], link: Link | None = None) -> Connection:
    """Return the connection of somebody who sees everything."""
    connection = Connection("c", log, send, link, 0.0)
    connection.subscriber = Subscriber(Who("user", "user_1", "admin"), Audience("all"), None, lambda _: None)  # type: ignore[arg-type,return-value]
    return connection


async def ports_of(log: Log, *, has_link: bool, count: int, since: int = 0, again: int | None = None) -> list[int]:
    """Return what a connection sends that follows from an event on, and once more from another if one is given."""
    sent: list[Any] = []

    async def send(message: Any) -> None:  # noqa: ANN401 - an ASGI message
        sent.append(message)

    connection = log.connection = listener(log, send, Link(sent) if has_link else None)
    connection.follow(since)
    if again is not None:
        connection.is_live = True
        connection.offer(told(row(2)), None)
        connection.follow(again)
    sending = asyncio.create_task(connection.send_all())
    async with asyncio.timeout(5):
        while len(sent) < count:  # noqa: ASYNC110 - that is all there is to see
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    log.commit(1)
    connection.end(1000, "")
    await sending
    return [json.loads(each["text"])["data"]["port"] for each in sent[:-1]]


async def test_what_comes_after_the_last_read_and_before_it_is_live_is_not_lost(has_link: bool) -> None:
    """It is read once more, up to a boundary."""
    assert await ports_of(Log((0, 2)), has_link=has_link, count=4) == [1, 2, 3, 4, 5]


async def test_what_comes_while_it_reads_up_to_the_boundary_comes_once(has_link: bool) -> None:
    """Though both the log and the hub have it."""
    assert await ports_of(Log((0, 2), (1, 1)), has_link=has_link, count=6) == [1, 2, 3, 4, 5, 6, 7]


async def test_what_the_log_showed_before_the_hub_passed_it_on_comes_once(has_link: bool) -> None:
    """A read may be ahead of the hub."""
    log = Log()
    log.position = 1

    async def late() -> None:
        log.position = 2
        assert log.connection is not None
        if log.connection.is_live and log.connection.position < 2:
            log.connection.offer(told(row(2)), None)

    ports = asyncio.create_task(ports_of(log, has_link=has_link, count=2))
    await asyncio.sleep(0.01)
    await late()

    assert (await ports)[:2] == [1, 2]


async def test_what_waits_when_a_client_resumes_comes_from_the_log_alone(has_link: bool) -> None:
    """Else it would come twice, and out of order."""
    assert await ports_of(Log(), has_link=has_link, count=2, again=0) == [1, 2, 3]


async def test_a_client_that_resumes_while_it_catches_up_starts_there_again() -> None:
    """What was read for the place it had asked for before is not sent any more."""
    log, sent = Log(), list[Any]()
    log.position = log.last = 5

    async def send(message: Any) -> None:  # noqa: ANN401 - an ASGI message
        sent.append(message)
        if len(sent) == 2:
            connection.follow(0)

    connection = listener(log, send)
    connection.follow(0)
    sending = asyncio.create_task(connection.send_all())
    await asyncio.sleep(0.01)
    connection.end(1000, "")
    await sending

    assert [json.loads(each["text"])["data"]["port"] for each in sent[:-1]] == [1, 2, 1, 2, 3, 4, 5]


async def test_a_thousand_messages_may_wait_and_not_one_more() -> None:
    """Then the client is too slow."""
    connection = listener(Log(), _take)
    connection.join(0)
    for number in range(1, MAX_QUEUED + 1):
        connection.offer(told(row(number)), None)
    assert MAX_QUEUED == 1000
    assert connection.ending is None
    connection.offer(told(row(MAX_QUEUED + 1)), None)

    assert connection.ending is not None
    assert connection.ending[0] == 4409


async def test_so_many_bytes_may_wait_and_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few messages they are; what was sent waits no longer."""
    size = len(told(row(1)).full)
    assert MAX_QUEUED_BYTES == 1 << 20
    monkeypatch.setattr("ironcage_http.feed_connection.MAX_QUEUED_BYTES", 2 * size + 1)
    connection = listener(Log(), _take)
    connection.join(0)
    sending = asyncio.create_task(connection.send_all())
    for _ in range(5):
        for number in (1, 2):
            connection.offer(told(row(number)), None)
        await asyncio.sleep(0.001)
    assert connection.ending is None
    for number in (1, 2, 3):
        connection.offer(told(row(number)), None)
    connection.end(1000, "")
    await sending

    assert connection.ending is not None
    assert connection.ending[0] == 4409


async def test_a_client_that_has_gone_while_it_was_sent_to_is_no_fault() -> None:
    """The server says so by an error of the system."""

    async def send(_: Any) -> None:  # noqa: ANN401 - an ASGI message
        raise ConnectionResetError

    connection = listener(Log(), send)
    connection.tell(Pong(timestamp="now"))
    await asyncio.wait_for(connection.send_all(), 5)

    assert connection.ending is None


async def _take(_: Any) -> None:  # noqa: ANN401 - an ASGI message
    """Take a message."""


async def told_in_order(*, waits: bool) -> list[str | int]:
    """Return the order in which an answer and two events go out that come after it, all of them before it is sent."""
    sent: list[Any] = []
    may_send = asyncio.Event()

    async def send(message: Any) -> None:  # noqa: ANN401 - an ASGI message
        await may_send.wait()
        sent.append(message)

    connection = listener(Log(), send, Link(sent))
    connection.join(0)
    connection.tell(Pong(timestamp="now", id="first"))
    sending = asyncio.create_task(connection.send_all())
    if waits:
        await asyncio.sleep(0)
    for number in (1, 2):
        if connection.offer(told(row(number)), None):
            connection.flush()
    may_send.set()
    connection.end(1000, "")
    await sending
    messages = [json.loads(each["text"]) for each in sent[:-1]]
    return [each.get("id") or each["data"]["port"] for each in messages]


@pytest.mark.parametrize("waits", [False, True], ids=["in the queue", "under way"])
async def test_an_event_overtakes_no_answer(*, waits: bool) -> None:
    """Though the socket would take it at once: a client is first welcomed, and hears things in their order."""
    assert await told_in_order(waits=waits) == ["first", 1, 2]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536])
def test_a_frame_is_that_of_the_protocol(length: int) -> None:
    """Whatever its length needs."""
    words = b"x" * length

    assert text_frame(words) == Frame(Opcode.TEXT, words).serialize(mask=False)


@pytest.mark.parametrize(
    ("unsent", "is_open", "is_closed", "is_closing", "can_write"),
    [
        (0, True, False, False, True),
        (32_767, True, False, False, True),
        (32_768, True, False, False, False),
        (0, False, False, False, False),
        (0, True, True, False, False),
        (0, True, False, True, False),
    ],
)
def test_a_socket_is_written_to_while_it_is_open_and_taken_from(
    *, unsent: int, is_open: bool, is_closed: bool, is_closing: bool, can_write: bool
) -> None:
    """Not before the handshake ended, not behind a close, and not when much waits."""
    transport = SimpleNamespace(get_write_buffer_size=lambda: unsent, is_closing=lambda: is_closing)
    protocol: Any = SimpleNamespace(
        handshake_complete=is_open, close_sent=is_closed, transport=transport, loop=SimpleNamespace(time=lambda: 0.0)
    )

    assert RealLink(protocol).can_write is can_write


async def test_whatever_comes_from_a_client_is_a_sign_of_life() -> None:
    """A pong as well, of which no app is told."""
    protocol, seconds, _ = opened_socket()
    client = ClientProtocol(parse_uri("ws://test/"), state=State.OPEN)
    client.send_pong(b"ironcage")
    seconds[0] = 5.0
    protocol.data_received(b"".join(client.data_to_send()))

    assert protocol._link.heard_at == 5.0


async def test_a_ping_goes_out_at_once() -> None:
    """Unless the connection is ending."""
    protocol, _, written = opened_socket()
    protocol._link.ping()
    assert written == [Frame(Opcode.PING, b"ironcage").serialize(mask=False)]
    protocol.close_sent = True
    protocol._link.ping()

    assert len(written) == 1


def opened_socket() -> tuple[PingingWebSocket, list[float], list[bytes]]:
    """Return the server's side of a socket after its handshake, the time of its loop, and what it writes."""
    seconds, written = [0.0], list[bytes]()
    loop: Any = SimpleNamespace(time=lambda: seconds[0])
    protocol = PingingWebSocket(Config(_no_app, log_config=None, ws_ping_interval=None), ServerState(), {}, loop)
    transport: Any = SimpleNamespace(
        get_write_buffer_size=lambda: 0, is_closing=lambda: False, write=written.append, get_extra_info=lambda _: None
    )
    protocol.connection_made(transport)
    protocol.conn.state = State.OPEN
    protocol.conn.parser = protocol.conn.parse()
    next(protocol.conn.parser)
    protocol.handshake_complete = True
    return protocol, seconds, written


async def _no_app(_scope: object, _receive: object, _send: object) -> None:
    raise NotImplementedError
