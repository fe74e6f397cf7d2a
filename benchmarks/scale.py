"""Measure what lists and totals cost in a large database against a small one: `python -m benchmarks.scale [--full]`.

Both databases are served at once, each by a process of its own. Every round asks both for every list, page 1 in the
default order, over one connection each; ratios are within a round, and what is shown is the median of three rounds.
Exits with 1 if a ratio is above its target.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.over_http import Result, drive, serving
from benchmarks.scale_data import PASSWORD, RECORDS_PER_AGENT, database
from benchmarks.setup import RESULTS, ROUNDS
from ironcage_http.app import ROUTES
from ironcage_storage.system import SystemClock

Figures = TypeVar("Figures")

TARGET: Final = 3.0
REQUESTS: Final = 30
WARM_UP: Final = 5
SIZES: Final = {False: (100, 1_000), True: (1_000, 100_000)}
"""Agents of the small and of the large database; whether the run is full."""

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


class Cost(NamedTuple):
    """Milliseconds of one answer of the small and of the large database."""

    small: float
    large: float

    @property
    def ratio(self) -> float:
        """How much longer the large one takes."""
        return self.large / self.small


class Server(NamedTuple):
    """Where a database is served, and the header that an admin calls it with."""

    port: int
    credential: str

    def milliseconds(self, path: str) -> float:
        """Return the median time of an answer."""
        return self.timed(path).p50

    def timed(self, path: str) -> Result:
        """Return how long answers take."""
        request = f"GET /api/v1{path} HTTP/1.1\r\nHost: bench\r\n{self.credential}\r\n\r\n".encode()
        drive(self.port, [request] * WARM_UP, 1)
        return drive(self.port, [request] * REQUESTS, 1)


def logged_in(port: int) -> Server:
    """Return a server as its admin calls it."""
    body = {"username": "admin", "password": PASSWORD}
    response = httpx.post(f"http://127.0.0.1:{port}/api/v1/auth/login", json=body, timeout=60)
    return Server(port, f"Authorization: Bearer {response.raise_for_status().json()['access_token']}")


def in_rounds(
    made: Callable[..., Path], sizes: tuple[int, int], measured: Callable[[Server, Server], Figures]
) -> list[Figures]:
    """Serve the databases of two sizes, each by a process of its own, and return what each round has measured."""
    RESULTS.mkdir(exist_ok=True)
    now = SystemClock().now()
    paths = [made(RESULTS, size, now=now) for size in sizes]
    with ExitStack() as stack:
        small, large = (logged_in(stack.enter_context(serving(path)).port) for path in paths)
        return [measured(small, large) for _ in range(ROUNDS)]


def measure(small: Server, large: Server) -> dict[str, Cost]:
    """Return what each list costs."""
    served = {route.path for route in ROUTES if route.method == "GET"}
    return {
        route: Cost(small.milliseconds(path), large.milliseconds(path))
        for route, path in LISTS.items()
        if route in served
    }


def show(rounds: Sequence[Mapping[str, Cost]], sizes: tuple[int, int]) -> bool:
    """Print the table; return whether every target is met."""
    title = " against ".join(f"{agents:,} agents, {agents * RECORDS_PER_AGENT:,} records" for agents in sizes)
    table = Table(title=f"{title}, median of {ROUNDS} rounds")
    for heading in ("", "small ms", "large ms", "large/small", "target"):
        table.add_column(heading, justify="left" if not heading else "right")
    all_met = True
    for route in rounds[0]:
        costs = [figures[route] for figures in rounds]
        ratio = statistics.median(cost.ratio for cost in costs)
        small, large = (statistics.median(getattr(cost, size) for cost in costs) for size in Cost._fields)
        all_met = all_met and ratio <= TARGET
        table.add_row(f"GET {route}", f"{small:.2f}", f"{large:.2f}", f"{ratio:.2f}", f"{TARGET:.0f}")
    Console(width=110).print(table)
    return all_met


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="1,000 agents against 100,000; writes some gigabytes once")
    sizes = SIZES[parser.parse_args().full]
    sys.exit(0 if show(in_rounds(database, sizes, measure), sizes) else 1)


if __name__ == "__main__":
    main()
