"""The server under test: the real app, and beside it a bare JSON echo route to measure it against.

`python -m benchmarks.served DATABASE PORT` serves until it is killed; secrets come from the environment.
"""

import asyncio
import os
import sys
from typing import Any

from litestar import Litestar, post
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from ironcage_http.server import ApiServer
from ironcage_http.settings import read_settings
from ironcage_storage.sqlite.store import SqliteStore


@post("/echo", status_code=200)
async def echo(data: dict[str, Any]) -> dict[str, Any]:
    """Return the body."""
    return data


class WithEcho:
    """Sends `/echo` to an app of its own and everything else to the real one."""

    def __init__(self, app: Any) -> None:  # noqa: ANN401 - an ASGI app
        self._app = app
        self._echo = Litestar([echo], openapi_config=None, logging_config=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_echo = scope["type"] == ScopeType.HTTP and scope["path"] == "/echo"
        await (self._echo if is_echo else self._app)(scope, receive, send)


def main() -> None:
    """Serve."""
    database, port = sys.argv[1:]
    settings = read_settings(os.environ)
    with SqliteStore(database) as store:
        server = ApiServer(store, int(port), settings=settings)
        server._app = WithEcho(server._app)  # noqa: SLF001 - the bench stands in the middle
        asyncio.run(server.serve())


if __name__ == "__main__":
    main()
