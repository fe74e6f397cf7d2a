"""Agents: made with their budget, their keys and their IC token in one unit of work, or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.ids import MASTER_PROJECT, is_id
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import Micros
from ironcage_core.domain.texts import text_problem
from ironcage_core.errors import InvalidProviderIdError, ProviderNotFoundError, ValidationError
from ironcage_core.ports.secrecy import TokenSigner
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.allocations import check_allocation
from ironcage_core.services.ic_tokens import IssuedIcToken, issue_ic_token
from ironcage_core.services.posting import post_adjustment


@dataclass(frozen=True, slots=True)
class CreatedAgent:
    """A new agent, its balance and its IC token, whose value is shown this once."""

    agent: Agent
    balance: Balance
    ic_token: IssuedIcToken


def create_agent(
    uow: UnitOfWork,
    *,
    name: str,
    budget: Micros,
    owner_id: str,
    provider_key_ids: Sequence[str] = (),
    actor: Actor,
    signer: TokenSigner,
) -> CreatedAgent:
    """Create an agent with its allocation, its ordered provider keys and its IC token.

    Args:
        uow: The open unit of work.
        name: 1 to 100 characters; need not be unique.
        budget: Allocation in micro-USD.
        owner_id: A live user.
        provider_key_ids: Enabled keys, the first is the primary one; duplicates are dropped.
        actor: Who creates it.
        signer: Makes the IC token.

    Raises:
        ValidationError: A field breaks its rule; an unknown owner is on `owner_id`.
        InvalidProviderIdError, ProviderNotFoundError: A key id is malformed; unknown or disabled.

    Source: contract resources.md 1.2.
    """
    _check_new(uow, name, budget, owner_id)
    keys = _check_keys(uow, provider_key_ids)
    agent = Agent(
        id=uow.new_id("agent"),
        name=name.strip(),
        owner_id=owner_id,
        project_id=MASTER_PROJECT,
        status="active",
        runtime_status="idle",
        stop_hold=0,
        failure_reason=None,
        created_at=uow.now,
        updated_at=uow.now,
        deleted_at=None,
    )
    uow.agents.put(agent)
    uow.balances.put(Balance(agent.id, uow.new_id("budget"), 0, 0, 0, 0, uow.now))
    balance = post_adjustment(uow, agent.id, budget, owner_id=owner_id, cause="initial", actor=actor.id)
    uow.provider_keys.assign(agent.id, keys)
    token = issue_ic_token(uow, agent.id, actor=actor, signer=signer)
    created = {"name": agent.name, "owner_id": owner_id, "budget_micros": budget, "providers": keys}
    uow.audit.append(AuditNote("AGENT_CREATED", "agent", "agent", agent.id, actor, metadata=created))
    data = {"previous_state": None, "budget_spent_micros": 0}
    uow.feed.append("STATE_UPDATE", agent_id=agent.id, name="idle", data=data)
    return CreatedAgent(agent, balance, token)


def _check_new(uow: UnitOfWork, name: str, budget: Micros, owner_id: str) -> None:
    problems = {}
    if problem := text_problem(name, longest=100):
        problems["name"] = problem
    try:
        check_allocation(budget)
    except ValidationError as error:
        problems.update(error.fields)
    owner = uow.users.find(owner_id) if is_id(owner_id, "user") else None
    if owner is None or owner.status == "deleted":
        problems["owner_id"] = "must be a live user"
    if problems:
        raise ValidationError(problems)


def _check_keys(uow: UnitOfWork, key_ids: Sequence[str]) -> list[str]:
    if not all(is_id(key_id, "prov") for key_id in key_ids):
        raise InvalidProviderIdError("A provider key id is prov_ and 32 hex digits")
    ordered = list(dict.fromkeys(key_ids))
    for key_id in ordered:
        key = uow.provider_keys.find(key_id)
        if key is None or not key.is_enabled:
            raise ProviderNotFoundError("No such enabled provider key")
    return ordered
