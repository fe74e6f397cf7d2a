"""Bad days: runtimes that end in every way, clocks, disks, tokens and keys that change under them; nothing is lost."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from ironcage_core.domain.prices import TokenCounts
from ironcage_core.errors.runtime import (
    ControlPlaneError,
    InsufficientBudget,
    OutboxError,
    SessionStoppedError,
    UnreachableError,
)
from ironcage_core.errors.tree import IroncageError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.ic_token_changes import replace_ic_token, revoke_ic_token
from ironcage_core.services.ic_tokens import issue_ic_token
from ironcage_core.services.leasing import revoke_leases
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_core.services.user_changes import activate_user, suspend_user
from ironcage_http import client_leases
from ironcage_http.client import session
from ironcage_http.client_sessions import Session
from ironcage_storage.prices import bundled_prices
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import AesGcmVault
from tests.support.fake_llm import FakeLlm
from tests.support.llm_shapes import events
from tests.support.panel import Panel
from tests.support.processes import ROOT
from tests.support.purse import Purse
from tests.support.sdk import GPT, metered
from tests.support.servers import RunningAgent
from tests.support.web import API_KEY
from tests.support.world import ADMIN, THE_ADMIN

PATIENCE_S = 20
MODEL = "gpt-4o"
MOST = 1_250
"""Micro-USD that a call with 100 tokens of input and at most 100 of output may cost."""

RUNTIME = """
import json, multiprocessing, os, resource, signal, sys, time
import httpx
from ironcage_core.runtime.lease_session import LeaseSession
from ironcage_http.client import session
from ironcage_http.client_engine import Engine
from ironcage_http.client_outbox import Outbox
from ironcage_http.client_protocol import ControlPlane

job = json.load(sys.stdin)


def opened():
    return session(job["url"], job["token"], outbox=job["outbox"], budget="0.05", close_timeout_s=3)


def call(s):
    return s.call(model="gpt-4o", max_tokens=100, input_tokens=100)


def asked(s, call):
    headers = {"Authorization": "Bearer " + s.api_key, "X-Client-Request-Id": call.request_id}
    return httpx.post(job["llm"] + "/chat/completions", json={"model": "gpt-4o"}, headers=headers).json()["usage"]


def paid(s):
    with call(s) as one:
        one.commit(asked(s, one))


def on(kind, name, end, after=False):
    real = getattr(kind, name)

    def ending(*args, **options):
        setattr(kind, name, real)
        result = real(*args, **options) if after else None
        end()
        return result if after else real(*args, **options)

    setattr(kind, name, ending)


def interrupt():
    signal.raise_signal(signal.SIGINT)


def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def provider() -> Iterator[FakeLlm]:
    """A provider that takes the key of the control plane."""
    with FakeLlm(API_KEY) as provider:
        yield provider


class Runtime:
    """One agent's runtimes, in processes of their own, and what both sides have of their calls in the end."""

    def __init__(self, panel: Panel, provider: FakeLlm, folder: Path) -> None:
        self.panel, self.provider, self.outbox = panel, provider, folder / "outbox"
        self.agent = panel.hire()
        self.said = ""

    def run(self, program: str) -> int:
        """Run a program to its end, which must come soon; return how it ended."""
        job = {
            "url": self.panel.url, "token": self.agent.token, "llm": self.provider.url, "outbox": str(self.outbox),
        }  # fmt: skip
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", RUNTIME + program],
            cwd=ROOT,
            input=json.dumps(job),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        self.said = done.stdout
        return done.returncode

    def surplus(self) -> int:
        """Start and end once more; return how much more is in the books than on the bill, where nothing may lack."""
        self.open().close()
        return booked_beyond(self.panel, self.agent, self.provider)

    def open(self, **options: Any) -> Session:  # noqa: ANN401 - those of `session`
        known = {"outbox": self.outbox, "budget": "0.05", "start_timeout_s": 5, "close_timeout_s": 5, **options}
        return session(self.panel.url, self.agent.token, **known)


@pytest.fixture
def runtime(standing: Panel, provider: FakeLlm, tmp_path: Path) -> Runtime:
    return Runtime(standing, provider, tmp_path)


def booked_beyond(panel: Panel, agent: RunningAgent, provider: FakeLlm) -> int:
    prices = bundled_prices()
    booked = {record.request_id: record.cost_micros for record in panel.records(agent)}
    billed = {name: prices.cost(MODEL, used.counts) or 0 for name, used in provider.bill.items()}
    balance = panel.balance(agent)
    panel.check()
    assert {name for name, cost in billed.items() if booked.get(name, -1) < cost} == set(), "lost"
    assert (balance.spent, balance.held) == (sum(booked.values()), 0)
    return balance.spent - sum(billed.values())


def paid(s: Session, provider: FakeLlm) -> None:
    key = s.api_key  # asked for in the block, a refusal would count as a call whose end nobody knows
    with s.call(model=MODEL, max_tokens=100, input_tokens=100) as call:
        headers = {"Authorization": f"Bearer {key}", "X-Client-Request-Id": call.request_id}
        answer = httpx.post(f"{provider.url}/chat/completions", json={"model": MODEL}, headers=headers)
        call.commit(answer.raise_for_status().json()["usage"])


def spent_to_the_end(s: Session, provider: FakeLlm) -> IroncageError:
    for _ in range(500):
        try:
            paid(s, provider)
        except IroncageError as refusal:
            return refusal
    raise AssertionError("there was no end")


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


# How programs end.


def test_a_program_that_never_closes_its_session_ends_at_once_and_loses_nothing(runtime: Runtime) -> None:
    """Nothing holds the interpreter up; what was not sent goes out at the next start, and the lease goes back."""
    started = time.monotonic()

    assert runtime.run("s = opened(); paid(s); paid(s)") == 0, runtime.said

    assert time.monotonic() - started < 10
    assert len(runtime.provider.bill) == 2
    assert runtime.surplus() == 0


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", -signal.SIGTERM),
        ("die()", -signal.SIGKILL),
        ("interrupt()", -signal.SIGINT),
        ("sys.exit(4)", 4),
    ],
)
def test_a_program_that_ends_inside_a_call_has_paid_the_most_for_it(runtime: Runtime, end: str, code: int) -> None:
    """The provider has done the work, and nobody has seen what it used."""
    program = f"""
with opened() as s:
    paid(s)
    with call(s) as one:
        used = asked(s, one)
        {end}
"""
    assert runtime.run(program) == code, runtime.said

    last = [*runtime.provider.bill.values()][-1]
    assert len(runtime.provider.bill) == 2
    assert runtime.surplus() == MOST - (bundled_prices().cost(MODEL, last.counts) or 0)


@pytest.mark.parametrize(
    ("where", "surpluses"),
    [
        ("on(Outbox, 'intend', interrupt)", {0}),
        ("on(Outbox, 'intend', interrupt, after=True)", {0}),
        ("on(Outbox, 'settle', interrupt)", range(MOST)),
        ("on(Outbox, 'settle', interrupt, after=True)", {0}),
        ("on(LeaseSession, 'commit', interrupt, after=True)", {0}),
        ("on(Engine, 'flush', interrupt)", {0}),
        ("on(ControlPlane, 'give_back', interrupt)", {0}),
        ("on(ControlPlane, 'give_back', interrupt, after=True)", {0}),
        ("on(Outbox, 'close', interrupt)", {0}),
    ],
)
def test_control_c_loses_nothing_wherever_it_comes(runtime: Runtime, where: str, surpluses: Container[int]) -> None:
    """One that is not made yet is free, one whose end was not written down may count with its most."""
    assert runtime.run(f"with opened() as s:\n    paid(s)\n    {where}\n    paid(s)") == -signal.SIGINT, runtime.said

    assert runtime.surplus() in surpluses


@pytest.mark.parametrize("is_returned", [False, True])
def test_a_program_that_is_killed_while_it_closes_leaves_no_money_lent(runtime: Runtime, is_returned: bool) -> None:
    """Whether the control plane has got the lease back or not, the next start sees to it."""
    program = f"s = opened()\npaid(s)\non(ControlPlane, 'give_back', die, after={is_returned})\ns.close()"
    assert runtime.run(program) == -signal.SIGKILL, runtime.said

    assert (runtime.panel.balance(runtime.agent).held == 0) is is_returned
    assert runtime.surplus() == 0


def test_a_fork_is_told_to_open_a_session_of_its_own(runtime: Runtime) -> None:
    """It makes no call with its parent's and ends without waiting for it; the parent goes on as if nothing had been."""
    program = """
s = opened()
paid(s)
pid = os.fork()
if pid == 0:
    try:
        paid(s)
    except Exception as refusal:
        print(refusal)
    started = time.monotonic()
    s.close()
    print("closed", time.monotonic() - started < 1, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
paid(s)
s.close()
"""
    assert runtime.run(program) == 0, runtime.said

    assert "before a fork" in runtime.said
    assert "closed True" in runtime.said
    assert len(runtime.provider.bill) == 2
    assert runtime.surplus() == 0


def test_forks_with_sessions_of_their_own_share_a_folder(runtime: Runtime) -> None:
    """One of them dies in the middle; the others adopt from it what they may, and each call is booked once."""
    program = """
def work(number):
    with opened() as s:
        for _ in range(3):
            paid(s)
        if number == 1:
            die()


workers = [multiprocessing.get_context("fork").Process(target=work, args=(number,)) for number in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print([worker.exitcode for worker in workers])
"""
    assert runtime.run(program) == 0, runtime.said

    assert "[0, -9, 0, 0]" in runtime.said
    assert len(runtime.provider.bill) == 12
    assert runtime.surplus() == 0


# The machine.


@pytest.mark.parametrize(("hours", "end"), [(3, "s.close()"), (-3, "s.close()"), (3, "die()")])
def test_a_clock_that_is_hours_off_misdates_and_loses_nothing(runtime: Runtime, hours: int, end: str) -> None:
    """What a runtime with such a clock has spent is in the books, at the control plane's time."""
    program = f"""
true = time.time_ns
time.time_ns = lambda: true() + {hours} * 3_600_000_000_000
s = opened()
paid(s)
assert s.flush()
paid(s)
"""
    assert runtime.run(program + end) == (-signal.SIGKILL if end == "die()" else 0), runtime.said
    assert runtime.run(program + "s.close()") == 0, runtime.said

    assert len(runtime.provider.bill) == 4
    assert runtime.surplus() == 0
    assert all(abs(each.occurred_at - each.received_at) < 60_000 for each in runtime.panel.records(runtime.agent))
    assert not [*runtime.outbox.glob("dead*")]


def test_on_a_full_disk_no_call_is_made_and_none_is_lost(runtime: Runtime) -> None:
    """The one whose end could not be written goes out from memory; with free space all goes on."""
    program = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
s = opened()
paid(s)
with call(s) as one:
    used = asked(s, one)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, -1))
    one.commit(used)
try:
    paid(s)
except Exception as refusal:
    said = str(refusal)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
print(said)
paid(s)
s.close()
"""
    assert runtime.run(program) == 0, runtime.said

    assert "free space" in runtime.said
    assert len(runtime.provider.bill) == 3
    assert runtime.surplus() == 0


def test_a_folder_that_vanishes_lets_no_call_begin_until_it_is_back(runtime: Runtime) -> None:
    """Nothing reaches the provider meanwhile."""
    with runtime.open() as s:
        paid(s, runtime.provider)
        aside = runtime.outbox.rename(runtime.outbox.with_name("aside"))
        for journal in aside.iterdir():
            journal.unlink()
        with pytest.raises(OutboxError, match="choose another folder"):
            paid(s, runtime.provider)
        assert len(runtime.provider.bill) == 1

        aside.rename(runtime.outbox)
        paid(s, runtime.provider)

    assert runtime.surplus() == 0


def test_a_panel_that_never_answers_holds_up_an_end_no_longer_than_allowed(runtime: Runtime) -> None:
    """The port takes connections, and that is all; a start tells so, and a later one sends what has waited."""

    class Detour(httpx.BaseTransport):
        port: int | None = None

        def __init__(self) -> None:
            self._inner = httpx.HTTPTransport()

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            request.url = request.url.copy_with(port=self.port or request.url.port)
            return self._inner.handle_request(request)

        def close(self) -> None:
            self._inner.close()

    detour = Detour()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        s = runtime.open(transport=detour, timeout_s=0.5, close_timeout_s=1)
        detour.port = silent.getsockname()[1]
        paid(s, runtime.provider)
        started = time.monotonic()
        s.close()
        assert time.monotonic() - started < 4
        with pytest.raises(UnreachableError, match="does not answer"):
            runtime.open(transport=detour, timeout_s=0.5, start_timeout_s=0.5)

    assert runtime.surplus() == 0


# The control plane's side.


def test_reports_that_wait_when_their_token_is_deleted_are_booked(runtime: Runtime) -> None:
    """By whoever holds it still; the agent makes no new calls until it is given another token."""
    s = runtime.open()
    paid(s, runtime.provider)
    runtime.panel.store.write(partial(revoke_ic_token, agent_id=runtime.agent.id, actor=ADMIN))
    assert s.flush()
    refusal = spent_to_the_end(s, runtime.provider)
    s.close()
    assert isinstance(refusal, SessionStoppedError | ControlPlaneError)

    signer = IcTokenSigner(runtime.panel.settings.ic_token_secret)
    issued = runtime.panel.store.write(partial(issue_ic_token, agent_id=runtime.agent.id, actor=ADMIN, signer=signer))
    runtime.agent = RunningAgent(runtime.agent.id, issued.value)
    with runtime.open() as s:
        paid(s, runtime.provider)

    assert runtime.surplus() == 0


@pytest.mark.parametrize("overlap_s", [0, 300])
def test_a_token_that_is_replaced_ends_what_it_was_lent_for_and_not_its_reports(
    runtime: Runtime, overlap_s: int
) -> None:
    """The lease is spent to its end; with an overlap it is even refreshed. The new value starts as ever."""
    signer = IcTokenSigner(runtime.panel.settings.ic_token_secret)
    s = runtime.open(budget="0.005")
    paid(s, runtime.provider)
    replaced = runtime.panel.store.write(
        partial(replace_ic_token, agent_id=runtime.agent.id, overlap_s=overlap_s, actor=ADMIN, signer=signer)
    )
    if overlap_s:
        for _ in range(30):
            paid(s, runtime.provider)
    else:
        assert isinstance(spent_to_the_end(s, runtime.provider), ControlPlaneError | SessionStoppedError)
        assert runtime.panel.balance(runtime.agent).overspent == 0
    s.close()

    runtime.agent = RunningAgent(runtime.agent.id, replaced.issued.value)
    assert runtime.surplus() == 0


def test_a_suspended_owners_agents_spend_what_they_have_and_no_more(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And go on when the owner may."""
    monkeypatch.setattr(client_leases, "ASK_AGAIN_AFTER_S", 0.2)
    panel = runtime.panel

    def owner(uow: UnitOfWork) -> Any:  # noqa: ANN401 - a user
        return uow.users.find_by_username("owner")

    owner_id = panel.store.read(owner).id
    with runtime.open(budget="0.005") as s:
        paid(s, runtime.provider)
        panel.store.write(partial(suspend_user, user_id=owner_id, principal=THE_ADMIN))
        try:
            spent_to_the_end(s, runtime.provider)
            assert s.flush()
            assert 5_000 - MOST < panel.balance(runtime.agent).spent <= 5_000
        finally:
            panel.store.write(partial(activate_user, user_id=owner_id, actor=ADMIN))
        time.sleep(0.3)
        paid(s, runtime.provider)

    assert panel.balance(runtime.agent).overspent == 0
    assert runtime.surplus() == 0


def test_a_budget_is_spent_to_its_end_and_what_does_not_fit_is_not_sent(runtime: Runtime) -> None:
    """The refusal comes before the provider hears of the call."""
    runtime.agent = runtime.panel.hire(20_000)
    with runtime.open(budget="0.005") as s:
        refusal = spent_to_the_end(s, runtime.provider)
        calls = len(runtime.provider.bill)

    assert isinstance(refusal, InsufficientBudget)
    assert len(runtime.provider.seen) == calls
    assert 20_000 - 2 * MOST < runtime.panel.balance(runtime.agent).spent <= 20_000
    assert runtime.surplus() == 0


def test_a_key_that_is_taken_away_gives_way_to_another(panel: Panel, provider: FakeLlm, tmp_path: Path) -> None:
    """The session takes a new lease with the next key; what was spent with the first is in the books."""
    assert panel.settings.master_key is not None
    add = partial(add_provider_key, provider="openai", api_key="sk-second-0123456789", actor=ADMIN)
    panel.store.write(partial(add, vault=AesGcmVault(panel.settings.master_key)))
    with panel.up():
        runtime = Runtime(panel, provider, tmp_path)
        with runtime.open() as s:
            first = s.api_key
            paid(s, provider)
            (lease,) = panel.leases(runtime.agent)

            def disable(uow: UnitOfWork) -> None:
                key = uow.provider_keys.find(str(lease.provider_key_id))
                assert key is not None
                uow.provider_keys.put(key._replace(is_enabled=False))
                revoke_leases(uow, [lease.id], reason="provider_disabled", actor=ADMIN)

            panel.store.write(disable)
            assert s.flush()
            wait_until(lambda: len(panel.leases(runtime.agent)) == 2)
            second = s.api_key

        assert {first, second} == {API_KEY, "sk-second-0123456789"}
        assert runtime.surplus() == 0


# The provider's side.


def test_a_stream_of_twenty_thousand_pieces_passes_and_costs_what_it_used(
    purse: Purse, llm: FakeLlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Piece by piece, all of them."""

    def many(path: str, body: dict[str, Any], counts: TokenCounts | None) -> Iterator[bytes]:
        first, *rest = events(path, body, counts)
        yield from [first] * 20_000
        yield from rest

    monkeypatch.setattr("tests.support.fake_llm.events", many)
    with metered(purse).stream("POST", f"{llm.url}/chat/completions", json={**GPT, "stream": True}) as answer:
        pieces = sum(line.startswith("data: {") for line in answer.iter_lines())

    assert pieces >= 20_000
    assert purse.ends == [next(iter(llm.bill.values())).counts]
