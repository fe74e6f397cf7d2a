"""Input that was made to hurt: it gets a clear 4xx, at once, and changes nothing."""

import pytest

from ironcage_http.wire import _is_too_deep
from tests.support.http_agents import Stage, books
from tests.support.world import TestAgent

UNKNOWN = "lease_" + "0" * 32
ITEM = '{"lease_id":"%s","request_id":"r1","model":"m","provider":"p","tokens":5,"cost_usd":%s}'


@pytest.mark.timeout(20)
@pytest.mark.parametrize("tail", [b"", b"\\", b'"', b"x"])
def test_a_string_that_never_ends_is_looked_at_once(tail: bytes) -> None:
    """A mebibyte of escaped quotes took minutes when each of them was a place to start again."""
    assert _is_too_deep(b"[" * 65 + b'"' + b'\\"' * 500_000 + tail)


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
