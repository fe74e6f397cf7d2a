"""Usage: what a runtime reports of a call, and the one record a call has for ever.

A report is a fact and is never refused for lack of money. `(agent_id, call_key)` names the call.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import LeasePolicy
from ironcage_core.domain.money import Micros, format_usd
from ironcage_core.domain.prices import PriceTable, TokenCounts
from ironcage_core.domain.texts import text_problem

MAX_TOKENS: Final = 10**12
MAX_CLOCK_SKEW_MS: Final = 300_000
_PLAUSIBLE_CENT: Final[Micros] = 10_000


@dataclass(frozen=True, slots=True)
class UsageReport:
    """One call as a runtime reports it; `cost` in micro-USD, None asks the server to price it.

    `tokens` None means input + output. Cached and cache-write tokens are parts of the input.
    """

    lease_id: str
    request_id: str
    model: str
    provider: str
    cost: Micros | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    occurred_at: Instant | None = None


class UsageRecord(NamedTuple):
    """The record of one LLM call; a column each, in order. Source: contract analytics.md 1."""

    id: str
    agent_id: str
    owner_id: str
    project_id: str
    call_key: str
    event_id: str | None
    request_id: str | None
    lease_id: str | None
    occurred_at: Instant
    received_at: Instant
    outcome: Literal["completed", "failed"]
    model: str
    provider: str
    provider_id: str | None
    input_tokens: int
    output_tokens: int
    unsplit_tokens: int
    cost_micros: Micros
    cost_source: Literal["event", "report"]
    event_cost_micros: Micros | None
    report_cost_micros: Micros | None
    expected_cost_micros: Micros | None
    overspent_micros: Micros
    duration_ms: int | None
    endpoint: str | None
    response_status: int | None
    error_code: str | None
    error_message: str | None
    report_tokens: int | None = None  # what the report said, also where an event has said it better

    @property
    def total_tokens(self) -> int:
        """All tokens of the call."""
        return self.input_tokens + self.output_tokens + self.unsplit_tokens


class KeptCall(NamedTuple):
    """What stays of a call after its record was purged, so that it is booked once; a column each, in order.

    What stands behind `report_tokens` is known only of calls without a report: one that comes late makes the record
    anew.
    """

    agent_id: str
    call_key: str
    event_id: str | None
    lease_id: str | None
    model: str
    provider: str
    total_tokens: int
    cost_micros: Micros
    report_cost_micros: Micros | None
    overspent_micros: Micros
    request_id: str | None
    outcome: Literal["completed", "failed"]
    occurred_at: Instant
    report_tokens: int | None
    owner_id: str | None = None
    project_id: str | None = None
    provider_id: str | None = None
    input_tokens: int | None = None
    duration_ms: int | None = None
    error_code: str | None = None


class UsageSums(NamedTuple):
    """Sums over usage records: calls by outcome, tokens by kind, micro-USD, and how long the `timed` ones took.

    `failed_cost_micros` is what failed calls cost, a part of `cost_micros`; `last_at` is the latest `occurred_at`; the
    extremes are those of the cost of completed calls. 0 for none.
    """

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unsplit_tokens: int = 0
    cost_micros: Micros = 0
    timed: int = 0
    duration_ms: int = 0
    failed_cost_micros: Micros = 0
    last_at: Instant = 0
    max_cost_micros: Micros = 0
    min_cost_micros: Micros = 0

    @property
    def total_tokens(self) -> int:
        """All tokens, whether their kind is known or not."""
        return self.input_tokens + self.output_tokens + self.unsplit_tokens

    @property
    def calls(self) -> int:
        """All calls, whatever became of them."""
        return self.completed + self.failed


def combined(parts: Collection[UsageSums]) -> UsageSums:
    """Return the sums over all calls of several sums."""
    if not parts:
        return UsageSums()
    if len(parts) == 1:
        return next(iter(parts))
    *added, last_at, highest, _ = zip(*parts, strict=True)
    lowest = min((part.min_cost_micros for part in parts if part.completed), default=0)
    return UsageSums._make([*map(sum, added), max(last_at), max(highest), lowest])


class PricedReport(NamedTuple):
    """A report that passed every rule: its cost, its tokens and what the price table would have said."""

    report: UsageReport
    cost: Micros
    tokens: int
    expected_cost: Micros | None

    @property
    def is_implausible(self) -> bool:
        """Whether the reported cost is off the price table by more than $0.01 and 20 %."""
        if self.expected_cost is None:
            return False
        return abs(self.cost - self.expected_cost) > max(_PLAUSIBLE_CENT, self.expected_cost // 5)


def report_problems(report: UsageReport, *, now: Instant, policy: LeasePolicy) -> dict[str, str]:
    """Return the message of each bad field; empty if there is none.

    Source: contract budget.md 5.2, field table.
    """
    problems: dict[str, str] = {}
    for field, longest in _TEXTS:
        problem = text_problem(getattr(report, field), longest=longest)
        if problem:
            problems[field] = problem
    _check_cost(report, policy, problems)
    _check_tokens(report, problems)
    at = report.occurred_at
    if at is not None and (type(at) is not int or not 0 <= at <= now + MAX_CLOCK_SKEW_MS):
        problems["timestamp"] = "must be a time after 1970 and at most 300 seconds ahead of the server"
    return problems


_TEXTS: Final = (("lease_id", 100), ("request_id", 100), ("model", 100), ("provider", 50))
_COUNTS: Final = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens")


def _check_cost(report: UsageReport, policy: LeasePolicy, problems: dict[str, str]) -> None:
    cost = report.cost
    if cost is None:
        return
    if type(cost) is not int or cost < 0:
        problems["cost_usd"] = "must be 0 or more"
    elif cost > policy.max_report:
        problems["cost_usd"] = (
            f"may be at most {format_usd(policy.max_report)} per report; was an amount in micro-USD sent as USD?"
        )


def _check_tokens(report: UsageReport, problems: dict[str, str]) -> None:
    for field in _COUNTS:
        count = getattr(report, field)
        if count is not None and (type(count) is not int or not 0 <= count <= MAX_TOKENS):
            problems[field] = f"must be an integer from 0 to {MAX_TOKENS}"
    if problems:
        return
    split = _split_total(report)
    tokens = split if report.tokens is None else report.tokens
    if type(tokens) is not int or not 1 <= tokens <= MAX_TOKENS:
        problems["tokens"] = f"must be an integer from 1 to {MAX_TOKENS}, or follow from input and output tokens"
    elif split is not None and tokens != split:
        problems["tokens"] = "must equal input_tokens + output_tokens"
    if (report.cached_input_tokens or 0) + (report.cache_write_tokens or 0) > (report.input_tokens or 0):
        problems["cached_input_tokens"] = "cached and cache-write tokens are parts of input_tokens"


def _split_total(report: UsageReport) -> int | None:
    if report.input_tokens is None or report.output_tokens is None:
        return None
    return report.input_tokens + report.output_tokens


def price_report(report: UsageReport, prices: PriceTable) -> PricedReport | None:
    """Return the report with its cost settled, or None if the cost is missing and nobody knows the price."""
    expected = None
    if report.input_tokens is not None and report.output_tokens is not None:
        counts = TokenCounts(
            input=report.input_tokens,
            output=report.output_tokens,
            cached_input=report.cached_input_tokens or 0,
            cache_write=report.cache_write_tokens or 0,
        )
        expected = prices.cost(report.model, counts)
    cost = expected if report.cost is None else report.cost
    if cost is None:
        return None
    return PricedReport(report, cost, total_tokens(report), expected)


def total_tokens(report: UsageReport) -> int:
    """Return all tokens of a report that passed every rule."""
    return report.tokens if report.tokens is not None else _split_total(report) or 0


def is_same_call(record: UsageRecord | KeptCall, report: UsageReport) -> bool:
    """Tell whether a known request id was reported with the same content.

    A report without a cost agrees with whatever was booked: the price table may have changed since.
    """
    return (
        (report.cost is None or record.report_cost_micros == report.cost)
        and record.report_tokens == total_tokens(report)
        and record.model == report.model
        and record.provider == report.provider
    )
