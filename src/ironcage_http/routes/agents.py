"""Agents: create, list, get."""

import json
from decimal import Decimal
from typing import Any, Final, get_args

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import RuntimeStatus
from ironcage_core.domain.ids import MASTER_PROJECT
from ironcage_core.domain.money import Micros, parse_usd
from ironcage_core.errors import ValidationError
from ironcage_core.ports.lists import AgentOrder, BalanceFilter, Page
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_lists import AgentOverview, agent_overview, list_agents
from ironcage_core.services.agent_records import STATUSES, status_of
from ironcage_core.services.agents import create_agent
from ironcage_http.calls import NO_STORE, Call, answer, listed
from ironcage_http.queries import Query
from ironcage_http.routing import Route
from ironcage_http.wire import amount, moment

RUNTIME_STATUSES: Final[tuple[RuntimeStatus, ...]] = get_args(RuntimeStatus)
ORDERS: Final[tuple[AgentOrder, ...]] = get_args(AgentOrder)


class AgentBody(msgspec.Struct, frozen=True):
    """A new agent."""

    name: str
    budget: Decimal
    providers: list[str] | None = None
    provider_key_id: str | None = None
    owner_id: str | None = None
    project_id: str | None = None
    description: Any = None
    tags: Any = None


class TokenOfAgentView(msgspec.Struct, frozen=True):
    """What may be told of an agent's IC token; its value only where it was just made."""

    id: str
    created_at: str | None
    last_used_at: str | None
    token: str | msgspec.UnsetType = msgspec.UNSET


class AgentView(msgspec.Struct, frozen=True):
    """An agent and its budget, in USD."""

    id: str
    name: str
    description: str | None
    tags: list[str]
    owner_id: str
    project_id: str
    providers: list[str]
    provider_key_id: str | None
    budget: Decimal
    spent: Decimal
    held: Decimal
    remaining: Decimal
    percent_used: Decimal
    status: str
    runtime_status: str
    ic_token: TokenOfAgentView | None
    created_at: str | None
    updated_at: str | None


async def create(call: Call) -> ASGIResponse:
    """Create an agent with its budget, its keys and its IC token."""
    who = call.user()
    body = call.read(AgentBody)

    def run(uow: UnitOfWork) -> tuple[AgentOverview, str]:
        principal = who(uow)
        wish = body.value()
        return _create(uow, wish, principal, call)

    seen, value = await call.write(run)
    record = seen.ic_token
    token = None if record is None else TokenOfAgentView(record.id, moment(record.created_at), None, value)
    return answer(agent_view(seen, token), status=201, headers=NO_STORE)


def _create(uow: UnitOfWork, wish: AgentBody, principal: Principal, call: Call) -> tuple[AgentOverview, str]:
    budget = _readable(wish)
    first = [] if wish.provider_key_id is None else [wish.provider_key_id]
    created = create_agent(
        uow,
        name=wish.name,
        budget=budget,
        owner_id=principal.user_id if wish.owner_id is None else wish.owner_id,
        provider_key_ids=[*first, *(wish.providers or ())],
        actor=principal.actor,
        signer=call.wiring.ic_signer,
    )
    return agent_overview(uow, created.agent.id, principal), created.ic_token.value


def _readable(wish: AgentBody) -> Micros:
    problems = {name: "is not supported yet" for name in ("description", "tags") if getattr(wish, name)}
    if wish.project_id not in {None, MASTER_PROJECT}:
        problems["project_id"] = "is not supported yet"
    budget = 0
    try:
        budget = parse_usd(wish.budget, field="budget")
    except ValidationError as error:
        problems.update(error.fields)
    if problems:
        raise ValidationError(problems)
    return budget


async def list_all(call: Call) -> ASGIResponse:
    """List agents: an admin's are all."""
    who = call.user()
    query = Query(call.query)
    query.unsupported("tag")
    paging = query.paging()
    order, descending = query.sort(ORDERS, default="-created_at")
    which = BalanceFilter(
        owner_id=query.id("owner_id", "user"),
        status=query.choice("status", STATUSES),
        name=query.text("name"),
        runtime_status=query.choice("runtime_status", RUNTIME_STATUSES),
        project_id=query.id("project_id", "proj"),
        provider_key_id=query.id("provider_id", "prov"),
    )

    def run(uow: UnitOfWork) -> Page[AgentOverview]:
        principal = who(uow)
        query.check()
        return list_agents(uow, which, paging, order, descending=descending, principal=principal)

    page = await call.see(run)
    return listed(page, paging, [agent_view(each) for each in page.rows])


async def get(call: Call) -> ASGIResponse:
    """Show one agent."""
    who = call.user()
    seen = await call.see(lambda uow: agent_overview(uow, call.path["agent_id"], who(uow)))
    return answer(agent_view(seen))


def agent_view(seen: AgentOverview, token: TokenOfAgentView | None = None) -> AgentView:
    """Return an agent as it goes on the wire; `token` is the one that was just made."""
    agent, balance, record = seen.agent, seen.balance, seen.ic_token
    known = None
    if record is not None:
        known = TokenOfAgentView(record.id, moment(record.created_at), moment(record.last_used_at))
    return AgentView(
        id=agent.id,
        name=agent.name,
        description=agent.description,
        tags=json.loads(agent.tags),
        owner_id=agent.owner_id,
        project_id=agent.project_id,
        providers=list(seen.provider_key_ids),
        provider_key_id=next(iter(seen.provider_key_ids), None),
        budget=amount(balance.allocated),
        spent=amount(balance.spent),
        held=amount(balance.held),
        remaining=amount(balance.remaining),
        percent_used=balance.percent_used,
        status=status_of(agent, balance),
        runtime_status=agent.runtime_status,
        ic_token=known if token is None else token,
        created_at=moment(agent.created_at),
        updated_at=moment(agent.updated_at),
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/agents", create, "Create an agent with its budget, its provider keys and its IC token",
        body=AgentBody, answer=AgentView, status=201, action="agents.manage", limit="create",
        codes=("INVALID_PROVIDER_ID", "PROVIDER_NOT_FOUND"), example={"name": "worker", "budget": 25},
    ),
    Route(
        "GET", "/agents", list_all, "List agents: all for an admin, else one's own", action="agents.list", limit="read",
        answer=AgentView,
    ),
    Route(
        "GET", "/agents/{agent_id}", get, "Show an agent and its budget", action="agents.read", limit="read",
        answer=AgentView, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
)  # fmt: skip
