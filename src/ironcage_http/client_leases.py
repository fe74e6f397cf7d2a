"""The lease of a session: taken by a handshake, refreshed before it is used up or over, taken anew when it is lost.

Whoever finds too little asks for more, and all who found the same wait for one answer. A refusal is believed for a
while, so that an agent that may not go on does not ask with every call.

Source: contract budget.md 2, 5 and 11.
"""

import logging
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Final, NamedTuple

from ironcage_core.domain.money import Micros
from ironcage_core.errors.runtime import ControlPlaneError, SessionClosedError, SessionStoppedError
from ironcage_core.errors.tree import IroncageError
from ironcage_core.runtime.lease_session import LeaseSession
from ironcage_http.client_outbox import Outbox
from ironcage_http.client_protocol import ControlPlane, Denied, Lent

logger = logging.getLogger(__name__)

ASK_AGAIN_AFTER_S: Final = 5.0
RENEW_AT: Final = 0.75
"""At which part of its time a lease that is in use is refreshed."""

LOST: Final = frozenset(("LEASE_EXPIRED", "LEASE_CLOSED", "LEASE_REVOKED", "LEASE_NOT_FOUND"))
"""Refusals of a refresh after which a runtime takes a new lease. Source: contract budget.md 2."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a session takes its leases: how much at once, for which runtime and key, and how long it waits."""

    tranche: Micros
    runtime_id: str | None = None
    provider: str | None = None
    provider_key_id: str | None = None
    start_timeout_s: float = 15.0
    close_timeout_s: float = 10.0
    renew_timeout_s: float = 5.0


class _Attempt(NamedTuple):
    """What is asked for until there is an answer: the same again, so that it is granted once."""

    key: str
    asked: Micros


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
        self._ask_again_at = self._renew_at = self._ends_at = 0.0
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
        """Return the leases of dead sessions."""
        while self._debts:
            self._plane.give_back(self._debts[0])
            self._outbox.returned(self._debts.pop(0))

    def give_back(self) -> None:
        """Return the lease."""
        if self._lent is not None:
            self._plane.give_back(self._lent.lease_id)
            self._outbox.returned(self._lent.lease_id)
            self._lent = None
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
        """Refuse new calls for a while."""
        if self._blocked is None:
            logger.warning("no new calls for now: %s", error.message)
        self._blocked = error
        self._ask_again_at = time.monotonic() + ASK_AGAIN_AFTER_S

    def renew(self, seen: int, needed: Micros = 0) -> None:
        """Take or refresh the lease, once for all who have seen the same number of renewals.

        Args:
            seen: `renewals` when whoever asks found too little.
            needed: What a call may cost.

        Raises:
            UnreachableError: The control plane does not answer.
            ControlPlaneError: It refuses, and so will the session for a while.
        """
        with self.wire:
            if seen != self.renewals:
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
                self.block(error)
                raise
            self._attempt = None

    def _ask(self, attempt: _Attempt) -> None:
        if self._lent is None:
            self._shake_hands(attempt)
            return
        try:
            answer = self._plane.refresh(self._lent, attempt.asked, key=attempt.key)
        except ControlPlaneError as error:
            if error.details.get("reason") not in LOST:
                raise
            logger.info("the lease is lost (%s); taking another one", error.details.get("reason"))
            self._lent = None  # and with it the provider key
            self._attempt = attempt = _Attempt(str(uuid.uuid4()), self._terms.tranche)
            self._shake_hands(attempt)
            return
        if isinstance(answer, Denied):
            self._ask_again_at = time.monotonic() + ASK_AGAIN_AFTER_S
            logger.info("no new money: %s", answer.reason)
            return
        self._outbox.lend(answer.lease_id)
        self._spending.go_on(answer.lease_id, answer.budget)
        self._take(answer)

    def _shake_hands(self, attempt: _Attempt) -> None:
        terms = self._terms
        lent = self._plane.handshake(
            attempt.asked, key=attempt.key, runtime_id=terms.runtime_id, provider=terms.provider,
            provider_key_id=terms.provider_key_id,
        )  # fmt: skip
        self._outbox.lend(lent.lease_id)
        self._spending.begin(lent.lease_id, lent.budget, lent.threshold)
        self._take(lent)

    def _take(self, lent: Lent) -> None:
        now = time.monotonic()
        self._lent = lent
        self._ends_at, self._renew_at = now + lent.lasts_s, now + RENEW_AT * lent.lasts_s
        self._blocked = None
        self._ask_again_at = 0.0
        self.renewals += 1

    def _stopped(self) -> SessionStoppedError:
        blocked = self._blocked
        told = "the lease is over" if blocked is None else blocked.message
        reason = "LEASE_OVER" if blocked is None else blocked.details.get("reason", blocked.code)
        return SessionStoppedError(f"No new calls for now: {told}", reason=reason)
