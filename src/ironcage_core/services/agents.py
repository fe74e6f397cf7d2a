"""Agents: made with their budget, their keys and their IC token in one unit of work, or not at all."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import LONGEST_DESCRIPTION, LONGEST_NAME, Agent, tag_problems, tidy_tags
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.ids import MASTER_PROJECT
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import Micros
from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_core.domain.texts import text_problem, tidied
from ironcage_core.errors.tree import ForbiddenError, ValidationError
from ironcage_core.ports.secrecy import TokenSigner
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_keys import checked_keys
from ironcage_core.services.allocations import check_allocation
from ironcage_core.services.ic_tokens import IssuedIcToken, issue_ic_token
from ironcage_core.services.posting import post_adjustment
from ironcage_core.services.users import owner_problem


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
    primary_key_id: str | None = None,
    allowed: Collection[str] = KNOWN_PROVIDERS,
    description: str | None = None,
    tags: Sequence[str] = (),
    project_id: str = MASTER_PROJECT,
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
        primary_key_id: A key that goes before those.
        allowed: Which kinds of provider the keys may be of.
        description: At most 500 characters; an empty one is none.
        tags: At most 20, each 1 to 50 characters; blanks around them and duplicates are dropped.
        project_id: A project that exists.
        actor: Who creates it.
        signer: Makes the IC token.

    Raises:
        ValidationError: A field breaks its rule; an unknown owner is on `owner_id`, a project on `project_id`.
        InvalidProviderIdError, ProviderNotFoundError, ValidationError: As `checked_keys` says.

    Source: contract resources.md 1.2.
    """
    problems = _problems_of_new(uow, name, budget, owner_id, project_id, description) | tag_problems(tags)
    if problems:
        raise ValidationError(problems)
    keys = checked_keys(uow, provider_key_ids, primary=primary_key_id, allowed=allowed)
    agent = Agent(
        id=uow.new_id("agent"),
        name=name.strip(),
        owner_id=owner_id,
        project_id=project_id,
        status="active",
        runtime_status="idle",
        stop_hold=0,
        failure_reason=None,
        created_at=uow.now,
        updated_at=uow.now,
        deleted_at=None,
        description=tidied(description),
        tags=tags_text(tidy_tags(tags)),
    )
    uow.agents.put(agent)
    uow.balances.put(Balance(agent.id, uow.new_id("budget"), 0, 0, 0, 0, uow.now))
    balance = post_adjustment(uow, agent.id, budget, owner_id=owner_id, cause="initial", actor=actor.id).balance
    uow.provider_keys.assign(agent.id, keys)
    token = issue_ic_token(uow, agent.id, actor=actor, signer=signer)
    created = {
        "name": agent.name,
        "owner_id": owner_id,
        "project_id": project_id,
        "budget_micros": budget,
        "providers": keys,
    }
    uow.audit.append(AuditNote("AGENT_CREATED", "agent", "agent", agent.id, actor, metadata=created))
    data = {"previous_state": None, "budget_spent_micros": 0}
    uow.feed.append("STATE_UPDATE", agent_id=agent.id, name="idle", data=data)
    return CreatedAgent(agent, balance, token)


def _problems_of_new(
    uow: UnitOfWork, name: str, budget: Micros, owner_id: str, project_id: str, description: str | None
) -> dict[str, str]:
    found = {
        "name": name_problem(name),
        "owner_id": owner_problem(uow, owner_id),
        "project_id": project_problem(uow, project_id),
        "description": description_problem(description),
    }
    problems = {field: problem for field, problem in found.items() if problem is not None}
    try:
        check_allocation(budget)
    except ValidationError as error:
        problems.update(error.fields)
    return problems


def name_problem(name: object) -> str | None:
    """Return what is wrong with an agent's name, or None."""
    return text_problem(name, longest=LONGEST_NAME)


def description_problem(description: str | None) -> str | None:
    """Return what is wrong with an agent's description, or None; an empty one is none."""
    tidy = tidied(description)
    return None if tidy is None else text_problem(tidy, longest=LONGEST_DESCRIPTION)


def project_problem(uow: UnitOfWork, project_id: str) -> str | None:
    """Return what is wrong with an agent's project, or None."""
    is_known = project_id.isascii() and uow.projects.find(project_id) is not None
    return None if is_known else "must be a project that exists"


def tags_text(tags: Sequence[str]) -> str:
    """Return tags as they are stored."""
    return json.dumps(tags, ensure_ascii=False)


def project_for(principal: Principal, project_id: str | None) -> str:
    """Return the project of a new agent: what is asked for, else what the principal's token is bound to, else master.

    Raises:
        ForbiddenError: The token is bound to another project.
    """
    bound = principal.bound_project
    if bound is not None and project_id not in {None, bound}:
        raise ForbiddenError("The token is bound to another project")
    return (bound or MASTER_PROJECT) if project_id is None else project_id
