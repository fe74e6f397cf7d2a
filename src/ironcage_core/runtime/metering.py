"""What a provider's answer says was used: OpenAI's and Anthropic's, as JSON, as an SDK's object, as a stream.

A usage that cannot be read for certain is none: the reserved amount is then committed, and nothing is ever too cheap.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from ironcage_core.domain.prices import TokenCounts
from ironcage_core.domain.usage import MAX_TOKENS
from ironcage_core.errors.tree import ValidationError

MAX_EVENT_BYTES: Final = 1_048_576
"""A longer event of a stream passes on and is not metered: memory stays bounded."""


class _Shape(NamedTuple):
    input: str
    output: str
    details: str


_CHAT: Final = _Shape("prompt_tokens", "completion_tokens", "prompt_tokens_details")
_SHAPES: Final = (_CHAT, _Shape("input_tokens", "output_tokens", "input_tokens_details"))
"""OpenAI's of chats and embeddings; then that of the Responses API, and Anthropic's."""

_CACHE_FIELDS: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""Anthropic's; its input does not hold them."""

_HOLDERS: Final = ("response", "message")
"""Where an event holds the answer it tells of: in the Responses API, at Anthropic's."""

_LAST_EVENTS: Final = ("message_stop", "response.completed", "response.incomplete", "response.failed")
_DONE: Final = b"[DONE]"
_EVENT_END: Final = re.compile(rb"\n\r?\n")
_END_REST: Final = 2
"""So many bytes may belong to an event's end of which the last byte has not come yet."""


def counts_of(usage: object) -> TokenCounts | None:
    """Return a usage by kind of tokens, the cached ones as parts of the whole input.

    None if there is none, or it is not certain: counts that are no whole numbers, negative, absurd or contradictory.

    Args:
        usage: A mapping, or an object of a provider's SDK.
    """
    shapes = [shape for shape in _SHAPES if _field(usage, shape.input) is not None]
    if len(shapes) != 1:
        return None
    try:
        counts = _read(usage, shapes[0])
    except ValidationError:
        return None
    # A call of no tokens is no call; no report would take it.
    return counts if 1 <= counts.input + counts.output <= MAX_TOKENS else None


def use_in(body: object) -> TokenCounts | None:
    """Return what a provider's JSON answer, or an event of a stream, says was used; None if it does not say."""
    return counts_of(_usage_in(body))


class StreamMeter:
    """Reads server-sent events on their way to the client, in bytes cut anywhere; lines end in LF or CRLF.

    Broken events, and those longer than `MAX_EVENT_BYTES`, pass on and are not metered.

    Args:
        hides_usage: Whether the client did not ask for the chunk without choices that tells of the usage: it is then
            not passed on, and bytes are held back until their event is whole.
    """

    def __init__(self, *, hides_usage: bool = False) -> None:
        self._hides_usage = hides_usage
        self._held = bytearray()
        self._is_too_long = False
        self._is_whole = False
        self._usage: Mapping[str, object] | None = None

    @property
    def counts(self) -> TokenCounts | None:
        """What was used, as far as the stream has told."""
        return counts_of(self._usage)

    @property
    def is_whole(self) -> bool:
        """Whether the stream has come to its end; else what was used is unknown, whatever it has told."""
        return self._is_whole

    def feed(self, data: bytes) -> bytes:
        """Read what has come and return what may be passed on."""
        passed = b"".join(self._passed(data))
        return passed if self._hides_usage else data

    def finish(self) -> bytes:
        """Read and return what is still held back; nothing comes after it."""
        event = self._taken(len(self._held))
        is_shown = self._meter(event)
        return event if self._hides_usage and is_shown else b""

    def _passed(self, data: bytes) -> Iterator[bytes]:
        start = max(0, len(self._held) - _END_REST)
        self._held += data
        while end := _EVENT_END.search(self._held, start):
            event = self._taken(end.end())
            if self._is_too_long or len(event) > MAX_EVENT_BYTES or self._meter(event):
                yield event
            self._is_too_long, start = False, 0
        if self._is_too_long or len(self._held) > MAX_EVENT_BYTES:
            self._is_too_long = True
            yield self._taken(len(self._held) - _END_REST)

    def _taken(self, size_bytes: int) -> bytes:
        taken = bytes(self._held[: max(0, size_bytes)])
        del self._held[: len(taken)]
        return taken

    def _meter(self, event: bytes) -> bool:
        """Note what an event tells, and return whether it is for the client."""
        message = _message(event)
        if not isinstance(message, Mapping):
            self._is_whole |= message is _DONE
            return True
        kind = message.get("type")
        self._is_whole |= kind in _LAST_EVENTS
        usage = _usage_in(message)
        if usage is not None:
            self._usage = self._joined(kind, usage)
        is_added = message.get("choices") == [] and isinstance(message.get("usage"), Mapping)
        return not (self._hides_usage and is_added)

    def _joined(self, kind: object, usage: object) -> Mapping[str, object]:
        """Return what is known with an event's usage: Anthropic's comes in parts, any other is whole."""
        if not isinstance(usage, Mapping):
            return {}
        told = {name: value for name, value in usage.items() if value is not None}
        if kind == "message_start":
            told.pop("output_tokens", None)  # only the first of them; a stream without the rest must not count as these
        return {**(self._usage or {}), **told} if kind == "message_delta" else told


def _read(usage: object, shape: _Shape) -> TokenCounts:
    whole, total = _count(usage, shape.input), _field(usage, "total_tokens")
    # Embeddings have no output and say so by their total alone.
    is_embedding = shape is _CHAT and total is not None
    output = _count(usage, shape.output, absent=0 if is_embedding else None)
    details = _field(usage, shape.details)
    cached = _count(details, "cached_tokens", absent=0)
    read, written = (_count(usage, name, absent=0) for name in _CACHE_FIELDS)
    if read + written > 0 and (shape is _CHAT or details is not None):
        raise ValidationError({"tokens": "nobody knows whether the input holds what was cached"})
    counts = TokenCounts(input=whole + read + written, output=output, cached_input=cached + read, cache_write=written)
    if total is not None and total != counts.input + counts.output:
        raise ValidationError({"tokens": "the total is not the sum"})
    return counts


def _count(source: object, name: str, *, absent: int | None = None) -> int:
    value = _field(source, name)
    count = absent if value is None else value
    if type(count) is not int or count < 0:
        raise ValidationError({name: "must be a whole number of at least 0"})
    return count


def _field(source: object, name: str) -> object:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _usage_in(body: object) -> object:
    for holder in (body, *(_field(body, name) for name in _HOLDERS)):
        usage = _field(holder, "usage")
        if usage is not None:
            return usage
    return None


def _message(event: bytes) -> object:
    """Return what an event says; `_DONE` itself, and None for what is no JSON."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    data = b"\n".join(lines).strip()
    if data == _DONE:
        return _DONE
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
