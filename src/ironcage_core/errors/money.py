"""Refusals about budgets, leases and reports; amounts in `details` are micro-USD."""

from ironcage_core.errors.tree import ConflictError, ForbiddenError, NotFoundError, RefusalError


class BudgetExceededError(ForbiddenError):
    """No money for a grant; `details` hold scope, spent, limit, held, remaining in micro-USD."""

    code = "BUDGET_EXCEEDED"


class LeaseNotFoundError(NotFoundError):
    """No such lease."""

    code = "LEASE_NOT_FOUND"


class LeaseExpiredError(ForbiddenError):
    """The lease's time and grace are over; handshake again."""

    code = "LEASE_EXPIRED"


class LeaseRevokedError(ForbiddenError):
    """The lease was revoked; handshake again."""

    code = "LEASE_REVOKED"


class LeaseClosedError(ConflictError):
    """The lease was returned, superseded or refreshed."""

    code = "LEASE_CLOSED"


class TooManyLeasesError(ConflictError):
    """The agent holds as many open leases as it may."""

    code = "TOO_MANY_LEASES"


class RequestIdConflictError(ConflictError):
    """The request id was reported before with other content."""

    code = "REQUEST_ID_CONFLICT"


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
