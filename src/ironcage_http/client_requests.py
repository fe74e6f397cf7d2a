"""What leaves for the provider: to its own origin, with the lease's key, and only if its cost can be told."""

import json
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, NamedTuple, Protocol

import httpx

from ironcage_core.errors.runtime import ForeignHostError, UnmeteredRequestError
from ironcage_core.errors.tree import IroncageError
from ironcage_http.client_target import is_local

ORIGINS: Final = {"openai": "https://api.openai.com", "anthropic": "https://api.anthropic.com"}
"""Where a key is good that does not say it itself."""

UNMETERED: Final = frozenset(("GET", "HEAD", "OPTIONS", "DELETE"))

_FREE: Final = re.compile(
    r"/(messages/count_tokens|responses/input_tokens|moderations"
    r"|(responses|batches|messages/batches|fine_tuning/jobs)/[^/]+/cancel)\Z"
)
"""Ends of paths to which a POST costs nothing."""

_LATER: Final = re.compile(r"/(realtime|fine_tuning)/")
"""Paths whose answers come before the costs, and never tell them, though the requests name a model."""

_CHATS: Final = ("/chat/completions", "/completions")
"""Ends of paths whose streams tell what they have used only if they are asked to."""

_CREDENTIALS: Final = ("authorization", "x-api-key")
_SIZES: Final = ("content-length", "transfer-encoding")
_PORTS: Final = {"https": 443, "http": 80}


class MeteredCall(Protocol):
    """One call as a session counts it; as `client_calls.Call`."""

    @property
    def request_id(self) -> str:
        """The name of the call in the books."""

    def begin(self) -> object:
        """Reserve what the call may cost."""

    def commit(self, usage: object = None) -> None:
        """Count what the call did cost."""

    def cancel(self) -> None:
        """Count nothing."""

    def give_up(self) -> None:
        """Count the most that the call may have cost."""


class Paying(Protocol):
    """What a session is for a transport: whose key there is, and who counts what it costs."""

    @property
    def api_key(self) -> str:
        """The provider key."""

    @property
    def provider(self) -> str:
        """Whose key it is."""

    @property
    def base_url(self) -> str | None:
        """Where the provider is called, if the key says so."""

    def call(self, *, model: str, request: Mapping[str, object]) -> MeteredCall:
        """Return a call, to be begun."""


class Plan(NamedTuple):
    """What is to be sent: `body` is there if it is metered, `hides_usage` if its usage was not asked for."""

    content: bytes
    body: Mapping[str, object] | None = None
    model: str = ""
    hides_usage: bool = False


def planned(request: httpx.Request, content: bytes) -> Plan:
    """Return what is to be sent in the place of a request.

    Raises:
        UnmeteredRequestError: It may cost something that no answer would tell.
    """
    path = request.url.raw_path.decode("ascii").partition("?")[0]
    if request.method in UNMETERED or (request.method == "POST" and _FREE.search(path)):
        return Plan(content)
    body = _object(content)
    model = body.get("model")
    if request.method != "POST" or not isinstance(model, str) or not model or _LATER.search(path):
        raise UnmeteredRequestError(
            f"{request.method} {path} was not sent: a lease pays for what can be metered, which is JSON that is POSTed"
            " and names a model, and whose answer says what it has used",
            method=request.method,
            path=path,
        )
    options = body.get("stream_options")
    asked = dict(options) if isinstance(options, Mapping) else {}
    if not path.endswith(_CHATS) or body.get("stream") is not True or asked.get("include_usage") is True:
        return Plan(content, body, model)
    body["stream_options"] = {**asked, "include_usage": True}
    return Plan(json.dumps(body).encode(), body, model, hides_usage=True)


def addressed(request: httpx.Request, plan: Plan, paying: Paying, request_id: str | None = None) -> httpx.Request:
    """Return the request that is sent: a copy, so that the caller's own, and errors with it, never hold the key.

    Args:
        request: The caller's.
        plan: What is to be sent.
        paying: Holds the key; asked now, for beginning a call may have brought another one.
        request_id: The name of the call, for the provider's own log.

    Raises:
        ForeignHostError: It would not go to the provider.
        SessionClosedError, SessionStoppedError: There is no key.
    """
    key, provider = paying.api_key, paying.provider
    _check_origin(request.url, provider, paying.base_url)
    headers = request.headers.copy()
    for name in (*_CREDENTIALS, *_SIZES):
        headers.pop(name, None)
    if provider == "anthropic":
        headers["x-api-key"] = key
    else:
        headers["authorization"] = f"Bearer {key}"
    if request_id is not None:
        headers["accept-encoding"] = "identity"
        headers.setdefault("x-client-request-id", request_id)
    return type(request)(
        request.method, request.url, headers=headers, content=plan.content or None, extensions=request.extensions
    )


def visible(error: IroncageError, request: httpx.Request) -> IroncageError:
    """Return a refusal as the sender of a request gets to see it: as itself, at once.

    OpenAI's SDK and plain clients let pass what is no error of their HTTP library. Anthropic's takes whatever is not
    its own for a broken connection, tries twice more and says just that; so it gets an error that is its own as well.
    An answer with a status of ours would pass too, but as a `PermissionDeniedError` of the provider, with whom nobody
    has spoken; this way `except InsufficientBudget` is right under every client.
    """
    anthropic = sys.modules.get("anthropic")
    if anthropic is None or "anthropic-version" not in request.headers:
        return error
    ours: type = type(error)
    kind = _of_both(ours, anthropic.AnthropicError)
    both: IroncageError = kind.__new__(kind, *error.args)
    both.__dict__.update(error.__dict__)
    return both


@cache
def _of_both(ours: type, theirs: type) -> Any:  # noqa: ANN401 - a class made here
    return type(ours.__name__, (ours, theirs), {"__module__": __name__})  # no part of our tree of errors


def library_of(kind: object) -> str:
    """Return which of the two libraries a class, or one that it derives from, is of.

    Raises:
        ValueError: Neither.
    """
    for each in getattr(kind, "__mro__", ()):
        library: str = each.__module__.partition(".")[0]
        if library in {"httpx", "httpx2"}:
            return library
    raise ValueError(f"{kind!r} is no class of httpx or httpx2, nor derived from one")


def _check_origin(url: httpx.URL, provider: str, base_url: str | None) -> None:
    home = base_url or ORIGINS.get(provider)
    if home is None:
        raise ForeignHostError(
            f"The key of {provider} does not say where it is good; give it a base URL", host=url.host
        )
    if _origin(url) != _origin(httpx.URL(home)):
        raise ForeignHostError(
            f"The key of this lease is good for {home} and was not sent to {url.scheme}://{url.host};"
            " give the SDK the `base_url` of the session",
            host=url.host,
        )
    if url.scheme != "https" and not is_local(url.host):
        raise ForeignHostError(f"http:// would send the key to {url.host} for everybody to read", host=url.host)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme)


def _object(content: bytes) -> dict[str, object]:
    """Return a JSON object; an empty one for anything else."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
