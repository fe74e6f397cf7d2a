"""Call metrics: how the selected calls went: how many failed and why, how long they took.

Source: contract analytics.md 4.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Final, NamedTuple

from ironcage_core.domain.histograms import value_at
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.ratios import half_up
from ironcage_core.domain.usage import UsageSums
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.usage_selection import Selection, total_of

_FINE: Final = 1_000_000


class FailedCalls(NamedTuple):
    """The calls of one provider that failed in one way."""

    error_code: str
    provider: str
    calls: int
    last_at: Instant


class Latency(NamedTuple):
    """How long the calls took that say so, in milliseconds, 0 for none; the average in millionths of one."""

    average_millionths: int
    p50: int
    p95: int
    p99: int
    samples: int


@dataclass(frozen=True, slots=True)
class CallMetrics:
    """How calls went; private data is what was found in any call of their agents, whenever."""

    total: UsageSums
    latency: Latency
    errors: Sequence[FailedCalls]
    pii_detections: int


def call_metrics(uow: UnitOfWork, chosen: Selection) -> CallMetrics:
    """Return how the selected calls went."""
    which, total = chosen.which, total_of(uow, chosen)
    found = 0 if which is None else uow.agents.pii_detections(which.agent_id, which.owner_id, which.project_id)
    return CallMetrics(total, _latency(uow, chosen, total), failed_calls(uow, chosen), found)


def failed_calls(uow: UnitOfWork, chosen: Selection) -> Sequence[FailedCalls]:
    """Return the selected calls that failed, by how and where, the most first; ties by name."""
    found = {} if chosen.which is None else uow.usage.errors(chosen.which)
    rows = [FailedCalls(*key, sums.calls, sums.last_at) for key, sums in found.items()]
    return sorted(rows, key=lambda row: (-row.calls, row.error_code, row.provider))


def _latency(uow: UnitOfWork, chosen: Selection, total: UsageSums) -> Latency:
    which = chosen.which
    bands = {} if which is None else uow.usage.bands(which, "duration")
    samples = sum(bands.values())
    if which is None or not samples:
        return Latency(0, 0, 0, 0, 0)

    steps = cache(partial(uow.usage.steps, which, "duration"))

    def at(percent: int) -> int:
        rank = -(-percent * samples // 100) - 1  # the nearest one: the least that so many percent do not exceed
        return value_at(rank, bands, steps)

    return Latency(half_up(total.duration_ms * _FINE, total.timed), at(50), at(95), at(99), samples)
