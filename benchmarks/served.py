"""The server under test: the real app, and beside it a JSON echo route, bare and guarded, to measure it against.

`python -m benchmarks.served DATABASE PORT` serves until it is killed; secrets come from the environment.
"""

import asyncio
import os
import sys
from typing import Any

import msgspec
from litestar import Litestar, post
from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from ironcage_http.app import wire
from ironcage_http.calls import Call, answer
from ironcage_http.endpoints import endpoint
from ironcage_http.routing import Route
from ironcage_http.server import ApiServer
from ironcage_http.serving import leave_to_stay
from ironcage_http.settings import read_settings
from ironcage_http.wiring import Wiring
from ironcage_storage.sqlite.store import SqliteStore


@post("/echo", status_code=200)
async def echo(data: dict[str, Any]) -> dict[str, Any]:
    """Return the body."""
    return data


async def guarded_echo(call: Call) -> ASGIResponse:
    """Return the body to a user who is alive at this moment."""
    who = call.user()
    await call.glance(who)
    return answer(msgspec.json.decode(call.raw))


class WithEcho:
    """Sends the echo routes to an app of their own and everything else to the real one."""

    def __init__(self, app: Any, wiring: Wiring) -> None:  # noqa: ANN401 - an ASGI app
        self._app = app
        route = Route("POST", "/guarded", guarded_echo, "Echo", action="users.me", limit="none")
        guarded = HTTPRouteHandler("/guarded", http_method="POST")(endpoint(route, wiring))
        self._echo = Litestar([echo, guarded], openapi_config=None, logging_config=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == ScopeType.HTTP and scope["path"] in {"/echo", "/guarded"}:
            state: dict[str, Any] = scope.setdefault("state", {})
            state["request_id"] = "bench"
            await self._echo(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def main() -> None:
    """Serve."""
    database, port = sys.argv[1:]
    settings = read_settings(os.environ)
    with SqliteStore(database) as store:
        server = ApiServer(store, int(port), settings=settings)
        server._app = WithEcho(server._app, wire(store, settings))  # noqa: SLF001 - the bench stands in the middle
        leave_to_stay()
        asyncio.run(server.serve())


if __name__ == "__main__":
    main()
