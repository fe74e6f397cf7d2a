"""Errors on the wire: one table from error class to status, one shape for all of them."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.response.base import ASGIResponse

from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.errors.access import CostCapReachedError, CostQuotaExceededError, RateLimitExceededError
from ironcage_core.errors.money import (
    ApprovalDecreasesBudgetError,
    BudgetBelowSpentError,
    BudgetChangedError,
    BudgetDecreaseRequestError,
    BudgetDecreaseRequiresConfirmationError,
    BudgetExceededError,
    BudgetUnchangedError,
    RequestIdConflictError,
)
from ironcage_core.errors.tree import (
    ConflictError,
    CredentialError,
    ForbiddenError,
    IroncageError,
    NotFoundError,
    RefusalError,
    TooManyRequestsError,
    UnavailableError,
)
from ironcage_http.wire import UnsupportedMediaTypeError, amount, encode, moment

logger = logging.getLogger(__name__)


class AmbiguousCredentialsError(RefusalError):
    """Two different credentials of one kind."""

    code = "AMBIGUOUS_CREDENTIALS"


class MissingTokenError(CredentialError):
    """No credential at all."""

    code = "AUTH_MISSING_TOKEN"


STATUS: Final[Mapping[type[IroncageError], int]] = MappingProxyType(
    {
        CredentialError: 401,
        ForbiddenError: 403,
        TooManyRequestsError: 429,
        NotFoundError: 404,
        ConflictError: 409,
        UnsupportedMediaTypeError: 415,
        UnavailableError: 503,
        RefusalError: 400,
        IroncageError: 500,
    }
)
"""The nearest class in the tree of errors decides."""

_DECREASE: Final = frozenset(
    ("current_budget", "requested_budget", "decrease_amount", "current_spent", "held", "new_remaining_if_applied")
)
AMOUNTS: Final[Mapping[type[IroncageError], frozenset[str]]] = MappingProxyType(
    {
        BudgetExceededError: frozenset(("spent", "limit", "held", "remaining", "available", "requested")),
        CostCapReachedError: frozenset(("spent", "limit")),
        CostQuotaExceededError: frozenset(("limit", "used")),
        RequestIdConflictError: frozenset(("recorded_cost",)),
        BudgetChangedError: frozenset(("current_budget",)),
        BudgetUnchangedError: frozenset(("current_budget",)),
        BudgetBelowSpentError: _DECREASE,
        BudgetDecreaseRequiresConfirmationError: _DECREASE,
        BudgetDecreaseRequestError: frozenset(("current_budget", "requested_budget")),
        ApprovalDecreasesBudgetError: frozenset(("current_budget", "approved_budget")),
    }
)
"""Which details are micro-USD inside and USD on the wire."""

_INSTANTS: Final = frozenset(
    ("frees_at", "expired_at", "revoked_at", "reviewed_at", "locked_until", "resets_at", "reset_at", "kept_since")
)
_NAMES: Final = MappingProxyType({"recorded_cost": "recorded_cost_usd", "retry_after_s": "retry_after"})
_JSON: Final = "application/json"
_INTERNAL: Final = b'{"error":"Internal server error","code":"INTERNAL_ERROR","details":{}}'
_HTTP_CODES: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        404: ("NOT_FOUND", "There is nothing at this path"),
        405: ("METHOD_NOT_ALLOWED", "The path does not take this method"),
        413: ("PAYLOAD_TOO_LARGE", "The body is too large"),
        426: ("UPGRADE_REQUIRED", "This path speaks WebSocket only"),
    }
)


def status_of(error: IroncageError) -> int:
    """Return the status of an error: that of its nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def details_of(error: IroncageError) -> dict[str, object]:
    """Return the details as they go on the wire."""
    amounts = AMOUNTS.get(type(error), frozenset())
    details: dict[str, object] = {}
    for name, value in error.details.items():
        if value is None:
            continue
        shown: object = value
        if name in amounts and isinstance(value, int):
            shown = amount(value)
        elif name in _INSTANTS and isinstance(value, int):
            shown = moment(value)
        details[_NAMES.get(name, name)] = shown
    return details


def refused(error: IroncageError) -> ASGIResponse:
    """Return the answer to a caller whose request ended in this error."""
    status = status_of(error)
    if status == 500:
        logger.error("a request failed: %s", error.message, exc_info=error)
        return ASGIResponse(body=_INTERNAL, status_code=500, media_type=_JSON)
    if status == 503 and error.__cause__ is not None:  # the caller may come again, but the operator should know why
        logger.warning("a request cannot be served: %s (%s)", error.message, error.__cause__)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if "retry_after_s" in error.details:
        headers["Retry-After"] = str(error.details["retry_after_s"])
    if isinstance(error, RateLimitExceededError):
        headers |= _limit_headers(error)
    body = _envelope(error.code, error.message, details_of(error))
    return ASGIResponse(body=body, status_code=status, media_type=_JSON, headers=headers)


def _limit_headers(error: RateLimitExceededError) -> dict[str, str]:
    """Return the headers of the limit that refused, whatever others have left."""
    limit, reset_at = error.details.get("limit"), error.details.get("reset_at")
    if not isinstance(limit, int) or not isinstance(reset_at, int):
        return {}
    return limit_headers(limit, 0, -(-reset_at // MS_PER_S))


def limit_headers(limit: int, remaining: int, reset_unix_s: int) -> dict[str, str]:
    """Return the headers that tell of a rate limit."""
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(reset_unix_s),
    }


def _envelope(code: str, message: str, details: Mapping[str, object]) -> bytes:
    return encode({"error": message, "code": code, "details": details})


def not_found() -> ASGIResponse:
    """Return the answer to a path that names nothing."""
    code, message = _HTTP_CODES[404]
    return ASGIResponse(body=_envelope(code, message, {}), status_code=404, media_type=_JSON)


def upgrade_required() -> ASGIResponse:
    """Return the answer to a plain request where only a WebSocket is."""
    code, message = _HTTP_CODES[426]
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return ASGIResponse(body=_envelope(code, message, {}), status_code=426, media_type=_JSON, headers=headers)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Return Litestar's own refusals in the one shape."""
    if error.status_code >= 500:
        return on_exception(request, error)
    code, message = _HTTP_CODES.get(error.status_code, ("VALIDATION_ERROR", "The request cannot be understood"))
    body = _envelope(code, message, {})
    return Response(body, status_code=error.status_code, media_type=_JSON, headers=error.headers or {})


def on_exception(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Return what a caller learns of a bug: nothing."""
    logger.error("a request failed", exc_info=error)
    return Response(_INTERNAL, status_code=500, media_type=_JSON)
