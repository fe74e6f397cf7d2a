"""What providers' answers say was used: read for certain or not at all, and streams pass on unchanged."""

import json
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcage_core.domain.prices import TokenCounts
from ironcage_core.domain.usage import MAX_TOKENS
from ironcage_core.runtime.metering import MAX_EVENT_BYTES, StreamMeter, counts_of, use_in

CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
RESPONSES = {
    "input_tokens": 100,
    "output_tokens": 20,
    "total_tokens": 120,
    "input_tokens_details": {"cached_tokens": 60},
}
EMBEDDING = {"prompt_tokens": 8, "total_tokens": 8}
ANTHROPIC = {
    "input_tokens": 30,
    "cache_read_input_tokens": 60,
    "cache_creation_input_tokens": 10,
    "output_tokens": 20,
    "service_tier": "standard",
}
OPENAI_COUNTS = TokenCounts(input=100, output=20, cached_input=60)
ANTHROPIC_COUNTS = TokenCounts(input=100, output=20, cached_input=60, cache_write=10)
USAGES: list[tuple[dict[str, Any], TokenCounts]] = [
    (CHAT, OPENAI_COUNTS),
    (RESPONSES, OPENAI_COUNTS),
    (EMBEDDING, TokenCounts(input=8, output=0)),
    (ANTHROPIC, ANTHROPIC_COUNTS),
    ({"prompt_tokens": 3, "completion_tokens": 4}, TokenCounts(input=3, output=4)),
    ({"input_tokens": 3, "output_tokens": 4}, TokenCounts(input=3, output=4)),
    ({**CHAT, "prompt_tokens_details": None}, TokenCounts(input=100, output=20)),
    ({**CHAT, "cache_creation_input_tokens": 0}, OPENAI_COUNTS),
    ({**ANTHROPIC, "cache_read_input_tokens": None}, TokenCounts(input=40, output=20, cache_write=10)),
    ({**ANTHROPIC, "cache_creation_input_tokens": 0}, TokenCounts(input=90, output=20, cached_input=60)),
]


def as_object(value: object) -> object:
    return SimpleNamespace(**{k: as_object(v) for k, v in value.items()}) if isinstance(value, dict) else value


def sse(*events: object, end: str = "\n") -> bytes:
    lines = [event if isinstance(event, str) else f"data: {json.dumps(event, ensure_ascii=False)}" for event in events]
    return "".join(f"{line}{end}{end}" for line in lines).encode()


def chunk(text: str, **more: object) -> dict[str, object]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}], **more}


def metered(data: bytes, *, hides_usage: bool = False) -> tuple[StreamMeter, bytes]:
    meter = StreamMeter(hides_usage=hides_usage)
    passed = meter.feed(data)
    return meter, passed + meter.finish()


USAGE_CHUNK = {"object": "chat.completion.chunk", "choices": [], "usage": CHAT}
CHAT_TEXT = [chunk("Grüße ", usage=None), ": keep alive", chunk("€\u2028", usage=None)]
CHAT_STREAM = [*CHAT_TEXT, USAGE_CHUNK, "data: [DONE]"]
START = {"type": "message_start", "message": {"id": "a", "usage": {**ANTHROPIC, "output_tokens": 1}}}
DELTA = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 20}}
STOP = {"type": "message_stop"}
ANTHROPIC_STREAM = [
    START,
    "event: ping\ndata: {}",
    {"type": "content_block_delta", "delta": {"text": "Grüße"}},
    {"type": "message_delta", "usage": {"output_tokens": 7}},
    DELTA,
    STOP,
]
RESPONSES_STREAM = [
    {"type": "response.created", "response": {"id": "a", "usage": None}},
    {"type": "response.output_text.delta", "delta": "€"},
    {"type": "response.completed", "response": {"id": "a", "usage": RESPONSES}},
]
STREAMS: list[tuple[list[Any], TokenCounts]] = [
    (CHAT_STREAM, OPENAI_COUNTS),
    (ANTHROPIC_STREAM, ANTHROPIC_COUNTS),
    (RESPONSES_STREAM, OPENAI_COUNTS),
]


@pytest.mark.parametrize(("usage", "counts"), USAGES)
def test_a_usage_is_read_from_json_and_from_an_sdks_object(usage: dict[str, Any], counts: TokenCounts) -> None:
    """Each provider's names; the cached tokens are parts of the whole input."""
    assert [counts_of(usage), counts_of(as_object(usage))] == [counts, counts]


@pytest.mark.parametrize(
    "usage",
    [
        *(None, {}, [], "usage", 5, object()),
        {"total_tokens": 5},
        {"prompt_tokens": 5},
        {"prompt_tokens": 5, "total_tokens": 9},
        {"completion_tokens": 5, "total_tokens": 9},
        {"input_tokens": 5},
        {"input_tokens": 5, "total_tokens": 5},
        {"output_tokens": 5},
        {**CHAT, **RESPONSES},
        {**CHAT, "total_tokens": 119},
        {**CHAT, "total_tokens": 121},
        {**CHAT, "total_tokens": "120"},
        {**EMBEDDING, "total_tokens": 7},
        {**CHAT, "prompt_tokens_details": {"cached_tokens": 101}},
        {**CHAT, "cache_creation_input_tokens": 10, "prompt_tokens_details": None},
        {"prompt_tokens": 100, "completion_tokens": 20, "cache_creation_input_tokens": 10},
        {**RESPONSES, "cache_read_input_tokens": 10, "total_tokens": None},
        {**RESPONSES, "cache_read_input_tokens": -1, "total_tokens": None},
        {**ANTHROPIC, "total_tokens": 50},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": MAX_TOKENS, "completion_tokens": 1},
    ],
)
def test_a_usage_that_is_not_certain_is_none(usage: object) -> None:
    """Half a usage, two at once, one that contradicts itself, one of nothing, one that no book could hold."""
    assert counts_of(usage) is None


@pytest.mark.parametrize("wrong", [-1, 1.0, True, "1", [1]])
@pytest.mark.parametrize(
    ("usage", "name"),
    [
        *((CHAT, name) for name in ("prompt_tokens", "completion_tokens")),
        *((RESPONSES, name) for name in ("input_tokens", "output_tokens")),
        *((ANTHROPIC, name) for name in ANTHROPIC if name != "service_tier"),
    ],
)
def test_a_count_that_is_no_whole_number_is_none(usage: dict[str, Any], name: str, wrong: object) -> None:
    """Nothing is guessed from it, whichever count it is."""
    parts = {part: value for part, value in usage.items() if part != "total_tokens"}

    assert counts_of({**parts, name: wrong}) is None


@pytest.mark.parametrize("wrong", [-1, 1.0, True, "1", [1]])
def test_a_wrong_count_of_what_was_cached_is_none(wrong: object) -> None:
    """What was cached is billed for less: it must be certain."""
    assert counts_of({**CHAT, "prompt_tokens_details": {"cached_tokens": wrong}}) is None
    assert counts_of({**RESPONSES, "input_tokens_details": {"cached_tokens": wrong}}) is None


def test_the_largest_usage_is_one_that_the_books_can_hold() -> None:
    """No report takes more tokens than this."""
    assert counts_of({"prompt_tokens": MAX_TOKENS - 1, "completion_tokens": 1}) is not None


def test_the_usage_is_found_in_an_answer_and_in_the_events_that_hold_one() -> None:
    """At the top, in `response` and in `message`."""
    holders: list[object] = [{"usage": CHAT}, {"response": {"usage": RESPONSES}}, as_object({"usage": CHAT})]

    assert [use_in(holder) for holder in holders] == [OPENAI_COUNTS] * 3
    assert use_in({"type": "message_start", "message": {"usage": ANTHROPIC}}) == ANTHROPIC_COUNTS


@pytest.mark.parametrize(
    "body", [None, [], "text", {}, {"usage": None}, {"message": "text"}, {"response": None}, {"error": {"code": "a"}}]
)
def test_an_answer_without_a_usage_has_none(body: object) -> None:
    """An error, or what is no answer."""
    assert use_in(body) is None


def test_a_bad_usage_is_not_mended_by_another() -> None:
    """An answer that tells of two is not certain of either."""
    assert use_in({"usage": {"prompt_tokens": -1}, "message": {"usage": CHAT}}) is None


@pytest.mark.parametrize(("stream", "counts"), STREAMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("hides_usage", [False, True])
@given(data=st.data())
def test_a_stream_may_be_cut_anywhere(
    stream: list[Any], counts: TokenCounts, end: str, hides_usage: bool, data: st.DataObject
) -> None:
    """Within a character, a line end or a number: the same counts, and the same bytes pass on."""
    events = [event.replace("\n", end) if isinstance(event, str) else event for event in stream]
    sent = sse(*events, end=end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=12)))
    meter = StreamMeter(hides_usage=hides_usage)

    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    passed = b"".join(map(meter.feed, pieces)) + meter.finish()

    shown = [event for event in events if not (hides_usage and event is USAGE_CHUNK)]
    assert passed == sse(*shown, end=end)
    assert (meter.counts, meter.is_whole) == (counts, True)


@pytest.mark.parametrize("hides_usage", [False, True])
@given(pieces=st.lists(st.binary(max_size=20) | st.sampled_from([b"data: ", b"\n", b"\r", b"\n\n", b"{}", b"[DONE]"])))
def test_bytes_that_are_no_events_pass_on_as_they_are(pieces: list[bytes], hides_usage: bool) -> None:
    """Whatever a server sends in the place of a stream."""
    meter = StreamMeter(hides_usage=hides_usage)

    passed = b"".join(map(meter.feed, pieces)) + meter.finish()

    assert passed == b"".join(pieces)
    assert meter.counts is None


def test_bytes_pass_on_at_once() -> None:
    """Half an event too, if there is nothing to hide."""
    meter = StreamMeter()

    assert [meter.feed(b"da"), meter.feed(b"ta: {"), meter.finish()] == [b"da", b"ta: {", b""]


def test_with_something_to_hide_events_pass_on_as_soon_as_they_are_whole() -> None:
    """Several at once, then the rest when it comes."""
    meter = StreamMeter(hides_usage=True)
    first, second, third = sse(chunk("a")), sse(chunk("b")), sse(chunk("c"))

    assert meter.feed(first[:-1]) == b""
    assert meter.feed(first[-1:] + second + third[:9]) == first + second
    assert meter.finish() == third[:9]
    assert meter.finish() == b""


def test_only_a_chunk_without_choices_is_hidden() -> None:
    """One that has a text besides its usage, and one without choices that tells of something else, are the client's."""
    shown = [chunk("a", usage=CHAT), {"choices": [], "prompt_filter_results": []}, {"choices": [], "usage": None}]

    meter, passed = metered(sse(*shown, USAGE_CHUNK), hides_usage=True)

    assert passed == sse(*shown)
    assert meter.counts == OPENAI_COUNTS


@pytest.mark.parametrize("hides_usage", [False, True])
def test_the_last_event_counts_without_an_empty_line_after_it(hides_usage: bool) -> None:
    """Some servers end with the event's own line, or with none."""
    meter, passed = metered(sse(*CHAT_STREAM).rstrip(), hides_usage=hides_usage)

    assert (meter.counts, meter.is_whole) == (OPENAI_COUNTS, True)
    assert passed.endswith(b"data: [DONE]")


def test_a_usage_is_hidden_also_when_the_stream_ends_with_it() -> None:
    """No empty line after it, and no end: the client did not ask for it either way."""
    meter, passed = metered(sse(chunk("a"), USAGE_CHUNK).rstrip(), hides_usage=True)

    assert passed == sse(chunk("a"))
    assert (meter.counts, meter.is_whole) == (OPENAI_COUNTS, False)


@pytest.mark.parametrize(("stream", "counts"), STREAMS)
def test_a_stream_without_its_end_is_not_whole(stream: list[Any], counts: TokenCounts) -> None:
    """Even if some usage was seen, what came after it is unknown."""
    short, passed = metered(sse(*stream[:-1]))

    assert not short.is_whole
    assert short.counts in {None, counts}
    assert passed == sse(*stream[:-1])


@pytest.mark.parametrize("kind", ["response.incomplete", "response.failed", "response.completed", "message_stop"])
def test_each_last_event_ends_a_stream(kind: str) -> None:
    """Well or badly: the provider has said all that it will say."""
    meter, _ = metered(sse({"type": kind, "response": {"usage": None}}))

    assert (meter.counts, meter.is_whole) == (None, True)


@pytest.mark.parametrize("event", [{"type": "error"}, {"type": ["message_stop"]}, '"[DONE]"', "data: [DONE", "[DONE]"])
def test_nothing_else_ends_a_stream(event: object) -> None:
    """Neither an error nor what only looks like an end."""
    assert not metered(sse(event))[0].is_whole


def test_the_last_usage_of_a_chat_wins() -> None:
    """Some servers tell of it in every chunk; a chunk that says null changes nothing."""
    small = {"prompt_tokens": 100, "completion_tokens": 1}

    meter, _ = metered(sse(chunk("a", usage=small), chunk("b", usage=CHAT), chunk("c", usage=None)))

    assert meter.counts == OPENAI_COUNTS


def test_the_last_usage_of_a_chat_is_a_whole_one() -> None:
    """What an earlier one has told of the cache is not true of it."""
    meter, _ = metered(sse(chunk("a", usage=CHAT), chunk("b", usage={"prompt_tokens": 100, "completion_tokens": 20})))

    assert meter.counts == TokenCounts(input=100, output=20)


@pytest.mark.parametrize("broken", ["many", {"prompt_tokens": -1}, [], 0])
def test_a_last_usage_that_cannot_be_read_leaves_none(broken: object) -> None:
    """An earlier one is smaller than what was used in the end."""
    meter, _ = metered(sse(chunk("a", usage=CHAT), chunk("b", usage=broken)))

    assert meter.counts is None


def test_a_message_that_has_only_begun_has_no_counts() -> None:
    """The output that Anthropic's first event tells of is not what the message will have."""
    assert metered(sse(START))[0].counts is None
    assert metered(sse(START, STOP))[0].counts is None
    assert metered(sse(START, {"type": "message_delta", "usage": {"output_tokens": None}}, STOP))[0].counts is None


def test_the_last_told_input_of_a_message_wins() -> None:
    """Anthropic's later events may tell of more input; a null changes nothing."""
    more = {"input_tokens": 31, "cache_read_input_tokens": None, "output_tokens": 21}

    meter, _ = metered(sse(START, DELTA, {"type": "message_delta", "usage": more}, STOP))

    assert meter.counts == TokenCounts(input=101, output=21, cached_input=60, cache_write=10)


def test_an_end_of_a_message_without_its_beginning_has_no_counts() -> None:
    """Its input is unknown, also if what was known of it was overwritten by garbage."""
    garbage = {"type": "message_delta", "usage": "garbage"}

    assert [metered(sse(*events))[0].counts for events in ([DELTA, STOP], [START, garbage, DELTA, STOP])] == [None] * 2


@pytest.mark.parametrize(
    "broken", ["data: {", "data: \udcff", 'data: {"usage": }', "data: " + "[" * 99_999, f"data: {'9' * 5_000}", "data"]
)
def test_a_broken_event_passes_on_and_counts_nothing(broken: str) -> None:
    """The events around it count as ever."""
    bad = broken.encode("utf-8", "surrogateescape") + b"\n\n"
    before, after = sse(chunk("a")), sse(USAGE_CHUNK, "data: [DONE]")

    meter, passed = metered(before + bad + after)

    assert passed == before + bad + after
    assert (meter.counts, meter.is_whole) == (OPENAI_COUNTS, True)


def test_an_event_of_several_lines_is_one_json() -> None:
    """Its data lines belong together; the space after the colon may be missing."""
    lines = json.dumps(USAGE_CHUNK, indent=1).splitlines()
    event = "event: chunk\nid: 5\n" + "\n".join(f"data:{line}" for line in lines)

    assert metered(sse(event))[0].counts == OPENAI_COUNTS


def padded(usage: Mapping[str, object], size_bytes: int) -> bytes:
    short = sse(chunk("", usage=usage))
    return sse(chunk("x" * (size_bytes - len(short)), usage=usage))


def in_pieces(data: bytes, size_bytes: int) -> Iterable[bytes]:
    return (data[at : at + size_bytes] for at in range(0, len(data), size_bytes))


@pytest.mark.parametrize("hides_usage", [False, True])
@pytest.mark.parametrize("piece_bytes", [999, 65_536, 1_048_577, 10_000_000])
@pytest.mark.parametrize("more_bytes", [1, 200_000])
def test_a_very_long_event_passes_on_and_is_not_metered(more_bytes: int, piece_bytes: int, hides_usage: bool) -> None:
    """By one byte more than the limit or by many, in whatever pieces it comes; the next event counts again."""
    small = {"prompt_tokens": 1, "completion_tokens": 1}
    sent = padded(small, MAX_EVENT_BYTES) + padded(CHAT, MAX_EVENT_BYTES + more_bytes)
    meter = StreamMeter(hides_usage=hides_usage)

    passed = b"".join(map(meter.feed, in_pieces(sent, piece_bytes)))

    assert passed == sent
    assert meter.counts == TokenCounts(input=1, output=1)
    assert meter.feed(sse("data: [DONE]")) == sse("data: [DONE]")
    assert meter.is_whole


def test_an_endless_event_takes_no_memory() -> None:
    """What is held back stays below the limit, and all of it comes out."""
    meter = StreamMeter(hides_usage=True)

    sizes = [len(meter.feed(b"x" * 65_536)) for _ in range(100)]

    assert 100 * 65_536 - sum(sizes) == 2
    assert meter.finish() == b"xx"
    assert max(sizes) <= MAX_EVENT_BYTES + 65_536


def test_an_end_within_a_very_long_event_is_none() -> None:
    """What is too long to be read has no part that counts: not its rest either."""
    meter = StreamMeter()
    meter.feed(b"data: " + b"x" * MAX_EVENT_BYTES)
    meter.feed(b"\ndata: [DONE]\n\n")

    assert not meter.is_whole
