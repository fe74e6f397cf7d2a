"""The town: one file, the servers on it, and the agents whose money the clients move."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agents import create_agent
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_core.services.usage_limits import LimitFields, create_limit
from ironcage_http.settings import read_settings
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import AesGcmVault
from ironcage_storage.sqlite.store import SqliteStore
from tests.history.operations import Answer, Opening
from tests.history.serial import MAX_OPEN
from tests.support.deployment import SECRETS
from tests.support.servers import ServerProcess, ask, run_ironcage
from tests.support.web import API_KEY, PASSWORD, people
from tests.support.world import ADMIN

ENVIRON = {
    "DATABASE_URL": "sqlite:///iron.db",
    "IRON_LEASE_GRACE_SECONDS": "86400",  # time alone ends no lease while a run lasts
    "IRON_LEASE_MAX_OPEN": str(MAX_OPEN),
    "IRON_RATE_LIMIT_ENABLED": "false",
    "IRON_LOG_LEVEL": "error",
    **SECRETS,
}
BUDGETS = (30_000, 60_000, 90_000)
CAP = 70_000
MONTHS_END = timedelta(minutes=15)
"""How long before the end of a month no owner is capped any more: the specification knows one month."""


class Town:
    """Servers on one file in a folder; a context manager that starts and ends them.

    Args:
        folder: Where the file is.
        moneys: How many owners there are: every other one has two agents and a monthly cap, the rest one and none.
        servers: How many processes.
    """

    def __init__(self, folder: Path, *, moneys: int, servers: int) -> None:
        self.folder = folder
        self.tokens: dict[str, str] = {}
        self.servers = [ServerProcess(folder, **ENVIRON) for _ in range(servers)]
        with SqliteStore(folder / "iron.db") as store:
            people(store)
            self.openings = self._open(store, moneys)

    @property
    def ports(self) -> list[int]:
        return [server.port for server in self.servers]

    def _open(self, store: SqliteStore, moneys: int) -> list[Opening]:
        settings = read_settings(ENVIRON, folder=self.folder)
        assert settings.master_key is not None
        signer, vault = IcTokenSigner(settings.ic_token_secret), AesGcmVault(settings.master_key)
        add_key = partial(add_provider_key, provider="openai", api_key=API_KEY, actor=ADMIN, vault=vault)
        key = store.write(add_key)
        now, openings = datetime.now(UTC), []
        has_caps = (now + MONTHS_END).month == now.month
        for number in range(moneys):
            name, is_pair = f"owner-{number}", number % 2 == 1
            cap = CAP if is_pair and has_caps else None
            owner = store.write(partial(add_user, username=name, email=f"{name}@test.io", role="user", actor=ADMIN))
            if cap is not None:
                fields = LimitFields(user_id=owner.id, max_cost_per_month=cap)
                store.write(partial(create_limit, fields=fields, actor=ADMIN))
            allocated = {}
            for which in range(1 + is_pair):
                budget = BUDGETS[number % len(BUDGETS)]
                create = partial(create_agent, name=f"{name}-{which}", budget=budget, owner_id=owner.id)
                created = store.write(partial(create, provider_key_ids=[key.id], actor=ADMIN, signer=signer))
                allocated[created.agent.id] = budget
                self.tokens[created.agent.id] = created.ic_token.value
            openings.append(Opening(owner.id, allocated, cap))
        return openings

    def admin(self) -> str:
        """Return the header of an admin's session, which every server takes."""
        reply = ask(self.ports[0], "POST", "/api/v1/auth/login", {"username": "admin", "password": PASSWORD})
        assert reply.status == 200, reply.raw
        return f"Bearer {reply.body['access_token']}"

    def verify(self) -> str:
        """Return what is wrong with the file by `ironcage verify`; nothing if it is right."""
        done = run_ironcage(self.folder, "verify", "iron.db")
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def books(self, agents: Sequence[str]) -> Answer:
        """Return what the ledger and the leases of the file say of agents, summed from their rows."""
        with SqliteStore(self.folder / "iron.db") as store:
            return store.read(lambda uow: {"agents": _sums(uow, agents), "leases": _leases(uow, agents)})

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            for server in self.servers:
                starting.enter_context(server)
            self._running = starting.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._running.close()


ROW = ("granted", "spent", "overspent", "returned", "reclaimed", "held", "status")


def _sums(uow: UnitOfWork, agents: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """Return allocated, spent, remaining and held, each a sum of ledger rows."""
    sums = {}
    for agent in agents:
        posted: Counter[str] = Counter()
        for entry in uow.ledger.by_agent(agent):
            posted[entry.kind] += entry.amount
        allocated, spent = posted["adjust"], posted["spend"] + posted["overspend"]
        held = posted["grant"] - posted["spend"] - posted["return"] - posted["reclaim"]
        sums[agent] = (allocated, spent, allocated - spent - held, held)
    return sums


def _leases(uow: UnitOfWork, agents: Sequence[str]) -> dict[str, tuple[tuple[str, object], ...]]:
    leases = [lease for agent in agents for lease in uow.leases.of_agent(agent)]
    return {
        lease.id: (*((name, getattr(lease, name)) for name in ROW), ("reason", lease.status_reason))
        for lease in leases
    }  # fmt: skip
