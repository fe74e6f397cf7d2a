"""The live feed's dialogue: what a client says, what the clock does, and how a connection ends."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from ironcage_core.domain.access import Principal
from ironcage_core.domain.sessions import DEFAULT_SESSION_POLICY, access_claims, revoked, rotated
from ironcage_core.errors.access import InvalidTokenError
from ironcage_core.errors.faults import StorageError
from ironcage_core.errors.tree import IroncageError, UnavailableError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.ic_tokens import regenerate_ic_token
from ironcage_storage.sealed.tokens import IcTokenSigner
from tests.support.sockets import Client, Feed, ids_in_feed
from tests.support.web import alter
from tests.support.world import ADMIN

pytestmark = pytest.mark.anyio


async def test_a_ping_is_answered(feed: Feed) -> None:
    """With its id, if it has one, in any case of the type."""
    client = await feed.listening(feed.session("ann"))
    for message in ({"type": "PING"}, {"type": "ping", "id": "a"}, {"type": "PING", "id": 7}):
        client.say(message)
    await client.next("PONG", count=3)

    assert [each.get("id") for each in client.of("PONG")] == [None, "a", 7]
    assert "id" not in client.of("PONG")[0]


async def test_a_filter_is_replaced(feed: Feed) -> None:
    """By SUBSCRIBE as a whole; without one, everything visible comes; UNSUBSCRIBE stops all but heartbeats."""
    agent_id, _ = feed.agent()
    client = await feed.listening(feed.session("ann"))
    client.say({"type": "SUBSCRIBE", "filters": {"events": ["router_started"]}})
    assert (await client.next("SUBSCRIBED"))["filters"] == {"events": ["router_started"]}
    feed.publish(agent_id, "tool_invocation")
    feed.publish(agent_id, "router_started", port=1)
    await feed.settled()
    client.say({"type": "UNSUBSCRIBE"})
    await client.next("SUBSCRIBED", count=2)
    feed.publish(agent_id, "router_stopped", total_requests=1)
    await feed.settled()
    feed.pass_s(30)
    await client.next("HEARTBEAT")
    client.say({"type": "SUBSCRIBE"})
    await client.next("SUBSCRIBED", count=3)
    feed.publish(agent_id, "tool_invocation")

    await client.until(lambda: len(client.events) == 2)
    assert client.names == ["router_started", "tool_invocation"]


async def test_a_filter_widens_nothing(feed: Feed) -> None:
    """One that names another's agent is silently empty."""
    mine, _ = feed.agent()
    others, _ = feed.agent("vera")
    client = await feed.listening(feed.session("ann"))
    client.say({"type": "SUBSCRIBE", "filters": {"agent_ids": [others]}})
    await client.next("SUBSCRIBED")
    feed.publish(others)
    feed.publish(mine)
    await feed.settled()
    client.say({"type": "SUBSCRIBE"})
    await client.next("SUBSCRIBED", count=2)
    feed.publish(mine)
    await client.until(lambda: bool(client.events))

    assert [each["agent_id"] for each in client.events] == [mine]


@pytest.mark.parametrize(
    "message",
    [
        "rubbish", "[]", "5", "null", '{"type":"PING",}', {"type": "DANCE"}, {"type": None}, {"type": 5}, {},
        {"type": "SUBSCRIBE", "filters": 5}, {"type": "SUBSCRIBE", "filters": {"types": ["X"]}},
        {"type": "PING", "id": {}}, {"type": "PING", "id": True}, {"type": "RESUME"},
        {"type": "RESUME", "last_event_id": 5}, {"type": "RESUME", "last_event_id": ""},
        {"type": "RESUME", "last_event_id": "x" * 101}, {"type": "AUTH", "token": "x", "last_event_id": "x" * 101},
        "[" * 5000, '"\\ud800"',
    ],
)  # fmt: skip
async def test_what_cannot_be_understood_is_told(feed: Feed, message: object) -> None:
    """And the connection stays."""
    client = await feed.listening(feed.session("ann"))
    client.say(message)

    assert (await client.next("ERROR"))["code"] == "INVALID_MESSAGE"
    client.say({"type": "PING"})
    await client.next("PONG")


async def test_the_fifth_bad_message_within_a_minute_is_4400(feed: Feed) -> None:
    """Five that are spread over more are borne."""
    client = await feed.listening(feed.session("ann"))
    for count in range(1, 10):
        client.say("rubbish")
        await client.next("ERROR", count=count)
        await stay(feed, client, 15.1)
        client.say({"type": "PING"})
        await client.next("PONG", count=count)
    await stay(feed, client, 60)
    for _ in range(5):
        client.say("rubbish")

    assert await client.closed() == 4400
    assert len(client.of("ERROR")) == 14


async def test_too_large_a_message_is_1009(feed: Feed) -> None:
    """Over 16 KiB in bytes; before a client has said who it is as well."""
    client = await feed.listening(feed.session("ann"))
    client.say('{"type":"PING"' + " " * (16_384 - 15) + "}")
    await client.next("PONG")
    client.say('{"type":"PING","id":"' + "ü" * 8200 + '"}')

    assert await client.closed() == 1009
    silent = await feed.connect()
    silent.say("x" * 16_385)
    assert await silent.closed() == 1009


async def test_a_binary_message_is_1003(feed: Feed) -> None:
    """Whatever is in it."""
    client = await feed.listening(feed.session("ann"))
    client.say_bytes(b'{"type":"PING"}')

    assert await client.closed() == 1003


async def test_more_than_twenty_messages_a_second_are_4429(feed: Feed) -> None:
    """Twenty are answered; a second later there are twenty more."""
    client = await feed.listening(feed.session("ann"))
    for _ in range(20):
        client.say({"type": "PING"})
    await client.next("PONG", count=20)
    feed.pass_s(1)
    for _ in range(20):
        client.say({"type": "PING"})
    await client.next("PONG", count=40)
    client.say({"type": "PING"})

    assert await client.closed() == 4429


async def test_heartbeats_come_every_thirty_seconds_with_a_ping(feed: Feed) -> None:
    """To everybody, whatever the filter; they have no id."""
    client = await feed.listening(feed.session("ann"))
    link = client.link
    assert link is not None
    feed.pass_s(29.5)
    assert link.pings == 0
    feed.pass_s(0.6)
    await client.next("HEARTBEAT")
    link.heard_at = feed.seconds[0]
    feed.pass_s(30)

    heartbeat = await client.next("HEARTBEAT", count=2)
    assert heartbeat.keys() == {"type", "timestamp"}
    assert link.pings == 2


async def test_a_client_that_is_not_heard_of_for_a_minute_is_4408(feed: Feed) -> None:
    """A pong counts, and so does a message; where the server tells of no pongs, messages alone."""
    ponging = await feed.listening(feed.session("ann"))
    talking = await feed.listening(feed.session("ann"), has_link=False)
    silent = await feed.listening(feed.session("ann"))
    feed.pass_s(59)
    assert ponging.link is not None
    ponging.link.heard_at = feed.seconds[0]
    talking.say({"type": "PING"})
    await talking.next("PONG")
    feed.pass_s(1.1)

    assert await silent.closed() == 4408
    assert ponging.close_code is None
    assert talking.close_code is None


async def test_a_session_is_warned_and_ends_with_its_token(feed: Feed) -> None:
    """A minute before, once; then the close."""
    client = await feed.listening(feed.session("ann"))
    at_end = DEFAULT_SESSION_POLICY.access_ttl // 1000
    await stay(feed, client, at_end - 61)
    assert client.of("AUTH_EXPIRING") == []
    await stay(feed, client, 1)
    assert (await client.next("AUTH_EXPIRING"))["expires_in"] == 60
    await stay(feed, client, 59)
    client.say({"type": "PING"})
    await client.next("PONG")
    assert len(client.of("AUTH_EXPIRING")) == 1
    feed.pass_s(1)

    assert await client.closed() == 4401


async def stay(feed: Feed, client: Client, seconds: float) -> None:
    """Let time pass for a client that answers pings."""
    assert client.link is not None
    client.link.heard_at = feed.seconds[0] + seconds
    feed.pass_s(seconds)


async def test_a_fresh_token_extends_the_connection(feed: Feed) -> None:
    """Also one that a refresh gave, which ends the old one: the connection goes on meanwhile."""
    token, session_id = feed.login("ann")
    client = await feed.listening(token)
    await stay(feed, client, 850)
    await client.next("AUTH_EXPIRING")
    fresh = refreshed(feed, session_id)
    await feed.hub.check_credentials()
    assert client.close_code is None
    client.say({"type": "AUTH", "token": fresh})
    await client.next("WELCOME", count=2)
    await stay(feed, client, 100)
    await feed.hub.check_credentials()
    assert client.close_code is None
    await stay(feed, client, 741)
    await client.next("AUTH_EXPIRING", count=2)
    await stay(feed, client, 60)

    assert await client.closed() == 4401


def refreshed(feed: Feed, session_id: str) -> str:
    """Refresh a session and return its new access token."""

    def use_case(uow: UnitOfWork) -> str:
        session = uow.sessions.find(session_id)
        assert session is not None
        fresh = rotated(session, "0" * 64, now=uow.now, policy=DEFAULT_SESSION_POLICY)
        uow.sessions.put(fresh)
        claims = access_claims(fresh, email="ann@test.io", role="user", now=uow.now, policy=DEFAULT_SESSION_POLICY)
        return feed.wiring.access_signer.sign(claims)

    return feed.store.write(use_case)


async def test_events_go_on_over_a_new_auth(feed: Feed) -> None:
    """None is lost, none comes twice, and the filter stays."""
    agent_id, _ = feed.agent()
    token = feed.session("ann")
    client = await feed.listening(token)
    for number in range(20):
        feed.publish(agent_id, tool=f"t{number}")
        if number == 10:
            client.say({"type": "AUTH", "token": token})
    await client.until(lambda: len(client.events) >= 20)

    assert [each["data"]["tool"] for each in client.events] == [f"t{number}" for number in range(20)]


async def test_a_filter_stays_over_a_new_auth_that_brings_none(feed: Feed) -> None:
    """And is replaced by one that does."""
    agent_id, _ = feed.agent()
    token = feed.session("ann")
    client = await feed.listening(token)
    client.say({"type": "SUBSCRIBE", "filters": {"events": ["router_started"]}})
    client.say({"type": "AUTH", "token": token})
    assert (await client.next("WELCOME", count=2))["filters"] == {"events": ["router_started"]}
    feed.publish(agent_id, "tool_invocation")
    feed.publish(agent_id, "router_started", port=1)
    await client.until(lambda: bool(client.events))
    client.say({"type": "AUTH", "token": token, "filters": {"events": ["tool_invocation"]}})
    assert (await client.next("WELCOME", count=3))["filters"] == {"events": ["tool_invocation"]}
    feed.publish(agent_id, "router_started", port=1)
    feed.publish(agent_id, "tool_invocation")
    await client.until(lambda: len(client.events) == 2)

    assert client.names == ["router_started", "tool_invocation"]


async def test_a_new_auth_may_name_a_place(feed: Feed) -> None:
    """Everything later comes again, then what is new."""
    agent_id, _ = feed.agent()
    token = feed.session("ann")
    client = await feed.listening(token)
    feed.publish_many(agent_id, 4)
    await client.until(lambda: len(client.events) == 4)
    client.say({"type": "AUTH", "token": token, "last_event_id": client.events[1]["event_id"]})
    await client.until(lambda: len(client.events) == 6)
    feed.publish(agent_id, tool="new")
    await client.until(lambda: len(client.events) == 7)

    assert client.of("WELCOME")[1]["resumed"] is True
    assert [each["data"]["tool"] for each in client.events] == ["t0", "t1", "t2", "t3", "t2", "t3", "new"]


async def test_the_token_of_somebody_else_ends_the_connection(feed: Feed) -> None:
    """A good one is 4403, a bad one 4401."""
    for token, code in ((feed.session("vera"), 4403), ("rubbish", 4401)):
        client = await feed.listening(feed.session("ann"))
        client.say({"type": "AUTH", "token": token})

        assert await client.closed() == code
        assert client.of("ERROR")


def end_session(uow: UnitOfWork, session_id: str) -> None:
    session = uow.sessions.find(session_id)
    assert session is not None
    uow.sessions.put(revoked(session, "logout", now=uow.now))


CHANGES: dict[str, Callable[[Feed, str], None]] = {
    "logout": lambda feed, session_id: feed.store.write(partial(end_session, session_id=session_id)),
    "suspension": lambda feed, _: alter(feed.store, "ann", status="suspended", suspended_at=feed.clock.now()),
    "deletion": lambda feed, _: alter(feed.store, "ann", status="deleted", deleted_at=feed.clock.now()),
    "promotion": lambda feed, _: alter(feed.store, "ann", role="admin"),
    "demotion": lambda feed, _: alter(feed.store, "ann", role="viewer"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_the_end_of_a_session_is_4401(feed: Feed, change: str) -> None:
    """Whatever ends it, and a change of role; others stay."""
    token, session_id = feed.login("ann")
    client = await feed.listening(token)
    other = await feed.listening(feed.session("vera"))
    await feed.hub.check_credentials()
    assert client.close_code is None
    CHANGES[change](feed, session_id)
    await feed.hub.check_credentials()

    assert await client.closed() == 4401
    assert other.close_code is None


async def test_the_check_comes_by_itself(feed: Feed) -> None:
    """Within five seconds."""
    client = await feed.listening(feed.session("ann"))
    alter(feed.store, "ann", status="suspended", suspended_at=feed.clock.now())

    assert await client.closed() == 4401


@pytest.mark.parametrize("column", ["revoked_at", "rotated_at", "expires_at", "is_active", "scopes", "agent_id"])
async def test_the_end_of_an_api_token_ends_its_connection(feed: Feed, column: str) -> None:
    """Revoked, rotated, over, switched off: 4401; without its scope 4403; bound to something else: 4401."""
    token = feed.api_token()
    client = await feed.listening(token)
    now = feed.clock.now()
    changes: dict[str, dict[str, object]] = {
        "revoked_at": {"revoked_at": now, "revoked_by": ADMIN.id},
        "rotated_at": {"rotated_at": now, "replaced_by": "tok_" + "0" * 32},
        "expires_at": {"expires_at": now},
        "is_active": {"is_active": 0},
        "scopes": {"scopes": "usage:read"},
        "agent_id": {"agent_id": feed.agent()[0]},
    }

    def use_case(uow: UnitOfWork) -> None:
        found = uow.api_tokens.find_by_hash(feed.wiring.api_token_hash(token) or "")
        assert found is not None
        uow.api_tokens.put(found._replace(**changes[column]))  # type: ignore[arg-type]  # as the table says

    feed.store.write(use_case)
    await feed.hub.check_credentials()

    assert await client.closed() == (4403 if column == "scopes" else 4401)


async def test_a_password_that_must_be_changed_ends_the_connection(feed: Feed) -> None:
    """Its session holds, but for nothing else any more."""
    client = await feed.listening(feed.session("ann"))
    alter(feed.store, "ann", force_password_change=1)
    await feed.hub.check_credentials()

    assert await client.closed() == 4403


async def test_what_was_found_of_an_old_token_does_not_end_the_connection_of_a_fresh_one(feed: Feed) -> None:
    """Which came while it was looked at."""
    client = await feed.listening(feed.session("ann"))
    (connection,) = feed.hub.registry.connections.values()
    fresh = connection.subscriber
    assert fresh is not None

    def replaced(_: UnitOfWork) -> Principal:
        connection.subscriber = fresh
        raise InvalidTokenError

    connection.subscriber = replace(fresh, prove=replaced)
    await feed.hub.check_credentials()
    client.say({"type": "PING"})

    await client.next("PONG")
    assert client.close_code is None


async def test_an_api_token_ends_at_its_time(feed: Feed) -> None:
    """By the clock, with a warning before."""
    client = await feed.listening(feed.api_token(expires_at=feed.clock.now() + 90_000))
    await stay(feed, client, 35)
    assert (await client.next("AUTH_EXPIRING"))["expires_in"] == 55
    await stay(feed, client, 55)

    assert await client.closed() == 4401


async def test_an_ic_token_ends_at_its_time(feed: Feed) -> None:
    """By the clock, with a warning before."""
    agent_id, _ = feed.agent()
    signer = IcTokenSigner(feed.wiring.settings.ic_token_secret)
    end = feed.clock.now() + 90_000
    issued = feed.store.write(
        partial(regenerate_ic_token, agent_id=agent_id, expires_at=end, actor=ADMIN, signer=signer)
    )
    client = await feed.listening(issued.value)
    await stay(feed, client, 35)
    assert (await client.next("AUTH_EXPIRING"))["expires_in"] == 55
    await stay(feed, client, 55)

    assert await client.closed() == 4401


@pytest.mark.parametrize("overlap_s", [0, 60])
async def test_the_end_of_an_ic_token_value_is_4401(feed: Feed, overlap_s: int) -> None:
    """When it is replaced, after its overlap if there is one."""
    agent_id, ic_token = feed.agent()
    client = await feed.listening(ic_token)
    signer = IcTokenSigner(feed.wiring.settings.ic_token_secret)
    feed.store.write(partial(regenerate_ic_token, agent_id=agent_id, overlap_s=overlap_s, actor=ADMIN, signer=signer))
    await feed.hub.check_credentials()
    if overlap_s:
        await stay(feed, client, overlap_s - 1)
        await feed.hub.check_credentials()
        assert client.close_code is None
        await stay(feed, client, 1)
        await feed.hub.check_credentials()

    assert await client.closed() == 4401


async def test_the_end_of_the_server_is_1012(feed: Feed) -> None:
    """For those who have said who they are, and those who have not."""
    clients = [await feed.listening(feed.session("ann")), await feed.connect()]
    await feed.hub._close_all()

    assert [await client.closed() for client in clients] == [1012, 1012]
    assert feed.hub.registry.connections == {}


async def test_a_client_that_takes_nothing_does_not_keep_its_connection(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut when it does not even take the close."""
    monkeypatch.setattr("ironcage_http.feed_connection.CLOSE_S", 0.05)
    client = await feed.listening(feed.session("ann"))
    client.stall()
    client.say_bytes(b"")
    await client.ended()

    assert client.link is not None
    assert client.link.is_aborted
    assert feed.hub.registry.connections == {}


async def test_a_fault_of_ours_is_1011(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes into the log, not to the client."""
    client = await feed.listening(feed.session("ann"))

    def broken(_: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("ironcage_http.feed_dialogue.filter_of", broken)
    client.say({"type": "SUBSCRIBE"})

    assert await client.closed() == 1011
    assert "secret" not in str(client.messages)


@pytest.mark.parametrize("fault", [StorageError("a secret detail"), UnavailableError("a secret detail")])
async def test_a_fault_of_ours_at_a_first_message_is_1011(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, fault: IroncageError
) -> None:
    """The credential may be good: a client that is told otherwise would not come back with it."""

    def broken(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("ironcage_http.feed_sockets._entry", broken)
    client = await feed.connect()
    client.say({"type": "AUTH", "token": feed.session("ann")})

    assert await client.closed() == 1011
    assert [each["code"] for each in client.of("ERROR")] == ["INTERNAL_ERROR"]
    assert "secret" not in str(client.messages)


async def test_a_log_that_cannot_be_read_is_1011(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is catching up with it would miss something, and comes again."""
    agent_id, _ = feed.agent()
    start = ids_in_feed(feed.store)[-1]
    feed.publish(agent_id)

    async def broken(_: int) -> None:
        raise StorageError("a secret detail")

    monkeypatch.setattr(feed.hub, "tail", broken)
    client = await feed.connect(feed.session("ann"), query=f"last_event_id={start}")

    assert await client.closed() == 1011
    assert feed.hub.registry.connections == {}


async def test_only_clients_that_are_too_slow_are_counted_as_slow(feed: Feed) -> None:
    """No other end is one of those."""
    client = await feed.listening(feed.session("ann"))
    client.say_bytes(b"")
    await client.closed()

    assert "ironcage_feed_slow_consumers_total 0.0" in feed.wiring.metrics.exposition().decode()


async def test_metrics_tell_of_sockets(feed: Feed) -> None:
    """How many are open, and how many messages went out, at once or not."""
    agent_id, _ = feed.agent()
    client = await feed.listening(feed.session("ann"))
    shown = feed.wiring.metrics.exposition().decode()
    assert "ironcage_feed_connections 1.0" in shown
    assert "ironcage_feed_messages_total 1.0" in shown
    feed.publish_many(agent_id, 3)
    await client.until(lambda: len(client.events) == 3)
    assert "ironcage_feed_messages_total 4.0" in feed.wiring.metrics.exposition().decode()
    await client.leave()

    assert "ironcage_feed_connections 0.0" in feed.wiring.metrics.exposition().decode()
