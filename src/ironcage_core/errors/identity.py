"""Refusals about users, their tokens and the audit log."""

from ironcage_core.errors.tree import ConflictError, ForbiddenError, NotFoundError, TooManyRequestsError


class SelfModificationForbiddenError(ForbiddenError):
    """An admin may not do this to the own account."""

    code = "SELF_MODIFICATION_FORBIDDEN"


class UserNotFoundError(NotFoundError):
    """No such user."""

    code = "USER_NOT_FOUND"


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


class ApiTokenNotFoundError(NotFoundError):
    """No such API token, or not one for this."""

    code = "TOKEN_NOT_FOUND"


class TokenLimitExceededError(TooManyRequestsError):
    """The user has as many living API tokens as allowed; `details.{limit,active}`."""

    code = "TOKEN_LIMIT_EXCEEDED"


class ApiTokenRevokedError(ConflictError):
    """The API token was revoked; `details.revoked_at` says when, in milliseconds."""

    code = "TOKEN_ALREADY_REVOKED"


class ApiTokenRotatedError(ConflictError):
    """The API token was rotated: another stands in its place."""

    code = "TOKEN_ROTATED"


class IcTokenExistsError(ConflictError):
    """The agent has an active IC token already."""

    code = "IC_TOKEN_EXISTS"


class AuditRowNotFoundError(NotFoundError):
    """No such row of the audit log, or it was pruned."""

    code = "AUDIT_NOT_FOUND"
