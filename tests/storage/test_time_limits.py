"""A question may take so long and no longer, and whoever asks next is not worse off."""

from pathlib import Path

import pytest

from ironcage_core.domain.ids import is_id
from ironcage_core.errors.usage import QueryTimeoutError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite.readers import READERS
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.sqlite.unit_of_work import SqliteUnitOfWork

_ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def _count_for_ever(uow: UnitOfWork) -> None:
    assert isinstance(uow, SqliteUnitOfWork)
    uow._session.query(_ENDLESS).fetchone()


def test_a_question_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """And its connection answers the next one, as often as it happens."""
    with SqliteStore(tmp_path / "iron.db") as store:
        for _ in range(2 * READERS):
            with pytest.raises(QueryTimeoutError, match="too long"):
                store.read(_count_for_ever, within_s=0.05)
        answered = [store.read(lambda uow: uow.projects.find("proj_master_001")) for _ in range(2 * READERS)]

    assert all(answered)


def test_a_question_without_a_limit_takes_what_it_needs(tmp_path: Path) -> None:
    """A limit of one question is not that of the next on its connection."""

    def slow(uow: UnitOfWork) -> int:
        assert isinstance(uow, SqliteUnitOfWork)
        sql = _ENDLESS.replace("FROM n)", "FROM n WHERE i < 300000)")
        return int(uow._session.query(sql).fetchone()[0])

    with SqliteStore(tmp_path / "iron.db") as store:
        for _ in range(READERS):
            store.read(lambda uow: is_id(uow.new_id("trace"), "trace"), within_s=0.001)
        counted = [store.read(slow) for _ in range(READERS)]

    assert counted == [300_000] * READERS
