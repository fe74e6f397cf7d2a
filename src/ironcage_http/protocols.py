"""Protocols: uvicorn's HTTP and WebSocket connections, with the bounds that a server in the open needs.

A request must have arrived as a whole within a time, and its head within a size; uvicorn bounds neither. A WebSocket
tells the app when it was last heard of, and lets it send pings, for which ASGI has no words.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from asyncio.transports import BaseTransport

    from uvicorn._types import ASGISendEvent
    from websockets.http11 import Request

REQUEST_TIMEOUT_S: Final = 60.0
"""How long a request may take to arrive, from its first byte to its last; also until there is a first one."""

MAX_HEAD_BYTES: Final = 65_536
LINK: Final = "ironcage.link"

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
    """An HTTP connection."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _is_in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request, but not for ever."""
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless the head of a request grows beyond measure."""
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # Whatever came with the end of a head is of the body, or of the next request, which begins to be counted anew.
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Start to wait for the end of a request."""
        super().on_message_begin()
        self._expect_request()

    def on_headers_complete(self) -> None:
        """Go on with the body."""
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop waiting: the request is there."""
        self._stop_waiting()
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over; it may now be quiet for as long as it likes."""
        self._stop_waiting()
        super().handle_websocket_upgrade()

    def _expect_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


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


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
