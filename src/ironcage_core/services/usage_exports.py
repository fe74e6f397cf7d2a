"""Usage exports: the finest sums of the selected calls there are, to take away; who took what is remembered.

Source: contract analytics.md 4.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ironcage_core.domain.audit import Actor, AuditNote
from ironcage_core.domain.usage import UsageSums
from ironcage_core.errors.usage import ExportTooLargeError, RangeTooOldError
from ironcage_core.ports.lists import UsageBucket, UsageDimension, UsageFilter
from ironcage_core.ports.storage import UnitOfWork
from ironcage_core.ports.totals import UsageCell
from ironcage_core.services.usage_days import days_of
from ironcage_core.services.usage_selection import Selection

MAX_ROWS: Final = 100_000

ExportOf = Literal["usage", "spending"]
_OF_CELL: Final[tuple[UsageDimension, ...]] = ("agent_id", "project_id", "provider", "provider_id", "model")
_Rows = Sequence[tuple[UsageCell, UsageSums]]


@dataclass(frozen=True, slots=True)
class UsageExport:
    """The rows of an export in the order of their cells, and the names of their agents."""

    rows: _Rows
    agent_names: Mapping[str, str]


def export_usage(uow: UnitOfWork, chosen: Selection, bucket: UsageBucket) -> UsageExport:
    """Return the finest sums of the selected calls by hour or day.

    Raises:
        RangeTooOldError: By hour, and hours of that time are not kept.
        ExportTooLargeError: More rows than there may be.
    """
    if chosen.which is None:
        return UsageExport((), {})
    if bucket == "hour":
        _check_hours_are_kept(uow, chosen.which)
        rows = uow.usage.cells(chosen.which, "hour", MAX_ROWS + 1)
    else:
        rows = _days(uow, chosen.which)
    if len(rows) > MAX_ROWS:
        raise ExportTooLargeError(f"An export may have {MAX_ROWS} rows", limit=MAX_ROWS)
    return UsageExport(rows, uow.agents.names({cell.agent_id for cell, _ in rows}))


def note_export(
    uow: UnitOfWork, what: ExportOf, filters: Mapping[str, str | None], told: Mapping[str, object], actor: Actor
) -> None:
    """Remember who took an export along, of which calls, and how many rows it had."""
    metadata = {"export": what, "filters": filters, **told}
    uow.audit.append(AuditNote("ANALYTICS_EXPORTED", "config", "analytics", None, actor, metadata=metadata))


def _check_hours_are_kept(uow: UnitOfWork, which: UsageFilter) -> None:
    since = uow.usage.first_day(which) if which.since is None else which.since
    kept = uow.usage.horizon("hours")
    if since is not None and since < kept:
        raise RangeTooOldError("Hours of that time are not kept any more", kept_since=kept)


def _days(uow: UnitOfWork, which: UsageFilter) -> _Rows:
    """Return the finest sums by day; those of a day that the range cuts are made of its hours."""
    whole, ends = days_of(which)
    rows = [] if whole is None else list(uow.usage.cells(whole, "day", MAX_ROWS + 1))
    for day, part in ends:
        rows += [(UsageCell(day, *key), sums) for key, sums in uow.usage.sums(part, _OF_CELL).items()]
    return sorted(rows, key=lambda row: row[0])
