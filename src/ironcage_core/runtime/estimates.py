"""What a request to a provider may use at most, by estimate: the contract's for chats, and never less than that.

Only what stands in the body is counted: a conversation that the provider remembers, or a stored prompt, is not in it.

Source: contract budget.md 12.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from ironcage_core.domain.money import MAX_MICROS, Micros
from ironcage_core.domain.prices import (
    ModelPrice,
    TokenCounts,
    cost_micros,
    estimate_input_tokens,
    max_output_tokens,
    requested_max_tokens,
)

MEDIA_TOKENS: Final = 1_600
"""For each part that is no text: providers bill up to about that for an image.

A long document or recording is more; a runtime commits what a call did cost anyway.
"""

_TEXTS: Final = ("system", "instructions")
_TALKS: Final = ("messages", "input", "prompt")
_DATA: Final = ("tools", "functions", "response_format", "text", "suffix")
"""Fields that count by the length of their compact JSON; `text` is the Responses API's `response_format`."""

_ANSWERS: Final = ("n", "best_of")
_MEDIA: Final = (
    *("image", "image_url", "image_file", "input_image", "computer_screenshot", "image_generation_call"),
    *("audio", "input_audio", "video", "video_url", "input_video"),
    *("file", "input_file", "document", "container_upload"),
)
_WRITTEN_SOURCES: Final = ("text", "content")
"""Documents with such a source are text."""

_MESSAGE_FRAME: Final = frozenset({"role", "content", "name", "type", "id", "status", "cache_control"})
_PART_FRAME: Final = frozenset({"text", "type", "cache_control"})


class Most(NamedTuple):
    """The most tokens that a request may use; with `is_cache_written` its input may be billed as a cache write."""

    input: int
    output: int
    is_cache_written: bool

    def cost(self, price: ModelPrice) -> Micros:
        """Return the most that may cost in micro-USD; no more than the largest amount there is."""
        written = (0, self.input) if self.is_cache_written else (0,)
        counts = [TokenCounts(input=self.input, output=self.output, cache_write=tokens) for tokens in written]
        return min(MAX_MICROS, max(cost_micros(price, tokens) for tokens in counts))


def most_of(body: Mapping[str, object], price: ModelPrice) -> Most:
    """Return what a request may use at most.

    Args:
        body: The request as parsed from JSON; what is wrong in it is the provider's to refuse and counts as it is.
        price: The model's price.
    """
    return Most(
        max(estimate_input_tokens(body), _input_tokens(body)),
        _output_tokens(body, price),
        any(mapping.get("cache_control") is not None for mapping in _mappings(body)),
    )


def _output_tokens(body: Mapping[str, object], price: ModelPrice) -> int:
    if price.output == 0 < price.input and not price.output_above_200k:
        return 0  # embeddings and the like: an answer without a price has no tokens
    asked = requested_max_tokens(body)
    if "messages" not in body:
        # Only the Responses API knows it; whoever ignores it would answer at any length.
        responses = requested_max_tokens({"max_tokens": body.get("max_output_tokens")})
        asked = max((value for value in (asked, responses) if value is not None), default=None)
    return max_output_tokens(price, asked) * _answers(body)


def _answers(body: Mapping[str, object]) -> int:
    """Return how many answers are made: `n`, or `best_of` to choose these from, for each of several prompts."""
    asked = [value for name in _ANSWERS if type(value := body.get(name)) is int]
    prompts = sum(type(item) is not int for item in _listed(body.get("prompt")))
    return max([1, *asked]) * max(1, prompts)


def _input_tokens(body: Mapping[str, object]) -> int:
    """Return the contract's estimate of all texts there are, plus tokens given as such, plus what is no text."""
    items = list(_items(body))
    contents = [part for item in items for part in _listed(item.get("content"))]
    parts = [{"text": part} if isinstance(part, str) else part for part in contents]
    data, media = _written(_beyond_texts(body, items, parts))
    texts = [*parts, *({"text": piece} for piece in data)]
    return estimate_input_tokens({"system": texts}) + sum(type(part) is int for part in parts) + media * MEDIA_TOKENS


def _items(body: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield everything that is said, each as a message of a chat."""
    yield from ({"content": body.get(name)} for name in _TEXTS)
    for name in _TALKS:
        yield from (item if isinstance(item, Mapping) else {"content": item} for item in _listed(body.get(name)))


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _beyond_texts(
    body: Mapping[str, object], items: Iterable[Mapping[str, object]], parts: Iterable[object]
) -> Iterator[object]:
    """Yield what the contract's estimate does not see: schemas, tool calls and their results, media, garbage."""
    yield from (body[name] for name in _DATA if body.get(name) is not None)
    yield from filter(None, (_unframed(item, _MESSAGE_FRAME) for item in items))
    for part in parts:
        if not isinstance(part, Mapping):
            yield from () if type(part) is int else (part,)
        elif rest := _unframed(part, _PART_FRAME):
            yield rest


def _unframed(item: Mapping[str, object], frame: frozenset[str]) -> Mapping[str, object]:
    return item if _is_media(item) else {name: value for name, value in item.items() if name not in frame}


def _is_media(value: Mapping[str, object]) -> bool:
    source = value.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    return value.get("type") in _MEDIA and kind not in _WRITTEN_SOURCES


def _written(values: Iterable[object]) -> tuple[list[str], int]:
    """Return pieces as long together as the values' compact JSON, and how many media were left out of it."""
    pieces: list[str] = []
    media = 0
    stack = list(values)  # and no recursion: whatever a body nests is countable
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            if _is_media(value):
                media += 1
                continue
            pieces.append("{}" + ":" * len(value) + "," * (len(value) - 1))
            stack += [*value, *value.values()]
        elif isinstance(value, list):
            pieces.append("[]" + "," * (len(value) - 1))
            stack += value
        else:
            pieces.append(_scalar(value))
    return pieces, media


def _scalar(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return ""  # nothing that JSON could have held


def _mappings(body: object) -> Iterator[Mapping[str, object]]:
    stack = [body]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            yield value
            stack += value.values()
        elif isinstance(value, list):
            stack += value
