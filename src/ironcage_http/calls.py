"""Calls: one request as a handler sees it, and the one way from a route to its answer.

A handler reads without raising, then judges in the order of contract identity.md 1: credential, account, role, then
body, then the use case. All of that happens in one unit of work, so that what was judged is what is changed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from anyio import to_thread
from litestar import Request
from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Origin, Principal
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.ports.lists import Page, Paging
from ironcage_core.ports.storage import UnitOfWork, UseCase
from ironcage_http.credentials import Presented, presented
from ironcage_http.gate import Gate
from ironcage_http.wire import Read, S, encode
from ironcage_http.wiring import Wiring

T = TypeVar("T")

JSON: Final = "application/json"
QUERY_TIMEOUT_S: Final = 30.0
"""Source: contract analytics.md 3."""

NO_STORE: Final = {"Cache-Control": "no-store"}
"""For an answer with a credential in it."""


@dataclass(slots=True)
class Call:
    """One request: its parts (headers by lower-case name), the gate it came through, and the store it works on."""

    wiring: Wiring
    request: Request[Any, Any, Any]
    headers: Mapping[str, str] = field(repr=False)
    raw: bytes = field(repr=False)
    gate: Gate

    @property
    def path(self) -> Mapping[str, str]:
        """The parts of the path that vary, by name."""
        return self.request.path_params

    @property
    def free_text(self) -> str | None:
        """The last part of the path, in which an encoded slash is as good as any character; None if it is no UTF-8."""
        raw = self.request.scope["raw_path"].rstrip(b"/").rpartition(b"/")[2]
        try:
            return unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            return None

    @property
    def query(self) -> Mapping[str, list[str]]:
        """The query parameters, each with all its values."""
        return self.request.query_params.dict()

    @property
    def client_ip(self) -> str | None:
        """The address of the client: the peer of the socket, or whom a trusted proxy says."""
        return self.gate.origin.ip_address

    @property
    def origin(self) -> Origin:
        """Where the request came from, as the audit log remembers it."""
        return self.gate.origin

    def may_name(self, field: str) -> bool:
        """Tell at a glance whether the body may have a field; with an escape in it, a name may be spelled otherwise."""
        return f'"{field}"'.encode() in self.raw or b"\\" in self.raw

    def read(self, kind: type[S], *, may_be_empty: bool = False, is_strict: bool = False) -> Read[S]:
        """Read the body; what is wrong with it is raised when its value is asked for."""
        content_type, coding = self.headers.get("content-type"), self.headers.get("content-encoding")
        return Read(self.raw, content_type, kind, may_be_empty=may_be_empty, is_strict=is_strict, coding=coding)

    def presented(self, body_ic_token: str | None = None) -> Presented:
        """Return the request's credentials by kind."""
        return presented(self.headers, body_ic_token)

    def user(self) -> Callable[[UnitOfWork], Principal]:
        """Return what tells, in a unit of work, which user calls, if he may do what the route does.

        Raises:
            CredentialError: No user's credential, or one that is not genuine.
        """
        return self.gate.user(self.presented())

    def caller(self) -> Callable[[UnitOfWork], AgentIdentity | Principal]:
        """Return what tells, in a unit of work, who calls: an agent or a user.

        Raises:
            CredentialError: No credential, or one that is not genuine.
        """
        return self.gate.caller(self.presented())

    def agent(
        self, body_ic_token: str | None = None, *, settles: bool = False
    ) -> Callable[[UnitOfWork], AgentIdentity]:
        """Return what tells, in a unit of work, which agent calls, by its IC token in a header or in the body.

        Args:
            body_ic_token: The one in the body.
            settles: Whether a value that died lately may come through, to settle its leases.

        Raises:
            CredentialError: No IC token, or one that is not genuine.
        """
        return self.gate.agent(self.presented(body_ic_token), settles=settles)

    async def write(self, use_case: UseCase[T]) -> T:
        """Run a use case and return its answer once it is durable."""
        return await self.wiring.store.write_async(use_case)

    async def see(self, use_case: UseCase[T]) -> T:
        """Run a use case that reads, off the event loop."""
        return await to_thread.run_sync(partial(self.wiring.store.read, use_case, within_s=QUERY_TIMEOUT_S))

    async def see_all(
        self,
        who: Callable[[UnitOfWork], AgentIdentity | Principal],
        use_case: UseCase[T],
        *,
        agent_id: str | None = None,
    ) -> T:
        """Run a use case that shows the state of all agents at this instant.

        What time has done to their leases meanwhile is written first, in units of work that other calls pass between.

        Args:
            who: Tells who calls; whoever may not look is refused before anything is done for him.
            use_case: As for `see`.
            agent_id: The one agent it shows, if it shows only one.
        """
        sweeper = self.wiring.sweeper
        if agent_id is None and await sweeper.is_behind():
            caller = await self.glance(who)
            if not isinstance(caller, AgentIdentity):  # an agent sees itself alone
                await sweeper.catch_up()
        return await self.see(use_case)

    async def glance(self, use_case: UseCase[T]) -> T:
        """Run a use case of a few point reads at once, on the event loop."""
        return await self.wiring.store.glance_async(use_case)

    async def flush_counts(self) -> None:
        """Make the counted requests of API tokens durable, so that what is read next shows them."""
        await self.wiring.flush_counts()


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
