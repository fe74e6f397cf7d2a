"""Agent lists: agents as of this instant, with their budgets, their keys and what may be told of their IC tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.api_tokens import ApiToken
from ironcage_core.domain.ic_tokens import IcTokenRecord
from ironcage_core.domain.ledger import Balance
from ironcage_core.ports.lists import AgentOrder, ApiTokenFilter, BalanceFilter, Page, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import own_agent, scope_of
from ironcage_core.services.expiry import catch_up, catch_up_selected
from ironcage_core.services.posting import balance_of


@dataclass(frozen=True, slots=True)
class AgentOverview:
    """An agent, its budget, the ids of its keys in their order, and its active IC token's record."""

    agent: Agent
    balance: Balance
    provider_key_ids: Sequence[str]
    ic_token: IcTokenRecord | None


def agent_overview(uow: UnitOfWork, agent_id: str, principal: Principal) -> AgentOverview:
    """Return one agent as of this instant.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ForbiddenError: It is another user's.
    """
    agent = own_agent(uow, agent_id, principal)
    catch_up(uow, agent_id)
    keys = uow.provider_keys.ids_of([agent_id]).get(agent_id, ())
    return AgentOverview(agent, balance_of(uow, agent_id), keys, uow.ic_tokens.find_active_of(agent_id))


def list_agents(
    uow: UnitOfWork,
    which: BalanceFilter,
    paging: Paging,
    order: AgentOrder = "created_at",
    *,
    descending: bool = True,
    principal: Principal,
) -> Page[AgentOverview]:
    """Return one page of the live agents that this user may see, as of this instant."""
    scope = scope_of(principal)
    for asked, allowed in ((which.owner_id, scope.owner_id), (which.project_id, scope.project_id)):
        if allowed is not None and asked not in {None, allowed}:
            return Page((), 0)
    which = replace(which, owner_id=scope.owner_id or which.owner_id, project_id=scope.project_id or which.project_id)
    catch_up_selected(uow, None)
    page = uow.balances.page(which, paging, order, descending=descending)
    ids = [agent.id for agent, _ in page.rows]
    keys, tokens = uow.provider_keys.ids_of(ids), uow.ic_tokens.active_of(ids)
    rows = [AgentOverview(agent, balance, keys.get(agent.id, ()), tokens.get(agent.id)) for agent, balance in page.rows]
    return Page(rows, page.total)


def agent_tokens(uow: UnitOfWork, agent_id: str, paging: Paging, *, principal: Principal) -> Page[ApiToken]:
    """Return one page of the API tokens bound to an agent, ended ones included, newest first.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ForbiddenError: It is another user's.
    """
    agent = own_agent(uow, agent_id, principal)
    return uow.api_tokens.page(ApiTokenFilter(agent_id=agent.id, now=uow.now), paging)
