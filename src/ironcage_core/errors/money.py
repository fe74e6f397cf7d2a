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


class IdempotencyKeyReusedError(ConflictError):
    """An idempotency key that was used for a request with another body."""

    code = "IDEMPOTENCY_KEY_REUSED"


class NoActiveLeaseError(ConflictError):
    """The agent has no open lease to reserve on."""

    code = "NO_ACTIVE_LEASE"


class AlreadyReportedError(ConflictError):
    """The call was reported; there is nothing left to reserve or release."""

    code = "ALREADY_REPORTED"


class ReservationNotFoundError(NotFoundError):
    """No such reservation."""

    code = "RESERVATION_NOT_FOUND"


class BudgetRequestNotFoundError(NotFoundError):
    """No such budget request."""

    code = "REQUEST_NOT_FOUND"


class BudgetDecreaseRequestError(RefusalError):
    """A request for no more than the agent has (400)."""

    code = "BUDGET_DECREASE_REQUEST"


class ApprovalDecreasesBudgetError(RefusalError):
    """An approval of no more than the agent has by now (400)."""

    code = "APPROVAL_DECREASES_BUDGET"


class RequestAlreadyReviewedError(ConflictError):
    """A request that is decided or cancelled."""

    code = "REQUEST_ALREADY_REVIEWED"


class CannotCancelReviewedError(ConflictError):
    """A request that was approved or rejected."""

    code = "CANNOT_CANCEL_REVIEWED"
