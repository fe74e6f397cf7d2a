"""The gate of usage limits: whether a user's calls have used up what a grant or the release of a key needs.

A user's row without a project counts everything, the row of a project what is done there; both must let pass. Limits
hold back grants only: what was used is always booked, also past a cap.

Source: contract resources.md 7.1 and budget.md 8.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ironcage_core.domain.instants import (
    MS_PER_MINUTE,
    MS_PER_S,
    Instant,
    minute_of,
    next_day_start,
)
from ironcage_core.domain.users import UsageLimit
from ironcage_core.errors.money import BudgetExceededError
from ironcage_core.errors.resources import UsageLimitExceededError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.months import capped_month, refuse_for_month


class Counted(NamedTuple):
    """A cap on what is counted, how much of it is used in the window that is going on, and when that ends."""

    name: str
    cap: int | None
    used: int
    resets_at: Instant

    @property
    def is_reached(self) -> bool:
        """Whether nothing is left."""
        return self.cap is not None and self.used >= self.cap


def tokens_of(uow: UnitOfWork, limit: UsageLimit) -> Counted:
    """Return what a limit's cap on tokens has counted in this UTC day."""
    used = uow.limit_windows.tokens(limit.user_id, limit.project_id, uow.now)
    return Counted("max_tokens_per_day", limit.max_tokens_per_day, used, next_day_start(uow.now))


def requests_of(uow: UnitOfWork, limit: UsageLimit) -> Counted:
    """Return what a limit's cap on requests has counted in this UTC minute."""
    used = uow.limit_windows.requests(limit.user_id, limit.project_id, uow.now)
    resets_at = (minute_of(uow.now) + 1) * MS_PER_MINUTE
    return Counted("max_requests_per_minute", limit.max_requests_per_minute, used, resets_at)


def check_counted_limits(uow: UnitOfWork, user_id: str, project_id: str) -> None:
    """Refuse a user whose calls have reached a cap on tokens or requests; of several, the one that lasts longest.

    Args:
        uow: The open unit of work.
        user_id: Whose token it is, or who owns the agent.
        project_id: The token's project, or the agent's.

    Raises:
        UsageLimitExceededError: One is reached.
    """
    reached = [each for each in _counted(uow, user_id, project_id) if each[1].is_reached]
    if not reached:
        return
    limit, counted = max(reached, key=lambda each: each[1].resets_at)
    raise UsageLimitExceededError(
        "A usage limit is reached",
        limit_id=limit.id,
        limit=counted.name,
        cap=counted.cap,
        used=counted.used,
        resets_at=counted.resets_at,
        retry_after_s=-((uow.now - counted.resets_at) // MS_PER_S),
    )


def _counted(uow: UnitOfWork, user_id: str, project_id: str) -> Iterator[tuple[UsageLimit, Counted]]:
    for limit in (uow.limits.find_of(user_id), uow.limits.find_of(user_id, project_id)):
        if limit is None:
            continue
        if limit.max_tokens_per_day is not None:  # of a cap that is not set nothing is read
            yield limit, tokens_of(uow, limit)
        if limit.max_requests_per_minute is not None:
            yield limit, requests_of(uow, limit)


def project_month(uow: UnitOfWork, user_id: str, project_id: str) -> BudgetExceededError | None:
    """Return the refusal of a user whose monthly cap in a project is reached, else None; this cap clips no grant.

    Args:
        uow: The open unit of work.
        user_id: Whose token it is, or who owns the agent.
        project_id: The token's project, or the agent's.
    """
    month = capped_month(uow, user_id, project_id)
    return None if month is None or month.available > 0 else refuse_for_month(uow, month)


def check_project_month(uow: UnitOfWork, user_id: str, project_id: str) -> None:
    """Refuse a user whose monthly cap in a project is reached.

    Raises:
        BudgetExceededError: It is.
    """
    if (refusal := project_month(uow, user_id, project_id)) is not None:
        raise refusal
