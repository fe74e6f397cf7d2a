"""Measure the server over HTTP: `python -m benchmarks.over_http [--quick]`.

One server process, one client process, 64 connections that are kept open; every request is prepared beforehand, and
the client only writes bytes and counts answers. Each round runs all scenarios, echo first; ratios are within a round,
and what is shown is the median of three rounds.
"""

import argparse
import asyncio
import os
import resource
import secrets
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Final, NamedTuple

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.setup import AGENTS, BATCH, CONNECTIONS, ROUNDS, ordered_name, scratch
from ironcage_core.services.accounts import first_admin
from ironcage_http.server import free_port
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sealed.vault import MasterKey
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock

PASSWORD: Final = "a password for the bench"  # noqa: S105 - of a database that lives as long as the bench
STATUSES_OK: Final = (b"HTTP/1.1 200", b"HTTP/1.1 202")
_encode: Final = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Runtime:
    """An agent's IC token and its lease."""

    token: str
    lease_id: str

    @property
    def credential(self) -> str:
        """The header that carries the token."""
        return f"X-IC-Token: {self.token}"


@dataclass(frozen=True, slots=True)
class Result:
    """Answers per second, and latencies in milliseconds."""

    rate: float
    p50: float
    p95: float
    p99: float


class Served(NamedTuple):
    """Where a process serves, and how many seconds it took to its first healthy answer."""

    port: int
    pid: int
    seconds_to_start: float


@contextmanager
def server(folder: Path) -> Iterator[Served]:
    """Serve a fresh database in a process."""
    database = folder / "bench.db"
    with SqliteStore(database) as store:
        password_hash = Argon2PasswordHasher().hash(PASSWORD)
        admin = partial(first_admin, email="a@test.io", username="admin", force_change=False)
        store.write(partial(admin, password_hash=password_hash))
    with serving(database) as found:
        yield found


@contextmanager
def serving(database: Path) -> Iterator[Served]:
    """Serve a database in a process."""
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


def prepared(port: int) -> tuple[list[Runtime], dict[str, str]]:
    """Make the agents over the interface itself; return them, and the headers of a session and of an API token."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=60) as client:

        def send(path: str, body: dict[str, Any], token: str) -> dict[str, Any]:
            response = client.post(path, json=body, headers={"Authorization": f"Bearer {token}"})
            made: dict[str, Any] = response.raise_for_status().json()
            return made

        admin = send("/auth/login", {"username": "admin", "password": PASSWORD}, "none")["access_token"]
        key = send("/providers", {"provider": "openai", "api_key": "sk-bench-0123456789abcdef"}, admin)["id"]
        found = []
        for number in range(AGENTS):
            body = {"name": f"worker {number}", "budget": 999_999, "providers": [key]}
            token = send("/agents", body, admin)["ic_token"]["token"]
            found.append(Runtime(token, send("/budget/handshake", {"requested_budget": 1000}, token)["lease_id"]))
        api_token = send("/api-tokens", {"name": "bench"}, admin)["token"]
        return found, {"session": f"Authorization: Bearer {admin}", "API token": f"X-API-Token: {api_token}"}


def request(path: str, body: object, credential: str = "X-Nothing: 0") -> bytes:
    """Return a request as bytes; `credential` is a header."""
    content = _encode(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{credential}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> float:
    """Send one request over an open connection, read its answer, and return the seconds between."""
    start = perf_counter()
    writer.write(content)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    if not head.startswith(STATUSES_OK):
        raise RuntimeError(f"the server answered {head.splitlines()[0]!r} {body[:200]!r}")
    return perf_counter() - start


async def _drive(port: int, requests: Sequence[bytes], connections: int) -> tuple[float, list[float]]:
    latencies: list[float] = []

    async def connection(mine: Sequence[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        latencies.extend([await exchange(reader, writer, each) for each in mine])
        writer.close()

    start = perf_counter()
    await asyncio.gather(*(connection(requests[first::connections]) for first in range(connections)))
    return perf_counter() - start, latencies


def drive(port: int, requests: Sequence[bytes], connections: int = CONNECTIONS) -> Result:
    """Send the requests over so many connections and return how fast they were answered."""
    seconds, latencies = asyncio.run(_drive(port, requests, connections))
    cuts = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [latencies[0]] * 99
    return Result(len(requests) / seconds, cuts[49] * 1000, cuts[94] * 1000, cuts[98] * 1000)


def report(runtime: Runtime) -> dict[str, object]:
    """Return the body of an ordinary report."""
    return {
        "lease_id": runtime.lease_id, "request_id": ordered_name(), "cost_usd": 0.00032, "model": "gpt-4o",
        "provider": "openai", "input_tokens": 80, "output_tokens": 20,
    }  # fmt: skip


def event(at_ms: int) -> dict[str, object]:
    """Return the body of an ordinary event."""
    return {
        "event_id": ordered_name(), "timestamp_ms": at_ms, "event_type": "llm_request_completed", "model": "gpt-4o",
        "provider": "openai", "input_tokens": 80, "output_tokens": 20, "cost_micros": 320, "duration_ms": 900,
    }  # fmt: skip


def events(of: Runtime) -> bytes:
    """Return a batch of new events."""
    at_ms = SystemClock().now()
    body = {"events": [event(at_ms) for _ in range(BATCH)]}
    return request("/api/v1/analytics/events", body, of.credential)


def scenarios(
    found: Sequence[Runtime], credentials: Mapping[str, str], count: int
) -> dict[str, Callable[[], list[bytes]]]:
    """Return what makes the requests of each scenario."""

    def of(index: int) -> Runtime:
        return found[index % len(found)]

    def guarded(credential: str) -> Callable[[], list[bytes]]:
        return lambda: [request("/guarded", report(of(index)), credential) for index in range(count)]

    sent = [events(of(index)) for index in range(max(2, count // 500))]
    return {
        "echo": lambda: [request("/echo", report(of(index))) for index in range(count)],
        **{f"echo guarded by {name}": guarded(header) for name, header in credentials.items()},
        "report": lambda: [
            request("/api/v1/budget/report", report(of(index)), of(index).credential) for index in range(count)
        ],
        "handshake": lambda: [
            request("/api/v1/budget/handshake", {"requested_budget": 1}, of(index).credential)
            for index in range(min(count, 15 * AGENTS))
        ],
        "batch": lambda: [
            request(
                "/api/v1/budget/report", {"reports": [report(of(index)) for _ in range(BATCH)]}, of(index).credential
            )
            for index in range(max(2, count // 1000))
        ],
        "events": lambda: sent,
        "events again": lambda: sent,
    }


BATCHES: Final = {"batch": "reports", "events": "events", "events again": "events"}
"""Scenarios whose every request has many items, and what these are."""

TARGETS: Final = {
    "echo guarded by session": 0.75, "echo guarded by API token": 0.75, "report": 0.55, "handshake": 0.35,
}  # fmt: skip


def measure(port: int, found: Sequence[Runtime], credentials: Mapping[str, str], count: int) -> dict[str, Result]:
    """Return the result of each scenario, one after the other; batches go one at a time."""
    return {
        name: drive(port, make(), 1 if name in BATCHES else CONNECTIONS)
        for name, make in scenarios(found, credentials, count).items()
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the work; figures vary more")
    count = 2_000 if parser.parse_args().quick else 8_000
    with scratch() as folder, server(folder) as served:
        found, credentials = prepared(served.port)
        rounds = [measure(served.port, found, credentials, count) for _ in range(ROUNDS)]
    show(rounds, served.seconds_to_start)


def show(rounds: Sequence[dict[str, Result]], seconds_to_start: float) -> None:
    """Print the table."""
    table = Table(title=f"{CONNECTIONS} connections, {AGENTS} agents, median of {ROUNDS} rounds")
    for heading in ("", "answers/s", "of echo", "target", "p50 ms", "p99 ms", "p99/p50"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name in rounds[0]:
        results = [figures[name] for figures in rounds]
        ratio = statistics.median(figures[name].rate / figures["echo"].rate for figures in rounds)
        rate, p50, p99 = (
            statistics.median(getattr(result, field) for result in results) for field in ("rate", "p50", "p99")
        )
        target = f"{TARGETS[name]:.2f}" if name in TARGETS else ""
        shown = f"{rate * BATCH:,.0f} {BATCHES[name]}" if name in BATCHES else f"{rate:,.0f}"
        ratio_shown = "" if name in BATCHES else f"{ratio:.2f}"
        table.add_row(name, shown, ratio_shown, target, f"{p50:.1f}", f"{p99:.1f}", f"{p99 / p50:.1f}")
    console = Console(width=110)
    console.print(table)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    console.print(f"first healthy answer after {seconds_to_start:.2f} s; the server took {memory:.0f} MB at most")


if __name__ == "__main__":
    main()
