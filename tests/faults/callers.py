"""Who calls a server that breaks: runtimes and an admin who ask until there is an answer.

A runtime repeats what got no answer, or one that says to come again, as the contract of runtimes has it.
"""

import secrets
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from typing import Final

from ironcage_core.domain.money import MICROS_PER_USD
from tests.faults.told import Refusal, Told, micros
from tests.support.servers import Reply, RunningAgent, ask_on
from tests.support.web import PASSWORD

REPORTS: Final = 6
"""Of a lease, before it is refreshed, and after; they cost more than it holds now and then."""

LOSE_EVERY: Final = 7
"""Of so many answers the first is lost on its way: what it answers has happened all the same."""

LEASE_USD: Final = 0.01
WAIT_S: Final = 60
_PAUSE_S: Final = 0.03
_YESTERDAY_MS: Final = int(time.time() - 86_400) * 1000
"""When telemetry says it happened: not in the future, even by a clock that was set back by hours."""

ENDED: Final = frozenset(("LEASE_EXPIRED", "LEASE_CLOSED"))


class Shared:
    """What all callers of a load share.

    Args:
        port: Of the server, which may come and go.
        has_ends: Whether leases may end by themselves, because somebody moves the clock.
    """

    def __init__(self, port: int, *, has_ends: bool) -> None:
        self.port = port
        self.ends = ENDED if has_ends else frozenset()
        self.told = Told()
        self.tag = secrets.token_hex(3)  # names of another load on the same file would be repetitions
        self.refused: Counter[Refusal] = Counter()
        self.lost_answers = 0
        self.abandoned = threading.Event()


class GoneError(Exception):
    """Nobody will answer any more."""


class _Caller:
    """Somebody with a connection who asks until there is an answer."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.headers: dict[str, str] = {}
        self._connection: HTTPConnection | None = None
        self._asked = 0

    def send(self, method: str, path: str, body: object, key: str = "") -> tuple[Reply, bool]:
        """Send until it is answered; also tell whether an answer was lost before."""
        headers = {**self.headers, **({"Idempotency-Key": key} if key else {})}
        was_lost = False
        while True:
            if self.shared.abandoned.is_set():
                raise GoneError
            reply = self._try(method, path, body() if callable(body) else body, headers)
            if reply is None:
                was_lost = True
                self.shared.lost_answers += 1
            elif reply.status == 503:
                told = reply.body
                self.shared.refused[
                    Refusal((reply.status, told["code"], told["error"], reply.headers.get("retry-after")))
                ] += 1
            else:
                return reply, was_lost
            time.sleep(_PAUSE_S)

    def _try(self, method: str, path: str, body: object, headers: dict[str, str]) -> Reply | None:
        if self._connection is None:
            self._connection = HTTPConnection("127.0.0.1", self.shared.port, timeout=WAIT_S)
        self._asked += 1
        try:
            reply = ask_on(self._connection, method, f"/api/v1{path}", body, headers)
            return None if self._asked % LOSE_EVERY == 1 else reply
        except (OSError, HTTPException):
            self.hang_up()
            return None

    def hang_up(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Runtime(_Caller):
    """A runtime of an agent: takes leases, spends, refreshes and returns them."""

    def __init__(self, shared: Shared, agent: RunningAgent, name: str) -> None:
        super().__init__(shared)
        self.agent, self.name = agent, f"{shared.tag}-{name}-{agent.id[-4:]}"
        self.headers = agent.headers
        self._number = 0

    def work(self) -> None:
        """Live through one lease."""
        body = {"requested_budget": LEASE_USD, "runtime_id": self.name}
        granted = self.ask("/budget/handshake", body, self.next_name())
        if granted is None:  # it was granted, the answer was lost, and its time is over
            return
        lease = self._granted(granted, "budget_granted")
        self._spend(lease)
        self._note()
        refreshed = self.ask("/budget/refresh", {"lease_id": lease, "requested_budget": LEASE_USD}, self.next_name())
        if refreshed is None or refreshed.body["status"] != "approved":
            return
        lease = self._granted(refreshed, "lease_budget_usd")
        self._spend(lease)
        returned = self.ask("/budget/return", {"lease_id": lease})
        if returned is not None:
            self.shared.told.returns[lease] = micros(returned.body["returned_usd"])

    def _granted(self, reply: Reply, name: str) -> str:
        lease: str = reply.body["lease_id"]
        self.shared.told.grants[lease] = (self.agent.id, micros(reply.body[name]))
        return lease

    def _spend(self, lease: str) -> None:
        told = self.shared.told
        for _ in range(REPORTS):
            request = self.next_name()
            cost = 200 * (1 + self._number % 11)
            body = {
                "lease_id": lease, "request_id": request, "model": "gpt-4o", "provider": "openai", "tokens": 10,
                "cost_usd": cost / MICROS_PER_USD,
            }  # fmt: skip
            told.costs[self.agent.id, request] = cost
            reply, was_lost = self.send("POST", "/budget/report", body)
            assert reply.status == 200, reply.raw
            assert was_lost or not reply.body["duplicate"], "it was booked, though its refusal said otherwise"
            assert micros(reply.body["cost_usd"]) == cost
            told.reports.add((self.agent.id, request))

    def _note(self) -> None:
        event = self.next_name()
        data = {"tool": "search", "duration_ms": 120, "success": True}
        told = {"event_id": event, "type": "tool_invocation", "data": data, "timestamp_ms": _YESTERDAY_MS}
        body = {"events": [told], "runtime_id": self.name}
        self.shared.told.sent_notes.add((self.agent.id, event))
        reply, _ = self.send("POST", "/telemetry/events", body)
        assert reply.status in {200, 202}, reply.raw
        assert reply.body["rejected"] == 0, reply.raw
        self.shared.told.notes.add((self.agent.id, event))

    def ask(self, path: str, body: object, key: str = "") -> Reply | None:
        """Send until it is answered; None if the lease is over."""
        reply, _ = self.send("POST", path, body, key)
        if reply.status != 200 and reply.body["code"] in self.shared.ends:
            return None
        assert reply.status == 200, reply.raw
        return reply

    def next_name(self) -> str:
        """Return a name that was never used, in the form of an id."""
        self._number += 1
        return f"{self.name}-{self._number:06d}"


class Admin(_Caller):
    """An admin who makes agents and raises a budget."""

    def __init__(self, shared: Shared, agent: RunningAgent) -> None:
        super().__init__(shared)
        self.agent = agent
        self._number = 0

    def work(self) -> None:
        """Make an agent and raise the budget of another by a dollar."""
        self._number += 1
        told = self.shared.told
        made, _ = self._as_admin("POST", "/agents", self._new_agent)
        assert made.status == 201, made.raw
        told.agents.add(made.body["id"])
        path = f"/limits/agents/{self.agent.id}/budget"
        found, _ = self._as_admin("GET", path)
        wish = {"budget": float(found.body["budget"]) + 1, "reason": "it is busy"}
        raised, _ = self._as_admin("PUT", path, wish, f"raise-{self.shared.tag}-{self._number:06d}")
        assert raised.status == 200, raised.raw
        told.raises[raised.body["history_entry_id"]] = (self.agent.id, micros(raised.body["increase_amount"]))
        time.sleep(_PAUSE_S)

    def _new_agent(self) -> object:
        """Return a wish that differs each time it is sent: agents have no natural key."""
        name = f"made-{self.shared.tag}-{len(self.shared.told.sent_agents)}"
        self.shared.told.sent_agents.add(name)
        return {"name": name, "budget": 1, "providers": []}

    def _as_admin(self, method: str, path: str, body: object = None, key: str = "") -> tuple[Reply, bool]:
        while True:
            reply, was_lost = self.send(method, path, body, key)
            if reply.status != 401:
                return reply, was_lost
            self.headers = {}
            login, _ = self.send("POST", "/auth/login", {"username": "admin", "password": PASSWORD})
            assert login.status == 200, login.raw
            self.headers = {"Authorization": f"Bearer {login.body['access_token']}"}
