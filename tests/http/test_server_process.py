"""A server under load loses nothing it acknowledged and lends nothing twice, however it ends."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from ironcage_core.domain.money import MICROS_PER_USD
from ironcage_core.services.verify import verify
from ironcage_http import protocols
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_http.settings import read_settings
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.servers import RunningAgent, ServerProcess, add_agent, ask, ask_on, run_ironcage
from tests.support.web import people

LOAD = 6
SECRETS = {
    "JWT_SECRET": "the signing secret of these tests, long enough",
    "IC_TOKEN_SECRET": "another signing secret, just as long as that",
    "IRON_SECRETS_MASTER_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
}


class Scene:
    """A database with one agent, the server to be, and what was acknowledged of its reports."""

    def __init__(self, folder: Path) -> None:
        environ = {"DATABASE_URL": "sqlite:///iron.db", **SECRETS}
        self.database = folder / "iron.db"
        settings = read_settings(environ, folder=folder)
        with SqliteStore(self.database) as store:
            people(store)
            self.agent: RunningAgent = add_agent(store, settings, 1000 * MICROS_PER_USD)
        self.server = ServerProcess(folder, **environ)
        self.acknowledged: set[str] = set()
        self.sent: set[str] = set()
        self._enough = threading.Event()

    def handshake(self) -> str:
        reply = self.server.ask("POST", "/budget/handshake", {"requested_budget": 500}, self.agent.headers)
        assert reply.status == 200, reply.raw
        return str(reply.body["lease_id"])

    def report_until_the_server_ends(self, lease_id: str, thread: int) -> None:
        """Send reports over one connection, and remember each only when its answer has come."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        for number in range(10**6):
            request_id = f"{thread}-{number}"
            body = {
                "lease_id": lease_id, "request_id": request_id, "model": "gpt-4o", "provider": "openai",
                "cost_usd": 0.0001, "tokens": 10,
            }  # fmt: skip
            self.sent.add(request_id)
            try:
                reply = ask_on(connection, "POST", "/api/v1/budget/report", body, self.agent.headers)
            except (OSError, HTTPException):
                break
            if reply.status != 200:  # only a server that is ending may refuse
                assert reply.status == 503, reply.raw
                break
            self.acknowledged.add(request_id)
            if len(self.acknowledged) >= 100:
                self._enough.set()
        connection.close()

    def end_under_load(self, lease_id: str, *, kill: bool) -> int:
        """Let threads report, end the server while they do, and return its exit code."""
        with ThreadPoolExecutor(LOAD) as pool:
            futures = [pool.submit(self.report_until_the_server_ends, lease_id, thread) for thread in range(LOAD)]
            assert self._enough.wait(20), [future.exception() for future in futures if future.done()]
            if kill:
                self.server.kill()
            else:
                self.server.terminate(within_s=10)
            for future in futures:
                future.result(20)
        return int(self.server.process.returncode)

    def check(self) -> None:
        """Every acknowledged report is booked once, nothing else is, and the books add up."""
        with SqliteStore(self.database) as store:
            entries = store.read(lambda uow: list(uow.ledger.by_agent(self.agent.id)))
            assert store.read(verify).holds
        booked = [entry.ref for entry in entries if entry.kind == "spend"]
        assert len(booked) == len(set(booked))
        assert self.acknowledged <= set(booked) <= self.sent


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_server_killed_under_load_keeps_what_it_acknowledged(scene: Scene, tmp_path: Path) -> None:
    """Restarted on the same file it knows each of them, takes new ones, and its books add up."""
    with scene.server:
        lease_id = scene.handshake()
        scene.end_under_load(lease_id, kill=True)
    scene.check()
    with scene.server as restarted:
        again = {
            "lease_id": lease_id, "model": "gpt-4o", "provider": "openai", "cost_usd": 0.0001, "tokens": 10,
        }  # fmt: skip
        sample = [*sorted(scene.acknowledged)[:20], "a new one"]
        replies = [
            restarted.ask("POST", "/budget/report", {**again, "request_id": request_id}, scene.agent.headers)
            for request_id in sample
        ]
        scene.sent.add("a new one")
        restarted.terminate()
    verified = run_ironcage(tmp_path, "verify", "iron.db")

    assert [reply.status for reply in replies] == [200] * len(sample)
    assert [reply.body["duplicate"] for reply in replies] == [True] * 20 + [False]
    assert verified.returncode == 0, verified.stdout
    scene.check()


def test_a_server_told_to_end_under_load_keeps_what_it_acknowledged(scene: Scene, tmp_path: Path) -> None:
    """It ends by itself, cleanly, while its clients go on sending."""
    with scene.server:
        lease_id = scene.handshake()
        code = scene.end_under_load(lease_id, kill=False)
    verified = run_ironcage(tmp_path, "verify", "iron.db")

    assert code == 0, scene.server.said
    assert "Traceback" not in scene.server.said
    assert verified.returncode == 0, verified.stdout
    scene.check()


# --- a server in this process ------------------------------------------------


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    with SqliteStore(":memory:", clock=SystemClock()) as opened:
        yield opened


def test_sixty_four_runtimes_at_once_never_get_more_than_the_budget(store: SqliteStore) -> None:
    """All of it is lent, the last grant is cut, and the rest is refused."""
    settings = embedded_settings()
    agent = add_agent(store, settings, 20 * MICROS_PER_USD + 500_000)
    barrier = threading.Barrier(64)
    with ApiServer(store, settings=settings) as server, ThreadPoolExecutor(64) as pool:

        def shake_hands(_: int) -> tuple[int, str, Decimal]:
            barrier.wait(20)
            body = {"requested_budget": 1}
            reply = ask(server.port, "POST", "/api/v1/budget/handshake", body, agent.headers)
            if reply.status == 200:
                return 200, "", Decimal(reply.body["budget_granted"])
            return reply.status, reply.body["code"], Decimal(0)

        outcomes = list(pool.map(shake_hands, range(64)))
        budget = ask(server.port, "GET", "/api/v1/budget", headers=agent.headers).body

    granted = [amount for status, _, amount in outcomes if status == 200]
    assert sum(granted) == Decimal("20.5")
    assert sorted(granted) == [Decimal("0.5"), *[Decimal(1)] * 20]
    assert {(status, code) for status, code, _ in outcomes if status != 200} == {(403, "BUDGET_EXCEEDED")}
    assert (budget["budget_held"], budget["budget_remaining"]) == (Decimal("20.5"), 0)
    assert store.read(verify).holds


def test_a_server_in_this_process_answers_and_stops(store: SqliteStore) -> None:
    """On a free port that it names; afterwards nobody listens, no thread is left and the store is open."""
    before = threading.active_count()
    with ApiServer(store) as server:
        reply = ask(server.port, "GET", "/api/v1/health")
        url = server.url
        names = [thread.name for thread in threading.enumerate()]
    server.stop()

    assert (reply.status, reply.raw) == (200, b'{"status":"healthy","database":"connected"}')
    assert url == f"http://127.0.0.1:{server.port}"
    assert "ironcage-http" in names
    with pytest.raises(OSError, match=r"refused|reset"):
        ask(server.port, "GET", "/api/v1/health")
    assert "ironcage-http" not in [thread.name for thread in threading.enumerate()]
    assert threading.active_count() <= before + 2  # threads of a pool may idle
    assert store.read(verify).holds


def test_two_servers_stand_side_by_side(store: SqliteStore) -> None:
    """Each has a port of its own."""
    with ApiServer(store) as first, ApiServer(store) as second:
        ports = {first.port, second.port}
        statuses = [ask(port, "GET", "/api/health").status for port in ports]

    assert (len(ports), statuses) == (2, [200, 200])


def healthy(connection: socket.socket) -> bytes:
    """Ask how the server is over an open connection; return its answer."""
    connection.sendall(b"GET /api/health HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = connection.recv(65_536)
    while not answer.endswith(b"}"):
        answer += connection.recv(65_536)
    return answer


def test_a_head_that_never_ends_is_refused(store: SqliteStore) -> None:
    """After 64 KiB, on a fresh connection and on one that has served already."""
    endless = b"GET /api/health HTTP/1.1\r\nHost: a\r\n" + b"X-More: " + b"a" * 100_000
    with ApiServer(store) as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        first = healthy(raw)
        raw.sendall(endless)
        second = raw.recv(65_536)

    assert first.startswith(b"HTTP/1.1 200")
    assert second.startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /api/health HTT", b"POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_request_that_never_arrives_holds_no_connection(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """It is closed after its time; one that came in time is answered, and its connection rests."""
    monkeypatch.setattr(protocols, "REQUEST_TIMEOUT_S", 0.3)
    with ApiServer(store) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
            slow.sendall(sent)
            ended = slow.recv(65_536)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as quick:
            first = healthy(quick)
            time.sleep(0.6)
            second = healthy(quick)

    assert b"200" not in ended
    assert [each.startswith(b"HTTP/1.1 200") for each in (first, second)] == [True, True]


def test_a_body_that_is_too_large_is_refused_over_a_real_socket(store: SqliteStore) -> None:
    """By its length, before it is sent whole."""
    with ApiServer(store) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.putrequest("POST", "/api/v1/auth/login")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(2**20 + 1))
        connection.endheaders(b"{")
        start = time.monotonic()
        response = connection.getresponse()
        body, status = response.read(), response.status
        connection.close()

    assert (status, b'"PAYLOAD_TOO_LARGE"' in body) == (413, True)
    assert time.monotonic() - start < 5
