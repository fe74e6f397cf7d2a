"""The live feed over a real server: what only real sockets show."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agents import create_agent
from ironcage_http import protocols
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.sockets import publish
from tests.support.web import PASSWORD, people
from tests.support.world import ADMIN, USD

pytestmark = pytest.mark.anyio


class Served:
    """A server, an agent of ann's on it, and ann's token."""

    def __init__(self, store: SqliteStore, server: ApiServer, agent_id: str) -> None:
        self.store, self.server, self.agent_id = store, server, agent_id
        login = {"username": "ann", "password": PASSWORD}
        self.token = str(httpx.post(f"{server.url}/api/v1/auth/login", json=login).json()["access_token"])

    @property
    def url(self) -> str:
        return self.server.url.replace("http", "ws") + "/ws"

    def connect(self, query: str = "", **options: Any) -> connect:  # noqa: ANN401 - as websockets takes them
        options.setdefault("additional_headers", {"Authorization": f"Bearer {self.token}"})
        return connect(self.url + query, **options)

    def publish(self, count: int, tool: str = "search") -> None:
        def use_case(uow: UnitOfWork) -> None:
            for _ in range(count):
                publish(uow, agent_id=self.agent_id, name="tool_invocation", data={"tool": tool})

        self.store.write(use_case)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server on a file."""
    settings = embedded_settings()
    with SqliteStore(tmp_path / "a.db") as store:
        people(store)
        owner = store.read(lambda uow: uow.users.find_by_username("ann"))
        assert owner is not None
        signer = IcTokenSigner(settings.ic_token_secret)
        made = store.write(
            partial(create_agent, name="worker", budget=USD, owner_id=owner.id, actor=ADMIN, signer=signer)
        )
        with ApiServer(store, settings=settings) as server:
            yield Served(store, server, made.agent.id)


async def _read_on(socket: ClientConnection) -> None:
    while True:
        await socket.recv()


async def heard(socket: ClientConnection) -> dict[str, Any]:
    """Return the next message."""
    async with asyncio.timeout(10):
        message: dict[str, Any] = json.loads(await socket.recv())
        return message


async def test_events_come_over_a_socket(served: Served) -> None:
    """Soon after their commit, in order."""
    async with served.connect() as socket:
        assert (await heard(socket))["type"] == "WELCOME"
        start = time.perf_counter()
        served.publish(3)
        events = [await heard(socket) for _ in range(3)]

    assert time.perf_counter() - start < 2
    ids = [each["event_id"] for each in events]
    assert ids == sorted(ids)


async def test_refusals_are_http_answers(served: Served) -> None:
    """With the headers and the body of every refusal."""
    with pytest.raises(InvalidStatus) as caught:
        await served.connect(additional_headers={"Authorization": "Bearer rubbish", "X-Request-Id": "mine"})

    response = caught.value.response
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["X-Request-Id"] == "mine"
    assert json.loads(response.body)["code"] == "AUTH_INVALID_TOKEN"


async def test_a_browser_names_its_token_as_a_protocol(served: Served) -> None:
    """The server picks the protocol, never the token."""
    protocols = ["ironcage.v1", f"bearer.{served.token}"]
    async with served.connect(additional_headers={}, subprotocols=protocols) as socket:
        assert socket.subprotocol == "ironcage.v1"
        assert (await heard(socket))["principal"]["kind"] == "user"


async def test_limits_of_messages_close(served: Served) -> None:
    """By the server or before it, with one code each."""
    for message, code in ((b"binary", 1003), ("x" * 16_385, 1009), ("x" * 200_000, 1009)):
        async with served.connect() as socket:
            with contextlib.suppress(ConnectionClosed):
                await socket.send(message)
                async with asyncio.timeout(10):
                    while True:
                        await socket.recv()

        assert socket.close_code == code


async def test_what_clients_do_wrong_is_no_fault_in_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody fills it from outside: neither by a handshake that is refused nor by a text that is none."""
    for headers in ({"Authorization": "Bearer rubbish"}, {"Origin": "https://evil.test"}):
        with pytest.raises(InvalidStatus):
            await served.connect(additional_headers=headers)
    async with served.connect(additional_headers={}) as socket:
        await socket.send(b"\xc3", text=True)
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 10)
    await asyncio.to_thread(served.server.__exit__, None, None, None)

    assert socket.close_code == 1007
    assert caplog.messages == []


async def test_a_slow_client_is_closed_and_others_go_on(served: Served) -> None:
    """One that reads no more; nobody who writes or reads waits for it."""
    async with served.connect(compression=None) as good:
        await heard(good)
        slow = await served.connect(max_queue=1, compression=None)
        slow.transport.pause_reading()
        start = time.perf_counter()
        for _ in range(40):
            await asyncio.to_thread(served.publish, 200, "x" * 1000)
            for _ in range(200):
                await heard(good)
        spent = time.perf_counter() - start
        slow.transport.resume_reading()
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(_read_on(slow), 10)

    assert caught.value.rcvd is None or caught.value.rcvd.code == 4409
    assert spent < 30


async def test_the_end_of_the_server_is_1012(served: Served) -> None:
    """And a client that reads nothing does not hold it up."""
    socket = await served.connect()
    await heard(socket)
    stuck = await served.connect(max_queue=1)
    stuck.transport.pause_reading()
    start = time.perf_counter()
    await asyncio.to_thread(served.server.__exit__, None, None, None)
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(socket.recv(), 10)

    assert socket.close_code == 1012
    assert time.perf_counter() - start < 8
    stuck.transport.abort()


async def test_a_socket_may_be_quiet_for_longer_than_a_request_may_take(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time in which a request must arrive ends with the upgrade."""
    monkeypatch.setattr(protocols, "REQUEST_TIMEOUT_S", 0.3)
    async with served.connect() as socket:
        await heard(socket)
        await asyncio.sleep(0.8)
        await socket.send('{"type":"PING"}')
        answer = await heard(socket)

    assert answer["type"] == "PONG"
