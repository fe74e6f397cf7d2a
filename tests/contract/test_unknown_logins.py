"""Failed logins of names that nobody has: found by their hash, kept with the unit that wrote them, and bounded."""

import pytest

from ironcage_core.domain.users import UnknownLogin
from ironcage_core.errors.tree import IroncageError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.sqlite.unknown_logins import MAX_REMEMBERED
from tests.support.stores import RefusedError, in_one_commit, raising, raw
from tests.support.world import NOON

FIRST = UnknownLogin("first", 1, None, NOON)
AGAIN = UnknownLogin("first", 2, NOON + 60_000, NOON + 1)


def put(store: SqliteStore, login: UnknownLogin) -> None:
    store.write(lambda uow: uow.unknown_logins.put(login))


def found(store: SqliteStore, identifier_hash: str = "first") -> UnknownLogin | None:
    return store.read(lambda uow: uow.unknown_logins.find(identifier_hash))


def test_what_is_put_is_found_and_replaced(store: SqliteStore) -> None:
    """By the unit that put it and by those after it."""

    def both(uow: UnitOfWork) -> list[UnknownLogin | None]:
        seen = [uow.unknown_logins.find("first")]
        for login in (FIRST, AGAIN):
            uow.unknown_logins.put(login)
            seen.append(uow.unknown_logins.find("first"))
        return seen

    assert store.write(both) == [None, FIRST, AGAIN]
    assert found(store) == AGAIN
    assert found(store, "other") is None


def test_a_unit_that_raises_leaves_the_count_as_it_was(store: SqliteStore) -> None:
    """Beside units of the same batch that return."""
    put(store, FIRST)

    outcomes = in_one_commit(
        store,
        lambda uow: uow.unknown_logins.put(FIRST._replace(identifier_hash="before")),
        raising(lambda uow: uow.unknown_logins.put(AGAIN)),
        lambda uow: uow.unknown_logins.find("first"),
    )

    assert isinstance(outcomes[1].error, RefusedError)
    assert outcomes[2].answer == FIRST
    assert found(store) == FIRST
    assert found(store, "before") is not None


def test_a_count_is_never_negative(store: SqliteStore) -> None:
    """Held by the database, whatever a use case thinks."""
    with pytest.raises(IroncageError):
        put(store, FIRST._replace(failed_logins=-1))

    assert found(store) is None


def test_the_longest_unused_are_forgotten_where_there_are_too_many(store: SqliteStore) -> None:
    """A name that was tried again is no longer old; one that comes with an old instant stays for its turn."""
    raw(
        store,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO unknown_logins SELECT 'n' || i, 1, NULL, ? + i FROM n",
        (MAX_REMEMBERED, NOON),
    )
    put(store, UnknownLogin("n1", 2, None, NOON + 2 * MAX_REMEMBERED))
    assert raw(store, "SELECT count(*) FROM unknown_logins") == [(MAX_REMEMBERED,)]

    put(store, UnknownLogin("new", 1, None, NOON))
    assert (found(store, "n2"), raw(store, "SELECT count(*) FROM unknown_logins")) == (None, [(MAX_REMEMBERED,)])
    put(store, UnknownLogin("newer", 1, None, NOON + MAX_REMEMBERED))

    kept = [name for name in ("n1", "n2", "n3", "new", "newer") if found(store, name) is not None]
    assert kept == ["n1", "n3", "newer"]
    assert raw(store, "SELECT count(*) FROM unknown_logins") == [(MAX_REMEMBERED,)]
