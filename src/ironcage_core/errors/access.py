"""Refusals of a credential: who calls is not proven, or may not do this, or has done it too often."""

from ironcage_core.errors.tree import CredentialError, ForbiddenError, TooManyRequestsError


class InvalidTokenError(CredentialError):
    """Any failure of a token but expiry, always with one and the same message."""

    code = "AUTH_INVALID_TOKEN"

    def __init__(self) -> None:
        super().__init__("The token is not valid")


class OverSettledError(InvalidTokenError):
    """A report with which a dead IC token value would settle more than its lease held; `amount` is in micro-USD."""

    def __init__(self, lease_id: str, amount: int) -> None:
        super().__init__()
        self.lease_id = lease_id
        self.amount = amount


class TokenExpiredError(CredentialError):
    """A genuine token whose time is over."""

    code = "AUTH_TOKEN_EXPIRED"

    def __init__(self, *, expired_at: int | None = None) -> None:
        known = {} if expired_at is None else {"expired_at": expired_at}
        super().__init__("The token has expired", **known)


class TokenRevokedError(CredentialError):
    """A genuine token that was ended before its time; `details.revoked_at` says when, in milliseconds."""

    code = "AUTH_TOKEN_REVOKED"

    def __init__(self, *, revoked_at: int) -> None:
        super().__init__("The token was revoked", revoked_at=revoked_at)


class WrongTokenTypeError(CredentialError):
    """A token of another kind than the one asked for."""

    code = "AUTH_WRONG_TOKEN_TYPE"

    def __init__(self) -> None:
        super().__init__("A token of another kind is needed here")


class InvalidCredentialsError(CredentialError):
    """No such account or not its password, always with one and the same message."""

    code = "AUTH_INVALID_CREDENTIALS"

    def __init__(self) -> None:
        super().__init__("The credentials are not valid")


class RefreshReusedError(CredentialError):
    """A refresh token that was exchanged before; its session is revoked."""

    code = "AUTH_REFRESH_REUSED"

    def __init__(self) -> None:
        super().__init__("The refresh token was used before; log in again")


class AccountDisabledCredentialError(CredentialError):
    """A session or token of a user who is suspended or deleted (401)."""

    code = "AUTH_ACCOUNT_DISABLED"

    def __init__(self) -> None:
        super().__init__("The account is disabled")


class AccountDisabledError(ForbiddenError):
    """The right password of a suspended user (403); `details.user_id` names the account."""

    code = "AUTH_ACCOUNT_DISABLED"

    def __init__(self, *, user_id: str) -> None:
        super().__init__("The account is disabled", user_id=user_id)


class InsufficientScopeError(ForbiddenError):
    """The token lacks a permission; `details.required` names it."""

    code = "INSUFFICIENT_SCOPE"


class SessionRequiredError(ForbiddenError):
    """An API token where only a person's session will do."""

    code = "SESSION_REQUIRED"


class PasswordChangeRequiredError(ForbiddenError):
    """The account must change its password before anything else."""

    code = "PASSWORD_CHANGE_REQUIRED"


class AgentTokenForbiddenError(ForbiddenError):
    """An agent's credential on a route that is not for agents, or on another agent's resource."""

    code = "AGENT_TOKEN_FORBIDDEN"

    def __init__(self) -> None:
        super().__init__(
            "Agent tokens cannot use this endpoint",
            protocol="005",
            endpoint="/api/v1/budget/handshake",
            hint="use the budget handshake with the agent's IC token",
        )


class AccountLockedError(ForbiddenError):
    """Too many failed logins in a row: no password login for a while, whatever the password (403).

    `details.retry_after_s` in seconds, `details.locked_until` in milliseconds.
    """

    code = "AUTH_ACCOUNT_LOCKED"

    def __init__(self, *, retry_after_s: int, locked_until: int) -> None:
        super().__init__(
            "The account is locked after too many failed logins", retry_after_s=retry_after_s, locked_until=locked_until
        )


class RateLimitExceededError(TooManyRequestsError):
    """More requests than the limit allows."""

    code = "RATE_LIMIT_EXCEEDED"


class QuotaExceededError(TooManyRequestsError):
    """An API token's daily quota is used up; `details.{quota,limit,used,resets_at}`."""

    code = "QUOTA_EXCEEDED"


class CostQuotaExceededError(QuotaExceededError):
    """An API token has cost what it may cost in a day; `details.{limit,used}` in micro-USD."""


class CostCapReachedError(ForbiddenError):
    """An API token has cost what it may cost in its life; `details.{spent,limit}` in micro-USD (403)."""

    code = "BUDGET_EXCEEDED"
