"""Maintenance: what the server does by itself while it serves, each in its own rhythm and in small batches.

A round that fails is tried again at the next one; none of it is needed for an answer to be right.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Final

from ironcage_core.errors.tree import IroncageError
from ironcage_core.services.audit_log import prune_audit_log
from ironcage_core.services.feed import prune_feed
from ironcage_core.services.ingestion import forget_calls
from ironcage_core.services.reserving import forget_reservations
from ironcage_core.services.retries import forget_answers
from ironcage_core.services.sessions import forget_sessions
from ironcage_core.services.telemetry import purge_telemetry
from ironcage_core.services.usage_retention import forget_limit_windows, purge_usage
from ironcage_http.secret_watch import WATCH_EVERY_S, SecretWatch
from ironcage_http.settings import Settings
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
    """Remove what need not be kept, and what was over long ago."""
    for each in (
        *_kept_for_a_time(wiring.settings),
        forget_limit_windows,
        forget_sessions,
        forget_reservations,
        forget_answers,
    ):
        work = partial(each, limit=PRUNE_LIMIT)
        while await wiring.store.write_async(work) == PRUNE_LIMIT:
            pass


def _kept_for_a_time(settings: Settings) -> Iterator[Callable[..., int]]:
    """Yield what removes a log that is older than the operator wants it to be kept; calls before their keys."""
    days, key_days = settings.usage_retention_days, settings.call_key_retention_days
    yield partial(prune_audit_log, standard_days=settings.audit_retention_days)
    yield partial(purge_usage, record_days=days, hour_days=settings.hour_rollup_retention_days)
    yield partial(purge_telemetry, record_days=days, safety_days=settings.safety_retention_days, key_days=key_days)
    if key_days is not None:
        yield partial(forget_calls, key_days=key_days)
    yield partial(prune_feed, hours=settings.feed_retention_hours, events=settings.feed_retention_events)
