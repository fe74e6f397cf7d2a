"""Clients: threads that draw requests, send them to one of the servers, and remember what they were told.

A crew shares the agents of one owner at a time: who is to ask next draws for the agents that all are at. So requests
meet: on one budget, on one lease, with one request id, with one key, at different servers.
"""

import json
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

from tests.history.operations import Answer, Opening, Operation, Request, Spent
from tests.history.wire import sent, understood
from tests.support.servers import ask_on

PER_MONEY = 160
"""How many requests a crew sends to one owner's agents before it goes on to the next."""

KINDS = {
    "report": 36, "handshake": 18, "refresh": 14, "return": 9, "batch": 5, "budget": 9, "allocate": 4, "revoke": 2,
    "again": 9,
}  # fmt: skip
PATIENCE_S = 20.0


@dataclass
class Desk:
    """What a crew knows of the agents it is at."""

    opening: Opening
    leases: dict[str, list[str]] = field(default_factory=dict)
    reports: list[Request] = field(default_factory=list)
    keyed: list[Request] = field(default_factory=list)
    names: int = 0

    def learn(self, request: Request, answer: Answer) -> None:
        lease = answer.get("lease")
        if isinstance(lease, str) and not answer["replayed"]:
            self.leases.setdefault(request.agent, []).append(lease)

    def draw(self, draw: random.Random, client: int) -> Request:
        """Return a request that nobody has sent, or one that somebody has sent or is sending."""
        agent = draw.choice(list(self.opening.allocated))
        (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
        leases = self.leases.get(agent, [])[-4:]
        known = self.keyed[-4:] + self.reports[-4:]
        if kind == "again" and known:
            return draw.choice(known)
        if kind in {"report", "batch"} and leases:
            return self._reporting(draw, client, agent, leases, 3 if kind == "batch" else 1)
        if kind == "budget":
            return Request("budget", agent)
        return self._keyed(draw, client, self._moving(draw, kind, agent, leases))

    def _moving(self, draw: random.Random, kind: str, agent: str, leases: Sequence[str]) -> Request:
        """Draw a grant, or an end of one; where nothing was granted yet, a first one."""
        if kind == "allocate":
            return Request("allocate", agent, self.opening.allocated[agent] + 5_000 * draw.randint(-4, 12))
        if kind == "refresh" and leases:
            return Request("refresh", agent, draw.randint(1_000, 12_000), draw.choice(leases))
        if kind == "return" and leases:
            final = draw.choice([None, None, draw.randint(0, 9_000)])
            return Request("return", agent, final, draw.choice(leases))
        if kind == "revoke" and leases:
            return Request("revoke", agent, lease=draw.choice(leases))
        runtime = draw.choice([None, "runtime-a", "runtime-b"])
        return Request("handshake", agent, draw.randint(1_000, 15_000), runtime=runtime)

    def _reporting(self, draw: random.Random, client: int, agent: str, leases: Sequence[str], items: int) -> Request:
        """Tell of calls; in a batch there may be one that was told of before."""
        spent = [
            Spent(draw.choice(leases), f"{self._name(client)}-{place}", draw.randint(0, 5_000))
            for place in range(items)
        ]  # fmt: skip
        known = [each for each in self.reports if each.agent == agent]
        if items > 1 and known:
            spent[1] = draw.choice(known).items[0]
        request = Request("batch" if items > 1 else "report", agent, items=tuple(spent))
        self.reports.append(request)
        return request

    def _keyed(self, draw: random.Random, client: int, request: Request) -> Request:
        if request.kind == "revoke" or draw.random() < 0.5:
            return request
        keyed = request._replace(key=f"key-{self._name(client)}")
        self.keyed.append(keyed)
        return keyed

    def _name(self, client: int) -> str:
        self.names += 1
        return f"{client}-{self.names}"


class Crew:
    """Clients that go from one owner's agents to the next together."""

    def __init__(self, openings: Sequence[Opening]) -> None:
        self.desks = [Desk(opening) for opening in openings]
        self.operations: list[list[Operation]] = [[] for _ in openings]
        self._lock = threading.Lock()
        self._taken = 0

    @property
    def sent(self) -> int:
        """How many requests were sent, roughly."""
        return self._taken

    def turn(self, draw: random.Random, client: int) -> tuple[int, Request] | None:
        """Return what to send next and to whose agents; None when all have had their share."""
        with self._lock:
            place = self._taken // PER_MONEY
            if place >= len(self.desks):
                return None
            self._taken += 1
            return place, self.desks[place].draw(draw, client)


class Client:
    """One client of a crew, with a connection to each server; it prefers one of them."""

    def __init__(self, number: int, crew: Crew, ports: Sequence[int], tokens: dict[str, str], admin: str) -> None:
        self.number, self._crew, self._ports = number, crew, ports
        self._tokens, self._admin = tokens, admin
        self._connections: dict[int, HTTPConnection] = {}
        self.draw = random.Random()  # noqa: S311 - a seed is given by whoever wants to repeat it

    def live(self, until: float) -> None:
        """Send one request after the other; what was not answered is sent again, elsewhere."""
        home = self.number % len(self._ports)
        while time.monotonic() < until and (turn := self._crew.turn(self.draw, self.number)) is not None:
            place, request = turn
            server = home
            while not self._try(place, request, server) and time.monotonic() < until + PATIENCE_S:
                server = (server + 1) % len(self._ports)
                time.sleep(0.01)
        for connection in self._connections.values():
            connection.close()

    def _try(self, place: int, request: Request, server: int) -> bool:
        """Send a request once, and tell whether there was an answer."""
        connection = self._connected(server)
        if connection is None:
            return False  # nothing was sent
        method, path, body, is_admins = sent(request)
        headers = {"Authorization": self._admin} if is_admins else {"X-IC-Token": self._tokens[request.agent]}
        if request.key is not None:
            headers["Idempotency-Key"] = request.key
        invoked, answer, answered = time.monotonic_ns(), None, None
        with suppress(OSError, HTTPException, json.JSONDecodeError):
            reply = ask_on(connection, method, f"/api/v1{path}", body, headers)
            if reply.status != 503:  # a 500 is an answer, one that nothing explains
                answer, answered = understood(request, reply), time.monotonic_ns()
        self._crew.operations[place].append(Operation(self.number, server, request, invoked, answered, answer))
        if answer is None:
            self._connections.pop(server).close()
            return False
        self._crew.desks[place].learn(request, answer)
        return True

    def _connected(self, server: int) -> HTTPConnection | None:
        if server not in self._connections:
            connection = HTTPConnection("127.0.0.1", self._ports[server], timeout=PATIENCE_S)
            try:
                connection.connect()
            except OSError:
                return None
            self._connections[server] = connection
        return self._connections[server]
