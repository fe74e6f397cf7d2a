"""The effects table and apply: what an entry does to a balance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.ledger import EFFECTS, Balance, EntryKind, apply, pending_after, with_pending
from ironcage_core.errors.faults import InvariantViolationError

AMOUNTS = st.integers(1, 10**12)
EMPTY = Balance("agent", "budget", 0, 0, 0, 0, 0)


def of(allocated: int, spent: int = 0, held: int = 0) -> Balance:
    return EMPTY._replace(allocated=allocated, spent=spent, held=held)


@given(st.sampled_from(sorted(EFFECTS)), AMOUNTS)
def test_every_kind_keeps_the_equation(kind: EntryKind, amount: int) -> None:
    """Allocated = spent + held + remaining, after any entry that is possible at all."""
    before = of(10**13, held=10**13 // 2)

    after = apply(before, kind, amount, at=5)

    assert after.allocated == after.spent + after.held + after.remaining
    assert after.updated_at == 5


@given(st.sampled_from(sorted(EFFECTS)), AMOUNTS)
def test_no_entry_moves_what_is_pending(kind: EntryKind, amount: int) -> None:
    """It is no money of the books, nor is the level that was told."""
    before = of(10**13, held=10**13 // 2)._replace(pending=7, alert_level=50)

    after = apply(before, kind, amount, at=5)

    assert (after.pending, after.alert_level) == (7, 50)


@pytest.mark.parametrize(
    ("pending", "delta", "after"), [(0, 5, 5), (5, -2, 3), (5, -5, 0), (5, -6, 0), (2**62, 0, 2**62)]
)
def test_what_is_pending_stops_at_nothing(pending: int, delta: int, after: int) -> None:
    """A count that is wrong already does not stand in the way of real money."""
    changed = with_pending(of(100, 10, 20)._replace(pending=pending), delta)

    assert changed == of(100, 10, 20)._replace(pending=after)


def test_no_more_is_pending_than_can_be_stored() -> None:
    """One more is a fault."""
    with pytest.raises(InvariantViolationError):
        pending_after(2**62, 1)


@given(AMOUNTS)
def test_the_changes_are_those_of_the_contract(amount: int) -> None:
    """Contract budget.md 1.1: change of allocated, spent, held and remaining per kind."""
    a = amount
    expected = {
        "adjust": (a, 0, 0, a),
        "grant": (0, 0, a, -a),
        "spend": (0, a, -a, 0),
        "overspend": (0, a, 0, -a),
        "return": (0, 0, -a, a),
        "reclaim": (0, 0, -a, a),
    }
    before = of(10**13, held=10**12)

    for kind in EFFECTS:
        after = apply(before, kind, amount, at=0)
        changes = (
            after.allocated - before.allocated,
            after.spent - before.spent,
            after.held - before.held,
            after.remaining - before.remaining,
        )
        assert changes == expected[kind]


@pytest.mark.parametrize("kind", sorted(set(EFFECTS) - {"adjust"}))
@pytest.mark.parametrize("amount", [0, -1])
def test_only_an_adjustment_may_be_negative_and_none_zero(kind: EntryKind, amount: int) -> None:
    """An amount of 0 is no movement; a negative one would run an effect backwards."""
    with pytest.raises(InvariantViolationError):
        apply(of(100, held=50), kind, amount, at=0)
    with pytest.raises(InvariantViolationError):
        apply(of(100), "adjust", 0, at=0)


def test_a_grant_takes_exactly_what_remains_and_not_one_more() -> None:
    """I3: remaining is 0 or more after any grant."""
    assert apply(of(100, spent=30, held=20), "grant", 50, at=0).remaining == 0
    with pytest.raises(InvariantViolationError):
        apply(of(100, spent=30, held=20), "grant", 51, at=0)


@pytest.mark.parametrize("kind", ["spend", "return", "reclaim"])
def test_nothing_leaves_a_hold_that_is_not_in_it(kind: EntryKind) -> None:
    """Held never falls below 0."""
    with pytest.raises(InvariantViolationError):
        apply(of(100, held=9), kind, 10, at=0)


def test_an_allocation_cannot_fall_below_zero_or_leave_64_bits() -> None:
    """The stored range is 0 to 2**62."""
    for balance, amount in ((of(5), -6), (of(2**62), 1)):
        with pytest.raises(InvariantViolationError):
            apply(balance, "adjust", amount, at=0)


def test_a_forced_decrease_may_make_remaining_negative() -> None:
    """I4: remaining below 0 comes from overspend or a forced decrease only."""
    assert apply(of(100, held=80), "adjust", -50, at=0).remaining == -30


def test_a_budget_is_exhausted_by_spend_not_by_holds() -> None:
    """Money that is merely held does not exhaust."""
    assert of(100, held=100).status == "active"
    assert of(100, spent=100).status == "exhausted"
