"""Guessing a password: failures are counted and lock, for accounts and for names that nobody has in the same way."""

from functools import partial

import pytest

from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.domain.lockouts import LockoutPolicy, identifier_hash
from ironcage_core.errors.access import AccountDisabledError, AccountLockedError, InvalidCredentialsError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.logins import Attempt, LoggedIn, RefusedLogin, find_login, log_in
from ironcage_core.services.sessions import change_password, refuse_password_change
from ironcage_storage.sealed.access_tokens import new_refresh_token
from tests.support.front import HASH, NEW_HASH, ORIGIN, Front
from tests.support.world import NOON, World

HALF_AN_HOUR = 1800 * MS_PER_S
NAMES = ["bea", "nobody", "no@body.test", "gone"]


@pytest.fixture
def front(world: World) -> Front:
    """Bea is there and Gone was deleted."""
    front = Front(world)
    gone = front.add("gone")
    world.store.write(lambda uow: uow.users.put(gone._replace(status="deleted", deleted_at=uow.now)))
    return front


def fail(front: Front, times: int, identifier: str = "bea") -> None:
    for _ in range(times):
        assert isinstance(front.refusal(identifier=identifier), InvalidCredentialsError)


def lock(front: Front, identifier: str = "bea") -> AccountLockedError | None:
    """Return what a login is told before its password is looked at."""
    try:
        front.world.store.read(partial(find_login, identifier=identifier))
    except AccountLockedError as error:
        return error
    return None


@pytest.mark.parametrize("name", NAMES)
def test_the_tenth_failure_in_a_row_locks_for_half_an_hour(front: Front, name: str) -> None:
    """It is itself answered as the nine before it; from then on the password is not looked at."""
    fail(front, 9, name)
    assert lock(front, name) is None
    fail(front, 1, name)
    front.world.clock.pass_s(1.5)

    refusal = lock(front, name)

    assert refusal is not None
    assert refusal.details == {"retry_after_s": 1799, "locked_until": NOON + HALF_AN_HOUR}
    with pytest.raises(AccountLockedError):
        front.attempt(HASH, identifier=name)


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_ends_at_its_time_and_the_count_begins_anew(front: Front, name: str) -> None:
    """One slip after it does not lock again, ten do."""
    fail(front, 10, name)
    front.world.clock.instant = NOON + HALF_AN_HOUR - 1
    refusal = lock(front, name)
    assert refusal is not None
    assert refusal.details["retry_after_s"] == 1
    front.world.clock.instant += 1

    fail(front, 9, name)

    assert lock(front, name) is None
    fail(front, 1, name)
    assert lock(front, name) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_behind_a_lock_makes_it_no_longer(front: Front, name: str) -> None:
    """Those that were being verified when it closed are told of it and leave no trace."""
    fail(front, 10, name)
    rows = len(front.audited("AUTH_LOGIN_FAILED"))
    front.world.clock.pass_s(60)

    with pytest.raises(AccountLockedError):
        front.attempt(None, identifier=name)

    refusal = lock(front, name)
    assert refusal is not None
    assert refusal.details["locked_until"] == NOON + HALF_AN_HOUR
    assert len(front.audited("AUTH_LOGIN_FAILED")) == rows


def test_the_right_password_behind_a_lock_opens_nothing(front: Front) -> None:
    """Also one that was verified before the lock closed."""
    fail(front, 10)

    with pytest.raises(AccountLockedError):
        front.attempt(HASH)

    assert front.audited("AUTH_LOGIN_SUCCEEDED") == []


def test_email_and_username_share_one_count(front: Front) -> None:
    """In whatever case they are typed."""
    for identifier in ("bea", "BEA", "bea@test", " Bea@TEST "):
        fail(front, 2, identifier)

    assert front.stored().failed_logins == 8
    fail(front, 2, "bea@test")
    assert lock(front, "bea") is not None


@pytest.mark.parametrize(
    ("one", "other", "is_one_name"),
    [
        ("nobody", " NoBody ", True),
        ("No@Body", "no@body", True),
        ("Ö@body", "ö@BODY", True),
        ("no.body", "nobody", False),
        ("ÖDÖN", "öDöN", True),
        ("kate", "\N{KELVIN SIGN}ate", False),
        ("kate@body", "\N{KELVIN SIGN}ate@body", True),
    ],
)
def test_a_name_that_nobody_has_is_one_name_where_it_would_name_one_user(
    front: Front, one: str, other: str, is_one_name: bool
) -> None:
    """Else the count would tell the two apart: which spellings share it must not depend on who exists."""
    front.add("no.body", email="Ö@body")
    front.add("ÖDÖN")
    front.add("kate", email="kate@body")
    store = front.world.store

    def id_of(identifier: str) -> object:
        named = store.read(partial(find_login, identifier=identifier))
        return getattr(named, "id", None)

    assert (identifier_hash(one) == identifier_hash(other)) is is_one_name
    known = {id_of(one), id_of(other)} - {None}
    assert not known or (id_of(one) == id_of(other)) is is_one_name


def test_a_success_zeroes_the_count(front: Front) -> None:
    """So nine slips before each good login never lock."""
    for _ in range(3):
        fail(front, 9)
        front.login()

    assert (front.stored().failed_logins, front.stored().locked_until) == (0, None)
    assert front.audited("AUTH_ACCOUNT_LOCKED") == []


def test_a_suspended_account_counts_and_locks_as_any_other(front: Front) -> None:
    """Its right password changes nothing of the count."""
    front.change(status="suspended")
    fail(front, 9)
    assert isinstance(front.refusal(HASH), AccountDisabledError)
    fail(front, 1)

    with pytest.raises(AccountLockedError):
        front.attempt(HASH)


def test_a_count_is_of_one_name_only(front: Front) -> None:
    """Neither another user nor another name that nobody has is locked with it."""
    fail(front, 10, "nobody")
    fail(front, 9)

    assert lock(front, "somebody") is None
    assert lock(front) is None
    assert isinstance(front.attempt(HASH), LoggedIn)


def test_a_lock_stops_no_session(front: Front) -> None:
    """Nobody can be thrown out, or kept from a new password, by failing in his name."""
    login = front.login()
    fail(front, 10)

    refreshed = front.refresh(login.refresh_token)
    front.world.store.write(
        partial(change_password, principal=refreshed.principal, checked_hash=HASH, new_hash=NEW_HASH)
    )

    assert front.whoami(refreshed.access_token).user_id == front.user_id
    assert lock(front) is None
    assert front.stored().failed_logins == 0
    assert isinstance(front.attempt(NEW_HASH), LoggedIn)


def refuse_change(front: Front, login: LoggedIn) -> RefusedLogin:
    return front.world.store.write(partial(refuse_password_change, principal=login.principal, lockouts=front.lockouts))


def test_a_wrong_current_password_counts_as_a_failed_login(front: Front) -> None:
    """Nine of them and one at the door lock the account; behind the lock they count no more."""
    login = front.login()
    for _ in range(9):
        assert isinstance(refuse_change(front, login).refusal, InvalidCredentialsError)
    fail(front, 1)
    front.world.clock.pass_s(1)
    refuse_change(front, login)

    refusal = lock(front)

    assert refusal is not None
    assert refusal.details["locked_until"] == NOON + HALF_AN_HOUR
    assert len(front.audited("AUTH_ACCOUNT_LOCKED")) == 1


def test_a_lock_is_audited_once_beside_the_failures(front: Front) -> None:
    """Of a name that nobody has only a piece of its hash is kept."""
    fail(front, 10)
    fail(front, 10, "correct horse battery")

    known, unknown = front.audited("AUTH_ACCOUNT_LOCKED")

    assert len(front.audited("AUTH_LOGIN_FAILED")) == 20
    assert (known.resource_id, known.ip_address, known.category) == (front.user_id, "192.0.2.1", "auth")
    assert unknown.resource_id is None
    digest = identifier_hash("correct horse battery")
    assert unknown.metadata == f'{{"identifier_sha256":"{digest[:16]}"}}'


def test_attempts_in_one_batch_are_counted_one_by_one(front: Front) -> None:
    """However many were verified at the same time, ten are answered and the rest find the lock."""

    def all_at_once(uow: UnitOfWork) -> list[str]:
        answers = []
        for _ in range(64):
            try:
                log_in(
                    uow, Attempt("bea", None), origin=ORIGIN, policy=front.policy, lockouts=front.lockouts,
                    signer=front.signer, new_secret=new_refresh_token,
                )  # fmt: skip
                answers.append("wrong")
            except AccountLockedError:
                answers.append("locked")
        return answers

    answers = front.world.store.write(all_at_once)

    assert answers == ["wrong"] * 10 + ["locked"] * 54
    assert front.stored().failed_logins == 10


def test_the_operator_says_when_failures_lock(front: Front) -> None:
    """A threshold of 1 locks at the first."""
    front.lockouts = LockoutPolicy(threshold=1, duration=5 * MS_PER_S)
    fail(front, 1)

    refusal = lock(front)

    assert refusal is not None
    assert refusal.details == {"retry_after_s": 5, "locked_until": NOON + 5 * MS_PER_S}
    front.world.clock.pass_s(5)
    assert isinstance(front.attempt(HASH), LoggedIn)


def test_nothing_shown_of_an_attempt_is_a_secret() -> None:
    """People type passwords where a name belongs."""
    assert repr(Attempt("correct horse", HASH, NEW_HASH)) == "Attempt()"
