"""IC tokens: who is calling, and the issue and replacement of an agent's credential.

The signature is proven outside (a pure function of value and key). Here the record decides: a value whose hash is
not the stored one is dead, whatever its signature says.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ironcage_core.domain.access import NOWHERE, Origin
from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.ic_tokens import (
    DEFAULT_PERMISSIONS,
    KNOWN_PERMISSIONS,
    AgentIdentity,
    IcTokenClaims,
    IcTokenRecord,
    PresentedIcToken,
)
from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.texts import text_problem
from ironcage_core.errors.access import InvalidTokenError
from ironcage_core.errors.identity import IcTokenExistsError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.secrecy import TokenSigner
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agent_records import live_agent
from ironcage_core.services.posting import balance_of

MAX_OVERLAP_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class IssuedIcToken:
    """A new value, shown once, and its record."""

    record: IcTokenRecord
    value: str = field(repr=False)


def authenticate(
    uow: UnitOfWork, presented: PresentedIcToken, *, settle: int = 0, origin: Origin = NOWHERE
) -> AgentIdentity:
    """Return who presents the token, if its value is still the agent's, or died so lately that it may settle.

    Args:
        uow: The open unit of work.
        presented: The proven value.
        settle: For how many milliseconds after its death a value is let through to settle its leases, as an identity
            with `died_at`; 0 lets none through.
        origin: Where the call came from.

    Raises:
        InvalidTokenError: Replaced, revoked, unknown, or its agent is deleted; one message for all.

    Source: contract identity.md 7, budget.md 4.1.
    """
    claims = presented.claims
    record = uow.ic_tokens.find(claims.token_id)
    agent = uow.agents.find(claims.agent_id)
    if record is None or agent is None or record.agent_id != claims.agent_id:
        raise InvalidTokenError
    is_alive = agent.deleted_at is None and record.status == "active" and _is_live_value(record, presented, uow.now)
    died_at = None if is_alive else _death_of(uow, claims, settle)
    return AgentIdentity(
        agent_id=agent.id,
        token_id=record.id,
        gen=claims.gen,
        permissions=claims.permissions,
        token=presented.value,
        origin=origin,
        died_at=died_at,
    )


def _is_live_value(record: IcTokenRecord, presented: PresentedIcToken, now: Instant) -> bool:
    if hmac.compare_digest(record.value_hash, presented.value_hash):
        return True
    return (
        record.previous_hash is not None
        and record.previous_until is not None
        and now < record.previous_until
        and hmac.compare_digest(record.previous_hash, presented.value_hash)
    )


def _death_of(uow: UnitOfWork, claims: IcTokenClaims, settle: int) -> Instant:
    """Return when a value died that may still settle: the stored hashes no longer know it, but its `gen` is known."""
    died_at = uow.dead_tokens.died_at(claims.token_id, claims.gen) if settle else None
    if died_at is None or not 0 <= uow.now - died_at <= settle:
        raise InvalidTokenError
    return died_at


def note_deaths(uow: UnitOfWork, record: IcTokenRecord, *, at: Instant) -> None:
    """Remember that the current value of a token dies at an instant, and that one which still overlaps it dies now."""
    uow.dead_tokens.note_death(record.id, record.gen, at)
    if record.previous_until is not None and uow.now < record.previous_until:
        uow.dead_tokens.note_death(record.id, record.gen - 1, uow.now)


def issue_ic_token(
    uow: UnitOfWork,
    agent_id: str,
    *,
    expires_at: Instant | None = None,
    description: str | None = None,
    permissions: Sequence[str] = DEFAULT_PERMISSIONS,
    actor: Actor,
    signer: TokenSigner,
) -> IssuedIcToken:
    """Give the agent its IC token.

    Args:
        uow: The open unit of work.
        agent_id: Whose.
        expires_at: When it ends, cut to whole seconds; None means not by itself.
        description: 1 to 500 characters for people.
        permissions: What it allows; at least one, duplicates are dropped.
        actor: Who asks.
        signer: Makes the value.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ValidationError: It would be dead at birth; an unknown permission; a bad description.
        IcTokenExistsError: It has one already; regenerate instead.
    """
    live_agent(uow, agent_id)
    _check_issue(uow.now, expires_at, description, permissions)
    existing = uow.ic_tokens.find_active_of(agent_id)
    if existing is not None:
        raise IcTokenExistsError("The agent has an IC token already", existing_token_id=existing.id)
    token_id = uow.new_id("ict")
    record = IcTokenRecord(
        id=token_id,
        agent_id=agent_id,
        status="active",
        gen=1,
        value_hash="",
        previous_hash=None,
        previous_until=None,
        permissions=" ".join(dict.fromkeys(permissions)),
        description=description,
        created_at=uow.now,
        created_by=actor.id,
        rotated_at=None,
        rotated_by=None,
        last_used_at=None,
        expires_at=_whole_seconds(expires_at),
        revoked_at=None,
    )
    value = _sign(uow, record, signer)
    record = record._replace(value_hash=signer.digest(value))
    uow.ic_tokens.put(record)
    uow.audit.append(
        AuditNote("IC_TOKEN_CREATED", "token", "ic_token", token_id, actor, metadata={"agent_id": agent_id})
    )
    return IssuedIcToken(record, value)


def _check_issue(now: Instant, expires_at: Instant | None, description: str | None, permissions: Sequence[str]) -> None:
    problems = {}
    if not _is_future(expires_at, now):
        problems["expires_at"] = "must be in the future"
    if description is not None and (problem := text_problem(description, longest=500)):
        problems["description"] = problem
    if not permissions or not set(permissions) <= set(KNOWN_PERMISSIONS):
        problems["permissions"] = f"must be some of {', '.join(KNOWN_PERMISSIONS)}"
    if problems:
        raise ValidationError(problems)


def _is_future(expires_at: Instant | None, now: Instant) -> bool:
    return expires_at is None or (type(expires_at) is int and expires_at // MS_PER_S * MS_PER_S > now)


def _whole_seconds(expires_at: Instant | None) -> Instant | None:
    return None if expires_at is None else expires_at // MS_PER_S * MS_PER_S


def regenerate_ic_token(
    uow: UnitOfWork,
    agent_id: str,
    *,
    overlap_s: int = 0,
    expires_at: Instant | None = None,
    actor: Actor,
    signer: TokenSigner,
) -> IssuedIcToken:
    """Replace the value of the agent's IC token; issue one if there is none.

    Args:
        uow: The open unit of work.
        agent_id: Whose token.
        overlap_s: For how many seconds, 0 to 86400, the old value works beside the new one.
        expires_at: When the new value ends, cut to whole seconds; None leaves it as it was.
        actor: Who asks.
        signer: Makes the value.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ValidationError: An overlap out of range; it would be dead at birth, as it was or as it is asked for.
    """
    problems = {}
    if type(overlap_s) is not int or not 0 <= overlap_s <= MAX_OVERLAP_S:
        problems["overlap_seconds"] = f"must be an integer from 0 to {MAX_OVERLAP_S}"
    if not _is_future(expires_at, uow.now):
        problems["expires_at"] = "must be in the future"
    if problems:
        raise ValidationError(problems)
    live_agent(uow, agent_id)
    record = uow.ic_tokens.find_active_of(agent_id)
    if record is None:
        return issue_ic_token(uow, agent_id, expires_at=expires_at, actor=actor, signer=signer)
    if expires_at is None and not _is_future(record.expires_at, uow.now):
        raise ValidationError({"expires_at": "is needed: the time that the token had is over"})
    next_gen = record._replace(gen=record.gen + 1, expires_at=_whole_seconds(expires_at) or record.expires_at)
    value = _sign(uow, next_gen, signer)
    replaced = next_gen._replace(
        value_hash=signer.digest(value),
        previous_hash=record.value_hash if overlap_s else None,
        previous_until=uow.now + overlap_s * MS_PER_S if overlap_s else None,
        rotated_at=uow.now,
        rotated_by=actor.id,
    )
    uow.ic_tokens.put(replaced)
    note_deaths(uow, record, at=uow.now + overlap_s * MS_PER_S)
    uow.audit.append(
        AuditNote("IC_TOKEN_REGENERATED", "token", "ic_token", record.id, actor, metadata={"agent_id": agent_id})
    )
    return IssuedIcToken(replaced, value)


def _sign(uow: UnitOfWork, record: IcTokenRecord, signer: TokenSigner) -> str:
    return signer.sign(
        IcTokenClaims(
            token_id=record.id,
            gen=record.gen,
            agent_id=record.agent_id,
            budget_id=balance_of(uow, record.agent_id).budget_id,
            permissions=tuple(record.permissions.split()),
            issued_at=uow.now // MS_PER_S * MS_PER_S,
            expires_at=record.expires_at,
        )
    )
