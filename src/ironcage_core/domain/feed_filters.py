"""Feed filters: what a subscriber asks to be told, out of what he may see.

A filter narrows and never widens. What is not named is not narrowed, but for two things: `events` without `types` asks
for those events and nothing else, and `min_severity` is about alerts alone, for nothing else has a severity.

Source: contract analytics.md 6.3.
"""

import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple, Protocol

from ironcage_core.domain.alerts import Severity
from ironcage_core.domain.ids import is_id
from ironcage_core.errors.tree import ValidationError

FEED_TYPES: Final = ("STATE_UPDATE", "AGENT_EVENT", "COST_ALERT")
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
MAX_NAMES: Final = 100
"""The most entries that a list of a filter may have."""

_ASKED_TYPES: Final = frozenset((*FEED_TYPES, "HEARTBEAT"))  # heartbeats come anyway, and may be named
_EVENT: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class FeedFilter(NamedTuple):
    """What to be told; None does not narrow, an empty set lets nothing through."""

    types: AbstractSet[str] | None = None
    events: AbstractSet[str] | None = None
    agent_ids: AbstractSet[str] | None = None
    min_severity: Severity | None = None


EVERYTHING: Final = FeedFilter()
NOTHING: Final = FeedFilter(types=frozenset())


class Filterable(Protocol):
    """What a filter looks at of an event; the words are those of a feed row."""

    @property
    def type(self) -> str:
        """One of `FEED_TYPES`."""
        ...

    @property
    def agent_id(self) -> str | None:
        """Whom it is about; None for the system."""
        ...

    @property
    def name(self) -> str | None:
        """The state or the event."""
        ...

    @property
    def severity(self) -> str | None:
        """How urgent an alert is."""
        ...


def matches(which: FeedFilter, event: Filterable) -> bool:
    """Tell whether a filter lets an event through."""
    types, events, agent_ids, min_severity = which
    kind = event.type
    if types is not None and kind not in types:
        return False
    if agent_ids is not None and event.agent_id not in agent_ids:
        return False
    if events is not None:
        if kind == "AGENT_EVENT":
            return event.name in events
        if types is None:
            return False
    return min_severity is None or kind != "COST_ALERT" or _is_urgent(event.severity, min_severity)


def _is_urgent(severity: str | None, least: Severity) -> bool:
    return severity in SEVERITIES[SEVERITIES.index(least) :]


def filter_of(given: object) -> FeedFilter:
    """Return the filter that a client has sent; None is everything, and fields nobody knows are passed over.

    Raises:
        ValidationError: It is not an object, or a field is wrong: all of them are named.
    """
    if given is None:
        return EVERYTHING
    if not isinstance(given, Mapping):
        raise ValidationError({"filters": "must be an object"})
    problems: dict[str, str] = {}
    found = FeedFilter(
        types=_names(given, "types", _ASKED_TYPES.__contains__, "is not a type of message", problems),
        events=_names(given, "events", _is_event, "is not the name of an event", problems),
        agent_ids=_names(given, "agent_ids", _is_agent_id, "is not the id of an agent", problems),
        min_severity=_severity(given.get("min_severity"), problems),
    )
    if problems:
        raise ValidationError({f"filters.{field}": problem for field, problem in problems.items()})
    return found


def as_object(which: FeedFilter) -> dict[str, Any]:
    """Return a filter as a client sends it, without what is not narrowed."""
    return {
        name: value if isinstance(value, str) else list(value)
        for name, value in which._asdict().items()
        if value is not None
    }


def _is_event(name: str) -> bool:
    return _EVENT.fullmatch(name) is not None


def _is_agent_id(name: str) -> bool:
    return is_id(name, "agent")


def _names(
    given: Mapping[str, Any], field: str, is_good: Callable[[str], bool], problem: str, problems: dict[str, str]
) -> AbstractSet[str] | None:
    """Return a list of names in the order they were sent, each once."""
    names = given.get(field)
    if names is None:
        return None
    if not isinstance(names, list) or len(names) > MAX_NAMES:
        problems[field] = f"must be a list of at most {MAX_NAMES} names"
        return None
    for place, name in enumerate(names):
        if not isinstance(name, str) or not is_good(name):
            problems[f"{field}[{place}]"] = problem
    return None if problems else dict.fromkeys(names).keys()


def _severity(given: object, problems: dict[str, str]) -> Severity | None:
    for severity in SEVERITIES:
        if given == severity:
            return severity
    if given is not None:
        problems["min_severity"] = f"must be one of {', '.join(SEVERITIES)}"
    return None
