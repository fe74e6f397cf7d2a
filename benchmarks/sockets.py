"""The live feed with many sockets.

50 principals: 4 admins, who see everything, and 46 users with an agent each; first 2 sockets of each, then 10. 200
reports a second make about 10,000 frames a second then. How old a message is when it comes is counted from the instant
at which its unit of work began, so the wait for the commit is in it.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

from benchmarks.driving import connected, exchange, report_request
from benchmarks.scale_data import PASSWORD, add_admin
from benchmarks.serving import Desk, Runtime, Served, serving
from benchmarks.setup import Effort, scratch
from benchmarks.table import Figures, Line, Measured, least, most, rows_of
from benchmarks.timing import percentiles
from benchmarks.watching import Heard, Watcher
from ironcage_core.services.accounts import add_user
from ironcage_storage.sealed.passwords import Argon2PasswordHasher
from ironcage_storage.sqlite.store import SqliteStore
from tests.support.world import ADMIN

ADMINS: Final = 4
USERS: Final = 46
FEW: Final = 100
MANY: Final = 500
EVENTS_PER_S: Final = 200
REPORTERS: Final = 20
SAMPLED: Final = 20
"""Every message is timed of one socket in so many."""

_NAMES: Final = tuple(f"user{number}" for number in range(ADMINS - 1 + USERS))
_SOURCE: Final = "asked of the feed"

LINES: Final = (
    Line(f"age of a message, {FEW} sockets, p95", f"age {FEW} p95", "ms", asked=most(100, "contract analytics.md 6.4")),
    Line(f"age of a message, {MANY} sockets, p50", f"age {MANY} p50", "ms"),
    Line(f"age of a message, {MANY} sockets, p99", f"age {MANY} p99", "ms", asked=most(250, _SOURCE)),
    Line(f"frames to all {MANY} sockets", f"frames {MANY}"),
    Line("a report without sockets, p50", "report 0 p50", "ms"),
    Line(f"a report with {MANY} sockets, p50", f"report {MANY} p50", "ms"),
    Line(f"speed of reports with {MANY} sockets, against none", f"speed {MANY}", "/s", "speed 0", least(0.8, _SOURCE)),
    Line("memory of a socket", "memory", "KB", asked=most(100, _SOURCE)),
)


def _prepare(database: Path) -> None:
    password_hash = Argon2PasswordHasher().hash(PASSWORD)
    with SqliteStore(database) as store:
        add_admin(store)
        for number, name in enumerate(_NAMES):
            role = "admin" if number < ADMINS - 1 else "user"
            add = partial(add_user, username=name, email=f"{number}@test.io", role=role, actor=ADMIN)
            store.write(partial(add, password_hash=password_hash))


def _people(desk: Desk) -> tuple[list[str], list[Runtime]]:
    """Return the session of each principal, and the runtime of each user's agent."""
    logins = [desk.login(name) for name in _NAMES]
    key = desk.key()
    runtimes = [desk.runtime(key, owner_id=login["user"]["id"]) for login in logins[ADMINS - 1 :]]
    return [desk.session, *(login["access_token"] for login in logins)], runtimes


async def _paced(port: int, runtimes: Sequence[Runtime], seconds: float) -> list[float]:
    """Report at the pace and return how many seconds each report took."""
    taken: list[float] = []

    async def reporter(first: int) -> None:
        async with connected(port) as connection:
            start = perf_counter()
            for turn in range(int(seconds * EVENTS_PER_S / REPORTERS)):
                due = start + (turn + first / REPORTERS) * REPORTERS / EVENTS_PER_S
                await asyncio.sleep(max(0.0, due - perf_counter()))
                runtime = runtimes[(first + turn * REPORTERS) % len(runtimes)]
                taken.append(await exchange(connection, report_request(runtime)))

    await asyncio.gather(*(reporter(first) for first in range(REPORTERS)))
    return taken


class Audience:
    """All sockets that are open.

    Args:
        port: Where the server is.
        tokens: A session of each principal; they take turns.
    """

    def __init__(self, port: int, tokens: Sequence[str]) -> None:
        self._port = port
        self._tokens = tokens
        self._transports: list[asyncio.Transport] = []
        self.heard = Heard()

    async def grow(self, count: int) -> None:
        """Open sockets until there are so many, and wait until all are welcome; forget what was heard before."""
        watchers = []
        for number in range(len(self._transports), count):
            make = partial(
                Watcher, self._tokens[number % len(self._tokens)], self.heard, is_sampled=number % SAMPLED == 0
            )
            transport, watcher = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", self._port)
            self._transports.append(transport)
            watchers.append(watcher)
        await asyncio.wait_for(asyncio.gather(*(watcher.welcomed for watcher in watchers)), 30)
        self.heard.forget()

    def leave(self) -> None:
        """Close all.

        Raises:
            RuntimeError: The server has closed some.
        """
        closed = self.heard.closed
        for transport in self._transports:
            transport.close()
        if closed:
            raise RuntimeError(f"{closed} sockets were closed by the server")


async def _measured(served: Served, tokens: Sequence[str], runtimes: Sequence[Runtime], seconds: float) -> Figures:
    await _paced(served.port, runtimes, seconds / 7)
    found = _reports(0, await _paced(served.port, runtimes, seconds))
    before_mb, audience = served.memory_mb(), Audience(served.port, tokens)
    for count in (FEW, MANY):
        await audience.grow(count)
        start = perf_counter()
        found |= _reports(count, await _paced(served.port, runtimes, seconds))
        found[f"frames {count}"] = audience.heard.frames / (perf_counter() - start)
        await asyncio.sleep(1)  # what is on its way is heard too
        found |= percentiles(audience.heard.ages_s).named(f"age {count}")
    found["memory"] = (served.memory_mb() - before_mb) * 1024 / MANY
    audience.leave()
    return found


def _reports(sockets: int, taken: Sequence[float]) -> dict[str, float]:
    found = percentiles(taken)
    return {**found.named(f"report {sockets}"), f"speed {sockets}": 1000 / found.p50}


def measure(effort: Effort) -> Measured:
    """Report to nobody, to few sockets and to many."""
    seconds = 2.0 if effort is Effort.QUICK else 15.0
    with scratch() as folder:
        database = folder / "bench.db"
        _prepare(database)
        with serving(database) as served:
            with Desk(served.port) as desk:
                tokens, runtimes = _people(desk)
            found = asyncio.run(_measured(served, tokens, runtimes, seconds))
    return Measured(f"{EVENTS_PER_S} reports a second, {ADMINS + USERS} principals", rows_of(LINES, [found]))
