"""What a token is worth: `validate` tells it of any to anybody, `verify` to who calls. Contract identity.md 3."""

import base64
import json
from typing import Any

import jwt
import pytest

from ironcage_core.domain.limit_classes import LIMITS
from ironcage_core.domain.permissions import PERMISSIONS, ROLE_PERMISSIONS
from ironcage_http.server import embedded_settings
from ironcage_http.settings import read_settings
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.servers import add_agent
from tests.support.stores import raw
from tests.support.web import PASSWORD, Answer, Caller, alter, serving

pytestmark = pytest.mark.anyio

SECRET = "the signing secret of these tests, long enough"
PLAIN = {"DATABASE_URL": "sqlite::memory:", "JWT_SECRET": SECRET}
SETTINGS = read_settings(PLAIN)


async def log_in(caller: Caller, username: str = "ann") -> dict[str, Any]:
    answer = await caller.post("/auth/login", {"username": username, "password": PASSWORD})
    session: dict[str, Any] = answer.body
    return session


async def validated(caller: Caller, token: object) -> Any:  # noqa: ANN401 - the body, as it is
    answer = await caller.post("/auth/validate", {"token": token})
    assert answer.status == 200, answer.raw
    return answer.body


def forged(token: str, secret: str = SECRET, algorithm: str = "HS256", **claims: object) -> str:
    """Return the token with other claims, signed again."""
    said = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode({**said, **claims}, secret if algorithm != "none" else "", algorithm=algorithm)


# --- validate ----------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["header", "body", "both"])
async def test_a_live_token_is_valid_in_either_carrier(store: SqliteStore, carrier: str) -> None:
    """With whose it is and until when; the end is the token's own."""
    async with serving(store, SETTINGS) as caller:
        session = await log_in(caller)
        token = session["access_token"]
        asking = caller if carrier == "body" else caller.bearing(token)
        answer = await asking.post("/auth/validate", None if carrier == "header" else {"token": f" {token} "})

    assert answer.status == 200
    assert answer.body == {
        "valid": True,
        "user": session["user"],
        "expires_at": session["expires_at"],
        "expires_in": answer.body["expires_in"],
    }
    assert 890 <= answer.body["expires_in"] <= 900
    assert answer.headers["cache-control"] == "no-store"


async def test_two_different_tokens_are_ambiguous(store: SqliteStore) -> None:
    """Nobody could say which is meant."""
    async with serving(store, SETTINGS) as caller:
        tokens = [(await log_in(caller))["access_token"] for _ in range(2)]
        answer = await caller.bearing(tokens[0]).post("/auth/validate", {"token": tokens[1]})

    assert (answer.status, answer.code) == (400, "AMBIGUOUS_CREDENTIALS")


@pytest.mark.parametrize("body", [None, b"", b"  ", {}, {"token": None}, {"token": ""}, {"token": "  "}])
@pytest.mark.parametrize("header", [None, "", "Bearer ", "Basic YW5uOmFubg=="])
async def test_without_a_token_there_is_nothing_to_tell(store: SqliteStore, body: object, header: str | None) -> None:
    """The only refusal of this call for want of a credential."""
    async with serving(store, SETTINGS) as caller:
        headers = {"Content-Type": "application/json"} | ({} if header is None else {"Authorization": header})
        answer = await caller.post("/auth/validate", body, headers=headers)

    assert (answer.status, answer.code) == (401, "AUTH_MISSING_TOKEN")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"token": 7}, 400, "VALIDATION_ERROR"),
        ({"token": ["x"]}, 400, "VALIDATION_ERROR"),
        ([], 400, "VALIDATION_ERROR"),
        (b"{", 400, "MALFORMED_JSON"),
    ],
)
async def test_a_body_that_breaks_a_rule_is_refused(store: SqliteStore, body: object, status: int, code: str) -> None:
    """A token is a string."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.post("/auth/validate", body)

    assert (answer.status, answer.code) == (status, code)


async def test_an_expired_token_says_since_when(store: SqliteStore) -> None:
    """Its own expiry, not the moment of asking; now is too late already."""
    now = SystemClock().now() // 1000
    async with serving(store, SETTINGS) as caller:
        token = (await log_in(caller))["access_token"]
        old = await validated(caller, forged(token, exp=1_763_726_400))
        this_second = await validated(caller, forged(token, exp=now))

    assert old == {"valid": False, "reason": "TOKEN_EXPIRED", "expired_at": "2025-11-21T12:00:00.000Z"}
    assert this_second["reason"] == "TOKEN_EXPIRED"


async def test_a_token_that_was_ended_says_since_when(store: SqliteStore) -> None:
    """By a logout, or by a refresh that replaced it."""
    async with serving(store, SETTINGS) as caller:
        out, replaced = await log_in(caller), await log_in(caller)
        await caller.bearing(out["access_token"]).post("/auth/logout")
        await caller.post("/auth/refresh", {"refresh_token": replaced["refresh_token"]})
        answers = [await validated(caller, each["access_token"]) for each in (out, replaced)]

    assert all(answer["revoked_at"].endswith("Z") for answer in answers)
    assert {frozenset(answer) for answer in answers} == {frozenset(("valid", "reason", "revoked_at"))}
    assert {(answer["valid"], answer["reason"]) for answer in answers} == {(False, "TOKEN_REVOKED")}


@pytest.mark.parametrize("status", ["suspended", "deleted"])
async def test_a_token_of_a_disabled_user_says_so(store: SqliteStore, status: str) -> None:
    """A revoked one as well."""
    async with serving(store, SETTINGS) as caller:
        live, ended = await log_in(caller), await log_in(caller)
        await caller.bearing(ended["access_token"]).post("/auth/logout")
        alter(store, "ann", status=status)
        answers = [await validated(caller, each["access_token"]) for each in (live, ended)]

    assert answers == [{"valid": False, "reason": "ACCOUNT_DISABLED"}] * 2


async def test_whatever_is_no_genuine_access_token_is_invalid(store: SqliteStore) -> None:
    """Tampered, unsigned, of another key, kind or session, too long, or nonsense."""
    settings = embedded_settings()
    agent = add_agent(store, settings)
    async with serving(store, settings) as caller:
        session = await log_in(caller)
        token = session["access_token"]
        secret = settings.jwt_secret
        head, payload, signature = token.split(".")
        unsigned = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).decode().rstrip("=")
        tokens = [
            f"{head}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
            f"{unsigned}.{payload}.",
            forged(token, "another secret that is long enough too"),
            forged(token, algorithm="none"),
            forged(token, secret, typ="refresh"),
            forged(token, secret, sid="sess_" + "0" * 32),
            forged(token, secret, gen=2),
            forged(token, secret, iss="other"),
            session["refresh_token"],
            "at_" + "x" * 43,
            agent.token,
            f"ic_{agent.token}",
            "nonsense",
            "..",
            "naïve 🔑",
            "x" * 2001,
            "x" * 100_000,
            token + "x" * 2000,
        ]
        answers = [await validated(caller, each) for each in tokens]
        in_header = await caller.bearing(session["refresh_token"]).post("/auth/validate")

    assert answers == [{"valid": False, "reason": "TOKEN_INVALID"}] * len(tokens)
    assert in_header.body == {"valid": False, "reason": "TOKEN_INVALID"}


async def test_asking_changes_nothing(store: SqliteStore) -> None:
    """The session lives no longer for it, and nothing is written."""
    everything = "SELECT (SELECT count(*) FROM audit_log), s.* FROM sessions s"
    async with serving(store, SETTINGS) as caller:
        token = (await log_in(caller))["access_token"]
        before = raw(store, everything)
        first = await validated(caller, token)
        second = await validated(caller, token)

    assert raw(store, everything) == before
    assert first["expires_at"] == second["expires_at"]


async def test_a_token_lives_whatever_stops_logins_or_asks_for_a_new_password(store: SqliteStore) -> None:
    """Neither a lock nor the duty to change the password makes it invalid."""
    async with serving(store, SETTINGS) as caller:
        token = (await log_in(caller))["access_token"]
        alter(store, "ann", failed_logins=10, locked_until=SystemClock().now() + 60_000, force_password_change=1)
        valid = await validated(caller, token)
        verified = await caller.bearing(token).get("/auth/verify")

    assert (valid["valid"], verified.status) == (True, 200)


async def test_the_role_told_is_the_stored_one(store: SqliteStore) -> None:
    """Whatever the token says of it."""
    async with serving(store, SETTINGS) as caller:
        token = (await log_in(caller))["access_token"]
        alter(store, "ann", role="viewer", name="Ann B.")
        valid = await validated(caller, forged(token, role="admin"))

    assert (valid["user"]["role"], valid["user"]["name"]) == ("viewer", "Ann B.")


async def test_an_address_may_ask_so_often(store: SqliteStore) -> None:
    """Each of the two calls has a bucket of its own, of a hundred a minute unless the operator says otherwise."""
    limits = {"auth_validate": "2/3600", "auth_verify": "3/3600"}
    settings = read_settings({**PLAIN, "IRON_RATE_LIMIT_ENABLED": "true", "IRON_RATE_LIMITS": json.dumps(limits)})
    async with serving(store, settings) as caller:
        bearer = await caller.login("ann")
        validate = [await bearer.post("/auth/validate") for _ in range(3)]
        verify = [await bearer.get("/auth/verify") for _ in range(4)]

    assert [answer.status for answer in validate] == [200, 200, 429]
    assert [answer.status for answer in verify] == [200, 200, 200, 429]
    assert validate[-1].code == "RATE_LIMIT_EXCEEDED"
    assert LIMITS["auth_validate"].rate == LIMITS["auth_verify"].rate == (100, 60)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_validate_only_takes_posts(store: SqliteStore, method: str) -> None:
    """As the other routes that take a token in a body."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.send(method, "/auth/validate")

    assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")


# --- verify ------------------------------------------------------------------


@pytest.mark.parametrize(("username", "role"), [("admin", "admin"), ("ann", "user"), ("vera", "viewer")])
async def test_a_session_is_verified_with_all_that_its_role_may(store: SqliteStore, username: str, role: str) -> None:
    """It is narrowed by nothing."""
    async with serving(store, SETTINGS) as caller:
        session = await log_in(caller, username)
        answer = await caller.bearing(session["access_token"]).get("/auth/verify")

    assert answer.status == 200
    assert answer.body == {
        "valid": True,
        "user": session["user"],
        "auth_type": "session",
        "token_id": None,
        "scopes": ["*"],
        "permissions": list(ROLE_PERMISSIONS[role]),
        "expires_at": session["expires_at"],
    }
    assert role != "admin" or answer.body["permissions"] == list(PERMISSIONS)


async def add_api_token(caller: Caller, **fields: object) -> tuple[str, str]:
    """Return id and value of a new API token of ann's."""
    bearer = await caller.login("ann")
    answer = await bearer.post("/api-tokens", {"name": "worker", **fields})
    assert answer.status == 201, answer.raw
    return answer.body["id"], answer.body["token"]


@pytest.mark.parametrize("carrier", ["Authorization", "X-API-Token"])
async def test_an_api_token_is_verified_with_what_its_scopes_leave(store: SqliteStore, carrier: str) -> None:
    """A scope beyond the role adds nothing."""
    async with serving(store, SETTINGS) as caller:
        end = "2099-01-01T00:00:00.000Z"
        scopes = ["users:read", "agents:read"]
        token_id, value = await add_api_token(caller, scopes=scopes, expires_at=end)
        header = {carrier: f"Bearer {value}" if carrier == "Authorization" else value}
        answer = await caller.get("/auth/verify", headers=header)

    assert answer.status == 200
    assert (answer.body["auth_type"], answer.body["token_id"]) == ("api_token", token_id)
    assert (answer.body["scopes"], answer.body["permissions"]) == (scopes, ["agents:read"])
    assert (answer.body["expires_at"], answer.body["user"]["username"]) == (end, "ann")


async def test_an_api_token_without_an_end_has_none(store: SqliteStore) -> None:
    """And without scopes it does all its owner may."""
    async with serving(store, SETTINGS) as caller:
        _, value = await add_api_token(caller)
        answer = await caller.bearing(value).get("/auth/verify")

    assert (answer.body["expires_at"], answer.body["scopes"]) == (None, ["*"])
    assert answer.body["permissions"] == list(ROLE_PERMISSIONS["user"])


async def refusals_of_verify(caller: Caller, store: SqliteStore) -> dict[str, Answer]:
    """Return what each credential that opens nothing is told."""
    ended, replaced, disabled = [await log_in(caller, name) for name in ("ann", "ann", "vera")]
    await caller.bearing(ended["access_token"]).post("/auth/logout")
    await caller.post("/auth/refresh", {"refresh_token": replaced["refresh_token"]})
    alter(store, "vera", status="suspended")
    tokens = {
        "ended": ended["access_token"],
        "replaced": replaced["access_token"],
        "disabled": disabled["access_token"],
        "expired": forged(replaced["access_token"], exp=1_763_726_400),
        "refresh": ended["refresh_token"],
        "unknown api": "at_" + "x" * 43,
        "garbage": "garbage",
    }
    answers = {name: await caller.bearing(token).get("/auth/verify") for name, token in tokens.items()}
    return {"none": await caller.get("/auth/verify"), **answers}


async def test_verify_is_strict(store: SqliteStore) -> None:
    """What opens nothing is refused as it is everywhere."""
    async with serving(store, SETTINGS) as caller:
        answers = await refusals_of_verify(caller, store)

    assert {answer.status for answer in answers.values()} == {401}
    assert {name: answer.code for name, answer in answers.items()} == {
        "none": "AUTH_MISSING_TOKEN",
        "ended": "AUTH_TOKEN_REVOKED",
        "replaced": "AUTH_TOKEN_REVOKED",
        "disabled": "AUTH_ACCOUNT_DISABLED",
        "expired": "AUTH_TOKEN_EXPIRED",
        "refresh": "AUTH_WRONG_TOKEN_TYPE",
        "unknown api": "AUTH_INVALID_TOKEN",
        "garbage": "AUTH_INVALID_TOKEN",
    }


async def test_an_agent_verifies_nothing_here(store: SqliteStore) -> None:
    """Its token is none of a user's."""
    settings = embedded_settings()
    agent = add_agent(store, settings)
    async with serving(store, settings) as caller:
        answer = await caller.get("/auth/verify", headers={"X-IC-Token": agent.token})

    assert (answer.status, answer.code) == (403, "AGENT_TOKEN_FORBIDDEN")
