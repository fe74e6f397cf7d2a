"""Histograms: steps follow the values, their middles are near, and a rank finds about what stands at it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.histograms import STEPS_PER_BAND, middle_of, step_of, value_at

values = st.integers(0, 10**13) | st.integers(0, 600)


@given(values, values)
def test_steps_rise_with_the_values(one: int, other: int) -> None:
    """A larger value is never in a lower step."""
    low, high = sorted((one, other))

    assert 0 <= step_of(low) <= step_of(high)


@given(values)
def test_the_middle_of_a_step_is_within_one_percent(value: int) -> None:
    """Of every value in it, and it lies in that step itself."""
    middle = middle_of(step_of(value))

    assert abs(middle - value) * 128 <= value
    assert step_of(middle) == step_of(value)


@given(values)
def test_no_step_is_left_out(value: int) -> None:
    """The next value lies in the same step or in the one after it."""
    assert step_of(value + 1) - step_of(value) in {0, 1}


@pytest.mark.parametrize("value", range(128))
def test_small_values_are_steps_of_their_own(value: int) -> None:
    """Below 128 nothing is rounded."""
    assert (step_of(value), middle_of(step_of(value))) == (value, value)


@given(st.lists(values, min_size=1, max_size=60), st.data())
def test_a_rank_finds_the_step_of_the_value_at_it(listed: list[int], data: st.DataObject) -> None:
    """Of all values in their order; reading the steps of one band only."""
    rank = data.draw(st.integers(0, len(listed) - 1))
    counted = [step_of(value) for value in listed]
    bands = {step // STEPS_PER_BAND: 0 for step in counted}
    for step in counted:
        bands[step // STEPS_PER_BAND] += 1
    asked: list[int] = []

    def steps(band: int) -> list[int]:
        asked.append(band)
        return [counted.count(band * STEPS_PER_BAND + place) for place in range(STEPS_PER_BAND)]

    found = value_at(rank, bands, steps)

    assert step_of(found) == step_of(sorted(listed)[rank])
    assert len(asked) == 1


def test_a_rank_beyond_all_values_is_refused() -> None:
    """There is no value to name."""
    with pytest.raises(ValueError, match="no such rank"):
        value_at(2, {0: 2}, lambda _: [2] + [0] * 31)
