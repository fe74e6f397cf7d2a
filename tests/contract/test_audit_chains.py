"""The audit log is one chain per retention class, and a change of any row shows."""

import pytest

from ironcage_core.domain.audit import row_hash
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import note, putting
from tests.support.stores import RefusedError, in_one_commit, raw


@pytest.fixture
def chains(store: SqliteStore) -> SqliteStore:
    """Return a store with three chains of several commits, two of them of several units."""

    def raise_away(uow: UnitOfWork) -> None:
        uow.audit.append(note("LOST", "user"))
        list(uow.audit.rows())
        raise RefusedError

    def look_between(uow: UnitOfWork) -> None:
        uow.audit.append(note("D", "user"))
        list(uow.audit.rows())
        uow.audit.append(note("E", "user"))

    store.write(putting(note("A", "user"), note("B", "budget")))
    in_one_commit(store, putting(note("C", "credential")), raise_away, look_between, putting(note("F", "token")))
    store.write(putting(note("G", "safety")))
    return store


def test_every_row_follows_the_row_before_it_of_its_class(chains: SqliteStore) -> None:
    """The first row of a class follows nothing; classes do not mix; a unit that raised leaves no gap."""
    rows = chains.read(lambda uow: list(uow.audit.rows()))
    heads: dict[str, str] = {}

    for row in rows:
        assert row.prev_hash == heads.get(row.chain, "")
        assert row.hash == row_hash(row, row.prev_hash)
        heads[row.chain] = row.hash
    assert {row.operation: row.chain for row in rows} == {
        "A": "permanent",
        "B": "standard",
        "C": "year",
        "D": "permanent",
        "E": "permanent",
        "F": "standard",
        "G": "year",
    }
    assert chains.read(verify).holds


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit_log SET outcome = 'denied' WHERE operation = 'D'",
        "UPDATE audit_log SET actor_id = 'somebody' WHERE operation = 'G'",
        "UPDATE audit_log SET timestamp = timestamp + 1 WHERE operation = 'A'",
        "UPDATE audit_log SET metadata = '{\"x\":1}' WHERE operation = 'B'",
        "DELETE FROM audit_log WHERE operation = 'D'",
        "UPDATE audit_log SET hash = lower(hex(randomblob(32))) WHERE operation = 'F'",
    ],
)
def test_a_row_changed_behind_the_store_is_found(chains: SqliteStore, tampering: str) -> None:
    """Whoever has the file can drop the triggers, but not hide what he changed."""
    raw(chains, "DROP TRIGGER audit_no_update")
    raw(chains, "DROP TRIGGER audit_no_delete")
    raw(chains, tampering)
    found = chains.read(verify)

    assert [difference.number for difference in found.differences] == ["audit chain"] * len(found.differences)
    assert not found.holds
