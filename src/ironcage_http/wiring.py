"""What every handler works with: the store, the settings and the ports, wired once at start."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ironcage_core.domain.prices import PriceTable
from ironcage_core.ports.rate_limits import RateLimits
from ironcage_core.ports.secrecy import AccessSigner, PasswordHasher, TokenSigner, Vault
from ironcage_core.ports.storage import Store
from ironcage_core.ports.system import Clock
from ironcage_core.services.key_lending import Sealing
from ironcage_core.services.token_quotas import TokenCounter
from ironcage_http.metrics import Metrics
from ironcage_http.settings import Settings
from ironcage_http.sweeping import Sweeper
from ironcage_http.throttle import Throttle


@dataclass(frozen=True, slots=True)
class Wiring:
    """The ports of one running control plane.

    `nobodys_hash` is of a password that nobody knows: checking it makes an unknown account as slow as a known one.
    """

    store: Store
    settings: Settings
    clock: Clock
    prices: PriceTable
    ic_signer: TokenSigner
    access_signer: AccessSigner
    sealing: Sealing
    hasher: PasswordHasher
    throttle: Throttle
    denials: RateLimits
    token_counter: TokenCounter
    sweeper: Sweeper
    metrics: Metrics
    nobodys_hash: str = field(repr=False)
    new_refresh_token: Callable[[], str]
    new_api_token: Callable[[], str]
    api_token_hash: Callable[[str], str | None]
    _flushing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def flush_counts(self) -> None:
        """Make the counted requests of API tokens durable; what cannot be written now waits for the next time."""
        # Whoever waits may be cancelled; the flush itself must see its commit, or it would count twice.
        await asyncio.shield(asyncio.ensure_future(self._flush()))

    async def _flush(self) -> None:
        async with self._flushing:
            batch = self.token_counter.begin_flush()
            if batch.is_empty:
                return
            is_written = False
            try:
                await self.store.write_async(batch.apply)
                is_written = True
            finally:
                self.token_counter.end_flush(is_written=is_written)

    @property
    def vault(self) -> Vault:
        """Where provider keys are sealed."""
        return self.sealing.vault
