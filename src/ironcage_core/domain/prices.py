"""What a call to a model costs: whole micro-USD per million tokens, rounded once and upward.

An unknown price is never 0: a model outside the table has no cost (None).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from ironcage_core.domain.money import MICROS_PER_USD, Micros
from ironcage_core.errors.tree import ValidationError

TOKENS_PER_PRICE: Final = 1_000_000
LONG_INPUT_TOKENS: Final = 200_000
"""Inputs longer than this take the above-200k prices. Source: contract budget.md 12."""
DEFAULT_MAX_OUTPUT_TOKENS: Final = 128_000
DEFAULT_INPUT_TOKENS: Final = 1_000
MAX_PRICE: Final = MICROS_PER_USD * TOKENS_PER_PRICE
"""One USD a token; a price beyond it is a table written in another unit."""
MAX_OUTPUT_TOKENS: Final = 10**12
"""As many tokens as one call may report; what they cost at most still fits where money is kept."""
_PRICES: Final = ("input", "output", "cache_read", "cache_write")
PRICE_FIELDS: Final = (*_PRICES, *(f"{name}_above_200k" for name in _PRICES))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """The tokens of one call; `cached_input` and `cache_write` are parts of `input`.

    Raises:
        ValidationError: A count is negative, or the parts exceed the whole.
    """

    input: int
    output: int
    cached_input: int = 0
    cache_write: int = 0

    def __post_init__(self) -> None:
        if min(self.input, self.output, self.cached_input, self.cache_write) < 0:
            raise ValidationError({"tokens": "must not be negative"})
        if self.cached_input + self.cache_write > self.input:
            raise ValidationError({"tokens": "cached and cache-write tokens exceed the input they are part of"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """Prices of one model in whole micro-USD per million tokens, 0 to `MAX_PRICE`.

    A missing above-200k price is the ordinary one; a missing cache price is the input price.

    Raises:
        ValidationError: A price that is not a whole number in range, or a maximum of output that is none either.
    """

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    input_above_200k: int | None = None
    output_above_200k: int | None = None
    cache_read_above_200k: int | None = None
    cache_write_above_200k: int | None = None
    max_output_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in PRICE_FIELDS:
            value = getattr(self, name)
            is_absent = value is None and name not in {"input", "output"}
            if not is_absent and (type(value) is not int or not 0 <= value <= MAX_PRICE):
                raise ValidationError({name: f"must be a whole number from 0 to {MAX_PRICE}"})
        maximum = self.max_output_tokens
        if maximum is not None and (type(maximum) is not int or not 1 <= maximum <= MAX_OUTPUT_TOKENS):
            raise ValidationError({"max_output_tokens": f"must be a whole number from 1 to {MAX_OUTPUT_TOKENS}"})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PriceTable(Mapping[str, ModelPrice]):
    """An immutable table from model name to price; names match exactly.

    Args:
        models: The prices, copied.
        source: Where the prices come from.
        version: The version of that source.
        date: The day they were taken from it, `YYYY-MM-DD`.
        skipped: How many entries of the source were left out because they are wrong; never any in strict parsing.
    """

    models: Mapping[str, ModelPrice]
    source: str = ""
    version: str = ""
    date: str = ""
    skipped: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))

    def __getitem__(self, model: str) -> ModelPrice:
        return self.models[model]

    def __iter__(self) -> Iterator[str]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def cost(self, model: str, tokens: TokenCounts) -> Micros | None:
        """Return what a call cost in micro-USD; None for a model without a price."""
        price = self.models.get(model)
        return None if price is None else cost_micros(price, tokens)

    def max_cost(self, model: str, request_body: Mapping[str, object]) -> Micros | None:
        """Return what a request may cost at most, in micro-USD, by estimate; None for a model without a price."""
        price = self.models.get(model)
        if price is None:
            return None
        return max_cost_micros(
            price,
            input_tokens=estimate_input_tokens(request_body),
            requested_max_tokens=requested_max_tokens(request_body),
        )


def cost_micros(price: ModelPrice, tokens: TokenCounts) -> Micros:
    """Return the cost of a call in micro-USD, rounded once and upward.

    Source: contract budget.md 12.
    """
    p_in, p_read, p_write, p_out = _rates(price, is_long=tokens.input > LONG_INPUT_TOKENS)
    plain = tokens.input - tokens.cached_input - tokens.cache_write
    total = plain * p_in + tokens.cached_input * p_read + tokens.cache_write * p_write + tokens.output * p_out
    return -(-total // TOKENS_PER_PRICE)


@lru_cache(maxsize=4096)
def _rates(price: ModelPrice, *, is_long: bool) -> tuple[int, int, int, int]:
    """Return what input, cache reads, cache writes and output cost; remembered, because every report is priced."""
    p_in = _known(price.input_above_200k if is_long else None, price.input)
    return (
        p_in,
        _known(price.cache_read_above_200k if is_long else None, price.cache_read, p_in),
        _known(price.cache_write_above_200k if is_long else None, price.cache_write, p_in),
        _known(price.output_above_200k if is_long else None, price.output),
    )


def max_cost_micros(price: ModelPrice, *, input_tokens: int, requested_max_tokens: int | None) -> Micros:
    """Return the most a call may cost in micro-USD, nothing of it cached.

    Args:
        price: The model's price.
        input_tokens: Estimated input in tokens, at least 0.
        requested_max_tokens: The caller's limit on the output; None leaves the model's own, or 128 000 if unknown.

    Source: contract budget.md 12.
    """
    output = max_output_tokens(price, requested_max_tokens)
    return cost_micros(price, TokenCounts(input=input_tokens, output=output))


def max_output_tokens(price: ModelPrice, requested_max_tokens: int | None) -> int:
    """Return the most tokens one answer may have: what is asked for, but no more than the model gives."""
    model_max = _known(price.max_output_tokens, DEFAULT_MAX_OUTPUT_TOKENS)
    return min(model_max, _known(requested_max_tokens, model_max))


def estimate_input_tokens(request_body: Mapping[str, object]) -> int:
    """Estimate the input tokens of a request from the UTF-8 length of its message and system texts, generously.

    Source: contract budget.md 12.
    """
    messages = request_body.get("messages")
    contents = [m.get("content") for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
    size_bytes = sum(map(_text_bytes, [request_body.get("system"), *contents]))
    if size_bytes == 0:
        return DEFAULT_INPUT_TOKENS
    tokens = size_bytes // 4
    return tokens + tokens // 10 + 100


def requested_max_tokens(request_body: Mapping[str, object]) -> int | None:
    """Return `max_tokens`, else `max_completion_tokens`; None if neither is a whole number of at least 0."""
    for name in ("max_tokens", "max_completion_tokens"):
        value = request_body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def _known(*candidates: int | None) -> int:
    return next(candidate for candidate in candidates if candidate is not None)


def _text_bytes(content: object) -> int:
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    # A lone surrogate is valid in JSON; it must not make a request uncountable.
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts if isinstance(text, str))
