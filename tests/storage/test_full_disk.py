"""A disk that is full: nothing half-written, everybody concerned is told, and the store works again with more room."""

import pytest

from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.verify import verify
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import note, tell, told
from tests.support.stores import UseCase, queued_together, raw

MEGABYTE = "x" * 2**20


def fill(store: SqliteStore) -> None:
    """Let the file grow no further."""
    ((pages,),) = raw(store, "PRAGMA page_count")
    raw(store, f"PRAGMA max_page_count = {pages}")


def make_room(store: SqliteStore) -> None:
    raw(store, "PRAGMA max_page_count = 1000000")


def too_much(name: str, *, is_queried: bool = False) -> UseCase:
    """Return a use case that writes a megabyte, and asks for it if it is queried."""

    def run(uow: UnitOfWork) -> str:
        uow.feed.append("AGENT_EVENT", agent_id=None, name=name, data={"text": MEGABYTE})
        uow.banks.add("bank", "proj_master_001", "2025-11", spent=1, held=1)
        uow.audit.append(note(name))
        if is_queried:
            told(uow)
        return name

    return run


def state(uow: UnitOfWork) -> tuple[list[str | None], int, list[str]]:
    return told(uow), uow.banks.held("bank"), [row.operation for row in uow.audit.rows()]


@pytest.mark.parametrize("is_queried", [False, True])
def test_a_full_disk_in_the_middle_of_a_batch_leaves_nothing_half_written(store: SqliteStore, is_queried: bool) -> None:
    """Units that do not fit are refused whole; every unit that was answered with success is there."""
    fill(store)
    futures = queued_together(
        store,
        lambda uow: tell(uow, "small"),
        too_much("first", is_queried=is_queried),
        too_much("second", is_queried=is_queried),
        lambda uow: tell(uow, "small too"),
    )
    acknowledged = [future.result() for future in futures if future.exception() is None]

    assert all(isinstance(futures[at].exception(), UnavailableError) for at in (1, 2))
    assert all(isinstance(future.exception(), UnavailableError | None) for future in futures)
    assert store.read(state) == (acknowledged, 0, [])
    assert store.check_file() == []
    assert store.read(verify).holds


@pytest.mark.parametrize("is_queried", [False, True])
def test_the_store_works_again_when_there_is_room(store: SqliteStore, is_queried: bool) -> None:
    """What was refused can be tried again and counts once."""
    fill(store)
    with pytest.raises(UnavailableError) as refused:
        store.write(too_much("again", is_queried=is_queried))
    make_room(store)
    store.write(too_much("again", is_queried=is_queried))

    assert refused.value.details["retry_after_s"] == 30
    assert store.read(state) == (["again"], 1, ["again"])
    assert store.check_file() == []


def test_a_transaction_block_that_does_not_fit_is_refused(store: SqliteStore) -> None:
    """The block gets the same refusal as a queued write."""
    fill(store)
    with pytest.raises(UnavailableError), store.transaction() as uow:
        too_much("block")(uow)
    make_room(store)

    assert store.write(state) == ([], 0, [])
