"""API tokens: made, rotated and changed by people, seen and ended by programs too.

A value is in the answer that makes it and nowhere else.
"""

from typing import Final, get_args

from litestar.response.base import ASGIResponse

from ironcage_core.domain.api_tokens import ApiToken, ApiTokenStatus
from ironcage_core.domain.instants import Instant, parse_instant
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.lists import ApiTokenFilter, ApiTokenOrder, Page
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.api_token_changes import (
    revoke_api_token,
    rotatable,
    rotate_api_token,
    update_api_token,
)
from ironcage_core.services.api_token_lists import (
    UsedApiToken,
    list_api_tokens,
    used_api_token,
    validated_api_token,
)
from ironcage_core.services.api_tokens import IssuedApiToken, Minting, create_api_token, own_api_token
from ironcage_http.calls import NO_STORE, Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.routes.api_token_views import (
    ApiTokenBody,
    ApiTokenChangeBody,
    ApiTokenView,
    NewApiTokenView,
    RevokeBody,
    RevokedApiTokenView,
    RotateBody,
    UsedApiTokenView,
    ValidateBody,
    ValidityView,
    given,
    shown,
    stats,
)
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import moment

STATUSES: Final[tuple[ApiTokenStatus, ...]] = get_args(ApiTokenStatus)
ORDERS: Final[tuple[ApiTokenOrder, ...]] = get_args(ApiTokenOrder)
LONGEST_VALUE: Final = 500
KEEP_IT: Final = "Keep this token now: it is shown this once and cannot be read again"
REVOKED: Final = "The token was revoked; it opens nothing any more"


async def create(call: Call) -> ASGIResponse:
    """Make a token for the caller."""
    who = call.user()
    body = call.read(ApiTokenBody, is_strict=True)

    def run(uow: UnitOfWork) -> tuple[IssuedApiToken, Instant]:
        principal = who(uow)
        wish = body.value()
        issued = create_api_token(
            uow,
            principal,
            given(wish, keeps_null=False),
            agent_id=wish.agent_id,
            user_id=wish.user_id,
            most=call.wiring.settings.max_active_tokens,
            minting=_minting(call),
        )
        return issued, uow.now

    issued, now = await call.write(run)
    return _answer_new(issued, now, status=201)


def _minting(call: Call) -> Minting:
    return Minting(call.wiring.new_api_token, call.wiring.api_token_hash)


def _answer_new(issued: IssuedApiToken, now: Instant, *, status: int) -> ASGIResponse:
    view = NewApiTokenView(*shown(issued.record, now), token=issued.value, message=KEEP_IT)
    place = {"Location": f"/api/v1/api-tokens/{issued.record.id}"} if status == 201 else {}
    return answer(view, status=status, headers=NO_STORE | place)


async def list_all(call: Call) -> ASGIResponse:
    """List the tokens that the caller may see."""
    who = call.user()
    query = Query(call.query)
    paging = query.paging()
    order, descending = query.sort(ORDERS, default="-created_at")
    status, name = query.choice("status", STATUSES), query.text("name")
    project_id, agent_id = query.id("project_id", "proj"), query.id("agent_id", "agent")

    def run(uow: UnitOfWork) -> tuple[Page[ApiToken], Instant]:
        principal = who(uow)
        user_id = query.id("user_id", "user") if principal.reach == "all" else None
        query.check()
        which = ApiTokenFilter(user_id=user_id, status=status, project_id=project_id, agent_id=agent_id, name=name)
        return list_api_tokens(uow, principal, which, paging, order, descending=descending), uow.now

    await call.flush_counts()
    page, now = await call.see(run)
    return listed(page, paging, [ApiTokenView(*shown(token, now)) for token in page.rows])


async def get(call: Call) -> ASGIResponse:
    """Show one token and what it has used."""
    who = call.user()

    def run(uow: UnitOfWork) -> tuple[UsedApiToken, Instant]:
        return used_api_token(uow, who(uow), call.path["token_id"]), uow.now

    await call.flush_counts()
    used, now = await call.see(run)
    return answer(UsedApiTokenView(*shown(used.token, now), usage_stats=stats(used.use)))


async def update(call: Call) -> ASGIResponse:
    """Change what a token is good for."""
    who = call.user()
    body = call.read(ApiTokenChangeBody, is_strict=True)

    def run(uow: UnitOfWork) -> tuple[ApiToken, Instant]:
        principal = who(uow)
        body.check_syntax()
        token = own_api_token(uow, call.path["token_id"], principal)
        fields = given(body.value(), keeps_null=True)
        most = call.wiring.settings.max_active_tokens
        return update_api_token(uow, principal, token.id, fields, most=most), uow.now

    token, now = await call.write(run)
    return answer(ApiTokenView(*shown(token, now)))


async def rotate(call: Call) -> ASGIResponse:
    """Put a new token in the place of an active one."""
    who = call.user()
    body = call.read(RotateBody, may_be_empty=True)

    def run(uow: UnitOfWork) -> tuple[IssuedApiToken, Instant]:
        principal = who(uow)
        body.check_syntax()
        token = rotatable(uow, call.path["token_id"], principal)
        wish = body.value()
        until = None if wish.expires_at is None else parse_instant(wish.expires_at, field="expires_at")
        return rotate_api_token(uow, principal, token.id, expires_at=until, minting=_minting(call)), uow.now

    issued, now = await call.write(run)
    return _answer_new(issued, now, status=200)


async def revoke(call: Call) -> ASGIResponse:
    """End a token for good."""
    who = call.user()
    body = call.read(RevokeBody, may_be_empty=True)

    def run(uow: UnitOfWork) -> ApiToken:
        principal = who(uow)
        body.check_syntax()
        token = own_api_token(uow, call.path["token_id"], principal)
        return revoke_api_token(uow, principal, token.id, reason=body.value().reason)

    token = await call.write(run)
    return answer(RevokedApiTokenView(token.id, token.name, True, moment(token.revoked_at), REVOKED))


async def validate(call: Call) -> ASGIResponse:
    """Tell whether a value opens anything now."""
    body = call.read(ValidateBody, may_be_empty=True)
    value = body.value().token
    if value is None or not value.strip() or len(value) > LONGEST_VALUE:
        raise ValidationError({"token": f"must have 1 to {LONGEST_VALUE} characters"})
    value_hash = call.wiring.api_token_hash(value)
    token = None
    if value_hash is not None:
        known = value_hash
        token = await call.glance(lambda uow: validated_api_token(uow, known))
    if token is None:
        return answer(ValidityView(False))
    return answer(ValidityView(True, token.user_id, token.project_id, token.id))


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/api-tokens", create, "Make an API token for oneself, whose value is shown this once",
        body=ApiTokenBody, answer=NewApiTokenView, status=201, action="api_tokens.create", limit="api_token_make",
        codes=("FORBIDDEN", "AGENT_NOT_FOUND", "TOKEN_LIMIT_EXCEEDED"),
        example={"name": "ci", "scopes": ["agents:read"], "daily_request_limit": 1000},
    ),
    Route(
        "POST", "/api-tokens/validate", validate, "Tell whether an API token opens anything, without using it",
        body=ValidateBody, answer=ValidityView, action="api_tokens.validate", limit="api_token_validate",
        example={"token": "at_..."},
    ),
    Route(
        "GET", "/api-tokens", list_all, "List API tokens, ended ones included", action="api_tokens.read",
        query=(*PAGED, "user_id", "status", "name", "project_id", "agent_id"),
        answer=ApiTokenView,
    ),
    Route(
        "GET", "/api-tokens/{token_id}", get, "Show an API token and what it has used", action="api_tokens.read",
        answer=UsedApiTokenView, codes=("TOKEN_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "PUT", "/api-tokens/{token_id}", update, "Change what is given of an API token, and nothing else",
        body=ApiTokenChangeBody, answer=ApiTokenView, action="api_tokens.update",
        codes=(
            "TOKEN_NOT_FOUND", "FORBIDDEN", "NO_FIELDS_PROVIDED", "TOKEN_ALREADY_REVOKED", "TOKEN_ROTATED",
            "TOKEN_LIMIT_EXCEEDED",
        ),
        example={"is_active": False},
    ),
    Route(
        "POST", "/api-tokens/{token_id}/rotate", rotate, "Put a new API token in the place of an active one",
        body=RotateBody, answer=NewApiTokenView, action="api_tokens.rotate", limit="api_token_make",
        codes=("TOKEN_NOT_FOUND", "FORBIDDEN"),
        example={},
    ),
    Route(
        "DELETE", "/api-tokens/{token_id}", revoke, "End an API token for good",
        body=RevokeBody, answer=RevokedApiTokenView, action="api_tokens.revoke",
        codes=("TOKEN_NOT_FOUND", "FORBIDDEN", "TOKEN_ALREADY_REVOKED"),
        example={"reason": "leaked"},
    ),
)  # fmt: skip
