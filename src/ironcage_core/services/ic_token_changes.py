"""Changes of an agent's IC token with what they do to its leases."""

from dataclasses import dataclass

from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.ic_tokens import IcTokenRecord
from ironcage_core.domain.instants import Instant
from ironcage_core.ports.secrecy import TokenSigner
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.ic_tokens import IssuedIcToken, note_deaths, regenerate_ic_token
from ironcage_core.services.leasing import revoke_open_leases


@dataclass(frozen=True, slots=True)
class ReplacedIcToken:
    """A new value, and what became of the old one and of the agent's leases."""

    issued: IssuedIcToken
    is_old_dead: bool
    leases_revoked: int


def replace_ic_token(
    uow: UnitOfWork,
    agent_id: str,
    *,
    overlap_s: int = 0,
    expires_at: Instant | None = None,
    revokes_leases: bool = False,
    actor: Actor,
    signer: TokenSigner,
) -> ReplacedIcToken:
    """Replace the value of the agent's IC token, and on demand end what it has lent.

    Args:
        uow: The open unit of work.
        agent_id: Whose token.
        overlap_s: For how many seconds, 0 to 86400, the old value works beside the new one.
        expires_at: When the new value ends; None leaves it as it was.
        revokes_leases: Whether the agent's open leases are revoked.
        actor: Who asks.
        signer: Makes the value.

    Raises:
        AgentNotFoundError: No such agent, or it was deleted.
        ValidationError: An overlap out of range; it would be dead at birth.

    Source: contract identity.md 7.
    """
    had_one = uow.ic_tokens.find_active_of(agent_id) is not None
    issued = regenerate_ic_token(uow, agent_id, overlap_s=overlap_s, expires_at=expires_at, actor=actor, signer=signer)
    revoked = revoke_open_leases(uow, agent_id, reason="ic_token_regenerated", actor=actor) if revokes_leases else 0
    return ReplacedIcToken(issued, had_one and not overlap_s, revoked)


def revoke_ic_token(uow: UnitOfWork, agent_id: str, *, actor: Actor) -> IcTokenRecord | None:
    """Take an agent's IC token away: every value of it is dead and all open leases of the agent are revoked.

    Returns:
        The record as it ended; None if there was no active one, and then nothing was done.

    Source: contract identity.md 7.
    """
    record = uow.ic_tokens.find_active_of(agent_id)
    if record is None:
        return None
    ended = record._replace(status="revoked", revoked_at=uow.now, previous_hash=None, previous_until=None)
    uow.ic_tokens.put(ended)
    note_deaths(uow, record, at=uow.now)
    revoked = revoke_open_leases(uow, agent_id, reason="ic_token_revoked", actor=actor)
    metadata = {"agent_id": agent_id, "leases_revoked": revoked}
    uow.audit.append(AuditNote("IC_TOKEN_REVOKED", "token", "ic_token", record.id, actor, metadata=metadata))
    return ended
