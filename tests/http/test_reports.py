"""Reports over the wire: what is booked, what is refused, and the fate of each item of a batch."""

from typing import Any

import pytest

from tests.support.http_agents import Stage, books, usd
from tests.support.world import USD, TestAgent

pytestmark = pytest.mark.usefixtures("silence")

UNKNOWN = "lease_" + "0" * 32


@pytest.fixture
def lease(agent: TestAgent) -> str:
    """A lease over ten dollars."""
    return agent.handshake().lease.id


def call(lease_id: object, request_id: object = "r1", **fields: object) -> dict[str, object]:
    """Return the report of an ordinary call."""
    plain = {"model": "gpt-test", "provider": "openai", "tokens": 100, "cost_usd": 1}
    return {"lease_id": lease_id, "request_id": request_id, **plain, **fields}


def raw_call(lease_id: str, field: str, value: str) -> bytes:
    """Return a report in which one field is exactly the given text."""
    fields = {"model": '"m"', "provider": '"p"', "tokens": "5", "cost_usd": "1", field: value}
    rest = ", ".join(f'"{name}": {text}' for name, text in fields.items())
    return f'{{"lease_id": "{lease_id}", "request_id": "r1", {rest}}}'.encode()


# --- one report -------------------------------------------------------------


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
def test_a_report_answers_with_what_the_books_hold(world: Stage, agent: TestAgent, lease: str, base: str) -> None:
    """Every field of the contract, amounts to the last micro-USD."""
    answer = world.post(f"{base}/budget/report", raw_call(lease, "cost_usd", "0.100001"), token=agent.token)

    assert answer.status == 200, answer.raw
    assert answer.body.pop("expires_at").endswith("Z")
    assert answer.body == {
        "success": True, "duplicate": False, "request_id": "r1", "lease_id": lease, "charged_lease_id": lease,
        "cost_usd": usd("0.100001"), "overspent_usd": 0, "budget_limit_usd": 100, "budget_spent_usd": usd("0.100001"),
        "budget_remaining_usd": 90, "lease_spent_usd": usd("0.100001"), "lease_remaining_usd": usd("9.899999"),
        "lease_status": "active", "refresh_recommended": False, "stop": False,
    }  # fmt: skip
    assert b'"cost_usd":0.100001,' in answer.raw
    assert b'"lease_remaining_usd":9.899999,' in answer.raw


def test_a_repeated_report_counts_once(world: Stage, agent: TestAgent, lease: str) -> None:
    """The second answer is the first one's, but for `duplicate`."""
    first = world.post("/budget/report", call(lease), token=agent.token)
    before = books(agent)

    again = world.post("/budget/report", call(lease), token=agent.token)

    assert again.body == {**first.body, "duplicate": True}
    assert books(agent) == before


@pytest.mark.parametrize("other", [{"cost_usd": 2}, {"tokens": 101}, {"model": "gpt-else"}, {"provider": "anthropic"}])
def test_a_known_request_with_other_content_is_a_conflict(
    world: Stage, agent: TestAgent, lease: str, other: dict[str, object]
) -> None:
    """409 with what was booked, and nothing moves."""
    world.post("/budget/report", call(lease, cost_usd="1.250000"), token=agent.token)
    before = books(agent)

    answer = world.post("/budget/report", {**call(lease, cost_usd="1.25"), **other}, token=agent.token)

    assert (answer.status, answer.code) == (409, "REQUEST_ID_CONFLICT")
    assert b'"recorded_cost_usd":1.25' in answer.raw
    assert books(agent) == before


def test_spend_over_the_hold_is_booked_and_tells_the_runtime_to_stop(
    world: Stage, agent: TestAgent, lease: str
) -> None:
    """The money is gone at the provider, so overshoot is no error."""
    answer = world.post("/budget/report", call(lease, cost_usd=12.5), token=agent.token)

    body = answer.body
    assert answer.status == 200
    assert (body["overspent_usd"], body["lease_remaining_usd"]) == (usd("2.5"), 0)
    assert (body["lease_status"], body["refresh_recommended"], body["stop"]) == ("expired", True, True)


@pytest.mark.parametrize("how", ["returned", "revoked"])
def test_a_lease_that_is_over_still_takes_reports(world: Stage, agent: TestAgent, lease: str, how: str) -> None:
    """All of it is overspend, and it is 200."""
    if how == "returned":
        agent.return_lease(lease)
    else:
        world.post(f"/budget/leases/{lease}/revoke", user="ann")

    answer = world.post("/budget/report", call(lease), token=agent.token)

    assert (answer.status, answer.body["overspent_usd"], answer.body["stop"]) == (200, 1, True)
    assert answer.body["lease_status"] == ("closed" if how == "returned" else "revoked")


def test_a_refreshed_lease_is_charged_to_its_successor(world: Stage, agent: TestAgent, lease: str) -> None:
    """A queued report may still carry the old id."""
    new = world.post("/budget/refresh", {"lease_id": lease}, token=agent.token).body["lease_id"]

    answer = world.post("/budget/report", call(lease), token=agent.token)

    assert (answer.body["lease_id"], answer.body["charged_lease_id"]) == (lease, new)
    assert answer.body["lease_spent_usd"] == 1


def test_without_a_cost_the_server_prices_the_tokens(world: Stage, agent: TestAgent, lease: str) -> None:
    """Input and output of a model whose price is known are enough."""
    priced = {"model": "gpt-4o", "cost_usd": None, "tokens": None, "input_tokens": 1000, "output_tokens": 500}

    answer = world.post("/budget/report", call(lease, **priced), token=agent.token)

    assert answer.status == 200, answer.raw
    assert 0 < answer.body["cost_usd"] < 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("0", b"0"), ('"0"', b"0"), ("0.000001", b"0.000001"), ('"0.3"', b"0.3"), ("1000", b"1000"), ("1e1", b"10"),
        ("25e-1", b"2.5"), ("1.0000000", b"1"), ("-0", b"0"),
    ],
)  # fmt: skip
def test_a_cost_is_exact_however_it_is_written(
    world: Stage, agent: TestAgent, lease: str, value: str, shown: bytes
) -> None:
    """Numbers, numeric strings and exponents; never a float."""
    answer = world.post("/budget/report", raw_call(lease, "cost_usd", value), token=agent.token)

    assert answer.status == 200, answer.raw
    assert b'"cost_usd":' + shown + b"," in answer.raw


@pytest.mark.parametrize(
    "value",
    ["1763726400", "1763726400.5", '"2025-11-21T12:00:00Z"', '"2025-11-21T13:00:00+01:00"', "null", "0"],
)
def test_a_time_may_be_unix_seconds_or_rfc_3339(world: Stage, agent: TestAgent, lease: str, value: str) -> None:
    """It says when the call was made; the money does not ask."""
    answer = world.post("/budget/report", raw_call(lease, "timestamp", value), token=agent.token)

    assert answer.status == 200, answer.raw


BAD = [
    *(
        ("cost_usd", value)
        for value in (
            "-1", "-0.000001", "1000.000001", "0.0000001", "1e-7", "1e400", "true", "false", '"NaN"', '"sNaN"',
            '"Infinity"', '"-Infinity"', '"x"', '""', "[]", "{}", "null",
        )
    ),
    *(("tokens", value) for value in ('"1"', "0", "-1", "1.5", "true", "1000000000001", "9" * 40, "null", "[]")),
    *(("input_tokens", value) for value in ('"1"', "-1", "true", "1.5", "9" * 40)),
    *(("output_tokens", value) for value in ('"1"', "-1", "1000000000001")),
    *(("cached_input_tokens", value) for value in ('"1"', "-1", "1")),
    *(("cache_write_tokens", value) for value in ('"1"', "-1")),
    *(("model", value) for value in ('""', '" "', '"a\\u0000b"', '"a\\nb"', "5", "null", f'"{"x" * 101}"')),
    *(("provider", value) for value in ('""', '"a\\u0000b"', "true", "null", f'"{"x" * 51}"')),
    *(("timestamp", value) for value in ("true", "-1", "1e400", "99999999999", '"today"', '"2025-11-21"', "[]")),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD)
def test_a_bad_field_of_a_report_is_named_and_nothing_is_booked(
    world: Stage, agent: TestAgent, lease: str, field: str, value: str
) -> None:
    """400 with the field, whichever rule it breaks."""
    before = books(agent)

    answer = world.post("/budget/report", raw_call(lease, field, value), token=agent.token)

    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR"), answer.raw
    assert set(answer.fields) == {field}
    assert books(agent) == before


@pytest.mark.parametrize("field", ["lease_id", "request_id"])
@pytest.mark.parametrize("value", [None, "", "  ", "x" * 101, "a\0b", 5, True, [], {}])
def test_an_id_that_is_no_text_of_1_to_100_characters_is_named(
    world: Stage, agent: TestAgent, lease: str, field: str, value: object
) -> None:
    """A lease id may be unknown, but not anything."""
    before = books(agent)

    answer = world.post("/budget/report", {**call(lease), field: value}, token=agent.token)

    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR"), answer.raw
    assert set(answer.fields) == {field}
    assert books(agent) == before


def test_all_missing_fields_are_named_at_once(world: Stage, agent: TestAgent) -> None:
    """An empty object lacks all that is required."""
    answer = world.post("/budget/report", {}, token=agent.token)

    assert set(answer.fields) == {"lease_id", "request_id", "model", "provider"}


def test_tokens_must_add_up(world: Stage, agent: TestAgent, lease: str) -> None:
    """A total beside its parts equals their sum."""
    body = call(lease, tokens=10, input_tokens=5, output_tokens=4)

    answer = world.post("/budget/report", body, token=agent.token)

    assert set(answer.fields) == {"tokens"}


def test_unknown_fields_are_ignored_and_any_script_is_stored(world: Stage, agent: TestAgent, lease: str) -> None:
    """A model's name is what the provider calls it."""
    answer = world.post(
        "/budget/report", call(lease, "заявка-😀", model="模型", surprise={"a": [1]}), token=agent.token
    )

    assert (answer.status, answer.body["request_id"]) == (200, "заявка-😀")


@pytest.mark.parametrize("lease_id", [UNKNOWN, "x"])
def test_a_lease_nobody_has_is_not_found(world: Stage, agent: TestAgent, lease_id: str) -> None:
    """Nothing is booked for it."""
    before = books(agent)

    answer = world.post("/budget/report", call(lease_id), token=agent.token)

    assert (answer.status, answer.code) == (404, "LEASE_NOT_FOUND")
    assert books(agent) == before


def test_the_lease_of_another_agent_is_forbidden(world: Stage, agent: TestAgent, lease: str) -> None:
    """Even of the same owner; neither agent's books move."""
    other = world.agent()
    before = books(agent), books(other)

    answer = world.post("/budget/report", call(lease), token=other.token)

    assert (answer.status, answer.code) == (403, "FORBIDDEN")
    assert (books(agent), books(other)) == before


# --- batches ----------------------------------------------------------------


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
def test_each_item_of_a_batch_is_judged_alone(world: Stage, agent: TestAgent, lease: str, base: str) -> None:
    """Accepted, duplicate, conflict and every kind of rejection in one body, in order."""
    foreign = world.agent().handshake().lease.id
    items: list[Any] = [
        call(lease, "b1", cost_usd=0.25),
        call(lease, "b1", cost_usd="0.250000"),
        call(lease, "b1", cost_usd=2),
        call(lease, "b2", cost_usd=-1),
        call(UNKNOWN, "b3"),
        call(foreign, "b4"),
        {"request_id": 7},
        5,
        None,
        [],
        call(lease, "b5", tokens="1", model=None),
        call(lease, "b6", cost_usd=0.5),
    ]

    answer = world.post(f"{base}/budget/report", {"reports": items}, token=agent.token)

    results = answer.body["results"]
    assert answer.status == 200, answer.raw
    assert [each["index"] for each in results] == list(range(len(items)))
    assert [each["status"] for each in results] == [
        "accepted", "duplicate", "conflict", *["rejected"] * 8, "accepted",
    ]  # fmt: skip
    assert [each.get("code") for each in results] == [
        None, None, "REQUEST_ID_CONFLICT", "VALIDATION_ERROR", "LEASE_NOT_FOUND", "FORBIDDEN",
        *["VALIDATION_ERROR"] * 5, None,
    ]  # fmt: skip
    assert [each["request_id"] for each in results] == [
        "b1", "b1", "b1", "b2", "b3", "b4", None, None, None, None, "b5", "b6",
    ]  # fmt: skip
    fields = [set(each.get("fields", {})) for each in results]
    assert fields[3] == {"cost_usd"}
    assert fields[6] == {"lease_id", "request_id", "model", "provider"}
    assert fields[7] == fields[8] == fields[9] == {"body"}
    assert fields[10] == {"tokens", "model"}
    assert all(each["error"] for each in results[2:-1])
    assert (results[0]["cost_usd"], results[0]["overspent_usd"]) == (usd("0.25"), 0)
    del answer.body["results"]
    assert answer.body == {
        "success": False, "accepted": 2, "duplicates": 1, "rejected": 9,
        "leases": [
            {"lease_id": lease, "lease_spent_usd": usd("0.75"), "lease_remaining_usd": usd("9.25"),
             "lease_status": "active", "stop": False}
        ],
        "budget_limit_usd": 100, "budget_spent_usd": usd("0.75"), "budget_remaining_usd": 90,
    }  # fmt: skip


def test_a_batch_sent_again_is_all_duplicates(world: Stage, agent: TestAgent, lease: str) -> None:
    """A retry after a lost answer is a success that moves nothing."""
    batch = {"reports": [call(lease, f"b{number}") for number in range(5)]}
    world.post("/budget/report", batch, token=agent.token)
    before = books(agent)

    again = world.post("/budget/report", batch, token=agent.token)

    assert (again.body["success"], again.body["duplicates"], again.body["accepted"]) == (True, 5, 0)
    assert books(agent) == before


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_1_to_1000_items(world: Stage, agent: TestAgent, lease: str, count: int) -> None:
    """Outside of that none of them is booked."""
    before = books(agent)
    items = [call(lease, f"n{number}", cost_usd=0.001) for number in range(count)]

    answer = world.post("/budget/report", {"reports": items}, token=agent.token)

    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {"reports"}
    assert books(agent) == before


def test_a_full_batch_is_booked(world: Stage, agent: TestAgent, lease: str) -> None:
    """A thousand items in one body."""
    items = [call(lease, f"n{number}", cost_usd="0.000001") for number in range(1000)]

    answer = world.post("/budget/report", {"reports": items}, token=agent.token)

    assert (answer.body["accepted"], answer.body["budget_spent_usd"]) == (1000, usd("0.001"))


@pytest.mark.parametrize("value", ["x", 5, {}, True])
def test_reports_that_are_no_list_are_a_bad_field(world: Stage, agent: TestAgent, value: object) -> None:
    """The envelope is judged as a whole."""
    answer = world.post("/budget/report", {"reports": value}, token=agent.token)

    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {"reports"}


@pytest.mark.parametrize("token", [None, "nonsense"])
def test_a_batch_of_nobody_is_not_looked_at(world: Stage, agent: TestAgent, lease: str, token: str | None) -> None:
    """401, and its items, good as they are, are not booked."""
    before = books(agent)

    answer = world.post("/budget/report", {"reports": [call(lease)]}, token=token)

    assert answer.status == 401
    assert books(agent) == before


def test_a_batch_may_carry_its_token_in_the_envelope(world: Stage, agent: TestAgent, lease: str) -> None:
    """Not in its items, where it would only be an unknown field."""
    answer = world.post("/budget/report", {"ic_token": f"ic_{agent.token}", "reports": [call(lease)]})

    assert answer.body["accepted"] == 1


def test_overspend_in_a_batch_stops_the_lease(world: Stage) -> None:
    """The lease is told as it is after the last item."""
    agent = world.agent(5 * USD)
    lease = agent.handshake().lease.id

    answer = world.post(
        "/budget/report", {"reports": [call(lease, "o1", cost_usd=4), call(lease, "o2", cost_usd=4)]}, token=agent.token
    )

    assert [each["overspent_usd"] for each in answer.body["results"]] == [0, 3]
    assert answer.body["leases"][0]["stop"] is True
    assert answer.body["budget_remaining_usd"] == -3
