"""Totals that lists show without counting, moved by triggers but for what every report moves, and indexes for pages."""

from typing import Final

_MONEY: Final = ("allocated", "spent", "held")
_NUMBERS: Final = ("agents", *_MONEY, "ic_tokens")
_NAMES: Final = ", ".join(_NUMBERS)
_MOVED: Final = ", ".join(f"{name} = {name} + excluded.{name}" for name in _NUMBERS)
_INTO: Final = f"INSERT INTO agent_totals (owner_id, project_id, {_NAMES})"
_OR_ADD: Final = f"ON CONFLICT (owner_id, project_id) DO UPDATE SET {_MOVED}"
_OF_LIVE: Final = "FROM agents WHERE id = NEW.agent_id AND deleted_at IS NULL"
_AGENT_MOVED: Final = """AFTER UPDATE OF owner_id, project_id, deleted_at ON agents
    WHEN (NEW.owner_id, NEW.project_id, NEW.deleted_at) IS NOT (OLD.owner_id, OLD.project_id, OLD.deleted_at)"""
_COLUMNS: Final = ", ".join(f"{name} INTEGER NOT NULL CHECK ({name} >= 0)" for name in _NUMBERS)

_TOTALS: Final = (
    f"""CREATE TABLE agent_totals (
        owner_id TEXT NOT NULL, project_id TEXT NOT NULL, {_COLUMNS}, PRIMARY KEY (owner_id, project_id)
    ) STRICT, WITHOUT ROWID""",
    # The same without owners: what an admin asks of the whole must not grow with their number.
    f"""CREATE TABLE project_totals (
        project_id TEXT PRIMARY KEY, owners INTEGER NOT NULL CHECK (owners >= 0), {_COLUMNS}
    ) STRICT, WITHOUT ROWID""",
    f"""CREATE TRIGGER agent_totals_new AFTER INSERT ON agent_totals BEGIN
        INSERT INTO project_totals (project_id, owners, {_NAMES})
            VALUES (NEW.project_id, NEW.agents > 0, {", ".join(f"NEW.{name}" for name in _NUMBERS)})
            ON CONFLICT (project_id) DO UPDATE SET owners = owners + excluded.owners, {_MOVED};
        END""",
    f"""CREATE TRIGGER agent_totals_moved AFTER UPDATE ON agent_totals BEGIN
        UPDATE project_totals SET owners = owners + (NEW.agents > 0) - (OLD.agents > 0),
            {", ".join(f"{name} = {name} + NEW.{name} - OLD.{name}" for name in _NUMBERS)}
            WHERE project_id = NEW.project_id;
        END""",
    # An agent counts with its budget, as the lists show it. This is what the totals are, counted anew.
    """CREATE VIEW counted_agent_totals AS
        SELECT a.owner_id, a.project_id, count(b.agent_id) AS agents, coalesce(sum(b.allocated), 0) AS allocated,
            coalesce(sum(b.spent), 0) AS spent, coalesce(sum(b.held), 0) AS held,
            sum((SELECT count(*) FROM ic_tokens t WHERE t.agent_id = a.id)) AS ic_tokens
        FROM agents a LEFT JOIN agent_budgets b ON b.agent_id = a.id WHERE a.deleted_at IS NULL
        GROUP BY a.owner_id, a.project_id""",
    f"{_INTO} SELECT owner_id, project_id, {_NAMES} FROM counted_agent_totals",
    f"""CREATE TRIGGER agent_budgets_new AFTER INSERT ON agent_budgets BEGIN
        {_INTO} SELECT owner_id, project_id, 1, NEW.allocated, NEW.spent, NEW.held, 0 {_OF_LIVE} {_OR_ADD};
        END""",
    # What is spent and held changes with every report: whoever writes budgets moves it, once for all of a batch.
    f"""CREATE TRIGGER agent_budgets_moved AFTER UPDATE OF allocated ON agent_budgets
        WHEN NEW.allocated <> OLD.allocated BEGIN
        UPDATE agent_totals SET allocated = allocated + NEW.allocated - OLD.allocated
            WHERE (owner_id, project_id) = (SELECT owner_id, project_id {_OF_LIVE});
        END""",
    f"""CREATE TRIGGER ic_tokens_new AFTER INSERT ON ic_tokens BEGIN
        {_INTO} SELECT owner_id, project_id, 0, 0, 0, 0, 1 {_OF_LIVE} {_OR_ADD};
        END""",
    # An upsert would check a row of negative numbers before it adds them, so what leaves goes by UPDATE.
    f"""CREATE TRIGGER agents_leave {_AGENT_MOVED} AND OLD.deleted_at IS NULL BEGIN
        UPDATE agent_totals SET ({_NAMES}) = (
            SELECT agent_totals.agents - count(*),
                {", ".join(f"agent_totals.{name} - coalesce(sum(b.{name}), 0)" for name in _MONEY)},
                agent_totals.ic_tokens - (SELECT count(*) FROM ic_tokens WHERE agent_id = OLD.id)
            FROM agent_budgets b WHERE b.agent_id = OLD.id)
            WHERE owner_id = OLD.owner_id AND project_id = OLD.project_id;
        END""",
    f"""CREATE TRIGGER agents_join {_AGENT_MOVED} AND NEW.deleted_at IS NULL BEGIN
        {_INTO} SELECT NEW.owner_id, NEW.project_id, count(*),
            {", ".join(f"coalesce(sum({name}), 0)" for name in _MONEY)},
            (SELECT count(*) FROM ic_tokens WHERE agent_id = NEW.id)
            FROM agent_budgets WHERE agent_id = NEW.id {_OR_ADD};
        END""",
)

_KEY_COUNTS: Final = (
    """CREATE TABLE provider_key_counts (
        provider_key_id TEXT PRIMARY KEY, agents INTEGER NOT NULL CHECK (agents > 0)
    ) STRICT, WITHOUT ROWID""",
    """INSERT INTO provider_key_counts (provider_key_id, agents)
        SELECT provider_key_id, count(*) FROM agent_providers GROUP BY provider_key_id""",
    """CREATE TRIGGER agent_providers_new AFTER INSERT ON agent_providers BEGIN
        INSERT INTO provider_key_counts (provider_key_id, agents) VALUES (NEW.provider_key_id, 1)
            ON CONFLICT (provider_key_id) DO UPDATE SET agents = agents + 1;
        END""",
    """CREATE TRIGGER agent_providers_gone AFTER DELETE ON agent_providers BEGIN
        DELETE FROM provider_key_counts WHERE provider_key_id = OLD.provider_key_id AND agents = 1;
        UPDATE provider_key_counts SET agents = agents - 1
            WHERE provider_key_id = OLD.provider_key_id AND agents > 1;
        END""",
)

_SUMS_OF_COUNTS: Final = (
    """CREATE TABLE ledger_totals (
        kind TEXT NOT NULL, day INTEGER NOT NULL, n INTEGER NOT NULL CHECK (n >= 0), PRIMARY KEY (kind, day)
    ) STRICT, WITHOUT ROWID""",
    "INSERT INTO ledger_totals (kind, day, n) SELECT kind, day, sum(n) FROM ledger_counts GROUP BY kind, day",
    """CREATE TABLE lease_totals (
        status TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n >= 0)
    ) STRICT, WITHOUT ROWID""",
    "INSERT INTO lease_totals (status, n) SELECT status, sum(n) FROM lease_counts GROUP BY status",
)

_INDEXES: Final = (
    "CREATE INDEX agents_live ON agents (created_at, id) WHERE deleted_at IS NULL",
    # With the deletion in the middle one index serves the live ones in their order, and all there ever were.
    "DROP INDEX agents_project",
    "CREATE INDEX agents_project ON agents (project_id, deleted_at, created_at, id)",
    # Behind the one of projects: where both would do, SQLite takes the later one, and owners have fewer agents.
    "DROP INDEX agents_owner",
    "CREATE INDEX agents_owner ON agents (owner_id, deleted_at, created_at, id)",
    "CREATE INDEX users_undeleted ON users (created_at, id, status) WHERE status <> 'deleted'",
    "CREATE INDEX usage_limits_created ON usage_limits (created_at, id)",
    "CREATE INDEX ic_tokens_created ON ic_tokens (created_at, id)",
    "CREATE INDEX api_tokens_created ON api_tokens (created_at, id)",
)

STATEMENTS: Final = (
    "CREATE INDEX ic_tokens_agent ON ic_tokens (agent_id)",  # first: the totals are counted along it
    *_TOTALS,
    *_KEY_COUNTS,
    *_SUMS_OF_COUNTS,
    *_INDEXES,
)
