"""What providers say: OpenAI's and Anthropic's answers, whole and as streams of events, in their real shapes."""

import json
from collections.abc import Iterator
from typing import Any

from ironcage_core.domain.prices import TokenCounts

WORDS = ("Hello", " there", ", my", " friend")

Body = dict[str, Any]


def refusal(message: str) -> Body:
    """Return a refusal in either provider's shape."""
    return {"type": "error", "error": {"type": "fake_error", "message": message, "code": "fake", "param": None}}


def free_answer(path: str) -> Body:
    """Return the answer to what costs nothing."""
    if "/responses" in path:
        return {**_response("gpt-4o", None), "status": "cancelled"}
    return {"object": "list", "data": [{"id": "gpt-4o", "object": "model", "created": 1, "owned_by": "fake"}]}


def whole_answer(path: str, body: Body, counts: TokenCounts | None) -> Body:
    """Return the answer to a call; without counts it does not say what was used."""
    model = body["model"]
    if path.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.25, 0.5]}]
        return _with_usage({"object": "list", "data": data, "model": model}, _chat_usage(counts))
    if path.endswith("/messages"):
        return _message(model, _message_usage(counts))
    if path.endswith("/responses"):
        return _response(model, counts)
    message: Body = {"role": "assistant", "content": "".join(WORDS), "refusal": None}
    if body.get("tools"):
        function = {"name": body["tools"][0]["function"]["name"], "arguments": "{}"}
        message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    return _with_usage(answer, _chat_usage(counts))


def _with_usage(answer: Body, usage: Body | None) -> Body:
    return answer if usage is None else {**answer, "usage": usage}


def _chat_usage(counts: TokenCounts | None) -> Body | None:
    if counts is None:
        return None
    usage = {"prompt_tokens": counts.input, "total_tokens": counts.input + counts.output}
    if not counts.output:
        return usage
    details = {"cached_tokens": counts.cached_input}
    return {**usage, "completion_tokens": counts.output, "prompt_tokens_details": details}


def _message_usage(counts: TokenCounts | None) -> Body | None:
    if counts is None:
        return None
    read, written = counts.cached_input, counts.cache_write
    return {
        "input_tokens": counts.input - read - written,
        "output_tokens": counts.output,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
    }


def _message(model: str, usage: Body | None) -> Body:
    content = [{"type": "text", "text": "".join(WORDS)}]
    answer: Body = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content}
    return _with_usage({**answer, "stop_reason": "end_turn", "stop_sequence": None}, usage)


def _response(model: str, counts: TokenCounts | None) -> Body:
    text = {"type": "output_text", "text": "".join(WORDS), "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    usage = counts and {
        "input_tokens": counts.input,
        "input_tokens_details": {"cached_tokens": counts.cached_input},
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.input + counts.output,
    }
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": model,
        "output": [message], "usage": usage, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
        "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
    }  # fmt: skip


def events(path: str, body: Body, counts: TokenCounts | None) -> Iterator[bytes]:
    """Return the answer to a call as a stream."""
    if path.endswith("/messages"):
        return _message_events(body["model"], counts)
    if path.endswith("/responses"):
        return _response_events(body["model"], counts)
    is_asked = (body.get("stream_options") or {}).get("include_usage") is True
    return _chat_events(body["model"], _chat_usage(counts) if is_asked else None)


def _chat_events(model: str, usage: Body | None) -> Iterator[bytes]:
    frame: Body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    for word in WORDS:
        choice: Body = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
        yield _event({**frame, "choices": [choice]})
    yield _event({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage is not None:
        yield _event({**frame, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _response_events(model: str, counts: TokenCounts | None) -> Iterator[bytes]:
    started = {**_response(model, None), "status": "in_progress", "output": []}
    yield _named({"type": "response.created", "response": started, "sequence_number": 0})
    for number, word in enumerate(WORDS):
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
        yield _named({"type": "response.output_text.delta", "delta": word, "sequence_number": number + 1, **place})
    yield _named({"type": "response.completed", "response": _response(model, counts), "sequence_number": 9})


def _message_events(model: str, counts: TokenCounts | None) -> Iterator[bytes]:
    usage = _message_usage(counts) or {}
    message = {**_message(model, None), "content": [], "stop_reason": None}
    first = {"usage": {**usage, "output_tokens": 1}} if usage else {"usage": {}}
    yield _named({"type": "message_start", "message": {**message, **first}})
    yield _named({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    yield _named({"type": "ping"})
    for word in WORDS:
        yield _named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}})
    yield _named({"type": "content_block_stop", "index": 0})
    last = {"usage": {"output_tokens": usage["output_tokens"]}} if usage else {"usage": {}}
    yield _named({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, **last})
    yield _named({"type": "message_stop"})


def _named(message: Body) -> bytes:
    return f"event: {message['type']}\n".encode() + _event(message)


def _event(message: Body) -> bytes:
    return b"data: " + json.dumps(message).encode() + b"\n\n"
