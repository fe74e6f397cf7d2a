"""The engine of a session: lets calls begin and end, reports what they cost, and never lets anything be lost.

What a call may cost is reserved and written down before it is made; what cannot be reported waits in memory and in the
outbox on disk. Without the control plane a session goes on with the money it has.

Source: contract budget.md 10 and 11.
"""

import atexit
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ironcage_core.domain.money import MAX_MICROS, Micros
from ironcage_core.domain.prices import TokenCounts
from ironcage_core.errors.runtime import InsufficientBudget, SessionClosedError, SessionStoppedError
from ironcage_core.errors.tree import IroncageError
from ironcage_core.runtime.controller import Reservation
from ironcage_core.runtime.lease_session import LeaseSession, Spend
from ironcage_http.client_leases import Leases
from ironcage_http.client_outbox import Intent, Outbox
from ironcage_http.client_protocol import ControlPlane
from ironcage_http.client_sender import Sender, patiently
from ironcage_http.client_terms import Terms
from ironcage_storage.system import SystemClock

logger = logging.getLogger(__name__)

_now: Final = SystemClock().now


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
        # A call that its caller loses stays reserved: it may have been made, and its intent is on disk.
        self._begun: dict[str, Begun] = {}
        self._used = -1
        self._is_closing = False
        self._changed = threading.Condition()
        self._process = os.getpid()
        self._sender = Sender(plane, outbox, self.spending, self.leases, self._is_in_use)

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
        if self.spending.waiting:
            self._plane.learn_time()
        patiently(self._catch_up, self._terms.start_timeout_s)
        patiently(lambda: self.leases.renew(self.leases.renewals), self._terms.start_timeout_s)
        self._sender.start()
        atexit.register(self._close_at_exit)

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
        if self._is_elsewhere:
            raise SessionClosedError("The session is another process's from before a fork; open one in each process")
        self._count_call(1)
        try:
            self.leases.check()
            return self._write_down(self._reserve(cost), model, tokens)
        except BaseException:
            self._count_call(-1)
            raise

    def _write_down(self, reservation: Reservation, model: str, tokens: int) -> Begun:
        request_id = str(uuid.uuid4())
        try:
            lent = self.leases.lent
            intent = Intent(request_id, lent.lease_id, model, lent.provider, reservation.amount, tokens, _now())
            self._outbox.intend(intent)
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C: it may be on disk, and the call is not made
                self._void(request_id)
            self.spending.controller.cancel(reservation)
            raise
        self._used = self.leases.renewals
        self._begun[request_id] = begun = Begun(intent, reservation)
        return begun

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
        if self._is_elsewhere:
            return
        intent = begun.intent
        spend = Spend(
            request_id=intent.request_id,
            lease_id=self.spending.lease_id or intent.lease_id,
            model=intent.model,
            provider=intent.provider,
            cost=min(cost, MAX_MICROS),
            tokens=min(max(tokens, 1), MAX_MICROS),
            counts=counts,
            occurred_at=_now(),
            is_estimated=is_estimated,
        )
        try:
            self._outbox.settle(spend)
        except IroncageError:
            logger.exception("a spend could not be kept on disk; it is sent from memory")
        finally:  # also behind a Ctrl-C
            self.spending.commit(begun.reservation, spend)
            self._forget(begun)

    def cancel(self, begun: Begun) -> None:
        """Give back what was reserved: the call has cost nothing."""
        if self._is_elsewhere:
            return
        try:
            self._void(begun.intent.request_id)
        finally:
            self.spending.controller.cancel(begun.reservation)
            self._forget(begun)

    def _forget(self, begun: Begun) -> None:
        self._begun.pop(begun.intent.request_id, None)
        self._count_call(-1)

    def _void(self, request_id: str) -> None:
        try:
            self._outbox.void(request_id)
        except IroncageError:
            logger.exception("it could not be kept on disk that a call has cost nothing; a later start may count it")

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is in the books, and tell whether it is."""
        return not self.spending.waiting if self._is_elsewhere else self._sender.flush(timeout_s)

    @property
    def is_closed(self) -> bool:
        """Whether no call can begin any more."""
        return self._is_closing or self._is_elsewhere

    def _close_at_exit(self) -> None:
        """Close behind a program that has just ended: by now nobody is left who would end a call."""
        self.close(waits_for_calls=False)

    def close(self, *, waits_for_calls: bool = True) -> None:
        """Let calls end, send what waits and return the lease; what cannot be sent stays on disk. Twice is fine."""
        if self._is_elsewhere:
            self.leases.close()
            return
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
        self._sender.finish()
        until = time.monotonic() + self._terms.close_timeout_s
        try:
            with self._changed:
                timeout_s = self._terms.close_timeout_s if waits_for_calls else 0.0
                self._changed.wait_for(lambda: not self._open_calls, timeout_s)
            if self.flush(max(0.0, until - time.monotonic())) and not self._open_calls:
                self._give_back(max(1.0, until - time.monotonic()))
        finally:
            self._end()

    def _give_back(self, timeout_s: float) -> None:
        try:
            patiently(self.leases.give_back, timeout_s)
        except IroncageError as error:
            logger.warning("the lease was not returned (%s); its money comes back when its time is over", error.message)

    def _end(self) -> None:
        atexit.unregister(self._close_at_exit)
        self.leases.close()
        try:
            self._sender.stop(self._terms.close_timeout_s)
            self._tell_what_is_left()
        finally:
            self._outbox.close()
            self._plane.close()

    def _tell_what_is_left(self) -> None:
        left = self.spending.waiting + self._open_calls
        if left:
            logger.warning(
                "%d calls are not reported yet; they wait in %s and go out when a session of this agent starts again",
                left,
                self._outbox.path,
            )

    @property
    def _is_elsewhere(self) -> bool:
        """Whether this is a fork: thread, lease and outbox are another process's, and a lock may be held for ever."""
        return os.getpid() != self._process

    def _is_in_use(self) -> bool:
        return self._used == self.leases.renewals or self._open_calls > 0

    def _reserve(self, cost: Micros) -> Reservation:
        if self.leases.is_over:
            self._renew(self.leases.renewals)
            if self.leases.is_over:
                raise SessionStoppedError(
                    "The lease is over and there is no new money for now; look at the agent's budget",
                    reason="LEASE_OVER",
                )
        while True:
            seen = self.leases.renewals
            try:
                return self.spending.controller.reserve(cost)
            except InsufficientBudget as error:
                self._renew(seen, cost)
                if self.leases.renewals == seen:  # else there is more, or was before others took it
                    raise InsufficientBudget(error.available, error.requested, self.leases.denial) from None

    def _renew(self, seen: int, needed: Micros = 0) -> None:
        """Renew the lease for a call that waits for it; not every lost packet is a control plane that is away."""
        patiently(lambda: self.leases.renew(seen, needed), self._terms.renew_timeout_s)

    def _count_call(self, change: int) -> None:
        """Count a call that begins or ends.

        Raises:
            SessionClosedError: It may not begin any more.
        """
        with self._changed:
            if change > 0 and self._is_closing:
                raise SessionClosedError("The session is closed; open another one")
            self._open_calls += change
            self._changed.notify_all()
        self._sender.wake()

    def _catch_up(self) -> None:
        """Report and return what dead sessions left."""
        while self.spending.waiting:
            self._sender.send()
        self.leases.return_debts()
