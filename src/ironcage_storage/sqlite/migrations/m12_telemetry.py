"""What runtimes say of themselves, once each."""

from typing import Final

STATEMENTS: Final = (
    # Without its data a row is the key alone, by which a repeated event is known.
    """CREATE TABLE telemetry_events (
        agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE RESTRICT, event_id TEXT NOT NULL, type TEXT NOT NULL,
        at INTEGER NOT NULL, received_at INTEGER NOT NULL, is_safety INTEGER NOT NULL CHECK (is_safety IN (0, 1)),
        runtime_id TEXT, runtime_version TEXT, data TEXT, PRIMARY KEY (agent_id, event_id)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX telemetry_data ON telemetry_events (is_safety, at) WHERE data IS NOT NULL",
    "CREATE INDEX telemetry_age ON telemetry_events (at)",
)
"""What each migration executes, oldest first; written once and never edited."""
