"""Agents: who may hold leases, and the state of their runtime as one table."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.instants import Instant

RuntimeStatus = Literal["idle", "running", "completed", "stopped", "failed"]
RuntimeEvent = Literal["handshake", "last_lease_returned"]

RUNTIME_TRANSITIONS: Final[Mapping[tuple[RuntimeStatus, RuntimeEvent], RuntimeStatus]] = MappingProxyType(
    {
        ("idle", "handshake"): "running",
        ("completed", "handshake"): "running",
        ("stopped", "handshake"): "running",
        ("running", "last_lease_returned"): "stopped",
    }
)
"""A pair that is missing leaves the state as it is. Source: contract resources.md 1.4."""


class Agent(NamedTuple):
    """One agent; a column each, in order.

    `status` is what an admin set; `stop_hold` is an operator's stop that a retrying runtime cannot undo.
    A deleted agent stays as a row, for its books.
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

    @property
    def hindrance(self) -> Literal["stopped", "inactive", "failed"] | None:
        """Why the agent gets no new money and should start no call, or None."""
        if self.status == "inactive":
            return "inactive"
        if self.runtime_status == "failed":
            return "failed"
        return "stopped" if self.stop_hold else None
