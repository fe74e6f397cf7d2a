"""The books as the contract tells them, in plain integers, to hold the real ones against.

Written from contract budget.md and analytics.md 1 and nothing else: it knows no ledger, no table and no service. The
balances of agents and banks are not kept here, they are summed from the leases whenever they are asked for, and what is
pending from the calls. Leases, values of IC tokens and budget requests are named by the order in which they came to be.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, TypeAlias

from tests.simulation.calls import FIVE_MINUTES, Account, Content, Fate, Metered, Sight, Told, uuid_of

MIN_ALLOCATION = 10_000
UNKNOWN = -1
"""The number of a lease that nobody was ever granted, and of a budget request that nobody made."""

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
DEATHS = {"ic_token_regenerated", "ic_token_revoked", "agent_deleted"}
"""Why leases are revoked together with the value they were granted under."""


class RefusedError(Exception):
    """The operation answers this code and changes nothing."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class OverSettledError(Exception):
    """A dead value reports more than its lease held; the refusal is remembered, so what time has done stays done."""


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
    settle: int
    highest_request: int
    levels: tuple[int, ...]


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
    mismatch: bool = False


class Closing(NamedTuple):
    """A return."""

    lease: int
    returned: int
    discrepancy: int
    already_closed: bool
    remaining: int


class Reserved(NamedTuple):
    """What a request to reserve is told."""

    lease: int
    amount: int
    expires_at: int
    available: int
    is_new: bool
    replayed: bool = False


class Changed(NamedTuple):
    """An allocation that was set."""

    previous: int
    allocated: int
    remaining: int


class Retry(NamedTuple):
    """The key of a request, and what its body says."""

    scope: str
    key: str
    body: str


class Limits(NamedTuple):
    """The caps of one limit: money a month, tokens a day, requests a minute."""

    month: int | None = None
    tokens: int | None = None
    requests: int | None = None


class Value(NamedTuple):
    """One value of an IC token; `until` ends its overlap with the one that replaced it."""

    agent: str
    until: int | None = None
    died_at: int | None = None
    is_killed: bool = False


class Reservation(NamedTuple):
    """What is set aside for one call."""

    lease: int
    amount: int
    status: Literal["open", "released", "committed"]
    created_at: int
    expires_at: int


class Request(NamedTuple):
    """A budget request."""

    agent: str
    requester: str
    current: int
    requested: int
    status: Literal["pending", "approved", "rejected", "cancelled"] = "pending"
    approved: int | None = None


class Alert(NamedTuple):
    """An alert as observers get it."""

    agent: str
    scope: Literal["agent", "user_month"]
    threshold: int
    crossed: tuple[int, ...]
    percentage: int
    spent: int
    limit: int
    pending: int


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
    value: int
    project: str
    key: int
    created_at: int
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
    moves: tuple[tuple[int, int], ...] = ()
    overs: tuple[tuple[int, int], ...] = ()
    """When the hold moved, and by how much."""

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
    """One agent: who pays for it, what it was given and what keeps it from more."""

    owner: str
    allocated: int
    project: str
    keys: tuple[int, ...]
    current: int | None = None
    previous: int | None = None
    runtime: Literal["idle", "running", "stopped"] = "idle"
    is_held: bool = False
    is_inactive: bool = False
    is_deleted: bool = False
    level: int = 0

    @property
    def is_hindered(self) -> bool:
        return self.is_held or self.is_inactive


@dataclass
class Books:
    """Everything money can be asked about. `now` is set by whoever drives it."""

    terms: Terms
    now: int
    agents: dict[str, Agent] = field(default_factory=dict)
    limits: dict[tuple[str, str | None], Limits] = field(default_factory=dict)
    suspended: set[str] = field(default_factory=set)
    disabled_keys: set[int] = field(default_factory=set)
    values: list[Value] = field(default_factory=list)
    reservations: dict[tuple[str, str], Reservation] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    answers: dict[tuple[str, str], tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    settlements: dict[int, tuple[int, int]] = field(default_factory=dict)
    tokens_used: Counter[tuple[str, str | None, int]] = field(default_factory=Counter)
    requests_made: Counter[tuple[str, str | None, int]] = field(default_factory=Counter)
    project_spent: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    month_levels: dict[tuple[str, str], int] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    calls: list[Metered] = field(default_factory=list)
    holders: dict[tuple[str, str], int] = field(default_factory=dict)
    """Which call of an agent a UUID stands for: the first that it named."""
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

    def pendings(self) -> Counter[int]:
        """Return what events tell of calls that no report has settled, by the open lease that stands for them."""
        sums: Counter[int] = Counter()
        for call in self.calls:
            if call.account is None and call.lease is not None and call.cost:
                number = self.effective(call.lease)
                if self.leases[number].is_open:
                    sums[number] += call.cost
        return sums

    def pending(self, agent: str) -> int:
        return sum(cost for number, cost in self.pendings().items() if self.leases[number].agent == agent)

    def cap(self, user: str, project: str | None = None) -> int | None:
        return self.limits.get((user, project), Limits()).month

    def bank_available(self, user: str) -> int | None:
        cap = self.cap(user)
        return None if cap is None else cap - self.bank_spent[user, month(self.now)] - self.bank_held(user)

    def spent_of_month(self, user: str, project: str | None) -> int:
        now = month(self.now)
        return self.bank_spent[user, now] if project is None else self.project_spent[user, project, now]

    def lent_of(self, user: str, project: str | None) -> int:
        return sum(each.held for each in self.leases if each.bank == user and project in {None, each.project})

    def reserved(self, number: int) -> int:
        return sum(each.amount for each in self.reservations.values() if each.lease == number and self.is_open(each))

    def available(self, number: int) -> int:
        """Return what a lease has left to set aside: nothing, where calls cost more than was set aside."""
        return max(0, self.leases[number].held - self.reserved(number))

    def is_open(self, reservation: Reservation) -> bool:
        return reservation.status == "open" and self.now < reservation.expires_at

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many leases, budget requests and values of IC tokens there are."""
        return len(self.leases), len(self.requests), len(self.values)

    def is_live(self, value: int) -> bool:
        known = self.values[value]
        return not known.is_killed and (known.until is None or self.now < known.until)

    def values_of(self, agent: str) -> list[int]:
        return [number for number, value in enumerate(self.values) if value.agent == agent]

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
        return replace(
            self,
            agents={name: copy(agent) for name, agent in self.agents.items()},
            leases=[copy(lease) for lease in self.leases],
            **{name: copy(getattr(self, name)) for name in COPIED},
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

    # --- operations of runtimes ----------------------------------------------

    def handshake(
        self, value: int, requested: int | None, runtime: str | None, ttl: int | None, retry: Retry | None = None
    ) -> Grant:
        with self.all_or_nothing():
            agent = self._caller(value)
            asked = self._asked(requested)
            self.advance(agent)
            self._check_may_receive(agent)
            if (done := self._known(retry)) is not None:
                return self._granted_again(done[0])
            key = self._key_of(agent)
            for number in self.open_of(agent):
                if runtime is not None and self.leases[number].runtime == runtime:
                    self._end(number, "closed", "superseded", "reclaim")
            if len(self.open_of(agent)) >= self.terms.max_open:
                raise RefusedError("TOO_MANY_LEASES")
            self._check_counted(agent)
            money = 0 if self._is_project_month_over(agent) else self._affordable(agent, asked)
            if money <= 0:
                raise RefusedError("BUDGET_EXCEEDED")
            lived = self.terms.ttl if ttl is None else min(ttl, self.terms.ttl)
            number = self._lend(value, money, 0, runtime, lived, key)
            self.agents[agent].runtime = "running"
            self.events["lease_granted"] += 1
            self._remember(retry, number)
            return Grant(number, money, 0, replayed=False, remaining=self.remaining(agent))

    def report(self, value: int, number: int, request: str, content: Content) -> Booking | None:
        """Book one call; None is the refusal that leaves a trace."""
        with self.all_or_nothing():
            agent, _ = self._settler(value)
            self.advance(agent)
            try:
                booking = self._book(value, number, request, content)
            except OverSettledError:
                return None
            if not booking.duplicate:
                self._tell(agent, {self.leases[booking.lease].bank})
            return booking

    def report_batch(self, value: int, items: Sequence[BatchItem]) -> list[Booking | str]:
        """Book what can be booked; the others answer their code."""
        agent, died_at = self._settler(value)
        own = [number for number, *_ in items if number != UNKNOWN and self.leases[number].value == value]
        if died_at is not None and not own:
            raise RefusedError("AUTH_INVALID_TOKEN")
        self.advance(agent)
        answers: list[Booking | str] = []
        for number, request, content in items:
            try:
                answers.append(self._book(value, number, request, content))
            except RefusedError as refused:
                answers.append(refused.code)
            except OverSettledError:
                answers.append("AUTH_INVALID_TOKEN")
        new = [each for each in answers if isinstance(each, Booking) and not each.duplicate]
        if new:
            self._tell(agent, {self.leases[each.lease].bank for each in new})
        return answers

    def tell(self, value: int, events: Sequence[Told], kept_for: int | None) -> list[Fate]:
        """Take in events; none of them moves money."""
        with self.all_or_nothing():
            agent = self._caller(value)
            self.advance(agent)
            fates = [self._take(agent, told, kept_for) for told in events]
            self._tell(agent, set())
            return fates

    def refresh(self, value: int, number: int, requested: int | None, retry: Retry | None = None) -> Grant | Denial:
        with self.all_or_nothing():
            agent = self._caller(value)
            asked = self._asked(requested)
            self.advance(agent)
            old = self._own(agent, number)
            if (done := self._known(retry)) is not None:
                return self._granted_again(done[0])
            if not old.is_open:
                return self._replay(old)
            self._check_may_receive(agent)
            self._check_counted(agent)
            keeps_bank = old.bank == self.agents[agent].owner
            returning = 0 if keeps_bank else old.held
            is_over = self._is_project_month_over(agent)
            money = 0 if is_over else self._affordable(agent, asked, returning)
            if money <= 0:
                self._keep_alive(old)
                is_spent = not is_over and self.remaining(agent) + returning <= 0
                reason: Literal["total_budget_exhausted", "monthly_cap_reached"] = (
                    "total_budget_exhausted" if is_spent else "monthly_cap_reached"
                )
                return Denial(reason, self.remaining(agent))
            rolled = old.held if keeps_bank else 0
            for call, each in self.reservations.items():
                if each.lease == number and self.is_open(each):
                    self.reservations[call] = each._replace(lease=len(self.leases))
            self._end(number, "closed", "refreshed", "return")
            old.successor = self._lend(value, rolled + money, rolled, old.runtime, old.ttl, old.key)
            self.events["lease_refreshed"] += 1
            self._remember(retry, old.successor)
            return Grant(old.successor, money, rolled, replayed=False, remaining=self.remaining(agent))

    def return_lease(self, value: int, number: int, final: int | None, retry: Retry | None = None) -> Closing:
        with self.all_or_nothing():
            agent, died_at = self._settler(value)
            if died_at is not None and not self._is_revoked_with(self._granted_under(value, number), died_at):
                raise RefusedError("AUTH_INVALID_TOKEN")
            if final is not None and final < 0:
                raise RefusedError("VALIDATION_ERROR")
            self.advance(agent)
            self._own(agent, number)
            if (done := self._known(retry)) is not None:
                return Closing(done[0], done[1], done[2], already_closed=False, remaining=self.remaining(agent))
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
                self._close(target, difference)
            back = lease.returned + lease.reclaimed
            if was_open:
                self._remember(retry, target, back, difference)
            return Closing(target, back, difference, not was_open, self.remaining(agent))

    def _close(self, number: int, difference: int) -> None:
        lease = self.leases[number]
        lease.found_missing = difference
        unreported = max(0, -difference)
        self._spend(lease, unreported)
        lease.unattributed += unreported
        self._end(number, "closed", "returned", "return")
        if not self.open_of(lease.agent) and self.agents[lease.agent].runtime == "running":
            self.agents[lease.agent].runtime = "stopped"
        if unreported:
            self._tell(lease.agent, {lease.bank})

    def reserve(
        self, value: int, number: int | None, request: str, amount: int, ttl: int, retry: Retry | None = None
    ) -> Reserved:
        with self.all_or_nothing():
            agent = self._caller(value)
            if not 0 <= amount <= self.terms.max_report:
                raise RefusedError("VALIDATION_ERROR")
            self.advance(agent)
            if number is not None:
                self._own(agent, number)
            done = self._known(retry)
            if done is not None and (again := self._reserved_again(agent, request, amount, *done)) is not None:
                return again
            target = self._only_lease(agent) if number is None else self.effective(number)
            if self.leases[target].status != "active":
                raise self._refusal(self.leases[target])
            known = self.reservations.get((agent, request))
            if known is not None and self.is_open(known):
                if known.amount != amount or (number is not None and known.lease != target):
                    raise RefusedError("REQUEST_ID_CONFLICT")
                return Reserved(known.lease, amount, known.expires_at, self.available(known.lease), is_new=False)
            if (agent, request) in self.records:
                raise RefusedError("ALREADY_REPORTED")
            if amount > self.available(target):
                raise RefusedError("BUDGET_EXCEEDED")
            until = self.now + ttl
            self.reservations[agent, request] = Reservation(target, amount, "open", self.now, until)
            self._remember(retry, target, until)
            return Reserved(target, amount, until, self.available(target), is_new=True)

    def cancel_reservation(self, value: int, request: str) -> int:
        with self.all_or_nothing():
            agent = self._caller(value)
            self.advance(agent)
            known = self.reservations.get((agent, request))
            if known is None:
                raise RefusedError("RESERVATION_NOT_FOUND")
            if known.status == "committed":
                raise RefusedError("ALREADY_REPORTED")
            if not self.is_open(known):
                return 0
            self.reservations[agent, request] = known._replace(status="released")
            return known.amount

    # --- operations of people ------------------------------------------------

    def open_agent(self, name: str, owner: str, allocated: int, project: str, keys: tuple[int, ...]) -> None:
        self.agents[name] = Agent(owner, allocated, project, keys)
        self._post("adjust", allocated)
        self.issue(name)

    def set_limits(self, user: str, project: str | None, limits: Limits) -> None:
        """Set all caps of a limit; a limit without any goes."""
        before = self.limits.get((user, project), Limits())
        self.limits[user, project] = limits
        if limits == before:
            return
        is_lifted = limits == Limits()
        if is_lifted and project is not None:
            return
        now = month(self.now)
        cap = self.cap(user)
        level = 0 if cap is None or is_lifted else self._level(self.bank_spent[user, now], cap)
        if level < self.month_levels.get((user, now), 0):
            self.month_levels[user, now] = level

    def suspend(self, user: str) -> None:
        if user in self.suspended:
            raise RefusedError("USER_ALREADY_SUSPENDED")
        self.suspended.add(user)

    def activate(self, user: str) -> None:
        if user not in self.suspended:
            raise RefusedError("USER_ALREADY_ACTIVE")
        self.suspended.remove(user)

    def change_owner(self, agent: str, owner: str) -> None:
        self.agents[agent].owner = owner

    def set_allocation(self, agent: str, amount: int, *, force: bool, retry: Retry | None = None) -> Changed:
        with self.all_or_nothing():
            self._live(agent)
            if (done := self._known(retry)) is not None:
                self.advance(agent)
                return Changed(done[0], done[1], self.remaining(agent))
            if amount < MIN_ALLOCATION:
                raise RefusedError("VALIDATION_ERROR")
            self.advance(agent)
            live = self.agents[agent].allocated
            if amount == live:
                raise RefusedError("BUDGET_UNCHANGED")
            if amount < live and not force:
                raise RefusedError("BUDGET_DECREASE_REQUIRES_CONFIRMATION")
            if amount < min(live, self.spent(agent)):
                raise RefusedError("BUDGET_BELOW_SPENT")
            self._adjust(agent, amount)
            self._remember(retry, live, amount)
            return Changed(live, amount, self.remaining(agent))

    def _adjust(self, agent: str, amount: int) -> None:
        self._post("adjust", amount - self.agents[agent].allocated)
        self.agents[agent].allocated = amount
        self.events["budget_changed"] += 1
        self._tell(agent, set())

    def submit(self, agent: str, user: str, amount: int, *, is_admin: bool, retry: Retry | None = None) -> int:
        live = self._live(agent)
        if not is_admin and live.owner != user:
            raise RefusedError("FORBIDDEN")
        if (done := self._known(retry)) is not None:
            return done[0]
        if not MIN_ALLOCATION <= amount <= self.terms.highest_request:
            raise RefusedError("VALIDATION_ERROR")
        if amount <= live.allocated:
            raise RefusedError("BUDGET_DECREASE_REQUEST")
        self.requests.append(Request(agent, user, live.allocated, amount))
        self.events["budget_request_created"] += 1
        self._remember(retry, len(self.requests) - 1)
        return len(self.requests) - 1

    def approve(self, number: int, amount: int | None, retry: Retry | None = None) -> tuple[int, int]:
        with self.all_or_nothing():
            request = self._request(number)
            if (done := self._known(retry)) is not None:
                return done[0], done[1]
            approved = request.requested if amount is None else amount
            if not MIN_ALLOCATION <= approved <= self.terms.highest_request:
                raise RefusedError("VALIDATION_ERROR")
            if request.status != "pending":
                raise RefusedError("REQUEST_ALREADY_REVIEWED")
            self.advance(request.agent)
            live = self.agents[request.agent].allocated
            if approved <= live:
                raise RefusedError("APPROVAL_DECREASES_BUDGET")
            self.requests[number] = request._replace(status="approved", approved=approved)
            self.events["budget_request_approved"] += 1
            self._adjust(request.agent, approved)
            self._remember(retry, live, approved)
            return live, approved

    def reject(self, number: int, retry: Retry | None = None) -> None:
        request = self._request(number)
        if self._known(retry) is not None:
            return
        if request.status != "pending":
            raise RefusedError("REQUEST_ALREADY_REVIEWED")
        self.requests[number] = request._replace(status="rejected")
        self.events["budget_request_rejected"] += 1
        self._remember(retry)

    def cancel(self, number: int, user: str, *, is_admin: bool) -> None:
        request = self._request(number)
        if not is_admin and request.requester != user:
            raise RefusedError("FORBIDDEN")
        if request.status in {"approved", "rejected"}:
            raise RefusedError("CANNOT_CANCEL_REVIEWED")
        self._cancel(number)

    def _cancel(self, number: int) -> None:
        if self.requests[number].status == "pending":
            self.requests[number] = self.requests[number]._replace(status="cancelled")
            self.events["budget_request_cancelled"] += 1

    def revoke(self, numbers: list[int], reason: str) -> list[int]:
        for number in numbers:
            self.advance(self.leases[number].agent)
        revoked = [number for number in dict.fromkeys(numbers) if self.leases[number].is_open]
        for number in revoked:
            self._end(number, "revoked", reason, "reclaim")
        return revoked

    def revoke_all(self, agent: str, reason: str, keys: set[int] | None = None) -> int:
        self.advance(agent)
        return len(
            self.revoke([n for n in self.open_of(agent) if keys is None or self.leases[n].key in keys], reason)
        )  # fmt: skip

    def stop(self, agent: str) -> int:
        live = self._live(agent)
        live.runtime, live.is_held = "stopped", True
        return self.revoke_all(agent, "agent_stopped")

    def start(self, agent: str) -> None:
        live = self._live(agent)
        if live.runtime == "stopped":
            live.runtime, live.is_held = "idle", False

    def set_status(self, agent: str, *, is_inactive: bool) -> None:
        live = self._live(agent)
        if is_inactive and not live.is_inactive:
            self.revoke_all(agent, "agent_stopped")
            live.runtime = "stopped"
        live.is_inactive = is_inactive

    def set_key(self, key: int, *, is_enabled: bool) -> None:
        if is_enabled:
            self.disabled_keys.discard(key)
        elif key not in self.disabled_keys:
            self.disabled_keys.add(key)
            lent = [number for number, lease in enumerate(self.leases) if lease.is_open and lease.key == key]
            self.revoke(lent, "provider_key_disabled")

    def assign_keys(self, agent: str, keys: tuple[int, ...]) -> None:
        live = self._live(agent)
        if self.disabled_keys & (set(keys) - set(live.keys)):
            raise RefusedError("PROVIDER_NOT_FOUND")
        lost = set(live.keys) - set(keys)
        live.keys = keys
        if lost:
            self.revoke_all(agent, "provider_key_removed", lost)

    def delete_agent(self, agent: str) -> None:
        live = self._live(agent)
        self.revoke_all(agent, "agent_deleted")
        self.revoke_token(agent)
        for number, request in enumerate(self.requests):
            if request.agent == agent:
                self._cancel(number)
        live.runtime = "stopped" if live.runtime == "running" else live.runtime
        live.keys, live.is_deleted = (), True

    def issue(self, agent: str) -> int:
        live = self._live(agent)
        if live.current is not None:
            raise RefusedError("IC_TOKEN_EXISTS")
        self.values.append(Value(agent))
        live.current, live.previous = len(self.values) - 1, None
        return live.current

    def regenerate(self, agent: str, overlap: int, *, revokes_leases: bool) -> int:
        live = self._live(agent)
        if live.current is not None:
            self._kill(live.previous)
            old = live.current
            if overlap:
                until = self.now + overlap
                self.values[old] = self.values[old]._replace(until=until, died_at=until)
            else:
                self._kill(old)
            live.current = None
            new = self.issue(agent)
            live.previous = old if overlap else None
        else:
            new = self.issue(agent)
        if revokes_leases:
            self.revoke_all(agent, "ic_token_regenerated")
        return new

    def revoke_token(self, agent: str) -> bool:
        known = self.agents[agent]
        if known.current is None:
            return False
        self._kill(known.previous)
        self._kill(known.current)
        known.current = known.previous = None
        self.revoke_all(agent, "ic_token_revoked")
        return True

    def _kill(self, value: int | None) -> None:
        """End a value for good; one that died before keeps the time of its death."""
        if value is not None:
            known = self.values[value]
            died_at = known.died_at if known.died_at is not None and known.died_at <= self.now else self.now
            self.values[value] = known._replace(died_at=died_at, is_killed=True)

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
        rest, pending = lease.held, self.pendings()[number]
        if back == "return":
            lease.returned += rest
        else:
            lease.reclaimed += rest
        self._post(back, rest)
        lease.moves = (*lease.moves, (self.now, -rest))
        for call, each in self.reservations.items():
            if each.lease == number and self.is_open(each):
                self.reservations[call] = each._replace(status="released")
        lease.status, lease.reason = status, reason
        lease.closed_at = self.now if at is None else at
        if pending and reason != "refreshed":  # nobody is told that levels are not reached any more
            agent = self.agents[lease.agent]
            used = self.spent(lease.agent) + self.pending(lease.agent)
            agent.level = min(agent.level, self._level(used, agent.allocated))
        self.events[f"lease_{status}"] += 1

    def _lend(self, value: int, money: int, rolled: int, runtime: str | None, ttl: int, key: int) -> int:
        until = self.now + self.terms.lifetime
        name = self.values[value].agent
        agent = self.agents[name]
        expires_at = min(self.now + ttl, until)
        self.leases.append(
            Lease(
                name, agent.owner, runtime, ttl, until, expires_at, money,
                value, agent.project, key, self.now, rolled_over=rolled, moves=((self.now, money),),
            )
        )  # fmt: skip
        self._post("grant", money)
        self._count(agent.owner, agent.project, requests=1)
        return len(self.leases) - 1

    def _count(self, user: str, project: str, *, requests: int, tokens: int = 0) -> None:
        for each in (None, project):
            self.requests_made[user, each, self.now // MINUTE] += requests
            self.tokens_used[user, each, self.now // DAY] += tokens

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

    def _live(self, agent: str) -> Agent:
        if self.agents[agent].is_deleted:
            raise RefusedError("AGENT_NOT_FOUND")
        return self.agents[agent]

    def _request(self, number: int) -> Request:
        if number == UNKNOWN:
            raise RefusedError("REQUEST_NOT_FOUND")
        return self.requests[number]

    def _caller(self, value: int) -> str:
        if not self.is_live(value):
            raise RefusedError("AUTH_INVALID_TOKEN")
        return self.values[value].agent

    def _settler(self, value: int) -> tuple[str, int | None]:
        """Return the agent of a value that lives or may still settle, and when it died."""
        known = self.values[value]
        if self.is_live(value):
            return known.agent, None
        if known.died_at is None or not 0 <= self.now - known.died_at <= self.terms.settle:
            raise RefusedError("AUTH_INVALID_TOKEN")
        return known.agent, known.died_at

    def _granted_under(self, value: int, number: int) -> Lease:
        if number == UNKNOWN or self.leases[number].value != value:
            raise RefusedError("AUTH_INVALID_TOKEN")
        return self.leases[number]

    def _is_revoked_with(self, lease: Lease, died_at: int) -> bool:
        return lease.status == "revoked" and lease.reason in DEATHS and (lease.closed_at or 0) <= died_at

    def _settle(self, value: int, number: int, cost: int, died_at: int) -> None:
        """Count what a dead value settles, up to what the lease held when the value died.

        What a refresh took along to a lease of a newer value counts there as well, once that value is dead too.
        """
        counted = {}
        death: int | None = died_at
        while death is not None and death <= self.now:
            while (successor := self.leases[number].successor) is not None and self.leases[successor].value == value:
                number = successor
            allowance, settled = self.settlements.get(number, (self._held_at(self.leases[number], death), 0))
            if settled + cost > allowance:
                raise OverSettledError
            counted[number] = (allowance, settled + cost)
            if successor is None:
                break
            number, value = successor, self.leases[successor].value
            death = self.values[value].died_at
        self.settlements.update(counted)

    def _held_at(self, lease: Lease, died_at: int) -> int:
        """Return what a lease held when its value died, or before it was revoked, if that was earlier."""
        if lease.closed_at is None or lease.closed_at > died_at:
            return sum(change for at, change in lease.moves if at <= died_at)
        if lease.status != "revoked":
            return 0
        return max(0, lease.reclaimed - sum(over for at, over in lease.overs if at <= died_at))

    def _check_may_receive(self, agent: str) -> None:
        if self.agents[agent].is_hindered:
            raise RefusedError("AGENT_INACTIVE")
        if self.agents[agent].owner in self.suspended:
            raise RefusedError("OWNER_SUSPENDED")

    def _key_of(self, agent: str) -> int:
        for key in self.agents[agent].keys:
            if key not in self.disabled_keys:
                return key
        raise RefusedError("NO_PROVIDER_ASSIGNED")

    def _check_counted(self, agent: str) -> None:
        owner = self.agents[agent].owner
        for project in (None, self.agents[agent].project):
            limits = self.limits.get((owner, project), Limits())
            used = self.tokens_used[owner, project, self.now // DAY]
            made = self.requests_made[owner, project, self.now // MINUTE]
            if limits.tokens is not None and used >= limits.tokens:
                raise RefusedError("USAGE_LIMIT_EXCEEDED")
            if limits.requests is not None and made >= limits.requests:
                raise RefusedError("USAGE_LIMIT_EXCEEDED")

    def _is_project_month_over(self, agent: str) -> bool:
        owner, project = self.agents[agent].owner, self.agents[agent].project
        cap = self.cap(owner, project)
        return cap is not None and self.spent_of_month(owner, project) + self.lent_of(owner, project) >= cap

    def _only_lease(self, agent: str) -> int:
        active = [number for number in self.open_of(agent) if self.leases[number].status == "active"]
        if not active:
            raise RefusedError("NO_ACTIVE_LEASE")
        if len(active) > 1:
            raise RefusedError("VALIDATION_ERROR")
        return active[0]

    def _known(self, retry: Retry | None) -> tuple[int, ...] | None:
        """Return what the first request with this key did."""
        if retry is None or (retry.scope, retry.key) not in self.answers:
            return None
        body, result = self.answers[retry.scope, retry.key]
        if body != retry.body:
            raise RefusedError("IDEMPOTENCY_KEY_REUSED")
        return result

    def _remember(self, retry: Retry | None, *result: int) -> None:
        if retry is not None:
            self.answers[retry.scope, retry.key] = (retry.body, result)

    def _level(self, spent: int, limit: int) -> int:
        return max((level for level in self.terms.levels if spent > 0 and level * limit <= spent * 100), default=0)

    def _tell(self, agent: str, banks: set[str]) -> None:
        """Alert of the levels that are reached and were not before."""
        known = self.agents[agent]
        spent, pending = self.spent(agent), self.pending(agent)
        known.level = self._alert(agent, "agent", known.level, spent, known.allocated, pending)
        now = month(self.now)
        for user in sorted(banks):
            cap = self.cap(user)
            if cap is not None:
                before = self.month_levels.get((user, now), 0)
                self.month_levels[user, now] = self._alert(
                    agent, "user_month", before, self.bank_spent[user, now], cap
                )  # fmt: skip

    def _alert(
        self, agent: str, scope: Literal["agent", "user_month"], before: int, spent: int, limit: int, pending: int = 0
    ) -> int:
        used = spent + pending
        level = self._level(used, limit)
        if level > before:
            crossed = tuple(each for each in self.terms.levels if before < each <= level)
            self.alerts.append(Alert(agent, scope, level, crossed, used * 100 // limit, spent, limit, pending))
        return level

    def _refusal(self, lease: Lease) -> RefusedError:
        if lease.status == "revoked":
            return RefusedError("LEASE_REVOKED")
        return RefusedError("LEASE_EXPIRED" if "expired" in {lease.status, lease.reason} else "LEASE_CLOSED")

    def _check_open(self, lease: Lease) -> None:
        if not lease.is_open:
            raise self._refusal(lease)

    def _granted_again(self, number: int) -> Grant:
        lease = self.leases[number]
        self._check_open(lease)
        money = lease.granted - lease.rolled_over
        return Grant(number, money, lease.rolled_over, replayed=True, remaining=self.remaining(lease.agent))

    def _reserved_again(self, agent: str, request: str, amount: int, number: int, until: int) -> Reserved | None:
        """Return what a key has set aside, or None where it is to be judged anew."""
        lease, first = self.effective(number), self.reservations.get((agent, request))
        if first is not None and self.is_open(first) and (first.amount, first.expires_at) == (amount, until):
            return Reserved(lease, amount, until, self.available(lease), is_new=True, replayed=True)
        if (agent, request) in self.records:
            raise RefusedError("ALREADY_REPORTED")
        self._check_open(self.leases[lease])
        return None

    def _replay(self, old: Lease) -> Grant:
        number = old.successor
        if number is None or not self.leases[number].is_open or self._is_used(number):
            raise self._refusal(old)
        return self._granted_again(number)

    def _is_used(self, number: int) -> bool:
        """Tell whether a call was made or begun on a lease; what the refresh took along was begun before."""
        lease = self.leases[number]
        reserved = [each for each in self.reservations.values() if each.lease == number and self.is_open(each)]
        return lease.reports > 0 or any(each.created_at >= lease.created_at for each in reserved)

    def _book(self, value: int, number: int, request: str, content: Content) -> Booking:
        agent, died_at = self._settler(value)
        if died_at is not None:
            self._granted_under(value, number)
        if not 0 <= content.cost <= self.terms.max_report:
            raise RefusedError("VALIDATION_ERROR")
        self._own(agent, number)
        known = self.records.get((agent, request))
        if known is not None:
            if known.content._replace(split=None) != content._replace(split=None):  # all tokens count, not their kinds
                raise RefusedError("REQUEST_ID_CONFLICT")
            stop = self._must_stop(known.lease)
            return Booking(duplicate=True, cost=content.cost, overspent=known.overspent, lease=known.lease, stop=stop)
        if died_at is not None:
            self._settle(value, number, content.cost, died_at)
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
        if (agent, request) in self.reservations:
            self.reservations[agent, request] = self.reservations[agent, request]._replace(status="committed")
        self._count(lease.bank, self.agents[agent].project, requests=1, tokens=content.tokens)
        call = self._account(agent, Account(request, content, self.now, target, lease.bank, lease.key, uncovered))
        stop = self._must_stop(target)
        return Booking(
            duplicate=False, cost=content.cost, overspent=uncovered, lease=target, stop=stop, mismatch=call.mismatch
        )

    # --- calls ---------------------------------------------------------------

    def _take(self, agent: str, told: Told, kept_for: int | None) -> Fate:
        if told.is_bad:
            return Fate("rejected", "VALIDATION_ERROR")
        if kept_for is not None and told.at < self.now - kept_for:
            return Fate("rejected", "EVENT_TOO_OLD")
        if any(call.was_told_by(told.name) for _, call in self._calls_of(agent)):
            return Fate("duplicate")
        place = self._told_of(agent, told)
        if place is not None and not self.calls[place].is_completed_by(told):
            return Fate("duplicate")
        at = told.at if told.at <= self.now + FIVE_MINUTES else self.now
        sight = Sight(told, at, self._stamp(agent, told), self._key_told(agent, told))
        if place is None:
            place = self._open_call(agent, told.request or told.name)
            self.events["llm_call" if told.is_completed else "llm_call_failed"] += 1
        call = self.calls[place]
        self.calls[place] = call = call._replace(sights=(*call.sights, sight))
        if told.request is None:
            self._hold(agent, told.name, place)
        return Fate("accepted", None, told.is_completed and call.mismatch)

    def _account(self, agent: str, account: Account) -> Metered:
        place = self._named(agent, account.request)
        if place is None:
            held = self._held_by(agent, account.request)
            place = held if held is not None and self.calls[held].request is None else None
        if place is None:
            place = self._open_call(agent, account.request)
            self.events["llm_call"] += 1
        self.calls[place] = self.calls[place]._replace(account=account)
        self._hold(agent, account.request, place)
        return self.calls[place]

    def _calls_of(self, agent: str) -> list[tuple[int, Metered]]:
        return [(place, call) for place, call in enumerate(self.calls) if call.agent == agent]

    def _told_of(self, agent: str, told: Told) -> int | None:
        """Return the call that an event tells of: the one with its name, or a report with its UUID."""
        place = self._named(agent, told.request or told.name)
        if place is None and told.request is None:
            held = self._held_by(agent, told.name)
            place = held if held is not None and self.calls[held].account else None
        return place

    def _named(self, agent: str, request: str) -> int | None:
        return next((place for place, call in self._calls_of(agent) if call.is_named(request)), None)

    def _held_by(self, agent: str, name: str) -> int | None:
        return self.holders.get((agent, uuid_of(name) or ""))

    def _hold(self, agent: str, name: str, place: int) -> None:
        uuid = uuid_of(name)
        if uuid is not None:
            self.holders.setdefault((agent, uuid), place)

    def _open_call(self, agent: str, name: str) -> int:
        known = self.agents[agent]
        key = "trace" if any(call.key == name for _, call in self._calls_of(agent)) else name
        self.calls.append(Metered(agent, known.owner, known.project, key, self.now))
        return len(self.calls) - 1

    def _stamp(self, agent: str, told: Told) -> int | None:
        if told.lease not in {None, UNKNOWN} and self.leases[told.lease or 0].agent == agent:
            return told.lease
        active = [number for number in self.open_of(agent) if self.leases[number].status == "active"]
        return active[0] if len(active) == 1 else None

    def _key_told(self, agent: str, told: Told) -> str | int | None:
        keys = self.agents[agent].keys
        if told.provider_id is not None:
            return told.provider_id
        return keys[0] if told.provider == "openai" and len(keys) == 1 else None

    def _spend(self, lease: Lease, cost: int) -> int:
        """Charge the hold as far as it reaches and return the rest, which is overspent."""
        covered = min(cost, lease.held)
        lease.spent += covered
        lease.overspent += cost - covered
        lease.moves = (*lease.moves, (self.now, -covered))
        lease.overs = (*lease.overs, (self.now, cost - covered))
        self.bank_spent[lease.bank, month(self.now)] += cost
        self.project_spent[lease.bank, lease.project, month(self.now)] += cost
        self._post("spend", covered)
        self._post("overspend", cost - covered)
        return cost - covered

    def _keep_alive(self, lease: Lease) -> None:
        if lease.status == "active":
            # A clock that was set back takes no time away.
            lease.expires_at = max(lease.expires_at, min(self.now + lease.ttl, lease.lives_until))

    def _must_stop(self, number: int) -> bool:
        lease = self.leases[self.effective(number)]
        return lease.status != "active" or lease.held == 0 or self.agents[lease.agent].is_hindered

    def _post(self, kind: str, amount: int) -> None:
        if amount:
            self.entries[kind] += 1


COPIED = (
    "limits", "suspended", "disabled_keys", "values", "reservations", "requests", "answers", "settlements",
    "tokens_used", "requests_made", "project_spent", "month_levels", "alerts", "records", "calls", "holders",
    "bank_spent", "entries", "events",
)  # fmt: skip
"""What books of their own have of their own, besides agents and leases; what is in it never changes."""


def month(instant: int) -> str:
    """Return the UTC month that pays for what is posted now."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=instant)
    return f"{moment.year:04d}-{moment.month:02d}"
