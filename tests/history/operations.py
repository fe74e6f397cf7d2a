"""Operations: what clients asked, when they asked and were answered, and what they were told.

Times are nanoseconds of one monotonic clock that all clients share. Money is micro-USD.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal[
    "handshake", "report", "batch", "refresh", "return", "revoke", "allocate", "budget", "books"
]  # fmt: skip

Answer: TypeAlias = Mapping[str, object]
"""What a client was told, by names that the sequential specification uses as well; a refusal is `refused` and why."""


class Spent(NamedTuple):
    """One call that a report tells of: the lease it names, its request id, what it cost."""

    lease: str
    request: str
    cost: int


class Request(NamedTuple):
    """What a client asks for; what its kind does not need is None.

    `amount` is the tranche of a grant, the final spend of a return, or the budget that an admin sets. `books` is no
    request: it stands for all rows of the file, read when everything is over.
    """

    kind: Kind
    agent: str
    amount: int | None = None
    lease: str | None = None
    runtime: str | None = None
    items: tuple[Spent, ...] = ()
    key: str | None = None

    def __str__(self) -> str:
        """Tell it in a line."""
        parts = [f"{name} {value}" for name, value in self._asdict().items() if value and name not in {"kind", "items"}]
        costs = [f"{item.request} of {item.cost} on {item.lease}" for item in self.items]
        return f"{self.kind} ({', '.join(parts + costs)})"


@dataclass(frozen=True)
class Operation:
    """A request that was sent, when, and the answer.

    `answered` and `answer` are None where none came, or one that says nothing: then it may have taken effect at any
    time after it was sent, or never; but not after `over`, when its server was dead.
    """

    client: int
    server: int
    request: Request
    invoked: int
    answered: int | None = None
    answer: Answer | None = None
    over: int | None = None

    def told(self, answer: Answer | None) -> "Operation":
        """Return the same operation with another answer."""
        return replace(self, answer=answer)


class Opening(NamedTuple):
    """Agents that share an owner, and thus one money: what each may spend, and the owner's cap of the month."""

    owner: str
    allocated: Mapping[str, int]
    cap: int | None = None


@dataclass(frozen=True)
class History:
    """All operations on the agents of one owner, oldest first."""

    opening: Opening
    operations: tuple[Operation, ...]

    @property
    def overlaps(self) -> list[int]:
        """How many others were under way when each was sent; what was never answered counts for that instant only."""
        ends = [each.invoked if each.answered is None else each.answered for each in self.operations]
        spans = [(each.invoked, end) for each, end in zip(self.operations, ends, strict=True)]
        return [sum(begun < now < until for begun, until in spans) for now, _ in spans]
