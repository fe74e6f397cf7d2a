"""An allocation as an admin sets it, and the history that every change of it leaves."""

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ironcage_core.domain.access import Principal, principal_of
from ironcage_core.domain.audit import SYSTEM, Actor, AuditRow
from ironcage_core.domain.ledger import AllocationNote
from ironcage_core.domain.users import Role, User
from ironcage_core.errors.access import AgentTokenForbiddenError
from ironcage_core.errors.money import (
    BudgetBelowSpentError,
    BudgetChangedError,
    BudgetDecreaseRequiresConfirmationError,
    BudgetExceededError,
    BudgetUnchangedError,
)
from ironcage_core.errors.resources import AgentNotFoundError
from ironcage_core.errors.tree import ForbiddenError, IroncageError, ValidationError
from ironcage_core.ports.lists import AuditFilter, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agent_changes import delete_agent
from ironcage_core.services.allocation_history import AllocationHistory, AllocationSummary, allocation_history
from ironcage_core.services.allocations import MAX_ALLOCATION, MIN_ALLOCATION, ChangedAllocation, set_allocation
from ironcage_core.services.leasing import Denied
from ironcage_core.services.posting import post_adjustment
from ironcage_core.services.user_removal import delete_user
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import ADMIN, NOON, USD, SetClock, TestAgent, World

FIRST = Paging()


def principal(world: World, username: str, role: Role = "admin") -> Principal:
    """Add a user and return who that is."""
    return principal_of(user(world, username, role))


def user(world: World, username: str, role: Role = "admin") -> User:
    return world.store.write(
        partial(add_user, username=username, email=f"{username}@test", role=role, actor=SYSTEM, name=None)
    )


def allocate(world: World, agent: TestAgent, amount: int, *, actor: Actor = ADMIN, **rules: Any) -> ChangedAllocation:  # noqa: ANN401 - as the use case takes them
    return world.store.write(lambda uow: set_allocation(uow, agent.id, amount, actor=actor, **rules))


def history(world: World, agent: TestAgent, principal: Principal, paging: Paging = FIRST) -> AllocationHistory:
    return world.store.read(partial(allocation_history, agent_id=agent.id, paging=paging, principal=principal))


def updates(world: World) -> list[AuditRow]:
    page = world.store.read(lambda uow: uow.audit.page(AuditFilter(operation="BUDGET_UPDATED"), Paging()))
    return list(page.rows)


def events(world: World, name: str) -> list[object]:
    return [dict(event.data) for event in world.store.read(lambda uow: uow.feed.after(0, 1000)) if event.name == name]


def traces(world: World, agent: TestAgent) -> tuple[object, ...]:
    """Return everything that a change of an allocation leaves."""
    return agent.balance(), agent.entries(), updates(world), events(world, "budget_changed")


def bad_fields(use: Callable[[], object]) -> dict[str, str]:
    with pytest.raises(ValidationError) as refusal:
        use()
    return refusal.value.fields


# --- one change -------------------------------------------------------------


def test_a_change_tells_what_it_has_made(world: World) -> None:
    """The entry of the ledger, what was before, and the balance since; with a row of audit and an event."""
    agent = world.agent(100 * USD)
    world.clock.pass_s(5)

    changed = allocate(world, agent, 150 * USD, reason="  a busy month ")

    entry = agent.entries()[-1]
    assert changed == ChangedAllocation(
        100 * USD, 150 * USD, agent.balance(), entry.id, "a busy month", ADMIN.id, world.clock.now()
    )
    assert (changed.increase, changed.increase_percent) == (50 * USD, Decimal("50.00"))
    assert (entry.kind, entry.amount, entry.cause, entry.ref, entry.actor) == (
        "adjust", 50 * USD, "direct", None, ADMIN.id,
    )  # fmt: skip
    (row,) = updates(world)
    assert (row.resource_id, row.actor_id, row.reason) == (agent.id, ADMIN.id, "a busy month")
    assert events(world, "budget_changed") == [
        {"budget_micros": 150 * USD, "previous_budget_micros": 100 * USD, "changed_by": ADMIN.id}
    ]
    assert world.verify().holds


@pytest.mark.parametrize(("force", "amount"), [(True, 50 * USD), (True, 150 * USD), (False, 150 * USD)])
def test_a_note_tells_why_and_whether_force_was_what_made_it_pass(world: World, amount: int, *, force: bool) -> None:
    """A raise passes without; `force` beside it makes no difference."""
    agent = world.agent(100 * USD)

    entry_id = allocate(world, agent, amount, force=force, reason="so").entry_id

    notes = world.store.read(lambda uow: uow.allocation_notes.of([entry_id]))
    assert notes == {entry_id: AllocationNote(entry_id, "so", int(amount < 100 * USD))}


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        *((empty, None) for empty in (None, "", " \t ", "\n")),
        (" x ", "x"),
        ("a\nb\r\n\tc\n", "a\nb\r\n\tc"),
        (f" {'x' * 500} ", "x" * 500),
        ("ж" * 500, "ж" * 500),
    ],
)
def test_a_reason_is_kept_without_the_blanks_around_it(world: World, reason: str | None, kept: str | None) -> None:
    """An empty one is none; the length is that of what is kept, in characters."""
    agent = world.agent()

    changed = allocate(world, agent, 200 * USD, reason=reason)

    assert changed.reason == kept
    assert [row.reason for row in updates(world)] == [kept]


@pytest.mark.parametrize("amount", [MIN_ALLOCATION, MIN_ALLOCATION + 1, MAX_ALLOCATION])
def test_an_allocation_may_be_any_amount_within_its_bounds(world: World, amount: int) -> None:
    """A cent to a cent less than a million, to the last micro-USD."""
    agent = world.agent(100 * USD)

    assert allocate(world, agent, amount, force=True).balance.allocated == amount


@pytest.mark.parametrize("amount", [0, -USD, MIN_ALLOCATION - 1, MAX_ALLOCATION + 1, 2**70, True, 1.5e6])
def test_an_allocation_out_of_bounds_is_refused(world: World, amount: Any) -> None:  # noqa: ANN401 - whatever comes
    """And leaves nothing behind."""
    agent = world.agent()
    before = traces(world, agent)

    assert [*bad_fields(lambda: allocate(world, agent, amount, force=True))] == ["budget"]

    assert traces(world, agent) == before


def test_every_bad_argument_of_a_change_is_named(world: World) -> None:
    """All at once, before the state of the budget is looked at."""
    agent = world.agent()

    fields = bad_fields(lambda: allocate(world, agent, 0, expected=-1, reason="a\x1bb"))

    assert set(fields) == {"budget", "expected_budget", "reason"}
    for amount, expected in ((100 * USD, None), (50 * USD, None), (150 * USD, 1)):
        change = partial(allocate, world, agent, amount, expected=expected, reason="x" * 501)
        assert bad_fields(change) == {"reason": "must have at most 500 characters"}


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [
        (20_000_000, 20_001_000, "0.01"),  # 0.005
        (20_000_000, 20_000_999, "0.00"),
        (20_000_000, 19_999_000, "-0.01"),  # away from zero as well
        (20_000_000, 19_999_001, "0.00"),
        (3_000_000, 4_000_000, "33.33"),
        (3_000_000, 5_000_000, "66.67"),
        (10_000, 999_999_990_000, "9999999800.00"),
        (100_000_000, 10_000, "-99.99"),
    ],
)
def test_percents_have_two_decimals_half_up(world: World, before: int, after: int, percent: str) -> None:
    """The same in the answer and in the history."""
    agent = world.agent(before)

    changed = allocate(world, agent, after, force=True)
    (past,) = history(world, agent, principal(world, "root")).page.rows

    assert changed.increase_percent == past.increase_percent == Decimal(percent)


# --- what is refused by the state -------------------------------------------


def test_a_refusal_tells_the_numbers_and_changes_nothing(world: World) -> None:
    """What would remain may be negative."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(50 * USD).lease.id
    agent.report(lease, "r1", 20 * USD)
    before = traces(world, agent)
    numbers = {"current_budget": 100 * USD, "current_spent": 20 * USD, "held": 30 * USD}
    refusals: list[tuple[int, dict[str, Any], type[IroncageError], dict[str, int]]] = [
        (
            40 * USD, {}, BudgetDecreaseRequiresConfirmationError,
            {
                "requested_budget": 40 * USD, "decrease_amount": 60 * USD,
                "new_remaining_if_applied": -10 * USD, **numbers,
            },
        ),
        (
            20 * USD - 1, {"force": True}, BudgetBelowSpentError,
            {
                "requested_budget": 20 * USD - 1, "decrease_amount": 80 * USD + 1,
                "new_remaining_if_applied": -30 * USD - 1, **numbers,
            },
        ),
        (100 * USD, {"force": True}, BudgetUnchangedError, {"current_budget": 100 * USD}),
        (100 * USD, {"expected": 99 * USD}, BudgetChangedError, {"current_budget": 100 * USD}),
        (10 * USD, {"expected": 0}, BudgetChangedError, {"current_budget": 100 * USD}),
    ]  # fmt: skip

    for amount, rules, error, details in refusals:
        with pytest.raises(error) as refusal:
            allocate(world, agent, amount, **rules)
        assert refusal.type is error
        assert dict(refusal.value.details) == details

    assert traces(world, agent) == before
    assert allocate(world, agent, 20 * USD, force=True, expected=100 * USD).balance.remaining == -30 * USD


def test_a_decrease_into_the_holds_stops_new_money_only(world: World) -> None:
    """What was lent is still spent; a raise above it lends again."""
    agent = world.agent(100 * USD)
    lease = agent.handshake(50 * USD, runtime_id="one").lease.id

    changed = allocate(world, agent, 30 * USD, force=True)

    assert changed.balance.remaining == -20 * USD
    with pytest.raises(BudgetExceededError):
        agent.handshake(USD, runtime_id="two")
    assert isinstance(agent.refresh(lease, USD), Denied)
    agent.report(lease, "r1", 30 * USD)
    assert (agent.balance().spent, agent.balance().overspent) == (30 * USD, 0)
    allocate(world, agent, 60 * USD)
    assert agent.handshake(100 * USD, runtime_id="two").new_money == 10 * USD
    assert world.verify().holds


def test_a_raise_wakes_an_exhausted_agent_at_once(world: World) -> None:
    """And tells those who watch, once."""
    agent = world.agent(10 * USD)
    lease = agent.handshake(10 * USD).lease.id
    agent.report(lease, "r1", 10 * USD)
    assert agent.balance().status == "exhausted"
    told = len(events(world, "budget_status_changed"))

    changed = allocate(world, agent, 11 * USD)

    assert changed.balance.status == "active"
    assert agent.handshake(5 * USD).new_money == USD
    assert events(world, "budget_status_changed")[told:] == [{"status": "active", "previous_status": "exhausted"}]


def test_a_deleted_agent_has_neither_budget_nor_history(world: World) -> None:
    """Like one that never was, whatever else is wrong."""
    agent, root = world.agent(), principal(world, "root")
    world.store.write(partial(delete_agent, agent_id=agent.id, principal=root))

    with pytest.raises(AgentNotFoundError):
        allocate(world, agent, 0, reason="a\0")
    with pytest.raises(AgentNotFoundError):
        history(world, agent, root)


# --- the history ------------------------------------------------------------


def test_an_unchanged_allocation_has_a_summary_only(world: World) -> None:
    """The initial one is no change."""
    agent = world.agent(100 * USD)

    found = history(world, agent, principal(world, "root"))

    assert (list(found.page.rows), found.page.total) == ([], 0)
    assert found.summary == AllocationSummary(100 * USD, 100 * USD, 0, 0)


def test_a_history_goes_from_the_newest_change_back(world: World) -> None:
    """Changes of one instant as well, and no other movement of money, nor another agent's."""
    root = principal(world, "root")
    agent, other = world.agent(100 * USD), world.agent(7 * USD)
    allocate(world, other, 9 * USD)
    agent.return_lease(agent.handshake(5 * USD).lease.id)
    first = allocate(world, agent, 150 * USD, reason="more")
    second = allocate(world, agent, 80 * USD + 1, force=True)
    world.clock.pass_s(1)
    third = allocate(world, agent, 90 * USD, reason="again", actor=root.actor)

    found = history(world, agent, root)

    assert [past.entry.id for past in found.page.rows] == [each.entry_id for each in (third, second, first)]
    assert [(past.previous, past.entry.allocated_after) for past in found.page.rows] == [
        (80 * USD + 1, 90 * USD), (150 * USD, 80 * USD + 1), (100 * USD, 150 * USD),
    ]  # fmt: skip
    notes = [(past.note.reason, past.note.is_forced) for past in found.page.rows if past.note is not None]
    assert notes == [("again", 0), (None, 1), ("more", 0)]
    assert [past.entry.posted_at for past in found.page.rows] == [NOON + 1000, NOON, NOON]
    assert [past.entry.actor for past in found.page.rows] == [root.user_id, ADMIN.id, ADMIN.id]
    assert found.summary == AllocationSummary(100 * USD, 90 * USD, 50 * USD + 10 * USD - 1, 3)


def test_a_summary_is_of_all_changes_whatever_the_page(world: World) -> None:
    """Pages neither repeat nor lose a change; past the end there is none."""
    root, agent = principal(world, "root"), world.agent(100 * USD)
    made = [allocate(world, agent, (100 + step) * USD).entry_id for step in range(1, 6)]

    pages = [history(world, agent, root, Paging(page, 2)) for page in (1, 2, 3, 4)]

    assert [[past.entry.id for past in each.page.rows] for each in pages] == [
        [made[4], made[3]], [made[2], made[1]], [made[0]], [],
    ]  # fmt: skip
    assert {each.page.total for each in pages} == {5}
    assert {each.summary for each in pages} == {AllocationSummary(100 * USD, 105 * USD, 5 * USD, 5)}


def test_a_history_names_those_who_are_gone(world: World) -> None:
    """By the name, else the username; also after the user was deleted. Who never was a user has none."""
    agent, root = world.agent(), principal(world, "root")
    gone = user(world, "gone")
    named = world.store.write(
        partial(add_user, username="zoe", email="zoe@test", role="admin", actor=SYSTEM, name="Zoë Z.")
    )
    for step, user_id in enumerate((gone.id, named.id, ADMIN.id), start=1):
        allocate(world, agent, (100 + step) * USD, actor=Actor("user", user_id))
    world.store.write(partial(delete_user, user_id=gone.id, principal=root))
    world.store.write(partial(delete_user, user_id=named.id, principal=root))

    found = history(world, agent, root)

    assert [past.modified_by_name for past in found.page.rows] == [None, "Zoë Z.", "gone"]


def test_a_change_by_a_request_shows_the_request(world: World) -> None:
    """A direct one shows none, whatever it refers to."""
    agent, root = world.agent(100 * USD), principal(world, "root")
    request_id = "breq_" + "1" * 32

    def post(uow: UnitOfWork, cause: str) -> None:
        post_adjustment(uow, agent.id, USD, owner_id=world.owner_id, cause=cause, actor=ADMIN.id, ref=request_id)

    for cause in ("request", "direct"):
        world.store.write(partial(post, cause=cause))

    found = history(world, agent, root)

    assert [past.request_id for past in found.page.rows] == [None, request_id]
    assert [past.note for past in found.page.rows] == [None, None]


def test_a_history_is_for_its_owner_and_for_admins(world: World) -> None:
    """The owner of today, if somebody else raised the allocation as well."""
    agent = world.agent()
    owner = world.store.read(lambda uow: uow.users.find(world.owner_id))
    assert owner is not None
    allocate(world, agent, 200 * USD)

    assert history(world, agent, principal_of(owner)).summary.changes == 1

    for other in (principal(world, "otto", "user"), principal(world, "vera", "viewer")):
        with pytest.raises(ForbiddenError) as refusal:
            history(world, agent, other)
        assert not isinstance(refusal.value, AgentTokenForbiddenError)


def test_why_an_allocation_was_changed_outlives_a_restart(tmp_path: Path) -> None:
    """Like the ledger, of which it speaks."""
    path, clock = tmp_path / "ironcage.db", SetClock()
    with SqliteStore(path, clock=clock) as store:
        world = World(store, clock)
        agent, root = world.agent(), principal(world, "root")
        allocate(world, agent, 50 * USD, force=True, reason="less")
        before = history(world, agent, root)

    with SqliteStore(path, clock=clock) as store:
        after = store.read(partial(allocation_history, agent_id=agent.id, paging=Paging(), principal=root))

    assert after == before
    assert [(past.note.reason, past.note.is_forced) for past in after.page.rows if past.note] == [("less", 1)]
