"""The server: an app on a socket, in this thread or beside it.

granian serves HTTP/1.1, HTTP/2 and WebSocket; its embedded form runs in our own event loop, so that one process owns
the database file and a clean stop drains what is queued.
"""

import asyncio
import secrets
import socket
import threading
from types import TracebackType
from typing import Final, Self

from granian.constants import Interfaces
from granian.server.embed import Server

from ironcage_core.ports.storage import Store
from ironcage_http.app import create_app
from ironcage_http.settings import Settings, read_settings
from ironcage_storage.sealed.vault import MasterKey

START_TIMEOUT_S: Final = 10
BACKLOG: Final = 1024
GRACE_S: Final = 3


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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Serve until `stop` is called."""
        asyncio.run(self.serve())

    async def serve(self) -> None:
        """Serve in the running event loop until `stop` is called or the task is cancelled."""
        self._loop = asyncio.get_running_loop()
        self._server = Server(
            self._app,
            address=self.host,
            port=self.port,
            interface=Interfaces.ASGI,
            backlog=BACKLOG,
            log_enabled=False,
        )
        self._stopping = asyncio.Event()
        serving = asyncio.create_task(self._server.serve())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            self._server.stop()  # type: ignore[no-untyped-call]  # granian leaves it bare
            # A request that never ends must not keep the process: its client has had its time.
            await asyncio.wait({serving}, timeout=GRACE_S)
        stopping.cancel()
        if serving.done():
            serving.result()

    def stop(self) -> None:
        """Answer what is under way, for at most `GRACE_S`, then stop. Safe from any thread; twice is fine."""
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and not loop.is_closed():
            loop.call_soon_threadsafe(stopping.set)

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
