"""Raw requests: any bytes to a server, and what came back until it closed the connection."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

PATIENCE_S = 20.0


class Said(NamedTuple):
    """What a server said on one connection."""

    raw: bytes

    @property
    def statuses(self) -> list[int]:
        """The statuses of all its answers."""
        return [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3})", self.raw)]

    @property
    def body(self) -> bytes:
        """What stands behind the first head."""
        return self.raw.partition(b"\r\n\r\n")[2]


def exchange(port: int, sent: bytes) -> Said:
    """Send bytes, and read until the server has closed the connection."""
    with connected(port) as raw:
        raw.sendall(sent)
        return Said(read_out(raw))


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """Yield a connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as raw:
        yield raw


def read_out(raw: socket.socket) -> bytes:
    """Read until the server has closed the connection, in whatever way."""
    parts = []
    try:
        while part := raw.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def read_answer(raw: socket.socket) -> bytes:
    """Read one answer whose body is of the size that its head tells."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += _more(raw)
    head, _, body = got.partition(b"\r\n\r\n")
    size = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]  # each of ours tells it
    while len(body) < size:
        body += _more(raw)
    return head + b"\r\n\r\n" + body


def _more(raw: socket.socket) -> bytes:
    part = raw.recv(65_536)
    if not part:
        raise EOFError
    return part


def request(line: str, *headers: str, body: bytes = b"", host: str = "a") -> bytes:
    """Return a request that is the last of its connection."""
    head = [f"{line} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body
