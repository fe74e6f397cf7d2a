"""A session against a real control plane: a hard budget, and nothing lost when either side is away."""

import asyncio
import logging
import pickle
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from ironcage_core.domain.prices import ModelPrice, PriceTable, TokenCounts
from ironcage_core.errors.runtime import (
    ControlPlaneError,
    InsufficientBudget,
    OutboxError,
    ReservationClosedError,
    SessionClosedError,
    SessionStoppedError,
    UnpricedModelError,
    UnreachableError,
)
from ironcage_core.errors.tree import ValidationError
from ironcage_core.services.agent_states import start_agent, stop_agent
from ironcage_core.services.leasing import revoke_leases
from ironcage_http import client_leases
from ironcage_http.client import FindUsage, async_session, session
from ironcage_http.client_sessions import Session
from tests.support.panel import USD, LossyTransport, Panel, panel_in
from tests.support.servers import RunningAgent
from tests.support.web import API_KEY
from tests.support.world import ADMIN

MODEL = "gpt-4o"
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100}
COST = 3_500
"""Micro-USD of it: 2.5 USD for a million tokens of input, 10 for a million of output."""

MOST = 7_500
"""What a call with 1 000 tokens of input and at most 500 of output may cost."""

CALL: dict[str, Any] = {"model": MODEL, "max_tokens": 500}


@pytest.fixture
def open_session(tmp_path: Path) -> Callable[..., Session]:
    """Return what opens a session whose outbox is the test's own."""

    def opened(panel: Panel, agent: RunningAgent, **options: Any) -> Session:  # noqa: ANN401 - those of `session`
        known = {"outbox": tmp_path / "outbox", "start_timeout_s": 2, "close_timeout_s": 5, **options}
        return session(panel.url, agent.token, **known)

    return opened


Opening = Callable[..., Session]


def test_five_lines_put_a_hard_budget_around_calls(standing: Panel, open_session: Opening) -> None:
    """The key is the provider's, the call is in the books with its price, and the rest is back."""
    agent = standing.hire()

    with open_session(standing, agent) as s, s.call(**CALL) as call:
        key = s.api_key
        call.commit(USAGE)

    balance = standing.balance(agent)
    assert key == API_KEY
    assert (balance.spent, balance.held, balance.allocated) == (COST, 0, 20 * USD)
    (record,) = standing.records(agent)
    assert (record.model, record.input_tokens, record.output_tokens) == (MODEL, 1_000, 100)
    assert [lease.status for lease in standing.leases(agent)] == ["closed"]


@pytest.mark.parametrize(
    ("end", "spent"),
    [
        (lambda call: call.commit(SimpleNamespace(**USAGE)), COST),
        (lambda call: call.commit(cost_usd="0.5"), USD // 2),
        (lambda call: call.commit(cost_usd=0), 0),
        (lambda call: call.commit({"prompt_tokens": 0, "completion_tokens": 0}), MOST),
        (lambda call: call.commit({"prompt_tokens": "many"}), MOST),
        (lambda call: call.commit(), MOST),
        (lambda call: call.cancel(), 0),
        (lambda _: None, MOST),
    ],
    ids=["object", "cost", "no cost", "no tokens", "unreadable", "no usage", "cancelled", "forgotten"],
)
def test_a_call_counts_with_what_is_known_of_it(
    standing: Panel, open_session: Opening, end: Callable[[Any], None], spent: int
) -> None:
    """With its cost, with nothing where nothing was spent, and else with the most it may have cost."""
    agent = standing.hire()

    with open_session(standing, agent) as s:
        with s.call(**CALL) as call:
            assert s.status().reserved == MOST
            end(call)
        assert (s.status().spent, s.status().reserved) == (spent, 0)

    assert standing.balance(agent).spent == spent


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def is_stopped(s: Session) -> bool:
    try:
        return not s.api_key
    except SessionStoppedError:
        return True


def refused(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://provider.test")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


def caused(by: Exception) -> RuntimeError:
    error = RuntimeError("the SDK gave up")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "spent"),
    [
        (refused(400), 0),
        (refused(429), 0),
        (refused(500), 0),
        (refused(504), MOST),
        (httpx.ConnectError("no such host"), 0),
        (caused(httpx.ConnectTimeout("nobody")), 0),
        (caused(refused(401)), 0),
        (httpx.ReadTimeout("no answer"), MOST),
        (httpx.RemoteProtocolError("broke off"), MOST),
        (KeyboardInterrupt(), MOST),
        (KeyError("in the program"), MOST),
    ],
    ids=repr,
)
def test_an_error_counts_by_what_it_says_of_the_call(
    standing: Panel, open_session: Opening, error: BaseException, spent: int
) -> None:
    """A refusal and what was never sent is free; whatever may have been made costs the most."""
    agent = standing.hire()

    with open_session(standing, agent) as s:
        with pytest.raises(type(error)), s.call(**CALL):
            raise error
        assert s.status()[:2] == (spent, 0)

    assert standing.balance(agent).spent == spent


def test_a_call_is_settled_once(standing: Panel, open_session: Opening) -> None:
    """And begins once, before it is settled."""
    with open_session(standing, standing.hire()) as s:
        call = s.call(**CALL)
        for early in (call.commit, call.cancel):
            with pytest.raises(ReservationClosedError, match="not begun"):
                early()
        with call:
            call.commit(USAGE)
            for late in (call.commit, call.cancel, call.begin):
                with pytest.raises(ReservationClosedError):
                    late()

        assert s.status()[:2] == (COST, 0)


@pytest.mark.parametrize("cost", ["-0.01", -1, "much", 0.5])
def test_a_cost_that_is_no_amount_leaves_the_call_open(standing: Panel, open_session: Opening, cost: Any) -> None:  # noqa: ANN401 - also a float
    """It can still be committed; nothing was spent meanwhile."""
    with open_session(standing, standing.hire()) as s:
        with s.call(**CALL) as call:
            with pytest.raises(ValidationError, match="cost_usd"):
                call.commit(cost_usd=cost)
            assert s.status()[:2] == (0, MOST)
            call.commit(USAGE)
        assert s.status().spent == COST


def test_a_model_without_a_price_is_not_called(standing: Panel, open_session: Opening, tmp_path: Path) -> None:
    """Unless the session has a price for such, or learns one; a table that cannot be read changes nothing."""
    agent = standing.hire()
    price = ModelPrice(input=1_000_000, output=2_000_000)
    (tmp_path / "broken.json").write_text("{")
    with open_session(standing, agent) as s:
        with pytest.raises(UnpricedModelError, match="load a price table"):
            s.call(model="nobody-knows")
        with pytest.raises(ValidationError):
            s.load_prices(tmp_path / "broken.json")
        with s.call(**CALL) as call:
            call.commit(USAGE)

        s.load_prices(PriceTable(models={"nobody-knows": price}))

        with s.call(model="nobody-knows", max_tokens=1) as call:
            call.commit({"prompt_tokens": 1, "completion_tokens": 1})
        with pytest.raises(UnpricedModelError):
            s.call(**CALL)
    with open_session(standing, agent, fallback_price=price) as s, s.call(model="any", max_tokens=1) as call:
        call.commit({"prompt_tokens": 1, "completion_tokens": 1})

    assert standing.balance(agent).spent == COST + 3 + 3


def test_a_session_refreshes_before_its_money_is_used_up(standing: Panel, open_session: Opening) -> None:
    """In the background, so that calls go on; never more is lent than the agent has."""
    agent = standing.hire(5 * USD)

    with open_session(standing, agent, budget=1) as s:
        for _ in range(8):
            with s.call(**CALL) as call:
                call.commit(cost_usd="0.3")
            assert s.flush()
        balance = standing.balance(agent)
        assert balance.spent == 2_400_000
        assert balance.spent + balance.held <= balance.allocated

    assert len(standing.leases(agent)) > 2
    assert standing.balance(agent).held == 0
    standing.check()


def test_a_call_that_needs_more_than_the_lease_holds_asks_for_it(standing: Panel, open_session: Opening) -> None:
    """Once, whoever needs it; what the budget does not reach is refused and costs nothing."""
    agent = standing.hire(2 * USD)

    with open_session(standing, agent, budget="0.1") as s:
        with s.call(model=MODEL, max_tokens=1, input_tokens=400_000) as call:  # a dollar
            call.commit(cost_usd=1)
        with pytest.raises(InsufficientBudget) as error, s.call(model=MODEL, max_tokens=1, input_tokens=800_000):
            pytest.fail("was begun")
        with s.call(**CALL) as call:
            call.commit(USAGE)

    assert error.value.available < error.value.requested
    assert standing.balance(agent).spent == USD + COST
    assert standing.balance(agent).overspent == 0


def test_many_threads_spend_one_budget_to_its_end_and_not_beyond(standing: Panel, open_session: Opening) -> None:
    """What all of them have committed is what the ledger holds; the last call that fits is made."""
    agent = standing.hire(2 * USD)
    committed: list[int] = []

    def work(seed: int) -> None:
        draw = random.Random(seed)  # noqa: S311 - a test that can be repeated
        for _ in range(200):
            try:
                with s.call(model=MODEL, max_tokens=2_000) as call:
                    cost = draw.randint(1, call.reserved)
                    call.commit(cost_usd=Decimal(cost).scaleb(-6))
                    committed.append(cost)
            except (InsufficientBudget, SessionStoppedError):
                return

    with open_session(standing, agent, budget="0.2", close_timeout_s=20) as s, ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))

    balance = standing.balance(agent)
    assert balance.spent == sum(committed)
    assert (balance.overspent, balance.held) == (0, 0)
    assert 2 * USD - 2 * 22_500 * 16 < balance.spent <= 2 * USD
    standing.check()


def test_without_a_control_plane_a_session_goes_on_with_what_it_has(panel: Panel, open_session: Opening) -> None:
    """What it spends is in the books when the control plane is back; more than its lease it does not get."""
    agent = panel.hire()
    with panel.up():
        s = open_session(panel, agent, budget="0.02")
    with s.call(**CALL) as call:
        call.commit(USAGE)
    with s.call(**CALL) as call:
        call.commit(USAGE)
    with pytest.raises(UnreachableError, match="control plane"), s.call(model=MODEL, max_tokens=5_000):
        pytest.fail("was begun")
    assert not s.flush(0.2)
    assert s.waiting == 2

    with panel.up():
        assert s.flush(20)
        assert panel.balance(agent).spent == 2 * COST
        s.close()

    assert panel.balance(agent).held == 0


def test_a_session_does_not_start_without_a_control_plane(panel: Panel, open_session: Opening) -> None:
    """It says what to do, and leaves nothing behind that would be in the way of the next one."""
    agent = panel.hire()
    with pytest.raises(UnreachableError, match=str(panel.port)):
        open_session(panel, agent, start_timeout_s=0.3)

    with panel.up(), open_session(panel, agent) as s, s.call(**CALL) as call:
        call.commit(USAGE)

    assert panel.balance(agent).spent == COST


def test_what_is_not_sent_at_the_end_goes_out_at_the_next_start(
    panel: Panel, open_session: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says where it waits; the lease is returned then as well."""
    agent = panel.hire()
    with panel.up():
        s = open_session(panel, agent, close_timeout_s=0.5)
    with s.call(**CALL) as call:
        call.commit(USAGE)
    with caplog.at_level(logging.WARNING):
        s.close()
    assert "wait in" in caplog.text

    with panel.up():
        open_session(panel, agent).close()

    assert (panel.balance(agent).spent, panel.balance(agent).held) == (COST, 0)
    panel.check()


@pytest.mark.parametrize(
    ("found", "spent"),
    [
        (None, MOST),
        (lambda _: None, MOST),
        (lambda _: TokenCounts(input=1_000, output=100), COST),
        (lambda _: TokenCounts(input=0, output=0), 0),
    ],
    ids=["nobody to ask", "nobody knows", "known", "never made"],
)
def test_a_call_whose_runtime_died_counts_with_its_most_unless_the_provider_knows_better(
    standing: Panel, open_session: Opening, found: FindUsage | None, spent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intent was on disk before the call was made."""
    agent = standing.hire()
    dead = open_session(standing, agent)
    call = dead.call(**CALL).begin()
    monkeypatch.setattr(call, "end", lambda _: None)
    dead._engine.abandon()

    open_session(standing, agent, find_usage=found).close()

    assert (standing.balance(agent).spent, standing.balance(agent).held) == (spent, 0)


def test_a_stopped_agent_makes_no_new_calls_until_it_is_started(
    standing: Panel, open_session: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is gone, the call that was under way is in the books, and what was refused has cost nothing."""
    monkeypatch.setattr(client_leases, "ASK_AGAIN_AFTER_S", 0.2)
    agent = standing.hire()
    with open_session(standing, agent) as s:
        with s.call(**CALL) as call:
            standing.as_owner(stop_agent, agent)
            call.commit(USAGE)
        assert s.flush()
        wait_until(lambda: is_stopped(s))
        with pytest.raises(SessionStoppedError, match="No new calls"), s.call(**CALL):
            pytest.fail("was begun")

        standing.as_owner(start_agent, agent)
        time.sleep(0.3)
        with s.call(**CALL) as call:
            call.commit(USAGE)
            assert s.api_key == API_KEY

    assert standing.balance(agent).spent == 2 * COST
    standing.check()


def test_a_lease_that_was_revoked_is_replaced(standing: Panel, open_session: Opening) -> None:
    """The next call has another one; both calls are in the books."""
    agent = standing.hire()
    with open_session(standing, agent) as s:
        with s.call(**CALL) as call:
            ids = [lease.id for lease in standing.leases(agent)]
            standing.store.write(partial(revoke_leases, lease_ids=ids, reason="manual", actor=ADMIN))
            call.commit(USAGE)
        assert s.flush()
        wait_until(lambda: len(standing.leases(agent)) == 2)
        with s.call(**CALL) as call:
            call.commit(USAGE)

    first, second = standing.leases(agent)
    assert (first.status, second.status) == ("revoked", "closed")
    assert standing.balance(agent).spent == 2 * COST


def test_a_lease_in_use_is_kept_alive_and_one_that_rests_is_taken_anew(tmp_path: Path, open_session: Opening) -> None:
    """By the control plane's clock: its leases live for two seconds here."""
    with panel_in(tmp_path, ttl=2_000, grace=200) as panel, panel.up():
        agent = panel.hire()
        with open_session(panel, agent) as s:
            with s.call(**CALL) as call:
                time.sleep(3)
                call.commit(USAGE)
            assert s.flush()
            assert panel.balance(agent).overspent == 0
            time.sleep(3.5)
            with s.call(**CALL) as call:
                call.commit(USAGE)

        statuses = [lease.status_reason for lease in panel.leases(agent)]
        assert panel.balance(agent).spent == 2 * COST
        assert (panel.balance(agent).overspent, panel.balance(agent).held) == (0, 0)
        assert "refreshed" in statuses


@pytest.mark.parametrize("seed", range(4))
def test_lost_requests_and_answers_cost_nothing_and_lose_nothing(
    standing: Panel, open_session: Opening, seed: int
) -> None:
    """A third of all messages is lost: each call is in the books once, and no tranche was lent twice."""
    agent = standing.hire(3 * USD)
    lossy = LossyTransport(seed, 20)
    committed = 0
    draw = random.Random(seed)  # noqa: S311 - a test that can be repeated
    s = open_session(standing, agent, budget="0.2", transport=lossy, start_timeout_s=30, close_timeout_s=30)
    for _ in range(40):
        with s.call(model=MODEL, max_tokens=2_000) as call:
            cost = draw.randint(1, call.reserved)
            call.commit(cost_usd=Decimal(cost).scaleb(-6))
            committed += cost
        if draw.random() < 0.2:
            s.flush(2)
    s.close()

    balance = standing.balance(agent)
    assert lossy.lost > 0
    assert (balance.spent, balance.overspent) == (committed, 0)
    assert balance.held <= USD // 5  # the answer to the return may have been lost to the end
    assert [lease for lease in standing.leases(agent) if lease.status == "active"] in ([], standing.leases(agent)[-1:])
    standing.check()


@pytest.mark.parametrize(
    ("token", "message"), [("ic_nonsense", "token"), ("ic_a.b.c", "token")]
)  # fmt: skip
def test_a_wrong_token_is_refused_at_the_start(standing: Panel, tmp_path: Path, token: str, message: str) -> None:
    """Nothing of it is in the refusal."""
    with pytest.raises(ControlPlaneError, match=f"(?i){message}") as error:
        session(standing.url, token, outbox=tmp_path)

    assert token not in str(error.value)


@pytest.mark.parametrize("budget", [0, -1, "1001", "0.0000001", "much"])
def test_a_budget_that_cannot_be_asked_for_is_refused(standing: Panel, tmp_path: Path, budget: int | str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValidationError, match="budget"):
        session(standing.url, "ic_token", budget=budget, outbox=tmp_path)


def test_an_outbox_that_cannot_be_written_is_refused_at_the_start(standing: Panel, tmp_path: Path) -> None:
    """With no lease taken; the message names the path."""
    agent = standing.hire()
    (tmp_path / "file").write_text("")

    with pytest.raises(OutboxError, match="outbox"):
        session(standing.url, agent.token, outbox=tmp_path / "file")

    assert standing.leases(agent) == []


def test_a_closed_session_has_no_key_and_makes_no_calls(standing: Panel, open_session: Opening) -> None:
    """Closing it twice is fine."""
    s = open_session(standing, standing.hire())
    s.close()
    s.close()

    with pytest.raises(SessionClosedError):
        s.api_key  # noqa: B018 - the question is the point
    with pytest.raises(SessionClosedError), s.call(**CALL):
        pytest.fail("was begun")


def test_a_session_shows_its_key_to_nobody(
    standing: Panel, open_session: Opening, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither key nor token is in a repr, a pickle, the log or on the disk."""
    agent = standing.hire()
    with caplog.at_level(logging.DEBUG), open_session(standing, agent) as s:
        with s.call(**CALL) as call:
            call.commit(USAGE)
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(s)
        shown = [repr(s), repr(s._engine.leases.lent), repr(vars(s)), caplog.text]
        shown += [path.read_text() for path in (tmp_path / "outbox").iterdir()]

    assert not any(secret in text for text in shown for secret in (API_KEY, agent.token))


def test_calls_that_are_under_way_end_before_a_session_does(standing: Panel, open_session: Opening) -> None:
    """From another thread; no new one begins meanwhile."""
    agent = standing.hire()
    s = open_session(standing, agent)
    begun, ending = threading.Event(), threading.Event()

    def work() -> None:
        with s.call(**CALL) as call:
            begun.set()
            ending.wait(10)
            call.commit(USAGE)

    worker = threading.Thread(target=work)
    worker.start()
    begun.wait(10)
    closing = threading.Thread(target=s.close)
    closing.start()
    time.sleep(0.2)
    with pytest.raises(SessionClosedError), s.call(**CALL):
        pytest.fail("was begun")
    ending.set()
    closing.join(10)
    worker.join(10)

    assert (standing.balance(agent).spent, standing.balance(agent).held) == (COST, 0)


def test_a_session_in_an_event_loop_is_the_same(standing: Panel, tmp_path: Path) -> None:
    """Calls, a refusal, a call that is cancelled in the middle, and the end."""
    agent = standing.hire()

    async def day() -> None:
        async with async_session(standing.url, agent.token, outbox=tmp_path) as s:
            async with s.call(**CALL) as call:
                assert s.api_key == API_KEY
                await call.commit(USAGE)
            with pytest.raises(httpx.ConnectError):
                async with s.call(**CALL):
                    raise httpx.ConnectError("no")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), s.call(**CALL):
                    await asyncio.sleep(10)
            async with s.call(**CALL) as call:
                await call.cancel()
            assert s.status()[:2] == (COST + MOST, 0)
            assert await s.flush()

    asyncio.run(day())

    assert (standing.balance(agent).spent, standing.balance(agent).held) == (COST + MOST, 0)
