"""Risks: how near a budget is to its end, judged by the exact share that is spent, never by a rounded one.

Source: contract analytics.md 4.2.
"""

from typing import Final, Literal

from ironcage_core.domain.money import Micros

RiskLevel = Literal["low", "medium", "high", "critical", "exhausted"]

_LEVELS: Final[tuple[tuple[int, RiskLevel], ...]] = ((100, "exhausted"), (95, "critical"), (80, "high"), (50, "medium"))


def risk_of(spent: Micros, allocated: Micros) -> RiskLevel:
    """Return how near a budget is to its end."""
    part, whole = _share(spent, allocated)
    return next((level for percent, level in _LEVELS if 100 * part >= percent * whole), "low")


def is_spent_beyond(percent: int, spent: Micros, allocated: Micros) -> bool:
    """Tell whether more than so much of a budget is spent."""
    part, whole = _share(spent, allocated)
    return 100 * part > percent * whole


def _share(spent: Micros, allocated: Micros) -> tuple[int, int]:
    """Return what is spent as a part of a whole; of nothing, anything is all of it."""
    return (spent, allocated) if allocated else (int(spent > 0), 1)
