"""Sessions and their refresh tokens: found by id, by any hash they ever had, and by their user."""

import pytest

from ironcage_core.domain.sessions import DEFAULT_SESSION_POLICY, FoundRefresh, Session, opened, revoked, rotated
from ironcage_core.errors.tree import IroncageError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import fresh_id, user_row
from tests.support.world import NOON, SetClock

DAY_S = 86_400


def put_session(uow: UnitOfWork, user_id: str = "") -> Session:
    """Store a session, of a new user if none is named."""
    if not user_id:
        user = user_row()
        uow.users.put(user)
        user_id = user.id
    session = opened(fresh_id("sess"), user_id, fresh_id("hash"), now=uow.now, policy=DEFAULT_SESSION_POLICY)
    uow.sessions.put(session)
    return session


def put_rotated(uow: UnitOfWork, session: Session) -> Session:
    """Store the session one generation on."""
    after = rotated(session, fresh_id("hash"), now=uow.now, policy=DEFAULT_SESSION_POLICY)
    uow.sessions.put(after)
    return after


@pytest.mark.parametrize("is_one_unit", [True, False])
def test_an_exchanged_token_is_found_with_its_generation(
    store: SqliteStore, clock: SetClock, *, is_one_unit: bool
) -> None:
    """With the session as it is now and the instant of the exchange; in the unit that wrote it and after it."""
    if is_one_unit:
        clock.pass_s(1)
        first, second = store.write(lambda uow: (first := put_session(uow), put_rotated(uow, first)))
    else:
        first = store.write(put_session)
        clock.pass_s(1)
        second = store.write(lambda uow: put_rotated(uow, first))

    found = store.read(lambda uow: [uow.sessions.find_by_refresh_hash(row.refresh_hash) for row in (first, second)])

    assert found == [FoundRefresh(second, 1, NOON + 1000), FoundRefresh(second, 2, None)]
    assert store.read(lambda uow: uow.sessions.find(first.id)) == second
    assert store.read(lambda uow: uow.sessions.find_by_refresh_hash("unknown")) is None


def test_a_unit_sees_its_own_sessions(store: SqliteStore) -> None:
    """By id, by hash and by user, before anything is written."""

    def seen(uow: UnitOfWork) -> tuple[object, object]:
        first = put_session(uow)
        second, third = put_session(uow, first.user_id), put_session(uow)
        live = list(uow.sessions.of_user(first.user_id))
        uow.sessions.put(revoked(first, "logout", now=uow.now))
        found = (
            live,
            list(uow.sessions.of_user(first.user_id)),
            list(uow.sessions.of_user(third.user_id)),
            uow.sessions.find_by_refresh_hash(second.refresh_hash),
        )
        return found, ([first, second], [second], [third], FoundRefresh(second, 1, None))

    found, expected = store.write(seen)

    assert found == expected


def test_a_use_case_that_raises_leaves_the_old_token_live(store: SqliteStore) -> None:
    """Neither the new hash nor the exchange of the old one remains."""
    session = store.write(put_session)

    def fail(uow: UnitOfWork) -> None:
        put_rotated(uow, session)
        uow.sessions.of_user(session.user_id)
        raise LookupError

    with pytest.raises(LookupError):
        store.write(fail)

    found = store.read(lambda uow: uow.sessions.find_by_refresh_hash(session.refresh_hash))
    assert found == FoundRefresh(session, 1, None)


def test_a_session_ends_once_and_never_goes_back(store: SqliteStore) -> None:
    """Held by the database, whatever a use case thinks."""
    session = store.write(put_session)
    after = store.write(lambda uow: put_rotated(uow, session))

    for bad in (session, after._replace(refresh_hash="other"), after._replace(gen=3)):
        with pytest.raises(IroncageError):
            store.write(lambda uow, bad=bad: uow.sessions.put(bad))  # type: ignore[misc]  # as it is now
    store.write(lambda uow: uow.sessions.put(revoked(after, "logout", now=uow.now)))
    with pytest.raises(IroncageError):
        store.write(lambda uow: uow.sessions.put(after))

    assert store.read(lambda uow: uow.sessions.of_user(session.user_id)) == []


def test_a_session_belongs_to_a_user(store: SqliteStore) -> None:
    """Nobody has no sessions."""
    with pytest.raises(IroncageError):
        store.write(lambda uow: put_session(uow, fresh_id("user")))


def test_users_are_none_until_there_was_one(store: SqliteStore) -> None:
    """Seen by the unit that adds the first, and a deleted one counts."""
    assert store.read(lambda uow: uow.users.is_empty())

    def add(uow: UnitOfWork) -> bool:
        uow.users.put(user_row(status="deleted"))
        return uow.users.is_empty()

    assert store.write(add) is False
    assert store.read(lambda uow: uow.users.is_empty()) is False


def test_sessions_that_were_over_long_ago_are_removed_with_their_tokens(store: SqliteStore, clock: SetClock) -> None:
    """Oldest first, at most as many as asked; what is not over that long stays, with every token it had."""
    old, older = store.write(put_session), store.write(put_session)
    clock.pass_s(DAY_S)
    young = store.write(put_session)
    renewed = store.write(lambda uow: put_rotated(uow, young))
    over = old.expires_at + 1

    removed = [store.write(lambda uow: uow.sessions.remove_ended(over, 1)) for _ in range(3)]

    assert removed == [1, 1, 0]
    hashes = [row.refresh_hash for row in (old, older, young, renewed)]
    found = store.read(lambda uow: [uow.sessions.find_by_refresh_hash(each) for each in hashes])
    assert [each is not None for each in found] == [False, False, True, True]
    assert store.write(lambda uow: uow.sessions.find_by_refresh_hash(old.refresh_hash)) is None
    assert store.read(lambda uow: uow.sessions.find(old.id)) is None
