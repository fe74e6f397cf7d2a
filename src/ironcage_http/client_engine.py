"""The engine of a session: lets calls begin and end, reports what they cost, and never lets anything be lost.

What a call may cost is reserved and written down before it is made. One thread reports; what it cannot send waits in
memory and in the outbox on disk. Without the control plane a session goes on with the money it has.

Source: contract budget.md 10 and 11.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final

from ironcage_core.domain.money import Micros
from ironcage_core.domain.prices import TokenCounts
from ironcage_core.errors.runtime import (
    InsufficientBudget,
    SessionClosedError,
    SessionStoppedError,
    UnreachableError,
)
from ironcage_core.errors.tree import IroncageError
from ironcage_core.runtime.controller import Reservation
from ironcage_core.runtime.lease_session import LeaseSession, Spend
from ironcage_http.client_leases import ASK_AGAIN_AFTER_S, Leases, Terms
from ironcage_http.client_outbox import Intent, Outbox
from ironcage_http.client_protocol import ControlPlane, Reported

logger = logging.getLogger(__name__)

BATCH: Final = 10
BATCH_AFTER_S: Final = 1.0
"""Reports go out by ten, or a second after the first. Source: contract budget.md 11."""

MAX_BATCH: Final = 200
BOOKED: Final = frozenset(("accepted", "duplicate"))
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Begun:
    """A call that may be made: its intent, which is on disk, and its reservation."""

    intent: Intent
    reservation: Reservation


class Engine:
    """Spends one agent's lease; safe in many threads.

    Args:
        plane: Talks to the control plane; closed with the engine, as is the outbox.
        outbox: Keeps what must not be lost.
        terms: How leases are taken.
    """

    def __init__(self, plane: ControlPlane, outbox: Outbox, terms: Terms) -> None:
        self.spending = LeaseSession(terms.tranche)
        self.leases = Leases(plane, outbox, self.spending, terms)
        self._plane = plane
        self._outbox = outbox
        self._terms = terms
        self._open_calls = 0
        self._used = -1
        self._hurries = 0
        self._is_closing = self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ironcage-client", daemon=True)

    def start(self, resolve: Callable[[Intent], Spend | None]) -> None:
        """Settle what dead sessions left, take a lease and begin to send.

        Args:
            resolve: Tells what a call cost that nobody saw the end of; None for nothing.

        Raises:
            UnreachableError: The control plane does not answer.
            ControlPlaneError: It refuses this agent.
            OutboxError: The outbox cannot be used.
        """
        left = self._outbox.adopt()
        self.spending.recover(left.spends)
        for intent in left.intents:
            spend = resolve(intent)
            if spend is None:
                self._outbox.void(intent.request_id)
            else:
                self._outbox.settle(spend)
                self.spending.recover([spend])
        for lease_id in left.lease_ids:
            self.leases.owe(lease_id)
        _patiently(self._catch_up, self._terms.start_timeout_s)
        _patiently(lambda: self.leases.renew(self.leases.renewals), self._terms.start_timeout_s)
        self._thread.start()

    def abandon(self) -> None:
        """Let go of everything after a start that failed; what is on disk stays there."""
        self._is_closing = True
        self._end()

    def begin(self, model: str, cost: Micros, tokens: int) -> Begun:
        """Reserve what a call may cost at most and write down that it is going to be made.

        Raises:
            SessionClosedError, SessionStoppedError: No new calls.
            InsufficientBudget: The lease does not reach, and neither does the budget.
            UnreachableError: The lease does not reach or is over, and the control plane does not answer.
            OutboxError: It could not be written down.
        """
        if self._is_closing:
            raise SessionClosedError("The session is closed; open another one")
        self.leases.check()
        self._count_call(1)
        try:
            reservation = self._reserve(cost)
            try:
                lent = self.leases.lent
                intent = Intent(str(uuid.uuid4()), lent.lease_id, model, lent.provider, cost, tokens, now())
                self._outbox.intend(intent)
            except BaseException:
                self.spending.controller.cancel(reservation)
                raise
        except BaseException:
            self._count_call(-1)
            raise
        self._used = self.leases.renewals
        return Begun(intent, reservation)

    def settle(
        self, begun: Begun, cost: Micros, tokens: int, counts: TokenCounts | None = None, *, is_estimated: bool = False
    ) -> None:
        """Count what a call cost and let it be reported; it is counted even if it cannot be kept on disk.

        Args:
            begun: The call.
            cost: What it cost.
            tokens: How many it used.
            counts: Of which kinds, if that is known.
            is_estimated: Whether all of it may have been less.
        """
        intent = begun.intent
        spend = Spend(
            request_id=intent.request_id,
            lease_id=self.spending.lease_id or intent.lease_id,
            model=intent.model,
            provider=intent.provider,
            cost=cost,
            tokens=max(tokens, 1),
            counts=counts,
            occurred_at=now(),
            is_estimated=is_estimated,
        )
        try:
            self._outbox.settle(spend)
        except IroncageError:
            logger.exception("a spend could not be kept on disk; it is sent from memory")
        self.spending.commit(begun.reservation, spend)
        self._count_call(-1)

    def cancel(self, begun: Begun) -> None:
        """Give back what was reserved: the call has cost nothing."""
        try:
            self._outbox.void(begun.intent.request_id)
        except IroncageError:
            logger.exception("it could not be kept on disk that a call has cost nothing; a later start may count it")
        self.spending.controller.cancel(begun.reservation)
        self._count_call(-1)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is in the books, and tell whether it is."""
        with self._changed:
            self._hurries += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self.spending.waiting, timeout_s)
            finally:
                self._hurries -= 1

    def close(self) -> None:
        """Let calls end, send what waits and return the lease; what cannot be sent stays on disk. Twice is fine."""
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
            self._changed.notify_all()
        until = time.monotonic() + self._terms.close_timeout_s
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._open_calls, self._terms.close_timeout_s)
            if self.flush(max(0.0, until - time.monotonic())) and not self._open_calls:
                self._give_back(max(1.0, until - time.monotonic()))
        finally:
            self._end()

    def _give_back(self, timeout_s: float) -> None:
        try:
            _patiently(self.leases.give_back, timeout_s)
        except IroncageError as error:
            logger.warning("the lease was not returned (%s); its money comes back when its time is over", error.message)

    def _end(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self.leases.close()
        if self._thread.is_alive():
            self._thread.join(self._terms.close_timeout_s)
        left = self.spending.waiting + self._open_calls
        if left:
            logger.warning(
                "%d calls are not reported yet; they wait in %s and go out when a session of this agent starts again",
                left,
                self._outbox.path,
            )
        self._outbox.close()
        self._plane.close()

    def _reserve(self, cost: Micros) -> Reservation:
        if self.leases.is_over:
            self._renew(self.leases.renewals)
            if self.leases.is_over:
                raise SessionStoppedError("The lease is over and there is no new money", reason="LEASE_OVER")
        seen = self.leases.renewals
        try:
            return self.spending.controller.reserve(cost)
        except InsufficientBudget:
            self._renew(seen, cost)
            return self.spending.controller.reserve(cost)

    def _renew(self, seen: int, needed: Micros = 0) -> None:
        """Renew the lease for a call that waits for it; not every lost packet is a control plane that is away."""
        _patiently(lambda: self.leases.renew(seen, needed), self._terms.renew_timeout_s)

    def _count_call(self, change: int) -> None:
        with self._changed:
            self._open_calls += change
            self._changed.notify_all()

    def _catch_up(self) -> None:
        """Report and return what dead sessions left."""
        while self.spending.waiting:
            self._send()
        self.leases.return_debts()

    # What the thread does.

    def _run(self) -> None:
        pauses = _pauses()
        while not self._is_over:
            try:
                self._wait_for_work()
                if self.spending.waiting:
                    self._report()
                is_in_use = self._used == self.leases.renewals or self._open_calls > 0
                if not self._is_closing and self.leases.is_due(is_in_use=is_in_use):
                    self.leases.renew(self.leases.renewals)
                pauses = _pauses()
            except UnreachableError as error:
                asked = error.details.get("retry_after_s")
                self._pause(max(next(pauses), asked if isinstance(asked, int | float) else 0.0))
            except IroncageError as error:
                self.leases.block(error)
                self._pause(max(next(pauses), ASK_AGAIN_AFTER_S))
            except Exception:
                logger.exception("the sender failed; what waits is kept, and it tries again")
                self._pause(next(pauses))

    def _wait_for_work(self) -> None:
        def is_urgent() -> bool:
            return self._is_over or self._is_closing or self._hurries > 0

        with self._changed:
            self._changed.wait_for(lambda: self.spending.waiting or is_urgent(), self.leases.due_in_s(BATCH_AFTER_S))
            if self.spending.waiting:
                self._changed.wait_for(lambda: self.spending.waiting >= BATCH or is_urgent(), BATCH_AFTER_S)
            elif not self._is_over:  # closing, with nothing left to send
                self._changed.wait_for(lambda: self._is_over or self.spending.waiting, BATCH_AFTER_S / 10)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over, min(seconds, 1.0) if self._is_closing else seconds)

    def _report(self) -> None:
        reported = self._send()
        if reported.stop and not self._is_closing:
            self.leases.block(SessionStoppedError("The control plane says stop", reason="stop"))
            self.leases.renew(self.leases.renewals)

    def _send(self) -> Reported:
        """Report what has waited longest."""
        with self.leases.wire:
            batch = {spend.request_id: spend for spend in self.spending.batch(MAX_BATCH)}
            reported = self._plane.report(list(batch.values()), current=self.spending.lease_id)
            for fate in reported.fates:
                if fate.status not in BOOKED:
                    logger.error("a report was refused and is kept in the dead letters: %s %s", fate.code, fate.message)
                    self._outbox.bury(batch[fate.request_id], fate.code or fate.status, fate.message or "")
            done = [fate.request_id for fate in reported.fates]
            self._outbox.acknowledge(done)
            self.spending.acknowledge(done)
        with self._changed:
            self._changed.notify_all()
        return reported


def _patiently(step: Callable[[], None], timeout_s: float) -> None:
    """Try a step again and again until the time is over.

    Raises:
        UnreachableError: The control plane did not answer in all that time.
    """
    until = time.monotonic() + timeout_s
    for pause in _pauses():
        try:
            step()
        except UnreachableError:
            if time.monotonic() + pause > until:
                raise
            time.sleep(pause)
        else:
            return


def _pauses() -> Iterator[float]:
    return chain(BACKOFF_S, repeat(BACKOFF_S[-1]))


def now() -> int:
    """Return the time of this machine in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
