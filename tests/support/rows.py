"""Rows for tests of the storage alone: valid as they are, changed by keyword."""

from collections.abc import Callable
from itertools import count
from typing import Any

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.api_tokens import ApiToken
from ironcage_core.domain.audit import SYSTEM, AuditNote, Category
from ironcage_core.domain.ic_tokens import IcTokenRecord
from ironcage_core.domain.instants import period_of
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import Balance, Entry
from ironcage_core.domain.providers import ProviderKey
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.domain.users import UsageLimit, User
from ironcage_core.ports.storage import UnitOfWork
from tests.support.world import NOON

HOUR = 3_600_000
_numbers = count(1)


def fresh_id(prefix: str) -> str:
    """Return an id that grows from call to call."""
    return f"{prefix}_{next(_numbers):032x}"


def user_row(name: str = "", **fields: object) -> User:
    name = name or fresh_id("name")
    row = User(fresh_id("user"), name, f"{name}@test", "user", "active", NOON, NOON)
    return row._replace(**fields)  # type: ignore[arg-type]  # as the test says


def limit_row(user_id: str, cap: int | None) -> UsageLimit:
    return UsageLimit(fresh_id("lim"), user_id, cap, NOON, NOON)


def agent_row(owner_id: str, **fields: object) -> Agent:
    row = Agent(fresh_id("agent"), "worker", owner_id, "proj", "active", "idle", 0, None, NOON, NOON, None)
    return row._replace(**fields)  # type: ignore[arg-type]  # as the test says


def balance_row(agent_id: str, **fields: object) -> Balance:
    return Balance(agent_id, fresh_id("budget"), 1000, 0, 0, 0, NOON)._replace(**fields)  # type: ignore[arg-type]


def key_row(name: str = "", **fields: object) -> ProviderKey:
    row = ProviderKey(
        fresh_id("prov"), name or fresh_id("key"), "openai", None, "sealed", "***", 1, "system", NOON, NOON, None
    )
    return row._replace(**fields)  # type: ignore[arg-type]  # as the test says


def token_row(agent_id: str, **fields: object) -> IcTokenRecord:
    row = IcTokenRecord(
        fresh_id("ict"), agent_id, "active", 1, fresh_id("hash"), None, None, "llm:call", None, NOON, "system",
        None, None, None, None, None,
    )  # fmt: skip
    return row._replace(**fields)  # type: ignore[arg-type]  # as the test says


def api_row(user_id: str, **fields: object) -> ApiToken:
    token_id = fresh_id("tok")
    row = ApiToken(
        token_id, fresh_id("hash"), token_id, user_id, "ci", None, None, None, None, "*", 1, "abcd", None, None, None,
        None, None, None, NOON, NOON,
    )  # fmt: skip
    return row._replace(**fields)  # type: ignore[arg-type]  # as the test says


def lease_row(agent_id: str, **fields: object) -> Lease:
    """Return an active lease of 100 micro-USD that is due an hour after noon."""
    row = Lease(
        id=fresh_id("lease"), agent_id=agent_id, bank_user_id="bank", project_id="proj", ic_token_id="ict",
        ic_token_gen=1, provider_key_id="prov", provider="openai", runtime_id=None, status="active",
        status_reason=None, granted=100, rolled_over=0, spent=0, overspent=0, returned=0, reclaimed=0, unattributed=0,
        reports=0,
        discrepancy=0, ttl=HOUR, grace=60_000, created_at=NOON, expires_at=NOON + HOUR, expired_at=None, closed_at=None,
        last_activity_at=NOON, due_at=NOON + HOUR, lives_until=NOON + 24 * HOUR, successor_id=None,
    )  # fmt: skip
    return row._replace(**fields)  # type: ignore[arg-type]  # as the test says


def closed(lease: Lease) -> Lease:
    """Return the lease with everything given back."""
    return lease._replace(status="closed", status_reason="returned", returned=lease.held, due_at=None)


def entry_row(agent_id: str, **fields: object) -> Entry:
    """Return an adjustment of 1 micro-USD at noon."""
    row = Entry(
        None, fresh_id("led"), NOON, agent_id, None, "bank", period_of(NOON), "adjust", 1, "test", None, "system",
        1000, 0, 0,
    )  # fmt: skip
    return row._replace(**fields)  # type: ignore[arg-type]  # as the test says


def usage_row(agent_id: str, call_key: str, **fields: object) -> UsageRecord:
    row = UsageRecord(
        id=fresh_id("trace"), agent_id=agent_id, owner_id="owner", project_id="proj", call_key=call_key,
        event_id=None, request_id=call_key, lease_id=None, occurred_at=NOON, received_at=NOON, outcome="completed",
        model="gpt-test", provider="openai", provider_id=None, input_tokens=0, output_tokens=0, unsplit_tokens=1,
        cost_micros=5, cost_source="report", event_cost_micros=None, report_cost_micros=5, expected_cost_micros=None,
        overspent_micros=0, duration_ms=None, endpoint=None, response_status=None, error_code=None,
        error_message=None,
    )  # fmt: skip
    row = row._replace(**fields)  # type: ignore[arg-type]  # as the test says
    if row.report_cost_micros is not None and row.report_tokens is None:
        return row._replace(report_tokens=row.total_tokens)
    return row


def note(operation: str = "TESTED", category: Category = "budget") -> AuditNote:
    return AuditNote(operation, category, "test", None, SYSTEM)


def put(uow: UnitOfWork, *rows: object) -> None:
    """Put each row into the collection it belongs to."""
    put_of: dict[type, Callable[[Any], None]] = {
        User: uow.users.put,
        Agent: uow.agents.put,
        Lease: uow.leases.put,
        IcTokenRecord: uow.ic_tokens.put,
        ProviderKey: uow.provider_keys.put,
        Entry: uow.ledger.append,
        AuditNote: uow.audit.append,
    }
    for row in rows:
        put_of[type(row)](row)


def putting(*rows: object) -> Callable[[UnitOfWork], None]:
    """Return a use case that puts rows."""
    return lambda uow: put(uow, *rows)


def put_agent(uow: UnitOfWork, **fields: object) -> Agent:
    """Store a user and an agent of that user, and return the agent."""
    owner = user_row()
    agent = agent_row(owner.id, **fields)
    uow.users.put(owner)
    uow.agents.put(agent)
    return agent


def tell(uow: UnitOfWork, name: str) -> str:
    """Publish an event of this name and return the name."""
    uow.feed.append("AGENT_EVENT", agent_id=None, name=name, data={})
    return name


def told(uow: UnitOfWork) -> list[str | None]:
    """Return the names of all events, in order."""
    return [event.name for event in uow.feed.after(0, 100_000)]
