"""Many leases that expire at once: everybody sees the truth, and nobody waits for all of them to be written."""

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from benchmarks.scale_data import PASSWORD, end_all, open_leases
from ironcage_core.domain.instants import MS_PER_DAY, Instant
from ironcage_core.ports.storage import UseCase
from ironcage_http.app import wire
from ironcage_http.maintenance import _for_ever, jittered, maintained
from ironcage_http.metrics import Metrics
from ironcage_http.secret_watch import SecretWatch
from ironcage_http.server import embedded_settings
from ironcage_http.sweeping import BATCH, Sweeper
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.servers import add_agent
from tests.support.stores import raw
from tests.support.web import Caller, serving
from tests.support.world import SetClock

pytestmark = pytest.mark.anyio
T = TypeVar("T")

LEASES = 100
UNITS = LEASES // BATCH + 1
"""Of one round over all leases; the last one finds fewer than a batch."""

TOKENS = {"provider": "openai", "input_tokens": 80, "output_tokens": 20}
LIMIT_ID = f"lim_{0:032x}"
LISTS = ("/agents", "/budget", "/budget/leases", "/budget/ledger?kind=reclaim", "/limits", f"/limits/{LIMIT_ID}")
LARGEST_UNIT = "SELECT max(n) FROM (SELECT count(*) AS n FROM ledger WHERE kind = 'reclaim' GROUP BY posted_at)"


class TickingClock(SetClock):
    """A clock that moves on whenever it is looked at, so that no two units of work share an instant."""

    def now(self) -> Instant:
        self.instant += 1
        return self.instant


class CountingStore(SqliteStore):
    """Counts the writes of the event loop."""

    writes = 0

    async def write_async(self, use_case: UseCase[T]) -> T:
        self.writes += 1
        return await super().write_async(use_case)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with many open leases, which end some time tomorrow."""
    path = tmp_path_factory.mktemp("filled") / "filled.db"
    now = int(time.time() * 1000)
    open_leases(path, LEASES, now=now, ends_at=now + MS_PER_DAY)
    return path


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Iterator[CountingStore]:
    """A store whose leases are all due."""
    path = tmp_path / "due.db"
    shutil.copy(filled, path)
    now = int(time.time() * 1000)
    end_all(path, at=now)
    with CountingStore(path, clock=TickingClock(now)) as opened:
        yield opened


def due(store: SqliteStore) -> int:
    """Return how many leases wait for their end."""
    return len(store.read(lambda uow: uow.leases.due(uow.now, 10 * LEASES)))


@asynccontextmanager
async def admin_of(store: SqliteStore) -> AsyncIterator[Caller]:
    """Yield the admin of a server over the store that does not sweep by itself."""
    async with serving(store) as client:
        yield await client.login("admin", PASSWORD)


@pytest.mark.parametrize("path", LISTS)
async def test_what_shows_everybody_ends_all_leases_in_small_units_first(store: CountingStore, path: str) -> None:
    """No lease is left to end, and no unit of work has ended more than a batch."""
    async with admin_of(store) as admin:
        answer = await admin.get(path)

    assert answer.status == 200, answer.raw
    assert due(store) == 0
    assert raw(store, "SELECT count(*) FROM ledger WHERE kind = 'reclaim'") == [(LEASES,)]
    assert raw(store, LARGEST_UNIT) == [(BATCH,)]


async def test_lists_show_the_truth_of_the_clock(store: CountingStore) -> None:
    """Leases read as ended, and their money as back, in the first answer."""
    async with admin_of(store) as admin:
        leases = await admin.get("/budget/leases?status=closed")
        budgets = await admin.get("/budget")

    assert leases.body["pagination"]["total"] == LEASES
    assert {lease["status_reason"] for lease in leases.body["data"]} == {"expired"}
    assert (budgets.body["summary"]["total_held"], budgets.body["summary"]["total_remaining"]) == (0, LEASES * 100)


async def test_reports_are_answered_while_a_list_waits(store: CountingStore) -> None:
    """Their entries stand between those of the leases that end, and they have their answers before the list has its."""
    settings = embedded_settings()
    agent = add_agent(store, settings)
    async with serving(store, settings) as client:
        admin = await client.login("admin", PASSWORD)
        lease = (await client.post("/budget/handshake", {}, headers=agent.headers)).body["lease_id"]
        listing = asyncio.create_task(admin.get("/budget"))
        statuses: list[tuple[int, bool]] = []
        while not listing.done():
            body = {"lease_id": lease, "request_id": f"r{len(statuses)}", "cost_usd": 0.001, "model": "gpt-4o"}
            answer = await client.post("/budget/report", body | TOKENS, headers=agent.headers)
            statuses.append((answer.status, listing.done()))

    between = """SELECT count(*) FROM ledger WHERE kind = 'spend'
        AND seq > (SELECT min(seq) FROM ledger WHERE kind = 'reclaim')
        AND seq < (SELECT max(seq) FROM ledger WHERE kind = 'reclaim')"""
    assert raw(store, between)[0][0] >= 1
    assert (200, False) in statuses
    assert 9 < (await listing).body["summary"]["total_held"] <= 10


async def test_only_who_may_look_at_everybody_waits_for_everybody(store: CountingStore) -> None:
    """A caller who is refused, an agent that sees itself and a list of one agent's end nothing of the others."""
    settings = embedded_settings()
    agent = add_agent(store, settings)
    async with serving(store, settings) as client:
        admin = await client.login("admin", PASSWORD)
        refused = await client.bearing(admin.headers["Authorization"].removeprefix("Bearer ")[:-8]).get("/budget")
        own = [await client.get(path, headers=agent.headers) for path in ("/budget", "/budget/leases")]
        one = [
            await admin.get(f"{path}?agent_id={agent.id}") for path in ("/budget", "/budget/leases", "/budget/ledger")
        ]

    assert [answer.status for answer in (refused, *own, *one)] == [401, 200, 200, 200, 200, 200]
    assert due(store) == LEASES


async def test_a_list_costs_no_write_when_nothing_is_due(store: CountingStore) -> None:
    """One look is all."""
    async with admin_of(store) as admin:
        await admin.get("/budget")
        before = store.writes
        answers = [await admin.get(path) for path in LISTS]

    assert {answer.status for answer in answers} == {200}
    assert store.writes == before


async def test_whoever_comes_while_a_round_runs_waits_for_that_one(store: CountingStore) -> None:
    """The work is done once, and nobody returns before it is."""
    sweeper = Sweeper(store)
    left = []

    async def caught_up() -> None:
        await sweeper.catch_up()
        left.append(due(store))

    await asyncio.gather(*(caught_up() for _ in range(5)))

    assert left == [0] * 5
    assert store.writes == UNITS


@pytest.mark.parametrize("somebody_waits", [False, True])
async def test_a_round_rests_after_each_batch_unless_somebody_waits(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch, *, somebody_waits: bool
) -> None:
    """The writer is left to others in between; a list is not kept waiting for that."""
    rests = rests_of(monkeypatch)
    sweeper = Sweeper(store)

    await (sweeper.catch_up() if somebody_waits else sweeper.sweep())

    assert len(rests) == UNITS - 1
    assert {rest > 0 for rest in rests} == {not somebody_waits}


async def test_leases_that_cannot_end_do_not_hold_up_the_others(
    store: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    """However many they are: they are named, once, and all others get their end."""
    broken = 2 * BATCH + 1
    raw(
        store,
        "UPDATE agent_budgets SET held = 0 WHERE agent_id IN (SELECT id FROM agents ORDER BY id LIMIT ?)",
        [broken],
    )
    sweeper = Sweeper(store)

    with caplog.at_level(logging.ERROR):
        await sweeper.sweep()
        await sweeper.sweep()

    assert due(store) == broken
    (record,) = caplog.records
    assert f"{broken} leases cannot end" in record.getMessage()
    assert f"lease_{0:032x}" in record.getMessage()


async def test_a_server_starts_at_once_and_sweeps_behind_its_first_answers(store: CountingStore) -> None:
    """When it is ready all leases wait still; without any call they get their end, in small units."""
    wiring = wire(store, embedded_settings())
    watch = SecretWatch(wiring, Metrics(lambda: 0))

    async with maintained(None, wiring=wiring, watch=watch):
        waiting = due(store)
        async with asyncio.timeout(20):
            while due(store):  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)

    assert waiting == LEASES
    assert raw(store, LARGEST_UNIT) == [(BATCH,)]


def test_rests_vary_by_a_tenth() -> None:
    """Never more, and no two processes keep step."""
    rests = [jittered(100) for _ in range(2000)]

    assert 90 <= min(rests) < 92
    assert 108 < max(rests) <= 110


async def test_rounds_of_maintenance_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rest is drawn anew, round its length."""
    rests = rests_of(monkeypatch, at_most=50)

    with pytest.raises(asyncio.CancelledError):
        await _for_ever(partial(asyncio.sleep, 0), 5)

    drawn = [rest for rest in rests if rest]
    assert len(set(drawn)) > 10
    assert all(4.5 <= rest <= 5.5 for rest in drawn)


def rests_of(monkeypatch: pytest.MonkeyPatch, at_most: int = 10_000) -> list[float]:
    """Let nobody rest; return for how long each would have, and cancel who rests too often."""
    rests: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) > at_most:
            raise asyncio.CancelledError
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", at_once)
    return rests
