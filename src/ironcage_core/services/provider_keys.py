"""Provider keys: taken in once, sealed at once, shown only as a mask from then on."""

from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.providers import KNOWN_PROVIDERS, ProviderKey, check_api_key, check_base_url, mask
from ironcage_core.errors import ValidationError
from ironcage_core.ports.secrecy import Vault
from ironcage_core.ports.storage import UnitOfWork


def add_provider_key(
    uow: UnitOfWork,
    *,
    provider: str,
    api_key: str,
    base_url: str | None = None,
    actor: Actor,
    vault: Vault,
) -> ProviderKey:
    """Store a provider's API key, encrypted and bound to its record.

    Args:
        uow: The open unit of work.
        provider: `openai` or `anthropic`.
        api_key: The secret; never logged, echoed or stored in the clear.
        base_url: Where the provider is reached, if not at its usual place.
        actor: Who adds it.
        vault: Seals it.

    Raises:
        ValidationError: An unknown provider, an unusable key or base URL.
        CryptoUnavailableError: No master key is configured.

    Source: contract resources.md 2.
    """
    if provider not in KNOWN_PROVIDERS:
        raise ValidationError({"provider": f"must be one of {', '.join(KNOWN_PROVIDERS)}"})
    secret = check_api_key(api_key)
    key_id = uow.new_id("prov")
    key = ProviderKey(
        id=key_id,
        name=f"{provider}-{key_id[-8:]}",
        provider=provider,
        base_url=check_base_url(base_url),
        ciphertext=vault.seal(secret, record_id=key_id),
        masked_key=mask(secret),
        is_enabled=1,
        created_by=actor.id,
        created_at=uow.now,
        updated_at=uow.now,
        last_used_at=None,
    )
    uow.provider_keys.put(key)
    metadata = {"provider": provider, "masked_key": key.masked_key}
    uow.audit.append(AuditNote("PROVIDER_CREATED", "credential", "provider_key", key_id, actor, metadata=metadata))
    return key
