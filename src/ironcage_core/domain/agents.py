"""Agents: who may hold leases, the state of their runtime as one table, and what they may be labelled with."""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.texts import text_problem

RuntimeStatus = Literal["idle", "running", "completed", "stopped", "failed"]
TelemetryEvent = Literal["agent_started", "agent_idle", "agent_completed", "agent_stopped", "agent_failed"]
"""What a runtime says of itself. Source: contract analytics.md 2.2."""

RuntimeEvent = Literal[
    "handshake", "last_lease_returned", "stop", "start", "inactivation", "deletion",
    "agent_started", "agent_idle", "agent_completed", "agent_stopped", "agent_failed",
]  # fmt: skip

RUNTIME_TRANSITIONS: Final[Mapping[tuple[RuntimeStatus, RuntimeEvent], RuntimeStatus]] = MappingProxyType(
    {
        ("idle", "handshake"): "running",
        ("completed", "handshake"): "running",
        ("stopped", "handshake"): "running",
        ("running", "last_lease_returned"): "stopped",
        ("idle", "stop"): "stopped",
        ("running", "stop"): "stopped",
        ("completed", "stop"): "stopped",
        ("completed", "start"): "idle",
        ("stopped", "start"): "idle",
        ("failed", "start"): "idle",
        ("idle", "inactivation"): "stopped",
        ("running", "inactivation"): "stopped",
        ("completed", "inactivation"): "stopped",
        ("running", "deletion"): "stopped",
        ("idle", "agent_started"): "running",
        ("completed", "agent_started"): "running",
        ("stopped", "agent_started"): "running",
        ("running", "agent_idle"): "idle",
        ("running", "agent_completed"): "completed",
        ("running", "agent_stopped"): "stopped",
        ("idle", "agent_failed"): "failed",
        ("running", "agent_failed"): "failed",
        ("completed", "agent_failed"): "failed",
        ("stopped", "agent_failed"): "failed",
    }
)
"""A pair that is missing leaves the state as it is. Source: contract resources.md 1.2, 1.4 and 1.5."""

RUNTIME_STARTS: Final[frozenset[RuntimeEvent]] = frozenset(("handshake", "agent_started"))
"""Events that move nothing as long as something hinders the agent."""

MOST_LOOKED_AT: Final = 200
"""Above this a list of tags is refused as a whole, not tag by tag."""

MAX_TAGS: Final = 20
LONGEST_TAG: Final = 50
LONGEST_NAME: Final = 100
LONGEST_DESCRIPTION: Final = 500

ORPHANED: Final = "orphaned"
ORIGINAL_OWNER: Final = "original-owner:"


class Agent(NamedTuple):
    """One agent; a column each, in order.

    `status` is what an admin set; `stop_hold` is an operator's stop that a retrying runtime cannot undo, and
    `stopped_at` when somebody stopped it and nobody has started it since. A deleted agent stays as a row, for its
    books.
    """

    id: str
    name: str
    owner_id: str
    project_id: str
    status: Literal["active", "inactive"]
    runtime_status: RuntimeStatus
    stop_hold: int
    failure_reason: str | None
    created_at: Instant
    updated_at: Instant
    deleted_at: Instant | None
    description: str | None = None
    tags: str = "[]"  # a JSON list of texts
    state_changed_at: Instant | None = None
    stopped_at: Instant | None = None
    pii_detections: int = 0

    @property
    def hindrance(self) -> Literal["stopped", "inactive", "failed"] | None:
        """Why the agent gets no new money and should start no call, or None."""
        if self.status == "inactive":
            return "inactive"
        if self.runtime_status == "failed":
            return "failed"
        return "stopped" if self.stop_hold else None

    def state_after(self, event: RuntimeEvent) -> RuntimeStatus:
        """Return the state of the runtime after an event, which may be the one it has."""
        if event in RUNTIME_STARTS and self.hindrance is not None:
            return self.runtime_status
        return RUNTIME_TRANSITIONS.get((self.runtime_status, event), self.runtime_status)


def is_system_tag(tag: str) -> bool:
    """Tell whether a tag is one that the server sets when an agent loses its owner."""
    return tag == ORPHANED or tag.startswith(ORIGINAL_OWNER)


def tidy_tags(tags: Iterable[str]) -> list[str]:
    """Return tags without blanks around them, each once."""
    return list(dict.fromkeys(tag.strip() for tag in tags))


def tag_problems(tags: Iterable[Any], present: Collection[str] = ()) -> dict[str, str]:
    """Return what is wrong with the tags that somebody gives an agent, by place.

    Args:
        tags: Each 1 to 50 characters without the blanks around it; at most 20 different ones. Tags that the server
            sets do not count.
        present: What the agent is tagged with: a tag that the server has set may be sent back, not made up.

    Source: contract resources.md 1.1.
    """
    problems = {}
    counted = set()
    tags = list(tags)
    if len(tags) > MOST_LOOKED_AT:
        return {"tags": f"may have at most {MAX_TAGS} entries"}
    for place, given in enumerate(tags):
        tag = given.strip() if isinstance(given, str) else given
        problem = text_problem(tag, longest=LONGEST_TAG)
        if isinstance(tag, str) and is_system_tag(tag):
            if tag in present:
                continue
            problem = "is a tag that only the server sets"
        if problem is not None:
            problems[f"tags[{place}]"] = problem
        else:
            counted.add(tag)
    if len(counted) > MAX_TAGS:
        problems["tags"] = f"may have at most {MAX_TAGS} entries"
    return problems
