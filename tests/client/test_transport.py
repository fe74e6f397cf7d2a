"""SDKs on metered transports: every kind of call is paid as the provider bills it, and the answers arrive unharmed."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from ironcage_core.domain.prices import cost_micros
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.services.accounts import add_user
from ironcage_core.services.agents import create_agent
from ironcage_core.services.posting import balance_of
from ironcage_core.services.provider_keys import add_provider_key
from ironcage_http.client import async_session, session
from ironcage_http.server import ApiServer, embedded_settings
from ironcage_storage.prices import bundled_prices
from ironcage_storage.sealed.tokens import IcTokenSigner
from ironcage_storage.sealed.vault import AesGcmVault
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.fake_llm import FakeLlm, Mood
from tests.support.llm_shapes import WORDS
from tests.support.purse import FREE, Purse
from tests.support.sdk import CLAUDE, GPT, KEY, async_claude, async_gpt, claude, gpt
from tests.support.world import ADMIN

SETTINGS = embedded_settings()
TEXT = "".join(WORDS)
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


class OurClient(httpx2.Client):
    """As applications derive their own."""


def is_paid(purse: Purse, llm: FakeLlm, calls: int = 1) -> bool:
    """Tell whether the books of the session say exactly what the provider's bill does."""
    return len(llm.bill) == calls and purse.books == {name: billed.counts for name, billed in llm.bill.items()}


def chatted(client: openai.OpenAI) -> str:
    answer = client.chat.completions.create(**GPT)
    return str(answer.choices[0].message.content)


def streamed(client: openai.OpenAI) -> str:
    with client.chat.completions.create(**GPT, stream=True) as chunks:
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def streamed_with_usage(client: openai.OpenAI) -> str:
    chunks = list(client.chat.completions.create(**GPT, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage is not None
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])


def called_a_tool(client: openai.OpenAI) -> str:
    calls = client.chat.completions.create(**GPT, tools=TOOLS).choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    return TEXT if calls[0].function.name == "look" else ""


def embedded(client: openai.OpenAI) -> str:
    vector = client.embeddings.create(model="text-embedding-3-small", input="Hi").data[0].embedding
    return TEXT if vector == [0.25, 0.5] else ""


def responded(client: openai.OpenAI) -> str:
    return client.responses.create(model="gpt-4o", input="Hi").output_text


def responded_streamed(client: openai.OpenAI) -> str:
    events = client.responses.create(model="gpt-4o", input="Hi", stream=True)
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def read_raw(client: openai.OpenAI) -> str | None:
    with client.chat.completions.with_streaming_response.create(**GPT) as answer:
        return TEXT if TEXT in b"".join(answer.iter_bytes()).decode() else None


OPENAI_CALLS = [
    chatted, streamed, streamed_with_usage, called_a_tool, embedded, responded, responded_streamed, read_raw,
]  # fmt: skip


@pytest.mark.parametrize("ask", OPENAI_CALLS)
@pytest.mark.parametrize("kind", [httpx2.Client, httpx.Client, openai.DefaultHttpxClient, OurClient])
def test_openai_calls_are_paid_as_billed(
    kind: type, ask: Callable[[openai.OpenAI], str | None], purse: Purse, llm: FakeLlm
) -> None:
    """OpenAI's SDK works on clients of both libraries and of its own; books and bill agree to the token."""
    said = ask(gpt(purse, llm, kind))

    assert said == TEXT
    assert is_paid(purse, llm)


@pytest.mark.parametrize("kind", [httpx2.AsyncClient, httpx.AsyncClient, openai.DefaultAsyncHttpxClient])
def test_openai_calls_in_an_event_loop_are_paid_as_billed(kind: type, purse: Purse, llm: FakeLlm) -> None:
    """Plain and streamed calls of the async SDK are paid, and nothing that may block runs in the loop."""

    async def ask() -> list[str | None]:
        async with async_gpt(purse, llm, kind) as client:
            plain = await client.chat.completions.create(**GPT)
            chunks = await client.chat.completions.create(**GPT, stream=True)
            parts = [chunk.choices[0].delta.content or "" async for chunk in chunks]
            response = await client.responses.create(model="gpt-4o", input="Hi")
            return [plain.choices[0].message.content, "".join(parts), response.output_text]

    said = asyncio.run(ask())

    assert said == [TEXT] * 3
    assert is_paid(purse, llm, calls=3)
    assert threading.current_thread().name not in set().union(*(slip.threads for slip in purse.calls))


@pytest.mark.parametrize("kind", [httpx2.Client, anthropic.DefaultHttpxClient, OurClient])
def test_anthropic_calls_are_paid_as_billed(kind: type, purse: Purse, llm: FakeLlm) -> None:
    """Anthropic's SDK: plain, by its stream helper and by events; what was read from its cache counts as such."""
    client = claude(purse, llm, kind)
    plain = client.messages.create(**CLAUDE)
    with client.messages.stream(**CLAUDE) as stream:
        helped = stream.get_final_text()
    events = list(client.messages.create(**CLAUDE, stream=True))

    assert plain.content[0].type == "text"
    assert [plain.content[0].text, helped, events[-1].type] == [TEXT, TEXT, "message_stop"]
    assert is_paid(purse, llm, calls=3)


def test_anthropic_calls_in_an_event_loop_are_paid_as_billed(purse: Purse, llm: FakeLlm) -> None:
    """The async SDK of Anthropic, plain and streamed."""

    async def ask() -> str:
        async with async_claude(purse, llm) as client:
            await client.messages.create(**CLAUDE)
            async with client.messages.stream(**CLAUDE) as stream:
                return await stream.get_final_text()

    said = asyncio.run(ask())

    assert said == TEXT
    assert is_paid(purse, llm, calls=2)


def test_a_retry_is_a_call_of_its_own(purse: Purse, llm: FakeLlm) -> None:
    """What the SDK sends again has its own name in the books; the refused one was free."""
    llm.will(Mood(status=500), Mood())
    gpt(purse, llm, max_retries=1).chat.completions.create(**GPT)

    first, second = purse.calls
    assert first.request_id != second.request_id
    assert list(llm.bill) == [second.request_id]
    assert purse.ends == [FREE, llm.bill[second.request_id].counts]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_compressed_answer_is_read_and_passed_on_as_it_is(is_streamed: bool, purse: Purse, llm: FakeLlm) -> None:
    """A provider is asked for plain answers; one that compresses all the same is understood, by us and by the SDK."""
    llm.will(Mood(is_gzipped=True))
    said = (streamed if is_streamed else chatted)(gpt(purse, llm))

    assert said == TEXT
    assert is_paid(purse, llm)
    assert llm.seen[0].headers["accept-encoding"] == "identity"


def test_a_stream_passes_through_as_it_comes(purse: Purse, llm: FakeLlm) -> None:
    """The first chunk is in the caller's hands before the provider has sent the second."""
    rest = threading.Event()
    llm.will(Mood(holds=rest))
    chunks = gpt(purse, llm, max_retries=0, timeout=5).chat.completions.create(**GPT, stream=True)
    first = next(chunks)

    assert first.choices[0].delta.content == WORDS[0]
    rest.set()
    assert len(list(chunks)) == len(WORDS)
    assert is_paid(purse, llm)


def test_a_stream_in_an_event_loop_passes_through_as_it_comes(purse: Purse, llm: FakeLlm) -> None:
    """Likewise in the async SDK."""
    rest = threading.Event()
    llm.will(Mood(holds=rest))

    async def first() -> str | None:
        chunks = await async_gpt(purse, llm).chat.completions.create(**GPT, stream=True, timeout=5)
        chunk = await anext(chunks)
        rest.set()
        return chunk.choices[0].delta.content if [chunk async for chunk in chunks] else None

    assert asyncio.run(first()) == WORDS[0]
    assert is_paid(purse, llm)


@pytest.fixture(scope="module")
def books() -> Iterator[tuple[SqliteStore, str]]:
    """A control plane that runs, with its books."""
    with SqliteStore(":memory:", clock=SystemClock()) as store, ApiServer(store, settings=SETTINGS) as server:
        yield store, server.url


def hire(store: SqliteStore, provider: str, url: str) -> str:
    """Add an agent with a key that is good at a url, and return its IC token."""
    assert SETTINGS.master_key is not None
    vault, signer = AesGcmVault(SETTINGS.master_key), IcTokenSigner(SETTINGS.ic_token_secret)

    def prepare(uow: UnitOfWork) -> str:
        owner = add_user(uow, username=provider, email=f"{provider}@test.io", role="user", actor=ADMIN)
        key = add_provider_key(uow, provider=provider, api_key=KEY, base_url=url, actor=ADMIN, vault=vault)
        create = partial(create_agent, uow, name=provider, budget=5_000_000, owner_id=owner.id)
        return create(provider_key_ids=[key.id], actor=ADMIN, signer=signer).ic_token.value

    return store.write(prepare)


def booked(uow: UnitOfWork, *, agent_id: str, name: str) -> object:
    return uow.usage.find(agent_id, name)


def check_books(store: SqliteStore, llm: FakeLlm, agent_id: str) -> None:
    """See that the control plane has booked each call on the bill, at what it cost, and no other."""
    assert len(llm.bill) > 1
    total = 0
    for name, billed in llm.bill.items():
        record = store.read(partial(booked, agent_id=agent_id, name=name))
        price = bundled_prices().get(billed.model)
        assert price is not None
        assert isinstance(record, UsageRecord)
        assert record.cost_micros == cost_micros(price, billed.counts)
        total += record.cost_micros
    balance = store.read(partial(balance_of, agent_id=agent_id))
    assert (balance.spent, balance.held) == (total, 0)


def test_the_ledger_says_what_openai_bills(books: tuple[SqliteStore, str], llm: FakeLlm, tmp_path: Path) -> None:
    """A real session: calls, a stream, a refusal; after its end the ledger holds the bill, to the micro-USD."""
    store, url = books
    token = hire(store, "openai", llm.url)
    with session(url, token, budget=2, outbox=tmp_path) as lease:
        client = openai.OpenAI(api_key="unused", base_url=lease.base_url, http_client=lease.http_client(httpx2.Client))
        llm.will(Mood(), Mood(status=400), Mood())
        chatted(client)
        with pytest.raises(openai.BadRequestError):
            chatted(client)
        streamed(client)
        embedded(client)
        agent_id = lease.agent_id
        client.close()

    check_books(store, llm, agent_id)


def test_the_ledger_says_what_anthropic_bills(books: tuple[SqliteStore, str], llm: FakeLlm, tmp_path: Path) -> None:
    """Likewise in an event loop, with calls side by side."""
    store, url = books
    token = hire(store, "anthropic", llm.root)

    async def spend() -> str:
        async with async_session(url, token, budget=2, outbox=tmp_path) as lease:
            http_client = lease.http_client(anthropic.DefaultAsyncHttpxClient)
            client = anthropic.AsyncAnthropic(api_key="unused", base_url=lease.base_url, http_client=http_client)
            async with client:
                await asyncio.gather(*(client.messages.create(**CLAUDE) for _ in range(5)))
                async with client.messages.stream(**CLAUDE) as stream:
                    await stream.get_final_message()
            return lease.session.agent_id

    agent_id = asyncio.run(spend())

    check_books(store, llm, agent_id)
