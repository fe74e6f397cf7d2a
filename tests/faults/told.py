"""What was told: everything that was sent under a load, and every answer to it that was a success."""

from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal

from ironcage_core.domain.money import MICROS_PER_USD, Micros


class Refusal(tuple[int, str, str, str | None]):
    """What somebody saw: status, code, message and `Retry-After`."""

    __slots__ = ()


@dataclass
class Told:
    """What was sent, and what of it was answered with success; amounts are micro-USD.

    Args:
        costs: Of each report that was sent, by agent and request id.
        reports: Those that were answered.
        grants: What each lease holds that was answered, with its agent.
        returns: What went back of each lease.
        notes: Telemetry, by agent and event id.
        sent_notes: What was sent of it.
        raises: What each change of a budget added, by the id of its entry, with its agent.
        agents: The agents that were made, by id.
        sent_agents: Their names, of all that were asked for.
    """

    costs: dict[tuple[str, str], Micros] = field(default_factory=dict)
    reports: set[tuple[str, str]] = field(default_factory=set)
    grants: dict[str, tuple[str, Micros]] = field(default_factory=dict)
    returns: dict[str, Micros] = field(default_factory=dict)
    notes: set[tuple[str, str]] = field(default_factory=set)
    sent_notes: set[tuple[str, str]] = field(default_factory=set)
    raises: dict[str, tuple[str, Micros]] = field(default_factory=dict)
    agents: set[str] = field(default_factory=set)
    sent_agents: set[str] = field(default_factory=set)

    @property
    def count(self) -> int:
        """How many writes were answered."""
        kinds: tuple[Collection[object], ...] = (
            self.reports, self.grants, self.returns, self.notes, self.raises, self.agents,
        )  # fmt: skip
        return sum(map(len, kinds))

    def copy(self) -> "Told":
        """Return what was told until now; what is sent meanwhile is sent before it is answered."""
        answered = {
            name: getattr(self, name).copy() for name in ("reports", "grants", "returns", "notes", "raises", "agents")
        }
        return Told(**answered, costs=self.costs, sent_notes=self.sent_notes, sent_agents=self.sent_agents)


def micros(usd: Decimal | int) -> Micros:
    """Return USD of an answer as micro-USD."""
    return int(usd * MICROS_PER_USD)
