"""Reservations, answers remembered for retries, deaths and settlements of IC tokens, change requests, alert levels."""

from typing import Final

_LARGEST: Final = 2**62

STATEMENTS: Final = (
    # Soft: a reservation moves no money, so no row of the ledger knows it.
    f"""CREATE TABLE reservations (
        agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE RESTRICT, request_id TEXT NOT NULL,
        lease_id TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount BETWEEN 0 AND {_LARGEST}),
        status TEXT NOT NULL CHECK (status IN ('open', 'released', 'committed')),
        created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, PRIMARY KEY (agent_id, request_id)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX reservations_open ON reservations (lease_id) WHERE status = 'open'",
    "CREATE INDEX reservations_expiry ON reservations (expires_at)",
    """CREATE TABLE idempotency_keys (
        scope TEXT NOT NULL, key TEXT NOT NULL, body_hash TEXT NOT NULL, created_at INTEGER NOT NULL,
        result TEXT NOT NULL, PRIMARY KEY (scope, key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at)",
    # When each value of an IC token stopped being good for anything new.
    """CREATE TABLE ic_token_deaths (
        token_id TEXT NOT NULL REFERENCES ic_tokens (id) ON DELETE RESTRICT, gen INTEGER NOT NULL,
        died_at INTEGER NOT NULL, PRIMARY KEY (token_id, gen)
    ) STRICT, WITHOUT ROWID""",
    # A value that is replaced again dies sooner than was said, never later.
    """CREATE TRIGGER ic_token_deaths_come_sooner BEFORE UPDATE ON ic_token_deaths WHEN NEW.died_at > OLD.died_at
        BEGIN SELECT RAISE(ABORT, 'a dead token stays dead'); END""",
    f"""CREATE TABLE settlements (
        lease_id TEXT PRIMARY KEY, allowance INTEGER NOT NULL CHECK (allowance BETWEEN 0 AND {_LARGEST}),
        settled INTEGER NOT NULL CHECK (settled BETWEEN 0 AND allowance)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TRIGGER settlements_only_grow BEFORE UPDATE ON settlements
        WHEN NEW.allowance <> OLD.allowance OR NEW.settled < OLD.settled
        BEGIN SELECT RAISE(ABORT, 'what is settled stays settled'); END""",
    *(
        f"""CREATE TRIGGER {table}_stay BEFORE DELETE ON {table}
            BEGIN SELECT RAISE(ABORT, 'what a dead token may settle is not forgotten'); END"""
        for table in ("settlements", "ic_token_deaths")
    ),
    "CREATE INDEX leases_open_of_bank ON leases (bank_user_id) WHERE due_at IS NOT NULL",
    f"""CREATE TABLE budget_requests (
        id TEXT PRIMARY KEY, agent_id TEXT NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
        requester_id TEXT NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
        current_budget INTEGER NOT NULL CHECK (current_budget BETWEEN 0 AND {_LARGEST}),
        requested_budget INTEGER NOT NULL CHECK (requested_budget BETWEEN 1 AND {_LARGEST}),
        justification TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('pending', 'approved', 'rejected', 'cancelled')),
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, reviewed_at INTEGER, reviewed_by TEXT,
        review_notes TEXT, approved_budget INTEGER CHECK (approved_budget BETWEEN 1 AND {_LARGEST}),
        cancelled_at INTEGER, cancelled_by TEXT,
        CHECK ((status IN ('approved', 'rejected')) = (reviewed_at IS NOT NULL)),
        CHECK ((status = 'cancelled') = (cancelled_at IS NOT NULL)),
        CHECK ((status = 'approved') = (approved_budget IS NOT NULL))
    ) STRICT, WITHOUT ROWID""",
    """CREATE TRIGGER budget_requests_are_decided_once BEFORE UPDATE ON budget_requests WHEN OLD.status <> 'pending'
        BEGIN SELECT RAISE(ABORT, 'a request is decided once'); END""",
    "CREATE INDEX budget_requests_time ON budget_requests (created_at)",
    "CREATE INDEX budget_requests_agent ON budget_requests (agent_id, created_at)",
    "CREATE INDEX budget_requests_requester ON budget_requests (requester_id, created_at)",
    # What an agent had overspent by some day is summed from the index alone.
    "CREATE INDEX ledger_overspends ON ledger (agent_id, posted_at, amount) WHERE kind = 'overspend'",
    # The highest level whose alert is out; it falls when the allocation rises.
    """ALTER TABLE agent_budgets ADD COLUMN alert_level INTEGER NOT NULL DEFAULT 0 CHECK (alert_level >= 0)""",
    """UPDATE agent_budgets SET alert_level = CASE WHEN spent = 0 THEN 0 WHEN spent >= allocated THEN 100
        WHEN spent * 100 >= 90 * allocated THEN 90 WHEN spent * 100 >= 80 * allocated THEN 80
        WHEN spent * 100 >= 50 * allocated THEN 50 ELSE 0 END""",
    """CREATE TABLE bank_alerts (
        user_id TEXT NOT NULL, period TEXT NOT NULL, level INTEGER NOT NULL, PRIMARY KEY (user_id, period)
    ) STRICT, WITHOUT ROWID""",
)
