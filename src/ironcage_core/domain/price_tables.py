"""Reading price tables: whole micro-USD per million tokens, or LiteLLM's USD per token, both exactly.

Parsing is pure, so whoever reloads a table keeps the old one when the new one is bad. An entry that prices one side
only is refused: the other side would be free.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation
from typing import Any, Final

from ironcage_core.domain.prices import PRICE_FIELDS, ModelPrice, PriceTable
from ironcage_core.errors.tree import ValidationError

PRICE_UNIT: Final = "micro-USD per million tokens"
_EXACT: Final = Context(prec=60, traps=[Inexact, InvalidOperation])
_SAMPLE_ENTRY: Final = "sample_spec"
_TEXT_MODES: Final = ("chat", "completion", "responses", "embedding")
_BASE_KEYS: Final = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
_LONG_KEYS: Final = {f"{name}_above_200k": f"{key}_above_200k_tokens" for name, key in _BASE_KEYS.items()}
_USD_KEYS: Final = _BASE_KEYS | _LONG_KEYS


def parse_price_table(text: str) -> PriceTable:
    """Read a table of whole micro-USD per million tokens, the format of the bundled one.

    Args:
        text: JSON with `source`, `version`, `date`, `unit` and `models`, which maps names to fields of `ModelPrice`.

    Raises:
        ValidationError: Not such a table, another unit, an unknown or wrong field, a name that is there twice, or no
            model at all.
    """
    document = _document(text, _each_once)
    if document.get("unit") != PRICE_UNIT:
        raise ValidationError({"unit": f"must be {PRICE_UNIT!r}"})
    notes: dict[str, Any] = {name: document.get(name) for name in ("source", "version", "date")}
    if not all(isinstance(note, str) for note in notes.values()):
        raise ValidationError({"source": "source, version and date must be strings"})
    entries = _mapping(document.get("models"), field="models")
    if not entries:
        raise ValidationError({"models": "must hold at least one model"})
    models = {name: _price(name, _mapping(entry, field=name)) for name, entry in entries.items()}
    return PriceTable(models=models, **notes)


def parse_usd_per_token_table(text: str, *, source: str = "", strict: bool = True) -> PriceTable:
    """Read a table in USD per token with the keys of LiteLLM's price map.

    Entries of other modes than text, without any price, and the sample entry are no models and are passed over.

    Args:
        text: JSON that maps model names to entries; numbers are read as exact decimals.
        source: What to note as the table's source.
        strict: Whether one wrong entry refuses the table; otherwise it is left out and counted in `skipped`.

    Raises:
        ValidationError: Not such a table, no priced model, or, if strict, a price that is not whole in micro-USD
            per million tokens, out of range, given for one side only, or there twice.
    """
    models: dict[str, ModelPrice] = {}
    skipped = 0
    for name, entry in _document(text, _each_once if strict else dict).items():
        try:
            price = None if name == _SAMPLE_ENTRY else _usd_price(name, _mapping(entry, field=name))
        except ValidationError:
            if strict:
                raise
            skipped += 1
        else:
            models |= {} if price is None else {name: price}
    if not models:
        raise ValidationError({"models": "must price at least one model"})
    return PriceTable(models=models, source=source, skipped=skipped)


def _document(text: str, members: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> dict[str, Any]:
    try:
        return _mapping(json.loads(text, parse_float=Decimal, object_pairs_hook=members), field="prices")
    except (ValueError, DecimalException, RecursionError) as error:
        raise ValidationError({"prices": "must be JSON"}) from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):  # nobody could say which one counts
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValidationError({name: "is there twice"})
    return members


def _mapping(value: object, *, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValidationError({field: "must be an object"})
    return value


def _usd_price(model: str, entry: Mapping[str, Any]) -> ModelPrice | None:
    mode = entry.get("mode", "chat")
    given = {name: entry[key] for name, key in _USD_KEYS.items() if entry.get(key) is not None}
    if mode not in _TEXT_MODES or not given.keys() & {"input", "output"}:
        return None
    prices: dict[str, int] = {name: _exact(price, field=f"{model}: {name}") for name, price in given.items()}
    if mode == "embedding":
        prices.setdefault("output", 0)  # an embedding has no output tokens
    # 0 says that the source does not know the maximum; taken literally it would make every output free.
    maximum = entry.get("max_output_tokens") or entry.get("max_tokens") or None
    return _price(model, {**prices, "max_output_tokens": maximum})


def _price(model: str, values: Mapping[str, Any]) -> ModelPrice:
    if unknown := values.keys() - {*PRICE_FIELDS, "max_output_tokens"}:
        raise ValidationError({f"{model}: {min(unknown)}": "is not a field of a price"})
    try:
        return ModelPrice(**{"input": None, "output": None, **values})
    except ValidationError as error:
        raise ValidationError({f"{model}: {name}": problem for name, problem in error.fields.items()}) from error


def _exact(usd_per_token: object, *, field: str) -> int:
    if isinstance(usd_per_token, bool) or not isinstance(usd_per_token, int | Decimal) or not 0 <= usd_per_token <= 1:
        raise ValidationError({field: "must be a number of USD per token from 0 to 1"})
    try:
        return int(_EXACT.to_integral_exact(_EXACT.scaleb(Decimal(usd_per_token), 12)))
    except DecimalException as error:
        raise ValidationError({field: "must be whole in micro-USD per million tokens"}) from error
