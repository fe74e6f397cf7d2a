"""What one request to a provider costs: reserved before it is sent, and settled once, whatever becomes of it.

Source: contract budget.md 11.
"""

import _thread
import json
import threading
from contextlib import suppress
from typing import Final

import httpx

from ironcage_core.domain.prices import TokenCounts
from ironcage_core.errors.runtime import ReservationClosedError
from ironcage_core.runtime.metering import StreamMeter, use_in
from ironcage_http.client_calls import is_refusal, was_free
from ironcage_http.client_requests import MeteredCall, Paying, Plan, addressed

MOVED: Final = frozenset((301, 302, 307, 308))
"""Answers that nothing was made here; the client may ask elsewhere, with a request of its own."""


class Fare:
    """What one request costs: reserved before it is sent, settled once, by whoever comes first.

    Args:
        session: Who pays.
        plan: What is sent.
    """

    def __init__(self, session: Paying, plan: Plan) -> None:
        self._session = session
        self._plan = plan
        self._lock = threading.Lock()
        self._call: MeteredCall | None = None
        self.is_sent = False
        self._is_settled = False
        self.meter = StreamMeter(hides_usage=plan.hides_usage)

    def begin(self, request: httpx.Request) -> httpx.Request:
        """Reserve what the request may cost, and return what is to be sent; `is_sent` is to be set when it is.

        Raises:
            IroncageError: It must not be sent.
        """
        self._call = call = self._session.call(model=self._plan.model, request=self._plan.body or {})
        call.begin()
        return addressed(request, self._plan, self._session, call.request_id)

    def pay(self, status: int, content: bytes) -> None:
        """Settle by a whole answer."""
        counts = use_in(_json(content))
        self._settle(counts, is_free=is_refusal(status) or status in MOVED)

    def fail(self, error: BaseException) -> None:
        """Settle by an error: free if nothing was sent."""
        self._settle(None, is_free=not self.is_sent or was_free(error))

    def stop(self) -> None:
        """Settle by a stream, as far as it has come."""
        self._settle(self.meter.counts if self.meter.is_whole else None)

    def drop(self) -> None:
        """Settle, in a thread, by a stream that nobody holds any more."""
        if not self._is_settled:
            # Whoever collects garbage may hold any lock that settling waits for, even one of `threading`.
            with suppress(RuntimeError):  # the interpreter ends; what is on disk is settled by the next start
                _thread.start_new_thread(self.stop, ())

    def _settle(self, counts: TokenCounts | None, *, is_free: bool = False) -> None:
        with self._lock:
            if self._is_settled:
                return
            self._is_settled = True
            call = self._call
            if call is None:
                return
            with suppress(ReservationClosedError):  # it had not begun
                if counts is not None:
                    call.commit(counts)
                elif is_free:
                    call.cancel()
                else:
                    call.give_up()


def _json(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
