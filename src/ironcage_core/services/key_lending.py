"""Key lending: which provider key a lease uses, and its way out of the vault into an IP token."""

from dataclasses import dataclass

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.providers import KNOWN_PROVIDERS, ProviderKey
from ironcage_core.errors.resources import (
    InvalidProviderIdError,
    NoProviderAssignedError,
    ProviderKeyDisabledError,
    ProviderKeyMismatchError,
    ProviderNotFoundError,
    UnsupportedProviderError,
)
from ironcage_core.ports.secrecy import KeySealer, Vault
from ironcage_core.ports.storage import UnitOfWork


@dataclass(frozen=True, slots=True)
class Sealing:
    """The two ports a key passes on its way to a runtime: out of the vault, into an IP token."""

    vault: Vault
    sealer: KeySealer


def pick_key(uow: UnitOfWork, agent_id: str, *, provider: str | None, key_id: str | None) -> ProviderKey:
    """Return the key a grant uses: the named one, else the first enabled one (of the asked provider).

    Raises:
        UnsupportedProviderError: A provider name this product does not know.
        InvalidProviderIdError: A malformed key id.
        ProviderNotFoundError: The named key is unknown or not assigned to the agent: one answer for both.
        ProviderKeyMismatchError: The named key is of another provider.
        ProviderKeyDisabledError: The named key is disabled.
        NoProviderAssignedError: No enabled key is assigned.
    """
    if provider is not None and provider not in KNOWN_PROVIDERS:
        raise UnsupportedProviderError("This provider is not supported", allowed=list(KNOWN_PROVIDERS))
    if key_id is not None and not is_id(key_id, "prov"):
        raise InvalidProviderIdError("A provider key id is prov_ and 32 hex digits")
    assigned = uow.provider_keys.assigned_to(agent_id)
    usable = [key for key in assigned if key.is_enabled and provider in {None, key.provider}]
    if not usable:
        raise NoProviderAssignedError("No enabled provider key is assigned to the agent")
    if key_id is None:
        return usable[0]
    named = next((key for key in assigned if key.id == key_id), None)
    if named is None:
        raise ProviderNotFoundError("No such provider key is assigned to the agent")
    if provider is not None and named.provider != provider:
        raise ProviderKeyMismatchError("The provider key belongs to another provider")
    return check_enabled(named)


def key_of(uow: UnitOfWork, lease: Lease) -> ProviderKey:
    """Return the key that a lease was granted with.

    Raises:
        NoProviderAssignedError: It is not assigned to the agent any more.
        ProviderKeyDisabledError: It is disabled.
    """
    assigned = uow.provider_keys.assigned_to(lease.agent_id)
    key = next((key for key in assigned if key.id == lease.provider_key_id), None)
    if key is None:
        raise NoProviderAssignedError("The provider key of the lease is not assigned to the agent any more")
    return check_enabled(key)


def check_enabled(key: ProviderKey) -> ProviderKey:
    """Return the key.

    Raises:
        ProviderKeyDisabledError: It is disabled.
    """
    if not key.is_enabled:
        raise ProviderKeyDisabledError("The provider key is disabled")
    return key


def seal_for(sealing: Sealing, key: ProviderKey, identity: AgentIdentity, lease_id: str) -> str:
    """Return the IP token of a lease: the provider key, sealed for the holder of the IC token.

    Raises:
        CryptoUnavailableError: No master key is configured.
        SecretUnreadableError: The stored secret does not decrypt.
    """
    return sealing.sealer.seal(
        sealing.vault.open(key.ciphertext, record_id=key.id),
        ic_token=identity.token,
        agent_id=identity.agent_id,
        lease_id=lease_id,
        provider=key.provider,
    )
