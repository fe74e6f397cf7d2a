"""The operations of the simulation: each is drawn, then told to the model and done to the store.

An operation that was drawn is vague ("the agent's latest lease but one"). `resolve` makes a `Call` of it, which can be
predicted and performed as often as one likes: that is what a retry is.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, Protocol, TypeAlias

from ironcage_core.domain.access import Principal
from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ic_tokens import AgentIdentity, PresentedIcToken
from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.domain.leases import LeasePolicy
from ironcage_core.domain.usage import UsageReport
from ironcage_core.errors.tree import RefusalError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.allocations import set_allocation
from ironcage_core.services.expiry import sweep
from ironcage_core.services.granting import Granted
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.ic_tokens import authenticate
from ironcage_core.services.key_lending import Sealing
from ironcage_core.services.late_reports import SettlementRefused, report_or_refuse
from ironcage_core.services.leasing import refresh, return_lease, revoke_leases
from ironcage_core.services.reporting import Booked, report_batch
from ironcage_storage.sealed.tokens import IcTokenSigner
from tests.simulation.calls import Content, spelled, uuid_of
from tests.simulation.model import UNKNOWN, Booking, Books, Grant, RefusedError, Retry, Terms
from tests.support.world import ADMIN, NOON, PRICES, usage

MS = 1000
TERMS = Terms(
    default_grant=10_000,
    max_grant=50_000,
    ttl=600 * MS,
    grace=60 * MS,
    lifetime=1500 * MS,
    max_open=4,
    max_report=40_000,
    settle=900 * MS,
    highest_request=200_000,
    levels=(50, 80, 90, 100),
)
POLICY = LeasePolicy(
    default_grant=TERMS.default_grant,
    max_grant=TERMS.max_grant,
    ttl=TERMS.ttl,
    grace=TERMS.grace,
    max_lifetime=TERMS.lifetime,
    max_open=TERMS.max_open,
    max_report=TERMS.max_report,
    alert_levels=TERMS.levels,
    settle=TERMS.settle,
)

Answer: TypeAlias = tuple[object, ...]


class Named(NamedTuple):
    """Something the model names by a number; becomes the id, or the token value, that the store gave it."""

    kind: Literal["lease", "value", "request"]
    number: int
    is_new: bool = False


def lease_no(number: int, *, is_new: bool = False) -> Named:
    return Named("lease", number, is_new)


@dataclass(frozen=True)
class Keyed:
    """An operation with an idempotency key, to be sent again; it may name as many things as there were then."""

    retry: Retry
    there: tuple[int, ...]
    make: "Callable[[Retry | None], Call]"


@dataclass
class Cast:
    """Who takes part, and which id the store gave to what the model names by numbers."""

    sealing: Sealing
    signer: IcTokenSigner
    owners: list[str]
    principals: list[Principal]
    keys: list[str]
    projects: list[str]
    agents: list[str] = field(default_factory=list)
    ids: dict[tuple[str, int], str] = field(default_factory=dict)
    requests: int = 0
    events: int = 0
    keyed: list[Keyed] = field(default_factory=list)
    proven: dict[str, PresentedIcToken] = field(default_factory=dict)

    @property
    def admin(self) -> Principal:
        return self.principals[-1]

    def id_of(self, number: int, kind: str = "lease") -> str:
        return f"{kind}_of_nobody" if number == UNKNOWN else self.ids[kind, number]

    def new_request(self, spelling: int | None = None) -> str:
        # Small numbers: agents use the same request ids, which must not matter.
        self.requests += 1
        number = self.requests // 2
        return f"req-{number}" if spelling is None else spelled(f"{number:032x}", spelling)

    def next_event(self) -> int:
        self.events += 1
        return self.events

    def value(self, books: Books, agent: int, back: int) -> int:
        """Return the agent's latest token value, or one before it."""
        mine = books.values_of(self.agents[agent])
        return mine[-1 - min(back, len(mine) - 1)]

    def identity(self, uow: UnitOfWork, value: int) -> AgentIdentity:
        """Authenticate, as every call does in its own unit of work."""
        text = self.id_of(value, "value")
        if text not in self.proven:
            self.proven[text] = self.signer.prove(text, now=NOON)
        return authenticate(uow, self.proven[text], settle=POLICY.settle)


def keyed(
    cast: Cast, books: Books, key: int | None, scope: str, body: str, make: "Callable[[Retry | None], Call]"
) -> "Call":
    """Return the call with its idempotency key, if it has one, and remember it."""
    if key is None:
        return make(None)
    retry = Retry(scope, f"key-{key}", body)
    cast.keyed.append(Keyed(retry, books.sizes, make))
    return make(retry)


def as_key(retry: Retry | None) -> RetryKey | None:
    if retry is None:
        return None
    return RetryKey(retry.scope, retry.key, hashlib.sha256(retry.body.encode()).hexdigest())


@dataclass
class Call:
    """One operation with all its arguments, for the model and for the store."""

    name: str
    cast: Cast
    ask_model: Callable[[Books], Answer]
    ask_store: Callable[[UnitOfWork], Answer]
    expected: Answer | None = None

    def predict(self, books: Books) -> Answer:
        """Do it to the model and return its answer."""
        try:
            self.expected = self.ask_model(books)
        except RefusedError as refused:
            self.expected = ("refused", refused.code)
        return self.expected

    def perform(self, uow: UnitOfWork) -> Answer:
        """Do it to the store, in a unit of work of the caller's."""
        answer = self.ask_store(uow)
        self.learn(answer)
        return answer

    def learn(self, answer: Answer) -> None:
        """Note the ids of what is new to model and store."""
        if self.expected is None or self.expected[0] != answer[0]:
            return
        for told, given in zip(self.expected, answer, strict=False):
            if isinstance(told, Named) and told.is_new:
                self.cast.ids[told.kind, told.number] = str(given)

    def settled(self) -> Answer:
        """Return the model's answer in the ids of the store."""
        assert self.expected is not None
        settled = with_ids(self.expected, self.cast)
        assert isinstance(settled, tuple)
        return settled


def with_ids(value: object, cast: Cast) -> object:
    """Return a model's answer with ids in the place of numbers."""
    if isinstance(value, Named):
        return cast.id_of(value.number, value.kind)
    if isinstance(value, tuple):
        return tuple(with_ids(part, cast) for part in value)
    return value


class Operation(Protocol):
    """Something that can be drawn."""

    def resolve(self, cast: Cast, books: Books) -> Call:
        """Settle what is meant, as the model stands."""
        ...


@dataclass(frozen=True)
class Pick:
    """Which lease is meant: the agent's latest, the one before it, ...; or somebody else's, or nobody's."""

    back: int
    whose: Literal["own", "foreign", "nobody"] = "own"

    def number(self, books: Books, agent: str) -> int:
        mine = [number for number, lease in enumerate(books.leases) if (lease.agent == agent) == (self.whose == "own")]
        if not mine or self.whose == "nobody":
            return UNKNOWN
        return mine[-1 - self.back % len(mine)]


@dataclass(frozen=True)
class Handshake:
    """An agent's runtime asks for money."""

    agent: int
    requested: int | None
    runtime: str | None
    ttl_s: int | None = None
    token: int = 0
    key: int | None = None

    def resolve(self, cast: Cast, books: Books) -> Call:
        value = cast.value(books, self.agent, self.token)
        request = HandshakeRequest(requested=self.requested, runtime_id=self.runtime, ttl_s=self.ttl_s)
        ttl = None if self.ttl_s is None else self.ttl_s * MS

        def ask_store(uow: UnitOfWork, retry: Retry | None) -> Answer:
            identity = cast.identity(uow, value)
            options = {"sealing": cast.sealing, "policy": POLICY}
            return _granted(handshake(uow, identity, request, **options, retry=as_key(retry)))  # type: ignore[arg-type]

        def make(retry: Retry | None) -> Call:
            return Call(
                f"{self!r} by value {value}",
                cast,
                lambda books: _told(books.handshake(value, self.requested, self.runtime, ttl, retry)),
                lambda uow: ask_store(uow, retry),
            )

        scope = f"{cast.agents[self.agent]} handshake"
        return keyed(cast, books, self.key, scope, repr((self.requested, self.runtime, self.ttl_s)), make)


@dataclass(frozen=True)
class Refresh:
    """A runtime asks for more money."""

    agent: int
    lease: Pick
    requested: int | None
    token: int = 0
    key: int | None = None

    def resolve(self, cast: Cast, books: Books) -> Call:
        value = cast.value(books, self.agent, self.token)
        number = self.lease.number(books, cast.agents[self.agent])

        def ask_model(books: Books, retry: Retry | None) -> Answer:
            answer = books.refresh(value, number, self.requested, retry)
            return _told(answer) if isinstance(answer, Grant) else ("denied", answer.reason, answer.remaining)

        def ask_store(uow: UnitOfWork, retry: Retry | None) -> Answer:
            answer = refresh(
                uow,
                cast.identity(uow, value),
                cast.id_of(number),
                self.requested,
                sealing=cast.sealing,
                policy=POLICY,
                retry=as_key(retry),
            )
            if isinstance(answer, Granted):
                return _granted(answer)
            return ("denied", answer.reason, answer.balance.remaining)

        def make(retry: Retry | None) -> Call:
            name = f"{self!r} of lease {number} by value {value}"
            return Call(name, cast, lambda books: ask_model(books, retry), lambda uow: ask_store(uow, retry))

        scope = f"{cast.agents[self.agent]} refresh"
        return keyed(cast, books, self.key, scope, repr((number, self.requested)), make)


@dataclass(frozen=True)
class Item:
    """What is reported: a new call, one that was reserved, or one that was reported before, the same or changed."""

    lease: Pick
    cost: int | Literal["all", "more than all"]
    known: int | None = None
    changed: Literal["cost", "tokens", "model", "provider"] | None = None
    reserved: int | None = None
    told: int | None = None
    spelling: int | None = None
    split: int | None = None

    def resolve(self, cast: Cast, books: Books, agent: str, before: Sequence["SettledItem"]) -> "SettledItem":
        number = self.lease.number(books, agent)
        if self.told is not None:
            name = told_name(books, agent, self.told, self.spelling)
            if name is not None:
                record = books.records.get((agent, name))
                return SettledItem(number, name, record.content if record else self._content(books, number))
        reserved = [request for who, request in books.reservations if who == agent]
        if self.reserved is not None and reserved:
            request = reserved[-1 - self.reserved % len(reserved)]
            record = books.records.get((agent, request))
            return SettledItem(number, request, record.content if record else self._content(books, number))
        known = [(request, record.content) for (who, request), record in books.records.items() if who == agent]
        known += [(item.request, item.content) for item in before]
        if self.known is None or not known:
            return SettledItem(number, cast.new_request(self.spelling), self._content(books, number))
        request, content = known[-1 - self.known % len(known)]
        changes: dict[str, Content] = {
            "cost": content._replace(cost=content.cost + 1),
            "tokens": content._replace(tokens=content.tokens + 1),
            "model": content._replace(model="another"),
            "provider": content._replace(provider="another"),
        }
        return SettledItem(number, request, changes[self.changed] if self.changed else content)

    def _content(self, books: Books, number: int) -> Content:
        return Content(self._cost(books, number), split=self.split)

    def _cost(self, books: Books, number: int) -> int:
        if isinstance(self.cost, int):
            return self.cost
        held = 0 if number == UNKNOWN else books.leases[books.effective(number)].held
        return min(TERMS.max_report, held + (self.cost == "more than all"))


def told_name(books: Books, agent: str, back: int, spelling: int | None) -> str | None:
    """Return a name of a call of the agent, spelled otherwise if it is a UUID."""
    names = [name for call in books.calls if call.agent == agent for name in call.names]
    return respelled(names[-1 - back % len(names)], spelling) if names else None


def respelled(name: str, spelling: int | None) -> str:
    """Return a name in another spelling, if it has any."""
    uuid = uuid_of(name)
    return name if uuid is None or spelling is None else spelled(uuid, spelling)


class SettledItem(NamedTuple):
    """A report with all its content."""

    lease: int
    request: str
    content: Content

    def as_report(self, cast: Cast) -> UsageReport:
        content = self.content
        fields = {"tokens": content.tokens, "model": content.model, "provider": content.provider}
        split = content.split
        parts = {} if split is None else {"input_tokens": split, "output_tokens": content.tokens - split}
        return usage(cast.id_of(self.lease), self.request, content.cost, **fields, **parts)


@dataclass(frozen=True)
class Report:
    """A runtime reports one call."""

    agent: int
    item: Item
    token: int = 0

    def resolve(self, cast: Cast, books: Books) -> Call:
        agent, value = cast.agents[self.agent], cast.value(books, self.agent, self.token)
        item = self.item.resolve(cast, books, agent, [])

        def ask_model(books: Books) -> Answer:
            booking = books.report(value, *item)
            if booking is None:
                return ("not settled",)
            return ("booked", _told_booking(booking), booking.stop, books.remaining(agent))

        def ask_store(uow: UnitOfWork) -> Answer:
            identity = cast.identity(uow, value)
            answer = report_or_refuse(uow, identity, item.as_report(cast), prices=PRICES, policy=POLICY)
            if isinstance(answer, SettlementRefused):
                return ("not settled",)
            return ("booked", _booked(answer.booked), answer.stop, answer.balance.remaining)

        return Call(f"{self!r} as {item} by value {value}", cast, ask_model, ask_store)


@dataclass(frozen=True)
class ReportBatch:
    """A runtime reports many calls at once."""

    agent: int
    items: tuple[Item, ...]
    token: int = 0

    def resolve(self, cast: Cast, books: Books) -> Call:
        agent, value = cast.agents[self.agent], cast.value(books, self.agent, self.token)
        items: list[SettledItem] = []
        for item in self.items:
            items.append(item.resolve(cast, books, agent, items))

        def ask_model(books: Books) -> Answer:
            answers = books.report_batch(value, [(item.lease, item.request, item.content) for item in items])
            told = tuple(answer if isinstance(answer, str) else _told_booking(answer) for answer in answers)
            return ("batch", told, books.remaining(agent))

        def ask_store(uow: UnitOfWork) -> Answer:
            reports = [item.as_report(cast) for item in items]
            answer = report_batch(uow, cast.identity(uow, value), reports, prices=PRICES, policy=POLICY)
            told = tuple(
                _booked(result.booked) if result.booked else result.refusal and result.refusal.code
                for result in answer.results
            )
            return ("batch", told, answer.balance.remaining)

        return Call(f"{self!r} as {items} by value {value}", cast, ask_model, ask_store)


@dataclass(frozen=True)
class Return:
    """A runtime gives a lease back; `extra` is how far its own count is from the books, None if it sends none."""

    agent: int
    lease: Pick
    extra: int | None
    token: int = 0
    key: int | None = None

    def resolve(self, cast: Cast, books: Books) -> Call:
        value = cast.value(books, self.agent, self.token)
        number = self.lease.number(books, cast.agents[self.agent])
        spent = 0 if number == UNKNOWN else books.leases[number].total_spent
        final = None if self.extra is None else spent + self.extra

        def ask_model(books: Books, retry: Retry | None) -> Answer:
            answer = books.return_lease(value, number, final, retry)
            return ("returned", lease_no(answer.lease), *answer[1:])

        def ask_store(uow: UnitOfWork, retry: Retry | None) -> Answer:
            identity = cast.identity(uow, value)
            answer = return_lease(uow, identity, cast.id_of(number), final, policy=POLICY, retry=as_key(retry))
            assert answer.successor_id in {None, answer.lease.id}
            money = (answer.returned, answer.discrepancy)
            return ("returned", answer.lease.id, *money, answer.already_closed, answer.balance.remaining)

        def make(retry: Retry | None) -> Call:
            name = f"{self!r} of lease {number} at {final} by value {value}"
            return Call(name, cast, lambda books: ask_model(books, retry), lambda uow: ask_store(uow, retry))

        return keyed(cast, books, self.key, f"{cast.agents[self.agent]} return", repr((number, final)), make)


@dataclass(frozen=True)
class SetAllocation:
    """An admin sets a budget, `at_spent` to exactly what is spent."""

    agent: int
    amount: int
    force: bool
    at_spent: bool = False
    key: int | None = None

    def resolve(self, cast: Cast, books: Books) -> Call:
        agent = cast.agents[self.agent]
        amount = books.spent(agent) + self.amount % 2 - 1 if self.at_spent else self.amount

        def ask_store(uow: UnitOfWork, retry: Retry | None) -> Answer:
            levels = POLICY.alert_levels
            changed = set_allocation(
                uow, agent, amount, actor=ADMIN, force=self.force, retry=as_key(retry), levels=levels
            )  # fmt: skip
            return ("allocated", changed.previous, changed.allocated, changed.balance.remaining)

        def make(retry: Retry | None) -> Call:
            return Call(
                f"{self!r} to {amount}",
                cast,
                lambda books: ("allocated", *books.set_allocation(agent, amount, force=self.force, retry=retry)),
                lambda uow: ask_store(uow, retry),
            )

        return keyed(cast, books, self.key, f"admin allocation {agent}", repr((amount, self.force)), make)


@dataclass(frozen=True)
class ChangeOwner:
    """An agent gets another owner; its old leases stay in the bank they came from."""

    agent: int
    owner: int

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books
        agent, owner = cast.agents[self.agent], cast.owners[self.owner]

        def ask_model(books: Books) -> Answer:
            books.change_owner(agent, owner)
            return ("moved",)

        def ask_store(uow: UnitOfWork) -> Answer:
            found: Agent | None = uow.agents.find(agent)
            assert found is not None
            uow.agents.put(found._replace(owner_id=owner))
            return ("moved",)

        return Call(repr(self), cast, ask_model, ask_store)


@dataclass(frozen=True)
class Revoke:
    """An admin takes leases back, of whichever agents."""

    backs: tuple[int, ...]

    def resolve(self, cast: Cast, books: Books) -> Call:
        count = len(books.leases)
        numbers = list(dict.fromkeys(count - 1 - back % count for back in self.backs)) if count else []

        def ask_store(uow: UnitOfWork) -> Answer:
            ids = [cast.id_of(number) for number in numbers]
            return ("revoked", *(lease.id for lease in revoke_leases(uow, ids, reason="manual", actor=ADMIN)))

        return Call(
            f"{self!r} of {numbers}",
            cast,
            lambda books: ("revoked", *map(lease_no, books.revoke(numbers, "manual"))),
            ask_store,
        )


@dataclass(frozen=True)
class Sweep:
    """The server looks for leases whose time is over."""

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books

        def ask_model(books: Books) -> Answer:
            books.sweep()
            return ("swept",)

        def ask_store(uow: UnitOfWork) -> Answer:
            sweep(uow)  # the number it returns counts leases that were only looked at
            return ("swept",)

        return Call(repr(self), cast, ask_model, ask_store)


class GivenUpError(Exception):
    """What an embedding program raises to have its unit of work undone."""


@dataclass(frozen=True)
class GiveUp:
    """An operation that succeeds, in a unit of work that is given up behind it."""

    operation: "Operation"

    def resolve(self, cast: Cast, books: Books) -> Call:
        inner = self.operation.resolve(cast, books)

        def ask_store(uow: UnitOfWork) -> Answer:
            inner.ask_store(uow)
            raise GivenUpError

        def ask_model(books: Books) -> Answer:
            del books
            return ("given up",)

        def refused_or_given_up(books: Books) -> Answer:
            refusal = inner.predict(books.copy())
            return refusal if refusal[0] == "refused" else ask_model(books)

        return Call(f"GiveUp({inner.name})", cast, refused_or_given_up, ask_store)


def answered(error: BaseException) -> Answer:
    """Return an exception of the store as an answer; raise what nobody may ever see."""
    if isinstance(error, RefusalError):
        return ("refused", error.code)
    if isinstance(error, GivenUpError):
        return ("given up",)
    raise error


def done(perform: Callable[[], Answer]) -> Answer:
    """Return the answer of the store, refusals included."""
    try:
        return perform()
    except (RefusalError, GivenUpError) as error:
        return answered(error)


def performing(calls: Sequence[Call]) -> list[Callable[[UnitOfWork], Answer]]:
    """Return calls as use cases."""
    return [partial(call.perform) for call in calls]


def _told(grant: Grant) -> Answer:
    return ("granted", lease_no(grant.lease, is_new=not grant.replayed), *grant[1:])


def _granted(answer: Granted) -> Answer:
    money = (answer.new_money, answer.rolled_over, answer.replayed)
    return ("granted", answer.lease.id, *money, answer.balance.remaining)


def _told_booking(booking: Booking) -> Answer:
    return (booking.duplicate, booking.cost, booking.overspent, lease_no(booking.lease), booking.mismatch)


def _booked(booked: Booked) -> Answer:
    return (booked.duplicate, booked.cost, booked.overspent, booked.lease.id, booked.has_cost_mismatch)
