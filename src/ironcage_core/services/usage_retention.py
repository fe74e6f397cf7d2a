"""Retention of usage: what is older than its days is shown to nobody from then on, and goes in small steps.

Sums by day and the keys of calls stay for ever: no total changes, and a retried report is still booked once.
"""

from typing import Final

from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_HOUR, day_start
from ironcage_core.ports.storage import UnitOfWork

TOKENS_KEPT_FOR: Final = 2 * MS_PER_DAY
REQUESTS_KEPT_FOR: Final = MS_PER_HOUR


def purge_usage(uow: UnitOfWork, *, record_days: int, hour_days: int, limit: int) -> int:
    """Let old records and rollups by hour go, and return the more that went of one kind.

    All that is too old is out of sight at once, however many steps it takes to remove it. What was let go does not
    come back by a longer retention.

    Args:
        uow: An open unit of work.
        record_days: For how many whole days records are kept, beside the current one.
        hour_days: The same for the rollups by hour.
        limit: At most how many go of each kind; fewer mean that none is left.

    Source: contract analytics.md 5.
    """
    uow.usage.advance_horizon("records", day_start(uow.now, record_days))
    uow.usage.advance_horizon("hours", day_start(uow.now, hour_days))
    return max(uow.usage.purge_records(limit), uow.usage.purge_hours(limit))


def forget_limit_windows(uow: UnitOfWork, *, limit: int) -> int:
    """Drop counts against limits whose day or minute is long over, and return the more that went of one kind."""
    return uow.limit_windows.forget(
        tokens_before=uow.now - TOKENS_KEPT_FOR, requests_before=uow.now - REQUESTS_KEPT_FOR, limit=limit
    )
