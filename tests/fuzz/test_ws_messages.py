"""The live feed bears whatever is said on it: it answers or closes as documented, and goes on."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_http.answers import NoAnswerError
from ironcage_http.feed_watching import _message_of
from ironcage_storage.sqlite.store import SqliteStore
from tests.fuzz.alterations import altered, objects, values
from tests.fuzz.effort import examples
from tests.fuzz.refusals import assert_hides
from tests.support.sockets import Client, Feed, feeding
from tests.support.world import SetClock
from tests.support.ws_messages import CONTRACT, published

SECRET = "a-secret-that-nobody-may-be-told"
EVENT = f"evt_{'e' * 32}"
CLOSES = {1003, 1009, 4400, 4401, 4403, 4429}
"""What a client can bring about by what it says; 1011 would be a fault of ours."""

CODES = {"INVALID_MESSAGE", "AUTH_MISSING_TOKEN", "AUTH_INVALID_TOKEN", "AUTH_TOKEN_EXPIRED", "AUTH_WRONG_TOKEN_TYPE",
         "AUTH_AMBIGUOUS_CREDENTIALS", "FORBIDDEN"}  # fmt: skip
REFUSED_HANDSHAKES = {400, 401, 403, 429}


class Stage:
    """A feed with a listener who must notice nothing, and the loop that they live in."""

    def __init__(self, runner: asyncio.Runner, feed: Feed) -> None:
        self.runner = runner
        self.feed = feed
        self.agent_id, self.ic_token = feed.agent()
        self.session = feed.session("ann")
        self.api_token = feed.api_token("ann")
        self.witness = runner.run(feed.listening(feed.session("admin")))
        self.tokens = (self.session, self.ic_token, self.api_token)

    def check(self) -> None:
        """Hold that others are served as before."""
        count = len(self.witness.events) + 1
        self.feed.publish(self.agent_id)
        self.runner.run(self.witness.until(lambda: len(self.witness.events) == count))
        for client in (self.witness, *self.feed.clients):
            client.messages.clear()
        self.feed.clients[:] = [self.witness]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One feed for the module."""
    with asyncio.Runner() as runner, SqliteStore(":memory:", clock=(clock := SetClock())) as store:
        opening = feeding(store, clock)
        made = Stage(runner, runner.run(opening.__aenter__()))
        yield made
        runner.run(opening.__aexit__(None, None, None))


VALID = (
    json.dumps({"type": "SUBSCRIBE", "filters": {"types": ["AGENT_EVENT"], "events": ["llm_call"]}}),
    json.dumps({"type": "SUBSCRIBE", "filters": {"agent_ids": [f"agent_{'a' * 32}"], "min_severity": "info"}}),
    json.dumps({"type": "UNSUBSCRIBE"}),
    json.dumps({"type": "PING", "id": 7}),
    json.dumps({"type": "RESUME", "last_event_id": EVENT}),
    json.dumps({"type": "AUTH", "token": SECRET, "last_event_id": EVENT, "filters": {}}),
    json.dumps({"access_token": SECRET}),
    json.dumps({"ic_token": f"ic_{SECRET}"}),
)
NAMES = st.sampled_from(
    ["type", "id", "filters", "types", "events", "agent_ids", "min_severity", "last_event_id", "token", "ic_token"]
)
KINDS = st.sampled_from(["SUBSCRIBE", "unsubscribe", "Ping", "AUTH", "RESUME", "HEARTBEAT", "p\u0131ng", ""])
SHAPED = st.tuples(KINDS, objects(NAMES, values(NAMES))).map(lambda each: f'{{"type":"{each[0]}",{each[1][1:]}')
SAID = st.one_of(
    altered(*VALID, joint=",", characters=st.characters(codec="utf-8")),
    SHAPED,
    st.sampled_from(VALID),
    values(NAMES),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(["x" * 16_385, "\u00e9" * 8_193, "[" * 16_384, '{"a":' * 3_000, " ", "", "ic_", f"at_{'x' * 43}"]),
    st.binary(max_size=4),
)


def say(client: Client, said: str | bytes) -> None:
    if isinstance(said, bytes):
        client.say_bytes(said)
    else:  # what a server hands on is UTF-8
        client.say(said.encode("utf-8", "replace").decode())


def assert_is_documented(stage: Stage, client: Client) -> None:
    for message in client.messages:
        CONTRACT.validate(message)
        published(message["event"] if message["type"] == "AGENT_EVENT" else message["type"]).validate(message)
        if message["type"] == "ERROR":
            assert message["code"] in CODES, message
            assert SECRET not in message["error"]
    told = json.dumps(client.messages)
    assert not any(token in told for token in stage.tokens)
    assert client.close_code is None or client.close_code in CLOSES, client.close_code


async def conversation(feed: Feed, token: str | None, said: list[str | bytes]) -> Client:
    """Say things to the feed, then ask whether it is still there; return when it has answered or closed."""
    client = await feed.connect(token, has_link=token is None)
    assert client.status == 101
    for each in said:
        say(client, each)
    client.say({"type": "PING", "id": "the last one"})

    def is_answered() -> bool:
        is_there = any(each["type"] == "PONG" and each.get("id") == "the last one" for each in client.messages)
        return is_there or client.close_code is not None

    await client.until(is_answered)
    await client.leave()
    return client


@examples(35)
@given(which=st.sampled_from([0, 1, 2]), said=st.lists(SAID, max_size=6))
@example(which=0, said=['{"type":"PING","id":18446744073709551616}', '{"type":"PING","id":"\\u0000"}'])
@example(which=0, said=['{"type":"RESUME","last_event_id":"\\u0000"}', '{"type":"RESUME","last_event_id":"\\ud800"}'])
@example(
    which=1,
    said=['{"type":"SUBSCRIBE","filters":{"types":[{}]}}', '{"type":"SUBSCRIBE","filters":{"min_severity":[]}}'],
)
def test_whatever_a_listener_says_is_answered_as_documented(stage: Stage, which: int, said: list[str | bytes]) -> None:
    """Every message fits the schema, no close is a fault, no secret comes back, and nobody else notices."""
    client = stage.runner.run(conversation(stage.feed, stage.tokens[which], said))

    assert_is_documented(stage, client)
    stage.check()


@examples(25)
@given(said=st.lists(SAID, min_size=1, max_size=3))
@example(said=["\x00"])
@example(said=['{"token":"\\u2028"}'])
@example(said=['"' + "x" * 40])
@example(said=[f"x.{'W1tb' * 3000}.x"])
def test_whatever_a_stranger_says_first_ends_in_a_documented_way(stage: Stage, said: list[str | bytes]) -> None:
    """He is told nothing of the feed, and is gone after one message."""
    client = stage.runner.run(conversation(stage.feed, None, said))

    assert_is_documented(stage, client)
    assert client.close_code in {1003, 1009, 4401}
    assert [each["type"] for each in client.messages] in ([], ["ERROR"])
    stage.check()


QUERIES = st.one_of(
    altered(
        f"token={SECRET}", f"last_event_id={EVENT}&token={SECRET}", joint="&", characters=st.sampled_from("%&=;+\0é")
    ),
    st.binary(max_size=20).map(lambda raw: "last_event_id=" + "".join(f"%{each:02x}" for each in raw)),
    st.sampled_from(["last_event_id=" + "x" * 60_000, "last_event_id=%00", "last_event_id=%ff", "token=%20"]),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["authorization", "x-api-token", "x-ic-token", "origin", "host", "x-request-id", "x-forwarded-for"]
    ),
    st.text(st.characters(max_codepoint=0xFF), max_size=20)
    | st.sampled_from(["Bearer ", "Bearer", "http://[", "http://test:0", "null", "\x00", "Bearer a, Bearer b"]),
)


@examples(25)
@given(
    QUERIES,
    HEADERS,
    st.lists(st.sampled_from(["ironcage.v1", f"bearer.{SECRET}", "bearer.", ""]), max_size=3),
    st.booleans(),
)
@example(f"last_event_id={SECRET}", {}, [], True)
def test_whatever_a_handshake_holds_is_let_in_or_refused(
    stage: Stage, query: str, headers: dict[str, str], subprotocols: list[str], is_known: bool
) -> None:
    """With a status that says why, and nothing of what was sent."""
    given_headers = {**headers, "x-api-token": stage.api_token} if is_known else headers
    query = query.encode("utf-8", "replace").decode()

    async def knock() -> Client:
        client = await stage.feed.connect(query=query, headers=given_headers, protocols=subprotocols, has_link=False)
        if client.status == 101:
            await client.leave()
        return client

    client = stage.runner.run(knock())

    assert client.status in {101, *REFUSED_HANDSHAKES}
    assert client.status == 101 or set(client.body) >= {"error", "code"}
    told = [each for each in client.messages if each["type"] != "RESYNC_REQUIRED"]  # which echoes the id
    assert SECRET not in json.dumps([client.body, client.headers, told])
    assert_is_documented(stage, client)
    stage.check()


WELCOME = json.dumps(
    {"type": "WELCOME", "timestamp": "2026-01-01T00:00:00.000Z", "last_event_id": None, "x": [1.5, {}]}
)
ANSWERS: st.SearchStrategy[Any] = st.one_of(
    altered(WELCOME, joint=",", characters=st.characters(codec="utf-8")),
    values(NAMES),
    objects(NAMES, values(NAMES)),
    values(NAMES).map('{{"type":"X","a":{}}}'.format),
).map(lambda text: text.encode("utf-8", "replace"))


@examples(50)
@given(ANSWERS | st.binary(max_size=20))
@example(b'{"type":"X","a":' * 5_000)
@example(b'{"type":"X","a":1e99999999999999999999}')
def test_whatever_a_server_says_is_a_message_or_none(said: bytes) -> None:
    """To whoever watches: a server that is none of ours ends with an answer that cannot be understood."""
    for form in (said, said.decode("utf-8", "replace")):
        try:
            message = _message_of(form)
        except NoAnswerError as refused:
            assert_hides(refused, form if isinstance(form, str) else "")
        else:
            assert isinstance(message["type"], str)
