"""Rollups: sums of usage by hour and by day, moved with each record and written once a batch.

Each comes twice: by agent, and without agents for whoever asks of the whole. A range of time takes whole days from
the days and what is left at its ends from the hours.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ironcage_core.domain.instants import HOURS_PER_DAY, MS_PER_HOUR, Instant, hour_of
from ironcage_core.domain.usage import UsageRecord, UsageSums
from ironcage_core.ports.lists import UsageDimension, UsageFilter
from ironcage_storage.sqlite.days import Days, cut_at_midnight
from ironcage_storage.sqlite.rows import conjunction
from ironcage_storage.sqlite.session import Pending, Session

WIDE: Final = ("bucket", "project_id", "provider", "provider_id", "model")
FINE: Final = ("bucket", "agent_id", "owner_id", *WIDE[1:])
_ADDED: Final = UsageSums._fields[:-1]
_SUMMED: Final = ", ".join(f"sum({column})" for column in _ADDED)

OF_OWNER: Final = "agent_id IN (SELECT id FROM agents WHERE owner_id = ?)"


def usage_terms(which: UsageFilter) -> dict[str, object]:
    """Return what a filter asks of a row of usage but for its time; records and rollups name their columns alike."""
    return {
        "agent_id = ?": which.agent_id,
        OF_OWNER: which.owner_id,
        "project_id = ?": which.project_id,
        "provider = ?": which.provider,
        "provider_id = ?": which.provider_id,
        "model = ?": which.model,
    }


class _Cell(NamedTuple):
    """The finest cell there is: an hour of one agent."""

    bucket: int
    agent_id: str
    owner_id: str
    project_id: str
    provider: str
    provider_id: str
    model: str


def _upsert(name: str, key: tuple[str, ...]) -> str:
    columns = (*key, *UsageSums._fields)
    moved = ", ".join(f"{column} = {column} + excluded.{column}" for column in _ADDED)
    return (
        f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {moved}, last_at = max(last_at, excluded.last_at)"
    )


_HOURS: Final = _upsert("usage_hours", FINE)
_DAYS: Final = _upsert("usage_days", FINE)
_WIDE_HOURS: Final = _upsert("usage_wide_hours", WIDE)
_WIDE_DAYS: Final = _upsert("usage_wide_days", WIDE)


class Rollups:
    """The four tables of rollups, and the differences that wait to be written to them."""

    def __init__(self, session: Session, agents: Pending) -> None:
        self.session = session
        self._agents = agents
        self._member: dict[_Cell, list[int]] = {}
        self._batch: dict[_Cell, list[int]] = {}
        session.register(self)

    def move(self, before: UsageRecord | None, after: UsageRecord) -> None:
        """Count a record, in the place of what it was before."""
        if not self._member:
            self.session.touch(self)
        if before is not None:
            self._add(before, -1)
        self._add(after, 1)

    def _add(self, record: UsageRecord, sign: int) -> None:
        cell = _Cell(
            hour_of(record.occurred_at), record.agent_id, record.owner_id, record.project_id,
            record.provider, record.provider_id or "", record.model,
        )  # fmt: skip
        is_completed = record.outcome == "completed"
        duration = record.duration_ms
        numbers = [
            sign * is_completed,
            sign * (not is_completed),
            sign * record.input_tokens,
            sign * record.output_tokens,
            sign * record.unsplit_tokens,
            sign * record.cost_micros,
            0 if duration is None else sign,
            sign * (duration or 0),
            record.occurred_at,
        ]
        _merge(self._member, cell, numbers)

    def sums(self, which: UsageFilter, by: Sequence[UsageDimension] = ()) -> Mapping[tuple[str, ...], UsageSums]:
        """Return sums by the values of `by`; a group without any call is left out."""
        columns = ", ".join([*by, *UsageSums._fields])
        parts, bound = [], []
        for name, chosen, values in _spans(which.since, which.until):
            source, terms, parameters = _source(which, name, is_fine="agent_id" in by)
            # An emptied cell must not tell when its last call was.
            parts.append(f"SELECT {columns} FROM {source} WHERE {terms} AND {chosen} AND completed + failed > 0")
            bound += [*parameters, *values]
        if not parts:
            return {}
        keys = "".join(f"{dimension}, " for dimension in by)
        grouped = f"GROUP BY {', '.join(by)}" if by else ""
        cells = " UNION ALL ".join(parts)
        sql = f"SELECT {keys}{_SUMMED}, max(last_at) FROM ({cells}) {grouped} HAVING count(*) > 0"
        cursor = self.session.query(sql, bound, self, self._agents)
        return {tuple(row[: len(by)]): UsageSums._make(row[len(by) :]) for row in cursor}

    def first_day(self, which: UsageFilter) -> int | None:
        """Return the first UTC day with a call, counted from the epoch, whatever the filter says of time."""
        source, terms, parameters = _source(which, "days")
        sql = f"SELECT bucket FROM {source} WHERE {terms} AND completed + failed > 0 ORDER BY bucket LIMIT 1"
        found = self.session.query(sql, parameters, self, self._agents).fetchone()
        return None if found is None else int(found[0])

    def calls_by_day(self, which: UsageFilter, days: Days, outcome: str | None) -> list[tuple[int, int]]:
        """Return the days with calls of an outcome, or of either, and how many; the filter's own time is not read."""
        source, terms, parameters = _source(which, "days")
        chosen, values = days.chosen()
        calls = "sum(completed + failed)" if outcome is None else f"sum({outcome})"
        sql = f"SELECT bucket, {calls} FROM {source} WHERE {terms} AND {chosen} GROUP BY bucket HAVING {calls} > 0"
        return self.session.query(sql, (*parameters, *values), self, self._agents).fetchall()

    def purge_hours(self, before: int, limit: int) -> int:
        """Remove at most `limit` rows of each table of hours before this hour; return the most that went of one."""
        gone = 0
        for name, key in (("usage_hours", FINE), ("usage_wide_hours", WIDE)):
            columns = ", ".join(key)
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
        for cell, numbers in self._member.items():
            _merge(self._batch, cell, numbers)
        self._member.clear()

    def drop(self) -> None:
        """Forget the member's differences."""
        self._member.clear()

    def flush(self) -> None:
        """Write the batch's differences."""
        if not self._batch:
            return
        fine_days: dict[Any, list[int]] = {}
        wide_hours: dict[Any, list[int]] = {}
        wide_days: dict[Any, list[int]] = {}
        for cell, numbers in self._batch.items():
            day = cell.bucket // HOURS_PER_DAY
            _merge(fine_days, (day, *cell[1:]), numbers.copy())
            _merge(wide_hours, (cell.bucket, *cell[3:]), numbers.copy())
            _merge(wide_days, (day, *cell[3:]), numbers.copy())
        for sql, cells in (
            (_HOURS, self._batch),
            (_DAYS, fine_days),
            (_WIDE_HOURS, wide_hours),
            (_WIDE_DAYS, wide_days),
        ):
            self.session.connection.executemany(sql, [(*key, *numbers) for key, numbers in cells.items()])
        self._batch.clear()

    def forget(self) -> None:
        """Forget everything."""
        self._member.clear()
        self._batch.clear()

    def rest(self) -> None:
        """Nothing is remembered."""


def _merge(cells: dict[Any, list[int]], cell: tuple[Any, ...], numbers: list[int]) -> None:
    """Add numbers to a cell. The first ones become it and are added to later, so they must be nobody else's."""
    known = cells.get(cell)
    if known is None:
        cells[cell] = numbers
        return
    for place in range(len(_ADDED)):
        known[place] += numbers[place]
    known[-1] = max(known[-1], numbers[-1])


def _source(which: UsageFilter, name: str, *, is_fine: bool = False) -> tuple[str, str, tuple[object, ...]]:
    """Return the table that answers a filter, and all terms of it but time: (its name, WHERE, what it binds)."""
    is_scoped = which.agent_id is not None or which.owner_id is not None
    terms, parameters = conjunction(usage_terms(which))
    if is_fine and not is_scoped and name == "days":
        terms += " AND agent_id IN (SELECT id FROM agents)"  # so that each agent's days are looked up, not all read
    return f"usage_{name}" if is_fine or is_scoped else f"usage_wide_{name}", terms, parameters


def _spans(since: Instant | None, until: Instant | None) -> list[tuple[str, str, tuple[object, ...]]]:
    """Return which rows of which rollups make up a range: (hours or days, WHERE, what it binds)."""
    cut = cut_at_midnight(since, until)
    spans = [] if cut.days is None else [("days", *cut.days.chosen())]
    return spans + [_hours(*end) for end in cut.ends]


def _hours(since: Instant, until: Instant) -> tuple[str, str, tuple[object, ...]]:
    # A list of hours, not a range: so each is looked up together with the agent behind it in the key.
    hours = range(since // MS_PER_HOUR, -(-until // MS_PER_HOUR))
    return "hours", "bucket IN (SELECT value FROM json_each(?))", (json.dumps(list(hours)),)
