"""A small world for tests: a clock that is set by hand, real cryptography, and the usual cast."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from ironcage_core.domain.access import Principal
from ironcage_core.domain.audit import SYSTEM, Actor
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.instants import MS_PER_S, Instant
from ironcage_core.domain.leases import DEFAULT_POLICY, Lease, LeasePolicy
from ironcage_core.domain.ledger import Balance, Entry
from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.domain.prices import ModelPrice, PriceTable
from ironcage_core.domain.usage import UsageReport
from ironcage_core.ports.lists import EntryFilter, Paging
from ironcage_core.ports.secrecy import Vault
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agents import CreatedAgent, create_agent
from ironcage_core.services.granting import Granted
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.key_lending import Sealing
from ironcage_core.services.leasing import Denied, Returned, refresh, return_lease
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_core.services.reporting import BatchReported, Reported, report, report_batch
from ironcage_core.services.usage_limits import change_limit, create_limit, delete_limit
from ironcage_core.services.verify import Verification, verify
from ironcage_storage.sealed.ip_tokens import IpTokenSealer
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import AesGcmVault, MasterKey
from ironcage_storage.sqlite.store import SqliteStore

T = TypeVar("T")

NOON: Instant = 1_763_726_400_000  # 2025-11-21T12:00:00Z
USD = MICROS_PER_USD
PRICES = PriceTable(models={"gpt-test": ModelPrice(input=2_000_000, output=8_000_000)})
ADMIN = Actor("user", "user_00000000000000000000000000000001", role="admin")
THE_ADMIN = Principal(ADMIN.id, "root", "root@test", "root", "admin", "sess", must_change_password=False, reach="all")
API_KEY = "sk-test-0123456789abcdef"
SIGNING_SECRET = "a signing secret of more than 32 characters"


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: Instant = NOON) -> None:
        self.instant = now

    def now(self) -> Instant:
        return self.instant

    def pass_s(self, seconds: float) -> None:
        self.instant += int(seconds * MS_PER_S)


@dataclass
class World:
    """A store and everything a runtime's day needs; `owner_id` owns every agent it makes."""

    store: SqliteStore
    clock: SetClock
    policy: LeasePolicy = DEFAULT_POLICY
    vault: Vault = field(default_factory=lambda: AesGcmVault(MasterKey.generate()))
    signer: IcTokenSigner = field(default_factory=lambda: IcTokenSigner(SIGNING_SECRET))
    owner_id: str = ""
    key_id: str = ""

    def __post_init__(self) -> None:
        self.sealing = Sealing(self.vault, IpTokenSealer())
        owner = self.store.write(partial(add_user, username="ann", email="ann@test", role="user", actor=SYSTEM))
        self.owner_id = owner.id
        key = self.store.write(
            partial(add_provider_key, provider="openai", api_key=API_KEY, actor=ADMIN, vault=self.vault)
        )
        self.key_id = key.id

    def agent(self, budget: Micros = 100 * USD, owner_id: str = "", name: str = "worker") -> "TestAgent":
        """Create an agent with the world's key."""
        created = self.store.write(
            partial(
                create_agent,
                name=name,
                budget=budget,
                owner_id=owner_id or self.owner_id,
                provider_key_ids=[self.key_id],
                actor=ADMIN,
                signer=self.signer,
            )
        )
        return TestAgent(self, created)

    def cap(self, amount: Micros | None, user_id: str = "") -> None:
        """Set the owner's monthly cap."""
        self.store.write(lambda uow: cap_month(uow, user_id or self.owner_id, amount))

    def verify(self) -> Verification:
        """Recompute everything."""
        return self.store.read(verify)


def cap_month(uow: UnitOfWork, user_id: str, cap: Micros | None) -> None:
    """Cap what a user's agents may cost in a month, by a limit that has no other cap; None lifts it."""
    known = uow.limits.find_of(user_id)
    if cap is not None and known is None:
        create_limit(uow, {"user_id": user_id, "max_cost_per_month": cap}, actor=ADMIN)
    elif cap is not None and known is not None:
        change_limit(uow, known.id, {"max_cost_per_month": cap}, actor=ADMIN)
    elif known is not None:
        delete_limit(uow, known.id, actor=ADMIN)


class TestAgent:
    """An agent and the calls its runtime makes."""

    __test__ = False

    def __init__(self, world: World, created: CreatedAgent) -> None:
        self.world = world
        self.id = created.agent.id
        self.token = created.ic_token.value

    def call(self, use_case: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Authenticate with the agent's token and run a use case in one unit of work."""
        world = self.world
        presented = world.signer.prove(self.token, now=world.clock.now())

        def authenticated(uow: UnitOfWork) -> T:
            identity: AgentIdentity = authenticate(uow, presented)
            return use_case(uow, identity, *args, policy=world.policy, **kwargs)

        return world.store.write(authenticated)

    def handshake(self, requested: Micros | None = None, **fields: object) -> Granted:
        request = HandshakeRequest(requested=requested, **fields)  # type: ignore[arg-type]  # as the test says
        return self.call(handshake, request, sealing=self.world.sealing)

    def report(self, lease_id: str, request_id: str, cost: Micros, **fields: object) -> Reported:
        return self.call(report, usage(lease_id, request_id, cost, **fields), prices=PRICES)

    def report_batch(self, reports: list[UsageReport]) -> BatchReported:
        return self.call(report_batch, reports, prices=PRICES)

    def refresh(self, lease_id: str, requested: Micros | None = None) -> Granted | Denied:
        return self.call(refresh, lease_id, requested, sealing=self.world.sealing)

    def return_lease(self, lease_id: str, final_spent: Micros | None = None) -> Returned:
        return self.call(return_lease, lease_id, final_spent)

    def lease(self, lease_id: str) -> Lease:
        """Return the lease as stored."""
        found = self.world.store.read(lambda uow: uow.leases.find(lease_id))
        assert found is not None
        return found

    def balance(self) -> Balance:
        """Return the balance as stored."""
        found = self.world.store.read(lambda uow: uow.balances.find(self.id))
        assert found is not None
        return found

    def entries(self) -> list[Entry]:
        """Return the agent's ledger, oldest first."""
        page = self.world.store.read(lambda uow: uow.ledger.page(EntryFilter(agent_id=self.id), Paging(1, 1000)))
        return list(reversed(page.rows))

    def kinds(self) -> list[tuple[str, Micros]]:
        """Return kind and amount of each entry, oldest first."""
        return [(entry.kind, entry.amount) for entry in self.entries()]


def usage(lease_id: str, request_id: str, cost: Micros | None, **fields: object) -> UsageReport:
    """Return a report of an ordinary call."""
    content: dict[str, object] = {"model": "gpt-test", "provider": "openai", "tokens": 100, **fields}
    return UsageReport(lease_id=lease_id, request_id=request_id, cost=cost, **content)  # type: ignore[arg-type]
