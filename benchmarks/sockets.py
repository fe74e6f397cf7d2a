"""Measure the live feed with many sockets: `python -m benchmarks.sockets [--quick]`.

500 sockets of 50 principals, 10 each: 4 admins, who see everything, and 46 users with an agent each. 200 reports a
second make about 10,000 frames a second. How old a message is when it comes is counted from the instant at which its
unit of work began, so the wait for the commit is in it. Exits with 1 if a target is missed.
"""

import argparse
import asyncio
import base64
import os
import secrets
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NamedTuple

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.memory import resident_mb
from benchmarks.over_http import PASSWORD, Runtime, Served, exchange, report, request, serving
from benchmarks.setup import scratch
from ironcage_core.domain.instants import parse_instant
from ironcage_core.services.accounts import add_user, first_admin
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import ADMIN

ADMINS: Final = 4
USERS: Final = 46
SOCKETS_EACH: Final = 10
EVENTS_PER_S: Final = 200
REPORTERS: Final = 20
SAMPLED: Final = 0.05
"""Of which share of the sockets every message is timed."""

P99_MS: Final = 250.0
SLOWDOWN: Final = 0.8
KB_PER_SOCKET: Final = 100.0

_STAMP: Final = b'"timestamp":"'
_STAMP_LENGTH: Final = 24


@dataclass
class Heard:
    """What all sockets have received: frames, how old the sampled ones were in milliseconds, and how many closed."""

    frames: int = 0
    ages_ms: list[float] = field(default_factory=list)
    closed: int = 0


class Watcher(asyncio.Protocol):
    """A client that only reads: the upgrade is asked for at once, and frames are counted as they come."""

    def __init__(self, token: str, heard: Heard, *, is_sampled: bool) -> None:
        self._token = token
        self._heard = heard
        self._is_sampled = is_sampled
        self._buffer = bytearray()
        self._is_open = False
        self.welcomed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - a transport that writes
        """Ask for the upgrade."""
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}"
            f"\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {self._token}\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio passes it
        """Count the loss."""
        self._heard.closed += 1

    def data_received(self, data: bytes) -> None:
        """Take the frames that are whole."""
        self._buffer += data
        if not self._is_open:
            head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(head.decode())
            self._is_open, self._buffer = True, bytearray(rest)
        while (payload := self._frame()) is not None:
            self._take(payload)

    def _frame(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = buffer[1], 2
        if length == 126:
            length, start = int.from_bytes(buffer[2:4]), 4
        if len(buffer) < start + length:
            return None
        payload = bytes(buffer[start : start + length])
        del buffer[: start + length]
        return payload

    def _take(self, payload: bytes) -> None:
        if not self.welcomed.done():
            self.welcomed.set_result(None)
        elif b'"AGENT_EVENT"' in payload:
            self._heard.frames += 1
            if self._is_sampled:
                start = payload.index(_STAMP) + len(_STAMP)
                at_ms = parse_instant(payload[start : start + _STAMP_LENGTH].decode(), field="timestamp")
                self._heard.ages_ms.append(time.time() * 1000 - at_ms)


def _prepare(database: Path) -> None:
    password_hash = Argon2PasswordHasher().hash(PASSWORD)
    with SqliteStore(database) as store:
        admin = partial(first_admin, email="a@test.io", username="admin", force_change=False)
        store.write(partial(admin, password_hash=password_hash))
        for number in range(ADMINS - 1 + USERS):
            role = "admin" if number < ADMINS - 1 else "user"
            add = partial(add_user, username=f"user{number}", email=f"{number}@test.io", role=role, actor=ADMIN)
            store.write(partial(add, password_hash=password_hash))


def _people(client: httpx.Client) -> tuple[list[str], list[Runtime]]:
    """Return the session of each principal, and the runtime of each user's agent."""

    def send(path: str, body: dict[str, Any], token: str) -> dict[str, Any]:
        response = client.post(path, json=body, headers={"Authorization": f"Bearer {token}"})
        made: dict[str, Any] = response.raise_for_status().json()
        return made

    names = ["admin", *(f"user{number}" for number in range(ADMINS - 1 + USERS))]
    logins = [send("/auth/login", {"username": name, "password": PASSWORD}, "none") for name in names]
    admin = logins[0]["access_token"]
    key = send("/providers", {"provider": "openai", "api_key": "sk-bench-0123456789abcdef"}, admin)["id"]
    runtimes = []
    for login in logins[ADMINS:]:
        body = {"name": "worker", "budget": 999_999, "providers": [key], "owner_id": login["user"]["id"]}
        token = send("/agents", body, admin)["ic_token"]["token"]
        runtimes.append(Runtime(token, send("/budget/handshake", {"requested_budget": 1000}, token)["lease_id"]))
    return [login["access_token"] for login in logins], runtimes


async def _paced(port: int, runtimes: Sequence[Runtime], seconds: float) -> list[float]:
    """Report at the pace and return how many milliseconds each report took."""
    taken: list[float] = []

    async def reporter(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        start = perf_counter()
        for turn in range(int(seconds * EVENTS_PER_S / REPORTERS)):
            due = start + (turn + first / REPORTERS) * REPORTERS / EVENTS_PER_S
            await asyncio.sleep(max(0.0, due - perf_counter()))
            runtime = runtimes[(first + turn * REPORTERS) % len(runtimes)]
            content = request("/api/v1/budget/report", report(runtime), runtime.credential)
            taken.append(await exchange(reader, writer, content) * 1000)
        writer.close()

    await asyncio.gather(*(reporter(first) for first in range(REPORTERS)))
    return taken


class Figures(NamedTuple):
    """What was measured."""

    alone_ms: float
    watched_ms: float
    heard: Heard
    seconds: float
    kb_per_socket: float


async def _measure(served: Served, tokens: Sequence[str], runtimes: Sequence[Runtime], seconds: float) -> Figures:
    loop = asyncio.get_running_loop()
    await _paced(served.port, runtimes, 2)
    alone = await _paced(served.port, runtimes, seconds)
    before_mb, heard = resident_mb(served.pid), Heard()
    watchers, transports = [], []
    for number in range(SOCKETS_EACH * len(tokens)):
        is_sampled = secrets.SystemRandom().random() < SAMPLED
        make = partial(Watcher, tokens[number % len(tokens)], heard, is_sampled=is_sampled)
        transport, watcher = await loop.create_connection(make, "127.0.0.1", served.port)
        transports.append(transport)
        watchers.append(watcher)
    await asyncio.wait_for(asyncio.gather(*(watcher.welcomed for watcher in watchers)), 30)
    start = perf_counter()
    watched = await _paced(served.port, runtimes, seconds)
    took = perf_counter() - start
    await asyncio.sleep(1)
    kb_each = (resident_mb(served.pid) - before_mb) * 1024 / len(watchers)
    figures = Figures(statistics.median(alone), statistics.median(watched), heard, took, kb_each)
    closed = heard.closed
    for transport in transports:
        transport.close()
    if closed:
        raise RuntimeError(f"{closed} sockets were closed by the server")
    return figures


def show(figures: Figures) -> bool:
    """Print the table; return whether every target is met."""
    ages = statistics.quantiles(figures.heard.ages_ms, n=100)
    ratio = figures.alone_ms / figures.watched_ms
    rows = (
        ("frames/s to all sockets", figures.heard.frames / figures.seconds, None, True),
        ("age of a message, p50 ms", ages[49], None, True),
        ("age of a message, p99 ms", ages[98], f"<= {P99_MS:.0f}", ages[98] <= P99_MS),
        ("a report without sockets, p50 ms", figures.alone_ms, None, True),
        ("a report with sockets, p50 ms", figures.watched_ms, None, True),
        ("speed of reports with sockets", ratio, f">= {SLOWDOWN}", ratio >= SLOWDOWN),
        ("memory of a socket, KB", figures.kb_per_socket, f"<= {KB_PER_SOCKET:.0f}",
         figures.kb_per_socket <= KB_PER_SOCKET),
    )  # fmt: skip
    table = Table(title=f"{SOCKETS_EACH * (ADMINS + USERS)} sockets, {EVENTS_PER_S} reports a second")
    for heading in ("", "measured", "target"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, value, target, _ in rows:
        table.add_row(name, f"{value:,.2f}", target or "")
    Console(width=100).print(table)
    return all(is_met for *_, is_met in rows)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a third of the time; figures vary more")
    seconds = 5.0 if parser.parse_args().quick else 15.0
    with scratch() as folder:
        database = folder / "bench.db"
        _prepare(database)
        with serving(database) as served:
            with httpx.Client(base_url=f"http://127.0.0.1:{served.port}/api/v1", timeout=60) as client:
                tokens, runtimes = _people(client)
            figures = asyncio.run(_measure(served, tokens, runtimes, seconds))
    sys.exit(0 if show(figures) else 1)


if __name__ == "__main__":
    main()
