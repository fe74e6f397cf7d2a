"""Usage limits: what they hold back and when, what counts against them, and who sets and sees them."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ironcage_core.domain.access import Principal
from ironcage_core.domain.ids import MASTER_PROJECT
from ironcage_core.domain.instants import MS_PER_DAY, MS_PER_MINUTE, parse_instant
from ironcage_core.domain.leases import LeasePolicy
from ironcage_core.domain.projects import Project, ProjectKey
from ironcage_core.domain.users import Role
from ironcage_core.errors.money import BudgetExceededError, TooManyLeasesError
from ironcage_core.errors.resources import (
    AgentInactiveError,
    LimitExistsError,
    LimitNotFoundError,
    UsageLimitExceededError,
)
from ironcage_core.errors.tree import ForbiddenError, IroncageError, NoFieldsError, ValidationError
from ironcage_core.ports.lists import LimitFilter, Page, Paging
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.granting import Granted
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.key_release import key_of_agent, release_to_agent, release_to_token
from ironcage_core.services.leasing import Denied, revoke_leases
from ironcage_core.services.usage_limits import (
    LimitFields,
    LimitView,
    UsageOfLimit,
    change_limit,
    create_limit,
    delete_limit,
    get_limit,
    list_limits,
)
from ironcage_storage.sealed.vault import NoVault
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import api_row
from tests.support.world import ADMIN, NOON, USD, SetClock, TestAgent, World

OTHER = "proj_" + "1" * 32
UNKNOWN = "lim_" + "0" * 32
MIDNIGHT = NOON + MS_PER_DAY // 2
DECEMBER = parse_instant("2025-12-01T00:00:00Z", field="at")


@dataclass
class Desk:
    """A world with a second project, and short words for limits; ann owns its agents."""

    world: World

    def __post_init__(self) -> None:
        self.world.store.write(lambda uow: uow.projects.put(Project(OTHER, "Other", None, None, 0, 0)))
        self.ann = self.world.owner_id

    def set(self, user_id: str | None = "", **fields: Any) -> str:  # noqa: ANN401 - as the test says
        """Limit a user, ann unless told otherwise, and return the id of the limit."""
        wish: LimitFields = {"user_id": self.ann if user_id == "" else user_id, **fields}  # type: ignore[typeddict-item]  # likewise
        return self.world.store.write(lambda uow: create_limit(uow, wish, actor=ADMIN)).limit.id

    def change(self, limit_id: str, **fields: Any) -> LimitView:  # noqa: ANN401 - as the test says
        wish: LimitFields = fields  # type: ignore[assignment]  # as the test says
        return self.world.store.write(lambda uow: change_limit(uow, limit_id, wish, actor=ADMIN))

    def delete(self, limit_id: str) -> None:
        self.world.store.write(lambda uow: delete_limit(uow, limit_id, actor=ADMIN))

    def used(self, limit_id: str) -> UsageOfLimit:
        seen = self.world.store.write(lambda uow: get_limit(uow, limit_id, person("user_" + "9" * 32, "admin")))
        return seen.usage

    def page(self, principal: Principal, **which: str) -> Page[LimitView]:
        return self.world.store.write(
            lambda uow: list_limits(uow, LimitFilter(**which), Paging(1, 50), principal=principal)
        )

    def audited(self) -> list[tuple[str, str | None, Any]]:
        rows = self.world.store.read(lambda uow: list(uow.audit.rows()))
        return [
            (row.operation, row.resource_id, json.loads(row.changes or "null"))
            for row in rows
            if row.operation.startswith("LIMIT_")
        ]

    def agent(self, project_id: str = MASTER_PROJECT, **fields: Any) -> TestAgent:  # noqa: ANN401 - as World's
        agent = self.world.agent(**fields)
        self.alter(agent, project_id=project_id)
        return agent

    def alter(self, agent: TestAgent, **columns: Any) -> None:  # noqa: ANN401 - as the test says
        def use_case(uow: UnitOfWork) -> None:
            found = uow.agents.find(agent.id)
            assert found is not None
            uow.agents.put(found._replace(**columns))

        self.world.store.write(use_case)

    def key_for(self, agent: TestAgent) -> str:
        presented = self.world.signer.prove(agent.token, now=self.world.clock.now())

        def use_case(uow: UnitOfWork) -> str:
            identity = authenticate(uow, presented)
            key = key_of_agent(uow, identity)
            return release_to_agent(uow, identity, key, vault=self.world.vault).api_key

        return self.world.store.write(use_case)

    def program(self, project_id: str = MASTER_PROJECT) -> Callable[[], str]:
        """Return what asks for the project's key with a token of ann's."""
        token = api_row(self.ann, project_id=project_id)
        principal = replace(person(self.ann, "user"), session_id=None, token=token)

        def prepare(uow: UnitOfWork) -> None:
            uow.api_tokens.put(token)
            uow.projects.assign(ProjectKey(project_id, "openai", self.world.key_id, uow.now))

        self.world.store.write(prepare)
        return lambda: self.world.store.write(
            lambda uow: release_to_token(uow, principal, vault=self.world.vault).api_key
        )


def person(user_id: str, role: Role) -> Principal:
    return Principal(
        user_id, "x", "x@test", "x", role, "sess",
        must_change_password=False, reach="all" if role == "admin" else "own",
    )  # fmt: skip


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


def refused(act: Callable[[], object]) -> IroncageError:
    with pytest.raises(IroncageError) as caught:
        act()
    return caught.value


def held_back(act: Callable[[], object]) -> tuple[object, ...]:
    """Return what a cap on something counted says of itself when it refuses."""
    error = refused(act)
    assert isinstance(error, UsageLimitExceededError), error
    return tuple(error.details[name] for name in ("limit_id", "limit", "cap", "used", "resets_at", "retry_after_s"))


def out_of_money(act: Callable[[], object]) -> tuple[object, ...]:
    error = refused(act)
    assert isinstance(error, BudgetExceededError), error
    return tuple(error.details[name] for name in ("scope", "spent", "limit", "held", "remaining", "frees_at"))


# --- setting them ------------------------------------------------------------


def test_a_limit_is_set_changed_and_lifted(desk: Desk) -> None:
    """Each leaves a row of the audit log with what differs; a change that changes nothing leaves none."""
    limit_id = desk.set(max_tokens_per_day=5, max_cost_per_month=USD)
    desk.world.clock.pass_s(1)
    desk.change(limit_id, max_tokens_per_day=None, max_requests_per_minute=7)
    desk.world.clock.pass_s(1)

    same = desk.change(limit_id, user_id=desk.ann, project_id=None, max_requests_per_minute=7).limit
    desk.delete(limit_id)

    assert (same.created_at, same.updated_at) == (NOON, NOON + 1000)
    assert (same.max_tokens_per_day, same.max_requests_per_minute, same.max_cost_per_month) == (None, 7, USD)
    whole = {"user_id": desk.ann, "project_id": None, "max_cost_per_month_micros": USD}
    first = {**whole, "max_tokens_per_day": 5, "max_requests_per_minute": None}
    last = {**whole, "max_tokens_per_day": None, "max_requests_per_minute": 7}
    changes = {
        "before": {"max_tokens_per_day": 5, "max_requests_per_minute": None},
        "after": {"max_tokens_per_day": None, "max_requests_per_minute": 7},
    }
    assert desk.audited() == [
        ("LIMIT_CREATED", limit_id, {"before": None, "after": first}),
        ("LIMIT_UPDATED", limit_id, changes),
        ("LIMIT_DELETED", limit_id, {"before": last, "after": None}),
    ]


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({}, {"body"}),
        ({"max_tokens_per_day": None}, {"body"}),
        ({"max_tokens_per_day": 0}, {"max_tokens_per_day"}),
        ({"max_tokens_per_day": 2**53}, {"max_tokens_per_day"}),
        ({"max_tokens_per_day": True}, {"max_tokens_per_day"}),
        ({"max_requests_per_minute": -1}, {"max_requests_per_minute"}),
        ({"max_requests_per_minute": 2**53}, {"max_requests_per_minute"}),
        ({"max_requests_per_minute": "5"}, {"max_requests_per_minute"}),
        ({"max_cost_per_month": 0}, {"max_cost_per_month_usd"}),
        ({"max_cost_per_month": 10**15 + 1}, {"max_cost_per_month_usd"}),
        ({"max_cost_per_month": 1.5}, {"max_cost_per_month_usd"}),
        ({"user_id": "user_" + "0" * 32, "max_tokens_per_day": 1}, {"user_id"}),
        ({"user_id": "user_\ud800", "max_tokens_per_day": 1}, {"user_id"}),
        ({"user_id": None, "max_tokens_per_day": 1}, {"user_id"}),
        ({"project_id": "proj_\ud800", "max_tokens_per_day": 1}, {"project_id"}),
        ({"project_id": "proj_" + "0" * 32, "max_tokens_per_day": 0}, {"project_id", "max_tokens_per_day"}),
    ],
)
def test_a_limit_that_cannot_be_is_refused(desk: Desk, fields: dict[str, Any], bad: set[str]) -> None:
    """Every bad field is named; nothing is stored."""
    with pytest.raises(ValidationError) as caught:
        desk.set(**fields)

    assert set(caught.value.fields) == bad
    assert desk.page(person(desk.ann, "admin")).total == 0


def test_the_smallest_and_the_largest_caps_are_caps(desk: Desk) -> None:
    """1 and the largest integer that JSON holds exactly; a micro-dollar and a billion dollars."""
    least = desk.set(max_tokens_per_day=1, max_requests_per_minute=1, max_cost_per_month=1)
    most = {"max_tokens_per_day": 2**53 - 1, "max_requests_per_minute": 2**53 - 1, "max_cost_per_month": 10**15}

    changed = desk.change(least, **most).limit

    assert {name: getattr(changed, name) for name in most} == most


def test_a_deleted_user_is_no_user_and_a_suspended_one_is(desk: Desk) -> None:
    """Only who lives can be limited."""

    def become(status: str) -> None:
        def use_case(uow: UnitOfWork) -> None:
            user = uow.users.find(desk.ann)
            assert user is not None
            uow.users.put(user._replace(status=status))  # type: ignore[arg-type]  # as the test says

        desk.world.store.write(use_case)

    become("suspended")
    assert desk.set(max_tokens_per_day=1)
    become("deleted")
    error = refused(lambda: desk.set(project_id=OTHER, max_tokens_per_day=1))
    assert isinstance(error, ValidationError)
    assert set(error.fields) == {"user_id"}


def test_a_user_has_one_limit_in_all_and_one_in_each_project(desk: Desk) -> None:
    """No project counts as one value."""
    limits = [desk.set(project_id=project, max_tokens_per_day=1) for project in (None, MASTER_PROJECT, OTHER)]

    for project, known in zip((None, MASTER_PROJECT, OTHER), limits, strict=True):
        error = refused(partial(desk.set, project_id=project, max_requests_per_minute=1))
        assert isinstance(error, LimitExistsError)
        assert error.details["limit_id"] == known
    desk.delete(limits[0])
    assert desk.set(max_tokens_per_day=1) != limits[0]


def test_a_change_is_of_caps_and_leaves_one(desk: Desk) -> None:
    """Whose limit it is stays; nothing at all is no change."""
    limit_id = desk.set(project_id=OTHER, max_tokens_per_day=5)

    for fields, bad in (
        ({"max_tokens_per_day": None}, {"body"}),
        ({"project_id": None, "max_tokens_per_day": 6}, {"project_id"}),
        ({"project_id": MASTER_PROJECT}, {"project_id"}),
        ({"user_id": None}, {"user_id"}),
        ({"user_id": "user_" + "0" * 32, "max_cost_per_month": 0}, {"user_id", "max_cost_per_month_usd"}),
    ):
        with pytest.raises(ValidationError) as caught:
            desk.change(limit_id, **fields)
        assert set(caught.value.fields) == bad
    assert isinstance(refused(lambda: desk.change(limit_id)), NoFieldsError)
    assert desk.change(limit_id, user_id=desk.ann, project_id=OTHER).limit.max_tokens_per_day == 5


@pytest.mark.parametrize("limit_id", [UNKNOWN, "abc", "agents", "lim_\ud800", ""])
def test_what_is_no_limit_is_not_found(desk: Desk, limit_id: str) -> None:
    """Whatever is done to it; also one that was deleted."""
    gone = desk.set(max_tokens_per_day=1)
    desk.delete(gone)

    for act in (
        partial(desk.used, limit_id),
        partial(desk.change, limit_id, max_tokens_per_day=1),
        partial(desk.delete, limit_id),
        partial(desk.delete, gone),
    ):
        assert isinstance(refused(act), LimitNotFoundError)


def test_who_sees_which_limits(desk: Desk) -> None:
    """An admin all, anybody else the own; a token that is bound to a project those of the project."""
    ben = desk.world.store.write(partial(add_user, username="ben", email="ben@test", role="viewer", actor=ADMIN)).id
    whole, inner = desk.set(max_tokens_per_day=1), desk.set(project_id=OTHER, max_tokens_per_day=1)
    bens = desk.set(ben, max_tokens_per_day=1)
    ann, admin = person(desk.ann, "user"), person("user_" + "9" * 32, "admin")
    bound = replace(ann, token=api_row(desk.ann, project_id=OTHER))

    def ids(principal: Principal, **which: str) -> list[str]:
        page = desk.page(principal, **which)
        assert page.total == len(page.rows)
        return [seen.limit.id for seen in page.rows]

    assert ids(admin) == [bens, inner, whole]
    assert ids(admin, user_id=desk.ann) == [inner, whole]
    assert ids(admin, project_id=OTHER) == [inner]
    assert ids(ann) == ids(ann, user_id=desk.ann) == [inner, whole]
    assert ids(person(ben, "viewer")) == [bens]
    assert ids(ann, user_id=ben) == []
    assert ids(bound) == [inner]
    assert ids(bound, project_id=MASTER_PROJECT) == []
    for principal, mine, foreign in ((ann, whole, bens), (person(ben, "viewer"), bens, whole), (bound, inner, whole)):
        desk.world.store.read(partial(get_limit, limit_id=mine, principal=principal))
        error = refused(partial(desk.world.store.read, partial(get_limit, limit_id=foreign, principal=principal)))
        assert isinstance(error, ForbiddenError)


# --- what is counted ---------------------------------------------------------


def test_tokens_of_a_day_hold_grants_back_until_midnight(desk: Desk) -> None:
    """Reached is at the cap, not past it; a report is booked however much it is."""
    limit_id = desk.set(max_tokens_per_day=200)
    agent = desk.agent()
    lease = agent.handshake(USD).lease
    agent.report(lease.id, "one", 1, tokens=199)

    assert agent.handshake(USD).new_money == USD
    agent.report(lease.id, "two", 1, tokens=1)
    assert held_back(agent.handshake) == (limit_id, "max_tokens_per_day", 200, 200, MIDNIGHT, 43_200)
    agent.report(lease.id, "three", 1, tokens=1_000)
    desk.world.clock.instant = MIDNIGHT - 1
    assert held_back(agent.handshake)[3:] == (1_200, MIDNIGHT, 1)
    desk.world.clock.instant = MIDNIGHT
    assert agent.handshake(USD).new_money == USD
    assert desk.used(limit_id).tokens_today == 0


def test_reports_and_grants_of_a_minute_are_counted(desk: Desk) -> None:
    """A cap of two lets two pass; a refused grant and a repeated report count nothing."""
    limit_id = desk.set(max_requests_per_minute=2)
    agent = desk.agent()

    lease = agent.handshake(USD).lease
    for _ in range(3):
        agent.report(lease.id, "one", 1)
    refusals = [held_back(agent.handshake) for _ in range(2)]
    agent.report(lease.id, "two", 1)

    assert refusals == [(limit_id, "max_requests_per_minute", 2, 2, NOON + MS_PER_MINUTE, 60)] * 2
    assert desk.used(limit_id).requests_this_minute == 3
    desk.world.clock.instant = NOON + MS_PER_MINUTE - 1
    assert held_back(agent.handshake)[-1] == 1
    desk.world.clock.instant = NOON + MS_PER_MINUTE
    assert agent.handshake(USD).new_money == USD
    assert desk.used(limit_id).requests_this_minute == 1


def test_a_row_of_a_project_counts_what_is_done_there(desk: Desk) -> None:
    """And a row without one counts everything; whoever else's calls are counted for them."""
    ben = desk.world.store.write(partial(add_user, username="ben", email="ben@test", role="user", actor=ADMIN)).id
    inner = desk.set(project_id=OTHER, max_tokens_per_day=100)
    whole = desk.set(max_tokens_per_day=10_000)
    here, there, bens = desk.agent(), desk.agent(OTHER), desk.agent(OTHER, owner_id=ben)
    for agent in (here, bens):
        agent.report(agent.handshake(USD).lease.id, "one", 1, tokens=500)

    lease = there.handshake(USD).lease
    there.report(lease.id, "one", 1, tokens=100)

    assert held_back(there.handshake)[:4] == (inner, "max_tokens_per_day", 100, 100)
    assert here.handshake(USD).new_money == bens.handshake(USD).new_money == USD
    assert (desk.used(inner).tokens_today, desk.used(whole).tokens_today) == (100, 600)
    assert (desk.used(inner).requests_this_minute, desk.used(whole).requests_this_minute) == (2, 5)
    desk.change(whole, max_tokens_per_day=600)
    assert held_back(here.handshake)[0] == whole


def test_a_report_counts_in_the_project_where_its_agent_is_now(desk: Desk) -> None:
    """Its lease's money stays with the project that lent it; the books hold, also when the record is gone."""
    old, new = (
        desk.set(project_id=MASTER_PROJECT, max_tokens_per_day=1_000),
        desk.set(project_id=OTHER, max_tokens_per_day=1_000),
    )
    agent = desk.agent()
    lease = agent.handshake(USD).lease
    agent.report(lease.id, "one", 1, tokens=5)
    desk.alter(agent, project_id=OTHER)

    agent.report(lease.id, "two", 2, tokens=70, occurred_at=NOON - 3 * MS_PER_DAY)

    store = desk.world.store
    records = store.read(lambda uow: [uow.usage.find(agent.id, key) for key in ("one", "two")])
    assert [record.project_id for record in records if record] == [MASTER_PROJECT, OTHER]
    assert [desk.used(limit).tokens_today for limit in (old, new)] == [5, 70]
    assert [desk.used(limit).cost_this_month for limit in (old, new)] == [3, 0]
    assert desk.world.verify().holds
    store.write(lambda uow: uow.usage.advance_horizon("records", NOON - NOON % MS_PER_DAY))
    assert store.write(lambda uow: uow.usage.purge_records(10)) == 1
    assert desk.world.verify().holds


def test_of_several_reached_caps_the_one_that_lasts_longest_is_told(desk: Desk) -> None:
    """Who comes back when it says must not be sent away again at once."""
    whole = desk.set(max_requests_per_minute=1, max_tokens_per_day=100)
    inner = desk.set(project_id=MASTER_PROJECT, max_requests_per_minute=1)
    agent = desk.agent()
    lease = agent.handshake(USD).lease
    agent.report(lease.id, "one", 1, tokens=99)

    assert held_back(agent.handshake)[1] == "max_requests_per_minute"
    agent.report(lease.id, "two", 1, tokens=1)
    assert held_back(agent.handshake)[:2] == (whole, "max_tokens_per_day")
    desk.delete(whole)
    assert held_back(agent.handshake)[:2] == (inner, "max_requests_per_minute")


def test_calls_count_for_the_owner_in_their_record(desk: Desk) -> None:
    """After a change of owner an old lease's reports stay with the old one, new grants are the new one's."""
    ben = desk.world.store.write(partial(add_user, username="ben", email="ben@test", role="user", actor=ADMIN)).id
    anns = desk.set(max_tokens_per_day=100, max_cost_per_month=50 * USD)
    bens = desk.set(ben, max_tokens_per_day=100, max_cost_per_month=50 * USD)
    agent, remaining = desk.agent(), desk.agent()
    lease = agent.handshake(10 * USD).lease
    desk.alter(agent, owner_id=ben)

    agent.report(lease.id, "one", USD, tokens=100)
    granted = agent.handshake(5 * USD)

    assert held_back(remaining.handshake)[0] == anns
    assert granted.new_money == 5 * USD
    old, new = desk.used(anns), desk.used(bens)
    assert (old.tokens_today, old.requests_this_minute, old.cost_this_month, old.held) == (100, 2, USD, 9 * USD)
    assert (new.tokens_today, new.requests_this_minute, new.cost_this_month, new.held) == (0, 1, 0, 5 * USD)


def test_what_is_shown_is_what_is_counted(desk: Desk) -> None:
    """With the end of each window, and as of now: a lease whose time is over holds nothing."""
    limit_id = desk.set(project_id=MASTER_PROJECT, max_tokens_per_day=1_000)
    agent = desk.agent()
    lease = agent.handshake(10 * USD).lease
    agent.report(lease.id, "one", USD, tokens=7)

    shown = desk.used(limit_id)
    desk.world.clock.instant = lease.lives_until + 1

    assert shown == UsageOfLimit(7, 2, USD, 9 * USD, MIDNIGHT, NOON + MS_PER_MINUTE, DECEMBER)
    assert desk.used(limit_id).held == 0
    assert desk.page(person(desk.ann, "user")).rows[0].usage.held == 0


def test_a_limit_that_is_set_late_knows_what_was_used_before(desk: Desk) -> None:
    """What counts is counted whether anybody is limited or not; lifting a limit forgets nothing."""
    agent = desk.agent()
    agent.report(agent.handshake(USD).lease.id, "one", 1, tokens=100)

    first = desk.set(max_tokens_per_day=100)
    assert held_back(agent.handshake)[0] == first
    desk.delete(first)
    assert agent.handshake(USD).new_money == USD
    assert held_back(lambda: (desk.set(max_tokens_per_day=100), agent.handshake()))[3] == 100


# --- money of a month --------------------------------------------------------


def test_a_project_s_month_refuses_when_it_is_reached_and_never_clips(desk: Desk) -> None:
    """Spent and held together, at the cap; a grant that starts below it is whole."""
    desk.set(project_id=OTHER, max_cost_per_month=10 * USD)
    agent, elsewhere = desk.agent(OTHER), desk.agent()

    first = agent.handshake(10 * USD - 1)
    second = agent.handshake(10 * USD)
    agent.report(first.lease.id, "one", USD)

    assert (first.new_money, second.new_money) == (10 * USD - 1, 10 * USD)
    assert out_of_money(agent.handshake) == (
        "project_month", USD, 10 * USD, 19 * USD - 1, -10 * USD + 1, first.lease.frees_at,
    )  # fmt: skip
    assert elsewhere.handshake(10 * USD).new_money == 10 * USD
    agent.return_lease(second.lease.id)
    assert agent.handshake(USD).new_money == USD


def test_a_project_s_month_is_reached_at_its_cap(desk: Desk) -> None:
    """Not a micro-dollar before, whatever other projects cost; a new month starts clean."""
    limit_id = desk.set(project_id=MASTER_PROJECT, max_cost_per_month=10 * USD)
    agent, elsewhere = desk.agent(budget=1_000 * USD), desk.agent(OTHER)
    elsewhere.report(elsewhere.handshake(20 * USD).lease.id, "one", 15 * USD)
    lease = agent.handshake(10 * USD).lease

    assert out_of_money(agent.handshake)[:5] == ("project_month", 0, 10 * USD, 10 * USD, 0)
    desk.change(limit_id, max_cost_per_month=10 * USD + 1)
    assert agent.handshake(USD).new_money == USD
    agent.report(lease.id, "one", 20 * USD)
    assert out_of_money(agent.handshake)[1] == 20 * USD
    desk.world.clock.instant = DECEMBER
    assert agent.handshake(USD).new_money == USD
    assert desk.used(limit_id).cost_this_month == 0


def test_a_lease_that_ends_frees_its_hold(desk: Desk) -> None:
    """Returned, revoked or superseded."""
    desk.set(project_id=MASTER_PROJECT, max_cost_per_month=10 * USD)
    agent = desk.agent()

    returned = agent.handshake(10 * USD).lease
    assert out_of_money(agent.handshake)[0] == "project_month"
    agent.return_lease(returned.id)
    revoked = agent.handshake(10 * USD).lease
    assert out_of_money(agent.handshake)[0] == "project_month"
    desk.world.store.write(lambda uow: revoke_leases(uow, [revoked.id], reason="manual", actor=ADMIN))
    superseded = agent.handshake(10 * USD, runtime_id="pod").lease

    assert agent.handshake(10 * USD, runtime_id="pod").new_money == 10 * USD
    assert agent.lease(superseded.id).status_reason == "superseded"


def test_a_refresh_without_money_in_the_project_is_denied(desk: Desk) -> None:
    """An answer, no refusal: the old lease lives on, and slides."""
    limit_id = desk.set(project_id=MASTER_PROJECT, max_cost_per_month=10 * USD)
    agent = desk.agent()
    lease = agent.handshake(10 * USD).lease
    desk.world.clock.pass_s(60)

    outcome = agent.refresh(lease.id, USD)

    assert isinstance(outcome, Denied)
    assert outcome.reason == "monthly_cap_reached"
    after = agent.lease(lease.id)
    assert (after.status, after.expires_at, after.held) == ("active", lease.expires_at + 60_000, 10 * USD)
    desk.delete(limit_id)
    assert isinstance(agent.refresh(lease.id, USD), Granted)


def test_a_spent_budget_is_still_told_as_such(desk: Desk) -> None:
    """A refresh names the agent's own budget where that is what is used up."""
    desk.set(project_id=MASTER_PROJECT, max_cost_per_month=100 * USD)
    agent = desk.agent(budget=USD)

    outcome = agent.refresh(agent.handshake(USD).lease.id, USD)

    assert isinstance(outcome, Denied)
    assert outcome.reason == "total_budget_exhausted"


# --- refreshes and keys ------------------------------------------------------


def test_a_refresh_is_held_back_as_a_handshake_is(desk: Desk) -> None:
    """The old lease stays exactly as it was; a retry of one that was granted is no new grant."""
    limit_id = desk.set(max_requests_per_minute=2)
    agent = desk.agent()
    lease = agent.handshake(USD).lease
    granted = agent.refresh(lease.id, USD)
    assert isinstance(granted, Granted)
    desk.world.clock.pass_s(10)
    before = agent.lease(granted.lease.id)

    assert held_back(lambda: agent.refresh(granted.lease.id, USD))[:2] == (limit_id, "max_requests_per_minute")
    replayed = agent.refresh(lease.id, USD)

    assert isinstance(replayed, Granted)
    assert replayed.replayed
    assert agent.lease(granted.lease.id) == before
    assert desk.used(limit_id).requests_this_minute == 2


def test_a_key_in_the_clear_is_a_grant(desk: Desk) -> None:
    """To an agent and to a program: each counts, in its project, and each is held back."""
    whole = desk.set(max_requests_per_minute=3)
    inner = desk.set(project_id=OTHER, max_requests_per_minute=1)
    agent, program, other = desk.agent(), desk.program(), desk.program(OTHER)

    desk.key_for(agent)
    other()

    assert held_back(other)[0] == inner
    program()
    assert [held_back(act)[0] for act in (partial(desk.key_for, agent), program)] == [whole, whole]
    assert (desk.used(whole).requests_this_minute, desk.used(inner).requests_this_minute) == (3, 1)


def test_a_key_that_is_not_released_counts_nothing(desk: Desk) -> None:
    """It failed after the gate."""
    limit_id = desk.set(max_requests_per_minute=3)
    agent = desk.agent()
    vault, desk.world.vault = desk.world.vault, NoVault()

    error = refused(lambda: desk.key_for(agent))
    desk.world.vault = vault

    assert error.code == "CRYPTO_UNAVAILABLE"
    assert desk.used(limit_id).requests_this_minute == 0


def test_no_key_leaves_a_project_whose_month_is_reached(desk: Desk) -> None:
    """To an agent or a program of that project; others are served."""
    desk.set(project_id=OTHER, max_cost_per_month=USD)
    agent, program, elsewhere = desk.agent(OTHER), desk.program(OTHER), desk.program()

    assert program() == desk.key_for(agent)
    agent.handshake(USD)

    assert {out_of_money(act)[0] for act in (program, partial(desk.key_for, agent))} == {"project_month"}
    assert elsewhere()


def test_refusals_come_in_order(desk: Desk) -> None:
    """State, leases, what is counted, the project's month, then the agent's and the user's money."""
    policy = desk.world.policy
    agent = desk.agent(budget=2 * USD)
    agent.handshake(USD)
    agent.report(agent.handshake(USD).lease.id, "one", USD)
    counted = desk.set(max_tokens_per_day=1, max_cost_per_month=1)
    inner = desk.set(project_id=MASTER_PROJECT, max_cost_per_month=1)
    desk.world.policy = LeasePolicy(max_open=1)
    desk.alter(agent, status="inactive")

    assert isinstance(refused(agent.handshake), AgentInactiveError)
    assert isinstance(refused(lambda: desk.key_for(agent)), AgentInactiveError)
    desk.alter(agent, status="active")
    assert isinstance(refused(agent.handshake), TooManyLeasesError)
    desk.world.policy = policy
    assert held_back(agent.handshake)[0] == held_back(lambda: desk.key_for(agent))[0] == counted
    desk.change(counted, max_tokens_per_day=None)
    assert out_of_money(agent.handshake)[0] == out_of_money(lambda: desk.key_for(agent))[0] == "project_month"
    desk.delete(inner)
    assert out_of_money(agent.handshake)[0] == "agent"
    assert out_of_money(lambda: desk.key_for(agent))[0] == "user_month"


def test_an_exhausted_agent_is_told_before_any_month(desk: Desk) -> None:
    """When it asks for a key."""
    agent = desk.agent(budget=USD)
    agent.report(agent.handshake(USD).lease.id, "one", USD)
    desk.set(project_id=MASTER_PROJECT, max_cost_per_month=1)

    assert out_of_money(lambda: desk.key_for(agent))[0] == "agent"


# --- many at once, and after a restart ---------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.db"


def test_counts_outlive_a_restart(path: Path) -> None:
    """They are rows, not memory."""
    clock = SetClock()
    with SqliteStore(path, clock=clock) as store:
        desk = Desk(World(store, clock))
        limit_id = desk.set(max_tokens_per_day=100, max_cost_per_month=5 * USD)
        agent = desk.agent()
        agent.report(agent.handshake(USD).lease.id, "one", 10, tokens=100)
        before = desk.used(limit_id)

    with SqliteStore(path, clock=clock) as store:
        desk.world.store = store

        assert desk.used(limit_id) == before
        assert held_back(agent.handshake)[:4] == (limit_id, "max_tokens_per_day", 100, 100)


@pytest.mark.parametrize("project_id", [None, MASTER_PROJECT])
def test_many_handshakes_at_once_pass_no_cap(path: Path, project_id: str | None) -> None:
    """Of money or of requests: check and grant are one transaction, also between processes."""
    clock = SetClock()
    with SqliteStore(path, clock=clock) as store, SqliteStore(path, clock=clock) as twin:
        desk = Desk(World(store, clock))
        paid = desk.set(max_cost_per_month=7 * USD)
        agents = [desk.agent(name=f"worker-{number}") for number in range(4)]
        for agent in agents[::2]:
            agent.world = copy(desk.world)
            agent.world.store = twin

        def handshakes(count: int) -> list[object]:
            def one(number: int) -> object:
                try:
                    return agents[number % 4].handshake(USD).new_money
                except (BudgetExceededError, UsageLimitExceededError) as error:
                    return error.code

            with ThreadPoolExecutor(8) as pool:
                return list(pool.map(one, range(count)))

        money = handshakes(24)
        desk.delete(paid)
        clock.instant += MS_PER_MINUTE
        counted = desk.set(project_id=project_id, max_requests_per_minute=5)
        requests = handshakes(24)

        assert (money.count(USD), money.count("BUDGET_EXCEEDED")) == (7, 17)
        assert (requests.count(USD), requests.count("USAGE_LIMIT_EXCEEDED")) == (5, 19)
        assert desk.used(counted).requests_this_minute == 5
        assert twin.read(lambda uow: uow.banks.held(desk.ann)) == 12 * USD
        assert desk.world.verify().holds
