"""`ironcage watch`: every event once and in order, whatever becomes of the connection, the session and the reader."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.sync.client import connect

from ironcage_http.commands.happenings import in_words
from ironcage_http.feed_catalogue import EVENTS
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.crew import busy_agent, crew_of
from tests.support.desk import Desk
from tests.support.processes import ENVIRONMENT
from tests.support.servers import MAIN, PATIENCE_S, free_port
from tests.support.sockets import publish
from tests.support.watching import Watching
from tests.support.world import TestAgent

MINUTE = 60_000
UNKNOWN = f"evt_{'0' * 32}"


@pytest.fixture
def agent(desk: Desk) -> TestAgent:
    """Return an agent of ann's, `worker`."""
    return crew_of(desk.store).agent(name="worker")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what moves the server's clock on by so many milliseconds."""
    moved = [0]
    real = SystemClock.now
    monkeypatch.setattr(SystemClock, "now", lambda clock: real(clock) + moved[0])

    def move(by: int) -> None:
        moved[0] += by

    return move


def use(agent: TestAgent, *tools: str) -> None:
    """Let the agent use tools, one after the other."""
    for tool in tools:
        agent.world.store.write(partial(publish, agent_id=agent.id, name="tool_invocation", data={"tool": tool}))


def test_events_are_shown_in_words_as_they_happen(admin_desk: Desk) -> None:
    """With the time, the name of the agent and the cost; `--count` ends it."""
    with Watching(admin_desk, "--count", 5) as watch:
        watch.until("following")
        busy_agent(crew_of(admin_desk.store), "worker", budget=2, lent=2)
        lines = [watch.line() for _ in range(5)]

        assert watch.end() == (0, "")
    assert all(line[:2] == "20" and "  worker   " in line for line in lines)
    told = "".join(lines)
    assert "was lent $2.00; $0.00 of the budget remain (lease_" in told
    assert "called gpt-test of openai: 100 tokens, $1.50\n" in told
    assert "is running (handshake); $0.00 spent\n" in told
    assert "info: 75 % of the budget is used up: $1.50 of $2.00 spent\n" in told


def test_events_are_told_as_the_server_tells_them(admin_desk: Desk, agent: TestAgent) -> None:
    """With `--json` one object a line, and notes are JSON too."""
    with Watching(admin_desk, "--json", "--count", 1) as watch:
        watch.until('"code":"FOLLOWING"')
        use(agent, "search")
        event = watch.event()

    assert (event["type"], event["event"], event["agent_id"]) == ("AGENT_EVENT", "tool_invocation", agent.id)
    assert event["data"] == {"tool": "search"}
    assert [set(json.loads(line)) for line in watch.said] == [{"note", "code"}]


def test_filters_narrow(admin_desk: Desk, agent: TestAgent) -> None:
    """By agent, type, event and severity; from the first event on."""
    crew = crew_of(admin_desk.store)
    with (
        Watching(admin_desk, "--json", "--agent", "worker") as of_agent,
        Watching(admin_desk, "--json", "--event", "llm_call", "--event", "pii_detected") as of_events,
        Watching(admin_desk, "--json", "--type", "cost_alert", "--min-severity", "critical") as of_alerts,
    ):
        for watch in (of_agent, of_events, of_alerts):
            watch.until("FOLLOWING")
        spender, lease_id = busy_agent(crew, "spender", budget=2, lent=2)
        spender.report(lease_id, "the rest", 500_000)
        use(agent, "search")

        assert of_agent.event()["agent_id"] == agent.id
        assert [of_events.event()["event"] for _ in range(2)] == ["llm_call"] * 2
        assert of_alerts.event()["severity"] == "critical"
    assert of_agent.rest + of_events.rest + of_alerts.rest == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--since", "yesterday"], 2),
        (["--count", "0"], 2),
        (["--event", "llm_cal"], 2),
        (["--min-severity", "huge"], 2),
        (["--agent", "nobody"], 4),
        (["--url", "http://127.0.0.1:9"], 5),
    ],
)
def test_what_cannot_be_watched_is_said_at_once(admin_desk: Desk, arguments: list[str], code: int) -> None:
    """With the exit code of its kind, and nothing on standard output."""
    shown = admin_desk.run("watch", *arguments)

    assert (shown.code, shown.out) == (code, ""), shown.err


def test_a_server_that_is_not_there_is_exit_6(desk: Desk) -> None:
    """Even with a credential."""
    shown = desk.run("watch", env={"IRON_API_TOKEN": "at_x", "IRON_URL": "http://127.0.0.1:9"})

    assert (shown.code, "does not answer as a control plane" in shown.err) == (6, True)


def test_a_wrong_credential_is_exit_5(desk: Desk) -> None:
    """In the words of the server."""
    wrong = {"IRON_API_TOKEN": "at_wrong", "IRON_URL": desk.url}

    shown = desk.run("watch", env=wrong)
    told = desk.run("watch", "--json", env=wrong)

    assert (shown.code, "run ironcage login again" in shown.err, "at_wrong" in shown.err) == (5, True, False)
    assert (told.code, json.loads(told.err)["code"]) == (5, "AUTH_INVALID_TOKEN")


def test_too_many_connections_are_refused(admin_desk: Desk) -> None:
    """Exit 4, as every refusal."""
    login = admin_desk.file.load()
    assert login is not None
    first = json.dumps({"token": login.access_token})
    sockets = []
    for _ in range(10):
        socket = connect(f"{admin_desk.url.replace('http', 'ws')}/ws", legacy=True)
        socket.send(first)
        assert json.loads(socket.recv())["type"] == "WELCOME"
        sockets.append(socket)

    shown = admin_desk.run("watch")

    for socket in sockets:
        socket.close()
    assert (shown.code, "RATE_LIMIT_EXCEEDED" in shown.err) == (4, True)


# --- the connection --------------------------------------------------------------------------------------------------


def test_a_restart_of_the_server_loses_nothing_and_tells_nothing_twice(store: SqliteStore, tmp_path: Path) -> None:
    """What happened before, in between and after is told once, in order."""
    settings, port = embedded_settings(), free_port()
    agent = crew_of(store).agent(name="worker")
    desk = Desk(tmp_path / "desk", f"http://127.0.0.1:{port}", store)
    with ApiServer(store, port, settings=settings):
        desk.log_in("admin")
        watch = Watching(desk, "--json")
        watch.until("FOLLOWING")
        use(agent, "a", "b")
        before = watch.tools(2)
    with watch:
        watch.until("LOST")
        use(agent, "c", "d")
        for round_ in ("e", "f"):
            with ApiServer(store, port, settings=settings):
                watch.until("FOUND")
                use(agent, round_)
                before += watch.tools(3 if round_ == "e" else 1)
            watch.until("LOST")

        assert (before, watch.rest) == (["a", "b", "c", "d", "e", "f"], [])
        code, said = watch.end(signal.SIGINT)
    assert (code, "Traceback" in said) == (130, False)
    codes = [json.loads(line)["code"] for line in watch.said]
    assert codes == ["FOLLOWING", "LOST", "FOUND", "LOST", "FOUND", "LOST"]


def test_a_watch_goes_on_where_another_has_stopped(admin_desk: Desk, agent: TestAgent) -> None:
    """Ctrl-C says from where: exit 130, one sentence, no traceback."""
    with Watching(admin_desk, "--json") as first:
        first.until("FOLLOWING")
        use(agent, "a")
        event_id = first.event()["event_id"]
        code, said = first.end(signal.SIGINT)
    use(agent, "b", "c")

    with Watching(admin_desk, "--json", "--since", event_id, "--count", 2) as second:
        assert second.tools(2) == ["b", "c"]
        assert second.end()[0] == 0

    told = json.loads(said)
    assert (code, told["code"], told["details"]) == (130, "INTERRUPTED", {"last_event_id": event_id})
    assert told["error"] == f"Stopped. To go on from here: ironcage watch --since {event_id}"


def test_an_event_that_is_no_longer_known_is_said(admin_desk: Desk, agent: TestAgent) -> None:
    """What came after it is lost; what happens next is told."""
    use(agent, "a")
    with Watching(admin_desk, "--json", "--since", UNKNOWN) as watch:
        watch.until("EVENTS_LOST")
        use(agent, "b")

        assert watch.tools(1) == ["b"]


# --- the credential --------------------------------------------------------------------------------------------------


def test_a_session_is_renewed_before_it_ends(admin_desk: Desk, agent: TestAgent, later: Callable[[int], None]) -> None:
    """The connection goes on, and the fresh session is stored for the other commands."""
    before = admin_desk.file.load()
    assert before is not None
    with Watching(admin_desk, "--json") as watch:
        watch.until("FOLLOWING")
        later(14 * MINUTE + 30_000)
        _until(lambda: admin_desk.file.load() != before)
        renewed = admin_desk.file.load()
        later(MINUTE)
        time.sleep(2.5)  # longer than the server takes to close a connection whose credential has ended
        use(agent, "a")

        assert watch.tools(1) == ["a"]
        assert watch.end(signal.SIGINT)[0] == 130
    assert admin_desk.file.load() == renewed
    assert admin_desk.run("whoami").code == 0


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_session_that_ended_is_renewed(admin_desk: Desk, agent: TestAgent, later: Callable[[int], None]) -> None:
    """As after a night of a closed lid; nothing is lost, and nobody has to be told."""
    with Watching(admin_desk, "--json") as watch:
        watch.until("FOLLOWING")
        later(16 * MINUTE)
        use(agent, "a")
        time.sleep(2.5)
        use(agent, "b")

        assert watch.tools(2) == ["a", "b"]
        code, said = watch.end(signal.SIGINT)
    assert (code, "LOST" in said) == (130, False)


def test_a_session_that_is_over_at_the_start_is_renewed(
    admin_desk: Desk, agent: TestAgent, later: Callable[[int], None]
) -> None:
    """As by every command."""
    later(16 * MINUTE)
    with Watching(admin_desk, "--json") as watch:
        watch.until("FOLLOWING")
        use(agent, "a")

        assert watch.tools(1) == ["a"]


@pytest.mark.parametrize("is_over", ["logged out", "too old"])
def test_a_session_that_is_over_for_good_ends_the_watch(
    admin_desk: Desk, later: Callable[[int], None], is_over: str
) -> None:
    """Exit 5, and what to do."""
    stored = admin_desk.file.load()
    assert stored is not None
    with Watching(admin_desk) as watch:
        watch.until("following")
        if is_over == "logged out":
            admin_desk.run("logout")
        else:
            later(60 * 24 * 60 * MINUTE)

        code, said = watch.end()
    assert (code, "run ironcage login again" in said, "Traceback" in said) == (5, True, False), said


def test_an_api_token_watches_until_it_is_revoked(admin_desk: Desk, agent: TestAgent) -> None:
    """Then exit 5: nothing renews it."""
    made = admin_desk.ask("api", "POST", "/api-tokens", "-f", "name=ci")
    with Watching(admin_desk, "--json", IRON_API_TOKEN=made["token"], IRON_URL=admin_desk.url) as watch:
        watch.until("FOLLOWING")
        use(agent, "a")
        assert watch.tools(1) == ["a"]
        admin_desk.ask("api", "DELETE", f"/api-tokens/{made['id']}")

        code, said = watch.end()
    assert (code, json.loads(said)["code"], made["token"] in said) == (5, "AUTH_TOKEN_EXPIRED", False)


def test_others_watch_their_own_agents(desk: Desk, agent: TestAgent) -> None:
    """A name that may not be looked up is an id."""
    desk.log_in("vera")
    with Watching(desk, "--json") as of_vera:
        of_vera.until("FOLLOWING")
        desk.log_in("ann")
        with Watching(desk, "--count", 1) as of_ann:
            of_ann.until("following")
            use(agent, "a")

            assert "  worker                used the tool a\n" in of_ann.line()
        assert of_vera.rest == []


# --- the reader ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("happens", [True, False])
def test_a_pipe_that_nobody_reads_ends_it_quietly(admin_desk: Desk, agent: TestAgent, happens: bool) -> None:
    """At the next event, or a second later if there is none."""
    env = {name: value for name, value in admin_desk.env.items() if value is not None}
    reader, writer = os.pipe()
    with subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", MAIN, "watch"], env={**ENVIRONMENT, **env}, stdout=writer, stderr=subprocess.PIPE
    ) as child:
        os.close(writer)
        assert child.stderr is not None
        assert b"following" in child.stderr.readline()
        os.close(reader)
        if happens:
            use(agent, "a")
        code = child.wait(PATIENCE_S)

        assert (code, child.stderr.read()) == (0, b"")


def test_ctrl_c_while_the_server_is_away_ends_it(store: SqliteStore, tmp_path: Path) -> None:
    """Exit 130, without a traceback."""
    port = free_port()
    desk = Desk(tmp_path / "desk", f"http://127.0.0.1:{port}", store)
    with ApiServer(store, port, settings=embedded_settings()):
        desk.log_in("admin")
        watch = Watching(desk)
        watch.until("following")
    with watch:
        watch.until("lost the server (it restarts); trying again")
        start = time.monotonic()
        code, said = watch.end(signal.SIGINT)

    assert (code, "Traceback" in said, time.monotonic() - start < 10) == (130, False, True)


# --- the words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_of_the_catalogue_has_words(name: str) -> None:
    """Made of what is required of it; without any of that they still say something."""
    required = [each for each in msgspec.structs.fields(EVENTS[name]) if each.required]
    data: dict[str, Any] = {each.name: 7 if "cost" in each.name or "budget" in each.name else "x" for each in required}

    words = in_words({"type": "AGENT_EVENT", "event": name, "data": data})
    bare = in_words({"type": "AGENT_EVENT", "event": name})

    assert words != name.replace("_", " ")
    assert "?" not in words
    assert "{" not in words + bare


def test_an_event_of_a_newer_server_is_told_by_its_name() -> None:
    """Whatever its data is."""
    assert in_words({"type": "AGENT_EVENT", "event": "moon_landed", "data": {"at": [1]}}) == "moon landed"
    assert in_words({"type": "AGENT_EVENT", "event": "tool_invocation", "data": {}}) == "used the tool ?"
