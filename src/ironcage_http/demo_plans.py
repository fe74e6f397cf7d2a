"""The plans of the demo world: who is in it, who works when, and what their calls are like. Nothing is done here.

Source: contract identity.md 10, `ENABLE_DEMO_SEED`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ironcage_core.domain.call_events import COMPLETED, FAILED, CallEvent
from ironcage_core.domain.instants import MS_PER_HOUR, MS_PER_MINUTE, MS_PER_S, Instant, as_datetime, day_start
from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.domain.prices import PriceTable, TokenCounts
from ironcage_core.domain.usage import UsageReport
from ironcage_core.domain.users import Role

DAYS: Final = 28
OPENS_AT: Final = 8 * MS_PER_HOUR
SITTING: Final = 50 * MS_PER_MINUTE
"""Shorter than a lease lives, and than the time between the sittings of two agents."""

PAUSE: Final = 30 * MS_PER_S
"""Shorter than the grace of a lease that is used up."""

NEXT_AGENT: Final = 90 * MS_PER_MINUTE
SATURDAY: Final = 5
ENDPOINT: Final = "/v1/chat/completions"
FAILS: Final = 0.03
FAILURES: Final = (("rate_limit_exceeded", 429), ("timeout", None), ("server_error", 503))
PROVIDER_KEYS: Final = {
    "openai": "sk-made-up-for-the-demo-there-is-no-such-key",
    "anthropic": "sk-ant-made-up-for-the-demo-there-is-no-such-key",
}
ROLES: Final[tuple[Role, ...]] = ("user", "viewer")


@dataclass(frozen=True, slots=True)
class Plan:
    """An agent of the demo world: how much of its budget it has used by today, and until how many days ago it works.

    `models` are pairs of a provider and a model.
    """

    name: str
    description: str
    budget_usd: int
    used_percent: int
    models: Sequence[tuple[str, str]]
    works_until: int = 1
    is_stopped: bool = False
    is_at_work: bool = False


PLANS: Final = (
    Plan("release-notes", "Writes what is new; has not begun yet", 50, 0, [("openai", "gpt-4.1")]),
    Plan(
        "docs-writer", "Keeps the handbook true", 40, 50, [("openai", "gpt-4o"), ("openai", "gpt-4o-mini")],
        is_at_work=True,
    ),
    Plan(
        "code-reviewer", "Reads every change before a person does", 60, 93,
        [("anthropic", "claude-sonnet-4-5"), ("openai", "gpt-4.1")],
    ),
    Plan(
        "ticket-triage", "Sorts what customers write", 25, 100,
        [("openai", "gpt-4o-mini"), ("anthropic", "claude-haiku-4-5"), ("openai", "gpt-4o")],
    ),
    Plan(
        "web-researcher", "Answers questions from the web; stopped, it read too much", 30, 35,
        [("anthropic", "claude-sonnet-4-5"), ("openai", "o4-mini")], works_until=6, is_stopped=True,
    ),
)  # fmt: skip


def beginning(now: Instant) -> Instant:
    """Return when the demo world began."""
    return day_start(now, DAYS) + OPENS_AT - MS_PER_HOUR


def starts(plan: Plan, now: Instant) -> list[Instant]:
    """Return when an agent sits down to work, oldest first: on working days, and never while another agent works."""
    if not plan.used_percent:
        return []
    days = (day_start(now, ago) for ago in range(DAYS, plan.works_until - 1, -1))
    begins = OPENS_AT + PLANS.index(plan) * NEXT_AGENT
    found = [day + begins for day in days if as_datetime(day).weekday() < SATURDAY]
    return [*found, now - SITTING - MS_PER_MINUTE] if plan.is_at_work else found


def goals(plan: Plan, sittings: int, dice: random.Random) -> list[Micros]:
    """Return what an agent is to have spent in all after each sitting: more on one day than on another."""
    shares = [dice.uniform(0.5, 1.5) for _ in range(sittings)]
    whole = plan.budget_usd * MICROS_PER_USD * plan.used_percent // 100
    return [int(whole * sum(shares[: place + 1]) / sum(shares)) for place in range(sittings - 1)] + [whole]


def draw_call(plan: Plan, name: str, start: Instant, prices: PriceTable, dice: random.Random) -> CallEvent:
    """Return a call of an agent in the sitting that begins at `start`; a few fail."""
    kind, model = dice.choices(plan.models, weights=range(len(plan.models), 0, -1))[0]
    taken = TokenCounts(input=dice.randint(6_000, 60_000), output=dice.randint(300, 4_000))
    cost = prices.cost(model, taken)
    if cost is None:
        raise ValueError(f"the price table does not know {model}")
    at = start + dice.randint(MS_PER_MINUTE, SITTING)
    spent_ms = 400 + taken.output * dice.randint(5, 20)
    if dice.random() < FAILS:
        code, status = dice.choice(FAILURES)
        return CallEvent(
            f"evt-{name}", FAILED, model, kind, at, request_id=name, duration_ms=spent_ms, endpoint=ENDPOINT,
            response_status=status, error_code=code, error_message="made up for the demo",
        )  # fmt: skip
    return CallEvent(
        f"evt-{name}", COMPLETED, model, kind, at, taken.input, taken.output, cost, request_id=name,
        duration_ms=spent_ms, endpoint=ENDPOINT, response_status=200,
    )  # fmt: skip


def report_of(call: CallEvent, lease_id: str) -> UsageReport:
    """Return the report of a call that did not fail; the server prices it."""
    return UsageReport(
        lease_id, call.request_id or call.event_id, call.model, call.provider,
        input_tokens=call.input_tokens, output_tokens=call.output_tokens, occurred_at=call.occurred_at,
    )  # fmt: skip
