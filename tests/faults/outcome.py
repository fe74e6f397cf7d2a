"""Scenarios and what came out of them: the rows of the table in docs/explanation/guarantees.md."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from tests.faults.site import Forge, Site

T = TypeVar("T")


class Counts(NamedTuple):
    """How often the fault was made, how many answered writes were looked for afterwards, and how often in all."""

    faults: int
    answered: int
    checks: int


@dataclass(frozen=True)
class Outcome:
    """What became of a fault, for those who read of it.

    Args:
        name: The fault, in a few words.
        made: How it is made.
        seen: What a user or an operator sees.
        kept: What is still there afterwards, all of it.
        recover: The section of docs/how-to/recover.md that says what to do.
        counts: Of this run; nothing but zeros of one that was not played.
    """

    name: str
    made: str
    seen: str
    kept: str
    recover: str
    counts: Counts


class Bench:
    """Where scenarios are played.

    Args:
        forge: Starts processes.
        folder: An empty one.
        cycles: How often the server is killed; other faults are made in proportion.
        seed: Of what is drawn.
        advance: Is told the name of a scenario, how far it has come, and of how many rounds.
    """

    BOUNDED: Final = 3
    """Cycles of the form that runs with all other tests."""

    def __init__(
        self,
        forge: Forge,
        folder: Path,
        cycles: int = BOUNDED,
        seed: int = 0,
        advance: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        self.forge, self.folder, self.cycles, self.seed = forge, folder, cycles, seed
        self._advance = advance

    @property
    def is_long(self) -> bool:
        """Whether there is time for more than the bounded form."""
        return self.cycles > self.BOUNDED

    def some(self, bounded: int, long: int) -> int:
        """Return how often to do something."""
        return long if self.is_long else bounded

    def site(self, *, agents: int = 2) -> Site:
        """Make a site in a folder of its own."""
        return Site(self.forge, self.folder / f"site-{secrets.token_hex(4)}", agents=agents)

    def rounds(self, name: str, count: int) -> Iterator[int]:
        """Count to so many, and tell who watches."""
        return self.rounds_of(name, range(count))

    def rounds_of(self, name: str, each: Sequence[T]) -> Iterator[T]:
        """Go through something, and tell who watches."""
        for number, one in enumerate(each):
            self._advance(name, number, len(each))
            yield one
        self._advance(name, len(each), len(each))


@dataclass(frozen=True)
class Scenario:
    """A fault that can be made.

    Args:
        story: What is to be told of it, whatever the counts are.
        function: Makes it, and asserts what has to hold.
    """

    story: Outcome
    function: Callable[[Bench], Counts]

    def play(self, bench: Bench) -> Outcome:
        """Make the fault, check what is left, and return what came out."""
        return replace(self.story, counts=self.function(bench))


SCENARIOS: Final[dict[str, Scenario]] = {}
"""All there are, by name, in the order of the table; `scenarios` fills it."""

Made = Callable[[Callable[[Bench], Counts]], Scenario]


def scenario(*, name: str, made: str, seen: str, recover: str, kept: str = "answered writes") -> Made:
    """Make a scenario of a function that plays it."""

    def wrap(function: Callable[[Bench], Counts]) -> Scenario:
        SCENARIOS[name] = Scenario(Outcome(name, made, seen, kept, recover, Counts(0, 0, 0)), function)
        return SCENARIOS[name]

    return wrap
