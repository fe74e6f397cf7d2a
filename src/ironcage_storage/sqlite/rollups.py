"""Rollups: what usage adds up to by hour and by day, moved with each record and written once a batch.

What a unit of work changes is gathered by the finest cells there are, an hour of one agent; the days, and all that is
wider, follow from them when the batch is written.
"""

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, Final, NamedTuple

from ironcage_core.domain.histograms import STEPS_PER_BAND, Measure, step_of
from ironcage_core.domain.instants import HOURS_PER_DAY, Instant, hour_of
from ironcage_core.domain.usage import UsageRecord
from ironcage_storage.sqlite.rollup_tables import (
    AGENT,
    BANDS,
    ERRORS,
    FAMILIES,
    FINE,
    NO_COST,
    SUMS,
    UNNAMED_ERROR,
    WIDE,
    Kind,
    Level,
    Scope,
)
from ironcage_storage.sqlite.session import Session

_ADDED: Final = len(SUMS.added)


class _Cell(NamedTuple):
    """The finest cell there is: an hour of one agent."""

    bucket: int
    agent_id: str
    owner_id: str
    project_id: str
    provider: str
    provider_id: str
    model: str


class _Content:
    """What the records of a cell add up to, or the difference to it: a row of sums, steps of histograms, errors."""

    __slots__ = ("errors", "numbers", "steps")

    def __init__(
        self, numbers: list[int], steps: dict[tuple[Measure, int], int], errors: dict[str, tuple[int, Instant]]
    ) -> None:
        self.numbers = numbers
        self.steps = steps
        self.errors = errors

    def add(self, other: "_Content") -> None:
        """Add what is in another cell."""
        numbers, more = self.numbers, other.numbers
        for place in range(_ADDED):
            numbers[place] += more[place]
        *_, last_at, highest, lowest = more
        numbers[-3:] = max(numbers[-3], last_at), max(numbers[-2], highest), min(numbers[-1], lowest)
        for step, calls in other.steps.items():
            self.steps[step] = self.steps.get(step, 0) + calls
        for code, (calls, at) in other.errors.items():
            known, known_at = self.errors.get(code, (0, 0))
            self.errors[code] = (known + calls, max(known_at, at))


class _Statements(NamedTuple):
    """What writes the rows of one kind of table; `in_bands` picks the key of histograms, if there are any."""

    sums: str
    bands: str | None
    errors: str | None
    in_bands: Callable[[tuple[Any, ...]], tuple[Any, ...]]


def _statements(level: Level, scope: Scope) -> _Statements:
    kind = Kind(level, scope)
    bands, errors = (family.upsert(kind) if kind in family.kinds else None for family in (BANDS, ERRORS))
    key = SUMS.cell(scope)
    return _Statements(SUMS.upsert(kind), bands, errors, itemgetter(*map(key.index, BANDS.cell(scope))))


_HOURS: Final = _statements("hours", "fine")
_DAYS: Final = _statements("days", "fine")
_AGENT_DAYS: Final = _statements("days", "agent")
_WIDE_HOURS: Final = _statements("hours", "wide")
_WIDE_DAYS: Final = _statements("days", "wide")
_OF_AGENT: Final = slice(len(AGENT))
_OF_WIDE: Final = slice(len(FINE) - len(WIDE) + 1, None)


class Rollups:
    """The tables of rollups, and the differences that wait to be written to them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._member: dict[Any, _Content] = {}
        self._batch: dict[Any, _Content] = {}
        session.register(self)

    def move(self, before: UsageRecord | None, after: UsageRecord) -> None:
        """Count a record, in the place of what it was before."""
        if not self._member:
            self.session.touch(self)
        if before is not None:
            _merge(self._member, _cell_of(before), _content_of(before, -1))
        _merge(self._member, _cell_of(after), _content_of(after, 1))

    def purge_hours(self, before: int, limit: int) -> int:
        """Remove at most `limit` rows of each table of hours before this hour; return the most that went of one."""
        gone = 0
        hours = [(family, kind) for family in FAMILIES for kind in family.kinds if kind.level == "hours"]
        for family, kind in hours:
            name, columns = family.name(kind), ", ".join(family.key(kind.scope))
            old = f"SELECT {columns} FROM {name} WHERE bucket < ? LIMIT ?"
            sql = f"DELETE FROM {name} WHERE ({columns}) IN ({old})"
            gone = max(gone, self.session.execute(sql, (before, limit)))
        return gone

    @property
    def is_pending(self) -> bool:
        """Whether differences wait to be written."""
        return bool(self._member or self._batch)

    def keep(self) -> None:
        """Make the member's differences the batch's."""
        if not self._batch:
            self._batch, self._member = self._member, self._batch
            return
        for cell, content in self._member.items():
            _merge(self._batch, cell, content)
        self._member.clear()

    def drop(self) -> None:
        """Forget the member's differences."""
        self._member.clear()

    def flush(self) -> None:
        """Write the batch's differences."""
        if not self._batch:
            return
        days: dict[Any, _Content] = {}
        agent_days: dict[Any, _Content] = {}
        wide_hours: dict[Any, _Content] = {}
        wide_days: dict[Any, _Content] = {}
        for cell, content in self._batch.items():
            day = cell.bucket // HOURS_PER_DAY
            _merge_copy(days, (day, *cell[1:]), content)
            _merge_copy(wide_hours, (cell.bucket, *cell[_OF_WIDE]), content)
        for cell, content in days.items():
            _merge_copy(agent_days, cell[_OF_AGENT], content)
        for (hour, *rest), content in wide_hours.items():
            _merge_copy(wide_days, (hour // HOURS_PER_DAY, *rest), content)
        self._write(_HOURS, self._batch)
        self._write(_DAYS, days)
        self._write(_AGENT_DAYS, agent_days)
        self._write(_WIDE_HOURS, wide_hours)
        self._write(_WIDE_DAYS, wide_days)
        self._batch.clear()

    def _write(self, sql: _Statements, cells: dict[Any, _Content]) -> None:
        write = self.session.connection.executemany
        write(sql.sums, [(*key, *content.numbers) for key, content in cells.items()])
        if sql.bands is not None:
            write(sql.bands, [row for key, content in cells.items() for row in _bands_of(sql.in_bands(key), content)])
        failed = [(key, each) for key, content in cells.items() for each in content.errors.items()]
        if failed and sql.errors is not None:
            write(sql.errors, [(*key, code, *numbers) for key, (code, numbers) in failed])

    def forget(self) -> None:
        """Forget everything."""
        self._member.clear()
        self._batch.clear()

    def rest(self) -> None:
        """Nothing is remembered."""


def _cell_of(record: UsageRecord) -> _Cell:
    return _Cell(
        hour_of(record.occurred_at), record.agent_id, record.owner_id, record.project_id,
        record.provider, record.provider_id or "", record.model,
    )  # fmt: skip


def _content_of(record: UsageRecord, sign: int) -> _Content:
    """Return what a record counts; extremes only widen, so they are the same whether it comes or goes."""
    is_completed = record.outcome == "completed"
    cost, duration, at = record.cost_micros, record.duration_ms, record.occurred_at
    numbers = [
        sign * is_completed,
        sign * (not is_completed),
        sign * record.input_tokens,
        sign * record.output_tokens,
        sign * record.unsplit_tokens,
        sign * cost,
        0 if duration is None else sign,
        sign * (duration or 0),
        0 if is_completed else sign * cost,
        at,
        cost if is_completed else 0,
        cost if is_completed else NO_COST,
    ]
    steps: dict[tuple[Measure, int], int] = {("cost", step_of(cost)): sign} if is_completed else {}
    if duration is not None:
        steps["duration", step_of(duration)] = sign
    return _Content(numbers, steps, {} if is_completed else {record.error_code or UNNAMED_ERROR: (sign, at)})


def _bands_of(key: tuple[Any, ...], content: _Content) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the bands that a cell has steps in."""
    bands: dict[tuple[Measure, int], list[int]] = {}
    for (measure, step), calls in content.steps.items():
        band, place = divmod(step, STEPS_PER_BAND)
        counts = bands.get((measure, band))
        if counts is None:
            counts = bands[measure, band] = [0] * (1 + STEPS_PER_BAND)
        counts[0] += calls
        counts[1 + place] = calls
    for of, counts in bands.items():
        if any(counts):
            yield (*key, *of, *counts)


def _merge(cells: dict[Any, _Content], cell: tuple[Any, ...], content: _Content) -> None:
    """Add to a cell. The first content becomes it and is added to later, so it must be nobody else's."""
    known = cells.get(cell)
    if known is None:
        cells[cell] = content
    else:
        known.add(content)


def _merge_copy(cells: dict[Any, _Content], cell: tuple[Any, ...], content: _Content) -> None:
    known = cells.get(cell)
    if known is None:
        cells[cell] = _Content(content.numbers.copy(), content.steps.copy(), content.errors.copy())
    else:
        known.add(content)
