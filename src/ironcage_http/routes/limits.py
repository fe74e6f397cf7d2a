"""Usage limits over the wire: set by admins, shown to the users they hold. Amounts are USD."""

from decimal import Decimal
from typing import Final, cast

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.ports.lists import LimitFilter, Page
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_limits import (
    LimitFields,
    LimitView,
    any_limit,
    change_limit,
    create_limit,
    delete_limit,
    get_limit,
    list_limits,
)
from ironcage_http.calls import Call, answer, listed, nothing
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import Read, amount, micros, moment

_UNSET: Final = msgspec.UNSET


class UsageLimitBody(msgspec.Struct, frozen=True):
    """A new limit: on a user in all, or in one project. It has at least one cap; an unknown field is refused."""

    user_id: str
    project_id: str | None = None
    max_tokens_per_day: int | None = None
    max_requests_per_minute: int | None = None
    max_cost_per_month_usd: Decimal | None = None


class UsageLimitChangeBody(msgspec.Struct, frozen=True):
    """Which caps change; null removes one, one must remain. An unknown field is refused."""

    user_id: str | msgspec.UnsetType | None = _UNSET
    project_id: str | msgspec.UnsetType | None = _UNSET
    max_tokens_per_day: int | msgspec.UnsetType | None = _UNSET
    max_requests_per_minute: int | msgspec.UnsetType | None = _UNSET
    max_cost_per_month_usd: Decimal | msgspec.UnsetType | None = _UNSET


class UsageOfLimitView(msgspec.Struct, frozen=True):
    """What counts against the caps now, and when each window ends."""

    tokens_today: int
    requests_this_minute: int
    cost_this_month_usd: Decimal
    held_usd: Decimal
    day_resets_at: str | None
    minute_resets_at: str | None
    month_resets_at: str | None


class UsageLimitView(msgspec.Struct, frozen=True):
    """A limit and what counts against it."""

    id: str
    user_id: str
    project_id: str | None
    max_tokens_per_day: int | None
    max_requests_per_minute: int | None
    max_cost_per_month_usd: Decimal | None
    usage: UsageOfLimitView
    created_at: str | None
    updated_at: str | None


async def create(call: Call) -> ASGIResponse:
    """Limit a user."""
    who = call.user()
    body = call.read(UsageLimitBody, is_strict=True)
    levels = call.wiring.settings.leases.alert_levels

    def run(uow: UnitOfWork) -> LimitView:
        principal = who(uow)
        fields, unreadable = _given(body)
        return create_limit(uow, fields, unreadable=unreadable, actor=principal.actor, levels=levels)

    return answer(_view(await call.write(run)), status=201)


async def list_all(call: Call) -> ASGIResponse:
    """List limits: an admin's are all."""
    who = call.user()
    query = Query(call.query)
    paging = query.paging()
    query.choice("sort", ("-created_at",))  # the one order there is
    which = LimitFilter(user_id=query.id("user_id", "user"), project_id=query.id("project_id", "proj"))

    def run(uow: UnitOfWork) -> Page[LimitView]:
        principal = who(uow)
        query.check()
        return list_limits(uow, which, paging, principal=principal)

    page = await call.see_all(who, run)
    return listed(page, paging, [_view(each) for each in page.rows])


async def get(call: Call) -> ASGIResponse:
    """Show one limit."""
    who = call.user()
    return answer(_view(await call.see_all(who, lambda uow: get_limit(uow, call.path["limit_id"], who(uow)))))


async def update(call: Call) -> ASGIResponse:
    """Change a limit's caps."""
    who = call.user()
    body = call.read(UsageLimitChangeBody, is_strict=True)
    levels = call.wiring.settings.leases.alert_levels

    def run(uow: UnitOfWork) -> LimitView:
        principal = who(uow)
        body.check_syntax()
        limit = any_limit(uow, call.path["limit_id"])
        fields, unreadable = _given(body)
        return change_limit(uow, limit.id, fields, unreadable=unreadable, actor=principal.actor, levels=levels)

    return answer(_view(await call.write(run)))


async def delete(call: Call) -> ASGIResponse:
    """Lift a limit."""
    who = call.user()
    await call.write(lambda uow: delete_limit(uow, call.path["limit_id"], actor=who(uow).actor))
    return nothing()


def _given(body: Read[UsageLimitBody] | Read[UsageLimitChangeBody]) -> tuple[LimitFields, dict[str, str]]:
    """Return the fields that a body has and that can be read, and what is wrong with the others."""
    parts, faults = body.parts()
    fields, unreadable = {name: value for name, value in parts.items() if value is not _UNSET}, {**faults}
    if "max_cost_per_month_usd" in fields:
        cost = fields.pop("max_cost_per_month_usd")
        fields["max_cost_per_month"] = (
            None if cost is None else micros(cost, field="max_cost_per_month_usd", problems=unreadable)
        )
    return cast("LimitFields", fields), unreadable


def _view(seen: LimitView) -> UsageLimitView:
    limit, usage = seen.limit, seen.usage
    cost = limit.max_cost_per_month
    return UsageLimitView(
        id=limit.id,
        user_id=limit.user_id,
        project_id=limit.project_id,
        max_tokens_per_day=limit.max_tokens_per_day,
        max_requests_per_minute=limit.max_requests_per_minute,
        max_cost_per_month_usd=None if cost is None else amount(cost),
        usage=UsageOfLimitView(
            tokens_today=usage.tokens_today,
            requests_this_minute=usage.requests_this_minute,
            cost_this_month_usd=amount(usage.cost_this_month),
            held_usd=amount(usage.held),
            day_resets_at=moment(usage.day_resets_at),
            minute_resets_at=moment(usage.minute_resets_at),
            month_resets_at=moment(usage.month_resets_at),
        ),
        created_at=moment(limit.created_at),
        updated_at=moment(limit.updated_at),
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/limits", create, "Limit what a user may use, in all or in one project", body=UsageLimitBody,
        answer=UsageLimitView, status=201, action="limits.write", limit="create", codes=("LIMIT_EXISTS",),
        example={"user_id": "user_...", "max_tokens_per_day": 1000000, "max_cost_per_month_usd": 50},
    ),
    Route(
        "GET", "/limits", list_all, "List usage limits, newest first: all for an admin, else one's own",
        answer=UsageLimitView, action="limits.read", query=(*PAGED, "user_id", "project_id"), limit="read",
    ),
    Route(
        "GET", "/limits/{limit_id}", get, "Show a usage limit and what counts against it", answer=UsageLimitView,
        action="limits.read", limit="read", codes=("LIMIT_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "PUT", "/limits/{limit_id}", update, "Change the caps of a usage limit", body=UsageLimitChangeBody,
        answer=UsageLimitView, action="limits.write", limit="update",
        codes=("LIMIT_NOT_FOUND", "NO_FIELDS_PROVIDED"),
        example={"max_tokens_per_day": 2000000, "max_requests_per_minute": None},
    ),
    Route(
        "DELETE", "/limits/{limit_id}", delete, "Lift a usage limit", status=204, action="limits.write",
        limit="delete", codes=("LIMIT_NOT_FOUND",),
    ),
)  # fmt: skip
