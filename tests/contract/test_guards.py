"""What the database itself refuses, should the code above it ever be wrong."""

import sqlite3

import pytest

from ironcage_core.domain.settlements import Settlement
from ironcage_core.errors.faults import InvariantViolationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import (
    agent_row,
    balance_row,
    closed,
    entry_row,
    fresh_id,
    lease_row,
    note,
    put_agent,
    putting,
    token_row,
    usage_row,
    user_row,
)
from tests.support.stores import raw
from tests.support.world import NOON

LEASE = lease_row("agent")


@pytest.fixture
def books(store: SqliteStore) -> SqliteStore:
    """Return a store with one row in every book."""

    def begin(uow: UnitOfWork) -> None:
        owner = user_row("ann")
        agent = agent_row(owner.id, id="agent")
        uow.users.put(owner)
        uow.agents.put(agent)
        uow.balances.put(balance_row("agent"))
        uow.leases.put(LEASE)
        uow.ledger.append(entry_row("agent"))
        uow.usage.put(usage_row("agent", "call"))
        token = token_row("agent")
        uow.ic_tokens.put(token)
        uow.dead_tokens.note_death(token.id, 1, NOON)
        uow.dead_tokens.put_settlement(Settlement(LEASE.id, 5, 3))
        uow.audit.append(note())
        uow.banks.add("bank", "proj_master_001", "2025-11", spent=1, held=1)

    store.write(begin)
    return store


REFUSED = {
    "a changed ledger row": "UPDATE ledger SET amount = 2",
    "a removed ledger row": "DELETE FROM ledger",
    "a changed audit row": "UPDATE audit_log SET reason = 'none'",
    "a removed audit row": "DELETE FROM audit_log",
    "an agent without its books": "DELETE FROM agents",
    "an owner without agents": "DELETE FROM users",
    "a negative hold of an agent": "UPDATE agent_budgets SET held = -1",
    "negative spend of an agent": "UPDATE agent_budgets SET spent = -1",
    "overspend above spend": "UPDATE agent_budgets SET overspent = spent + 1",
    "a negative hold of a bank": "UPDATE bank_holds SET held = -1",
    "negative spend of a bank": "UPDATE bank_months SET spent = -1",
    "a terminal lease that holds money": "UPDATE leases SET status = 'closed', due_at = NULL",
    "a lease that gave more than it had": "UPDATE leases SET spent = granted + 1",
    "less than nothing pending on a lease": "UPDATE leases SET pending = -1",
    "something pending on a lease that is over": "UPDATE leases SET status = 'closed', returned = granted, "
    "due_at = NULL, pending = 1",
    "less than nothing pending of an agent": "UPDATE agent_budgets SET pending = -1",
    "more pending than can be stored": "UPDATE agent_budgets SET pending = 4611686018427387905",
    "an open lease that is never due": "UPDATE leases SET due_at = NULL",
    "an unknown status": "UPDATE leases SET status = 'lost'",
    "a second record of a call": "INSERT INTO usage_records SELECT 'other', agent_id, owner_id, project_id, call_key, "
    "event_id, request_id, lease_id, occurred_at, received_at, outcome, model, provider, provider_id, input_tokens, "
    "output_tokens, unsplit_tokens, cost_micros, cost_source, event_cost_micros, report_cost_micros, "
    "expected_cost_micros, overspent_micros, duration_ms, endpoint, response_status, error_code, error_message, "
    "report_tokens FROM usage_records",
    "a second audit row behind the same one": "INSERT INTO audit_log SELECT seq + 1, 'aud_other', timestamp, chain, "
    "operation, outcome, category, resource_type, resource_id, actor_type, actor_id, user_role, token_id, ip_address, "
    "user_agent, request_id, changes, reason, metadata, prev_hash, hash FROM audit_log",
    "a settlement that is forgotten": "DELETE FROM settlements",
    "a settlement that is taken back": "UPDATE settlements SET settled = settled - 1",
    "a larger settlement than was allowed": "UPDATE settlements SET allowance = allowance + 1",
    "a death that is forgotten": "DELETE FROM ic_token_deaths",
    "a death that is put off": "UPDATE ic_token_deaths SET died_at = died_at + 1",
    "text where a number belongs": "UPDATE agent_budgets SET held = 'much'",
}


@pytest.mark.parametrize("sql", REFUSED.values(), ids=REFUSED)
def test_the_database_refuses(books: SqliteStore, sql: str) -> None:
    """A statement past every check of the code still cannot break a rule of money."""
    with pytest.raises(sqlite3.IntegrityError):
        raw(books, sql)


GRANT = entry_row("agent", kind="grant", lease_id=LEASE.id, amount=10, allocated_after=9, held_after=10)
ONE_PUT = {
    "a grant over what remains": lambda uow: uow.ledger.append(GRANT),
    "an entry of nothing": lambda uow: uow.ledger.append(entry_row("agent", amount=0)),
    "a negative spend": lambda uow: uow.ledger.append(GRANT._replace(kind="spend", amount=-1)),
    "an adjustment of a lease": lambda uow: uow.ledger.append(entry_row("agent", lease_id=LEASE.id)),
    "an entry of nobody": lambda uow: uow.ledger.append(entry_row("agent_of_nobody")),
    "a negative hold": lambda uow: uow.balances.put(balance_row("agent", held=-1)),
    "a bank that gives what it never had": lambda uow: uow.banks.add(
        "bank", "proj_master_001", "2025-11", spent=0, held=-2
    ),
    "a terminal lease that holds money": lambda uow: uow.leases.put(LEASE._replace(status="closed", due_at=None)),
    "less than nothing pending": lambda uow: uow.leases.put(LEASE._replace(pending=-1)),
    "something pending on a lease that is over": lambda uow: uow.leases.put(closed(LEASE)._replace(pending=1)),
    "a second active token": lambda uow: uow.ic_tokens.put(token_row("agent")),
    "a taken username": lambda uow: uow.users.put(user_row("ANN")),
    "a taken email": lambda uow: uow.users.put(user_row("bob", email="ANN@test")),
    "a second successor of one lease": lambda uow: [
        uow.leases.put(closed(lease_row("agent", successor_id=LEASE.id))) for _ in range(2)
    ],
}


@pytest.mark.parametrize("use_case", ONE_PUT.values(), ids=ONE_PUT)
def test_a_unit_that_breaks_a_rule_is_refused_whole(books: SqliteStore, use_case: object) -> None:
    """The caller gets the fault, not SQLite's error, and nothing of the unit is kept."""

    def break_a_rule(uow: UnitOfWork) -> None:
        put_agent(uow)
        assert callable(use_case)
        use_case(uow)

    with pytest.raises(InvariantViolationError):
        books.write(break_a_rule)

    assert raw(books, "SELECT (SELECT count(*) FROM agents), (SELECT count(*) FROM ledger)") == [(1, 1)]


def test_a_call_has_one_record_however_often_it_is_put(books: SqliteStore) -> None:
    """Putting a record of a known call changes the record that is there."""
    again = usage_row("agent", "call", cost_micros=6)
    books.write(lambda uow: uow.usage.put(again))

    assert raw(books, "SELECT id, cost_micros FROM usage_records") == [(again.id, 6)]


def test_a_username_is_free_again_when_its_user_is_deleted(books: SqliteStore) -> None:
    """Only users who are not deleted hold their name, and a revoked token makes room for the next."""
    raw(books, "UPDATE users SET status = 'deleted'")
    raw(books, "UPDATE ic_tokens SET status = 'revoked'")
    books.write(putting(user_row("ann"), token_row("agent")))

    assert raw(books, "SELECT count(*) FROM users WHERE username = 'ann'") == [(2,)]


def test_what_the_guards_let_through_is_a_grant_of_all_that_remains(books: SqliteStore) -> None:
    """The guards stand at the border, not before it."""
    exact = GRANT._replace(id=fresh_id("led"), allocated_after=10, posted_at=NOON)
    books.write(lambda uow: uow.ledger.append(exact))

    assert raw(books, "SELECT count(*) FROM ledger WHERE kind = 'grant'") == [(1,)]
