"""What a report books, and what it never does."""

import pytest

from ironcage_core.domain.prices import PriceTable
from ironcage_core.errors.money import RequestIdConflictError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.services.reporting import report
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import PRICES, USD, TestAgent, World, usage


def audit_operations(store: SqliteStore) -> list[str]:
    return store.read(lambda uow: [row.operation for row in uow.audit.rows()])


def feed_names(store: SqliteStore) -> list[str | None]:
    return store.read(lambda uow: [event.name for event in uow.feed.after(0, 1000)])


@pytest.fixture
def agent(world: World) -> TestAgent:
    """An agent with $100."""
    return world.agent(100 * USD)


def test_a_report_counts_once_whatever_lease_its_retry_names(world: World, agent: TestAgent) -> None:
    """(agent, request id) is the natural key for ever."""
    first, second = agent.handshake().lease.id, agent.handshake().lease.id
    agent.report(first, "r1", USD)

    again = agent.report(second, "r1", USD)

    assert (again.booked.duplicate, again.booked.lease.id, again.balance.spent) == (True, first, USD)
    assert feed_names(world.store).count("llm_call") == 1


@pytest.mark.parametrize("change", [{"cost": 2}, {"tokens": 99}, {"model": "other"}, {"provider": "anthropic"}])
def test_a_known_request_id_with_other_content_is_a_conflict(agent: TestAgent, change: dict[str, object]) -> None:
    """Other cost, tokens, model or provider: 409 with what is recorded, and no effect."""
    lease = agent.handshake().lease.id
    agent.report(lease, "r1", 1)

    with pytest.raises(RequestIdConflictError) as conflict:
        agent.report(lease, "r1", **{"cost": 1, **change})  # type: ignore[arg-type]

    assert conflict.value.details == {"recorded_cost": 1}
    assert agent.balance().spent == 1


def test_two_agents_may_use_one_request_id(world: World, agent: TestAgent) -> None:
    """The key belongs to the agent."""
    other = world.agent()

    for one in (agent, other):
        assert not one.report(one.handshake().lease.id, "r1", USD).booked.duplicate


def test_a_cost_beyond_the_hold_is_split_and_remembered(world: World, agent: TestAgent) -> None:
    """The hold pays what it can; the rest is overspend, an audit row, and the end of the lease."""
    lease = agent.handshake(USD).lease.id

    over = agent.report(lease, "big", 3 * USD)

    assert agent.kinds()[-2:] == [("spend", USD), ("overspend", 2 * USD)]
    assert (over.booked.overspent, over.balance.remaining, over.stop) == (2 * USD, 97 * USD, True)
    assert (over.booked.lease.status, over.booked.lease.status_reason) == ("expired", "exhausted")
    assert "BUDGET_OVERSPENT" in audit_operations(world.store)


def test_the_report_that_exhausts_a_lease_does_not_extend_it(world: World, agent: TestAgent) -> None:
    """Contract budget.md 1.3: exhausted, or else expires_at slides; the refresh of such a lease is a refresh."""
    lease = agent.handshake(USD).lease
    world.clock.pass_s(10)

    ended = agent.report(lease.id, "last", USD).booked.lease
    agent.refresh(lease.id, USD)

    assert (ended.status_reason, ended.expires_at, ended.reports) == ("exhausted", lease.expires_at, 1)
    assert [entry.cause for entry in agent.entries()] == ["initial", "handshake", "report", "refresh"]


def test_reports_on_ended_leases_are_booked_as_overspend(world: World, agent: TestAgent) -> None:
    """Late truth is never refused."""
    lease = agent.handshake(USD).lease.id
    agent.return_lease(lease)

    late = agent.report(lease, "late", 5)

    assert (late.booked.overspent, late.balance.spent, late.booked.lease.status) == (5, 5, "closed")
    assert world.verify().holds


def test_overspend_can_use_up_the_agent_but_never_through_a_grant(agent: TestAgent) -> None:
    """Remaining falls below zero by exactly what was overspent."""
    lease = agent.handshake(USD).lease.id

    agent.report(lease, "huge", 150 * USD)

    assert (agent.balance().remaining, agent.balance().status) == (-50 * USD, "exhausted")


def test_a_zero_cost_report_leaves_a_record_and_no_entry(world: World, agent: TestAgent) -> None:
    """Rows of amount 0 are not written; the call still has its record."""
    lease = agent.handshake(USD).lease.id

    agent.report(lease, "free", 0)

    assert agent.kinds() == [("adjust", 100 * USD), ("grant", USD)]
    record = world.store.read(lambda uow: uow.usage.find(agent.id, "free"))
    assert record is not None
    assert (record.cost_micros, record.total_tokens) == (0, 100)


def test_the_server_prices_a_report_without_a_cost(agent: TestAgent) -> None:
    """1000 input at $2 and 500 output at $8 per million: $0.006; a retry agrees with what was booked."""
    lease = agent.handshake().lease.id
    tokens = {"tokens": None, "input_tokens": 1000, "output_tokens": 500}

    priced = agent.report(lease, "r1", None, **tokens)  # type: ignore[arg-type]

    assert priced.booked.cost == 6000
    assert agent.report(lease, "r1", None, **tokens).booked.duplicate  # type: ignore[arg-type]


def test_an_implausible_cost_is_booked_as_reported_and_audited(world: World, agent: TestAgent) -> None:
    """Off by more than a cent and 20 %: COST_MISMATCH."""
    lease = agent.handshake().lease.id

    agent.report(lease, "r1", USD, tokens=None, input_tokens=1000, output_tokens=500)

    assert agent.balance().spent == USD
    assert "COST_MISMATCH" in audit_operations(world.store)


BAD: dict[str, list[dict[str, object]]] = {
    "cost_usd": [{"cost": -1}, {"cost": 1_000_000_001}, {"cost": True}, {"cost": 1.5}, {"cost": float("nan")}],
    "tokens": [{"tokens": 0}, {"tokens": 10**12 + 1}, {"tokens": None}, {"input_tokens": 1, "output_tokens": 2}],
    "input_tokens": [{"input_tokens": -1}, {"input_tokens": "1"}],
    "cached_input_tokens": [{"input_tokens": 60, "output_tokens": 40, "cached_input_tokens": 61}],
    "request_id": [{"request_id": ""}, {"request_id": "x" * 101}, {"request_id": "a\0b"}, {"request_id": "\ud800"}],
    "model": [{"model": " "}, {"model": "a\nb"}, {"model": 7}],
    "provider": [{"provider": "p" * 51}],
    "timestamp": [{"occurred_at": 10**15}, {"occurred_at": -1}, {"occurred_at": "x"}, {"occurred_at": True}],
}


@pytest.mark.parametrize(("field", "change"), [(field, change) for field, changes in BAD.items() for change in changes])
def test_a_bad_field_is_named_and_nothing_is_booked(
    world: World, agent: TestAgent, field: str, change: dict[str, object]
) -> None:
    """400 per field; no entry, no record."""
    lease = agent.handshake().lease.id
    content = {"request_id": "r1", "cost": 1, **change}

    with pytest.raises(ValidationError) as refusal:
        agent.report(lease, **content)  # type: ignore[arg-type]

    assert field in refusal.value.fields
    assert agent.kinds()[-1][0] == "grant"
    assert world.store.read(lambda uow: uow.usage.find(agent.id, "r1")) is None


def test_micro_dollars_sent_as_dollars_are_told_apart(agent: TestAgent) -> None:
    """The plausibility cap says what probably happened."""
    lease = agent.handshake().lease.id

    with pytest.raises(ValidationError, match="micro-USD"):
        agent.report(lease, "r1", 1500 * USD)


def test_an_unpriced_model_without_a_cost_is_refused_not_free(agent: TestAgent) -> None:
    """An unknown price is never 0."""
    lease = agent.handshake().lease.id

    with pytest.raises(ValidationError, match="cost_usd"):
        agent.report(lease, "r1", None, model="unheard-of", tokens=None, input_tokens=1, output_tokens=1)  # type: ignore[arg-type]


def test_a_batch_books_the_good_items_and_names_the_bad_ones(world: World, agent: TestAgent) -> None:
    """Items run in order, each alone; a repeated id is a duplicate, other content a conflict."""
    lease = agent.handshake(10 * USD).lease.id
    foreign = world.agent().handshake().lease.id
    items = [
        usage(lease, "a", USD),
        usage(lease, "a", USD),
        usage(lease, "a", 2 * USD),
        usage(foreign, "b", USD),
        usage(lease, "c", -1),
        usage(lease, "d", USD),
    ]

    outcome = agent.report_batch(items)

    assert [r.status for r in outcome.results] == [
        "accepted", "duplicate", "conflict", "rejected", "rejected", "accepted",
    ]  # fmt: skip
    assert outcome.rejected == 3
    assert (outcome.balance.spent, [one.held for one in outcome.leases]) == (2 * USD, [8 * USD])
    assert world.verify().holds


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_one_to_a_thousand_items(agent: TestAgent, count: int) -> None:
    """An empty or oversized list is refused whole."""
    lease = agent.handshake().lease.id

    with pytest.raises(ValidationError):
        agent.report_batch([usage(lease, str(n), 1) for n in range(count)])


def test_a_use_case_that_fails_after_booking_leaves_nothing(agent: TestAgent) -> None:
    """One unit of work: all of it or none."""
    lease = agent.handshake().lease.id

    def books_and_fails(*args: object, **kwargs: object) -> None:
        report(*args, **kwargs)  # type: ignore[arg-type]
        raise RuntimeError("after the fact")

    with pytest.raises(RuntimeError):
        agent.call(books_and_fails, usage(lease, "r1", USD), prices=PRICES)

    assert agent.kinds()[-1][0] == "grant"
    assert agent.balance().spent == 0
    assert not agent.report(lease, "r1", USD).booked.duplicate


def test_the_retry_of_a_report_after_a_refresh_does_not_stop_the_runtime(world: World, agent: TestAgent) -> None:
    """The answer names the lease that was charged and speaks of the one that stands in its place."""
    first = agent.handshake(10 * USD).lease.id
    agent.report(first, "r1", USD)
    agent.refresh(first, 10 * USD)

    again = agent.report(first, "r1", USD)

    assert (again.booked.lease.id, again.booked.current.status) == (first, "active")
    assert (again.stop, again.refresh_recommended) == (False, False)
    assert [lease.status for lease in agent.report_batch([usage(first, "r1", USD)]).leases] == ["active"]
    assert world.verify().holds


def test_a_retry_does_not_depend_on_today_s_prices(agent: TestAgent) -> None:
    """The model left the table meanwhile; the call is known all the same."""
    lease = agent.handshake().lease.id
    call = usage(lease, "r1", None, tokens=None, input_tokens=10, output_tokens=10)
    agent.call(report, call, prices=PRICES)

    assert agent.call(report, call, prices=PriceTable(models={})).booked.duplicate


def test_null_token_details_are_absent_ones(agent: TestAgent) -> None:
    """Null for an optional field means absent."""
    lease = agent.handshake().lease.id
    details = {"cached_input_tokens": None, "cache_write_tokens": None}

    priced = agent.report(lease, "r1", None, tokens=None, input_tokens=1000, output_tokens=500, **details)  # type: ignore[arg-type]

    assert priced.booked.cost == 6000
