"""The audit log: who did what, chained by hashes so that a change or a gap shows.

One chain per retention class, pruned from its head. The hash covers every field of the row and the hash before it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.instants import Instant

Category = Literal["user", "auth", "token", "credential", "agent", "budget", "config", "safety"]
Outcome = Literal["success", "denied", "failed"]
Chain = Literal["permanent", "year", "standard"]

CHAINS: Final[Mapping[Category, Chain]] = MappingProxyType(
    {"user": "permanent", "credential": "year", "safety": "year"}
)
"""Which chain a category belongs to; every other is `standard`. Source: contract identity.md 11."""

RETENTION_DAYS: Final[Mapping[Chain, int | None]] = MappingProxyType({"permanent": None, "year": 365, "standard": 90})
"""How long the rows of a chain stay; None means for ever. Operators may change `standard`."""

REDACTED: Final = "[REDACTED]"
SECRET_FIELDS: Final = frozenset(
    {
        "access_token", "api_key", "api_token", "authorization", "client_secret", "cookie", "current_password",
        "ic_token", "ip_token", "master_key", "new_password", "old_password", "password", "password_hash",
        "private_key", "refresh_hash", "refresh_token", "secret", "signing_secret", "temporary_password", "token",
        "token_hash", "token_value", "x-api-key", "x-api-token", "x-ic-token",
    }
)  # fmt: skip
"""Fields whose values the log never holds, by their whole name in whatever case."""

LONGEST_USER_AGENT: Final = 500


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, as the audit log and the ledger remember it; `id` is a user, agent or `system`."""

    kind: Literal["user", "api_token", "agent", "system"]
    id: str
    role: str | None = None
    token_id: str | None = None
    ip_address: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


SYSTEM: Final = Actor("system", "system")


@dataclass(frozen=True, slots=True)
class AuditNote:
    """What a use case wants remembered.

    `changes` is `{"before": …, "after": …}` or empty. It holds no secrets; a field that is named like one is stored as
    `[REDACTED]` all the same.
    """

    operation: str
    category: Category
    resource_type: str
    resource_id: str | None
    actor: Actor
    outcome: Outcome = "success"
    reason: str | None = None
    changes: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict)


def changes_between(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Return what a note remembers of a change: the fields that differ, as they were and as they are."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {"before": {name: before.get(name) for name in names}, "after": {name: after.get(name) for name in names}}


class AuditRow(NamedTuple):
    """One stored row of the audit log; a column each, in order. `seq` is given by the store."""

    seq: int | None
    id: str
    timestamp: Instant
    chain: Chain
    operation: str
    outcome: Outcome
    category: Category
    resource_type: str
    resource_id: str | None
    actor_type: str
    actor_id: str
    user_role: str | None
    token_id: str | None
    ip_address: str | None
    user_agent: str | None
    request_id: str | None
    changes: str | None
    reason: str | None
    metadata: str
    prev_hash: str
    hash: str


def unchained(note: AuditNote, *, id: str, at: Instant) -> AuditRow:  # noqa: A002 - the column's name
    """Return the row of a note, before it is linked into its chain."""
    actor = note.actor
    return AuditRow(
        seq=None,
        id=id,
        timestamp=at,
        chain=CHAINS.get(note.category, "standard"),
        operation=note.operation,
        outcome=note.outcome,
        category=note.category,
        resource_type=note.resource_type,
        resource_id=note.resource_id,
        actor_type=actor.kind,
        actor_id=actor.id,
        user_role=actor.role,
        token_id=actor.token_id,
        ip_address=actor.ip_address,
        user_agent=actor.user_agent[:LONGEST_USER_AGENT] if actor.user_agent else None,
        request_id=actor.request_id,
        changes=_canonical(redacted(note.changes)) if note.changes else None,
        reason=note.reason,
        metadata=_canonical(redacted(note.metadata)) if note.metadata else "{}",
        prev_hash="",
        hash="",
    )


def redacted(value: object) -> object:
    """Return a value of JSON with what secret fields hold replaced, however deep they are."""
    if isinstance(value, (str, int)) or value is None:  # nearly every value: the log is written on hot paths
        return value
    if isinstance(value, Mapping):
        return {key: REDACTED if str(key).lower() in SECRET_FIELDS else redacted(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(each) for each in value]
    return value


def chained(row: AuditRow, prev_hash: str) -> AuditRow:
    """Return the row linked behind `prev_hash`, the empty string for the first of its chain."""
    return row._replace(prev_hash=prev_hash, hash=row_hash(row, prev_hash))


def row_hash(row: AuditRow, prev_hash: str) -> str:
    """Return the hex SHA-256 over the row's content and the hash before it."""
    content = row[1:-2]  # without seq, which the store gives, and without the hashes
    return hashlib.sha256(_canonical([*content, prev_hash]).encode()).hexdigest()


_canonical: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
