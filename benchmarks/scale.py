"""Lists and totals in a large database against a small one: page 1 in the default order, one connection each.

Both databases are served at once, each by a process of its own, and every round asks both for every list.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.driving import drive
from benchmarks.scale_data import RECORDS_PER_AGENT, database
from benchmarks.serving import Desk, serving
from benchmarks.setup import RESULTS, Effort
from benchmarks.table import Line, Measured, most, rows_of
from benchmarks.timing import Percentiles
from ironcage_http.app import ROUTES
from ironcage_storage.system import SystemClock

REQUESTS: Final = 30
WARM_UP: Final = 5
SIZES: Final[Mapping[Effort, tuple[int, int]]] = {
    Effort.QUICK: (100, 300), Effort.NORMAL: (100, 1_000), Effort.FULL: (1_000, 100_000),
}  # fmt: skip
"""Agents of the small and of the large database."""

LISTS: Final[Mapping[str, str]] = {
    "/agents": "/agents",
    "/budget": "/budget",
    "/budget/leases": "/budget/leases",
    "/budget/ledger": "/budget/ledger",
    "/providers": "/providers",
    "/projects": "/projects",
    "/users": "/users",
    "/tokens": "/tokens",
    "/api-tokens": "/api-tokens",
    "/audit-logs": "/audit-logs",
    "/limits": "/limits",
    "/usage": "/usage",
    "/usage/aggregate": "/usage/aggregate",
    "/usage/by-project/{project_id}": f"/usage/by-project/proj_{1:032x}",
    "/usage/by-provider/{provider}": "/usage/by-provider/openai",
    "/traces": "/traces",
}
"""Paths that are asked for, by the route that serves them."""

_ASKED: Final = most(3, "asked of lists")


class Server(NamedTuple):
    """Where a database is served, and the header that an admin calls it with."""

    port: int
    credential: str

    def timed(self, path: str, requests: int) -> Percentiles:
        """Return how long answers take."""
        request = f"GET /api/v1{path} HTTP/1.1\r\nHost: bench\r\n{self.credential}\r\n\r\n".encode()
        drive(self.port, [request] * WARM_UP, 1)
        return drive(self.port, [request] * requests, 1).taken


def in_rounds(
    made: Callable[..., Path], sizes: tuple[int, int], paths: Mapping[str, str], effort: Effort
) -> list[dict[str, float]]:
    """Serve the databases of two sizes and return what each round has measured of both, by the names of the paths."""
    RESULTS.mkdir(exist_ok=True)
    now = SystemClock().now()
    requests = WARM_UP if effort is Effort.QUICK else REQUESTS
    databases = [made(RESULTS, size, now=now) for size in sizes]
    with ExitStack() as stack:
        small, large = (logged_in(stack.enter_context(serving(path)).port) for path in databases)
        return [_asked(small, large, paths, requests) for _ in range(effort.rounds)]


def logged_in(port: int) -> Server:
    """Return a server as its admin calls it."""
    with Desk(port) as desk:
        return Server(port, f"Authorization: Bearer {desk.session}")


def _asked(small: Server, large: Server, paths: Mapping[str, str], requests: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, path in paths.items():
        figures |= small.timed(path, requests).named(f"small {name}")
        figures |= large.timed(path, requests).named(f"large {name}")
    return figures


def measure(effort: Effort) -> Measured:
    """Measure what each list costs."""
    served = {route.path for route in ROUTES if route.method == "GET"}
    paths = {route: path for route, path in LISTS.items() if route in served}
    sizes = SIZES[effort]
    rounds = in_rounds(database, sizes, paths, effort)
    lines = [Line(f"GET {route}", f"large {route} p50", "ms", f"small {route} p50", _ASKED) for route in paths]
    extent = f"{sizes[1]:,} agents with {sizes[1] * RECORDS_PER_AGENT:,} records, against {sizes[0]:,} agents"
    return Measured(extent, rows_of(lines, rounds))
