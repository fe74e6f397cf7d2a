"""Endpoints: from a request to a route's handler, and from its refusal to the answer and the audit log.

Who was refused for want of a right is remembered, once a minute for each caller and route: a loop of refusals must not
fill the log.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from litestar import Request
from litestar.exceptions import ClientException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Origin
from ironcage_core.domain.audit import LONGEST_USER_AGENT, AuditNote
from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.domain.rate_limits import Rate
from ironcage_core.errors.access import AgentTokenForbiddenError, InsufficientScopeError, SessionRequiredError
from ironcage_core.errors.tree import ForbiddenError, IroncageError
from ironcage_http.calls import Call
from ironcage_http.client_address import client_address
from ironcage_http.errors import refused
from ironcage_http.gate import Gate
from ironcage_http.routing import Route
from ironcage_http.throttle import headers_of
from ironcage_http.wiring import Wiring

DENIALS: Final = frozenset((ForbiddenError, InsufficientScopeError, SessionRequiredError, AgentTokenForbiddenError))
"""What is refused because of who asks; the other 403s are states of things. Source: contract identity.md 5."""

_ONE_A_MINUTE: Final = Rate(1, 60)
_OF_A_BODY: Final = frozenset(("content-length", "transfer-encoding"))
_ID: Final = re.compile(r"[a-z]+_[0-9a-f]{32}")


def endpoint(route: Route, wiring: Wiring) -> Callable[[Request[Any, Any, Any]], Awaitable[ASGIResponse]]:
    """Return the Litestar handler of a route: it reads the request, runs the handler and maps its refusals."""
    most = wiring.settings.max_body_bytes * route.body_factor

    async def handle(request: Request[Any, Any, Any]) -> ASGIResponse:
        headers = headers_of_scope(request.scope)
        has_body = route.method != "GET" or not headers.keys().isdisjoint(_OF_A_BODY)
        raw = await body_of(request, headers.get("content-length"), most) if has_body else b""
        if raw is None:  # the client has gone; nobody reads the answer
            return ASGIResponse(status_code=400)
        gate = Gate(wiring, route, origin_of(request.scope, headers, wiring), request.path_params.get("agent_id"))
        try:
            gate.check_address()
            response: ASGIResponse = await route.handler(Call(wiring, request, headers, raw, gate))
        except IroncageError as error:
            response = await refusal(gate, error, request.path_params)
        if gate.taken is not None:
            for name, value in headers_of(gate.taken, wiring.clock.now() // MS_PER_S).items():
                response.headers.setdefault(name, value)
        return response

    return handle


async def body_of(request: Request[Any, Any, Any], announced: str | None, most: int) -> bytes | None:
    """Return the body, or None if the client went before it had sent all of it.

    Litestar's own reader takes as long as all of its routing.

    Args:
        request: Whose body; nothing of it has been read.
        announced: The header that tells its size, or None.
        most: How many bytes it may have.

    Raises:
        ClientException: The header is no number.
        RequestEntityTooLarge: It is larger, or says so.
    """
    try:
        size = int(announced or 0)
    except ValueError:
        raise ClientException("The Content-Length is no number") from None
    if size > most:
        raise RequestEntityTooLarge
    parts: list[bytes] = []
    size = 0
    while True:
        event = await request.receive()
        if event["type"] != "http.request":
            return None
        parts.append(event["body"])
        size += len(event["body"])
        if size > most:
            raise RequestEntityTooLarge
        if not event.get("more_body", False):
            return b"".join(parts)


def headers_of_scope(scope: Any) -> dict[str, str]:  # noqa: ANN401 - an ASGI scope
    """Return the headers by lower-case name.

    One that comes twice is one list, as RFC 9110 5.2 has it: a second credential hides behind no first one.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def origin_of(scope: Any, headers: Mapping[str, str], wiring: Wiring) -> Origin:  # noqa: ANN401 - an ASGI scope
    """Return where a request came from."""
    peer = scope.get("client")
    address, trusted = (peer[0] if peer else None), wiring.settings.trusted_proxies
    if trusted:
        forwarded = headers.get("x-forwarded-for")
        address = client_address(address, [] if forwarded is None else [forwarded], trusted)
    agent = headers.get("user-agent", "")[:LONGEST_USER_AGENT] or None
    return Origin(address, agent, str(scope["state"]["request_id"]))


async def refusal(gate: Gate, error: IroncageError, path: Mapping[str, str]) -> ASGIResponse:
    """Return the answer to a request that ended in an error; who was refused for want of a right is remembered."""
    if gate.known is None or type(error) not in DENIALS:
        return refused(error)
    route, actor = gate.route, gate.known.actor
    name = f"{route.method} {route.path}"
    if gate.wiring.denials.take((actor.id, actor.token_id, name), _ONE_A_MINUTE).is_allowed:
        operation = "AGENT_TOKEN_REFUSED" if isinstance(error, AgentTokenForbiddenError) else "AUTHZ_DENIED"
        metadata = {"route": name, "action": route.action, "code": error.code}
        resource = route.path.split("/")[1]
        # Only what looks like an id: whatever else stands in a path is somebody's text.
        named = next((each for each in path.values() if _ID.fullmatch(each)), None)
        note = AuditNote(operation, "auth", resource, named, actor, outcome="denied", metadata=metadata)
        try:
            await gate.wiring.store.write_async(lambda uow: uow.audit.append(note))
        except IroncageError as unwritten:  # what cannot be remembered is not told either
            return refused(unwritten)
    return refused(error)
