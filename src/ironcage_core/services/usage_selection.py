"""Usage selections: the calls that a question is about, with its time settled, from which every answer starts.

Source: contract analytics.md 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ironcage_core.domain.instants import Instant
from ironcage_core.domain.periods import Asked, Period, TimeRange, asked_range, check_kept
from ironcage_core.domain.usage import UsageSums
from ironcage_core.ports.lists import UsageDimension, UsageFilter
from ironcage_core.ports.storage import UnitOfWork


@dataclass(frozen=True, slots=True)
class Selection:
    """The calls that a question is about, None for none at all, and when it was answered.

    `start` is where the range starts: of one that has no start, the first call's time as far as records reach, else its
    day, and None if there is no call before the end.
    """

    which: UsageFilter | None
    time: TimeRange
    start: Instant | None
    calculated_at: Instant


def selected(uow: UnitOfWork, which: UsageFilter | None, when: Asked, *, default: Period = "all-time") -> Selection:
    """Return the calls of a time.

    Args:
        uow: An open unit of work.
        which: Which calls, at any time, as `usage_filter` says.
        when: Of what time.
        default: The period that is meant if none is named.

    Raises:
        ValidationError, InvalidPeriodError, RangeTooOldError: There is no such time, or its hours are not kept.
    """
    time = asked_range(when, uow.now, default=default)
    check_kept(time, uow.usage.horizon("hours"))
    timed = None if which is None else replace(which, since=time.since, until=time.until)
    return Selection(timed, time, _start_of(uow, which, time), uow.now)


def sums_by(uow: UnitOfWork, chosen: Selection, *by: UsageDimension) -> Mapping[tuple[str, ...], UsageSums]:
    """Return the sums over the selected calls by the values of `by`; a group without any call is left out."""
    return {} if chosen.which is None else uow.usage.sums(chosen.which, by)


def total_of(uow: UnitOfWork, chosen: Selection) -> UsageSums:
    """Return the sums over all selected calls, zeros for none."""
    return sums_by(uow, chosen).get((), UsageSums())


def _start_of(uow: UnitOfWork, which: UsageFilter | None, time: TimeRange) -> Instant | None:
    if time.since is not None:
        return time.since
    first = None if which is None else uow.usage.first_at(which)
    if first is None or (time.until is not None and first >= time.until):
        return None
    return min(first, time.end)  # a runtime's clock may be a little ahead
