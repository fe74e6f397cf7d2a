"""The tables of users, agents, keys, leases, ledger, usage, audit log and feed."""

from typing import Final

_LARGEST: Final = 2**62

STATEMENTS: Final = (
    """CREATE TABLE users (
        id TEXT PRIMARY KEY, username TEXT NOT NULL, email TEXT NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('admin', 'user', 'viewer')),
        status TEXT NOT NULL CHECK (status IN ('active', 'suspended', 'deleted')),
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX users_username ON users (lower(username)) WHERE status <> 'deleted'",
    "CREATE UNIQUE INDEX users_email ON users (lower(email)) WHERE status <> 'deleted'",
    """CREATE TABLE usage_limits (
        id TEXT PRIMARY KEY, user_id TEXT NOT NULL UNIQUE REFERENCES users (id) ON DELETE RESTRICT,
        max_cost_per_month INTEGER CHECK (max_cost_per_month > 0),
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE agents (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, owner_id TEXT NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
        project_id TEXT NOT NULL, status TEXT NOT NULL CHECK (status IN ('active', 'inactive')),
        runtime_status TEXT NOT NULL
            CHECK (runtime_status IN ('idle', 'running', 'completed', 'stopped', 'failed')),
        stop_hold INTEGER NOT NULL CHECK (stop_hold IN (0, 1)), failure_reason TEXT,
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, deleted_at INTEGER
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX agents_owner ON agents (owner_id, id)",
    f"""CREATE TABLE agent_budgets (
        agent_id TEXT PRIMARY KEY REFERENCES agents (id) ON DELETE RESTRICT, budget_id TEXT NOT NULL UNIQUE,
        allocated INTEGER NOT NULL CHECK (allocated BETWEEN 0 AND {_LARGEST}),
        spent INTEGER NOT NULL CHECK (spent BETWEEN 0 AND {_LARGEST}),
        overspent INTEGER NOT NULL CHECK (overspent BETWEEN 0 AND spent),
        held INTEGER NOT NULL CHECK (held BETWEEN 0 AND {_LARGEST}),
        updated_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE provider_keys (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE COLLATE NOCASE, provider TEXT NOT NULL, base_url TEXT,
        ciphertext TEXT NOT NULL, masked_key TEXT NOT NULL, is_enabled INTEGER NOT NULL CHECK (is_enabled IN (0, 1)),
        created_by TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, last_used_at INTEGER
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE agent_providers (
        agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE RESTRICT, position INTEGER NOT NULL,
        provider_key_id TEXT NOT NULL REFERENCES provider_keys (id) ON DELETE RESTRICT,
        PRIMARY KEY (agent_id, position), UNIQUE (agent_id, provider_key_id)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE ic_tokens (
        id TEXT PRIMARY KEY, agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
        status TEXT NOT NULL CHECK (status IN ('active', 'revoked')), gen INTEGER NOT NULL CHECK (gen > 0),
        value_hash TEXT NOT NULL, previous_hash TEXT, previous_until INTEGER, permissions TEXT NOT NULL,
        description TEXT, created_at INTEGER NOT NULL, created_by TEXT NOT NULL, rotated_at INTEGER, rotated_by TEXT,
        last_used_at INTEGER, expires_at INTEGER, revoked_at INTEGER
    ) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX ic_tokens_one_active ON ic_tokens (agent_id) WHERE status = 'active'",
    f"""CREATE TABLE leases (
        id TEXT PRIMARY KEY, agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
        bank_user_id TEXT NOT NULL, project_id TEXT NOT NULL, ic_token_id TEXT NOT NULL, ic_token_gen INTEGER NOT NULL,
        provider_key_id TEXT NOT NULL, provider TEXT NOT NULL, runtime_id TEXT,
        status TEXT NOT NULL CHECK (status IN ('active', 'expired', 'closed', 'revoked')), status_reason TEXT,
        granted INTEGER NOT NULL CHECK (granted BETWEEN 0 AND {_LARGEST}),
        rolled_over INTEGER NOT NULL CHECK (rolled_over BETWEEN 0 AND {_LARGEST}),
        spent INTEGER NOT NULL CHECK (spent >= 0),
        overspent INTEGER NOT NULL CHECK (overspent BETWEEN 0 AND {_LARGEST}),
        returned INTEGER NOT NULL CHECK (returned >= 0), reclaimed INTEGER NOT NULL CHECK (reclaimed >= 0),
        unattributed INTEGER NOT NULL CHECK (unattributed >= 0), reports INTEGER NOT NULL CHECK (reports >= 0),
        discrepancy INTEGER NOT NULL,
        ttl INTEGER NOT NULL, grace INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
        expired_at INTEGER, closed_at INTEGER, last_activity_at INTEGER NOT NULL, due_at INTEGER,
        lives_until INTEGER NOT NULL, successor_id TEXT UNIQUE,
        CHECK (spent + returned + reclaimed <= granted),
        CHECK (status IN ('active', 'expired') OR spent + returned + reclaimed = granted),
        CHECK ((due_at IS NULL) = (status IN ('closed', 'revoked')))
    ) STRICT, WITHOUT ROWID""",
    """CREATE TRIGGER leases_end_once BEFORE UPDATE ON leases
        WHEN OLD.status IN ('closed', 'revoked') AND (
            NEW.status <> OLD.status OR NEW.status_reason IS NOT OLD.status_reason
            OR NEW.closed_at IS NOT OLD.closed_at OR NEW.granted <> OLD.granted OR NEW.spent <> OLD.spent
            OR NEW.returned <> OLD.returned OR NEW.reclaimed <> OLD.reclaimed
            OR NEW.successor_id IS NOT OLD.successor_id)
        BEGIN SELECT RAISE(ABORT, 'a lease ends once'); END""",
    """CREATE TRIGGER leases_spend_grows BEFORE UPDATE ON leases
        WHEN NEW.spent < OLD.spent OR NEW.overspent < OLD.overspent
        BEGIN SELECT RAISE(ABORT, 'spend never falls'); END""",
    """CREATE TRIGGER budgets_spend_grows BEFORE UPDATE ON agent_budgets
        WHEN NEW.spent < OLD.spent OR NEW.overspent < OLD.overspent
        BEGIN SELECT RAISE(ABORT, 'spend never falls'); END""",
    "CREATE INDEX leases_agent ON leases (agent_id, id)",
    "CREATE INDEX leases_agent_due ON leases (agent_id, due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX leases_due ON leases (due_at) WHERE due_at IS NOT NULL",
    """CREATE TABLE lease_counts (
        agent_id TEXT NOT NULL, status TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (agent_id, status)
    ) STRICT, WITHOUT ROWID""",
    f"""CREATE TABLE ledger (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, posted_at INTEGER NOT NULL,
        agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE RESTRICT, lease_id TEXT,
        bank_user_id TEXT NOT NULL, period TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('adjust', 'grant', 'spend', 'overspend', 'return', 'reclaim')),
        amount INTEGER NOT NULL CHECK (amount BETWEEN -{_LARGEST} AND {_LARGEST}),
        cause TEXT NOT NULL, ref TEXT, actor TEXT NOT NULL,
        allocated_after INTEGER NOT NULL, spent_after INTEGER NOT NULL, held_after INTEGER NOT NULL,
        CHECK (amount > 0 OR (kind = 'adjust' AND amount < 0)), CHECK ((kind = 'adjust') = (lease_id IS NULL)),
        CHECK (kind <> 'grant' OR allocated_after >= spent_after + held_after)
    ) STRICT""",
    "CREATE INDEX ledger_agent ON ledger (agent_id)",
    "CREATE INDEX ledger_lease ON ledger (lease_id) WHERE lease_id IS NOT NULL",
    "CREATE INDEX ledger_posted ON ledger (posted_at)",
    """CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TABLE ledger_counts (
        agent_id TEXT NOT NULL, kind TEXT NOT NULL, day INTEGER NOT NULL, n INTEGER NOT NULL,
        PRIMARY KEY (agent_id, kind, day)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE bank_months (
        user_id TEXT NOT NULL, period TEXT NOT NULL, spent INTEGER NOT NULL CHECK (spent >= 0),
        PRIMARY KEY (user_id, period)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE bank_holds (
        user_id TEXT PRIMARY KEY, held INTEGER NOT NULL CHECK (held >= 0)
    ) STRICT, WITHOUT ROWID""",
    f"""CREATE TABLE usage_records (
        id TEXT PRIMARY KEY, agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
        owner_id TEXT NOT NULL, project_id TEXT NOT NULL, call_key TEXT NOT NULL, event_id TEXT, request_id TEXT,
        lease_id TEXT, occurred_at INTEGER NOT NULL, received_at INTEGER NOT NULL,
        outcome TEXT NOT NULL CHECK (outcome IN ('completed', 'failed')), model TEXT NOT NULL, provider TEXT NOT NULL,
        provider_id TEXT, input_tokens INTEGER NOT NULL CHECK (input_tokens >= 0),
        output_tokens INTEGER NOT NULL CHECK (output_tokens >= 0),
        unsplit_tokens INTEGER NOT NULL CHECK (unsplit_tokens >= 0),
        cost_micros INTEGER NOT NULL CHECK (cost_micros BETWEEN 0 AND {_LARGEST}),
        cost_source TEXT NOT NULL CHECK (cost_source IN ('event', 'report')),
        event_cost_micros INTEGER, report_cost_micros INTEGER, expected_cost_micros INTEGER,
        overspent_micros INTEGER NOT NULL CHECK (overspent_micros BETWEEN 0 AND cost_micros),
        duration_ms INTEGER, endpoint TEXT, response_status INTEGER, error_code TEXT, error_message TEXT,
        UNIQUE (agent_id, call_key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX usage_events ON usage_records (agent_id, event_id) WHERE event_id IS NOT NULL",
    """CREATE TABLE audit_log (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, timestamp INTEGER NOT NULL,
        chain TEXT NOT NULL CHECK (chain IN ('permanent', 'year', 'standard')), operation TEXT NOT NULL,
        outcome TEXT NOT NULL CHECK (outcome IN ('success', 'denied', 'failed')), category TEXT NOT NULL,
        resource_type TEXT NOT NULL, resource_id TEXT, actor_type TEXT NOT NULL, actor_id TEXT NOT NULL,
        user_role TEXT, token_id TEXT, ip_address TEXT, user_agent TEXT, request_id TEXT, changes TEXT, reason TEXT,
        metadata TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL, UNIQUE (chain, prev_hash)
    ) STRICT""",
    "CREATE INDEX audit_chain ON audit_log (chain, seq)",
    """CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit_log
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    """CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit_log
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    """CREATE TABLE feed (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, at INTEGER NOT NULL, type TEXT NOT NULL,
        agent_id TEXT, name TEXT, severity TEXT, data TEXT NOT NULL
    ) STRICT""",
)
