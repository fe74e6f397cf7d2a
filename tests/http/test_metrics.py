"""Metrics: what Prometheus is told of money, of the writer and of the process."""

import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ironcage_core.errors.faults import StorageError
from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_http.app import create_app
from ironcage_http.server import embedded_settings
from ironcage_http.settings import read_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.http_agents import Stage, stage
from tests.support.web import serving
from tests.support.world import USD

pytestmark = pytest.mark.anyio


@pytest.fixture
def fresh() -> Iterator[Stage]:
    """A stage of one test alone, whose counters begin at 0."""
    with stage() as made:
        yield made


def numbers(text: bytes) -> dict[str, float]:
    """Return every sample by its name and labels, as a scraper reads it."""
    return {
        sample.name + "".join(f",{name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def told(stage: Stage, prefix: str) -> dict[str, float]:
    """Return the samples that begin so and are not 0."""
    found = numbers(stage.get("/metrics").raw)
    return {
        name: value for name, value in found.items() if name.startswith(prefix) and value and "_created" not in name
    }


def report(lease_id: str, request_id: str, cost: float) -> dict[str, object]:
    return {
        "lease_id": lease_id, "request_id": request_id, "model": "gpt-4o", "provider": "openai",
        "cost_usd": cost, "tokens": 10,
    }  # fmt: skip


def test_the_exposition_is_what_scrapers_read(fresh: Stage) -> None:
    """Every family once, with its type and its meaning; no sample twice."""
    agent = fresh.agent()
    fresh.post("/budget/handshake", {}, token=agent.token)
    text = fresh.get("/metrics").raw.decode()

    families = list(text_string_to_metric_families(text))
    samples = [(each.name, tuple(sorted(each.labels.items()))) for family in families for each in family.samples]
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    assert len(set(samples)) == len(samples)
    assert [family.name for family in families if not family.documentation or family.type == "unknown"] == []
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_grants_are_counted_with_their_money(fresh: Stage) -> None:
    """New money alone, by what lent it; a retry is no second grant."""
    agent = fresh.agent(budget=10 * USD)
    keyed = {"Idempotency-Key": "one"}
    first = fresh.post("/budget/handshake", {"requested_budget": 2}, token=agent.token, headers=keyed).body
    fresh.post("/budget/handshake", {"requested_budget": 2}, token=agent.token, headers=keyed)
    body = {"lease_id": first["lease_id"], "requested_budget": 1.5}
    fresh.post("/budget/refresh", body, token=agent.token)
    fresh.post("/budget/refresh", body, token=agent.token)

    assert told(fresh, "ironcage_grant") == {
        "ironcage_grants_total,kind=handshake": 1,
        "ironcage_grants_total,kind=refresh": 1,
        "ironcage_granted_micro_usd_total,kind=handshake": 2_000_000,
        "ironcage_granted_micro_usd_total,kind=refresh": 1_500_000,
    }


def test_denials_of_money_are_counted_by_code(fresh: Stage) -> None:
    """Also a refresh that is answered without money; a request that is wrong in itself is none."""
    agent = fresh.agent(budget=1 * USD)
    lease = fresh.post("/budget/handshake", {"requested_budget": 1}, token=agent.token).body["lease_id"]
    for _ in range(2):
        assert fresh.post("/budget/handshake", {}, token=agent.token).code == "BUDGET_EXCEEDED"
    assert fresh.post("/budget/refresh", {"lease_id": lease}, token=agent.token).body["status"] == "denied"
    reserve = {"request_id": "r", "amount": 2}
    assert fresh.post("/budget/reserve", reserve, token=agent.token).code == "BUDGET_EXCEEDED"
    fresh.post("/budget/handshake", {"requested_budget": -1}, token=agent.token)
    fresh.post("/budget/handshake", {}, token="nonsense")

    assert told(fresh, "ironcage_money_denials") == {
        "ironcage_money_denials_total,call=handshake,code=BUDGET_EXCEEDED": 2,
        "ironcage_money_denials_total,call=refresh,code=total_budget_exhausted": 1,
        "ironcage_money_denials_total,call=reserve,code=BUDGET_EXCEEDED": 1,
    }


def test_reports_are_counted_and_what_they_cost_beyond_their_leases(fresh: Stage) -> None:
    """One by one and in batches; what was counted is not counted again."""
    agent = fresh.agent()
    lease = fresh.post("/budget/handshake", {"requested_budget": 1}, token=agent.token).body["lease_id"]
    for request_id, cost in (("a", 0.25), ("a", 0.25), ("b", 1.5), ("b", 1.5)):
        assert fresh.post("/budget/report", report(lease, request_id, cost), token=agent.token).status == 200
    batch = [report(lease, "a", 0.25), report(lease, "a", 0.5), report(lease, "c", 0.1), {"lease_id": 1}]
    assert fresh.post("/budget/report", {"reports": batch}, token=agent.token).status == 200

    assert told(fresh, "ironcage_reports") == {
        "ironcage_reports_total,outcome=accepted": 3,
        "ironcage_reports_total,outcome=duplicate": 3,
        "ironcage_reports_total,outcome=conflict": 1,
        "ironcage_reports_total,outcome=rejected": 1,
    }
    assert told(fresh, "ironcage_overs") == {
        "ironcage_overspends_total": 2,
        "ironcage_overspent_micro_usd_total": 750_000 + 100_000,
    }


def test_open_leases_are_those_that_are_not_over(fresh: Stage) -> None:
    """As they stand when somebody looks."""
    agent = fresh.agent()
    leases = [fresh.post("/budget/handshake", {}, token=agent.token).body["lease_id"] for _ in range(3)]
    fresh.post("/budget/return", {"lease_id": leases[0]}, token=agent.token)

    assert told(fresh, "ironcage_open_leases") == {"ironcage_open_leases,status=active": 2}


def test_no_label_of_money_grows_with_what_is_sent(fresh: Stage) -> None:
    """Neither a call that names what is not there nor a hostile one makes a new one."""
    agent = fresh.agent()
    lease = fresh.post("/budget/handshake", {"provider": "typed-by-hand"}, token=agent.token)
    for path in ("refresh", "reserve", "report", "return"):
        body = {"lease_id": "typed-by-hand", "request_id": "typed-by-hand", "amount": 1, "model": "typed-by-hand"}
        fresh.post(f"/budget/{path}", body, token=agent.token)

    assert lease.status >= 400
    assert b"typed-by-hand" not in fresh.get("/metrics").raw


class BrokenStore(SqliteStore):
    """A store that does not answer at a glance."""

    async def glance_async(self, use_case: object) -> object:  # type: ignore[override]  # noqa: ARG002 - it never answers
        raise StorageError("The database failed")


async def test_a_database_that_fails_does_not_hide_the_other_numbers() -> None:
    """What cannot be told is no number; the rest is there to be alerted on."""
    with BrokenStore(":memory:") as store:
        async with serving(store, embedded_settings()) as caller:
            await caller.get("/health")
            answer = await caller.get("/metrics")

    found = numbers(answer.raw)
    assert answer.status == 200
    assert math.isnan(found["ironcage_open_leases,status=active"])
    assert found["ironcage_requests_total,method=GET,route=/api/v1/health,status=200"] == 1


async def test_the_writer_and_its_files_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many writes shared each commit, how many were refused, and how large the files are."""
    monkeypatch.setattr("ironcage_storage.sqlite.queue.IDLE_BEFORE_CHECKPOINT_S", 60)  # it would empty the log
    path = tmp_path / "iron.db"
    with SqliteStore(path, max_waiting=3) as store:
        async with serving(store, embedded_settings()) as caller:
            before = numbers((await caller.get("/metrics")).raw)
            refused = _write_while_the_writer_is_busy(store, 5)
            after = numbers((await caller.get("/metrics")).raw)
        log = (tmp_path / "iron.db-wal").stat().st_size
        size = path.stat().st_size

    name = "ironcage_write_batch_size"
    assert refused == 2
    assert after["ironcage_write_queue_refusals_total"] == 2
    assert after[f"{name}_count"] - before[f"{name}_count"] == 2
    assert after[f"{name}_sum"] - before[f"{name}_sum"] == 1 + 3
    assert after[f"{name}_bucket,le=1.0"] - before[f"{name}_bucket,le=1.0"] == 1
    assert (after["ironcage_database_bytes"], after["ironcage_database_log_bytes"]) == (size, log)
    assert size > 0
    assert log > 0


def _write_while_the_writer_is_busy(store: SqliteStore, count: int) -> int:
    """Let one write hold the writer, start more, and return how many were refused."""
    is_busy, may_go_on = threading.Event(), threading.Event()
    refused: list[UnavailableError] = []

    def hold(_: UnitOfWork) -> None:
        is_busy.set()
        assert may_go_on.wait(10)

    def write() -> None:
        try:
            store.write(lambda uow: uow.now)
        except UnavailableError as error:
            refused.append(error)

    holder = threading.Thread(target=store.write, args=(hold,))
    holder.start()
    assert is_busy.wait(10)
    others = [threading.Thread(target=write) for _ in range(count)]
    for each in others:
        each.start()
    while store.queue_depth + len(refused) < count:
        pass
    may_go_on.set()
    for each in (holder, *others):
        each.join(10)
    return len(refused)


def test_a_listener_that_fails_does_not_stop_the_writer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and others hear of the batch."""
    heard: list[int] = []

    def fail(size: int) -> None:
        raise ValueError(size)

    with SqliteStore(tmp_path / "iron.db") as store:
        store.on_batch(fail)
        store.on_batch(heard.append)
        for _ in range(3):
            store.write(lambda uow: uow.now)

    assert heard == [1, 1, 1]
    assert caplog.messages == ["a listener of the writer failed"] * 3


@pytest.mark.parametrize(("commit", "shown"), [("ABCDEF0", "abcdef0"), (None, "0000000")])
async def test_the_build_is_told(commit: str | None, shown: str) -> None:
    """By the version and by the metrics, as the environment has it; zeros where nobody knows."""
    environ = {"DATABASE_URL": "sqlite::memory:", "IRON_DEPLOYMENT_MODE": "development"}
    if commit is not None:
        environ |= {"IRON_BUILD_COMMIT": commit, "IRON_BUILD_TIME": "2026-11-21T12:30:00+01:00"}
    with SqliteStore(":memory:") as store:
        async with serving(store, read_settings(environ)) as caller:
            build = (await caller.get("/version")).body["build"]
            found = numbers((await caller.get("/metrics")).raw)

    time = "1970-01-01T00:00:00.000Z" if commit is None else "2026-11-21T11:30:00.000Z"
    assert build == {"commit": shown, "timestamp": time, "environment": "development"}
    assert found[f"ironcage_build_info,commit={shown},mode=development,version=0.1.0"] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IRON_BUILD_COMMIT", "abc"),
        ("IRON_BUILD_COMMIT", "main"),
        ("IRON_BUILD_COMMIT", "a" * 65),
        ("IRON_BUILD_TIME", "yesterday"),
        ("IRON_LOG_FORMAT", "xml"),
    ],
)
def test_what_names_no_build_is_refused(name: str, value: str) -> None:
    """It would be shown to everybody."""
    with pytest.raises(Exception, match=name):
        read_settings({"DATABASE_URL": "sqlite::memory:", name: value})


@pytest.mark.parametrize("name", ["process_resident_memory_bytes", "process_open_fds", "python_gc_collections_total"])
async def test_the_process_is_measured(name: str) -> None:
    """By Prometheus' own collectors."""
    with SqliteStore(":memory:") as store:
        async with serving(store, embedded_settings()) as caller:
            text = (await caller.get("/metrics")).raw.decode()

    assert f"\n{name}" in text


async def test_apps_in_one_process_do_not_share_their_numbers() -> None:
    """Each has a registry of its own."""
    with SqliteStore(":memory:") as store:
        apps = [create_app(store, embedded_settings()) for _ in range(2)]
        clients = [
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")  # type: ignore[arg-type]
            for app in apps
        ]
        await clients[0].get("/api/v1/version")
        texts = [(await client.get("/metrics")).text for client in clients]
        for client in clients:
            await client.aclose()

    assert ['route="/api/v1/version"' in text for text in texts] == [True, False]
