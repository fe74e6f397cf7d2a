"""Projects with their provider keys, more of what agents and provider keys say of themselves, limits by project."""

from typing import Final

_LARGEST: Final = 2**62

STATEMENTS: Final = (
    """CREATE TABLE projects (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT,
        owner_id TEXT REFERENCES users (id) ON DELETE RESTRICT,
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX projects_name ON projects (lower(name))",
    "CREATE INDEX projects_owner ON projects (owner_id) WHERE owner_id IS NOT NULL",
    """INSERT INTO projects (id, name, created_at, updated_at) VALUES
        ('proj_master_001', 'Master', 0, 0), ('proj_orphaned', 'Orphaned', 0, 0)""",
    """CREATE TABLE project_providers (
        project_id TEXT NOT NULL REFERENCES projects (id) ON DELETE RESTRICT, provider TEXT NOT NULL,
        provider_key_id TEXT NOT NULL REFERENCES provider_keys (id) ON DELETE RESTRICT, assigned_at INTEGER NOT NULL,
        PRIMARY KEY (project_id, provider)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX project_providers_key ON project_providers (provider_key_id, project_id)",
    "CREATE INDEX sessions_expiry ON sessions (expires_at)",
    "CREATE INDEX agents_project ON agents (project_id, id)",
    "CREATE INDEX leases_open_on_key ON leases (provider_key_id) WHERE due_at IS NOT NULL",
    "ALTER TABLE agents ADD COLUMN state_changed_at INTEGER",
    "ALTER TABLE agents ADD COLUMN stopped_at INTEGER",
    "ALTER TABLE provider_keys ADD COLUMN description TEXT",
    "ALTER TABLE provider_keys ADD COLUMN models TEXT NOT NULL DEFAULT '[]'",
    # A limit may now be of a user in one project, and cap more than money; the old table knew one limit a user.
    "ALTER TABLE usage_limits RENAME TO usage_limits_before",
    f"""CREATE TABLE usage_limits (
        id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users (id) ON DELETE RESTRICT, project_id TEXT,
        max_tokens_per_day INTEGER CHECK (max_tokens_per_day BETWEEN 1 AND {2**53 - 1}),
        max_requests_per_minute INTEGER CHECK (max_requests_per_minute BETWEEN 1 AND {2**53 - 1}),
        max_cost_per_month INTEGER CHECK (max_cost_per_month BETWEEN 1 AND {_LARGEST}),
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """INSERT INTO usage_limits (id, user_id, max_cost_per_month, created_at, updated_at)
        SELECT id, user_id, max_cost_per_month, created_at, updated_at FROM usage_limits_before""",
    "DROP TABLE usage_limits_before",
    # Two NULLs are distinct in a unique index, so "no project" counts as one value by a word that is no project's id.
    "CREATE UNIQUE INDEX usage_limits_of ON usage_limits (user_id, coalesce(project_id, ''))",
)
