"""The HTTP surface as something to fuzz: a served small world, callers of every role, and its own description."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, cast

import requests
import schemathesis
from schemathesis.specs.openapi.schemas import OpenApiSchema

from ironcage_core.domain.limit_classes import LIMITS
from ironcage_core.domain.rate_limits import Rate
from ironcage_core.domain.users import Role
from ironcage_http.app import ROUTES
from ironcage_http.openapi import BASE, describe
from ironcage_http.routing import Route
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.web import API_KEY, PASSWORD, add_person, people

ROLES: Final = ("nobody", "viewer", "user", "token", "agent", "admin")
DOCUMENT: Final = json.loads(json.dumps(describe(ROUTES)))
ENDING: Final = {"/auth/logout", "/auth/change-password"}
"""What would end the caller's own session for all that comes after."""

_NAMES: Final = {"viewer": "vera", "user": "ann", "admin": "admin"}
_ID: Final = re.compile(r"([a-z]+)_([0-9a-f]{32}|\.{3})")
_TIME: Final = re.compile(r"[0-9]{4}(-[0-9]{2}-[0-9]{2}[Tt].*)")
_AMOUNTS: Final = re.compile(r".*(usd|budget|amount)|current_remaining|total_spent")
_LEAST: Final = 1e-6
_PLENTY: Final = Rate(1_000_000, 1)
_BY_ROUTE: Final[Mapping[tuple[str, str], Route]] = {(route.method, BASE + route.path): route for route in ROUTES}


def route_of(method: str, path: str) -> Route:
    """Return the route of an operation of the description."""
    return _BY_ROUTE[method.upper(), path]


def described(base_url: str) -> OpenApiSchema:
    """Return the description as schemathesis reads it."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.config.update(base_url=base_url)
    schema.config.generation.with_security_parameters = False  # who calls is told by the role
    return schema


@dataclass
class Surface:
    """A served world.

    Args:
        store: Where it is kept.
        url: Where it is served.
        known: The ids of things that are there and that no caller lives by, by their prefix.
        headers: The credential of each role.
        session: What sends.
        seen: Names that stay as they are where a request has them.
    """

    store: SqliteStore
    url: str
    known: dict[str, list[str]] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=lambda: {"nobody": {}})
    session: requests.Session = field(default_factory=requests.Session)
    seen: set[str] = field(default_factory=set)
    _turns: Iterator[int] = field(default_factory=itertools.count)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def send(self, role: str, method: str, path: str, body: Any = None) -> Any:  # noqa: ANN401 - JSON
        """Send a request that must be accepted, and remember the ids of what it answers."""
        answer = self.session.request(method, self.url + BASE + path, json=body, headers=self.headers[role])
        assert answer.ok, f"{role} {method} {path}: {answer.text}"
        for prefix, digits in _ID.findall(answer.text):
            self._remember(prefix, f"{prefix}_{digits}")
        return answer.json() if answer.content else None

    def _remember(self, prefix: str, name: str) -> None:
        names = self.known.setdefault(prefix, [])
        if name not in names:
            names.append(name)

    def see(self, answer: bytes) -> None:
        """Let what an answer names be named as it is."""
        self.seen.update(f"{prefix}_{digits}" for prefix, digits in _ID.findall(answer.decode()))

    def forget(self, *names: str) -> None:
        """Let nobody name what a caller lives by."""
        for names_of in self.known.values():
            names_of[:] = [name for name in names_of if name not in names]

    def log_in(self, name: str) -> dict[str, str]:
        """Return the credential of a fresh session."""
        login = self.send("nobody", "POST", "/auth/login", {"username": name, "password": PASSWORD})
        return {"Authorization": f"Bearer {login['access_token']}"}

    def brought_home(self, value: Any, name: str = "") -> Any:  # noqa: ANN401 - JSON
        """Return a value of a request with made-up ids as real ones, times that pass as such to come, money in bounds.

        What a schema cannot say would else refuse nearly everything that fits it.
        """
        if isinstance(value, Mapping):
            return {key: self.brought_home(each, key) for key, each in value.items()}
        if isinstance(value, list):
            return [self.brought_home(each, name) for each in value]
        if isinstance(value, str):
            return self._text(value, name)
        return _number(value, name) if isinstance(value, int | float) and not isinstance(value, bool) else value

    def _text(self, value: str, name: str) -> str:
        if name == "expires_at":
            return _TIME.sub(r"2096\1", value)
        if name == "current_password":
            return PASSWORD
        return "1.5" if _AMOUNTS.fullmatch(name) else self._named(value)

    def credential(self, role: str, route: Route) -> dict[str, str]:
        """Return what a role sends to a route: nothing where anybody may call, a session of its own to end one."""
        if route.rule.is_public:
            return {}
        return self._newcomer(role) if route.path in ENDING and role in _NAMES else self.headers[role]

    def _newcomer(self, role: str) -> dict[str, str]:
        name = f"newcomer-{next(self._numbers)}"
        self.store.write(lambda uow: add_person(uow, username=name, role=cast("Role", role)))
        return self.log_in(name)

    def _named(self, text: str) -> str:
        found = None if text in self.seen else _ID.fullmatch(text)
        names = self.known.get(found[1]) if found else None
        if not names:
            return text
        turn = next(self._turns)  # of all that there are in turn, also for one role of several
        return names[(turn + turn // len(ROLES)) % len(names)]


def _number(value: float, name: str) -> float:
    if _AMOUNTS.fullmatch(name):
        return value if abs(value) < _LEAST else round(min(max(value, -1), 500), 6)
    return int(value) if float(value).is_integer() else value  # 1.0 is whole to a schema, not to the server


@contextmanager
def served() -> Iterator[Surface]:
    """Serve a world without rate limits and lockouts, in which something of every kind is there."""
    settings = replace(
        embedded_settings(),
        rate_limits=dict.fromkeys(LIMITS, _PLENTY),
        lockout_threshold=1_000_000,
        max_active_tokens=1_000_000,
    )
    with SqliteStore(":memory:") as store:
        people(store)
        for number in range(4):
            store.write(partial(add_person, username=f"by-stander-{number}"))
        with ApiServer(store, settings=settings) as server:
            surface = Surface(store, server.url)
            _populate(surface)
            yield surface
            surface.session.close()


def _populate(surface: Surface) -> None:
    send = surface.send
    mine = []
    for role, name in _NAMES.items():
        surface.headers[role] = surface.log_in(name)
        mine.append(send(role, "GET", "/users/me")["id"])
    ann = mine[1]
    keys = [
        send("admin", "POST", "/providers", {"provider": provider, "api_key": API_KEY, "name": f"{provider}-{number}"})
        for provider in ("openai", "anthropic")
        for number in range(3)
    ]
    projects = [
        send("admin", "POST", "/projects", {"name": f"project {number}", "owner_id": ann}) for number in range(3)
    ]
    for project in projects:
        send("admin", "POST", f"/projects/{project['id']}/provider", {"provider_key_id": keys[0]["id"]})
    wish = {"owner_id": ann, "project_id": projects[0]["id"], "providers": [key["id"] for key in keys]}
    agents = [
        send("admin", "POST", "/agents", {**wish, "name": f"agent {number}", "budget": budget})
        for number, budget in enumerate((900, 100, 100, 100, 100))
    ]
    runner = agents[0]
    for agent in agents[1:3]:
        send("admin", "DELETE", f"/agents/{agent['id']}/ic-token")
    for user in send("admin", "GET", "/users?search=by-stander")["data"][:2]:
        send("admin", "PUT", f"/users/{user['id']}/suspend")
    surface.headers["agent"] = {"X-IC-Token": runner["ic_token"]["token"]}
    for number in range(3):
        send("user", "POST", "/budget/requests", _asking(agents[4 - number]["id"], 600 + number))
        send("user", "POST", "/api-tokens", {"name": f"token {number}", "agent_id": agents[1]["id"]})
        send(
            "admin",
            "POST",
            "/limits",
            {"user_id": ann, "project_id": projects[number]["id"], "max_tokens_per_day": 10**9},
        )
        lease = send("agent", "POST", "/budget/handshake", {"requested_budget": 20})["lease_id"]
        call = {"lease_id": lease, "request_id": f"told-{number}", "model": "gpt-4o", "provider": "openai"}
        send("agent", "POST", "/budget/report", {**call, "cost_usd": 1.5, "tokens": 10})
        send("agent", "POST", "/budget/reserve", {"lease_id": lease, "request_id": f"next-{number}", "amount": 0.5})
    token = send("user", "POST", "/api-tokens", {"name": "the caller's", "project_id": projects[0]["id"]})
    surface.headers["token"] = {"X-API-Token": token["token"]}
    for path in ("/users", "/traces", "/audit-logs", "/budget/requests"):
        send("admin", "GET", path)
    surface.forget(*mine, runner["id"], token["id"])


def _asking(agent_id: str, budget: float) -> dict[str, object]:
    return {"agent_id": agent_id, "requested_budget": budget, "justification": "the nights become longer and colder"}
