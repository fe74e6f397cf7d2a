"""Databases of many agents and records, written set-wise: as true to the books as if each call had been made.

Every owner has 100 agents, every agent 10 records on as many of the last 90 days, of 5 models at 2 providers; every
tenth agent had a lease. What is summed in the database is filled by the statements that the migrations fill it with.
"""

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

from ironcage_core.domain.instants import MS_PER_DAY, Instant, day_of, period_of
from ironcage_core.services.accounts import first_admin
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sqlite.connection import connect
from ironcage_storage.sqlite.migrations import m06_usage_and_limits, m07_list_counts
from ironcage_storage.sqlite.rollup_checks import rollup_tables
from ironcage_storage.sqlite.store import SqliteStore

PASSWORD: Final = "a password for the bench"  # noqa: S105 - of a database that nobody else opens
RECORDS_PER_AGENT: Final = 10
_AGENTS_PER_OWNER: Final = 100
_PROJECTS: Final = 20
_DAYS: Final = 90

_NUMBERED: Final = "WITH RECURSIVE numbered (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbered WHERE n + 1 < {})"


def id_of(prefix: str, number: str) -> str:
    """Return the expression of an id that is made of a number."""
    return f"printf('{prefix}_%032x', {number})"


def many(table: str, count: str, **columns: object) -> str:
    """Return what inserts `count` rows; each column is an expression over the row's number `n`."""
    chosen = ", ".join(str(expression) for expression in columns.values())
    names, numbered = ", ".join(columns), _NUMBERED.format(count)
    return f"INSERT INTO {table} ({names}) {numbered} SELECT {chosen} FROM numbered"  # noqa: S608 - all of it is ours


_OWNER: Final = id_of("user", f"n / {_AGENTS_PER_OWNER} + 1")
_PROJECT: Final = id_of("proj", f"n % {_PROJECTS} + 1")
_OF_AGENT: Final = f"n / {RECORDS_PER_AGENT}"
_PLACE: Final = f"n % {RECORDS_PER_AGENT}"
_AT: Final = f":today - (n * 7919 % {_DAYS}) * {MS_PER_DAY} + n * 104729 % {MS_PER_DAY}"
_SHARED: Final = {"created_at": ":today + n", "updated_at": ":today + n"}
_ALLOCATED: Final = 100_000_000
_GRANTED: Final = 10_000_000
_SPENT: Final = 4_000_000
_LENT: Final = {"agent_id": id_of("agent", "n * 10"), "bank_user_id": _OWNER.replace("n /", "n * 10 /")}


def _entries(kind: str, amount: int, *after: int, count: str = ":agents / 10", **columns: object) -> str:
    names = ("allocated_after", "spent_after", "held_after")
    return many(
        "ledger", count, id=id_of("led", "n"), posted_at=":today", period=":period", kind=f"'{kind}'", amount=amount,
        actor="'system'", **dict(zip(names, after, strict=True)), **columns,
    )  # fmt: skip


_PEOPLE: Final = (
    many("projects", str(_PROJECTS), id=id_of("proj", "n + 1"), name="'project ' || n", **_SHARED),
    many(
        "users", f":agents / {_AGENTS_PER_OWNER}", id=id_of("user", "n + 1"), username="'owner ' || n",
        email="n || '@test.io'", role="'user'", status="'active'", **_SHARED,
    ),
    many(
        "usage_limits", f":agents / {_AGENTS_PER_OWNER}", id=id_of("lim", "n"), user_id=id_of("user", "n + 1"),
        max_cost_per_month=10**12, **_SHARED,
    ),
    many(
        "api_tokens", f":agents / {_AGENTS_PER_OWNER}", id=id_of("tok", "n"), hash="'hash ' || n",
        lineage=id_of("tok", "n"), user_id=id_of("user", "n + 1"), name="'ci ' || n", scopes="'*'", is_active=1,
        hint="'abcd'", **_SHARED,
    ),
    many(
        "provider_keys", "2", id=id_of("prov", "n"), name="'key ' || n", provider="iif(n, 'anthropic', 'openai')",
        ciphertext="'sealed'", masked_key="'***'", is_enabled=1, created_by="'system'", **_SHARED,
    ),
    many(
        "agents", ":agents", id=id_of("agent", "n"), name="'worker ' || n", owner_id=_OWNER, project_id=_PROJECT,
        status="'active'", runtime_status="'idle'", stop_hold=0, **_SHARED,
    ),
    *(
        many(
            "agent_providers", ":agents", agent_id=id_of("agent", "n"), position=place,
            provider_key_id=id_of("prov", f"(n + {place}) % 2"),
        )
        for place in (0, 1)
    ),
    many(
        "ic_tokens", ":agents", id=id_of("ict", "n"), agent_id=id_of("agent", "n"), status="'active'", gen=1,
        value_hash="'hash ' || n", permissions="'llm:call'", created_at=":today + n", created_by="'system'",
    ),
    _entries(
        "adjust", _ALLOCATED, _ALLOCATED, 0, 0, count=":agents", agent_id=id_of("agent", "n"), bank_user_id=_OWNER,
        cause="'initial'",
    ),
)  # fmt: skip
_PAST: Final = (
    many(
        "agent_budgets", ":agents", agent_id=id_of("agent", "n"), budget_id=id_of("budget", "n"), allocated=_ALLOCATED,
        spent=f"iif(n % 10, 0, {_SPENT})", overspent=0, held=0, updated_at=":today",
    ),
    many(
        "leases", ":agents / 10", id=id_of("lease", "n"), **_LENT, project_id=_PROJECT.replace("n %", "n * 10 %"),
        ic_token_id=id_of("ict", "n * 10"), ic_token_gen=1, provider_key_id=id_of("prov", "0"), provider="'openai'",
        status="'closed'", granted=_GRANTED, rolled_over=0, spent=_SPENT, overspent=0, returned=_GRANTED - _SPENT,
        reclaimed=0, unattributed=_SPENT, reports=0, discrepancy=-_SPENT, ttl=3_600_000, grace=60_000,
        created_at=":today", expires_at=":today + 3600000", closed_at=":today", last_activity_at=":today",
        lives_until=f":today + {MS_PER_DAY}",
    ),
    *(
        _entries(kind, amount, _ALLOCATED, spent, held, **_LENT, lease_id=id_of("lease", "n"), cause=f"'{cause}'")
        for kind, amount, spent, held, cause in (
            ("grant", _GRANTED, 0, _GRANTED, "handshake"),
            ("spend", _SPENT, _SPENT, _GRANTED - _SPENT, "reconcile"),
            ("return", _GRANTED - _SPENT, _SPENT, 0, "return"),
        )
    ),
    many(
        "usage_records", f":agents * {RECORDS_PER_AGENT}", id=id_of("trace", "n"), agent_id=id_of("agent", _OF_AGENT),
        owner_id=_OWNER.replace("n /", f"{_OF_AGENT} /"), project_id=_PROJECT.replace("n %", f"{_OF_AGENT} %"),
        call_key=_PLACE, event_id=_PLACE, occurred_at=_AT, received_at=_AT,
        outcome="iif(n % 20, 'completed', 'failed')", model="'model-' || n % 5",
        provider="iif(n % 2, 'anthropic', 'openai')", provider_id=id_of("prov", "n % 2"), input_tokens="80 + n % 7",
        output_tokens=20, unsplit_tokens=0, cost_micros=320, cost_source="'event'", event_cost_micros=320,
        overspent_micros=0, duration_ms="100 + n % 900",
    ),
)  # fmt: skip
_SUMS: Final = (
    """INSERT INTO ledger_counts (agent_id, kind, day, n)
        SELECT agent_id, kind, :today / 86400000, count(*) FROM ledger GROUP BY 1, 2""",
    "INSERT INTO lease_counts (agent_id, status, n) SELECT agent_id, status, count(*) FROM leases GROUP BY 1, 2",
    """INSERT INTO bank_months (user_id, period, spent)
        SELECT bank_user_id, period, sum(amount) FROM ledger WHERE kind IN ('spend', 'overspend') GROUP BY 1, 2""",
    *(
        statement
        for statement in (*m06_usage_and_limits.STATEMENTS, *m07_list_counts.STATEMENTS)
        if statement.startswith(
            tuple(f"INSERT INTO {table}" for table in ("bank_project", "ledger_totals", "lease_totals"))
        )
    ),
)
_OPEN: Final = (
    many(
        "agent_budgets", ":agents", agent_id=id_of("agent", "n"), budget_id=id_of("budget", "n"), allocated=_ALLOCATED,
        spent=0, overspent=0, held=_GRANTED, updated_at=":today",
    ),
    many(
        "leases", ":agents", id=id_of("lease", "n"), agent_id=id_of("agent", "n"), bank_user_id=_OWNER,
        project_id=_PROJECT, ic_token_id=id_of("ict", "n"), ic_token_gen=1, provider_key_id=id_of("prov", "0"),
        provider="'openai'", status="'active'", granted=_GRANTED, rolled_over=0, spent=0, overspent=0, returned=0,
        reclaimed=0, unattributed=0, reports=0, discrepancy=0, ttl=3_600_000, grace=0, created_at=":today",
        expires_at=":ends_at", due_at=":ends_at", last_activity_at=":today", lives_until=":ends_at",
    ),
    _entries(
        "grant", _GRANTED, _ALLOCATED, 0, _GRANTED, count=":agents", agent_id=id_of("agent", "n"), bank_user_id=_OWNER,
        lease_id=id_of("lease", "n"), cause="'handshake'",
    ),
    "INSERT INTO bank_holds (user_id, held) SELECT bank_user_id, sum(granted) FROM leases GROUP BY 1",
)  # fmt: skip


def database(folder: Path, agents: int, *, now: Instant) -> Path:
    """Return a database of so many agents, made anew unless it is there for this schema and this data.

    Args:
        folder: Where such databases are kept.
        agents: How many; a multiple of 100.
        now: In the day of the latest records, if it is made.
    """
    return cached(folder, f"scale-{agents}", (*_PEOPLE, *_PAST, *_SUMS), now=now, agents=agents)


def cached(folder: Path, name: str, statements: Sequence[str], *, now: Instant, **given: int) -> Path:
    """Return a database by these statements, made anew unless it is there for this schema."""
    with SqliteStore(":memory:") as store, store._writer.turn():  # noqa: SLF001 - the schema is what is asked for
        schema = store._connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()  # noqa: SLF001
    version = sha256(repr((schema, statements)).encode()).hexdigest()[:12]
    path = folder / f"{name}-{version}.db"
    if not path.exists():
        unfinished = path.with_suffix(".part")
        unfinished.unlink(missing_ok=True)
        fill(unfinished, statements, now=now, **given)
        unfinished.rename(path)
    return path


def open_leases(path: Path, count: int, *, now: Instant, ends_at: Instant) -> None:
    """Make a database of so many agents with an open lease each, which all end, without grace, at one instant.

    Args:
        path: Where it is made.
        count: How many; a multiple of 100.
        now: In the day of the grants.
        ends_at: When they end; `end_all` changes it.
    """
    fill(path, (*_PEOPLE, *_OPEN, *_SUMS), agents=count, now=now, ends_at=ends_at)


def end_all(path: Path, *, at: Instant) -> None:
    """Let the leases of such a database that are open end at another instant."""
    connection = connect(str(path))
    try:
        ends = "UPDATE leases SET expires_at = :at, due_at = :at, lives_until = :at"
        connection.execute(f"{ends} WHERE status = 'active' AND grace = 0", {"at": at})
    finally:
        connection.close()


def add_admin(store: SqliteStore) -> None:
    """Add the first admin, who logs in as `admin` with `PASSWORD`."""
    admin = partial(first_admin, email="a@test.io", username="admin", force_change=False)
    store.write(partial(admin, password_hash=Argon2PasswordHasher().hash(PASSWORD)))


def fill(path: Path, statements: Sequence[str], *, now: Instant, **given: int) -> None:
    """Make a database by statements; `:today` starts the day of `now`, and an admin is there."""
    with SqliteStore(path) as store:
        add_admin(store)
    connection = connect(str(path))
    try:
        # A file that is not finished is made again, so nothing need be durable before the end.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("BEGIN")
        values = {"today": day_of(now) * MS_PER_DAY, "period": period_of(now), **given}
        for statement in statements:
            connection.execute(statement, values)
        for table, span in rollup_tables(records_since=0, hours_since=0):  # they are empty: nothing need be compared
            columns = ", ".join((*table.key, *table.family.numbers))
            connection.execute(f"INSERT INTO {table.name} ({columns}) {table.source}", (span.since,))
        connection.execute("COMMIT")
    finally:
        connection.close()
