"""The checker takes what a serial execution could have answered, and nothing else."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.history.checker import Explained, Undecided, Unexplained, check
from tests.history.clients import Desk
from tests.history.operations import Answer, History, Opening, Operation, Request, Spent
from tests.history.serial import LEASE_FIELDS, State, books_of, opened, perform, step
from tests.history.telling import tell

ONE = Opening("owner", {"agent": 15_000})
TWO = Opening("owner", {"agent": 60_000, "other": 30_000}, cap=70_000)
MONEY = {
    "granted", "remaining", "allocated", "spent", "cost", "overspent", "returned", "held", "rolled_over", "lease_spent",
    "limit", "bank_held", "previous", "final_spent", "reclaimed",
}  # fmt: skip


def grant(lease: str, granted: int, remaining: int, spent: int = 0) -> Answer:
    told = {"lease": lease, "granted": granted, "replayed": False}
    return {**told, "allocated": 15_000, "spent": spent, "remaining": remaining}


def booking(cost: int, spent: int, held: int, *, duplicate: bool = False) -> Answer:
    return {
        "charged": "lease-a", "duplicate": duplicate, "cost": cost, "overspent": 0, "stop": False,
        "lease_spent": spent, "lease_remaining": held, "lease_status": "active", "allocated": 15_000, "spent": spent,
        "remaining": 5_000,
    }  # fmt: skip


def closing(returned: int, remaining: int, *, already_closed: bool = False) -> Answer:
    told = {"successor": None, "returned": returned, "discrepancy": 0, "already_closed": already_closed}
    return {**told, "lease_status": "closed", "remaining": remaining, "replayed": False, "final_spent": 0}


def seen(remaining: int, held: int, open_leases: int = 1, spent: int = 0) -> Answer:
    told = {"allocated": 15_000, "spent": spent, "remaining": remaining}
    return {**told, "held": held, "overspent": 0, "open_leases": open_leases}


def short(held: int = 15_000, remaining: int = 0) -> Answer:
    told = {"refused": "BUDGET_EXCEEDED", "scope": "agent", "spent": 0, "limit": 15_000}
    return {**told, "held": held, "remaining": remaining}


def between(
    begun: int, ended: int | None, request: Request, answer: Answer | None, over: int | None = None
) -> Operation:
    return Operation(0, 0, request, begun, ended, answer, over)


HANDSHAKE = Request("handshake", "agent", 10_000)
BUDGET = Request("budget", "agent")
RETURN = Request("return", "agent", lease="lease-a")
GRANTED = between(0, 1, HANDSHAKE, grant("lease-a", 10_000, 5_000))


def report(name: str, cost: int = 1_000) -> Request:
    return Request("report", "agent", items=(Spent("lease-a", name, cost),))


SERIAL = {
    "the second of two grants takes what the first has left": (
        between(0, 10, HANDSHAKE, grant("lease-a", 5_000, 0)),
        between(1, 9, HANDSHAKE, grant("lease-b", 10_000, 5_000)),
    ),
    "a report that is told twice is a duplicate once": (
        GRANTED,
        between(2, 8, report("one"), booking(1_000, 1_000, 9_000, duplicate=True)),
        between(3, 9, report("one"), booking(1_000, 1_000, 9_000)),
    ),
    "a look during a grant sees the money before it": (
        between(0, 10, HANDSHAKE, grant("lease-a", 10_000, 5_000)),
        between(9, 12, BUDGET, seen(15_000, 0, 0)),
    ),
    "a look during a grant sees the money behind it": (
        between(0, 10, HANDSHAKE, grant("lease-a", 10_000, 5_000)),
        between(1, 9, BUDGET, seen(5_000, 10_000)),
    ),
    "the second of two returns finds the lease closed": (
        GRANTED,
        between(2, 8, RETURN, closing(10_000, 15_000, already_closed=True)),
        between(3, 9, RETURN, closing(10_000, 15_000)),
    ),
    "what was not answered has happened": (
        between(0, None, HANDSHAKE, None),
        between(5, 6, BUDGET, seen(5_000, 10_000)),
    ),
    "what was not answered has not happened": (
        between(0, None, HANDSHAKE, None),
        between(5, 6, BUDGET, seen(15_000, 0, 0)),
    ),
    "what was not answered happens late": (
        between(0, None, HANDSHAKE, None),
        between(5, 6, BUDGET, seen(15_000, 0, 0)),
        between(7, 8, BUDGET, seen(5_000, 10_000)),
    ),
}  # fmt: skip

NOT_SERIAL = {
    "an update is lost": (
        GRANTED,
        between(2, 8, report("one"), booking(1_000, 1_000, 9_000)),
        between(3, 9, report("two"), booking(1_000, 1_000, 9_000)),
        between(10, 11, BUDGET, seen(5_000, 9_000, spent=1_000)),
    ),
    "more is granted than there is": (
        between(0, 10, HANDSHAKE, grant("lease-a", 10_000, 5_000)),
        between(1, 9, HANDSHAKE, grant("lease-b", 10_000, 5_000)),
    ),
    "a report counts twice": (
        GRANTED,
        between(2, 8, report("one"), booking(1_000, 1_000, 9_000)),
        between(3, 9, report("one"), booking(1_000, 2_000, 8_000)),
    ),
    "a look is stale": (
        GRANTED,
        between(2, 3, BUDGET, seen(15_000, 0, 0)),
    ),
    "a return counts twice": (
        GRANTED,
        between(2, 8, RETURN, closing(10_000, 15_000)),
        between(3, 9, RETURN, closing(10_000, 25_000)),
    ),
    "a return counts twice, unseen by those who return": (
        GRANTED,
        between(2, 3, RETURN, closing(10_000, 15_000)),
        between(4, 5, BUDGET, seen(25_000, -10_000, 0)),
    ),
    "a grant is refused though there is money": (
        GRANTED,
        between(2, 3, HANDSHAKE, short(10_000, 0)),
    ),
    "a grant is refused before the money is gone": (
        between(0, 1, HANDSHAKE, short()),
        between(2, 3, HANDSHAKE, grant("lease-a", 10_000, 5_000)),
        between(4, 5, HANDSHAKE, grant("lease-b", 5_000, 0)),
    ),
    "one that was answered before another was sent comes behind it": (
        between(0, 1, HANDSHAKE, grant("lease-a", 5_000, 0)),
        between(2, 3, HANDSHAKE, grant("lease-b", 10_000, 5_000)),
    ),
    "two are told the same lease": (
        between(0, 10, HANDSHAKE._replace(amount=5_000), grant("lease-a", 5_000, 10_000)),
        between(1, 9, HANDSHAKE._replace(amount=5_000), grant("lease-a", 5_000, 5_000)),
    ),
    "what was lost with its server happens behind its death": (
        between(0, None, HANDSHAKE, None, over=4),
        between(5, 6, BUDGET, seen(15_000, 0, 0)),
        between(7, 8, BUDGET, seen(5_000, 10_000)),
    ),
    "what was not answered happens before it was sent": (
        between(1, 2, BUDGET, seen(5_000, 10_000)),
        between(3, None, HANDSHAKE, None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SERIAL)
def test_an_order_is_found_where_there_is_one(name: str) -> None:
    """It explains every answer, and no operation stands before one that was answered before it was sent."""
    operations = SERIAL[name]
    verdict = check(History(ONE, operations))

    assert isinstance(verdict, Explained), tell(History(ONE, operations), verdict)
    assert [each for each in operations if each.answer and each not in verdict.order] == []
    keeps_time(verdict.order)


@pytest.mark.parametrize("name", NOT_SERIAL)
def test_no_order_is_found_where_there_is_none(name: str) -> None:
    """The operation that is named as due is one that was answered, and it is told what it should have been told."""
    history = History(ONE, NOT_SERIAL[name])
    verdict = check(history)

    assert isinstance(verdict, Unexplained)
    assert verdict.due.answer is not None
    assert "a serial execution says" in tell(history, verdict)


def test_the_first_answer_that_cannot_be_explained_is_told_with_its_numbers() -> None:
    """Not the last one of the history, and with what serial execution would have answered."""
    history = History(ONE, (*NOT_SERIAL["a look is stale"], between(4, 5, BUDGET, seen(5_000, 10_000))))
    told = tell(history, check(history))

    assert "1 operations can be explained" in told
    assert "remaining: told 15000, a serial execution says 5000" in told


def test_a_search_that_is_too_long_proves_nothing() -> None:
    """Neither the one nor the other is said."""
    assert check(History(ONE, SERIAL["a look during a grant sees the money behind it"]), patience=1) == Undecided(1)


def test_the_books_of_the_file_must_be_those_of_the_order() -> None:
    """A lease that nobody was told of is known by its numbers, and one that is too much is no lease of the order."""
    lost = between(0, None, HANDSHAKE, None)
    after, _ = perform(opened(ONE), HANDSHAKE)
    row = books_of(after)["untold"]
    assert isinstance(row, list)
    held, none = {"agent": (15_000, 0, 5_000, 10_000)}, {"agent": (15_000, 0, 15_000, 0)}
    books = Request("books", "owner")

    def verdict(agents: object, leases: object) -> type:
        return type(check(History(ONE, (lost, between(2, 3, books, {"agents": agents, "leases": leases})))))

    assert verdict(held, {"lease-x": row[0]}) is Explained
    assert verdict(none, {}) is Explained
    assert verdict(held, {}) is Unexplained
    assert verdict(none, {"lease-x": row[0]}) is Unexplained


@given(st.integers(0, 2**32), st.sampled_from([ONE, TWO]))
@settings(max_examples=40)
def test_what_was_really_done_one_by_one_is_explained_however_it_overlaps(seed: int, opening: Opening) -> None:
    """Whatever is asked, and whether or not the answers arrive."""
    draw = random.Random(seed)  # noqa: S311 - to be drawn again
    history = History(opening, overlapping(draw, done(draw, opening, 40), lost=0.1))

    verdict = check(history)

    assert isinstance(verdict, Explained), tell(history, verdict)
    keeps_time(verdict.order)


@given(st.integers(0, 2**32), st.sampled_from([ONE, TWO]))
@settings(max_examples=40)
def test_one_number_that_no_order_leads_to_is_found(seed: int, opening: Opening) -> None:
    """All money is in tens, so no order leads to an amount that is one more."""
    draw = random.Random(seed)  # noqa: S311 - to be drawn again
    operations = list(overlapping(draw, done(draw, opening, 25), lost=0.0))
    places = [place for place, each in enumerate(operations) if MONEY & (each.answer or {}).keys()]
    place = draw.choice(places)
    answer = dict(operations[place].answer or {})
    field = draw.choice(sorted(MONEY & answer.keys()))
    amount = answer[field]
    assert isinstance(amount, int)
    operations[place] = operations[place].told({**answer, field: amount + 1})

    assert isinstance(check(History(opening, tuple(operations))), Unexplained)


def done(draw: random.Random, opening: Opening, count: int) -> list[tuple[Request, Answer]]:
    """Carry out requests one by one, as clients draw them, and name their leases as a server would."""
    desk, state = Desk(opening), opened(opening)
    results = []
    for _ in range(count):
        request = in_tens(desk.draw(draw, draw.randrange(8)))
        state, answer = carried_out(state, request)
        desk.learn(request, answer)
        results.append((request, answer))
    return results


def in_tens(request: Request) -> Request:
    items = tuple(item._replace(cost=item.cost // 10 * 10) for item in request.items)
    return request._replace(items=items, amount=None if request.amount is None else request.amount // 10 * 10)


def carried_out(state: State, request: Request) -> tuple[State, Answer]:
    _, answer = perform(state, request)
    told = {
        name: f"lease-{value}" if name in LEASE_FIELDS and isinstance(value, int) else value
        for name, value in answer.items()
    }
    after = step(state, request, told)
    assert after is not None
    return after, told


def overlapping(draw: random.Random, results: Sequence[tuple[Request, Answer]], lost: float) -> tuple[Operation, ...]:
    """Let each take a while around the time it was done at, and lose the answers of some that nobody else names."""
    needed = {each.lease for each, _ in results} | {item.lease for each, _ in results for item in each.items}
    operations = []
    for place, (request, answer) in enumerate(results):
        begun, ended = 10 * place - draw.randrange(30), 10 * place + 1 + draw.randrange(30)
        is_lost = draw.random() < lost and answer.get("lease") not in needed
        operations.append(between(begun, None, request, None) if is_lost else between(begun, ended, request, answer))
    return tuple(operations)


def keeps_time(order: Sequence[Operation]) -> None:
    latest = None
    for operation in order:
        if latest is not None and operation.answered is not None:
            assert operation.answered > latest
        latest = operation.invoked if latest is None else max(latest, operation.invoked)
