"""Provider keys: taken in once, sealed at once, shown only as a mask from then on."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ironcage_core.domain.access import Principal
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.instants import day_start
from ironcage_core.domain.providers import (
    ProviderKey,
    ProviderKeyFields,
    check_api_key,
    columns_of,
    key_problems,
    mask,
)
from ironcage_core.domain.usage import UsageSums
from ironcage_core.errors.resources import ProviderExistsError, ProviderNotFoundError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.lists import MAX_PER_PAGE, KeyFilter, KeyOrder, Page, Paging, ProjectFilter
from ironcage_core.ports.secrecy import Vault
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_scope import sums_of, usage_seen


def add_provider_key(
    uow: UnitOfWork,
    *,
    provider: str,
    api_key: str,
    name: str | None = None,
    base_url: str | None = None,
    description: str | None = None,
    models: Sequence[str] = (),
    is_enabled: bool = True,
    allows_http: bool = True,
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
        description: For people; at most 500 characters.
        models: What it is for; none means any model.
        is_enabled: Whether it may be lent at once.
        allows_http: Whether a base URL of this machine may do without TLS.
        actor: Who adds it.
        vault: Seals it.

    Raises:
        ValidationError: A field breaks its rule; every bad one is named.
        ProviderExistsError: Another key has that name, in whatever case.
        CryptoUnavailableError: No master key is configured.

    Source: contract resources.md 2.
    """
    fields: ProviderKeyFields = {
        "provider": provider, "base_url": base_url, "description": description, "models": models,
        "is_enabled": is_enabled,
    }  # fmt: skip
    named: ProviderKeyFields = {} if name is None else {"name": name}
    if problems := key_problems({**fields, **named, "api_key": api_key}, allows_http=allows_http):
        raise ValidationError(problems)
    if name is not None:
        check_name_is_free(uow, name)
    secret = check_api_key(api_key)
    key_id = uow.new_id("prov")
    columns = {"name": f"{provider}-{key_id[-8:]}", **columns_of(fields), **columns_of(named)}
    key = ProviderKey(
        id=key_id,
        ciphertext=vault.seal(secret, record_id=key_id),
        masked_key=mask(secret),
        created_by=actor.id,
        created_at=uow.now,
        updated_at=uow.now,
        last_used_at=None,
        **columns,
    )
    uow.provider_keys.put(key)
    metadata = {"provider": provider, "masked_key": key.masked_key}
    uow.audit.append(AuditNote("PROVIDER_CREATED", "credential", "provider_key", key_id, actor, metadata=metadata))
    return key


def check_name_is_free(uow: UnitOfWork, name: str, *, besides: str | None = None) -> None:
    """Refuse a name that another key has, in whatever case.

    Raises:
        ProviderExistsError: It is taken.
    """
    found = uow.provider_keys.find_by_name(name)
    if found is not None and found.id != besides:
        raise ProviderExistsError("Another provider key has that name")


def get_provider_key(uow: UnitOfWork, key_id: str) -> ProviderKey:
    """Return one provider key.

    Raises:
        ProviderNotFoundError: No such key.
    """
    key = uow.provider_keys.find(key_id) if is_id(key_id, "prov") else None
    if key is None:
        raise ProviderNotFoundError("No such provider key")
    return key


@dataclass(frozen=True, slots=True)
class KeyOverview:
    """A provider key, how many agents it is assigned to, and the projects it is assigned to that may be seen."""

    key: ProviderKey
    agents: int
    projects: Sequence[str] = ()


def provider_key_overview(uow: UnitOfWork, key_id: str, principal: Principal) -> KeyOverview:
    """Return one provider key as somebody may see it.

    Raises:
        ProviderNotFoundError: No such key.
    """
    (overview,) = _overviews(uow, [get_provider_key(uow, key_id)], principal)
    return overview


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What a provider key was used for, ever and since the UTC day began."""

    total: UsageSums
    today: UsageSums


def provider_key_usage(uow: UnitOfWork, key_id: str, principal: Principal) -> KeyUsage:
    """Return what a provider key was used for, as far as the principal may see usage."""
    which = replace(usage_seen(principal), provider_id=key_id)
    return KeyUsage(sums_of(uow, which), sums_of(uow, replace(which, since=day_start(uow.now))))


def list_provider_keys(
    uow: UnitOfWork,
    which: KeyFilter,
    paging: Paging,
    order: KeyOrder = "created_at",
    *,
    descending: bool = True,
    principal: Principal,
) -> Page[KeyOverview]:
    """Return one page of provider keys as somebody may see them."""
    page = uow.provider_keys.page(which, paging, order, descending=descending)
    return Page(_overviews(uow, page.rows, principal), page.total)


def _overviews(uow: UnitOfWork, keys: Sequence[ProviderKey], principal: Principal) -> list[KeyOverview]:
    counts: Mapping[str, int] = uow.provider_keys.agent_counts([key.id for key in keys])
    visible = _visible_projects(uow, principal)

    def projects(key: ProviderKey) -> list[str]:
        if visible is not None and not visible:
            return []
        return [each for each in uow.projects.projects_of_key(key.id) if visible is None or each in visible]

    return [KeyOverview(key, counts.get(key.id, 0), projects(key)) for key in keys]


def _visible_projects(uow: UnitOfWork, principal: Principal) -> Collection[str] | None:
    """Return the projects that a role may know of; None means all."""
    if principal.role == "admin":
        return None
    if principal.role != "user":
        return ()
    which = ProjectFilter(visible_to=principal.user_id, now=uow.now)
    return {project.id for project in uow.projects.page(which, Paging(1, MAX_PER_PAGE)).rows}
