"""Call events: what a runtime tells of a call for the statistics, apart from its reports, and which of it is sound.

An event moves no budget. Source: contract analytics.md 2.1.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from ironcage_core.domain.instants import MS_PER_MINUTE, Instant
from ironcage_core.domain.money import Micros
from ironcage_core.domain.providers import KNOWN_PROVIDERS
from ironcage_core.domain.texts import text_problem

Outcome = Literal["completed", "failed"]

COMPLETED: Final = "llm_request_completed"
FAILED: Final = "llm_request_failed"
EVENT_TYPES: Final = (COMPLETED, FAILED)
EVENT_PROVIDERS: Final = tuple(dict.fromkeys(("openai", "anthropic", *KNOWN_PROVIDERS, "unknown")))
UNKNOWN_ERROR: Final = "unknown"

_PREFIXES: Final = ("evt_", "req_", "request_")
_HEX32: Final = re.compile(r"[0-9a-f]{32}")
_FIRST_INSTANT: Final[Instant] = 946_684_800_000
_MAX_SKEW_MS: Final = 5 * MS_PER_MINUTE
_MAX_TOKENS: Final = 10**9
_MAX_COST: Final[Micros] = 10**12
_TEXTS: Final = (("request_id", 100), ("provider_id", 100))
_OPTIONAL_TEXTS: Final = (("error_code", 100), ("endpoint", 200))
_NEEDED_NUMBERS: Final = (
    ("input_tokens", "input_tokens", 0, _MAX_TOKENS),
    ("output_tokens", "output_tokens", 0, _MAX_TOKENS),
    ("cost", "cost_micros", 0, _MAX_COST),
)
_NUMBERS: Final = (
    *_NEEDED_NUMBERS,
    ("duration_ms", "duration_ms", 0, 86_400_000),
    ("response_status", "response_status", 100, 599),
)


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One call as an event tells it; `cost` in micro-USD.

    A failed call has no cost and no tokens, whatever is said of them. `lease_id` counts only if it is the agent's.
    """

    event_id: str
    event_type: str
    model: str
    provider: str
    occurred_at: Instant
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Micros | None = None
    provider_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    request_id: str | None = None
    lease_id: str | None = None
    duration_ms: int | None = None
    endpoint: str | None = None
    response_status: int | None = None

    @property
    def is_completed(self) -> bool:
        """Whether the call did not fail."""
        return self.event_type == COMPLETED

    @property
    def outcome(self) -> Outcome:
        """What became of the call."""
        return "completed" if self.event_type == COMPLETED else "failed"

    @property
    def key(self) -> str:
        """What the call is known by: the writer's name of the call, else of the event."""
        return self.request_id or self.event_id


def event_problems(event: CallEvent) -> dict[str, str]:
    """Return the message of each bad field, by its name on the wire; empty if there is none.

    A message of an error is never bad, nor is a lease: it is cleaned, and this is the agent's or ignored.
    """
    problems: dict[str, str] = {}
    if problem := id_problem(event.event_id):
        problems["event_id"] = problem
    if event.event_type not in EVENT_TYPES:
        problems["event_type"] = f"must be one of {', '.join(EVENT_TYPES)}"
    if problem := text_problem(event.model, longest=200):
        problems["model"] = problem
    if event.provider not in EVENT_PROVIDERS:
        problems["provider"] = f"must be one of {', '.join(EVENT_PROVIDERS)}"
    if problem := time_problem(event.occurred_at):
        problems["timestamp_ms"] = problem
    _check_texts(event, problems)
    _check_numbers(event, problems)
    return problems


@lru_cache(maxsize=2048)  # asked more than once of each name of a batch
def uuid_in(name: str) -> str | None:
    """Return the UUID that a call or event is named by, as 32 hex digits, however it is written; None for no UUID.

    Source: contract analytics.md 1, rule 2.
    """
    if len(name) < 32:
        return None
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "") if "_" in name else ""
    digits = name[len(prefix) :].replace("-", "").lower()
    return digits if _HEX32.fullmatch(digits) else None


def usual_name(uuid: str) -> str:
    """Return how a UUID of 32 hex digits is usually written; a call with this key needs no other name to be found."""
    return f"{uuid[:8]}-{uuid[8:12]}-{uuid[12:16]}-{uuid[16:20]}-{uuid[20:]}"


def allowed_values(problems: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values that the first field of a closed list may have, if such a field is bad."""
    if "event_type" in problems:
        return EVENT_TYPES
    return EVENT_PROVIDERS if "provider" in problems else ()


def counted_at(event: CallEvent, now: Instant) -> Instant:
    """Return when the call counts: when it was, or when it was told of, if that was to be in the future."""
    return event.occurred_at if event.occurred_at <= now + _MAX_SKEW_MS else now


def id_problem(event_id: object) -> str | None:
    """Return what is wrong with the name of an event, or None."""
    problem = text_problem(event_id, longest=100)
    is_printed = problem is not None or str(event_id).isprintable()
    return problem if is_printed else "may have printable characters only"


def time_problem(at: object) -> str | None:
    """Return what is wrong with the time of an event, or None."""
    if type(at) is int and at >= _FIRST_INSTANT:
        return None
    if type(at) is int and at > 0:
        return f"looks like seconds: must be milliseconds since 1970, at least {_FIRST_INSTANT}"
    return f"must be milliseconds since 1970, an integer of at least {_FIRST_INSTANT}"


def _check_texts(event: CallEvent, problems: dict[str, str]) -> None:
    for field, longest in _TEXTS:
        value = getattr(event, field)
        if value is not None and (problem := text_problem(value, longest=longest)):
            problems[field] = problem
    for field, longest in _OPTIONAL_TEXTS:
        value = getattr(event, field)
        if value and (problem := text_problem(value, longest=longest)):
            problems[field] = problem


def _check_numbers(event: CallEvent, problems: dict[str, str]) -> None:
    for field, name, least, most in _NUMBERS:
        value = getattr(event, field)
        if value is not None and (type(value) is not int or not least <= value <= most):
            problems[name] = f"must be an integer from {least} to {most}"
    if event.event_type != COMPLETED:
        return
    for field, name, _, _ in _NEEDED_NUMBERS:
        if getattr(event, field) is None:
            problems[name] = "is needed for a completed call"
