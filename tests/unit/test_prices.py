"""Prices: one rounding upward, nothing unknown is free, a bad table changes nothing."""

import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, asdict
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.price_tables import PRICE_UNIT, parse_price_table, parse_usd_per_token_table
from ironcage_core.domain.prices import (
    MAX_OUTPUT_TOKENS,
    MAX_PRICE,
    ModelPrice,
    PriceTable,
    TokenCounts,
    cost_micros,
    estimate_input_tokens,
    max_cost_micros,
    requested_max_tokens,
)
from ironcage_core.errors.tree import ValidationError

PRICE = st.integers(0, MAX_PRICE)
OPTIONAL = st.none() | PRICE
PRICES = st.builds(
    ModelPrice,
    input=PRICE,
    output=PRICE,
    cache_read=OPTIONAL,
    cache_write=OPTIONAL,
    input_above_200k=OPTIONAL,
    output_above_200k=OPTIONAL,
    cache_read_above_200k=OPTIONAL,
    cache_write_above_200k=OPTIONAL,
    max_output_tokens=st.none() | st.integers(1, MAX_OUTPUT_TOKENS),
)
COUNT = st.integers(0, 300_000)
TOKENS = st.builds(
    lambda plain, cached, written, output: TokenCounts(
        input=plain + cached + written, output=output, cached_input=cached, cache_write=written
    ),
    COUNT,
    COUNT,
    COUNT,
    COUNT,
)
TEXT = st.text("ab\u20ac\ud800", max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.sampled_from(["content", "text"]), inner),
    max_leaves=8,
)
USD_ENTRY_KEYS = st.sampled_from(["input_cost_per_token", "output_cost_per_token", "mode", "max_tokens"])

GPT_4_TURBO = ModelPrice(input=10_000_000, output=30_000_000)
GPT_4O_MINI = ModelPrice(input=150_000, output=600_000)
GPT_5_1 = ModelPrice(input=1_250_000, output=10_000_000)
LONG = ModelPrice(
    input=1_000_000,
    output=2_000_000,
    cache_read=100_000,
    cache_write=1_500_000,
    input_above_200k=3_000_000,
    output_above_200k=4_000_000,
    cache_read_above_200k=300_000,
    cache_write_above_200k=5_000_000,
)


def whole_table(models: object, **changes: object) -> str:
    head = {"source": "a list", "version": "1", "date": "2026-01-02", "unit": PRICE_UNIT}
    return json.dumps({**head, "models": models, **changes})


def usd_table(entries: Mapping[str, object], *, strict: bool = True) -> PriceTable:
    return parse_usd_per_token_table(json.dumps(entries), source="a list", strict=strict)


def usd_text(number: str) -> str:
    return f'{{"m": {{"input_cost_per_token": {number}, "output_cost_per_token": {number}}}}}'


# --- cost --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "tokens", "micros"),
    [
        (GPT_4_TURBO, TokenCounts(input=100_000, output=50_000), 2_500_000),
        (GPT_4O_MINI, TokenCounts(input=150, output=50), 53),
        (GPT_5_1, TokenCounts(input=1_000, output=500), 6_250),
        (GPT_4O_MINI, TokenCounts(input=0, output=0), 0),
        (ModelPrice(input=1, output=0), TokenCounts(input=1, output=0), 1),
    ],
)
def test_a_cost_is_exact_and_rounded_upward(price: ModelPrice, tokens: TokenCounts, micros: int) -> None:
    """The examples of the contract: a fraction of a micro-USD is a whole one."""
    cost = cost_micros(price, tokens)

    assert cost == micros


@given(PRICES, TOKENS)
def test_a_cost_is_rounded_once(price: ModelPrice, tokens: TokenCounts) -> None:
    """The cost is the ceiling of the exact sum of all parts, whatever the tier."""
    cost = cost_micros(price, tokens)

    tier = {name: value for name, value in asdict(price).items() if value is not None}
    if tokens.input > 200_000:
        tier |= {name.removesuffix("_above_200k"): v for name, v in tier.items() if name.endswith("_above_200k")}
    counts = {
        "input": tokens.input - tokens.cached_input - tokens.cache_write,
        "cache_read": tokens.cached_input,
        "cache_write": tokens.cache_write,
        "output": tokens.output,
    }
    exact = sum(Fraction(count * tier.get(name, tier["input"]), 10**6) for name, count in counts.items())
    assert cost == ceil(exact)


@given(PRICES)
def test_no_tokens_cost_nothing(price: ModelPrice) -> None:
    """0 tokens cost 0 at every price."""
    cost = cost_micros(price, TokenCounts(input=0, output=0))

    assert cost == 0


@given(PRICE, PRICE, TOKENS)
def test_without_cache_prices_cached_tokens_cost_as_input(price_in: int, price_out: int, tokens: TokenCounts) -> None:
    """A missing cache price is the input price, never 0."""
    price = ModelPrice(input=price_in, output=price_out)

    plain = TokenCounts(input=tokens.input, output=tokens.output)
    assert cost_micros(price, tokens) == cost_micros(price, plain)


@pytest.mark.parametrize(("input_tokens", "micros"), [(200_000, 230_000), (200_001, 725_003)])
def test_the_long_input_prices_apply_only_beyond_200k(input_tokens: int, micros: int) -> None:
    """200 000 input tokens, cached ones included, are still short; one more prices the whole call as long."""
    tokens = TokenCounts(input=input_tokens, output=10_000, cached_input=50_000, cache_write=110_000)

    cost = cost_micros(LONG, tokens)

    assert cost == micros


def test_a_missing_long_price_is_the_ordinary_one() -> None:
    """A model without above-200k prices has one tier."""
    cost = cost_micros(GPT_4_TURBO, TokenCounts(input=300_000, output=0))

    assert cost == 3_000_000


@pytest.mark.parametrize(
    "counts",
    [
        {"input": -1, "output": 0},
        {"input": 0, "output": -1},
        {"input": 5, "output": 0, "cached_input": -1},
        {"input": 5, "output": 0, "cache_write": -1},
        {"input": 5, "output": 0, "cached_input": 3, "cache_write": 3},
    ],
)
def test_impossible_token_counts_are_refused(counts: dict[str, int]) -> None:
    """Counts are at least 0, and the cached parts fit into the input."""
    with pytest.raises(ValidationError):
        TokenCounts(**counts)


@pytest.mark.parametrize("bad", [-1, MAX_PRICE + 1, 1.5, True, "1", Decimal(1)])
@pytest.mark.parametrize("name", ["input", "output", "cache_read", "output_above_200k"])
def test_a_price_is_a_whole_number_in_range(name: str, bad: Any) -> None:  # noqa: ANN401 - wrong on purpose
    """Negative, fractional, huge or wrongly typed prices never enter a table."""
    values: dict[str, Any] = {"input": 1, "output": 1, name: bad}

    with pytest.raises(ValidationError) as caught:
        ModelPrice(**values)

    assert list(caught.value.fields) == [name]


# --- the table ---------------------------------------------------------------


def test_an_unknown_model_has_no_cost() -> None:
    """Unknown is None, never 0, and names match exactly."""
    table = PriceTable(models={"gpt-4o-mini": GPT_4O_MINI})

    assert table.cost("gpt-4o-mini", TokenCounts(input=150, output=50)) == 53
    assert table.cost("GPT-4o-mini", TokenCounts(input=0, output=0)) is None
    assert table.max_cost("gpt-9", {}) is None


def test_a_table_does_not_change() -> None:
    """The table keeps its own copy and refuses assignment."""
    models = {"a": GPT_5_1}
    table = PriceTable(models=models)

    models.clear()

    assert dict(table) == {"a": GPT_5_1}
    assert len(table) == 1
    with pytest.raises(FrozenInstanceError):
        table.models = {}  # type: ignore[misc]
    with pytest.raises(TypeError):
        table.models["b"] = GPT_5_1  # type: ignore[index]


# --- the most a request may cost ---------------------------------------------


@pytest.mark.parametrize(
    ("usd_per_token", "body", "micros"),
    [("0.0001", {"max_tokens": 8192}, 919_200), ("0.000001", {}, 129_000)],
)
def test_the_maximum_of_an_empty_request_is_known(usd_per_token: str, body: dict[str, object], micros: int) -> None:
    """The examples of the contract: 1 000 tokens in, the requested or 128 000 tokens out."""
    table = parse_usd_per_token_table(usd_text(usd_per_token))

    assert table.max_cost("m", body) == micros


@pytest.mark.parametrize(
    ("model_max", "requested", "output"),
    [(100, 50, 50), (100, 200, 100), (100, None, 100), (None, 50, 50), (None, 10**6, 128_000), (None, None, 128_000)],
)
def test_the_smaller_output_limit_counts(model_max: int | None, requested: int | None, output: int) -> None:
    """The output is the smaller of the request's and the model's limit; an unknown model limit is 128 000."""
    price = ModelPrice(input=1_000_000, output=1_000_000, max_output_tokens=model_max)

    cost = max_cost_micros(price, input_tokens=7, requested_max_tokens=requested)

    assert cost == 7 + output


@given(PRICES, COUNT, COUNT, COUNT)
def test_no_answer_within_the_limit_costs_more_than_the_maximum(
    price: ModelPrice, input_tokens: int, limit: int, output: int
) -> None:
    """The maximum covers every uncached answer within the limits."""
    most = max_cost_micros(price, input_tokens=input_tokens, requested_max_tokens=limit)

    output = min(output, limit, price.max_output_tokens or 128_000)
    assert cost_micros(price, TokenCounts(input=input_tokens, output=output)) <= most


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 1_000),
        ({"messages": []}, 1_000),
        ({"messages": "text"}, 1_000),
        ({"messages": [None, 7, {"role": "user"}, {"content": 7}, {"content": ""}]}, 1_000),
        ({"messages": [{"content": [{"type": "image", "source": {}}, "bare", {"text": 5}]}]}, 1_000),
        ({"messages": [{"content": "abc"}]}, 100),
        ({"messages": [{"content": "x" * 400}]}, 100 + 10 + 100),
        ({"messages": [{"content": "x" * 399}, {"content": "x"}]}, 210),
        ({"messages": [{"content": [{"type": "text", "text": "x" * 200}] * 2}]}, 210),
        ({"system": "x" * 200, "messages": [{"content": "x" * 200}]}, 210),
        ({"system": [{"type": "text", "text": "x" * 400}]}, 210),
        ({"messages": [{"content": "\u20ac" * 400}]}, 300 + 30 + 100),
        ({"messages": [{"content": "\ud800" * 4}]}, 3 + 100),
    ],
)
def test_the_input_is_estimated_from_its_texts(body: dict[str, object], tokens: int) -> None:
    """A quarter of the UTF-8 bytes, a tenth more, and 100; 1 000 when there is no text."""
    estimate = estimate_input_tokens(body)

    assert estimate == tokens


@given(st.dictionaries(st.sampled_from(["messages", "system", "max_tokens", "max_completion_tokens"]), JSON))
def test_every_request_body_has_an_estimate(body: dict[str, object]) -> None:
    """No shape of a body raises, and none is estimated below 100 tokens."""
    tokens = estimate_input_tokens(body)
    limit = requested_max_tokens(body)

    assert tokens >= 100
    assert limit is None or limit >= 0


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 9}, 5),
        ({"max_tokens": None, "max_completion_tokens": 9}, 9),
        ({"max_completion_tokens": 0}, 0),
        ({"max_tokens": -1}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "5"}, None),
        ({}, None),
    ],
)
def test_the_requested_maximum_is_read_from_either_name(body: dict[str, object], limit: int | None) -> None:
    """`max_tokens` comes first; what is no count of tokens limits nothing."""
    requested = requested_max_tokens(body)

    assert requested == limit


# --- reading tables ----------------------------------------------------------


@given(st.dictionaries(TEXT, PRICES, min_size=1, max_size=3))
def test_a_written_table_reads_back(models: dict[str, ModelPrice]) -> None:
    """Every price survives, and the table notes where it comes from."""
    text = whole_table({name: asdict(price) for name, price in models.items()})

    table = parse_price_table(text)

    assert dict(table) == models
    assert (table.source, table.version, table.date, table.skipped) == ("a list", "1", "2026-01-02", 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        "1" * 5_000,
        "1e99999999999999999999",
        whole_table({"m": {"input": 1, "output": 1}}, unit="USD"),
        whole_table({"m": {"input": 1, "output": 1}}, date=None),
        whole_table({}),
        whole_table([]),
        whole_table({"m": 1}),
        whole_table({"m": {"input": 1}}),
        whole_table({"m": {"output": 1}}),
        whole_table({"m": {"input": 1, "output": None}}),
        whole_table({"m": {"input": 1.0, "output": 1}}),
        whole_table({"m": {"input": float("nan"), "output": 1}}),
        whole_table({"m": {"input": -1, "output": 1}}),
        whole_table({"m": {"input": 1, "output": 1, "cache_raed": 1}}),
        whole_table({"m": {"input": 1, "output": 1, "max_output_tokens": 0}}),
    ],
)
def test_a_wrong_table_is_refused(text: str) -> None:
    """Bad JSON, another unit, a missing, unknown or wrong field: there is no table rather than a guess."""
    with pytest.raises(ValidationError):
        parse_price_table(text)


def test_a_refusal_names_the_model_and_the_field() -> None:
    """An operator can find the line to mend."""
    with pytest.raises(ValidationError) as caught:
        parse_price_table(whole_table({"m": {"input": 1, "output": -1}}))

    assert list(caught.value.fields) == ["m: output"]


@given(JSON.map(json.dumps) | st.text('{}[]":,-.0e') | st.dictionaries(TEXT, JSON, max_size=3).map(whole_table))
def test_no_text_does_worse_than_a_refusal(text: str) -> None:
    """Whatever the file holds, parsing it gives a table or a `ValidationError`."""
    for parse in (parse_price_table, parse_usd_per_token_table):
        try:
            table = parse(text)
        except ValidationError:
            continue
        assert table


@given(st.dictionaries(TEXT, JSON | st.dictionaries(USD_ENTRY_KEYS, JSON), max_size=3))
def test_lenient_parsing_never_stumbles_over_an_entry(entries: dict[str, object]) -> None:
    """Beside one good entry any other is read or left out, never fatal."""
    table = usd_table({**entries, "m": {"input_cost_per_token": 1e-06, "output_cost_per_token": 0}}, strict=False)

    assert table["m"] == ModelPrice(input=1_000_000, output=0)


@given(st.integers(0, MAX_PRICE))
def test_usd_per_token_is_read_exactly(price: int) -> None:
    """Every whole price has an exact decimal form, also in exponent form, and is read back from it."""
    for number in (f"{Decimal(price).scaleb(-12):f}", f"{price}e-12"):
        table = parse_usd_per_token_table(usd_text(number))

        assert table["m"] == ModelPrice(input=price, output=price)


@pytest.mark.parametrize(
    "number",
    [
        "1e-13",
        "0.0000015000001",
        "0.00000100000000000000000000000000000000000000000000000000000000000000000000001",
        "1e-999999999",
        "-1e-6",
        "1.000001",
        "2",
        "1e999999999",
        "NaN",
        "Infinity",
        "true",
        '"0.000001"',
        "[]",
    ],
)
def test_an_inexact_price_is_refused(number: str) -> None:
    """A price that is no whole number of micro-USD per million tokens is not rounded but refused."""
    with pytest.raises(ValidationError):
        parse_usd_per_token_table(usd_text(number))


def test_every_price_of_an_entry_is_read() -> None:
    """All eight prices and the output limit have their key."""
    entry = {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
        "cache_read_input_token_cost": 1e-07,
        "cache_creation_input_token_cost": 1.5e-06,
        "input_cost_per_token_above_200k_tokens": 3e-06,
        "output_cost_per_token_above_200k_tokens": 4e-06,
        "cache_read_input_token_cost_above_200k_tokens": 3e-07,
        "cache_creation_input_token_cost_above_200k_tokens": 5e-06,
    }

    table = usd_table({"m": entry})

    assert table["m"] == LONG
    assert table.source == "a list"


@pytest.mark.parametrize(
    ("limits", "maximum"),
    [
        ({"max_output_tokens": 5, "max_tokens": 9}, 5),
        ({"max_tokens": 9}, 9),
        ({"max_output_tokens": None, "max_tokens": 9}, 9),
        ({"max_output_tokens": 0, "max_tokens": 0}, None),
        ({}, None),
    ],
)
def test_the_output_limit_falls_back_to_max_tokens(limits: dict[str, object], maximum: int | None) -> None:
    """`max_output_tokens`, else `max_tokens`; 0 means unknown."""
    table = usd_table({"m": {"input_cost_per_token": 0, "output_cost_per_token": 0, **limits}})

    assert table["m"].max_output_tokens == maximum


def test_what_is_no_text_model_is_passed_over() -> None:
    """The sample, entries without any price and other modes are no models, and no faults either."""
    priced = {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06}

    table = usd_table(
        {
            "sample_spec": {**priced, "max_tokens": "a sentence"},
            "image": {**priced, "mode": "image_generation"},
            "unpriced": {"mode": "chat"},
            "m": priced,
        }
    )

    assert list(table) == ["m"]
    assert table.skipped == 0


def test_an_embedding_needs_no_output_price() -> None:
    """It has no output tokens."""
    table = usd_table({"m": {"mode": "embedding", "input_cost_per_token": 1e-07}})

    assert table["m"] == ModelPrice(input=100_000, output=0)


@pytest.mark.parametrize("only", ["input_cost_per_token", "output_cost_per_token"])
def test_a_chat_model_needs_both_prices(only: str) -> None:
    """A missing side is unknown, and unknown is not free."""
    with pytest.raises(ValidationError):
        usd_table({"m": {"mode": "chat", only: 1e-06}})


def test_lenient_parsing_counts_what_it_leaves_out() -> None:
    """One wrong entry refuses a strict table and only itself in a lenient one."""
    good = {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06}
    entries = {"good": good, "inexact": {**good, "input_cost_per_token": 1e-13}, "odd": 7}

    table = usd_table(entries, strict=False)

    assert list(table) == ["good"]
    assert table.skipped == 2
    with pytest.raises(ValidationError):
        usd_table(entries)


def test_a_table_without_any_price_is_refused() -> None:
    """A file of another kind is not taken for an empty table, which would make every model unknown."""
    with pytest.raises(ValidationError):
        usd_table({"data": {"models": []}}, strict=False)
