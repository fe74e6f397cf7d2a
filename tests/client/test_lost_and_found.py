"""What looks lost and is not: calls that nobody holds any more, wrong clocks, dead tokens, other addresses."""

import asyncio
import gc
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ironcage_core.errors.runtime import ControlPlaneError, InsufficientBudget
from ironcage_core.services.ic_token_changes import revoke_ic_token
from ironcage_core.services.ic_tokens import issue_ic_token
from ironcage_http import client_engine, client_protocol
from ironcage_http.client import async_session, session
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.system import SystemClock
from tests.support.panel import USD, Panel
from tests.support.world import ADMIN

CALL: dict[str, Any] = {"model": "gpt-4o", "max_tokens": 500}
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 100}
COST = 3_500
MOST = 7_500
HOUR_MS = 3_600_000


def test_a_call_that_its_caller_loses_stays_reserved(standing: Panel, tmp_path: Path) -> None:
    """It may have been made; at the next start it counts with its most."""
    agent = standing.hire()
    s = session(standing.url, agent.token, outbox=tmp_path, close_timeout_s=0.2)
    call = s.call(**CALL).begin()
    del call
    gc.collect()

    assert s.status().reserved == MOST

    s.close()
    session(standing.url, agent.token, outbox=tmp_path).close()
    assert (standing.balance(agent).spent, standing.balance(agent).held) == (MOST, 0)


def test_a_loop_that_is_closed_over_its_calls_has_paid_the_most_for_them(standing: Panel, tmp_path: Path) -> None:
    """Nobody can await anything any more, and they were made all the same."""
    agent = standing.hire()
    opened = async_session(standing.url, agent.token, outbox=tmp_path)

    async def call_and_wait() -> None:
        async with opened.call(**CALL):
            begun.set()
            await asyncio.sleep(60)

    async def day() -> None:
        await opened.__aenter__()
        tasks.append(asyncio.ensure_future(call_and_wait()))
        await begun.wait()

    begun = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(day())
    loop.close()
    tasks.clear()
    gc.collect()

    assert opened.status()[:2] == (MOST, 0)

    opened.session.close()
    assert (standing.balance(agent).spent, standing.balance(agent).held) == (MOST, 0)


def test_what_a_dead_token_may_not_report_waits_for_a_living_one(standing: Panel, tmp_path: Path) -> None:
    """A call beyond its lease, when the token was deleted: it is no dead letter."""
    agent = standing.hire()
    s = session(standing.url, agent.token, budget="0.01", outbox=tmp_path, close_timeout_s=1)
    with s._engine.leases.wire:  # so that nothing is reported yet
        with s.call(**CALL) as call:
            call.commit(cost_usd="0.5")
        standing.store.write(partial(revoke_ic_token, agent_id=agent.id, actor=ADMIN))
    assert not s.flush(2)
    s.close()
    assert standing.balance(agent).spent == 0

    with pytest.raises(ControlPlaneError, match="IC token"):
        session(standing.url, agent.token, outbox=tmp_path, start_timeout_s=1)
    signer = IcTokenSigner(standing.settings.ic_token_secret)
    issued = standing.store.write(partial(issue_ic_token, agent_id=agent.id, actor=ADMIN, signer=signer))
    session(standing.url, issued.value, outbox=tmp_path).close()

    assert standing.balance(agent).spent == USD // 2
    assert not (tmp_path / "dead-letters.jsonl").exists()


def test_what_waits_is_found_by_another_address_of_the_control_plane(standing: Panel, tmp_path: Path) -> None:
    """It belongs to the agent, whichever way its control plane is reached."""
    agent = standing.hire()
    dead = session(standing.url, agent.token, outbox=tmp_path)
    with dead._engine.leases.wire:
        with dead.call(**CALL) as call:
            call.commit(USAGE)
        dead._engine._outbox.close()

    session(standing.url.replace("127.0.0.1", "localhost") + "/api", agent.token, outbox=tmp_path).close()

    assert standing.balance(agent).spent == COST
    dead._engine.abandon()


@pytest.mark.parametrize("hours", [-3, 3])
def test_what_a_dead_session_has_spent_is_dated_by_the_control_planes_clock(
    standing: Panel, tmp_path: Path, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is the first thing that a runtime with a wrong clock has to say."""
    agent = standing.hire()
    real = SystemClock().now
    for module in (client_engine, client_protocol):  # the server's clock is right
        monkeypatch.setattr(module, "_now", lambda: real() + hours * HOUR_MS)
    dead = session(standing.url, agent.token, outbox=tmp_path)
    with dead._engine.leases.wire:
        with dead.call(**CALL) as call:
            call.commit(USAGE)
        dead._engine._outbox.close()

    session(standing.url, agent.token, outbox=tmp_path).close()

    (record,) = standing.records(agent)
    assert abs(record.occurred_at - real()) < 60_000
    dead._engine.abandon()


def test_a_refusal_for_want_of_money_says_why_there_is_none(standing: Panel, tmp_path: Path) -> None:
    """By the control plane's own word for it."""
    agent = standing.hire(USD // 10)
    with (
        session(standing.url, agent.token, budget="0.1", outbox=tmp_path) as s,
        pytest.raises(InsufficientBudget, match="total_budget_exhausted") as error,
        s.call(model="gpt-4o", input_tokens=1_000_000),
    ):
        pytest.fail("was begun")

    assert error.value.details["reason"] == "total_budget_exhausted"


PROGRAM = """
import sys
from ironcage_http.client import session
s = session(*sys.argv[1:3], outbox=sys.argv[3])
with s.call(model="gpt-4o", max_tokens=500) as call:
    call.commit({"prompt_tokens": 1_000, "completion_tokens": 100})
"""


@pytest.mark.parametrize(
    ("ending", "spent", "code"),
    [
        ("", COST, 0),
        ("raise SystemExit(3)", COST, 3),
        ("open_call = s.call(model='gpt-4o', max_tokens=500).begin()", COST + MOST, 0),
    ],
    ids=["ends", "exits", "in a call"],
)
def test_a_program_that_just_ends_has_reported_all_and_waited_for_nobody(
    standing: Panel, tmp_path: Path, ending: str, spent: int, code: int
) -> None:
    """Its lease is back, unless a call is open that only the next start can count."""
    agent = standing.hire()
    began = time.monotonic()
    command = [sys.executable, "-c", f"{PROGRAM}{ending}", standing.url, agent.token, str(tmp_path)]

    assert subprocess.run(command, check=False, timeout=60).returncode == code  # noqa: S603 - our own program

    assert time.monotonic() - began < 9
    assert standing.balance(agent).spent == COST
    assert (standing.balance(agent).held == 0) == (spent == COST)
    session(standing.url, agent.token, outbox=tmp_path).close()
    assert (standing.balance(agent).spent, standing.balance(agent).held) == (spent, 0)
