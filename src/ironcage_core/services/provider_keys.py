"""Provider keys: taken in once, sealed at once, shown only as a mask from then on."""

from dataclasses import dataclass

from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.providers import (
    KNOWN_PROVIDERS,
    ProviderKey,
    check_api_key,
    check_base_url,
    check_key_name,
    mask,
)
from ironcage_core.errors import ProviderExistsError, ProviderNotFoundError, ValidationError
from ironcage_core.ports.lists import KeyFilter, KeyOrder, Page, Paging
from ironcage_core.ports.secrecy import Vault
from ironcage_core.ports.storage import UnitOfWork


def add_provider_key(
    uow: UnitOfWork,
    *,
    provider: str,
    api_key: str,
    name: str | None = None,
    base_url: str | None = None,
    is_enabled: bool = True,
    actor: Actor,
    vault: Vault,
) -> ProviderKey:
    """Store a provider's API key, encrypted and bound to its record.

    Args:
        uow: The open unit of work.
        provider: `openai` or `anthropic`.
        api_key: The secret; never logged, echoed or stored in the clear.
        name: A slug of its own; None makes one from the provider and the id.
        base_url: Where the provider is reached, if not at its usual place.
        is_enabled: Whether it may be lent at once.
        actor: Who adds it.
        vault: Seals it.

    Raises:
        ValidationError: An unknown provider, an unusable key, name or base URL; every bad field is named.
        ProviderExistsError: Another key has that name, in whatever case.
        CryptoUnavailableError: No master key is configured.

    Source: contract resources.md 2.
    """
    _check_new(provider, api_key, name, base_url)
    secret = check_api_key(api_key)
    if name is not None and uow.provider_keys.find_by_name(name) is not None:
        raise ProviderExistsError("Another provider key has that name")
    key_id = uow.new_id("prov")
    key = ProviderKey(
        id=key_id,
        name=f"{provider}-{key_id[-8:]}" if name is None else name,
        provider=provider,
        base_url=check_base_url(base_url),
        ciphertext=vault.seal(secret, record_id=key_id),
        masked_key=mask(secret),
        is_enabled=int(is_enabled),
        created_by=actor.id,
        created_at=uow.now,
        updated_at=uow.now,
        last_used_at=None,
    )
    uow.provider_keys.put(key)
    metadata = {"provider": provider, "masked_key": key.masked_key}
    uow.audit.append(AuditNote("PROVIDER_CREATED", "credential", "provider_key", key_id, actor, metadata=metadata))
    return key


def _check_new(provider: str, api_key: str, name: str | None, base_url: str | None) -> None:
    problems = {}
    if provider not in KNOWN_PROVIDERS:
        problems["provider"] = f"must be one of {', '.join(KNOWN_PROVIDERS)}"
    try:
        check_api_key(api_key)
    except ValidationError as error:
        problems.update(error.fields)
    try:
        check_base_url(base_url)
    except ValidationError as error:
        problems.update(error.fields)
    try:
        if name is not None:
            check_key_name(name)
    except ValidationError as error:
        problems.update(error.fields)
    if problems:
        raise ValidationError(problems)


@dataclass(frozen=True, slots=True)
class KeyOverview:
    """A provider key and how many agents it is assigned to."""

    key: ProviderKey
    agents: int


def provider_key_overview(uow: UnitOfWork, key_id: str) -> KeyOverview:
    """Return one provider key.

    Raises:
        ProviderNotFoundError: No such key.
    """
    key = uow.provider_keys.find(key_id) if is_id(key_id, "prov") else None
    if key is None:
        raise ProviderNotFoundError("No such provider key")
    return KeyOverview(key, uow.provider_keys.agent_counts([key_id]).get(key_id, 0))


def list_provider_keys(
    uow: UnitOfWork, which: KeyFilter, paging: Paging, order: KeyOrder = "created_at", *, descending: bool = True
) -> Page[KeyOverview]:
    """Return one page of provider keys."""
    page = uow.provider_keys.page(which, paging, order, descending=descending)
    counts = uow.provider_keys.agent_counts([key.id for key in page.rows])
    return Page([KeyOverview(key, counts.get(key.id, 0)) for key in page.rows], page.total)
