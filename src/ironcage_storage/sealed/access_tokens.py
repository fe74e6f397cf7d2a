"""Access tokens are JWTs, HS256 and nothing else, that live for minutes; refresh tokens are random text.

Expiry is judged by the instant the caller names, never by the system's clock. Failures are raised outside the
`except` that noticed them, so nothing chained to them can carry the value.

Source: contract identity.md 2.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from typing import Any, Final

from ironcage_core.domain.ids import is_id
from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.sessions import AccessClaims
from ironcage_core.errors.access import InvalidTokenError, TokenExpiredError, WrongTokenTypeError
from ironcage_core.errors.tree import StartupError
from ironcage_storage.sealed.hs256 import Hs256
from ironcage_storage.sealed.proven import Proven

ISSUER: Final = "ironcage"
AUDIENCE: Final = "ironcage-api"
TYPE: Final = "access"
MAX_VALUE_CHARS: Final = 2000

REMEMBERED: Final = 4096
"""How many proven values are remembered."""

_REFUSAL: Final = "JWT_SECRET must not be empty or a public key"
_KEY_BYTES: Final = 32

_OPAQUE: Final = re.compile(r"(rt|at)_[A-Za-z0-9_-]{43}")

_COUNTS: Final = ("gen", "iat", "exp")
_TEXTS: Final = ("jti", "email", "role")


class AccessTokenSigner:
    """Signs access tokens and proves presented ones; implements `AccessSigner`. Safe to share between threads.

    Args:
        secret: Signs and verifies. Whether it is strong enough depends on where the server runs, so the settings say.
        previous: Secrets of before a rotation, which only verify.

    Raises:
        StartupError: A secret is empty, or is the text of a public key.
    """

    def __init__(self, secret: str, previous: Sequence[str] = ()) -> None:
        if not all((secret, *previous)):
            raise StartupError(_REFUSAL)
        # HMAC itself pads a short key with zeros; done here, PyJWT does not warn of what the settings have allowed.
        keys = [each.encode("utf-8", "surrogatepass").ljust(_KEY_BYTES, b"\0") for each in (secret, *previous)]
        self._hs256 = Hs256(keys, refusal=_REFUSAL)
        self._proven: Proven[AccessClaims] = Proven(REMEMBERED)

    def sign(self, claims: AccessClaims) -> str:
        """Return the token value for `claims`; times are cut to whole seconds."""
        return self._hs256.sign(_payload(claims))

    def digest(self, refresh_token: str) -> str:
        """Return the lower-case hex SHA-256 of a refresh token: what a session stores."""
        return hashlib.sha256(refresh_token.encode("utf-8", "surrogatepass")).hexdigest()

    def prove(self, value: str, *, now: Instant) -> AccessClaims:
        """Check form, signature, claims and expiry of a presented value.

        Args:
            value: At most 2000 characters.
            now: Milliseconds since the epoch; a token lives while `now` is before its expiry.

        Raises:
            WrongTokenTypeError: A genuine token of another kind, or one that looks like a refresh or API token.
            TokenExpiredError: Genuine, but its time is over.
            InvalidTokenError: Anything else.
        """
        if _OPAQUE.fullmatch(value):
            raise WrongTokenTypeError
        value_hash = self.digest(value)
        claims = self._proven.find(value_hash)
        if claims is None:
            claims = self._prove_anew(value)
            self._proven.remember(value_hash, claims)
        if claims.expires_at <= now:
            raise TokenExpiredError(expired_at=claims.expires_at)
        return claims

    def _prove_anew(self, value: str) -> AccessClaims:
        payload = self._hs256.signed_payload(value) if len(value) <= MAX_VALUE_CHARS else None
        said = None if payload is None else _object(payload)
        if said is None:
            raise InvalidTokenError
        if isinstance(said.get("typ"), str) and said["typ"] != TYPE:
            raise WrongTokenTypeError
        if not _are_sound(said):
            raise InvalidTokenError
        return _claims(said)


def new_refresh_token() -> str:
    """Return a fresh refresh token: `rt_` and 32 random bytes in base64url."""
    return f"rt_{secrets.token_urlsafe(32)}"


def _payload(claims: AccessClaims) -> dict[str, object]:
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "typ": TYPE,
        "sub": claims.user_id,
        "sid": claims.session_id,
        "gen": claims.gen,
        "jti": claims.jti,
        "iat": claims.issued_at // MS_PER_S,
        "exp": claims.expires_at // MS_PER_S,
        "email": claims.email,
        "role": claims.role,
    }


def _object(payload: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _are_sound(said: dict[str, Any]) -> bool:
    return (
        (said.get("iss"), said.get("aud"), said.get("typ")) == (ISSUER, AUDIENCE, TYPE)
        and is_id(said.get("sub"), "user")
        and is_id(said.get("sid"), "sess")
        and all(_is_count(said.get(name)) for name in _COUNTS)
        and all(isinstance(said.get(name), str) and said[name] for name in _TEXTS)
    )


def _is_count(value: object) -> bool:
    # Exactly int: a bool is an instance of int, and 1.0 equals 1.
    return type(value) is int and value >= 0


def _claims(said: dict[str, Any]) -> AccessClaims:
    return AccessClaims(
        user_id=said["sub"],
        session_id=said["sid"],
        gen=said["gen"],
        jti=said["jti"],
        issued_at=said["iat"] * MS_PER_S,
        expires_at=said["exp"] * MS_PER_S,
        email=said["email"],
        role=said["role"],
    )
