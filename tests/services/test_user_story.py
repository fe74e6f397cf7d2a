"""An admin's day with users: suspend, activate, delete, roles, passwords, sessions, and the last admin who stays."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from ironcage_core.domain.access import Principal, principal_of
from ironcage_core.domain.api_tokens import ApiToken
from ironcage_core.domain.audit import SYSTEM, AuditRow
from ironcage_core.domain.ids import ORPHANED_PROJECT
from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.sessions import DEFAULT_SESSION_POLICY, Session, opened
from ironcage_core.domain.users import User
from ironcage_core.errors.identity import (
    DuplicateUsernameError,
    LastAdminError,
    SelfModificationForbiddenError,
    UserAlreadyActiveError,
    UserAlreadySuspendedError,
    UserDeletedError,
    UserNotFoundError,
)
from ironcage_core.errors.resources import OwnerSuspendedError
from ironcage_core.errors.tree import ForbiddenError, IroncageError, RefusalError, ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.logins import find_account
from ironcage_core.services.user_changes import (
    activate_user,
    change_role,
    reset_password,
    revoke_sessions,
    suspend_user,
)
from ironcage_core.services.user_removal import RemovedUser, delete_user
from ironcage_core.services.users import rename, visible_user
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import NOON, USD, SetClock, World

HASH = "$argon2id$old"
NEW_HASH = "$argon2id$new"
UNKNOWN = "user_" + "0" * 32


@dataclass
class Office:
    """Root is an admin, ann of the world a user; `root` acts."""

    world: World
    root: Principal = field(init=False)
    ann: str = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.admin("root")
        self.ann = self.world.owner_id

    def do(self, use_case: Callable[..., object], *args: object, **kwargs: object) -> object:
        return self.world.store.write(lambda uow: use_case(uow, *args, **kwargs))

    def add(self, name: str, role: str = "user") -> User:
        add = partial(add_user, username=name, email=f"{name}@test", role=role, password_hash=HASH, actor=SYSTEM)
        return self.world.store.write(add)

    def admin(self, name: str) -> Principal:
        return principal_of(self.add(name, "admin"), "sess_" + name)

    def user(self, user_id: str) -> User:
        found = self.world.store.read(lambda uow: uow.users.find(user_id))
        assert found is not None
        return found

    def change(self, user_id: str, **fields: object) -> None:
        user = self.user(user_id)._replace(**fields)  # type: ignore[arg-type]  # as the test says
        self.world.store.write(lambda uow: uow.users.put(user))

    def session(self, user_id: str) -> str:
        def run(uow: UnitOfWork) -> Session:
            id_ = uow.new_id("sess")
            session = opened(id_, user_id, f"hash of {id_}", now=uow.now, policy=DEFAULT_SESSION_POLICY)
            uow.sessions.put(session)
            return session

        return self.world.store.write(run).id

    def ends(self, *session_ids: str) -> list[str | None]:
        """Return why each of these sessions ended."""

        def run(uow: UnitOfWork) -> list[str | None]:
            found = [uow.sessions.find(each) for each in session_ids]
            return [session.revoked_reason for session in found if session is not None]

        return self.world.store.read(run)

    def api_token(self, user_id: str, **fields: object) -> str:
        def run(uow: UnitOfWork) -> str:
            id_ = uow.new_id("tok")
            token = ApiToken(
                id_, f"hash of {id_}", id_, user_id, "bot", None, None, None, None, "*", 1, "abcd", None, None, None,
                None, None, None, uow.now, uow.now,
            )._replace(**fields)  # type: ignore[arg-type]  # as the test says  # fmt: skip
            uow.api_tokens.put(token)
            return id_

        return self.world.store.write(run)

    def audited(self, operation: str) -> list[AuditRow]:
        rows = self.world.store.read(lambda uow: list(uow.audit.rows()))
        return [row for row in rows if row.operation == operation]

    def refusal(self, use_case: Callable[..., object], *args: object, **kwargs: object) -> type[RefusalError]:
        """Return what a use case is refused with; the audit log must not have grown."""
        before = self.world.store.read(lambda uow: len(list(uow.audit.rows())))
        with pytest.raises(RefusalError) as refused:
            self.do(use_case, *args, **kwargs)
        assert self.world.store.read(lambda uow: len(list(uow.audit.rows()))) == before
        return refused.type


@pytest.fixture
def office(world: World) -> Office:
    return Office(world)


def test_a_suspended_user_is_out_at_once(office: Office) -> None:
    """Sessions end, the API token keeps its status, and one row tells it all."""
    sessions = [office.session(office.ann) for _ in range(2)]
    token = office.api_token(office.ann)
    office.world.clock.pass_s(1)

    office.do(suspend_user, office.ann, reason=" left the firm ", principal=office.root)

    now = NOON + MS_PER_S
    ann = office.user(office.ann)
    assert (ann.status, ann.suspended_at, ann.suspended_by, ann.updated_at) == (
        "suspended", now, office.root.user_id, now,
    )  # fmt: skip
    assert office.ends(*sessions) == ["suspended"] * 2
    found = office.world.store.read(lambda uow: uow.api_tokens.find(token))
    assert found is not None
    assert found.status_at(now) == "active"
    (row,) = office.audited("USER_SUSPENDED")
    assert (row.resource_id, row.actor_id, row.reason, row.chain) == (
        office.ann, office.root.user_id, "left the firm", "permanent",
    )  # fmt: skip
    assert json.loads(row.changes or "") == {"before": {"is_active": True}, "after": {"is_active": False}}


def test_leases_of_a_suspended_owner_run_on_without_new_money(office: Office) -> None:
    """What was lent is settled; grants are refused until the owner is active again."""
    agent = office.world.agent()
    lease = agent.handshake().lease.id
    office.do(suspend_user, office.ann, principal=office.root)

    agent.report(lease, "r1", USD)
    with pytest.raises(OwnerSuspendedError):
        agent.handshake()
    agent.return_lease(lease)
    office.do(activate_user, office.ann, actor=office.root.actor)
    agent.handshake()

    assert office.world.verify().holds


def test_an_activated_user_must_log_in_again(office: Office) -> None:
    """Suspension and lock are gone; sessions that ended stay ended."""
    session = office.session(office.ann)
    office.do(suspend_user, office.ann, principal=office.root)
    office.change(office.ann, failed_logins=10, locked_until=NOON + 1)

    office.do(activate_user, office.ann, actor=office.root.actor)

    ann = office.user(office.ann)
    assert (ann.status, ann.suspended_at, ann.suspended_by) == ("active", None, None)
    assert (ann.failed_logins, ann.locked_until) == (0, None)
    assert office.ends(session) == ["suspended"]
    (row,) = office.audited("USER_ACTIVATED")
    assert json.loads(row.changes or "") == {"before": {"is_active": False}, "after": {"is_active": True}}


def test_a_lock_is_lifted_by_activation_while_it_holds(office: Office) -> None:
    """It is the unlocking of an active user; a lock that is over is nothing to lift."""
    office.change(office.ann, failed_logins=10, locked_until=NOON + 1)
    session = office.session(office.ann)

    office.do(activate_user, office.ann, actor=office.root.actor)

    assert (office.user(office.ann).failed_logins, office.user(office.ann).locked_until) == (0, None)
    assert office.ends(session) == [None]
    assert (len(office.audited("USER_UNLOCKED")), office.audited("USER_ACTIVATED")) == (1, [])
    office.change(office.ann, locked_until=NOON)
    assert office.refusal(activate_user, office.ann, actor=office.root.actor) is UserAlreadyActiveError


def test_who_is_suspended_can_be_deleted_but_not_suspended_again(office: Office) -> None:
    """The table of states."""
    office.do(suspend_user, office.ann, principal=office.root)

    assert office.refusal(suspend_user, office.ann, principal=office.root) is UserAlreadySuspendedError
    office.do(delete_user, office.ann, principal=office.root)
    assert office.user(office.ann).status == "deleted"


@pytest.mark.parametrize("use_case", [suspend_user, delete_user, partial(change_role, role="viewer")])
def test_nobody_takes_the_own_account_away(office: Office, use_case: Callable[..., object]) -> None:
    """Whatever else would be wrong with it; the same role is no exception."""
    office.admin("other")

    assert office.refusal(use_case, office.root.user_id, principal=office.root) is SelfModificationForbiddenError
    same = partial(change_role, role="admin")
    assert office.refusal(same, office.root.user_id, principal=office.root) is SelfModificationForbiddenError


def all_changes(office: Office) -> list[Callable[[UnitOfWork, str], object]]:
    return [
        lambda uow, user_id: suspend_user(uow, user_id, principal=office.root),
        lambda uow, user_id: delete_user(uow, user_id, principal=office.root),
        lambda uow, user_id: change_role(uow, user_id, "admin", principal=office.root),
        lambda uow, user_id: change_role(uow, user_id, "user", principal=office.root),
        lambda uow, user_id: activate_user(uow, user_id, actor=office.root.actor),
        lambda uow, user_id: reset_password(
            uow, user_id, new_hash=NEW_HASH, force_change=True, actor=office.root.actor
        ),
        lambda uow, user_id: revoke_sessions(uow, user_id, actor=office.root.actor),
    ]


def test_a_deleted_user_stays_as_it_is(office: Office) -> None:
    """It is the end; activation above all does not bring it back."""
    office.do(delete_user, office.ann, principal=office.root)
    before = office.user(office.ann)

    refusals = {office.refusal(change, office.ann) for change in all_changes(office)}

    assert refusals == {UserDeletedError}
    assert office.user(office.ann) == before


@pytest.mark.parametrize("user_id", [UNKNOWN, "", "-1", "abc", "agent_" + "0" * 32])
def test_an_id_that_nobody_has_is_not_found(office: Office, user_id: str) -> None:
    """Malformed ones too."""
    assert {office.refusal(change, user_id) for change in all_changes(office)} == {UserNotFoundError}


def test_a_reason_breaks_no_rule(office: Office) -> None:
    """1 to 1000 characters; the limit is looked at before the state."""
    office.do(suspend_user, office.ann, principal=office.root)
    refused = [
        office.refusal(suspend_user, office.ann, reason=reason, principal=office.root)
        for reason in ("", " ", "x" * 1001, "a\0b", "x" * 1000)
    ]

    assert refused == [ValidationError] * 4 + [UserAlreadySuspendedError]


def test_a_deleted_user_s_agents_go_on_in_the_admin_s_hands(office: Office) -> None:
    """Owner, project and tags change; budget, keys, IC token and open leases do not."""
    world = office.world
    agent, plain = world.agent(name="tagged"), world.agent(budget=7 * USD)
    bystander = world.agent(owner_id=office.add("bob").id)
    gone = world.agent()
    lease = agent.handshake().lease.id

    def tag(uow: UnitOfWork) -> None:
        known, deleted = uow.agents.find(agent.id), uow.agents.find(gone.id)
        assert known is not None
        assert deleted is not None
        uow.agents.put(known._replace(tags='["blue","orphaned"]'))
        uow.agents.put(deleted._replace(deleted_at=uow.now))

    world.store.write(tag)
    world.clock.pass_s(1)
    removed = office.do(delete_user, office.ann, principal=office.root)

    assert isinstance(removed, RemovedUser)
    assert [(each.agent.id, each.budget, list(each.provider_keys)) for each in removed.agents] == [
        (agent.id, 100 * USD, [world.key_id]),
        (plain.id, 7 * USD, [world.key_id]),
    ]
    stored = world.store.read(lambda uow: [uow.agents.find(each.id) for each in (agent, plain, bystander, gone)])
    assert stored[:2] == [each.agent for each in removed.agents]
    origin = f"original-owner:{office.ann}"
    assert [(each.owner_id, each.project_id, json.loads(each.tags)) for each in stored[:2] if each] == [
        (office.root.user_id, ORPHANED_PROJECT, ["blue", "orphaned", origin]),
        (office.root.user_id, ORPHANED_PROJECT, ["orphaned", origin]),
    ]
    assert [each.owner_id == office.root.user_id for each in stored[2:] if each] == [False, False]
    bank = agent.lease(lease).bank_user_id
    agent.report(lease, "r1", USD)
    agent.return_lease(lease)
    assert bank == office.ann
    assert agent.handshake().lease.bank_user_id == office.root.user_id
    assert world.verify().holds


def test_a_deleted_user_s_credentials_and_limit_end(office: Office) -> None:
    """Every API token that had not ended, every session, the cap; the audit log says what."""
    session = office.session(office.ann)
    live = [office.api_token(office.ann), office.api_token(office.ann, is_active=0, expires_at=NOON)]
    ended = office.api_token(office.ann, revoked_at=NOON, revoked_by=office.ann)
    others = office.api_token(office.root.user_id)
    office.world.cap(USD)
    agent = office.world.agent()
    office.world.clock.pass_s(1)

    removed = office.do(delete_user, office.ann, principal=office.root)

    assert isinstance(removed, RemovedUser)
    assert (removed.api_tokens_revoked, removed.budget_requests_cancelled) == (2, 0)
    now = NOON + MS_PER_S
    tokens = office.world.store.read(lambda uow: [uow.api_tokens.find(each) for each in (*live, ended, others)])
    assert [(each.revoked_at, each.revoked_by) for each in tokens if each] == [
        (now, office.root.user_id), (now, office.root.user_id), (NOON, office.ann), (None, None),
    ]  # fmt: skip
    assert office.ends(session) == ["user_deleted"]
    assert office.world.store.read(lambda uow: uow.limits.find_of(office.ann)) is None
    ann = office.user(office.ann)
    assert (ann.status, ann.deleted_at, ann.deleted_by) == ("deleted", now, office.root.user_id)
    (row,) = office.audited("USER_DELETED")
    told = json.loads(row.metadata)
    assert (row.chain, told["agents_moved"], told["api_tokens_revoked"]) == ("permanent", [agent.id], len(live))


def test_a_removal_that_fails_leaves_nothing_behind(office: Office) -> None:
    """The limit that is deleted at once comes back, too."""
    office.world.cap(USD)
    agent = office.world.agent()

    def failing(uow: UnitOfWork) -> None:
        delete_user(uow, office.ann, principal=office.root)
        assert uow.limits.find_of(office.ann) is None
        raise ForbiddenError("on second thoughts")

    assert office.refusal(failing) is ForbiddenError
    assert office.user(office.ann).status == "active"
    assert office.world.store.read(lambda uow: uow.limits.find_of(office.ann)) is not None
    found = office.world.store.read(lambda uow: uow.agents.find(agent.id))
    assert found is not None
    assert found.owner_id == office.ann


def test_the_names_of_a_deleted_user_are_free_again(office: Office) -> None:
    """Even in the same unit of work; the old row stays."""

    def replace(uow: UnitOfWork) -> User:
        delete_user(uow, office.ann, principal=office.root)
        return add_user(uow, username="ANN", email="Ann@Test", role="user", actor=SYSTEM)

    new = office.world.store.write(replace)

    assert office.user(office.ann).username == "ann"
    assert office.world.store.read(lambda uow: find_account(uow, "ann")) == new


def test_a_role_changes_with_a_row_that_says_from_what_to_what(office: Office) -> None:
    """The same role again is no change and no row."""
    office.world.clock.pass_s(1)
    changed = office.do(change_role, office.ann, "viewer", principal=office.root)
    office.world.clock.pass_s(1)
    again = office.do(change_role, office.ann, "viewer", principal=office.root)

    assert changed == again == office.user(office.ann)
    assert office.user(office.ann).updated_at == NOON + MS_PER_S
    (row,) = office.audited("USER_ROLE_CHANGED")
    assert json.loads(row.changes or "") == {"before": {"role": "user"}, "after": {"role": "viewer"}}


@pytest.mark.parametrize("role", ["", "Admin", "root", "admin "])
def test_a_role_that_is_none_is_refused(office: Office, role: str) -> None:
    """Exact lower case; below the HTTP layer, too."""
    assert office.refusal(change_role, office.ann, role, principal=office.root) is ValidationError


def test_a_reset_password_ends_every_session_and_the_lock(office: Office) -> None:
    """API tokens live on, and the log holds the flag but no hash."""
    session = office.session(office.ann)
    token = office.api_token(office.ann)
    office.change(office.ann, failed_logins=10, locked_until=NOON + 1)

    office.do(reset_password, office.ann, new_hash=NEW_HASH, force_change=True, actor=office.root.actor)

    ann = office.user(office.ann)
    assert (ann.password_hash, ann.force_password_change) == (NEW_HASH, 1)
    assert (ann.failed_logins, ann.locked_until) == (0, None)
    assert office.ends(session) == ["password_reset"]
    found = office.world.store.read(lambda uow: uow.api_tokens.find(token))
    assert found is not None
    assert found.revoked_at is None
    (row,) = office.audited("USER_PASSWORD_RESET")
    assert json.loads(row.metadata) == {"force_change": True, "sessions_revoked": 1}
    assert "argon2" not in repr(row)


def test_an_admin_s_own_reset_spares_the_session_it_is_made_in(office: Office) -> None:
    """And only that one; the flag is as asked."""
    root = office.root.user_id
    here, there = office.session(root), office.session(root)

    office.do(reset_password, root, new_hash=NEW_HASH, force_change=False, spared=here, actor=office.root.actor)

    assert office.ends(here, there) == [None, "password_reset"]
    assert office.user(root).force_password_change == 0


def test_a_reset_does_not_activate(office: Office) -> None:
    """Who is suspended stays so."""
    office.do(suspend_user, office.ann, principal=office.root)
    office.do(reset_password, office.ann, new_hash=NEW_HASH, force_change=True, actor=office.root.actor)

    assert office.user(office.ann).status == "suspended"


def test_all_sessions_of_a_user_can_be_revoked(office: Office) -> None:
    """Those of others go on; the second time there are none left."""
    sessions = [office.session(office.ann), office.session(office.ann)]
    other = office.session(office.root.user_id)

    revoked = [office.do(revoke_sessions, office.ann, actor=office.root.actor) for _ in range(2)]

    assert revoked == [2, 0]
    assert office.ends(*sessions, other) == ["admin_revoked", "admin_revoked", None]
    assert len(office.audited("USER_SESSIONS_REVOKED")) == 2


def test_a_user_is_called_what_the_user_wants(office: Office) -> None:
    """Null is for the username again; what changes nothing leaves no row."""
    ann = principal_of(office.user(office.ann))

    office.do(rename, " Ann of Cleves ", principal=ann)
    office.do(rename, "Ann of Cleves", principal=ann)
    named = office.user(office.ann).name
    office.do(rename, None, principal=ann)

    assert (named, office.user(office.ann).name) == ("Ann of Cleves", None)
    changes = [json.loads(row.changes or "") for row in office.audited("USER_UPDATED")]
    assert changes == [
        {"before": {"name": None}, "after": {"name": "Ann of Cleves"}},
        {"before": {"name": "Ann of Cleves"}, "after": {"name": None}},
    ]
    assert office.refusal(rename, "x" * 101, principal=ann) is ValidationError


def test_who_sees_only_the_own_account_learns_nothing_of_others(office: Office) -> None:
    """An id that exists and one that does not are refused alike."""
    ann = principal_of(office.user(office.ann))
    seen = office.do(visible_user, office.ann, ann)

    assert seen == office.user(office.ann)
    refused = [office.refusal(visible_user, other, ann) for other in (office.root.user_id, UNKNOWN, "x")]
    assert refused == [ForbiddenError] * 3
    assert office.refusal(visible_user, UNKNOWN, office.root) is UserNotFoundError


@pytest.mark.parametrize(("one", "other"), [("ÄNNE", "änne"), ("ЖАННА", "жанна"), ("Åse", "Åse"), ("BOB", "bob")])
def test_no_two_users_differ_by_case_alone(office: Office, one: str, other: str) -> None:
    """In whatever script; both spellings name the one user."""
    user = office.add(one)

    assert office.refusal(add_user, username=other, email="x@y", role="user", actor=SYSTEM) is DuplicateUsernameError
    assert office.world.store.read(lambda uow: find_account(uow, other)) == user


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Office]:
    """An office on a file, for several threads at once."""
    with SqliteStore(tmp_path / "iron.db", clock=SetClock()) as store:
        yield Office(World(store, SetClock()))


def outcomes(office: Office, *changes: Callable[[UnitOfWork], object]) -> list[type]:
    """Run changes at once, a thread each, and return what became of them."""
    barrier = threading.Barrier(len(changes))

    def run(change: Callable[[UnitOfWork], object]) -> type:
        barrier.wait()
        try:
            return type(office.world.store.write(change))
        except IroncageError as error:
            return type(error)

    with ThreadPoolExecutor(len(changes)) as pool:
        return list(pool.map(run, changes))


@pytest.mark.parametrize("use_case", [suspend_user, delete_user, partial(change_role, role="user")])
def test_of_two_admins_who_remove_each_other_one_stays(shared: Office, use_case: Callable[..., object]) -> None:
    """Both had the right when they asked; the second finds that the other is the last."""
    for attempt in range(5):
        one, other = shared.root, shared.admin(f"admin {attempt}")

        ended = outcomes(
            shared,
            partial(use_case, user_id=other.user_id, principal=one),
            partial(use_case, user_id=one.user_id, principal=other),
        )

        assert sorted(each is LastAdminError for each in ended) == [False, True]
        assert shared.world.store.read(lambda uow: uow.users.count_active_admins()) == 1
        shared.root = other if ended[0] is LastAdminError else one


def test_neither_suspended_nor_deleted_admins_count_as_one_who_stays(office: Office) -> None:
    """A locked one does: a lock passes."""
    second, third, fourth = office.admin("second"), office.admin("third"), office.admin("fourth")
    office.do(suspend_user, second.user_id, principal=office.root)
    office.do(delete_user, third.user_id, principal=office.root)
    office.change(fourth.user_id, locked_until=NOON + 1, failed_logins=10)

    office.do(suspend_user, office.root.user_id, principal=fourth)

    for change in (suspend_user, delete_user, partial(change_role, role="viewer")):
        assert office.refusal(change, fourth.user_id, principal=office.root) is LastAdminError
    office.do(change_role, second.user_id, "user", principal=fourth)
    office.do(delete_user, office.root.user_id, principal=fourth)
    assert office.world.store.read(lambda uow: uow.users.count_active_admins()) == 1


def test_of_many_users_with_one_name_one_is_made(shared: Office) -> None:
    """The others are told that it is taken."""
    names = ["twin", "TWIN", "Twin", "tWin"]
    changes = [
        partial(add_user, username=name, email=f"twin{number}@test", role="user", actor=SYSTEM)
        for number, name in enumerate(names)
    ]

    ended = outcomes(shared, *changes)

    assert sorted(each is DuplicateUsernameError for each in ended) == [False, True, True, True]


def open_leases(office: Office, agent_id: str) -> list[Lease]:
    return office.world.store.read(lambda uow: list(uow.leases.open_of(agent_id)))


def test_a_suspension_touches_no_lease(office: Office) -> None:
    """Nothing of the agent's money moves."""
    agent = office.world.agent()
    agent.handshake()
    before = (open_leases(office, agent.id), agent.balance())

    office.do(suspend_user, office.ann, principal=office.root)

    assert (open_leases(office, agent.id), agent.balance()) == before
