"""Tokens of both kinds, in one list that only reads."""

from typing import Any, Final, get_args

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.api_tokens import ApiTokenStatus
from ironcage_core.ports.lists import Page, TokenFilter, TokenKind
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import TokenEntry
from ironcage_core.services.api_token_lists import list_tokens
from ironcage_http.calls import Call, listed
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import moment

KINDS: Final[tuple[TokenKind, ...]] = get_args(TokenKind)
STATUSES: Final[tuple[ApiTokenStatus, ...]] = get_args(ApiTokenStatus)


class TokenView(msgspec.Struct, frozen=True):
    """What API tokens and IC tokens have in common."""

    id: str
    kind: str
    name: str
    owner_id: str
    agent_id: str | None
    project_id: str | None
    status: str
    created_at: str | None
    created_by: str
    last_used_at: str | None
    expires_at: str | None


async def list_all(call: Call) -> ASGIResponse:
    """List the tokens of both kinds that the caller may see."""
    who = call.user()
    query = Query(call.query)
    query.choice("sort", ("-created_at",))  # the one order there is
    paging = query.paging()
    which = TokenFilter(
        kind=query.choice("kind", KINDS),
        agent_id=query.id("agent_id", "agent"),
        project_id=query.id("project_id", "proj"),
        status=query.choice("status", STATUSES),
        search=query.text("search"),
    )

    def run(uow: UnitOfWork) -> Page[TokenEntry]:
        principal = who(uow)
        query.check()
        return list_tokens(uow, principal, which, paging)

    await call.flush_counts()
    page = await call.see(run)
    return listed(page, paging, [TokenView(*_shown(entry)) for entry in page.rows])


def _shown(entry: TokenEntry) -> tuple[Any, ...]:
    return (
        entry.id,
        entry.kind,
        entry.name,
        entry.owner_id,
        entry.agent_id,
        entry.project_id,
        entry.status,
        moment(entry.created_at),
        entry.created_by,
        moment(entry.last_used_at),
        moment(entry.expires_at),
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/tokens", list_all, "List API tokens and IC tokens together", action="tokens.list",
        query=(*PAGED, "kind", "agent_id", "project_id", "status", "search"), answer=TokenView,
        codes=("INSUFFICIENT_SCOPE",),
    ),
)  # fmt: skip
