"""Protocols: uvicorn's HTTP and WebSocket connections, with the bounds that a server in the open needs.

A request must have arrived as a whole within a time, and its head within a size; uvicorn bounds neither. A WebSocket
tells the app when it was last heard of, and lets it send pings, for which ASGI has no words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ironcage_http.connections import Connections

if TYPE_CHECKING:
    from asyncio.transports import BaseTransport

    from uvicorn._types import ASGISendEvent
    from websockets.frames import Frame
    from websockets.http11 import Request

REQUEST_TIMEOUT_S: Final = 60.0
"""How long a request may take to arrive, from its first byte to its last; also until there is a first one."""

MAX_HEAD_BYTES: Final = 65_536
"""Of a head; of what is between two parts of a body, and behind its last one."""

MAX_HEADERS: Final = 128
MAX_FRAGMENTS: Final = 128
"""Of one message of a WebSocket: they may be empty, and cost all the same."""

LINK: Final = "ironcage.link"

_NO_REQUEST_BODY: Final = b'{"error":"The request is no valid HTTP","code":"VALIDATION_ERROR","details":{}}'
_NO_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_NO_REQUEST_BODY), _NO_REQUEST_BODY)
)
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


_LITTLE_BYTES: Final = 32_768
_ONE_BYTE_LENGTH: Final = 126
_TWO_BYTE_LENGTH: Final = 1 << 16


@lru_cache(maxsize=256)
def text_frame(words: bytes) -> bytes:
    """Return the frame that a server sends of a text; the same for every client. Source: RFC 6455, section 5.2."""
    length = len(words)
    if length < _ONE_BYTE_LENGTH:
        return bytes((0x81, length)) + words
    if length < _TWO_BYTE_LENGTH:
        return b"\x81\x7e" + length.to_bytes(2) + words
    return b"\x81\x7f" + length.to_bytes(8) + words


class BoundedHttp(HttpToolsProtocol):
    """An HTTP connection.

    What is behind the last chunk of a body is dropped: a trailer must not pass for a header, which the proxy in front
    has judged or set. What is ambiguous is refused, before two servers take it for two different requests.
    """

    server_state: Connections

    _deadline: asyncio.TimerHandle | None = None
    _aimless_bytes = 0
    _is_in_head = True

    @property
    def answering(self) -> object:
        """The request that is answered, or was the last to be."""
        return self.cycle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request, but not for ever."""
        super().connection_made(transport)
        self.server_state.make_room()
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless a request grows beyond measure without getting on: in its head or its last line."""
        if self._is_in_head:
            self._expect_request()  # already at a blank line before it
        self._aimless_bytes += len(data)
        super().data_received(data)
        # Whatever came with the end of a part is of the next one, which begins to be counted anew.
        if self._aimless_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Start to wait for the end of a request."""
        super().on_message_begin()
        self._expect_request()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer is none."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Go on with the body, if it is plain where that ends and whom the request is for."""
        _check_head(self.headers, is_old=self.parser.get_http_version() == "1.0")
        self._is_in_head, self._aimless_bytes = False, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._aimless_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop waiting: the request is there."""
        self._stop_waiting()
        self._is_in_head, self._aimless_bytes = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Rest, or begin with the next request."""
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:
            self.server_state.wait_for(self)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over; it may now be quiet for as long as it likes."""
        self._stop_waiting()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, in the one shape of refusals."""
        del msg
        self.transport.write(_NO_REQUEST)
        self.transport.close()

    def _expect_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.close)
            self.server_state.wait_for(self)

    def _stop_waiting(self) -> None:
        self.server_state.wait_no_more(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _AmbiguousError(Exception):
    """A request that others may understand otherwise; the parser's caller answers 400."""


def _check_head(headers: Sequence[tuple[bytes, bytes]], *, is_old: bool) -> None:
    """Refuse a head with too many lines, not one host, or a coding of the transfer that is not undone here.

    Raises:
        _AmbiguousError: It is one. Source: RFC 9112, sections 3.2 and 6.1.
    """
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise _AmbiguousError
    if len(headers) > MAX_HEADERS or hosts > 1 or (hosts == 0 and not is_old):
        raise _AmbiguousError


class Link:
    """What an app may know of and do with a WebSocket beyond ASGI; in its scope under `extensions` as `LINK`.

    `heard_at` is the time of the loop at which anything came from the client, pongs included.
    """

    def __init__(self, protocol: PingingWebSocket) -> None:
        self._protocol = protocol
        self.heard_at = protocol.loop.time()

    @property
    def unsent_bytes(self) -> int:
        """How much waits to be taken by the network."""
        return self._protocol.transport.get_write_buffer_size()

    @property
    def can_write(self) -> bool:
        """Whether a message would go out at once: the connection is open, and little waits."""
        return self._is_open and self.unsent_bytes < _LITTLE_BYTES

    @property
    def _is_open(self) -> bool:
        protocol = self._protocol
        return protocol.handshake_complete and not protocol.close_sent and not protocol.transport.is_closing()

    def write(self, frames: bytes) -> None:
        """Write whole frames, made by `text_frame`; only right after `can_write` said so."""
        self._protocol.transport.write(frames)

    def abort(self) -> None:
        """Cut the connection, with whatever the client did not take."""
        self._protocol.transport.abort()

    def ping(self) -> None:
        """Ask the client for a sign of life, unless the connection is ending."""
        protocol = self._protocol
        if self._is_open:
            protocol.conn.send_ping(b"ironcage")
            protocol.transport.write(b"".join(protocol.conn.data_to_send()))


class PingingWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket connection."""

    answering = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **kwargs)
        self._link = Link(self)

    def connection_made(self, transport: BaseTransport) -> None:
        """Take over a connection."""
        super().connection_made(transport)
        self._link.heard_at = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Note that the client lives."""
        self._link.heard_at = self.loop.time()
        super().data_received(data)

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the app says; an HTTP answer ends a handshake as well, which uvicorn takes for a fault."""
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True

    def handle_ping(self) -> None:
        """Answer a ping, unless its client takes no answers; it may go unanswered. Source: RFC 6455, section 5.5.3."""
        if self._link.unsent_bytes < _LITTLE_BYTES:
            super().handle_ping()
        else:
            self.conn.data_to_send()  # is dropped

    def handle_cont(self, event: Frame) -> None:
        """Take a part of a message; one of too many ends the connection."""
        super().handle_cont(event)
        if len(self.frames) > MAX_FRAGMENTS and not self.close_sent:
            self.frames = []
            self.conn.send_close(_TOO_BIG)
            self.handle_parser_exception()

    def send_receive_event_to_app(self) -> None:
        """Hand on a message; one that should be a text and is none ends the connection, as no fault of ours."""
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_text(b"".join(self.frames)):
            self.conn.send_close(_NO_TEXT)
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    def handle_connect(self, event: Request) -> None:
        """Give the app its link."""
        super().handle_connect(event)
        if self.response.status_code == SWITCHING:
            # The app's task has been made and not run yet.
            self.scope["extensions"] = {**(self.scope["extensions"] or {}), LINK: self._link}  # type: ignore[dict-item]


SWITCHING: Final = 101
_NO_TEXT: Final = 1007
_TOO_BIG: Final = 1009


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
