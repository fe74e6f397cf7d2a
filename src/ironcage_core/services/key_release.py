"""Key release: which provider key leaves the vault in the clear, for whom, and what must hold for that.

A program with a user's API token gets a key of the token's project, an agent one of its own: never one that is not
assigned there, and no other in the place of one that is disabled. A key is worth money, so who has none left gets
none. What is released and the row that remembers it are one unit of work.

Source: contract resources.md 4.
"""

from dataclasses import dataclass, field

from ironcage_core.domain.access import Principal
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.providers import KNOWN_PROVIDERS, ProviderKey
from ironcage_core.errors.access import WrongTokenTypeError
from ironcage_core.errors.resources import NoProviderKeyError, TokenNotInProjectError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.secrecy import Vault
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.expiry import catch_up
from ironcage_core.services.granting import (
    agent_of,
    check_may_call,
    check_may_receive,
    headroom,
    refuse_for_money,
)
from ironcage_core.services.key_lending import check_enabled, pick_key
from ironcage_core.services.limit_gate import check_counted_limits, check_project_month
from ironcage_core.services.months import capped_month, refuse_for_month
from ironcage_core.services.posting import balance_of


@dataclass(frozen=True, slots=True)
class ReleasedKey:
    """A provider key in the clear, and where its provider is reached, if not at its usual place."""

    provider: str
    base_url: str | None
    api_key: str = field(repr=False)


def release_to_token(
    uow: UnitOfWork, principal: Principal, *, provider: str | None = None, vault: Vault
) -> ReleasedKey:
    """Release a key of the project that an API token is bound to.

    Args:
        uow: The open unit of work.
        principal: The token's owner, by the token.
        provider: Which kind of key; None means the token's own kind, or else the key that was assigned last.
        vault: Opens it.

    Raises:
        WrongTokenTypeError: The principal came by a session.
        ValidationError: A provider that this product does not know.
        TokenNotInProjectError: The token is bound to no project.
        NoProviderKeyError: The project has no such key.
        ProviderKeyDisabledError: It is disabled.
        UsageLimitExceededError: The owner has used what a limit allows of tokens or requests.
        BudgetExceededError: The owner's monthly cap is reached, in all or in the project.
        CryptoUnavailableError, SecretUnreadableError: The key cannot be opened.

    Source: contract resources.md 4.1.
    """
    token = principal.token
    if token is None:
        raise WrongTokenTypeError
    check_provider(provider)
    if token.project_id is None:
        raise TokenNotInProjectError("The token is bound to no project")
    key = check_enabled(_key_of_project(uow, token.project_id, provider or token.provider))
    check_counted_limits(uow, principal.user_id, token.project_id)
    _check_months(uow, principal.user_id, token.project_id)
    released = _opened(vault, key)
    _remember(uow, key, principal.actor, user_id=principal.user_id, project_id=token.project_id)
    used_at = uow.now if token.last_used_at is None else max(uow.now, token.last_used_at)
    uow.api_tokens.put(token._replace(last_used_at=used_at))
    return released


def check_provider(provider: str | None) -> None:
    """Refuse to look for a key of a provider that this product does not know.

    Raises:
        ValidationError: It does not.
    """
    if provider is not None and provider not in KNOWN_PROVIDERS:
        raise ValidationError({"provider": f"must be one of {', '.join(KNOWN_PROVIDERS)}"})


def _key_of_project(uow: UnitOfWork, project_id: str, provider: str | None) -> ProviderKey:
    for assigned in uow.projects.keys_of(project_id):
        if provider in {None, assigned.provider}:
            key = uow.provider_keys.find(assigned.provider_key_id)
            if key is not None:
                return key
    raise NoProviderKeyError("The project has no such provider key")


def key_of_agent(uow: UnitOfWork, identity: AgentIdentity, *, provider: str | None = None) -> ProviderKey:
    """Return the key that an agent may ask for now: its first enabled one (of the asked provider).

    Raises:
        InsufficientScopeError: The IC token lacks `llm:call`.
        ValidationError: A provider that this product does not know.
        AgentInactiveError, OwnerSuspendedError: No key for this agent.
        NoProviderAssignedError: No enabled key is assigned.

    Source: contract resources.md 4.2.
    """
    check_may_call(identity)
    check_provider(provider)
    check_may_receive(uow, agent_of(uow, identity))
    return pick_key(uow, identity.agent_id, provider=provider, key_id=None)


def release_to_agent(uow: UnitOfWork, identity: AgentIdentity, key: ProviderKey, *, vault: Vault) -> ReleasedKey:
    """Release a key to an agent that may have it, if there is money left; no lease is needed.

    Args:
        uow: The open unit of work.
        identity: The agent, by its IC token.
        key: What `key_of_agent` returned in this unit of work.
        vault: Opens it.

    Raises:
        UsageLimitExceededError: The owner has used what a limit allows of tokens or requests.
        BudgetExceededError: The agent's budget is used up, or the owner's monthly cap is reached.
        CryptoUnavailableError, SecretUnreadableError: The key cannot be opened.

    Source: contract resources.md 4.2.
    """
    agent = agent_of(uow, identity)
    catch_up(uow, agent.id)
    check_counted_limits(uow, agent.owner_id, agent.project_id)
    # What its own leases hold is lent to the agent, not gone: only what is spent bars it.
    if balance_of(uow, agent.id).status == "exhausted":
        raise refuse_for_money(uow, agent, headroom(uow, agent))
    _check_months(uow, agent.owner_id, agent.project_id)
    released = _opened(vault, key)
    _remember(uow, key, identity.actor, user_id=agent.owner_id, project_id=agent.project_id)
    record = uow.ic_tokens.find(identity.token_id)
    if record is not None:
        uow.ic_tokens.put(record._replace(last_used_at=uow.now))
    return released


def _check_months(uow: UnitOfWork, user_id: str, project_id: str) -> None:
    check_project_month(uow, user_id, project_id)
    month = capped_month(uow, user_id)
    if month is not None and month.available <= 0:
        raise refuse_for_month(uow, month)


def _opened(vault: Vault, key: ProviderKey) -> ReleasedKey:
    return ReleasedKey(key.provider, key.base_url, vault.open(key.ciphertext, record_id=key.id))


def _remember(uow: UnitOfWork, key: ProviderKey, actor: Actor, *, user_id: str, project_id: str) -> None:
    """Write to the audit log that a provider key was released, note its use and count it as a grant to a user."""
    metadata = {"project_id": project_id, "provider": key.provider}
    uow.audit.append(AuditNote("CREDENTIAL_ACCESSED", "credential", "provider_key", key.id, actor, metadata=metadata))
    uow.provider_keys.put(key._replace(last_used_at=uow.now))
    uow.limit_windows.add(user_id, project_id, uow.now, requests=1)
