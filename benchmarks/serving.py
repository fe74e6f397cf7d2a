"""A server process to measure, and the people and agents that call it, made over its own interface."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Final, NamedTuple, Self

import httpx

from benchmarks.scale_data import PASSWORD, add_admin
from benchmarks.setup import AGENTS
from ironcage_http.server import free_port
from ironcage_storage.sealed.vault import MasterKey
from ironcage_storage.sqlite.store import SqliteStore

_START_TIMEOUT_S: Final = 120
_KB_PER_MB: Final = 1024


@dataclass(frozen=True, slots=True)
class Runtime:
    """An agent's IC token and its lease."""

    token: str
    lease_id: str

    @property
    def credential(self) -> str:
        """The header that carries the token."""
        return f"X-IC-Token: {self.token}"


class Served(NamedTuple):
    """Where a process serves, and how many seconds it took to its first healthy answer."""

    port: int
    pid: int
    seconds_to_start: float

    def memory_mb(self, *, peak: bool = False) -> float:
        """Return how much memory it takes, or has taken at most."""
        return memory_mb(self.pid, peak=peak)


def memory_mb(pid: int | None = None, *, peak: bool = False) -> float:
    """Return the resident memory of a process, or of this one: now, or the most it has taken."""
    field = "VmHWM:" if peak else "VmRSS:"
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    return int(status.partition(field)[2].split()[0]) / _KB_PER_MB


@contextmanager
def fresh_server(folder: Path) -> Iterator[Served]:
    """Serve a fresh database, which has an admin, in a process."""
    database = folder / "bench.db"
    with SqliteStore(database) as store:
        add_admin(store)
    with serving(database) as served:
        yield served


@contextmanager
def serving(database: Path) -> Iterator[Served]:
    """Serve a database in a process.

    Raises:
        RuntimeError: It ended, or did not answer in time.
    """
    port = free_port("127.0.0.1")
    environ = {
        **os.environ,
        "IRON_DEPLOYMENT_MODE": "development",
        "JWT_SECRET": secrets.token_urlsafe(48),
        "IRON_SECRETS_MASTER_KEY": MasterKey.generate().to_base64(),
    }
    start = perf_counter()
    command = [sys.executable, "-m", "benchmarks.served", str(database), str(port)]
    process = subprocess.Popen(command, env=environ)  # noqa: S603 - our own module
    try:
        while not _is_healthy(port):
            if process.poll() is not None or perf_counter() - start > _START_TIMEOUT_S:
                raise RuntimeError("the server did not start")
            sleep(0.02)
        yield Served(port, process.pid, perf_counter() - start)
    finally:
        process.kill()
        process.wait()


def _is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/health").is_success
    except httpx.TransportError:
        return False


class Desk:
    """Makes what a bench needs over the interface of a server, in its admin's session.

    Args:
        port: Where it serves.
    """

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=60)
        self.session: str = self.login("admin")["access_token"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def login(self, username: str) -> dict[str, Any]:
        """Return the answer to a login."""
        return self.send("/auth/login", {"username": username, "password": PASSWORD}, "none")

    def send(self, path: str, body: dict[str, Any], token: str | None = None) -> dict[str, Any]:
        """Post a body and return the answer."""
        response = self._client.post(path, json=body, headers={"Authorization": f"Bearer {token or self.session}"})
        made: dict[str, Any] = response.raise_for_status().json()
        return made

    def key(self) -> str:
        """Make a provider key and return its id."""
        name: str = self.send("/providers", {"provider": "openai", "api_key": "sk-bench-0123456789abcdef"})["id"]
        return name

    def runtime(self, key: str, name: str = "worker", **more: object) -> Runtime:
        """Make an agent and shake hands for it."""
        body = {"name": name, "budget": 999_999, "providers": [key], **more}
        token = self.send("/agents", body)["ic_token"]["token"]
        return Runtime(token, self.send("/budget/handshake", {"requested_budget": 1000}, token)["lease_id"])

    def runtimes(self, count: int = AGENTS) -> list[Runtime]:
        """Make so many agents, all with one provider key."""
        key = self.key()
        return [self.runtime(key, f"worker {place}") for place in range(count)]
