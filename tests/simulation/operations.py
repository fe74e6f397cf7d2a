"""The operations of the simulation: each is drawn, then told to the model and done to the store.

An operation that was drawn is vague ("the agent's latest lease but one"). `resolve` makes a `Call` of it, which can be
predicted and performed as often as one likes: that is what a retry is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, Protocol, TypeAlias

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ic_tokens import AgentIdentity
from ironcage_core.domain.leases import LeasePolicy
from ironcage_core.domain.usage import UsageReport
from ironcage_core.errors.tree import RefusalError
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.allocations import set_allocation
from ironcage_core.services.expiry import sweep
from ironcage_core.services.granting import Granted
from ironcage_core.services.handshake import HandshakeRequest, handshake
from ironcage_core.services.key_lending import Sealing
from ironcage_core.services.leasing import refresh, return_lease, revoke_leases
from ironcage_core.services.reporting import Booked, report, report_batch
from tests.simulation.model import UNKNOWN, Booking, Books, Content, Grant, RefusedError, Terms
from tests.support.world import ADMIN, PRICES, cap_month, usage

MS = 1000
TERMS = Terms(
    default_grant=10_000,
    max_grant=50_000,
    ttl=600 * MS,
    grace=60 * MS,
    lifetime=1500 * MS,
    max_open=4,
    max_report=40_000,
)
POLICY = LeasePolicy(
    default_grant=TERMS.default_grant,
    max_grant=TERMS.max_grant,
    ttl=TERMS.ttl,
    grace=TERMS.grace,
    max_lifetime=TERMS.lifetime,
    max_open=TERMS.max_open,
    max_report=TERMS.max_report,
)

Answer: TypeAlias = tuple[object, ...]


class LeaseNo(NamedTuple):
    """A lease in an answer of the model; becomes the id the store gave it."""

    number: int


@dataclass
class Cast:
    """Who takes part, and which id the store gave to each lease of the model."""

    sealing: Sealing
    owners: list[str]
    identities: list[AgentIdentity]
    lease_ids: dict[int, str] = field(default_factory=dict)
    requests: int = 0

    def id_of(self, number: int) -> str:
        return "lease_of_nobody" if number == UNKNOWN else self.lease_ids[number]

    def new_request(self) -> str:
        # Small numbers: agents use the same request ids, which must not matter.
        self.requests += 1
        return f"req-{self.requests // 2}"


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
        """Note the id of a lease that is new to model and store."""
        if self.expected is None or not self.expected[0] == answer[0] == "granted":
            return
        _, lease, _, _, is_replay, _ = self.expected
        if isinstance(lease, LeaseNo) and not is_replay:
            self.cast.lease_ids[lease.number] = str(answer[1])

    def settled(self) -> Answer:
        """Return the model's answer in the ids of the store."""
        assert self.expected is not None
        settled = with_ids(self.expected, self.cast)
        assert isinstance(settled, tuple)
        return settled


def with_ids(value: object, cast: Cast) -> object:
    """Return a model's answer with ids in the place of lease numbers."""
    if isinstance(value, LeaseNo):
        return cast.id_of(value.number)
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

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books
        identity = cast.identities[self.agent]
        request = HandshakeRequest(requested=self.requested, runtime_id=self.runtime, ttl_s=self.ttl_s)
        ttl = None if self.ttl_s is None else self.ttl_s * MS
        return Call(
            repr(self),
            cast,
            lambda books: _told(books.handshake(identity.agent_id, self.requested, self.runtime, ttl)),
            lambda uow: _granted(handshake(uow, identity, request, sealing=cast.sealing, policy=POLICY)),
        )


@dataclass(frozen=True)
class Refresh:
    """A runtime asks for more money."""

    agent: int
    lease: Pick
    requested: int | None

    def resolve(self, cast: Cast, books: Books) -> Call:
        identity = cast.identities[self.agent]
        number = self.lease.number(books, identity.agent_id)

        def ask_model(books: Books) -> Answer:
            answer = books.refresh(identity.agent_id, number, self.requested)
            return _told(answer) if isinstance(answer, Grant) else ("denied", answer.reason, answer.remaining)

        def ask_store(uow: UnitOfWork) -> Answer:
            answer = refresh(
                uow, identity, cast.id_of(number), self.requested, sealing=cast.sealing, policy=POLICY
            )  # fmt: skip
            return (
                _granted(answer) if isinstance(answer, Granted) else ("denied", answer.reason, answer.balance.remaining)
            )

        return Call(f"{self!r} of lease {number}", cast, ask_model, ask_store)


@dataclass(frozen=True)
class Item:
    """What is reported: a new call, or one that was reported before, the same or changed in a field."""

    lease: Pick
    cost: int | Literal["all", "more than all"]
    known: int | None = None
    changed: Literal["cost", "tokens", "model", "provider"] | None = None

    def resolve(self, cast: Cast, books: Books, agent: str, before: Sequence["SettledItem"]) -> "SettledItem":
        number = self.lease.number(books, agent)
        known = [(request, record.content) for (who, request), record in books.records.items() if who == agent]
        known += [(item.request, item.content) for item in before]
        if self.known is None or not known:
            return SettledItem(number, cast.new_request(), Content(self._cost(books, number)))
        request, content = known[-1 - self.known % len(known)]
        changes: dict[str, Content] = {
            "cost": content._replace(cost=content.cost + 1),
            "tokens": content._replace(tokens=content.tokens + 1),
            "model": content._replace(model="another"),
            "provider": content._replace(provider="another"),
        }
        return SettledItem(number, request, changes[self.changed] if self.changed else content)

    def _cost(self, books: Books, number: int) -> int:
        if isinstance(self.cost, int):
            return self.cost
        held = 0 if number == UNKNOWN else books.leases[books.effective(number)].held
        return min(TERMS.max_report, held + (self.cost == "more than all"))


class SettledItem(NamedTuple):
    """A report with all its content."""

    lease: int
    request: str
    content: Content

    def as_report(self, cast: Cast) -> UsageReport:
        content = self.content
        fields = {"tokens": content.tokens, "model": content.model, "provider": content.provider}
        return usage(cast.id_of(self.lease), self.request, content.cost, **fields)


@dataclass(frozen=True)
class Report:
    """A runtime reports one call."""

    agent: int
    item: Item

    def resolve(self, cast: Cast, books: Books) -> Call:
        identity = cast.identities[self.agent]
        item = self.item.resolve(cast, books, identity.agent_id, [])

        def ask_model(books: Books) -> Answer:
            booking = books.report(identity.agent_id, *item)
            return ("booked", _told_booking(booking), booking.stop, books.remaining(identity.agent_id))

        def ask_store(uow: UnitOfWork) -> Answer:
            answer = report(uow, identity, item.as_report(cast), prices=PRICES, policy=POLICY)
            return ("booked", _booked(answer.booked), answer.stop, answer.balance.remaining)

        return Call(f"{self!r} as {item}", cast, ask_model, ask_store)


@dataclass(frozen=True)
class ReportBatch:
    """A runtime reports many calls at once."""

    agent: int
    items: tuple[Item, ...]

    def resolve(self, cast: Cast, books: Books) -> Call:
        identity = cast.identities[self.agent]
        items: list[SettledItem] = []
        for item in self.items:
            items.append(item.resolve(cast, books, identity.agent_id, items))

        def ask_model(books: Books) -> Answer:
            answers = books.report_batch(
                identity.agent_id, [(item.lease, item.request, item.content) for item in items]
            )
            told = tuple(answer if isinstance(answer, str) else _told_booking(answer) for answer in answers)
            return ("batch", told, books.remaining(identity.agent_id))

        def ask_store(uow: UnitOfWork) -> Answer:
            reports = [item.as_report(cast) for item in items]
            answer = report_batch(uow, identity, reports, prices=PRICES, policy=POLICY)
            told = tuple(
                _booked(result.booked) if result.booked else result.refusal and result.refusal.code
                for result in answer.results
            )
            return ("batch", told, answer.balance.remaining)

        return Call(f"{self!r} as {items}", cast, ask_model, ask_store)


@dataclass(frozen=True)
class Return:
    """A runtime gives a lease back; `extra` is how far its own count is from the books, None if it sends none."""

    agent: int
    lease: Pick
    extra: int | None

    def resolve(self, cast: Cast, books: Books) -> Call:
        identity = cast.identities[self.agent]
        number = self.lease.number(books, identity.agent_id)
        spent = 0 if number == UNKNOWN else books.leases[number].total_spent
        final = None if self.extra is None else spent + self.extra

        def ask_model(books: Books) -> Answer:
            answer = books.return_lease(identity.agent_id, number, final)
            return ("returned", LeaseNo(answer.lease), *answer[1:])

        def ask_store(uow: UnitOfWork) -> Answer:
            answer = return_lease(uow, identity, cast.id_of(number), final, policy=POLICY)
            assert answer.successor_id in {None, answer.lease.id}
            money = (answer.returned, answer.discrepancy)
            return ("returned", answer.lease.id, *money, answer.already_closed, answer.balance.remaining)

        return Call(f"{self!r} of lease {number} at {final}", cast, ask_model, ask_store)


@dataclass(frozen=True)
class SetAllocation:
    """An admin sets a budget, `at_spent` to exactly what is spent."""

    agent: int
    amount: int
    force: bool
    at_spent: bool = False

    def resolve(self, cast: Cast, books: Books) -> Call:
        agent = cast.identities[self.agent].agent_id
        amount = books.spent(agent) + self.amount % 2 - 1 if self.at_spent else self.amount
        return Call(
            f"{self!r} to {amount}",
            cast,
            lambda books: ("allocated", books.set_allocation(agent, amount, force=self.force)),
            lambda uow: (
                "allocated",
                set_allocation(uow, agent, amount, actor=ADMIN, force=self.force).balance.remaining,
            ),
        )


@dataclass(frozen=True)
class SetCap:
    """An admin caps what an owner's agents may cost per month, or lifts the cap."""

    owner: int
    cap: int | None

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books
        owner = cast.owners[self.owner]

        def ask_model(books: Books) -> Answer:
            books.set_cap(owner, self.cap)
            return ("capped",)

        def ask_store(uow: UnitOfWork) -> Answer:
            cap_month(uow, owner, self.cap)
            return ("capped",)

        return Call(repr(self), cast, ask_model, ask_store)


@dataclass(frozen=True)
class ChangeOwner:
    """An agent gets another owner; its old leases stay in the bank they came from."""

    agent: int
    owner: int

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books
        agent, owner = cast.identities[self.agent].agent_id, cast.owners[self.owner]

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
            lambda books: ("revoked", *map(LeaseNo, books.revoke(numbers, "manual"))),
            ask_store,
        )


@dataclass(frozen=True)
class Sweep:
    """The server looks for leases whose time is over."""

    def resolve(self, cast: Cast, books: Books) -> Call:
        del books
        return Call(repr(self), cast, lambda books: ("swept", books.sweep()), lambda uow: ("swept", sweep(uow).aged))


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
    return ("granted", LeaseNo(grant.lease), *grant[1:])


def _granted(answer: Granted) -> Answer:
    money = (answer.new_money, answer.rolled_over, answer.replayed)
    return ("granted", answer.lease.id, *money, answer.balance.remaining)


def _told_booking(booking: Booking) -> Answer:
    return (booking.duplicate, booking.cost, booking.overspent, LeaseNo(booking.lease))


def _booked(booked: Booked) -> Answer:
    return (booked.duplicate, booked.cost, booked.overspent, booked.lease.id)
