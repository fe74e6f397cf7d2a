"""A user's day: the first admin, login, refresh, logout, a new password, and tokens that come back."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from ironcage_core.domain.access import Principal
from ironcage_core.domain.instants import MS_PER_S
from ironcage_core.domain.sessions import SessionPolicy
from ironcage_core.domain.users import UserStatus
from ironcage_core.errors.access import (
    AccountDisabledCredentialError,
    AccountDisabledError,
    InvalidCredentialsError,
    InvalidTokenError,
    TokenExpiredError,
    TokenRevokedError,
)
from ironcage_core.errors.tree import ValidationError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user, first_admin
from ironcage_core.services.logins import LoggedIn, find_account
from ironcage_core.services.sessions import (
    Reused,
    authenticate_access,
    change_password,
    forget_sessions,
    refresh_session,
)
from ironcage_storage.sealed.access_tokens import new_refresh_token
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.front import HASH, NEW_HASH, ORIGIN, Front
from tests.support.world import ADMIN, NOON, SetClock, World


@pytest.fixture
def front(world: World) -> Front:
    return Front(world)


# --- login -------------------------------------------------------------------


def test_an_account_is_found_by_email_or_username_in_whatever_case(front: Front) -> None:
    """An `@` decides which; a deleted account is not found, nor is what no account can be called."""

    def found(identifier: str) -> bool:
        return front.world.store.read(partial(find_account, identifier=identifier)) is not None

    assert all(map(found, ["bea", "BEA", " bea ", "bea@test", "BEA@TEST", " Bea@Test "]))
    assert not any(map(found, ["", " ", "beatrice", "bea@", "@", "\ud800", "b\0", "b" * 256]))
    front.change(status="deleted")
    assert not any(map(found, ["bea", "bea@test"]))


def test_a_login_opens_a_session_of_its_own(front: Front) -> None:
    """Fresh tokens with the ends of the policy; the user's last login is now; nothing shows a secret."""
    first, second = front.login(), front.login()

    assert first.principal == Principal(
        front.user_id, "Bea", "bea@test", "Bea B.", "viewer", first.principal.session_id, must_change_password=False,
        reach="own", origin=ORIGIN,
    )  # fmt: skip
    assert (first.access_expires_in_s, first.refresh_expires_in_s) == (900, 604_800)
    assert (first.access_expires_at, first.refresh_expires_at) == (NOON + 900_000, NOON + 604_800_000)
    assert first.principal.session_id != second.principal.session_id
    assert front.whoami(first.access_token) == first.principal
    assert front.whoami(second.access_token) == second.principal
    assert front.stored().last_login_at == NOON
    shown = repr(first) + repr(front.session(first)) + repr(front.audited("AUTH_LOGIN_SUCCEEDED"))
    assert not any(secret in shown for secret in (first.access_token, first.refresh_token, HASH))
    assert front.session(first).refresh_hash not in shown
    row = front.audited("AUTH_LOGIN_SUCCEEDED")[0]
    assert (row.resource_id, row.actor_id, row.ip_address, row.request_id) == (
        front.user_id, front.user_id, "192.0.2.1", "req-1",
    )  # fmt: skip


def test_a_password_that_changed_while_it_was_verified_opens_nothing(front: Front) -> None:
    """The hash that was checked must still be the stored one."""
    refusals = [front.refusal("$argon2id$other"), front.refusal(None)]
    front.change(password_hash=None)
    refusals += [front.refusal(""), front.refusal(None)]
    front.change(password_hash=HASH, status="deleted")
    refusals += [front.refusal(HASH)]

    assert {type(refusal) for refusal in refusals} == {InvalidCredentialsError}
    assert front.audited("AUTH_LOGIN_SUCCEEDED") == []
    assert front.stored().last_login_at is None


def test_a_suspended_user_with_the_right_password_is_told_so(front: Front) -> None:
    """With the wrong one the credentials are merely wrong, and that is counted; both are remembered."""
    front.change(status="suspended")

    right, wrong = front.refusal(HASH), front.refusal("$argon2id$other")

    assert isinstance(right, AccountDisabledError)
    assert right.details == {"user_id": front.user_id}
    assert isinstance(wrong, InvalidCredentialsError)
    rows = [(row.outcome, row.reason, row.resource_id) for row in front.audited("AUTH_LOGIN_FAILED")]
    assert rows == [("denied", "suspended", front.user_id), ("failed", None, front.user_id)]
    assert (front.stored().failed_logins, front.stored().last_login_at) == (1, None)


def test_a_hash_of_other_parameters_is_replaced_at_login(front: Front) -> None:
    """The password is the same, so sessions live on."""
    before = front.login()
    front.login(new_hash=NEW_HASH)

    assert front.stored().password_hash == NEW_HASH
    assert front.whoami(before.access_token).user_id == front.user_id


def test_a_failed_login_is_remembered_without_what_was_typed(front: Front) -> None:
    """A known account by its id, an unknown identifier by a piece of its hash."""
    typed = "correct horse battery"
    for identifier in ("bea", typed, "\ud800"):
        front.refusal(identifier=identifier)

    known, unknown, _ = front.audited("AUTH_LOGIN_FAILED")
    assert (known.outcome, known.resource_id, known.actor_id) == ("failed", front.user_id, front.user_id)
    assert (unknown.outcome, unknown.resource_id, unknown.ip_address) == ("failed", None, "192.0.2.1")
    assert typed not in repr(unknown)
    assert len(unknown.metadata) == len('{"identifier_sha256":""}') + 16


def test_without_a_cap_a_user_has_any_number_of_sessions(front: Front) -> None:
    """It is the default."""
    logins = [front.login() for _ in range(12)]

    assert [front.session(each).revoked_at for each in logins] == [None] * 12


def test_above_the_cap_a_login_ends_the_oldest_sessions(front: Front) -> None:
    """Of this user; what has ended or expired takes no place, and the audit log says how many ended."""
    front.policy = SessionPolicy(refresh_ttl=10 * MS_PER_S)
    expired = front.login()
    front.world.clock.pass_s(10)
    logins = [front.login() for _ in range(4)]
    front.logout(logins[3].access_token)
    front.policy = replace(front.policy, max_sessions=3)

    fourth = front.login()
    fifth = front.login()

    ended = [front.session(each).revoked_reason for each in (expired, *logins, fourth, fifth)]
    assert ended == [None, "session_cap", "session_cap", None, "logout", None, None]
    assert '"sessions_revoked":1' in front.audited("AUTH_LOGIN_SUCCEEDED")[-1].metadata


# --- refresh -----------------------------------------------------------------


def test_a_refresh_replaces_both_tokens(front: Front) -> None:
    """The old access token is dead at once; a chain of refreshes works and every value differs."""
    tokens = [front.login()]
    for _ in range(4):
        front.world.clock.pass_s(1)
        tokens.append(front.refresh(tokens[-1].refresh_token))

    assert len({each.access_token for each in tokens}) == len({each.refresh_token for each in tokens}) == 5
    assert front.whoami(tokens[-1].access_token) == tokens[0].principal
    for old in tokens[:-1]:
        with pytest.raises(TokenRevokedError) as refusal:
            front.whoami(old.access_token)
        assert refusal.value.details == {"revoked_at": NOON + 4 * MS_PER_S}
    assert front.session(tokens[0]).gen == 5


def test_of_two_refreshes_with_one_token_exactly_one_wins(front: Front) -> None:
    """Also when both wait in one batch; the loser's try ends the session."""
    login = front.login()

    def both(uow: UnitOfWork) -> list[LoggedIn | Reused]:
        use = partial(refresh_session, policy=front.policy, signer=front.signer, new_secret=new_refresh_token)
        return [use(uow, login.refresh_token), use(uow, login.refresh_token)]

    first, second = front.world.store.write(both)

    assert isinstance(first, LoggedIn)
    assert second == Reused(front.session(login).id, front.user_id, NOON)


def test_a_reused_refresh_token_kills_the_family(front: Front) -> None:
    """The newest refresh and access tokens included, and only that session; it is audited once."""
    login, other = front.login(), front.login()
    newest = front.refresh(front.refresh(login.refresh_token).refresh_token)

    assert isinstance(front.exchange(login.refresh_token), Reused)

    for refresh_token in (newest.refresh_token, login.refresh_token):
        with pytest.raises(TokenRevokedError):
            front.exchange(refresh_token)
    with pytest.raises(TokenRevokedError):
        front.whoami(newest.access_token)
    assert front.refresh(other.refresh_token).principal == other.principal
    (row,) = front.audited("AUTH_REFRESH_REUSE_DETECTED")
    assert (row.resource_id, row.outcome) == (login.principal.session_id, "denied")
    assert '"severity":"high"' in row.metadata
    assert front.session(login).revoked_reason == "refresh_reused"


def test_within_the_grace_a_reuse_is_merely_refused(front: Front) -> None:
    """At its end it counts as theft again."""
    front.policy = SessionPolicy(reuse_grace=10 * MS_PER_S)
    login = front.login()
    newest = front.refresh(login.refresh_token)

    front.world.clock.pass_s(9.999)
    with pytest.raises(InvalidTokenError):
        front.exchange(login.refresh_token)
    assert front.whoami(newest.access_token).user_id == front.user_id
    front.world.clock.pass_s(0.001)
    assert isinstance(front.exchange(login.refresh_token), Reused)


def test_a_refresh_token_lives_a_week_from_the_last_refresh(front: Front) -> None:
    """At the very end it is expired."""
    login = front.login()
    front.world.clock.pass_s(604_799)
    login = front.refresh(login.refresh_token)
    front.world.clock.pass_s(604_800)

    with pytest.raises(TokenExpiredError) as refusal:
        front.exchange(login.refresh_token)

    assert refusal.value.details == {"expired_at": login.refresh_expires_at}


def test_no_refresh_makes_a_session_older_than_its_age(front: Front) -> None:
    """Tokens end with their session, and each lives a second at least."""
    front.policy = SessionPolicy(max_age=700_000 * MS_PER_S)
    front.world.clock.instant += 999
    login = front.login()
    front.world.clock.pass_s(604_000)
    login = front.refresh(login.refresh_token)
    assert login.refresh_expires_at == front.session(login).expires_at == NOON + 700_000 * MS_PER_S
    front.world.clock.instant = NOON + 700_000 * MS_PER_S - 1
    login = front.refresh(login.refresh_token)
    assert (login.access_expires_in_s, login.refresh_expires_in_s) == (1, 1)
    assert front.whoami(login.access_token).user_id == front.user_id
    claims = front.signer.prove(login.access_token, now=NOON)
    front.world.clock.instant += 1

    with pytest.raises(TokenExpiredError):
        front.exchange(login.refresh_token)
    with pytest.raises(TokenExpiredError):
        front.world.store.read(partial(authenticate_access, claims=claims))


@pytest.mark.parametrize("garbage", ["", "rt_x", "\ud800", "x" * 10_000])
def test_an_unknown_refresh_token_is_invalid(front: Front, garbage: str) -> None:
    """An access token is no refresh token either."""
    for value in (garbage, front.login().access_token):
        with pytest.raises(InvalidTokenError):
            front.exchange(value)
        with pytest.raises(InvalidTokenError):
            front.logout_by_refresh(value)


# --- the account behind a session --------------------------------------------


@pytest.mark.parametrize("status", ["suspended", "deleted"])
def test_no_token_of_a_disabled_user_works(front: Front, status: UserStatus) -> None:
    """Revoked ones included; the session of a user who is active again goes on where it was."""
    login, ended = front.login(), front.login()
    front.logout(ended.access_token)
    front.change(status=status)

    for each in (login, ended):
        with pytest.raises(AccountDisabledCredentialError):
            front.whoami(each.access_token)
        with pytest.raises(AccountDisabledCredentialError):
            front.exchange(each.refresh_token)
    if status == "suspended":
        front.change(status="active")
        assert front.whoami(login.access_token).user_id == front.user_id


def test_role_and_flag_are_the_stored_ones(front: Front) -> None:
    """What the token says of them decides nothing; without a name the username stands in."""
    login = front.login()
    front.change(role="admin", force_password_change=1, name=None)

    for principal in (front.whoami(login.access_token), front.refresh(login.refresh_token).principal):
        assert (principal.role, principal.must_change_password, principal.name) == ("admin", True, "Bea")
        assert (principal.actor.id, principal.actor.role, principal.actor.ip_address) == (
            front.user_id, "admin", "192.0.2.1",
        )  # fmt: skip


def test_a_session_of_somebody_else_or_of_the_future_is_invalid(front: Front) -> None:
    """A restored backup may meet tokens of generations it does not know."""
    login = front.login()
    newest = front.refresh(login.refresh_token)
    later = front.signer.prove(newest.access_token, now=NOON)

    strangers = (
        replace(later, user_id=front.world.owner_id),
        replace(later, gen=3),
        replace(later, session_id="sess_" + "0" * 32),
    )
    for bad in strangers:
        with pytest.raises(InvalidTokenError):
            front.world.store.read(partial(authenticate_access, claims=bad))


# --- logout and password -----------------------------------------------------


def test_a_logout_kills_refresh_and_access_and_no_other_session(front: Front) -> None:
    """A second logout says that the token was revoked, and when."""
    login, other = front.login(), front.login()

    assert front.logout(login.access_token) == 1

    dead: list[tuple[Callable[[str], object], str]] = [
        (front.whoami, login.access_token),
        (front.logout, login.access_token),
        (front.exchange, login.refresh_token),
        (front.logout_by_refresh, login.refresh_token),
    ]
    for use, token in dead:
        with pytest.raises(TokenRevokedError) as refusal:
            use(token)
        assert refusal.value.details == {"revoked_at": NOON}
    assert front.whoami(other.access_token).user_id == front.user_id
    (row,) = front.audited("AUTH_LOGOUT")
    assert (row.resource_id, row.actor_id) == (login.principal.session_id, front.user_id)


def test_a_logout_may_end_all_sessions(front: Front) -> None:
    """Those that ended before keep their end."""
    ended, *live = [front.login() for _ in range(3)]
    front.logout(ended.access_token)
    front.world.clock.pass_s(5)

    assert front.logout(live[0].access_token, all_sessions=True) == 2

    assert front.session(ended).revoked_at == NOON
    for each in live:
        with pytest.raises(TokenRevokedError):
            front.exchange(each.refresh_token)


def test_a_refresh_token_can_log_out_and_an_exchanged_one_is_a_replay(front: Front) -> None:
    """Either way the session is over."""
    login, other = front.login(), front.login()
    newest = front.refresh(other.refresh_token)

    assert front.logout_by_refresh(login.refresh_token) == 1
    assert isinstance(front.logout_by_refresh(other.refresh_token), Reused)

    for each in (login, newest):
        with pytest.raises(TokenRevokedError):
            front.whoami(each.access_token)


def change(front: Front, login: LoggedIn, checked_hash: str = HASH) -> None:
    front.world.store.write(
        partial(change_password, principal=login.principal, checked_hash=checked_hash, new_hash=NEW_HASH)
    )


def test_a_new_password_ends_all_other_sessions(front: Front) -> None:
    """The flag is cleared, the caller's session goes on, the old password opens nothing."""
    front.change(force_password_change=1)
    login, other = front.login(), front.login()

    change(front, login)

    assert front.whoami(login.access_token).must_change_password is False
    with pytest.raises(TokenRevokedError):
        front.whoami(other.access_token)
    assert isinstance(front.refusal(HASH), InvalidCredentialsError)
    assert front.login(checked_hash=NEW_HASH).principal.user_id == front.user_id
    (row,) = front.audited("USER_PASSWORD_CHANGED")
    assert (row.category, row.resource_id) == ("user", front.user_id)
    assert "argon2" not in repr(row)


def test_a_password_is_not_changed_behind_a_change(front: Front) -> None:
    """Another password, a session that ended, or a user who was suspended meanwhile."""
    login = front.login()
    with pytest.raises(InvalidCredentialsError):
        change(front, login, checked_hash="$argon2id$other")
    front.change(status="suspended")
    with pytest.raises(AccountDisabledCredentialError):
        change(front, login)
    front.change(status="active")
    front.logout(login.access_token)
    with pytest.raises(TokenRevokedError):
        change(front, login)

    assert front.stored().password_hash == HASH


# --- the first admin ---------------------------------------------------------


def test_the_first_admin_is_made_once() -> None:
    """Only where there was never any user, deleted ones included."""
    make = partial(first_admin, email="Admin@localhost", username="admin", password_hash=HASH, force_change=True)

    with SqliteStore(":memory:", clock=SetClock()) as store:
        with pytest.raises(ValidationError):
            store.write(partial(first_admin, email="x", username="", password_hash=HASH, force_change=False))
        admin = store.write(make)
        again = store.write(make)
        assert admin is not None
        store.write(lambda uow: uow.users.put(admin._replace(status="deleted")))
        assert store.write(make) is None
        rows = store.read(lambda uow: list(uow.audit.rows()))

    assert (admin.email, admin.role, admin.status, admin.force_password_change) == (
        "admin@localhost", "admin", "active", 1,
    )  # fmt: skip
    assert again is None
    assert [(row.operation, row.actor_id) for row in rows] == [("ADMIN_BOOTSTRAPPED", "system")]


@pytest.mark.parametrize("name", ["", " ", "n" * 101, "a\nb"])
def test_a_name_is_a_short_text(world: World, name: str) -> None:
    """1 to 100 characters, and trimmed."""
    add = partial(add_user, username="cy", email="cy@test", role="user", actor=ADMIN)

    with pytest.raises(ValidationError) as refusal:
        world.store.write(partial(add, name=name))

    assert list(refusal.value.fields) == ["name"]
    assert world.store.write(partial(add, name=" Cy ")).name == "Cy"


def test_a_session_is_remembered_for_a_week_after_its_end(front: Front) -> None:
    """So that a token of it is told why it opens nothing; then it goes, unasked."""
    front.login()
    store, clock = front.world.store, front.world.clock
    clock.pass_s(front.policy.max_age // MS_PER_S + 7 * 86_400)
    kept = store.write(partial(forget_sessions, limit=10))
    clock.pass_s(1)

    gone = store.write(partial(forget_sessions, limit=10))

    assert (kept, gone) == (0, 1)
