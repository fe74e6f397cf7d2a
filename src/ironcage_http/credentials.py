"""Credentials: what a request carries, by kind and carrier, before anything of it is believed.

A bearer token may be of any kind; its form tells which (contract identity.md 2). Two different values of one kind are
refused, because nobody could say which was meant.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from ironcage_http.errors import AmbiguousCredentialsError

_API_TOKEN: Final = re.compile(r"at_[A-Za-z0-9_-]{43}")
_REFRESH: Final = "rt_"
_LONGEST_PAYLOAD: Final = 2000
"""Of a token; no genuine one has more, and what is longer is not kept in memory for the next time."""


@dataclass(frozen=True, slots=True)
class Presented:
    """The credentials of one request; never shown."""

    ic: str | None = field(repr=False)
    session: str | None = field(repr=False)
    api: str | None = field(repr=False)
    refresh: str | None = field(repr=False)

    @property
    def has_user(self) -> bool:
        """Whether a user's credential came in its own carrier."""
        return any((self.session, self.api, self.refresh))


def presented(headers: Mapping[str, str], body_ic_token: str | None = None) -> Presented:
    """Sort the credentials of a request by kind.

    Raises:
        AmbiguousCredentialsError: Two different ones of one kind.
    """
    bearer = bearer_of(headers)
    kind = _kind_of(bearer) if bearer else None
    ic_carriers = [*_listed(headers.get("x-ic-token")), body_ic_token, bearer if kind == "ic" else None]
    api_carriers = [*_listed(headers.get("x-api-token")), bearer if kind == "api" else None]
    return Presented(
        ic=_one_of(_bare(value) for value in ic_carriers if value),
        session=bearer if kind == "session" else None,
        api=_one_of(value for value in api_carriers if value),
        refresh=bearer if kind == "refresh" else None,
    )


def _one_of(values: Iterable[str]) -> str | None:
    distinct = set(values)
    if len(distinct) > 1:
        raise AmbiguousCredentialsError("Two different credentials of one kind were sent")
    return next(iter(distinct), None)


def _bare(value: str) -> str:
    return value.strip().removeprefix("ic_")


def _listed(header: str | None) -> list[str]:
    """Return the values of a header, which are more than one where it came more than once."""
    return [] if header is None else [part.strip() for part in header.split(",")]


def bearer_of(headers: Mapping[str, str]) -> str | None:
    """Return the bearer token of a request, the scheme's name in whatever case.

    Raises:
        AmbiguousCredentialsError: There are two different ones.
    """
    return _one_of(filter(None, map(_bearer, _listed(headers.get("authorization")))))


def _bearer(credentials: str) -> str | None:
    scheme, _, value = credentials.partition(" ")
    return (value.strip() or None) if scheme.lower() == "bearer" else None


def _kind_of(value: str) -> str:
    if value.startswith(_REFRESH):
        return "refresh"
    if _API_TOKEN.fullmatch(value) or value.startswith("at_"):
        return "api"
    parts = value.split(".")
    is_form = len(parts) == 3 and len(parts[1]) <= _LONGEST_PAYLOAD
    return "session" if is_form and _claimed_type(parts[1]) == "access" else "ic"


@lru_cache(maxsize=1024)  # of the payload alone, which opens nothing
def _claimed_type(payload: str) -> object:
    """Return the unproven `typ` claim of a JWT, only to tell the kinds apart; None if it has none."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return claims.get("typ") if isinstance(claims, dict) else None
