"""Shortcuts: paths without a part that varies are looked up in a table, before the framework routes what is left.

Its routing, and the way from a handler's answer to the wire, cost a report a third of its time on the event loop.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from litestar import Request
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, Receive, Scope, Send

from ironcage_http.errors import on_exception, on_http_exception

Handler = Callable[[Request[Any, Any, Any]], Awaitable[ASGIResponse]]

_NOTHING: Final[Mapping[str, str]] = {}


class Shortcuts:
    """Wraps an app.

    Args:
        app: What answers everything else.
        handlers: By method and path.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[tuple[str, str], Handler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        handler = self._handlers.get((scope["method"], scope["path"]))
        if handler is None:
            await self._app(scope, receive, send)
            return
        scope["path_template"] = scope["path"]
        scope["path_params"] = _NOTHING  # type: ignore[typeddict-item]  # nobody writes to it
        request: Request[Any, Any, Any] = Request(scope, receive, send)
        try:
            response = await handler(request)
        except HTTPException as error:
            response = on_http_exception(request, error).to_asgi_response(None, request)
        except Exception as error:  # noqa: BLE001 - as the framework does: it is logged, and told as ours
            response = on_exception(request, error).to_asgi_response(None, request)
        await response(scope, receive, send)
