"""API tokens: the credential of a program that acts for a user, narrowed by scopes, limits and bindings.

The value is random and opaque; only its SHA-256 is stored. A rotation makes a new record of the same lineage, and
what a lineage has used counts for all of it.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypedDict

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.domain.permissions import PERMISSIONS
from ironcage_core.domain.texts import text_problem

ApiTokenStatus = Literal["active", "inactive", "expired", "rotated", "revoked"]

EVERY_SCOPE: Final = "*"
"""The scope that narrows nothing."""

MAX_SCOPES: Final = 32
LONGEST_DESCRIPTION: Final = 500

_LARGEST: Final[Mapping[str, int]] = MappingProxyType(
    {
        "rate_limit_rps": 1000,
        "daily_request_limit": 10**12,
        "daily_token_limit": 10**12,
        "daily_limit_micros": 1_000_000 * MICROS_PER_USD,
        "cost_cap_micros": 1_000_000 * MICROS_PER_USD,
    }
)
"""The five limits and the largest value of each; the smallest is 1. Source: contract identity.md 6."""

_LONGEST: Final[Mapping[str, int]] = MappingProxyType({"name": 100, "provider": 64})
_PUBLIC: Final[Mapping[str, str]] = MappingProxyType(
    {"daily_limit_micros": "daily_limit_usd", "cost_cap_micros": "cost_cap_usd"}
)
_NEVER_NULL: Final = frozenset(("name", "scopes", "is_active"))
_TEXTS: Final = ("name", "description", "provider")


class ApiToken(NamedTuple):
    """The stored side of an API token; a column each, in order.

    `lineage` is the id of the first token of a chain of rotations. Amounts are micro-USD.
    """

    id: str
    hash: str
    lineage: str
    user_id: str
    name: str
    description: str | None
    project_id: str | None
    agent_id: str | None
    provider: str | None
    scopes: str  # space-separated, as OAuth scopes are written
    is_active: int
    hint: str
    expires_at: Instant | None
    rate_limit_rps: int | None
    daily_request_limit: int | None
    daily_token_limit: int | None
    daily_limit_micros: Micros | None
    cost_cap_micros: Micros | None
    created_at: Instant
    updated_at: Instant
    last_used_at: Instant | None = None
    revoked_at: Instant | None = None
    revoked_by: str | None = None
    revoked_reason: str | None = None
    rotated_at: Instant | None = None
    rotated_from: str | None = None
    replaced_by: str | None = None

    def status_at(self, now: Instant) -> ApiTokenStatus:
        """Return what the token is good for: only an active one opens anything.

        Source: contract identity.md 12.
        """
        if self.revoked_at is not None:
            return "revoked"
        if self.rotated_at is not None:
            return "rotated"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "active" if self.is_active else "inactive"

    def is_living_at(self, now: Instant) -> bool:
        """Tell whether it counts as one of its user's tokens: neither expired nor ended, switched off or not."""
        return self.status_at(now) in {"active", "inactive"}

    def __repr__(self) -> str:
        return f"ApiToken(id={self.id!r}, user_id={self.user_id!r}, name={self.name!r})"


class TokenUse(NamedTuple):
    """What a lineage of API tokens has used: in all, since UTC midnight, and in the last hour, by the minute."""

    total_requests: int
    requests_today: int
    requests_last_hour: int
    total_tokens: int
    tokens_today: int
    total_cost: Micros
    cost_today: Micros


UNUSED: Final = TokenUse(0, 0, 0, 0, 0, 0, 0)


class ApiTokenFields(TypedDict, total=False):
    """What its owner decides about a token; what is absent is not spoken of, None is no value. Amounts in micro-USD."""

    name: str | None
    description: str | None
    provider: str | None
    project_id: str | None
    scopes: Sequence[str] | None
    expires_at: Instant | None
    is_active: bool | None
    rate_limit_rps: int | None
    daily_request_limit: int | None
    daily_token_limit: int | None
    daily_limit_micros: Micros | None
    cost_cap_micros: Micros | None


def field_problems(fields: ApiTokenFields, *, now: Instant) -> dict[str, str]:
    """Return what is wrong with each field, by its public name; whether a project is there is not looked at.

    Source: contract identity.md 6.
    """
    problems = {}
    for name, value in fields.items():
        problem = _nothing_problem(name) if value is None else _value_problem(name, value, now)
        if problem is not None:
            problems[_PUBLIC.get(name, name)] = problem
    return problems


def _nothing_problem(name: str) -> str | None:
    return "may not be null" if name in _NEVER_NULL else None


def _value_problem(name: str, value: object, now: Instant) -> str | None:
    if name in _LARGEST:
        return _limit_problem(name, value)
    if name in _LONGEST:
        return text_problem(value, longest=_LONGEST[name])
    if name == "description":
        return None if value == "" else text_problem(value, longest=LONGEST_DESCRIPTION)
    if name == "scopes":
        return _scopes_problem(value)
    if name == "expires_at":
        return None if type(value) is int and value > now else "must be an RFC 3339 time in the future"
    return None


def _limit_problem(name: str, value: object) -> str | None:
    largest = _LARGEST[name]
    if type(value) is int and 1 <= value <= largest:
        return None
    if name in _PUBLIC:
        return f"must be from 0.000001 to {largest // MICROS_PER_USD} USD, with at most 6 decimals"
    return f"must be an integer from 1 to {largest}"


def _scopes_problem(value: object) -> str | None:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_SCOPES:
        return f"must be 1 to {MAX_SCOPES} scopes"
    if not all(isinstance(each, str) and (each == EVERY_SCOPE or each in PERMISSIONS) for each in value):
        return f"must be {EVERY_SCOPE} or some of {', '.join(PERMISSIONS)}"
    return None if len(set(value)) == len(value) else "may name each scope only once"


def columns_of(fields: ApiTokenFields) -> dict[str, Any]:
    """Return checked fields as they are stored."""
    columns: dict[str, Any] = dict(fields)
    for name in _TEXTS:
        if columns.get(name) is not None:
            columns[name] = columns[name].strip()
    if "scopes" in columns:
        columns["scopes"] = " ".join(columns["scopes"])
    if "is_active" in columns:
        columns["is_active"] = int(columns["is_active"])
    return columns


def widens(token: ApiToken, fields: ApiTokenFields) -> bool:
    """Tell whether the fields would let the token do more, or live longer, than it does now.

    What is no time does neither; what is wrong with it is told by `field_problems`.
    """
    scopes = fields.get("scopes")
    has = token.scopes.split()
    if scopes is not None and EVERY_SCOPE not in has and not set(scopes) <= set(has):
        return True
    if "expires_at" not in fields or token.expires_at is None:
        return False
    until: object = fields["expires_at"]
    return until is None or (isinstance(until, int) and until > token.expires_at)


_KEPT_BACK: Final = frozenset(("hash", "hint", "lineage", "last_used_at", "updated_at"))


def told(token: ApiToken) -> dict[str, object]:
    """Return what the audit log may hold of a token: never its hash, nor a part of its value."""
    columns = {name: value for name, value in token._asdict().items() if name not in _KEPT_BACK and value is not None}
    return {**columns, "is_active": bool(token.is_active)}
