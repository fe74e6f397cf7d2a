"""Where price tables come from: the one shipped with the package, or a file of the operator."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from ironcage_core.domain.price_tables import PRICE_UNIT, parse_price_table, parse_usd_per_token_table
from ironcage_core.domain.prices import PriceTable
from ironcage_core.errors.tree import ValidationError


@cache
def bundled_prices() -> PriceTable:
    """Return the shipped table; it is read once a process.

    Source: made by scripts/update_prices.py; the table notes source, version and date.
    """
    return parse_price_table(files("ironcage_storage").joinpath("data", "prices.json").read_text(encoding="utf-8"))


def load_prices(path: Path, *, strict: bool = True) -> PriceTable:
    """Read a table from a file, in the format of the bundled one or in USD per token.

    The table is new and complete or there is none: to reload, replace the old one by the answer.

    Args:
        path: The file, UTF-8.
        strict: Whether one wrong entry in USD per token refuses the file; otherwise it is left out and counted.

    Raises:
        ValidationError: The file cannot be read or is no price table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # also a path that no file can have
        raise ValidationError({"path": "cannot be read as UTF-8 text"}) from error
    if PRICE_UNIT in text:
        return parse_price_table(text)
    return parse_usd_per_token_table(text, source=path.name, strict=strict)
