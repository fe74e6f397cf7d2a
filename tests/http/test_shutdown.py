"""The end of a server, in a process of its own: by one signal in order, by a second one at once."""

import json
import signal
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ironcage_core.services.verify import verify
from ironcage_http.server import GRACE_S
from ironcage_http.settings import read_settings
from ironcage_storage.sqlite.store import SqliteStore
from tests.support import servers
from tests.support.servers import RunningAgent, ServerProcess, add_agent, ask_on
from tests.support.web import people

A_LITTLE_S = 3
ENVIRON = {
    "DATABASE_URL": "sqlite:///iron.db",
    "JWT_SECRET": "the signing secret of these tests, long enough",
    "IC_TOKEN_SECRET": "another signing secret, just as long as that",
    "IRON_SECRETS_MASTER_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
}
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
SLOW = """
import asyncio, ironcage_http.calls as calls
write = calls.Call.write
async def slowly(call, use_case):
    await asyncio.sleep(float(call.headers.get("x-delay", 0)))
    return await write(call, use_case)
calls.Call.write = slowly
"""
ENDLESS = """
import ironcage_http.calls as calls
see = calls.Call.see
def endless(uow):
    sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    return uow._session.query(sql).fetchone()
async def seeing(call, use_case):
    return await see(call, endless)
calls.Call.see = seeing
"""


class Place:
    """A database with an agent, and the server to be."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "iron.db"
        with SqliteStore(self.database) as store:
            people(store)
            self.agent: RunningAgent = add_agent(store, read_settings(ENVIRON, folder=folder))
        self.server = ServerProcess(folder, **ENVIRON)

    def lease(self) -> str:
        reply = self.server.ask("POST", "/budget/handshake", {"requested_budget": 50}, self.agent.headers)
        assert reply.status == 200, reply.raw
        return str(reply.body["lease_id"])

    def booked(self) -> set[str]:
        with SqliteStore(self.database) as store:
            assert store.read(verify).holds
            entries = store.read(lambda uow: list(uow.ledger.by_agent(self.agent.id)))
        return {str(entry.ref) for entry in entries if entry.kind == "spend"}

    def events(self) -> list[dict[str, Any]]:
        """Return what was logged at the end."""
        return [json.loads(line) for line in self.server.said.splitlines() if line.startswith("{")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def report_of(lease_id: str, request_id: str) -> dict[str, object]:
    return {
        "lease_id": lease_id, "request_id": request_id, "model": "gpt-4o", "provider": "openai",
        "cost_usd": 0.0001, "tokens": 10,
    }  # fmt: skip


def read_on(feed: ClientConnection) -> None:
    while True:
        feed.recv(timeout=10)


@BOTH
def test_what_is_under_way_is_answered_and_nothing_new_begins(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Slow requests get their answers, which hold; new connections are refused; the process ends cleanly."""
    monkeypatch.setattr(servers, "MAIN", SLOW + servers.MAIN)
    with place.server as server, ThreadPoolExecutor(8) as pool:
        lease_id = place.lease()

        def report(request_id: str) -> tuple[int, str | None]:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
            headers = {**place.agent.headers, "X-Delay": "1.0"}
            reply = ask_on(connection, "POST", "/api/v1/budget/report", report_of(lease_id, request_id), headers)
            connection.close()
            return reply.status, reply.headers.get("connection")

        names = [f"call-{index}" for index in range(8)]
        answers = [pool.submit(report, name) for name in names]
        time.sleep(0.4)
        start = time.monotonic()
        server.process.send_signal(number)
        time.sleep(0.3)
        with pytest.raises(OSError, match=r"refused|reset"):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        statuses = {answer.result(10) for answer in answers}
        code = server.process.wait(10)

    assert statuses == {(200, "close")}
    assert time.monotonic() - start < GRACE_S + A_LITTLE_S
    assert code == 0, server.said
    assert place.booked() == set(names)
    told = [(each["event"], each.get("signal")) for each in place.events() if each["level"] == "info"]
    assert told == [("started", None), ("stopping", number.name), ("stopped", None)]


def test_a_stop_leaves_nothing_in_the_log_of_the_database(place: Place) -> None:
    """Everything is in the one file, which may then be copied."""
    with place.server as server:
        place.lease()
        code = server.terminate()

    assert code == 0
    assert [path.name for path in place.database.parent.glob("iron.db-*")] == []
    with sqlite3.connect(place.database) as connection:
        assert connection.execute("SELECT count(*) FROM leases").fetchone() == (1,)
    connection.close()


def test_connections_of_the_feed_are_told_that_the_server_goes(place: Place) -> None:
    """With the code for a restart, after which clients come again."""
    with (
        place.server as server,
        connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=place.agent.headers) as feed,
    ):
        feed.recv(timeout=10)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            read_on(feed)
        code = server.process.wait(10)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert code == 0
    assert place.events()[-1]["event"] == "stopped"


def test_a_request_that_takes_too_long_does_not_hold_the_end_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given its grace, then it is given up; the end is a clean one all the same."""
    monkeypatch.setattr(servers, "MAIN", SLOW + servers.MAIN)
    with place.server as server:
        lease_id = place.lease()
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        body = json.dumps(report_of(lease_id, "late"))
        headers = {**place.agent.headers, "Content-Type": "application/json", "X-Delay": "30"}
        connection.request("POST", "/api/v1/budget/report", body=body, headers=headers)
        time.sleep(0.3)
        start = time.monotonic()
        code = server.terminate(within_s=15)
        took = time.monotonic() - start
        connection.close()

    assert GRACE_S <= took < GRACE_S + A_LITTLE_S
    assert code == 0, server.said
    assert place.booked() == set()
    assert place.events()[-1]["event"] == "stopped"


def test_a_question_to_the_database_that_never_ends_does_not_hold_the_end_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is interrupted, which nobody needs to hear of."""
    monkeypatch.setattr(servers, "MAIN", ENDLESS + servers.MAIN)
    with place.server as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/api/v1/budget", headers=place.agent.headers)
        time.sleep(0.5)
        start = time.monotonic()
        code = server.terminate(within_s=20)
        took = time.monotonic() - start
        connection.close()

    assert GRACE_S <= took < GRACE_S + A_LITTLE_S
    assert code == 0, server.said
    traces = [each["exception"].splitlines()[-1] for each in place.events() if "exception" in each]
    assert [trace.partition(":")[0] for trace in traces] == ["asyncio.exceptions.CancelledError"]
    assert place.events()[-1]["event"] == "stopped"


@BOTH
def test_a_second_signal_ends_at_once(place: Place, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """With the exit code of a process that the signal ended; what was acknowledged is on disk."""
    monkeypatch.setattr(servers, "MAIN", SLOW + servers.MAIN)
    with place.server as server:
        lease_id = place.lease()
        acknowledged = server.ask("POST", "/budget/report", report_of(lease_id, "kept"), place.agent.headers)
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        headers = {**place.agent.headers, "Content-Type": "application/json", "X-Delay": "30"}
        connection.request("POST", "/api/v1/budget/report", body=json.dumps(report_of(lease_id, "b")), headers=headers)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.process.poll() is None
        start = time.monotonic()
        server.process.send_signal(number)
        code = server.process.wait(10)
        took = time.monotonic() - start
        connection.close()

    assert acknowledged.status == 200
    assert (code, took < 1) == (128 + number, True)
    assert place.booked() == {"kept"}
    assert "Traceback" not in server.said
