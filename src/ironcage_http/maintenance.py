"""Maintenance: what the server does by itself while it serves, each in its own rhythm and in small batches.

A round that fails is tried again at the next one; none of it is needed for an answer to be right.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

from ironcage_core.errors.tree import IroncageError
from ironcage_core.services.audit_log import prune_audit_log
from ironcage_core.services.reserving import forget_reservations
from ironcage_core.services.retries import forget_answers
from ironcage_core.services.sessions import forget_sessions
from ironcage_core.services.usage_retention import forget_limit_windows, purge_usage
from ironcage_http.secret_watch import WATCH_EVERY_S, SecretWatch
from ironcage_http.wiring import Wiring

logger = logging.getLogger(__name__)

PRUNE_LIMIT: Final = 500
FLUSH_EVERY_S: Final = 1.0
"""What a crash can lose of the request counts of API tokens."""

PRUNE_EVERY_S: Final = 3600.0
JITTER: Final = 0.1
"""By which part the rests vary, so that several processes on one database do not work in step."""


@contextlib.asynccontextmanager
async def maintained(_: object, *, wiring: Wiring, watch: SecretWatch) -> AsyncIterator[None]:
    """Keep a control plane in order while it serves; what was counted is written before it ends."""
    rounds: tuple[tuple[Callable[[], Awaitable[None]], float], ...] = (
        (watch.look, WATCH_EVERY_S),
        (wiring.sweeper.sweep, wiring.settings.sweep_s),
        (wiring.flush_counts, FLUSH_EVERY_S),
        (partial(_prune, wiring), PRUNE_EVERY_S),
    )
    tasks = [asyncio.create_task(_for_ever(work, every_s)) for work, every_s in rounds]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _once(wiring.flush_counts)


async def _for_ever(work: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        await _once(work)
        await asyncio.sleep(jittered(every_s))


def jittered(seconds: float) -> float:
    """Return about so many seconds."""
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret


async def _once(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except IroncageError:
        logger.exception("a round of maintenance failed; the next one tries again")


async def _prune(wiring: Wiring) -> None:
    """Remove what the audit log and the usage need not keep, and sessions and counts that were over long ago."""
    settings = wiring.settings
    prune = partial(prune_audit_log, standard_days=settings.audit_retention_days)
    purge = partial(
        purge_usage, record_days=settings.usage_retention_days, hour_days=settings.hour_rollup_retention_days
    )
    for each in (prune, purge, forget_limit_windows, forget_sessions, forget_reservations, forget_answers):
        work = partial(each, limit=PRUNE_LIMIT)
        while await wiring.store.write_async(work) == PRUNE_LIMIT:
            pass
