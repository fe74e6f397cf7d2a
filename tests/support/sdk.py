"""The providers' SDKs on metered transports, as applications set them up."""

from typing import Any

import anthropic
import httpx2
import openai

from ironcage_http.client_transport import AsyncMeteredTransport, MeteredTransport, sender_of
from tests.support.fake_llm import FakeLlm
from tests.support.purse import Purse

KEY = "sk-test-0123456789abcdef"
ASKED: Any = [{"role": "user", "content": "Hi"}]
GPT: Any = {"model": "gpt-4o", "messages": ASKED, "max_tokens": 64}
CLAUDE: Any = {"model": "claude-sonnet-5-5", "max_tokens": 64, "messages": ASKED}


def metered(purse: Purse, kind: Any = httpx2.Client) -> Any:  # noqa: ANN401 - a client of either library
    """Return a client that is closed with the purse."""
    client = kind(transport=MeteredTransport(purse, sender_of(kind, "HTTPTransport")))
    purse.clients.append(client)
    return client


def async_metered(purse: Purse, kind: Any = httpx2.AsyncClient) -> Any:  # noqa: ANN401 - likewise
    """Return a client for an event loop, to be closed there."""
    return kind(transport=AsyncMeteredTransport(purse, sender_of(kind, "AsyncHTTPTransport")))


def gpt(purse: Purse, llm: FakeLlm, kind: type = httpx2.Client, **options: Any) -> openai.OpenAI:  # noqa: ANN401 - its own
    return openai.OpenAI(api_key="unused", base_url=llm.url, http_client=metered(purse, kind), **options)


def async_gpt(purse: Purse, llm: FakeLlm, kind: type = httpx2.AsyncClient, **options: Any) -> openai.AsyncOpenAI:  # noqa: ANN401 - its own
    return openai.AsyncOpenAI(api_key="unused", base_url=llm.url, http_client=async_metered(purse, kind), **options)


def claude(purse: Purse, llm: FakeLlm, kind: type = httpx2.Client) -> anthropic.Anthropic:
    purse.provider = "anthropic"
    return anthropic.Anthropic(api_key="unused", base_url=llm.root, http_client=metered(purse, kind))


def async_claude(purse: Purse, llm: FakeLlm) -> anthropic.AsyncAnthropic:
    purse.provider = "anthropic"
    client = async_metered(purse, anthropic.DefaultAsyncHttpxClient)
    return anthropic.AsyncAnthropic(api_key="unused", base_url=llm.root, http_client=client)
