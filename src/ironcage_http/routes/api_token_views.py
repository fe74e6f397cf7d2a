"""What API tokens look like on the wire: bodies and views."""

import contextlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

from ironcage_core.domain.api_tokens import ApiToken, ApiTokenFields, TokenUse
from ironcage_core.domain.instants import Instant, parse_instant
from ironcage_core.domain.money import parse_usd
from ironcage_core.errors.tree import ValidationError
from ironcage_http.wire import amount, moment

_UNSET: Final = msgspec.UNSET


class _Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What may be set of a token at any time; in a change null clears."""

    description: str | msgspec.UnsetType | None = _UNSET
    project_id: str | msgspec.UnsetType | None = _UNSET
    provider: str | msgspec.UnsetType | None = _UNSET
    scopes: list[str] | msgspec.UnsetType | None = _UNSET
    expires_at: str | msgspec.UnsetType | None = _UNSET
    rate_limit_rps: int | msgspec.UnsetType | None = _UNSET
    daily_request_limit: int | msgspec.UnsetType | None = _UNSET
    daily_token_limit: int | msgspec.UnsetType | None = _UNSET
    daily_limit_usd: Decimal | msgspec.UnsetType | None = _UNSET
    cost_cap_usd: Decimal | msgspec.UnsetType | None = _UNSET


class ApiTokenBody(_Limits, frozen=True, kw_only=True):
    """A new token; an unknown field is refused."""

    name: str | None = None
    agent_id: str | None = None
    user_id: Any = None


class ApiTokenChangeBody(_Limits, frozen=True, kw_only=True):
    """What changes; an unknown field is refused."""

    name: str | msgspec.UnsetType | None = _UNSET
    is_active: bool | msgspec.UnsetType | None = _UNSET


class RotateBody(msgspec.Struct, frozen=True):
    """When the new token ends, if not as the old one would have."""

    expires_at: str | None = None


class RevokeBody(msgspec.Struct, frozen=True):
    """Why."""

    reason: str | None = None


class ValidateBody(msgspec.Struct, frozen=True):
    """A value to look at."""

    token: str | None = None


class ApiTokenView(msgspec.Struct, frozen=True):
    """A token without its value, amounts in USD."""

    id: str
    name: str
    description: str | None
    user_id: str
    project_id: str | None
    agent_id: str | None
    provider: str | None
    scopes: list[str]
    status: str
    is_active: bool
    hint: str
    expires_at: str | None
    rate_limit_rps: int | None
    daily_request_limit: int | None
    daily_token_limit: int | None
    daily_limit_usd: Decimal | None
    cost_cap_usd: Decimal | None
    created_at: str | None
    updated_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    revoked_by: str | None
    rotated_from: str | None
    replaced_by: str | None


class NewApiTokenView(ApiTokenView, frozen=True, kw_only=True):
    """A token and its value."""

    token: str
    message: str


class UsageStatsView(msgspec.Struct, frozen=True):
    """What a token and those it was rotated from have used."""

    total_requests: int
    requests_today: int
    requests_last_hour: int
    total_tokens: int
    tokens_today: int
    total_cost_usd: Decimal
    cost_today_usd: Decimal


class UsedApiTokenView(ApiTokenView, frozen=True, kw_only=True):
    """A token and its use."""

    usage_stats: UsageStatsView


class RevokedApiTokenView(msgspec.Struct, frozen=True):
    """What became of a token."""

    id: str
    name: str
    revoked: bool
    revoked_at: str | None
    message: str


class ValidityView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a value opens anything; nothing more is told of one that does not."""

    valid: bool
    user_id: str | msgspec.UnsetType = _UNSET
    project_id: str | msgspec.UnsetType | None = _UNSET
    token_id: str | msgspec.UnsetType = _UNSET


def given(wish: ApiTokenBody | ApiTokenChangeBody, *, keeps_null: bool) -> ApiTokenFields:
    """Return the fields that a body has; what cannot be read stays as it is, and will not pass as a value."""
    fields: dict[str, Any] = {}
    for name in wish.__struct_fields__:
        value = getattr(wish, name)
        if value is _UNSET or name in _BINDINGS or (value is None and not keeps_null):
            continue
        column, reading = _READINGS.get(name, (name, None))
        fields[column] = value
        if value is not None and reading is not None:
            with contextlib.suppress(ValidationError):
                fields[column] = reading(value, field=name)
    return cast("ApiTokenFields", fields)


_BINDINGS: Final = frozenset(("agent_id", "user_id"))
_READINGS: Final[Mapping[str, tuple[str, Callable[..., int]]]] = MappingProxyType(
    {
        "expires_at": ("expires_at", parse_instant),
        "daily_limit_usd": ("daily_limit_micros", parse_usd),
        "cost_cap_usd": ("cost_cap_micros", parse_usd),
    }
)


def shown(token: ApiToken, now: Instant) -> tuple[Any, ...]:
    """Return the fields of the view, as of an instant."""
    return (
        token.id,
        token.name,
        token.description,
        token.user_id,
        token.project_id,
        token.agent_id,
        token.provider,
        token.scopes.split(),
        token.status_at(now),
        bool(token.is_active),
        token.hint,
        moment(token.expires_at),
        token.rate_limit_rps,
        token.daily_request_limit,
        token.daily_token_limit,
        None if token.daily_limit_micros is None else amount(token.daily_limit_micros),
        None if token.cost_cap_micros is None else amount(token.cost_cap_micros),
        moment(token.created_at),
        moment(token.updated_at),
        moment(token.last_used_at),
        moment(token.revoked_at),
        token.revoked_by,
        token.rotated_from,
        token.replaced_by,
    )


def stats(use: TokenUse) -> UsageStatsView:
    """Return the view of what was used."""
    return UsageStatsView(
        total_requests=use.total_requests,
        requests_today=use.requests_today,
        requests_last_hour=use.requests_last_hour,
        total_tokens=use.total_tokens,
        tokens_today=use.tokens_today,
        total_cost_usd=amount(use.total_cost),
        cost_today_usd=amount(use.cost_today),
    )
