"""Passwords of users, and the tables of their sessions and refresh tokens."""

from typing import Final

STATEMENTS: Final = (
    "ALTER TABLE users ADD COLUMN name TEXT",
    "ALTER TABLE users ADD COLUMN password_hash TEXT",
    """ALTER TABLE users ADD COLUMN force_password_change INTEGER NOT NULL DEFAULT 0
        CHECK (force_password_change IN (0, 1))""",
    "ALTER TABLE users ADD COLUMN last_login_at INTEGER",
    """CREATE TABLE sessions (
        id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
        gen INTEGER NOT NULL CHECK (gen > 0), refresh_hash TEXT NOT NULL, refresh_expires_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL, created_at INTEGER NOT NULL, last_used_at INTEGER NOT NULL,
        revoked_at INTEGER, revoked_reason TEXT,
        CHECK (refresh_expires_at <= expires_at), CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL))
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX sessions_live ON sessions (user_id, id) WHERE revoked_at IS NULL",
    """CREATE TRIGGER sessions_end_once BEFORE UPDATE ON sessions
        WHEN OLD.revoked_at IS NOT NULL AND (
            NEW.revoked_at IS NOT OLD.revoked_at OR NEW.revoked_reason IS NOT OLD.revoked_reason
            OR NEW.gen <> OLD.gen OR NEW.refresh_hash <> OLD.refresh_hash)
        BEGIN SELECT RAISE(ABORT, 'a session ends once'); END""",
    """CREATE TRIGGER sessions_gen_grows BEFORE UPDATE ON sessions
        WHEN NEW.gen < OLD.gen OR (NEW.gen = OLD.gen) <> (NEW.refresh_hash = OLD.refresh_hash)
        BEGIN SELECT RAISE(ABORT, 'each generation of a session has its own refresh token'); END""",
    """CREATE TABLE refresh_tokens (
        hash TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
        gen INTEGER NOT NULL CHECK (gen > 0), created_at INTEGER NOT NULL, used_at INTEGER,
        UNIQUE (session_id, gen)
    ) STRICT, WITHOUT ROWID""",
)
