"""What the server tidies up by itself, as far as its settings say."""

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from ironcage_core.domain.idempotency import RememberedAnswer
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.domain.reservations import Reservation
from ironcage_core.domain.telemetry import KeptTelemetry
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_http.app import wire
from ironcage_http.maintenance import PRUNE_LIMIT, _prune, maintained
from ironcage_http.metrics import Metrics
from ironcage_http.secret_watch import SecretWatch
from ironcage_http.server import embedded_settings
from ironcage_http.settings import read_settings
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.rows import api_row, put_agent, usage_row
from tests.support.stores import raw
from tests.support.world import ADMIN, API_KEY, NOON, SetClock

pytestmark = pytest.mark.anyio

SETTINGS = read_settings(
    {"DATABASE_URL": "sqlite::memory:", "IRON_USAGE_RETENTION_DAYS": "7", "IRON_HOUR_ROLLUP_RETENTION_DAYS": "3"}
)


async def test_each_round_is_done_by_itself_while_a_server_serves(caplog: pytest.LogCaptureFixture) -> None:
    """At once: old usage goes, requests are counted, secrets that do not open are told; the last counts at the end."""
    with SqliteStore(":memory:", clock=(clock := SetClock())) as store:
        agent = store.write(put_agent)
        token, stranger = api_row(agent.owner_id), AesGcmVault(MasterKey.generate())
        old = usage_row(agent.id, "old", occurred_at=NOON - 8 * MS_PER_DAY)
        store.write(lambda uow: uow.usage.put(old))
        store.write(lambda uow: uow.api_tokens.put(token))
        store.write(partial(add_provider_key, provider="openai", api_key=API_KEY, actor=ADMIN, vault=stranger))
        wiring = wire(store, replace(embedded_settings(), usage_retention_days=7))
        store.read(lambda uow: wiring.token_counter.admit(uow, token))
        watch = SecretWatch(wiring, Metrics(lambda: 0))

        def is_done() -> bool:
            is_old_gone = raw(store, "SELECT count(*) FROM usage_records") == [(0,)]
            return is_old_gone and _last_used(store) == NOON and "secrets do not decrypt" in caplog.text

        async with maintained(None, wiring=wiring, watch=watch), asyncio.timeout(20):
            while not is_done():  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)
            clock.instant = NOON + 1
            store.read(lambda uow: wiring.token_counter.admit(uow, token))

        assert _last_used(store) == NOON + 1


def _last_used(store: SqliteStore) -> object:
    return raw(store, "SELECT last_used_at FROM api_tokens")[0][0]


async def test_a_round_removes_all_usage_whose_days_are_over() -> None:
    """In as many steps as it takes; records, hours and counts against limits have their own days, sums by day none."""
    with SqliteStore(":memory:", clock=SetClock()) as store:
        agent_id = store.write(put_agent).id

        def work(uow: UnitOfWork, day: int, calls: int) -> None:
            for call in range(calls):
                uow.usage.put(usage_row(agent_id, f"{day}/{call}", occurred_at=NOON - day * MS_PER_DAY))
            uow.limit_windows.add("ann", "proj", NOON - day * MS_PER_DAY, tokens=1, requests=1)

        for day, calls in ((8, PRUNE_LIMIT + 1), (5, 2), (0, 1)):
            store.write(partial(work, day=day, calls=calls))

        await _prune(wire(store, SETTINGS))

        assert raw(store, "SELECT count(*) FROM usage_records") == [(3,)]
        assert raw(store, "SELECT count(*) FROM kept_calls") == [(PRUNE_LIMIT + 1,)]
        assert raw(store, "SELECT sum(completed) FROM usage_hours") == [(1,)]
        assert raw(store, "SELECT sum(completed) FROM usage_days") == [(PRUNE_LIMIT + 4,)]
        assert raw(store, "SELECT kind, count(*) FROM limit_windows GROUP BY kind") == [("requests", 2), ("tokens", 2)]


async def test_a_round_forgets_reservations_and_keys_of_long_ago() -> None:
    """A day after a reservation's time, two days after a request with a key."""
    with SqliteStore(":memory:", clock=SetClock()) as store:
        agent_id = store.write(put_agent).id

        def work(uow: UnitOfWork, days: int) -> None:
            ended = NOON - days * MS_PER_DAY - 1
            uow.reservations.put(Reservation(agent_id, f"{days}", "lease", 1, "open", ended - 1, ended))
            uow.remembered_answers.put(RememberedAnswer("scope", f"{days}", "hash", ended, "{}"))

        for days in range(4):
            store.write(partial(work, days=days))

        await _prune(wire(store, SETTINGS))

        assert raw(store, "SELECT request_id FROM reservations") == [("0",)]
        assert raw(store, "SELECT key FROM idempotency_keys ORDER BY key") == [("0",), ("1",)]


async def test_a_round_forgets_the_feed_what_runtimes_told_and_keys_of_calls() -> None:
    """Each in its own time: a day of the feed, a week of telemetry, two of safety, four of keys."""
    settings = replace(SETTINGS, safety_retention_days=14, call_key_retention_days=30)
    with SqliteStore(":memory:", clock=(clock := SetClock())) as store:
        agent_id = store.write(put_agent).id
        for days_ago in (40, 20, 10, 0):
            clock.instant = NOON - days_ago * MS_PER_DAY
            store.write(partial(_tell, agent_id=agent_id, name=f"{days_ago}"))

        await _prune(wire(store, settings))

        assert raw(store, "SELECT name FROM feed ORDER BY seq") == [("0",)]
        assert raw(store, "SELECT call_key FROM kept_calls ORDER BY 1") == [("10",), ("20",)]
        assert raw(store, "SELECT call_key FROM usage_records") == [("0",)]
        assert raw(store, "SELECT event_id, data IS NULL FROM telemetry_events ORDER BY 1") == [
            ("pii 0", 0), ("pii 10", 0), ("pii 20", 1), ("tool 0", 0), ("tool 10", 1), ("tool 20", 1),
        ]  # fmt: skip


def _tell(uow: UnitOfWork, agent_id: str, name: str) -> None:
    uow.feed.append("AGENT_EVENT", agent_id=agent_id, name=name, data={})
    uow.usage.put(
        usage_row(
            agent_id, name, occurred_at=uow.now, cost_source="event", event_cost_micros=320, report_cost_micros=None,
        )
    )  # fmt: skip
    for type_, told in (("tool_invocation", "tool"), ("pii_detected", "pii")):
        is_safety = int(told == "pii")
        uow.telemetry.put(
            KeptTelemetry(agent_id, f"{told} {name}", type_, uow.now, uow.now, is_safety, None, None, "{}")
        )
