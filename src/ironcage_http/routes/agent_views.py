"""What agents look like on the wire: bodies and views."""

import json
from decimal import Decimal
from typing import Any, Final, cast

import msgspec

from ironcage_core.domain.api_tokens import ApiToken
from ironcage_core.services.agent_changes import AgentFields
from ironcage_core.services.agent_lists import AgentOverview
from ironcage_core.services.agent_records import status_of
from ironcage_http.wire import Read, amount, moment

_UNSET: Final = msgspec.UNSET


class AgentBody(msgspec.Struct, frozen=True):
    """A new agent."""

    name: str
    budget: Decimal
    providers: list[str] | None = None
    provider_key_id: str | None = None
    owner_id: str | None = None
    project_id: str | None = None
    description: str | None = None
    tags: list[Any] | None = None  # each is judged by its place


class AgentChangeBody(msgspec.Struct, frozen=True):
    """What changes of an agent; what is absent stays, and null clears."""

    name: str | msgspec.UnsetType = _UNSET
    description: str | msgspec.UnsetType | None = _UNSET
    tags: list[Any] | msgspec.UnsetType | None = _UNSET
    owner_id: str | msgspec.UnsetType = _UNSET
    project_id: str | msgspec.UnsetType = _UNSET
    providers: list[str] | msgspec.UnsetType | None = _UNSET
    provider_key_id: str | msgspec.UnsetType | None = _UNSET
    status: str | msgspec.UnsetType = _UNSET
    budget: Any = _UNSET


class StopBody(msgspec.Struct, frozen=True):
    """Why."""

    reason: str | None = None


class TokenOfAgentView(msgspec.Struct, frozen=True):
    """What may be told of an agent's IC token; its value only where it was just made."""

    id: str
    created_at: str | None
    last_used_at: str | None
    token: str | msgspec.UnsetType = _UNSET


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


class StoppedView(msgspec.Struct, frozen=True):
    """What became of an agent that was told to stop."""

    success: bool
    agent_id: str
    runtime_status: str
    stop_hold: bool
    leases_revoked: int
    stopped_at: str | None


class StartedView(msgspec.Struct, frozen=True):
    """What became of an agent that may start."""

    agent_id: str
    runtime_status: str
    stop_hold: bool


class BoundTokenView(msgspec.Struct, frozen=True):
    """An API token that is bound to an agent, without its value."""

    id: str
    name: str
    user_id: str
    agent_id: str | None
    project_id: str | None
    provider: str | None
    is_active: bool
    created_at: str | None
    last_used_at: str | None
    expires_at: str | None
    revoked_at: str | None


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


def bound_token_view(token: ApiToken) -> BoundTokenView:
    """Return a token of an agent as it goes on the wire."""
    return BoundTokenView(
        id=token.id,
        name=token.name,
        user_id=token.user_id,
        agent_id=token.agent_id,
        project_id=token.project_id,
        provider=token.provider,
        is_active=bool(token.is_active),
        created_at=moment(token.created_at),
        last_used_at=moment(token.last_used_at),
        expires_at=moment(token.expires_at),
        revoked_at=moment(token.revoked_at),
    )


def names_sent(body: Read[AgentChangeBody]) -> set[str]:
    """Return the names of the fields that a body has, whether they can be read or not."""
    found = body.found
    if found is None:
        return set(body.fields)
    return {name for name in found.__struct_fields__ if getattr(found, name) is not _UNSET}


def fields_sent(wish: AgentChangeBody) -> AgentFields:
    """Return what a body changes of an agent; a list that is null is an empty one."""
    sent = {name: value for name in wish.__struct_fields__ if (value := getattr(wish, name)) is not _UNSET}
    for name in ("tags", "providers"):
        if name in sent:
            sent[name] = sent[name] or []
    return cast("AgentFields", sent)
