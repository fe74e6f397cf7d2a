"""A session where things go wrong at once: many threads, a control plane that refuses or is silent, Ctrl-C, a fork."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from ironcage_core.domain.prices import TokenCounts
from ironcage_core.errors.runtime import (
    ControlPlaneError,
    InsufficientBudget,
    OutboxError,
    SessionClosedError,
    SessionStoppedError,
    UnreachableError,
)
from ironcage_core.services.leasing import revoke_leases
from ironcage_http import client_leases, client_sender
from ironcage_http.client import session
from ironcage_http.client_outbox import Outbox
from ironcage_http.client_sessions import Session
from tests.support.panel import USD, Panel, panel_in
from tests.support.servers import RunningAgent
from tests.support.web import API_KEY
from tests.support.world import ADMIN

USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100}
COST, MOST = 3_500, 7_500
CALL: dict[str, Any] = {"model": "gpt-4o", "max_tokens": 500}
TOO_MUCH: dict[str, Any] = {"model": "gpt-4o", "max_tokens": 1, "input_tokens": 4_000_000}
"""A call of ten dollars."""

Answer = httpx.Response | Exception | None


class Way(httpx.BaseTransport):
    """The way to the control plane: notes what passes, and answers in its place where a test says so."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport()
        self.asked: list[str] = []
        self.instead: Callable[[str], Answer] = lambda _: None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.rpartition("/")[2]
        self.asked.append(path)
        answer = self.instead(path)
        if isinstance(answer, Exception):
            raise answer
        return self._inner.handle_request(request) if answer is None else answer

    def close(self) -> None:
        self._inner.close()


def refusal(status: int, code: str, **headers: str) -> httpx.Response:
    body = {"success": False, "error": "No.", "code": code, "details": {}}
    return httpx.Response(status, json=body, headers=headers)


@pytest.fixture
def way() -> Way:
    return Way()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@pytest.fixture
def open_session(folder: Path, way: Way) -> Iterator[Callable[..., Session]]:
    """Return what opens a session whose outbox is the test's own; it is closed in the end."""
    sessions: list[Session] = []

    def opened(panel: Panel, agent: RunningAgent, **options: Any) -> Session:  # noqa: ANN401 - those of `session`
        known = {"outbox": folder, "start_timeout_s": 2, "close_timeout_s": 5, "transport": way, **options}
        sessions.append(session(panel.url, agent.token, **known))
        return sessions[-1]

    yield opened
    for each in sessions:
        each.close()


Opening = Callable[..., Session]


def spend(s: Session) -> None:
    with s.call(**CALL) as call:
        call.commit(USAGE)


def wait_until(is_so: Callable[[], bool], most_s: float = 10) -> None:
    deadline = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def test_a_budget_that_is_used_up_is_not_asked_for_with_every_call(
    standing: Panel, open_session: Opening, way: Way
) -> None:
    """A denial is believed for a while by all threads, and each call is refused for want of money."""
    s = open_session(standing, standing.hire(1 * USD), budget=1)
    refused: list[InsufficientBudget] = []

    def work(_: int) -> None:
        for _ in range(10):
            with pytest.raises(InsufficientBudget) as error:
                s.call(**TOO_MUCH).begin()
            refused.append(error.value)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    assert len(refused) == 40
    assert way.asked.count("refresh") <= 2
    spend(s)


def test_calls_that_come_at_once_all_get_what_the_budget_reaches(standing: Panel, open_session: Opening) -> None:
    """However small the tranche: who finds what was lent taken by others asks again."""
    agent = standing.hire()
    s = open_session(standing, agent, budget="0.02")
    together = threading.Barrier(12)

    def work(_: int) -> None:
        together.wait()
        with s.call(**CALL) as call:
            time.sleep(0.2)
            call.commit(USAGE)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    s.close()

    assert standing.balance(agent).spent == 12 * COST
    assert standing.balance(agent).overspent == 0


def test_a_lease_that_is_lost_while_no_other_one_can_be_had_is_replaced_later(
    standing: Panel, open_session: Opening, way: Way
) -> None:
    """The first try to take another one is lost on its way; a later call takes it."""
    agent = standing.hire()
    s = open_session(standing, agent)
    ids = [lease.id for lease in standing.leases(agent)]
    standing.store.write(partial(revoke_leases, lease_ids=ids, reason="manual", actor=ADMIN))
    way.instead = lambda path: httpx.ReadError("lost") if path == "handshake" else None
    with pytest.raises(UnreachableError):
        s._engine.leases.renew(s._engine.leases.renewals)
    way.instead = lambda _: None

    spend(s)

    s.close()
    assert standing.balance(agent).spent == COST
    assert standing.balance(agent).overspent == 0


def test_a_session_that_has_borrowed_all_there_is_goes_on_with_it(
    tmp_path: Path, open_session: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no new money, but what was lent stays lent while it is used."""
    monkeypatch.setattr(client_leases, "ASK_AGAIN_AFTER_S", 0.2)
    with panel_in(tmp_path, ttl=6_000, grace=500) as panel, panel.up():
        agent = panel.hire(1 * USD)
        s = open_session(panel, agent, budget=1)
        until = time.monotonic() + 9
        calls = 0
        while time.monotonic() < until:
            spend(s)
            calls += 1
            time.sleep(0.2)
        s.close()

        assert len(panel.leases(agent)) == 1
        assert panel.balance(agent).spent == calls * COST
        assert panel.balance(agent).overspent == 0
        panel.check()


def test_a_lease_that_is_over_by_our_clock_alone_is_exchanged(standing: Panel, open_session: Opening) -> None:
    """Though there is no new money: what it holds is returned, and lent again."""
    agent = standing.hire(1 * USD)
    s = open_session(standing, agent, budget=1)
    spend(s)
    assert s.flush()
    s._engine.leases._ends_at = 0.0

    spend(s)

    s.close()
    assert standing.balance(agent).spent == 2 * COST
    assert standing.balance(agent).overspent == 0


def test_reports_go_on_while_new_money_is_refused_for_an_hour(standing: Panel, open_session: Opening, way: Way) -> None:
    """The agent's limits refuse the refresh with a time to come back; calls are made of what is left."""
    agent = standing.hire()
    way.instead = lambda path: (
        refusal(429, "USAGE_LIMIT_EXCEEDED", **{"Retry-After": "3600"}) if path == "refresh" else None
    )
    s = open_session(standing, agent, budget="0.05")
    for _ in range(3):
        spend(s)
    with s.call(model="gpt-4o", max_tokens=3_100) as call:
        call.commit(cost_usd="0.0325")
    wait_until(lambda: "refresh" in way.asked)
    spend_before = time.monotonic()
    with pytest.raises(UnreachableError, match="USAGE_LIMIT_EXCEEDED"):
        s.call(**TOO_MUCH).begin()
    assert time.monotonic() - spend_before < 2
    with s.call(model="gpt-4o", max_tokens=1, input_tokens=10) as call:
        call.commit(cost_usd="0.00001")

    assert s.flush(5)
    assert way.asked.count("refresh") <= 2


@pytest.mark.parametrize("end", [Session.flush, Session.close])
def test_whoever_waits_for_the_books_wakes_the_sender(
    panel: Panel, open_session: Opening, end: Callable[[Session], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had been resting because the control plane was away, which has come back meanwhile."""
    monkeypatch.setattr(client_sender, "BACKOFF_S", (60.0,))
    agent = panel.hire()
    with panel.up():
        s = open_session(panel, agent)
    spend(s)
    time.sleep(2)
    with panel.up():
        end(s)

        assert panel.balance(agent).spent == COST


def interrupted(step: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> None:  # noqa: ANN401 - those of the step
        step(*args)
        raise KeyboardInterrupt

    return run


def test_ctrl_c_while_a_call_is_written_down_means_that_it_is_not_made(
    standing: Panel, open_session: Opening, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is counted, now or at the next start."""
    agent = standing.hire()
    s = open_session(standing, agent)
    outbox = s._engine._outbox
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "intend", interrupted(outbox.intend))
        with pytest.raises(KeyboardInterrupt):
            s.call(**CALL).begin()
    assert s.status().reserved == 0
    s.close()

    assert [*folder.glob("*.journal")] == []
    assert (standing.balance(agent).spent, standing.balance(agent).held) == (0, 0)


@pytest.mark.parametrize(("step", "end", "spent"), [("settle", "commit", MOST), ("void", "cancel", 0)])
def test_ctrl_c_while_the_end_of_a_call_is_written_down_ends_it_all_the_same(
    standing: Panel, open_session: Opening, step: str, end: str, spent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted once, and the end of the session does not wait for it."""
    agent = standing.hire()
    s = open_session(standing, agent)
    outbox = s._engine._outbox
    monkeypatch.setattr(outbox, step, interrupted(getattr(outbox, step)))
    with pytest.raises(KeyboardInterrupt), s.call(**CALL) as call:
        getattr(call, end)()
    assert s.status()[:2] == (spent, 0)
    start = time.monotonic()
    s.close()

    assert time.monotonic() - start < 3
    assert (standing.balance(agent).spent, standing.balance(agent).held) == (spent, 0)


def test_a_fork_leaves_the_session_to_the_process_that_opened_it(standing: Panel, open_session: Opening) -> None:
    """In the child no call begins, and the end of its block returns nothing."""
    agent = standing.hire()
    s = open_session(standing, agent)
    child = os.fork()
    if not child:
        code = 1
        try:
            with pytest.raises(SessionClosedError, match="process"):
                s.call(**CALL).begin()
            s.close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert [lease.status for lease in standing.leases(agent)] == ["active"]
    spend(s)


def test_a_lease_is_not_returned_under_a_call_that_begins_at_the_end(
    standing: Panel, open_session: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either the call is refused, or the end waits for it."""
    agent = standing.hire()
    s = open_session(standing, agent)
    leases = s._engine.leases
    closing = threading.Thread(target=s.close)
    check, give_back = leases.check, leases.give_back

    def slow_give_back() -> None:
        time.sleep(1)
        give_back()

    def late_check() -> None:
        closing.start()
        time.sleep(0.5)
        check()

    monkeypatch.setattr(leases, "check", late_check)
    monkeypatch.setattr(leases, "give_back", slow_give_back)
    with s.call(**CALL) as call:
        time.sleep(1.5)
        assert [lease.status for lease in standing.leases(agent)] == ["active"]
        call.commit(USAGE)
    closing.join(10)

    assert (standing.balance(agent).spent, standing.balance(agent).held) == (COST, 0)
    assert standing.balance(agent).overspent == 0


def test_a_refresh_that_comes_back_behind_the_end_brings_no_key(
    standing: Panel, open_session: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is gone with the session, whatever was under way."""
    s = open_session(standing, standing.hire())
    engine = s._engine
    refresh = engine._plane.refresh

    def late(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - those of the refresh
        answer = refresh(*args, **options)
        engine.leases.close()
        return answer

    monkeypatch.setattr(engine._plane, "refresh", late)
    engine.leases.renew(engine.leases.renewals)

    with pytest.raises(SessionClosedError):
        s.api_key  # noqa: B018 - the question is the point


def account(panel: Panel, agent: RunningAgent) -> str:
    return sha256(f"{panel.url}/api/v1 {agent.id}".encode()).hexdigest()[:16]


def test_a_lease_that_the_control_plane_does_not_know_is_in_nobodys_way(
    standing: Panel, open_session: Opening, folder: Path
) -> None:
    """It was restored from a backup, say: a session starts all the same."""
    agent = standing.hire()
    old = Outbox(folder, account(standing, agent))
    old.lend("lease_that_is_gone")
    old.close()
    assert [*folder.glob("*.journal")]

    spend(open_session(standing, agent))


def test_a_session_that_refreshed_leaves_nothing_on_disk(standing: Panel, open_session: Opening, folder: Path) -> None:
    """There is nothing to return at the next start."""
    s = open_session(standing, standing.hire())
    s._engine.leases.renew(s._engine.leases.renewals)
    s._engine.leases.renew(s._engine.leases.renewals)
    s.close()

    assert [*folder.iterdir()] == []


def test_threads_that_wait_for_the_same_answer_share_its_failure(
    standing: Panel, open_session: Opening, way: Way
) -> None:
    """They do not queue up, each to wait for a timeout of its own."""

    def silent(path: str) -> Answer:
        if path != "refresh":
            return None
        time.sleep(1)
        return httpx.ReadTimeout("silence")

    s = open_session(standing, standing.hire(), budget="0.02")
    way.instead = silent

    def work(_: int) -> None:
        with pytest.raises(UnreachableError):
            s.call(**TOO_MUCH).begin()

    start = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))

    assert time.monotonic() - start < 12
    assert way.asked.count("refresh") < 12


def test_a_token_that_is_refused_takes_the_provider_key_with_it(
    standing: Panel, open_session: Opening, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may not report may not call; when the token is taken again there is another lease."""
    monkeypatch.setattr(client_leases, "ASK_AGAIN_AFTER_S", 0.2)
    agent = standing.hire()
    s = open_session(standing, agent)
    way.instead = lambda _: refusal(401, "AUTH_INVALID_TOKEN")
    spend(s)

    def is_gone() -> bool:
        try:
            return not s.api_key
        except SessionStoppedError:
            return True

    wait_until(is_gone)
    way.instead = lambda _: None
    time.sleep(0.3)
    spend(s)
    assert s.api_key == API_KEY
    s.close()

    assert (standing.balance(agent).spent, standing.balance(agent).held) == (2 * COST, 0)


@pytest.mark.parametrize("status", [401, 403])
def test_a_report_that_was_refused_for_a_while_stops_no_session_for_ever(
    standing: Panel, open_session: Opening, way: Way, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all of the budget is lent already, so that no new money says that all is well."""
    monkeypatch.setattr(client_leases, "ASK_AGAIN_AFTER_S", 0.2)
    agent = standing.hire(1 * USD)
    s = open_session(standing, agent, budget=1)
    way.instead = lambda path: refusal(status, "INSUFFICIENT_SCOPE") if path == "report" else None
    spend(s)
    wait_until(lambda: s._engine.leases._blocked is not None)
    way.instead = lambda _: None
    time.sleep(0.3)

    wait_until(lambda: tried(s))
    s.close()

    assert standing.balance(agent).spent == 2 * COST


def tried(s: Session) -> bool:
    try:
        spend(s)
    except (SessionStoppedError, ControlPlaneError):
        return False
    return True


def test_a_suspended_owner_stops_new_money_and_not_what_was_lent(
    standing: Panel, open_session: Opening, way: Way
) -> None:
    """Open leases run on."""
    agent = standing.hire()
    s = open_session(standing, agent, budget="0.05")
    way.instead = lambda path: refusal(403, "OWNER_SUSPENDED") if path == "refresh" else None
    with pytest.raises(InsufficientBudget):
        s.call(**TOO_MUCH).begin()

    spend(s)

    s.close()
    assert standing.balance(agent).spent == COST


def test_a_question_about_a_dead_call_that_fails_loses_nothing(standing: Panel, open_session: Opening) -> None:
    """The error says what to do; the call waits on disk for a start that can tell."""
    agent = standing.hire()
    dead = open_session(standing, agent)
    call = dead.call(**CALL).begin()
    dead._engine.abandon()

    def fails(_: object) -> None:
        raise ConnectionError("the provider is away")

    with pytest.raises(ConnectionError) as error:
        open_session(standing, agent, find_usage=fails)
    assert "find_usage" in " ".join(error.value.__notes__)
    open_session(standing, agent).close()

    assert standing.balance(agent).spent == MOST
    del call


def test_a_start_that_is_refused_keeps_what_waits(
    standing: Panel, open_session: Opening, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says where; it goes out with the next start."""
    agent = standing.hire()
    s = open_session(standing, agent, close_timeout_s=0.3)
    way.instead = lambda _: httpx.ConnectError("away")
    spend(s)
    s.close()
    way.instead = lambda _: refusal(401, "AUTH_INVALID_TOKEN")
    with caplog.at_level(logging.WARNING), pytest.raises(ControlPlaneError):
        open_session(standing, agent)
    assert "1 calls are not reported yet; they wait in" in caplog.text
    way.instead = lambda _: None

    open_session(standing, agent).close()

    assert (standing.balance(agent).spent, standing.balance(agent).held) == (COST, 0)


def test_a_disk_that_is_full_for_a_while_stops_calls_and_loses_none(
    standing: Panel, open_session: Opening, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The call under way is counted once, nothing stays reserved, and calls begin when there is space again."""
    monkeypatch.setattr(client_leases, "ASK_AGAIN_AFTER_S", 0.2)
    agent = standing.hire(1 * USD)
    s = open_session(standing, agent, budget=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    call = s.call(**CALL).begin()
    with monkeypatch.context() as patch:
        patch.setattr("ironcage_http.client_journal_file._write", full)
        call.commit(USAGE)
        with pytest.raises(OutboxError, match="free space"):
            s.call(**CALL).begin()
        assert s.status().reserved == 0
        assert "neither committed nor cancelled" not in caplog.text
        assert not s.flush(1.5)
    wait_until(lambda: tried(s))
    s.close()

    assert (standing.balance(agent).spent, standing.balance(agent).held) == (2 * COST, 0)


def test_a_session_that_is_dropped_ends_by_itself_and_says_so(standing: Panel, tmp_path: Path) -> None:
    """No thread and no lease stays behind."""
    agent = standing.hire()
    s = session(standing.url, agent.token, outbox=tmp_path)
    spend(s)
    with pytest.warns(ResourceWarning, match="not closed"):
        del s

    wait_until(lambda: standing.balance(agent).held == 0)
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("ironcage-client")])
    assert standing.balance(agent).spent == COST


def test_a_cost_beyond_all_measure_ends_its_call(standing: Panel, open_session: Opening, folder: Path) -> None:
    """Nobody waits for it in the end; the control plane refuses such a report, and it is among the dead letters."""
    s = open_session(standing, standing.hire())
    with s.call(**CALL) as call:
        call.commit(TokenCounts(input=10**19, output=0))

    assert s.status().reserved == 0
    assert s._engine._open_calls == 0
    assert s.flush()
    assert call.request_id in (folder / "dead-letters.jsonl").read_text()


def test_a_lease_is_not_returned_under_a_call_that_does_not_end(standing: Panel, open_session: Opening) -> None:
    """Its money is held for it; a call that outlives its session counts with its most at the next start."""
    agent = standing.hire()
    s = open_session(standing, agent, close_timeout_s=0.3)
    call = s.call(**CALL).begin()
    s.close()

    assert [lease.status for lease in standing.leases(agent)] == ["active"]
    call.commit(USAGE)
    open_session(standing, agent).close()
    assert (standing.balance(agent).spent, standing.balance(agent).overspent) == (MOST, 0)


def test_what_a_dead_session_had_borrowed_is_there_for_the_next_one(
    standing: Panel, open_session: Opening, way: Way
) -> None:
    """Its spends are paid from its lease, and the rest is returned, before the next lease is taken."""
    agent = standing.hire(1 * USD)
    s = open_session(standing, agent, budget=1, close_timeout_s=0.3)
    way.instead = lambda _: httpx.ConnectError("away")
    spend(s)
    s.close()
    way.instead = lambda _: None

    spend(open_session(standing, agent, budget=1))

    assert standing.balance(agent).overspent == 0


def test_no_report_goes_out_while_a_refresh_is_under_way(standing: Panel, open_session: Opening, way: Way) -> None:
    """Else nobody could tell whether the new lease's money is what was left before it or behind it."""
    s = open_session(standing, standing.hire())
    answered = threading.Event()

    def slow(path: str) -> None:
        if path == "refresh":
            answered.wait(5)

    way.instead = slow
    renewing = threading.Thread(target=lambda: s._engine.leases.renew(s._engine.leases.renewals))
    renewing.start()
    wait_until(lambda: "refresh" in way.asked)
    spend(s)
    was_reported = s.flush(0.5)
    answered.set()
    renewing.join(10)

    assert not was_reported
    assert "report" not in way.asked[: way.asked.index("refresh") + 1]
    assert s.flush()
