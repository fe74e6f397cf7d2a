"""Events of calls: by which other names a call is known, and what its report said when an event said it better."""

from typing import Final

_TOKENS: Final = "input_tokens + output_tokens + unsplit_tokens"
_USUAL: Final = " || '-' || ".join(
    f"substr(uuid, {start}, {length})" for start, length in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
)
"""How a UUID is usually written; a call with this key is found without another name."""


def _uuid_in(name: str) -> str:
    """Return the SQL of what is left of a name without a known prefix and dashes."""
    bare = f"""CASE WHEN substr({name}, 1, 4) IN ('evt_', 'req_') THEN substr({name}, 5)
        WHEN substr({name}, 1, 8) = 'request_' THEN substr({name}, 9) ELSE {name} END"""
    return f"lower(replace({bare}, '-', ''))"


STATEMENTS: Final = (
    "ALTER TABLE usage_records ADD COLUMN report_tokens INTEGER CHECK (report_tokens >= 0)",
    f"UPDATE usage_records SET report_tokens = {_TOKENS} WHERE report_cost_micros IS NOT NULL",
    # Until now every call was reported. What follows behind `report_tokens` is known only of calls that were not.
    "ALTER TABLE kept_calls ADD COLUMN request_id TEXT",
    "ALTER TABLE kept_calls ADD COLUMN outcome TEXT NOT NULL DEFAULT 'completed'",
    "ALTER TABLE kept_calls ADD COLUMN occurred_at INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE kept_calls ADD COLUMN report_tokens INTEGER",
    *(
        f"ALTER TABLE kept_calls ADD COLUMN {column}"
        for column in (
            "owner_id TEXT", "project_id TEXT", "provider_id TEXT", "input_tokens INTEGER", "duration_ms INTEGER",
            "error_code TEXT",
        )
    ),
    "UPDATE kept_calls SET request_id = call_key, report_tokens = total_tokens",
    "CREATE INDEX kept_unreported ON kept_calls (occurred_at) WHERE report_cost_micros IS NULL",
    """CREATE TABLE call_aliases (
        agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
        kind TEXT NOT NULL CHECK (kind IN ('event', 'uuid', 'request')), alias TEXT NOT NULL, call_key TEXT NOT NULL,
        PRIMARY KEY (agent_id, kind, alias)
    ) STRICT, WITHOUT ROWID""",
    *(
        f"""INSERT OR IGNORE INTO call_aliases (agent_id, kind, alias, call_key)
            SELECT agent_id, 'uuid', uuid, call_key FROM (
                SELECT agent_id, {_uuid_in("request_id")} AS uuid, call_key FROM {table} WHERE request_id IS NOT NULL)
            WHERE length(uuid) = 32 AND uuid NOT GLOB '*[^0-9a-f]*' AND call_key <> {_USUAL}
            ORDER BY agent_id, uuid, call_key"""
        for table in ("usage_records", "kept_calls")
    ),
)  # fmt: skip
