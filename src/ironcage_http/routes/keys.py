"""Provider keys in the clear: for programs with an API token of a project, and for agents."""

from typing import Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.key_release import ReleasedKey, key_of_agent, release_to_agent, release_to_token
from ironcage_http.calls import NO_STORE, Call, answer
from ironcage_http.queries import Query
from ironcage_http.routing import Route
from ironcage_http.runtimes import as_agent


class KeyView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A project's provider key."""

    provider: str
    api_key: str
    base_url: str | None = None


class AgentKeyBody(msgspec.Struct, frozen=True):
    """Which provider's key, and who asks if no header says so; no key can be named."""

    ic_token: str | None = None
    provider: str | None = None


class ReleasedKeyView(msgspec.Struct, frozen=True, omit_defaults=True):
    """An agent's provider key."""

    provider_key: str
    provider: str
    base_url: str | None = None


async def get_key(call: Call) -> ASGIResponse:
    """Release a key of the project that the caller's token is bound to."""
    who = call.user()
    query = Query(call.query)
    provider = query.choice("provider", KNOWN_PROVIDERS)

    def run(uow: UnitOfWork) -> ReleasedKey:
        principal = who(uow)
        query.check()
        return release_to_token(uow, principal, provider=provider, vault=call.wiring.vault)

    released = await call.write(run)
    return answer(KeyView(released.provider, released.api_key, released.base_url), headers=NO_STORE)


async def get_agents_key(call: Call) -> ASGIResponse:
    """Release an agent's own key to its runtime."""

    def run(uow: UnitOfWork, identity: AgentIdentity, body: AgentKeyBody) -> ReleasedKey:
        key = key_of_agent(uow, identity, provider=body.provider)
        call.gate.count(identity)
        return release_to_agent(uow, identity, key, vault=call.wiring.vault)

    released = await as_agent(call, call.read(AgentKeyBody, may_be_empty=True), run)
    return answer(ReleasedKeyView(released.api_key, released.provider, released.base_url), headers=NO_STORE)


_GATE_CODES: Final = ("USAGE_LIMIT_EXCEEDED", "403 BUDGET_EXCEEDED", "CRYPTO_UNAVAILABLE")

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET", "/keys", get_key, "Release the provider key of the project that the API token is bound to",
        answer=KeyView, action="keys.release", query=("provider",), limit="keys",
        codes=("TOKEN_NOT_IN_PROJECT", "NO_PROVIDER_KEY", "PROVIDER_KEY_DISABLED", *_GATE_CODES),
    ),
    Route(
        "POST", "/agents/provider-key", get_agents_key, "Release an agent's provider key to its runtime",
        body=AgentKeyBody, answer=ReleasedKeyView, action="agents.provider_key", limit="provider_key",
        codes=("INSUFFICIENT_SCOPE", "AGENT_INACTIVE", "OWNER_SUSPENDED", "NO_PROVIDER_ASSIGNED", *_GATE_CODES),
        example={"provider": "openai"},
    ),
)  # fmt: skip
