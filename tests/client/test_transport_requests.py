"""What leaves through a metered transport: to whom, with which key, and what does not leave at all."""

import asyncio
import gc
import json
import time
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from ironcage_core.errors.runtime import (
    ForeignHostError,
    InsufficientBudget,
    SessionStoppedError,
    UnmeteredRequestError,
)
from ironcage_core.errors.tree import IroncageError
from ironcage_http.client_requests import addressed, planned
from ironcage_http.client_transport import MeteredTransport, sender_of
from tests.support.fake_llm import FakeLlm, Mood
from tests.support.purse import FREE, LOST, Purse
from tests.support.sdk import ASKED, CLAUDE, GPT, KEY, async_claude, async_gpt, claude, gpt, metered

CHAT = "/v1/chat/completions"


def sent(url: str, purse: Purse, method: str = "POST", headers: dict[str, str] | None = None) -> httpx.Request:
    request = httpx.Request(method, url, headers=headers, json=GPT)
    return addressed(request, planned(request, request.read()), purse, "call-1")


@pytest.mark.parametrize(
    ("provider", "base_url", "url"),
    [
        ("openai", None, "https://api.openai.com/v1/chat/completions"),
        ("openai", None, "https://API.openai.com:443/v1/chat/completions"),
        ("anthropic", None, "https://api.anthropic.com/v1/messages"),
        ("openai", "https://eu.example:8443/v1", "https://eu.example:8443/other"),
        ("mistral", "https://api.mistral.ai", "https://api.mistral.ai/v1/chat/completions"),
        ("openai", "http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
    ],
)
def test_the_key_goes_to_the_providers_origin(provider: str, base_url: str | None, url: str) -> None:
    """That of the key's base URL if it has one, else the provider's own; in the header of that provider alone."""
    stale = {"Authorization": "Bearer stale", "X-Api-Key": "stale", "X-Client-Request-Id": "mine"}
    request = sent(url, Purse(KEY, provider, base_url), headers=stale)

    name, value = ("x-api-key", KEY) if provider == "anthropic" else ("authorization", f"Bearer {KEY}")
    assert request.headers[name] == value
    assert "stale" not in str(request.headers.raw)
    assert request.headers["x-client-request-id"] == "mine"


@pytest.mark.parametrize(
    ("provider", "base_url", "url"),
    [
        ("openai", None, "https://api.openai.com.evil.example/v1/chat/completions"),
        ("openai", None, "https://api.anthropic.com/v1/messages"),
        ("openai", None, "https://api.openai.com:8443/v1/chat/completions"),
        ("openai", None, "http://api.openai.com/v1/chat/completions"),
        ("openai", None, "https://api.openai.com@evil.example/v1/chat/completions"),
        ("openai", "https://eu.example", "https://api.openai.com/v1/chat/completions"),
        ("openai", "http://eu.example", "http://eu.example/v1/chat/completions"),
        ("mistral", None, "https://api.mistral.ai/v1/chat/completions"),
    ],
)
def test_the_key_goes_nowhere_else(provider: str, base_url: str | None, url: str) -> None:
    """Not to another host, port or scheme, nor readable over the net, nor for a provider of no known place."""
    with pytest.raises(ForeignHostError) as refused:
        sent(url, Purse(KEY, provider, base_url))

    assert KEY not in str(refused.value)


def test_a_request_to_another_host_is_free_and_never_sent(purse: Purse, llm: FakeLlm) -> None:
    """The SDK raises ours, nothing arrives anywhere, and what was reserved is given back."""
    purse.base_url = None
    with pytest.raises(ForeignHostError, match="base_url"):
        gpt(purse, llm).chat.completions.create(**GPT)

    assert llm.seen == []
    assert purse.ends == [FREE]


def test_the_callers_request_never_holds_the_key(purse: Purse, llm: FakeLlm) -> None:
    """An error of the SDK carries the request it had made, with its own credentials."""
    llm.will(Mood(status=400))
    with pytest.raises(openai.BadRequestError) as refused:
        gpt(purse, llm).chat.completions.create(**GPT)

    assert KEY not in str(refused.value.request.headers.raw)
    assert KEY not in str(refused.value.response.request.headers.raw)


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_checked_and_paid_for_itself(status: int, purse: Purse, llm: FakeLlm) -> None:
    """A client that follows one asks again: at the same place with the key, elsewhere not at all."""
    client = gpt(purse, llm)
    with FakeLlm(KEY) as other:
        llm.will(Mood(status=status, location=f"{other.url}/chat/completions"))
        with pytest.raises(ForeignHostError):
            client.with_options(max_retries=0).post(
                "/chat/completions", body=GPT, cast_to=httpx2.Response, options={"follow_redirects": True}
            )
        llm.will(Mood(status=307, location="/v1/chat/completions"))
        client.post("/chat/completions", body=GPT, cast_to=httpx2.Response, options={"follow_redirects": True})

    assert other.seen == []
    assert purse.ends[-2:] == [FREE, next(iter(llm.bill.values())).counts]


def test_what_costs_nothing_is_not_metered(purse: Purse, llm: FakeLlm) -> None:
    """Models are listed, tokens counted and responses cancelled with the key and without a call in the books."""
    client = gpt(purse, llm)
    client.models.list()
    client.responses.cancel("resp_1")
    counted = claude(purse, llm).messages.count_tokens(model="claude-sonnet-5-5", messages=ASKED)

    assert counted.input_tokens == 12
    assert llm.paths == ["/v1/models", "/v1/responses/resp_1/cancel", "/v1/messages/count_tokens"]
    assert (purse.calls, llm.bill) == ([], {})


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("POST", "/v1/audio/transcriptions", b"--frame\r\nno JSON"),
        ("POST", CHAT, b"[]"),
        ("POST", CHAT, b""),
        ("POST", CHAT, b"[" * 100_000),
        ("POST", CHAT, b'{"messages": []}'),
        ("POST", CHAT, b'{"model": ""}'),
        ("POST", CHAT, b'{"model": ["gpt-4o"]}'),
        ("PUT", CHAT, json.dumps(GPT).encode()),
        ("PATCH", CHAT, json.dumps(GPT).encode()),
        ("POST", "/v1/batches", b'{"input_file_id": "f"}'),
        ("POST", "/v1/realtime/sessions", b'{"model": "gpt-4o"}'),
        ("POST", "/v1/fine_tuning/jobs", b'{"model": "gpt-4o"}'),
        ("POST", "/v1/responses/cancel", b"{}"),
        ("POST", "/v1/messages/count_tokens/batch", b"{}"),
        ("POST", "/v1/messages/count_tokens%0A", b"{}"),
    ],
)
def test_what_cannot_be_metered_is_not_sent(method: str, path: str, content: bytes, purse: Purse, llm: FakeLlm) -> None:
    """Whatever changes something and does not name a model in JSON, and what costs only later."""
    with pytest.raises(UnmeteredRequestError, match=method):
        metered(purse, httpx.Client).request(method, llm.root + path, content=content)

    assert (llm.seen, purse.calls) == ([], [])


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_obfuscation": True}])
def test_a_stream_is_asked_for_its_usage(options: dict[str, Any] | None, purse: Purse, llm: FakeLlm) -> None:
    """A caller who did not ask for it does not see the chunk that tells of it; its other options stay."""
    chunks = list(gpt(purse, llm).chat.completions.create(**GPT, stream=True, extra_body={"stream_options": options}))

    asked = llm.seen[0].body
    assert asked is not None
    assert asked["stream_options"] == {**(options or {}), "include_usage": True}
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize(
    "body",
    [
        GPT,
        {**GPT, "stream": False},
        {**GPT, "stream": True, "stream_options": {"include_usage": True}},
    ],
)
def test_any_other_body_goes_out_as_it_is(body: dict[str, Any]) -> None:
    """To the byte, whatever its spaces are; and a stream of other calls tells what it used unasked."""
    content = json.dumps(body, indent=3).encode()
    for path in (CHAT, "/v1/completions"):
        request = httpx.Request("POST", f"https://api.openai.com{path}", content=content)
        assert planned(request, content).content == content
    request = httpx.Request("POST", "https://api.anthropic.com/v1/messages", json={**CLAUDE, "stream": True})
    assert planned(request, request.read()).content == request.read()


REFUSALS = [InsufficientBudget(1, 2), SessionStoppedError("no new calls", reason="stop")]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_of_ours_reaches_the_caller_as_itself_and_at_once(
    refusal: IroncageError, purse: Purse, llm: FakeLlm
) -> None:
    """Both SDKs raise it, with all that it knows, and neither tries again."""
    purse.refusal = refusal
    began = time.monotonic()
    for ask in (
        lambda: gpt(purse, llm).chat.completions.create(**GPT),
        lambda: claude(purse, llm).messages.create(**CLAUDE),
        lambda: asyncio.run(async_gpt(purse, llm).chat.completions.create(**GPT)),
        lambda: asyncio.run(async_claude(purse, llm).messages.create(**CLAUDE)),
    ):
        with pytest.raises(type(refusal)) as raised:
            ask()  # type: ignore[no-untyped-call]  # a lambda
        assert (raised.value.code, raised.value.details) == (refusal.code, refusal.details)
        assert str(raised.value) == str(refusal)

    assert time.monotonic() - began < 3
    assert (len(purse.calls), llm.seen) == (4, [])


def test_a_key_that_a_begun_call_brings_is_the_one_that_is_sent(purse: Purse, llm: FakeLlm) -> None:
    """Beginning a call may take another lease, with another key; the old one is not used any more."""
    purse.api_key = "the old one"
    purse.on_begin = lambda: setattr(purse, "api_key", KEY)
    gpt(purse, llm).chat.completions.create(**GPT)

    assert [seen.headers["authorization"] for seen in llm.seen] == [f"Bearer {KEY}"]


@pytest.mark.parametrize("kind", [openai.DefaultHttpxClient, anthropic.DefaultHttpxClient, httpx2.Client])
def test_a_sender_is_of_the_clients_library(kind: type) -> None:
    """Also where the client is a class of an SDK."""
    with sender_of(kind, "HTTPTransport") as sender:
        assert type(sender) is httpx2.HTTPTransport
    with sender_of(httpx.Client, "HTTPTransport") as sender:
        assert type(sender) is httpx.HTTPTransport


@pytest.mark.parametrize("kind", [dict, openai.OpenAI, lambda **_: None])
def test_a_client_of_no_known_library_is_refused(kind: object) -> None:
    """The message says what is wanted."""
    with pytest.raises(ValueError, match="httpx"):
        sender_of(kind, "HTTPTransport")


def test_options_that_say_how_to_send_reach_the_sender(purse: Purse, llm: FakeLlm) -> None:
    """A proxy is sent through, metered; what would be sent past the meter is refused."""
    options: dict[str, Any] = {"proxy": "http://127.0.0.1:9", "verify": False, "timeout": 3}
    sender = sender_of(httpx.Client, "HTTPTransport", options)

    with pytest.raises(httpx.ConnectError), MeteredTransport(purse, sender) as through_a_proxy:
        through_a_proxy.handle_request(httpx.Request("POST", f"{llm.url}/chat/completions", json=GPT))

    assert (options, llm.seen) == ({"timeout": 3}, [])
    given: dict[str, Any] = {"transport": sender, "timeout": 3}
    assert sender_of(httpx.Client, "HTTPTransport", given) is sender
    assert given == {"timeout": 3}
    for past, why in (({"mounts": {"http://": sender}}, "unmetered"), ({"proxy": "http://127.0.0.1:9"}, "proxy")):
        with pytest.raises(ValueError, match=why):
            sender_of(httpx.Client, "HTTPTransport", {"transport": sender, **past})


def test_a_forgotten_stream_is_paid_with_its_most(purse: Purse, llm: FakeLlm) -> None:
    """One that nobody closes is settled when it is collected."""
    chunks = gpt(purse, llm).chat.completions.create(**GPT, stream=True)
    next(chunks)
    del chunks
    gc.collect()

    assert purse.has_settled.wait(5)
    assert purse.ends == [LOST]
