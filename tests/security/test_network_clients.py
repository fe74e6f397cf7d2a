"""A client that is slow, or sends without end, costs little, is cut in time, and keeps nobody else from service."""

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final

import pytest
from uvicorn import Config
from websockets.protocol import State

from ironcage_http import protocols, server
from ironcage_http.connections import LEAST_BYTES, MAX_CONNECTIONS, MAX_FILES, Connections, room_for_connections
from ironcage_http.protocols import MAX_FRAGMENTS, PingingWebSocket
from ironcage_http.server import ApiServer
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.raw import PATIENCE_S, connected, read_answer, read_out, request
from tests.support.servers import ask

HEALTH: Final = b"GET /api/health HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED: Final = b"POST /api/v1/auth/refresh HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
NO_MASK: Final = bytes(4)
MIB: Final = 1 << 20


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    with SqliteStore(":memory:", clock=SystemClock()) as opened:
        yield opened


def wait_until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def connections_of(running: ApiServer) -> Connections:
    assert running._server is not None
    return running._server.crowd


# --- requests that never end -------------------------------------------------


@pytest.mark.parametrize(
    ("begun", "more"),
    [(b"2\r\n{}\r\n0\r\n", b"X-A: b\r\n" * 1000), (b"2\r\n{}\r\n0\r\nX-A: ", b"a" * 8000), (b"2;", b"a" * 8000)],
    ids=["trailers", "a trailer", "an extension of a chunk"],
)
def test_what_leads_to_no_more_of_a_body_is_bounded(store: SqliteStore, begun: bytes, more: bytes) -> None:
    """It is cut after 64 KiB, and what the kernels hold; others are served."""
    with ApiServer(store) as running, connected(running.port) as raw:
        raw.sendall(CHUNKED + begun)
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 64 * MIB:
                raw.sendall(more)
                sent += len(more)
        status = ask(running.port, "GET", "/api/health").status

    assert sent < 32 * MIB
    assert status == 200


@pytest.mark.parametrize("drops", [b"\r\n" * 100, b"GET /api/health?" + b"a" * 200], ids=["blank lines", "a path"])
def test_a_request_that_comes_by_the_drop_is_not_waited_for(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, drops: bytes
) -> None:
    """Its time runs from its first byte, and no further one gains any, on a connection that has served before."""
    monkeypatch.setattr(protocols, "REQUEST_TIMEOUT_S", 0.3)
    dropped = 0
    with ApiServer(store) as running, connected(running.port) as raw:
        raw.sendall(HEALTH)
        first = read_answer(raw)
        with contextlib.suppress(OSError):
            for drop in drops:
                raw.sendall(bytes((drop,)))
                dropped += 1
                time.sleep(0.05)

    assert first.startswith(b"HTTP/1.1 200")
    assert dropped < 100


def test_many_who_send_nothing_keep_nobody_from_service(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many connections, those go from which a request has been waited for the longest."""
    monkeypatch.setattr(server, "room_for_connections", lambda: 20)
    with ApiServer(store) as running, contextlib.ExitStack() as opened:
        idle = [opened.enter_context(connected(running.port)) for _ in range(10)]
        rested = [opened.enter_context(connected(running.port)) for _ in range(15)]
        for raw in rested:
            raw.sendall(HEALTH)
            read_answer(raw)
        idle += [opened.enter_context(connected(running.port)) for _ in range(30)]
        statuses = [ask(running.port, "GET", "/api/health").status for _ in range(10)]
        wait_until(lambda: len(connections_of(running).connections) <= 20)
        cut = [read_out(raw) for raw in (*idle[:10], *rested)]
        idle[-1].sendall(request("GET /api/health"))
        last = read_out(idle[-1])

    assert statuses == [200] * 10
    assert cut == [b""] * 25
    assert last.startswith(b"HTTP/1.1 200")


def test_a_client_that_takes_no_answer_is_cut(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that asked for the end of its connection: what waits for it does not stay in memory."""
    monkeypatch.setattr(server, "LOOK_S", 0.1)
    ask_for_much = b"GET /api/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    with ApiServer(store) as running, connected(running.port) as kept, connected(running.port) as ended:
        size = len(ask(running.port, "GET", "/api/openapi.json").raw)
        kept.sendall(ask_for_much * 100)
        ended.sendall(ask_for_much * 100 + request("GET /api/openapi.json"))
        wait_until(lambda: not connections_of(running).connections)
        got = len(read_out(kept))
        status = ask(running.port, "GET", "/api/health").status

    assert got < 100 * size
    assert status == 200


# --- who is cut --------------------------------------------------------------


class Client:
    """A connection as its server sees it."""

    def __init__(self, *, is_http: bool = True, is_closing: bool = False) -> None:
        self.answering: object = object() if is_http else None
        self.unsent = 0
        self.is_cut = False
        self.transport: Any = SimpleNamespace(
            get_write_buffer_size=lambda: self.unsent, is_closing=lambda: is_closing, abort=self._abort
        )

    def _abort(self) -> None:
        self.is_cut = True


def cut_after(client: Client, *unsent: int) -> bool:
    """Tell whether a client is cut of which so much was unsent at one look after another."""
    crowd = Connections()
    crowd.connections.add(client)  # type: ignore[arg-type]  # enough of one
    for size in unsent:
        client.unsent = size
        crowd.cut_stragglers()
    return client.is_cut


def test_only_who_takes_too_little_is_cut() -> None:
    """One look says nothing; taking all, or enough, or being sent more, is well; the live feed judges for itself."""
    much = 10 * LEAST_BYTES

    assert not cut_after(Client(), much)
    assert cut_after(Client(), much, much)
    assert cut_after(Client(), much, much - LEAST_BYTES + 1)
    assert not cut_after(Client(), much, much - LEAST_BYTES, much - 2 * LEAST_BYTES)
    assert not cut_after(Client(), 1, 0, 1)
    assert not cut_after(Client(), much, much + 1)
    assert cut_after(Client(), 1, 1)
    assert not cut_after(Client(is_http=False), much, much)
    assert cut_after(Client(is_http=False, is_closing=True), much, much)


def test_who_takes_one_answer_after_another_is_not_cut() -> None:
    """As much of the next one may be unsent as there was of the last."""
    crowd, client = Connections(), Client()
    crowd.connections.add(client)  # type: ignore[arg-type]  # enough of one
    client.unsent = LEAST_BYTES
    crowd.cut_stragglers()
    client.answering = object()
    crowd.cut_stragglers()
    assert not client.is_cut

    crowd.cut_stragglers()
    assert client.is_cut


def test_who_is_being_served_is_not_cut_for_want_of_room() -> None:
    """Only from whom a request is waited for; the longest first, and waiting anew is waiting from now on."""
    crowd = Connections(1)
    served, first, second = Client(), Client(), Client()
    for client in (served, first, second):
        crowd.connections.add(client)  # type: ignore[arg-type]  # enough of one
        crowd.wait_for(client)
    crowd.wait_no_more(served)
    crowd.wait_for(first)

    crowd.make_room()
    assert [client.is_cut for client in (served, first, second)] == [False, False, True]
    crowd.make_room()
    crowd.make_room()
    assert [client.is_cut for client in (served, first, second)] == [False, True, True]


@pytest.mark.parametrize(
    ("soft", "hard", "files", "room"),
    [
        (1024, 1 << 20, MAX_FILES, MAX_CONNECTIONS),
        (1024, 4096, 4096, 2048),
        (1024, 1024, 1024, 512),
        (1 << 20, 1 << 20, 1 << 20, MAX_CONNECTIONS),
        (1024, resource.RLIM_INFINITY, MAX_FILES, MAX_CONNECTIONS),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, MAX_CONNECTIONS),
    ],
)
def test_there_is_room_for_half_as_many_connections_as_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, files: int, room: int
) -> None:
    """As many files as the operator lets a process have, and never fewer than before."""
    limits = {resource.RLIMIT_NOFILE: (soft, hard)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)

    assert room_for_connections() == room
    assert limits == {resource.RLIMIT_NOFILE: (files, hard)}


# --- sockets -----------------------------------------------------------------


def opened_socket() -> tuple[PingingWebSocket, list[bytes]]:
    """Return the server's side of a socket whose client takes nothing, and what is written to it."""
    written: list[bytes] = []
    loop: Any = SimpleNamespace(time=lambda: 0.0)
    socket = PingingWebSocket(Config(_no_app, log_config=None, ws_ping_interval=None), Connections(), {}, loop)
    transport: Any = SimpleNamespace(
        get_write_buffer_size=lambda: sum(map(len, written)), is_closing=lambda: False, close=lambda: None,
        write=written.append, get_extra_info=lambda _: None,
    )  # fmt: skip
    socket.connection_made(transport)
    socket.conn.state = State.OPEN
    socket.conn.parser = socket.conn.parse()
    next(socket.conn.parser)
    socket.handshake_complete = True
    return socket, written


async def _no_app(_scope: object, _receive: object, _send: object) -> None:
    raise NotImplementedError


def test_pongs_do_not_pile_up_before_a_client_that_takes_none() -> None:
    """A flood of pings fills no memory; the first are answered."""
    socket, written = opened_socket()
    ping = b"\x89\xfd" + NO_MASK + b"x" * 125

    for _ in range(100):
        socket.data_received(ping * 20)

    assert 1000 < sum(map(len, written)) < 64 * 1024
    assert not socket.close_sent


def test_a_message_in_more_pieces_than_anybody_needs_ends_the_connection() -> None:
    """Empty ones, which no limit of bytes would ever stop."""
    socket, written = opened_socket()
    socket.data_received(b"\x01\x80" + NO_MASK + (b"\x00\x80" + NO_MASK) * (MAX_FRAGMENTS - 1))
    assert written == []

    for _ in range(10):
        socket.data_received((b"\x00\x80" + NO_MASK) * 1000)

    assert written == [b"\x88\x02\x03\xf1"]  # 1009
    assert socket.close_sent
    assert len(socket.frames) <= 10 * 1000


def test_a_socket_takes_nothing_compressed(store: SqliteStore) -> None:
    """So what is small on the wire is small in memory: nobody agrees on the extension, and its frames end it."""
    compressed = b"\xc1\x84" + NO_MASK + b"\x4a\x4c\x04\x00"
    with ApiServer(store) as running, connected(running.port) as raw:
        raw.sendall(UPGRADE)
        head = raw.recv(65_536)
        raw.sendall(compressed)
        frames = raw.recv(65_536)

    assert head.startswith(b"HTTP/1.1 101")
    assert b"extensions" not in head.lower()
    assert frames[:1] == b"\x88"
    assert int.from_bytes(frames[2:4]) == 1002
