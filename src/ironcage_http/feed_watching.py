"""The live feed as a program for people follows it: every event once and in order, whatever becomes of the connection.

A connection that breaks is opened again after the last event that was told. The credential goes in the first message,
with the filter and that event, so that nothing comes before both hold; it follows no redirect. Source: contract
analytics.md 6.
"""

import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from decimal import Decimal
from typing import Any, Final, NamedTuple

import httpx
import msgspec
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from ironcage_http.answers import AnsweredError, NoAnswerError
from ironcage_http.client_target import may_pass_proxies
from ironcage_http.client_wire import UNREADABLE
from ironcage_http.remote import EXPIRED, Remote, encode, refusal

OPEN_S: Final = 10.0
IDLE_S: Final = 1.0
CLOSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 30.0

_AUTHENTICATION: Final = 4401
_FORBIDDEN: Final = 4403
_WHY: Final[Mapping[int, str]] = {1001: "it has gone", 1012: "it restarts"}
_STATUS: Final[Mapping[str, int]] = {"RATE_LIMIT_EXCEEDED": 429, "INTERNAL_ERROR": 500}

Event = dict[str, Any]
_decode: Final = msgspec.json.Decoder(Event, float_hook=Decimal).decode


class Note(NamedTuple):
    """What a person should know of the connection.

    Args:
        code: `FOLLOWING`, `LOST`, `FOUND` or `EVENTS_LOST`.
        text: A sentence.
    """

    code: str
    text: str


class FeedWatch:
    """Follows the feed of one control plane.

    Attributes:
        position: The event that was told last, or after which the feed is followed; None if there is none.

    Args:
        remote: Whom to ask, and as whom; a session that ends is renewed.
        filters: What to be told, as a first message says it.
        since: The event to go on after; None starts with what happens next.
        note: Is told what a person should know.
        idle: Is called about once a second while nothing happens; what it raises ends the watch.
    """

    def __init__(
        self,
        remote: Remote,
        filters: Mapping[str, object],
        since: str | None,
        *,
        note: Callable[[Note], None],
        idle: Callable[[], None],
    ) -> None:
        self.position = since
        self._remote = remote
        self._filters = filters
        self._note = note
        self._idle = idle
        self._was_in = False
        self._is_lost = False
        self._is_renewing = False
        self._failures = 0

    def events(self) -> Generator[Event, None, None]:
        """Yield events as they happen, without an end.

        Raises:
            AnsweredError: The server refuses, and a new session would not help.
            NoAnswerError: It is not there at the start.
            LoginFileError: The stored login cannot be used.
        """
        while True:
            try:
                self._renew_if_needed()
                yield from self._connected()
            except AnsweredError as error:
                if error.code == EXPIRED and not self._is_renewing:
                    self._is_renewing = True
                    continue
                if not self._was_in or not _is_passing(error):
                    raise
                self._lose(error.message)
            except NoAnswerError as error:
                if not self._was_in:
                    raise
                self._lose(str(error))
            self._pause()

    def _renew_if_needed(self) -> None:
        if self._is_renewing and not self._remote.renew():
            raise AnsweredError(401, EXPIRED, "The credential has ended", {})

    def _connected(self) -> Iterator[Event]:
        """Yield the events of one connection; it ends with an error, as every connection does."""
        with ExitStack() as stack:
            with _answers():
                socket = stack.enter_context(self._open())
                welcome = self._enter(socket)
            self._be_welcome(welcome)
            while True:
                message = _heard(socket)
                if message is None:
                    self._idle()
                    continue
                self._failures = 0
                if self._is_news(message):
                    self.position = message["event_id"]
                    yield message
                elif message["type"] == "AUTH_EXPIRING":
                    self._stay(socket)
                elif message["type"] == "ERROR":
                    raise _refused(message)

    def _open(self) -> AbstractContextManager[ClientConnection]:
        url = f"ws{self._remote.url.removeprefix('http')}/ws"
        context = httpx.create_ssl_context() if url.startswith("wss") else None  # the authorities of every request
        return connect(
            url,
            ssl=context,
            proxy=True if may_pass_proxies(httpx.URL(self._remote.url)) else None,
            open_timeout=OPEN_S,
            close_timeout=CLOSE_S,
            create_connection=_Straight,
            compression=None,
        )

    def _enter(self, socket: ClientConnection) -> Event:
        asked = {} if self.position is None else {"last_event_id": self.position}
        socket.send(self._credential(filters=self._filters, **asked))
        message = _message_of(socket.recv(timeout=OPEN_S))
        if message["type"] == "ERROR":
            raise _refused(message)
        if message["type"] != "WELCOME":
            raise NoAnswerError("does not welcome who follows it")
        return message

    def _credential(self, **beside: object) -> str:
        login = self._remote.login
        token = None if login is None else login.access_token
        return encode({"type": "AUTH", "token": token, **beside}).decode()

    def _be_welcome(self, welcome: Event) -> None:
        asked, newest = self.position, welcome.get("last_event_id")
        is_resumed = welcome.get("resumed") is True
        if not is_resumed:
            self.position = newest
        if not self._was_in:
            self._note(Note("FOLLOWING", f"following {self._remote.url}"))
        elif self._is_lost:
            self._note(Note("FOUND", "found the server again"))
        if not is_resumed and (asked is not None or (self._was_in and newest is not None)):
            missed = "events were lost: the server does not know any more what came after the last one you saw"
            self._note(Note("EVENTS_LOST", missed))
        self._was_in, self._is_lost, self._is_renewing = True, False, False

    def _is_news(self, message: Event) -> bool:
        """Tell whether a message is an event that was not told before; later events have greater ids."""
        event_id = message.get("event_id")
        return isinstance(event_id, str) and (self.position is None or event_id > self.position)

    def _stay(self, socket: ClientConnection) -> None:
        """Show a fresh credential before the old one ends."""
        try:
            is_fresh = self._remote.renew()
        except (AnsweredError, NoAnswerError):
            return  # it is tried once more when the old one has ended, and told then
        if is_fresh:
            with _answers():
                socket.send(self._credential())

    def _lose(self, reason: str) -> None:
        if not self._is_lost:
            self._note(Note("LOST", f"lost the server ({reason}); trying again"))
        self._is_lost = True

    def _pause(self) -> None:
        longest = min(2.0**self._failures, LONGEST_PAUSE_S)
        self._failures = min(self._failures + 1, 5)
        until = time.monotonic() + longest * random.uniform(0.5, 1)  # noqa: S311 - so that not all come back at once
        while (left := until - time.monotonic()) > 0:
            self._idle()
            time.sleep(min(left, IDLE_S))


class _Straight(ClientConnection):
    """A connection whose handshake is refused in the words of the server, and led nowhere else."""

    def handshake(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - whatever the library's takes
        try:
            super().handshake(*args, **options)
        except InvalidStatus as refused:
            raise refusal(refused.response.status_code, bytes(refused.response.body or b"")) from None


def _heard(socket: ClientConnection) -> Event | None:
    """Return the next message; None if there is none for a while."""
    with _answers():
        try:
            text = socket.recv(timeout=IDLE_S)
        except TimeoutError:
            return None
    return _message_of(text)


def _message_of(text: str | bytes) -> Event:
    try:
        message = _decode(text)
    except UNREADABLE:
        message = {}
    if not isinstance(message.get("type"), str):
        raise NoAnswerError("said what is no message of the feed")
    return message


@contextmanager
def _answers() -> Iterator[None]:
    """Turn what becomes of a connection into what a request ends in."""
    try:
        yield
    except ConnectionClosed as closed:
        raise _ended(closed) from None
    except (WebSocketException, OSError) as error:
        raise NoAnswerError(str(error) or type(error).__name__) from None


def _ended(closed: ConnectionClosed) -> AnsweredError | NoAnswerError:
    if closed.rcvd is None:
        return NoAnswerError("the connection broke")
    code = closed.rcvd.code
    reason = closed.rcvd.reason or _WHY.get(code, f"closed with code {code}")
    if code == _AUTHENTICATION:
        return AnsweredError(401, EXPIRED, reason.capitalize(), {})
    if code == _FORBIDDEN:
        return AnsweredError(403, "FORBIDDEN", reason.capitalize(), {})
    return NoAnswerError(reason)


def _is_passing(error: AnsweredError) -> bool:
    """Tell whether a refusal is about the server alone, and not about who asks or for what."""
    return error.status == 429 or error.status >= 500


def _refused(message: Event) -> AnsweredError:
    code = str(message.get("code"))
    status = 401 if code.startswith("AUTH_") else _STATUS.get(code, 403)
    return AnsweredError(status, code, str(message.get("error")), {})
