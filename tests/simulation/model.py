"""The books as the contract tells them, in plain integers, to hold the real ones against.

Written from contract budget.md sections 1 to 3 and nothing else: it knows no ledger, no table and no service. The
balances of agents and banks are not kept here, they are summed from the leases whenever they are asked for.
Leases are named by the order in which they were granted.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

MIN_ALLOCATION = 10_000
UNKNOWN = -1
"""The number of a lease that nobody was ever granted."""


class RefusedError(Exception):
    """The operation answers this code and changes nothing."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Terms:
    """What an operator may set; micro-USD and milliseconds."""

    default_grant: int
    max_grant: int
    ttl: int
    grace: int
    lifetime: int
    max_open: int
    max_report: int


class Grant(NamedTuple):
    """A handshake or a refresh that lent money."""

    lease: int
    new_money: int
    rolled_over: int
    replayed: bool
    remaining: int


class Denial(NamedTuple):
    """A refresh that lent none."""

    reason: Literal["total_budget_exhausted", "monthly_cap_reached"]
    remaining: int


class Booking(NamedTuple):
    """A report that is in the books."""

    duplicate: bool
    cost: int
    overspent: int
    lease: int
    stop: bool


class Closing(NamedTuple):
    """A return."""

    lease: int
    returned: int
    discrepancy: int
    already_closed: bool
    remaining: int


class Content(NamedTuple):
    """What a report says of a call, besides its lease and its request id."""

    cost: int
    tokens: int = 100
    model: str = "gpt-test"
    provider: str = "openai"


class Record(NamedTuple):
    """A report as it was accepted."""

    content: Content
    lease: int
    overspent: int


BatchItem: TypeAlias = tuple[int, str, Content]
"""Lease, request id, content."""


@dataclass
class Lease:
    """One lease; every number is what the contract's table of effects adds up to."""

    agent: str
    bank: str
    runtime: str | None
    ttl: int
    lives_until: int
    expires_at: int
    granted: int
    rolled_over: int = 0
    spent: int = 0
    overspent: int = 0
    returned: int = 0
    reclaimed: int = 0
    unattributed: int = 0
    found_missing: int = 0
    reports: int = 0
    status: Literal["active", "expired", "closed", "revoked"] = "active"
    reason: str | None = None
    expired_at: int | None = None
    closed_at: int | None = None
    successor: int | None = None

    @property
    def held(self) -> int:
        return self.granted - self.spent - self.returned - self.reclaimed

    @property
    def total_spent(self) -> int:
        return self.spent + self.overspent

    @property
    def is_open(self) -> bool:
        return self.status in {"active", "expired"}


@dataclass
class Agent:
    """One agent: who pays for it and what it was given."""

    owner: str
    allocated: int


@dataclass
class Books:
    """Everything money can be asked about. `now` is set by whoever drives it."""

    terms: Terms
    now: int
    agents: dict[str, Agent] = field(default_factory=dict)
    caps: dict[str, int | None] = field(default_factory=dict)
    leases: list[Lease] = field(default_factory=list)
    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    bank_spent: Counter[tuple[str, str]] = field(default_factory=Counter)
    entries: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    # --- sums --------------------------------------------------------------

    def spent(self, agent: str) -> int:
        return sum(lease.total_spent for lease in self.leases if lease.agent == agent)

    def overspent(self, agent: str) -> int:
        return sum(lease.overspent for lease in self.leases if lease.agent == agent)

    def held(self, agent: str) -> int:
        return sum(lease.held for lease in self.leases if lease.agent == agent)

    def remaining(self, agent: str) -> int:
        return self.agents[agent].allocated - self.spent(agent) - self.held(agent)

    def bank_held(self, user: str) -> int:
        return sum(lease.held for lease in self.leases if lease.bank == user)

    def bank_available(self, user: str) -> int | None:
        cap = self.caps.get(user)
        return None if cap is None else cap - self.bank_spent[user, month(self.now)] - self.bank_held(user)

    def open_of(self, agent: str) -> list[int]:
        return [number for number, lease in enumerate(self.leases) if lease.agent == agent and lease.is_open]

    def effective(self, number: int) -> int:
        while (successor := self.leases[number].successor) is not None:
            number = successor
        return number

    def due_at(self, number: int) -> int | None:
        """Return when time alone next changes the lease."""
        lease = self.leases[number]
        if lease.status == "active":
            return lease.expires_at
        if lease.status == "expired" and lease.expired_at is not None:
            return lease.expired_at + self.terms.grace
        return None

    # --- all or nothing ----------------------------------------------------

    def copy(self) -> "Books":
        """Return books of their own with the same content."""
        return Books(
            self.terms,
            self.now,
            {name: copy(agent) for name, agent in self.agents.items()},
            dict(self.caps),
            [copy(lease) for lease in self.leases],
            dict(self.records),
            Counter(self.bank_spent),
            Counter(self.entries),
            Counter(self.events),
        )

    def restore(self, before: "Books") -> None:
        """Take over the content of other books."""
        self.__dict__.update(before.copy().__dict__)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo the block if it is refused (I8)."""
        before = self.copy()
        try:
            yield
        except RefusedError:
            self.restore(before)
            raise

    # --- operations --------------------------------------------------------

    def open_agent(self, name: str, owner: str, allocated: int) -> None:
        self.agents[name] = Agent(owner, allocated)
        self._post("adjust", allocated)

    def set_cap(self, user: str, cap: int | None) -> None:
        self.caps[user] = cap

    def change_owner(self, agent: str, owner: str) -> None:
        self.agents[agent].owner = owner

    def handshake(self, agent: str, requested: int | None, runtime: str | None, ttl: int | None) -> Grant:
        with self.all_or_nothing():
            asked = self._asked(requested)
            self.advance(agent)
            for number in self.open_of(agent):
                if runtime is not None and self.leases[number].runtime == runtime:
                    self._end(number, "closed", "superseded", "reclaim")
            if len(self.open_of(agent)) >= self.terms.max_open:
                raise RefusedError("TOO_MANY_LEASES")
            money = self._affordable(agent, asked)
            if money <= 0:
                raise RefusedError("BUDGET_EXCEEDED")
            lived = self.terms.ttl if ttl is None else min(ttl, self.terms.ttl)
            number = self._lend(agent, money, 0, runtime, lived)
            self.events["lease_granted"] += 1
            return Grant(number, money, 0, replayed=False, remaining=self.remaining(agent))

    def report(self, agent: str, number: int, request: str, content: Content) -> Booking:
        with self.all_or_nothing():
            self.advance(agent)
            return self._book(agent, number, request, content)

    def report_batch(self, agent: str, items: Sequence[BatchItem]) -> list[Booking | str]:
        """Book what can be booked; the others answer their code."""
        self.advance(agent)
        answers: list[Booking | str] = []
        for number, request, content in items:
            try:
                answers.append(self._book(agent, number, request, content))
            except RefusedError as refused:
                answers.append(refused.code)
        return answers

    def refresh(self, agent: str, number: int, requested: int | None) -> Grant | Denial:
        with self.all_or_nothing():
            asked = self._asked(requested)
            self.advance(agent)
            old = self._own(agent, number)
            if not old.is_open:
                return self._replay(old)
            keeps_bank = old.bank == self.agents[agent].owner
            returning = 0 if keeps_bank else old.held
            money = self._affordable(agent, asked, returning)
            if money <= 0:
                self._keep_alive(old)
                is_spent = self.remaining(agent) + returning <= 0
                reason: Literal["total_budget_exhausted", "monthly_cap_reached"] = (
                    "total_budget_exhausted" if is_spent else "monthly_cap_reached"
                )
                return Denial(reason, self.remaining(agent))
            rolled = old.held if keeps_bank else 0
            self._end(number, "closed", "refreshed", "return")
            old.successor = self._lend(agent, rolled + money, rolled, old.runtime, old.ttl)
            self.events["lease_refreshed"] += 1
            return Grant(old.successor, money, rolled, replayed=False, remaining=self.remaining(agent))

    def return_lease(self, agent: str, number: int, final: int | None) -> Closing:
        with self.all_or_nothing():
            if final is not None and final < 0:
                raise RefusedError("VALIDATION_ERROR")
            self.advance(agent)
            self._own(agent, number)
            target = self.effective(number)
            lease = self.leases[target]
            was_open = lease.is_open
            difference = 0
            if final is not None and target == number:
                answered_before = lease.reason == "returned"
                difference = lease.found_missing if answered_before else lease.total_spent - final
            if was_open and -difference > self.terms.max_report:
                raise RefusedError("VALIDATION_ERROR")
            if was_open:
                lease.found_missing = difference
                unreported = max(0, -difference)
                self._spend(lease, unreported)
                lease.unattributed += unreported
                self._end(target, "closed", "returned", "return")
            back = lease.returned + lease.reclaimed
            return Closing(target, back, difference, not was_open, self.remaining(agent))

    def set_allocation(self, agent: str, amount: int, *, force: bool) -> int:
        with self.all_or_nothing():
            if amount < MIN_ALLOCATION:
                raise RefusedError("VALIDATION_ERROR")
            self.advance(agent)
            live = self.agents[agent].allocated
            if amount == live:
                raise RefusedError("BUDGET_UNCHANGED")
            if amount < self.spent(agent):
                raise RefusedError("BUDGET_BELOW_SPENT")
            if amount < live and not force:
                raise RefusedError("BUDGET_DECREASE_REQUIRES_CONFIRMATION")
            self.agents[agent].allocated = amount
            self._post("adjust", amount - live)
            self.events["budget_changed"] += 1
            return self.remaining(agent)

    def revoke(self, numbers: list[int], reason: str) -> list[int]:
        for number in numbers:
            self.advance(self.leases[number].agent)
        revoked = [number for number in dict.fromkeys(numbers) if self.leases[number].is_open]
        for number in revoked:
            self._end(number, "revoked", reason, "reclaim")
        return revoked

    def sweep(self) -> int:
        return sum(self.advance(agent) for agent in self.agents)

    def advance(self, agent: str) -> int:
        """Apply what time has done to the agent's leases and return how many it changed."""
        return sum(self._age(number) for number in self.open_of(agent))

    # --- parts -------------------------------------------------------------

    def _age(self, number: int) -> bool:
        lease = self.leases[number]
        before = lease.status
        if lease.status == "active" and self.now >= lease.expires_at:
            self._expire(lease, "ttl", lease.expires_at)
        if lease.status == "expired" and lease.expired_at is not None:
            over = lease.expired_at + self.terms.grace
            if self.now >= over:
                self._end(number, "closed", "expired", "reclaim", at=over)
        return lease.status != before

    def _expire(self, lease: Lease, reason: str, at: int) -> None:
        lease.status, lease.reason, lease.expired_at = "expired", reason, at
        self.events["lease_expired"] += 1

    def _end(
        self,
        number: int,
        status: Literal["closed", "revoked"],
        reason: str,
        back: Literal["return", "reclaim"],
        at: int | None = None,
    ) -> None:
        lease = self.leases[number]
        rest = lease.held
        if back == "return":
            lease.returned += rest
        else:
            lease.reclaimed += rest
        self._post(back, rest)
        lease.status, lease.reason = status, reason
        lease.closed_at = self.now if at is None else at
        self.events[f"lease_{status}"] += 1

    def _lend(self, agent: str, money: int, rolled: int, runtime: str | None, ttl: int) -> int:
        until = self.now + self.terms.lifetime
        owner = self.agents[agent].owner
        lease = Lease(agent, owner, runtime, ttl, until, min(self.now + ttl, until), money, rolled_over=rolled)
        self.leases.append(lease)
        self._post("grant", money)
        return len(self.leases) - 1

    def _asked(self, requested: int | None) -> int:
        if requested is None:
            return self.terms.default_grant
        if not 0 < requested <= self.terms.max_grant:
            raise RefusedError("VALIDATION_ERROR")
        return requested

    def _affordable(self, agent: str, asked: int, returning: int = 0) -> int:
        limits = [asked, self.remaining(agent) + returning]
        available = self.bank_available(self.agents[agent].owner)
        if available is not None:
            limits.append(available)
        return min(limits)

    def _own(self, agent: str, number: int) -> Lease:
        if number == UNKNOWN:
            raise RefusedError("LEASE_NOT_FOUND")
        lease = self.leases[number]
        if lease.agent != agent:
            raise RefusedError("FORBIDDEN")
        return lease

    def _replay(self, old: Lease) -> Grant:
        if old.successor is not None:
            successor = self.leases[old.successor]
            if successor.is_open and not successor.reports:
                money = successor.granted - successor.rolled_over
                remaining = self.remaining(old.agent)
                return Grant(old.successor, money, successor.rolled_over, replayed=True, remaining=remaining)
        if old.status == "revoked":
            raise RefusedError("LEASE_REVOKED")
        raise RefusedError("LEASE_EXPIRED" if old.reason == "expired" else "LEASE_CLOSED")

    def _book(self, agent: str, number: int, request: str, content: Content) -> Booking:
        if not 0 <= content.cost <= self.terms.max_report:
            raise RefusedError("VALIDATION_ERROR")
        self._own(agent, number)
        known = self.records.get((agent, request))
        if known is not None:
            if known.content != content:
                raise RefusedError("REQUEST_ID_CONFLICT")
            stop = self._must_stop(known.lease)
            return Booking(duplicate=True, cost=content.cost, overspent=known.overspent, lease=known.lease, stop=stop)
        target = self.effective(number)
        lease = self.leases[target]
        settled = min(content.cost, lease.unattributed)
        lease.unattributed -= settled
        uncovered = self._spend(lease, content.cost - settled)
        if lease.status == "active":
            if lease.held == 0:
                self._expire(lease, "exhausted", self.now)
            else:
                self._keep_alive(lease)
        lease.reports += 1
        self.records[agent, request] = Record(content, target, uncovered)
        self.events["llm_call"] += 1
        return Booking(
            duplicate=False, cost=content.cost, overspent=uncovered, lease=target, stop=self._must_stop(target)
        )

    def _spend(self, lease: Lease, cost: int) -> int:
        """Charge the hold as far as it reaches and return the rest, which is overspent."""
        covered = min(cost, lease.held)
        lease.spent += covered
        lease.overspent += cost - covered
        self.bank_spent[lease.bank, month(self.now)] += cost
        self._post("spend", covered)
        self._post("overspend", cost - covered)
        return cost - covered

    def _keep_alive(self, lease: Lease) -> None:
        if lease.status == "active":
            # A clock that was set back takes no time away.
            lease.expires_at = max(lease.expires_at, min(self.now + lease.ttl, lease.lives_until))

    def _must_stop(self, number: int) -> bool:
        lease = self.leases[number]
        return lease.status != "active" or lease.held == 0

    def _post(self, kind: str, amount: int) -> None:
        if amount:
            self.entries[kind] += 1


def month(instant: int) -> str:
    """Return the UTC month that pays for what is posted now."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=instant)
    return f"{moment.year:04d}-{moment.month:02d}"
