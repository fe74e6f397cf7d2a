"""Refusals on a runtime's own side of a lease; no server has a part in them. Amounts are micro-USD."""

from ironcage_core.errors.tree import RefusalError, UnavailableError


class BudgetExceeded(RefusalError):  # noqa: N818 - what runtimes know it as
    """Nothing is left to spend. Source: contract budget.md 11."""

    code = "LOCAL_BUDGET_EXCEEDED"

    def __init__(self, spent: int, limit: int, reserved: int) -> None:
        super().__init__(
            f"The budget is used up: {spent} spent and {reserved} reserved of {limit} micro-USD",
            spent=spent,
            limit=limit,
            reserved=reserved,
        )
        self.spent = spent
        self.limit = limit
        self.reserved = reserved


class InsufficientBudget(RefusalError):  # noqa: N818 - what runtimes know it as
    """Less is left than a call may cost. Source: contract budget.md 11."""

    code = "INSUFFICIENT_BUDGET"

    def __init__(self, available: int, requested: int, reason: str | None = None) -> None:
        why = "" if reason is None else f" (no new money: {reason})"
        super().__init__(
            f"A call may cost {requested} micro-USD and {available} are left{why};"
            " ask for less output or a larger budget",
            available=available,
            requested=requested,
            reason=reason,
        )
        self.available = available
        self.requested = requested


class ReservationClosedError(RefusalError):
    """A reservation was committed or cancelled before."""

    code = "RESERVATION_CLOSED"


class UnpricedModelError(RefusalError):
    """Nobody knows what a call of this model costs, and an unknown price is never free."""

    code = "UNPRICED_MODEL"


class UnmeteredRequestError(RefusalError):
    """A request to a provider whose cost could not be told from its answer; it was not sent."""

    code = "UNMETERED_REQUEST"


class ForeignHostError(RefusalError):
    """A request to a host that is not the provider's; the provider key was not sent to it."""

    code = "FOREIGN_HOST"


class SessionStoppedError(RefusalError):
    """The control plane lets this agent start no new calls for now; `details.reason` is its code."""

    code = "SESSION_STOPPED"


class SessionClosedError(RefusalError):
    """The session is closed; its provider key is gone."""

    code = "SESSION_CLOSED"


class OutboxError(RefusalError):
    """What a runtime has spent cannot be kept on its disk, so it may not spend."""

    code = "OUTBOX_UNUSABLE"


class UnreachableError(UnavailableError):
    """The control plane does not answer."""

    code = "CONTROL_PLANE_UNREACHABLE"

    @property
    def retry_after_s(self) -> float:
        """For how many seconds it wants to be left alone; 0 if it does not say."""
        asked_s = self.details.get("retry_after_s")
        return asked_s if isinstance(asked_s, int | float) else 0.0


class ControlPlaneError(RefusalError):
    """The control plane refused; `details` hold its `status`, its `reason` (a code) and its details."""

    code = "CONTROL_PLANE_REFUSED"
