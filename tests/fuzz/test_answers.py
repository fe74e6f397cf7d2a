"""What answers a runtime or a command is understood, or is nothing of a control plane's; nobody fails over it."""

from contextlib import suppress
from typing import Any

import httpx
from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_http import client_wire
from ironcage_http.answers import AnsweredError, NoAnswerError
from ironcage_http.client_target import agent_of
from ironcage_http.commands.happenings import in_words
from ironcage_http.feed_watching import _message_of
from ironcage_http.remote import Remote
from tests.fuzz.alterations import altered_bytes, values
from tests.fuzz.effort import examples

SECRET = "hunter2-is-my-password"
ANSWERS = {
    client_wire.lending: f'{{"ip_token":"{SECRET}","lease_id":"l","agent_id":"a","provider":"p","budget_granted":1.5,'
    '"refresh_threshold":"0.1","expires_at":"2026-01-31T12:00:00Z"}',
    client_wire.renewal: f'{{"status":"approved","ip_token":"{SECRET}","lease_id":"l","lease_budget_usd":2}}',
    client_wire.closing: '{"returned_usd":0.5}',
    lambda content: client_wire.booked(content, []): '{"results":[],"leases":[{"lease_id":"l","stop":true}]}',
}
REFUSAL_FIELDS = st.sampled_from(["error", "code", "details", "agent_id"])
ANSWER_FIELDS = st.sampled_from(
    ["ip_token", "lease_id", "status", "budget_granted", "returned_usd", "expires_at", "results"]
)


@examples(50)
@given(st.sampled_from([*ANSWERS.items()]), st.data())
def test_any_answer_is_understood_or_unreadable(answer: tuple[Any, str], data: st.DataObject) -> None:
    """Nothing else is raised, amounts are none below zero, and what is shown of an answer is no secret."""
    reading, valid = answer
    said = data.draw(
        altered_bytes(valid.encode())
        | values(ANSWER_FIELDS).map(lambda text: text.encode("utf-8", "surrogatepass"))
        | st.tuples(ANSWER_FIELDS, values(ANSWER_FIELDS)).map(
            lambda each: f'{valid[:-1]},"{each[0]}":{each[1]}}}'.encode("utf-8", "surrogatepass")
        )
    )
    try:
        found = reading(said)
    except client_wire.UNREADABLE:
        return
    assert SECRET not in repr(found)
    parts = found if isinstance(found, tuple) else (found,)
    assert all(each >= 0 for each in parts[:3] if type(each) is int)


@examples(40)
@given(values(REFUSAL_FIELDS).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40))
@example(b'{"error":"e","code":"c","details":{"a":1e99999999999999999999}}')
@example(b'{"error":"e","code":"c","details":' + b'{"a":' * 5000)
def test_any_refusal_is_understood_or_none(said: bytes) -> None:
    """As is whatever a token says of itself."""
    refusal = client_wire.refusal(said)
    token = f"x.{said.decode('latin-1')}.x"

    assert refusal is None or refusal.code
    assert agent_of(token) is None or isinstance(agent_of(token), str)


@examples(40)
@given(
    st.sampled_from([200, 409]),
    values(REFUSAL_FIELDS).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | altered_bytes(b'{"error":"e","code":"c","details":{"a":1.5}}'),
)
@example(200, b'{"a":1e99999999999999999999}')
@example(409, b'{"error":"e","code":"c","details":{"a":1e99999999999999999999}}')
@example(200, b'{"a":"\xff"}')
@example(409, b'{"error":"\xff","code":"c"}')
def test_any_answer_to_a_command_is_json_a_refusal_or_none(status: int, said: bytes) -> None:
    """Whoever asks need not know what else a decoder raises."""
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=said))
    with httpx.Client(transport=transport) as client:
        answered = 200
        try:
            Remote(client, "http://iron.test/api/v1").get("/agents")
        except NoAnswerError:
            return
        except AnsweredError as refused:
            answered = refused.status
    assert answered == status


KINDS = st.sampled_from(["STATE_UPDATE", "COST_ALERT", "AGENT_EVENT"])
EVENTS = st.sampled_from(["llm_call", "lease_closed", "unheard_of"])
DATA_FIELDS = st.sampled_from(["cost_usd", "spent", "tokens", "model", "scope", "reason", "percentage"])


@examples(40)
@given(KINDS, EVENTS, values(DATA_FIELDS))
@example("AGENT_EVENT", "llm_call", "[1]")
@example("STATE_UPDATE", "", '"x"')
def test_any_event_is_told_in_words(kind: str, name: str, data: str) -> None:
    """Data that is no object tells nothing; only of an amount that is none nothing can be said."""
    said = f'{{"type":"{kind}","event":"{name}","data":{data}}}'.encode("utf-8", "surrogatepass")
    with suppress(NoAnswerError, ValueError, ArithmeticError):
        assert in_words(_message_of(said))
