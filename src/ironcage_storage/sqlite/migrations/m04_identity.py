"""Life of users, failed logins, API tokens with their use, tags of agents, and counts and anchors of the audit log."""

from typing import Final

_LARGEST: Final = 2**62

STATEMENTS: Final = (
    "ALTER TABLE users ADD COLUMN suspended_at INTEGER",
    "ALTER TABLE users ADD COLUMN suspended_by TEXT",
    "ALTER TABLE users ADD COLUMN deleted_at INTEGER",
    "ALTER TABLE users ADD COLUMN deleted_by TEXT",
    "ALTER TABLE users ADD COLUMN failed_logins INTEGER NOT NULL DEFAULT 0 CHECK (failed_logins >= 0)",
    "ALTER TABLE users ADD COLUMN locked_until INTEGER",
    """CREATE TRIGGER users_are_deleted_once BEFORE UPDATE ON users
        WHEN OLD.status = 'deleted' AND NEW.status <> 'deleted'
        BEGIN SELECT RAISE(ABORT, 'a user is deleted once'); END""",
    """CREATE TABLE unknown_logins (
        identifier_hash TEXT PRIMARY KEY, failed_logins INTEGER NOT NULL CHECK (failed_logins >= 0),
        locked_until INTEGER, last_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX unknown_logins_last ON unknown_logins (last_at)",
    "ALTER TABLE agents ADD COLUMN description TEXT",
    "ALTER TABLE agents ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'",
    """CREATE TABLE api_tokens (
        id TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, lineage TEXT NOT NULL,
        user_id TEXT NOT NULL REFERENCES users (id) ON DELETE RESTRICT, name TEXT NOT NULL, description TEXT,
        project_id TEXT, agent_id TEXT REFERENCES agents (id) ON DELETE RESTRICT, provider TEXT, scopes TEXT NOT NULL,
        is_active INTEGER NOT NULL CHECK (is_active IN (0, 1)), hint TEXT NOT NULL, expires_at INTEGER,
        rate_limit_rps INTEGER CHECK (rate_limit_rps > 0), daily_request_limit INTEGER CHECK (daily_request_limit > 0),
        daily_token_limit INTEGER CHECK (daily_token_limit > 0),
        daily_limit_micros INTEGER CHECK (daily_limit_micros > 0), cost_cap_micros INTEGER CHECK (cost_cap_micros > 0),
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, last_used_at INTEGER, revoked_at INTEGER,
        revoked_by TEXT, revoked_reason TEXT, rotated_at INTEGER, rotated_from TEXT, replaced_by TEXT UNIQUE,
        CHECK (revoked_at IS NULL OR rotated_at IS NULL), CHECK ((revoked_at IS NULL) = (revoked_by IS NULL)),
        CHECK ((rotated_at IS NULL) = (replaced_by IS NULL))
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX api_tokens_user ON api_tokens (user_id, id)",
    "CREATE INDEX api_tokens_agent ON api_tokens (agent_id, id) WHERE agent_id IS NOT NULL",
    "CREATE INDEX api_tokens_project ON api_tokens (project_id, id) WHERE project_id IS NOT NULL",
    """CREATE TRIGGER api_tokens_end_once BEFORE UPDATE ON api_tokens
        WHEN (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS NOT OLD.revoked_at)
            OR (OLD.rotated_at IS NOT NULL
                AND (NEW.rotated_at IS NOT OLD.rotated_at OR NEW.replaced_by IS NOT OLD.replaced_by))
        BEGIN SELECT RAISE(ABORT, 'an API token ends once'); END""",
    f"""CREATE TABLE token_usage (
        lineage TEXT NOT NULL, day INTEGER NOT NULL,
        requests INTEGER NOT NULL CHECK (requests BETWEEN 0 AND {_LARGEST}),
        tokens INTEGER NOT NULL CHECK (tokens BETWEEN 0 AND {_LARGEST}),
        cost_micros INTEGER NOT NULL CHECK (cost_micros BETWEEN 0 AND {_LARGEST}), PRIMARY KEY (lineage, day)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE token_minutes (
        lineage TEXT NOT NULL, minute INTEGER NOT NULL, requests INTEGER NOT NULL CHECK (requests > 0),
        PRIMARY KEY (lineage, minute)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX token_minutes_minute ON token_minutes (minute)",
    # An index ends with seq by itself, so that each serves the order by time and seq.
    "CREATE INDEX audit_time ON audit_log (timestamp)",
    "CREATE INDEX audit_actor ON audit_log (actor_id, timestamp)",
    "CREATE INDEX audit_operation ON audit_log (operation, timestamp)",
    "CREATE INDEX audit_resource ON audit_log (resource_id, timestamp) WHERE resource_id IS NOT NULL",
    "CREATE TABLE audit_counts (chain TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n >= 0)) STRICT, WITHOUT ROWID",
    "INSERT INTO audit_counts (chain, n) SELECT chain, count(*) FROM audit_log GROUP BY chain",
    """CREATE TABLE audit_anchors (
        chain TEXT PRIMARY KEY CHECK (chain IN ('year', 'standard')), seq INTEGER NOT NULL, hash TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "DROP TRIGGER audit_no_delete",
    # Only what the retention job has anchored may go: it notes the last row of a chain's head before it removes it.
    """CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit_log
        WHEN OLD.seq > coalesce((SELECT seq FROM audit_anchors WHERE chain = OLD.chain), 0)
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    """CREATE TRIGGER audit_anchors_advance BEFORE UPDATE ON audit_anchors WHEN NEW.seq <= OLD.seq
        BEGIN SELECT RAISE(ABORT, 'an anchor of the audit log only moves on'); END""",
)
