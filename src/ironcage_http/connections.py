"""Connections: how many a server holds, which goes first when there are more, and who is cut for taking nothing.

A connection costs an open file and some memory, and it costs its client nothing. So there is a bound; above it the one
goes from which a request has been waited for the longest, and whoever sends his at once is served. And a client that
does not take its answer would keep it in memory for ever, even past the end of its connection: it is cut.
"""

import asyncio
import resource
from contextlib import suppress
from typing import Final, Protocol

from uvicorn.server import ServerState

MAX_CONNECTIONS: Final = 8192
MAX_FILES: Final = 32_768

LOOK_S: Final = 30
"""How often it is looked who takes what was sent."""

LEAST_BYTES: Final = 65_536
"""How much of an answer, or all of it, a client must take from one look to the next."""


class Connection(Protocol):
    """One connection: an HTTP one, or one that has become a WebSocket."""

    transport: asyncio.Transport

    @property
    def answering(self) -> object:
        """The request that is answered, or was the last to be; None on a WebSocket."""
        ...


class Connections(ServerState):
    """The connections of one server: uvicorn's own list, and those from which a request is waited for.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int = MAX_CONNECTIONS) -> None:
        super().__init__()
        self._most = most
        self._waiting: dict[Connection, None] = {}  # whoever has waited the longest comes first
        self._unsent: dict[object, tuple[object, int]] = {}

    def wait_for(self, connection: Connection) -> None:
        """Note that a request is waited for, from now on."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None

    def wait_no_more(self, connection: Connection) -> None:
        """Note that it is there, or that it will never be."""
        self._waiting.pop(connection, None)

    def make_room(self) -> None:
        """Cut the connection from which a request has been waited for the longest, if there are too many."""
        if len(self.connections) > self._most and self._waiting:
            oldest = next(iter(self._waiting))
            self.wait_no_more(oldest)
            oldest.transport.abort()

    def cut_stragglers(self) -> None:
        """Cut who has taken too little since the last look. The live feed judges its own, until it closes them."""
        before, self._unsent = self._unsent, {}
        for connection in list(self.connections):
            answering: object = connection.answering  # type: ignore[union-attr]  # all are ours
            unsent = connection.transport.get_write_buffer_size()
            if unsent and (answering is not None or connection.transport.is_closing()):
                self._unsent[connection] = answering, unsent
                same, unsent_before = before.get(connection, (None, -1))
                if same is answering and 0 <= unsent_before - unsent < LEAST_BYTES:
                    connection.transport.abort()


def room_for_connections() -> int:
    """Let this process open as many files as it may, and return how many connections a server is to hold.

    Half of the files at most: others are those of the database, and of connections that are made while old ones end.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError):  # a sandbox may forbid to set limits
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 2)
