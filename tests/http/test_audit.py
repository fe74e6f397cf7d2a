"""The audit log over the wire: what a row tells, which rows a list holds, and who may read them."""

import re
from collections.abc import AsyncIterator, Iterator

import pytest

from ironcage_core.domain.audit import SYSTEM, Actor, AuditNote
from ironcage_core.domain.instants import MS_PER_DAY
from ironcage_storage.sqlite.store import SqliteStore
from ironcage_storage.system import SystemClock
from tests.support.rows import putting
from tests.support.web import PASSWORD, Caller, serving
from tests.support.world import NOON, SetClock

pytestmark = pytest.mark.anyio

ANN = "user_" + "a" * 32
ORIGIN = {"ip_address": "203.0.113.9", "user_agent": "curl/8", "request_id": "req-1"}
NOTES = (
    AuditNote("A", "user", "test", "r1", Actor("user", ANN, role="admin", **ORIGIN), reason="left us",
              changes={"before": {"is_active": True}, "after": {"is_active": False}}),
    AuditNote("B", "token", "test", "r2", Actor("api_token", ANN, role="user", token_id="tok_1")),
    AuditNote("C", "budget", "test", "r1", Actor("agent", "agent_" + "b" * 32), metadata={"granted_micros": 5}),
    AuditNote("D", "auth", "test", None, SYSTEM, outcome="failed", metadata={"password": "hunter2"}),
)  # fmt: skip
"""Written from noon of 2025-11-21 on, one a day."""


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    """A store whose log begins with the notes, and whose clock then stands at the present."""
    clock = SetClock()
    with SqliteStore(":memory:", clock=clock) as opened:
        for day, note in enumerate(NOTES):
            clock.instant = NOON + day * MS_PER_DAY
            opened.write(putting(note))
        clock.instant = SystemClock().now()
        yield opened


@pytest.fixture
async def caller(store: SqliteStore) -> AsyncIterator[Caller]:
    async with serving(store) as caller:
        yield caller


@pytest.fixture
async def admin(caller: Caller) -> Caller:
    return await caller.login()


async def operations(admin: Caller, query: str) -> str:
    """Return the operations of the listed notes, joined."""
    answer = await admin.get(f"/audit-logs?resource_type=test&per_page=100&{query}")
    assert answer.status == 200, answer.raw
    assert answer.body["pagination"]["total"] == len(answer.body["data"])
    return "".join(row["operation"] for row in answer.body["data"])


async def test_a_row_tells_who_did_what_from_where(admin: Caller) -> None:
    """Every field of the contract, and the id of whoever acted."""
    answer = await admin.get("/audit-logs?operation=A")

    (row,) = answer.body["data"]
    assert re.fullmatch("aud_[0-9a-f]{32}", row.pop("id"))
    assert re.fullmatch("[0-9a-f]{64}", row.pop("hash"))
    assert row == {
        "timestamp": "2025-11-21T12:00:00.000Z", "operation": "A", "outcome": "success", "category": "user",
        "resource_type": "test", "resource_id": "r1", "actor_type": "user", "actor_id": ANN, "user_id": ANN,
        "user_role": "admin", "token_id": None, **ORIGIN,
        "changes": {"before": {"is_active": True}, "after": {"is_active": False}}, "reason": "left us",
        "metadata": {}, "prev_hash": "",
    }  # fmt: skip
    assert answer.body["pagination"] == {"page": 1, "per_page": 50, "total": 1, "total_pages": 1}


async def test_only_users_have_a_user_id(admin: Caller) -> None:
    """By session or API token; agents and the system are in actor_id alone. What is named like a secret is not told."""
    answer = await admin.get("/audit-logs?resource_type=test&sort=timestamp")

    rows = answer.body["data"]
    assert [(row["actor_type"], row["user_id"], row["token_id"]) for row in rows] == [
        ("user", ANN, None),
        ("api_token", ANN, "tok_1"),
        ("agent", None, None),
        ("system", None, None),
    ]
    assert [row["actor_id"] for row in rows[2:]] == ["agent_" + "b" * 32, "system"]
    assert [row["changes"] for row in rows[1:]] == [None] * 3
    assert [row["metadata"] for row in rows[2:]] == [{"granted_micros": 5}, {"password": "[REDACTED]"}]


async def test_what_a_caller_does_is_found_with_its_origin(caller: Caller) -> None:
    """A login leaves a row; its answer's request id finds it. No password is anywhere."""
    credentials = {"username": "admin", "password": PASSWORD}
    login = await caller.post("/auth/login", credentials, headers={"User-Agent": "x" * 600})
    me = login.body["user"]["id"]
    admin = caller.bearing(login.body["access_token"])

    answer = await admin.get(f"/audit-logs?user_id={me}&category=auth&outcome=success")

    (row,) = answer.body["data"]
    assert (row["operation"], row["user_id"], row["resource_id"]) == ("AUTH_LOGIN_SUCCEEDED", me, me)
    assert (row["request_id"], row["ip_address"]) == (login.headers["x-request-id"], "127.0.0.1")
    assert row["user_agent"] == "x" * 500
    everything = await admin.get("/audit-logs?per_page=100")
    assert PASSWORD.encode() not in everything.raw
    assert login.body["access_token"].encode() not in everything.raw


async def test_one_row_is_found_by_its_id(admin: Caller) -> None:
    """As the list shows it; any other id is 404."""
    rows = (await admin.get("/audit-logs")).body["data"]

    for row in rows:
        assert (await admin.get(f"/audit-logs/{row['id']}")).body == row
    for unknown in ("aud_" + "0" * 32, "-1", "abc", "99999", "9223372036854775807", "%00", "a%20b"):
        answer = await admin.get(f"/audit-logs/{unknown}")
        assert (answer.status, answer.code) == (404, "AUDIT_NOT_FOUND"), unknown


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "DCBA"),
        ("sort=-timestamp", "DCBA"),
        ("sort=timestamp", "ABCD"),
        (f"user_id={ANN}", "BA"),
        ("user_id=user_" + "c" * 32, ""),
        ("operation=B", "B"),
        ("operation=b", ""),
        ("resource_id=r1", "CA"),
        ("category=auth", "D"),
        ("category=safety", ""),
        ("outcome=success", "CBA"),
        (f"user_id={ANN}&category=token&outcome=success&resource_id=r2", "B"),
        ("start_date=2025-11-22", "DCB"),
        ("start_date=2025-11-22T12:00:00Z", "DCB"),
        ("start_date=2025-11-22T12:00:00.001Z", "DC"),
        ("end_date=2025-11-22", "BA"),
        ("end_date=2025-11-22T12:00:00Z", "A"),
        ("end_date=2025-11-22T12:00:00.001Z", "BA"),
        ("start_date=2025-11-22&end_date=2025-11-22", "B"),
        ("start_date=2025-11-22T12:00:00Z&end_date=2025-11-22", "B"),
        ("start_date=2025-11-22T13:00:00Z&end_date=2025-11-22", ""),
        ("start_date=2025-11-22T12:00:00Z&end_date=2025-11-22T12:00:00Z", ""),
        ("start_date=2025-11-22T14:00:00%2B02:00&end_date=2025-11-22", "B"),
        ("unknown=x", "DCBA"),
    ],
)
async def test_a_list_holds_what_is_asked_for(admin: Caller, query: str, found: str) -> None:
    """Newest first unless told otherwise; a start is inclusive, an end is not, but for a day, which belongs to it."""
    assert await operations(admin, query) == found


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("category=users", "category"),
        ("outcome=ok", "outcome"),
        ("user_id=ann", "user_id"),
        ("operation=", "operation"),
        ("resource_id=a&resource_id=b", "resource_id"),
        ("start_date=yesterday", "start_date"),
        ("end_date=2025-13-01", "end_date"),
        ("start_date=2025-11-22T12:00:00", "start_date"),
        ("start_date=2025-11-23&end_date=2025-11-22", "start_date"),
        ("start_date=2025-11-23T00:00:00Z&end_date=2025-11-22", "start_date"),
        ("start_date=2025-11-22T12:00:00.001Z&end_date=2025-11-22T12:00:00Z", "start_date"),
        ("start_date=2025-11-22&end_date=2025-11-21T23:59:59Z", "start_date"),
        ("sort=operation", "sort"),
        ("page=0", "page"),
        ("per_page=101", "per_page"),
    ],
)
async def test_a_parameter_that_is_wrong_is_named(admin: Caller, query: str, field: str) -> None:
    """400 with the parameter; a range that ends before it starts included."""
    answer = await admin.get(f"/audit-logs?{query}")

    assert (answer.status, answer.code, list(answer.fields)) == (400, "VALIDATION_ERROR", [field])


async def test_pages_have_every_row_once(admin: Caller, store: SqliteStore) -> None:
    """With the exact total, which counts what is on no page too."""
    total = store.read(lambda uow: sum(1 for _ in uow.audit.rows()))
    ids = []
    for page in range(1, total + 2):
        answer = await admin.get(f"/audit-logs?page={page}&per_page=1")
        assert answer.body["pagination"]["total"] == total
        ids += [row["id"] for row in answer.body["data"]]

    assert len(set(ids)) == len(ids) == total


async def test_only_admins_read_the_log(caller: Caller) -> None:
    """A caller without a credential, a user and a viewer learn nothing, not even whether a row is there."""
    ann, vera = await caller.login("ann"), await caller.login("vera")

    for path in ("/audit-logs", "/audit-logs?page=0", "/audit-logs/aud_x"):
        assert (await caller.get(path)).status == 401
        for who in (ann, vera):
            answer = await who.get(path)
            assert (answer.status, answer.code) == (403, "FORBIDDEN")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nobody_writes_the_log(admin: Caller, method: str) -> None:
    """405, and the log is as it was."""
    (row,) = (await admin.get("/audit-logs?operation=A")).body["data"]

    for path in ("/audit-logs", f"/audit-logs/{row['id']}"):
        answer = await admin.send(method, path, {"operation": "B"})
        assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
        assert "GET" in answer.headers["allow"]
    assert (await admin.get(f"/audit-logs/{row['id']}")).body == row
