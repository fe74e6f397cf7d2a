"""Sweeping: expired leases get their end in small units of work: however many they are, no other call waits long.

One round at a time: whoever needs the leases up to date while a round runs waits for that one.
"""

import asyncio
import logging
from functools import partial
from time import perf_counter
from typing import Final

from ironcage_core.ports.storage import Store
from ironcage_core.services.expiry import sweep

logger = logging.getLogger(__name__)

BATCH: Final = 12
"""Leases of one unit of work, for some 5 ms of the writer: what a report may have to wait behind."""


class Sweeper:
    """Brings the leases of a store up to date.

    Args:
        store: Where they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._stuck: tuple[str, ...] = ()

    async def is_behind(self) -> bool:
        """Tell whether time has done something to a lease that is not written yet."""
        return bool(await self._store.glance_async(lambda uow: uow.leases.due(uow.now, 1)))

    async def sweep(self) -> None:
        """End every lease whose time is over, with a rest after each batch: the busier the writer, the longer."""
        async with self._turn:
            await self._round()

    async def catch_up(self) -> None:
        """As `sweep`, for somebody who waits: nothing is left out, and there are no rests while he does."""
        self._waiting += 1
        try:
            async with self._turn:
                if await self.is_behind():
                    await self._round()
        finally:
            self._waiting -= 1

    async def _round(self) -> None:
        stuck: tuple[str, ...] = ()
        is_done = False
        while not is_done:
            limit = BATCH + len(stuck)  # those that are stuck come first in every batch
            start = perf_counter()
            swept = await self._store.write_async(partial(sweep, limit=limit))
            stuck = swept.stuck
            is_done = swept.aged + len(stuck) < limit
            if not is_done:
                await asyncio.sleep(0 if self._waiting else perf_counter() - start)
        self._tell(stuck)

    def _tell(self, stuck: tuple[str, ...]) -> None:
        if stuck and stuck != self._stuck:
            logger.error("%d leases cannot end, their books do not hold: %s", len(stuck), ", ".join(stuck[:10]))
        self._stuck = stuck
