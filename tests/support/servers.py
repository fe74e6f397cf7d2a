"""Servers: `ironcage serve` in a process of its own, and an agent that calls one over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agents import create_agent
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_http.settings import Settings
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import AesGcmVault
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.processes import ROOT
from tests.support.web import API_KEY
from tests.support.world import ADMIN

PATIENCE_S = 20.0
START_PATIENCE_S = 90.0
"""A start is a process and its imports; where many tests run at once that takes long."""
MAIN = "import sys; from ironcage_http.cli import main; sys.argv[0] = 'ironcage'; main()"


@dataclass(frozen=True)
class RunningAgent:
    """An agent that was made behind the server's back, and its token."""

    id: str
    token: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"X-IC-Token": self.token}


def add_agent(store: SqliteStore, settings: Settings, budget: Micros = 100 * MICROS_PER_USD) -> RunningAgent:
    """Add an owner, a provider key and an agent that a server with these settings can serve."""
    assert settings.master_key is not None
    vault, signer = AesGcmVault(settings.master_key), IcTokenSigner(settings.ic_token_secret)
    owner = store.write(partial(add_user, username="owner", email="owner@test.io", role="user", actor=ADMIN))
    key = store.write(partial(add_provider_key, provider="openai", api_key=API_KEY, actor=ADMIN, vault=vault))
    create = partial(create_agent, name="worker", budget=budget, owner_id=owner.id, provider_key_ids=[key.id])
    created = store.write(partial(create, actor=ADMIN, signer=signer))
    return RunningAgent(created.agent.id, created.ic_token.value)


@dataclass
class Reply:
    """The answer to one request."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:  # noqa: ANN401 - whatever the JSON is
        return json.loads(self.raw, parse_float=Decimal)


def ask(port: int, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
    """Send one request over a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        return ask_on(connection, method, path, body, headers)
    finally:
        connection.close()


def ask_on(
    connection: HTTPConnection,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send one request over an open connection."""
    content = None if body is None else json.dumps(body).encode()
    typed = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, path, body=content, headers={**typed, **(headers or {})})
    response = connection.getresponse()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


class ServerProcess:
    """`ironcage serve` in a folder with a minimal environment; use it as a context manager, again for a restart.

    Args:
        folder: Its working folder, where its output is kept too.
        **environ: Variables beside `SERVER_PORT`.
    """

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.environ = {
            "PATH": os.defpath,
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "SERVER_PORT": str(self.port),
            **environ,
        }
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def said(self) -> str:
        """Everything the last start has printed, to either stream."""
        return self._output.read_text()

    @property
    def _output(self) -> Path:
        return self.folder / f"output-{self._starts}.txt"

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting until it answers."""
        self._starts += 1
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [sys.executable, "-c", MAIN, "serve"],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self._process

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.said
            try:
                if ask(self.port, "GET", "/api/health").status == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"the server does not answer: {self.said}")

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        return ask(self.port, method, f"/api/v1{path}", body, headers)

    def kill(self) -> None:
        """Let it die on the spot."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def terminate(self, within_s: float = PATIENCE_S) -> int:
        """Ask it to end as an operator does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def __enter__(self) -> Self:
        self.launch()
        try:
            self.wait_until_it_answers()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_ironcage(folder: Path, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `ironcage` to its end."""
    return subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        cwd=folder,
        env={"PATH": os.defpath, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
