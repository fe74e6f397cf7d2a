"""The ports to the machine: what time it is, and ids nobody else has."""

from typing import Protocol

from ironcage_core.domain.ids import Prefix
from ironcage_core.domain.instants import Instant


class Clock(Protocol):
    """The server's clock, the only one that decides."""

    def now(self) -> Instant:
        """Return the current time in milliseconds since the epoch."""
        ...


class Ids(Protocol):
    """A source of unique, time-ordered ids."""

    def new(self, prefix: Prefix, now: Instant) -> str:
        """Return `<prefix>_<32 hex digits>`, larger than every id made before it."""
        ...
