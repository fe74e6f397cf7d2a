"""Users in every storage: filters, orders, totals, names, and how many admins there are."""

from functools import partial

import pytest

from ironcage_core.domain.users import User
from ironcage_core.ports.lists import Paging, UserFilter, UserOrder
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import limit_row, put, putting, user_row
from tests.support.world import NOON

BEA = user_row("Bea", role="admin", created_at=NOON, last_login_at=NOON + 5)._replace(name="Beatrix Ko")
CAL = user_row("cal", created_at=NOON + 1, locked_until=NOON + 1, last_login_at=NOON + 6)
DAN = user_row("dan_50%", role="viewer", created_at=NOON + 1, locked_until=NOON, email="abe@test")
EVE = user_row("eve", role="admin", created_at=NOON + 2, status="suspended", locked_until=NOON + 1)
FAY = user_row("fay", created_at=NOON + 3, status="deleted", last_login_at=NOON)
ALL = (BEA, CAL, DAN, EVE, FAY)


def listed(
    store: SqliteStore,
    which: UserFilter,
    paging: Paging | None = None,
    order: UserOrder = "created_at",
    *,
    descending: bool = True,
) -> tuple[list[User], int]:
    page = store.read(lambda uow: uow.users.page(which, paging or Paging(), order, descending=descending))
    return list(page.rows), page.total


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (UserFilter(), [EVE, DAN, CAL, BEA]),
        (UserFilter(include_deleted=True), [FAY, EVE, DAN, CAL, BEA]),
        (UserFilter(role="admin"), [EVE, BEA]),
        (UserFilter(role="admin", is_active=True), [BEA]),
        (UserFilter(is_active=True), [DAN, CAL, BEA]),
        (UserFilter(is_active=False), [EVE]),
        (UserFilter(is_active=False, include_deleted=True), [FAY, EVE]),
        (UserFilter(status="active", now=NOON), [DAN, BEA]),
        (UserFilter(status="active", now=NOON + 1), [DAN, CAL, BEA]),
        (UserFilter(status="locked", now=NOON), [CAL]),
        (UserFilter(status="locked", now=NOON - 1), [DAN, CAL]),
        (UserFilter(status="locked", now=NOON + 1), []),
        (UserFilter(status="suspended", include_deleted=True), [EVE]),
        (UserFilter(status="deleted"), [FAY]),
        (UserFilter(search="EA"), [BEA]),
        (UserFilter(search="beatrix k"), [BEA]),
        (UserFilter(search="ABE@"), [DAN]),
        (UserFilter(search="%"), [DAN]),
        (UserFilter(search="_5"), [DAN]),
        (UserFilter(search="n_5"), [DAN]),
        (UserFilter(search="d_n"), []),
        (UserFilter(search="@test", role="viewer"), [DAN]),
        (UserFilter(search="fay"), []),
        (UserFilter(search="calcal"), []),
    ],
)
def test_users_are_filtered(store: SqliteStore, which: UserFilter, expected: list[User]) -> None:
    """Deleted ones only where they are asked for; signs of LIKE are letters like any other."""
    store.write(putting(*ALL))

    assert listed(store, which) == (expected, len(expected))


@pytest.mark.parametrize(
    ("order", "ascending", "descending"),
    [
        ("created_at", [BEA, DAN, CAL, EVE], [EVE, DAN, CAL, BEA]),
        ("username", [BEA, CAL, DAN, EVE], [EVE, DAN, CAL, BEA]),
        ("email", [DAN, BEA, CAL, EVE], [EVE, CAL, BEA, DAN]),
        ("role", [EVE, BEA, CAL, DAN], [DAN, CAL, EVE, BEA]),
        ("last_login", [BEA, CAL, EVE, DAN], [CAL, BEA, EVE, DAN]),
    ],
)
def test_users_are_ordered(store: SqliteStore, order: UserOrder, ascending: list[User], descending: list[User]) -> None:
    """Ties by id, the newest first; who never logged in comes last in either direction."""
    rows = [user._replace(email=user.email.lower()) for user in ALL]
    lowered = {user.id: user for user in rows}
    store.write(putting(*rows))

    assert listed(store, UserFilter(), order=order, descending=False)[0] == [lowered[user.id] for user in ascending]
    assert listed(store, UserFilter(), order=order)[0] == [lowered[user.id] for user in descending]


def test_a_page_of_users_and_its_total_are_exact(store: SqliteStore) -> None:
    """Past the end there is nothing, and the total is still true."""
    store.write(putting(*ALL))

    pages = [listed(store, UserFilter(), Paging(number, 3)) for number in (1, 2, 3)]

    assert pages == [([EVE, DAN, CAL], 4), ([BEA], 4), ([], 4)]


def test_only_active_admins_are_counted(store: SqliteStore) -> None:
    """What a unit of work has just put counts in it."""

    def counted(uow: UnitOfWork) -> list[int]:
        counts = []
        for user in (BEA, CAL, EVE, BEA._replace(role="user"), EVE._replace(status="active", suspended_at=None)):
            put(uow, user)
            counts.append(uow.users.count_active_admins())
        return counts

    assert store.write(counted) == [1, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("stored", "asked"), [("Bea", "bEA"), ("Ünal", "üNAL"), ("ünal", "ÜNAL"), ("ЖАН", "жан"), ("ÉTÉ", "Été")]
)
def test_a_user_is_found_by_the_username_in_whatever_case(store: SqliteStore, stored: str, asked: str) -> None:
    """Also where SQL knows no lower case; a deleted user is not found, another name neither."""
    living = user_row(stored)
    store.write(putting(living, user_row(stored, email="was@test", status="deleted"), user_row("Ökonom")))

    def found(name: str) -> User | None:
        return store.read(lambda uow: uow.users.find_by_username(name))

    assert (found(stored), found(asked), found(asked + "x")) == (living, living, None)
    store.write(putting(living._replace(status="deleted")))
    assert (found(stored), found(asked)) == (None, None)


def test_a_user_of_this_very_unit_is_found_in_whatever_case(store: SqliteStore) -> None:
    """Two users of one batch cannot share a name."""
    user = user_row("ÖDÖN")

    def run(uow: UnitOfWork) -> User | None:
        put(uow, user)
        return uow.users.find_by_username("ödön")

    assert store.write(run) == user


def test_a_limit_is_deleted_with_what_is_known_of_it(store: SqliteStore) -> None:
    """In its own unit of work, after it, and where a new one takes its place; without one nothing happens."""
    limit, other = limit_row(BEA.id, 5), limit_row(CAL.id, 6)

    def replace(uow: UnitOfWork) -> object:
        put(uow, BEA, CAL)
        uow.limits.put(limit)
        uow.limits.put(other)
        uow.limits.delete_of_user(BEA.id)
        return uow.limits.find_of(BEA.id)

    seen = store.write(replace)
    after = store.read(lambda uow: (uow.limits.find_of(BEA.id), uow.limits.find_of(CAL.id)))
    store.write(lambda uow: uow.limits.delete_of_user(BEA.id))
    store.write(lambda uow: uow.limits.put(limit._replace(id=other.id.replace("0", "1", 1), max_cost_per_month=7)))
    renewed = store.read(lambda uow: uow.limits.find_of(BEA.id))

    assert (seen, after) == (None, (None, other))
    assert renewed is not None
    assert renewed.max_cost_per_month == 7


def test_a_limit_whose_deletion_is_undone_is_there(store: SqliteStore) -> None:
    """For the units of the same batch, too."""
    limit = limit_row(BEA.id, 5)
    store.write(putting(BEA))
    store.write(lambda uow: uow.limits.put(limit))

    def failing(uow: UnitOfWork) -> None:
        uow.limits.delete_of_user(BEA.id)
        raise LookupError

    with pytest.raises(LookupError):
        store.write(failing)

    assert store.read(lambda uow: uow.limits.find_of(BEA.id)) == limit
    assert store.write(partial(_limit_of, user_id=BEA.id)) == limit


def _limit_of(uow: UnitOfWork, user_id: str) -> object:
    return uow.limits.find_of(user_id)
