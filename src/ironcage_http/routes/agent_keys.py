"""Keys of agents over the wire: which provider keys an agent may be lent. Source: contract resources.md 2.4."""

import json
from typing import Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.providers import ProviderKey
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_keys import AssignedKeys, agent_keys, assign_agent_keys, unassign_agent_key
from ironcage_core.services.agent_records import own_agent
from ironcage_http.calls import Call, answer
from ironcage_http.routing import Route
from ironcage_http.wire import moment

NO_KEY_LEFT: Final = "The agent has no provider key left: it gets no new lease until one is assigned"


class KeysBody(msgspec.Struct, frozen=True):
    """The keys an agent has from now on, the primary one first."""

    providers: list[str]


class AgentKeyView(msgspec.Struct, frozen=True):
    """A provider key as far as an agent's reader may see it."""

    id: str
    name: str
    provider: str
    base_url: str | None
    models: list[str]
    status: str


class AgentKeysView(msgspec.Struct, frozen=True):
    """The keys of an agent in their order."""

    agent_id: str
    providers: list[AgentKeyView]
    count: int


class AssignedKeysView(AgentKeysView, frozen=True, kw_only=True):
    """The keys of an agent, and when it was last changed."""

    updated_at: str | None


class RemainingKeyView(msgspec.Struct, frozen=True):
    """A key that an agent still has."""

    id: str
    name: str


class UnassignedKeyView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an agent is left with."""

    agent_id: str
    provider_id: str
    removed: bool
    remaining_providers: list[RemainingKeyView]
    count: int
    warning: str | msgspec.UnsetType = msgspec.UNSET


async def list_keys(call: Call) -> ASGIResponse:
    """List the keys of an agent."""
    who = call.user()

    def run(uow: UnitOfWork) -> tuple[AssignedKeys, bool]:
        principal = who(uow)
        return agent_keys(uow, call.path["agent_id"], principal=principal), principal.role != "viewer"

    assigned, shows_url = await call.see(run)
    keys = [_key_view(key, shows_url=shows_url) for key in assigned.keys]
    return answer(AgentKeysView(assigned.agent.id, keys, len(keys)))


async def assign(call: Call) -> ASGIResponse:
    """Replace the keys of an agent."""
    who = call.user()
    body = call.read(KeysBody)

    def run(uow: UnitOfWork) -> AssignedKeys:
        principal = who(uow)
        body.check_syntax()
        agent = own_agent(uow, call.path["agent_id"], principal)
        allowed = call.wiring.settings.allowed_providers
        return assign_agent_keys(uow, agent.id, body.value().providers, principal=principal, allowed=allowed)

    assigned = await call.write(run)
    keys = [_key_view(key, shows_url=True) for key in assigned.keys]
    agent = assigned.agent
    return answer(AssignedKeysView(agent.id, keys, len(keys), updated_at=moment(agent.updated_at)))


async def unassign(call: Call) -> ASGIResponse:
    """Take one key from an agent."""
    who = call.user()
    key_id = call.path["provider_id"]

    def run(uow: UnitOfWork) -> AssignedKeys:
        return unassign_agent_key(uow, call.path["agent_id"], key_id, principal=who(uow))

    left = await call.write(run)
    view = UnassignedKeyView(
        agent_id=left.agent.id,
        provider_id=key_id,
        removed=True,
        remaining_providers=[RemainingKeyView(key.id, key.name) for key in left.keys],
        count=len(left.keys),
        warning=msgspec.UNSET if left.keys else NO_KEY_LEFT,
    )
    return answer(view)


def _key_view(key: ProviderKey, *, shows_url: bool) -> AgentKeyView:
    return AgentKeyView(
        id=key.id,
        name=key.name,
        provider=key.provider,
        base_url=key.base_url if shows_url else None,
        models=json.loads(key.models),
        status="active" if key.is_enabled else "inactive",
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/agents/{agent_id}/providers", list_keys, "List the provider keys of an agent in their order",
        action="agents.read", limit="read", answer=AgentKeysView, codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "PUT", "/agents/{agent_id}/providers", assign, "Replace the provider keys of an agent", action="agents.write",
        limit="update", body=KeysBody, answer=AssignedKeysView,
        codes=("AGENT_NOT_FOUND", "FORBIDDEN", "INVALID_PROVIDER_ID", "PROVIDER_NOT_FOUND"),
        example={"providers": ["prov_..."]},
    ),
    Route(
        "DELETE", "/agents/{agent_id}/providers/{provider_id}", unassign, "Take a provider key from an agent",
        action="agents.write", limit="delete", answer=UnassignedKeyView,
        codes=("AGENT_NOT_FOUND", "FORBIDDEN", "PROVIDER_NOT_FOUND", "PROVIDER_NOT_ASSIGNED"),
    ),
)  # fmt: skip
