"""Fields of bodies in the description of the interface: what each may be, beyond its type.

A field means the same in every body, unless it stands here with the name of one. A limit that the operator sets is
left out: the description is the same everywhere. Tests send what lies at and beyond each edge.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ironcage_core.domain.agents import LONGEST_TAG, MOST_LOOKED_AT
from ironcage_core.domain.api_tokens import EVERY_SCOPE, MAX_SCOPES
from ironcage_core.domain.call_events import EVENT_PROVIDERS, EVENT_TYPES
from ironcage_core.domain.ic_tokens import KNOWN_PERMISSIONS
from ironcage_core.domain.permissions import PERMISSIONS
from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_core.domain.reservations import MAX_TTL_S
from ironcage_core.domain.usage import MAX_TOKENS
from ironcage_core.services.agent_changes import STATUSES
from ironcage_core.services.api_tokens import LONGEST_USER_ID
from ironcage_core.services.ic_tokens import MAX_OVERLAP_S
from ironcage_core.services.usage_limits import MAX_COUNT
from ironcage_core.services.users import ROLES
from ironcage_http.described_kinds import (
    EMAIL,
    PROJECT,
    TIME,
    Schema,
    each,
    ident,
    line,
    password,
    prose,
    remark,
    text,
    trimmed,
    usd,
    whole,
    words,
)

_SLUG: Final[Schema] = {"type": "string", "maxLength": 50, "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"}
_NUMBER: Final = "(0|[1-9][0-9]*)"
_VERSION: Final = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"
_COUNT: Final = whole(0, MAX_TOKENS)
_EVENT_COUNT: Final = whole(0, 10**9)
_LARGEST: Final = 10**12
_BUDGET: Final = usd(0.01, 999_999.99)

FIELDS: Final[Mapping[str, Schema]] = MappingProxyType(
    {
        "agent_id": ident("agent"),
        "amount": usd(0),
        "api_key": {"type": "string", "minLength": 1, "pattern": r"^\s*[!-~]{1,500}\s*$"},
        "approved_budget": _BUDGET,
        "base_url": {"type": "string", "maxLength": 500, "pattern": "^[!-~]*$"},
        "budget": _BUDGET,
        "cached_input_tokens": _COUNT,
        "cache_write_tokens": _COUNT,
        "cost_cap_usd": usd(0.000001, 1_000_000),
        "cost_micros": whole(0, _LARGEST),
        "cost_usd": usd(0),
        "current_lease_id": ident("lease"),
        "daily_limit_usd": usd(0.000001, 1_000_000),
        "daily_request_limit": whole(1, _LARGEST),
        "daily_token_limit": whole(1, _LARGEST),
        "description": line(500),
        "duration_ms": whole(0, 86_400_000),
        "email": text(255),
        "endpoint": line(200),
        "error_code": line(100),
        "event_id": text(100),
        "event_type": words(*EVENT_TYPES),
        "expected_budget": usd(0),
        "expires_at": TIME,
        "final_spent_usd": usd(0),
        "ic_token": {"type": "string", "minLength": 1},
        "input_tokens": _COUNT,
        "justification": prose(500, 20),
        "lease_id": ident("lease"),
        "lease_ttl_seconds": whole(1, 86_400),
        "max_cost_per_month_usd": usd(0.000001, 1_000_000_000),
        "max_requests_per_minute": whole(1, MAX_COUNT),
        "max_tokens_per_day": whole(1, MAX_COUNT),
        "model": text(100),
        "models": each(text(100), most=100),
        "name": text(100),
        "new_password": password(),
        "output_tokens": _COUNT,
        "overlap_seconds": whole(0, MAX_OVERLAP_S),
        "owner_id": ident("user"),
        "password": password(),
        "permissions": each(words(*KNOWN_PERMISSIONS), least=1),
        "project_id": PROJECT,
        "provider": words(*KNOWN_PROVIDERS),
        "provider_id": text(100),
        "provider_key_id": ident("prov"),
        "providers": each(ident("prov")),
        "rate_limit_rps": whole(1, 1000),
        "reason": prose(500),
        "refresh_token": {"type": "string", "minLength": 1, "maxLength": 500},
        "request_id": text(100),
        "requested_budget": usd(0.000001),
        "response_status": whole(100, 599),
        "review_notes": prose(500),
        "role": words(*ROLES),
        "runtime_id": text(100),
        "runtime_version": text(100),
        "scopes": {**each(words(EVERY_SCOPE, *PERMISSIONS), least=1, most=MAX_SCOPES), "uniqueItems": True},
        "status": words(*STATUSES),
        "tags": each(text(LONGEST_TAG), most=MOST_LOOKED_AT),
        "timestamp": TIME,
        "timestamp_ms": whole(946_684_800_000),
        "tokens": whole(1, MAX_TOKENS),
        "ttl_seconds": whole(1, MAX_TTL_S),
        "user_id": ident("user"),
        "username": text(255),
        "AgentBody.description": trimmed(500),
        "AgentChangeBody.budget": {
            "not": {},
            "description": "Refused: `PUT /limits/agents/{agent_id}/budget` sets it.",
        },
        "AgentChangeBody.description": trimmed(500),
        "ApprovalBody.review_notes": remark(500),
        "AllocationBody.reason": remark(500),
        "ApiTokenBody.provider": text(64),
        "ApiTokenBody.user_id": {
            "anyOf": [text(LONGEST_USER_ID), {"type": "null"}],
            "description": "The caller's own, if any.",
        },
        "ApiTokenChangeBody.provider": text(64),
        "BatchBody.reports": {"type": "array", "minItems": 1},
        "CallEventBody.input_tokens": _EVENT_COUNT,
        "CallEventBody.lease_id": {},
        "CallEventBody.model": text(200),
        "CallEventBody.output_tokens": _EVENT_COUNT,
        "CallEventBody.provider": words(*EVENT_PROVIDERS),
        "EventBatchBody.events": {"type": "array", "minItems": 1, "maxItems": 1000},
        "HandshakeBody.provider": text(50),
        "HandshakeBody.runtime_version": {"type": "string", "pattern": _VERSION},
        "IssueBody.description": trimmed(500),
        "LoginBody.password": password(1),
        "NewUserBody.email": EMAIL,
        "ProjectBody.description": trimmed(500),
        "ProjectChangeBody.description": trimmed(500),
        "ProviderBody.name": _SLUG,
        "ProviderChangeBody.name": _SLUG,
        "LogoutBody.refresh_token": {},
        "RefreshBody.budget_id": ident("budget"),
        "RejectionBody.review_notes": prose(500, 20),
        "ReportBody.provider": text(50),
        "RequestBody.requested_budget": _BUDGET,
        "StopBody.reason": remark(500),
        "SuspendBody.reason": prose(1000),
        "TelemetryBody.events": {"type": "array", "minItems": 1, "maxItems": 500},
        "ValidateBody.token": {"type": "string", "minLength": 1, "maxLength": 500},
    }
)
"""What a field may be if it is not null; amounts may be texts as well, of which no limit can be said."""

NEVER_NULL: Final = frozenset(
    (
        "ApiTokenBody.name", "ApiTokenChangeBody.name", "ApiTokenChangeBody.scopes", "ApiTokenChangeBody.is_active",
        "ProjectChangeBody.name", "ProjectChangeBody.owner_id", "ProviderChangeBody.api_key",
        "ProviderChangeBody.is_enabled", "ProviderChangeBody.models", "ProviderChangeBody.name", "ValidateBody.token",
    )
)  # fmt: skip
"""The fields that may be left out, or must be there, but may not be null whatever their type says."""

NEEDED: Final = frozenset(("ApiTokenBody.name", "ValidateBody.token"))
"""The fields that must be there whatever their type says."""

CLOSED: Final = frozenset(
    (
        "ApiTokenBody", "ApiTokenChangeBody", "LoginBody", "MeBody", "NewUserBody", "PasswordBody", "ProviderBody",
        "ProviderChangeBody", "ResetBody", "RoleBody", "UsageLimitBody", "UsageLimitChangeBody",
        "SessionRefreshBody",
    )
)  # fmt: skip
"""The bodies in which an unknown field is refused."""

OPTIONAL: Final = frozenset(
    (
        "AgentKeyBody", "ApprovalBody", "CancelBody", "HandshakeBody", "IssueBody", "LeaseRevocationBody",
        "LogoutBody", "RegenerateBody", "RevokeBody", "RotateBody", "SessionRefreshBody", "StopBody", "SuspendBody",
        "TokenBody",
    )
)  # fmt: skip
"""The bodies that may be left out."""


def with_limits(name: str, schema: Schema) -> dict[str, Any]:
    """Return the schema of a body with what is known of its fields.

    Args:
        name: The body's name.
        schema: What its types say.
    """
    fields = {field: _limited(name, field, kind) for field, kind in schema.get("properties", {}).items()}
    needed = [field for field in fields if f"{name}.{field}" in NEEDED]
    closed = {"additionalProperties": False} if name in CLOSED else {}
    return {**schema, "properties": fields, "required": [*schema.get("required", ()), *needed], **closed}


def _limited(name: str, field: str, schema: Schema) -> Schema:
    if f"{name}.{field}" in NEVER_NULL:
        schema = next(each_of for each_of in schema["anyOf"] if each_of.get("type") != "null")
    return _precise(schema, FIELDS.get(f"{name}.{field}", FIELDS.get(field)))


def _precise(schema: Schema, limits: Schema | None) -> Schema:
    """Return a schema with these limits wherever it is of the kind that they are of."""
    if limits is None:
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [_precise(each_of, limits) for each_of in schema["anyOf"]]}
    return {**schema, **limits} if schema.get("type") in (None, limits.get("type")) else schema
