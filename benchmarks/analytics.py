"""Questions of analytics with a long history against a short one.

The same 90 days, 50 agents and 5 models in both, and many times as many calls in one.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.analytics_data import AGENTS, DAYS, database
from benchmarks.scale import in_rounds
from benchmarks.setup import Effort
from benchmarks.table import Figures, Line, Measured, most, rows_of

SIZES: Final[Mapping[Effort, tuple[int, int]]] = {
    Effort.QUICK: (5_000, 20_000), Effort.NORMAL: (50_000, 500_000), Effort.FULL: (50_000, 5_000_000),
}  # fmt: skip
"""Calls of the short and of the long history."""

_MANY: Final = 1_000_000
_SOURCE: Final = "asked of analytics"
_RATIO: Final = most(1.5, _SOURCE)
_P95_MS: Final = most(50, _SOURCE)
_AGENT: Final = f"agent_{7:032x}"
_OWNER: Final = f"user_{3:032x}"

DAYS_BY_AGENTS: Final = "/analytics/spending/by-period?bucket=day&group_by=agent&period=last-90-days"
QUESTIONS: Final = (
    "/analytics/spending/total",
    "/analytics/spending/by-agent",
    "/analytics/spending/by-provider",
    "/analytics/spending/avg-per-request",
    "/analytics/usage/requests?period=all-time",
    "/analytics/usage/tokens/by-agent",
    "/analytics/usage/models",
    "/analytics/budget/status",
    "/analytics/spending/by-period",
    DAYS_BY_AGENTS,
    "/analytics",
    "/analytics/spending",
    "/analytics/usage",
    "/analytics/usage/by-agent",
    "/analytics/usage/by-provider",
    "/analytics/metrics",
    "/analytics/errors",
    "/analytics/spending/total?period=last-24-hours",
    "/analytics/spending/avg-per-request?period=last-90-days&model=model-3",
    f"/analytics/spending/avg-per-request?user_id={_OWNER}",
    f"/analytics/metrics?agent_id={_AGENT}",
    f"/analytics/usage/models?agent_id={_AGENT}&period=last-30-days",
)


def shown(question: str) -> str:
    """Return a question as a person reads it: with short ids, and without what all have in common."""
    return question.removeprefix("/analytics").replace(_AGENT, "...").replace(_OWNER, "...") or "/analytics"


def slowest(rounds: Sequence[Figures]) -> str:
    """Return the question whose 95th percentile is the longest with the long history."""
    return max(QUESTIONS, key=lambda path: statistics.median(figures[f"large {path} p95"] for figures in rounds))


def lines(rounds: Sequence[Figures], long: int) -> list[Line]:
    """Return what is shown; the slowest question is known once all are measured."""
    worst = slowest(rounds)
    contract = most(500, "contract analytics.md 5")
    return [
        Line(f"{AGENTS} agents by {DAYS} days, p95", f"large {DAYS_BY_AGENTS} p95", "ms", asked=_P95_MS),
        Line(f"slowest: {shown(worst)}, p95", f"large {worst} p95", "ms", asked=_P95_MS),
        *([Line("  with a million calls and more", f"large {worst} p95", "ms", asked=contract)] * (long >= _MANY)),
        *(Line(shown(path), f"large {path} p50", "ms", f"small {path} p50", _RATIO) for path in QUESTIONS),
    ]


def measure(effort: Effort) -> Measured:
    """Measure what each question costs."""
    short, long = SIZES[effort]
    rounds = in_rounds(database, (short, long), {path: path for path in QUESTIONS}, effort)
    return Measured(f"{long:,} calls against {short:,}", rows_of(lines(rounds, long), rounds))
