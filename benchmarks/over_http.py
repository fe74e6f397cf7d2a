"""The server over HTTP: each route against a bare echo route of the same process.

One server process, one client process, 64 connections that are kept open; every request is prepared beforehand. Each
round runs all scenarios, echo first.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks.driving import drive, handshake_request, report, report_request, request
from benchmarks.serving import Desk, Runtime, fresh_server
from benchmarks.setup import AGENTS, BATCH, CONNECTIONS, Effort, ordered_name, scratch
from benchmarks.table import Line, Measured, least, most, rows_of
from ironcage_storage.system import SystemClock

BATCHES: Final = frozenset({"batch", "events", "events again"})
"""Scenarios whose every request has many items."""

_ASKED: Final = "asked of the server"

LINES: Final = (
    Line("bare echo route", "echo"),
    Line("echo guarded by a session", "by session", yardstick="echo", asked=least(0.75, _ASKED)),
    Line("echo guarded by an API token", "by API token", yardstick="echo", asked=least(0.75, _ASKED)),
    Line("report", "report", yardstick="echo", asked=least(0.45, _ASKED)),
    Line("  p50", "report p50", "ms"),
    Line("  p99", "report p99", "ms"),
    Line("handshake", "handshake", yardstick="echo", asked=least(0.35, _ASKED)),
    Line("  p50", "handshake p50", "ms"),
    Line("  p99", "handshake p99", "ms"),
    Line(f"reports in batches of {BATCH:,}, 1 connection", "batch", "reports/s", yardstick="report"),
    Line(f"events in batches of {BATCH:,}, 1 connection", "events", "events/s",
         asked=least(500, "contract analytics.md 5")),
    Line("  the same events again, against new ones", "events again", "events/s", yardstick="events"),
    Line("first healthy answer", "start", "s"),
    Line("memory after the start", "memory at start", "MB"),
    Line("memory at most, in all rounds", "memory", "MB", asked=most(150, _ASKED)),
)  # fmt: skip


def event(at_ms: int) -> dict[str, object]:
    """Return the body of an ordinary event."""
    return {
        "event_id": ordered_name(), "timestamp_ms": at_ms, "event_type": "llm_request_completed", "model": "gpt-4o",
        "provider": "openai", "input_tokens": 80, "output_tokens": 20, "cost_micros": 320, "duration_ms": 900,
    }  # fmt: skip


def events(of: Runtime) -> bytes:
    """Return a batch of new events."""
    at_ms = SystemClock().now()
    body = {"events": [event(at_ms) for _ in range(BATCH)]}
    return request("/api/v1/analytics/events", body, of.credential)


def reports(of: Runtime) -> bytes:
    """Return a batch of new reports."""
    return request("/api/v1/budget/report", {"reports": [report(of) for _ in range(BATCH)]}, of.credential)


def scenarios(
    found: Sequence[Runtime], credentials: Mapping[str, str], count: int
) -> dict[str, Callable[[], list[bytes]]]:
    """Return what makes the requests of each scenario."""

    def each(of: Callable[[Runtime], bytes], times: int = count) -> Callable[[], list[bytes]]:
        return lambda: [of(found[index % len(found)]) for index in range(times)]

    def guarded(credential: str) -> Callable[[], list[bytes]]:
        return each(lambda runtime: request("/guarded", report(runtime), credential))

    sent = each(events, max(2, count // 500))()
    return {
        "echo": each(lambda runtime: request("/echo", report(runtime))),
        **{f"by {name}": guarded(header) for name, header in credentials.items()},
        "report": each(report_request),
        "handshake": each(handshake_request, min(count, 15 * AGENTS)),
        "batch": each(reports, max(2, count // 1000)),
        "events": lambda: sent,
        "events again": lambda: sent,
    }


def measured(port: int, found: Sequence[Runtime], credentials: Mapping[str, str], count: int) -> dict[str, float]:
    """Return the figures of one round, one scenario after the other; batches go one at a time."""
    figures: dict[str, float] = {}
    for name, make in scenarios(found, credentials, count).items():
        is_batch = name in BATCHES
        result = drive(port, make(), 1 if is_batch else CONNECTIONS)
        figures |= {name: result.rate * (BATCH if is_batch else 1), **result.taken.named(name)}
    return figures


def measure(effort: Effort) -> Measured:
    """Serve a fresh database and send each scenario in each round."""
    count = 1_000 if effort is Effort.QUICK else 8_000
    with scratch() as folder, fresh_server(folder) as served:
        start = {"start": served.seconds_to_start, "memory at start": served.memory_mb()}
        with Desk(served.port) as desk:
            found = desk.runtimes()
            api_token = desk.send("/api-tokens", {"name": "bench"})["token"]
            credentials = {
                "session": f"Authorization: Bearer {desk.session}",
                "API token": f"X-API-Token: {api_token}",
            }
        rounds = [measured(served.port, found, credentials, count) for _ in range(effort.rounds)]
        rows = rows_of(LINES, [start, *rounds, {"memory": served.memory_mb(peak=True)}])
    return Measured(f"{CONNECTIONS} connections, {AGENTS} agents", rows)
