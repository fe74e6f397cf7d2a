"""Ratios: averages and percentages of whole numbers, rounded half up in this one place.

Source: contract analytics.md (money, averages, percentages), 8.
"""

from decimal import Decimal

from ironcage_core.domain.money import Micros


def half_up(part: int, whole: int) -> int:
    """Return part / whole as a whole number, halves up; 0 for a whole of 0. Neither is below 0."""
    return (2 * part + whole) // (2 * whole) if whole else 0


def per_call(micros: Micros, calls: int) -> Micros:
    """Return what a call cost on average in whole micro-USD, halves up; 0 for no call."""
    return half_up(micros, calls)


def tokens_per_call(tokens: int, calls: int) -> int:
    """Return how many tokens a call had on average, rounded down; 0 for no call."""
    return tokens // calls if calls else 0


def percent(part: int, whole: int) -> Decimal:
    """Return a part of a whole in percent with two decimals, halves up; 0 for a whole of 0. Neither is below 0."""
    return Decimal(half_up(part * 10_000, whole)).scaleb(-2)


def percent_of(part: Micros, whole: Micros) -> Decimal:
    """Return a part of a budget in percent with two decimals, half away from zero; of nothing, 100 is anything but 0.

    Source: contract budget.md 1.2 (E11), 6.
    """
    if whole == 0:
        return Decimal(100 if part else 0)
    share = percent(abs(part), whole)
    return share if part >= 0 else -share
