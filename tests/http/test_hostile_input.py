"""Input that was made to hurt: it gets a clear 4xx, at once, and changes nothing."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironcage_http.json_syntax import has_twins, is_too_deep
from ironcage_http.wire import Read
from tests.support.http_agents import Stage, books
from tests.support.world import TestAgent

UNKNOWN = "lease_" + "0" * 32
ITEM = '{"lease_id":"%s","request_id":"r1","model":"m","provider":"p","tokens":5,"cost_usd":%s}'


@pytest.mark.timeout(20)
@pytest.mark.parametrize("tail", [b"", b"\\", b'"', b"x"])
def test_a_string_that_never_ends_is_looked_at_once(tail: bytes) -> None:
    """A mebibyte of escaped quotes took minutes when each of them was a place to start again."""
    assert is_too_deep(b"[" * 65 + b'"' + b'\\"' * 500_000 + tail)


@pytest.mark.parametrize("form", [ITEM, '{"reports":[' + ITEM + "]}"])
@pytest.mark.parametrize(
    "amount", ["1e9999999", '"1e9999999"', "-1e9999999", "1e-9999999", "1e-7", '"sNaN"', '"-Infinity"']
)
def test_an_amount_of_absurd_size_is_a_bad_field(world: Stage, agent: TestAgent, amount: str, form: str) -> None:
    """Neither an overflow nor quietly nothing; in a batch it hurts its own item only."""
    lease = agent.handshake().lease.id
    before = books(agent)

    answer = world.post("/budget/report", (form % (lease, amount)).encode(), token=agent.token)

    fields = answer.body["results"][0]["fields"] if form != ITEM else answer.fields
    assert (answer.status, list(fields)) == (400 if form == ITEM else 200, ["cost_usd"])
    assert books(agent) == before


@pytest.mark.parametrize(
    "raw",
    [b'{"zz":"\xff"}', b'"\xff"', b'{"provider":5,"ic_token":"\xff"}', b'{"reports":[{"request_id":"\xff"}]}'],
)
@pytest.mark.parametrize("path", ["/budget/handshake", "/budget/report"])
def test_what_is_not_utf8_is_no_json(world: Stage, agent: TestAgent, path: str, raw: bytes) -> None:
    """Wherever the bad byte stands, also in a field that nobody reads."""
    answers = [world.post(path, raw, token=token) for token in (agent.token, None)]

    assert [(answer.status, answer.code) for answer in answers] == [(400, "MALFORMED_JSON")] * 2


@pytest.mark.parametrize("extra", [{}, {"budget_id": "x"}])
def test_a_bad_amount_of_a_refresh_is_told_before_the_lease_is_looked_for(
    world: Stage, agent: TestAgent, extra: dict[str, str]
) -> None:
    """Fields follow the permission; only then come 404 and 403."""
    lease = agent.handshake().lease.id if extra else UNKNOWN
    body = {"lease_id": lease, "requested_budget": -1, **extra}

    assert list(world.post("/budget/refresh", body, token=agent.token).fields) == ["requested_budget"]


@pytest.mark.parametrize("path", ["/budget", "/budget/leases", "/budget/ledger"])
def test_an_order_that_there_is_not_is_refused(world: Stage, path: str) -> None:
    """A list that is sorted otherwise than asked would be read wrong."""
    assert list(world.get(f"{path}?sort=zz", user="admin").fields) == ["sort"]


def test_null_for_the_list_of_reports_is_no_list(world: Stage, agent: TestAgent) -> None:
    """Null means absent."""
    call = {"request_id": "r", "model": "m", "provider": "p", "tokens": 1, "cost_usd": 1}
    body = {"reports": None, "lease_id": agent.handshake().lease.id, **call}

    assert world.post("/budget/report", body, token=agent.token).status == 200


def test_a_token_may_have_one_prefix_and_no_more(world: Stage, agent: TestAgent) -> None:
    """One leading ic_ is dropped."""
    assert world.post("/budget/handshake", {}, token=f"ic_{agent.token}").status == 200
    assert world.post("/budget/handshake", {}, token=f"ic_ic_{agent.token}").code == "AUTH_INVALID_TOKEN"


TWINS = [
    '{"a":1,"a":1}',
    ' {"a":1,"\\u0061":2} ',
    '{"budget":1,"x":[[{"deep":{"a":null,"b":1,"a":null}}]]}',
    '{"name":"a","":1,"":2}',
    '{"ic_token":"x","zz":{"n":1e999,"m":[],"n":1}}',
    '[{"a":1,"a":2}]',
]


@pytest.mark.parametrize("raw", TWINS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/agents"),
        ("PUT", "/agents/{agent}"),
        ("POST", "/agents/{agent}/stop"),
        ("PUT", "/agents/{agent}/providers"),
        ("POST", "/providers"),
        ("POST", "/users"),
        ("POST", "/projects"),
    ],
)
def test_a_name_that_comes_twice_is_no_json(world: Stage, agent: TestAgent, method: str, path: str, raw: str) -> None:
    """At any depth and however it is spelled: who reads the first and who reads the last would disagree."""
    answer = world.send(method, path.format(agent=agent.id), raw.encode(), user="admin")

    assert (answer.status, answer.code) == (400, "MALFORMED_JSON")


@pytest.mark.parametrize("path", ["/budget/handshake", "/budget/report", "/agents/provider-key"])
def test_a_runtime_may_not_say_a_thing_twice_either(world: Stage, agent: TestAgent, path: str) -> None:
    """Nor in the item of a batch, which is then booked by none of its amounts."""
    lease = agent.handshake().lease.id
    item = (ITEM % (lease, "1")).replace('"cost_usd"', '"cost_usd":0,"cost_usd"')
    before = books(agent)

    answers = [world.post(path, raw.encode(), token=agent.token) for raw in (*TWINS, item, f'{{"reports":[{item}]}}')]

    assert {(answer.status, answer.code) for answer in answers} == {(400, "MALFORMED_JSON")}
    assert books(agent) == before


class Anything(msgspec.Struct):
    """A body that any object is."""


NUMBERS = st.sampled_from(["0", "-1", "1e999", "1.5E+3", "12345678901234567890", "huge"]).map(
    lambda text: text.replace("huge", "9" * 5000).encode()
)
TEXTS = st.text(st.sampled_from('ab":{}\\,\u2028\x7f'), max_size=4).map(lambda text: json.dumps(text).encode())


def _object(values: list[bytes]) -> bytes:
    named = [json.dumps(f'{place}":{{').encode() + b" : " + value for place, value in enumerate(values)]
    return b"{" + b" , ".join(named) + b"}"


def _array(values: list[bytes]) -> bytes:
    return b"[" + b",".join(values) + b"]"


def _within(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(inner, max_size=3).map(_array) | st.lists(inner, max_size=3).map(_object)


VALUES = st.recursive(NUMBERS | TEXTS | st.sampled_from([b"true", b"null"]), _within)


@settings(deadline=None)
@given(VALUES)
def test_a_body_without_twins_is_read_as_before(value: bytes) -> None:
    """Whatever numbers and texts it holds; the same body with one is refused."""
    read = Read(b'{"a":' + value + b"}", "application/json", Anything)
    twin = Read(b'{"b":' + value + b',"a":1,"a":' + value + b"}", "application/json", Anything)

    read.check_syntax()
    assert read.found is not None
    with pytest.raises(Exception, match="two fields of one name"):
        twin.check_syntax()
    assert not has_twins(value.decode())


@pytest.mark.parametrize(
    "raw", ['{"a":1,"a":}', '{"a":1,}', '{"a":NaN}', '{"a":01}', '{"a":"\x01"}', "{'a':1}", "\ufeff{}"]
)
def test_what_is_no_json_is_told_so_as_before(world: Stage, agent: TestAgent, raw: str) -> None:
    """The search for twins answers for nothing else."""
    answer = world.send("PUT", f"/agents/{agent.id}", raw.encode(), user="admin")

    assert (answer.code, answer.body["error"]) == ("MALFORMED_JSON", "The body is not valid JSON")


ODD = ['"1_0"', '"1\\u005f0"', '"1_0.5"', '"\u0661\u0660"']


@pytest.mark.parametrize("amount", ODD)
def test_an_amount_is_spelled_as_everybody_spells_it(world: Stage, agent: TestAgent, amount: str) -> None:
    """Not as only Python reads it; told on its field, with the other bad ones, in an item of a batch too."""
    lease = agent.handshake().lease.id
    before = books(agent)
    item = ITEM % (lease, amount)
    cases: list[tuple[str, str, str, dict[str, Any]]] = [
        ("POST", "/agents", f'{{"name":5,"budget":{amount}}}', {"user": "admin"}),
        ("POST", "/budget/handshake", f'{{"requested_budget":{amount}}}', {"token": agent.token}),
        ("POST", "/budget/report", item, {"token": agent.token}),
        ("POST", "/api-tokens", f'{{"name":"x","daily_limit_usd":{amount}}}', {"user": "ann"}),
    ]

    told = [world.send(method, path, raw.encode(), **who) for method, path, raw, who in cases]
    batch = world.post("/budget/report", f'{{"reports":[{item}]}}'.encode(), token=agent.token)

    assert [(answer.status, set(answer.fields)) for answer in told] == [
        (400, {"name", "budget"}), (400, {"requested_budget"}), (400, {"cost_usd"}), (400, {"daily_limit_usd"}),
    ]  # fmt: skip
    assert set(batch.body["results"][0]["fields"]) == {"cost_usd"}
    assert books(agent) == before


def test_an_escaped_name_hides_no_odd_amount(world: Stage, agent: TestAgent) -> None:
    """Nor do blanks between the name and the amount."""
    item = ITEM % (agent.handshake().lease.id, '"1_0"')

    names = ('"cost\\u005fusd" :', '"cost_usd"\n: ')
    told = [
        world.post("/budget/report", item.replace('"cost_usd":', name).encode(), token=agent.token) for name in names
    ]

    assert [(answer.status, set(answer.fields)) for answer in told] == [(400, {"cost_usd"})] * 2


def test_an_amount_may_still_be_a_text(world: Stage, agent: TestAgent) -> None:
    """With blanks around it, too."""
    lease = agent.handshake().lease.id

    booked = world.post("/budget/report", (ITEM % (lease, '" 0.50 "')).encode(), token=agent.token)

    assert booked.body["cost_usd"] == Decimal("0.5")
