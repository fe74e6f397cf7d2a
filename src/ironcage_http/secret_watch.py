"""The watch over stored secrets: which of them do not open, for the log and the metrics, while the server serves.

Opening every secret costs microseconds each, and is done in a rhythm, never because somebody asks for the metrics.
"""

import logging
from functools import partial
from typing import Final

from anyio import to_thread

from ironcage_core.services.master_key import check_secrets, note_key_in_use
from ironcage_http.metrics import Metrics
from ironcage_http.wiring import Wiring

logger = logging.getLogger(__name__)

WATCH_EVERY_S: Final = 60.0
"""How old the number of secrets that do not open may be."""


class SecretWatch:
    """Looks again and again, and tells what changed.

    Args:
        wiring: Whose secrets.
        metrics: Where the number goes.
    """

    def __init__(self, wiring: Wiring, metrics: Metrics) -> None:
        self._wiring = wiring
        self._metrics = metrics
        self._is_noted = False
        self._known: frozenset[str] = frozenset()

    async def look(self) -> None:
        """Open every secret once; the first time, note which master key seals from now on."""
        vault, store = self._wiring.vault, self._wiring.store
        if not self._is_noted and vault.key_id is not None:
            opens_others = bool(self._wiring.settings.previous_master_keys)
            await store.write_async(partial(note_key_in_use, key_id=vault.key_id, opens_others=opens_others))
            self._is_noted = True
        health = await to_thread.run_sync(store.read, partial(check_secrets, vault=vault))
        self._metrics.tell_undecryptable(health.unreadable)
        unreadable = frozenset(health.unreadable)
        if new := sorted(unreadable - self._known):
            logger.error("%d secrets do not decrypt: %s", len(unreadable), ", ".join(new))
        self._known = unreadable
