"""A control plane as a program for people calls it: one request, one answer, and a session that renews itself.

A session's tokens go to the address they were given for and nowhere else.
"""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from types import FrameType
from typing import Any, Final

import httpx
import msgspec

from ironcage_http.answers import AnsweredError, NoAnswerError
from ironcage_http.client_target import way_to
from ironcage_http.client_wire import UNREADABLE
from ironcage_http.logins import Login, LoginFile, login_of

TIMEOUT_S: Final = 60.0
"""Longer than the server takes for its longest question."""

EXPIRED: Final = "AUTH_TOKEN_EXPIRED"
"""The code of a refusal that a renewed session does away with."""

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Refusal(msgspec.Struct):
    """The one shape of errors."""

    error: str
    code: str
    details: dict[str, Any] | None = None


_decode: Final = msgspec.json.Decoder(float_hook=Decimal).decode
_decode_refusal: Final = msgspec.json.Decoder(_Refusal, float_hook=Decimal).decode
encode: Final = msgspec.json.Encoder(decimal_format="number").encode
"""Writes a body; amounts stay exact."""


def client_of(url: str) -> httpx.Client:
    """Return what sends requests to the control plane at an address, and by which way."""
    return httpx.Client(timeout=TIMEOUT_S, **way_to(httpx.URL(url)))


class Remote:
    """Speaks to one control plane.

    Args:
        client: Sends the requests.
        url: Where the interface is, down to its base path.
        login: Who asks; None for nobody.
        file: Where a renewed login is stored; None if it is not a stored one.
    """

    def __init__(
        self, client: httpx.Client, url: str, login: Login | None = None, file: LoginFile | None = None
    ) -> None:
        self._client = client
        self._login = login
        self._file = file
        self.url = url

    @property
    def login(self) -> Login | None:
        """Who asks, with the tokens as they are by now."""
        return self._login

    def acting_as(self, login: Login) -> "Remote":
        """Return the same control plane for somebody whose login is not stored."""
        return Remote(self._client, self.url, login)

    def get(self, path: str, **query: object) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON of a GET; parameters that are None are left out."""
        return self.ask("GET", path, query=query)

    def post(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON of a POST; fields that are None are left out."""
        return self.ask("POST", path, body=_given(body))

    def put(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON of a PUT; fields that are None are left out."""
        return self.ask("PUT", path, body=_given(body))

    def patch(self, path: str, **body: object) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON of a PATCH; fields that are None are left out."""
        return self.ask("PATCH", path, body=_given(body))

    def delete(self, path: str, **query: object) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON of a DELETE, None if it answers nothing."""
        return self.ask("DELETE", path, query=query)

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        may_be_text: bool = False,
    ) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON of an answer, None for an empty one.

        Args:
            method: Of HTTP.
            path: Below the base path, with its leading slash.
            query: Parameters; None is left out, a list is sent as often as it has members.
            body: Sent as JSON; None for none.
            headers: Sent beside those that every request has.
            may_be_text: An answer that is no JSON is one all the same, and returned as a text.

        Raises:
            AnsweredError: The server refused.
            NoAnswerError: There was no answer that can be understood.
        """
        content = None if body is None else encode(body)
        response = self._send(method, path, query, content, headers)
        if response.status_code == 401 and _is_over(response) and self.renew():
            response = self._send(method, path, query, content, headers)
        return _read(response, may_be_text=may_be_text)

    def renew(self) -> bool:
        """Renew a stored session; tell whether there is something new to ask with.

        Raises:
            AnsweredError: It can be renewed no more.
            NoAnswerError: There was no answer that can be understood.
            LoginFileError: The stored login cannot be used.
        """
        login, file = self._login, self._file
        if login is None or file is None or login.refresh_token is None:
            return False
        with file.locked():
            stored = file.load()
            # Logged out meanwhile, or in elsewhere, or as somebody else.
            if stored is None or (stored.url, stored.username) != (login.url, login.username):
                return False
            if stored.access_token == login.access_token:
                stored = self._renewed(stored, file)
            self._login = stored
        return True

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        content: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> httpx.Response:
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        if self._login is not None:
            sent["Authorization"] = f"Bearer {self._login.access_token}"
        try:
            return self._client.request(
                method, self.url + path, params=_parameters(query or {}), content=content, headers=sent
            )
        except httpx.TimeoutException:
            raise NoAnswerError(f"took longer than {TIMEOUT_S:.0f} s") from None
        except httpx.LocalProtocolError:  # its text has the header in it, which may be the credential
            raise NoAnswerError("the request has a header that cannot be sent") from None
        except httpx.HTTPError as error:
            raise NoAnswerError(str(error) or type(error).__name__) from None

    def _renewed(self, login: Login, file: LoginFile) -> Login:
        """Exchange the refresh token, which works once, and keep the new one before anything else can happen."""
        with _unhurried():
            renewed = login_of(login.url, login.username, _read(self._post_refresh(login)))
            file.save(renewed)
        return renewed

    def _post_refresh(self, login: Login) -> httpx.Response:
        try:
            return self._client.post(self.url + "/auth/refresh", json={"refresh_token": login.refresh_token})
        except httpx.HTTPError as error:
            raise NoAnswerError(str(error) or type(error).__name__) from None


@contextmanager
def _unhurried() -> Iterator[None]:
    """Let Ctrl-C, and a request to end, wait until the block is over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        waiting.append(number)

    before = {number: signal.signal(number, remember) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


def _given(body: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}


def _parameters(query: Mapping[str, object]) -> httpx.QueryParams:
    parameters: list[tuple[str, Any]] = []
    for name, value in query.items():
        several = value if isinstance(value, list | tuple) else [value]
        parameters += [(name, str(each)) for each in several if each is not None]
    return httpx.QueryParams(parameters)


def _read(response: httpx.Response, *, may_be_text: bool = False) -> Any:  # noqa: ANN401 - JSON
    if not response.is_success:
        raise refusal(response.status_code, response.content)
    if not response.content:
        return None
    if may_be_text and not response.headers.get("content-type", "").startswith("application/json"):
        return response.text
    try:
        return _decode(response.content)
    except UNREADABLE:
        raise NoAnswerError("answered what is not JSON") from None


def _is_over(response: httpx.Response) -> bool:
    """Tell whether a refusal says that the access token is over."""
    return refusal(response.status_code, response.content).code == EXPIRED


def refusal(status: int, content: bytes) -> AnsweredError:
    """Return a refusal in the one shape of errors.

    Args:
        status: Of the answer.
        content: Its body.

    Raises:
        NoAnswerError: It has another shape, so it is not ironcage's.
    """
    try:
        told = _decode_refusal(content)
    except UNREADABLE:
        raise NoAnswerError(f"answered {status}, and not as ironcage does") from None
    return AnsweredError(status, told.code, told.error, told.details or {})
