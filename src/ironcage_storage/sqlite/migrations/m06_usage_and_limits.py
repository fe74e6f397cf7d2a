"""Rollups of usage, what counts against limits, what a purge keeps of a call, and notes on changes of allocations."""

from typing import Final

_SUMS: Final = ("completed", "failed", "input_tokens", "output_tokens", "unsplit_tokens", "cost_micros", "timed",
                "duration_ms", "last_at")  # fmt: skip
_WIDE: Final = ("project_id", "provider", "provider_id", "model")
_FINE: Final = ("owner_id", *_WIDE)
_MS_PER_HOUR: Final = 3_600_000
_MS_PER_DAY: Final = 86_400_000


def _rollup(name: str, key: tuple[str, ...], bucket_ms: int) -> tuple[str, str]:
    """Return what creates a rollup and what fills it from the records; nothing in a cell may be NULL."""
    texts = "".join(f"{column} TEXT NOT NULL, " for column in key if column != "bucket")
    numbers = "".join(f"{column} INTEGER NOT NULL, " for column in ("bucket", *_SUMS))
    create = f"CREATE TABLE {name} ({texts}{numbers}PRIMARY KEY ({', '.join(key)})) STRICT, WITHOUT ROWID"
    chosen = {"bucket": f"occurred_at / {bucket_ms}", "provider_id": "coalesce(provider_id, '')"}
    fill = f"""INSERT INTO {name} ({", ".join((*key, *_SUMS))})
        SELECT {", ".join(chosen.get(column, column) for column in key)},
            sum(outcome = 'completed'), sum(outcome = 'failed'), sum(input_tokens), sum(output_tokens),
            sum(unsplit_tokens), sum(cost_micros), count(duration_ms), coalesce(sum(duration_ms), 0), max(occurred_at)
        FROM usage_records GROUP BY {", ".join(str(place) for place in range(1, len(key) + 1))}"""
    return create, fill


STATEMENTS: Final = (
    # By agent a day is looked for among all days; in an hour all agents lie side by side, where reports come in.
    *_rollup("usage_days", ("agent_id", "bucket", *_FINE), _MS_PER_DAY),
    *_rollup("usage_hours", ("bucket", "agent_id", *_FINE), _MS_PER_HOUR),
    # The same without agents: what an admin asks of the whole must not grow with their number.
    *_rollup("usage_wide_days", ("bucket", *_WIDE), _MS_PER_DAY),
    *_rollup("usage_wide_hours", ("bucket", *_WIDE), _MS_PER_HOUR),
    "CREATE INDEX usage_wide_days_of_key ON usage_wide_days (provider_id, bucket)",
    "CREATE INDEX usage_time ON usage_records (occurred_at)",
    "CREATE INDEX usage_agent_time ON usage_records (agent_id, occurred_at)",
    # What is older than this is gone from the records, or from the rollups by hour.
    """CREATE TABLE usage_horizons (
        what TEXT PRIMARY KEY CHECK (what IN ('records', 'hours')), since INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TRIGGER usage_horizons_advance BEFORE UPDATE ON usage_horizons WHEN NEW.since < OLD.since
        BEGIN SELECT RAISE(ABORT, 'what was forgotten does not come back'); END""",
    # A purged call is still booked once, for ever.
    """CREATE TABLE kept_calls (
        agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE RESTRICT, call_key TEXT NOT NULL,
        event_id TEXT, lease_id TEXT, model TEXT NOT NULL, provider TEXT NOT NULL,
        total_tokens INTEGER NOT NULL CHECK (total_tokens >= 0), cost_micros INTEGER NOT NULL,
        report_cost_micros INTEGER, overspent_micros INTEGER NOT NULL, PRIMARY KEY (agent_id, call_key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX kept_events ON kept_calls (agent_id, event_id) WHERE event_id IS NOT NULL",
    # The project is '' for all of a user's. Windows are UTC days or minutes by receipt, counted from the epoch.
    """CREATE TABLE limit_windows (
        kind TEXT NOT NULL CHECK (kind IN ('tokens', 'requests')), window INTEGER NOT NULL, user_id TEXT NOT NULL,
        project_id TEXT NOT NULL, n INTEGER NOT NULL CHECK (n >= 0), PRIMARY KEY (kind, window, user_id, project_id)
    ) STRICT, WITHOUT ROWID""",
    # No more days than are kept of it.
    *(
        f"""INSERT INTO limit_windows (user_id, project_id, kind, window, n)
            SELECT owner_id, {project}, 'tokens', received_at / {_MS_PER_DAY},
                sum(input_tokens + output_tokens + unsplit_tokens)
            FROM usage_records WHERE cost_source = 'report' AND received_at / {_MS_PER_DAY}
                >= (SELECT max(received_at) FROM usage_records) / {_MS_PER_DAY} - 2 GROUP BY 1, 2, 4"""
        for project in ("''", "project_id")
    ),
    """CREATE TABLE bank_project_months (
        user_id TEXT NOT NULL, project_id TEXT NOT NULL, period TEXT NOT NULL,
        spent INTEGER NOT NULL CHECK (spent >= 0), PRIMARY KEY (user_id, project_id, period)
    ) STRICT, WITHOUT ROWID""",
    """INSERT INTO bank_project_months (user_id, project_id, period, spent)
        SELECT g.bank_user_id, l.project_id, g.period, sum(g.amount) FROM ledger g JOIN leases l ON l.id = g.lease_id
        WHERE g.kind IN ('spend', 'overspend') GROUP BY 1, 2, 3""",
    """CREATE TABLE bank_project_holds (
        user_id TEXT NOT NULL, project_id TEXT NOT NULL, held INTEGER NOT NULL CHECK (held >= 0),
        PRIMARY KEY (user_id, project_id)
    ) STRICT, WITHOUT ROWID""",
    """INSERT INTO bank_project_holds (user_id, project_id, held)
        SELECT bank_user_id, project_id, sum(granted - spent - returned - reclaimed) FROM leases
        WHERE due_at IS NOT NULL GROUP BY 1, 2""",
    "CREATE INDEX usage_limits_project ON usage_limits (project_id) WHERE project_id IS NOT NULL",
    # The ledger says what an allocation was changed by; why, and whether it was forced, stands here.
    """CREATE TABLE allocation_notes (
        entry_id TEXT PRIMARY KEY, reason TEXT, is_forced INTEGER NOT NULL CHECK (is_forced IN (0, 1))
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX ledger_adjustments ON ledger (agent_id, seq) WHERE kind = 'adjust'",
    "ALTER TABLE agents ADD COLUMN pii_detections INTEGER NOT NULL DEFAULT 0 CHECK (pii_detections >= 0)",
)
