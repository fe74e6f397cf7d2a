"""The checker: looks for one serial order of a history that explains every answer in it.

An order explains a history if each operation takes effect between its sending and its answer, and a serial execution
answers each as its client was answered. The search is the one of Wing and Gong, with Lowe's memory of what was tried:
an operation may come next only if no other that is still to come was answered before it was sent.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.history.operations import History, Operation
from tests.history.serial import State, opened, step

PATIENCE = 100_000
"""How many steps are tried before a history counts as undecided."""


@dataclass(frozen=True)
class Explained:
    """An order that explains the history, and the state it ends in."""

    order: tuple[Operation, ...]
    state: State
    explored: int


@dataclass(frozen=True)
class Unexplained:
    """There is no such order.

    The longest one that was found explains `order`. Then an answer is due, that of `due`, which no order of what was
    `under_way` leads to; `state` is where it fails.
    """

    order: tuple[Operation, ...]
    state: State
    due: Operation
    under_way: tuple[Operation, ...]
    explored: int


@dataclass(frozen=True)
class Undecided:
    """The patience was over first; that is no proof of anything."""

    explored: int


Verdict: TypeAlias = Explained | Unexplained | Undecided


@dataclass
class _Node:
    """A place in the search: what is done, until when it was sent, where that leads, and which answer is due."""

    done: int
    sent: int
    state: State
    due: int
    candidates: Iterator[int] = field(default_factory=lambda: iter(()))
    last: int | None = None


def check(history: History, patience: int = PATIENCE) -> Verdict:
    """Look for a serial order.

    Args:
        history: Operations on one money.
        patience: At most how many steps to try.
    """
    return _Search(history).run(patience)


class _Search:
    def __init__(self, history: History) -> None:
        self._operations = sorted(history.operations, key=lambda each: each.invoked)
        answered = [number for number, each in enumerate(self._operations) if each.answered is not None]
        self._by_answer = sorted(answered, key=self._end)
        self._start = opened(history.opening)
        self._explored = 0

    def run(self, patience: int) -> Verdict:
        path = [self._node(0, 0, self._start, 0, None)]
        seen: set[tuple[int, int]] = set()
        deepest = list(path)
        while path:
            node = path[-1]
            if node.due == len(self._by_answer):
                return Explained(self._order(path), node.state, self._explored)
            if node.due > deepest[-1].due:
                deepest = list(path)
            number = next(node.candidates, None)
            if number is None:
                path.pop()
                continue
            if self._explored >= patience:
                return Undecided(self._explored)
            self._explored += 1
            operation = self._operations[number]
            after = step(node.state, operation.request, operation.answer)
            if after is None or (operation.answer is None and after.mark == node.state.mark):
                continue  # what nobody saw and what does nothing need not be
            done = node.done | 1 << number
            if (done, after.mark) not in seen:
                seen.add((done, after.mark))
                path.append(self._node(done, max(node.sent, operation.invoked), after, node.due, number))
        return self._unexplained(deepest)

    def _unexplained(self, path: list[_Node]) -> Unexplained:
        node = path[-1]
        due = self._by_answer[node.due]
        under_way = tuple(self._operations[number] for number in self._candidates(node.done, node.sent, node.due))
        return Unexplained(self._order(path), node.state, self._operations[due], under_way, self._explored)

    def _node(self, done: int, sent: int, state: State, due: int, last: int | None) -> _Node:
        while due < len(self._by_answer) and done >> self._by_answer[due] & 1:
            due += 1
        candidates = self._candidates(done, sent, due) if due < len(self._by_answer) else []
        return _Node(done, sent, state, due, iter(candidates), last)

    def _candidates(self, done: int, sent: int, due: int) -> list[int]:
        """Return what may come next: sent before the answer that is due; what was never answered comes last.

        What died with its server comes before all that was sent since.
        """
        until = self._end(self._by_answer[due])
        found = []
        for number, operation in enumerate(self._operations):
            if operation.invoked >= until:
                break
            if not done >> number & 1 and (operation.over is None or sent <= operation.over):
                found.append(number)
        return sorted(found, key=self._end)

    def _end(self, number: int) -> float:
        answered = self._operations[number].answered
        return float("inf") if answered is None else answered

    def _order(self, path: list[_Node]) -> tuple[Operation, ...]:
        return tuple(self._operations[node.last] for node in path if node.last is not None)
