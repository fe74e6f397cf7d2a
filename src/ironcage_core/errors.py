"""Every refusal and fault of ironcage, each with the stable code that callers see.

IroncageError
├── RefusalError                     the caller can do something about it; nothing was changed
│   ├── ValidationError              400  VALIDATION_ERROR (INVALID_PROVIDER_ID, UNSUPPORTED_PROVIDER)
│   ├── CredentialError              401  AUTH_*
│   ├── ForbiddenError               403  FORBIDDEN and the state and money codes
│   ├── TooManyRequestsError         429  RATE_LIMIT_EXCEEDED, QUOTA_EXCEEDED, TOKEN_LIMIT_EXCEEDED
│   ├── NotFoundError                404  *_NOT_FOUND
│   ├── ConflictError                409  one code a state
│   └── UnavailableError             503  SERVICE_UNAVAILABLE, CRYPTO_UNAVAILABLE
├── FaultError                       500  INTERNAL_ERROR: ours, logged, never explained to the caller
└── StartupError                     the process must not start; the message says what to do

A message is for a person and never holds a secret; `details` are for programs.
"""

from collections.abc import Mapping
from typing import ClassVar


class IroncageError(Exception):
    """The root of everything ironcage raises on purpose.

    Args:
        message: One sentence for a person, without secrets.
        details: Facts for a program: ids, amounts in micro-USD, limits.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, object] = details


class RefusalError(IroncageError):
    """A request that cannot be granted as it stands."""


# --- 400 ---------------------------------------------------------------------


class ValidationError(RefusalError):
    """Input that breaks a rule; `fields` maps each bad field to its message."""

    code = "VALIDATION_ERROR"

    def __init__(self, fields: Mapping[str, str]) -> None:
        name, problem = next(iter(fields.items()))
        super().__init__(f"{name}: {problem}", fields=dict(fields))
        self.fields = dict(fields)


class NoFieldsError(RefusalError):
    """A partial update that updates nothing (400)."""

    code = "NO_FIELDS_PROVIDED"


class InvalidProviderIdError(RefusalError):
    """A provider key id that is not of the form `prov_` + 32 hex digits."""

    code = "INVALID_PROVIDER_ID"


class UnsupportedProviderError(RefusalError):
    """A provider name this product does not know."""

    code = "UNSUPPORTED_PROVIDER"


class TokenNotInProjectError(RefusalError):
    """An API token that is bound to no project, where the project's key is asked for."""

    code = "TOKEN_NOT_IN_PROJECT"


# --- 401 ---------------------------------------------------------------------


class CredentialError(RefusalError):
    """A credential that does not prove who is calling."""


class InvalidTokenError(CredentialError):
    """Any failure of a token but expiry, always with one and the same message."""

    code = "AUTH_INVALID_TOKEN"

    def __init__(self) -> None:
        super().__init__("The token is not valid")


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


# --- 403 ---------------------------------------------------------------------


class ForbiddenError(RefusalError):
    """The record exists and is not the caller's."""

    code = "FORBIDDEN"


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


class SelfModificationForbiddenError(ForbiddenError):
    """An admin may not do this to the own account."""

    code = "SELF_MODIFICATION_FORBIDDEN"


class CostCapReachedError(ForbiddenError):
    """An API token has cost what it may cost in its life; `details.{spent,limit}` in micro-USD (403)."""

    code = "BUDGET_EXCEEDED"


class AgentInactiveError(ForbiddenError):
    """The agent is stopped, failed or inactive; `details.reason` says which."""

    code = "AGENT_INACTIVE"


class OwnerSuspendedError(ForbiddenError):
    """The agent's owner is suspended: no new money; open leases run on."""

    code = "OWNER_SUSPENDED"


class NoProviderAssignedError(ForbiddenError):
    """The agent has no enabled provider key of the asked kind."""

    code = "NO_PROVIDER_ASSIGNED"


class ProviderKeyMismatchError(ForbiddenError):
    """The named provider key belongs to another provider than the one asked for."""

    code = "PROVIDER_KEY_MISMATCH"


class ProviderKeyDisabledError(ForbiddenError):
    """The named provider key is disabled."""

    code = "PROVIDER_KEY_DISABLED"


class BudgetExceededError(ForbiddenError):
    """No money for a grant; `details` hold scope, spent, limit, held, remaining in micro-USD."""

    code = "BUDGET_EXCEEDED"


class LeaseExpiredError(ForbiddenError):
    """The lease's time and grace are over; handshake again."""

    code = "LEASE_EXPIRED"


class LeaseRevokedError(ForbiddenError):
    """The lease was revoked; handshake again."""

    code = "LEASE_REVOKED"


# --- 429 ---------------------------------------------------------------------


class TooManyRequestsError(RefusalError):
    """Come back later; `details.retry_after_s` says when, in seconds, at least 1."""

    code = "TOO_MANY_REQUESTS"


class RateLimitExceededError(TooManyRequestsError):
    """More requests than the limit allows."""

    code = "RATE_LIMIT_EXCEEDED"


class QuotaExceededError(TooManyRequestsError):
    """An API token's daily quota is used up; `details.{quota,limit,used,resets_at}`."""

    code = "QUOTA_EXCEEDED"


class CostQuotaExceededError(QuotaExceededError):
    """An API token has cost what it may cost in a day; `details.{limit,used}` in micro-USD."""


class TokenLimitExceededError(TooManyRequestsError):
    """The user has as many living API tokens as allowed; `details.{limit,active}`."""

    code = "TOKEN_LIMIT_EXCEEDED"


# --- 404 ---------------------------------------------------------------------


class NotFoundError(RefusalError):
    """No such record."""

    code = "NOT_FOUND"


class AgentNotFoundError(NotFoundError):
    """No such agent, or it was deleted."""

    code = "AGENT_NOT_FOUND"


class LeaseNotFoundError(NotFoundError):
    """No such lease."""

    code = "LEASE_NOT_FOUND"


class ProviderNotFoundError(NotFoundError):
    """No such provider key, or it is not assigned to this agent."""

    code = "PROVIDER_NOT_FOUND"


class UserNotFoundError(NotFoundError):
    """No such user."""

    code = "USER_NOT_FOUND"


class ApiTokenNotFoundError(NotFoundError):
    """No such API token, or not one for this."""

    code = "TOKEN_NOT_FOUND"


class ProjectNotFoundError(NotFoundError):
    """No such project, or one that the caller may not see: one answer for both."""

    code = "PROJECT_NOT_FOUND"


class ProviderNotAssignedError(NotFoundError):
    """The provider key is not assigned here."""

    code = "PROVIDER_NOT_ASSIGNED"


class NoProviderKeyError(NotFoundError):
    """The project has no provider key of the asked kind."""

    code = "NO_PROVIDER_KEY"


class AuditRowNotFoundError(NotFoundError):
    """No such row of the audit log, or it was pruned."""

    code = "AUDIT_NOT_FOUND"


# --- 409 ---------------------------------------------------------------------


class ConflictError(RefusalError):
    """The request contradicts the state of things."""

    code = "CONFLICT"


class RequestIdConflictError(ConflictError):
    """The request id was reported before with other content."""

    code = "REQUEST_ID_CONFLICT"


class LeaseClosedError(ConflictError):
    """The lease was returned, superseded or refreshed."""

    code = "LEASE_CLOSED"


class TooManyLeasesError(ConflictError):
    """The agent holds as many open leases as it may."""

    code = "TOO_MANY_LEASES"


class BudgetBelowSpentError(RefusalError):
    """An allocation below what the agent has already spent (400)."""

    code = "BUDGET_BELOW_SPENT"


class BudgetUnchangedError(RefusalError):
    """An allocation equal to the live one (400)."""

    code = "BUDGET_UNCHANGED"


class BudgetDecreaseRequiresConfirmationError(RefusalError):
    """A lower allocation without `force` (400)."""

    code = "BUDGET_DECREASE_REQUIRES_CONFIRMATION"


class BudgetChangedError(ConflictError):
    """The live allocation is not the one the caller expected."""

    code = "BUDGET_CHANGED"


class DuplicateUsernameError(ConflictError):
    """A living user has this username, in whatever case."""

    code = "DUPLICATE_USERNAME"


class DuplicateEmailError(ConflictError):
    """A living user has this email, in whatever case."""

    code = "DUPLICATE_EMAIL"


class UserAlreadySuspendedError(ConflictError):
    """The user is suspended already."""

    code = "USER_ALREADY_SUSPENDED"


class UserAlreadyActiveError(ConflictError):
    """The user is active and not locked."""

    code = "USER_ALREADY_ACTIVE"


class UserDeletedError(ConflictError):
    """The user was deleted; nothing changes that."""

    code = "USER_DELETED"


class LastAdminError(ConflictError):
    """There must be one active admin at least."""

    code = "LAST_ADMIN"


class ApiTokenRevokedError(ConflictError):
    """The API token was revoked; `details.revoked_at` says when, in milliseconds."""

    code = "TOKEN_ALREADY_REVOKED"


class ApiTokenRotatedError(ConflictError):
    """The API token was rotated: another stands in its place."""

    code = "TOKEN_ROTATED"


class ProviderExistsError(ConflictError):
    """A provider key has this name, in whatever case."""

    code = "PROVIDER_EXISTS"


class ProjectExistsError(ConflictError):
    """A project has this name, in whatever case."""

    code = "PROJECT_EXISTS"


class ProjectProtectedError(ConflictError):
    """One of the projects that are always there, as they are."""

    code = "PROJECT_PROTECTED"


class ProjectNotEmptyError(ConflictError):
    """The project has live agents or active API tokens; `details.{agents,api_tokens}` say how many."""

    code = "PROJECT_NOT_EMPTY"


class IcTokenExistsError(ConflictError):
    """The agent has an active IC token already."""

    code = "IC_TOKEN_EXISTS"


# --- 503 ---------------------------------------------------------------------


class UnavailableError(RefusalError):
    """The store cannot serve now; trying again is safe."""

    code = "SERVICE_UNAVAILABLE"


class CryptoUnavailableError(UnavailableError):
    """No master key is configured, so no secret can be sealed or opened."""

    code = "CRYPTO_UNAVAILABLE"


# --- 500 ---------------------------------------------------------------------


class FaultError(IroncageError):
    """Something of ours is broken; the caller learns no more than that."""


class InvariantViolationError(FaultError):
    """The books would not add up: a bug. The transaction is undone."""


class SecretUnreadableError(FaultError):
    """A stored secret does not decrypt: wrong master key or tampering."""


class StorageError(FaultError):
    """The database failed; nothing of the failed batch was written."""


# --- start-up ----------------------------------------------------------------


class StartupError(IroncageError):
    """The process must not start as it is configured."""

    code = "STARTUP_ERROR"


class DatabaseNewerError(StartupError):
    """The database was written by a newer version of ironcage."""

    code = "DATABASE_NEWER"


class DatabaseDamagedError(StartupError):
    """The file is damaged or is not an ironcage database."""

    code = "DATABASE_DAMAGED"
