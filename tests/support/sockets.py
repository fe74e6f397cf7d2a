"""WebSockets in a test: clients of the live feed over plain ASGI, with a clock that is moved by hand."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ironcage_core.domain.access import principal_of
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.sessions import DEFAULT_SESSION_POLICY, access_claims, opened
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agents import create_agent
from ironcage_core.services.api_tokens import Minting, create_api_token
from ironcage_http.app import wire
from ironcage_http.edge import Edge
from ironcage_http.feed_hub import FeedHub
from ironcage_http.feed_sockets import FeedSockets
from ironcage_http.server import embedded_settings
from ironcage_http.settings import Settings
from ironcage_http.wiring import Wiring
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.web import people
from tests.support.world import ADMIN, USD, SetClock

WAIT_S = 5.0


class Link:
    """What a server tells of a socket beyond ASGI."""

    unsent_bytes = 0

    client: "Client"

    def __init__(self, now_s: float) -> None:
        self.heard_at = now_s
        self.pings = 0
        self.is_aborted = False

    @property
    def can_write(self) -> bool:
        return self.client.may_read.is_set()

    def write(self, frames: bytes) -> None:
        self.client.messages += [json.loads(text) for text in texts_of(frames)]
        self.client.changed.set()

    def ping(self) -> None:
        self.pings += 1

    def abort(self) -> None:
        self.is_aborted = True


def texts_of(frames: bytes) -> list[bytes]:
    """Return the texts of unmasked frames, as a client takes them apart (RFC 6455, section 5.2)."""
    texts = []
    while frames:
        assert frames[0] == 0x81
        width = {126: 2, 127: 8}.get(frames[1], 0)
        length = int.from_bytes(frames[2 : 2 + width]) if width else frames[1]
        texts.append(frames[2 + width : 2 + width + length])
        frames = frames[2 + width + length :]
    return texts


@dataclass
class Client:
    """One client; it reads as fast as it can until `stall`."""

    scope: dict[str, Any]
    link: Link | None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    subprotocol: str | None = None
    close_code: int | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.changed = asyncio.Event()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.task: asyncio.Task[None] | None = None
        if self.link is not None:
            self.link.client = self

    async def receive(self) -> dict[str, Any]:
        return await self.incoming.get()

    async def send(self, message: dict[str, Any]) -> None:
        await self.may_read.wait()
        kind = message["type"]
        if kind == "websocket.accept":
            self.status, self.subprotocol = 101, message.get("subprotocol")
        elif kind == "websocket.send":
            self.messages.append(json.loads(message["text"]))
        elif kind == "websocket.close":
            self.close_code = message["code"]
            assert len(message.get("reason", "").encode()) <= 123
            self.incoming.put_nowait({"type": "websocket.disconnect", "code": message["code"]})
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        elif message["body"]:
            self.body = json.loads(message["body"])
        self.changed.set()

    def stall(self) -> None:
        """Read no more."""
        self.may_read.clear()

    def read_on(self) -> None:
        """Read again."""
        self.may_read.set()

    def say(self, message: object) -> None:
        """Send a message; what is no text goes as JSON."""
        text = message if isinstance(message, str) else json.dumps(message)
        self.incoming.put_nowait({"type": "websocket.receive", "text": text, "bytes": None})

    def say_bytes(self, message: bytes) -> None:
        """Send a binary message."""
        self.incoming.put_nowait({"type": "websocket.receive", "bytes": message})

    async def leave(self) -> None:
        """Go away."""
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.ended()

    async def ended(self) -> None:
        """Wait until the server is done with the connection."""
        assert self.task is not None
        await asyncio.wait_for(asyncio.shield(self.task), WAIT_S)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so, which only what is sent can bring about."""
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()

    async def next(self, kind: str, *, count: int = 1) -> dict[str, Any]:
        """Wait for the so-manieth message of a type and return it."""
        await self.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    async def closed(self) -> int:
        """Wait for the close and return its code."""
        await self.until(lambda: self.close_code is not None)
        await self.ended()
        assert self.close_code is not None
        return self.close_code

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the messages of a type so far."""
        return [each for each in self.messages if each["type"] == kind]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events so far."""
        return [each for each in self.messages if "event_id" in each]

    @property
    def names(self) -> list[str]:
        """The names of the events so far."""
        return [each.get("event") or each.get("state") or each["severity"] for each in self.events]


@dataclass
class Feed:
    """An app with sockets, whose clocks are moved by hand."""

    store: SqliteStore
    wiring: Wiring
    clock: SetClock
    hub: FeedHub
    app: Edge
    seconds: list[float]
    clients: list[Client] = field(default_factory=list)

    def pass_s(self, seconds: float) -> None:
        """Let time pass, on the clock and in the loop, and do what is due."""
        self.clock.pass_s(seconds)
        self.seconds[0] += seconds
        self.hub.tick()

    async def connect(
        self,
        token: str | None = None,
        *,
        path: str = "/ws",
        query: str = "",
        headers: Mapping[str, str] | None = None,
        protocols: list[str] | None = None,
        has_link: bool = True,
    ) -> Client:
        """Open a connection and wait for the answer to the handshake."""
        given = {"host": "test", **(headers or {})}
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        link = Link(self.seconds[0]) if has_link else None
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "subprotocols": protocols or [],
            "client": ("127.0.0.1", 1),
            "extensions": {"websocket.http.response": {}, **({"ironcage.link": link} if has_link else {})},
        }
        client = Client(scope, link)
        app: Any = self.app
        client.task = asyncio.create_task(app(scope, client.receive, client.send))
        self.clients.append(client)
        await client.until(lambda: client.status is not None)
        if client.status != 101:
            await client.ended()
        return client

    async def listening(self, token: str, **options: Any) -> Client:  # noqa: ANN401 - as `connect` takes them
        """Open a connection that is let in and is live."""
        client = await self.connect(token, **options)
        assert client.status == 101, client.body
        await client.next("WELCOME")
        await self.live(client)
        return client

    async def live(self, client: Client) -> None:
        """Wait until a client has caught up."""
        connection = self.hub.registry.connections[client.messages[0]["connection_id"]]
        async with asyncio.timeout(WAIT_S):
            while not connection.is_live or connection._is_behind:  # noqa: ASYNC110 - nothing is sent then
                await asyncio.sleep(0.001)

    async def settled(self) -> None:
        """Wait until everything published was passed on."""
        newest = self.store.read(lambda uow: uow.feed.newest())
        async with asyncio.timeout(WAIT_S):
            while newest is not None and self.hub.position < newest[0]:  # noqa: ASYNC110 - nothing is sent then
                await asyncio.sleep(0.001)

    def session(self, username: str) -> str:
        """Log a user in and return the access token."""
        return self.login(username)[0]

    def login(self, username: str) -> tuple[str, str]:
        """Log a user in and return the access token and the session's id."""

        def use_case(uow: UnitOfWork) -> tuple[str, str]:
            user = uow.users.find_by_username(username)
            assert user is not None
            secret = f"rt_{uow.new_id('sess')}"
            signer = self.wiring.access_signer
            session = opened(
                uow.new_id("sess"), user.id, signer.digest(secret), now=uow.now, policy=DEFAULT_SESSION_POLICY
            )
            uow.sessions.put(session)
            claims = access_claims(
                session, email=user.email, role=user.role, now=uow.now, policy=DEFAULT_SESSION_POLICY
            )
            return signer.sign(claims), session.id

        return self.store.write(use_case)

    def api_token(self, username: str = "ann", **columns: object) -> str:
        """Make an API token of a user and return its value."""

        def use_case(uow: UnitOfWork) -> str:
            user = uow.users.find_by_username(username)
            assert user is not None
            minting = Minting(self.wiring.new_api_token, self.wiring.api_token_hash)
            made = create_api_token(uow, principal_of(user, "sess"), {"name": "bot"}, most=None, minting=minting)
            uow.api_tokens.put(made.record._replace(**columns))  # type: ignore[arg-type]  # as the test says
            return made.value

        return self.store.write(use_case)

    def agent(self, owner: str = "ann", project_id: str | None = None) -> tuple[str, str]:
        """Make an agent; return its id and its token."""

        def use_case(uow: UnitOfWork) -> tuple[str, str]:
            user = uow.users.find_by_username(owner)
            assert user is not None
            signer = IcTokenSigner(self.wiring.settings.ic_token_secret)
            made = create_agent(
                uow, name=uow.new_id("evt"), budget=100 * USD, owner_id=user.id, actor=ADMIN, signer=signer
            )
            if project_id is not None:
                agent = uow.agents.find(made.agent.id)
                assert agent is not None
                uow.agents.put(agent._replace(project_id=project_id))
            return made.agent.id, made.ic_token.value

        return self.store.write(use_case)

    def publish(self, agent_id: str | None, name: str = "tool_invocation", **data: object) -> None:
        """Publish an event of an agent."""
        self.store.write(partial(publish, agent_id=agent_id, name=name, data=data or {"tool": "search"}))

    def publish_many(self, agent_id: str, count: int) -> None:
        """Publish events in one commit, numbered from 0."""

        def use_case(uow: UnitOfWork) -> None:
            for number in range(count):
                publish(uow, agent_id=agent_id, name="tool_invocation", data={"tool": f"t{number}"})

        self.store.write(use_case)


def publish(uow: UnitOfWork, *, agent_id: str | None, name: str, data: Mapping[str, object]) -> None:
    """Publish an event."""
    uow.feed.append("AGENT_EVENT", agent_id=agent_id, name=name, data=data)


def ids_in_feed(store: SqliteStore) -> list[str]:
    """Return the ids of all events of agents that are in the feed, in order."""
    return [event.id for event in store.read(lambda uow: uow.feed.after(0, 100_000)) if is_id(event.id, "evt")]


@asynccontextmanager
async def feeding(store: SqliteStore, clock: SetClock, settings: Settings | None = None) -> AsyncIterator[Feed]:
    """Yield the live feed of an app over a store with the usual people; its clocks stand still."""
    people(store)
    wiring = replace(wire(store, settings or embedded_settings()), clock=clock)
    seconds = [1000.0]
    hub = FeedHub(
        store,
        clock,
        count_sent=wiring.metrics.count_feed_messages,
        count_slow=wiring.metrics.count_slow_consumer,
        seconds=lambda: seconds[0],
    )
    wiring.metrics.watch_feed(lambda: len(hub.registry.connections))
    app = Edge(
        _no_http,
        FeedSockets(wiring, hub),
        origins=wiring.settings.allowed_origins,
        is_production=False,
        metrics=wiring.metrics,
    )
    feed = Feed(store, wiring, clock, hub, app, seconds)
    async with hub.running():
        yield feed
    await asyncio.gather(*(client.task for client in feed.clients if client.task is not None))


async def _no_http(*_: object) -> None:
    raise NotImplementedError
