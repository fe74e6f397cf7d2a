"""Price tables from files: the bundled one holds the contract's models, an operator's one is taken whole or not."""

from pathlib import Path

import pytest

from ironcage_core.domain.price_tables import PRICE_UNIT
from ironcage_core.domain.prices import ModelPrice, TokenCounts
from ironcage_core.errors.tree import ValidationError
from ironcage_storage.prices import bundled_prices, load_prices

BOTH = '"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06'


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.json"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("model", "input_tokens", "output_tokens", "micros"),
    [("gpt-4-turbo", 100_000, 50_000, 2_500_000), ("gpt-4o-mini", 150, 50, 53), ("gpt-5.1", 1_000, 500, 6_250)],
)
def test_the_bundled_table_prices_known_models(model: str, input_tokens: int, output_tokens: int, micros: int) -> None:
    """The contract's values hold with the shipped prices."""
    cost = bundled_prices().cost(model, TokenCounts(input=input_tokens, output=output_tokens))

    assert cost == micros


def test_the_bundled_table_says_where_it_comes_from() -> None:
    """Source, version and date are noted, and it is read once."""
    table = bundled_prices()

    assert all((table.source, table.version, table.date))
    assert table is bundled_prices()


def test_no_bundled_model_is_free() -> None:
    """A source writes 0 for an unknown price more often than for a free one."""
    free = [name for name, price in bundled_prices().items() if price.input == 0 and price.output == 0]

    assert free == []


def test_the_bundled_file_is_one_sorted_model_a_line() -> None:
    """A new version of it can be read as a diff."""
    names = list(bundled_prices())

    assert names == sorted(names)


def test_a_file_in_usd_per_token_is_loaded(tmp_path: Path) -> None:
    """The table notes the file's name as its source."""
    table = load_prices(write(tmp_path, f'{{"m": {{{BOTH}}}}}'))

    assert dict(table) == {"m": ModelPrice(input=1_000_000, output=2_000_000)}
    assert table.source == "mine.json"


def test_a_file_in_the_bundled_format_is_loaded(tmp_path: Path) -> None:
    """The unit inside the file tells the formats apart."""
    head = f'"source": "me", "version": "2", "date": "2026-01-02", "unit": "{PRICE_UNIT}"'

    table = load_prices(write(tmp_path, f'{{{head}, "models": {{"m": {{"input": 1, "output": 2}}}}}}'))

    assert dict(table) == {"m": ModelPrice(input=1, output=2)}
    assert table.source == "me"


def test_one_wrong_entry_refuses_a_file_unless_told_otherwise(tmp_path: Path) -> None:
    """Strict by default; otherwise the entry is left out and counted."""
    path = write(tmp_path, f'{{"m": {{{BOTH}}}, "half": {{"input_cost_per_token": 1e-06}}}}')

    table = load_prices(path, strict=False)

    assert list(table) == ["m"]
    assert table.skipped == 1
    with pytest.raises(ValidationError):
        load_prices(path)


@pytest.mark.parametrize("text", ["", "not json", "{}", '{"unit": "USD", "models": {"m": {"input": 1, "output": 1}}}'])
def test_a_bad_file_is_refused(tmp_path: Path, text: str) -> None:
    """Nothing half-read comes back, so the caller keeps the table it has."""
    with pytest.raises(ValidationError):
        load_prices(write(tmp_path, text))


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    """A missing file and one that is no UTF-8 are refusals, not faults."""
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe")

    for path in (tmp_path / "missing.json", tmp_path, binary):
        with pytest.raises(ValidationError):
            load_prices(path)
