"""The record of a call, as the contract tells it: it follows from all that was told of the call, in whatever order.

Written from contract analytics.md 1 and nothing else, in plain values. Leases and provider keys are named by numbers.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

FIVE_MINUTES = 300_000
SPELLINGS = 6


class Content(NamedTuple):
    """What a report says of a call, besides its lease and its request id; `split` is the input among its tokens."""

    cost: int
    tokens: int = 100
    model: str = "gpt-test"
    provider: str = "openai"
    split: int | None = None


class Told(NamedTuple):
    """What an event says of a call; `cost` and tokens count only if it was completed."""

    name: str
    request: str | None
    is_completed: bool
    at: int
    cost: int = 50
    input: int = 30
    output: int = 12
    model: str = "gpt-test"
    provider: str = "openai"
    provider_id: str | None = None
    lease: int | None = None
    duration: int | None = None
    error: str | None = None
    is_bad: bool = False


class Fate(NamedTuple):
    """What became of an event."""

    status: Literal["accepted", "duplicate", "rejected"]
    code: str | None = None
    mismatch: bool = False


class Sight(NamedTuple):
    """An event that was accepted: when it counts, and what it was stamped with."""

    told: Told
    at: int
    lease: int | None
    provider_id: str | int | None


class Account(NamedTuple):
    """A report that was booked, and the lease that was charged."""

    request: str
    content: Content
    at: int
    lease: int
    bank: str
    key: int
    overspent: int


class Row(NamedTuple):
    """What is stored of a call, but for what stands there for other reasons."""

    agent: str
    owner: str
    project: str
    key: str
    event_id: str | None
    request: str | None
    lease: int | str | None
    occurred_at: int
    received_at: int
    outcome: str
    model: str
    provider: str
    provider_id: str | int | None
    input: int
    output: int
    unsplit: int
    cost: int
    source: str
    event_cost: int | None
    report_cost: int | None
    overspent: int
    duration: int | None
    error: str | None
    report_tokens: int | None


class Metered(NamedTuple):
    """One call: who made it and when that was first heard of, its key, its events and its report."""

    agent: str
    owner: str
    project: str
    key: str
    seen_at: int
    sights: tuple[Sight, ...] = ()
    account: Account | None = None

    @property
    def request(self) -> str | None:
        names = [self.account.request] if self.account else [sight.told.request for sight in self.sights]
        return next((name for name in names if name is not None), None)

    @property
    def outcome(self) -> Literal["completed", "failed"]:
        told = [sight.told.is_completed for sight in self.sights]
        return "failed" if told and not any(told) else "completed"

    @property
    def cost(self) -> int:
        return self.account.content.cost if self.account else self.event_cost or 0

    @property
    def event_cost(self) -> int | None:
        return next((sight.told.cost for sight in self.sights if sight.told.is_completed), None)

    @property
    def lease(self) -> int | None:
        """The lease charged, or else the last one an event was stamped with."""
        if self.account:
            return self.account.lease
        return next((sight.lease for sight in reversed(self.sights) if sight.lease is not None), None)

    @property
    def mismatch(self) -> bool:
        return self.account is not None and self.event_cost not in {None, self.account.content.cost}

    @property
    def names(self) -> list[str]:
        """All names of the call that a writer may use again."""
        return [*(sight.told.name for sight in self.sights), self.request or self.key]

    def was_told_by(self, name: str) -> bool:
        return any(sight.told.name == name for sight in self.sights)

    def is_named(self, request: str) -> bool:
        return request == (self.request or self.key)

    def is_completed_by(self, told: Told) -> bool:
        """Tell whether an event says more of the call than is known."""
        return not self.sights or (told.is_completed and self.outcome == "failed")

    def row(self) -> Row:
        last = self.sights[-1].told if self.sights else None
        account = self.account
        times = [sight.at for sight in self.sights] + ([account.at] if account else [])
        said: Content | Told | None = account.content if account else last
        assert said is not None
        keys = [sight.provider_id for sight in self.sights if sight.provider_id is not None]
        key: str | int | None = account.key if account else (keys[-1] if keys else None)
        return Row(
            self.agent, account.bank if account else self.owner, self.project, self.key,
            last.name if last else None, self.request, self.lease,
            min(times), account.at if account else self.seen_at,
            self.outcome, said.model, said.provider, key, *self.tokens(),
            self.cost, "report" if account else "event", self.event_cost,
            account.content.cost if account else None, account.overspent if account else 0,
            last.duration if last else None, _error_of(last), account.content.tokens if account else None,
        )  # fmt: skip

    def tokens(self) -> tuple[int, int, int]:
        """Return input, output and unsplit tokens: those of the completed event, else those of the report."""
        for sight in self.sights:
            if sight.told.is_completed:
                return sight.told.input, sight.told.output, 0
        if self.account is None:
            return 0, 0, 0
        _, tokens, _, _, split = self.account.content
        return (0, 0, tokens) if split is None else (split, tokens - split, 0)


def _error_of(told: Told | None) -> str | None:
    return None if told is None or told.is_completed else told.error or "unknown"


def uuid_of(name: str) -> str | None:
    """Return the UUID that a name reduces to."""
    found = re.fullmatch(r"(?:evt_|req_|request_)?([0-9a-fA-F-]+)", name)
    digits = found[1].replace("-", "").lower() if found else ""
    return digits if len(digits) == 32 else None


def spelled(digits: str, spelling: int) -> str:
    """Return a name for 32 hex digits; the last spelling is none that reduces to them."""
    usual = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return (usual, f"evt_{usual}", f"req_{usual}", f"request_{digits.upper()}", digits, f"call_{usual}")[spelling]


Sums: TypeAlias = tuple[int, ...]


def sums_of(rows: Iterable[Row]) -> Mapping[tuple[str, str, str], Sums]:
    """Return what rollups add up to by agent, provider and model."""
    groups: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.agent, row.provider, row.model].append(row)
    return {key: _sums(group) for key, group in groups.items()}


def _sums(rows: list[Row]) -> Sums:
    outcomes = Counter(row.outcome for row in rows)
    timed = [row.duration for row in rows if row.duration is not None]
    return (
        outcomes["completed"], outcomes["failed"],
        sum(row.input for row in rows), sum(row.output for row in rows), sum(row.unsplit for row in rows),
        sum(row.cost for row in rows), len(timed), sum(timed),
        sum(row.cost for row in rows if row.outcome == "failed"),
    )  # fmt: skip
