"""Parameters in the description of the interface: what a route takes in its path and its query.

Most names mean the same everywhere; what a route reads otherwise stands by its path. Tests hold every schema against
what the routes say to values that do not fit.
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

from ironcage_core.domain.agents import LONGEST_TAG, RuntimeStatus
from ironcage_core.domain.api_tokens import ApiTokenStatus
from ironcage_core.domain.audit import Category, Outcome
from ironcage_core.domain.buckets import Bucket
from ironcage_core.domain.budget_requests import RequestStatus
from ironcage_core.domain.call_events import EVENT_TYPES
from ironcage_core.domain.leases import LeaseStatus
from ironcage_core.domain.ledger import EntryKind
from ironcage_core.domain.periods import PERIODS
from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_core.domain.risks import RiskLevel
from ironcage_core.domain.users import ShownStatus
from ironcage_core.ports.lists import (
    AgentOrder,
    ApiTokenOrder,
    KeyOrder,
    ProjectOrder,
    RequestOrder,
    TokenKind,
    UsageBucket,
    UserOrder,
)
from ironcage_core.services.agent_records import STATUSES
from ironcage_core.services.spending import SpenderOrder
from ironcage_core.services.usage_groups import ProviderGroups
from ironcage_core.services.usage_series import Grouping
from ironcage_core.services.users import ROLES
from ironcage_http.described_kinds import FLAG, PROJECT, Schema, each, ident, order, padded, text, whole, words
from ironcage_http.queries import MAX_PAGE, MAX_PER_PAGE
from ironcage_http.routing import Route
from ironcage_http.usage_queries import LONGEST_MODEL, LONGEST_PROJECT, QUESTIONS

Schemas = MappingProxyType[str, Schema]

_DAY_OR_TIME: Final = [{"type": "string", "format": "date-time"}, {"type": "string", "format": "date"}]
_WHEN: Final[Schema] = {"anyOf": _DAY_OR_TIME}
_WHEN_OR_UNIX_S: Final[Schema] = {"anyOf": [*_DAY_OR_TIME, whole(0, 10**11 - 1)]}

_PATH: Final = Schemas(
    {
        "agent_id": ident("agent"),
        "audit_id": ident("aud"),
        "lease_id": ident("lease"),
        "limit_id": ident("lim"),
        "project_id": PROJECT,
        "provider_id": ident("prov"),
        "request_id": ident("breq"),
        "token_id": ident("tok"),
        "trace_id": ident("trace"),
        "user_id": ident("user"),
    }
)
_IN_PATH: Final = MappingProxyType(
    {
        "/budget/reserve/{request_id}": Schemas({"request_id": text(100)}),
        "/usage/by-project/{project_id}": Schemas({"project_id": padded(LONGEST_PROJECT)}),
        "/usage/by-provider/{provider}": Schemas({"provider": padded(100)}),
    }
)

_QUERY: Final = Schemas(
    {
        "after": ident("trace"),
        "agent_id": ident("agent"),
        "at": _WHEN_OR_UNIX_S,
        "bucket": words(*get_args(UsageBucket)),
        "category": words(*get_args(Category)),
        "end_date": _WHEN_OR_UNIX_S,
        "event_type": words(*EVENT_TYPES),
        "format": words("csv", "json"),
        "from": _WHEN,
        "group_by": words(*get_args(Grouping)),
        "include_deleted": FLAG,
        "is_active": FLAG,
        "is_enabled": FLAG,
        "kind": words(*get_args(TokenKind)),
        "lease_id": ident("lease"),
        "model": text(LONGEST_MODEL),
        "name": text(100),
        "operation": text(100),
        "outcome": words(*get_args(Outcome)),
        "owner_id": ident("user"),
        "page": whole(1, MAX_PAGE),
        "per_page": whole(1, MAX_PER_PAGE),
        "period": words(*PERIODS),
        "project_id": PROJECT,
        "provider": words(*KNOWN_PROVIDERS),
        "provider_id": ident("prov"),
        "provider_key_id": ident("prov"),
        "request_id": text(100),
        "requester_id": ident("user"),
        "resource_id": text(100),
        "resource_type": text(100),
        "risk_level": words(*get_args(RiskLevel)),
        "role": words(*ROLES),
        "runtime_status": words(*get_args(RuntimeStatus)),
        "search": text(100),
        "sort": words("-created_at"),
        "start_date": _WHEN_OR_UNIX_S,
        "status": words(*get_args(ApiTokenStatus)),
        "tag": each(text(LONGEST_TAG)),
        "threshold": whole(0, 100),
        "to": _WHEN,
        "user_id": ident("user"),
    }
)

_OF_USAGE: Final = Schemas({"project_id": text(LONGEST_PROJECT), "provider": text(100), "provider_id": text(100)})
"""Where calls are asked about, what they name may never have been here."""

_IN_QUERY: Final = MappingProxyType(
    {
        "/agents": Schemas({"sort": order(*get_args(AgentOrder)), "status": words(*STATUSES)}),
        "/analytics/budget/status": Schemas(
            {"project_id": text(LONGEST_PROJECT), "sort": order("percent_used"), "status": words(*STATUSES)}
        ),
        "/analytics/errors": Schemas({"sort": order("count")}),
        "/analytics/spending/by-agent": Schemas({"sort": order(*get_args(SpenderOrder))}),
        "/analytics/spending/by-period": Schemas(
            {
                "bucket": words(*get_args(Bucket)),
                "period": words(*PERIODS, *(bucket for bucket in get_args(Bucket) if bucket != "hour")),
            }
        ),
        "/analytics/spending/by-provider": Schemas(
            {"group_by": words(*get_args(ProviderGroups)), "sort": order("spending")}
        ),
        "/analytics/usage/by-agent": Schemas({"sort": order("total_tokens")}),
        "/analytics/usage/by-provider": Schemas({"sort": order("total_tokens")}),
        "/analytics/usage/models": Schemas({"sort": order("request_count")}),
        "/analytics/usage/tokens/by-agent": Schemas({"sort": order("total_tokens")}),
        "/api-tokens": Schemas({"sort": order(*get_args(ApiTokenOrder))}),
        "/audit-logs": Schemas({"end_date": _WHEN, "sort": order("timestamp"), "start_date": _WHEN}),
        "/budget": Schemas({"agent_id": text(100), "status": words(*STATUSES)}),
        "/budget/leases": Schemas({"agent_id": text(100), "status": words(*get_args(LeaseStatus))}),
        "/budget/ledger": Schemas(
            {
                "agent_id": text(100),
                "kind": words(*get_args(EntryKind)),
                "lease_id": text(100),
                "sort": words("-seq"),
            }
        ),
        "/budget/requests": Schemas(
            {"sort": order(*get_args(RequestOrder)), "status": words(*get_args(RequestStatus))}
        ),
        "/projects": Schemas({"sort": order(*get_args(ProjectOrder))}),
        "/providers": Schemas({"sort": order(*get_args(KeyOrder)), "status": words("active", "inactive")}),
        "/traces": Schemas(
            {
                "from": _WHEN_OR_UNIX_S,
                "project_id": text(LONGEST_PROJECT),
                "provider": text(100),
                "sort": order("traced_at"),
                "status": words("completed", "failed"),
                "to": _WHEN_OR_UNIX_S,
            }
        ),
        "/users": Schemas(
            {"search": text(255), "sort": order(*get_args(UserOrder)), "status": words(*get_args(ShownStatus))}
        ),
    }
)

RETRY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Retries of a request that name the same key have one effect.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}


def parameters_of(route: Route) -> list[dict[str, Any]]:
    """Return the parameters of a route as OpenAPI lists them."""
    return [*_in_path(route), *_in_query(route), *([RETRY_KEY] if route.is_retried_by_key else [])]


def takes_in_path(route: Route, name: str) -> bool:
    """Tell whether the path of a route names a thing by its id."""
    return f"{{{name}}}" in route.path and route.path not in _IN_PATH


def _in_path(route: Route) -> Iterator[dict[str, Any]]:
    own: Mapping[str, Schema] = _IN_PATH.get(route.path, {})
    for name in re.findall(r"{(\w+)}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": own.get(name) or _PATH[name]}


def _in_query(route: Route) -> Iterator[dict[str, Any]]:
    asks_of_usage = set(QUESTIONS) <= set(route.query)
    own = {**(_OF_USAGE if asks_of_usage else {}), **_IN_QUERY.get(route.path, {})}
    for name in route.query:
        yield {"name": name, "in": "query", "schema": own.get(name) or _QUERY[name]}
