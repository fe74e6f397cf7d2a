"""What observers are told: every change writes its event where it happens, once, with all its data."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from ironcage_core.domain.access import Principal, principal_of
from ironcage_core.domain.agents import Agent, RuntimeEvent
from ironcage_core.domain.audit import Actor
from ironcage_core.domain.events import FeedEvent
from ironcage_core.domain.feed_audience import Belonging
from ironcage_core.domain.ids import ORPHANED_PROJECT
from ironcage_core.domain.instants import MS_PER_HOUR
from ironcage_core.domain.users import Role
from ironcage_core.errors.money import BudgetUnchangedError, RequestAlreadyReviewedError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agent_changes import delete_agent, update_agent
from ironcage_core.services.agent_states import start_agent, stop_agent
from ironcage_core.services.allocations import set_allocation
from ironcage_core.services.budget_requests import SeenRequest, cancel_request, submit_request
from ironcage_core.services.budget_reviews import approve, reject
from ironcage_core.services.expiry import sweep
from ironcage_core.services.feed import prune_feed
from ironcage_core.services.ic_token_changes import replace_ic_token, revoke_ic_token
from ironcage_core.services.leasing import revoke_leases
from ironcage_core.services.provider_key_changes import update_provider_key
from ironcage_core.services.runtime_states import note_telemetry
from ironcage_core.services.user_removal import delete_user
from ironcage_http.feed_messages import told
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import ADMIN, NOON, USD, SetClock, TestAgent, World
from tests.support.ws_messages import checked


class Told(NamedTuple):
    """What a row says, beside its id and time."""

    type: str
    name: str | None
    data: dict[str, Any]


class Watch:
    """Everything that is published in a world since the last look.

    Each message is held against both schemas, so an event that is not in the catalogue, or lacks data, fails any test.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.seq = 0
        self.all()

    def all(self) -> list[FeedEvent]:
        """Return the rows."""
        rows = list(self.world.store.read(lambda uow: uow.feed.after(self.seq, 10_000)))
        self.seq = max((each.seq or 0 for each in rows), default=self.seq)
        for each in rows:
            checked(told(each).full)
        return rows

    def told(self, agent: TestAgent | None = None) -> list[Told]:
        """Return what was published, all of it about one agent."""
        rows = self.all()
        assert agent is None or {each.agent_id for each in rows} <= {agent.id}
        return [Told(each.type, each.name, dict(each.data)) for each in rows]

    def write(self, use_case: Callable[..., Any], *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - whatever it gives
        return self.world.store.write(lambda uow: use_case(uow, *args, **kwargs))


@pytest.fixture
def watch(world: World) -> Watch:
    """A watch on the world."""
    return Watch(world)


def person(world: World, name: str, role: Role) -> Principal:
    return principal_of(
        world.store.write(partial(add_user, username=name, email=f"{name}@test", role=role, actor=ADMIN))
    )


def owner(world: World) -> Principal:
    found = world.store.read(lambda uow: uow.users.find(world.owner_id))
    assert found is not None
    return principal_of(found)


def state(name: str, before: str | None, reason: str | None, spent: int = 0, **more: object) -> Told:
    why = {} if reason is None else {"reason": reason}
    return Told("STATE_UPDATE", name, {"previous_state": before, "budget_spent_micros": spent, **why, **more})


def event(name: str, **data: object) -> Told:
    return Told("AGENT_EVENT", name, data)


def ended(name: str, lease_id: str, spent: int, returned: int, reason: str) -> Told:
    return event(name, lease_id=lease_id, spent_micros=spent, returned_micros=returned, reason=reason)


def exhausted(*, again: bool = False) -> Told:
    names = ("active", "exhausted") if again else ("exhausted", "active")
    return event("budget_status_changed", status=names[0], previous_status=names[1])


def running(watch: Watch, grant: int = 10 * USD, **fields: Any) -> tuple[TestAgent, str]:  # noqa: ANN401 - as agents take them
    """Return an agent that holds a lease, after looking away from how it came to that."""
    agent = watch.world.agent(**fields)
    lease_id = agent.handshake(grant).lease.id
    watch.all()
    return agent, lease_id


# --- states -----------------------------------------------------------------


def test_a_new_agent_is_idle_from_nothing(watch: Watch) -> None:
    """One event: its first budget is no change of one."""
    agent = watch.world.agent()

    assert watch.told(agent) == [state("idle", None, None)]


def test_a_handshake_tells_of_the_lease_and_of_the_start(watch: Watch) -> None:
    """What was lent, what remains, until when; a second handshake starts nothing."""
    agent = watch.world.agent()
    watch.all()

    leases = [agent.handshake(each * USD).lease for each in (10, 20)]

    granted, started, again = watch.told(agent)
    assert [granted, again] == [
        event(
            "lease_granted", lease_id=lease.id, budget_granted_micros=amount * USD,
            budget_remaining_micros=remaining * USD, expires_at=lease.expires_at,
        )
        for lease, amount, remaining in zip(leases, (10, 20), (90, 70), strict=True)
    ]  # fmt: skip
    assert started == state("running", "idle", "handshake")


def test_the_return_of_the_last_lease_stops_the_runtime(watch: Watch) -> None:
    """The lease first, then the state; what was spent by then stands in both."""
    agent, first = running(watch)
    second = agent.handshake(USD).lease.id
    agent.report(first, "r1", 2 * USD)
    watch.all()

    agent.return_lease(second)
    agent.return_lease(first)
    agent.return_lease(first)

    assert watch.told(agent) == [
        ended("lease_closed", second, 0, USD, "returned"),
        ended("lease_closed", first, 2 * USD, 8 * USD, "returned"),
        state("stopped", "running", "last_lease_returned", 2 * USD),
    ]


@pytest.mark.parametrize(("given", "told_as"), [(None, "stop"), ("  the tests hang ", "the tests hang")])
def test_a_stop_tells_who_watches_why(watch: Watch, given: str | None, told_as: str) -> None:
    """The leases go first; a second stop is no event."""
    agent, lease_id = running(watch)

    for _ in range(2):
        watch.write(stop_agent, agent.id, reason=given, principal=owner(watch.world))

    assert watch.told(agent) == [
        ended("lease_revoked", lease_id, 0, 10 * USD, "agent_stopped"),
        state("stopped", "running", told_as),
    ]


def test_a_start_makes_idle(watch: Watch) -> None:
    """And a start of what is idle is no event."""
    agent, _ = running(watch)
    watch.write(stop_agent, agent.id, principal=owner(watch.world))
    watch.all()

    for _ in range(2):
        watch.write(start_agent, agent.id, principal=owner(watch.world))

    assert watch.told(agent) == [state("idle", "stopped", "start")]


def test_inactivation_stops(watch: Watch) -> None:
    """And says that it was inactivation; activation changes no state."""
    agent, lease_id = running(watch)
    root = person(watch.world, "root", "admin")

    for status in ("inactive", "active"):
        watch.write(update_agent, agent.id, {"status": status}, principal=root)

    assert watch.told(agent) == [
        ended("lease_revoked", lease_id, 0, 10 * USD, "agent_stopped"),
        state("stopped", "running", "inactivation"),
    ]


def test_deletion_stops_what_ran(watch: Watch) -> None:
    """And says that it was deletion; a request that waited ends with the agent."""
    agent, lease_id = running(watch)
    seen = ask(watch, agent)
    watch.all()

    watch.write(delete_agent, agent.id, principal=person(watch.world, "root", "admin"))

    assert watch.told(agent) == [
        ended("lease_revoked", lease_id, 0, 10 * USD, "agent_deleted"),
        of_request("cancelled", seen),
        state("stopped", "running", "deletion"),
    ]


def test_deletion_of_what_does_not_run_changes_no_state(watch: Watch) -> None:
    """Nobody is told of what did not happen."""
    agent = watch.world.agent()
    watch.all()

    watch.write(delete_agent, agent.id, principal=person(watch.world, "root", "admin"))

    assert watch.told() == []


@pytest.mark.parametrize(
    ("happening", "name", "before"),
    [
        ("agent_started", "running", "idle"),
        ("agent_idle", "idle", "running"),
        ("agent_completed", "completed", "running"),
        ("agent_stopped", "stopped", "running"),
        ("agent_failed", "failed", "running"),
    ],
)
def test_what_a_runtime_says_of_itself_is_told(watch: Watch, happening: RuntimeEvent, name: str, before: str) -> None:
    """Once: the same word again changes nothing."""
    agent = running(watch)[0] if before == "running" else watch.world.agent()
    watch.all()
    actor = Actor("agent", agent.id)

    for _ in range(2):
        watch.world.store.write(
            lambda uow: note_telemetry(
                uow, stored(uow, agent.id), cast("Any", happening), reason="a lead", current_lead=4, actor=actor
            )
        )

    assert watch.told(agent) == [state(name, before, "a lead", current_lead=4)]


def test_a_failure_s_message_is_not_the_reason_that_is_told(watch: Watch) -> None:
    """Messages of errors are not for everybody who watches."""
    agent, _ = running(watch)

    watch.world.store.write(
        lambda uow: note_telemetry(
            uow,
            stored(uow, agent.id),
            "agent_failed",
            failure_reason="key sk-1 refused",
            actor=Actor("agent", agent.id),
        )
    )

    assert watch.told(agent) == [state("failed", "running", "agent_failed")]


def stored(uow: UnitOfWork, agent_id: str) -> Agent:
    found = uow.agents.find(agent_id)
    assert found is not None
    return found


# --- leases -----------------------------------------------------------------


def test_a_refresh_closes_the_old_lease_and_tells_the_new_money(watch: Watch) -> None:
    """What is rolled over is no new money."""
    agent, old = running(watch)
    agent.report(old, "r1", 4 * USD)
    watch.all()

    granted = cast("Any", agent.refresh(old, 10 * USD))

    balance = agent.balance()
    assert watch.told(agent) == [
        ended("lease_closed", old, 4 * USD, 6 * USD, "refreshed"),
        event(
            "lease_refreshed", lease_id=granted.lease.id, budget_granted_micros=granted.new_money,
            budget_remaining_micros=balance.remaining, expires_at=granted.lease.expires_at,
        ),
    ]  # fmt: skip
    assert granted.new_money + 6 * USD == granted.lease.granted


def test_time_expires_a_lease_and_then_closes_it(watch: Watch) -> None:
    """Its money comes back with the grace; nothing is told twice, however often somebody looks."""
    agent, lease_id = running(watch)
    agent.report(lease_id, "r1", USD)
    watch.all()

    for wait in (watch.world.policy.ttl, watch.world.policy.grace, 1000):
        watch.world.clock.pass_s(wait / 1000)
        watch.write(sweep)
        watch.write(sweep)

    assert watch.told(agent) == [
        ended("lease_expired", lease_id, USD, 0, "ttl"),
        ended("lease_closed", lease_id, USD, 9 * USD, "expired"),
    ]


def test_a_lease_that_is_used_up_expires_with_the_report(watch: Watch) -> None:
    """The call is told as well."""
    agent, lease_id = running(watch, USD)

    agent.report(lease_id, "r1", USD)
    agent.report(lease_id, "r1", USD)

    rows = watch.told(agent)
    assert [each.name for each in rows] == ["lease_expired", "llm_call"]
    assert rows[0] == ended("lease_expired", lease_id, USD, 0, "exhausted")


def test_a_new_handshake_of_a_runtime_closes_its_lease(watch: Watch) -> None:
    """Before the new one is told."""
    agent, _ = running(watch)
    first = agent.handshake(USD, runtime_id="r").lease.id
    watch.all()

    agent.handshake(USD, runtime_id="r")

    rows = watch.told(agent)
    assert rows[0] == ended("lease_closed", first, 0, USD, "superseded")
    assert [each.name for each in rows] == ["lease_closed", "lease_granted"]


def test_a_lease_is_revoked_with_a_reason(watch: Watch) -> None:
    """By hand, with its key, with the value or with the token; a lease that is over is not told again."""
    reasons: dict[str, Callable[[TestAgent, str], object]] = {
        "manual": lambda _, lease_id: watch.write(revoke_leases, [lease_id], reason="manual", actor=ADMIN),
        "ic_token_regenerated": lambda agent, _: watch.write(
            replace_ic_token, agent.id, revokes_leases=True, actor=ADMIN, signer=watch.world.signer
        ),
        "ic_token_revoked": lambda agent, _: watch.write(revoke_ic_token, agent.id, actor=ADMIN),
        "provider_key_disabled": lambda _agent, _: watch.write(
            update_provider_key, watch.world.key_id, {"is_enabled": False}, actor=ADMIN, vault=watch.world.vault
        ),
    }
    for reason, revoke in reasons.items():
        agent, lease_id = running(watch)

        revoke(agent, lease_id)

        assert ended("lease_revoked", lease_id, 0, 10 * USD, reason) in watch.told()
        watch.write(revoke_leases, [lease_id], reason="manual", actor=ADMIN)
        assert watch.told() == []


# --- budgets ----------------------------------------------------------------


def test_a_budget_that_is_used_up_changes_its_status_once(watch: Watch) -> None:
    """With the report that uses it up; the next one finds it so."""
    agent, lease_id = running(watch, USD, budget=USD)

    agent.report(lease_id, "r1", USD)
    agent.report(lease_id, "r2", USD)

    assert [each for each in watch.told(agent) if each.name == "budget_status_changed"] == [exhausted()]


def test_a_raise_tells_the_change_and_the_status(watch: Watch) -> None:
    """By whom, and from what to what."""
    agent, lease_id = running(watch, USD, budget=USD)
    agent.report(lease_id, "r1", USD)
    watch.all()

    watch.write(set_allocation, agent.id, 3 * USD, actor=ADMIN)

    assert watch.told(agent) == [
        exhausted(again=True),
        event("budget_changed", budget_micros=3 * USD, previous_budget_micros=USD, changed_by=ADMIN.id),
    ]


def test_a_cut_to_what_is_spent_exhausts(watch: Watch) -> None:
    """The status follows the books, whichever side moves; the alert has all its numbers."""
    agent, lease_id = running(watch)
    agent.report(lease_id, "r1", USD)
    watch.all()

    watch.write(set_allocation, agent.id, USD, actor=ADMIN, force=True)

    assert watch.told(agent) == [
        exhausted(),
        event("budget_changed", budget_micros=USD, previous_budget_micros=100 * USD, changed_by=ADMIN.id),
        Told("COST_ALERT", None, alert("agent", USD, USD)),
    ]


def test_what_changes_no_budget_is_not_told(watch: Watch) -> None:
    """A refused change leaves no event."""
    agent = watch.world.agent()
    watch.all()

    with pytest.raises(BudgetUnchangedError):
        watch.write(set_allocation, agent.id, 100 * USD, actor=ADMIN)

    assert watch.told() == []


def alert(scope: str, spent: int, limit: int, **more: object) -> dict[str, object]:
    """Return what is said when everything is used up at once."""
    return {
        "scope": scope, "threshold": 100, "crossed": [50, 80, 90, 100], "percentage": spent * 100 // limit,
        "budget_spent_micros": spent, "budget_limit_micros": limit, "budget_remaining_micros": limit - spent,
        "pending_spend_micros": 0, **more,
    }  # fmt: skip


def test_an_alert_of_a_month_names_whose_month_it_is(watch: Watch) -> None:
    """The owner who pays, whoever owns the agent by now; an alert of a budget names nobody."""
    watch.world.cap(10 * USD)
    agent, lease_id = running(watch, 10 * USD, budget=11 * USD)
    other = person(watch.world, "bea", "user")
    watch.write(update_agent, agent.id, {"owner_id": other.user_id}, principal=person(watch.world, "root", "admin"))
    watch.all()

    agent.report(lease_id, "r1", 11 * USD)

    alerts = [each for each in watch.all() if each.type == "COST_ALERT"]
    assert [(each.agent_id, each.severity, dict(each.data)) for each in alerts] == [
        (agent.id, "critical", alert("agent", 11 * USD, 11 * USD)),
        (agent.id, "critical", alert("user_month", 11 * USD, 10 * USD, user_id=watch.world.owner_id)),
    ]
    assert [told(each).user_id for each in alerts] == [None, watch.world.owner_id]


# --- budget requests --------------------------------------------------------


def ask(watch: Watch, agent: TestAgent) -> SeenRequest:
    seen: SeenRequest = watch.write(
        submit_request, agent.id, 150 * USD, "the archive is indexed anew", principal=owner(watch.world)
    )
    return seen


def of_request(what: str, seen: SeenRequest) -> Told:
    return event(f"budget_request_{what}", budget_request_id=seen.request.id, requested_budget_micros=150 * USD)


def test_a_request_is_told_when_it_is_made(watch: Watch) -> None:
    """Which, and for how much."""
    agent = watch.world.agent()
    watch.all()

    seen = ask(watch, agent)

    assert watch.told(agent) == [of_request("created", seen)]


def test_an_approval_tells_the_new_budget_as_well(watch: Watch) -> None:
    """Which names the request; a second approval is none."""
    agent = watch.world.agent()
    seen = ask(watch, agent)
    root = person(watch.world, "root", "admin")
    watch.all()

    watch.write(approve, seen.request.id, principal=root)
    with pytest.raises(RequestAlreadyReviewedError):
        watch.write(approve, seen.request.id, principal=root)

    changed = event(
        "budget_changed", budget_micros=150 * USD, previous_budget_micros=100 * USD, changed_by=root.user_id,
        budget_request_id=seen.request.id,
    )  # fmt: skip
    rows = watch.told(agent)
    assert (len(rows), changed in rows, of_request("approved", seen) in rows) == (2, True, True)


def test_a_rejection_and_a_cancellation_are_told(watch: Watch) -> None:
    """Each once; no budget changes."""
    agent = watch.world.agent()
    first = ask(watch, agent)
    watch.all()

    watch.write(reject, first.request.id, "use the smaller model", principal=person(watch.world, "root", "admin"))
    second = ask(watch, agent)
    watch.write(cancel_request, second.request.id, principal=owner(watch.world))

    assert watch.told(agent) == [
        of_request("rejected", first), of_request("created", second), of_request("cancelled", second),
    ]  # fmt: skip


def test_the_requests_of_a_deleted_user_are_cancelled_aloud(watch: Watch) -> None:
    """His agent stays, and whoever owns it now hears that nothing comes of it."""
    agent = watch.world.agent()
    seen = ask(watch, agent)
    watch.all()

    watch.write(delete_user, watch.world.owner_id, principal=person(watch.world, "root", "admin"))

    assert watch.told(agent) == [of_request("cancelled", seen)]


def test_nothing_is_published_when_a_change_is_undone(watch: Watch) -> None:
    """An event stands and falls with what it tells of."""
    agent = watch.world.agent()
    watch.all()

    def undone(uow: UnitOfWork) -> None:
        set_allocation(uow, agent.id, USD * 7, actor=ADMIN, force=True)
        raise LookupError

    with pytest.raises(LookupError):
        watch.world.store.write(undone)

    assert watch.told() == []


def test_the_feed_keeps_what_is_young_and_not_too_much(world: World) -> None:
    """Whichever bound keeps less, and always the newest event; in steps of so many at most."""
    for hours in (30, 20, 10):
        world.clock.instant = NOON - hours * MS_PER_HOUR
        world.store.write(_publish_ten)
    world.clock.instant = NOON

    def kept() -> int:
        return len(world.store.read(lambda uow: uow.feed.after(0, 10**6)))

    before = kept()
    step = world.store.write(partial(prune_feed, hours=24, events=10**6, limit=3))
    by_age = world.store.write(partial(prune_feed, hours=24, events=10**6, limit=10**6))
    left = kept()
    world.store.write(partial(prune_feed, hours=24, events=15, limit=10**6))
    fewer = kept()
    world.store.write(partial(prune_feed, hours=1, events=15, limit=10**6))

    assert (step, step + by_age, left) == (3, before - 20, 20)
    assert (fewer, kept()) == (15, 1)


def test_the_log_is_in_the_order_of_commits_whatever_the_clock_says(tmp_path: Path) -> None:
    """It was set back over two restarts; page by page nothing is left out, and the newest is what came last."""
    clock = SetClock()
    for _ in range(3):
        with SqliteStore(tmp_path / "ironcage.db", clock=clock) as store:
            store.write(_publish_ten)
        clock.pass_s(-60)

    with SqliteStore(tmp_path / "ironcage.db", clock=clock) as store:
        read = store.read(_read_by_sevens)
        newest = store.read(lambda uow: uow.feed.newest())
        after = store.read(lambda uow: uow.feed.after(0, 100))

    assert [(each.seq, each.at) for each in read] == [
        (number + 1, NOON - number // 10 * 60_000) for number in range(30)
    ]  # fmt: skip
    assert list(after) == read
    assert newest == (30, read[-1].id)
    assert read[-1].id < read[0].id


def test_where_an_agent_belongs_is_told_as_of_now(world: World) -> None:
    """Also of an event from before, and in the unit of work that moves it; what is of the system belongs nowhere."""
    agent = world.agent()
    other = person(world, "bea", "user")
    world.store.write(
        lambda uow: uow.feed.append("AGENT_EVENT", agent_id=None, name="router_started", data={"port": 1})
    )

    def move_and_look(uow: UnitOfWork) -> list[tuple[str | None, Belonging | None]]:
        uow.agents.put(stored(uow, agent.id)._replace(owner_id=other.user_id, project_id=ORPHANED_PROJECT))
        return [(each.agent_id, where) for each, where in uow.feed.tail(0, 100)]

    told_of = world.store.write(move_and_look)

    assert told_of == [(agent.id, Belonging(other.user_id, ORPHANED_PROJECT)), (None, None)]


def test_a_place_is_found_beside_a_gap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halving alone leads to it, and on both sides of what was purged in the middle; what is purged is nowhere."""
    monkeypatch.setattr("ironcage_storage.sqlite.feed.ASTRAY", 0)
    for hours in (3, 1, 3, 3, 1):
        world.clock.instant = NOON - hours * MS_PER_HOUR
        world.store.write(_publish_ten)
    rows = world.store.read(lambda uow: list(uow.feed.after(0, 100)))

    def places() -> list[int | None]:
        return world.store.read(lambda uow: [uow.feed.seq_of(each.id) for each in rows])

    def purge(limit: int) -> int:
        return world.store.write(lambda uow: uow.feed.purge(NOON - 2 * MS_PER_HOUR, 100, limit))

    whole = places()
    first = purge(10)
    without_the_first = places()
    monkeypatch.setattr("ironcage_storage.sqlite.feed.ASTRAY", 20)  # as long as the gap
    second = purge(100)

    assert (first, second) == (10, 20)
    assert whole == [each.seq for each in rows]
    assert without_the_first == [None if place < 10 else each.seq for place, each in enumerate(rows)]
    assert places() == [each.seq if each.at == NOON - MS_PER_HOUR else None for each in rows]


def test_a_place_is_looked_for_so_many_rows_to_each_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was set back makes ids lie as far from their places."""
    monkeypatch.setattr("ironcage_storage.sqlite.feed.ASTRAY", 20)
    clock = SetClock()
    for _ in range(2):
        with SqliteStore(tmp_path / "ironcage.db", clock=clock) as store:
            store.write(_publish_ten)
        clock.pass_s(-60)

    with SqliteStore(tmp_path / "ironcage.db", clock=clock) as store:
        rows = store.read(lambda uow: list(uow.feed.after(0, 100)))
        places = store.read(lambda uow: [uow.feed.seq_of(each.id) for each in rows])

    assert places == [each.seq for each in rows]


def _read_by_sevens(uow: UnitOfWork) -> list[FeedEvent]:
    read: list[FeedEvent] = []
    while page := uow.feed.tail((read[-1].seq or 0) if read else 0, 7):
        read += [each for each, _ in page]
    return read


def _publish_ten(uow: UnitOfWork) -> None:
    for number in range(10):
        uow.feed.append("AGENT_EVENT", agent_id=None, name="router_started", data={"port": number})
