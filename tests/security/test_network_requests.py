"""What two servers could read as two different requests is refused, and no odd path goes round a guard.

Raw bytes over real sockets. Source: RFC 9112, sections 3.2, 5, 6 and 11.2.
"""

import json
import re
from collections.abc import Iterator

import pytest

from ironcage_http.server import ApiServer
from ironcage_http.settings import read_settings
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.raw import connected, exchange, read_answer, request
from tests.support.servers import ask
from tests.support.web import PASSWORD, people

SECOND = b"GET /api/version HTTP/1.1\r\nHost: a\r\n\r\n"
POST = "POST /api/v1/auth/refresh"
CHUNKED = "Transfer-Encoding: chunked"
JSON = "Content-Type: application/json"
TWO = b"2\r\n{}\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server that has a proxy in front, on this machine."""
    settings = read_settings(
        {
            "DATABASE_URL": "sqlite::memory:",
            "JWT_SECRET": "the signing secret of these tests, long enough",
            "IRON_TRUSTED_PROXIES": "127.0.0.1",
        }
    )
    with SqliteStore(":memory:", clock=SystemClock()) as store:
        people(store)
        with ApiServer(store, settings=settings) as server:
            yield server.port


def get(path: str, port: int) -> tuple[int, str]:
    said = exchange(port, request(f"GET {path}"))
    return said.statuses[0], json.loads(said.body).get("code", "")


AMBIGUOUS = {
    "a length and chunks": request(POST, "Content-Length: 4", CHUNKED, body=b"0\r\n\r\n" + SECOND),
    "chunks and a length": request(POST, CHUNKED, "Content-Length: 4", body=b"0\r\n\r\n" + SECOND),
    "two lengths": request(POST, "Content-Length: 2", "Content-Length: 40", body=b"{}" + SECOND),
    "one length twice": request(POST, "Content-Length: 2", "Content-Length: 2", body=b"{}" + SECOND),
    "a list of lengths": request(POST, "Content-Length: 2, 2", body=b"{}" + SECOND),
    "a length with a sign": request(POST, "Content-Length: +2", body=b"{}" + SECOND),
    "a length beyond all": request(POST, "Content-Length: 99999999999999999999999", body=b"{}" + SECOND),
    "an unknown coding": request(POST, "Transfer-Encoding: xchunked", body=TWO + SECOND),
    "chunks that are no end": request(POST, "Transfer-Encoding: chunked, identity", body=TWO + SECOND),
    "a coding below the chunks": request(POST, "Transfer-Encoding: gzip, chunked", body=TWO + SECOND),
    "two codings": request(POST, CHUNKED, "Transfer-Encoding: identity", body=TWO + SECOND),
    "a blank before the colon": request(POST, "Transfer-Encoding : chunked", body=TWO + SECOND),
    "a folded line": request("GET /api/health", "X-A: b\r\n c: d", body=SECOND),
    "a bare line feed": b"GET /api/health HTTP/1.1\nHost: a\n\n" + SECOND,
    "a bare carriage return": request("GET /api/health", "X-A: a\rb", body=SECOND),
    "a zero byte": request("GET /api/health", "X-A: a\0b", body=SECOND),
    "a chunk that goes on": request(POST, CHUNKED, body=b"2\r\n{}X0\r\n\r\n" + SECOND),
    "a chunk below nothing": request(POST, CHUNKED, body=b"-2\r\n{}\r\n0\r\n\r\n" + SECOND),
    "a chunk in another notation": request(POST, CHUNKED, body=b"0x2\r\n{}\r\n0\r\n\r\n" + SECOND),
    "chunks with bare line feeds": request(POST, CHUNKED, body=b"2\n{}\n0\n\n" + SECOND),
    "no host": b"GET /api/health HTTP/1.1\r\n\r\n" + SECOND,
    "two hosts": request("GET /api/health", "Host: b", body=SECOND),
    "no path": request("GET http://a", body=SECOND),
    "a tunnel": request("CONNECT a:443", body=SECOND),
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a version to come": b"GET /api/health HTTP/9.9\r\nHost: a\r\n\r\n",
    "an unknown method": request("BREW /api/health", body=SECOND),
    "a path of other letters": request("GET /api/h\xe9alth", body=SECOND),
    "too many lines": request("GET /api/health", *["X-A: b"] * 200, body=SECOND),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_is_ambiguous_is_refused_with_all_that_follows(port: int, name: str) -> None:
    """One refusal, in the one shape, and the end of the connection: nothing behind it is taken for a request."""
    said = exchange(port, AMBIGUOUS[name])

    assert said.statuses == [400]
    assert json.loads(said.body)["code"] == "VALIDATION_ERROR"
    assert b"current_version" not in said.raw


def test_what_follows_the_last_request_of_a_connection_is_not_answered(port: int) -> None:
    """A request that was smuggled behind it is none."""
    said = exchange(port, request("GET /api/health") + SECOND)

    assert said.statuses == [200]
    assert b"current_version" not in said.raw


def test_a_body_of_a_get_is_no_request(port: int) -> None:
    """It is read, and dropped."""
    said = exchange(port, request("GET /api/health", f"Content-Length: {len(SECOND)}", body=SECOND))

    assert said.statuses == [200]
    assert b"current_version" not in said.raw


def test_an_extension_of_a_chunk_is_no_part_of_the_body(port: int) -> None:
    """However it looks."""
    said = exchange(port, request(POST, CHUNKED, JSON, body=b"2;x=1\r\n{}\r\n0\r\n\r\n"))

    assert json.loads(said.body)["code"] == "AUTH_MISSING_TOKEN"


def test_a_trailer_is_no_header(port: int) -> None:
    """No credential, no name of a request and no address of a client comes behind the body, past the proxy's rules."""
    login = {"username": "ann", "password": PASSWORD}
    token = ask(port, "POST", "/api/v1/auth/login", login).body["access_token"]
    trailers = f"Authorization: Bearer {token}\r\nX-Request-Id: behind\r\nX-Forwarded-For: 203.0.113.66\r\n"
    body = b"2\r\n{}\r\n0\r\n" + trailers.encode() + b"\r\n"

    said = exchange(port, request("POST /api/v1/auth/logout", CHUNKED, JSON, body=body))

    assert said.statuses == [401]
    assert json.loads(said.body)["code"] == "AUTH_MISSING_TOKEN"
    assert b"x-request-id: behind" not in said.raw.lower()


# --- paths -------------------------------------------------------------------

SAME = [
    "/api/v1/users", "/api/users", "/api/users/", "/api/v1/users/", "/api/%76%31/users", "/api/v1/%75sers",
    "http://elsewhere.test/api/v1/users", "/api/v1/users#x", "/api/v1/users?a=b//c%2f",
]  # fmt: skip
NOTHING = [
    "//api/users", "/api//users", "/api/users//", "/api/v1//users", "/api/v1/v1/users", "/api/api/users", "/API/users",
    "/api/Users", "/api/./users", "/api/x/../users", "/api/%2e%2e/api/users", "/api/v1%2fusers", "/api%2Fv1/users",
    "/api%2f%2fusers", "/api/users%2f", "/api/users%00", "/api/users%0d%0aX-A:b", "/api/users;x", "/api;/v1/users",
    "/api/users%20", "/api\\users", "/api/users%3f", "*", "/v1/users", "/users", "/api/v1%252fusers",
    "/api/v1/users/%2e",
]  # fmt: skip


def test_an_odd_path_is_the_same_route_or_none(port: int) -> None:
    """It meets the same guard and is counted as the same, or it names nothing, as it would to the proxy in front."""
    before = counted(port)

    answers = {path: get(path, port) for path in SAME}
    nothing = {path: get(path, port) for path in NOTHING}

    assert answers == dict.fromkeys(SAME, (401, "AUTH_MISSING_TOKEN"))
    assert {status for status, _ in nothing.values()} <= {404, 400, 401}
    assert [path for path, (status, _) in nothing.items() if status == 401] == ["/api/v1/users/%2e"]  # an id, of nobody
    assert counted(port) - before == len(SAME)


def counted(port: int) -> int:
    """Return how many requests were counted as of the list of users."""
    admin = ask(port, "POST", "/api/v1/auth/login", {"username": "admin", "password": PASSWORD}).body["access_token"]
    told = ask(port, "GET", "/metrics", headers={"Authorization": f"Bearer {admin}"}).raw.decode()
    found = re.search(r'requests_total\{method="GET",route="/api/v1/users",status="401"\} ([0-9.]+)', told)
    return int(float(found[1])) if found else 0


@pytest.mark.parametrize("method", ["HEAD", "TRACE", "PROPFIND", "PURGE", "LINK", "POST"])
def test_a_method_nobody_asked_for_does_nothing(port: int, method: str) -> None:
    """Nor does a header or a parameter make another one of it; and nothing of the request comes back."""
    override = ("X-HTTP-Method-Override: GET", "X-HTTP-Method: GET", "X-Method-Override: GET", "X-Mine: mine")

    said = exchange(port, request(f"{method} /api/health?_method=GET", *override))

    assert said.statuses == [405]
    assert b"healthy" not in said.raw
    assert b"mine" not in said.raw


def test_what_a_request_says_of_its_host_is_not_believed(port: int) -> None:
    """No answer brings it back, in a link, a redirect or anywhere else."""
    headers = (
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-Proto: https",
        "Forwarded: host=evil.test",
        "X-Original-URL: /",
    )

    said = [
        exchange(port, request(f"GET {path}", *headers, host="evil.test")) for path in ("/api/docs", "/api/users/", "/")
    ]

    assert [each.statuses for each in said] == [[200], [401], [404]]
    assert not [each for each in said if b"evil" in each.raw]


def test_requests_that_come_together_are_answered_in_turn(port: int) -> None:
    """Each for itself: the credential of one is not that of the next."""
    token = ask(port, "POST", "/api/v1/auth/login", {"username": "ann", "password": PASSWORD}).body["access_token"]
    mine = f"GET /api/v1/users/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    bare = b"GET /api/v1/users/me HTTP/1.1\r\nHost: a\r\n\r\n"
    with connected(port) as raw:
        for sent, status in ((mine, 200), (bare, 401)):
            raw.sendall(sent)
            assert f"HTTP/1.1 {status}".encode() in read_answer(raw)
    said = exchange(port, mine + bare + request("GET /api/health"))

    assert said.statuses == [200, 401, 200]
