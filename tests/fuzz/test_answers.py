"""What answers a runtime is understood, or is nothing of a control plane's; nobody fails over it."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ironcage_http import client_wire
from ironcage_http.client_target import agent_of
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
