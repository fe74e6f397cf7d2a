"""The dialogue of the live feed: what a client says on its socket, and what it is answered.

Source: contract analytics.md 6.1, 6.3.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from ironcage_core.domain.feed_filters import NOTHING, FeedFilter, as_object, filter_of
from ironcage_core.domain.instants import format_instant
from ironcage_core.errors.access import RateLimitExceededError
from ironcage_core.errors.tree import FaultError, ForbiddenError, IroncageError, UnavailableError, ValidationError
from ironcage_core.ports.system import Clock
from ironcage_http.credentials import Presented
from ironcage_http.feed_auth import Subscriber, presented_in_message
from ironcage_http.feed_connection import Connection
from ironcage_http.feed_hub import HEARTBEAT_S, FeedHub
from ironcage_http.feed_messages import ErrorMessage, Pong, ResyncRequired, Subscribed, Welcome

logger = logging.getLogger(__name__)

MAX_BYTES: Final = 16_384
MAX_A_SECOND: Final = 20
MAX_BAD: Final = 5
BAD_WITHIN_S: Final = 60.0
LONGEST_EVENT_ID: Final = 100

_TOKENS: Final = ("token", "access_token", "ic_token")
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Entry(NamedTuple):
    """What is found in one unit of work when somebody comes in or resumes.

    `since` is the number of the event that he asked to go on from; None if it is not there, or if he did not ask.
    """

    subscriber: Subscriber
    newest: int
    newest_id: str | None
    since: int | None


class BadMessageError(Exception):
    """What a client said cannot be understood; the text tells it why."""


Enter = Callable[[Presented, str | None], Awaitable[Entry]]
Find = Callable[[str], Awaitable[int | None]]


class Dialogue:
    """What one client and the server say.

    Args:
        connection: Theirs.
        hub: Where it is registered.
        clock: What time it is.
        asked: The event from which the handshake asks to go on, for a client that has yet to say who it is.
        enter: Tells who comes with a credential, and from where he goes on.
        find: Tells the number of an event.
    """

    def __init__(
        self,
        connection: Connection,
        hub: FeedHub,
        clock: Clock,
        *,
        asked: str | None,
        enter: Enter,
        find: Find,
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._clock = clock
        self._enter = enter
        self._find = find
        self._asked = asked
        self._heard: deque[float] = deque(maxlen=MAX_A_SECOND)
        self._bad: deque[float] = deque(maxlen=MAX_BAD)

    async def listen(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """Answer what the client says until it goes."""
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            if self._connection.ending is None:
                await self._hear(message.get("text"))

    async def _hear(self, text: str | None) -> None:
        connection, now_s = self._connection, self._hub.seconds()
        connection.heard_s = now_s
        if text is None:
            connection.end(1003, "text only")
        elif len(text) > MAX_BYTES or len(text.encode(errors="surrogatepass")) > MAX_BYTES:
            connection.end(1009, "the message is too big")
        elif len(self._heard) == MAX_A_SECOND and now_s - self._heard[0] < 1:
            connection.end(4429, "too many messages")
        else:
            self._heard.append(now_s)
            await (self._first(text) if connection.subscriber is None else self._next(text, now_s))

    # --- saying who it is --------------------------------------------------------------------------------------------

    async def _first(self, text: str) -> None:
        try:
            await self._authenticate(_auth_of(text))
        except (BadMessageError, ValidationError) as problem:
            self._refuse("INVALID_MESSAGE", str(problem), 4401)
        except IroncageError as error:
            self._refuse_for(error)

    async def _authenticate(self, body: Mapping[str, Any]) -> None:
        filters = filter_of(body["filters"]) if body.get("filters") is not None else None
        asked = _event_id(body.get("last_event_id")) or self._asked
        token = _token_of(body, *_TOKENS[:2])
        entry = await self._enter(presented_in_message(token, _token_of(body, "ic_token")), asked)
        connection = self._connection
        known = connection.subscriber
        if known is not None and (known.who, known.audience) != (entry.subscriber.who, entry.subscriber.audience):
            raise ForbiddenError("The credential is of somebody else")
        if connection.ending is not None:
            return
        self._hub.registry.prove(connection, entry.subscriber)
        if filters is not None:
            connection.filter = filters
        if known is None or asked is not None:
            self.welcome(entry, asked)
        else:
            self._tell_welcome(entry, is_resumed=False)

    def welcome(self, entry: Entry, asked: str | None) -> None:
        """Let the client in, and let it follow the feed from where it asks to go on."""
        self._asked = None
        self._tell_welcome(entry, is_resumed=entry.since is not None)
        if asked is not None and entry.since is None:
            self._connection.tell(ResyncRequired(timestamp=self._now(), last_event_id=asked))
        self._hub.start(self._connection, entry.newest, entry.since)

    def _tell_welcome(self, entry: Entry, *, is_resumed: bool) -> None:
        connection = self._connection
        message = Welcome(
            timestamp=self._now(),
            connection_id=connection.id,
            principal=entry.subscriber.who,
            heartbeat_interval=HEARTBEAT_S,
            last_event_id=entry.newest_id,
            resumed=is_resumed,
            filters=as_object(connection.filter),
        )
        connection.tell(message)

    def _refuse_for(self, error: IroncageError) -> None:
        code = 4401
        if isinstance(error, RateLimitExceededError):
            code = 4429
        elif isinstance(error, ForbiddenError):
            code = 4403
        elif isinstance(error, UnavailableError | FaultError):
            logger.error("a connection of the live feed failed: %s", error.message, exc_info=error)
            self._refuse("INTERNAL_ERROR", "Internal server error", 1011)
            return
        self._refuse(error.code, error.message, code)

    def _refuse(self, code: str, message: str, close_code: int) -> None:
        self._connection.tell(ErrorMessage(timestamp=self._now(), error=message, code=code))
        self._connection.end(close_code, code)

    # --- what it wants -----------------------------------------------------------------------------------------------

    async def _next(self, text: str, now_s: float) -> None:
        try:
            body = _object_of(text)
            await self._obey(body)
        except (BadMessageError, ValidationError) as problem:
            self._bad.append(now_s)
            self._connection.tell(
                ErrorMessage(timestamp=self._now(), error=str(problem), code="INVALID_MESSAGE"),
            )
            if len(self._bad) == MAX_BAD and now_s - self._bad[0] < BAD_WITHIN_S:
                self._connection.end(4400, "too many bad messages")
        except IroncageError as error:
            self._refuse_for(error)

    async def _obey(self, body: Mapping[str, Any]) -> None:
        kind = body.get("type")
        name = kind.upper() if isinstance(kind, str) else kind
        if name == "SUBSCRIBE":
            self._subscribe(filter_of(body.get("filters")))
        elif name == "UNSUBSCRIBE":
            self._subscribe(NOTHING)
        elif name == "PING":
            self._pong(body.get("id"))
        elif name == "RESUME":
            await self._resume(_event_id(body.get("last_event_id")))
        elif name == "AUTH" or (kind is None and not body.keys().isdisjoint(_TOKENS)):
            await self._authenticate(body)
        else:
            raise BadMessageError("type: must be SUBSCRIBE, UNSUBSCRIBE, PING, AUTH or RESUME")

    def _subscribe(self, which: FeedFilter) -> None:
        self._connection.filter = which
        self._connection.tell(Subscribed(timestamp=self._now(), filters=as_object(which)))

    def _pong(self, given: object) -> None:
        if given is None:
            self._connection.tell(Pong(timestamp=self._now()))
        elif isinstance(given, str | int) and not isinstance(given, bool):
            self._connection.tell(Pong(timestamp=self._now(), id=given))
        else:
            raise BadMessageError("id: must be a text or an integer")

    async def _resume(self, asked: str | None) -> None:
        if asked is None:
            raise BadMessageError("last_event_id: is needed")
        since = await self._find(asked)
        if since is None:
            self._connection.tell(ResyncRequired(timestamp=self._now(), last_event_id=asked))
        elif self._connection.ending is None:
            self._connection.follow(since)

    def _now(self) -> str:
        return format_instant(self._clock.now())


def _object_of(text: str) -> dict[str, Any]:
    try:
        return _decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        raise BadMessageError("A message must be a JSON object") from None


def _auth_of(text: str) -> dict[str, Any]:
    """Return a first message as an object; a bare token is one as well."""
    bare = text.strip()
    if not bare.startswith(("{", "[", '"')):
        return {"token": bare}
    body = _object_of(text)
    kind = body.get("type")
    if kind is not None and (not isinstance(kind, str) or kind.upper() != "AUTH"):
        raise BadMessageError("type: the first message must be AUTH")
    return body


def _token_of(body: Mapping[str, Any], *names: str) -> str | None:
    given = {body[name] for name in names if isinstance(body.get(name), str)}
    if any(body.get(name) is not None and not isinstance(body[name], str) for name in names) or len(given) > 1:
        raise BadMessageError(f"{names[0]}: must be one text")
    return next(iter(given), None)


def _event_id(given: object) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not 1 <= len(given) <= LONGEST_EVENT_ID:
        raise BadMessageError("last_event_id: must be a text of 1 to 100 characters")
    return given
