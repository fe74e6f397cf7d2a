"""Estimates of requests: the contract's for chats, never less than it, and something for all that it is silent on."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.money import MAX_MICROS
from ironcage_core.domain.prices import (
    MAX_PRICE,
    ModelPrice,
    PriceTable,
    estimate_input_tokens,
    max_output_tokens,
    requested_max_tokens,
)
from ironcage_core.runtime.estimates import MEDIA_TOKENS, Most, most_of

PRICE = ModelPrice(input=3_000_000, output=15_000_000, cache_read=300_000, cache_write=3_750_000, max_output_tokens=500)
EMBEDDING = ModelPrice(input=20_000, output=0, max_output_tokens=500)
NO_TEXT = 1_000
LONG = "x" * 4_000
LONG_TOKENS = 1_200

TEXT = st.text("ab€\ud800", max_size=300)
TEXT_PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "input_text"]), "text": TEXT})
CONTENT = st.none() | TEXT | st.lists(TEXT_PART, max_size=3)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": CONTENT}, optional={"name": st.just("ann")}
)
MAXIMUM = st.integers(0, 2_000)
CHATS = st.fixed_dictionaries(
    {"model": st.just("a"), "messages": st.lists(MESSAGE, max_size=3)},
    optional={
        "system": CONTENT,
        "max_tokens": MAXIMUM,
        "max_completion_tokens": MAXIMUM,
        "temperature": st.floats(0, 1),
        "stream": st.booleans(),
    },
)
PRICES = st.builds(
    ModelPrice,
    input=st.integers(0, MAX_PRICE),
    output=st.integers(0, MAX_PRICE),
    cache_write=st.none() | st.integers(0, MAX_PRICE),
    max_output_tokens=st.none() | st.integers(1, 1_000),
)
FIELDS = st.sampled_from(
    [
        *("messages", "system", "input", "instructions", "prompt", "content", "text", "type", "source", "role"),
        *("tools", "functions", "response_format", "cache_control", "n", "best_of"),
        *("max_tokens", "max_output_tokens", "image", "document"),
    ]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 3_000)
    | st.floats()
    | TEXT
    | st.sampled_from(["image", "file", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=12,
)


def input_of(**body: object) -> int:
    return most_of(body, PRICE).input


def output_of(**body: object) -> int:
    return most_of(body, PRICE).output


def compact(value: object) -> int:
    size = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
    return size // 4 + size // 4 // 10 + 100


@given(CHATS, PRICES)
def test_a_plain_chat_costs_at_most_what_the_contract_says(body: Mapping[str, object], price: ModelPrice) -> None:
    """Messages, system text and a limit of the output: nothing is added to the contract's formula."""
    cost = most_of(body, price).cost(price)

    assert cost == PriceTable(models={"a": price}).max_cost("a", body)


@given(st.dictionaries(FIELDS, JSON, max_size=6))
def test_no_garbage_makes_an_estimate_smaller_than_the_contracts(body: dict[str, Any]) -> None:
    """Whatever stands in the fields, nothing raises; only an answer of the Responses API may be shorter."""
    most = most_of(body, PRICE)

    assert most.input >= estimate_input_tokens(body)
    assert "messages" not in body or most.output >= max_output_tokens(PRICE, requested_max_tokens(body))


@given(CHATS, st.dictionaries(FIELDS, JSON, max_size=3), PRICES)
def test_what_is_added_to_a_chat_never_makes_it_cheaper(
    chat: dict[str, object], more: dict[str, Any], price: ModelPrice
) -> None:
    """A field beside the contract's own may raise the cost and never lower it."""
    added = {name: value for name, value in more.items() if name not in {"messages", "system", "max_tokens"}}

    cost = most_of({**chat, **added}, price).cost(price)

    assert cost >= most_of(chat, price).cost(price)


@pytest.mark.parametrize(
    "body",
    [
        {"input": LONG},
        {"input": [LONG]},
        {"input": [{"role": "user", "content": LONG}]},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": LONG}]}]},
        {"instructions": LONG},
        {"instructions": LONG[:1_000], "input": [LONG[:1_000], LONG[:2_000]]},
        {"prompt": LONG},
        {"prompt": [LONG[:2_000], LONG[:2_000]]},
        {"messages": LONG},
        {"messages": [{"content": {"text": LONG}}]},
        {"messages": [{"content": [LONG]}]},
        {"messages": [{"content": LONG, "cache_control": {"type": "ephemeral"}}]},
        {"messages": [{"content": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]}]},
    ],
)
def test_a_text_counts_the_same_wherever_a_request_holds_it(body: dict[str, object]) -> None:
    """4 000 bytes are 1 000 tokens, a tenth of them, and 100, in every kind of request."""
    assert most_of(body, PRICE).input == LONG_TOKENS


@pytest.mark.parametrize("name", ["tools", "functions", "response_format", "text"])
def test_a_schema_counts_by_its_compact_json(name: str) -> None:
    """As its length were text; the message of the same length as before counts besides."""
    schema = {"type": "function", "says": ["€" * 900, 1.5, None, True, {}, []], "parameters": {"a": {"b": LONG}}}

    tokens = input_of(messages=[{"content": ""}], **{name: [schema]})

    assert tokens == compact([schema])


def test_tool_calls_and_their_results_count_by_their_compact_json() -> None:
    """What an agent says to its tools and hears of them is most of what it sends."""
    call = {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": LONG}}]}
    used = {"id": "a", "input": {"path": LONG}}
    heard = {"tool_use_id": "a", "content": [{"type": "text", "text": LONG}]}
    output = {"call_id": "a", "output": LONG}

    counted = [
        input_of(messages=[{"role": "assistant", "content": None, **call}]),
        input_of(messages=[{"role": "assistant", "content": [used]}]),
        input_of(messages=[{"role": "user", "content": [{"type": "tool_result", **heard}]}]),
        input_of(input=[{"type": "function_call_output", **output}]),
    ]

    assert counted == [compact(call), compact(used), compact(heard), compact(output)]


DATA = "A" * 400_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}},
        {"type": "input_image", "image_url": DATA},
        {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}},
        {"type": "file", "file": {"file_data": DATA}},
        {"type": "input_file", "file_data": DATA},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": DATA}},
    ],
)
def test_a_part_that_is_no_text_counts_a_fixed_number(part: dict[str, object]) -> None:
    """However large its bytes are, in a chat, in an input, and in what a tool has given back."""
    said = [{"type": "text", "text": LONG}, part, part]
    heard = {"tool_use_id": "a", "content": [part]}

    counted = [
        input_of(messages=[{"content": said}]),
        input_of(input=[{"content": said}]),
        input_of(input=[part, LONG]),
    ]

    assert counted == [LONG_TOKENS + 2 * MEDIA_TOKENS, LONG_TOKENS + 2 * MEDIA_TOKENS, LONG_TOKENS + MEDIA_TOKENS]
    assert MEDIA_TOKENS < input_of(messages=[{"content": [heard]}]) < MEDIA_TOKENS + 200


def test_a_document_that_is_text_counts_by_its_length() -> None:
    """A text is not hidden by calling it a document."""
    part = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": DATA}}

    assert input_of(messages=[{"content": [part]}]) > 110_000


def test_tokens_given_as_numbers_count_one_by_one() -> None:
    """Flat or in lists, as an embedding's input or as a prompt; there may be text besides, so it counts as well."""
    counted = [input_of(input=[7] * 50), input_of(input=[[7] * 20, [7] * 30]), input_of(prompt=[[7] * 50])]

    assert counted == [NO_TEXT + 50] * 3


def test_an_embedding_has_no_output() -> None:
    """What has no price for its output answers with no tokens, whatever its maximum."""
    most = most_of({"input": [LONG]}, EMBEDDING)

    assert most == Most(LONG_TOKENS, 0, is_cache_written=False)
    assert most.cost(EMBEDDING) == 24


def test_a_free_model_still_answers() -> None:
    """Only a model that has a price for its input and none for its output has no output."""
    assert most_of({"input": LONG}, ModelPrice(input=0, output=0, max_output_tokens=500)).output == 500
    assert most_of({"input": LONG}, ModelPrice(input=5, output=0, output_above_200k=1)).output == 128_000


def test_the_responses_api_limits_its_output_by_its_own_field() -> None:
    """The larger of two limits counts, and neither more than the model gives."""
    asked = [{"max_output_tokens": 40}, {"max_output_tokens": 40, "max_tokens": 60}, {"max_output_tokens": 501}, {}]

    assert [output_of(input=LONG, **limits) for limits in asked] == [40, 60, 500, 500]


def test_a_chat_is_not_limited_by_a_field_of_the_responses_api() -> None:
    """A provider that does not know the field ignores it."""
    assert output_of(messages=[], max_output_tokens=1) == 500


@pytest.mark.parametrize("limit", [True, -1, 1.5, "40", None, [40]])
def test_a_limit_that_is_no_whole_number_limits_nothing(limit: object) -> None:
    """The model's own maximum counts then."""
    assert output_of(input=LONG, max_output_tokens=limit) == 500


@pytest.mark.parametrize(
    ("body", "answers"),
    [
        ({"n": 3}, 3),
        ({"best_of": 4}, 4),
        ({"n": 3, "best_of": 4}, 4),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt": [[1, 2], [3]], "n": 3}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": "a", "n": 2}, 2),
        ({"prompt": []}, 1),
        *(({"n": wrong}, 1) for wrong in (0, -5, True, 2.0, "3", None, [3])),
    ],
)
def test_every_answer_may_be_as_long_as_the_limit(body: dict[str, object], answers: int) -> None:
    """`n`, the answers to choose from, and a list of prompts multiply the output; what is no number counts as 1."""
    assert output_of(max_tokens=100, **body) == 100 * answers


@pytest.mark.parametrize(
    "body",
    [
        {"cache_control": {"type": "ephemeral"}},
        {"system": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]},
        {"tools": [{"name": "f", "cache_control": {"type": "ephemeral"}}]},
        {"messages": [{"content": [{"type": "tool_result", "content": [{"text": "a", "cache_control": {}}]}]}]},
    ],
)
def test_a_cached_part_makes_the_input_cost_as_much_as_writing_it(body: dict[str, object]) -> None:
    """Wherever the mark stands, all of the input may be billed at the cache-write price."""
    most = most_of(body, PRICE)

    assert most.is_cache_written
    assert most.cost(PRICE) == -(-(most.input * 3_750_000 + 500 * 15_000_000) // 1_000_000)


def test_a_cheaper_cache_write_does_not_lower_the_cost() -> None:
    """The mark may not make a request look cheaper than without."""
    cheap = ModelPrice(input=3_000_000, output=0, cache_write=1)

    assert Most(1_000, 0, is_cache_written=True).cost(cheap) == 3_000


def test_no_mark_is_no_cache_write() -> None:
    """Neither none at all nor an empty one."""
    assert not most_of({"messages": [{"content": LONG, "cache_control": None}]}, PRICE).is_cache_written


def test_an_absurd_number_of_answers_costs_the_largest_amount_there_is() -> None:
    """No lease holds it, and no counter of money overflows."""
    assert most_of({"messages": [], "n": 10**30}, PRICE).cost(PRICE) == MAX_MICROS


def test_a_text_in_a_list_too_deep_counts_as_well() -> None:
    """What no provider should take counts by its compact JSON."""
    assert input_of(messages=[{"content": [[LONG]]}]) == compact([LONG])


def test_no_depth_and_no_strange_value_is_uncountable() -> None:
    """A body that was nested by hand, or holds what JSON does not know, is estimated all the same."""
    deep: object = LONG
    for _ in range(20_000):
        deep = [deep]

    strange = {"tools": [deep, object(), b"bytes", 10**5_000, float("nan"), {"type": ["image"]}], "input": deep}

    assert most_of(strange, PRICE).input > 2 * LONG_TOKENS
