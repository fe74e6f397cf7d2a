"""Telemetry: what a runtime tells of itself, as one table of what each kind of event says and what is done with it.

What an event says beyond this table is not kept anywhere. Source: contract analytics.md 2.2 and 7.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple, get_args

from ironcage_core.domain.agents import TelemetryEvent
from ironcage_core.domain.call_events import EVENT_PROVIDERS, EVENT_TYPES, id_problem, time_problem
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.redaction import redacted
from ironcage_core.domain.texts import LONGEST_REASON, cleaned, text_problem

MAX_DATA_BYTES: Final = 16_384
PII_DETECTED: Final = "pii_detected"
SAFETY_TYPES: Final = frozenset((PII_DETECTED,))
"""What is kept for longer."""

LONGEST_ID: Final = 100
_LARGEST: Final = 2**53 - 1
"""What every reader of JSON reads exactly."""


@dataclass(frozen=True, slots=True)
class RuntimeNote:
    """One event that is not about a call, as a runtime tells it; `data` is whatever was sent."""

    event_id: str
    type: str
    occurred_at: Instant
    data: Mapping[str, object]
    runtime_id: str | None = None
    runtime_version: str | None = None


class KeptTelemetry(NamedTuple):
    """What is kept of an event; a column each, in order. `data` is JSON, None once its time is over."""

    agent_id: str
    event_id: str
    type: str
    at: Instant
    received_at: Instant
    is_safety: int
    runtime_id: str | None
    runtime_version: str | None
    data: str | None


class Kind(NamedTuple):
    """A kind of event.

    Args:
        facts: What it says.
        is_told: Whether observers are told of it as it stands.
    """

    facts: Sequence["Fact"] = ()
    is_told: bool = False


class Fact(NamedTuple):
    """One thing that an event says: its name, what is wrong with a value, whether it must be there."""

    name: str
    problem: Callable[[object], str | None]
    is_needed: bool = False


def _whole_problem(value: object, least: int = 0, most: int = _LARGEST) -> str | None:
    is_fine = type(value) is int and least <= value <= most
    return None if is_fine else f"must be an integer from {least} to {most}"


def _percent_problem(value: object) -> str | None:
    is_fine = type(value) in {int, float} and 0 <= value <= 100  # type: ignore[operator]  # a number by then
    return None if is_fine else "must be a number from 0 to 100"


def _flag_problem(value: object) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _choice_problem(value: object, among: Sequence[str]) -> str | None:
    return None if isinstance(value, str) and value in among else f"must be one of {', '.join(among)}"


def _prose_problem(value: object) -> str | None:
    """Whatever a person may have written is cleaned, not refused."""
    return None if isinstance(value, str) else "must be a string"


def _nothing(_: object) -> None:
    """Say that an error's message is never wrong."""


def _one_of(*among: str) -> Callable[[object], str | None]:
    return partial(_choice_problem, among=among)


_SHORT: Final = partial(text_problem, longest=100)
_MS: Final = partial(_whole_problem, most=86_400_000)
_REST: Final = Kind((Fact("reason", _prose_problem), Fact("current_lead", partial(_whole_problem, least=-_LARGEST))))
_CIRCUIT: Final = Kind((Fact("provider", _one_of(*EVENT_PROVIDERS), True), Fact("failures", _whole_problem)), True)

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "agent_started": Kind((Fact("runtime_version", _SHORT), Fact("pid", _whole_problem))),
        "agent_idle": _REST,
        "agent_completed": _REST,
        "agent_stopped": Kind((Fact("reason", _prose_problem),)),
        "agent_failed": Kind((Fact("error_code", _SHORT), Fact("error_message", _nothing))),
        "tool_invocation": Kind(
            (
                Fact("tool", _SHORT, True),
                Fact("duration_ms", _MS),
                Fact("success", _flag_problem),
                Fact("error_code", _SHORT),
            ),
            is_told=True,
        ),
        PII_DETECTED: Kind(
            (
                Fact("pii_type", _one_of("email", "phone", "ssn", "credit_card", "other"), True),
                Fact("direction", _one_of("input", "output"), True),
                Fact("count", partial(_whole_problem, least=1, most=10**9)),
                Fact("location", _whole_problem),
                Fact("action", _one_of("redacted", "blocked", "logged"), True),
            ),
            is_told=True,
        ),
        "budget_threshold_reached": Kind(
            (
                Fact("threshold_percent", _percent_problem, True),
                Fact("current_spend_micros", _whole_problem, True),
                Fact("budget_micros", _whole_problem, True),
            )
        ),
        "router_started": Kind((Fact("port", partial(_whole_problem, least=1, most=65_535), True),), is_told=True),
        "router_stopped": Kind(
            (Fact("total_requests", _whole_problem, True), Fact("total_cost_micros", _whole_problem)), is_told=True
        ),
        "circuit_breaker_opened": _CIRCUIT,
        "circuit_breaker_closed": _CIRCUIT,
    }
)
"""Every kind of event but those about calls."""

STATES: Final[frozenset[str]] = frozenset(get_args(TelemetryEvent))
TELEMETRY_TYPES: Final = (*KINDS, *EVENT_TYPES)


def note_problems(note: RuntimeNote) -> dict[str, str]:
    """Return the message of each bad field, by its path on the wire; empty if there is none."""
    given = {"event_id": id_problem(note.event_id), "timestamp_ms": time_problem(note.occurred_at)}
    problems = {name: problem for name, problem in given.items() if problem is not None}
    kind = KINDS.get(note.type)
    if kind is None:
        return {**problems, "type": f"must be one of {', '.join(TELEMETRY_TYPES)}"}
    for fact in kind.facts:
        value = note.data.get(fact.name)
        problem = ("is required" if fact.is_needed else None) if value is None else fact.problem(value)
        if problem is not None:
            problems[f"data.{fact.name}"] = problem
    return problems


def facts_of(note: RuntimeNote) -> dict[str, object]:
    """Return what a sound note says: only what its kind speaks of, the texts without secrets."""
    told = {fact.name: _plain(note.data.get(fact.name), fact) for fact in KINDS[note.type].facts}
    if note.type == PII_DETECTED:
        told["count"] = told["count"] or 1
    return {name: value for name, value in told.items() if value is not None}


def _plain(value: object, fact: Fact) -> object:
    if isinstance(value, str):
        return cleaned(redacted(value), longest=LONGEST_REASON)
    return None if fact.problem is _nothing else value
