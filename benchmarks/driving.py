"""A client that costs little: requests are bytes, connections are kept open, and answers are only counted."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import msgspec

from benchmarks.serving import Runtime
from benchmarks.setup import CONNECTIONS, ordered_name
from benchmarks.timing import Percentiles, percentiles

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_STATUSES_OK: Final = (b"HTTP/1.1 200", b"HTTP/1.1 202")
_encode: Final = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Result:
    """Answers per second, and how long they took."""

    rate: float
    taken: Percentiles


def request(path: str, body: object, credential: str = "X-Nothing: 0") -> bytes:
    """Return a request as bytes; `credential` is a header."""
    content = _encode(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{credential}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def report(runtime: Runtime) -> dict[str, object]:
    """Return the body of an ordinary report."""
    return {
        "lease_id": runtime.lease_id, "request_id": ordered_name(), "cost_usd": 0.00032, "model": "gpt-4o",
        "provider": "openai", "input_tokens": 80, "output_tokens": 20,
    }  # fmt: skip


def report_request(runtime: Runtime) -> bytes:
    """Return the request of an ordinary report."""
    return request("/api/v1/budget/report", report(runtime), runtime.credential)


def handshake_request(runtime: Runtime) -> bytes:
    """Return the request of a handshake for one dollar."""
    return request("/api/v1/budget/handshake", {"requested_budget": 1}, runtime.credential)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """Yield an open connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(connection: Connection, content: bytes) -> float:
    """Send one request over an open connection, read its answer, and return the seconds between."""
    reader, writer = connection
    start = perf_counter()
    writer.write(content)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    if not head.startswith(_STATUSES_OK):
        raise RuntimeError(f"the server answered {head.splitlines()[0]!r} {body[:200]!r}")
    return perf_counter() - start


def drive(port: int, requests: Sequence[bytes], connections: int = CONNECTIONS) -> Result:
    """Send the requests over so many connections and return how fast they were answered."""
    start = perf_counter()
    latencies = asyncio.run(drive_all(port, [iter(requests[first::connections]) for first in range(connections)]))
    return Result(len(requests) / (perf_counter() - start), percentiles(latencies))


async def drive_all(port: int, each: Sequence[Iterator[bytes]]) -> list[float]:
    """Send what each connection has to send, and return the seconds of every answer."""
    latencies: list[float] = []

    async def one(requests: Iterator[bytes]) -> None:
        async with connected(port) as connection:
            latencies.extend([await exchange(connection, content) for content in requests])

    await asyncio.gather(*map(one, each))
    return latencies
