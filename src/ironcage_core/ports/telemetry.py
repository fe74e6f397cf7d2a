"""The collection of what runtimes say of themselves.

`find_x` gives None where there is nothing.
"""

from collections.abc import Sequence
from typing import Protocol

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.telemetry import KeptTelemetry


class Telemetry(Protocol):
    """Every event of a runtime, once; those about calls stand among the usage records."""

    def expect(self, agent_id: str, event_ids: Sequence[str]) -> None:
        """Be told that these events will be looked for, so that they can be fetched together."""
        ...

    def find(self, agent_id: str, event_id: str) -> KeptTelemetry | None:
        """Return what is kept of an event."""
        ...

    def put(self, event: KeptTelemetry) -> None:
        """Store the event, which is new."""
        ...

    def purge_data(self, before: Instant, limit: int, *, is_safety: bool) -> int:
        """Remove what at most `limit` events of either kind from before an instant said; return how many it were."""
        ...

    def purge(self, before: Instant, limit: int) -> int:
        """Remove at most `limit` events from before an instant, as if they had never been; return how many it were."""
        ...
