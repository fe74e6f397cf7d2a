"""What a token is worth: `validate` tells it of any token to anybody, `verify` to whoever calls with it.

Source: contract identity.md 3.
"""

from functools import partial
from typing import Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.api_tokens import EVERY_SCOPE
from ironcage_core.domain.instants import Instant
from ironcage_core.services.validation import InvalidReason, InvalidToken, ValidToken, validate_access
from ironcage_http.calls import Call, answer
from ironcage_http.credentials import bearer_of
from ironcage_http.errors import AmbiguousCredentialsError, MissingTokenError
from ironcage_http.routing import Route
from ironcage_http.sessions import CallerView, caller_view
from ironcage_http.wire import moment


class TokenBody(msgspec.Struct, frozen=True):
    """The token in question; it may come as a bearer token instead."""

    token: str | None = None


class AccessValidityView(msgspec.Struct, frozen=True):
    """Whether an access token is alive: whose it is and until when, or why not."""

    valid: bool
    user: CallerView | msgspec.UnsetType = msgspec.UNSET
    expires_at: str | msgspec.UnsetType = msgspec.UNSET
    expires_in: int | msgspec.UnsetType = msgspec.UNSET
    reason: InvalidReason | msgspec.UnsetType = msgspec.UNSET
    expired_at: str | msgspec.UnsetType = msgspec.UNSET
    revoked_at: str | msgspec.UnsetType = msgspec.UNSET


class VerifiedView(msgspec.Struct, frozen=True):
    """Who calls, with what, and what that may do."""

    valid: bool
    user: CallerView
    auth_type: str
    token_id: str | None
    scopes: list[str]
    permissions: list[str]
    expires_at: str | None


async def validate(call: Call) -> ASGIResponse:
    """Tell what a token is worth, and change nothing."""
    body = call.read(TokenBody, may_be_empty=True).value()
    carried = {token for token in (bearer_of(call.headers), (body.token or "").strip()) if token}
    if len(carried) > 1:
        raise AmbiguousCredentialsError("Two different tokens were sent")
    if not carried:
        raise MissingTokenError("A token is needed")
    signer = call.wiring.access_signer
    found = await call.glance(partial(validate_access, token=carried.pop(), signer=signer))
    return answer(_valid(found) if isinstance(found, ValidToken) else _invalid(found))


def _valid(found: ValidToken) -> AccessValidityView:
    return AccessValidityView(
        valid=True,
        user=caller_view(found.principal),
        expires_at=_moment(found.expires_at),
        expires_in=found.expires_in_s,
    )


def _invalid(found: InvalidToken) -> AccessValidityView:
    return AccessValidityView(
        valid=False,
        reason=found.reason,
        expired_at=_moment(found.expired_at),
        revoked_at=_moment(found.revoked_at),
    )


def _moment(instant: Instant | None) -> str | msgspec.UnsetType:
    return moment(instant) or msgspec.UNSET


async def verify(call: Call) -> ASGIResponse:
    """Tell who calls, or refuse."""
    who = call.user()
    principal = await call.glance(who)
    token = principal.token
    view = VerifiedView(
        valid=True,
        user=caller_view(principal),
        auth_type="session" if token is None else "api_token",
        token_id=None if token is None else token.id,
        scopes=[EVERY_SCOPE] if token is None else token.scopes.split(),
        permissions=list(principal.permissions),
        expires_at=moment(_session_expires_at(call) if token is None else token.expires_at),
    )
    return answer(view)


def _session_expires_at(call: Call) -> Instant | None:
    access_token = call.presented().session
    if access_token is None:
        return None
    return call.wiring.access_signer.prove(access_token, now=call.wiring.clock.now()).expires_at


ROUTES: Final = (
    Route(
        "POST", "/auth/validate", validate, "Tell whether an access token is alive", action="auth.validate",
        limit="auth_validate", body=TokenBody, answer=AccessValidityView, example={"token": "..."},
        codes=("AUTH_MISSING_TOKEN", "AMBIGUOUS_CREDENTIALS"),
    ),
    Route(
        "GET", "/auth/verify", verify, "Tell who calls and what the credential may do", action="auth.verify",
        limit="auth_verify", answer=VerifiedView,
    ),
)  # fmt: skip
