"""The sequential specification: what one request at a time would be answered, as a pure function of a state.

The rules of money are those of the simulation's model; here they are only stepped, and named as answers name them.
A state is never changed once it was made. Time stands still: leases outlive every run, and no run meets a month's end.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.history.operations import Answer, Opening, Request
from tests.simulation.calls import Account, Content, Metered
from tests.simulation.model import UNKNOWN, Books, Closing, Grant, Limits, RefusedError, Retry, Terms

NEVER = 10**12
MAX_OPEN = 6
TERMS = Terms(
    default_grant=10_000_000, max_grant=1_000_000_000, ttl=NEVER, grace=NEVER, lifetime=NEVER, max_open=MAX_OPEN,
    max_report=1_000_000_000, settle=0, highest_request=10_000_000_000, levels=(),
)  # fmt: skip

LEASE_FIELDS = ("lease", "charged", "successor")
"""Fields of answers that name a lease: by its id where a server said it, by its number where a state does."""

TOLD_OF_LEASES = (
    "agent", "runtime", "status", "reason", "successor", "granted", "rolled_over", "spent", "overspent", "returned",
    "reclaimed", "unattributed", "found_missing", "reports",
)  # fmt: skip
"""What of a lease can change an answer."""


@dataclass
class Money(Books):
    """The model without what no answer here tells of: alerts, events of calls, undoing in place."""

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        yield  # whoever steps drops the copy of a refusal

    def pendings(self) -> Any:  # noqa: ANN401 - as the model has it
        return {}.fromkeys(range(len(self.leases)), 0)

    def _tell(self, agent: str, banks: set[str]) -> None:
        pass

    def _account(self, agent: str, account: Account) -> Metered:
        return Metered(agent, account.bank, "", account.request, account.at)


@dataclass(frozen=True)
class State:
    """The books between two operations, and which lease has which id; not everybody was told of every lease."""

    books: Money
    numbers: Mapping[str, int]

    @property
    def mark(self) -> int:
        """A hash of all that can change an answer."""
        books, numbers = self.books, frozenset(self.numbers.items())
        leases = tuple(tuple(getattr(each, name) for name in TOLD_OF_LEASES) for each in books.leases)
        allocated = tuple(agent.allocated for agent in books.agents.values())
        records = frozenset((name, each.lease, each.overspent) for (_, name), each in books.records.items())
        return hash((numbers, leases, allocated, records, frozenset(books.answers.items())))


def opened(opening: Opening) -> State:
    """Return the state before the first operation."""
    books = Money(TERMS, int(datetime.now(UTC).timestamp() * 1000))
    for agent, allocated in opening.allocated.items():
        books.open_agent(agent, opening.owner, allocated, "project", (0,))
    books.limits[opening.owner, None] = Limits(month=opening.cap)
    return State(books, {})


def step(state: State, request: Request, answer: Answer | None) -> State | None:
    """Return the state behind a request, or None if a serial execution would have answered something else.

    Args:
        state: The state before it; it stays as it is.
        request: What was asked.
        answer: What the client was told; None if nothing, which every answer fits.
    """
    after, expected = perform(state, request)
    if answer is None:
        return after
    if request.kind == "books":
        return after if _holds(state, answer) else None
    return _named(after, expected, answer)


def perform(state: State, request: Request) -> tuple[State, Answer]:
    """Carry out a request and return the state behind it with the answer, in which leases go by their numbers."""
    if request.kind == "books":
        return state, {}
    books = state.books.copy()
    assert isinstance(books, Money)
    number = state.numbers.get(request.lease or "", UNKNOWN)
    try:
        answer = _ANSWERS[request.kind](books, state, request, number)
    except RefusedError as refused:
        return state, {"refused": refused.code, **_shortage(books, request.agent, refused.code)}
    return (state if request.kind == "budget" else State(books, state.numbers)), answer


def _named(state: State, expected: Answer, answer: Answer) -> State | None:
    """Hold an answer against the expected one; where it names a lease for the first time, that is its id."""
    numbers = dict(state.numbers)
    if expected.keys() != answer.keys():
        return None
    for field, value in expected.items():
        told = answer[field]
        if field in LEASE_FIELDS and isinstance(value, int) and isinstance(told, str):
            if told not in numbers and value not in numbers.values():
                numbers[told] = value
            if numbers.get(told) != value:
                return None
        elif told != value:
            return None
    return State(state.books, numbers)


def _retry(request: Request, scope: str) -> Retry | None:
    return None if request.key is None else Retry(scope, request.key, repr(request._replace(key=None)))


def _is_replay(state: State, retry: Retry | None) -> bool:
    return retry is not None and (retry.scope, retry.key) in state.books.answers


def _value(books: Money, agent: str) -> int:
    current = books.agents[agent].current
    assert current is not None
    return current


def _sums(books: Money, agent: str) -> dict[str, object]:
    allocated, spent, remaining = books.agents[agent].allocated, books.spent(agent), books.remaining(agent)
    return {"allocated": allocated, "spent": spent, "remaining": remaining}


def _shortage(books: Money, agent: str, code: str) -> Answer:
    """Tell which brake a refusal for want of money names, with its numbers."""
    if code != "BUDGET_EXCEEDED":
        return {}
    sums, owner = _sums(books, agent), books.agents[agent].owner
    if books.remaining(agent) <= 0:
        told = {"spent": sums["spent"], "limit": sums["allocated"], "held": books.held(agent)}
        return {"scope": "agent", **told, "remaining": sums["remaining"]}
    bank = {"spent": books.spent_of_month(owner, None), "limit": books.cap(owner), "held": books.bank_held(owner)}
    return {"scope": "user_month", **bank, "remaining": books.bank_available(owner)}


def _handshake(books: Money, _: State, request: Request, __: int) -> Answer:
    retry = _retry(request, f"{request.agent} handshake")
    grant = books.handshake(_value(books, request.agent), request.amount, request.runtime, None, retry)
    return _granted(books, request.agent, grant)


def _granted(books: Money, agent: str, grant: Grant) -> dict[str, object]:
    return {"lease": grant.lease, "granted": grant.new_money, "replayed": grant.replayed, **_sums(books, agent)}


def _refresh(books: Money, _: State, request: Request, number: int) -> Answer:
    retry = _retry(request, f"{request.agent} refresh")
    outcome = books.refresh(_value(books, request.agent), number, request.amount, retry)
    if not isinstance(outcome, Grant):
        return {"denied": outcome.reason, **_sums(books, request.agent)}
    whole = books.leases[outcome.lease].granted
    return {**_granted(books, request.agent, outcome), "rolled_over": outcome.rolled_over, "whole": whole}


def _report(books: Money, state: State, request: Request, _: int) -> Answer:
    (item,) = request.items
    number = state.numbers.get(item.lease, UNKNOWN)
    booked = books.report(_value(books, request.agent), number, item.request, Content(item.cost))
    assert booked is not None
    lease = books.leases[books.effective(booked.lease)]
    return {
        "charged": booked.lease, "duplicate": booked.duplicate, "cost": booked.cost, "overspent": booked.overspent,
        "stop": booked.stop, "lease_spent": lease.total_spent, "lease_remaining": lease.held,
        "lease_status": lease.status, **_sums(books, request.agent),
    }  # fmt: skip


def _batch(books: Money, state: State, request: Request, _: int) -> Answer:
    items = [(state.numbers.get(item.lease, UNKNOWN), item.request, Content(item.cost)) for item in request.items]
    fates = books.report_batch(_value(books, request.agent), items)
    told = tuple(
        each if isinstance(each, str) else ("duplicate" if each.duplicate else "accepted", each.cost, each.overspent)
        for each in fates
    )
    return {"items": told, **_sums(books, request.agent)}


def _return(books: Money, state: State, request: Request, number: int) -> Answer:
    retry = _retry(request, f"{request.agent} return")
    is_replay = _is_replay(state, retry)
    closing: Closing = books.return_lease(_value(books, request.agent), number, request.amount, retry)
    lease = books.leases[closing.lease]
    told = {
        "successor": None if closing.lease == number else closing.lease, "returned": closing.returned,
        "discrepancy": closing.discrepancy, "already_closed": closing.already_closed, "lease_status": lease.status,
        "remaining": closing.remaining, "replayed": is_replay,
    }  # fmt: skip
    return told if is_replay else {**told, "final_spent": lease.total_spent}


def _revoke(books: Money, _: State, __: Request, number: int) -> Answer:
    if number == UNKNOWN:
        raise RefusedError("LEASE_NOT_FOUND")
    books.revoke([number], "manual")
    return _row(books, number)


def _row(books: Money, number: int) -> dict[str, object]:
    names = ("granted", "spent", "overspent", "returned", "reclaimed", "held", "status", "reason")
    return {name: getattr(books.leases[number], name) for name in names}


def _allocate(books: Money, state: State, request: Request, _: int) -> Answer:
    assert request.amount is not None
    retry = _retry(request, f"{request.agent} budget")
    is_replay = _is_replay(state, retry)
    changed = books.set_allocation(request.agent, request.amount, force=True, retry=retry)
    now = {"spent": books.spent(request.agent), "held": books.held(request.agent), "remaining": changed.remaining}
    return {"previous": changed.previous, "allocated": changed.allocated, **now, "replayed": is_replay}


def _budget(books: Money, _: State, request: Request, __: int) -> Answer:
    owner, agent = books.agents[request.agent].owner, request.agent
    told = {
        **_sums(books, agent), "held": books.held(agent), "overspent": books.overspent(agent),
        "open_leases": len(books.open_of(agent)),
    }  # fmt: skip
    if books.cap(owner) is None:
        return told
    return {**told, "bank_spent": books.spent_of_month(owner, None), "bank_held": books.bank_held(owner)}


_ANSWERS: Mapping[str, Callable[[Money, State, Request, int], Answer]] = {
    "handshake": _handshake, "refresh": _refresh, "report": _report, "batch": _batch, "return": _return,
    "revoke": _revoke, "allocate": _allocate, "budget": _budget,
}  # fmt: skip


def books_of(state: State) -> Answer:
    """Return all that a file holds of these agents: their sums, their leases by id, and those nobody was told of."""
    books, ids = state.books, {number: name for name, number in state.numbers.items()}
    rows = [(number, tuple(_row(books, number).items())) for number in range(len(books.leases))]
    return {
        "agents": {agent: (*_sums(books, agent).values(), books.held(agent)) for agent in books.agents},
        "leases": {ids[number]: row for number, row in rows if number in ids},
        "untold": sorted((row for number, row in rows if number not in ids), key=repr),
    }


def _holds(state: State, answer: Answer) -> bool:
    """Tell whether a file holds what the state says; an id that no answer told may be any of the untold leases."""
    expected, leases = books_of(state), answer["leases"]
    assert isinstance(leases, dict)
    told = {name: row for name, row in leases.items() if name in state.numbers}
    rest = sorted((row for name, row in leases.items() if name not in state.numbers), key=repr)
    return (expected["agents"], expected["leases"], expected["untold"]) == (answer["agents"], told, rest)
