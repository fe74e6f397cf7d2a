"""Databases of many calls of few agents, written set-wise: 90 days x 50 agents x 5 models, however many calls.

What a call costs, how long it takes and how it fails is spread as in life, so that histograms are as full as they get.
"""

from pathlib import Path
from typing import Final

from benchmarks.scale_data import cached, id_of, many
from ironcage_core.domain.instants import MS_PER_DAY, Instant

AGENTS: Final = 50
DAYS: Final = 90
MODELS: Final = 5
_OWNERS: Final = 10
_OWNER: Final = id_of("user", f"n % {_OWNERS} + 1")
_AGENT: Final = f"n % {AGENTS}"
_PROJECT: Final = id_of("proj", "n % 3 + 1")
_SHARED: Final = {"created_at": ":today + n", "updated_at": ":today + n"}
_ALLOCATED: Final = 10**12

_DAY: Final = f"n / {AGENTS * MODELS} * 7919 % {DAYS}"
_AT: Final = f":today - ({_DAY}) * {MS_PER_DAY} + n * 104729 % {MS_PER_DAY}"
_SPREAD: Final = "(1 + n * 7919 % 1009) * (1 + n * 104729 % 97)"
"""From 1 to 100 000, most of it in the middle."""

_STATEMENTS: Final = (
    many("projects", "3", id=id_of("proj", "n + 1"), name="'project ' || n", **_SHARED),
    many(
        "users", str(_OWNERS), id=id_of("user", "n + 1"), username="'owner ' || n", email="n || '@test.io'",
        role="'user'", status="'active'", **_SHARED,
    ),
    many(
        "provider_keys", "2", id=id_of("prov", "n"), name="'key ' || n", provider="iif(n, 'anthropic', 'openai')",
        ciphertext="'sealed'", masked_key="'***'", is_enabled=1, created_by="'system'", **_SHARED,
    ),
    many(
        "agents", str(AGENTS), id=id_of("agent", "n"), name="'worker ' || n", owner_id=_OWNER, project_id=_PROJECT,
        status="'active'", runtime_status="'idle'", stop_hold=0, **_SHARED,
    ),
    many(
        "agent_budgets", str(AGENTS), agent_id=id_of("agent", "n"), budget_id=id_of("budget", "n"),
        allocated=_ALLOCATED, spent=f"{_ALLOCATED} / 50 * n", overspent=0, held=0, updated_at=":today",
    ),
    many(
        "ledger", str(AGENTS), id=id_of("led", "n"), posted_at=":today", agent_id=id_of("agent", "n"),
        bank_user_id=_OWNER, period=":period", kind="'adjust'", amount=_ALLOCATED, cause="'initial'",
        actor="'system'", allocated_after=_ALLOCATED, spent_after=0, held_after=0,
    ),
    many(
        "usage_records", ":records", id=id_of("trace", "n"), agent_id=id_of("agent", _AGENT),
        owner_id=id_of("user", f"{_AGENT} % {_OWNERS} + 1"), project_id=id_of("proj", f"{_AGENT} % 3 + 1"),
        call_key="n", event_id="n", occurred_at=_AT, received_at=_AT, outcome="iif(n % 23, 'completed', 'failed')",
        model=f"'model-' || (n / {AGENTS} % {MODELS})", provider=f"iif(n / {AGENTS} % 2, 'anthropic', 'openai')",
        provider_id=id_of("prov", f"n / {AGENTS} % 2"), input_tokens="iif(n % 23, 80 + n % 700, 0)",
        output_tokens="iif(n % 23, 20, 0)", unsplit_tokens=0, cost_micros=f"iif(n % 23, {_SPREAD}, 0)",
        cost_source="'event'", event_cost_micros=f"iif(n % 23, {_SPREAD}, 0)", overspent_micros=0,
        duration_ms=f"100 + {_SPREAD}",
        error_code="iif(n % 23, NULL, CASE n % 3 WHEN 0 THEN 'rate_limited' WHEN 1 THEN 'timeout' ELSE '500' END)",
    ),
)  # fmt: skip


def database(folder: Path, records: int, *, now: Instant) -> Path:
    """Return a database of so many calls, made anew unless it is there for this schema and this data."""
    return cached(folder, f"analytics-{records}", _STATEMENTS, now=now, records=records)
