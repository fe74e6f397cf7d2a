"""Provider keys: taken in by an admin, seen by everybody as far as the role lets."""

import json
from decimal import Decimal
from typing import Any, Final, cast, get_args

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.providers import KNOWN_PROVIDERS, ProviderKeyFields
from ironcage_core.domain.users import Role
from ironcage_core.ports.lists import KeyFilter, KeyOrder, Page
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.provider_key_changes import DeletedKey, delete_provider_key, update_provider_key
from ironcage_core.services.provider_keys import (
    KeyOverview,
    KeyUsage,
    add_provider_key,
    get_provider_key,
    list_provider_keys,
    provider_key_overview,
    provider_key_usage,
)
from ironcage_http.calls import Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import amount, moment

ORDERS: Final[tuple[KeyOrder, ...]] = get_args(KeyOrder)
HIDDEN: Final = "***"
_UNSET: Final = msgspec.UNSET


class ProviderBody(msgspec.Struct, frozen=True):
    """A new provider key; an unknown field is refused."""

    provider: str
    api_key: str
    name: str | None = None
    base_url: str | None = None
    is_enabled: bool | None = None
    description: str | None = None
    models: list[str] | None = None


class ProviderChangeBody(msgspec.Struct, frozen=True):
    """What to change of a provider key; an unknown field is refused, null clears what may be empty."""

    provider: str | msgspec.UnsetType = _UNSET
    api_key: str | msgspec.UnsetType | None = _UNSET
    name: str | msgspec.UnsetType | None = _UNSET
    base_url: str | msgspec.UnsetType | None = _UNSET
    is_enabled: bool | msgspec.UnsetType | None = _UNSET
    description: str | msgspec.UnsetType | None = _UNSET
    models: list[str] | msgspec.UnsetType | None = _UNSET


class ProviderView(msgspec.Struct, frozen=True):
    """A provider key without the key."""

    id: str
    name: str
    provider: str
    base_url: str | None
    description: str | None
    models: list[str]
    is_enabled: bool
    status: str
    credentials_configured: bool
    masked_key: str
    assigned_projects: list[str]
    agent_count: int
    created_by: str | None
    created_at: str | None
    updated_at: str | None
    last_used_at: str | None


class KeyUsageView(msgspec.Struct, frozen=True):
    """What a provider key was used for; today is the UTC day."""

    agent_count: int
    total_requests: int
    total_spend: Decimal
    requests_today: int
    spend_today: Decimal


class ProviderDetailView(ProviderView, frozen=True):
    """A provider key with what it was used for, which is for admins."""

    usage: KeyUsageView | None = None


class DeletedProviderView(msgspec.Struct, frozen=True):
    """A provider key that is gone, and whom it was assigned to."""

    id: str
    name: str
    deleted: bool
    agents_affected: list[str]
    agents_count: int
    projects_affected: list[str]


async def create(call: Call) -> ASGIResponse:
    """Take in a provider key."""
    who = call.user()
    body = call.read(ProviderBody, is_strict=True)

    def run(uow: UnitOfWork) -> tuple[KeyOverview, Principal]:
        principal = who(uow)
        wish = body.value()
        key = add_provider_key(
            uow,
            provider=wish.provider,
            api_key=wish.api_key,
            name=wish.name,
            base_url=wish.base_url,
            description=wish.description,
            models=wish.models or (),
            is_enabled=wish.is_enabled is not False,
            allows_http=_allows_http(call),
            actor=principal.actor,
            vault=call.wiring.vault,
        )
        return KeyOverview(key, 0), principal

    seen, principal = await call.write(run)
    return answer(ProviderView(*_shown(seen, principal.role)), status=201)


def _allows_http(call: Call) -> bool:
    return call.wiring.settings.mode != "production"


async def list_all(call: Call) -> ASGIResponse:
    """List provider keys."""
    who = call.user()
    query = Query(call.query)
    paging = query.paging()
    order, descending = query.sort(ORDERS, default="-created_at")
    name, provider = query.text("name"), query.choice("provider", KNOWN_PROVIDERS)
    is_enabled, status = query.flag("is_enabled"), query.choice("status", ("active", "inactive"))
    states = {is_enabled, None if status is None else status == "active"} - {None}

    def run(uow: UnitOfWork) -> tuple[Page[KeyOverview], Principal]:
        principal = who(uow)
        query.check()
        if len(states) > 1:  # no key is both
            return Page((), 0), principal
        which = KeyFilter(name, provider, next(iter(states), None))
        return list_provider_keys(uow, which, paging, order, descending=descending, principal=principal), principal

    page, principal = await call.see(run)
    return listed(page, paging, [ProviderView(*_shown(each, principal.role)) for each in page.rows])


async def get(call: Call) -> ASGIResponse:
    """Show one provider key."""
    who = call.user()

    def run(uow: UnitOfWork) -> ProviderDetailView:
        principal = who(uow)
        seen = provider_key_overview(uow, call.path["provider_id"], principal)
        usage = None
        if principal.role == "admin":
            usage = _usage_view(seen, provider_key_usage(uow, seen.key.id, principal))
        return ProviderDetailView(*(*_shown(seen, principal.role), usage))

    return answer(await call.see(run))


def _usage_view(seen: KeyOverview, usage: KeyUsage) -> KeyUsageView:
    return KeyUsageView(
        agent_count=seen.agents,
        total_requests=usage.total.completed,
        total_spend=amount(usage.total.cost_micros),
        requests_today=usage.today.completed,
        spend_today=amount(usage.today.cost_micros),
    )


async def update(call: Call) -> ASGIResponse:
    """Change a provider key."""
    who = call.user()
    body = call.read(ProviderChangeBody, is_strict=True)

    def run(uow: UnitOfWork) -> tuple[KeyOverview, Principal]:
        principal = who(uow)
        body.check_syntax()
        key = get_provider_key(uow, call.path["provider_id"])
        update_provider_key(
            uow,
            key.id,
            _given(body.value()),
            allows_http=_allows_http(call),
            actor=principal.actor,
            vault=call.wiring.vault,
        )
        return provider_key_overview(uow, key.id, principal), principal

    seen, principal = await call.write(run)
    return answer(ProviderView(*_shown(seen, principal.role)))


def _given(wish: ProviderChangeBody) -> ProviderKeyFields:
    fields = {name: getattr(wish, name) for name in wish.__struct_fields__}
    return cast("ProviderKeyFields", {name: value for name, value in fields.items() if value is not _UNSET})


async def delete(call: Call) -> ASGIResponse:
    """Delete a provider key."""
    who = call.user()

    def run(uow: UnitOfWork) -> DeletedKey:
        return delete_provider_key(uow, call.path["provider_id"], actor=who(uow).actor)

    gone = await call.write(run)
    view = DeletedProviderView(
        id=gone.key.id,
        name=gone.key.name,
        deleted=True,
        agents_affected=[*gone.agents],
        agents_count=len(gone.agents),
        projects_affected=[*gone.projects],
    )
    return answer(view)


def _shown(seen: KeyOverview, role: Role) -> tuple[Any, ...]:
    """Return the fields of the view: an admin sees mask and maker, a viewer neither URL nor description."""
    key = seen.key
    return (
        key.id,
        key.name,
        key.provider,
        None if role == "viewer" else key.base_url,
        None if role == "viewer" else key.description,
        json.loads(key.models),
        bool(key.is_enabled),
        "active" if key.is_enabled else "inactive",
        True,
        key.masked_key if role == "admin" else HIDDEN,
        [*seen.projects],
        seen.agents,
        key.created_by if role == "admin" else None,
        moment(key.created_at),
        moment(key.updated_at),
        moment(key.last_used_at),
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/providers", create, "Take in a provider's API key, which is sealed and never shown again",
        body=ProviderBody, answer=ProviderView, status=201, action="providers.write", limit="create",
        codes=("PROVIDER_EXISTS", "CRYPTO_UNAVAILABLE"),
        example={"provider": "openai", "api_key": "sk-...", "name": "main"},
    ),
    Route(
        "GET", "/providers", list_all, "List provider keys, as far as the role may see them",
        action="providers.read",
        query=(*PAGED, "name", "provider", "is_enabled", "status"), limit="read", answer=ProviderView,
    ),
    Route(
        "GET", "/providers/{provider_id}", get, "Show a provider key, as far as the role may see it",
        action="providers.read", limit="read", answer=ProviderDetailView, codes=("PROVIDER_NOT_FOUND",),
    ),
    Route(
        "PUT", "/providers/{provider_id}", update, "Change a provider key; a new API key takes the old one's place",
        body=ProviderChangeBody, answer=ProviderView, action="providers.write",
        codes=("PROVIDER_NOT_FOUND", "NO_FIELDS_PROVIDED", "PROVIDER_EXISTS", "CRYPTO_UNAVAILABLE"),
        example={"description": "the one of the research team", "is_enabled": True},
    ),
    Route(
        "DELETE", "/providers/{provider_id}", delete,
        "Delete a provider key; nothing is assigned it any more, and leases on it are revoked",
        answer=DeletedProviderView, action="providers.write", codes=("PROVIDER_NOT_FOUND",),
    ),
)  # fmt: skip
