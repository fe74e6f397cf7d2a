"""A client of the live feed that only reads, and costs so little that hundreds fit into one process."""

import asyncio
import base64
import os
import time
from dataclasses import dataclass, field
from typing import Any, Final

from ironcage_core.domain.instants import parse_instant

_STAMP: Final = b'"timestamp":"'
_STAMP_LENGTH: Final = 24


@dataclass
class Heard:
    """What all sockets have received: frames, how old the sampled ones were in seconds, and how many closed."""

    frames: int = 0
    ages_s: list[float] = field(default_factory=list)
    closed: int = 0

    def forget(self) -> None:
        """Start anew, except for what has closed."""
        self.frames = 0
        self.ages_s = []


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
                self._heard.ages_s.append(time.time() - at_ms / 1000)
