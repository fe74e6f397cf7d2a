"""What an event makes of its call, alone and with its report, in any order, and what it never does."""

from collections.abc import Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from threading import Thread

import pytest

from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.call_events import CallEvent
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.errors.access import InsufficientScopeError
from ironcage_core.errors.money import AlreadyReportedError, RequestIdConflictError
from ironcage_core.errors.tree import RefusalError, ValidationError
from ironcage_core.ports.lists import Paging, TraceFilter, UsageFilter
from ironcage_core.services.accounts import add_user
from ironcage_core.services.ingestion import Ingested, UnreadEvent, forget_calls, ingest
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_core.services.reserving import ReserveRequest, reserve
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import ADMIN, API_KEY, NOON, USD, SetClock, TestAgent, World

UUID = "0190f3a1-c4d2-4b8e-9a5f-001122334455"
DIGITS = UUID.replace("-", "")


def completed(event_id: str, cost: int = 50, **fields: object) -> CallEvent:
    content: dict[str, object] = {"model": "gpt-test", "provider": "openai", "occurred_at": NOON, **fields}
    kind = "llm_request_completed"
    return CallEvent(event_id, kind, input_tokens=30, output_tokens=12, cost=cost, **content)  # type: ignore[arg-type]


def failed(event_id: str, **fields: object) -> CallEvent:
    content: dict[str, object] = {"model": "gpt-test", "provider": "openai", "occurred_at": NOON, **fields}
    return CallEvent(event_id, "llm_request_failed", **content)  # type: ignore[arg-type]


def tell(
    agent: TestAgent, *items: CallEvent | UnreadEvent, key_days: int | None = None, refusing: Sequence[bool] = ()
) -> list[Ingested]:
    """Tell of calls; those that are duplicates, or those that are not, may be too many."""

    def admit(is_duplicate: bool) -> RefusalError | None:
        return RefusalError("too many") if is_duplicate in refusing else None

    return agent.call(ingest, items, admit=admit, key_days=key_days)


def fates(agent: TestAgent, *items: CallEvent | UnreadEvent) -> list[str]:
    return [each.status for each in tell(agent, *items)]


def records(world: World) -> list[UsageRecord]:
    return list(world.store.read(lambda uow: uow.usage.page(TraceFilter(), Paging(1, 100))).rows)


def only(world: World) -> UsageRecord:
    (record,) = records(world)
    return record


def spending(world: World) -> int:
    sums = world.store.read(lambda uow: uow.usage.sums(UsageFilter()))
    return sum(each.cost_micros for each in sums.values())


def news(world: World) -> list[tuple[str | None, object]]:
    """Return what the feed tells of calls."""
    rows = world.store.read(lambda uow: uow.feed.after(0, 1000))
    return [(row.name, dict(row.data)) for row in rows if row.name in {"llm_call", "llm_call_failed"}]


@pytest.fixture
def agent(world: World) -> TestAgent:
    """An agent with $100."""
    return world.agent(100 * USD)


def test_an_event_makes_the_record_of_its_call(world: World, agent: TestAgent) -> None:
    """With everything it says, the agent's only key of the provider, and no movement of money."""
    before = agent.balance()

    (told,) = tell(agent, completed("e1", duration_ms=7, endpoint="/v1/chat", response_status=200))

    record = only(world)
    assert told == Ingested(0, "e1", "accepted")
    assert record == UsageRecord(
        record.id, agent.id, world.owner_id, record.project_id, "e1", "e1", None, None, NOON, NOON, "completed",
        "gpt-test", "openai", world.key_id, 30, 12, 0, 50, "event", 50, None, None, 0, 7, "/v1/chat", 200, None, None,
    )  # fmt: skip
    assert (agent.balance(), agent.kinds()) == (before, [("adjust", 100 * USD)])
    data = {
        "model": "gpt-test", "provider": "openai", "tokens": 42, "cost_micros": 50, "input_tokens": 30,
        "output_tokens": 12, "duration_ms": 7, "trace_id": record.id,
    }  # fmt: skip
    assert news(world) == [("llm_call", data)]
    assert world.verify().holds


def test_a_failed_call_costs_nothing_whatever_is_said_of_it(world: World, agent: TestAgent) -> None:
    """Its code is unknown if it has none; its message is stored and told without secrets."""
    event = CallEvent("f", "llm_request_failed", "m", "unknown", NOON, 3, 4, 5, error_message="bad sk-0123456789")

    assert fates(agent, event) == ["accepted"]

    record = only(world)
    assert (record.cost_micros, record.total_tokens, record.outcome, record.provider_id) == (0, 0, "failed", None)
    assert (record.error_code, record.error_message) == ("unknown", "bad [redacted]")
    data = {"model": "m", "provider": "unknown", "error_code": "unknown", "error_message": "bad [redacted]"}
    assert news(world) == [("llm_call_failed", {**data, "trace_id": record.id})]


def test_a_known_event_is_a_duplicate_whatever_it_says_now(world: World, agent: TestAgent) -> None:
    """The first word counts, in the same batch as well; of two agents each has its own."""
    assert fates(agent, completed("e1"), completed("e1", 99), failed("e2"), completed("e2")) == [
        "accepted", "duplicate", "accepted", "duplicate",
    ]  # fmt: skip
    first = records(world)

    assert fates(agent, completed("e1", request_id="r9"), completed("e2")) == ["duplicate", "duplicate"]
    assert records(world) == first
    assert fates(world.agent(name="other"), completed("e1")) == ["accepted"]
    assert len(news(world)) == 3


@pytest.mark.parametrize("again", [{}, {"request_id": "r1"}, {"request_id": "other"}])
def test_an_event_is_known_by_its_own_id_under_another_key(
    world: World, agent: TestAgent, again: dict[str, object]
) -> None:
    """`event_id` is unique per agent, whatever names the call."""
    assert fates(agent, completed("e1", request_id="r1")) == ["accepted"]

    assert fates(agent, completed("e1", **again)) == ["duplicate"]  # type: ignore[arg-type]  # as the test says
    assert only(world).call_key == "r1"


@pytest.mark.parametrize("is_event_first", [True, False])
@pytest.mark.parametrize(
    ("event", "request_id"),
    [
        (completed("r1"), "r1"),
        (completed("e1", request_id="r1"), "r1"),
        (completed(f"evt_{UUID}"), UUID),
        (completed(UUID), f"req_{DIGITS.upper()}"),
        (completed(f"evt_{DIGITS}"), f"request_{UUID}"),
        (completed("e1", request_id=f"req_{UUID}"), f"req_{UUID}"),
    ],
)
def test_event_and_report_of_a_call_make_one_record(
    world: World, agent: TestAgent, event: CallEvent, request_id: str, *, is_event_first: bool
) -> None:
    """By equal ids or the same UUID, in any order: cost of the report, split of the event, told of once."""
    lease = agent.handshake(10 * USD).lease
    told: list[bool] = []

    def send() -> None:
        told.extend(each.has_cost_mismatch for each in tell(agent, event))
        assert not told[-1] or not is_event_first

    if is_event_first:
        send()
        assert agent.lease(lease.id).pending == 50
    booked = agent.report(lease.id, request_id, 80, tokens=100, occurred_at=NOON - 5).booked
    if not is_event_first:
        send()

    record = only(world)
    assert (record.cost_micros, record.cost_source, record.event_cost_micros) == (80, "report", 50)
    assert (record.input_tokens, record.output_tokens, record.unsplit_tokens, record.report_tokens) == (30, 12, 0, 100)
    assert (record.occurred_at, record.outcome, record.lease_id) == (NOON - 5, "completed", lease.id)
    assert (record.event_id, record.request_id) == (event.event_id, request_id)
    assert (spending(world), agent.balance().spent, agent.lease(lease.id).pending) == (80, 80, 0)
    assert (booked.has_cost_mismatch, told == [True]) == (is_event_first, not is_event_first)
    assert len(news(world)) == 1
    assert agent.report(lease.id, request_id, 80, tokens=100).booked.duplicate
    assert fates(agent, event) == ["duplicate"]
    assert world.verify().holds


def test_an_equal_cost_is_no_mismatch(world: World, agent: TestAgent) -> None:
    """Nor is a failed event, which says nothing of cost."""
    lease = agent.handshake(10 * USD).lease.id
    tell(agent, completed("r1", 80), failed("r2"))

    booked = [agent.report(lease, name, 80).booked.has_cost_mismatch for name in ("r1", "r2")]

    assert booked == [False, False]
    assert spending(world) == 160


def test_a_report_is_compared_with_what_a_report_said(agent: TestAgent) -> None:
    """Not with an event: the first report is no conflict, a second one with other tokens is."""
    lease = agent.handshake(10 * USD).lease.id
    tell(agent, completed("r1", 7, model="another", provider="unknown"))
    agent.report(lease, "r1", 80, tokens=100)

    for change in ({"tokens": 42}, {"model": "another"}, {"cost": 7}):
        with pytest.raises(RequestIdConflictError):
            agent.report(lease, "r1", **{"cost": 80, "tokens": 100, **change})  # type: ignore[arg-type]

    assert agent.balance().spent == 80


@pytest.mark.parametrize("order", list(permutations(("failed", "completed", "report"))))
def test_a_call_ends_the_same_whatever_comes_first(world: World, agent: TestAgent, order: Sequence[str]) -> None:
    """Completed event before failed one before the report alone; a failed one behind a completed is a duplicate."""
    lease = agent.handshake(10 * USD).lease.id
    fate: dict[str, str] = {}
    for what in order:
        if what == "report":
            agent.report(lease, "r1", 80, tokens=100)
        else:
            event = completed("c", request_id="r1") if what == "completed" else failed("f", request_id="r1")
            (fate[what],) = fates(agent, event)
        assert world.verify().holds, what

    record = only(world)
    is_late = order.index("failed") > order.index("completed")
    assert fate == {"completed": "accepted", "failed": "duplicate" if is_late else "accepted"}
    assert (record.outcome, record.error_code, record.event_id, record.event_cost_micros) == (
        "completed", None, "c", 50,
    )  # fmt: skip
    assert (record.cost_micros, record.total_tokens, record.lease_id) == (80, 42, lease)
    assert (spending(world), agent.lease(lease).pending, len(news(world))) == (80, 0, 1)
    assert fates(agent, completed("c"), failed("f", request_id="r1")) == ["duplicate", "duplicate"]
    assert is_late or fates(agent, failed("f")) == ["duplicate"]


def test_a_failed_call_keeps_the_cost_of_its_report(world: World, agent: TestAgent) -> None:
    """And the report's own tokens: an event that failed has no split."""
    lease = agent.handshake(10 * USD).lease.id
    agent.report(lease, "r1", 80, tokens=100)
    tell(agent, failed("r1", error_code="timeout"))
    tell(agent, failed("r2"))
    agent.report(lease, "r2", 5, tokens=None, input_tokens=2, output_tokens=3)

    second, first = sorted(records(world), key=lambda record: record.cost_micros)
    assert (first.outcome, first.cost_micros, first.unsplit_tokens, first.error_code) == ("failed", 80, 100, "timeout")
    assert (second.outcome, second.input_tokens, second.output_tokens) == ("failed", 2, 3)
    assert spending(world) == 85
    assert world.verify().holds


@pytest.mark.parametrize(("event_at", "report_at"), [(-7, -3), (-3, -7)])
def test_the_earliest_time_of_a_call_counts_whoever_tells_it(
    world: World, agent: TestAgent, event_at: int, report_at: int
) -> None:
    """In either order of arrival."""
    lease = agent.handshake(10 * USD).lease.id
    tell(agent, completed("first", occurred_at=NOON + event_at))
    for name in ("first", "second"):
        agent.report(lease, name, 80, occurred_at=NOON + report_at)
    tell(agent, completed("second", occurred_at=NOON + event_at))

    assert [record.occurred_at for record in records(world)] == [NOON - 7, NOON - 7]


def test_a_report_makes_its_lease_s_owner_the_one_of_the_call(world: World, agent: TestAgent) -> None:
    """And the day of its receipt the one whose tokens it counts among."""
    lease = agent.handshake(10 * USD).lease.id
    heir = world.store.write(partial(add_user, username="bob", email="bob@test", role="user", actor=SYSTEM))
    world.store.write(lambda uow: uow.agents.put(uow.agents.find(agent.id)._replace(owner_id=heir.id)))  # type: ignore[union-attr]  # it was just made
    tell(agent, completed("r1"))
    assert only(world).owner_id == heir.id

    world.clock.pass_s(86_400)
    agent.report(lease, "r1", 80, tokens=100)

    record = only(world)
    assert (record.owner_id, record.received_at) == (world.owner_id, NOON + MS_PER_DAY)
    counted = world.store.read(lambda uow: uow.usage.received(NOON + 1, NOON + 2 * MS_PER_DAY))
    assert {key[0]: tokens.recorded for key, tokens in counted.items()} == {world.owner_id: 100}


def test_a_completed_event_upgrades_a_failed_one(world: World, agent: TestAgent) -> None:
    """No spend is lost, nothing is told twice, and both events stay known."""
    lease = agent.handshake(10 * USD).lease.id
    tell(agent, failed("a"))

    assert fates(agent, completed("b", request_id="a", model="gpt-5", occurred_at=NOON + 9)) == ["accepted"]

    record = only(world)
    assert (record.cost_micros, record.outcome, record.model, record.occurred_at) == (50, "completed", "gpt-5", NOON)
    assert (record.error_code, record.lease_id, agent.lease(lease).pending) == (None, lease, 50)
    assert (
        fates(agent, failed("a", request_id="z"), completed("b"), completed("c", request_id="a")) == ["duplicate"] * 3
    )
    assert (spending(world), len(news(world))) == (50, 1)
    assert world.verify().holds


def test_an_upgrade_keeps_the_stamp_of_a_lease_that_is_gone(world: World, agent: TestAgent) -> None:
    """Unless there is another one by now; behind a return nothing of it is pending."""
    lease = agent.handshake(10 * USD).lease.id
    tell(agent, failed("a"))
    agent.return_lease(lease)

    tell(agent, completed("b", request_id="a"))

    assert (only(world).lease_id, agent.balance().pending) == (lease, 0)
    assert world.verify().holds


def test_ids_that_only_look_alike_are_other_calls(world: World, agent: TestAgent) -> None:
    """Two events, two reports, a named request and a UUID: only an event without a name and a report are compared."""
    lease = agent.handshake(10 * USD).lease.id

    assert fates(agent, completed(UUID), completed(f"evt_{UUID}")) == ["accepted", "accepted"]
    assert fates(agent, completed("x", request_id=f"req_{UUID}")) == ["accepted"]
    for name in (f"req_{UUID}", UUID, f"request_{UUID}", f"evt_{UUID}"):
        assert not agent.report(lease, name, 80).booked.duplicate

    assert len(records(world)) == 4
    assert (spending(world), agent.balance().spent) == (320, 320)
    assert [agent.report(lease, name, 80).booked.duplicate for name in (UUID, f"evt_{UUID}", f"req_{UUID}")] == [
        True
    ] * 3
    assert world.verify().holds


def test_a_report_whose_key_is_taken_gets_one_of_its_own(world: World, agent: TestAgent) -> None:
    """Two request ids are two calls, though an event has given its id to the record of the first."""
    lease = agent.handshake(10 * USD).lease.id
    tell(agent, completed(f"evt_{UUID}"))

    first, second = (agent.report(lease, name, 80).booked for name in (UUID, f"evt_{UUID}"))

    assert (first.duplicate, second.duplicate, agent.balance().spent, len(records(world))) == (False, False, 160, 2)
    assert agent.report(lease, f"evt_{UUID}", 80).booked.duplicate
    assert agent.report(lease, UUID, 80).booked.duplicate


def test_a_report_found_by_its_uuid_is_charged_once_whatever_is_named_alike_later(
    world: World, agent: TestAgent
) -> None:
    """Another report of the same digits takes nobody's place: the retry of the first is still a duplicate."""
    lease = agent.handshake(10 * USD).lease.id
    tell(agent, completed(UUID))
    first = [agent.report(lease, name, 80).booked.duplicate for name in (f"req_{UUID}", f"evt_{UUID}")]

    again = [agent.report(lease, name, 80).booked.duplicate for name in (f"req_{UUID}", f"evt_{UUID}")]

    assert (first, again, agent.balance().spent) == ([False, False], [True, True], 160)
    assert world.verify().holds


def test_nothing_is_reserved_for_a_call_that_was_reported_under_the_key_of_its_event(agent: TestAgent) -> None:
    """The request id was reported; the event's own id was not, though it is the key of the record."""
    lease = agent.handshake(10 * USD).lease.id
    tell(agent, completed(f"evt_{UUID}"))
    agent.report(lease, UUID, 80)

    with pytest.raises(AlreadyReportedError):
        agent.call(reserve, ReserveRequest(UUID, 10, lease))
    assert agent.call(reserve, ReserveRequest(f"evt_{UUID}", 10, lease)).is_new


def test_a_call_is_stamped_with_the_lease_it_names_or_the_only_active_one(world: World, agent: TestAgent) -> None:
    """A foreign, unknown or malformed lease is as good as none; of two active ones nobody knows which."""
    other = world.agent(name="other")
    foreign = other.handshake(USD).lease.id
    tell(agent, completed("before"))
    first = agent.handshake(USD).lease.id
    tell(agent, completed("one"), *[completed(name, lease_id=name) for name in (foreign, "lease_" + "0" * 32, "?")])
    second = agent.handshake(USD).lease.id
    tell(agent, completed("two"), completed("named", lease_id=second), completed("old", lease_id=first))

    stamps = {record.event_id: record.lease_id for record in records(world)}
    assert stamps == {
        "before": None, "one": first, foreign: first, "lease_" + "0" * 32: first, "?": first, "two": None,
        "named": second, "old": first,
    }  # fmt: skip
    assert (agent.lease(first).pending, agent.lease(second).pending, agent.balance().pending) == (250, 50, 300)


def test_a_lease_that_has_run_out_is_not_active(world: World, agent: TestAgent) -> None:
    """Time is seen to before an event is; so events behind a return belong to no lease."""
    agent.handshake(USD)
    world.clock.pass_s(3601)
    tell(agent, completed("late"))
    returned = agent.handshake(USD).lease.id
    agent.return_lease(returned)
    tell(agent, completed("later"))

    assert [record.lease_id for record in records(world)] == [None, None]
    assert agent.balance().pending == 0


def test_a_provider_key_is_filled_in_if_there_is_only_one(world: World, agent: TestAgent) -> None:
    """What is sent stays as sent."""
    assert fates(agent, completed("a", provider_id="mine"), completed("b", provider="anthropic"), completed("c"))

    assert {record.event_id: record.provider_id for record in records(world)} == {
        "a": "mine", "b": None, "c": world.key_id,
    }  # fmt: skip


def test_of_two_provider_keys_nobody_knows_which_was_used(world: World, agent: TestAgent) -> None:
    """Of their provider none is filled in; of another the only one is."""
    keys = [
        world.store.write(partial(add_provider_key, provider=each, api_key=API_KEY, actor=ADMIN, vault=world.vault)).id
        for each in ("openai", "anthropic")
    ]
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, [world.key_id, *keys]))

    tell(agent, completed("a"), failed("b"), completed("c", provider="anthropic"))

    assert {record.event_id: record.provider_id for record in records(world)} == {"a": None, "b": None, "c": keys[1]}


def test_each_item_is_judged_alone(agent: TestAgent) -> None:
    """In order, by its place; what could not be read has its own refusal."""
    unread = UnreadEvent("u", ValidationError({"model": "must be a string"}))

    results = tell(agent, completed("a"), completed("", -1), unread, completed("b", provider="?"), completed("a"))

    assert [(each.position, each.event_id, each.status) for each in results] == [
        (0, "a", "accepted"), (1, "", "rejected"), (2, "u", "rejected"), (3, "b", "rejected"), (4, "a", "duplicate"),
    ]  # fmt: skip
    assert [each.refusal is None for each in results] == [True, False, False, False, True]
    assert isinstance(results[1].refusal, ValidationError)
    assert list(results[1].refusal.fields) == ["event_id", "cost_micros"]
    assert isinstance(results[3].refusal, ValidationError)
    assert "anthropic" in results[3].refusal.details["allowed"]  # type: ignore[operator]  # a list of names


def test_one_too_many_is_refused_before_anything_of_it_is_written(world: World, agent: TestAgent) -> None:
    """New ones and duplicates are counted apart; a call that is completed is a new one."""
    agent.report(agent.handshake(USD).lease.id, "r1", 5)
    tell(agent, completed("known"))

    new = tell(agent, completed("known"), completed("a"), completed("r1"), refusing=[False])
    old = tell(agent, completed("known"), completed("b"), refusing=[True])

    assert [each.status for each in new] == ["duplicate", "rejected", "rejected"]
    assert [each.status for each in old] == ["rejected", "accepted"]
    assert {record.call_key for record in records(world)} == {"known", "b", "r1"}
    assert fates(agent, completed("a"), completed("r1")) == ["accepted", "accepted"]


def test_an_event_older_than_what_is_remembered_is_refused(agent: TestAgent) -> None:
    """A replay of it could count twice; the day itself is remembered."""
    edge = NOON - 30 * MS_PER_DAY
    items = [completed("old", occurred_at=edge - 1), completed("edge", occurred_at=edge)]

    refused, kept = tell(agent, *items, key_days=30)

    assert refused.refusal is not None
    assert (refused.status, refused.refusal.code, kept.status) == ("rejected", "EVENT_TOO_OLD", "accepted")
    assert fates(agent, items[0]) == ["accepted"]


def test_telling_needs_the_permission(world: World, agent: TestAgent) -> None:
    """`llm:call` alone is not enough."""

    def without(uow, identity, **rest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN003, ANN202
        from dataclasses import replace  # noqa: PLC0415

        return ingest(uow, replace(identity, permissions=("llm:call",)), [completed("a")], **rest)

    with pytest.raises(InsufficientScopeError):
        agent.call(without, admit=lambda _: None, key_days=None)

    assert records(world) == []


def test_pending_spend_raises_an_alert_and_its_report_none(world: World, agent: TestAgent) -> None:
    """Half of the budget is crossed by the event; the same money is not told twice."""
    lease = agent.handshake(90 * USD).lease.id
    tell(agent, completed("r1", 60 * USD), completed("r1", 60 * USD))

    agent.report(lease, "r1", 60 * USD)

    alerts = [row for row in world.store.read(lambda uow: uow.feed.after(0, 1000)) if row.type == "COST_ALERT"]
    assert [row.data["crossed"] for row in alerts] == [[50]]
    assert [row.data["pending_spend_micros"] for row in alerts] == [60 * USD]
    assert world.verify().holds


def test_two_posts_of_one_event_at_once_are_one(tmp_path: Path) -> None:
    """Exactly one of each is accepted, whoever comes first."""
    with SqliteStore(tmp_path / "ironcage.db", clock=SetClock()) as store:
        world = World(store, SetClock())
        agent = world.agent()
        found: list[str] = []
        threads = [
            Thread(
                target=lambda: found.extend(fates(agent, *[completed(f"e{n}", request_id=f"r{n}") for n in range(20)]))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert (found.count("accepted"), found.count("duplicate")) == (20, 140)
        assert len(records(world)) == 20
        assert world.verify().holds


def purged(world: World) -> None:
    """Take every record away and keep its call."""

    def run(uow) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        uow.usage.advance_horizon("records", NOON + MS_PER_DAY)
        uow.usage.purge_records(100)

    world.store.write(run)


def test_a_purged_call_is_still_known(world: World, agent: TestAgent) -> None:
    """Its event is a duplicate by whatever name, and its sums stay."""
    tell(agent, completed("a"), completed("b", request_id="r"), failed("c"))
    purged(world)

    assert (
        fates(agent, completed("a"), completed("b"), completed("x", request_id="r"), failed("c")) == ["duplicate"] * 4
    )
    assert spending(world) == 100


def test_a_late_report_of_a_purged_event_counts_once(world: World, agent: TestAgent) -> None:
    """Its cost takes the place of the event's, and a purge keeps the call again."""
    lease = agent.handshake(10 * USD).lease.id
    tell(agent, completed(f"evt_{UUID}"), failed("f"))
    purged(world)

    booked = agent.report(lease, UUID, 80, tokens=100).booked
    upgraded = fates(agent, completed("c", 7, request_id="f"))

    assert (booked.duplicate, booked.has_cost_mismatch, upgraded) == (False, True, ["accepted"])
    assert (spending(world), agent.balance().spent) == (87, 80)
    (sums,) = world.store.read(lambda uow: uow.usage.sums(UsageFilter())).values()
    assert (sums.calls, sums.failed, sums.input_tokens, sums.output_tokens, sums.unsplit_tokens) == (2, 0, 60, 24, 0)
    restored = world.store.read(lambda uow: uow.usage.find(agent.id, f"evt_{UUID}"))
    assert restored is not None
    assert (restored.input_tokens, restored.output_tokens) == (30, 12)
    purged(world)
    assert agent.report(lease, UUID, 80, tokens=100).booked.duplicate
    assert fates(agent, completed(f"evt_{UUID}"), completed("c"), failed("f")) == ["duplicate"] * 3
    assert spending(world) == 87
    assert world.verify().holds


def test_a_late_event_of_a_purged_report_is_taken_once(world: World, agent: TestAgent) -> None:
    """Its record is gone; only that the event was told is kept."""
    lease = agent.handshake(10 * USD).lease.id
    agent.report(lease, UUID, 80, tokens=100)
    purged(world)

    (first,) = tell(agent, completed(f"evt_{UUID}"))

    assert (first.status, first.has_cost_mismatch) == ("accepted", True)
    assert fates(agent, completed(f"evt_{UUID}"), completed("y", request_id=UUID)) == ["duplicate", "duplicate"]
    assert (spending(world), agent.report(lease, UUID, 80, tokens=100).booked.duplicate) == (80, True)
    assert world.verify().holds


def test_forgotten_keys_are_those_of_old_calls_without_a_report(world: World, agent: TestAgent) -> None:
    """With all their names; a report is remembered for ever."""
    lease = agent.handshake(10 * USD).lease.id
    tell(
        agent,
        completed("a", request_id=f"req_{UUID}"),
        completed(f"evt_{UUID}"),
        completed("new", occurred_at=NOON + 1),
    )
    agent.report(lease, "r", 5)
    purged(world)

    world.clock.instant = NOON + 1 + 7 * MS_PER_DAY
    forgotten = [world.store.write(partial(forget_calls, key_days=7, limit=1)) for _ in range(3)]

    assert forgotten == [1, 1, 0]
    assert agent.report(lease, "r", 5).booked.duplicate
    assert fates(agent, completed("new"), completed("a"), completed(f"evt_{UUID}")) == [
        "duplicate",
        "accepted",
        "accepted",
    ]
    assert world.verify().holds
