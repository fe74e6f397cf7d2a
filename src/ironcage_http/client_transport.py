"""Transports that meter: whatever leaves through them is counted once, however it ends.

They work under the clients of httpx and of httpx2, which SDKs are built on: they use what both share, and make requests
and responses with the classes of what they are given.

Source: contract budget.md 11.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from functools import cache, partial
from types import TracebackType
from typing import Any, Final, Self

import httpx

from ironcage_core.errors.tree import IroncageError
from ironcage_http.client_fares import Fare
from ironcage_http.client_requests import Paying, Plan, addressed, library_of, planned, visible
from ironcage_http.client_threads import unhurried

_BODY_HEADERS: Final = ("content-encoding", "content-length", "transfer-encoding")


SENDING: Final = frozenset(("verify", "cert", "trust_env", "http1", "http2", "limits", "proxy"))
"""Options of a client that its transport has to know."""


def sender_of(kind: object, name: str, options: dict[str, Any] | None = None) -> Any:  # noqa: ANN401 - of either library
    """Return what sends for a class of clients: the transport among its options, or a new one of its library.

    Args:
        kind: `httpx.Client`, `httpx2.AsyncClient` or a subclass of one.
        name: What the transport is called there.
        options: Of the client; those that say how to send are taken out of it, and go into a new transport.

    Raises:
        ValueError: It is no such class, or an option would send past the transport.
    """
    options = {} if options is None else options
    if options.get("mounts"):
        raise ValueError("what is mounted would be sent unmetered; give a `transport` instead")
    sending = {option: options.pop(option) for option in SENDING & options.keys()}
    given = options.pop("transport", None)
    if given is not None:
        if sending:
            raise ValueError(f"{', '.join(sorted(sending))} would not reach the `transport`; make it with them")
        return given
    return getattr(sys.modules[library_of(kind)], name)(**sending)


class MeteredTransport:
    """Sends what a client sends with the lease's key, and counts what it costs.

    Args:
        session: Whose lease it is.
        inner: Sends it; closed with this one.
    """

    def __init__(self, session: Paying, inner: httpx.BaseTransport) -> None:
        self._session = session
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, as the library asks for it.

        Raises:
            IroncageError: Ours, before anything was sent: no money, no lease, not to be metered, another host.
        """
        try:
            plan = planned(request, request.read())
            if plan.body is None:
                return self._inner.handle_request(addressed(request, plan, self._session))
            return self._metered(request, plan)
        except IroncageError as error:
            raise visible(error, request).with_traceback(error.__traceback__) from error.__cause__

    def _metered(self, request: httpx.Request, plan: Plan) -> httpx.Response:
        fare = Fare(self._session, plan)
        try:
            outgoing = fare.begin(request)
            fare.is_sent = True
            response = self._inner.handle_request(outgoing)
            if _flows(response):
                return _passed_on(response, stream=_stream(_Stream, response, fare))
            try:
                content = response.read()
            finally:
                response.close()
            fare.pay(response.status_code, content)
        except BaseException as error:
            fare.fail(error)
            raise
        return _passed_on(response, content=content)

    def close(self) -> None:
        """Close what sends."""
        self._inner.close()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.__exit__(kind, error, trace)


class AsyncMeteredTransport:
    """As `MeteredTransport`, in an event loop: what may wait for a disk or the control plane does so in a thread.

    Args:
        session: Whose lease it is.
        inner: Sends it; closed with this one.
    """

    def __init__(self, session: Paying, inner: httpx.AsyncBaseTransport) -> None:
        self._session = session
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, as the library asks for it; as `MeteredTransport.handle_request`."""
        try:
            plan = planned(request, await request.aread())
            if plan.body is None:
                return await self._inner.handle_async_request(addressed(request, plan, self._session))
            return await self._metered(request, plan)
        except IroncageError as error:
            raise visible(error, request).with_traceback(error.__traceback__) from error.__cause__

    async def _metered(self, request: httpx.Request, plan: Plan) -> httpx.Response:
        fare = Fare(self._session, plan)
        try:
            outgoing = await unhurried(partial(fare.begin, request))
            fare.is_sent = True
            response = await self._inner.handle_async_request(outgoing)
            if _flows(response):
                return _passed_on(response, stream=_stream(_AsyncStream, response, fare))
            content = await _read(response)
            await unhurried(partial(fare.pay, response.status_code, content))
        except GeneratorExit as error:  # the loop is gone, and nothing can be awaited
            fare.fail(error)
            raise
        except BaseException as error:
            await unhurried(partial(fare.fail, error))
            raise
        return _passed_on(response, content=content)

    async def aclose(self) -> None:
        """Close what sends."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)


class _Stream:
    """An answer on its way to the client; settled at its end, or when it is closed or dropped before."""

    def __init__(self, response: httpx.Response, fare: Fare) -> None:
        self._response = response
        self._fare = fare

    def __iter__(self) -> Iterator[bytes]:
        try:
            for data in self._response.iter_bytes():
                if passed := self._fare.meter.feed(data):
                    yield passed
            if rest := self._fare.meter.finish():
                yield rest
        except GeneratorExit:  # closed by whoever reads, who closes the response too, or by the garbage collector
            raise
        except BaseException:
            self._fare.stop()
            raise
        self._fare.stop()

    def close(self) -> None:
        """Let go of the connection, and settle."""
        try:
            self._response.close()
        finally:
            self._fare.stop()

    def __del__(self) -> None:
        self._fare.drop()


class _AsyncStream:
    """As `_Stream`, in an event loop."""

    def __init__(self, response: httpx.Response, fare: Fare) -> None:
        self._response = response
        self._fare = fare

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._response.aiter_bytes():
                if passed := self._fare.meter.feed(data):
                    yield passed
            if rest := self._fare.meter.finish():
                yield rest
        except GeneratorExit:
            raise
        except BaseException:
            await unhurried(self._fare.stop)
            raise
        await unhurried(self._fare.stop)

    async def aclose(self) -> None:
        """Let go of the connection, and settle."""
        try:
            await self._response.aclose()
        finally:
            await unhurried(self._fare.stop)

    def __del__(self) -> None:
        self._fare.drop()


def _flows(response: httpx.Response) -> bool:
    """Tell whether an answer is passed on as it comes; JSON and refusals are read whole."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return response.is_success and not (kind == "application/json" or kind.endswith("+json"))


async def _read(response: httpx.Response) -> bytes:
    try:
        return await response.aread()
    except GeneratorExit:
        raise
    except BaseException:
        await response.aclose()
        raise


def _passed_on(response: httpx.Response, **body: Any) -> httpx.Response:  # noqa: ANN401 - a content or a stream
    """Return an answer with its body decoded, and without the headers that told of what it was."""
    headers = response.headers.copy()
    for name in _BODY_HEADERS:
        headers.pop(name, None)
    return type(response)(response.status_code, headers=headers, extensions=response.extensions, **body)


def _stream(kind: type, response: httpx.Response, fare: Fare) -> object:
    return _of_library(kind, library_of(type(response)))(response, fare)


@cache
def _of_library(kind: type, library: str) -> Any:  # noqa: ANN401 - a class made here
    """Return a class of streams that a library takes for its own; each takes only those."""
    base = "AsyncByteStream" if kind is _AsyncStream else "SyncByteStream"
    return type(kind.__name__, (kind, getattr(sys.modules[library], base)), {})
