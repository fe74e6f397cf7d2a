"""What is sent over the wire is read exactly or refused in the one way, and nothing it holds is repeated."""

import asyncio
import json
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from litestar.exceptions import ClientException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from ironcage_core.domain.idempotency import RetryKey
from ironcage_core.errors.tree import ValidationError
from ironcage_http.endpoints import body_of
from ironcage_http.feed_auth import query_of, single
from ironcage_http.json_syntax import MAX_DEPTH, has_twins, is_too_deep, syntax_fault
from ironcage_http.retry_keys import retry_key
from ironcage_http.routes.agent_views import AgentBody
from ironcage_http.routes.api_token_views import ApiTokenBody
from ironcage_http.routes.limits import UsageLimitBody
from ironcage_http.routes.reports import BatchBody, ReportBody
from ironcage_http.wire import MalformedJsonError, Read, UnsupportedMediaTypeError
from tests.fuzz.alterations import NUMBERS, altered, altered_bytes, objects, values
from tests.fuzz.effort import examples
from tests.fuzz.refusals import assert_hides, assert_is_money, assert_names

SECRET = "hunter2-is-my-password"

# --- bodies ----------------------------------------------------------------------------------------------------------

BODIES: dict[type[msgspec.Struct], str] = {
    AgentBody: '{"name":"a","budget":10.5,"description":"d","tags":["x"]}',
    ApiTokenBody: '{"name":"a","scopes":["*"],"rate_limit_rps":5,"cost_cap_usd":"2.50","user_id":null}',
    UsageLimitBody: '{"user_id":"u","max_cost_per_month_usd":5,"max_tokens_per_day":10}',
    ReportBody: '{"lease_id":"l","request_id":"r","model":"m","provider":"p","tokens":5,"cost_usd":0.000001}',
    BatchBody: '{"reports":[{"lease_id":"l","cost_usd":"0.5"},{"tokens":7}]}',
}
FIELDS = st.sampled_from(sorted({field for kind in BODIES for field in kind.__struct_fields__} | {"", SECRET, "a:b"}))
JSON = st.one_of(values(FIELDS), objects(FIELDS, values(FIELDS)), altered(*BODIES.values(), joint=","))
RAW = st.one_of(
    JSON.map(lambda text: text.encode("utf-8", "surrogatepass")),
    altered_bytes(*(text.encode() for text in BODIES.values())),
    st.sampled_from(
        [b"[" * 10**5, b'{"a":' * 10**5, b"]" * 90 + b"[" * 90, b'"' * 999, b"\\" * 999, b" " * 999, b"\0"]
    ),
)
TYPES = st.sampled_from(
    ["application/json"] * 3 + ["application/json; charset=utf-16", "application/x+json"]
) | st.text(max_size=20)


@examples(100)
@given(kind=st.sampled_from([*BODIES]), raw=RAW, content_type=TYPES, is_strict=st.booleans())
@example(
    kind=ApiTokenBody,
    raw=b'{"rate_limit_rps":1e999,"cost_cap_usd":1e99999999999999999999}',
    content_type="application/json",
    is_strict=True,
)
@example(kind=ReportBody, raw=b'{"tokens":"x","cost_usd":"sNaN"}', content_type="application/json", is_strict=False)
@example(kind=ReportBody, raw=b'{"model":5,"provider":"\\ud800"}', content_type="application/json", is_strict=False)
def test_any_body_is_read_or_refused(
    kind: type[msgspec.Struct], raw: bytes, content_type: str, is_strict: bool
) -> None:
    """In one of three ways; what can be read beside what cannot has the type of its field."""
    read: Read[Any] = Read(raw, content_type, kind, is_strict=is_strict)
    try:
        found = read.value()
    except (MalformedJsonError, UnsupportedMediaTypeError) as refused:
        assert_hides(refused, SECRET)
        return
    except ValidationError as refused:
        assert_hides(refused, SECRET)
        assert_names(refused)
    else:
        assert type(found) is kind
        assert not has_twins(raw.decode())
        for amount in filter(lambda each: isinstance(each, Decimal), msgspec.structs.astuple(found)):
            assert_is_money(amount)
    try:
        fine, problems = read.parts()
    except ValidationError as refused:
        assert_hides(refused, SECRET)
    else:
        assert not fine.keys() & problems.keys()


@examples(60)
@given(RAW)
@example(b"[" + b"9" * 5_000 + b"]")
@example(b"[" + b"9" * 5_000 + b',"\\x"]')
def test_the_syntax_of_a_body_is_judged_as_a_plain_reader_would(raw: bytes) -> None:
    """How deep it nests, and whether a name comes twice; of what is no JSON it only must not fail."""
    fault, depth = syntax_fault(raw), _depth(raw)
    if depth is not None:
        assert is_too_deep(raw) == (depth > MAX_DEPTH)
        assert (fault is None) == (depth <= MAX_DEPTH and not _has_twins(raw))


def _depth(raw: bytes) -> int | None:
    """Return how deep JSON nests, told by looking at one character after the other; None for what is none."""
    try:
        json.loads(raw.decode(), parse_int=str)
    except (ValueError, RecursionError):
        return None
    depth = deepest = 0
    is_text = is_escaped = False
    for each in raw.decode():
        if is_text:
            is_text = is_escaped or each != '"'
            is_escaped = each == "\\" and not is_escaped
        elif each == '"':
            is_text = True
        elif each in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif each in "]}":
            depth -= 1
    return deepest


def _has_twins(raw: bytes) -> bool:
    found = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len(dict(pairs)) < len(pairs))

    json.loads(raw.decode(), object_pairs_hook=look, parse_int=str)
    return any(found)


class Anything(msgspec.Struct):
    """A body that any object is."""


@examples(40)
@given(objects(FIELDS, values(FIELDS)))
@example('{"a":1e99999999999999999999,"b":"\\u0000"}')
def test_any_body_that_was_read_can_be_retried(text: str) -> None:
    """It has a hash, which blanks around it do not change and another field does."""
    raw = text.encode("utf-8", "surrogatepass")
    read = Read(raw, "application/json", Anything)

    if read.found is not None:
        assert retried(raw) == retried(b" " + raw + b"\n")
        assert retried(raw) != retried(raw[:-1] + (b"," if read_fields(raw) else b"") + b'"one more":0}')


def retried(raw: bytes) -> str:
    """Return what a retry's body is compared by."""
    return retry_key_of("retry-1", raw).body_hash


def read_fields(raw: bytes) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])


def retry_key_of(key: str, raw: bytes = b"{}") -> RetryKey:
    call: Any = SimpleNamespace(
        headers={"idempotency-key": key},
        request=SimpleNamespace(url=SimpleNamespace(path="/api/v1/x")),
        gate=SimpleNamespace(route=SimpleNamespace(method="POST")),
        raw=raw,
    )
    caller: Any = SimpleNamespace(user_id="user")
    found = retry_key(call, caller)
    assert found is not None
    return found


# --- headers ---------------------------------------------------------------------------------------------------------

LATIN = st.text(st.characters(max_codepoint=0xFF), max_size=30)


@examples(100)
@given(
    st.none() | LATIN | NUMBERS | st.sampled_from(["9" * 5000, "-5", "1_0", "\u00b2", " 7 ", "+7"]),
    st.lists(st.binary(max_size=40), max_size=4),
)
def test_no_more_of_a_body_is_kept_than_it_may_have(announced: str | None, parts: list[bytes]) -> None:
    """Whatever its Content-Length says."""
    events = iter({"type": "http.request", "body": each, "more_body": True} for each in parts)

    async def receive() -> dict[str, Any]:
        return next(events, {"type": "http.request", "body": b"", "more_body": False})

    request: Any = SimpleNamespace(receive=receive)
    try:
        found = asyncio.run(body_of(request, announced, 64))
    except (ClientException, RequestEntityTooLarge):
        assert announced is not None or len(b"".join(parts)) > 64
    else:
        assert found == b"".join(parts)
        assert len(found) <= 64


@examples(60)
@given(LATIN | altered("retry-1", joint="-"))
def test_a_retry_key_is_visible_ascii_or_refused(key: str) -> None:
    """And then it is the one that was sent."""
    try:
        found = retry_key_of(key)
    except ValidationError as refused:
        assert_names(refused, "Idempotency-Key")
        assert not (1 <= len(key) <= 200 and key.isascii() and key.isprintable() and " " not in key)
    else:
        assert found.key == key


@examples(100)
@given(
    st.binary(max_size=60) | altered_bytes(b"last_event_id=evt_1&cursor=x&cursor=y", joint=b"&"),
    st.sampled_from(["last_event_id", "cursor"]),
)
def test_a_parameter_is_there_once_or_refused(raw: bytes, name: str) -> None:
    """And can be written down: no bytes that are no characters come through."""
    try:
        found = single(query_of(raw), name)
    except ValidationError as refused:
        assert_names(refused, name)
    else:
        assert found is None or found.encode()
