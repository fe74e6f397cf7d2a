"""Usage days: a range of time as whole days, of which sums by day are kept, and the parts of days at its ends."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ironcage_core.domain.instants import Instant, day_start, next_day_start
from ironcage_core.ports.lists import UsageFilter


class UsageDays(NamedTuple):
    """The whole days of a range, None if there is none, and the parts of days at its ends with their days' starts."""

    whole: UsageFilter | None
    ends: Sequence[tuple[Instant, UsageFilter]]


def days_of(which: UsageFilter) -> UsageDays:
    """Return the time of a filter by days."""
    since, until = which.since, which.until
    first = None if since is None else next_day_start(since - 1)
    last = None if until is None else day_start(until)
    if first is not None and last is not None and first > last:  # within one day
        return UsageDays(None, [(last, which)])
    ends = []
    if since is not None and first is not None and since < first:
        ends.append((day_start(since), replace(which, until=first)))
    if last is not None and until is not None and last < until:
        ends.append((last, replace(which, since=last)))
    has_whole = first is None or last is None or first < last
    return UsageDays(replace(which, since=first, until=last) if has_whole else None, ends)
