"""Callers that wait, leave or come too late."""

import asyncio
import threading

import pytest

from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_storage.sqlite import queue as queue_module
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.child import report_of
from tests.support.rows import put_agent, tell, told, usage_row
from tests.support.stores import PATIENCE_S, Plug, finished, raw, submit
from tests.support.world import SetClock, World


def test_a_caller_cancelled_in_the_queue_does_not_stop_the_store(store: SqliteStore) -> None:
    """Its write may happen; its answer is dropped, its neighbours get theirs, and trying again is safe."""
    world = World(store, SetClock())
    agent = world.agent()
    lease = agent.handshake().lease
    report = report_of(agent.id, lease.id, "call")

    async def run() -> str:
        plug = Plug(store)
        leaving = asyncio.ensure_future(store.write_async(report))
        staying = asyncio.ensure_future(store.write_async(lambda uow: tell(uow, "stayed")))
        await asyncio.sleep(0)
        leaving.cancel()
        plug.pull()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return await staying

    assert asyncio.run(run()) == "stayed"
    assert store.write(report).booked.duplicate
    assert agent.balance().spent == 10
    assert world.verify().holds


def test_a_loop_that_closes_before_the_answer_does_not_stop_the_store(store: SqliteStore) -> None:
    """The write stays written; other callers of the batch are answered."""
    plug = Plug(store)
    loop = asyncio.new_event_loop()
    asking = loop.create_task(store.write_async(lambda uow: tell(uow, "nobody waits")))
    loop.run_until_complete(asyncio.sleep(0))
    neighbour = submit(store, lambda uow: tell(uow, "neighbour"))
    asking.cancel()
    loop.run_until_complete(asyncio.gather(asking, return_exceptions=True))
    loop.close()
    plug.pull()

    assert neighbour.result(PATIENCE_S) == "neighbour"
    assert store.read(told) == ["nobody waits", "neighbour"]


def test_a_full_queue_refuses_and_says_when_to_come_again(database: object) -> None:
    """Whoever waits already is served; a caller too many is refused, on threads and on loops."""
    with SqliteStore(str(database), max_waiting=2) as store:
        plug = Plug(store)
        waiting = [submit(store, lambda uow: tell(uow, "waited")) for _ in range(2)]
        depth = store.queue_depth
        with pytest.raises(UnavailableError) as refused:
            store.write(told)
        with pytest.raises(UnavailableError):
            asyncio.run(store.write_async(told))
        plug.pull()

        assert [future.result(PATIENCE_S) for future in waiting] == ["waited"] * 2
        assert store.write(told) == ["waited"] * 2
        assert store.queue_depth == 0
    assert depth == 2
    assert refused.value.details["retry_after_s"] == 1


def test_closing_finishes_what_is_queued(store: SqliteStore, database: object) -> None:
    """Every write that was accepted is answered and durable; every later one is refused."""
    plug = Plug(store)
    futures = [submit(store, lambda uow: tell(uow, "queued")) for _ in range(600)]
    closing = threading.Thread(target=store.close)
    closing.start()
    plug.pull()
    closing.join(PATIENCE_S)

    assert [future.result(PATIENCE_S) for future in futures] == ["queued"] * 600
    with pytest.raises(UnavailableError):
        submit(store, told)
    with SqliteStore(str(database)) as again:
        assert len(again.read(told)) == 600


def test_a_read_that_is_overtaken_by_the_end_of_the_store_is_refused(store: SqliteStore) -> None:
    """A read that was let in just before the store closed finds no reader; it is refused and waits for none."""
    check_open = store._check_open

    def check_and_be_overtaken() -> None:
        check_open()
        store.close()

    store._check_open = check_and_be_overtaken  # type: ignore[method-assign]  # the moment between check and use
    outcome = finished(lambda: store.read(told))

    assert isinstance(outcome.exception(), UnavailableError)


def test_idle_time_empties_the_log(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause after writes copies the log into the file; a reader in the way does not hurt."""
    monkeypatch.setattr(queue_module, "IDLE_BEFORE_CHECKPOINT_S", 0.01)
    checkpointed = threading.Event()
    checkpoint = store._writer.checkpoint

    def checkpoint_and_tell() -> None:
        checkpoint()
        checkpointed.set()

    monkeypatch.setattr(store._writer, "checkpoint", checkpoint_and_tell)
    store.write(lambda uow: uow.usage.put(usage_row(put_agent(uow).id, "call")))

    assert checkpointed.wait(PATIENCE_S)
    assert finished(lambda: store.write(lambda uow: tell(uow, "after"))).result() == "after"
    assert store.read(told) == ["after"]


def test_emptying_the_log_does_not_wait_for_a_reader(store: SqliteStore) -> None:
    """A long read may keep the log from being emptied, but not the writer from its next batch."""
    looking, seen_enough = threading.Event(), threading.Event()

    def look_long(uow: UnitOfWork) -> None:
        told(uow)
        looking.set()
        seen_enough.wait(PATIENCE_S * 2)

    store.write(lambda uow: tell(uow, "seen"))
    raw(store, f"PRAGMA busy_timeout = {int(PATIENCE_S * 2000)}")
    reader = threading.Thread(target=store.read, args=(look_long,), daemon=True)
    reader.start()
    assert looking.wait(PATIENCE_S)
    store.write(lambda uow: tell(uow, "not seen"))
    try:
        finished(store._writer.checkpoint)
    finally:
        seen_enough.set()
        reader.join(PATIENCE_S)

    assert store.write(told) == ["seen", "not seen"]
