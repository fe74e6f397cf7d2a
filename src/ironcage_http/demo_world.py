"""The demo world: four weeks of a small team's agents, for whoever wants to look around before anything has happened.

Everything comes from the use cases that people and runtimes use, dated back by a clock that is set by hand: so the
books add up as any others do. It is made where there was never an agent, and nowhere else.

Source: contract identity.md 10, `ENABLE_DEMO_SEED`.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from ironcage_core.domain.access import Principal, principal_of
from ironcage_core.domain.call_events import CallEvent
from ironcage_core.domain.ic_tokens import PresentedIcToken
from ironcage_core.domain.instants import Instant
from ironcage_core.domain.leases import DEFAULT_POLICY
from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.domain.prices import PriceTable
from ironcage_core.domain.users import Role
from ironcage_core.errors.tree import UnavailableError
from ironcage_core.ports.lists import Paging, UserFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.system import Clock
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agent_states import stop_agent
from ironcage_core.services.agents import create_agent
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.ingestion import ingest
from ironcage_core.services.leasing import return_lease
from ironcage_core.services.projects import create_project
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_core.services.reporting import report_batch
from ironcage_http.demo_plans import (
    PAUSE,
    PLANS,
    PROVIDER_KEYS,
    ROLES,
    SITTING,
    Plan,
    beginning,
    draw_call,
    goals,
    report_of,
    starts,
)
from ironcage_http.wiring import Wiring


class SettableClock:
    """A clock that shows another one's time, but for while it is set by hand; implements `Clock`.

    Args:
        clock: The other one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.instant: Instant | None = None

    def now(self) -> Instant:
        """Return the time in milliseconds since the epoch."""
        return self._clock.now() if self.instant is None else self.instant


class DemoLogin(NamedTuple):
    """A user of the demo world, whose password must be changed at the first login."""

    username: str
    role: Role
    password: str

    def __repr__(self) -> str:
        return f"DemoLogin({self.username!r})"


@dataclass(slots=True)
class _Worker:
    """An agent of the demo world as it goes: its credential, and what it has spent so far."""

    plan: Plan
    agent_id: str
    presented: PresentedIcToken
    owner: Principal
    spent: Micros = 0
    calls: int = 0


class _Sitting(NamedTuple):
    """One lease of an agent: when it begins, and what the agent will have spent in all when it ends."""

    start: Instant
    worker: _Worker
    goal: Micros
    is_last: bool


def make_demo_world(wiring: Wiring, clock: SettableClock, passwords: Sequence[str]) -> list[DemoLogin]:
    """Make the demo world where there was never an agent; else change nothing.

    Args:
        wiring: The ports of a control plane whose store shows the time of `clock`.
        clock: Set back while the past is made, and let go at the end.
        passwords: One for each user, `ROLES` says how many.

    Returns:
        Who may log in; nobody where nothing was made.

    Raises:
        RefusalError: A name is taken, or no provider key can be sealed; nothing was made.
        UnavailableError: There is no admin yet.
    """
    if not wiring.store.read(_is_untouched):
        return []
    now = clock.now()
    logins = [DemoLogin(f"demo-{role}", role, word) for role, word in zip(ROLES, passwords, strict=True)]
    hashes = [wiring.hasher.hash(login.password) for login in logins]
    dice = random.Random(now)  # noqa: S311 - what is drawn is no secret
    try:
        clock.instant = beginning(now)
        workers = wiring.store.write(partial(_set_up, wiring=wiring, logins=logins, hashes=hashes))
        for sitting in sorted(_sittings(workers, now, dice), key=lambda each: each.start):
            _sit(wiring, clock, sitting, dice)
    finally:
        clock.instant = None
    return logins if workers else []


def _is_untouched(uow: UnitOfWork) -> bool:
    """Tell whether there was never an agent; without one nothing was ever used."""
    return next(iter(uow.balances.all()), None) is None


def _set_up(uow: UnitOfWork, *, wiring: Wiring, logins: Sequence[DemoLogin], hashes: Sequence[str]) -> list[_Worker]:
    if not _is_untouched(uow):
        return []
    admins = uow.users.page(UserFilter(role="admin", is_active=True), Paging(1, 1)).rows
    if not admins:
        raise UnavailableError("There is no admin yet", retry_after_s=1)
    admin = principal_of(admins[0])
    owner, _ = [
        add_user(
            uow, username=login.username, email=f"{login.username}@localhost", role=login.role, password_hash=each,
            force_password_change=True, actor=admin.actor,
        )
        for login, each in zip(logins, hashes, strict=True)
    ]  # fmt: skip
    project = create_project(
        uow, {"name": "Demo", "description": "Made up, with all that is in it", "owner_id": owner.id}, principal=admin
    ).project
    vault = wiring.sealing.vault
    keys = {
        kind: add_provider_key(
            uow, provider=kind, api_key=secret, name=f"demo-{kind}", description="Made up: no such key exists",
            actor=admin.actor, vault=vault,
        ).id
        for kind, secret in PROVIDER_KEYS.items()
    }  # fmt: skip
    return [_hire(uow, plan, wiring, keys, principal_of(owner), admin, project.id) for plan in PLANS]


def _hire(
    uow: UnitOfWork,
    plan: Plan,
    wiring: Wiring,
    keys: dict[str, str],
    owner: Principal,
    admin: Principal,
    project_id: str,
) -> _Worker:
    created = create_agent(
        uow, name=plan.name, description=plan.description, tags=["demo"], budget=plan.budget_usd * MICROS_PER_USD,
        owner_id=owner.user_id, project_id=project_id, allowed=wiring.settings.allowed_providers,
        provider_key_ids=[keys[kind] for kind, _ in plan.models], actor=admin.actor, signer=wiring.ic_signer,
    )  # fmt: skip
    return _Worker(plan, created.agent.id, wiring.ic_signer.prove(created.ic_token.value, now=uow.now), owner)


# --- what the runtimes do ----------------------------------------------------


def _sittings(workers: Sequence[_Worker], now: Instant, dice: random.Random) -> Iterator[_Sitting]:
    """Yield the sittings of all agents."""
    for worker in workers:
        begins = starts(worker.plan, now)
        for start, goal in zip(begins, goals(worker.plan, len(begins), dice) if begins else (), strict=True):
            yield _Sitting(start, worker, goal, start == begins[-1])


def _sit(wiring: Wiring, clock: SettableClock, sitting: _Sitting, dice: random.Random) -> None:
    """Take a lease, tell of the calls, and give back what is left: as a runtime does, in units of work of its own."""
    start, worker, goal, is_last = sitting
    write = wiring.store.write
    clock.instant = start
    lease_id = write(partial(_take_lease, worker=worker, wiring=wiring, wanted=goal - worker.spent + MICROS_PER_USD))
    calls = list(_calls(sitting, wiring.prices, dice))
    clock.instant = start + SITTING
    write(partial(_tell, worker=worker, lease_id=lease_id, calls=calls, prices=wiring.prices))
    if is_last and worker.plan.is_at_work:
        return
    clock.instant += PAUSE
    write(lambda uow: return_lease(uow, authenticate(uow, worker.presented), lease_id))
    if is_last and worker.plan.is_stopped:
        clock.instant += PAUSE
        write(partial(stop_agent, agent_id=worker.agent_id, reason="reads too much", principal=worker.owner))


def _calls(sitting: _Sitting, prices: PriceTable, dice: random.Random) -> Iterator[CallEvent]:
    """Yield calls until the agent has spent what it is to have spent."""
    worker = sitting.worker
    while worker.spent < sitting.goal:
        worker.calls += 1
        call = draw_call(worker.plan, f"demo-{worker.calls:05d}", sitting.start, prices, dice)
        worker.spent += call.cost or 0
        yield call


def _take_lease(uow: UnitOfWork, *, worker: _Worker, wiring: Wiring, wanted: Micros) -> str:
    request = HandshakeRequest(requested=wanted, runtime_id=f"{worker.plan.name}-1")
    return handshake(uow, authenticate(uow, worker.presented), request, sealing=wiring.sealing).lease.id


def _tell(uow: UnitOfWork, *, worker: _Worker, lease_id: str, calls: Sequence[CallEvent], prices: PriceTable) -> None:
    identity = authenticate(uow, worker.presented)
    if reports := [report_of(call, lease_id) for call in calls if call.is_completed]:
        report_batch(uow, identity, reports, prices=prices)
    events = [replace(call, lease_id=lease_id) for call in calls]
    ingest(uow, identity, events, admit=lambda _: None, policy=DEFAULT_POLICY, key_days=None)
