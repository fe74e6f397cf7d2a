"""The cost controller: how much of a lease a runtime may still spend, decided in its own memory.

A call reserves what it may cost at most and commits what it did cost; whatever many threads do at once, no reservation
reaches beyond the limit. Whole micro-USD. No I/O but the log line about a reservation that was lost.

Source: contract budget.md 11.
"""

import logging
import threading
from collections import deque
from types import TracebackType
from typing import NamedTuple, Self

from ironcage_core.domain.money import MAX_MICROS, Micros
from ironcage_core.errors.runtime import BudgetExceeded, InsufficientBudget, ReservationClosedError

logger = logging.getLogger(__name__)


class Standing(NamedTuple):
    """What is spent and reserved, and the limit of both, at one moment."""

    spent: Micros
    reserved: Micros
    limit: Micros

    @property
    def available(self) -> Micros:
        """What may still be reserved."""
        return max(0, self.limit - self.spent - self.reserved)


class Reservation:
    """What one call may cost, set aside; to be committed or cancelled once.

    As a context manager it is cancelled at the end, unless it was committed. One that is dropped is released.
    """

    __slots__ = ("_controller", "_is_open", "amount")

    def __init__(self, controller: "CostController", amount: Micros) -> None:
        self.amount = amount
        self._controller = controller
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether it was neither committed nor cancelled."""
        return self._is_open

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            self._controller.cancel(self)

    def __del__(self) -> None:
        if self._is_open:
            self._is_open = False
            self._controller.drop(self.amount)


class CostController:
    """Counts what is spent and reserved against a limit; safe in many threads.

    Args:
        limit: In micro-USD, 0 or more; 0 lets nothing through.

    Raises:
        ValueError: The limit is negative, or no whole number.
    """

    __slots__ = ("_dropped", "_limit", "_lock", "_reserved", "_spent")

    def __init__(self, limit: Micros) -> None:
        self._limit = _amount(limit)
        self._spent = 0
        self._reserved = 0
        self._lock = threading.Lock()
        # A finaliser runs wherever it likes, also within a block that holds the lock: it only leaves a note.
        self._dropped: deque[Micros] = deque()

    def set_limit(self, limit: Micros) -> None:
        """Change the limit; below what is spent nothing goes through.

        Raises:
            ValueError: It is negative.
        """
        limit = _amount(limit)
        with self._lock:
            self._limit = limit

    def add_limit(self, more: Micros) -> None:
        """Raise the limit.

        Raises:
            ValueError: The amount is negative.
        """
        more = _amount(more)
        with self._lock:
            self._limit += more

    def check(self) -> None:
        """Refuse if nothing is left.

        Raises:
            BudgetExceeded: All is spent or reserved; also if the limit is 0.
        """
        spent, reserved, limit = self.status()
        if spent + reserved >= limit:
            raise BudgetExceeded(spent, limit, reserved)

    def reserve(self, amount: Micros) -> Reservation:
        """Set an amount aside, all of it or nothing; 0 always goes.

        Raises:
            InsufficientBudget: Less is available.
            ValueError: The amount is negative.
        """
        amount = _amount(amount)
        if self._dropped:
            self._release_dropped()
        with self._lock:
            available = self._limit - self._spent - self._reserved
            if amount > available and amount > 0:
                raise InsufficientBudget(max(0, available), amount)
            self._reserved += amount
        return Reservation(self, amount)

    def commit(self, reservation: Reservation, actual: Micros) -> None:
        """Turn a reservation into what the call did cost, which may be more.

        Raises:
            ReservationClosedError: It was committed or cancelled before.
            ValueError: The amount is negative, or the reservation another controller's.
        """
        self._close(reservation, _amount(actual))

    def cancel(self, reservation: Reservation) -> None:
        """Give a reservation back; nothing was spent.

        Raises:
            ReservationClosedError: It was committed or cancelled before.
            ValueError: It is another controller's.
        """
        self._close(reservation, 0)

    def add_spend(self, amount: Micros) -> None:
        """Count what was spent without a reservation.

        Raises:
            ValueError: The amount is negative.
        """
        amount = _amount(amount)
        with self._lock:
            self._spent += amount

    def reset(self, limit: Micros, unacked: Micros) -> None:
        """Begin anew with a refreshed lease; reservations stay.

        Args:
            limit: What the new lease holds.
            unacked: The cost that the control plane had not acknowledged when it said so.

        Raises:
            ValueError: An amount is negative.
        """
        limit, unacked = _amount(limit), _amount(unacked)
        with self._lock:
            self._limit, self._spent = limit, unacked

    def status(self) -> Standing:
        """Return what is spent, reserved and allowed, as one snapshot."""
        if self._dropped:
            self._release_dropped()
        with self._lock:
            return Standing(self._spent, self._reserved, self._limit)

    def drop(self, amount: Micros) -> None:
        """Release what a reservation held that nobody has any more. Never waits: finalisers call it."""
        self._dropped.append(amount)
        if self._lock.acquire(blocking=False):
            self._lock.release()
            self._release_dropped()

    def _close(self, reservation: Reservation, spent: Micros) -> None:
        if reservation._controller is not self:  # noqa: SLF001 - a part of the controller
            raise ValueError("the reservation is another controller's")
        with self._lock:
            if not reservation._is_open:  # noqa: SLF001
                raise ReservationClosedError("The reservation was committed or cancelled before")
            reservation._is_open = False  # noqa: SLF001
            self._reserved -= reservation.amount
            self._spent += spent

    def _release_dropped(self) -> None:
        while True:
            try:
                amount = self._dropped.popleft()
            except IndexError:
                return
            with self._lock:
                self._reserved -= amount
            logger.warning("a reservation of %d micro-USD was neither committed nor cancelled; it is released", amount)


def _amount(value: Micros) -> Micros:
    if type(value) is not int or not 0 <= value <= MAX_MICROS:
        raise ValueError(f"an amount must be a whole number of micro-USD from 0 to 2**62, not {value!r}")
    return value
