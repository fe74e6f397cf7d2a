"""Granting: who may receive money, how much, with which key.

A grant is a decision: the smaller of what was asked, what remains of the agent's budget and what the owner's monthly
cap leaves, all read in the unit of work that posts it.
"""

from dataclasses import dataclass, field
from typing import Literal

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.audit import AuditNote
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.leases import Lease, LeasePolicy
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import Micros, format_usd
from ironcage_core.domain.providers import ProviderKey
from ironcage_core.errors.access import InsufficientScopeError, InvalidTokenError
from ironcage_core.errors.money import BudgetExceededError
from ironcage_core.errors.resources import AgentInactiveError, OwnerSuspendedError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.months import Month, capped_month, refuse_for_month
from ironcage_core.services.posting import balance_of, post_to_lease


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease with its sealed key. `new_money` and `rolled_over` add up to what the lease was granted."""

    lease: Lease
    balance: Balance
    base_url: str | None
    new_money: Micros
    rolled_over: Micros
    replayed: bool = False
    ip_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Headroom:
    """What a grant may take: the lower of two brakes, in micro-USD. `month` None means the owner has no cap."""

    remaining: Micros
    month: Month | None

    @property
    def amount(self) -> Micros:
        """The most that may be granted; 0 or less means nothing."""
        return self.remaining if self.month is None else min(self.remaining, self.month.available)

    @property
    def short_of(self) -> Literal["agent", "user_month"]:
        """Which brake is the tighter one."""
        return "agent" if self.remaining <= 0 or self.amount == self.remaining else "user_month"


def check_requested(requested: Micros | None, policy: LeasePolicy) -> Micros:
    """Return the amount asked for, or the default.

    Raises:
        ValidationError: Not above 0, or above the most a grant may be.
    """
    if requested is None:
        return policy.default_grant
    if type(requested) is not int or not 0 < requested <= policy.max_grant:
        raise ValidationError({"requested_budget": f"must be above 0 and at most {format_usd(policy.max_grant)}"})
    return requested


def check_may_call(identity: AgentIdentity, *, settles: bool = False) -> None:
    """Refuse a token without `llm:call`, and a value that is dead, unless it is about to settle.

    Raises:
        InvalidTokenError: It is dead, and this is nothing that settles; or dead and not permitted to call.
        InsufficientScopeError: The permission is missing.
    """
    is_permitted = "llm:call" in identity.permissions
    if identity.died_at is not None and not (settles and is_permitted):
        raise InvalidTokenError
    if not is_permitted:
        raise InsufficientScopeError("The IC token lacks a permission", required="llm:call")


def agent_of(uow: UnitOfWork, identity: AgentIdentity) -> Agent:
    """Return the calling agent; its existence was proven with the token."""
    agent = uow.agents.find(identity.agent_id)
    if agent is None:
        raise InvalidTokenError
    return agent


def check_may_receive(uow: UnitOfWork, agent: Agent) -> None:
    """Refuse new money to an agent that is held back, or whose owner is.

    Raises:
        AgentInactiveError: Stopped, failed or inactive.
        OwnerSuspendedError: The owner is not active.
    """
    if agent.hindrance is not None:
        raise AgentInactiveError(f"The agent is {agent.hindrance}", reason=agent.hindrance)
    owner = uow.users.find(agent.owner_id)
    if owner is None or owner.status != "active":
        raise OwnerSuspendedError("The agent's owner is suspended")


def headroom(uow: UnitOfWork, agent: Agent, *, returning: Micros = 0) -> Headroom:
    """Return what a grant to the agent may take now.

    Args:
        uow: The open unit of work.
        agent: Who asks; its present owner's cap counts.
        returning: Micro-USD that go back to the agent's budget in the same unit of work.

    Source: contract budget.md 1.2 (E8, E9).
    """
    return Headroom(balance_of(uow, agent.id).remaining + returning, capped_month(uow, agent.owner_id))


def refuse_for_money(uow: UnitOfWork, agent: Agent, room: Headroom) -> BudgetExceededError:
    """Return the refusal that names the tighter brake, its numbers in micro-USD and when money may return."""
    if room.month is None or room.short_of == "agent":
        balance = balance_of(uow, agent.id)
        frees = []
        if balance.remaining + balance.held > 0:  # else nothing is left, even when all that is lent has come back
            frees = [lease.frees_at for lease in uow.leases.open_of(agent.id) if lease.held and lease.frees_at]
        return BudgetExceededError(
            "The agent's budget is used up",
            scope="agent",
            spent=balance.spent,
            limit=balance.allocated,
            held=balance.held,
            remaining=balance.remaining,
            frees_at=min(frees, default=None),
        )
    return refuse_for_month(uow, room.month)


def open_lease(
    uow: UnitOfWork,
    agent: Agent,
    identity: AgentIdentity,
    key: ProviderKey,
    *,
    lease_id: str,
    amount: Micros,
    rolled_over: Micros = 0,
    pending: Micros = 0,
    cause: Literal["handshake", "refresh"],
    runtime_id: str | None,
    ttl: int,
    policy: LeasePolicy,
) -> Lease:
    """Open a lease over `amount` micro-USD, of which `rolled_over` came from its predecessor, as `pending` did."""
    now = uow.now
    lives_until = now + policy.max_lifetime
    expires_at = min(now + ttl, lives_until)
    lease = Lease(
        id=lease_id,
        agent_id=agent.id,
        bank_user_id=agent.owner_id,
        project_id=agent.project_id,
        ic_token_id=identity.token_id,
        ic_token_gen=identity.gen,
        provider_key_id=key.id,
        provider=key.provider,
        runtime_id=runtime_id,
        status="active",
        status_reason=None,
        granted=0,
        rolled_over=rolled_over,
        spent=0,
        overspent=0,
        returned=0,
        reclaimed=0,
        unattributed=0,
        reports=0,
        discrepancy=0,
        ttl=ttl,
        grace=policy.grace,
        created_at=now,
        expires_at=expires_at,
        expired_at=None,
        closed_at=None,
        last_activity_at=now,
        due_at=expires_at,
        lives_until=lives_until,
        successor_id=None,
        pending=pending,
    )
    uow.leases.put(lease)
    uow.limit_windows.add(agent.owner_id, agent.project_id, now, requests=1)
    return post_to_lease(uow, lease, "grant", amount, cause=cause, actor=agent.id)


def remember_release(uow: UnitOfWork, identity: AgentIdentity, key: ProviderKey, lease: Lease, operation: str) -> None:
    """Write to the audit log that money was lent and a credential released."""
    actor = identity.actor
    uow.audit.append(
        AuditNote(
            operation, "budget", "lease", lease.id, actor,
            metadata={"granted_micros": lease.granted, "rolled_over_micros": lease.rolled_over},
        )
    )  # fmt: skip
    remember_credential(uow, identity, key, lease)


def remember_credential(uow: UnitOfWork, identity: AgentIdentity, key: ProviderKey, lease: Lease) -> None:
    """Write to the audit log that a provider key was released, and note the use of both credentials."""
    actor = identity.actor
    uow.audit.append(
        AuditNote("CREDENTIAL_ACCESSED", "credential", "provider_key", key.id, actor, metadata={"lease_id": lease.id})
    )
    uow.provider_keys.put(key._replace(last_used_at=uow.now))
    record = uow.ic_tokens.find(identity.token_id)
    if record is not None:
        uow.ic_tokens.put(record._replace(last_used_at=uow.now))


def announce_grant(uow: UnitOfWork, lease: Lease, new_money: Micros, name: str) -> None:
    """Publish a granted or refreshed lease."""
    uow.feed.append(
        "AGENT_EVENT",
        agent_id=lease.agent_id,
        name=name,
        data={
            "lease_id": lease.id,
            "budget_granted_micros": new_money,
            "budget_remaining_micros": balance_of(uow, lease.agent_id).remaining,
            "expires_at": lease.expires_at,
        },
    )
