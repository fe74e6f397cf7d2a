"""What an answer gives away, or lets somebody write into it: secrets that were sent, headers, memory of caches."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import pytest

from ironcage_http import credentials
from ironcage_http.app import ROUTES
from ironcage_http.client_address import counted_as
from ironcage_http.routing import Route
from ironcage_http.settings import read_settings
from ironcage_http.wire import Read
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.web import PASSWORD, Answer, serving

pytestmark = pytest.mark.anyio

SECRET = "Zx9-a-secret-of-the-caller-Zx9"
INJECTED = "a\r\nX-Injected: 1\r\n\r\n<script>"
NO_ID = "x_" + "0" * 32


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    with SqliteStore(":memory:", clock=SystemClock()) as opened:
        yield opened


def path_of(route: Route, part: str = NO_ID) -> str:
    return re.sub(r"{\w+}", part, route.path)


# --- what was sent does not come back ----------------------------------------


async def test_no_credential_comes_back_in_a_refusal(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    """Nor goes into the log, whatever is wrong with it and wherever it stands."""
    jwt = f"eyJhbGciOiJIUzI1NiJ9.{SECRET}.{SECRET}"
    carriers = [
        {name: value}
        for value in (SECRET, f"at_{SECRET}", f"rt_{SECRET}", f"ic_{SECRET}", jwt, f"at_{SECRET}, at_{SECRET}2")
        for name in ("X-API-Token", "X-IC-Token", "Authorization")
    ]
    carriers += [{"Authorization": f"Bearer {each['Authorization']}"} for each in carriers if "Authorization" in each]
    paths = ("/agents", "/budget", "/keys", "/auth/refresh", "/auth/logout", "/budget/handshake", "/no-such")
    async with serving(store) as caller:
        caplog.clear()
        answers = [
            await caller.send(method, path, headers=headers)
            for headers in carriers
            for method, path in [("GET" if path in {"/agents", "/budget", "/keys"} else "POST", path) for path in paths]
        ]

    assert {answer.status for answer in answers} <= {400, 401, 404}
    assert not [answer for answer in answers if SECRET.encode() in answer.raw or SECRET in str(answer.headers)]
    assert SECRET not in caplog.text


FIELDS = (
    "password",
    "current_password",
    "new_password",
    "refresh_token",
    "api_key",
    "token",
    "ic_token",
    "access_token",
)


async def test_no_secret_of_a_body_comes_back_in_a_refusal(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    """As a value of the wrong kind, within one, as a name, in a body that breaks off, or as no body at all."""
    async with serving(store) as caller:
        admin = await caller.login()
        caplog.clear()
        answers: dict[tuple[str, str, bytes], Answer] = {
            (route.method, route.path, sent): await admin.send(route.method, path_of(route), sent)
            for route in ROUTES
            if route.body is not None and route.path != "/auth/logout"
            for sent in bodies_of(route.body)
        }
        answers["", "a type", b""] = await admin.post("/agents", b"{}", headers={"Content-Type": SECRET})

    assert not [sent for sent, answer in answers.items() if answer.status >= 500]
    assert not [sent for sent, answer in answers.items() if SECRET.encode() in answer.raw]
    assert SECRET not in caplog.text


def bodies_of(kind: type[msgspec.Struct]) -> list[bytes]:
    names = [field.encode_name for field in msgspec.structs.fields(kind)]
    secret = [name for name in names if name in FIELDS]
    told: list[Any] = [
        {name: [SECRET] for name in names},
        {name: {SECRET: SECRET} for name in names},
        dict.fromkeys(secret, SECRET) | {"zz": SECRET},
        {SECRET: 1},
        [SECRET],
    ]
    raw = [json.dumps(each).encode() for each in told]
    return [
        *raw,
        raw[0][:-1],
        raw[0] + b"x",
        raw[3].replace(b"1", b"NaN"),
        b'{"a":"' + SECRET.encode(),
        b"\xff" + raw[4],
    ]


class Choice(msgspec.Struct):
    """A body in which only certain texts may stand."""

    kind: Literal["a", "b"]


def test_a_text_that_is_none_of_those_it_may_be_does_not_come_back() -> None:
    """It may be a secret in the wrong field."""
    read = Read(json.dumps({"kind": SECRET}).encode(), "application/json", Choice)

    assert read.problems == {"kind": "invalid enum value"}


# --- headers -----------------------------------------------------------------


async def test_nothing_that_is_sent_makes_a_header(store: SqliteStore) -> None:
    """No line end in a path, a parameter, a header or a name, encoded or not, gets into the head of an answer."""
    async with serving(store) as caller:
        admin = await caller.login()
        answers = [
            await admin.send(
                route.method,
                path_of(route, "a%0d%0aX-Injected:%201"),
                {"name": INJECTED, "username": INJECTED} if route.method != "GET" else None,
                params=dict.fromkeys(route.query, INJECTED),
                headers={"X-Request-Id": "a%0d%0aX-Injected: 1", "Idempotency-Key": "a%0d%0aX-Injected: 1"},
            )
            for route in ROUTES
            if not route.path.startswith("/auth")
        ]

    heads = [str(answer.headers.raw) for answer in answers]
    assert not [head for head in heads if "njected" in head]
    assert not [answer for answer in answers if answer.status >= 500]
    assert {answer.headers["content-type"].partition(";")[0] for answer in answers if answer.raw} <= {
        "application/json", "text/csv", "text/plain",
    }  # fmt: skip


async def test_no_answer_sets_a_cookie_or_leads_elsewhere(store: SqliteStore) -> None:
    """Where there is no cookie, no page of another site acts as whoever is logged in; and links stay here."""
    async with serving(store) as caller:
        login = await caller.post("/auth/login", {"username": "admin", "password": PASSWORD})
        admin = caller.bearing(login.body["access_token"])
        headers = {
            "Host": "evil.test",
            "X-Forwarded-Host": "evil.test",
            "Cookie": f"token={login.body['access_token']}",
        }
        body = {"username": "bob", "email": "bob@test.io", "password": "a good long one 7", "role": "user"}
        made = await admin.post("/users", body, headers=headers)
        by_cookie = await caller.get("/users", headers=headers)

    assert made.status == 201
    assert made.headers["location"].startswith("/api/v1/users/user_")
    assert by_cookie.status == 401
    assert not [each for each in (login, made, by_cookie) if "set-cookie" in each.headers]


async def test_what_is_asked_with_a_credential_is_kept_by_no_cache(store: SqliteStore) -> None:
    """In whatever carrier: caches in between know of one only; refusals as well."""
    async with serving(store) as caller:
        admin = await caller.login()
        token = (await admin.post("/api-tokens", {"name": "bot"})).body["token"]
        answers = [
            await caller.get(path, headers=headers)
            for path in ("/agents", "/users", "/no-such", "/health", "/budget")
            for headers in (admin.headers, {"X-API-Token": token}, {"X-IC-Token": "x"}, {"x-api-token": "x"})
        ]
        bare = await caller.get("/health")

    assert {answer.headers.get_list("cache-control") == ["no-store"] for answer in answers} == {True}
    assert "cache-control" not in bare.headers


# --- bodies ------------------------------------------------------------------


def _zeros(size: int) -> bytes:
    return b'{"username":"' + b"0" * size + b'"}'


async def test_what_is_packed_is_not_unpacked(store: SqliteStore) -> None:
    """However small it is on the wire; it is told so, also where it is plain JSON after all."""
    packed = {"gzip": gzip.compress(_zeros(1 << 22)), "deflate": zlib.compress(_zeros(1 << 22))}
    plain = b'{"username":"admin","password":"x"}'
    async with serving(store) as caller:
        answers = [
            await caller.post("/auth/login", sent, headers={"Content-Encoding": coding})
            for coding in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "GZIP", "x-unknown", "identity, gzip")
            for sent in (packed.get(coding, plain), plain)
        ]
        unpacked = await caller.post("/auth/login", plain, headers={"Content-Encoding": "identity"})

    assert {(answer.status, answer.code) for answer in answers} == {(415, "UNSUPPORTED_MEDIA_TYPE")}
    assert unpacked.status == 401


BOMBS = {
    "digits": b'{"username":' + b"9" * 900_000 + b"}",
    "an exponent": b'{"username":1e999999999}',
    "a fraction": b'{"username":0.' + b"0" * 900_000 + b"1}",
    "a name": b'{"' + b"a" * 900_000 + b'":1}',
    "names": b"{" + b",".join(b'"%x":0' % number for number in range(80_000)) + b"}",
    "escapes": b'{"username":"' + b"\\u0000" * 150_000 + b'"}',
    "brackets": b'{"username":' + b"[" * 900_000,
    "objects": b'{"a":' * 150_000,
    "list": b'{"username":[' + b"0," * 450_000 + b"0]}",
    "blanks": b" " * 900_000 + b"{}",
    "twins": b'{"a":0' + b',"a":0' * 150_000 + b"}",
}


async def test_a_body_that_is_all_weight_is_refused(store: SqliteStore) -> None:
    """Before anything is looked for; the answer is short, however long the request was."""
    async with serving(store) as caller:
        answers = {name: await caller.post("/auth/login", bomb) for name, bomb in BOMBS.items()}

    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(BOMBS, 400)
    assert max(len(answer.raw) for answer in answers.values()) < 4000


# --- who is counted ----------------------------------------------------------


def test_a_whole_network_of_one_customer_is_counted_as_one() -> None:
    """Else somebody with IPv6 had 2^64 addresses to guess from; of IPv4 each counts for itself."""
    assert counted_as("2001:db8:0:1::1") == counted_as("2001:db8:0:1:ffff::9") == "2001:db8:0:1::/64"
    assert counted_as("2001:db8:0:2::1") != counted_as("2001:db8:0:1::1")
    assert [counted_as(each) for each in ("192.0.2.1", None, "testclient")] == ["192.0.2.1", "", "testclient"]


async def test_who_changes_his_address_within_his_network_gains_no_attempts(store: SqliteStore) -> None:
    """Neither at logins nor at other routes that count by address; another network has its own."""
    settings = read_settings(
        {
            "DATABASE_URL": "sqlite::memory:",
            "JWT_SECRET": "the signing secret of these tests, long enough",
            "IRON_RATE_LIMIT_ENABLED": "true",
            "IRON_TRUSTED_PROXIES": "127.0.0.1",
            "IRON_RATE_LIMITS": '{"refresh": "4/3600"}',
        }
    )
    async with serving(store, settings) as caller:

        async def at(path: str, body: object, address: str) -> int:
            return (await caller.post(path, body, headers={"X-Forwarded-For": address})).status

        logins = [
            await at("/auth/login", {"username": f"name{number}", "password": "x"}, f"2001:db8::{number:x}")
            for number in range(6)
        ]
        refreshes = [
            await at("/auth/refresh", {"refresh_token": "rt_x"}, f"2001:db8::1:{number:x}") for number in range(5)
        ]
        elsewhere = await at("/auth/login", {"username": "name", "password": "x"}, "2001:db8:0:1::1")

    assert (logins, refreshes, elsewhere) == ([401] * 5 + [429], [401] * 4 + [429], 401)


async def test_a_proxy_on_this_machine_opens_the_metrics_to_nobody(store: SqliteStore) -> None:
    """Also one that the settings do not name: for whom it asks, it cannot tell."""
    async with serving(store) as caller:
        direct = await caller.get("/metrics")
        forwarded = [
            await caller.get("/metrics", headers={"X-Forwarded-For": each}) for each in ("203.0.113.9", "127.0.0.1")
        ]

    assert (direct.status, [answer.status for answer in forwarded]) == (200, [401, 401])


def test_what_is_too_long_for_a_token_is_not_remembered() -> None:
    """Of what anybody sends, nothing large stays in memory."""
    before = credentials._claimed_type.cache_info()

    found = credentials.presented({"authorization": f"Bearer a.{'x' * 60_000}.b"})

    assert found.session is None
    assert credentials._claimed_type.cache_info() == before
