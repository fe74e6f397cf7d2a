"""The IC token of an agent: issue, look, regenerate. Its value is in the answer that makes it and nowhere else."""

from typing import Any, Final

import msgspec
from litestar.response.base import ASGIResponse

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ic_tokens import DEFAULT_PERMISSIONS, IcTokenRecord
from ironcage_core.domain.instants import Instant, parse_instant
from ironcage_core.domain.texts import tidied
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import own_agent
from ironcage_core.services.ic_token_changes import ReplacedIcToken, replace_ic_token, revoke_ic_token
from ironcage_core.services.ic_tokens import IssuedIcToken, issue_ic_token
from ironcage_http.calls import NO_STORE, Call, answer, nothing
from ironcage_http.routing import Route
from ironcage_http.wire import moment

WARNING: Final = "Keep this token now: it is shown this once and cannot be read again"


class IssueBody(msgspec.Struct, frozen=True):
    """What the token is to be; everything has a default."""

    expires_at: str | None = None
    description: str | None = None
    permissions: list[str] | None = None


class RegenerateBody(msgspec.Struct, frozen=True):
    """What becomes of the old value and of the leases."""

    overlap_seconds: int | None = None
    revoke_leases: bool | None = None
    expires_at: str | None = None


class IcTokenView(msgspec.Struct, frozen=True):
    """A record and the value that was just made."""

    id: str
    kind: str
    agent_id: str
    project_id: str
    status: str
    permissions: list[str]
    description: str | None
    created_at: str | None
    created_by: str
    rotated_at: str | None
    rotated_by: str | None
    last_used_at: str | None
    expires_at: str | None
    token: str
    ic_token: str
    warning: str


class RegeneratedIcTokenView(IcTokenView, frozen=True, kw_only=True):
    """A record, its new value, and whether the old one is dead."""

    old_token_invalidated: bool
    leases_revoked: int


class IcTokenStatusView(msgspec.Struct, frozen=True):
    """Whether the agent has a token, and since when; never its value."""

    agent_id: str
    has_ic_token: bool
    id: str | None
    status: str | None
    created_at: str | None
    rotated_at: str | None
    last_used_at: str | None
    expires_at: str | None


async def issue(call: Call) -> ASGIResponse:
    """Give an agent its token."""
    who = call.user()
    body = call.read(IssueBody, may_be_empty=True)

    def run(uow: UnitOfWork) -> tuple[IssuedIcToken, Agent]:
        principal = who(uow)
        body.check_syntax()
        agent = own_agent(uow, call.path["agent_id"], principal)
        wish = body.value()
        issued = issue_ic_token(
            uow,
            agent.id,
            expires_at=_instant(wish.expires_at),
            description=tidied(wish.description),
            permissions=DEFAULT_PERMISSIONS if wish.permissions is None else wish.permissions,
            actor=principal.actor,
            signer=call.wiring.ic_signer,
        )
        return issued, agent

    issued, agent = await call.write(run)
    return answer(IcTokenView(*_shown(issued, agent)), status=201, headers=NO_STORE)


async def look(call: Call) -> ASGIResponse:
    """Tell whether an agent has a token."""
    who = call.user()

    def run(uow: UnitOfWork) -> tuple[str, IcTokenRecord | None]:
        agent = own_agent(uow, call.path["agent_id"], who(uow))
        return agent.id, uow.ic_tokens.find_active_of(agent.id)

    agent_id, record = await call.see(run)
    if record is None:
        return answer(IcTokenStatusView(agent_id, False, None, None, None, None, None, None))
    return answer(
        IcTokenStatusView(
            agent_id=agent_id,
            has_ic_token=True,
            id=record.id,
            status=record.status,
            created_at=moment(record.created_at),
            rotated_at=moment(record.rotated_at),
            last_used_at=moment(record.last_used_at),
            expires_at=moment(record.expires_at),
        )
    )


async def regenerate(call: Call) -> ASGIResponse:
    """Replace the value of an agent's token."""
    who = call.user()
    body = call.read(RegenerateBody, may_be_empty=True)

    def run(uow: UnitOfWork) -> tuple[ReplacedIcToken, Agent]:
        principal = who(uow)
        body.check_syntax()
        agent = own_agent(uow, call.path["agent_id"], principal)
        wish = body.value()
        replaced = replace_ic_token(
            uow,
            agent.id,
            overlap_s=wish.overlap_seconds or 0,
            expires_at=_instant(wish.expires_at),
            revokes_leases=bool(wish.revoke_leases),
            actor=principal.actor,
            signer=call.wiring.ic_signer,
        )
        return replaced, agent

    replaced, agent = await call.write(run)
    view = RegeneratedIcTokenView(
        *_shown(replaced.issued, agent),
        old_token_invalidated=replaced.is_old_dead,
        leases_revoked=replaced.leases_revoked,
    )
    return answer(view, headers=NO_STORE)


def _shown(issued: IssuedIcToken, agent: Agent) -> tuple[Any, ...]:
    record = issued.record
    return (
        record.id,
        "ic",
        record.agent_id,
        agent.project_id,
        record.status,
        record.permissions.split(),
        record.description,
        moment(record.created_at),
        record.created_by,
        moment(record.rotated_at),
        record.rotated_by,
        moment(record.last_used_at),
        moment(record.expires_at),
        issued.value,
        issued.value,
        WARNING,
    )


def _instant(text: str | None) -> Instant | None:
    return None if text is None else parse_instant(text, field="expires_at")


async def revoke(call: Call) -> ASGIResponse:
    """Take an agent's token away; without one there is nothing to do."""
    who = call.user()

    def run(uow: UnitOfWork) -> None:
        principal = who(uow)
        agent = own_agent(uow, call.path["agent_id"], principal)
        revoke_ic_token(uow, agent.id, actor=principal.actor)

    await call.write(run)
    return nothing()


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/agents/{agent_id}/ic-token", issue, "Give an agent its IC token, which is shown this once",
        body=IssueBody, answer=IcTokenView, status=201, action="ic_tokens.write", limit="ic_token_make",
        codes=("AGENT_NOT_FOUND", "FORBIDDEN", "IC_TOKEN_EXISTS"),
        example={"description": "worker on node 7"},
    ),
    Route(
        "GET", "/agents/{agent_id}/ic-token", look, "Tell whether an agent has an IC token, without its value",
        answer=IcTokenStatusView, action="ic_tokens.read", codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
    Route(
        "POST", "/agents/{agent_id}/ic-token/regenerate", regenerate, "Replace the value of an agent's IC token",
        body=RegenerateBody, answer=RegeneratedIcTokenView, action="ic_tokens.write", limit="ic_token_make",
        codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
        example={"overlap_seconds": 300, "revoke_leases": False},
    ),
    Route(
        "DELETE", "/agents/{agent_id}/ic-token", revoke, "Take an agent's IC token away, and what it has lent",
        status=204, action="ic_tokens.write", codes=("AGENT_NOT_FOUND", "FORBIDDEN"),
    ),
)  # fmt: skip
