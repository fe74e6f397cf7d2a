"""Agents: create, list, get, change, stop, start, delete."""

from typing import Final, get_args

from litestar.response.base import ASGIResponse

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import LONGEST_TAG, Agent, RuntimeStatus
from ironcage_core.domain.api_tokens import ApiToken
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.lists import AgentOrder, BalanceFilter, Page
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_changes import check_may_change, delete_agent, update_agent
from ironcage_core.services.agent_keys import check_may_add, in_order
from ironcage_core.services.agent_lists import AgentOverview, agent_overview, agent_tokens, list_agents
from ironcage_core.services.agent_records import STATUSES, own_agent
from ironcage_core.services.agent_states import StoppedAgent, start_agent, stop_agent
from ironcage_core.services.agents import create_agent, project_for
from ironcage_http.calls import NO_STORE, Call, answer, listed, nothing
from ironcage_http.queries import Query
from ironcage_http.routes.agent_views import (
    AgentBody,
    AgentChangeBody,
    AgentView,
    BoundTokenView,
    StartedView,
    StopBody,
    StoppedView,
    TokenOfAgentView,
    agent_view,
    bound_token_view,
    fields_sent,
    names_sent,
)
from ironcage_http.routing import PAGED, Route
from ironcage_http.wire import micros, moment

RUNTIME_STATUSES: Final[tuple[RuntimeStatus, ...]] = get_args(RuntimeStatus)
ORDERS: Final[tuple[AgentOrder, ...]] = get_args(AgentOrder)


async def create(call: Call) -> ASGIResponse:
    """Create an agent with its budget, its keys and its IC token."""
    who = call.user()
    body = call.read(AgentBody)

    def run(uow: UnitOfWork) -> tuple[AgentOverview, str]:
        principal = who(uow)
        return _create(uow, body.value(), principal, call)

    seen, value = await call.write(run)
    record = seen.ic_token
    token = None if record is None else TokenOfAgentView(record.id, moment(record.created_at), None, value)
    return answer(agent_view(seen, token), status=201, headers=NO_STORE)


def _create(uow: UnitOfWork, wish: AgentBody, principal: Principal, call: Call) -> tuple[AgentOverview, str]:
    project_id = project_for(principal, wish.project_id)
    key_ids = in_order(wish.provider_key_id, wish.providers)
    check_may_add(uow, principal, project_id, key_ids)
    unreadable: dict[str, str] = {}
    budget = micros(wish.budget, field="budget", problems=unreadable)
    try:
        created = create_agent(
            uow,
            name=wish.name,
            budget=budget,
            owner_id=principal.user_id if wish.owner_id is None else wish.owner_id,
            provider_key_ids=wish.providers or (),
            primary_key_id=wish.provider_key_id,
            allowed=call.wiring.settings.allowed_providers,
            description=wish.description,
            tags=wish.tags or (),
            project_id=project_id,
            actor=principal.actor,
            signer=call.wiring.ic_signer,
        )
    except ValidationError as error:
        raise ValidationError({**error.fields, **unreadable}) from None
    return agent_overview(uow, created.agent.id, principal), created.ic_token.value


async def list_all(call: Call) -> ASGIResponse:
    """List agents: an admin's are all."""
    who = call.user()
    query = Query(call.query)
    paging = query.paging()
    order, descending = query.sort(ORDERS, default="-created_at")
    which = BalanceFilter(
        owner_id=query.id("owner_id", "user"),
        status=query.choice("status", STATUSES),
        name=query.text("name"),
        runtime_status=query.choice("runtime_status", RUNTIME_STATUSES),
        project_id=query.id("project_id", "proj"),
        provider_key_id=query.id("provider_id", "prov"),
        tags=query.texts("tag", longest=LONGEST_TAG),
    )

    def run(uow: UnitOfWork) -> Page[AgentOverview]:
        principal = who(uow)
        query.check()
        return list_agents(uow, which, paging, order, descending=descending, principal=principal)

    page = await call.see_all(who, run)
    return listed(page, paging, [agent_view(each) for each in page.rows])


async def get(call: Call) -> ASGIResponse:
    """Show one agent."""
    who = call.user()
    seen = await call.see(lambda uow: agent_overview(uow, call.path["agent_id"], who(uow)))
    return answer(agent_view(seen))


async def update(call: Call) -> ASGIResponse:
    """Change an agent."""
    who = call.user()
    body = call.read(AgentChangeBody)

    def run(uow: UnitOfWork) -> AgentOverview:
        principal = who(uow)
        body.check_syntax()
        agent = own_agent(uow, call.path["agent_id"], principal)
        check_may_change(principal, names_sent(body))
        allowed = call.wiring.settings.allowed_providers
        update_agent(uow, agent.id, fields_sent(body.value()), principal=principal, allowed=allowed)
        return agent_overview(uow, agent.id, principal)

    return answer(agent_view(await call.write(run)))


async def delete(call: Call) -> ASGIResponse:
    """Delete an agent and its credentials; its books stay."""
    who = call.user()
    await call.write(lambda uow: delete_agent(uow, call.path["agent_id"], principal=who(uow)))
    return nothing()


async def stop(call: Call) -> ASGIResponse:
    """Stop an agent until somebody starts it."""
    who = call.user()
    body = call.read(StopBody, may_be_empty=True)

    def run(uow: UnitOfWork) -> StoppedAgent:
        principal = who(uow)
        body.check_syntax()
        agent = own_agent(uow, call.path["agent_id"], principal)
        return stop_agent(uow, agent.id, reason=body.value().reason, principal=principal)

    stopped = await call.write(run)
    agent = stopped.agent
    view = StoppedView(
        success=True,
        agent_id=agent.id,
        runtime_status=agent.runtime_status,
        stop_hold=bool(agent.stop_hold),
        leases_revoked=stopped.leases_revoked,
        stopped_at=moment(agent.stopped_at),
    )
    return answer(view)


async def start(call: Call) -> ASGIResponse:
    """Permit an agent's next handshake; whatever the body is, it says nothing."""
    who = call.user()

    def run(uow: UnitOfWork) -> Agent:
        return start_agent(uow, call.path["agent_id"], principal=who(uow))

    agent = await call.write(run)
    return answer(StartedView(agent.id, agent.runtime_status, bool(agent.stop_hold)))


async def list_tokens(call: Call) -> ASGIResponse:
    """List the API tokens that are bound to an agent."""
    who = call.user()
    query = Query(call.query)
    paging = query.paging()

    def run(uow: UnitOfWork) -> Page[ApiToken]:
        principal = who(uow)
        agent = own_agent(uow, call.path["agent_id"], principal)
        query.check()
        return agent_tokens(uow, agent.id, paging, principal=principal)

    page = await call.see(run)
    return listed(page, paging, [bound_token_view(token) for token in page.rows])


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/agents", create, "Create an agent with its budget, its provider keys and its IC token",
        body=AgentBody, answer=AgentView, status=201, action="agents.manage", limit="create",
        codes=("INVALID_PROVIDER_ID", "PROVIDER_NOT_FOUND", "FORBIDDEN"),
        example={"name": "worker", "budget": 25},
    ),
    Route(
        "GET", "/agents", list_all, "List agents: all for an admin, else one's own", action="agents.list",
        query=(*PAGED, "owner_id", "status", "name", "runtime_status", "project_id", "provider_id", "tag"),
        limit="read",
        answer=AgentView,
    ),
    Route(
        "GET", "/agents/{agent_id}", get, "Show an agent and its budget", action="agents.read", limit="read",
        answer=AgentView, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "PUT", "/agents/{agent_id}", update, "Change an agent", action="agents.write", limit="update",
        body=AgentChangeBody, answer=AgentView,
        codes=("AGENT_NOT_FOUND", "FORBIDDEN", "NO_FIELDS_PROVIDED", "INVALID_PROVIDER_ID", "PROVIDER_NOT_FOUND"),
        example={"name": "night shift", "tags": ["prod"]},
    ),
    Route(
        "DELETE", "/agents/{agent_id}", delete, "Delete an agent and its credentials; its books stay",
        action="agents.manage", limit="delete", status=204, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "POST", "/agents/{agent_id}/stop", stop, "Stop an agent until somebody starts it", action="agents.stop",
        limit="agent_status", body=StopBody, answer=StoppedView, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
        example={"reason": "runs wild"},
    ),
    Route(
        "POST", "/agents/{agent_id}/start", start, "Permit an agent's next handshake", action="agents.stop",
        limit="agent_status", answer=StartedView, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "GET", "/agents/{agent_id}/tokens", list_tokens, "List the API tokens that are bound to an agent",
        action="agents.list_tokens",
        query=("page", "per_page"), limit="read", answer=BoundTokenView, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
)  # fmt: skip
