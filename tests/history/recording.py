"""Recording: crews of clients, all at once, on several servers, one of which dies now and then."""

import random
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from tests.history.clients import Client, Crew
from tests.history.operations import Answer, History, Operation, Request
from tests.history.town import Town

DONE_BEFORE = ("replayed", "duplicate", "already_closed")


@dataclass(frozen=True)
class Recorded:
    """What became of a run: the history of each money, and how often a server was killed."""

    histories: tuple[History, ...]
    kills: int

    @property
    def operations(self) -> list[Operation]:
        """All that clients have sent."""
        sent = (each for history in self.histories for each in history.operations)
        return [each for each in sent if each.request.kind != "books"]

    @property
    def unknown(self) -> list[Operation]:
        """Those that were not answered."""
        return [each for each in self.operations if each.answer is None]

    @property
    def short(self) -> list[Operation]:
        """Those that were told that there is no money."""
        return [each for each in self.operations if each.answer and is_short(each.answer)]

    @property
    def replayed(self) -> list[Operation]:
        """Those that were told that they had been done before."""
        return [each for each in self.operations if each.answer and any(each.answer.get(name) for name in DONE_BEFORE)]


def is_short(answer: Answer) -> bool:
    """Tell whether a grant was refused for want of money."""
    return answer.get("refused") == "BUDGET_EXCEEDED" or "denied" in answer


def record(
    town: Town, *, clients: int, crew: int, seconds: float, seed: int, kill_after: Sequence[int] = ()
) -> Recorded:  # fmt: skip
    """Let clients send requests to a running town until the time is over or all agents have had their share.

    Args:
        town: Servers that run.
        clients: How many.
        crew: How many of them share the agents of one owner.
        seconds: For how long at most.
        seed: Which requests they draw.
        kill_after: After how many requests the last server dies on the spot and is started again.
    """
    crews = max(1, clients // crew)
    shares = [Crew(town.openings[first::crews]) for first in range(crews)]
    admin = town.admin()
    people = [
        Client(number, shares[number // crew % crews], town.ports, town.tokens, admin) for number in range(clients)
    ]
    begun = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        for each in people:
            each.draw = random.Random(seed * 1_000 + each.number)  # noqa: S311 - to be drawn again
        lives = [pool.submit(each.live, begun + seconds) for each in people]
        deaths = [_kill(town) for sent in kill_after if _have_sent(sent, shares, lives)]
        for life in lives:
            life.result()
    return Recorded(tuple(_histories(shares, deaths, len(town.servers) - 1)), len(deaths))


def with_books(town: Town, recorded: Recorded) -> Recorded:
    """Return a run whose histories end with what the file holds; the servers have ended."""
    now = time.monotonic_ns()
    seen = []
    for history in recorded.histories:
        books = town.books(list(history.opening.allocated))
        last = Operation(-1, -1, Request("books", history.opening.owner), now, now + 1, books)
        seen.append(History(history.opening, (*history.operations, last)))
    return Recorded(tuple(seen), recorded.kills)


def _have_sent(count: int, crews: Sequence[Crew], lives: Sequence[Future[None]]) -> bool:
    """Wait until clients have sent so many requests, or will send no more, and tell whether they have."""
    while (is_short := sum(crew.sent for crew in crews) < count) and not all(life.done() for life in lives):
        time.sleep(0.01)
    return not is_short


def _kill(town: Town) -> int:
    """Kill the last server, start it again, and return when it was dead."""
    server = town.servers[-1]
    server.kill()
    dead = time.monotonic_ns()
    server.launch()
    server.wait_until_it_answers()
    return dead


def _histories(crews: Sequence[Crew], deaths: Sequence[int], mortal: int) -> list[History]:
    return [
        History(desk.opening, tuple(_buried(each, deaths, mortal) for each in sorted(operations, key=_sent)))
        for crew in crews
        for desk, operations in zip(crew.desks, crew.operations, strict=True)
        if operations
    ]


def _sent(operation: Operation) -> int:
    return operation.invoked


def _buried(operation: Operation, deaths: Sequence[int], mortal: int) -> Operation:
    """Say of an operation that was lost with its server when that was."""
    if operation.answer is not None or operation.server != mortal:
        return operation
    return replace(operation, over=next((dead for dead in deaths if dead > operation.invoked), None))
