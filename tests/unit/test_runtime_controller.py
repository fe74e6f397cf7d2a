"""What a runtime may spend: all or nothing, never beyond the limit, whatever many threads do at once."""

import gc
import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ironcage_core.errors.runtime import BudgetExceeded, InsufficientBudget, ReservationClosedError
from ironcage_core.runtime.controller import CostController, Reservation

amounts = st.integers(0, 1_000)


@given(limit=amounts, spent=amounts, asked=amounts)
def test_a_reservation_is_made_whole_or_not_at_all(limit: int, spent: int, asked: int) -> None:
    """All that is available may be reserved, and 0 always; one more may not, and then nothing has changed."""
    controller = CostController(limit)
    controller.add_spend(spent)
    available = max(0, limit - spent)

    if asked == 0 or asked <= available:
        reservation = controller.reserve(asked)
        assert controller.status() == (spent, asked, limit)
        controller.cancel(reservation)
    else:
        with pytest.raises(InsufficientBudget) as refused:
            controller.reserve(asked)
        assert (refused.value.available, refused.value.requested) == (available, asked)
    assert controller.status() == (spent, 0, limit)


def test_what_is_spent_or_reserved_up_to_the_limit_leaves_nothing() -> None:
    """The refusal tells spent, limit and reserved; a limit of 0 refuses at once."""
    controller = CostController(100)
    controller.add_spend(60)
    controller.check()
    reservation = controller.reserve(40)

    with pytest.raises(BudgetExceeded) as refused:
        controller.check()

    assert (refused.value.spent, refused.value.limit, refused.value.reserved) == (60, 100, 40)
    controller.cancel(reservation)
    controller.check()
    with pytest.raises(BudgetExceeded):
        CostController(0).check()


@pytest.mark.parametrize("actual", [0, 39, 40, 41, 1_000])
def test_a_commit_counts_what_a_call_did_cost(actual: int) -> None:
    """Less than was reserved, or more: beyond the limit nothing more goes through."""
    controller = CostController(100)
    reservation = controller.reserve(40)

    controller.commit(reservation, actual)

    assert controller.status() == (actual, 0, 100)
    assert controller.status().available == max(0, 100 - actual)
    assert not reservation.is_open


@pytest.mark.parametrize("first", [lambda c, r: c.commit(r, 5), lambda c, r: c.cancel(r)])
@pytest.mark.parametrize("second", [lambda c, r: c.commit(r, 5), lambda c, r: c.cancel(r)])
def test_a_reservation_ends_once(
    first: Callable[[CostController, Reservation], None], second: Callable[[CostController, Reservation], None]
) -> None:
    """A second end is an error and changes nothing."""
    controller = CostController(100)
    reservation = controller.reserve(40)
    first(controller, reservation)
    before = controller.status()

    with pytest.raises(ReservationClosedError):
        second(controller, reservation)

    assert controller.status() == before


def test_the_end_of_its_block_cancels_a_reservation_that_is_open() -> None:
    """Also when the block ends by an error; one that was committed stays so."""
    controller = CostController(100)
    with controller.reserve(40) as reservation:
        controller.commit(reservation, 7)
    with controller.reserve(30):
        assert controller.status().reserved == 30
    with pytest.raises(KeyError), controller.reserve(20):
        raise KeyError

    assert controller.status() == (7, 0, 100)


def test_a_dropped_reservation_is_released_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody could commit it any more; the log says how much it was."""
    controller = CostController(100)
    with caplog.at_level(logging.WARNING):
        controller.reserve(40)
        gc.collect()

    assert controller.status() == (0, 0, 100)
    assert [record.getMessage() for record in caplog.records] == [
        "a reservation of 40 micro-USD was neither committed nor cancelled; it is released"
    ]


def test_a_reservation_dropped_while_the_lock_is_held_waits_for_nobody() -> None:
    """A finaliser may run in the middle of anything, also where the thread itself holds the lock."""
    controller = CostController(100)
    reservation = controller.reserve(40)

    with controller._lock:
        del reservation
        assert controller._reserved == 40

    assert controller.status().reserved == 0


@pytest.mark.parametrize("bad", [-1, 1.0, True, "1", None, 2**62 + 1])
def test_an_amount_that_is_no_whole_number_of_micro_usd_changes_nothing(bad: object) -> None:
    """A negative one would be a gift, and a float has lost something already."""
    controller = CostController(100)
    reservation = controller.reserve(10)
    attempts: list[Callable[[Any], object]] = [
        CostController, controller.set_limit, controller.add_limit, controller.reserve, controller.add_spend,
        lambda amount: controller.commit(reservation, amount),
        lambda amount: controller.reset(amount, 0),
        lambda amount: controller.reset(0, amount),
    ]  # fmt: skip

    for attempt in attempts:
        with pytest.raises(ValueError, match="micro-USD"):
            attempt(bad)

    assert controller.status() == (0, 10, 100)
    assert reservation.is_open


def test_a_reservation_of_another_controller_is_refused() -> None:
    """Neither is changed."""
    mine, other = CostController(100), CostController(100)
    reservation = other.reserve(40)

    with pytest.raises(ValueError, match="another"):
        mine.commit(reservation, 5)
    with pytest.raises(ValueError, match="another"):
        mine.cancel(reservation)

    assert (mine.status(), other.status()) == ((0, 0, 100), (0, 40, 100))
    other.cancel(reservation)


def test_a_limit_may_fall_below_what_is_spent_and_rise_again() -> None:
    """Below it nothing goes through; a raise adds to the limit that there is."""
    controller = CostController(100)
    controller.add_spend(50)
    controller.set_limit(20)
    with pytest.raises(InsufficientBudget):
        controller.reserve(1)

    controller.add_limit(40)

    with controller.reserve(10):
        assert controller.status() == (50, 10, 60)


def test_a_reset_begins_anew_and_keeps_reservations() -> None:
    """The limit is the new lease's, and spent is what was not acknowledged."""
    controller = CostController(100)
    controller.add_spend(70)
    reservation = controller.reserve(20)

    controller.reset(200, 5)

    assert controller.status() == (5, 20, 200)
    controller.commit(reservation, 15)
    assert controller.status() == (20, 0, 200)


class ControllerMachine(RuleBasedStateMachine):
    """Any order of calls, against three plain numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = CostController(500)
        self.limit, self.spent = 500, 0
        self.open: list[Reservation] = []

    @rule(amount=amounts)
    def reserve(self, amount: int) -> None:
        reserved = sum(each.amount for each in self.open)
        if amount == 0 or amount <= self.limit - self.spent - reserved:
            self.open.append(self.controller.reserve(amount))
        else:
            with pytest.raises(InsufficientBudget):
                self.controller.reserve(amount)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), actual=amounts)
    def commit(self, data: st.DataObject, actual: int) -> None:
        self.controller.commit(self._one(data), actual)
        self.spent += actual

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.controller.cancel(self._one(data))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self._one(data)

    @rule(limit=amounts, unacked=amounts)
    def reset(self, limit: int, unacked: int) -> None:
        self.controller.reset(limit, unacked)
        self.limit, self.spent = limit, unacked

    @rule(limit=amounts)
    def set_limit(self, limit: int) -> None:
        self.controller.set_limit(limit)
        self.limit = limit

    def _one(self, data: st.DataObject) -> Reservation:
        return self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))

    @invariant()
    def the_numbers_are_right(self) -> None:
        reserved = sum(each.amount for each in self.open)
        assert self.controller.status() == (self.spent, reserved, self.limit)


TestController = ControllerMachine.TestCase


def test_sixteen_threads_never_reserve_beyond_the_limit() -> None:
    """What all of them commit is within it, since none commits more than it reserved; and nothing stays reserved."""
    controller = CostController(500_000)
    start = threading.Barrier(16)

    def spend(seed: int) -> int:
        draw = random.Random(seed)  # noqa: S311 - a test that can be repeated
        committed = 0
        start.wait()
        for _ in range(3_000):
            try:
                reservation = controller.reserve(draw.randint(0, 90))
            except InsufficientBudget:
                continue
            spent, reserved, limit = controller.status()
            assert spent + reserved <= limit
            fate = draw.random()
            if fate < 0.7:
                actual = draw.randint(0, reservation.amount)
                controller.commit(reservation, actual)
                committed += actual
            elif fate < 0.9:
                controller.cancel(reservation)
        return committed

    with ThreadPoolExecutor(16) as pool:
        committed = sum(pool.map(spend, range(16)))

    gc.collect()
    assert controller.status() == (committed, 0, 500_000)
    assert 450_000 < committed <= 500_000
