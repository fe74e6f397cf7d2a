"""Histograms: how many calls were how large, in steps whose width grows with the value.

Below 128 every value is a step of its own; above, each power of two is cut into 64 steps, so that the middle of a step
is at most 1/128 off the values in it. Steps lie in bands of 32: whoever looks for a rank reads bands first, and then
the steps of one. Integers only. Source: contract analytics.md 4.1 (median within 1 %); the layout is that of
HdrHistogram.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

Measure = Literal["cost", "duration"]
"""What is counted: the micro-USD of completed calls, or the milliseconds of all that say how long they took."""

STEPS_PER_BAND: Final = 32
_BITS: Final = 7


def step_of(value: int) -> int:
    """Return the step of a value of 0 or more."""
    shift = max(value.bit_length() - _BITS, 0)
    return (shift << (_BITS - 1)) + (value >> shift)


def middle_of(step: int) -> int:
    """Return the value in the middle of a step."""
    shift = max((step >> (_BITS - 1)) - 1, 0)
    lowest = (step - (shift << (_BITS - 1))) << shift
    return lowest + (1 << shift >> 1)


def value_at(rank: int, bands: Mapping[int, int], steps: Callable[[int], Sequence[int]]) -> int:
    """Return about the value that stands at a rank, counted from 0, among all values in their order.

    Args:
        rank: Below the number of values.
        bands: How many values lie in each band.
        steps: Returns how many lie in each step of a band.

    Raises:
        ValueError: There are not so many values.
    """
    for band, calls in sorted(bands.items()):
        if rank < calls:
            for place, count in enumerate(steps(band)):
                if rank < count:
                    return middle_of(band * STEPS_PER_BAND + place)
                rank -= count
        rank -= calls
    raise ValueError("there is no such rank")
