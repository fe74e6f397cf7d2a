"""Handshake: an agent's runtime exchanges its IC token for a lease and a sealed provider key."""

from dataclasses import dataclass

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.domain.leases import DEFAULT_POLICY, LeasePolicy
from ironcage_core.domain.money import Micros
from ironcage_core.domain.texts import text_problem
from ironcage_core.errors.money import TooManyLeasesError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.expiry import catch_up, end_lease
from ironcage_core.services.granting import (
    Granted,
    agent_of,
    announce_grant,
    check_may_call,
    check_may_receive,
    check_requested,
    headroom,
    open_lease,
    refuse_for_money,
    remember_release,
)
from ironcage_core.services.key_lending import Sealing, pick_key, seal_for
from ironcage_core.services.lease_replays import granted_before, remember_grant
from ironcage_core.services.limit_gate import check_counted_limits, check_project_month
from ironcage_core.services.posting import balance_of
from ironcage_core.services.runtime_states import note_runtime_event


@dataclass(frozen=True, slots=True)
class HandshakeRequest:
    """What a runtime asks for; `requested` in micro-USD, `ttl_s` in seconds, None takes the default."""

    requested: Micros | None = None
    provider: str | None = None
    provider_key_id: str | None = None
    runtime_id: str | None = None
    ttl_s: int | None = None


def handshake(
    uow: UnitOfWork,
    identity: AgentIdentity,
    request: HandshakeRequest,
    *,
    sealing: Sealing,
    policy: LeasePolicy = DEFAULT_POLICY,
    retry: RetryKey | None = None,
) -> Granted:
    """Lend the agent a tranche of its budget.

    A handshake with the runtime id of an open lease supersedes that lease, so a retry never holds money twice; a retry
    with the key of the first request gets its lease again.
    Everything that can fail fails before the first movement of money, or undoes it with the unit of work.

    Raises:
        InsufficientScopeError: The token lacks `llm:call`.
        ValidationError: A field breaks its rule.
        AgentInactiveError, OwnerSuspendedError: No new money for this agent.
        IdempotencyKeyReusedError: The key was used for another request.
        LeaseExpiredError, LeaseClosedError, LeaseRevokedError: The lease of the first request is over.
        UnsupportedProviderError, NoProviderAssignedError, ProviderNotFoundError, InvalidProviderIdError,
        ProviderKeyMismatchError, ProviderKeyDisabledError: No key to lend.
        CryptoUnavailableError, SecretUnreadableError: The key cannot be opened.
        TooManyLeasesError: The agent holds as many open leases as it may.
        UsageLimitExceededError: The owner has used what a limit allows of tokens or requests.
        BudgetExceededError: Nothing is left to lend, or the owner's monthly cap in the project is reached.

    Source: protocol 005; contract budget.md 5.1.
    """
    check_may_call(identity)
    requested = check_requested(request.requested, policy)
    ttl = _check_fields(request, policy)
    agent = agent_of(uow, identity)
    catch_up(uow, agent.id)
    check_may_receive(uow, agent)
    before = granted_before(uow, identity, retry, sealing)
    if before is not None:
        return before
    key = pick_key(uow, agent.id, provider=request.provider, key_id=request.provider_key_id)
    lease_id = uow.new_id("lease")
    ip_token = seal_for(sealing, key, identity, lease_id)
    _make_room(uow, agent, request.runtime_id, policy)
    check_counted_limits(uow, agent.owner_id, agent.project_id)
    check_project_month(uow, agent.owner_id, agent.project_id)
    room = headroom(uow, agent)
    amount = min(requested, room.amount)
    if amount <= 0:
        raise refuse_for_money(uow, agent, room)
    lease = open_lease(
        uow, agent, identity, key,
        lease_id=lease_id, amount=amount, cause="handshake", runtime_id=request.runtime_id, ttl=ttl, policy=policy,
    )  # fmt: skip
    remember_release(uow, identity, key, lease, "LEASE_GRANTED")
    announce_grant(uow, lease, amount, "lease_granted")
    note_runtime_event(uow, agent, "handshake")
    remember_grant(uow, retry, lease)
    return Granted(lease, balance_of(uow, agent.id), key.base_url, amount, 0, ip_token=ip_token)


def _check_fields(request: HandshakeRequest, policy: LeasePolicy) -> int:
    problems = {
        field: problem
        for field, value, longest in (
            ("provider", request.provider, 50),
            ("runtime_id", request.runtime_id, 100),
        )
        if value is not None and (problem := text_problem(value, longest=longest))
    }
    ttl_s = request.ttl_s
    if ttl_s is not None and (type(ttl_s) is not int or not 1 <= ttl_s <= 86_400):
        problems["lease_ttl_seconds"] = "must be an integer from 1 to 86400"
    if problems:
        raise ValidationError(problems)
    return policy.ttl if ttl_s is None else min(ttl_s * MS_PER_S, policy.ttl)


def _make_room(uow: UnitOfWork, agent: Agent, runtime_id: str | None, policy: LeasePolicy) -> None:
    leases = uow.leases.open_of(agent.id)
    superseded = [lease for lease in leases if runtime_id is not None and lease.runtime_id == runtime_id]
    for lease in superseded:
        end_lease(uow, lease, "superseded", "reclaim", actor=agent.id)
    if len(leases) - len(superseded) >= policy.max_open:
        raise TooManyLeasesError("The agent holds too many open leases", limit=policy.max_open)
