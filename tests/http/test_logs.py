"""Logs: what a line looks like, what is told at which level, and that no line holds a secret."""

import io
import json
import logging
import re
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from ironcage_core.domain.redaction import masked
from ironcage_core.errors.faults import StorageError
from ironcage_http import edge, logs
from ironcage_http.calls import Call
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_http.variable_kinds import LogFormat, LogLevel
from ironcage_storage.sealed.access_tokens import new_refresh_token
from ironcage_storage.sealed.api_tokens import new_api_token
from ironcage_storage.sqlite.store import SqliteStore
from tests.support import servers
from tests.support.servers import ServerProcess, add_agent, run_ironcage
from tests.support.web import API_KEY, PASSWORD, people, serving

pytestmark = pytest.mark.anyio
ours = logging.getLogger("ironcage_http.somewhere")
theirs = logging.getLogger("another.library")

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c2VyXzEifQ.c2lnbmF0dXJlLXRoYXQtaXMtbG9uZw"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\n-----END PRIVATE KEY-----"
SECRETS = {
    "provider key": (API_KEY, "0123456789abcdefghij"),
    "another provider's": ("sk-ant-api03-" + "Zq9" * 20, "Zq9Zq9"),
    "access token": (JWT, "c2lnbmF0dXJl"),
    "IC token": (f"ic_{JWT}", "eyJzdWIi"),
    "refresh token": (made := new_refresh_token(), made[6:]),
    "API token": (token := new_api_token(), token[6:]),
    "IP token": ("AES256:bm9uY2Vub25jZQ==:Y2lwaGVydGV4dGNpcGhlcg==:dGFndGFndGFn", "Y2lwaGVydGV4"),
    "bearer": ("Bearer plain-0123-metrics-token", "plain-0123"),
    "basic": ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNz"),
    "password": ("password='hunter2 and more'", "hunter2"),
    "JSON": (json.dumps({"username": "ann", "password": "hunter2-json"}), "hunter2"),
    "JSON in JSON": (json.dumps(json.dumps({"password": "hunter2-twice"})), "hunter2"),
    "URL": ("postgres://ironcage:hunter2url@db.example/x", "hunter2url"),
    "query": ("GET /ws?token=typed-in-the-query HTTP/1.1", "typed-in-the-query"),
    "private key": (PEM, "MIIEvQIBADANBgkq"),
    "named": ("api_key: 7f9c2ba4e88f827d616045507605853e", "7f9c2ba4e88f"),
}
"""What may be in a text, and the part that no line may hold."""


class Sound(NamedTuple):
    """What was logged."""

    stream: io.StringIO

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sound]:
    """A stream that `configured` logs to; afterwards all is as it was."""
    root = logging.getLogger()
    names = ("ironcage_core", "ironcage_storage", "ironcage_http")
    before = root.handlers[:], root.level
    for client in ("httpx", "httpcore", "websockets.client"):  # that is us, not the server
        monkeypatch.setattr(logging.getLogger(client), "disabled", True)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield Sound(io.StringIO())
    root.handlers[:], level = before
    root.setLevel(level)
    for name in names:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def configured(sound: Sound, level: LogLevel = "info", form: LogFormat | None = "json") -> None:
    logs.configure(level, form, sound.stream)


def raised(error: Exception) -> None:
    raise error


# --- a line ------------------------------------------------------------------


def test_a_line_is_one_object(sound: Sound) -> None:
    """With its time in UTC, its level, who says it and what."""
    configured(sound)
    ours.warning("the lease %s is\nlate \x1b[31m\u2028\ud800", "lease_1", extra={"status": 3, "unknown": "x"})

    (line,) = sound.lines
    assert sound.text.count("\n") == 1
    assert sound.text.isascii()
    assert list(line) == ["timestamp", "level", "logger", "event", "status"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    assert line["level"] == "warn"
    assert line["logger"] == "ironcage_http.somewhere"
    assert line["event"] == "the lease lease_1 is\nlate \x1b[31m\u2028\ud800"
    assert line["status"] == 3


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_time_is_as_long_as_any_other(form: LogFormat) -> None:
    """Lines are in order where their times are compared as texts."""
    record = logging.LogRecord("ironcage_http", logging.INFO, __file__, 1, "happened", (), None)
    record.created, record.msecs = 1_700_000_000.007, 7.0

    assert "2023-11-14T22:13:20.007Z" in logs.formatter(form).format(record)


def test_an_exception_is_one_field_without_the_values_of_variables(sound: Sound) -> None:
    """With its causes, and names that look like tokens left alone."""
    configured(sound)

    def fail(value: str) -> None:
        local = value * 2
        try:
            raised(KeyError("a cause"))
        except KeyError as cause:
            raise ValueError(f"in ic_tokens.py, at_most_once: {len(local)}") from cause

    try:
        fail("value-of-a-variable")
    except ValueError:
        ours.exception("it failed")

    (line,) = sound.lines
    assert line["event"] == "it failed"
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: in ic_tokens.py, at_most_once: 38")
    assert "KeyError: 'a cause'" in line["exception"]
    assert "value-of-a-variablevalue" not in sound.text
    assert "exc_info" not in line


def test_a_text_for_people_steers_no_terminal_and_forges_no_line(sound: Sound) -> None:
    """What came from elsewhere stays within its line; a trace has lines of its own."""
    configured(sound, form="text")
    ours.warning("a\nb\x1b[2J\x9b1m\rc")
    try:
        raised(ValueError("x\x1b[31m"))
    except ValueError:
        ours.exception("failed")

    first, second, *trace = sound.text.splitlines()
    assert re.fullmatch(r"\S+Z \[warn +\] a\\nb\\x1b\[2J\\x9b1m\\x0dc +\[ironcage_http\.somewhere\]", first), first
    assert re.search(r"\[error +\] failed", second)
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == r"ValueError: x\x1b[31m"
    assert "\x1b" not in sound.text


@pytest.mark.parametrize(
    ("is_terminal", "form", "begins"),
    [(True, None, "\x1b["), (False, None, "{"), (True, "json", "{"), (False, "text", "2")],
)
def test_people_at_a_terminal_get_text_and_machines_get_json(
    sound: Sound, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, form: LogFormat | None, begins: str
) -> None:
    """Unless somebody says which."""
    monkeypatch.setattr(sound.stream, "isatty", lambda: is_terminal)
    configured(sound, form=form)
    ours.info("x")

    assert sound.text.startswith(begins)


@pytest.mark.parametrize(
    ("level", "heard_of_us", "heard_of_others"),
    [
        ("error", "e", "e"),
        ("warn", "ew", "ew"),
        ("info", "ewi", "ew"),
        ("debug", "ewid", "ewi"),
        ("trace", "ewid", "ewid"),
    ],
)
def test_a_level_says_from_where_on_who_is_heard(
    sound: Sound, level: LogLevel, heard_of_us: str, heard_of_others: str
) -> None:
    """Other libraries speak a step lower, but for trace."""
    configured(sound, level)
    for logger in (ours, theirs):
        logger.error("e")
        logger.warning("w")
        logger.info("i")
        logger.debug("d")

    assert "".join(sound.events) == heard_of_us + heard_of_others


def test_configuring_again_starts_anew(sound: Sound) -> None:
    """Every line comes once, at the level that was said last."""
    configured(sound, "trace")
    configured(sound, "info")
    ours.info("once")
    ours.debug("never")

    assert sound.events == ["once"]


def test_warnings_and_threads_that_fail_are_told_as_lines(sound: Sound) -> None:
    """Nothing of them goes to standard error by another way."""
    configured(sound)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("password=hunter2", stacklevel=1)
    failing = threading.Thread(target=lambda: int("password=hunter2"))
    failing.start()
    failing.join()

    assert [line["level"] for line in sound.lines] == ["warn", "error"]
    assert sound.lines[1]["event"] == "a thread failed"
    assert "ValueError" in sound.lines[1]["exception"]
    assert "hunter2" not in sound.text


class BrokenStream(io.StringIO):
    """A stream that a closed pipe or a full disk is behind."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:  # noqa: ARG002 - it is lost
        raise self._error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "full"), ValueError("closed"), RuntimeError("odd")])
def test_a_log_that_cannot_be_written_breaks_nothing(
    sound: Sound, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Not even where standard error itself is gone."""
    monkeypatch.setattr(sys, "stderr", None)
    logs.configure("trace", "json", BrokenStream(error))
    ours.error("lost")
    ours.error("wrong %d", "arguments")

    assert sound.text == ""


# --- requests ----------------------------------------------------------------


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    with SqliteStore(":memory:") as opened:
        yield opened


async def test_each_request_is_told_at_debug_by_its_route(sound: Sound, store: SqliteStore) -> None:
    """Never by its path or query; with the id that its answer names."""
    configured(sound, "debug")
    async with serving(store, embedded_settings()) as caller:
        await caller.get("/agents/typed-by-hand?agent=typed-by-hand", headers={"X-Request-Id": "mine-1"})
        await caller.get("/typed/by/hand")
        health = await caller.get("/health")

    told = [line for line in sound.lines if line["logger"] == "ironcage_http.edge"]
    assert [(line["method"], line["route"], line["status"]) for line in told] == [
        ("GET", "/api/v1/agents/{agent_id}", 401),
        ("GET", "unknown", 404),
        ("GET", "/api/v1/health", 200),
    ]
    assert told[0]["request_id"] == "mine-1"
    assert told[2]["request_id"] == health.headers["x-request-id"]
    assert all(line["level"] == "debug" and 0 < line["ms"] < 1000 for line in told)
    assert "typed" not in sound.text


async def test_at_info_only_slow_requests_are_told(
    sound: Sound, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how long they took."""
    configured(sound)
    async with serving(store, embedded_settings()) as caller:
        await caller.get("/health")
        quiet = sound.text
        monkeypatch.setattr(edge, "SLOW_S", 0)
        await caller.get("/health")

    (line,) = sound.lines
    assert quiet == ""
    assert (line["level"], line["event"], line["route"]) == ("warn", "a slow request", "/api/v1/health")
    assert line["ms"] > 0


async def test_what_fails_in_a_request_names_it(
    sound: Sound, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever thread; what comes outside of any request names none."""

    async def fail(call: Call, use_case: object) -> object:  # noqa: ARG001 - it is never run
        raise StorageError("The database failed")

    configured(sound)
    async with serving(store, embedded_settings()) as caller:
        admin = await caller.login()
        monkeypatch.setattr(Call, "see", fail)
        answer = await admin.get("/users", headers={"X-Request-Id": "mine-2"})
    thread = threading.Thread(target=lambda: ours.error("elsewhere"))
    thread.start()
    thread.join()

    failed, elsewhere = sound.lines
    assert answer.status == 500
    assert (failed["request_id"], failed["event"]) == ("mine-2", "a request failed: The database failed")
    assert failed["exception"].endswith("StorageError: The database failed")
    assert "request_id" not in elsewhere


# --- secrets -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("kind", SECRETS)
def test_no_secret_comes_through(sound: Sound, form: LogFormat, kind: str) -> None:
    """As an event, an argument, a fact, an exception, its cause, a stack; alone or within a text."""
    secret, part = SECRETS[kind]
    configured(sound, "trace", form)
    for text in (secret, f"it was {secret}, they say", f"({secret})", f"first\n{secret}\nlast", repr(secret)):
        ours.info(text.replace("%", "%%"))
        ours.info("%s", text)
        ours.info("x", extra={"route": text})
        theirs.debug("%r", {"headers": [(b"x-any", text.encode())]})
        try:
            try:
                raised(KeyError(text))
            except KeyError as cause:
                raise StorageError(text) from cause
        except StorageError:
            ours.exception("failed: %s", text, stack_info=True)

    assert sound.text
    assert part not in sound.text


def test_what_is_no_secret_stays() -> None:
    """An operator must understand what he reads."""
    texts = (
        'File "/app/src/ironcage_http/routes/ic_tokens.py", line 12, in issue',
        "ironcage_core.errors.access.InvalidTokenError: The token is not valid",
        "3 secrets do not decrypt: key_0190f3a1c4d27b8e9a5f001122334455",
        "JWT_SECRET is not set; sessions are signed with a public secret",
        "ann@test.io logged in from 192.0.2.1, phone 555-123-4567",
        "the lease lease_0190f3a1c4d27b8e9a5f001122334455 was not returned",
        "Uvicorn running on http://127.0.0.1:8080 (Press CTRL+C to quit)",
        "def check_at_most_once(rt_value, ic_token_id)",
    )

    assert [masked(text) for text in texts] == list(texts)


def test_of_a_very_long_text_the_end_is_kept() -> None:
    """Whole words of it: half a secret would not be known as one."""
    text = "start " + f"{API_KEY} " * 5000 + "the end"

    shown = masked(text)

    assert shown.endswith("[redacted] the end")
    assert len(shown) < 32_001
    assert API_KEY[-10:] not in shown
    assert masked("x" * 40_000 + API_KEY) == ""
    assert masked("word " * 6400) == "word " * 6400


@pytest.mark.parametrize(
    "piece", ["://", "eyJ", "token:", "token='", 'pwd="', "a", "sk-", "bearer ", "-----BEGIN", "ic_a_", "\\", "eyJa."]
)
def test_no_text_is_slow_to_mask(piece: str) -> None:
    """Whatever somebody sends: some milliseconds for each thousand characters at most."""
    text = piece * (31_999 // len(piece))
    start = time.perf_counter()
    masked(text)

    assert time.perf_counter() - start < 0.5


def test_a_server_that_tells_everything_tells_no_secret(
    sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every secret in every place of a request, while a use case fails and after it: all that any library says."""
    settings = embedded_settings()
    monkeypatch.setattr(edge, "SLOW_S", 0)
    with SqliteStore(tmp_path / "a.db") as store:
        people(store)
        agent = add_agent(store, settings)
        configured(sound, "trace")
        with ApiServer(store, settings=settings) as server, httpx.Client(base_url=server.url) as client:
            login = {"username": "admin", "password": PASSWORD}
            session = client.post("/api/v1/auth/login", json=login).json()
            lease = client.post("/api/v1/budget/handshake", json={}, headers=agent.headers).json()
            shown = [session["access_token"], session["refresh_token"], agent.token, lease["ip_token"]]
            sent = [secret for secret, _ in SECRETS.values() if "\n" not in secret]
            monkeypatch.setattr(Call, "see", _fail)
            for secret in [*sent, *shown]:
                _send_everywhere(client, secret, session["access_token"])
                with pytest.raises((InvalidStatus, OSError)):
                    connect(
                        f"{server.url.replace('http', 'ws')}/ws?token={secrets.token_hex(4)}",
                        additional_headers={"X-API-Token": secret},
                    )
    text = sound.text

    parts = [part for kind, (_, part) in SECRETS.items() if kind != "private key"]
    assert len(text.splitlines()) > 200
    assert "a request failed" in text
    assert [part for part in [*parts, *shown, PASSWORD] if part in text] == []


async def _fail(call: Call, use_case: object) -> object:  # noqa: ARG001 - it is never run
    sent = (call.path, call.query, dict(call.headers), call.raw)
    raise RuntimeError(f"in the middle of {sent!r}")


def _send_everywhere(client: httpx.Client, secret: str, session: str) -> None:
    path = f"/api/v1/agents/{quote(secret, safe='')}"
    headers = {"Authorization": f"Bearer {session}"}
    client.get(path, headers=headers)
    client.get("/api/v1/users", params={"search": secret}, headers=headers)
    client.get("/api/v1/users", headers={**headers, "X-Any": secret, "Cookie": secret})
    for name in ("Authorization", "X-API-Token", "X-IC-Token", "X-Request-Id", "Content-Type"):
        client.get("/api/v1/users", headers={name: secret})
    for body in ({"username": secret, "password": secret}, {"ic_token": secret}, secret):
        client.post("/api/v1/auth/login", json=body)
        client.post("/api/v1/budget/handshake", json=body)
    client.post("/api/v1/auth/login", content=secret, headers={"Content-Type": "application/json"})
    client.request("GET", "/api/v1/users", content=secret, headers={**headers, "X-Body": "1"})


# --- the process -------------------------------------------------------------


def test_a_server_tells_its_life(tmp_path: Path) -> None:
    """JSON on standard error where no terminal is: its warnings, that it began and with what, and its end."""
    environ = {
        "DATABASE_URL": "sqlite:///iron.db",
        "IRON_DEPLOYMENT_MODE": "development",
        "IRON_BUILD_COMMIT": "abcdef0",
    }
    with ServerProcess(tmp_path, **environ) as server:
        server.terminate()
    lines = [json.loads(line) for line in server.said.splitlines() if line.startswith("{")]
    password = re.search(r"first login: username admin, password (\S+)", server.said)

    warned = [line["event"] for line in lines if line["level"] == "warn"]
    began, *ended = [line for line in lines if line["level"] == "info"]
    assert any(event.startswith("JWT_SECRET is not set") for event in warned)
    assert began["event"] == "started"
    assert began["url"] == f"http://127.0.0.1:{server.port}"
    assert (began["version"], began["commit"], began["mode"]) == ("0.1.0", "abcdef0", "development")
    assert (began["database"], began["pid"]) == (
        str(tmp_path / "iron.db") if Path(began["database"]).is_absolute() else "iron.db",
        server.process.pid,
    )
    assert [(line["event"], line.get("signal")) for line in ended] == [("stopping", "SIGTERM"), ("stopped", None)]
    assert password is not None
    assert password[1] not in json.dumps(lines)


@pytest.mark.parametrize(("name", "value"), [("IRON_LOG_LEVEL", "error"), ("RUST_LOG", "error")])
def test_the_level_of_the_environment_holds(tmp_path: Path, name: str, value: str) -> None:
    """Nothing went wrong, so nothing is told."""
    with ServerProcess(tmp_path, DATABASE_URL="sqlite:///iron.db", **{name: value}) as server:
        server.terminate()

    assert [line for line in server.said.splitlines() if line.startswith("{")] == []


BREAKING = """
import os, threading, time
def close():
    while not os.path.exists("close"):
        time.sleep(0.01)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)
    os.rename("close", "closed")
threading.Thread(target=close, daemon=True).start()
"""


def test_a_server_whose_standard_error_is_gone_serves_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has nobody to tell, and that is all."""
    monkeypatch.setattr(servers, "MAIN", BREAKING + servers.MAIN)
    with ServerProcess(tmp_path, DATABASE_URL="sqlite:///iron.db", IRON_LOG_LEVEL="trace") as server:
        (tmp_path / "close").touch()
        while not (tmp_path / "closed").exists():
            time.sleep(0.01)
        statuses = {server.ask("GET", "/version").status for _ in range(10)}
        code = server.terminate()

    assert statuses == {200}
    assert code in {0, 120}  # with 120 Python tells that it could not empty its buffers


def test_a_command_that_is_no_server_leaves_logging_alone(tmp_path: Path) -> None:
    """Its messages are its own."""
    with SqliteStore(tmp_path / "iron.db"):
        pass
    done = run_ironcage(tmp_path, "verify", "iron.db", IRON_LOG_LEVEL="trace")

    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize(
    "line",
    [
        """< TEXT '{"type": "AUTH", "filters": {"types": ["EV...tail-of-a-token"}' [680 bytes]""",
        """< CONT 'tail-of-a-token"}' [text, 30 bytes, continued]""",
        "< BINARY 74 61 69 6c tail-of-a-token 6e [680 bytes]",
    ],
)
def test_no_part_of_a_message_of_a_socket_is_told(line: str) -> None:
    """Its library cuts it in the middle, so that what is left of a token does not look like one."""
    told = masked(line)

    assert "tail-of-a-token" not in told
    assert told.endswith(line[line.rindex(" [") :])
