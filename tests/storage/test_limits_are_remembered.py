"""Usage limits that were looked up are remembered, until anybody changes one."""

from pathlib import Path

import pytest

from ironcage_core.domain.users import UsageLimit
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import limit_row, user_row
from tests.support.stores import RefusedError, UseCase, in_one_commit, raising

USER = user_row()
OTHER = user_row("other")
PROJECT = "proj_master_001"
LIMIT = limit_row(USER.id, 7)
OF_PROJECT = limit_row(USER.id, 8)._replace(project_id=PROJECT)
OF_OTHER = limit_row(OTHER.id, 9)


def found(uow: UnitOfWork) -> list[UsageLimit | None]:
    return [uow.limits.find_of(USER.id), uow.limits.find_of(USER.id, PROJECT), uow.limits.find_of(OTHER.id)]


def putting(*limits: UsageLimit) -> UseCase:
    def run(uow: UnitOfWork) -> None:
        for limit in limits:
            uow.limits.put(limit)

    return run


put_all = putting(LIMIT, OF_PROJECT, OF_OTHER)


def begin(uow: UnitOfWork) -> None:
    uow.users.put(USER)
    uow.users.put(OTHER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limits.db"


def selects(store: SqliteStore, use_case: UseCase) -> list[str]:
    """Return the statements about limits that a unit of work runs."""
    told: list[str] = []
    store._connection.set_trace_callback(told.append)
    store.write(use_case)
    store._connection.set_trace_callback(None)
    return [sql for sql in told if "usage_limits" in sql]


@pytest.mark.parametrize("limits", [[], [LIMIT, OF_PROJECT, OF_OTHER]])
def test_what_was_looked_up_is_not_looked_up_again(path: Path, limits: list[UsageLimit]) -> None:
    """Also that there is none; by later units, too."""
    with SqliteStore(path) as store:
        store.write(begin)
        store.write(putting(*limits))

        times = [len(selects(store, found)) for _ in range(3)]

        assert times == [3, 0, 0]
        expected: list[UsageLimit | None] = [*limits] if limits else [None] * 3
        assert store.write(found) == expected


def test_a_change_is_seen_at_once_and_by_all_who_follow(path: Path) -> None:
    """A new limit, a changed one, one that goes, all of a user and all of a project."""
    changed = LIMIT._replace(max_cost_per_month=70)

    def change(uow: UnitOfWork) -> list[list[UsageLimit | None]]:
        seen = [found(uow)]
        put_all(uow)
        seen.append(found(uow))
        uow.limits.put(changed)
        seen.append(found(uow))
        uow.limits.delete_of_project(PROJECT)
        seen.append(found(uow))
        uow.limits.remove(OF_OTHER.id)
        seen.append(found(uow))
        uow.limits.delete_of_user(USER.id)
        seen.append(found(uow))
        uow.limits.put(OF_OTHER)
        return seen

    with SqliteStore(path) as store:
        store.write(begin)
        assert store.write(change) == [
            [None] * 3, [LIMIT, OF_PROJECT, OF_OTHER], [changed, OF_PROJECT, OF_OTHER],
            [changed, None, OF_OTHER], [changed, None, None], [None] * 3,
        ]  # fmt: skip
        assert store.write(found) == store.read(found) == [None, None, OF_OTHER]


@pytest.mark.parametrize("settles", [False, True])
def test_what_a_failed_unit_saw_is_not_remembered(path: Path, *, settles: bool) -> None:
    """Alone and in the middle of a batch, whether or not its rows were written before it failed."""

    def lose(uow: UnitOfWork) -> None:
        uow.limits.put(LIMIT._replace(max_cost_per_month=1))
        uow.limits.put(OF_OTHER._replace(max_cost_per_month=1))
        if settles:
            uow.limits.delete_of_project(PROJECT)
        found(uow)

    with SqliteStore(path) as store:
        store.write(begin)
        store.write(putting(LIMIT, OF_PROJECT))
        kept = [LIMIT, OF_PROJECT, None]
        with pytest.raises(RefusedError):
            store.write(raising(lose))
        assert store.write(found) == kept

        outcomes = in_one_commit(store, found, putting(OF_OTHER), raising(lose), found, raising(found), found)

        assert [outcomes[place].answer for place in (0, 3, 5)] == [kept, *[[LIMIT, OF_PROJECT, OF_OTHER]] * 2]
        assert store.write(found) == [LIMIT, OF_PROJECT, OF_OTHER]


def test_what_another_process_changes_is_seen(path: Path) -> None:
    """Its own connection stands for it; the database tells that it was written to."""
    with SqliteStore(path) as store, SqliteStore(path) as other:
        store.write(begin)
        assert store.write(found) == [None] * 3

        other.write(put_all)

        assert store.write(found) == [LIMIT, OF_PROJECT, OF_OTHER]
        other.write(lambda uow: uow.limits.delete_of_user(USER.id))
        assert store.write(found) == [None, None, OF_OTHER]
