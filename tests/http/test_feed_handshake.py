"""The live feed's handshake: credentials in each carrier, origins, limits, and the answers that refuse."""

import pytest

from ironcage_core.domain.ids import MASTER_PROJECT
from ironcage_http.feed_registry import MAX_CONNECTIONS, MAX_OF_ONE, MAX_UNPROVEN
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.sockets import Client, Feed, ids_in_feed
from tests.support.web import alter, serving

pytestmark = pytest.mark.anyio


async def test_a_plain_get_is_told_to_upgrade(store: SqliteStore) -> None:
    """Source: contract analytics.md 6.1."""
    async with serving(store) as caller:
        for path in ("/ws", "/api/ws", "/api/v1/ws"):
            answer = await caller.client.get(path)

            assert answer.status_code == 426
            assert answer.json()["code"] == "UPGRADE_REQUIRED"
            assert answer.headers["upgrade"] == "websocket"
            assert "x-request-id" in answer.headers


async def test_each_path_and_carrier_lets_in(feed: Feed) -> None:
    """A session, an API token and an IC token, each in its carriers, on each path."""
    session, token = feed.session("ann"), feed.api_token()
    agent_id, ic_token = feed.agent()
    ways = (
        ("user", {"token": session}),
        ("user", {"token": session, "path": "/api/ws"}),
        ("user", {"token": session, "path": "/api/v1/ws"}),
        ("user", {"query": f"token={session}"}),
        ("user", {"protocols": ["ironcage.v1", f"bearer.{session}"]}),
        ("api_token", {"token": token}),
        ("api_token", {"headers": {"x-api-token": token}}),
        ("api_token", {"protocols": [f"bearer.{token}", "ironcage.v1"]}),
        ("agent", {"token": ic_token}),
        ("agent", {"headers": {"x-ic-token": ic_token}}),
        ("agent", {"protocols": ["ironcage.v1", f"bearer.{ic_token}"]}),
    )
    for kind, options in ways:
        client = await feed.listening(options.pop("token", None), **options)  # type: ignore[arg-type]

        welcome = client.messages[0]
        assert welcome["type"] == "WELCOME"
        assert welcome["principal"]["kind"] == kind
        assert welcome["heartbeat_interval"] == 30
        assert welcome["resumed"] is False
        assert client.subprotocol == ("ironcage.v1" if "protocols" in options else None)
        assert (welcome["principal"]["id"] == agent_id) is (kind == "agent")
        await client.leave()


async def test_the_principal_is_named_by_its_kind(feed: Feed) -> None:
    """The id is that of the user or of the token; the role is the user's."""
    ann = feed.store.read(lambda uow: uow.users.find_by_username("ann"))
    assert ann is not None
    as_user = await feed.listening(feed.session("ann"))
    as_token = await feed.listening(feed.api_token())

    assert as_user.messages[0]["principal"] == {"kind": "user", "id": ann.id, "role": "user"}
    assert as_token.messages[0]["principal"]["id"].startswith("tok_")
    assert as_token.messages[0]["principal"]["role"] == "user"


async def test_a_bad_credential_is_401_without_an_upgrade(feed: Feed) -> None:
    """Whatever the carrier; and what may not stand in a query is refused there."""
    token, (_, ic_token) = feed.api_token(), feed.agent()
    refresh = "rt_" + "a" * 43
    ways = (
        ({"token": "rubbish"}, "AUTH_INVALID_TOKEN"),
        ({"token": ""}, "AUTH_MISSING_TOKEN"),
        ({"token": refresh}, "AUTH_WRONG_TOKEN_TYPE"),
        ({"token": "at_" + "a" * 43}, "AUTH_INVALID_TOKEN"),
        ({"headers": {"x-api-token": "at_x"}}, "AUTH_INVALID_TOKEN"),
        ({"headers": {"x-api-token": ""}}, "AUTH_MISSING_TOKEN"),
        ({"headers": {"x-ic-token": feed.session("ann")}}, "AUTH_INVALID_TOKEN"),
        ({"protocols": ["ironcage.v1", "bearer.rubbish"]}, "AUTH_INVALID_TOKEN"),
        ({"query": f"token={token}"}, "AUTH_WRONG_TOKEN_TYPE"),
        ({"query": f"token={ic_token}"}, "AUTH_WRONG_TOKEN_TYPE"),
        ({"query": "token=rubbish"}, "AUTH_WRONG_TOKEN_TYPE"),
    )
    for options, code in ways:
        client = await feed.connect(**options)

        assert (client.status, client.body["code"]) == (401, code), options
        assert client.headers["www-authenticate"] == "Bearer"
        assert client.headers["x-request-id"]
        assert client.headers["content-type"] == "application/json"
    assert feed.hub.registry.connections == {}


async def test_two_different_credentials_are_ambiguous(feed: Feed) -> None:
    """Of one kind, in two carriers; the same one twice is one."""
    one, other = feed.session("ann"), feed.session("vera")
    for options in (
        {"token": one, "query": f"token={other}"},
        {"token": one, "protocols": ["ironcage.v1", f"bearer.{other}"]},
        {"token": feed.api_token(), "headers": {"x-api-token": feed.api_token()}},
    ):
        client = await feed.connect(**options)

        assert (client.status, client.body["code"]) == (400, "AMBIGUOUS_CREDENTIALS")

    assert (await feed.connect(one, query=f"token={one}")).status == 101


async def test_the_first_carrier_decides_who_listens(feed: Feed) -> None:
    """A bearer token comes before the others, whatever its kind."""
    agent_id, ic_token = feed.agent()
    client = await feed.listening(ic_token, headers={"x-api-token": feed.api_token()})

    assert client.messages[0]["principal"]["id"] == agent_id


async def test_what_is_no_bearer_is_not_a_credential(feed: Feed) -> None:
    """Another scheme names nobody, and hides nobody."""
    basic = {"authorization": "Basic YTpi"}
    client = await feed.connect(headers=basic | {"x-api-token": feed.api_token()})
    silent = await feed.connect(headers=basic)

    assert (await client.next("WELCOME"))["principal"]["kind"] == "api_token"
    assert silent.status == 101
    assert silent.messages == []


async def test_a_bad_query_is_400(feed: Feed) -> None:
    """A parameter that is empty or there twice."""
    session = feed.session("ann")
    for query in ("token=", f"token={session}&token={session}", "last_event_id=", "last_event_id=a&last_event_id=b"):
        client = await feed.connect(None if "token" in query else session, query=query)

        assert (client.status, client.body["code"]) == (400, "VALIDATION_ERROR"), query


async def test_the_token_of_a_query_is_gone_before_the_server_logs_it(feed: Feed) -> None:
    """Servers write the query of an accepted handshake into their logs."""
    client = await feed.connect(query=f"token={feed.session('ann')}")

    assert client.status == 101
    assert client.scope["query_string"] == b""


async def test_a_credential_in_a_header_comes_before_one_that_browsers_send(feed: Feed) -> None:
    """Of any kind: the subprotocol and the query are for whoever can send no header."""
    session = feed.session("vera")
    token = feed.api_token()
    browser = {"protocols": ["ironcage.v1", f"bearer.{session}"]}, {"query": f"token={session}"}

    for sent in browser:
        client = await feed.connect(headers={"x-api-token": token}, **sent)
        assert (await client.next("WELCOME"))["principal"]["kind"] == "api_token"


async def test_the_token_of_a_query_is_gone_when_the_handshake_is_refused(feed: Feed) -> None:
    """For servers write that into their logs as well."""
    session = feed.session("ann")
    for query, headers in (
        (f"token={session}", {"origin": "https://evil.test"}),
        (f"token={feed.api_token()}", {}),
        (f"token={session}&token={session}", {}),
    ):
        client = await feed.connect(query=query, headers=headers)

        assert client.status in {400, 401, 403}
        assert client.scope["query_string"] == b""


async def test_who_may_not_listen_is_403_and_remembered(feed: Feed) -> None:
    """A token without the scope, a password that must be changed."""
    narrow = await feed.connect(feed.api_token(scopes="usage:read"))
    session = feed.session("ann")
    alter(feed.store, "ann", force_password_change=1)
    owing = await feed.connect(session)

    assert (narrow.status, narrow.body["code"]) == (403, "INSUFFICIENT_SCOPE")
    assert (owing.status, owing.body["code"]) == (403, "PASSWORD_CHANGE_REQUIRED")


async def test_tokens_that_are_bound_may_listen(feed: Feed) -> None:
    """To their agent or to their project."""
    agent_id, _ = feed.agent()
    for bound in ({"agent_id": agent_id}, {"project_id": MASTER_PROJECT}):
        client = await feed.connect(feed.api_token(**bound))

        assert client.status == 101


async def test_foreign_origins_are_refused(feed: Feed) -> None:
    """Before any credential is looked at; the own one and those that are allowed pass."""
    for origin in ("https://evil.test", "null", "http://test:81", "https://test.evil.test", "file://test", "http://[x"):
        client = await feed.connect(feed.session("ann"), headers={"origin": origin})

        assert (client.status, client.body["code"]) == (403, "FORBIDDEN"), origin
    assert (await feed.connect("rubbish", headers={"origin": "https://evil.test"})).status == 403
    for origin, host in (
        ("http://localhost:5173", "test"),
        ("https://test", "test"),
        ("http://test:80", "test"),
        ("https://test", "test:443"),
        ("http://test:8080", "test:8080"),
    ):
        client = await feed.connect(feed.session("ann"), headers={"origin": origin, "host": host})

        assert client.status == 101, origin


async def test_an_unknown_path_is_404(feed: Feed) -> None:
    """With the body that every refusal has."""
    client = await feed.connect(feed.session("ann"), path="/api/v1/nothing")

    assert (client.status, client.body["code"]) == (404, "NOT_FOUND")


async def test_nobody_may_have_more_than_ten(feed: Feed) -> None:
    """The eleventh upgrade of one principal is 429; another principal comes in, and a place that is left is free."""
    session = feed.session("ann")
    clients = [await feed.listening(session) for _ in range(MAX_OF_ONE)]
    refused = await feed.connect(session)

    assert (refused.status, refused.body["code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await feed.connect(feed.session("vera"))).status == 101
    await clients[0].leave()
    assert (await feed.connect(session)).status == 101


async def test_the_tokens_of_a_user_have_places_of_their_own(feed: Feed) -> None:
    """Each of them listens under its own id, and so does his agent."""
    session = feed.session("ann")
    for _ in range(MAX_OF_ONE):
        await feed.listening(session)

    for token in (feed.api_token(), feed.api_token(), feed.agent()[1]):
        assert (await feed.connect(token)).status == 101


async def test_who_says_again_who_he_is_takes_no_second_place(feed: Feed) -> None:
    """The last of ten connections may be extended as the others."""
    session = feed.session("ann")
    clients = [await feed.listening(session) for _ in range(MAX_OF_ONE)]
    clients[-1].say({"type": "AUTH", "token": session})

    await clients[-1].next("WELCOME", count=2)
    assert (await feed.connect(session)).status == 429
    await clients[-1].leave()
    assert (await feed.connect(session)).status == 101


async def test_a_first_message_that_is_one_too_many_is_4429(feed: Feed) -> None:
    """After the upgrade there is no status any more."""
    session = feed.session("ann")
    for _ in range(MAX_OF_ONE):
        await feed.listening(session)
    client = await feed.connect()
    client.say({"type": "AUTH", "token": session})

    assert await client.closed() == 4429
    assert client.of("ERROR")[0]["code"] == "RATE_LIMIT_EXCEEDED"


async def test_a_server_has_so_many_places(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes when all are taken is told to come back."""
    assert MAX_CONNECTIONS == 1000
    monkeypatch.setattr("ironcage_http.feed_registry.MAX_CONNECTIONS", 2)
    await feed.listening(feed.session("ann"))
    await feed.connect()

    assert (await feed.connect(feed.session("vera"))).status == 429
    assert (await feed.connect()).status == 429


async def test_those_who_do_not_say_who_they_are_are_bounded(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """And take no place from those who do."""
    assert MAX_UNPROVEN < MAX_CONNECTIONS
    monkeypatch.setattr("ironcage_http.feed_registry.MAX_UNPROVEN", 2)
    await feed.connect()
    await feed.connect()

    assert (await feed.connect()).status == 429
    assert (await feed.connect(feed.session("ann"))).status == 101


async def test_who_has_said_who_he_is_leaves_the_place_of_those_who_have_not(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the handshake or after it."""
    monkeypatch.setattr("ironcage_http.feed_registry.MAX_UNPROVEN", 1)
    session = feed.session("ann")
    await feed.listening(session)
    client = await feed.connect()
    assert (await feed.connect()).status == 429
    client.say({"type": "AUTH", "token": session})
    await client.next("WELCOME")

    assert (await feed.connect()).status == 101


async def test_a_server_that_cannot_answer_over_http_closes(feed: Feed) -> None:
    """Without the extension for such answers, the handshake is refused all the same."""
    client = Client(
        {
            "type": "websocket", "path": "/ws", "raw_path": b"/ws", "query_string": b"", "subprotocols": [],
            "headers": [(b"authorization", b"Bearer rubbish")],
        },
        None,
    )  # fmt: skip
    app: object = feed.app
    await app(client.scope, client.receive, client.send)  # type: ignore[operator]

    assert client.status is None
    assert client.close_code == 1008


@pytest.mark.parametrize("name", ["token", "access_token", "ic_token"])
@pytest.mark.parametrize("kind", ["AUTH", "auth", "Auth", None])
async def test_a_first_message_may_say_who_it_is(feed: Feed, name: str, kind: str | None) -> None:
    """By each of three names, in any case of the type or without one."""
    _, ic_token = feed.agent()
    token = ic_token if name == "ic_token" else feed.session("ann")
    client = await feed.connect()
    client.say({name: token} if kind is None else {"type": kind, name: token})

    assert (await client.next("WELCOME"))["principal"]["kind"] == ("agent" if name == "ic_token" else "user")


async def test_a_bare_token_is_a_first_message(feed: Feed) -> None:
    """Of any kind."""
    for token in (feed.session("ann"), feed.api_token(), feed.agent()[1]):
        client = await feed.connect()
        client.say(f" {token}\n")

        await client.next("WELCOME")


@pytest.mark.parametrize(
    "message",
    [
        "rubbish", "", "{", "[]", '"x"', {"type": "PING"}, {"type": "SUBSCRIBE"}, {}, {"type": "AUTH"},
        {"type": 5, "token": "x"}, {"type": "AUTH", "token": 5}, {"type": "AUTH", "token": ""},
        {"token": "a", "access_token": "b"}, {"token": "a, b"}, "a b",
    ],
)  # fmt: skip
async def test_anything_else_first_is_an_error_and_4401(feed: Feed, message: object) -> None:
    """And no event was sent before."""
    agent_id, _ = feed.agent()
    client = await feed.connect()
    feed.publish(agent_id)
    client.say(message)

    assert await client.closed() == 4401
    assert [each["type"] for each in client.messages] == ["ERROR"]


async def test_a_first_message_with_bad_filters_is_4401(feed: Feed) -> None:
    """It is not the message that was asked for."""
    client = await feed.connect()
    client.say({"type": "AUTH", "token": feed.session("ann"), "filters": {"types": "all"}})

    assert await client.closed() == 4401
    assert client.of("WELCOME") == []


async def test_a_first_message_of_somebody_who_may_not_is_4403(feed: Feed) -> None:
    """The credential is good, but not for this."""
    client = await feed.connect()
    client.say(feed.api_token(scopes="usage:read"))

    assert await client.closed() == 4403
    assert client.of("ERROR")[0]["code"] == "INSUFFICIENT_SCOPE"


async def test_a_refusal_of_a_first_message_is_remembered(feed: Feed) -> None:
    """As that of a request is."""
    client = await feed.connect()
    client.say(feed.api_token(scopes="usage:read"))
    await client.closed()

    denied = feed.store.read(lambda uow: [row.operation for row in uow.audit.rows() if row.outcome == "denied"])
    assert denied == ["AUTHZ_DENIED"]


async def test_a_first_message_of_two_credentials_is_4401(feed: Feed) -> None:
    """Nobody could say which was meant, good as they are."""
    client = await feed.connect()
    client.say({"type": "AUTH", "token": feed.session("ann"), "ic_token": feed.agent()[1]})

    assert await client.closed() == 4401
    assert [each.get("code") for each in client.messages] == ["AMBIGUOUS_CREDENTIALS"]


async def test_a_first_message_may_follow_a_place_in_the_query(feed: Feed) -> None:
    """It is gone on from once: a later AUTH sends nothing again."""
    agent_id, _ = feed.agent()
    session, start = feed.session("ann"), ids_in_feed(feed.store)[-1]
    feed.publish(agent_id, "router_started", port=1)
    client = await feed.connect(query=f"last_event_id={start}")
    client.say({"type": "AUTH", "token": session})
    await client.until(lambda: client.names == ["router_started"])
    client.say({"type": "AUTH", "token": session})
    await client.next("WELCOME", count=2)
    feed.publish(agent_id, "tool_invocation")
    await client.until(lambda: "tool_invocation" in client.names)

    assert [each["resumed"] for each in client.of("WELCOME")] == [True, False]
    assert client.names == ["router_started", "tool_invocation"]


async def test_an_unknown_place_in_the_query_needs_a_resync_after_a_first_message(feed: Feed) -> None:
    """As it does where the handshake says who it is."""
    client = await feed.connect(query="last_event_id=rubbish")
    client.say({"type": "AUTH", "token": feed.session("ann")})

    assert (await client.next("RESYNC_REQUIRED"))["last_event_id"] == "rubbish"
    assert client.messages[0]["resumed"] is False


async def test_a_first_message_may_bring_filters_and_a_place(feed: Feed) -> None:
    """They hold from the first event on."""
    agent_id, _ = feed.agent()
    watcher = await feed.listening(feed.session("ann"))
    feed.publish(agent_id, "tool_invocation")
    await watcher.until(lambda: "tool_invocation" in watcher.names)
    last = watcher.events[-1]["event_id"]
    feed.publish(agent_id, "router_started", port=1)
    feed.publish(agent_id, "tool_invocation")
    client = await feed.connect()
    filters = {"events": ["router_started"]}
    client.say({"type": "AUTH", "token": feed.session("ann"), "last_event_id": last, "filters": filters})

    welcome = await client.next("WELCOME")
    assert (welcome["resumed"], welcome["filters"]) == (True, filters)
    await client.until(lambda: client.names == ["router_started"])


async def test_silence_after_the_upgrade_is_4408(feed: Feed) -> None:
    """After ten seconds without a first message."""
    client = await feed.connect()
    feed.pass_s(9.9)
    assert client.close_code is None
    feed.pass_s(0.2)

    assert await client.closed() == 4408


async def test_handshakes_are_counted_as_requests(feed: Feed) -> None:
    """The upgrade of an API token is a use of it; the checks that follow are none."""
    token = feed.api_token(daily_request_limit=1)
    client = await feed.listening(token)
    await feed.hub.check_credentials()
    await feed.hub.check_credentials()

    assert client.close_code is None
    assert (await feed.connect(token)).status == 429
