"""What every handler works with: the store, the settings and the ports, wired once at start."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ironcage_core.domain.prices import PriceTable
from ironcage_core.ports.secrecy import AccessSigner, PasswordHasher, TokenSigner, Vault
from ironcage_core.ports.storage import Store
from ironcage_core.ports.system import Clock
from ironcage_core.services.key_lending import Sealing
from ironcage_http.settings import Settings


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
    nobodys_hash: str = field(repr=False)
    new_refresh_token: Callable[[], str]

    @property
    def vault(self) -> Vault:
        """Where provider keys are sealed."""
        return self.sealing.vault
