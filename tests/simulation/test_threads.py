"""Many callers at once on one budget: whatever the order, no money is lent twice, lost or made."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import pytest

from ironcage_core.domain.access import principal_of
from ironcage_core.domain.audit import SYSTEM
from ironcage_core.domain.call_events import COMPLETED, CallEvent
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_core.errors.money import BudgetExceededError, RequestAlreadyReviewedError
from ironcage_core.errors.tree import RefusalError
from ironcage_core.ports.lists import UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.budget_requests import submit_request
from ironcage_core.services.budget_reviews import approve, reject
from ironcage_core.services.granting import Granted
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.ic_token_changes import revoke_ic_token
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.ingestion import ingest
from ironcage_core.services.late_reports import report_or_refuse
from ironcage_core.services.leasing import refresh, return_lease
from ironcage_core.services.reporting import Reported, report
from ironcage_core.services.reserving import ReserveRequest, cancel_reservation, reserve
from ironcage_core.services.usage_retention import purge_usage
from ironcage_storage.sqlite.store import SqliteStore
from tests.simulation.operations import POLICY
from tests.simulation.witness import check_sums, read_all
from tests.support.world import ADMIN, PRICES, SetClock, TestAgent, World, usage

T = TypeVar("T")

THREADS = 16
TASKS = 64
BUDGET = 1_500_000
WORDS = "Because this is what the day needs."
OPERATIONS_PER_THREAD = 150
OPERATIONS_PER_TASK = 30


@dataclass
class Town:
    """One agent on a file, and as many stores on that file as there are processes."""

    path: Path
    stores: list[SqliteStore]
    world: World
    agent: TestAgent
    identity: AgentIdentity

    @property
    def store(self) -> SqliteStore:
        return self.stores[0]


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    path = tmp_path / "books.db"
    clock = SetClock()
    with ExitStack() as open_stores:
        stores = [open_stores.enter_context(SqliteStore(path, clock=clock)) for _ in range(2)]
        world = World(stores[0], clock, POLICY)
        agent = world.agent(BUDGET)
        presented = world.signer.prove(agent.token, now=clock.now())
        yield Town(path, stores, world, agent, stores[0].read(partial(authenticate, presented=presented)))


@dataclass
class Runtime:
    """One caller: draws its next use case from a seeded generator and remembers what was accepted."""

    town: Town
    seed: int
    leases: list[str] = field(default_factory=list)
    accepted: int = 0
    sent: list[tuple[str, str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)  # noqa: S311 - a test that can be repeated

    def next_use_case(self) -> Callable[[UnitOfWork], object]:
        identity, sealing = self.town.identity, self.town.world.sealing
        choice = self.draw.random()
        if not self.leases or choice < 0.1:
            runtime_id = None if self.seed % 2 else f"runtime-{self.seed % 5}"
            request = HandshakeRequest(self.draw.randint(1, 20_000), runtime_id=runtime_id)
            return lambda uow: handshake(uow, identity, request, sealing=sealing, policy=POLICY)
        lease_id = self.draw.choice(self.leases[-3:])
        if choice < 0.2:
            name = f"req-{self.seed}-{self.draw.randint(1, 40)}"
            if choice < 0.12:
                return lambda uow: cancel_reservation(uow, identity, name)
            return lambda uow: reserve(uow, identity, ReserveRequest(name, 500, lease_id), policy=POLICY)
        if choice < 0.75:
            item = usage(*self._next_report(lease_id))
            return lambda uow: report(uow, identity, item, prices=PRICES, policy=POLICY)
        if choice < 0.9:
            money = self.draw.randint(1, 20_000)
            return lambda uow: refresh(uow, identity, lease_id, money, sealing=sealing, policy=POLICY)
        return lambda uow: return_lease(uow, identity, lease_id, policy=POLICY)

    def _next_report(self, lease_id: str) -> tuple[str, str, int]:
        if self.sent and self.draw.random() < 0.2:
            return self.draw.choice(self.sent)
        self.sent.append((lease_id, f"req-{self.seed}-{len(self.sent)}", self.draw.randint(0, 2_000)))
        return self.sent[-1]

    def learn(self, answer: object) -> None:
        if isinstance(answer, Granted):
            self.leases.append(answer.lease.id)
        if isinstance(answer, Reported) and not answer.booked.duplicate:
            self.accepted += answer.booked.cost

    def live(self, store: SqliteStore) -> None:
        """Make all calls of a thread, one after the other."""
        for _ in range(OPERATIONS_PER_THREAD):
            with suppress_refusals():
                self.learn(store.write(self.next_use_case()))

    async def live_async(self, store: SqliteStore) -> None:
        """Make all calls of a task, one after the other."""
        for _ in range(OPERATIONS_PER_TASK):
            with suppress_refusals():
                self.learn(await store.write_async(self.next_use_case()))


@dataclass
class Teller(Runtime):
    """A caller that also tells of its calls by events, before or after their reports, some of them long ago."""

    def next_use_case(self) -> Callable[[UnitOfWork], object]:
        if not self.sent or self.draw.random() < 0.6:
            return super().next_use_case()
        lease_id, request_id, cost = self.draw.choice(self.sent)
        if self.draw.random() < 0.4:
            request_id = f"told-{self.seed}-{self.draw.randint(1, 30)}"
        at = self.town.world.clock.now() - self.draw.randint(0, 4 * MS_PER_DAY)
        event = CallEvent(
            f"evt-{request_id}", COMPLETED, "gpt-test", "openai", at, 70, 30, cost, request_id=request_id,
            lease_id=lease_id,
        )  # fmt: skip
        return lambda uow: ingest(uow, self.town.identity, [event], admit=lambda _: None, policy=POLICY, key_days=None)


def suppress_refusals() -> suppress:
    """Go on after a refusal for want of money, of a lease or of a reservation; a database that is busy is a failure."""
    return suppress(*(kind for kind in _all_kinds(RefusalError) if kind.code in EXPECTED_CODES))


EXPECTED_CODES = {
    "BUDGET_EXCEEDED", "TOO_MANY_LEASES", "LEASE_CLOSED", "LEASE_EXPIRED", "ALREADY_REPORTED", "RESERVATION_NOT_FOUND",
}  # fmt: skip


def _all_kinds(kind: type[RefusalError]) -> Iterator[type[RefusalError]]:
    for narrower in kind.__subclasses__():
        yield narrower
        yield from _all_kinds(narrower)


def check_books(town: Town, runtimes: Sequence[Runtime]) -> None:
    """The books verify, no grant was ever too large, and they hold exactly what was accepted."""
    stored = town.store.read(read_all)
    assert stored.verification.differences == []
    for entry in stored.entries:
        assert entry.kind != "grant" or entry.allocated_after >= entry.spent_after + entry.held_after
    for lease in stored.leases.values():
        check_sums(lease)
    balance = stored.balances[town.agent.id]
    assert balance.spent == sum(runtime.accepted for runtime in runtimes)
    assert balance.spent + balance.held <= balance.allocated + balance.overspent
    assert sum(entry.amount for entry in stored.entries if entry.cause == "report") == balance.spent
    assert balance.spent > 0
    assert town.store.check_file() == []


def test_sixteen_threads_share_one_budget(town: Town) -> None:
    """Whatever sixteen runtimes do at once to one budget, the books add up at every row."""
    runtimes = [Runtime(town, seed) for seed in range(THREADS)]

    in_threads([partial(runtime.live, town.store) for runtime in runtimes])

    check_books(town, runtimes)


def test_two_processes_share_one_file(town: Town) -> None:
    """Two stores on one file wait for each other: nobody is refused because the database is busy."""
    runtimes = [Runtime(town, seed) for seed in range(8)]

    in_threads([partial(runtime.live, town.stores[runtime.seed % 2]) for runtime in runtimes])

    check_books(town, runtimes)


def test_events_and_reports_of_the_same_calls_and_a_purge_of_old_ones_leave_one_truth(town: Town) -> None:
    """Balances, rollups and pending money are what the calls add up to, whoever came first and whatever was purged."""
    tellers = [Teller(town, seed) for seed in range(8)]

    purge_some = partial(purge_usage, record_days=2, hour_days=2, limit=5)
    purged: list[int] = []

    def purge() -> None:
        purged.extend(town.stores[1].write(purge_some) for _ in range(100))

    work: list[Callable[[], None]] = [partial(each.live, town.stores[each.seed % 2]) for each in tellers]
    in_threads([purge, *work])

    check_books(town, tellers)
    told = town.store.read(lambda uow: uow.usage.sums(UsageFilter(agent_id=town.agent.id)))
    assert sum(purged) > 0
    assert told[()].cost_micros >= sum(teller.accepted for teller in tellers) > 0


def test_sixty_four_tasks_share_one_budget(town: Town) -> None:
    """The same from one event loop, whose writes share commits."""
    runtimes = [Runtime(town, seed) for seed in range(TASKS)]

    async def all_at_once() -> None:
        async with asyncio.TaskGroup() as tasks:
            for runtime in runtimes:
                tasks.create_task(runtime.live_async(town.store))

    asyncio.run(all_at_once())

    check_books(town, runtimes)


def test_a_unit_of_work_keeps_other_writers_waiting_from_its_first_read(town: Town) -> None:
    """What a use case has read cannot change before it writes: a writer elsewhere waits until it has committed."""
    first, second = town.stores
    with ThreadPoolExecutor(1) as pool:
        with first.transaction() as uow:
            balance = uow.balances.find(town.agent.id)
            waiting: Future[Granted] = pool.submit(second.write, partial(shake, town, None))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            shake(town, None, uow)
        granted = waiting.result(timeout=30)

    assert balance is not None
    assert granted.balance.remaining == balance.remaining - 2 * granted.new_money
    assert town.world.verify().holds


def test_ten_parallel_retries_of_a_report_are_charged_once(town: Town) -> None:
    """One accepted, nine duplicates, one cost in the books."""
    lease_id = town.agent.handshake(10_000).lease.id
    item = usage(lease_id, "req-1", 1_234)

    answers = ten_times(
        town, lambda uow: report(uow, town.identity, item, prices=PRICES, policy=POLICY)
    )  # fmt: skip

    assert sorted(answer.booked.duplicate for answer in answers) == [False] + [True] * 9
    assert town.agent.balance().spent == 1_234
    assert town.world.verify().holds


def test_ten_parallel_retries_of_a_handshake_hold_one_tranche(town: Town) -> None:
    """With a runtime id the last one is open, the others are superseded, and one tranche is lent."""
    answers = ten_times(town, partial(shake, town, "runtime-a"))

    leases = [town.agent.lease(answer.lease.id) for answer in answers]
    assert sorted(lease.status_reason or "open" for lease in leases) == ["open"] + ["superseded"] * 9
    assert town.agent.balance().held == 10_000
    assert town.world.verify().holds


def test_ten_parallel_retries_of_a_refresh_have_one_successor(town: Town) -> None:
    """All are told the same successor, and new money is lent once."""
    old = town.agent.handshake(10_000).lease

    answers = ten_times(
        town,
        lambda uow: refresh(uow, town.identity, old.id, 5_000, sealing=town.world.sealing, policy=POLICY),
    )

    granted = [answer for answer in answers if isinstance(answer, Granted)]
    assert len(granted) == 10
    assert {answer.lease.id for answer in granted} == {town.agent.lease(old.id).successor_id}
    assert sorted(answer.replayed for answer in granted) == [False] + [True] * 9
    assert town.agent.balance().held == 15_000
    assert town.world.verify().holds


def test_ten_parallel_retries_of_a_return_give_back_once(town: Town) -> None:
    """One closes the lease, nine are told the same numbers, and the money is back once."""
    lease = town.agent.handshake(10_000).lease

    answers = ten_times(town, lambda uow: return_lease(uow, town.identity, lease.id, 400, policy=POLICY))

    assert sorted(answer.already_closed for answer in answers) == [False] + [True] * 9
    assert {answer.returned for answer in answers} == {9_600}
    assert town.agent.balance().remaining == BUDGET - 400
    assert town.agent.kinds()[-3:] == [("grant", 10_000), ("spend", 400), ("return", 9_600)]
    assert town.world.verify().holds


def test_ten_parallel_retries_with_one_key_hold_one_tranche(town: Town) -> None:
    """Without a runtime id the idempotency key alone makes ten handshakes one."""
    key = RetryKey(f"{town.agent.id} handshake", "key-1", "body")
    request = HandshakeRequest(10_000)

    answers = ten_times(
        town,
        lambda uow: handshake(uow, town.identity, request, sealing=town.world.sealing, policy=POLICY, retry=key),
    )

    assert len({answer.lease.id for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 9
    assert town.agent.balance().held == 10_000
    assert town.world.verify().holds


def test_ten_parallel_reservations_share_one_hold(town: Town) -> None:
    """A lease of 10 000 has room for three times 3 000, whoever comes first."""
    lease_id = town.agent.handshake(10_000).lease.id
    numbers = count()

    def reserve_or_not(uow: UnitOfWork) -> bool:
        try:
            reserve(uow, town.identity, ReserveRequest(f"req-{next(numbers)}", 3_000, lease_id), policy=POLICY)
        except BudgetExceededError:
            return False
        return True

    answers = ten_times(town, reserve_or_not)

    assert sum(answers) == 3
    assert town.store.read(lambda uow: uow.reservations.sums([lease_id], uow.now)) == {lease_id: 9_000}


def test_ten_parallel_decisions_on_a_request_decide_once(town: Town) -> None:
    """Of five approvals and five rejections exactly one counts, and the budget follows it."""
    root = town.store.write(partial(add_user, username="root", email="root@test", role="admin", actor=SYSTEM))
    principal = principal_of(root, "session")
    request_id = town.store.write(
        partial(
            submit_request, agent_id=town.agent.id, requested=BUDGET + 10_000, justification=WORDS, principal=principal
        )
    ).request.id
    numbers = count()

    def decide(uow: UnitOfWork) -> str:
        try:
            if next(numbers) % 2:
                reject(uow, request_id, WORDS, principal=principal)
                return "rejected"
            approve(uow, request_id, principal=principal)
        except RequestAlreadyReviewedError:
            return "late"
        return "approved"

    answers = ten_times(town, decide)

    assert sorted(answers)[1:] == ["late"] * 9
    assert town.agent.balance().allocated == (BUDGET if "rejected" in answers else BUDGET + 10_000)
    assert town.world.verify().holds


def test_ten_parallel_late_reports_settle_no_more_than_was_held(town: Town) -> None:
    """A dead value has one allowance, however many reports of it arrive at once."""
    lease_id = town.agent.handshake(10_000).lease.id
    town.store.write(partial(revoke_ic_token, agent_id=town.agent.id, actor=ADMIN))
    presented = town.world.signer.prove(town.agent.token, now=town.world.clock.now())
    numbers = count()

    def settle(uow: UnitOfWork) -> bool:
        identity = authenticate(uow, presented, settle=POLICY.settle)
        item = usage(lease_id, f"req-{next(numbers)}", 3_000)
        return isinstance(report_or_refuse(uow, identity, item, prices=PRICES, policy=POLICY), Reported)

    answers = ten_times(town, settle)

    assert sum(answers) == 3
    assert town.agent.balance().spent == 9_000
    assert town.world.verify().holds


def shake(town: Town, runtime_id: str | None, uow: UnitOfWork) -> Granted:
    request = HandshakeRequest(10_000, runtime_id=runtime_id)
    return handshake(uow, town.identity, request, sealing=town.world.sealing, policy=POLICY)


def ten_times(town: Town, use_case: Callable[[UnitOfWork], T]) -> list[T]:
    """Run a use case ten times at once, on both stores, and return the answers."""
    return in_threads([partial(town.stores[number % 2].write, use_case) for number in range(10)])


def in_threads(work: list[Callable[[], T]]) -> list[T]:
    """Run all at once, each in its thread, and return the results; raise what any of them raises."""
    start = Barrier(len(work))

    def begin_together(one: Callable[[], T]) -> T:
        start.wait()
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(begin_together, work))
