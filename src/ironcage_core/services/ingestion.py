"""Ingestion: what becomes of the events that runtimes tell of their calls.

An event never moves a budget. It makes the record of its call, or completes the one of a report, or it was told before.
Source: contract analytics.md 1 and 2.1.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.call_events import CallEvent, allowed_values, event_problems
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.ids import is_id
from ironcage_core.domain.instants import MS_PER_DAY, Instant
from ironcage_core.domain.leases import LeasePolicy
from ironcage_core.domain.money import Micros
from ironcage_core.domain.usage import KeptCall, UsageRecord
from ironcage_core.errors.access import InsufficientScopeError, InvalidTokenError
from ironcage_core.errors.tree import RefusalError, ValidationError
from ironcage_core.errors.usage import EventTooOldError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.alerts import tell_levels
from ironcage_core.services.call_records import (
    Call,
    UnreadItem,
    free_key,
    has_cost_mismatch,
    note_event,
    record_of_event,
    restored,
    tell_call,
    told_call,
    with_event,
)
from ironcage_core.services.expiry import catch_up
from ironcage_core.services.granting import agent_of
from ironcage_core.services.pending import add_pending, settle_pending

PERMISSION: Final = "analytics:write"

Admit = Callable[[bool], RefusalError | None]
"""Asked once of each sound item, told whether it is a duplicate: returns the refusal of one too many."""

UnreadEvent: TypeAlias = UnreadItem


class Ingested(NamedTuple):
    """The fate of one event; `has_cost_mismatch` is whether the report of its call has another cost."""

    position: int
    event_id: object
    status: Literal["accepted", "duplicate", "rejected"]
    refusal: RefusalError | None = None
    has_cost_mismatch: bool = False


def check_may_tell(identity: AgentIdentity) -> None:
    """Refuse a token that may not tell of what an agent does.

    Raises:
        InvalidTokenError: Its value is dead.
        InsufficientScopeError: It lacks `analytics:write`.
    """
    if identity.died_at is not None:
        raise InvalidTokenError
    if PERMISSION not in identity.permissions:
        raise InsufficientScopeError("The IC token lacks a permission", required=PERMISSION)


def ingest(
    uow: UnitOfWork,
    identity: AgentIdentity,
    items: Sequence[CallEvent | UnreadEvent],
    *,
    admit: Admit,
    policy: LeasePolicy,
    key_days: int | None,
    first: int = 0,
) -> list[Ingested]:
    """Take in events in order, in one unit of work; a bad one does not keep the others out.

    Args:
        uow: The open unit of work.
        identity: Whose calls they were; also of an agent that may make no more.
        items: Events as they were read, and what could not be read.
        admit: Says which are too many; asked before anything of an item is written.
        policy: At which levels alerts go out.
        key_days: How long the names of calls are kept; None is for ever. Older events are refused.
        first: The position of the first item.

    Raises:
        InvalidTokenError: The token's value is dead.
        InsufficientScopeError: The token lacks `analytics:write`.
    """
    check_may_tell(identity)
    catch_up(uow, identity.agent_id)
    intake = _Intake(uow, agent_of(uow, identity), admit)
    oldest = None if key_days is None else forgotten_before(uow.now, key_days)
    refusals = [item.refusal if isinstance(item, UnreadItem) else _refusal_of(item, oldest) for item in items]
    _expect(uow, identity.agent_id, items, refusals)
    results = [intake.take(first + place, item, refusals[place]) for place, item in enumerate(items)]
    if intake.pending:
        for lease_id, cost in intake.pending.items():
            add_pending(uow, identity.agent_id, lease_id, cost)
        tell_levels(uow, identity.agent_id, levels=policy.alert_levels)
    return results


def forgotten_before(now: Instant, key_days: int) -> Instant:
    """Return from before when events are not taken in any more, for they may have been before."""
    return now - key_days * MS_PER_DAY


def forget_calls(uow: UnitOfWork, *, key_days: int, limit: int) -> int:
    """Forget at most `limit` purged calls that are older than what is remembered; return how many it were.

    Calls that were reported are remembered for ever. What was pending of one is so no more: nobody could settle it.
    """
    gone = uow.usage.purge_keys(forgotten_before(uow.now, key_days), limit)
    for call in gone:
        settle_pending(uow, call.agent_id, call.lease_id, call.cost_micros)
    return len(gone)


def _refusal_of(event: CallEvent, oldest: Instant | None) -> RefusalError | None:
    problems = event_problems(event)
    if problems:
        allowed = allowed_values(problems)
        return ValidationError(problems, allowed=list(allowed)) if allowed else ValidationError(problems)
    if oldest is not None and event.occurred_at < oldest:
        return EventTooOldError("The event is older than what is remembered of calls", oldest_ms=oldest)
    return None


def _expect(
    uow: UnitOfWork,
    agent_id: str,
    items: Sequence[CallEvent | UnreadEvent],
    refusals: Sequence[RefusalError | None],
) -> None:
    """Fetch together what the sound events will be looked for by."""
    sound = [item for item, refusal in zip(items, refusals, strict=True) if refusal is None]
    events = [event for event in sound if isinstance(event, CallEvent)]
    event_ids = [event.event_id for event in events]
    request_ids = [event.request_id for event in events if event.request_id is not None]
    uow.usage.expect(agent_id, event_ids + request_ids, event_ids)
    uow.telemetry.expect(agent_id, event_ids)


class _Intake:
    """The events of one agent in one unit of work, and what is looked up once for all of them."""

    def __init__(self, uow: UnitOfWork, agent: Agent, admit: Admit) -> None:
        self._uow = uow
        self._agent = agent
        self._admit = admit
        self._only_lease: str | Literal[False] | None = False
        self._keys: dict[str, str | None] | None = None
        self.pending: Counter[str] = Counter()
        """Cost that no report settles, by the lease it is stamped with."""

    def take(self, position: int, item: CallEvent | UnreadEvent, refusal: RefusalError | None) -> Ingested:
        """Take one item in."""
        if isinstance(item, UnreadItem):
            return Ingested(position, item.key, "rejected", item.refusal)
        if refusal is not None:
            return Ingested(position, item.event_id, "rejected", refusal)
        known, is_told = told_call(self._uow, self._agent.id, item)
        is_told = is_told or self._uow.telemetry.find(self._agent.id, item.event_id) is not None
        is_duplicate = is_told or (known is not None and not _adds_to(item, known))
        refusal = self._admit(is_duplicate)
        if refusal is not None:
            return Ingested(position, item.event_id, "rejected", refusal)
        if is_duplicate:
            return Ingested(position, item.event_id, "duplicate")
        if known is None:
            self._open(item)
            return Ingested(position, item.event_id, "accepted")
        mismatch = self._complete(item, known)
        return Ingested(position, item.event_id, "accepted", None, mismatch)

    def _open(self, event: CallEvent) -> None:
        """Make the record of a call."""
        uow, agent = self._uow, self._agent
        trace_id = uow.new_id("trace")
        key = event.event_id if event.request_id is None else free_key(uow, agent.id, event.request_id, trace_id)
        lease_id = self._lease_of(event)
        record = record_of_event(
            uow, agent, event, trace_id=trace_id, key=key, lease_id=lease_id, provider_id=self._key_of(event)
        )
        note_event(uow, agent.id, key, event)
        uow.usage.put(record)
        tell_call(uow, record)
        if lease_id is not None and record.cost_micros:
            self.pending[lease_id] += record.cost_micros

    def _complete(self, event: CallEvent, known: Call) -> bool:
        """Add an event to a known call; return whether the call's report has another cost."""
        uow = self._uow
        if known.event_id is not None:  # it has told of the call before, whatever is told by it now
            uow.usage.add_alias(known.agent_id, "event", known.event_id, known.call_key)
        note_event(uow, known.agent_id, known.call_key, event)
        cost = event.cost if event.is_completed else None
        mismatch = has_cost_mismatch(cost, known.report_cost_micros)
        if isinstance(known, KeptCall) and known.report_cost_micros is not None:
            uow.usage.put_kept(known._replace(event_id=event.event_id, outcome=event.outcome))
            return mismatch
        before = restored(uow, known)
        after = with_event(before, event, now=uow.now, lease_id=self._lease_of(event), provider_id=self._key_of(event))
        uow.usage.put(after)
        self._count_pending(after)
        return mismatch

    def _count_pending(self, record: UsageRecord) -> None:
        """Count what a record costs that has cost nothing before."""
        cost: Micros = record.cost_micros
        if record.lease_id is not None and record.report_cost_micros is None and cost:
            self.pending[record.lease_id] += cost

    def _lease_of(self, event: CallEvent) -> str | None:
        """Return the lease of the agent that a call is stamped with."""
        named = event.lease_id
        if named is not None and is_id(named, "lease"):
            lease = self._uow.leases.find(named)
            if lease is not None and lease.agent_id == self._agent.id:
                return named
        if self._only_lease is False:
            active = [lease.id for lease in self._uow.leases.open_of(self._agent.id) if lease.status == "active"]
            self._only_lease = active[0] if len(active) == 1 else None
        return self._only_lease

    def _key_of(self, event: CallEvent) -> str | None:
        """Return the provider key of a call: as it is told, else the only one that the agent has of the provider."""
        if event.provider_id is not None:
            return event.provider_id
        if self._keys is None:
            self._keys = {}
            for key in self._uow.provider_keys.assigned_to(self._agent.id):
                self._keys[key.provider] = None if key.provider in self._keys else key.id
        return self._keys.get(event.provider)


def _adds_to(event: CallEvent, known: Call) -> bool:
    """Tell whether an event says more of a call than is known: it is the first, or a completed after a failed one."""
    return known.event_id is None or (event.is_completed and known.outcome == "failed")
