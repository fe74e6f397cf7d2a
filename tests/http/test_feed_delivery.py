"""The live feed's delivery: who is told what, in which order, after a gap, and what becomes of slow clients."""

import asyncio
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from ironcage_core.domain.ids import MASTER_PROJECT, ORPHANED_PROJECT
from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_http.feed_connection import MAX_QUEUED, Rows
from ironcage_http.feed_hub import MAX_REPLAYS
from ironcage_http.feed_messages import told
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.sockets import Client, Feed, feeding, ids_in_feed
from tests.support.world import SetClock

pytestmark = pytest.mark.anyio

PII = {"pii_type": "email", "direction": "input", "count": 1, "action": "logged"}
FAILED = {"model": "m", "provider": "openai", "error_code": "500", "error_message": "a long story"}


def tools(client: Client) -> list[str]:
    """Return the tools that a client was told of."""
    return [each["data"]["tool"] for each in client.events if each.get("event") == "tool_invocation"]


async def test_everybody_is_told_of_what_is_his(feed: Feed) -> None:
    """Admins of everything, users and viewers of their agents, bound credentials of theirs."""
    mine, my_token = feed.agent()
    other, _ = feed.agent(project_id=ORPHANED_PROJECT)
    veras, _ = feed.agent("vera")
    clients = {
        "admin": await feed.listening(feed.session("admin")),
        "ann": await feed.listening(feed.session("ann")),
        "vera": await feed.listening(feed.session("vera")),
        "api": await feed.listening(feed.api_token()),
        "of agent": await feed.listening(feed.api_token(agent_id=mine)),
        "of project": await feed.listening(feed.api_token(project_id=MASTER_PROJECT)),
        "ic": await feed.listening(my_token),
        "admin's of agent": await feed.listening(feed.api_token("admin", agent_id=mine)),
    }
    for name, agent_id in (("mine", mine), ("other", other), ("veras", veras), ("system", None)):
        feed.publish(agent_id, tool=name)
    await clients["admin"].until(lambda: len(tools(clients["admin"])) == 4)
    await asyncio.sleep(0.05)

    assert {name: tools(client) for name, client in clients.items()} == {
        "admin": ["mine", "other", "veras", "system"],
        "ann": ["mine", "other"],
        "vera": ["veras"],
        "api": ["mine", "other"],
        "of agent": ["mine"],
        "of project": ["mine"],
        "ic": ["mine"],
        "admin's of agent": ["mine"],
    }


async def test_a_viewer_is_told_less(feed: Feed) -> None:
    """Neither personal data nor the texts of errors."""
    agent_id, _ = feed.agent("vera")
    vera, admin = await feed.listening(feed.session("vera")), await feed.listening(feed.session("admin"))
    feed.publish(agent_id, "pii_detected", **PII)
    feed.publish(agent_id, "llm_call_failed", **FAILED)
    await vera.until(lambda: "llm_call_failed" in vera.names)
    await admin.until(lambda: "llm_call_failed" in admin.names)

    assert vera.names == ["llm_call_failed"]
    assert "error_message" not in vera.events[0]["data"]
    assert admin.names == ["pii_detected", "llm_call_failed"]
    assert admin.events[1]["data"]["error_message"] == "a long story"


async def test_a_change_of_owner_moves_what_is_told(feed: Feed) -> None:
    """From the next event on; and a resume goes by the owner of now as well."""
    agent_id, _ = feed.agent()
    ann, vera = await feed.listening(feed.session("ann")), await feed.listening(feed.session("vera"))
    start = ann.messages[0]["last_event_id"]
    feed.publish(agent_id, tool="before")
    await ann.until(lambda: tools(ann) == ["before"])
    give(feed, agent_id, "vera")
    feed.publish(agent_id, tool="after")
    await vera.until(lambda: tools(vera) == ["after"])
    resumed = await feed.connect(feed.session("ann"), query=f"last_event_id={start}")
    late = await feed.connect(feed.session("vera"), query=f"last_event_id={start}")
    await late.until(lambda: len(tools(late)) == 2)
    await feed.live(resumed)

    assert tools(ann) == ["before"]
    assert tools(resumed) == []
    assert tools(late) == ["before", "after"]


def give(feed: Feed, agent_id: str, username: str) -> None:
    """Give an agent to another owner."""

    def use_case(uow: UnitOfWork) -> None:
        agent, user = uow.agents.find(agent_id), uow.users.find_by_username(username)
        assert agent is not None
        assert user is not None
        uow.agents.put(agent._replace(owner_id=user.id))

    feed.store.write(use_case)


async def test_what_is_rolled_back_is_not_told(feed: Feed) -> None:
    """And what follows is, without a gap in the order."""
    agent_id, _ = feed.agent()
    client = await feed.listening(feed.session("ann"))

    def fail(uow: UnitOfWork) -> None:
        uow.feed.append("AGENT_EVENT", agent_id=agent_id, name="tool_invocation", data={"tool": "never"})
        raise RuntimeError

    with pytest.raises(RuntimeError):
        feed.store.write(fail)
    feed.publish(agent_id, tool="told")
    await client.until(lambda: bool(tools(client)))

    assert tools(client) == ["told"]


async def test_a_client_hears_nothing_of_before_it_came(feed: Feed) -> None:
    """But may go on from the newest event, which it is told of."""
    agent_id, _ = feed.agent()
    feed.publish(agent_id, tool="before")
    client = await feed.listening(feed.session("ann"))
    newest = ids_in_feed(feed.store)[-1]
    assert client.messages[0]["last_event_id"] == newest
    feed.publish(agent_id, tool="after")
    again = await feed.connect(feed.session("ann"), query=f"last_event_id={newest}")
    await again.until(lambda: bool(tools(again)))
    await client.until(lambda: bool(tools(client)))

    assert again.messages[0]["resumed"] is True
    assert tools(client) == tools(again) == ["after"]


async def test_nothing_is_read_for_those_who_have_not_said_who_they_are(feed: Feed) -> None:
    """Else anybody could have the whole log read; what comes before the first who has is not told to him."""
    agent_id, _ = feed.agent()
    stranger = await feed.connect()
    feed.publish(agent_id)
    await asyncio.sleep(0.1)
    assert feed.hub.position == 0
    client = await feed.listening(feed.session("ann"))
    feed.publish(agent_id, tool="new")
    await client.until(lambda: bool(tools(client)))

    assert tools(client) == ["new"]
    assert stranger.messages == []


@pytest.mark.parametrize("remembered", [500, 2])
async def test_what_is_passed_on_while_somebody_is_let_in_is_told_to_him(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    """Once, in order, and nothing of before; from memory, or from the log if that no longer reaches back."""
    monkeypatch.setattr("ironcage_http.feed_hub.MAX_RECENT", remembered)
    agent_id, _ = feed.agent()
    early, late = await feed.listening(feed.session("ann")), await feed.listening(feed.session("ann"))
    feed.publish(agent_id, tool="before")
    newest = feed.store.read(lambda uow: uow.feed.newest())
    assert newest is not None
    feed.publish_many(agent_id, 3)
    await early.until(lambda: len(tools(early)) == 4)
    late.messages[1:] = []
    feed.hub.start(feed.hub.registry.connections[late.messages[0]["connection_id"]], newest[0], None)
    feed.publish(agent_id, tool="after")
    await late.until(lambda: "after" in tools(late))
    await early.until(lambda: "after" in tools(early))

    assert tools(late) == ["t0", "t1", "t2", "after"]
    assert tools(early) == ["before", "t0", "t1", "t2", "after"]


async def test_what_is_yet_to_be_passed_on_is_not_told_to_who_knows_it(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes in may be ahead of what all others were told so far."""
    agent_id, _ = feed.agent()
    early, late = await feed.listening(feed.session("ann")), await feed.listening(feed.session("ann"))
    read, may_read = feed.hub._read, asyncio.Event()

    async def held(seq: int) -> Rows:
        await may_read.wait()
        return await read(seq)

    monkeypatch.setattr(feed.hub, "_read", held)
    feed.publish(agent_id, tool="before")
    newest = feed.store.read(lambda uow: uow.feed.newest())
    assert newest is not None
    feed.hub.start(feed.hub.registry.connections[late.messages[0]["connection_id"]], newest[0], None)
    feed.publish(agent_id, tool="after")
    may_read.set()
    await early.until(lambda: "after" in tools(early))
    await late.until(lambda: "after" in tools(late))

    assert tools(early) == ["before", "after"]
    assert tools(late) == ["after"]


async def test_an_empty_log_has_no_newest_event(feed: Feed) -> None:
    """Then there is nothing to resume from."""
    client = await feed.listening(feed.session("ann"))

    assert client.messages[0]["last_event_id"] is None


@pytest.mark.parametrize("asked", ["evt_" + "0" * 32, "evt_" + "f" * 32, "rubbish", "agent_" + "0" * 32])
async def test_an_unknown_place_needs_a_resync(feed: Feed, asked: str) -> None:
    """At the handshake and later; then what is new comes."""
    agent_id, _ = feed.agent()
    client = await feed.connect(feed.session("ann"), query=f"last_event_id={asked}")
    await client.next("RESYNC_REQUIRED")
    client.say({"type": "RESUME", "last_event_id": asked})
    resync = await client.next("RESYNC_REQUIRED", count=2)
    await feed.live(client)
    feed.publish(agent_id, tool="new")
    await client.until(lambda: bool(client.events))

    assert [each["type"] for each in client.messages[:2]] == ["WELCOME", "RESYNC_REQUIRED"]
    assert client.messages[0]["resumed"] is False
    assert (resync["reason"], resync["last_event_id"]) == ("EVENT_ID_EXPIRED", asked)
    assert tools(client) == ["new"]


async def test_a_purged_place_needs_a_resync(feed: Feed) -> None:
    """The oldest that is kept can still be gone on from."""
    agent_id, _ = feed.agent()
    feed.publish_many(agent_id, 10)
    ids = ids_in_feed(feed.store)
    purged = feed.store.write(lambda uow: uow.feed.purge(0, 5, 100))
    gone = await feed.connect(feed.session("ann"), query=f"last_event_id={ids[-6]}")
    there = await feed.connect(feed.session("ann"), query=f"last_event_id={ids[-5]}")
    await there.until(lambda: len(tools(there)) == 4)

    assert purged == len(ids) - 5
    assert gone.messages[1]["type"] == "RESYNC_REQUIRED"
    assert tools(there) == ["t6", "t7", "t8", "t9"]


async def test_a_purge_keeps_the_newest_and_goes_in_pieces(feed: Feed) -> None:
    """By age and by number, oldest first, never more than asked for."""
    agent_id, _ = feed.agent()
    feed.publish_many(agent_id, 10)
    total = len(ids_in_feed(feed.store))
    later = feed.clock.now() + 1

    def purge(before: int, keep: int, limit: int) -> int:
        return feed.store.write(lambda uow: uow.feed.purge(before, keep, limit))

    assert purge(later - 1, 100, 100) == 0
    assert purge(later, 100, 3) == 3
    assert purge(later, 100, 100) == total - 4
    assert purge(later, 0, 100) == 0
    assert len(ids_in_feed(feed.store)) == 1


async def test_every_id_of_the_log_is_found(feed: Feed) -> None:
    """Without an index, also after a purge and with a clock that stood still or was set back."""
    agent_id, _ = feed.agent()
    for _ in range(5):
        feed.publish_many(agent_id, 7)
        feed.clock.pass_s(-1)
    feed.store.write(lambda uow: uow.feed.purge(0, 20, 5))
    rows = feed.store.read(lambda uow: uow.feed.after(0, 1000))

    assert [feed.store.read(partial(_seq_of, event_id=row.id)) for row in rows] == [row.seq for row in rows]


def _seq_of(uow: UnitOfWork, event_id: str) -> int | None:
    return uow.feed.seq_of(event_id)


async def test_a_resume_over_many_events_is_in_order(feed: Feed) -> None:
    """More than are read at once, and the filter holds there too; what comes meanwhile follows."""
    agent_id, _ = feed.agent()
    start = ids_in_feed(feed.store)[-1]
    feed.publish_many(agent_id, 950)
    client = await feed.connect(feed.session("ann"), query=f"last_event_id={start}")
    await client.until(lambda: len(client.events) > 100)
    feed.publish_many(agent_id, 300)
    await client.until(lambda: len(client.events) >= 1250)

    assert tools(client) == [f"t{number}" for number in range(950)] + [f"t{number}" for number in range(300)]


async def test_what_comes_while_a_client_catches_up_does_not_make_it_too_slow(feed: Feed) -> None:
    """It waits in the log, however much it is: the queue is for those who are live."""
    agent_id, _ = feed.agent()
    start = ids_in_feed(feed.store)[-1]
    feed.publish_many(agent_id, 500)
    client = await feed.connect(feed.session("ann"), query=f"last_event_id={start}")
    await client.until(lambda: bool(client.events))
    client.stall()
    feed.publish_many(agent_id, MAX_QUEUED + 100)
    await feed.settled()
    client.read_on()
    await client.until(lambda: len(client.events) == 500 + MAX_QUEUED + 100 or client.close_code is not None)

    assert client.close_code is None


async def test_no_connection_costs_a_query(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published is read once, however many listen."""
    agent_id, _ = feed.agent()
    clients = [await feed.listening(feed.session("admin")) for _ in range(10)]
    read, reads = feed.hub._read, list[int]()

    async def counted(seq: int) -> Rows:
        rows = await read(seq)
        reads.extend([seq] if rows else [])
        return rows

    monkeypatch.setattr(feed.hub, "_read", counted)
    feed.publish_many(agent_id, 3)
    for client in clients:
        await client.until(lambda client=client: len(client.events) == 3)  # type: ignore[misc]

    assert len(reads) == 1


async def test_few_may_read_the_log_at_a_time(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that those who are live do not wait for many that come back at once."""
    reading, most = 0, 0

    async def slow(_: int) -> Rows:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0.005)
        reading -= 1
        return []

    monkeypatch.setattr(feed.hub, "_read", slow)
    await asyncio.gather(*(feed.hub.tail(0) for _ in range(3 * MAX_REPLAYS)))

    assert most == MAX_REPLAYS


@pytest.mark.parametrize("fault", [UnavailableError("busy"), RuntimeError("broken")])
async def test_a_round_that_failed_is_tried_again(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """Nothing of it is lost."""
    agent_id, _ = feed.agent()
    client = await feed.listening(feed.session("ann"))
    read, faults = feed.hub._read, [fault]

    async def failing(seq: int) -> Rows:
        if faults:
            raise faults.pop()
        return await read(seq)

    monkeypatch.setattr(feed.hub, "_read", failing)
    feed.publish(agent_id, tool="told")
    await client.until(lambda: bool(client.events))

    assert faults == []
    assert tools(client) == ["told"]


async def test_a_resume_in_the_middle_starts_there_again(feed: Feed) -> None:
    """Everything later comes again, in order, then what is new."""
    agent_id, _ = feed.agent()
    client = await feed.listening(feed.session("ann"))
    feed.publish_many(agent_id, 10)
    await client.until(lambda: len(client.events) == 10)
    client.say({"type": "RESUME", "last_event_id": client.events[4]["event_id"]})
    await client.until(lambda: len(client.events) == 15)
    feed.publish(agent_id, tool="new")
    await client.until(lambda: len(client.events) == 16)

    assert tools(client) == [f"t{n}" for n in range(10)] + [f"t{n}" for n in range(5, 10)] + ["new"]


async def test_a_burst_closes_nobody_who_reads(feed: Feed) -> None:
    """A thousand events of one commit, to several clients."""
    agent_id, _ = feed.agent()
    clients = [await feed.listening(feed.session("ann")) for _ in range(5)]
    feed.publish_many(agent_id, 1000)
    for client in clients:
        await client.until(lambda client=client: len(client.events) == 1000)  # type: ignore[misc]

    assert all(tools(client) == [f"t{number}" for number in range(1000)] for client in clients)


async def test_a_client_that_stands_still_has_room_for_a_burst(feed: Feed) -> None:
    """A thousand messages wait; the next one closes, and what waited is not sent in part."""
    agent_id, _ = feed.agent()
    client = await feed.listening(feed.session("ann"))
    client.stall()
    feed.publish_many(agent_id, 1000)
    await feed.settled()
    assert feed.hub.registry.connections
    client.read_on()
    await client.until(lambda: len(client.events) == 1000)

    assert client.close_code is None


@pytest.mark.parametrize("size", [1, 3000])
async def test_a_slow_client_is_closed_and_others_go_on(feed: Feed, size: int) -> None:
    """By the number of messages or by their bytes; whoever publishes does not notice."""
    agent_id, _ = feed.agent()
    slow, good = await feed.listening(feed.session("ann")), await feed.listening(feed.session("ann"))
    slow.stall()
    count = 1100 if size == 1 else 400
    tool = "x" * size
    for _ in range(count):
        feed.publish(agent_id, tool=tool)
        await asyncio.sleep(0)
    await good.until(lambda: len(good.events) == count)
    slow.read_on()

    assert await slow.closed() == 4409
    assert len(slow.events) <= 2
    assert good.close_code is None
    assert "ironcage_feed_slow_consumers_total 1.0" in feed.wiring.metrics.exposition().decode()


async def test_what_cannot_be_told_stops_nobody(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event is passed over and the next one is told."""

    def fragile(event: object) -> object:
        if event.data == {"tool": "bad"}:  # type: ignore[attr-defined]
            raise ValueError
        return told(event)  # type: ignore[arg-type]

    monkeypatch.setattr("ironcage_http.feed_hub.told", fragile)
    agent_id, _ = feed.agent()
    client = await feed.listening(feed.session("ann"))
    feed.publish(agent_id, tool="bad")
    feed.publish(agent_id, tool="good")
    await client.until(lambda: bool(client.events))

    assert tools(client) == ["good"]


async def test_what_another_process_writes_is_told(tmp_path: Path) -> None:
    """Though nobody rings."""
    clock = SetClock()
    with SqliteStore(tmp_path / "a.db", clock=clock) as store, SqliteStore(tmp_path / "a.db", clock=clock) as other:
        async with feeding(store, clock) as feed:
            agent_id, _ = feed.agent()
            client = await feed.listening(feed.session("ann"))
            other.write(
                lambda uow: uow.feed.append(
                    "AGENT_EVENT", agent_id=agent_id, name="tool_invocation", data={"tool": "far"}
                )
            )
            await client.until(lambda: tools(client) == ["far"])


async def test_news_is_passed_on_at_once(tmp_path: Path) -> None:
    """Long before it would be looked for; the median of many."""
    clock = SetClock()
    with SqliteStore(tmp_path / "a.db", clock=clock) as store:
        async with feeding(store, clock) as feed:
            agent_id, _ = feed.agent()
            client = await feed.listening(feed.session("ann"))
            times = []
            for number in range(20):
                start = time.perf_counter()
                feed.publish(agent_id)
                await client.until(lambda number=number: len(client.events) > number)  # type: ignore[misc]
                times.append(time.perf_counter() - start)

    assert sorted(times)[10] < 0.1


async def test_a_restart_keeps_the_log(tmp_path: Path) -> None:
    """A client goes on from where it was with the next process."""
    clock = SetClock()
    with SqliteStore(tmp_path / "a.db", clock=clock) as store:
        async with feeding(store, clock) as feed:
            agent_id, _ = feed.agent()
            client = await feed.listening(feed.session("ann"))
            feed.publish(agent_id, tool="one")
            await client.until(lambda: bool(client.events))
        assert await client.closed() == 1012
    with SqliteStore(tmp_path / "a.db", clock=clock) as store:
        async with feeding(store, clock) as feed:
            feed.publish(agent_id, tool="two")
            again = await feed.connect(feed.session("ann"), query=f"last_event_id={client.events[-1]['event_id']}")
            await again.until(lambda: tools(again) == ["two"])


async def test_nothing_is_lost_nor_out_of_order_while_threads_write_and_clients_come_back(tmp_path: Path) -> None:
    """What clients that leave and resume have seen together is the feed, each event once, in order."""
    clock = SetClock()
    with SqliteStore(tmp_path / "a.db", clock=clock) as store:
        async with feeding(store, clock) as feed:
            agent_id, _ = feed.agent()
            start = ids_in_feed(store)[-1]
            token = feed.session("admin")
            threads = [threading.Thread(target=_write, args=(feed, agent_id, each)) for each in range(3)]
            for thread in threads:
                thread.start()
            seen = await asyncio.gather(*(_come_and_go(feed, token, start, each) for each in range(4)))
            for thread in threads:
                thread.join()
            expected = ids_in_feed(store)[1:]

    assert len(expected) == 3 * 300
    for each in seen:
        assert each == expected


def _write(feed: Feed, agent_id: str, thread: int) -> None:
    for number in range(300):
        feed.publish(agent_id, tool=f"{thread}-{number}")


async def _come_and_go(feed: Feed, token: str, start: str, number: int) -> list[str]:
    """Read in pieces, each by a connection that goes on where the last one ended; return all ids."""
    seen: list[str] = []
    while len(seen) < 900:
        last = seen[-1] if seen else start
        client = await feed.connect(token, query=f"last_event_id={last}")
        assert client.status == 101
        piece = min(17 + 31 * number, 900 - len(seen))
        await client.until(lambda client=client, piece=piece: len(client.events) >= piece)  # type: ignore[misc]
        seen += [each["event_id"] for each in client.events]
        await client.leave()
    return seen
