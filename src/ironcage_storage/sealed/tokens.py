"""IC tokens are JWTs, HS256 and nothing else, whose claims say everything twice and must agree.

The signature and the form of the claims depend on the value and the key alone, so what was proven once is remembered
under the value's hash; expiry is judged anew each time, and whether the token still counts is the store's to say.
Every failure but expiry looks the same to the caller and is raised outside the `except` that noticed it, so nothing
chained to it can carry the value.

Source: contract identity.md 7.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from ironcage_core.domain.ic_tokens import KNOWN_PERMISSIONS, IcTokenClaims, PresentedIcToken
from ironcage_core.domain.ids import Prefix, is_id
from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.errors.access import InvalidTokenError, TokenExpiredError
from ironcage_core.errors.tree import StartupError
from ironcage_storage.sealed.hs256 import Hs256
from ironcage_storage.sealed.proven import Proven

ISSUER: Final = "iron-control-panel"
AUDIENCE: Final = "ironcage-agent"
MAX_VALUE_CHARS: Final = 2000
MIN_SECRET_CHARS: Final = 32

_REMEMBERED: Final = 4096
_REFUSAL: Final = "IC_TOKEN_SECRET must have at least 32 characters and be no public key"

_FIXED: Final = {"typ": "ic", "aud": AUDIENCE, "iss": ISSUER, "issuer": ISSUER}
_IDS: Final[dict[str, Prefix]] = {"agent_id": "agent", "sub": "agent", "budget_id": "budget", "jti": "ict"}
_COUNTS: Final = ("gen", "iat", "issued_at")


class IcTokenSigner:
    """Signs IC tokens and proves presented ones; implements `TokenSigner`. Safe to share between threads.

    Args:
        secret: Signs and verifies; at least 32 characters.
        previous: Secrets of before a rotation, which only verify; at least 32 characters each.
        remembered: How many proven values to keep in mind.

    Raises:
        StartupError: A secret is too short, or is the text of a public key.
    """

    def __init__(self, secret: str, previous: Sequence[str] = (), *, remembered: int = _REMEMBERED) -> None:
        if min(map(len, (secret, *previous))) < MIN_SECRET_CHARS:
            raise StartupError(_REFUSAL)
        keys = [each.encode("utf-8", "surrogatepass") for each in (secret, *previous)]
        self._hs256 = Hs256(keys, refusal=_REFUSAL)
        self._proven: Proven[IcTokenClaims] = Proven(remembered)

    def sign(self, claims: IcTokenClaims) -> str:
        """Return the token value for `claims`; times are cut to whole seconds."""
        return self._hs256.sign(_payload(claims))

    def digest(self, value: str) -> str:
        """Return the lower-case hex SHA-256 of a value without its `ic_` prefix: what a record stores."""
        return hash_token(value)

    def prove(self, value: str, *, now: Instant) -> PresentedIcToken:
        """Check form, signature, claims and expiry of a presented value, with or without its `ic_` prefix.

        Args:
            value: At most 2000 characters without the prefix.
            now: Milliseconds since the epoch; a token lives while `now` is before its expiry.

        Raises:
            TokenExpiredError: Genuine, but its time is over.
            InvalidTokenError: Anything else.
        """
        bare = value.removeprefix("ic_")
        if len(bare) > MAX_VALUE_CHARS or not bare.isascii():
            raise InvalidTokenError
        value_hash = _sha256(bare)
        claims = self._proven.find(value_hash)
        if claims is None:
            claims = self._prove_anew(bare)
            self._proven.remember(value_hash, claims)
        if claims.expires_at is not None and claims.expires_at <= now:
            raise TokenExpiredError
        return PresentedIcToken(claims=claims, value_hash=value_hash, value=bare)

    def _prove_anew(self, bare: str) -> IcTokenClaims:
        payload = self._hs256.signed_payload(bare)
        claims = None if payload is None else _read_claims(payload)
        if claims is None:
            raise InvalidTokenError
        return claims


def hash_token(value: str) -> str:
    """Return the lower-case hex SHA-256 of a token value without its `ic_` prefix: what is stored of it."""
    return _sha256(value.removeprefix("ic_"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _payload(claims: IcTokenClaims) -> dict[str, object]:
    issued_at = claims.issued_at // MS_PER_S
    expires_at = None if claims.expires_at is None else claims.expires_at // MS_PER_S
    return {
        **_FIXED,
        "jti": claims.token_id,
        "gen": claims.gen,
        "agent_id": claims.agent_id,
        "sub": claims.agent_id,
        "budget_id": claims.budget_id,
        "permissions": list(claims.permissions),
        "issued_at": issued_at,
        "iat": issued_at,
        "expires_at": expires_at,
        # A registered `exp` may not be null, so a token without an end has none.
        **({} if expires_at is None else {"exp": expires_at}),
    }


def _read_claims(payload: bytes) -> IcTokenClaims | None:
    """Return what a signed payload says, or None when it breaks a rule; claims we do not know are no matter."""
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(claims, dict) or not _are_sound(claims):
        return None
    expires_at: int | None = claims["expires_at"]
    return IcTokenClaims(
        token_id=claims["jti"],
        gen=claims["gen"],
        agent_id=claims["agent_id"],
        budget_id=claims["budget_id"],
        permissions=tuple(claims["permissions"]),
        issued_at=claims["issued_at"] * MS_PER_S,
        expires_at=None if expires_at is None else expires_at * MS_PER_S,
    )


def _are_sound(claims: dict[str, Any]) -> bool:
    return (
        all(claims.get(name) == value for name, value in _FIXED.items())
        and all(_is_id_of(claims.get(name), prefix) for name, prefix in _IDS.items())
        and all(_is_count(claims.get(name)) for name in _COUNTS)
        and claims["sub"] == claims["agent_id"]
        and claims["iat"] == claims["issued_at"]
        and _expiries_agree(claims)
        and _are_permissions(claims.get("permissions"))
    )


def _is_id_of(value: object, prefix: Prefix) -> bool:
    return isinstance(value, str) and is_id(value, prefix)


def _is_count(value: object) -> bool:
    # Exactly int: a bool is an instance of int, and 1.0 equals 1.
    return type(value) is int and value >= 0


def _expiries_agree(claims: dict[str, Any]) -> bool:
    if claims.get("expires_at") is None:
        return "expires_at" in claims and "exp" not in claims
    return _is_count(claims["expires_at"]) and _is_count(claims.get("exp")) and claims["exp"] == claims["expires_at"]


def _are_permissions(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each in KNOWN_PERMISSIONS for each in value)
