"""An app in a test: bytes in, bytes out, on a real store and with real cryptography."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

import httpx

from ironcage_core.domain.users import Role, User
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user, first_admin
from ironcage_http.app import create_app
from ironcage_http.server import embedded_settings
from ironcage_http.settings import Settings
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.documented import check_documented
from tests.support.world import ADMIN

PASSWORD = "correct horse battery"
_HASHER = Argon2PasswordHasher(memory_kib=8, passes=1)
_HASH = _HASHER.hash(PASSWORD)
API_KEY = "sk-proj-0123456789abcdefghij"


@dataclass
class Answer:
    """One answer: its status, its headers and its body with exact decimals."""

    status: int
    headers: httpx.Headers
    body: Any
    raw: bytes = field(repr=False)

    @property
    def code(self) -> str:
        """The code of a refusal."""
        return str(self.body["code"])

    @property
    def fields(self) -> dict[str, str]:
        """The messages of bad fields."""
        fields: dict[str, str] = self.body["details"]["fields"]
        return fields


@dataclass
class Caller:
    """A client with the credentials it sends by default."""

    client: httpx.AsyncClient
    store: SqliteStore
    headers: dict[str, str] = field(default_factory=dict)

    def bearing(self, token: str) -> "Caller":
        """Return a caller with a bearer token."""
        return Caller(self.client, self.store, {"Authorization": f"Bearer {token}"})

    async def send(self, method: str, path: str, body: object = None, **options: Any) -> Answer:  # noqa: ANN401 - as httpx takes them
        """Send a request below /api/v1; a body that is not bytes goes as JSON."""
        headers = {**self.headers, **options.pop("headers", {})}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body, default=_plain).encode()
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        url = path if path.startswith(("/api/", "/metrics")) else f"/api/v1{path}"
        response = await self.client.request(method, url, content=body, headers=headers, **options)
        is_json = response.headers.get("content-type", "").startswith("application/json")
        decoded = json.loads(response.content, parse_float=Decimal) if is_json and response.content else None
        check_documented(method, url, response.status_code, decoded)
        return Answer(response.status_code, response.headers, decoded, response.content)

    async def get(self, path: str, **options: Any) -> Answer:  # noqa: ANN401 - as httpx takes them
        return await self.send("GET", path, **options)

    async def post(self, path: str, body: object = None, **options: Any) -> Answer:  # noqa: ANN401 - as httpx takes them
        return await self.send("POST", path, body, **options)

    async def login(self, username: str = "admin", password: str = PASSWORD) -> "Caller":
        """Log in and return a caller with the access token."""
        answer = await self.post("/auth/login", {"username": username, "password": password})
        assert answer.status == 200, answer.raw
        return self.bearing(answer.body["access_token"])


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(type(value).__name__)


@asynccontextmanager
async def serving(
    store: SqliteStore, settings: Settings | None = None, *, client_address: tuple[str, int] = ("127.0.0.1", 1234)
) -> AsyncIterator[Caller]:
    """Yield a caller without credentials of an app over this store, with an admin and two users to log in as.

    `admin`, `ann` (role user) and `vera` (role viewer) all have `PASSWORD`.
    """
    people(store)
    app: Any = create_app(store, settings or embedded_settings())
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=client_address)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield Caller(client, store)


def people(store: SqliteStore) -> None:
    """Add the usual users, unless they are there."""
    store.write(partial(first_admin, email="admin@test.io", username="admin", password_hash=_HASH, force_change=False))
    if store.read(lambda uow: uow.users.find_by_username("ann")) is None:
        store.write(partial(add_person, username="ann", role="user"))
        store.write(partial(add_person, username="vera", role="viewer"))


def add_person(uow: UnitOfWork, *, username: str, role: Role = "user") -> User:
    """Add a user with `PASSWORD`."""
    email = f"{username}@test.io"
    return add_user(uow, username=username, email=email, role=role, actor=ADMIN, password_hash=_HASH)


def alter(store: SqliteStore, username: str, **columns: object) -> None:
    """Change a user's row as an admin's call would."""

    def use_case(uow: UnitOfWork) -> None:
        user = uow.users.find_by_username(username)
        assert user is not None
        uow.users.put(user._replace(**columns))  # type: ignore[arg-type]  # as the test says

    store.write(use_case)
