"""The stamp: what time a unit of work has, and fresh ids for its rows."""

from ironcage_core.domain.ids import Prefix
from ironcage_core.domain.instants import Instant
from ironcage_core.ports.system import Clock, Ids


class Stamp:
    """One per session; `now` stands still while a unit of work runs."""

    def __init__(self, clock: Clock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids
        self.now: Instant = clock.now()

    def advance(self) -> None:
        """Read the clock for the next unit of work."""
        self.now = self._clock.now()

    def new_id(self, prefix: Prefix) -> str:
        """Return a fresh, time-ordered id."""
        return self._ids.new(prefix, self.now)
