"""Following the feed of servers that behave badly: they break off, tell things twice, forget, or are no feed at all."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import httpx
import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from ironcage_http import feed_watching
from ironcage_http.answers import AnsweredError, NoAnswerError
from ironcage_http.feed_watching import FeedWatch, Note
from ironcage_http.logins import Login
from ironcage_http.remote import Remote

Behaviour = Callable[[ServerConnection], None]
Answer = Callable[[ServerConnection, Request], Response | None]


class Odd:
    """A server of which each connection does what the next behaviour says; the last one again and again."""

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        self.behaviours = list(behaviours)
        self.heard: list[dict[str, Any]] = []
        self.url = ""
        self.notes: list[Note] = []

    def handle(self, socket: ServerConnection) -> None:
        self.heard.append(json.loads(socket.recv()))
        behave = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        behave(socket)

    def events(self, count: int, since: str | None = None) -> list[str]:
        """Follow it until so many events were told, and return their ids."""
        with httpx.Client() as client:
            remote = Remote(client, f"{self.url}/api/v1", Login(self.url, None, "a token", None))
            watch = FeedWatch(remote, {"types": ["AGENT_EVENT"]}, since, note=self.notes.append, idle=lambda: None)
            with closing(watch.events()) as happening:
                return [event["event_id"] for event in islice(happening, count)]

    @property
    def codes(self) -> list[str]:
        return [note.code for note in self.notes]


@contextmanager
def serving(*behaviours: Behaviour, answer: Answer | None = None) -> Iterator[Odd]:
    odd = Odd(behaviours)
    with serve(odd.handle, "127.0.0.1", 0, process_request=answer) as server:
        odd.url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield odd
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_watching, "LONGEST_PAUSE_S", 0.05)


def welcome(socket: ServerConnection, newest: str | None, *, resumed: bool = False) -> None:
    socket.send(json.dumps({"type": "WELCOME", "last_event_id": newest, "resumed": resumed}))


def tell(socket: ServerConnection, *event_ids: str) -> None:
    for event_id in event_ids:
        socket.send(json.dumps({"type": "AGENT_EVENT", "event_id": event_id, "event": "x", "data": {}}))


def telling(*event_ids: str, newest: str | None = "evt_0", resumed: bool = False, code: int = 1012) -> Behaviour:
    """Return what tells events and closes."""

    def behave(socket: ServerConnection) -> None:
        welcome(socket, newest, resumed=resumed)
        tell(socket, *event_ids)
        socket.close(code)

    return behave


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4408, 4409, 4429])
def test_it_comes_back_and_goes_on_after_the_last_event(code: int) -> None:
    """With the same filter and credential; what is told again is told once."""
    with serving(telling("evt_1", "evt_2", code=code), telling("evt_2", "evt_3", resumed=True)) as odd:
        assert odd.events(3) == ["evt_1", "evt_2", "evt_3"]

    assert [each.get("last_event_id") for each in odd.heard] == [None, "evt_2"]
    assert {json.dumps([each["token"], each["filters"]]) for each in odd.heard} == {
        '["a token", {"types": ["AGENT_EVENT"]}]'
    }
    assert odd.codes == ["FOLLOWING", "LOST", "FOUND"]


def test_it_goes_on_from_where_it_came_in_if_nothing_was_told() -> None:
    """Else what happened in between would be lost."""
    with serving(telling(newest="evt_5"), telling("evt_6", resumed=True)) as odd:
        assert odd.events(1) == ["evt_6"]

    assert odd.heard[1]["last_event_id"] == "evt_5"
    assert "EVENTS_LOST" not in odd.codes


def test_what_is_lost_is_said() -> None:
    """Where the server does not know the last event any more, and where there was none to go on after."""
    with serving(telling("evt_1"), telling("evt_8", newest="evt_7")) as odd:
        assert odd.events(2) == ["evt_1", "evt_8"]
    with serving(telling(newest=None), telling("evt_8", newest="evt_7")) as empty:
        empty.events(1)
    with serving(telling("evt_8", newest="evt_7")) as asked:
        asked.events(1, since="evt_2")

    assert odd.codes == ["FOLLOWING", "LOST", "FOUND", "EVENTS_LOST"]
    assert empty.codes == ["FOLLOWING", "LOST", "FOUND", "EVENTS_LOST"]
    assert asked.codes == ["FOLLOWING", "EVENTS_LOST"]


def test_lower_ids_are_news_after_a_loss() -> None:
    """The log may be another one by now."""
    with serving(telling("evt_9"), telling("evt_3", newest="evt_2")) as odd:
        assert odd.events(2) == ["evt_9", "evt_3"]


def test_one_note_is_enough_for_many_attempts() -> None:
    """Whatever each of them ends in."""

    def shut(socket: ServerConnection) -> None:
        socket.close(1011)

    def rubbish(socket: ServerConnection) -> None:
        socket.send("rubbish")

    with serving(telling("evt_1"), shut, rubbish, shut, telling("evt_2", resumed=True)) as odd:
        assert odd.events(2) == ["evt_1", "evt_2"]

    assert (odd.codes, len(odd.heard)) == (["FOLLOWING", "LOST", "FOUND"], 5)


@pytest.mark.parametrize(
    ("message", "code"), [({"error": "No", "code": "FORBIDDEN"}, "FORBIDDEN"), ({"code": "AUTH_TOKEN_EXPIRED"}, "AUTH")]
)
def test_a_refusal_later_on_is_the_end(message: dict[str, str], code: str) -> None:
    """An API token cannot be renewed; nobody comes back who may not."""

    def refuse(socket: ServerConnection) -> None:
        welcome(socket, "evt_0")
        tell(socket, "evt_1")
        socket.send(json.dumps({"type": "ERROR", **message}))

    with serving(refuse) as odd, pytest.raises(AnsweredError) as caught:
        odd.events(2)

    assert (caught.value.code.startswith(code), len(odd.heard)) == (True, 1)


@pytest.mark.parametrize(("close_code", "status"), [(4401, 401), (4403, 403)])
def test_a_close_for_who_one_is_is_the_end(close_code: int, status: int) -> None:
    """As is the same in words."""
    with serving(telling("evt_1", code=close_code)) as odd, pytest.raises(AnsweredError) as caught:
        odd.events(2)

    assert (caught.value.status, len(odd.heard)) == (status, 1)


@pytest.mark.parametrize("text", ["rubbish", "[]", "{}", '{"type": 5}', '{"type": "HELLO"}', b"\x00"], ids=repr)
def test_who_speaks_otherwise_is_no_feed(text: str | bytes) -> None:
    """It is said at the start, and not tried again."""

    def speak(socket: ServerConnection) -> None:
        socket.send(text)

    with serving(speak) as odd, pytest.raises(NoAnswerError):
        odd.events(1)

    assert len(odd.heard) == 1


def test_who_says_nothing_is_no_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while."""
    monkeypatch.setattr(feed_watching, "OPEN_S", 0.3)

    def wait(socket: ServerConnection) -> None:
        socket.recv()

    with serving(wait) as odd, pytest.raises(NoAnswerError):
        odd.events(1)


def test_a_credential_follows_no_redirect() -> None:
    """It goes to the address that it was given for."""
    with serving(telling("evt_1")) as elsewhere:
        place = f"{elsewhere.url.replace('http', 'ws')}/api/v1/ws"

        def redirect(_: ServerConnection, __: Request) -> Response:
            return Response(307, "Temporary Redirect", Headers({"Location": place, "Content-Length": "0"}))

        with serving(telling("evt_1"), answer=redirect) as odd, pytest.raises(NoAnswerError, match="answered 307"):
            odd.events(1)

        assert elsewhere.heard + odd.heard == []


def test_a_refused_handshake_is_told_in_the_words_of_the_server() -> None:
    """With its status and its code."""
    body = b'{"error": "Too many", "code": "RATE_LIMIT_EXCEEDED", "details": {"retry_after": 3}}'

    def refuse(_: ServerConnection, __: Request) -> Response:
        return Response(429, "Too Many Requests", Headers({"Content-Length": str(len(body))}), body)

    with serving(telling("evt_1"), answer=refuse) as odd, pytest.raises(AnsweredError, match="Too many") as caught:
        odd.events(1)

    assert (caught.value.status, caught.value.code, caught.value.details) == (
        429,
        "RATE_LIMIT_EXCEEDED",
        {"retry_after": 3},
    )


def test_a_transient_refusal_later_on_is_waited_out() -> None:
    """The server is only too busy for now."""
    replies = iter([None, 503, 429, None])
    body = b'{"error": "Not now", "code": "SERVICE_UNAVAILABLE"}'

    def busy(_: ServerConnection, __: Request) -> Response | None:
        status = next(replies)
        return None if status is None else Response(status, "", Headers({"Content-Length": str(len(body))}), body)

    with serving(telling("evt_1"), telling("evt_2", resumed=True), answer=busy) as odd:
        assert odd.events(2) == ["evt_1", "evt_2"]

    assert odd.codes == ["FOLLOWING", "LOST", "FOUND"]


def test_pauses_grow_and_are_never_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """From one second to half a minute; what is heard starts them again."""
    monkeypatch.setattr(feed_watching, "LONGEST_PAUSE_S", 30.0)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    clock = type("Clock", (), {"monotonic": staticmethod(lambda: now[0]), "sleep": staticmethod(sleep)})
    monkeypatch.setattr(feed_watching, "time", clock)
    with httpx.Client() as client:
        watch = FeedWatch(Remote(client, "http://x"), {}, None, note=lambda _: None, idle=lambda: None)
        pauses = []
        for _ in range(8):
            start = now[0]
            watch._pause()
            pauses.append(now[0] - start)

    longest = [1, 2, 4, 8, 16, 30, 30, 30]
    assert all(most / 2 <= pause <= most + 0.01 for pause, most in zip(pauses, longest, strict=True)), pauses
    assert len(set(pauses)) == 8
