"""The sender of a session: one thread that reports what was spent, and keeps what it cannot send.

Reports go out by ten, or a second after the first. A control plane that is away is asked less and less often, and at
once when somebody waits for the books.

Source: contract budget.md 11.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Final

from ironcage_core.errors.runtime import ControlPlaneError, SessionStoppedError, UnreachableError
from ironcage_core.errors.tree import IroncageError
from ironcage_core.runtime.lease_session import LeaseSession
from ironcage_http.client_leases import ASK_AGAIN_AFTER_S, Leases
from ironcage_http.client_outbox import Outbox
from ironcage_http.client_protocol import ControlPlane, Reported

logger = logging.getLogger(__name__)

BATCH: Final = 10
BATCH_AFTER_S: Final = 1.0
"""When reports go out. Source: contract budget.md 11."""

MAX_BATCH: Final = 200
BOOKED: Final = frozenset(("accepted", "duplicate"))
CREDENTIALS: Final = frozenset(("AUTH_INVALID_TOKEN", "AUTH_TOKEN_EXPIRED"))
"""What a report may be refused with whose token's value is dead; a living one of the agent may still send it."""

BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
LONGEST_PAUSE_S: Final = 60.0
HURRIED_PAUSE_S: Final = 1.0


class Sender:
    """Reports what is spent of a lease, and lets it be refreshed in time.

    Args:
        plane: Talks to the control plane.
        outbox: Keeps what must not be lost.
        spending: What is spent.
        leases: Told when the control plane says stop.
        is_in_use: Tells whether calls are being made of the lease.
    """

    def __init__(
        self, plane: ControlPlane, outbox: Outbox, spending: LeaseSession, leases: Leases, is_in_use: Callable[[], bool]
    ) -> None:
        self._plane = plane
        self._outbox = outbox
        self._spending = spending
        self._leases = leases
        self._is_in_use = is_in_use
        self._hurries = 0
        self._is_closing = self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="ironcage-client", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def wake(self) -> None:
        """Look whether there is something to do."""
        with self._changed:
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is in the books, and tell whether it is."""
        with self._changed:
            self._hurries += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._spending.waiting, timeout_s)
            finally:
                self._hurries -= 1

    def finish(self) -> None:
        """Take no other lease from now on, and do not rest while something waits."""
        self._is_closing = True
        self.wake()

    def stop(self, timeout_s: float) -> None:
        """Let the thread end."""
        self._is_over = True
        self.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def send(self) -> Reported:
        """Report what has waited longest.

        Raises:
            UnreachableError: The control plane does not answer.
            ControlPlaneError: It refuses, or some of it for want of a living token: that waits for another one.
            OutboxError: It is in the books, and that cannot be kept.
        """
        with self._leases.wire:
            batch = {spend.request_id: spend for spend in self._spending.batch(MAX_BATCH)}
            reported = self._plane.report(list(batch.values()), current=self._spending.lease_id)
            tokenless = [fate for fate in reported.fates if fate.status not in BOOKED and fate.code in CREDENTIALS]
            settled = [fate for fate in reported.fates if fate not in tokenless]
            for fate in settled:
                if fate.status not in BOOKED:
                    logger.error("a report was refused and is kept in the dead letters: %s %s", fate.code, fate.message)
                    self._outbox.bury(batch[fate.request_id], fate.code or fate.status, fate.message or "")
            done = [fate.request_id for fate in settled]
            self._outbox.acknowledge(done)
            self._spending.acknowledge(done)
        self.wake()
        if tokenless:
            refused = tokenless[0]
            raise ControlPlaneError(
                f"{len(tokenless)} reports were refused ({refused.message}); they wait for another IC token",
                status=401,
                reason=refused.code,
            )
        return reported

    # What the thread does.

    def _run(self) -> None:
        rests = pauses()
        while not self._is_over:
            try:
                self._wait_for_work()
                if self._spending.waiting:
                    self._report()
                if not self._is_closing and self._leases.is_due(is_in_use=self._is_in_use()):
                    self._renew()
                rests = pauses()
            except UnreachableError as error:
                self._pause(max(next(rests), min(error.retry_after_s, LONGEST_PAUSE_S)))
            except IroncageError as error:
                if not self._is_over:
                    self._leases.block(error)
                self._pause(max(next(rests), ASK_AGAIN_AFTER_S))
            except Exception:
                logger.exception("the sender failed; what waits is kept, and it tries again")
                self._pause(next(rests))

    def _is_urgent(self) -> bool:
        return self._is_over or self._is_closing or self._hurries > 0

    def _wait_for_work(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._spending.waiting or self._is_urgent(), self._leases.due_in_s(BATCH_AFTER_S)
            )
            if self._spending.waiting:
                self._changed.wait_for(lambda: self._spending.waiting >= BATCH or self._is_urgent(), BATCH_AFTER_S)
            elif not self._is_over:  # closing, with nothing left to send
                self._changed.wait_for(lambda: self._is_over or self._spending.waiting, BATCH_AFTER_S / 10)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(self._is_urgent, seconds)
            rest = min(until - time.monotonic(), HURRIED_PAUSE_S)
            self._changed.wait_for(lambda: self._is_over, max(0.0, rest))

    def _report(self) -> None:
        reported = self.send()
        if reported.stop and not self._is_closing:
            self._leases.block(
                SessionStoppedError("the control plane says stop; look at the agent's status and budget", reason="stop")
            )
            self._renew()

    def _renew(self) -> None:
        """Ask for another lease; whether there is one or not, reports go on."""
        try:
            self._leases.renew(self._leases.renewals)
        except IroncageError as error:
            logger.info("no other lease for now: %s", error.message)


def patiently(step: Callable[[], None], timeout_s: float) -> None:
    """Try a step again and again until the time is over, or would be before the control plane wants to be asked.

    Raises:
        UnreachableError: The control plane did not answer in all that time.
    """
    until = time.monotonic() + timeout_s
    for rest in pauses():
        try:
            step()
        except UnreachableError as error:
            pause = max(rest, error.retry_after_s)
            if time.monotonic() + pause > until:
                raise
            time.sleep(pause)
        else:
            return


def pauses() -> Iterator[float]:
    """Yield how long to wait before each further try."""
    return chain(BACKOFF_S, repeat(BACKOFF_S[-1]))
