"""Calls: one request as a handler sees it, and the one way from a route to its answer.

A handler reads without raising, then judges in the order of contract identity.md 1: credential, account, role, then
body, then the use case. All of that happens in one unit of work, so that what was judged is what is changed.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from anyio import to_thread
from litestar import Request
from litestar.exceptions import InternalServerException
from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Origin, Principal
from ironcage_core.domain.ic_tokens import AgentIdentity, PresentedIcToken
from ironcage_core.domain.users import Role
from ironcage_core.errors import ForbiddenError, InvalidTokenError, IroncageError, WrongTokenTypeError
from ironcage_core.ports.lists import Page, Paging
from ironcage_core.ports.storage import UnitOfWork, UseCase
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.sessions import authenticate_access
from ironcage_http.credentials import Presented, presented
from ironcage_http.errors import MissingTokenError, refused
from ironcage_http.wire import Read, S, encode
from ironcage_http.wiring import Wiring

T = TypeVar("T")

RANKS: Final[Mapping[str, int]] = {"viewer": 0, "user": 1, "admin": 2}
JSON: Final = "application/json"
NO_STORE: Final = {"Cache-Control": "no-store"}
"""For an answer with a credential in it."""
LONGEST_USER_AGENT: Final = 500


class AgentTokenForbiddenError(ForbiddenError):
    """An agent's credential on a route that is not for agents."""

    code = "AGENT_TOKEN_FORBIDDEN"


class PasswordChangeRequiredError(ForbiddenError):
    """The account must change its password before anything else."""

    code = "PASSWORD_CHANGE_REQUIRED"


@dataclass(slots=True)
class Call:
    """One request: its parts, who sends it, and the store it works on."""

    wiring: Wiring
    request: Request[Any, Any, Any]
    raw: bytes

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by lower-case name."""
        return self.request.headers

    @property
    def path(self) -> Mapping[str, str]:
        """The parts of the path that vary, by name."""
        return self.request.path_params

    @property
    def query(self) -> Mapping[str, list[str]]:
        """The query parameters, each with all its values."""
        return self.request.query_params.dict()

    @property
    def ip_address(self) -> str | None:
        """The peer of the socket."""
        client = self.request.scope.get("client")
        return client[0] if client else None

    @property
    def request_id(self) -> str:
        """What the request is called in logs and in the audit log."""
        return str(self.request.scope["state"]["request_id"])

    def read(self, kind: type[S], *, may_be_empty: bool = False, is_strict: bool = False) -> Read[S]:
        """Read the body; what is wrong with it is raised when its value is asked for."""
        content_type = self.headers.get("content-type")
        return Read(self.raw, content_type, kind, may_be_empty=may_be_empty, is_strict=is_strict)

    def presented(self, body_ic_token: str | None = None) -> Presented:
        """Return the request's credentials by kind."""
        return presented(self.headers, body_ic_token)

    def ic_token(self, credentials: Presented) -> PresentedIcToken:
        """Prove the IC token of a call that only agents make.

        Raises:
            MissingTokenError, WrongTokenTypeError: None, or only a user's credential.
            InvalidTokenError, TokenExpiredError: It is not genuine, or over.
        """
        if credentials.ic is None:
            raise WrongTokenTypeError if credentials.has_user else MissingTokenError("A token is needed")
        if credentials.ic.startswith("ic_"):  # a second prefix
            raise InvalidTokenError
        return self.wiring.ic_signer.prove(credentials.ic, now=self.wiring.clock.now())

    def caller(self) -> Callable[[UnitOfWork], AgentIdentity | Principal]:
        """Return what tells, in a unit of work, who calls: an agent or a user.

        Raises:
            CredentialError: No credential, or one that is not genuine.
        """
        credentials = self.presented()
        if credentials.has_user or credentials.ic is None:
            return self.user()
        proven = self.ic_token(credentials)
        return partial(authenticate, presented=proven)

    def user(self, role: Role = "viewer", *, may_owe_password: bool = False) -> Callable[[UnitOfWork], Principal]:
        """Return what tells, in a unit of work, which user calls, if he has at least `role`.

        Raises:
            CredentialError: No user's credential, or one that is not genuine.
        """
        credentials = self.presented()
        if credentials.session is None:
            return self._without_session(credentials)
        claims = self.wiring.access_signer.prove(credentials.session, now=self.wiring.clock.now())

        origin = self.origin

        def judged(uow: UnitOfWork) -> Principal:
            principal = authenticate_access(uow, claims, origin=origin)
            if principal.must_change_password and not may_owe_password:
                raise PasswordChangeRequiredError("The password must be changed first")
            if RANKS[principal.role] < RANKS[role]:
                raise ForbiddenError(f"This needs the role {role}")
            return principal

        return judged

    def _without_session(self, credentials: Presented) -> Callable[[UnitOfWork], Principal]:
        if credentials.refresh is not None:
            raise WrongTokenTypeError
        if credentials.api is not None:  # no API token exists that could match it
            raise InvalidTokenError
        if credentials.ic is None:
            raise MissingTokenError("A token is needed")
        proven = self.ic_token(credentials)

        def refuse(uow: UnitOfWork) -> Principal:
            authenticate(uow, proven)  # a dead token is told no more than that it is dead
            raise AgentTokenForbiddenError("An agent's token is not accepted here")

        return refuse

    @property
    def origin(self) -> Origin:
        """Where the request came from, as the audit log remembers it."""
        agent = (self.headers.get("user-agent") or "")[:LONGEST_USER_AGENT] or None
        return Origin(self.ip_address, agent, self.request_id)

    async def write(self, use_case: UseCase[T]) -> T:
        """Run a use case and return its answer once it is durable."""
        return await self.wiring.store.write_async(use_case)

    async def see(self, use_case: UseCase[T]) -> T:
        """Run a use case that reads, off the event loop."""
        return await to_thread.run_sync(self.wiring.store.read, use_case)


Handler = Callable[[Call], Awaitable[ASGIResponse]]


class PaginationView(msgspec.Struct, frozen=True):
    """Where a page stands in its list."""

    page: int
    per_page: int
    total: int
    total_pages: int


def answer(view: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> ASGIResponse:
    """Return a view as JSON."""
    return ASGIResponse(body=encode(view), status_code=status, media_type=JSON, headers=dict(headers or {}))


def nothing() -> ASGIResponse:
    """Return the answer without a body."""
    return ASGIResponse(status_code=204)


def listed(page: Page[Any], paging: Paging, views: list[Any], **extra: object) -> ASGIResponse:
    """Return one page of a list."""
    pages = -(-page.total // paging.per_page)
    return answer(
        {"data": views, "pagination": PaginationView(paging.page, paging.per_page, page.total, pages), **extra}
    )


def endpoint(handler: Handler, wiring: Wiring) -> Callable[[Request[Any, Any, Any]], Awaitable[ASGIResponse]]:
    """Return the Litestar handler of a route: it reads the request, runs the handler and maps its refusals."""

    async def handle(request: Request[Any, Any, Any]) -> ASGIResponse:
        try:
            raw = b"" if request.method == "GET" else await request.body()
        except InternalServerException:  # the client has gone; nobody reads the answer
            return ASGIResponse(status_code=400)
        try:
            return await handler(Call(wiring, request, raw))
        except IroncageError as error:
            return refused(error)

    return handle
