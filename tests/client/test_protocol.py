"""A runtime's calls of its control plane: against a real server, and against everything that is none."""

import json
import logging
import math
import pickle
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from email.utils import formatdate
from functools import partial
from typing import Any

import httpx
import pytest

from ironcage_core.domain.instants import parse_instant
from ironcage_core.domain.money import MICROS_PER_USD
from ironcage_core.domain.prices import TokenCounts
from ironcage_core.domain.usage import UsageRecord
from ironcage_core.errors.runtime import ControlPlaneError, SessionClosedError, UnreachableError
from ironcage_core.errors.tree import IroncageError
from ironcage_core.runtime.lease_session import Spend
from ironcage_core.services.leasing import revoke_leases
from ironcage_http.client_protocol import ControlPlane, Denied, Fate, Lent
from ironcage_http.server import embedded_settings
from ironcage_storage.sealed.ip_tokens import IpTokenSealer
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.panel import Panel
from tests.support.servers import free_port
from tests.support.web import API_KEY
from tests.support.world import ADMIN

USD = MICROS_PER_USD
HOUR_MS = 3_600_000
TOKEN = "ic_eyJhbGciOiJIUzI1NiJ9.eyJhZ2VudF9pZCI6ImFnZW50XzEifQ.c2lnbmF0dXJl"
SECRET = TOKEN.removeprefix("ic_")
URL = "https://iron.test"
HTML = {"Content-Type": "text/html; charset=utf-8"}

Answering = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def store(standing: Panel) -> SqliteStore:
    return standing.store


@pytest.fixture
def token(standing: Panel) -> str:
    """The IC token of a new agent with $20."""
    return standing.hire(20 * USD).token


@pytest.fixture
def plane(standing: Panel, token: str) -> Iterator[ControlPlane]:
    """A control plane that runs, called for a new agent with $20."""
    plane = ControlPlane(standing.url, token)
    yield plane
    plane.close()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def borrow(plane: ControlPlane, asked: int = 5 * USD, key: str = "first", **named: str | None) -> Lent:
    return plane.handshake(asked, key=key, **{"runtime_id": None, "provider": None, "provider_key_id": None, **named})


def spend(request_id: str = "call-1", lease_id: str = "lease_1", **fields: Any) -> Spend:  # noqa: ANN401 - as the tuple takes them
    known: dict[str, Any] = {
        "request_id": request_id, "lease_id": lease_id, "model": "gpt-4o", "provider": "openai", "cost": 123_456,
        "tokens": 30, "counts": TokenCounts(input=20, output=10, cached_input=5, cache_write=3),
        "occurred_at": now_ms() - 5_000,
    }  # fmt: skip
    return Spend(**{**known, **fields})


def record(store: SqliteStore, plane: ControlPlane, request_id: str) -> UsageRecord:
    agent_id = plane.agent_id or ""
    found = store.read(lambda uow: uow.usage.find(agent_id, request_id))
    assert isinstance(found, UsageRecord)
    return found


def answering(answer: Answering, token: str = TOKEN) -> ControlPlane:
    return ControlPlane(URL, token, transport=httpx.MockTransport(answer))


def always(
    status: int, content: object = b"", headers: Mapping[str, str] | None = None
) -> tuple[ControlPlane, list[httpx.Request]]:
    """Return a control plane that gives one answer, and the list of what it was asked."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if isinstance(content, bytes):
            return httpx.Response(status, content=content, headers=headers)
        return httpx.Response(status, json=content, headers=headers)

    return answering(answer), asked


def refusal(code: str, text: str = "No", **details: object) -> dict[str, object]:
    return {"error": text, "code": code, "details": details}


def granted(**fields: object) -> dict[str, object]:
    sealed = IpTokenSealer().seal(API_KEY, ic_token=TOKEN, agent_id="agent_1", lease_id="lease_1", provider="openai")
    return {
        "ip_token": sealed, "lease_id": "lease_1", "agent_id": "agent_1", "budget_granted": 5, "provider": "openai",
        "refresh_threshold": 1, "expires_at": "2030-01-01T01:00:00.000Z", **fields,
    }  # fmt: skip


def booked(request: httpx.Request) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = json.loads(request.content)["reports"]
    return reports


def accept(request: httpx.Request, headers: Mapping[str, str] | None = None) -> httpx.Response:
    results = [
        {"index": index, "request_id": report["request_id"], "status": "accepted"}
        for index, report in enumerate(booked(request))
    ]
    return httpx.Response(200, json={"results": results, "leases": []}, headers=headers)


CALLS: tuple[Callable[[ControlPlane], object], ...] = (
    borrow,
    lambda plane: plane.refresh(Lent("lease_1", "agent_1", USD, USD, "openai", None, API_KEY, 1.0), USD, key="k"),
    lambda plane: plane.report([spend()], current=None),
    lambda plane: plane.give_back("lease_1"),
)


# --- against a real server


def test_a_handshake_lends_money_and_the_opened_provider_key(plane: ControlPlane) -> None:
    """The amounts are exact micro-USD, the key is the one that was stored, and the time left is the lease's."""
    lent = borrow(plane, 5_000_001)

    assert lent.lease_id.startswith("lease_")
    assert lent.agent_id == plane.agent_id
    assert (lent.budget, lent.threshold, lent.provider, lent.base_url) == (5_000_001, USD, "openai", None)
    assert lent.api_key == API_KEY
    assert lent.lasts_s == pytest.approx(embedded_settings().leases.ttl / 1000, abs=3)
    assert plane.clock_offset_ms == 0


def test_a_handshake_again_with_its_key_is_one_handshake(plane: ControlPlane) -> None:
    """The same key has the same lease, another key another one."""
    first, again, other = borrow(plane), borrow(plane), borrow(plane, key="second")

    assert again.lease_id == first.lease_id
    assert other.lease_id != first.lease_id


def test_a_handshake_names_runtime_provider_and_key(plane: ControlPlane, store: SqliteStore) -> None:
    """The runtime stands in the lease; a provider without a key and a key of nobody are refused by name."""
    lent = borrow(plane, runtime_id="pod-1", provider="openai")

    lease = store.read(lambda uow: uow.leases.find(lent.lease_id))
    assert lease is not None
    assert lease.runtime_id == "pod-1"
    with pytest.raises(ControlPlaneError) as refused:
        borrow(plane, key="b", provider="anthropic")
    assert (refused.value.details["status"], refused.value.details["reason"]) == (403, "NO_PROVIDER_ASSIGNED")
    with pytest.raises(ControlPlaneError) as refused:
        borrow(plane, key="c", provider_key_id="prov_" + "0" * 32)
    assert (refused.value.details["status"], refused.value.details["reason"]) == (404, "PROVIDER_NOT_FOUND")


def test_a_refresh_lends_the_rest_and_new_money_under_a_new_lease(plane: ControlPlane) -> None:
    """What the old lease held rolls over, its key is opened anew, and what the answer leaves out stays."""
    first = borrow(plane)
    plane.report([spend(lease_id=first.lease_id, cost=USD)], current=None)

    second = plane.refresh(replace(first, base_url="https://p.test", threshold=7), 2 * USD, key="r")
    again = plane.refresh(first, 2 * USD, key="r")

    assert isinstance(second, Lent)
    assert isinstance(again, Lent)
    assert second.lease_id == again.lease_id != first.lease_id
    assert (second.budget, second.threshold, second.base_url) == (6 * USD, 7, "https://p.test")
    assert (second.agent_id, second.provider, second.api_key) == (first.agent_id, "openai", API_KEY)
    assert second.lasts_s == pytest.approx(first.lasts_s, abs=3)


def test_a_refresh_without_money_is_denied_and_no_error(plane: ControlPlane) -> None:
    """The reason is told, and the old lease still takes reports."""
    lent = borrow(plane, 20 * USD)

    denied = plane.refresh(lent, USD, key="r")

    assert denied == Denied("total_budget_exhausted")
    assert plane.report([spend(lease_id=lent.lease_id)], current=lent.lease_id).stop is False


def test_reports_are_booked_as_they_were_spent(plane: ControlPlane, store: SqliteStore) -> None:
    """Cost, model, tokens and the time to the millisecond stand in the books."""
    lent = borrow(plane)
    told = spend(lease_id=lent.lease_id)

    reported = plane.report([told], current=lent.lease_id)

    assert reported.fates == [Fate("call-1", "accepted", None, None)]
    kept = record(store, plane, "call-1")
    assert (kept.cost_micros, kept.model, kept.provider, kept.lease_id) == (123_456, "gpt-4o", "openai", lent.lease_id)
    assert (kept.input_tokens, kept.output_tokens, kept.total_tokens) == (20, 10, 30)
    assert kept.occurred_at == told.occurred_at


@pytest.mark.parametrize(
    ("tokens", "counts", "total"),
    [(77, None, 77), (0, None, 1), (0, TokenCounts(input=0, output=0), 1), (9, TokenCounts(input=1, output=2), 3)],
)
def test_tokens_are_what_the_contract_takes(
    plane: ControlPlane, store: SqliteStore, tokens: int, counts: TokenCounts | None, total: int
) -> None:
    """They are the sum of what is known of them, and never less than one."""
    lent = borrow(plane)

    reported = plane.report([spend(lease_id=lent.lease_id, tokens=tokens, counts=counts)], current=None)

    assert [fate.status for fate in reported.fates] == ["accepted"]
    assert record(store, plane, "call-1").total_tokens == total


def test_each_report_has_its_own_fate_in_the_order_of_the_call(plane: ControlPlane) -> None:
    """Known ones, contradictions and bad ones are told beside those that were booked."""
    lease_id = borrow(plane).lease_id
    plane.report([spend("known", lease_id)], current=None)

    reported = plane.report(
        [
            spend("known", lease_id), spend("bad", lease_id, cost=1001 * USD), spend("new", lease_id),
            spend("known", lease_id, cost=1), spend("lost", "lease_" + "0" * 32),
        ],
        current=None,
    )  # fmt: skip

    assert [(fate.request_id, fate.status, fate.code) for fate in reported.fates] == [
        ("known", "duplicate", None),
        ("bad", "rejected", "VALIDATION_ERROR"),
        ("new", "accepted", None),
        ("known", "conflict", "REQUEST_ID_CONFLICT"),
        ("lost", "rejected", "LEASE_NOT_FOUND"),
    ]
    assert "cost_usd" in str(reported.fates[1].message)


def test_text_that_is_no_unicode_holds_nothing_up(plane: ControlPlane, store: SqliteStore) -> None:
    """Half a surrogate pair in a model's name becomes a question mark."""
    lent = borrow(plane)

    reported = plane.report([spend(lease_id=lent.lease_id, model="gpt\ud800")], current=None)

    assert [fate.status for fate in reported.fates] == ["accepted"]
    assert record(store, plane, "call-1").model == "gpt?"


def test_no_report_claims_to_be_later_than_now(plane: ControlPlane, store: SqliteStore) -> None:
    """A clock that was set back since cannot make the books tell of the future."""
    lent = borrow(plane)

    plane.report([spend(lease_id=lent.lease_id, occurred_at=now_ms() + HOUR_MS)], current=None)

    assert record(store, plane, "call-1").occurred_at <= now_ms()


def test_a_report_that_is_refused_for_its_time_goes_without_one(plane: ControlPlane, store: SqliteStore) -> None:
    """It is booked in the same call, in its place, and the clock is right behind it."""
    lease_id = borrow(plane).lease_id
    plane.report([spend("a", lease_id)], current=None)
    plane.clock_offset_ms = HOUR_MS

    reported = plane.report([spend("a", lease_id), spend("b", lease_id), spend("c", lease_id)], current=lease_id)

    assert [(fate.request_id, fate.status) for fate in reported.fates] == [
        ("a", "duplicate"), ("b", "accepted"), ("c", "accepted"),
    ]  # fmt: skip
    assert plane.clock_offset_ms == 0
    assert abs(record(store, plane, "b").occurred_at - now_ms()) < 10_000


def test_stop_is_told_of_the_current_lease_alone(plane: ControlPlane, store: SqliteStore) -> None:
    """A lease that holds nothing any more says stop; reports on it say so only while it is the current one."""
    old, current = borrow(plane), borrow(plane, key="second")
    store.write(partial(revoke_leases, lease_ids=[old.lease_id], reason="manual", actor=ADMIN))

    both = plane.report([spend("a", old.lease_id), spend("b", current.lease_id)], current=current.lease_id)
    late = plane.report([spend("c", old.lease_id)], current=old.lease_id)
    nobody = plane.report([spend("d", old.lease_id)], current=None)

    assert (both.stop, late.stop, nobody.stop) == (False, True, False)


def test_a_lease_is_given_back_once(plane: ControlPlane) -> None:
    """The exact rest goes back, and asking again says the same."""
    lent = borrow(plane)
    plane.report([spend(lease_id=lent.lease_id, cost=1)], current=None)

    assert plane.give_back(lent.lease_id) == 4_999_999
    assert plane.give_back(lent.lease_id) == 4_999_999


def test_a_batch_that_is_too_long_is_halved(plane: ControlPlane) -> None:
    """The server takes a thousand; one more is booked all the same."""
    lease_id = borrow(plane).lease_id
    spends = [spend(f"call-{number}", lease_id, cost=1) for number in range(1001)]

    reported = plane.report(spends, current=lease_id)

    assert [fate.request_id for fate in reported.fates] == [each.request_id for each in spends]
    assert {fate.status for fate in reported.fates} == {"accepted"}


@pytest.mark.parametrize("call", CALLS)
def test_a_token_that_is_none_is_refused(plane: ControlPlane, call: Callable[[ControlPlane], object]) -> None:
    """Every call says so with status and code, reports too: nothing of them is lost."""
    stranger = ControlPlane(plane.url, TOKEN)

    with pytest.raises(ControlPlaneError) as refused:
        call(stranger)

    assert refused.value.details["status"] == 401
    assert refused.value.details["reason"] == "AUTH_INVALID_TOKEN"
    stranger.close()


def test_a_refused_lease_tells_its_details(plane: ControlPlane) -> None:
    """A lease of nobody is 404; money that is not there comes with exact numbers."""
    with pytest.raises(ControlPlaneError) as refused:
        plane.give_back("lease_" + "0" * 32)
    assert refused.value.details["reason"] == "LEASE_NOT_FOUND"

    borrow(plane, 20 * USD)
    with pytest.raises(ControlPlaneError) as refused:
        borrow(plane, key="more")
    details = refused.value.details
    assert (details["status"], details["reason"], details["scope"]) == (403, "BUDGET_EXCEEDED", "agent")
    assert Decimal(str(details["limit"])) == 20


def test_a_server_that_is_gone_is_unreachable() -> None:
    """The message names the url and what to look at."""
    plane = ControlPlane(f"http://127.0.0.1:{free_port()}", TOKEN)

    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:\d+/api/v1 does not answer .*check") as failed:
        borrow(plane)

    assert failed.value.details["retry_after_s"] is None
    plane.close()


# --- against everything else


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "failure", [httpx.ConnectTimeout, httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.ProxyError]
)
def test_a_broken_network_is_unreachable(
    failure: type[httpx.TransportError], call: Callable[[ControlPlane], object]
) -> None:
    """There is one attempt, and the failure is named by its kind alone, chained to nothing that was sent."""
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise failure(f"while sending Bearer {TOKEN}", request=request)

    with pytest.raises(UnreachableError, match=failure.__name__) as failed:
        call(answering(answer))

    assert len(asked) == 1
    assert SECRET not in str(failed.value)
    assert failed.value.__context__ is None


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_cannot_serve_now_is_unreachable(status: int, call: Callable[[ControlPlane], object]) -> None:
    """Its reason and the time it asks for are told; nothing is tried again here."""
    plane, asked = always(status, refusal("SOME_CODE", "Because"), {"Retry-After": "7"})

    with pytest.raises(UnreachableError, match=f"{status} SOME_CODE: Because") as failed:
        call(plane)

    assert failed.value.details["retry_after_s"] == 7.0
    assert failed.value.details["reason"] == "SOME_CODE"
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0), ("120", 120.0), ("Tue, 01 Jan 2030 00:01:30 GMT", 90.0), ("Mon, 31 Dec 2029 00:00:00 GMT", 0.0),
        ("soon", None), ("-5", None), ("nan", None), ("9" * 400, None), ("", None),
    ],
)  # fmt: skip
def test_a_time_to_wait_is_read_in_either_form(header: str, seconds: float | None) -> None:
    """As seconds, or as a date by the server's own clock; anything else is no time."""
    headers = {"Retry-After": header, "Date": "Tue, 01 Jan 2030 00:00:00 GMT"}
    plane, _ = always(429, refusal("RATE_LIMIT_EXCEEDED"), headers)

    with pytest.raises(UnreachableError) as failed:
        borrow(plane)

    assert failed.value.details["retry_after_s"] == seconds


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 401, 403, 404, 502])
def test_a_page_for_people_is_no_answer(status: int, call: Callable[[ControlPlane], object]) -> None:
    """Status and content type are told, and nothing of the page."""
    plane, _ = always(status, b"<html>portal of the hotel</html>", HTML)

    with pytest.raises(UnreachableError, match=rf"{status}, content type text/html\b") as failed:
        call(plane)

    assert "hotel" not in repr((failed.value, failed.value.details))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b'{"lease_id": 1}', b"null", b"[]", b"[" * 100_000, b'{"lease_id": "\xff"}',
        b'{"returned_usd": -0.000001}', b'{"returned_usd": 1e999999999999999999999}', b'{"returned_usd": 0.0000001}',
        b'{"status": "approved"}', b'{"status": "perhaps", "reason": "x"}', b'{"results": [], "leases": []}',
    ],
)  # fmt: skip
def test_an_answer_that_lacks_what_it_must_have_is_none(content: bytes, call: Callable[[ControlPlane], object]) -> None:
    """It is as if nobody had answered."""
    plane, _ = always(200, content, {"Content-Type": "application/json"})

    with pytest.raises(UnreachableError, match="status 200, content type application/json"):
        call(plane)


@pytest.mark.parametrize(
    "fields",
    [
        {"budget_granted": -0.000001}, {"budget_granted": 0.0000001}, {"budget_granted": None},
        {"expires_at": "tomorrow"}, {"lease_id": ""}, {"ip_token": None}, {"refresh_threshold": "lots"},
    ],
)  # fmt: skip
def test_a_lease_with_a_field_that_is_none_is_no_answer(fields: dict[str, object]) -> None:
    """No money is taken from a lease that is not understood."""
    plane, _ = always(200, granted(**fields))

    with pytest.raises(UnreachableError):
        borrow(plane)


def test_a_key_that_does_not_open_is_refused_with_its_lease() -> None:
    """Whoever is told so can give the lease back."""
    plane, _ = always(200, granted(lease_id="lease_2"))

    with pytest.raises(ControlPlaneError, match="lease_2") as refused:
        borrow(plane)

    details = refused.value.details
    assert (details["status"], details["reason"], details["lease_id"]) == (200, "IP_TOKEN_AUTHENTICATION", "lease_2")
    assert refused.value.__context__ is None


def test_a_refusals_own_details_take_no_name_of_ours() -> None:
    """They keep their values under other names, whatever a server calls them."""
    given = refusal("AGENT_INACTIVE", reason="stopped", status="x", message="m", agent_id="agent_1", self=1)
    plane, _ = always(403, given)

    with pytest.raises(ControlPlaneError) as refused:
        borrow(plane)

    assert refused.value.message == "No"
    assert refused.value.details == {
        "status": 403, "reason": "AGENT_INACTIVE", "server_reason": "stopped", "server_status": "x",
        "server_message": "m", "server_self": 1, "agent_id": "agent_1",
    }  # fmt: skip


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_named_and_not_followed(status: int) -> None:
    """The token goes to no other host than the one it was meant for, and no more than the host is told."""
    plane, asked = always(status, b"", {"Location": "https://user:pw@other.test:8443/login?state=abc"})

    with pytest.raises(ControlPlaneError, match=r"https://other\.test:8443; correct the url") as refused:
        borrow(plane)

    assert (refused.value.details["status"], refused.value.details["reason"]) == (status, "REDIRECTED")
    assert [request.url.host for request in asked] == ["iron.test"]
    assert not any(part in str(refused.value) for part in ("login", "abc", "pw"))


@pytest.mark.parametrize("hours", [-30, -3, 0, 3, 30])
def test_times_are_told_by_the_servers_clock(hours: int) -> None:
    """How long a lease lasts and when calls were follow the Date header, however wrong this machine's clock is."""
    server_ms = now_ms() + hours * HOUR_MS
    date = {"Date": formatdate(server_ms / 1000, usegmt=True)}
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("report"):
            sent.extend(booked(request))
            return accept(request, date)
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(server_ms / 1000 + 600))
        return httpx.Response(200, json=granted(expires_at=expires), headers=date)

    plane = answering(answer)
    lent = borrow(plane)
    plane.report([spend(occurred_at=now_ms() - 60_000), spend("late", occurred_at=now_ms() + 60_000)], current=None)

    assert lent.lasts_s == pytest.approx(599, abs=1)
    assert plane.clock_offset_ms == pytest.approx(hours * HOUR_MS, abs=2_500)
    assert (plane.clock_offset_ms == 0) == (hours == 0)
    first, second = (parse_instant(report["timestamp"], field="timestamp") for report in sent)
    assert first == pytest.approx(server_ms - 60_000, abs=5_000)
    assert second == pytest.approx(server_ms, abs=5_000)


def test_a_lease_without_a_date_lasts_by_this_machines_clock() -> None:
    """One without an end lasts for ever, one that is over not a moment."""
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))

    by_clock, _ = always(200, granted(expires_at=ends))
    endless, _ = always(200, granted(expires_at=None))
    over, _ = always(200, granted(expires_at="2020-01-01T00:00:00Z"))

    assert borrow(by_clock).lasts_s == pytest.approx(599, abs=3)
    assert borrow(endless).lasts_s == math.inf
    assert borrow(over).lasts_s == 0


@pytest.mark.parametrize(("date", "is_believed"), [("yesterday", False), ("Tue, 01 Jan 2030 00:00:00 GMT", True)])
def test_only_a_date_moves_the_clock(date: str, *, is_believed: bool) -> None:
    """What is no date says nothing, and neither does the page of a proxy."""
    plane, _ = always(400, refusal("NO"), {"Date": date})
    page, _ = always(400, b"<html>", {**HTML, "Date": date})

    for each in (plane, page):
        with pytest.raises(IroncageError):
            each.give_back("lease_1")

    assert (plane.clock_offset_ms != 0) == is_believed
    assert page.clock_offset_ms == 0


@pytest.mark.parametrize(
    "whole",
    [
        httpx.Response(400, json=refusal("VALIDATION_ERROR", "unfit")),
        httpx.Response(413, json=refusal("PAYLOAD_TOO_LARGE", "unfit")),
        httpx.Response(413, content=b"<html>", headers=HTML),
    ],
)
def test_a_batch_that_is_refused_is_halved_down_to_who_is_to_blame(whole: httpx.Response) -> None:
    """All others are booked, each has one fate in its place, and the last one standing is rejected."""
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        reports = booked(request)
        sizes.append(len(reports))
        if any(report["request_id"] == "call-5" for report in reports):
            return httpx.Response(whole.status_code, content=whole.content, headers=whole.headers)
        return accept(request)

    reported = answering(answer).report([spend(f"call-{number}") for number in range(11)], current=None)

    assert [fate.request_id for fate in reported.fates] == [f"call-{number}" for number in range(11)]
    rejected = [fate for fate in reported.fates if fate.status == "rejected"]
    assert [fate.request_id for fate in rejected] == ["call-5"]
    assert rejected[0].code in {"VALIDATION_ERROR", "PAYLOAD_TOO_LARGE"}
    assert rejected[0].message
    assert sizes[0] == 11
    assert len(sizes) <= 9


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "AMBIGUOUS_CREDENTIALS"), (401, "AUTH_TOKEN_EXPIRED"), (403, "INSUFFICIENT_SCOPE"), (404, "NOT_FOUND"),
     (415, "UNSUPPORTED_MEDIA_TYPE")],
)  # fmt: skip
def test_reports_are_not_given_up_for_what_is_no_fault_of_theirs(status: int, code: str) -> None:
    """A refusal of the caller is raised, once, and no report is rejected."""
    plane, asked = always(status, refusal(code))

    with pytest.raises(ControlPlaneError) as refused:
        plane.report([spend("a"), spend("b")], current=None)

    assert refused.value.details["reason"] == code
    assert len(asked) == 1


def test_a_time_is_left_out_only_where_it_was_wrong() -> None:
    """Other rejected reports are not sent again, and one that is refused again stays so."""
    rejected = {"status": "rejected", "code": "VALIDATION_ERROR", "error": "bad"}
    batches: list[list[dict[str, Any]]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        batches.append(booked(request))
        results = [
            {"index": index, "request_id": report["request_id"], **rejected, "fields": {report["model"]: "bad"}}
            for index, report in enumerate(booked(request))
        ]
        leases = [{"lease_id": "lease_1", "stop": len(batches) == 2}]
        return httpx.Response(200, json={"results": results[::-1], "leases": leases})

    reported = answering(answer).report(
        [spend("a", model="cost_usd"), spend("b", model="timestamp"), spend("c", model="model")], current="lease_1"
    )

    assert [[report["request_id"] for report in batch] for batch in batches] == [["a", "b", "c"], ["b"]]
    assert ["timestamp" in report for report in batches[0]] == [True] * 3
    assert "timestamp" not in batches[1][0]
    assert reported.fates == [Fate(name, "rejected", "VALIDATION_ERROR", "bad") for name in "abc"]
    assert reported.stop


@pytest.mark.parametrize(
    "named",
    [["a"], ["a", "b", "c"], ["b", "a"], ["a", None], ["a", "a"]],
    ids=["less", "more", "other", "none", "twice"],
)
def test_an_answer_about_other_reports_closes_none(named: list[str | None]) -> None:
    """Whatever it says was booked, these wait for an answer of their own."""
    results = [{"index": index, "request_id": name, "status": "accepted"} for index, name in enumerate(named)]
    plane, _ = always(200, {"results": results, "leases": []})

    with pytest.raises(UnreachableError):
        plane.report([spend("a"), spend("b")], current=None)


def test_a_report_on_the_wire_is_what_the_contract_asks_for() -> None:
    """Every kind of tokens is told beside their sum, the cost as an exact number in USD, the time in UTC."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return accept(request)

    answering(answer).report([spend(occurred_at=1_700_000_000_001, cost=1)], current=None)

    assert json.loads(asked[0].content, parse_float=Decimal) == {
        "reports": [
            {
                "lease_id": "lease_1", "request_id": "call-1", "model": "gpt-4o", "provider": "openai",
                "cost_usd": Decimal("0.000001"), "tokens": 30, "input_tokens": 20, "output_tokens": 10,
                "cached_input_tokens": 5, "cache_write_tokens": 3, "timestamp": "2023-11-14T22:13:20.001Z",
            }
        ]
    }  # fmt: skip


def test_nothing_to_report_asks_nobody() -> None:
    """An empty batch would be refused."""
    plane, asked = always(500)

    assert plane.report([], current=None).fates == ()
    assert asked == []


def test_requests_carry_token_and_retry_key_in_headers_alone() -> None:
    """The token without the blanks around it; the url and the body have nothing of it. Amounts are numbers in USD."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json=granted(base_url="https://p.test/v1"))

    lent = borrow(answering(answer, f"  {TOKEN}\n"), 10_000_001, "k-1")

    request = asked[0]
    assert lent.base_url == "https://p.test/v1"
    assert request.method == "POST"
    assert str(request.url) == "https://iron.test/api/v1/budget/handshake"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["idempotency-key"] == "k-1"
    assert request.headers["content-type"] == "application/json"
    assert request.content == b'{"requested_budget":10.000001}'


@pytest.mark.parametrize("key", ["", "a b", "é", "k" * 201, "a\nb"])
def test_a_retry_key_that_no_header_takes_is_told_at_once(key: str) -> None:
    """Nothing is sent with it."""
    plane, asked = always(500)

    with pytest.raises(ValueError, match="1 to 200 visible"):
        borrow(plane, key=key)

    assert asked == []


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://iron.test", "https://iron.test/api/v1"),
        (" https://iron.test/ ", "https://iron.test/api/v1"),
        ("https://iron.test:8443/api", "https://iron.test:8443/api/v1"),
        ("https://iron.test/api/v1/", "https://iron.test/api/v1"),
        ("https://iron.test/cage", "https://iron.test/cage/api/v1"),
        ("HTTPS://Iron.Test/cage/api/", "https://iron.test/cage/api/v1"),
        ("https://iron.test/my%20cage//", "https://iron.test/my%20cage/api/v1"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443/api/v1"),
        ("http://localhost:3001", "http://localhost:3001/api/v1"),
        ("http://127.8.9.1", "http://127.8.9.1/api/v1"),
        ("http://[::1]:3001/", "http://[::1]:3001/api/v1"),
    ],
)
def test_a_url_may_be_given_in_many_ways(url: str, base: str) -> None:
    """All lead to the API; http too, as long as it stays on this machine."""
    plane = ControlPlane(url, TOKEN)

    assert plane.url == base
    plane.close()


@pytest.mark.parametrize(
    "url", ["", "iron.test", "ftp://iron.test", "https://", "file:///etc", "https://iron.test:x", "//iron.test", "a\0b"]
)
def test_a_url_that_is_none_is_told_at_once(url: str) -> None:
    """With an example of one."""
    with pytest.raises(ValueError, match="must look like https://"):
        ControlPlane(url, TOKEN)


@pytest.mark.parametrize("url", ["https://u:hush@iron.test", "https://iron.test?t=hush", "https://iron.test/#hush"])
def test_a_url_with_more_than_a_place_is_refused_without_showing_it(url: str) -> None:
    """What stands in a url stands in logs."""
    with pytest.raises(ValueError, match="out of the url") as refused:
        ControlPlane(url, TOKEN)

    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("host", ["iron.test", "10.0.0.1", "127.0.0.1.test", "localhost.test", "0.0.0.0", "[::2]"])  # noqa: S104 - not bound
def test_http_to_another_machine_needs_a_word(host: str) -> None:
    """The contract wants TLS outside of this machine."""
    with pytest.raises(ValueError, match=r"use https://, or pass allows_http=True"):
        ControlPlane(f"http://{host}", TOKEN)

    ControlPlane(f"http://{host}", TOKEN, allows_http=True).close()


def test_what_stays_on_this_machine_takes_no_proxy(
    monkeypatch: pytest.MonkeyPatch, standing: Panel, token: str
) -> None:
    """A proxy of the environment would get the token unencrypted."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")

    plane = ControlPlane(standing.url, token)

    assert borrow(plane).api_key == API_KEY
    plane.close()


@pytest.mark.parametrize("token", ["", "  ", "a b", "tök", "a\r\nX: y", "\ud800"])
def test_a_token_that_is_none_is_told_at_once(token: str) -> None:
    """And not shown."""
    with pytest.raises(ValueError, match="IC token is empty or has characters") as refused:
        ControlPlane(URL, token)

    assert not token.strip() or token not in str(refused.value)
    assert refused.value.__context__ is None


@pytest.mark.parametrize(
    ("token", "agent_id"),
    [(TOKEN, "agent_1"), (SECRET, "agent_1"), ("opaque", None), ("a.b.c", None), ("a.W10.c", None), ("a.e30.c", None),
     ("a.eyJhZ2VudF9pZCI6NX0.c", None), ("a.____.c", None)],
)  # fmt: skip
def test_the_agent_is_read_from_the_token(token: str, agent_id: str | None) -> None:
    """Whatever cannot be read names nobody, and is no error."""
    assert answering(accept, token).agent_id == agent_id


def test_a_control_plane_shows_its_url_and_nothing_else() -> None:
    """Neither it nor a lease can be pickled, and a lease does not show its key."""
    plane, _ = always(200, granted())
    lent = borrow(plane)

    assert repr(plane) == str(plane) == "ControlPlane('https://iron.test/api/v1')"
    assert API_KEY not in repr(lent)
    for each in (plane, lent):
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(each)


def test_closed_it_calls_nobody_and_holds_no_token() -> None:
    """Closing twice is fine."""
    plane, asked = always(200, granted())
    plane.close()
    plane.close()

    for call in CALLS:
        with pytest.raises(SessionClosedError):
            call(plane)

    assert asked == []
    assert not [name for name, value in vars(plane).items() if SECRET in repr(value)]


ECHO = refusal("ODD", f"you sent Bearer {TOKEN}", seen=[SECRET], authorization=f"Bearer {TOKEN}")
LEAKS: tuple[tuple[int, object, dict[str, str]], ...] = (
    (400, ECHO, {}), (401, ECHO, {}), (403, ECHO, {}), (404, ECHO, {}), (413, ECHO, {}), (429, ECHO, {}),
    (500, ECHO, {}), (503, ECHO, {}), (502, SECRET.encode(), HTML), (200, SECRET.encode(), {"Content-Type": SECRET}),
    (200, granted(lease_id="lease_2"), {}), (200, granted(budget_granted=-1), {}),
    (302, b"", {"Location": f"https://other.test/{TOKEN}"}), (302, b"", {"Location": f"http://:{TOKEN}:bad"}),
)  # fmt: skip


@pytest.mark.parametrize(("status", "content", "headers"), LEAKS)
@pytest.mark.parametrize("call", CALLS)
def test_no_failure_shows_a_secret(
    status: int,
    content: object,
    headers: dict[str, str],
    call: Callable[[ControlPlane], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not in its message, details or traceback, nor in any line of the log, even if the other side echoes it."""
    caplog.set_level(logging.DEBUG)
    plane, _ = always(status, content, headers)
    told = ""

    try:
        told = repr(call(plane))
    except IroncageError as error:
        told = repr((error, str(error), error.details)) + "".join(traceback.format_exception(error))

    assert told
    assert SECRET not in told + caplog.text
    assert API_KEY not in told + caplog.text


def test_the_log_of_the_network_shows_no_secret(plane: ControlPlane, caplog: pytest.LogCaptureFixture) -> None:
    """Not even with every line of it."""
    caplog.set_level(logging.DEBUG)

    lent = borrow(plane)

    assert "handshake" in caplog.text
    assert plane._token
    assert plane._token.removeprefix("ic_") not in caplog.text
    assert lent.api_key not in caplog.text
