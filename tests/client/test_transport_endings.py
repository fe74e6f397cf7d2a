"""However a metered call ends, it is settled once: by what it used, free if it was refused, else with its most."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio
import httpx
import httpx2
import openai
import pytest

from ironcage_core.domain.prices import TokenCounts
from ironcage_http.client_transport import AsyncMeteredTransport, MeteredTransport
from tests.support.fake_llm import FakeLlm, Mood
from tests.support.purse import FREE, LOST, Purse
from tests.support.sdk import CLAUDE, GPT, KEY, async_gpt, async_metered, claude, gpt, metered

BILLED_ERROR = {
    "error": {"message": "half of it"},
    "usage": {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42},
}
STREAM: Any = {**GPT, "stream": True}

ENDINGS = [
    (Mood(status=400), FREE),
    (Mood(status=429), FREE),
    (Mood(status=500), FREE),
    (Mood(status=408), LOST),
    (Mood(status=504), LOST),
    (Mood(status=524), LOST),
    (Mood(status=500, told=BILLED_ERROR), TokenCounts(input=40, output=2)),
    (Mood(status=303, location="/v1/models"), LOST),
    (Mood(tells_usage=False), LOST),
    (Mood(hangs_up="before"), LOST),
    (Mood(hangs_up="after"), LOST),
    (Mood(breaks_after=30), LOST),
]
STREAM_ENDINGS = [
    (Mood(tells_usage=False), LOST),
    (Mood(breaks_after=0), LOST),
    (Mood(breaks_after=2), LOST),
    (Mood(breaks_after=6), LOST),  # the usage has come, the end has not
    (Mood(ends_after=6), LOST),
    (Mood(status=429), FREE),
    (Mood(hangs_up="after"), LOST),
]


def ask(purse: Purse, llm: FakeLlm, body: Any, kind: type) -> None:  # noqa: ANN401 - of the table
    """Make one call with a plain client and read its answer, whatever it is."""
    with suppress(httpx.HTTPError, httpx2.HTTPError):
        metered(purse, kind).post(f"{llm.url}/chat/completions", json=body, timeout=3)


def ask_in_a_loop(purse: Purse, llm: FakeLlm, body: Any, kind: type) -> None:  # noqa: ANN401 - likewise
    async def run() -> None:
        async with async_metered(purse, kind) as client:
            with suppress(httpx.HTTPError, httpx2.HTTPError):
                await client.post(f"{llm.url}/chat/completions", json=body, timeout=3)

    asyncio.run(run())


WAYS = [
    (ask, httpx.Client),
    (ask, httpx2.Client),
    (ask_in_a_loop, httpx.AsyncClient),
    (ask_in_a_loop, httpx2.AsyncClient),
]
Ask = Callable[[Purse, FakeLlm, Any, type], None]


@pytest.mark.parametrize(("way", "kind"), WAYS)
@pytest.mark.parametrize(("mood", "end"), ENDINGS)
def test_a_call_ends_as_its_answer_says(
    mood: Mood, end: object, way: Ask, kind: type, purse: Purse, llm: FakeLlm
) -> None:
    """Refusals are free, what says its usage costs that, and whatever leaves it open costs the most."""
    llm.will(mood)
    way(purse, llm, GPT, kind)

    assert purse.ends == [end]


@pytest.mark.parametrize(("way", "kind"), WAYS)
@pytest.mark.parametrize(("mood", "end"), STREAM_ENDINGS)
def test_a_stream_ends_as_it_says(mood: Mood, end: object, way: Ask, kind: type, purse: Purse, llm: FakeLlm) -> None:
    """Only one that tells its usage and comes to its end costs that."""
    llm.will(mood)
    way(purse, llm, STREAM, kind)

    assert purse.ends == [end]


@pytest.mark.parametrize(("way", "kind"), WAYS)
def test_a_call_that_reaches_nobody_is_free(way: Ask, kind: type, purse: Purse) -> None:
    """Nothing was sent if there is no connection."""
    with FakeLlm(KEY) as gone:
        purse.base_url = gone.root
    way(purse, gone, GPT, kind)

    assert purse.ends == [FREE]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_call_that_times_out_costs_its_most(is_async: bool, purse: Purse, llm: FakeLlm) -> None:
    """The provider may have done the work, and here it has."""
    never = threading.Event()
    llm.will(Mood(holds=never))

    def wait() -> None:
        if is_async:
            asyncio.run(async_gpt(purse, llm, max_retries=0, timeout=0.2).chat.completions.create(**GPT))
        else:
            gpt(purse, llm, max_retries=0, timeout=0.2).chat.completions.create(**GPT)

    with pytest.raises(openai.APITimeoutError):
        wait()
    never.set()

    assert purse.ends == [LOST]
    assert len(llm.bill) == 1


@pytest.mark.parametrize("mood", [Mood(breaks_after=5), Mood(ends_after=9), Mood(tells_usage=False)])
def test_an_anthropic_stream_without_its_end_costs_its_most(mood: Mood, purse: Purse, llm: FakeLlm) -> None:
    """What `message_start` tells is not what was used."""
    llm.will(mood)
    with suppress(httpx2.RemoteProtocolError):
        list(claude(purse, llm).messages.create(**CLAUDE, stream=True))

    assert purse.ends == [LOST]


def test_a_stream_that_is_closed_early_costs_its_most(purse: Purse, llm: FakeLlm) -> None:
    """Closed after its first chunk, without any, or twice."""
    client = gpt(purse, llm)
    for count in (0, 1):
        stream = client.chat.completions.create(**STREAM)
        for _ in range(count):
            next(stream)
        stream.close()
        stream.close()

    assert purse.ends == [LOST, LOST]


def test_a_stream_in_a_loop_that_is_closed_early_costs_its_most_at_once(purse: Purse, llm: FakeLlm) -> None:
    """Nobody has to wait for its being collected: when it is closed it is in the books."""

    async def run() -> list[object]:
        async with async_gpt(purse, llm) as client:
            stream: Any = await client.chat.completions.create(**STREAM)
            await stream.response.aclose()
            return purse.ends if stream else []

    assert asyncio.run(run()) == [LOST]


def test_a_stream_that_is_closed_after_its_end_costs_what_it_used(purse: Purse, llm: FakeLlm) -> None:
    """Closing is no second end, nor is reading again; and the end may be in bytes that nobody took."""
    with metered(purse).stream("POST", f"{llm.url}/chat/completions", json=STREAM) as response:
        response.read()
        response.read()
    response.close()

    assert purse.ends == [llm.bill[purse.calls[0].request_id].counts]


def test_two_threads_that_close_a_stream_settle_it_once(purse: Purse, llm: FakeLlm) -> None:
    """The second one finds it done."""
    request: Any = httpx2.Request("POST", f"{llm.url}/chat/completions", json=STREAM)
    inner: Any
    with httpx2.HTTPTransport() as inner:
        response: Any = MeteredTransport(purse, inner).handle_request(request)
        purse.may_settle.clear()
        closers = [threading.Thread(target=response.stream.close) for _ in range(2)]
        for closer in closers:
            closer.start()
        time.sleep(0.05)
        purse.may_settle.set()
        for closer in closers:
            closer.join()

    assert purse.ends == [LOST]


class Interrupted(httpx2.SyncByteStream):
    """A body during which somebody presses Ctrl-C."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"data: {}\n\n"
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (KeyboardInterrupt(), LOST),
        (httpx2.ConnectTimeout("nobody"), FREE),
        (httpx2.WriteError("half of it"), LOST),
        ("application/json", LOST),
        ("text/event-stream", LOST),
    ],
)
def test_an_interrupted_call_is_settled(answer: BaseException | str, end: object, purse: Purse, llm: FakeLlm) -> None:
    """While it is sent, while its answer is read, while its stream is."""

    def send(_: httpx2.Request) -> httpx2.Response:
        if isinstance(answer, BaseException):
            raise answer
        return httpx2.Response(200, headers={"content-type": answer}, stream=Interrupted())

    inner: Any = httpx2.MockTransport(send)
    transport: Any = MeteredTransport(purse, inner)
    with (
        httpx2.Client(transport=transport) as client,
        pytest.raises((KeyboardInterrupt, httpx2.TransportError)),
    ):
        client.post(f"{llm.url}/chat/completions", json=GPT)

    assert purse.ends == [end]


def test_a_call_that_is_interrupted_before_it_is_sent_is_free(purse: Purse, llm: FakeLlm) -> None:
    """Ctrl-C while the key is put in: nothing has left."""

    class Interrupting(Purse):
        @property
        def api_key(self) -> str:
            raise KeyboardInterrupt

        @api_key.setter
        def api_key(self, _: str) -> None: ...

    purse = Interrupting("", "openai", llm.root)
    with pytest.raises(KeyboardInterrupt):
        metered(purse).post(f"{llm.url}/chat/completions", json=GPT)
    purse.close()

    assert (purse.ends, llm.seen) == ([FREE], [])


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 5)


def test_a_call_that_is_cancelled_while_it_begins_is_free(purse: Purse, llm: FakeLlm) -> None:
    """The task is cancelled in a thread's work: it waits for its end, gives back what was reserved, sends nothing."""
    purse.may_begin.clear()

    async def run() -> None:
        async with async_gpt(purse, llm) as client:
            task = asyncio.ensure_future(client.chat.completions.create(**GPT))
            await until(purse.is_beginning)
            task.cancel()
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.sleep(0.02)
            assert not task.done()
            purse.may_begin.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())

    assert (purse.ends, llm.seen) == ([FREE], [])


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_call_that_is_cancelled_under_way_costs_its_most(is_streamed: bool, purse: Purse, llm: FakeLlm) -> None:
    """By a timeout of anyio, while the answer or its rest is awaited."""
    never = threading.Event()
    llm.will(Mood(holds=never))

    async def run() -> None:
        async with async_gpt(purse, llm, max_retries=0) as client:
            with anyio.move_on_after(0.3) as scope:
                answer: Any = await client.chat.completions.create(**GPT, stream=is_streamed)
                assert [chunk async for chunk in answer] == []
            assert scope.cancelled_caught

    asyncio.run(run())
    never.set()

    assert purse.ends == [LOST]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_call_that_is_cancelled_while_it_is_settled_costs_what_it_used(
    is_streamed: bool, purse: Purse, llm: FakeLlm
) -> None:
    """The books are written to their end, and only then is the task cancelled; meanwhile the loop runs on."""
    purse.may_settle.clear()

    async def run() -> None:
        async with async_metered(purse) as client:
            body = STREAM if is_streamed else GPT
            task = asyncio.ensure_future(client.post(f"{llm.url}/chat/completions", json=body))
            await until(purse.is_settling)
            task.cancel()
            await asyncio.sleep(0.02)
            assert not task.done()
            purse.may_settle.set()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())

    assert purse.ends == [llm.bill[purse.calls[0].request_id].counts]


class Endless(httpx2.AsyncBaseTransport):
    """Never answers."""

    def __init__(self) -> None:
        self.was_asked = threading.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.was_asked.set()
        await asyncio.Future()
        return httpx2.Response(200, request=request)


def test_a_call_whose_loop_is_gone_costs_its_most(purse: Purse, llm: FakeLlm) -> None:
    """Its coroutine is closed where nothing can be awaited any more."""
    inner: Any = Endless()
    request: Any = httpx2.Request("POST", f"{llm.url}/chat/completions", json=GPT)

    async def run() -> None:
        sending = AsyncMeteredTransport(purse, inner).handle_async_request(request)
        task = asyncio.ensure_future(sending)
        await until(inner.was_asked)
        sending.close()
        task.cancel()
        with pytest.raises(RuntimeError):
            await task

    asyncio.run(run())

    assert purse.ends == [LOST]


def test_a_stream_that_is_forgotten_in_a_loop_costs_its_most(purse: Purse, llm: FakeLlm) -> None:
    """Nobody awaits its end; it is settled in a thread when it is collected."""

    async def body() -> AsyncIterator[bytes]:
        yield b"data: {}\n\n"

    async def run() -> None:
        inner: Any = httpx2.MockTransport(
            lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body())
        )
        request: Any = httpx2.Request("POST", f"{llm.url}/chat/completions", json=STREAM)
        await AsyncMeteredTransport(purse, inner).handle_async_request(request)
        gc.collect()

    asyncio.run(run())

    assert purse.has_settled.wait(5)
    assert purse.ends == [LOST]
    assert threading.current_thread().name not in purse.calls[0].threads
