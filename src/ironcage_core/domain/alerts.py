"""Alerts: which share of a limit is used up, by levels that are told once each.

Integers only: a level T is reached when used x 100 >= T x limit. Source: contract budget.md 9.
"""

from collections.abc import Sequence
from typing import Final, Literal

from ironcage_core.domain.money import Micros

DEFAULT_LEVELS: Final = (50, 80, 90, 100)
"""Percent. Source: contract budget.md 0."""

_WARNING: Final = 80
_CRITICAL: Final = 100

Severity = Literal["info", "warning", "critical"]
Scope = Literal["agent", "user_month"]


def level_of(used: Micros, limit: Micros, levels: Sequence[int]) -> int:
    """Return the highest level that is reached, 0 for none; of a limit of 0 anything used reaches them all."""
    highest = 0
    if used > 0:
        for level in levels:  # a plain loop: every report asks
            if used * 100 < level * limit:
                break
            highest = level
    return highest


def lowered(level: int, used: Micros, limit: Micros) -> int:
    """Return what is left of a level that was told, now that less is used: all levels above it can be told again.

    Which levels there are need not be known: the share itself stands for those it has reached.
    """
    if not limit:
        return level if used else 0
    return min(level, used * 100 // limit)


def crossed(before: int, after: int, levels: Sequence[int]) -> list[int]:
    """Return the levels between two, the lower one excluded."""
    return [level for level in levels if before < level <= after]


def severity_of(level: int) -> Severity:
    """Return how urgent a level is."""
    if level < _WARNING:
        return "info"
    return "warning" if level < _CRITICAL else "critical"
