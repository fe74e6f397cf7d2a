"""Telemetry: what becomes of the events in which runtimes tell of themselves, each once.

Ids of these events and of those about calls are one set: what either knows is a duplicate to both.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, cast

from ironcage_core.domain.agents import Agent, TelemetryEvent
from ironcage_core.domain.audit import AuditNote
from ironcage_core.domain.call_events import CallEvent
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.instants import day_start
from ironcage_core.domain.leases import LeasePolicy
from ironcage_core.domain.telemetry import (
    KINDS,
    PII_DETECTED,
    SAFETY_TYPES,
    STATES,
    TELEMETRY_TYPES,
    KeptTelemetry,
    RuntimeNote,
    facts_of,
    note_problems,
)
from ironcage_core.domain.usage import MAX_CLOCK_SKEW_MS
from ironcage_core.errors.tree import RefusalError, ValidationError
from ironcage_core.errors.usage import EventTooOldError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.call_records import UnreadItem, call_told_by
from ironcage_core.services.granting import agent_of
from ironcage_core.services.ingestion import Admit, Ingested, forgotten_before, ingest
from ironcage_core.services.runtime_states import note_telemetry

Item = RuntimeNote | CallEvent | UnreadItem


def take_telemetry(
    uow: UnitOfWork,
    identity: AgentIdentity,
    items: Sequence[Item],
    *,
    admit: Admit,
    policy: LeasePolicy,
    key_days: int | None,
    first: int = 0,
) -> list[Ingested]:
    """Take in what a runtime tells, in order, each event alone; those about calls become usage.

    Args:
        uow: An open unit of work.
        identity: The agent; whatever its state, what it tells has happened.
        items: What it tells.
        admit: Asked of each sound item whether it is one too many.
        policy: As for reports.
        key_days: For how many days events are known again; None means for ever.
        first: The position of the first item.

    Source: contract analytics.md 2.2.
    """
    uow.telemetry.expect(identity.agent_id, [item.event_id for item in items if isinstance(item, RuntimeNote)])
    results: list[Ingested] = []
    for is_note, group in groupby(items, lambda item: isinstance(item, RuntimeNote)):
        run = list(group)
        position = first + len(results)
        if is_note:
            notes = cast("list[RuntimeNote]", run)
            results += [
                _take(uow, identity, place, note, admit, key_days) for place, note in enumerate(notes, position)
            ]
        else:
            calls = cast("list[CallEvent | UnreadItem]", run)
            results += ingest(uow, identity, calls, admit=admit, policy=policy, key_days=key_days, first=position)
    return results


def _take(
    uow: UnitOfWork, identity: AgentIdentity, position: int, note: RuntimeNote, admit: Admit, key_days: int | None
) -> Ingested:
    refusal = _refusal(uow, note, key_days)
    if refusal is None:
        is_known = _is_known(uow, identity.agent_id, note.event_id)
        refusal = admit(is_known)
        if refusal is None and is_known:
            return Ingested(position, note.event_id, "duplicate")
    if refusal is not None:
        return Ingested(position, note.event_id, "rejected", refusal)
    _keep(uow, identity, note)
    return Ingested(position, note.event_id, "accepted")


def _refusal(uow: UnitOfWork, note: RuntimeNote, key_days: int | None) -> RefusalError | None:
    if problems := note_problems(note):
        allowed = {"allowed": list(TELEMETRY_TYPES)} if "type" in problems else {}
        return ValidationError(problems, **allowed)
    if key_days is not None and note.occurred_at < forgotten_before(uow.now, key_days):
        return EventTooOldError(f"The event is older than {key_days} days")
    return None


def _is_known(uow: UnitOfWork, agent_id: str, event_id: str) -> bool:
    return uow.telemetry.find(agent_id, event_id) is not None or call_told_by(uow, agent_id, event_id) is not None


def _keep(uow: UnitOfWork, identity: AgentIdentity, note: RuntimeNote) -> None:
    facts = facts_of(note)
    uow.telemetry.put(
        KeptTelemetry(
            agent_id=identity.agent_id,
            event_id=note.event_id,
            type=note.type,
            at=note.occurred_at if note.occurred_at <= uow.now + MAX_CLOCK_SKEW_MS else uow.now,
            received_at=uow.now,
            is_safety=int(note.type in SAFETY_TYPES),
            runtime_id=note.runtime_id,
            runtime_version=note.runtime_version,
            data=json.dumps(facts, ensure_ascii=False),
        )
    )
    agent = agent_of(uow, identity)
    if note.type in STATES:
        _move(uow, identity, agent, cast("TelemetryEvent", note.type), facts)
    if note.type == PII_DETECTED:
        _count_pii(uow, identity, agent, facts)
    if KINDS[note.type].is_told:
        uow.feed.append("AGENT_EVENT", agent_id=agent.id, name=note.type, data=facts)


def _move(
    uow: UnitOfWork, identity: AgentIdentity, agent: Agent, event: TelemetryEvent, facts: Mapping[str, Any]
) -> None:
    failure = (facts.get("error_message") or facts.get("error_code")) if event == "agent_failed" else None
    note_telemetry(
        uow,
        agent,
        event,
        failure_reason=failure,
        reason=facts.get("reason"),
        current_lead=facts.get("current_lead"),
        actor=identity.actor,
    )


def _count_pii(uow: UnitOfWork, identity: AgentIdentity, agent: Agent, facts: Mapping[str, Any]) -> None:
    uow.agents.put(agent._replace(pii_detections=agent.pii_detections + facts["count"]))
    uow.audit.append(AuditNote("PII_DETECTED", "safety", "agent", agent.id, identity.actor, metadata=facts))


def purge_telemetry(uow: UnitOfWork, *, record_days: int, safety_days: int, key_days: int | None, limit: int) -> int:
    """Let what old events said go, and their keys where those are not kept for ever; return the more of one kind.

    Args:
        uow: An open unit of work.
        record_days: For how many whole days it is kept what an event said, beside the current one.
        safety_days: The same for events about safety.
        key_days: For how many days an event is known again; None means for ever.
        limit: At most how many go of each kind; fewer mean that none is left.

    Source: contract analytics.md 5.
    """
    gone = [
        uow.telemetry.purge_data(day_start(uow.now, record_days), limit, is_safety=False),
        uow.telemetry.purge_data(day_start(uow.now, safety_days), limit, is_safety=True),
    ]
    if key_days is not None:
        gone.append(uow.telemetry.purge(forgotten_before(uow.now, key_days), limit))
    return max(gone)
