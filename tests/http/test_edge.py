"""What every answer carries, whoever made it, and what the system says about itself.

Contract identity.md 1 and 9, resources.md 10.
"""

import html
import re
import time
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Any

import msgspec
import pytest

from ironcage_core.ports.storage import UseCase
from ironcage_http.app import ROUTES
from ironcage_http.openapi import codes_of
from ironcage_http.routing import Route
from ironcage_http.server import embedded_settings
from ironcage_http.settings import Settings, read_settings
from ironcage_storage.sealed.vault import MasterKey
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.web import Answer, Caller, serving

pytestmark = pytest.mark.anyio

METRICS_TOKEN = "a-token-for-the-metrics-0123456789"
ORIGIN = "https://dashboard.example"
SMALL = 2000
STRANGER = ("203.0.113.9", 4711)
INTERNAL = b'{"error":"Internal server error","code":"INTERNAL_ERROR","details":{}}'


def development(**environ: str) -> Settings:
    return read_settings(
        {
            "DATABASE_URL": "sqlite::memory:",
            "JWT_SECRET": "the signing secret of these tests, long enough",
            "ALLOWED_ORIGINS": f"{ORIGIN},http://localhost:5173",
            "IRON_MAX_BODY_BYTES": str(SMALL),
            "IRON_METRICS_TOKEN": METRICS_TOKEN,
            **environ,
        }
    )


SETTINGS = development()
PRODUCTION = development(
    IRON_DEPLOYMENT_MODE="production",
    IC_TOKEN_SECRET="another signing secret, just as long as that",
    IRON_SECRETS_MASTER_KEY=MasterKey.generate().to_base64(),
    ALLOWED_ORIGINS=ORIGIN,
)


class FaultyStore(SqliteStore):
    """A store whose writes fail, once it is told to, with an error that nobody foresaw."""

    is_broken = False

    async def write_async(self, use_case: UseCase[Any]) -> Any:  # noqa: ANN401 - as the use case returns
        if self.is_broken:
            raise RuntimeError("SELECT password_hash FROM users at /var/secret.py")
        return await super().write_async(use_case)


async def answers_of_every_kind(caller: Caller, store: FaultyStore, **headers: str) -> dict[int, Answer]:
    """Return one answer of each kind, by status."""
    answers = {
        200: await caller.get("/health", headers=headers),
        400: await caller.post("/auth/login", b"{", headers=headers),
        401: await caller.get("/budget", headers=headers),
        404: await caller.get("/no/such/path", headers=headers),
        405: await caller.post("/health", headers=headers),
        413: await caller.post("/auth/login", b" " * (SMALL + 1), headers=headers),
        415: await caller.post("/auth/login", b"{}", headers={**headers, "Content-Type": "text/plain"}),
    }
    store.is_broken = True
    answers[500] = await caller.post("/auth/refresh", {"refresh_token": "rt_x"}, headers=headers)
    assert {status: answer.status for status, answer in answers.items()} == {status: status for status in answers}
    return answers


@pytest.fixture
def faulty() -> Iterator[FaultyStore]:
    with FaultyStore(":memory:", clock=SystemClock()) as opened:
        yield opened


# --- every answer ------------------------------------------------------------


async def test_every_answer_carries_the_security_headers(faulty: FaultyStore) -> None:
    """Refusals and faults of every kind as well; the order to use TLS belongs to production."""
    async with serving(faulty, SETTINGS) as caller:
        answers = await answers_of_every_kind(caller, faulty)

    for answer in answers.values():
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answer.headers["x-request-id"])
        assert "strict-transport-security" not in answer.headers
        assert "server" not in answer.headers


async def test_every_refusal_has_the_one_shape(faulty: FaultyStore) -> None:
    """A sentence, a code and details, as JSON; and each 401 names the scheme."""
    async with serving(faulty, SETTINGS) as caller:
        answers = await answers_of_every_kind(caller, faulty)

    del answers[200]
    for answer in answers.values():
        assert answer.headers["content-type"].startswith("application/json")
        assert set(answer.body) == {"error", "code", "details"}
        assert answer.body["error"]
        assert re.fullmatch(r"[A-Z_]+", answer.code)
        assert isinstance(answer.body["details"], dict)
    assert answers[401].headers["www-authenticate"] == "Bearer"
    codes = {status: answers[status].code for status in (404, 405, 413, 415)}
    assert codes == {
        404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "PAYLOAD_TOO_LARGE", 415: "UNSUPPORTED_MEDIA_TYPE",
    }  # fmt: skip


async def test_an_error_nobody_foresaw_tells_nothing(faulty: FaultyStore) -> None:
    """Exactly the one body: no trace, no statement, no path."""
    async with serving(faulty, SETTINGS) as caller:
        answers = await answers_of_every_kind(caller, faulty)

    assert answers[500].raw == INTERNAL


async def test_production_tells_browsers_to_use_tls_only(faulty: FaultyStore) -> None:
    """On every kind of answer."""
    async with serving(faulty, PRODUCTION) as caller:
        answers = await answers_of_every_kind(caller, faulty)

    told = {answer.headers["strict-transport-security"] for answer in answers.values()}
    assert told == {"max-age=31536000; includeSubDomains"}


@pytest.mark.parametrize("path", ["/no", "/health/x", "/api/no", "/api", "/api/v2/health", "/auth/login/x"])
async def test_an_unknown_path_is_not_found_without_a_credential(store: SqliteStore, path: str) -> None:
    """Whatever the method."""
    async with serving(store, SETTINGS) as caller:
        answers = [await caller.send(method, path) for method in ("GET", "POST", "PUT", "PATCH", "DELETE")]

    assert {(answer.status, answer.code) for answer in answers} == {(404, "NOT_FOUND")}


async def test_nothing_answers_outside_the_api(store: SqliteStore) -> None:
    """A bare /health is no route."""
    async with serving(store, SETTINGS) as caller:
        responses = [await caller.client.get(path) for path in ("/", "/health", "/v1/health", "/docs", "/schema")]

    assert {(response.status_code, response.json()["code"]) for response in responses} == {(404, "NOT_FOUND")}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_a_method_the_path_does_not_take_is_refused_first(store: SqliteStore, route: Route) -> None:
    """Before any credential, with what is allowed; and both bases have the route."""
    own = {other.method for other in ROUTES if other.path == route.path}
    path = re.sub(r"{\w+}", "x", route.path)
    async with serving(store, SETTINGS) as caller:
        for base in ("/api", "/api/v1"):
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - own:
                answer = await caller.send(method, base + path)

                assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
                assert own <= {each.strip() for each in answer.headers["allow"].split(",")}


@pytest.mark.parametrize("path", ["/agents", "/agents/x", "/users/me", "/api/v1/agents"])
async def test_whoever_asks_what_a_path_takes_is_told(store: SqliteStore, path: str) -> None:
    """In `Allow`, without a credential and without a body."""
    template = path.removeprefix("/api/v1").replace("/x", "/{agent_id}")
    async with serving(store, SETTINGS) as caller:
        answer = await caller.send("OPTIONS", path)

    assert (answer.status, answer.raw) == (204, b"")
    assert answer.headers["allow"].split(", ") == sorted(
        {"OPTIONS"} | {each.method for each in ROUTES if each.path == template}
    )


@pytest.mark.parametrize("sent", ["a", "A-z_0.9", "x" * 64])
async def test_a_request_id_of_the_right_form_is_kept(store: SqliteStore, sent: str) -> None:
    """It comes back as it was sent, on refusals as well."""
    async with serving(store, SETTINGS) as caller:
        paths = ("/health", "/budget", "/no")
        answers = [await caller.get(path, headers={"X-Request-Id": sent}) for path in paths]

    assert {answer.headers["x-request-id"] for answer in answers} == {sent}


@pytest.mark.parametrize("sent", ["", "x" * 65, "a b", "a\tb", "ä".encode(), "<script>", b"a\n", "a/b"])
async def test_a_request_id_of_another_form_is_replaced(store: SqliteStore, sent: str | bytes) -> None:
    """By a fresh one each time."""
    async with serving(store, SETTINGS) as caller:
        seen = [(await caller.get("/health", headers={"X-Request-Id": sent})).headers["x-request-id"] for _ in "ab"]

    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", each) for each in seen)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("path", ["/auth/login", "/auth/no-such", "/keys", "/tokens", "/api-tokens", "/tokens/x"])
async def test_answers_beside_credentials_are_never_stored(store: SqliteStore, path: str) -> None:
    """Below both bases, whatever the answer."""
    async with serving(store, SETTINGS) as caller:
        answers = [await caller.get(base + path) for base in ("/api", "/api/v1")]
        other = await caller.get("/health")

    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}
    assert "cache-control" not in other.headers


# --- CORS --------------------------------------------------------------------


async def test_an_allowed_origin_is_echoed_on_every_kind_of_answer(faulty: FaultyStore) -> None:
    """So that a browser may read why it was refused; no credentials flag."""
    async with serving(faulty, SETTINGS) as caller:
        answers = await answers_of_every_kind(caller, faulty, Origin=ORIGIN)

    for answer in answers.values():
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        exposed = answer.headers["access-control-expose-headers"]
        assert {"X-Request-Id", "Retry-After", "X-RateLimit-Limit"} <= set(exposed.split(", "))
        assert "access-control-allow-credentials" not in answer.headers
        assert "origin" in answer.headers["vary"].lower()


FOREIGN = ["https://evil.example", f"{ORIGIN}.evil.example", "http://dashboard.example", f"{ORIGIN}:8443", "null", ""]


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_foreign_origin_is_served_without_cors(store: SqliteStore, origin: str) -> None:
    """Scheme, host and port must all match."""
    async with serving(store, SETTINGS) as caller:
        plain = await caller.get("/health", headers={"Origin": origin})
        preflight = await caller.send(
            "OPTIONS", "/auth/login", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}
        )

    assert plain.status == 200
    for answer in (plain, preflight):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.headers["vary"] == "Origin"


async def test_a_preflight_of_an_allowed_origin_is_answered_for_any_path(store: SqliteStore) -> None:
    """204 without a body, before anything else is looked at."""
    sent = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization, x-ic-token",
    }
    async with serving(store, SETTINGS) as caller:
        answers = [await caller.send("OPTIONS", path, headers=sent) for path in ("/auth/login", "/budget", "/no")]

    for answer in answers:
        assert (answer.status, answer.raw) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        methods = set(answer.headers["access-control-allow-methods"].split(", "))
        assert methods == {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
        allowed = {name.lower() for name in answer.headers["access-control-allow-headers"].split(", ")}
        assert allowed == {"authorization", "content-type", "x-api-token", "x-ic-token", "x-request-id"}
        assert answer.headers["access-control-max-age"] == "600"
        assert answer.headers["x-frame-options"] == "DENY"


# --- size --------------------------------------------------------------------


async def chunks(total: int) -> AsyncIterator[bytes]:
    """Yield a body in pieces, so that no header tells its length."""
    for _ in range(total // 100):
        yield b" " * 100


@pytest.mark.parametrize("path", ["/auth/login", "/auth/logout", "/budget/report", "/budget/handshake"])
async def test_a_body_over_the_limit_is_refused_before_anything_else(store: SqliteStore, path: str) -> None:
    """Told by its length or found while it comes in pieces, without any credential."""
    headers = {"Content-Type": "application/json"}
    async with serving(store, SETTINGS) as caller:
        whole = await caller.post(path, b" " * (SMALL + 1))
        pieces = await caller.client.post(f"/api/v1{path}", content=chunks(SMALL + 100), headers=headers)
        fits = await caller.client.post(f"/api/v1{path}", content=chunks(SMALL), headers=headers)

    assert (whole.status, whole.code) == (413, "PAYLOAD_TOO_LARGE")
    assert (pieces.status_code, pieces.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert fits.status_code in {400, 401}


# --- health and version ------------------------------------------------------


async def test_health_is_told_exactly_and_to_anybody(store: SqliteStore) -> None:
    """Below both bases, with whatever credential, from wherever."""
    async with serving(store, SETTINGS, client_address=STRANGER) as caller:
        answers = [await caller.get(path) for path in ("/api/health", "/api/v1/health")]
        answers.append(await caller.bearing("nonsense").get("/health"))
        answers.append(await caller.get("/health", headers={"X-API-Token": "at_x", "X-IC-Token": "y"}))

    assert {answer.raw for answer in answers} == {b'{"status":"healthy","database":"connected"}'}
    assert {answer.status for answer in answers} == {200}


async def test_health_tells_that_the_database_is_gone(store: SqliteStore) -> None:
    """The one answer outside the envelope."""
    async with serving(store, SETTINGS) as caller:
        store.close()
        answer = await caller.get("/health")

    assert (answer.status, answer.raw) == (503, b'{"status":"unhealthy","database":"disconnected"}')
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_version_names_the_build(store: SqliteStore) -> None:
    """The environment is the deployment mode."""
    async with serving(store, PRODUCTION, client_address=STRANGER) as caller:
        answers = [await caller.get(path) for path in ("/api/version", "/api/v1/version")]

    body = answers[0].body
    assert answers[0].raw == answers[1].raw
    build = body.pop("build")
    assert body == {
        "current_version": "v1",
        "supported_versions": ["v1"],
        "deprecated_versions": [],
        "latest_endpoint": "/api/v1",
    }
    assert set(build) == {"commit", "timestamp", "environment"}
    assert re.fullmatch(r"[0-9a-f]{7,}", build["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", build["timestamp"])
    assert build["environment"] == "production"


# --- metrics -----------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
async def test_a_loopback_peer_reads_the_metrics(store: SqliteStore, address: str) -> None:
    """In Prometheus' text format, and only below the root."""
    async with serving(store, SETTINGS, client_address=(address, 1)) as caller:
        await caller.get("/health")
        answer = await caller.get("/metrics")
        elsewhere = await caller.get("/api/v1/metrics")

    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'ironcage_requests_total{method="GET",route="/api/v1/health",status="200"} 1.0' in answer.raw.decode()
    assert elsewhere.status == 404


async def test_anybody_else_needs_an_admin_or_the_metrics_token(store: SqliteStore) -> None:
    """A header that names a loopback hop is not believed."""
    async with serving(store, SETTINGS, client_address=STRANGER) as caller:
        admin = await caller.login()
        answers = {
            "nobody": await caller.get("/metrics"),
            "forwarded": await caller.get("/metrics", headers={"X-Forwarded-For": "127.0.0.1"}),
            "wrong": await caller.bearing(METRICS_TOKEN[:-1]).get("/metrics"),
            "admin": await admin.get("/metrics"),
            "token": await caller.bearing(METRICS_TOKEN).get("/metrics"),
        }

    assert {name: answer.status for name, answer in answers.items()} == {
        "nobody": 401, "forwarded": 401, "wrong": 401, "admin": 200, "token": 200,
    }  # fmt: skip


async def test_a_user_who_is_no_admin_does_not_read_the_metrics(store: SqliteStore) -> None:
    """Neither does an unset token let the word None in."""
    async with serving(store, embedded_settings(), client_address=STRANGER) as caller:
        ann = await caller.login("ann")
        answers = [await ann.get("/metrics"), await caller.bearing("None").get("/metrics")]

    assert all(answer.status in {401, 403} for answer in answers)
    assert not [answer for answer in answers if b"ironcage_" in answer.raw]


async def test_no_label_holds_what_somebody_typed(store: SqliteStore) -> None:
    """Routes are named by their templates, unknown paths by one word."""
    async with serving(store, SETTINGS) as caller:
        for path in ("/budget/leases/typed-by-hand", "/typed/by/hand", "/budget?agent_id=typed-by-hand"):
            await caller.get(path, headers={"X-Request-Id": "typed-by-hand"})
        await caller.post("/auth/login", {"username": "typed-by-hand", "password": "typed-by-hand"})
        text = (await caller.get("/metrics")).raw.decode()

    assert "typed" not in text
    assert 'route="unknown",status="404"' in text
    assert "lease_id" in text


# --- the description ---------------------------------------------------------


async def test_the_description_lists_exactly_the_routes(store: SqliteStore) -> None:
    """As the table has them; each body that must be sent has an example and each code its status."""
    async with serving(store, SETTINGS) as caller:
        document = (await caller.get("/api/openapi.json")).body

    described = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert document["openapi"] == "3.1.0"
    assert described == {(route.method, route.path) for route in ROUTES}
    assert all(path.startswith("/api/v1/") for path in document["paths"])
    for route in ROUTES:
        operation = document["paths"][f"/api/v1{route.path}"][route.method.lower()]
        assert ("requestBody" in operation) == (route.body is not None)
        if route.body is not None and any(field.required for field in msgspec.structs.fields(route.body)):
            assert route.example is not None
        if route.body is not None and route.example is not None:
            example = operation["requestBody"]["content"]["application/json"]["example"]
            assert set(example) <= set(route.body.__struct_fields__)
        assert str(route.status) in operation["responses"]
        for code, status in codes_of(route).items():
            assert code in operation["responses"][str(status)]["description"].split(", ")
            assert status in set(HTTPStatus)


async def test_the_description_tells_lists_and_batches_from_single_things(store: SqliteStore) -> None:
    """A list answers pages of rows, and events come and are answered one by one or many at once."""
    async with serving(store, SETTINGS) as caller:
        paths = (await caller.get("/api/openapi.json")).body["paths"]

    def schema_of(part: dict[str, Any]) -> dict[str, Any]:
        return dict(part["content"]["application/json"]["schema"])

    traces = schema_of(paths["/api/v1/traces"]["get"]["responses"]["200"])
    assert traces["properties"]["data"]["items"]["$ref"].endswith("TraceView")
    assert traces["required"] == ["data", "pagination"]
    post = paths["/api/v1/analytics/events"]["post"]
    for part in (post["requestBody"], post["responses"]["200"], post["responses"]["202"]):
        assert ["Batch" in each["$ref"] for each in schema_of(part)["anyOf"]] == [False, True]


async def test_every_reference_in_the_description_leads_somewhere(store: SqliteStore) -> None:
    """No tool stumbles over it: every schema is there, and every part of a path is described."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.get("/api/openapi.json")

    schemas = answer.body["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', answer.raw.decode()))
    assert references <= set(schemas)
    for path, methods in answer.body["paths"].items():
        for operation in methods.values():
            named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


async def test_the_page_for_people_loads_nothing_from_elsewhere(store: SqliteStore) -> None:
    """Plain HTML with a policy of its own that would not let it."""
    async with serving(store, SETTINGS) as caller:
        answer = await caller.get("/api/docs")

    text = answer.raw.decode()
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not re.search(r"<(script|link|img|iframe|object|embed)\b|@import|url\(|src=|https?://", text)
    assert all(html.escape(route.summary) in text for route in ROUTES)


class SlowStore(SqliteStore):
    """A store that takes its time to read."""

    def read(self, use_case: UseCase[Any], *, within_s: float | None = None) -> Any:  # noqa: ANN401 - as it returns
        time.sleep(1)
        return super().read(use_case, within_s=within_s)


async def test_a_database_that_does_not_answer_in_time_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes when the time is over, not when the database has found its own."""
    monkeypatch.setattr("ironcage_http.routes.system.HEALTH_TIMEOUT_S", 0.1)
    with SlowStore(":memory:", clock=SystemClock()) as slow:
        async with serving(slow, SETTINGS) as caller:
            answer = await caller.get("/health")

    assert (answer.status, answer.raw) == (503, b'{"status":"unhealthy","database":"disconnected"}')


async def test_every_operation_has_a_name_of_its_own(store: SqliteStore) -> None:
    """OpenAPI asks for it, and generated clients need it."""
    async with serving(store, SETTINGS) as caller:
        document = (await caller.get("/api/openapi.json")).body

    operations = [each for methods in document["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
