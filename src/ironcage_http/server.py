"""The server: an app on a socket, in this thread or beside it.

uvicorn serves HTTP/1.1 and WebSocket in our own event loop, so that one process owns the database file and a clean
stop drains what is queued.
"""

import asyncio
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import uvicorn

from ironcage_core.ports.storage import Store
from ironcage_http.app import create_app
from ironcage_http.connections import LOOK_S, Connections, room_for_connections
from ironcage_http.protocols import BoundedHttp, PingingWebSocket
from ironcage_http.settings import Settings, read_settings
from ironcage_storage.sealed.vault import MasterKey

START_TIMEOUT_S: Final = 10
BACKLOG: Final = 1024
GRACE_S: Final = 3
KEEP_ALIVE_S: Final = 75
"""For how long a connection may rest between requests: longer than proxies and pools do, so that they end it first."""

MAX_MESSAGE_BYTES: Final = 16_384
"""Of what comes over a WebSocket. Source: contract analytics.md 6.3."""


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it: it may be one of several things in a process.

    Args:
        config: How it serves.
        on_start: Called when it answers.
    """

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self.server_state = self.crowd = Connections(room_for_connections())
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections, too, which uvicorn gives time for ten times a second."""
        if counter % (LOOK_S * 10) == 0:
            self.crowd.cut_stragglers()
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class ApiServer:
    """Serves a store over HTTP.

    `start` blocks until `stop`; as a context manager it serves from a thread of its own, for tests of other components.
    The store stays open: whoever opened it closes it.

    Args:
        store: Where everything is kept.
        port: Where to listen; 0 takes a free port, which `port` then names.
        host: The address to listen on.
        settings: What the operator decided; None takes `embedded_settings`.
    """

    def __init__(
        self, store: Store, port: int = 0, *, host: str = "127.0.0.1", settings: Settings | None = None
    ) -> None:
        self._app = create_app(store, settings or embedded_settings())
        self.host = host
        self.port = port or free_port(host)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Serve until `stop` is called."""
        asyncio.run(self.serve())

    async def serve(self, on_start: Callable[[], None] = lambda: None) -> None:
        """Serve in the running event loop until `stop` is called or the task is cancelled.

        Args:
            on_start: Called once it answers.
        """
        server = self._server = _Server(
            uvicorn.Config(
                self._app,
                host=self.host,
                port=self.port,
                http=BoundedHttp,
                ws=PingingWebSocket,
                ws_max_size=MAX_MESSAGE_BYTES,
                ws_ping_interval=None,  # the feed pings, and closes with a code of its own
                ws_per_message_deflate=False,
                lifespan="on",
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who a proxy says the client is, is judged by our own rules
            ),
            on_start,
        )
        serving = asyncio.ensure_future(server.serve())
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True
            await serving
            raise

    def stop(self) -> None:
        """Answer what is under way, for at most `GRACE_S`, then stop. Safe from any thread; twice is fine."""
        if self._server is not None:
            self._server.should_exit = True

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="ironcage-http", daemon=True)
        self._thread.start()
        _wait_until_open(self.host, self.port, self._thread)
        if self._failure is not None:
            raise self._failure
        return self

    def _run(self) -> None:
        try:
            self.start()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that entered
            self._failure = error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join(START_TIMEOUT_S)


def embedded_settings() -> Settings:
    """Return the settings of a server inside a test: development rules and secrets that live as long as it does."""
    return read_settings(
        {
            "DATABASE_URL": "sqlite::memory:",
            "IRON_DEPLOYMENT_MODE": "development",
            "JWT_SECRET": secrets.token_urlsafe(48),
            "IRON_SECRETS_MASTER_KEY": MasterKey.generate().to_base64(),
        }
    )


def free_port(host: str) -> int:
    """Return a port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_open(host: str, port: int, thread: threading.Thread) -> None:
    for _ in range(START_TIMEOUT_S * 100):
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((host, port)) == 0:
                return
        thread.join(0.01)
        if not thread.is_alive():
            return
    raise TimeoutError("the server did not start")
