"""A control plane that may be up or down, with agents of its own; and a way to it that loses things."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from ironcage_core.domain.access import principal_of
from ironcage_core.domain.leases import Lease
from ironcage_core.domain.ledger import Balance
from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.lists import LeaseFilter, Paging, TraceFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.agents import create_agent
from ironcage_core.services.verify import verify
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_http.settings import Settings
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.servers import RunningAgent, add_agent, free_port
from tests.support.world import ADMIN

USD = MICROS_PER_USD


@dataclass
class Panel:
    """A server with its store; agents are made behind its back."""

    store: SqliteStore
    settings: Settings
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def up(self) -> Iterator[None]:
        """Serve while the block is open."""
        with ApiServer(self.store, self.port, settings=self.settings):
            yield

    def hire(self, budget: Micros = 20 * USD) -> RunningAgent:
        """Make an agent of the one owner, with the one key."""

        def create(uow: UnitOfWork) -> RunningAgent:
            owner = uow.users.find_by_username("owner")
            assert owner is not None
            keys = [key.id for key in uow.provider_keys.all()]
            signer = IcTokenSigner(self.settings.ic_token_secret)
            made = create_agent(
                uow, name="runtime", budget=budget, owner_id=owner.id, provider_key_ids=keys, actor=ADMIN, signer=signer
            )
            return RunningAgent(made.agent.id, made.ic_token.value)

        return self.store.write(create)

    def balance(self, agent: RunningAgent) -> Balance:
        balance = self.store.read(lambda uow: uow.balances.find(agent.id))
        assert balance is not None
        return balance

    def leases(self, agent: RunningAgent) -> list[Lease]:
        """Return its leases, the first one first."""
        rows = self.store.read(lambda uow: uow.leases.page(LeaseFilter(agent.id), Paging(1, 100))).rows
        return sorted(rows, key=lambda lease: lease.created_at)

    def records(self, agent: RunningAgent) -> list[UsageRecord]:
        return list(self.store.read(lambda uow: uow.usage.page(TraceFilter(agent.id), Paging(1, 100))).rows)

    def as_owner(self, use_case: Callable[..., object], agent: RunningAgent) -> None:
        """Do something to an agent as its owner."""

        def run(uow: UnitOfWork) -> None:
            owner = uow.users.find_by_username("owner")
            assert owner is not None
            use_case(uow, agent.id, principal=principal_of(owner, "session"))

        self.store.write(run)

    def check(self) -> None:
        """Every balance is what the ledger adds up to."""
        assert self.store.read(verify).differences == []


@contextmanager
def panel_in(folder: Path, **leases: int) -> Iterator[Panel]:
    """Make a panel with its store in a folder; what is said of leases replaces parts of their policy."""
    settings = embedded_settings()
    settings = replace(settings, leases=replace(settings.leases, **leases))  # type: ignore[arg-type]
    with SqliteStore(folder / "iron.db") as store:
        add_agent(store, settings)  # and with it an owner and a provider key
        yield Panel(store, settings)


class LossyTransport(httpx.BaseTransport):
    """Loses requests on their way, and answers on theirs.

    Args:
        seed: So that a run can be repeated.
        loss: How many of a hundred are lost in each direction.
    """

    def __init__(self, seed: int, loss: int) -> None:
        self._draw = random.Random(seed)  # noqa: S311 - a test that can be repeated
        self._loss = loss
        self._inner = httpx.HTTPTransport()
        self.lost = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._lose(request, "on its way there")
        response = self._inner.handle_request(request)
        response.read()
        self._lose(request, "on its way back")
        return response

    def close(self) -> None:
        self._inner.close()

    def _lose(self, request: httpx.Request, where: str) -> None:
        if self._draw.randrange(100) < self._loss:
            self.lost += 1
            raise httpx.ReadError(f"lost {where}", request=request)
