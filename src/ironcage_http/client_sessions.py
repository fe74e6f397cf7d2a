"""Sessions: a lease in use, for threads and for event loops."""

import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, overload

import httpx
from anyio import get_cancelled_exc_class

from ironcage_core.domain.prices import ModelPrice, PriceTable
from ironcage_core.errors.runtime import SessionClosedError, UnpricedModelError
from ironcage_core.runtime.controller import Standing
from ironcage_core.runtime.estimates import most_of
from ironcage_http.client_calls import AsyncCall, Call
from ironcage_http.client_engine import Engine
from ironcage_http.client_threads import unhurried
from ironcage_http.client_transport import AsyncMeteredTransport, MeteredTransport, sender_of
from ironcage_storage.prices import load_prices

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Pricing:
    """What models cost, and what one costs that is not in the table; without that it is not called."""

    table: PriceTable
    fallback: ModelPrice | None = None

    def price_of(self, model: str) -> ModelPrice:
        """Return the price of a model.

        Raises:
            UnpricedModelError: Nobody knows it.
        """
        price = self.table.get(model, self.fallback)
        if price is None:
            raise UnpricedModelError(
                f"The price of {model!r} is unknown, so it is not called: load a price table that has it, "
                "or open the session with a `fallback_price`",
                model=model,
            )
        return price


class Session:
    """A lease in use; safe in many threads. Made by `session`, closed by its block or by `close`.

    Args:
        engine: Started.
        pricing: What calls cost.
    """

    def __init__(self, engine: Engine, pricing: Pricing) -> None:
        self._engine = engine
        self._pricing = pricing

    @property
    def api_key(self) -> str:
        """The provider key of the lease: ask for it at each call, for a refresh may bring another one.

        Raises:
            SessionClosedError, SessionStoppedError: There is no lease.
        """
        return self._engine.leases.lent.api_key

    @property
    def agent_id(self) -> str:
        """Whose budget is spent."""
        return self._engine.leases.lent.agent_id

    @property
    def provider(self) -> str:
        """Whose key it is."""
        return self._engine.leases.lent.provider

    @property
    def base_url(self) -> str | None:
        """Where the provider is called, if the key says so."""
        return self._engine.leases.lent.base_url

    @property
    def prices(self) -> PriceTable:
        """What models cost."""
        return self._pricing.table

    def status(self) -> Standing:
        """Return what is spent and reserved of the lease, and what it holds, in micro-USD."""
        return self._engine.spending.status()

    @property
    def waiting(self) -> int:
        """How many calls are not in the books yet."""
        return self._engine.spending.waiting

    def call(
        self,
        *,
        model: str,
        max_tokens: int | None = None,
        messages: object = None,
        input_tokens: int | None = None,
        request: Mapping[str, object] | None = None,
    ) -> Call:
        """Return a call, to be made in its `with` block.

        Args:
            model: What will be called.
            max_tokens: The most output that is asked for; None for the model's own most.
            messages: What is sent, so that the input can be estimated; without any, 1 000 tokens.
            input_tokens: How long the input is, if that is known better.
            request: The whole body of the request, in the place of the other three.

        Raises:
            UnpricedModelError: Nobody knows what it costs.
        """
        price = self._pricing.price_of(model)
        told = {"max_tokens": max_tokens, "messages": messages} if request is None else request
        most = most_of(told, price)
        if input_tokens is not None:
            most = most._replace(input=input_tokens)
        return Call(self._engine, model, price, most)

    def load_prices(self, prices: PriceTable | Path | str) -> None:
        """Take other prices from now on; a table that cannot be read changes nothing.

        Raises:
            ValidationError: It is no price table.
        """
        self._pricing = Pricing(table_of(prices), self._pricing.fallback)

    @overload
    def http_client(self, **options: Any) -> httpx.Client: ...  # noqa: ANN401 - what it takes

    @overload
    def http_client(self, kind: Callable[..., C], **options: Any) -> C: ...  # noqa: ANN401 - what it takes

    def http_client(self, kind: Callable[..., Any] = httpx.Client, **options: Any) -> Any:
        """Return a client whose calls to the provider are metered, for an SDK that takes one.

        Args:
            kind: `httpx.Client`, `httpx2.Client` or a subclass of one; which one, the SDK says.
            options: What it is made with; a `transport` among them sends what passes.
        """
        inner = sender_of(kind, "HTTPTransport", options)
        return kind(transport=MeteredTransport(self, inner), **options)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until every call is in the books, and tell whether it is."""
        return self._engine.flush(timeout_s)

    def close(self) -> None:
        """Let open calls end, report what waits and return the lease. Twice is fine."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._engine.is_closed or sys.is_finalizing():  # in the end of all, what is on disk is for the next start
            return
        threading.Thread(target=self._engine.close, name="ironcage-client-end", daemon=True).start()
        warnings.warn("a session was not closed; use it in a `with` block, or close it", ResourceWarning, stacklevel=2)

    def __repr__(self) -> str:
        standing = self.status()
        return f"<Session: {standing.spent} spent and {standing.reserved} reserved of {standing.limit} micro-USD>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session holds a provider key and cannot be pickled; open one in each process")


class AsyncSession:
    """A session in an event loop: `async with async_session(…) as s`. What may wait does so in a thread."""

    def __init__(self, opened: Callable[[], Session]) -> None:
        self._opened = opened
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The session itself.

        Raises:
            SessionClosedError: Its block has not begun.
        """
        if self._session is None:
            raise SessionClosedError("The session is not open; use it in an `async with` block")
        return self._session

    @property
    def api_key(self) -> str:
        """The provider key of the lease; as `Session.api_key`."""
        return self.session.api_key

    @property
    def base_url(self) -> str | None:
        """Where the provider is called, if the key says so."""
        return self.session.base_url

    def status(self) -> Standing:
        """Return what is spent and reserved of the lease, and what it holds, in micro-USD."""
        return self.session.status()

    def call(
        self,
        *,
        model: str,
        max_tokens: int | None = None,
        messages: object = None,
        input_tokens: int | None = None,
        request: Mapping[str, object] | None = None,
    ) -> AsyncCall:
        """Return a call, to be made in its `async with` block; as `Session.call`."""
        return AsyncCall(
            self.session.call(
                model=model, max_tokens=max_tokens, messages=messages, input_tokens=input_tokens, request=request
            )
        )

    @overload
    def http_client(self, **options: Any) -> httpx.AsyncClient: ...  # noqa: ANN401 - what it takes

    @overload
    def http_client(self, kind: Callable[..., C], **options: Any) -> C: ...  # noqa: ANN401 - what it takes

    def http_client(self, kind: Callable[..., Any] = httpx.AsyncClient, **options: Any) -> Any:
        """Return a client whose calls to the provider are metered; as `Session.http_client`."""
        inner = sender_of(kind, "AsyncHTTPTransport", options)
        return kind(transport=AsyncMeteredTransport(self.session, inner), **options)

    async def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until every call is in the books, and tell whether it is."""
        return await unhurried(partial(self.session.flush, timeout_s))

    async def close(self) -> None:
        """Let open calls end, report what waits and return the lease."""
        if self._session is not None:
            await unhurried(self._session.close)

    async def __aenter__(self) -> Self:
        try:
            await unhurried(self._open)
        except get_cancelled_exc_class():  # it is open all the same, and its block will not begin
            await self.close()
            raise
        return self

    def _open(self) -> None:
        self._session = self._opened()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def table_of(prices: PriceTable | Path | str) -> PriceTable:
    """Return a price table, read from its file if need be.

    Raises:
        ValidationError: It is no price table.
    """
    return prices if isinstance(prices, PriceTable) else load_prices(Path(prices))
