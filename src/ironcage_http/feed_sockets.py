"""The sockets of the live feed: from a handshake to a connection, or to the HTTP answer that refuses it.

Source: contract analytics.md 6.1.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from anyio import to_thread
from litestar.response.base import ASGIResponse

from ironcage_core.errors.tree import ForbiddenError, IroncageError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_http.credentials import Presented
from ironcage_http.endpoints import headers_of_scope, origin_of, refusal
from ironcage_http.errors import not_found
from ironcage_http.feed_auth import ACTION, SUBPROTOCOL, Subscriber, presented_at_upgrade, query_of, single, subscribing
from ironcage_http.feed_connection import CLOSE_S, Connection
from ironcage_http.feed_dialogue import Dialogue, Entry
from ironcage_http.feed_hub import FeedHub
from ironcage_http.gate import Gate
from ironcage_http.protocols import LINK
from ironcage_http.routing import Route
from ironcage_http.wiring import Wiring

logger = logging.getLogger(__name__)

PATHS: Final = ("/ws", "/api/ws", "/api/v1/ws")

_DEFAULT_PORTS: Final[Mapping[str, str]] = {"http": ":80", "https": ":443"}

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def _never(_: object) -> ASGIResponse:
    raise NotImplementedError


_ROUTE: Final = Route("GET", "/ws", _never, "Follow events as they happen", action=ACTION)


class _Accepted(NamedTuple):
    """A handshake that may become a connection; `entry` is of whoever has said who he is."""

    connection: Connection
    dialogue: Dialogue
    entry: Entry | None
    asked: str | None


class FeedSockets:
    """Answers every WebSocket handshake of an app.

    Args:
        wiring: The ports.
        hub: Where connections are registered.
    """

    def __init__(self, wiring: Wiring, hub: FeedHub) -> None:
        self._wiring = wiring
        self._hub = hub

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:  # noqa: ANN401 - an ASGI scope
        """Answer one handshake; return when its connection has ended."""
        await receive()  # that it wants to connect
        asked, scope["query_string"] = scope["query_string"], b""  # it may hold a token, and servers log it
        if scope["path"] not in PATHS:
            await _deny(scope, receive, send, not_found())
            return
        gate = self._gate(scope)
        try:
            accepted = await self._accepted(gate, scope, send, query_of(asked))
        except IroncageError as error:
            await _deny(scope, receive, send, await refusal(gate, error, {}))
            return
        try:
            await self._serve(accepted, scope, receive, send)
        finally:
            self._hub.registry.remove(accepted.connection)

    def _gate(self, scope: Any) -> Gate:  # noqa: ANN401 - an ASGI scope
        return Gate(self._wiring, _ROUTE, origin_of(scope, headers_of_scope(scope), self._wiring))

    async def _accepted(
        self,
        gate: Gate,
        scope: Any,  # noqa: ANN401 - an ASGI scope
        send: Send,
        query: Mapping[str, list[str]],
    ) -> _Accepted:
        headers = headers_of_scope(scope)
        _check_origin(headers, self._wiring.settings.allowed_origins)
        credentials = presented_at_upgrade(headers, scope.get("subprotocols") or (), query)
        asked = single(query, "last_event_id")
        entry = None if credentials is None else await self._enter(gate, credentials, asked)
        link = (scope.get("extensions") or {}).get(LINK)
        connection = Connection(secrets.token_hex(8), self._hub, send, link, self._hub.seconds())
        connection.subscriber = None if entry is None else entry.subscriber
        self._hub.registry.add(connection)
        dialogue = Dialogue(
            connection,
            self._hub,
            self._wiring.clock,
            asked=asked,
            enter=partial(self._enter_by_message, scope),
            find=self._find,
        )
        return _Accepted(connection, dialogue, entry, asked)

    async def _enter(self, gate: Gate, credentials: Presented, asked: str | None) -> Entry:
        who = subscribing(gate, credentials)
        return await to_thread.run_sync(self._wiring.store.read, partial(_entry, who=who, asked=asked))

    async def _enter_by_message(self, scope: Any, credentials: Presented, asked: str | None) -> Entry:  # noqa: ANN401 - an ASGI scope
        gate = self._gate(scope)
        try:
            return await self._enter(gate, credentials, asked)
        except IroncageError as error:
            await refusal(gate, error, {})  # for what is remembered of it
            raise

    async def _find(self, event_id: str) -> int | None:
        return await to_thread.run_sync(self._wiring.store.read, lambda uow: uow.feed.seq_of(event_id))

    async def _serve(self, accepted: _Accepted, scope: Any, receive: Receive, send: Send) -> None:  # noqa: ANN401 - an ASGI scope
        connection, dialogue, entry, asked = accepted
        picked = SUBPROTOCOL if SUBPROTOCOL in (scope.get("subprotocols") or ()) else None
        await send({"type": "websocket.accept", "subprotocol": picked})
        if entry is not None:
            dialogue.welcome(entry, asked)
        sending = asyncio.create_task(connection.send_all())
        listening = asyncio.create_task(dialogue.listen(receive))
        try:
            await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
            if _failed(listening) or _failed(sending):
                await _end_badly(connection, sending, send)
        finally:
            sending.cancel()
            listening.cancel()
            await asyncio.gather(sending, listening, return_exceptions=True)
            if connection.link is not None and connection.is_stuck:
                connection.link.abort()


def _entry(uow: UnitOfWork, *, who: Callable[[UnitOfWork], Subscriber], asked: str | None) -> Entry:
    subscriber = who(uow)
    newest, newest_id = uow.feed.newest() or (0, None)
    return Entry(subscriber, newest, newest_id, None if asked is None else uow.feed.seq_of(asked))


def _failed(task: asyncio.Task[None]) -> bool:
    if not task.done() or task.cancelled() or task.exception() is None:
        return False
    logger.error("a connection of the live feed failed", exc_info=task.exception())
    return True


async def _end_badly(connection: Connection, sending: asyncio.Task[None], send: Send) -> None:
    """Close after a fault of ours: behind what waits, or at once if it was sending that failed."""
    code, reason = 1011, "internal error"
    if sending.done():
        closing = asyncio.ensure_future(send({"type": "websocket.close", "code": code, "reason": reason}))
        await asyncio.wait({closing}, timeout=CLOSE_S)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        return
    connection.end(code, reason)
    await asyncio.wait({sending}, timeout=CLOSE_S)


def _check_origin(headers: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    """Refuse the page of another site.

    Raises:
        ForbiddenError: The origin is neither this server's own nor one of those that are allowed.
    """
    origin = headers.get("origin")
    if origin is None or origin in allowed:
        return
    try:
        scheme, place = urlsplit(origin)[:2]
    except ValueError:
        scheme, place = "", ""
    port = _DEFAULT_PORTS.get(scheme)
    # By host and port alone: whether TLS ends in front of this server, only that front knows.
    if port is None or not place or place.removesuffix(port) != headers.get("host", "").removesuffix(port):
        raise ForbiddenError("This origin may not connect")


async def _deny(scope: Any, receive: Receive, send: Send, response: ASGIResponse) -> None:  # noqa: ANN401 - an ASGI scope
    """Answer a handshake over HTTP; a server that cannot do so says 403."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008})
        return

    async def prefixed(message: Any) -> None:  # noqa: ANN401 - an ASGI message
        await send({**message, "type": f"websocket.{message['type']}"})

    await response(scope, receive, prefixed)
