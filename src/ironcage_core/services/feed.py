"""The feed: how long it is kept for those who come back. Source: contract analytics.md 5 and 6.5."""

from ironcage_core.domain.instants import MS_PER_HOUR
from ironcage_core.ports.storage import UnitOfWork


def prune_feed(uow: UnitOfWork, *, hours: int, events: int, limit: int) -> int:
    """Remove what is older than so many hours, or than so many events, and return how many went.

    The newest event always stays: it is where a client may resume from.

    Args:
        uow: An open unit of work.
        hours: For how long events are kept.
        events: At most how many are kept.
        limit: At most how many go; fewer mean that none is left.
    """
    return uow.feed.purge(uow.now - hours * MS_PER_HOUR, events, limit)
