"""The schema, as migrations that are applied at start, under one lock, all or nothing.

Every money rule that SQL can hold is held here too: CHECKs, UNIQUE natural keys, append-only triggers.
Rows of an agent's books refer to it with RESTRICT: an agent is archived, never removed.
"""

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from sqlite_utils import Database, Migrations

from ironcage_core.errors.faults import DatabaseNewerError
from ironcage_storage.sqlite.connection import APPLICATION_ID, check_is_ours, translated
from ironcage_storage.sqlite.migrations import (
    m01_books_and_leases,
    m02_user_sessions,
    m03_agents_of_keys,
    m04_identity,
    m05_resources,
    m06_usage_and_limits,
    m07_list_counts,
    m08_budget_control,
    m09_analytics,
    m10_ingestion,
    m11_pending,
    m12_telemetry,
)

migrations = Migrations("ironcage")


@migrations()
def books_and_leases(db: Database) -> None:
    """Create the tables of users, agents, keys, leases, ledger, usage, audit and feed."""
    _execute(db, m01_books_and_leases.STATEMENTS)


@migrations()
def user_sessions(db: Database) -> None:
    """Let users have a password, and create the tables of their sessions and refresh tokens."""
    _execute(db, m02_user_sessions.STATEMENTS)


@migrations()
def agents_of_keys(db: Database) -> None:
    """Let the agents of a provider key be counted without a look at all assignments."""
    _execute(db, m03_agents_of_keys.STATEMENTS)


@migrations()
def identity(db: Database) -> None:
    """Let users be suspended, locked and deleted; create API tokens; give the audit log counts and anchors."""
    _execute(db, m04_identity.STATEMENTS)


@migrations()
def resources(db: Database) -> None:
    """Create projects, and let agents, provider keys and limits say more of themselves."""
    _execute(db, m05_resources.STATEMENTS)


@migrations()
def usage_and_limits(db: Database) -> None:
    """Create the rollups of usage and the counters of limits, and let old records go without being forgotten."""
    _execute(db, m06_usage_and_limits.STATEMENTS)


@migrations()
def list_counts(db: Database) -> None:
    """Create the totals that lists show without counting, and the indexes of their default orders."""
    _execute(db, m07_list_counts.STATEMENTS)


@migrations()
def budget_control(db: Database) -> None:
    """Create reservations, change requests, and what retries, dead tokens and alerts need to be remembered of."""
    _execute(db, m08_budget_control.STATEMENTS)


@migrations()
def analytics(db: Database) -> None:
    """Create the rollups of analytics: extremes and histograms of cost, histograms of durations, failures by code."""
    _execute(db, m09_analytics.STATEMENTS)


@migrations()
def ingestion(db: Database) -> None:
    """Let calls be known by more than one name, and keep of purged ones what their late reports and events need."""
    _execute(db, m10_ingestion.STATEMENTS)


@migrations()
def pending(db: Database) -> None:
    """Let leases and budgets know what events tell of calls that no report has settled."""
    _execute(db, m11_pending.STATEMENTS)


@migrations()
def telemetry(db: Database) -> None:
    """Create the table of what runtimes say of themselves."""
    _execute(db, m12_telemetry.STATEMENTS)


def _execute(db: Database, statements: Sequence[str]) -> None:
    for statement in statements:
        db.conn.execute(statement)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to the newest schema; a fresh file gets all of it.

    Raises:
        DatabaseNewerError: A newer version of ironcage has written it.
        DatabaseDamagedError: It is damaged, or it is somebody else's.
        StorageError, UnavailableError: The database failed, or another process holds it.
    """
    try:
        # One lock around everything: two processes that start together migrate once.
        connection.execute("BEGIN IMMEDIATE")
        try:
            check_is_ours(connection)
            standing(connection)
            # sqlite-utils runs each migration in a savepoint of our transaction.
            migrations.apply(Database(connection, execute_plugins=False))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise translated(error) from error


class Step(NamedTuple):
    """A migration: its name, and what it does in one sentence."""

    name: str
    purpose: str


class Standing(NamedTuple):
    """Which migrations a database has had, and which it lacks, oldest first."""

    applied: tuple[Step, ...]
    missing: tuple[Step, ...]


def standing(connection: sqlite3.Connection) -> Standing:
    """Tell how far a database has come; nothing is applied.

    Raises:
        DatabaseNewerError: A newer version of ironcage has written it.
    """
    steps = [Step(each.name, each.fn.__doc__ or "") for each in migrations._migrations]  # noqa: SLF001 - no public list
    applied = {migration.name for migration in migrations.applied(Database(connection, execute_plugins=False))}
    if applied - {step.name for step in steps}:
        raise DatabaseNewerError("The database was written by a newer version of ironcage; upgrade this program")
    return Standing(
        applied=tuple(step for step in steps if step.name in applied),
        missing=tuple(step for step in steps if step.name not in applied),
    )
