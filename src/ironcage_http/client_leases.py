"""The lease of a session: taken by a handshake, refreshed before it is used up or over, taken anew when it is lost.

Whoever finds too little asks for more, and all who found the same wait for one answer. A refusal is believed for a
while, so that an agent that may not go on does not ask with every call.

Source: contract budget.md 2, 5 and 11.
"""

import logging
import threading
import time
import uuid
from typing import Final, NamedTuple

from ironcage_core.domain.money import Micros
from ironcage_core.errors.runtime import ControlPlaneError, SessionClosedError, SessionStoppedError, UnreachableError
from ironcage_core.errors.tree import IroncageError
from ironcage_core.runtime.lease_session import LeaseSession
from ironcage_http.client_outbox import Outbox
from ironcage_http.client_protocol import ControlPlane, Denied, Lent
from ironcage_http.client_terms import BELIEVED_S, LIFETIME_S, LOST, RENEW_AT, UNAUTHENTICATED, UNFUNDED, Terms

logger = logging.getLogger(__name__)

ASK_AGAIN_AFTER_S: Final = 5.0


class _Attempt(NamedTuple):
    """What is asked for until there is an answer: the same again, so that it is granted once."""

    key: str
    asked: Micros


class _Nothing(NamedTuple):
    """What a question has brought that brought no lease: an error, or the reason of a denial; and how long it holds."""

    answer: IroncageError | str
    until: float


class Leases:
    """Holds one lease at a time; safe in many threads.

    Args:
        plane: Talks to the control plane.
        outbox: Remembers which leases are to be returned.
        spending: What is spent of them.
        terms: How they are taken.
    """

    def __init__(self, plane: ControlPlane, outbox: Outbox, spending: LeaseSession, terms: Terms) -> None:
        self._plane = plane
        self._outbox = outbox
        self._spending = spending
        self._terms = terms
        self._lent: Lent | None = None
        self._attempt: _Attempt | None = None
        self._blocked: IroncageError | None = None
        self._nothing: _Nothing | None = None
        self._ask_again_at = self._renew_at = self._ends_at = self._taken_at = 0.0
        self._debts: list[str] = []
        self._is_closed = False
        # Held while a report or a refresh is under way: else what is reported meanwhile would be counted twice.
        self.wire = threading.RLock()
        self.renewals = 0

    @property
    def lent(self) -> Lent:
        """The lease, and the provider key with it.

        Raises:
            SessionClosedError: The session is over.
            SessionStoppedError: The lease was lost, and there is no other one yet.
        """
        lent = self._lent
        if lent is not None:
            return lent
        if self._is_closed:
            raise SessionClosedError("The session is closed; open another one")
        raise self._stopped()

    @property
    def is_over(self) -> bool:
        """Whether the lease's time is over, by the clock of the control plane."""
        return time.monotonic() >= self._ends_at

    @property
    def denial(self) -> str | None:
        """Why there is no new money, by the last answer; None if nobody said."""
        nothing = self._nothing
        return nothing.answer if nothing is not None and isinstance(nothing.answer, str) else None

    def is_due(self, *, is_in_use: bool) -> bool:
        """Tell whether it is time to refresh; a lease that nobody uses may give its money back."""
        now = time.monotonic()
        if self._lent is None or self._blocked is not None or now < self._ask_again_at:
            return False
        return self._spending.is_low or (is_in_use and now >= self._renew_at)

    def due_in_s(self, most: float) -> float:
        """Return in how many seconds a lease in use must be refreshed; at most so many."""
        left = self._renew_at - time.monotonic()
        return most if left < 0 else min(left, most)

    def owe(self, lease_id: str) -> None:
        """Remember a lease of a dead session, to be returned."""
        self._debts.append(lease_id)

    def return_debts(self) -> None:
        """Return the leases of dead sessions; one that the control plane does not know is none."""
        while self._debts:
            try:
                self._plane.give_back(self._debts[0])
            except ControlPlaneError as error:
                if error.details.get("status") == UNAUTHENTICATED:
                    raise
                logger.warning("the lease %s was not returned: %s", self._debts[0], error.message)
            self._outbox.returned(self._debts.pop(0))

    def give_back(self) -> None:
        """Return the lease."""
        with self.wire:
            self._lose(is_owed=True)
            self.return_debts()

    def close(self) -> None:
        """Drop the provider key."""
        self._is_closed = True
        self._lent = None

    def check(self) -> None:
        """Refuse a new call if the control plane does; ask it again after a while.

        Raises:
            SessionStoppedError: It does.
            UnreachableError: It was asked again and does not answer.
        """
        if self._blocked is None:
            return
        if time.monotonic() < self._ask_again_at:
            raise self._stopped()
        self.renew(self.renewals)
        if self._blocked is not None:
            raise self._stopped()

    def block(self, error: IroncageError) -> None:
        """Refuse new calls for a while; without the provider key if the token is refused."""
        if self._blocked is None:
            logger.warning("no new calls for now: %s", error.message)
        self._blocked = error
        self._ask_again_at = time.monotonic() + ASK_AGAIN_AFTER_S
        if error.details.get("status") == UNAUTHENTICATED:
            with self.wire:
                self._lose(is_owed=True)

    def renew(self, seen: int, needed: Micros = 0) -> None:
        """Take or refresh the lease, once for all who have seen the same number of renewals.

        Args:
            seen: `renewals` when whoever asks found too little.
            needed: What a call may cost.

        Raises:
            UnreachableError: The control plane does not answer.
            ControlPlaneError: It refuses, and so will the session for a while.
        """
        known = self._nothing
        with self.wire:
            if seen != self.renewals or self._is_known(known):
                return
            attempt = self._attempt
            if attempt is None:
                asked = self._terms.tranche if self._lent is None else self._spending.asks(needed)
                self._attempt = attempt = _Attempt(str(uuid.uuid4()), asked)
                self._spending.begin_to_ask()
            try:
                self._ask(attempt)
            except ControlPlaneError as error:
                self._attempt = None
                self._put_off(error, 0.0)
                self.block(error)
                raise
            except IroncageError as error:
                asked_s = error.retry_after_s if isinstance(error, UnreachableError) else 0.0
                self._put_off(error, min(asked_s, BELIEVED_S))
                raise
            self._attempt = None

    def _is_known(self, known: _Nothing | None) -> bool:
        """Tell whether there is no new money by an answer that is still believed, or that came while we waited.

        Raises:
            IroncageError: The answer, if it was one.
        """
        nothing = self._nothing
        if nothing is None or (nothing is known and time.monotonic() >= nothing.until):
            return False
        if isinstance(nothing.answer, IroncageError):
            raise nothing.answer.with_traceback(None)
        return True

    def _put_off(self, answer: IroncageError | str, seconds: float) -> None:
        now = time.monotonic()
        self._nothing = _Nothing(answer, now + seconds)
        self._ask_again_at = now + max(seconds, ASK_AGAIN_AFTER_S)

    def _ask(self, attempt: _Attempt) -> None:
        lent = self._lent
        if lent is None:
            self._shake_hands(attempt)
            return
        asked_at = time.monotonic()
        try:
            answer = self._plane.refresh(lent, attempt.asked, key=attempt.key)
        except ControlPlaneError as error:
            if error.details.get("reason") == UNFUNDED:
                self._denied(error.message)
                return
            if error.details.get("reason") not in LOST:
                raise
            logger.info("the lease is lost (%s); taking another one", error.details.get("reason"))
            self._lose()
            self._begin_anew()
            return
        if not isinstance(answer, Denied):
            self._outbox.lend(answer.lease_id)
            self._spending.go_on(answer.lease_id, answer.budget)
            self._take(answer)
            self._forget(lent.lease_id)
        elif self.is_over and not self._spending.waiting and not self._spending.status().reserved:
            self._lose(is_owed=True)  # nothing is under way, so what it holds can be returned and lent again
            self._begin_anew()
        else:
            self._keep_alive(asked_at)
            self._denied(answer.reason)

    def _keep_alive(self, asked_at: float) -> None:
        """Count the lease's time from a refresh that was denied, as the control plane does while it is not over."""
        if self._lent is not None and asked_at < self._ends_at:
            self._ends_at = min(asked_at + self._lent.lasts_s, self._taken_at + LIFETIME_S)
            self._renew_at = asked_at + RENEW_AT * (self._ends_at - asked_at)

    def _denied(self, reason: str) -> None:
        self._put_off(reason, ASK_AGAIN_AFTER_S)
        logger.info("no new money: %s", reason)
        if isinstance(self._blocked, SessionStoppedError):
            told = f"the lease is used up or over, and there is no new money ({reason}); raise the agent's budget"
            self._blocked = SessionStoppedError(told, reason=reason)
        else:
            self._blocked = None  # the lease is as it was, so whatever was wrong is not any more

    def _lose(self, *, is_owed: bool = False) -> None:
        """Forget the lease, and the provider key with it."""
        lent, self._lent = self._lent, None
        self._attempt = None
        self._ends_at = 0.0
        if lent is not None and is_owed:
            self.owe(lent.lease_id)
        elif lent is not None:
            self._forget(lent.lease_id)

    def _forget(self, lease_id: str) -> None:
        try:
            self._outbox.returned(lease_id)
        except IroncageError as error:  # to return it once more does no harm
            logger.warning("the lease %s is closed, and that is not on disk: %s", lease_id, error.message)

    def _begin_anew(self) -> None:
        self._attempt = attempt = _Attempt(str(uuid.uuid4()), self._terms.tranche)
        self._shake_hands(attempt)

    def _shake_hands(self, attempt: _Attempt) -> None:
        terms = self._terms
        if not self._spending.waiting:  # else what waits would find nothing held for it
            self.return_debts()
        lent = self._plane.handshake(
            attempt.asked, key=attempt.key, runtime_id=terms.runtime_id, provider=terms.provider,
            provider_key_id=terms.provider_key_id,
        )  # fmt: skip
        self._outbox.lend(lent.lease_id)
        self._spending.begin(lent.lease_id, lent.budget, lent.threshold)
        self._take(lent)

    def _take(self, lent: Lent) -> None:
        now = time.monotonic()
        self._lent, self._taken_at = lent, now
        if self._is_closed:  # meanwhile
            self._lent = None
        self._ends_at, self._renew_at = now + lent.lasts_s, now + RENEW_AT * lent.lasts_s
        self._blocked = self._nothing = None
        self._ask_again_at = 0.0
        self.renewals += 1

    def _stopped(self) -> SessionStoppedError:
        blocked = self._blocked
        told = "the lease is over" if blocked is None else blocked.message
        reason = "LEASE_OVER" if blocked is None else blocked.details.get("reason", blocked.code)
        return SessionStoppedError(f"No new calls for now: {told}", reason=reason)
