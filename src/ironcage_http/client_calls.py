"""One call to a provider, as a session counts it: reserved before it is made, and settled whatever becomes of it.

Nobody can say that an unknown outcome was free: a call that broke off counts with what it may have cost at most.

Source: contract budget.md 11.
"""

import logging
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import Final, Self

from anyio import get_cancelled_exc_class

from ironcage_core.domain.money import Micros, parse_usd, usd
from ironcage_core.domain.prices import ModelPrice, TokenCounts, cost_micros
from ironcage_core.errors.runtime import ReservationClosedError
from ironcage_core.errors.tree import ValidationError
from ironcage_core.runtime.estimates import Most
from ironcage_core.runtime.metering import counts_of
from ironcage_http.client_engine import Begun, Engine
from ironcage_http.client_threads import unhurried

logger = logging.getLogger(__name__)

NEVER_SENT: Final = frozenset(("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"))
"""Errors of httpx, and of httpx2 that SDKs are built on, before anything has reached the provider."""

_LIBRARIES: Final = frozenset(("httpx", "httpx2"))
TIMED_OUT: Final = frozenset((408, 504, 524))
"""Answers of a provider, or of what stands before it, that leave open whether the call was made and billed."""

FIRST_ERROR: Final = 400


def was_free(error: BaseException) -> bool:
    """Tell whether an error of a provider's client says that the call was never made, or was refused."""
    for each in _causes(error):
        if any(_is_never_sent(kind) for kind in type(each).__mro__):
            return True
        status = getattr(each, "status_code", None) or getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(status, int):
            return is_refusal(status)
    return False


def is_refusal(status: int) -> bool:
    """Tell whether a provider's answer says that nothing was made that could be billed."""
    return status >= FIRST_ERROR and status not in TIMED_OUT


def _is_never_sent(kind: type) -> bool:
    return kind.__name__ in NEVER_SENT and kind.__module__.partition(".")[0] in _LIBRARIES


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


class Call:
    """One call; reserved when its block begins, and settled at the latest when it ends.

    Args:
        engine: Of the session.
        model: What is called.
        price: What the model costs.
        most: What the call may use at most.
    """

    def __init__(self, engine: Engine, model: str, price: ModelPrice, most: Most) -> None:
        self._engine = engine
        self._model = model
        self._price = price
        self._most = most
        self._begun: Begun | None = None
        self._is_settled = False
        self.reserved: Micros = most.cost(price)

    @property
    def request_id(self) -> str:
        """The name of the call in the books; it may be told to the provider."""
        return self._open().intent.request_id

    @property
    def reserved_usd(self) -> Decimal:
        """What the call may cost at most."""
        return usd(self.reserved)

    def begin(self) -> Self:
        """Reserve what the call may cost; what its block does first.

        Raises:
            SessionClosedError, SessionStoppedError, UnreachableError, OutboxError: No call can be made now.
            InsufficientBudget: The budget does not reach.
        """
        if self._begun is not None:
            raise ReservationClosedError("A call begins once; ask the session for another one")
        self._begun = self._engine.begin(self._model, self.reserved, self._most.input + self._most.output)
        return self

    def commit(self, usage: object = None, *, cost_usd: Decimal | int | str | None = None) -> None:
        """Count what the call did cost.

        Args:
            usage: What the provider's answer says was used: its `usage`, as JSON or as the object of an SDK. One that
                cannot be read counts as the most that the call may have cost. Or the counts that were read from it.
            cost_usd: The cost itself, where it is known better than by the price table.

        Raises:
            ReservationClosedError: The call was settled before.
            ValidationError: The cost is no amount; the call stays open.
        """
        counts = usage if isinstance(usage, TokenCounts) else counts_of(usage)
        cost = None if cost_usd is None else parse_usd(cost_usd, field="cost_usd")
        if cost is not None and cost < 0:
            raise ValidationError({"cost_usd": "must not be negative"})
        if cost is None and counts is not None:
            cost = cost_micros(self._price, counts)
        self._settle(cost, counts)

    def cancel(self) -> None:
        """Give back what was reserved: the call was not made, or the provider refused it.

        Raises:
            ReservationClosedError: The call was settled before.
        """
        begun = self._close()
        self._engine.cancel(begun)

    def give_up(self) -> None:
        """Count the most that the call may have cost: nobody knows what became of it.

        Raises:
            ReservationClosedError: The call was settled before.
        """
        self._settle(None, None)

    def end(self, error: BaseException | None) -> None:
        """Settle the call if it is not; by what ended it."""
        if self._begun is None or self._is_settled:
            return
        if error is not None and was_free(error):
            self.cancel()
            return
        if error is None:
            logger.warning("call %s was not committed; it counts with the most it may have cost", self.request_id)
        self.give_up()

    def __enter__(self) -> Self:
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)

    def _settle(self, cost: Micros | None, counts: TokenCounts | None) -> None:
        begun = self._close()
        tokens = self._most.input + self._most.output if counts is None else counts.input + counts.output
        counted = self.reserved if cost is None else cost
        self._engine.settle(begun, counted, tokens, counts, is_estimated=cost is None)

    def _open(self) -> Begun:
        if self._begun is None:
            raise ReservationClosedError("The call has not begun; use it in a `with` block")
        return self._begun

    def _close(self) -> Begun:
        begun = self._open()
        if self._is_settled:
            raise ReservationClosedError("The call was settled before")
        self._is_settled = True
        return begun


class AsyncCall:
    """A call in an event loop: what may wait for a disk or for the control plane does so in a thread."""

    def __init__(self, call: Call) -> None:
        self._call = call

    @property
    def request_id(self) -> str:
        """The name of the call in the books; it may be told to the provider."""
        return self._call.request_id

    @property
    def reserved_usd(self) -> Decimal:
        """What the call may cost at most."""
        return self._call.reserved_usd

    async def commit(self, usage: object = None, *, cost_usd: Decimal | int | str | None = None) -> None:
        """Count what the call did cost; as `Call.commit`."""
        await unhurried(lambda: self._call.commit(usage, cost_usd=cost_usd))

    async def cancel(self) -> None:
        """Give back what was reserved; as `Call.cancel`."""
        await unhurried(self._call.cancel)

    async def __aenter__(self) -> Self:
        try:
            await unhurried(self._call.begin)
        except get_cancelled_exc_class():  # it has begun all the same, and its block will not
            await unhurried(self._call.cancel)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit):  # the loop is gone, and nothing can be awaited
            self._call.end(error)
        else:
            await unhurried(partial(self._call.end, error))
