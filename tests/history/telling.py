"""Telling: why a history cannot be explained, in words."""

from tests.history.checker import Explained, Undecided, Unexplained, Verdict
from tests.history.operations import Answer, History, Operation
from tests.history.serial import LEASE_FIELDS, perform

MS = 1_000_000


def tell(history: History, verdict: Verdict) -> str:
    """Return what the checker has found of one history."""
    if isinstance(verdict, Explained):
        return f"{len(verdict.order)} operations in {verdict.explored} steps: explained"
    if isinstance(verdict, Undecided):
        return f"undecided after {verdict.explored} steps: no order was found, and not all were tried"
    return _why_not(history, verdict)


def _why_not(history: History, verdict: Unexplained) -> str:
    begun = min(each.invoked for each in history.operations)
    known = {number: lease for lease, number in verdict.state.numbers.items()}
    due = f"not later than {_ms(verdict.due.answered, begun)}, when this was answered: {verdict.due.request}"
    lines = [
        f"no serial order explains the history of {', '.join(history.opening.allocated)}:",
        f"- {len(verdict.order)} operations can be explained; behind them one of these must be next, {due}",
    ]
    for each in verdict.under_way:
        lines.append(f"- {_span(each, begun)} client {each.client} at server {each.server}: {each.request}")
        if each.answer is None:
            lines.append("    was told nothing, so it may be next; that does not help the others")
            continue
        _, expected = perform(verdict.state, each.request)
        lines += [f"    {line}" for line in _difference(expected, each.answer, known)]
    lines += ["The last that were explained:"]
    lines += [f"- {_span(each, begun)} client {each.client}: {each.request}" for each in verdict.order[-8:]]
    return "\n".join(lines)


def _difference(expected: Answer, told: Answer, known: dict[int, str]) -> list[str]:
    """Name the fields that a serial execution would have answered otherwise."""
    lines = []
    for name in {**expected, **told}:
        value, said = expected.get(name, "nothing"), told.get(name, "nothing")
        if name in LEASE_FIELDS and isinstance(value, int):
            value = known.get(value, value)
        if value != said:
            lines.append(f"{name}: told {said}, a serial execution says {value}")
    return lines or ["could be next; but then no order of the others is left"]


def _span(each: Operation, begun: int) -> str:
    return f"{_ms(each.invoked, begun)} to {_ms(each.answered, begun)}"


def _ms(at: int | None, begun: int) -> str:
    return "never" if at is None else f"{(at - begun) / MS:.1f} ms"
