"""Limit classes: which requests share a rate limit, how high it is and what it is counted by, as one table.

Source: contract identity.md 8, budget.md 4.
"""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, get_args

from ironcage_core.domain.rate_limits import Rate

LimitClass = Literal[
    "login", "refresh", "change_password", "auth_validate", "auth_verify", "api_token_validate", "api_token_make",
    "ic_token_make", "keys", "provider_key", "create", "read", "update", "delete", "agent_status",
    "budget_request_create", "budget_request_decide", "analytics_events", "analytics_duplicates", "analytics_read",
    "analytics_export",
    "reads", "writes", "handshake", "refresh_lease", "return", "report", "reserve",
]  # fmt: skip
LimitKey = Literal[
    "ip", "user", "agent", "user and resource", "user and agent", "user and project", "credential and route",
]  # fmt: skip

_MIN_S: Final = 60
_HOUR_S: Final = 3600


class Limit(NamedTuple):
    """The limit of a class.

    Args:
        rate: How many in which time, unless the operator says otherwise.
        key: What it is counted by.
        is_always_on: Whether it holds where rate limits are switched off, too.
    """

    rate: Rate
    key: LimitKey
    is_always_on: bool = False


def _per_min(limit: int, key: LimitKey, *, is_always_on: bool = False) -> Limit:
    return Limit(Rate(limit, _MIN_S), key, is_always_on)


LIMITS: Final[Mapping[LimitClass, Limit]] = MappingProxyType(
    {
        "login": _per_min(60, "ip"),
        "refresh": _per_min(30, "ip"),
        "change_password": _per_min(5, "user"),
        "auth_validate": _per_min(100, "ip"),
        "auth_verify": _per_min(100, "ip"),
        "api_token_validate": _per_min(100, "ip", is_always_on=True),
        "api_token_make": _per_min(10, "user", is_always_on=True),
        "ic_token_make": _per_min(30, "user"),
        "keys": _per_min(10, "user and project", is_always_on=True),
        "provider_key": _per_min(10, "agent", is_always_on=True),
        "create": _per_min(10, "user and resource"),
        "read": _per_min(60, "user and resource"),
        "update": _per_min(30, "user and resource"),
        "delete": _per_min(10, "user and resource"),
        "agent_status": _per_min(20, "user and agent"),
        "budget_request_create": Limit(Rate(10, _HOUR_S), "user"),
        "budget_request_decide": _per_min(30, "user"),
        "analytics_events": Limit(Rate(5000, 5 * _MIN_S), "agent"),  # a burst of 5000, refilled by 1000 a minute
        "analytics_duplicates": _per_min(20_000, "agent"),
        "analytics_read": _per_min(300, "user"),
        "analytics_export": _per_min(10, "user"),
        "reads": _per_min(100, "credential and route"),
        "writes": _per_min(60, "credential and route"),
        "handshake": _per_min(60, "agent"),
        "refresh_lease": _per_min(60, "agent"),
        "return": _per_min(60, "agent"),
        "report": _per_min(1000, "agent"),
        "reserve": _per_min(1000, "agent"),
    }
)
"""`create` to `delete` are those of agents, providers and usage limits; `reads` and `writes` those of all the rest."""

_PERIODS_S: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(("s", "sec", "second"), 1),
        **dict.fromkeys(("m", "min", "minute"), _MIN_S),
        **dict.fromkeys(("h", "hour"), _HOUR_S),
        **dict.fromkeys(("d", "day"), 24 * _HOUR_S),
    }
)
_RATE: Final = re.compile(r"([0-9]{1,12})\s*/\s*(?:([a-z]+)|([0-9]{1,8}))", re.ASCII | re.IGNORECASE)


def parse_overrides(text: str) -> Mapping[LimitClass, Rate]:
    """Read the rates that an operator sets, such as `{"login": "120/min", "reads": "500/10"}`.

    Args:
        text: A JSON object of `N/period` by class; a period is s, min, h or d, or a number of seconds of at least 1.

    Raises:
        ValueError: No JSON object, an unknown class, or not such a rate.

    Source: contract identity.md 8.
    """
    try:
        told = json.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(told, dict):
        raise ValueError("must be an object")  # noqa: TRY004 - one error for all that is wrong with a text
    return MappingProxyType({_class_of(name): _rate_of(rate) for name, rate in told.items()})


def _class_of(text: str) -> LimitClass:
    found: LimitClass | None = next((each for each in get_args(LimitClass) if each == text), None)
    if found is None:
        raise ValueError("no such class")
    return found


def _rate_of(text: object) -> Rate:
    form = _RATE.fullmatch(text) if isinstance(text, str) else None
    if form is None:
        raise ValueError("must be N/period")
    period_s = _PERIODS_S.get(form[2].lower(), 0) if form[2] else int(form[3])
    if period_s < 1:
        raise ValueError("no such period")
    return Rate(int(form[1]), period_s)
