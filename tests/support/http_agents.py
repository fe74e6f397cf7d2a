"""Agents over the wire: one app for a test module, and agents whose real tokens it accepts."""

import asyncio
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any

import httpx

from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import Micros
from ironcage_core.domain.providers import ProviderKey
from ironcage_core.domain.users import Role
from ironcage_core.services.key_lending import Sealing
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_http.app import create_app
from ironcage_http.settings import read_settings
from ironcage_storage.sealed.ip_tokens import IpTokenSealer
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.web import Answer, Caller, add_person, people
from tests.support.world import ADMIN, API_KEY, SIGNING_SECRET, USD, SetClock, TestAgent, World

JSON = {"Content-Type": "application/json"}
Books = tuple[Balance, int, list[Lease]]


@dataclass
class Stage(World):
    """A world behind an app; `ann` owns its agents, and every answer is searched for secrets."""

    known_secrets: set[str] = field(default_factory=lambda: {API_KEY})

    def __post_init__(self) -> None:
        people(self.store)
        self.sealing = Sealing(self.vault, IpTokenSealer())
        self.owner_id = self.user_id("ann")
        self.key_id = self.add_key("openai").id
        self.other_key_id = self.add_key("anthropic").id
        disabled = self.add_key("openai")
        self.store.write(lambda uow: uow.provider_keys.put(disabled._replace(is_enabled=0)))
        self.disabled_key_id = disabled.id
        self._sessions: dict[str, str] = {}

    def open(self, runner: asyncio.Runner, client: httpx.AsyncClient) -> None:
        """Say over what to call."""
        self._runner, self._client = runner, client

    def user_id(self, username: str) -> str:
        """Return the id of one of the usual users."""
        found = self.store.read(lambda uow: uow.users.find_by_username(username))
        assert found is not None
        return found.id

    def add_user(self, username: str, role: Role = "user") -> str:
        """Add another user with the usual password and return the id."""
        return self.store.write(partial(add_person, username=username, role=role)).id

    def add_key(self, provider: str) -> ProviderKey:
        """Add another provider key."""
        return self.store.write(
            partial(add_provider_key, provider=provider, api_key=API_KEY, actor=ADMIN, vault=self.vault)
        )

    def agent(self, budget: Micros = 100 * USD, owner_id: str = "", name: str = "") -> TestAgent:
        """Create an agent with the world's key; its token must never be shown."""
        agent = super().agent(budget, owner_id, name or f"worker-{secrets.token_hex(6)}")
        self.known_secrets.add(agent.token)
        return agent

    def send(self, method: str, path: str, body: object = None, **options: Any) -> Answer:  # noqa: ANN401 - as httpx takes them
        """Send a request; `token` goes as X-IC-Token, `user` as that user's session."""
        headers = dict(options.pop("headers", {}))
        if (token := options.pop("token", None)) is not None:
            headers["X-IC-Token"] = token
        if (user := options.pop("user", None)) is not None:
            headers["Authorization"] = f"Bearer {self.session(user)}"
        caller = Caller(self._client, self.store, headers)
        answer = self._runner.run(caller.send(method, path, body, **options))
        assert answer.status < 500 or answer.status == 503, answer.raw
        text = answer.raw.decode() + repr(answer.headers.raw)
        assert not [each for each in self.known_secrets if each in text], "a secret was shown"
        return answer

    def get(self, path: str, **options: Any) -> Answer:  # noqa: ANN401 - as httpx takes them
        return self.send("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> Answer:  # noqa: ANN401 - as httpx takes them
        return self.send("POST", path, body, **options)

    def session(self, username: str) -> str:
        """Return an access token of one of the usual users."""
        if username not in self._sessions:
            caller = Caller(self._client, self.store)
            logged_in = self._runner.run(caller.login(username))
            self._sessions[username] = logged_in.headers["Authorization"].removeprefix("Bearer ")
        return self._sessions[username]


@contextmanager
def stage(*, has_master_key: bool = True, **environment: str) -> Iterator[Stage]:
    """Yield a stage on a store in memory; the store's clock is moved by hand, the app's own is real.

    Args:
        has_master_key: Whether the app can open the provider keys; the world itself always can.
        environment: More of it.
    """
    key = MasterKey.generate()
    clock = SetClock(int(time.time()) * 1000)
    settings = read_settings(
        {
            "DATABASE_URL": "sqlite::memory:",
            "IRON_DEPLOYMENT_MODE": "development",
            "JWT_SECRET": secrets.token_urlsafe(48),
            "IC_TOKEN_SECRET": SIGNING_SECRET,
            "IRON_SECRETS_MASTER_KEY": key.to_base64(),
            **environment,
        }
    )
    if not has_master_key:
        settings = replace(settings, master_key=None)
    store = SqliteStore(":memory:", clock=clock)
    try:
        world = Stage(store, clock, vault=AesGcmVault(key))
        app: Any = create_app(store, settings)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        with asyncio.Runner() as runner:
            client = httpx.AsyncClient(transport=transport, base_url="http://test")
            world.open(runner, client)
            yield world
            runner.run(client.aclose())
    finally:
        store.close()


def books(agent: TestAgent) -> Books:
    """Return everything that money has done to an agent: its balance, how many ledger rows, its open leases."""
    leases = agent.world.store.read(lambda uow: list(uow.leases.open_of(agent.id)))
    return agent.balance(), len(agent.entries()), leases


def usd(text: str) -> Decimal:
    """Return an exact amount in USD."""
    return Decimal(text)


def shown_secrets(records: list[logging.LogRecord], known: set[str]) -> list[str]:
    """Return the log lines that hold a secret."""
    formatter = logging.Formatter()
    lines = [formatter.format(record) for record in records]
    return [line for line in lines if any(each in line for each in known)]
