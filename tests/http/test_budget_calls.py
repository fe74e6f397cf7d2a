"""Handshake, refresh and return over the wire: credentials, fields, refusals and what they answer."""

import time
from collections.abc import Callable
from functools import partial

import pytest

from ironcage_core.domain.agents import Agent
from ironcage_core.domain.ic_tokens import IcTokenClaims
from ironcage_core.services.ic_tokens import regenerate_ic_token
from ironcage_storage.sealed.ip_tokens import open_ip_token
from ironcage_storage.sealed.tokens import IcTokenSigner
from tests.support.http_agents import Stage, books, stage, usd
from tests.support.web import Answer
from tests.support.world import ADMIN, API_KEY, USD, TestAgent

pytestmark = pytest.mark.usefixtures("silence")

UNKNOWN = "lease_" + "0" * 32
ROUTES = ("handshake", "report", "refresh", "return")
Change = Callable[[Stage, TestAgent], object]


def put_agent(world: Stage, agent: TestAgent, change: Callable[[Agent], Agent]) -> None:
    """Change an agent as stored."""

    def use_case(uow: object) -> None:
        found = uow.agents.find(agent.id)  # type: ignore[attr-defined]  # a unit of work
        uow.agents.put(change(found))  # type: ignore[attr-defined]  # likewise

    world.store.write(use_case)


def refusal(answer: Answer) -> tuple[int, str]:
    """Return status and code, after a look at the shape all refusals have."""
    assert set(answer.body) == {"error", "code", "details"}
    assert answer.body["error"]
    return answer.status, answer.code


# --- what a success says ----------------------------------------------------


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
def test_a_handshake_answers_with_a_lease_and_a_key_only_the_runtime_can_open(
    world: Stage, agent: TestAgent, base: str
) -> None:
    """Every field of the contract, amounts to the last micro-USD, and an IP token that opens with the IC token."""
    answer = world.post(f"{base}/budget/handshake", b'{"requested_budget": 0.000001}', token=agent.token)

    body = answer.body
    assert answer.status == 200, answer.raw
    assert set(body) == {
        "ip_token", "lease_id", "agent_id", "budget_id", "budget_granted", "budget_remaining", "total_allocated",
        "total_spent", "provider", "expires_at", "grace_seconds", "refresh_threshold",
    }  # fmt: skip
    assert b'"budget_granted":0.000001,"budget_remaining":99.999999,' in answer.raw
    assert (body["agent_id"], body["budget_id"]) == (agent.id, agent.balance().budget_id)
    assert (body["total_allocated"], body["total_spent"], body["provider"]) == (100, 0, "openai")
    assert body["expires_at"].endswith("Z")
    assert answer.headers["cache-control"] == "no-store"
    opened = open_ip_token(
        body["ip_token"], ic_token=agent.token, agent_id=agent.id, lease_id=body["lease_id"], provider="openai"
    )
    assert opened == API_KEY


def test_a_handshake_needs_no_body(world: Stage, agent: TestAgent) -> None:
    """Everything has a default: ten dollars."""
    answer = world.post("/budget/handshake", token=agent.token)

    assert (answer.status, answer.body["budget_granted"]) == (200, 10)


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
@pytest.mark.parametrize("name", ["lease_id", "current_lease_id"])
def test_a_refresh_answers_with_the_lease_in_the_place_of_the_old_one(
    world: Stage, agent: TestAgent, base: str, name: str
) -> None:
    """What the old lease held rolls over; the new key opens under the new lease only."""
    old = agent.handshake(5 * USD).lease.id
    agent.report(old, "r1", 1_000_001)

    answer = world.post(f"{base}/budget/refresh", {name: old, "requested_budget": 2}, token=agent.token)

    body = answer.body
    assert answer.status == 200, answer.raw
    assert set(body) == {
        "status", "budget_granted", "rolled_over_usd", "lease_budget_usd", "budget_remaining", "lease_id",
        "previous_lease_id", "total_allocated", "total_spent", "expires_at", "ip_token",
    }  # fmt: skip
    assert (body["status"], body["previous_lease_id"], body["budget_granted"]) == ("approved", old, 2)
    assert b'"rolled_over_usd":3.999999,"lease_budget_usd":5.999999,' in answer.raw
    assert b'"total_spent":1.000001,' in answer.raw
    assert answer.headers["cache-control"] == "no-store"
    binding = {"ic_token": agent.token, "agent_id": agent.id, "provider": "openai"}
    assert open_ip_token(body["ip_token"], lease_id=body["lease_id"], **binding) == API_KEY


def test_asking_again_for_a_refreshed_lease_replays_its_unused_successor(world: Stage, agent: TestAgent) -> None:
    """A lost answer costs nothing: the same lease, no second grant, and the header says so."""
    old = agent.handshake().lease.id
    first = world.post("/budget/refresh", {"lease_id": old}, token=agent.token)
    before = books(agent)

    again = world.post("/budget/refresh", {"lease_id": old}, token=agent.token)

    assert again.status == 200
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert [again.body[key] for key in ("lease_id", "budget_granted")] == [first.body["lease_id"], 10]
    assert books(agent)[:2] == before[:2]


def test_a_denied_refresh_is_an_answer_and_leaves_the_old_lease(world: Stage) -> None:
    """No money left is no error: 200, the reason and the totals, and no key."""
    agent = world.agent(5 * USD)
    lease = agent.handshake().lease.id
    before = books(agent)

    answer = world.post("/budget/refresh", {"lease_id": lease}, token=agent.token)

    assert answer.status == 200
    assert answer.body == {
        "status": "denied", "reason": "total_budget_exhausted",
        "budget_remaining": 0, "total_allocated": 5, "total_spent": 0,
    }  # fmt: skip
    assert books(agent) == before


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
def test_a_return_gives_the_rest_back_and_may_be_repeated(world: Stage, agent: TestAgent, base: str) -> None:
    """The server's numbers decide; the second time nothing moves and the answer says so."""
    lease = agent.handshake(5 * USD).lease.id
    agent.report(lease, "r1", 1_250_000)
    sent = {"lease_id": lease, "final_spent_usd": "1.500000", "returning_usd": 99}

    first = world.post(f"{base}/budget/return", sent, token=agent.token)
    before = books(agent)
    again = world.post(f"{base}/budget/return", sent, token=agent.token)

    assert first.status == again.status == 200
    assert first.body == {
        "success": True, "lease_id": lease, "returned_usd": usd("3.5"), "final_spent_usd": usd("1.5"),
        "agent_budget_remaining_usd": usd("98.5"), "lease_status": "closed", "already_closed": False,
        "discrepancy_usd": usd("-0.25"),
    }  # fmt: skip
    assert again.body == {**first.body, "already_closed": True}
    assert books(agent) == before


def test_returning_a_refreshed_lease_closes_its_successor(world: Stage, agent: TestAgent) -> None:
    """A runtime that lost the refresh's answer can still give everything back."""
    old = agent.handshake().lease.id
    new = world.post("/budget/refresh", {"lease_id": old}, token=agent.token).body["lease_id"]

    answer = world.post("/budget/return", {"lease_id": old}, token=agent.token)

    assert (answer.body["lease_id"], answer.body["successor_lease_id"]) == (old, new)
    assert agent.balance().held == 0


# --- credentials ------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "ic_"])
@pytest.mark.parametrize("carrier", ["X-IC-Token", "Authorization", "body"])
def test_an_ic_token_may_come_in_any_of_three_carriers(
    world: Stage, agent: TestAgent, carrier: str, prefix: str
) -> None:
    """Header, bearer or body, with or without its prefix."""
    token = prefix + agent.token
    headers = {"X-IC-Token": {"X-IC-Token": token}, "Authorization": {"Authorization": f"Bearer {token}"}, "body": {}}

    answer = world.post("/budget/handshake", {"ic_token": token} if carrier == "body" else {}, headers=headers[carrier])

    assert answer.status == 200, answer.raw


def test_one_token_in_all_carriers_is_one_credential(world: Stage, agent: TestAgent) -> None:
    """The prefix makes no difference between them."""
    answer = world.post(
        "/budget/handshake",
        {"ic_token": f"ic_{agent.token}"},
        headers={"Authorization": f"Bearer {agent.token}"},
        token=agent.token,
    )

    assert answer.status == 200


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("carriers", [("header", "body"), ("header", "bearer"), ("bearer", "body")])
def test_two_different_ic_tokens_are_ambiguous(
    world: Stage, agent: TestAgent, route: str, carriers: tuple[str, str]
) -> None:
    """Nobody could say which agent was meant, not even when one of them is false."""
    tokens = dict(zip(carriers, (agent.token, "another"), strict=True))
    headers = {
        **({"X-IC-Token": tokens["header"]} if "header" in tokens else {}),
        **({"Authorization": f"Bearer {tokens['bearer']}"} if "bearer" in tokens else {}),
    }
    before = books(agent)

    answer = world.post(f"/budget/{route}", {"ic_token": tokens["body"]} if "body" in tokens else {}, headers=headers)

    assert refusal(answer) == (400, "AMBIGUOUS_CREDENTIALS")
    assert books(agent) == before


@pytest.mark.parametrize("base", ["/api/v1", "/api"])
@pytest.mark.parametrize("route", ROUTES)
def test_without_a_token_the_answer_says_which_scheme_to_use(world: Stage, route: str, base: str) -> None:
    """A null token is no token."""
    for body in ({}, {"ic_token": None}):
        answer = world.post(f"{base}/budget/{route}", body)

        assert refusal(answer) == (401, "AUTH_MISSING_TOKEN")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("route", ROUTES)
def test_a_user_is_not_an_agent(world: Stage, route: str) -> None:
    """Alone in its own carrier a session is of the wrong type; where an IC token belongs it is none."""
    session = world.session("admin")

    alone = world.post(f"/budget/{route}", {}, user="admin")
    in_header = world.post(f"/budget/{route}", {}, token=session)
    in_body = world.post(f"/budget/{route}", {"ic_token": session})

    assert refusal(alone) == (401, "AUTH_WRONG_TOKEN_TYPE")
    assert refusal(in_header) == refusal(in_body) == (401, "AUTH_INVALID_TOKEN")
    assert {each.headers["www-authenticate"] for each in (alone, in_header, in_body)} == {"Bearer"}


def test_a_user_beside_an_ic_token_is_ignored(world: Stage, agent: TestAgent) -> None:
    """The agent calls, whoever else is named."""
    answer = world.post("/budget/handshake", {}, token=agent.token, user="vera")

    assert (answer.status, answer.body["agent_id"]) == (200, agent.id)


def tampered(world: Stage, agent: TestAgent) -> str:  # noqa: ARG001 - one shape for the whole table
    head, payload, signature = agent.token.split(".")
    return f"{head}.{payload}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def foreign(world: Stage, agent: TestAgent) -> str:
    claims = world.signer.prove(agent.token, now=world.clock.now()).claims
    return IcTokenSigner("another secret of more than 32 characters").sign(claims)


def replaced(world: Stage, agent: TestAgent) -> str:
    old = agent.token
    issued = world.store.write(partial(regenerate_ic_token, agent_id=agent.id, actor=ADMIN, signer=world.signer))
    world.known_secrets.add(issued.value)
    return old


def unknown(world: Stage, agent: TestAgent) -> str:
    claims = world.signer.prove(agent.token, now=world.clock.now()).claims
    return world.signer.sign(
        IcTokenClaims(
            "ict_" + "0" * 32, claims.gen, "agent_" + "0" * 32, claims.budget_id, claims.permissions,
            claims.issued_at, None,
        )
    )  # fmt: skip


def deleted(world: Stage, agent: TestAgent) -> str:
    put_agent(world, agent, lambda found: found._replace(deleted_at=world.clock.now()))
    return agent.token


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("make", [tampered, foreign, replaced, unknown, deleted])
def test_no_false_or_dead_token_is_told_from_another(
    world: Stage, agent: TestAgent, route: str, make: Callable[[Stage, TestAgent], str]
) -> None:
    """One code and one message, whatever is wrong; and it comes before what is wrong with the fields."""
    before = books(agent)
    token = make(world, agent)
    nonsense = world.post(f"/budget/{route}", {}, token="nonsense")

    answer = world.post(f"/budget/{route}", {"requested_budget": "x", "lease_id": 5}, token=token)

    assert refusal(answer) == (401, "AUTH_INVALID_TOKEN")
    assert answer.raw == nonsense.raw
    assert answer.headers["www-authenticate"] == "Bearer"
    assert books(agent) == before


@pytest.mark.parametrize("route", ROUTES)
def test_an_expired_token_is_told_so(world: Stage, agent: TestAgent, route: str) -> None:
    """Genuine but over: the runtime knows to ask for a new one."""
    claims = world.signer.prove(agent.token, now=world.clock.now()).claims
    then = int(time.time() - 60) * 1000
    token = world.signer.sign(
        IcTokenClaims(claims.token_id, claims.gen, agent.id, claims.budget_id, claims.permissions, then - 1000, then)
    )

    answer = world.post(f"/budget/{route}", {"lease_id": 5}, token=token)

    assert refusal(answer) == (401, "AUTH_TOKEN_EXPIRED")


@pytest.mark.parametrize("route", ROUTES)
def test_a_token_without_the_permission_learns_nothing_of_the_fields(
    world: Stage, agent: TestAgent, route: str
) -> None:
    """403 comes after 401 and before the fields."""
    claims = world.signer.prove(agent.token, now=world.clock.now()).claims
    token = world.signer.sign(
        IcTokenClaims(
            claims.token_id, claims.gen, agent.id, claims.budget_id, ("analytics:write",), claims.issued_at, None
        )
    )

    def use_case(uow: object) -> None:
        record = uow.ic_tokens.find(claims.token_id)  # type: ignore[attr-defined]  # a unit of work
        uow.ic_tokens.put(record._replace(value_hash=world.signer.digest(token)))  # type: ignore[attr-defined]  # same

    world.store.write(use_case)
    before = books(agent)

    answer = world.post(f"/budget/{route}", {"lease_id": 5, "requested_budget": "x"}, token=token)

    assert refusal(answer) == (403, "INSUFFICIENT_SCOPE")
    assert books(agent) == before


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("value", ["", "  ", "\t", 5, True, [], {}, "x" * 2001, "ic_" + "x" * 2001])
def test_a_misshapen_token_in_the_body_is_a_bad_field(world: Stage, route: str, value: object) -> None:
    """Shape comes before standing: 400, although nobody has proved anything."""
    answer = world.post(f"/budget/{route}", {"ic_token": value, "lease_id": 5}, token="nonsense")

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {"ic_token"}


# --- bodies -----------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "raw",
    [
        b"{", b"{'a': 1}", b'{"a": NaN}', b'{"a": 1}x', b'{"ic_token":"\xff"}', b"[" * 65 + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_before_anybody_is_asked_who_he_is(world: Stage, route: str, raw: bytes) -> None:
    """400 MALFORMED_JSON with a false token; nesting over 64 counts as that."""
    answer = world.post(f"/budget/{route}", raw, token="nonsense")

    assert refusal(answer) == (400, "MALFORMED_JSON")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
def test_another_content_type_is_refused_first(world: Stage, route: str, content_type: str) -> None:
    """415, before the JSON is read and the token is judged."""
    answer = world.post(f"/budget/{route}", b"{", headers={"Content-Type": content_type})

    assert refusal(answer) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("route", ["report", "refresh", "return"])
@pytest.mark.parametrize("raw", [None, b"", b" \n"])
def test_a_body_that_is_needed_may_not_be_empty(world: Stage, agent: TestAgent, route: str, raw: bytes | None) -> None:
    """Nothing is no JSON."""
    assert refusal(world.post(f"/budget/{route}", raw, token=agent.token)) == (400, "MALFORMED_JSON")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"5", b"null"])
def test_a_body_that_is_no_object_is_a_bad_body(world: Stage, agent: TestAgent, route: str, raw: bytes) -> None:
    """Its fields are missing, so the message is about the body as a whole."""
    answer = world.post(f"/budget/{route}", raw, token=agent.token)

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {"body"}


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_over_the_limit_is_too_large(world: Stage, agent: TestAgent, route: str) -> None:
    """1 MiB and not a byte more."""
    answer = world.post(f"/budget/{route}", b'{"x":"' + b"a" * 2**20 + b'"}', token=agent.token)

    assert refusal(answer) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("route", ROUTES)
def test_another_method_is_named_as_such(world: Stage, agent: TestAgent, route: str) -> None:
    """405, in the shape of every refusal."""
    answer = world.send("PUT", f"/budget/{route}", {}, token=agent.token)

    assert refusal(answer) == (405, "METHOD_NOT_ALLOWED")


def test_depth_inside_a_text_is_no_depth(world: Stage, agent: TestAgent) -> None:
    """Sixty-four levels are fine, and brackets in a string are letters."""
    raw = b'{"runtime_id":"' + b"[" * 90 + b'","x":' + b"[" * 63 + b"]" * 63 + b"}"

    assert world.post("/budget/handshake", raw, token=agent.token).status == 200


def test_unknown_fields_and_nulls_are_as_if_they_were_not_there(world: Stage, agent: TestAgent) -> None:
    """An optional field that is null takes its default."""
    absent = dict.fromkeys(
        ("ic_token", "requested_budget", "provider", "provider_key_id", "runtime_id", "runtime_version",
         "lease_ttl_seconds")
    )  # fmt: skip

    answer = world.post("/budget/handshake", {**absent, "surprise": [1, {"a": None}]}, token=agent.token)

    assert (answer.status, answer.body["budget_granted"]) == (200, 10)


# --- fields -----------------------------------------------------------------

BAD_MONEY = (
    "0.0000001", "1e-7", '"1.0000001"', "true", "false", '"NaN"', '"sNaN"', '"Infinity"', '"-Infinity"', '"x"', '""',
    "[]", "{}", "1e400", "-1e400", '"0x10"', "123456789012345678901234567890",
)  # fmt: skip


@pytest.mark.parametrize(
    ("route", "field"),
    [("handshake", "requested_budget"), ("refresh", "requested_budget"), ("return", "final_spent_usd")],
)
@pytest.mark.parametrize("value", [*BAD_MONEY, "-1", "-0.000001"])
def test_an_amount_that_is_none_is_named(world: Stage, agent: TestAgent, route: str, field: str, value: str) -> None:
    """Not rounded, not guessed; nothing moves."""
    lease = agent.handshake().lease.id
    before = books(agent)

    answer = world.post(
        f"/budget/{route}", f'{{"lease_id": "{lease}", "{field}": {value}}}'.encode(), token=agent.token
    )

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {field}
    assert books(agent) == before


@pytest.mark.parametrize("value", ["0", '"0"', "1000.000001", '"1001"', "1e4"])
@pytest.mark.parametrize("route", ["handshake", "refresh"])
def test_what_is_asked_for_is_above_0_and_at_most_1000(world: Stage, agent: TestAgent, route: str, value: str) -> None:
    """The most a grant may be."""
    lease = agent.handshake().lease.id
    before = books(agent)

    answer = world.post(
        f"/budget/{route}", f'{{"lease_id": "{lease}", "requested_budget": {value}}}'.encode(), token=agent.token
    )

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {"requested_budget"}
    assert books(agent) == before


@pytest.mark.parametrize(
    ("value", "granted"),
    [
        ("0.1", b"0.1"), ('"0.1"', b"0.1"), ("1.2345670", b"1.234567"), ("12e-1", b"1.2"), ("0.000001", b"0.000001"),
        ("1E+1", b"10"), ('"7"', b"7"), ("99.999999", b"99.999999"),
    ],
)  # fmt: skip
def test_an_amount_is_exact_however_it_is_written(world: Stage, agent: TestAgent, value: str, granted: bytes) -> None:
    """Numbers and numeric strings, exponents too; what comes back has no float in it."""
    answer = world.post("/budget/handshake", f'{{"requested_budget": {value}}}'.encode(), token=agent.token)

    assert b'"budget_granted":' + granted + b"," in answer.raw


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lease_ttl_seconds", "1"), ("lease_ttl_seconds", 0), ("lease_ttl_seconds", 86_401), ("lease_ttl_seconds", 1.5),
        ("lease_ttl_seconds", True), ("lease_ttl_seconds", 10**30), ("runtime_id", ""), ("runtime_id", "x" * 101),
        ("runtime_id", "a\0b"), ("runtime_id", 5), ("provider", ""), ("provider", "x" * 51), ("provider", "a\0"),
        ("provider", []), ("provider_key_id", 5), ("runtime_version", "1.2"), ("runtime_version", "v1.2.3"),
        ("runtime_version", "1.2.3\0"), ("runtime_version", 1),
    ],
)  # fmt: skip
def test_a_bad_field_of_a_handshake_is_named(world: Stage, agent: TestAgent, field: str, value: object) -> None:
    """400 with the field, and no lease."""
    before = books(agent)

    answer = world.post("/budget/handshake", {field: value}, token=agent.token)

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {field}
    assert books(agent) == before


def test_all_fields_of_a_wrong_type_are_named_at_once(world: Stage, agent: TestAgent) -> None:
    """One round trip tells everything."""
    answer = world.post(
        "/budget/handshake", {"provider": 5, "lease_ttl_seconds": "1", "runtime_id": []}, token=agent.token
    )

    assert set(answer.fields) == {"provider", "lease_ttl_seconds", "runtime_id"}


@pytest.mark.parametrize("body", [{}, {"lease_id": None}, {"lease_id": UNKNOWN, "current_lease_id": "lease_x"}])
def test_a_refresh_names_one_lease(world: Stage, agent: TestAgent, body: object) -> None:
    """None, or two different ones, is a bad field."""
    answer = world.post("/budget/refresh", body, token=agent.token)

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {"lease_id"}


# --- refusals ---------------------------------------------------------------


def stopped(world: Stage, agent: TestAgent) -> None:
    put_agent(world, agent, lambda found: found._replace(stop_hold=1))


def inactive(world: Stage, agent: TestAgent) -> None:
    put_agent(world, agent, lambda found: found._replace(status="inactive"))


def without_key(world: Stage, agent: TestAgent) -> None:
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, []))


def spent_up(world: Stage, agent: TestAgent) -> None:  # noqa: ARG001 - one shape for the whole table
    agent.handshake(1000 * USD)


def crowded(world: Stage, agent: TestAgent) -> None:
    for _ in range(world.policy.max_open):
        agent.handshake(1)


def both_keys(world: Stage, agent: TestAgent) -> None:
    keys = [world.key_id, world.other_key_id]
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, keys))


def one_disabled(world: Stage, agent: TestAgent) -> None:
    keys = [world.key_id, world.disabled_key_id]
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, keys))


def only_disabled(world: Stage, agent: TestAgent) -> None:
    world.store.write(lambda uow: uow.provider_keys.assign(agent.id, [world.disabled_key_id]))


def nothing(world: Stage, agent: TestAgent) -> None:
    pass


OTHER_KEY = "prov_" + "0" * 32


@pytest.mark.parametrize(
    ("change", "body", "status", "code"),
    [
        (without_key, {}, 403, "NO_PROVIDER_ASSIGNED"),
        (only_disabled, {}, 403, "NO_PROVIDER_ASSIGNED"),
        (both_keys, {"provider": "anthropic", "provider_key_id": "openai"}, 403, "PROVIDER_KEY_MISMATCH"),
        (one_disabled, {"provider_key_id": "disabled"}, 403, "PROVIDER_KEY_DISABLED"),
        (stopped, {}, 403, "AGENT_INACTIVE"),
        (inactive, {}, 403, "AGENT_INACTIVE"),
        (nothing, {"provider": "nobody"}, 400, "UNSUPPORTED_PROVIDER"),
        (nothing, {"provider": "anthropic"}, 403, "NO_PROVIDER_ASSIGNED"),
        (nothing, {"provider_key_id": OTHER_KEY}, 404, "PROVIDER_NOT_FOUND"),
        (nothing, {"provider_key_id": "prov_1"}, 400, "INVALID_PROVIDER_ID"),
        (nothing, {"provider_key_id": "a\0b"}, 400, "INVALID_PROVIDER_ID"),
        (crowded, {}, 409, "TOO_MANY_LEASES"),
        (spent_up, {}, 403, "BUDGET_EXCEEDED"),
    ],
)
def test_a_refused_handshake_leaves_no_trace(
    world: Stage, agent: TestAgent, change: Change, body: dict[str, str], status: int, code: str
) -> None:
    """Neither money nor a lease nor a ledger row."""
    change(world, agent)
    before = books(agent)
    named = {"openai": world.key_id, "disabled": world.disabled_key_id}
    sent = {name: named.get(value, value) if name == "provider_key_id" else value for name, value in body.items()}

    answer = world.post("/budget/handshake", sent, token=agent.token)

    assert refusal(answer) == (status, code)
    assert books(agent) == before


def test_what_is_short_is_told_in_usd(world: Stage) -> None:
    """The numbers of a refusal are amounts like any other."""
    agent = world.agent(2_500_000)
    agent.report(agent.handshake().lease.id, "r1", 500_000)

    answer = world.post("/budget/handshake", {}, token=agent.token)

    assert b'"scope":"agent","spent":0.5,"limit":2.5,"held":2,"remaining":0' in answer.raw


def test_the_owners_month_brakes_handshake_and_refresh(world: Stage) -> None:
    """A handshake is refused, a refresh denied, and both name the cap."""
    agent = world.agent(owner_id=world.user_id("vera"))
    lease = agent.handshake().lease.id
    world.cap(1, world.user_id("vera"))
    before = books(agent)

    refused = world.post("/budget/handshake", {}, token=agent.token)
    denied = world.post("/budget/refresh", {"lease_id": lease}, token=agent.token)
    world.cap(None, world.user_id("vera"))

    assert refusal(refused) == (403, "BUDGET_EXCEEDED")
    assert refused.body["details"]["scope"] == "user_month"
    assert (denied.status, denied.body["reason"]) == (200, "monthly_cap_reached")
    assert books(agent) == before


def test_an_agent_of_a_suspended_owner_gets_no_new_money(world: Stage, agent: TestAgent) -> None:
    """Neither by handshake nor by refresh; the open lease runs on."""
    lease = agent.handshake().lease.id
    owner = world.store.read(lambda uow: uow.users.find(world.owner_id))
    assert owner is not None
    before = books(agent)

    world.store.write(lambda uow: uow.users.put(owner._replace(status="suspended")))
    answers = [
        world.post("/budget/handshake", {}, token=agent.token),
        world.post("/budget/refresh", {"lease_id": lease}, token=agent.token),
    ]
    world.store.write(lambda uow: uow.users.put(owner))

    assert [refusal(each) for each in answers] == [(403, "OWNER_SUSPENDED")] * 2
    assert books(agent) == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (stopped, "AGENT_INACTIVE"),
        (inactive, "AGENT_INACTIVE"),
        (without_key, "NO_PROVIDER_ASSIGNED"),
    ],
)
def test_a_refused_refresh_leaves_the_old_lease(world: Stage, agent: TestAgent, change: Change, code: str) -> None:
    """What holds a handshake back holds a refresh back."""
    lease = agent.handshake().lease.id
    change(world, agent)
    before = books(agent)

    answer = world.post("/budget/refresh", {"lease_id": lease}, token=agent.token)

    assert refusal(answer) == (403, code)
    assert books(agent) == before


def test_without_a_master_key_no_money_moves() -> None:
    """503, because the operator can mend it."""
    with stage(has_master_key=False) as world:
        agent = world.agent()
        lease = agent.handshake().lease.id
        before = books(agent)

        answers = [
            world.post("/budget/handshake", {}, token=agent.token),
            world.post("/budget/refresh", {"lease_id": lease}, token=agent.token),
        ]

        assert [refusal(each) for each in answers] == [(503, "CRYPTO_UNAVAILABLE")] * 2
        assert books(agent) == before


@pytest.mark.parametrize("route", ["refresh", "return"])
@pytest.mark.parametrize("lease_id", [UNKNOWN, "lease_1", "a\0b", "no lease at all"])
def test_a_lease_nobody_has_is_not_found(world: Stage, agent: TestAgent, route: str, lease_id: str) -> None:
    """A malformed id is as unknown as any other."""
    before = books(agent)

    answer = world.post(f"/budget/{route}", {"lease_id": lease_id}, token=agent.token)

    assert refusal(answer) == (404, "LEASE_NOT_FOUND")
    assert books(agent) == before


@pytest.mark.parametrize("route", ["refresh", "return"])
def test_the_lease_of_another_agent_is_forbidden(world: Stage, agent: TestAgent, route: str) -> None:
    """Even of the same owner."""
    other = world.agent()
    lease = other.handshake().lease.id
    before = books(agent), books(other)

    answer = world.post(f"/budget/{route}", {"lease_id": lease}, token=agent.token)

    assert refusal(answer) == (403, "FORBIDDEN")
    assert (books(agent), books(other)) == before


def test_a_refresh_for_another_budget_is_forbidden(world: Stage, agent: TestAgent) -> None:
    """The lease is the agent's own, the budget is not."""
    lease = agent.handshake().lease.id
    before = books(agent)

    answer = world.post("/budget/refresh", {"lease_id": lease, "budget_id": "budget_1"}, token=agent.token)

    assert refusal(answer) == (403, "FORBIDDEN")
    assert books(agent) == before


def closed(world: Stage, agent: TestAgent, lease: str) -> None:  # noqa: ARG001 - one shape for the whole table
    agent.return_lease(lease)


def revoked(world: Stage, agent: TestAgent, lease: str) -> None:  # noqa: ARG001 - one shape for the whole table
    assert world.post(f"/budget/leases/{lease}/revoke", user="admin").status == 200


def used_successor(world: Stage, agent: TestAgent, lease: str) -> None:  # noqa: ARG001 - one shape for the whole table
    successor = agent.refresh(lease)
    agent.report(successor.lease.id, "s1", 1)  # type: ignore[union-attr]  # it was granted


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [(closed, 409, "LEASE_CLOSED"), (revoked, 403, "LEASE_REVOKED"), (used_successor, 409, "LEASE_CLOSED")],
)
def test_a_lease_that_is_over_is_not_refreshed(
    world: Stage, agent: TestAgent, change: Callable[[Stage, TestAgent, str], None], status: int, code: str
) -> None:
    """The code tells the runtime to shake hands again."""
    lease = agent.handshake().lease.id
    change(world, agent, lease)
    before = books(agent)

    answer = world.post("/budget/refresh", {"lease_id": lease}, token=agent.token)

    assert refusal(answer) == (status, code)
    assert books(agent) == before


def test_a_return_far_above_the_books_is_refused(world: Stage, agent: TestAgent) -> None:
    """More than $1000 beyond what was reported is a mistake of units; nothing moves."""
    lease = agent.handshake().lease.id
    before = books(agent)

    answer = world.post(
        "/budget/return", b'{"lease_id":"%s","final_spent_usd":1000.000001}' % lease.encode(), token=agent.token
    )

    assert refusal(answer) == (400, "VALIDATION_ERROR")
    assert set(answer.fields) == {"final_spent_usd"}
    assert books(agent) == before


def test_a_time_to_live_runs_out_and_the_lease_with_it(world: Stage, agent: TestAgent) -> None:
    """After the grace a refresh is 403 LEASE_EXPIRED, and the money is back."""
    answer = world.post("/budget/handshake", {"lease_ttl_seconds": 1}, token=agent.token)
    world.clock.pass_s(2 + answer.body["grace_seconds"])

    late = world.post("/budget/refresh", {"lease_id": answer.body["lease_id"]}, token=agent.token)
    seen = world.get("/budget", token=agent.token)

    assert refusal(late) == (403, "LEASE_EXPIRED")
    assert (seen.body["budget_held"], seen.body["budget_remaining"]) == (0, 100)
