"""Risks: levels and thresholds are those of the exact share, however large the numbers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.money import MAX_MICROS
from ironcage_core.domain.risks import is_spent_beyond, risk_of

amounts = st.integers(0, MAX_MICROS) | st.integers(0, 200)


@given(amounts, amounts.filter(bool), st.integers(0, 100))
def test_levels_and_thresholds_are_exact(spent: int, allocated: int, threshold: int) -> None:
    """As fractions say, which know no rounding."""
    percent = Fraction(100 * spent, allocated)
    levels = {"exhausted": 100, "critical": 95, "high": 80, "medium": 50, "low": 0}

    assert risk_of(spent, allocated) == next(name for name, least in levels.items() if percent >= least)
    assert is_spent_beyond(threshold, spent, allocated) == (percent > threshold)


@pytest.mark.parametrize(("spent", "risk"), [(0, "low"), (1, "exhausted")])
def test_of_no_budget_anything_is_all(spent: int, risk: str) -> None:
    """Nothing of nothing is no risk."""
    assert risk_of(spent, 0) == risk
    assert [is_spent_beyond(percent, spent, 0) for percent in (0, 99, 100)] == [spent > 0, spent > 0, False]
