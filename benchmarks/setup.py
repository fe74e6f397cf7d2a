"""What every bench starts from: how much to do, a store on this disk, agents with a lease each, reports to book."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.usage import UsageReport
from ironcage_core.ports.lists import BalanceFilter
from ironcage_core.ports.storage import UnitOfWork, UseCase
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.reporting import BatchReported, Reported, report, report_batch
from ironcage_storage.sqlite.store import MAX_BATCH, SqliteStore
from ironcage_storage.system import SystemClock, TimeOrderedIds
from tests.support.world import PRICES, USD, SetClock, TestAgent, World, usage

T = TypeVar("T")

RESULTS: Final = Path(__file__).parents[1] / "bench-results"
AGENTS: Final = 100
BATCH: Final = 1000
CONNECTIONS: Final = 64
COST: Final = 320
"""Micro-USD of one report: what the price table says of its tokens, so that no report is a mismatch."""

_BUDGET: Final = 999_999 * USD
_LEASE: Final = 1000 * USD
_SETUP_THREADS: Final = 32
_SYSTEM_CLOCK: Final = SystemClock()
_IDS: Final = TimeOrderedIds()

NewName = Callable[[], str]


class Effort(StrEnum):
    """How much a run does: to see that it works, to compare on a usual day, or with the largest databases."""

    QUICK = "quick"
    NORMAL = "normal"
    FULL = "full"

    @property
    def rounds(self) -> int:
        """How often everything is measured; figures are medians over the rounds."""
        return 1 if self is Effort.QUICK else 3


class RunningClock(SetClock):
    """The clock of this machine in the place of one that is set by hand."""

    def now(self) -> Instant:
        """Return the current time."""
        return _SYSTEM_CLOCK.now()


@dataclass(frozen=True, slots=True)
class Runtime:
    """An agent's runtime and the lease it spends from."""

    agent: TestAgent
    lease_id: str

    def bound(self, use_case: Callable[..., T], *args: object, **kwargs: object) -> UseCase[T]:
        """Prove the token here, as a server does, and return the use case that authenticates with it first."""
        world = self.agent.world
        presented = world.signer.prove(self.agent.token, now=world.clock.now())

        def authenticated(uow: UnitOfWork) -> T:
            return use_case(uow, authenticate(uow, presented), *args, **kwargs)

        return authenticated

    def report(self, reported: UsageReport) -> UseCase[Reported]:
        """Return the use case that books one report."""
        return self.bound(report, reported, prices=PRICES)

    def report_batch(self, reports: Sequence[UsageReport]) -> UseCase[BatchReported]:
        """Return the use case that books a batch."""
        return self.bound(report_batch, reports, prices=PRICES)


@dataclass(frozen=True, slots=True)
class Bench:
    """A durable store and the runtimes that call it."""

    path: Path
    store: SqliteStore
    world: World
    runtimes: Sequence[Runtime]

    def check_booked(self, count: int) -> None:
        """Make sure that a measured run has done its work.

        Raises:
            RuntimeError: The books hold other than `count` reports.
        """
        booked, rest = divmod(self.store.read(lambda uow: uow.balances.totals(BalanceFilter()).spent), COST)
        if booked != count or rest:
            raise RuntimeError(f"{count} reports were sent, {booked} are in the books")


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder on the disk of the repository; it is removed afterwards."""
    RESULTS.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=RESULTS, prefix="db-") as folder:
        yield Path(folder)


@contextmanager
def opened(folder: Path, *, agents: int = AGENTS, max_batch: int = MAX_BATCH) -> Iterator[Bench]:
    """Yield a bench with a fresh database in `folder`."""
    path = folder / "bench.db"
    with SqliteStore(path, max_batch=max_batch) as store:
        world = World(store, RunningClock())

        def start(index: int) -> Runtime:
            agent = world.agent(_BUDGET, name=f"worker {index}")
            return Runtime(agent, agent.handshake(_LEASE).lease.id)

        with ThreadPoolExecutor(_SETUP_THREADS) as threads:
            runtimes = list(threads.map(start, range(agents)))
        yield Bench(path, store, world, sorted(runtimes, key=lambda runtime: runtime.agent.id))


@contextmanager
def fresh(*, agents: int = AGENTS, max_batch: int = MAX_BATCH) -> Iterator[Bench]:
    """Yield a bench in a folder of its own."""
    with scratch() as folder, opened(folder, agents=agents, max_batch=max_batch) as bench:
        yield bench


def ordered_name() -> str:
    """Return a request id larger than all before it, as a UUIDv7 is."""
    return _IDS.new("breq", _SYSTEM_CLOCK.now())


def random_name() -> str:
    """Return a request id without order, as a UUIDv4 is."""
    return f"breq_{random.getrandbits(128):032x}"


def some_reports(runtime: Runtime, count: int = BATCH, new_name: NewName = ordered_name) -> list[UsageReport]:
    """Return reports of ordinary calls of one runtime."""
    tokens: dict[str, Any] = {"input_tokens": 80, "output_tokens": 20}
    return [usage(runtime.lease_id, new_name(), COST, **tokens) for _ in range(count)]


def single_calls(
    runtimes: Sequence[Runtime], count: int, new_name: NewName = ordered_name
) -> list[tuple[Runtime, UsageReport]]:
    """Return `count` single reports, one runtime after the other, over and over."""
    chosen = [runtimes[index % len(runtimes)] for index in range(count)]
    return [(runtime, some_reports(runtime, 1, new_name)[0]) for runtime in chosen]
