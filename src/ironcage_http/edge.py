"""The edge: what every answer carries, whoever made it: request id, security headers, CORS, and a count of itself.

An ASGI wrapper around the whole app, so that Litestar's own answers pass through it too. Source: contract identity.md
1 and 9. A slow request is logged, and for who wants to know each one: by its route, never by its path.
"""

import logging
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from ironcage_http.errors import not_found
from ironcage_http.logs import REQUEST_ID
from ironcage_http.metrics import Metrics

logger = logging.getLogger(__name__)

SLOW_S: Final = 1.0
"""From where on a request is worth a warning."""

_FREE_TEXT: Final = re.compile(rb"/api(/v1)?/(usage/by-(project|provider)|budget/reserve)/[^/]+/?")
"""Paths whose last part is free text, in which an encoded slash is a character like any other."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_POLICY: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_NO_STORE: Final = (b"cache-control", b"no-store")
_NEVER_STORED: Final = re.compile(r"/api(/v1)?/(auth|keys|tokens|api-tokens)(/|$)")
_CREDENTIALS: Final = frozenset((b"authorization", b"x-api-token", b"x-ic-token"))
_EXPOSED: Final = b"X-Request-Id, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE, OPTIONS"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, X-API-Token, X-IC-Token, X-Request-Id"),
    (b"access-control-max-age", b"600"),
)

_PLAIN: Final = "/api/"
_VERSIONED: Final = "/api/v1/"
_DOCUMENTS: Final = frozenset(("/api/docs", "/api/openapi.json", "/api/asyncapi.json"))

Headers = list[tuple[bytes, bytes]]
Sockets = Callable[[Any, Any, Any], Awaitable[None]]


class Edge:
    """Wraps an app.

    Args:
        app: What answers.
        sockets: What answers handshakes of WebSockets.
        origins: Which origins a browser may call from.
        is_production: Whether browsers are told to use TLS only.
        metrics: Where requests are counted.
    """

    def __init__(
        self, app: ASGIApp, sockets: Sockets, *, origins: Sequence[str], is_production: bool, metrics: Metrics
    ) -> None:
        self._app = app
        self._sockets = sockets
        self._origins = frozenset(origin.encode() for origin in origins)
        self._always = [*_SECURITY, *([_TRANSPORT] if is_production else [])]
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == ScopeType.HTTP:
            await self._answer(scope, receive, send)
        elif scope["type"] == ScopeType.WEBSOCKET:
            await self._open(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _open(self, scope: Any, receive: Receive, send: Send) -> None:  # noqa: ANN401 - an ASGI scope
        sent = dict(scope["headers"])
        request_id = _request_id(sent.get(b"x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        REQUEST_ID.set(request_id)
        headers = self._headers(scope["path"], sent.get(b"origin"), request_id)

        start = perf_counter()

        async def decorated(message: Any) -> None:  # noqa: ANN401 - an ASGI message
            if message["type"] == "websocket.http.response.start":
                message["headers"] = [*message["headers"], *headers, _NO_STORE]
                _tell(
                    "GET", "unknown" if message["status"] == 404 else "/ws", message["status"], perf_counter() - start
                )
            elif message["type"] == "websocket.accept":
                _tell("GET", "/ws", 101, perf_counter() - start)
            await send(message)

        await self._sockets(scope, receive, decorated)

    async def _answer(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        sent = dict(scope["headers"])
        request_id = _request_id(sent.get(b"x-request-id"))
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        REQUEST_ID.set(request_id)
        headers = self._headers(scope["path"], sent.get(b"origin"), request_id)
        if _NO_STORE not in headers and not _CREDENTIALS.isdisjoint(sent):  # it is for one caller, whatever it is
            headers.append(_NO_STORE)
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in sent and b"origin" in sent:
            await _answer_preflight(send, headers, is_allowed=sent[b"origin"] in self._origins)
            return
        is_odd = b"%2f" in scope["raw_path"].lower()
        if is_odd and _FREE_TEXT.fullmatch(scope["raw_path"]):
            scope["path"] = scope["raw_path"].decode("latin-1")  # which says as much to routing, and is not cut in two
            is_odd = False
        if not scope["path"].startswith(_VERSIONED):
            scope["path"] = _versioned(scope["path"])
        start = perf_counter()

        async def decorated(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds, status = perf_counter() - start, message["status"]
                self._metrics.count(scope, status, seconds)
                if seconds > SLOW_S or logger.isEnabledFor(logging.DEBUG):
                    _tell(scope["method"], str(scope.get("path_template") or "unknown"), status, seconds)
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(each for each in headers if each[0] not in given)]
            await send(message)

        # An empty part of a path names nothing, encoded or not, and an encoded slash divides nothing: routing would
        # overlook the one and obey the other, rules by path, such as those of a proxy in front, would not.
        app: Any = not_found() if is_odd or "//" in scope["path"] else self._app
        await app(scope, receive, decorated)

    def _headers(self, path: str, origin: bytes | None, request_id: str) -> Headers:
        headers: Headers = [(b"x-request-id", request_id.encode()), *self._always, _POLICY, (b"vary", b"Origin")]
        if _NEVER_STORED.match(path):
            headers.append(_NO_STORE)
        if origin in self._origins and origin is not None:
            headers += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]
        return headers


def _versioned(path: str) -> str:
    """Return a path without a version as one with it: the same routes answer under both bases, and are made once."""
    is_of_a_route = path.startswith(_PLAIN) and path.rstrip("/") not in _DOCUMENTS
    return _VERSIONED + path.removeprefix(_PLAIN) if is_of_a_route else path


def _tell(method: str, route: str, status: int, seconds: float) -> None:
    level, event = (logging.WARNING, "a slow request") if seconds > SLOW_S else (logging.DEBUG, "a request")
    facts = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1)}
    logger.log(level, event, extra=facts)


def _request_id(sent: bytes | None) -> str:
    text = "" if sent is None else sent.decode("latin-1")
    # A name, no secret; the system's randomness would let the writer's thread pass at each request.
    return text if _REQUEST_ID.fullmatch(text) else f"{random.getrandbits(64):016x}"


async def _answer_preflight(send: Send, headers: Headers, *, is_allowed: bool) -> None:
    allowed = list(_PREFLIGHT) if is_allowed else []
    await send({"type": "http.response.start", "status": 204, "headers": [*headers, *allowed]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
