"""How long calls take: percentiles in milliseconds, measured with the garbage collector out of the way."""

import gc
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Percentiles(NamedTuple):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float

    def named(self, name: str) -> dict[str, float]:
        """Return them as figures of a name."""
        return {f"{name} {percentile}": value for percentile, value in self._asdict().items()}


def percentiles(seconds: Sequence[float]) -> Percentiles:
    """Return the percentiles of times that were taken in seconds; of a single time it is all three."""
    cuts = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [seconds[0]] * 99
    return Percentiles(*(cuts[place - 1] * 1000 for place in (50, 95, 99)))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector away from the prepared work, which is no part of what is measured."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
