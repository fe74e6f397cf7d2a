"""A price table that was altered is refused or read whole, and no price of it breaks the arithmetic of money."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_core.domain.money import MAX_MICROS
from ironcage_core.domain.price_tables import PRICE_UNIT, parse_price_table, parse_usd_per_token_table
from ironcage_core.domain.prices import MAX_PRICE, PRICE_FIELDS, PriceTable, TokenCounts
from ironcage_core.domain.usage import MAX_TOKENS
from ironcage_core.errors.tree import ValidationError
from ironcage_storage.prices import load_prices
from tests.fuzz.alterations import altered_bytes, objects, values
from tests.fuzz.effort import examples
from tests.fuzz.refusals import assert_names

OURS = json.dumps(
    {
        "source": "s", "version": "1", "date": "2026-01-01", "unit": PRICE_UNIT,
        "models": {"gpt": {"input": 2_500_000, "output": 10_000_000, "cache_read": 1, "max_output_tokens": 4096}},
    }
)  # fmt: skip
THEIRS = '{"sample_spec":{},"gpt":{"input_cost_per_token":2.5e-06,"output_cost_per_token":1e-05,"max_tokens":4096}}'
USD_KEYS = (
    "input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost", "max_output_tokens", "max_tokens",
    "mode", "input_cost_per_token_above_200k_tokens",
)  # fmt: skip
NAMES = st.sampled_from(["gpt", "", "\ud800", "models", "unit", "source", *PRICE_FIELDS, *USD_KEYS])
FEW = st.sampled_from(["0", "1e-6", "0.0000025", "1", "null", '"chat"', '"embedding"', "4096", "9" * 40, "true"])


def _ours(models: str) -> str:
    return OURS.replace(OURS[OURS.index('{"gpt"') : -1], models)


PRICED = objects(st.sampled_from(PRICE_FIELDS) | st.just("max_output_tokens"), FEW | values(NAMES))
USD_PRICED = objects(st.sampled_from(USD_KEYS), FEW | values(NAMES))
TEXTS = st.one_of(
    objects(NAMES, PRICED).map(_ours),
    values(NAMES).map(_ours),
    objects(NAMES, USD_PRICED),
    values(NAMES),
)
CONTENTS = st.one_of(
    altered_bytes(OURS.encode(), THEIRS.encode()),
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    TEXTS.map(lambda text: text.encode("utf-16", "surrogatepass")),
    st.binary(max_size=40),
)


def assert_can_be_used(table: PriceTable) -> None:
    """Every amount that a table can bring about fits where money is kept."""
    assert len(table) > 0
    most = TokenCounts(input=MAX_TOKENS, output=MAX_TOKENS)
    for name, price in table.items():
        given_prices = [getattr(price, field) for field in PRICE_FIELDS]
        assert all(each is None or (type(each) is int and 0 <= each <= MAX_PRICE) for each in given_prices)
        for cost in (table.cost(name, most), table.max_cost(name, {}), table.max_cost(name, {"max_tokens": 10**30})):
            assert cost is not None
            assert 0 <= cost <= MAX_MICROS


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prices") / "prices.json"


@examples(100)
@given(content=CONTENTS, strict=st.booleans())
@example(content=THEIRS.replace("4096", "9" * 4000).encode(), strict=True)
@example(content=OURS.replace("4096", "9" * 4000).encode(), strict=True)
@example(content=b"[" * 100_000, strict=True)
@example(content=b'{"a":' * 100_000, strict=False)
@example(content=b"\xef\xbb\xbf" + OURS.encode(), strict=True)
def test_any_file_is_a_price_table_or_refused(path: Path, content: bytes, strict: bool) -> None:
    """By a refusal that says which field is wrong; lenient reading lets in no entry that strict reading would not."""
    path.write_bytes(content)
    try:
        table = load_prices(path, strict=strict)
    except ValidationError as refused:
        assert_names(refused)
    else:
        assert_can_be_used(table)
        assert not (strict and table.skipped)


@examples(80)
@given(st.integers(1, 10**7), st.integers(-14, -3))
def test_a_price_is_exact_or_refused(digits: int, exponent: int) -> None:
    """However it is spelled."""
    exact = Decimal(digits).scaleb(exponent)
    spellings = (f"{digits}e{exponent}", f"{exact:f}", f"{digits}00E{exponent - 2}", f"{digits}.0e{exponent}")
    expected = exact.scaleb(12)
    for number in spellings:
        text = THEIRS.replace("2.5e-06", number)
        try:
            price = parse_usd_per_token_table(text)["gpt"].input
        except ValidationError:
            assert expected > MAX_PRICE or expected != int(expected)
        else:
            assert price == expected


@pytest.mark.parametrize("name", ["a\0b", "no such file", "x" * 5000, "."])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    """A zero byte in it, too."""
    with pytest.raises(ValidationError):
        load_prices(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        OURS.replace('"input"', '"input": 0, "input"'),
        OURS.replace('"gpt"', '"gpt": {"input": 0, "output": 0}, "gpt"'),
        THEIRS.replace('"input_cost_per_token"', '"input_cost_per_token":0,"input_cost_per_token"'),
        THEIRS.replace('"gpt"', '"gpt":{"input_cost_per_token":0,"output_cost_per_token":0},"gpt"'),
    ],
)
def test_a_price_that_is_there_twice_is_refused(text: str) -> None:
    """Nobody could say which one counts."""
    parse = parse_price_table if PRICE_UNIT in text else parse_usd_per_token_table
    with pytest.raises(ValidationError, match="twice"):
        parse(text)
